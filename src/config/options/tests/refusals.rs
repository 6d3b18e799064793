//! What would keep the reference from serving anybody is refused, with its place.

use super::*;

/// Goal: what is wrong with a `tls` block's files is known where the block is read, and said with
/// its place.
#[test]
fn files_of_a_tls_block_are_looked_at_where_it_stands() {
    let pair = "error parsing X509 certificate/key pair:";
    for (inside, reason) in [
        (
            "cert_file: cert.pem, key_file: other.pem",
            format!("{pair} tls: private key does not match public key"),
        ),
        (
            "cert_file: junk.pem, key_file: key.pem",
            format!("{pair} tls: failed to find any PEM data in certificate input"),
        ),
        (
            "cert_file: cert.pem, key_file: key.pem, ca_file: junk.pem",
            "failed to parse root ca certificate".to_owned(),
        ),
        (
            "cert_file: cert.pem, key_file: key.pem, ca_file: none",
            "open none: no such file or directory".to_owned(),
        ),
    ] {
        let file = format!("tls {{ {inside} }}");
        let error = error_of(Program::Streaming, "-c f.conf", &file);
        assert_eq!(error, format!("f.conf:1:0: {reason}"));
        let file = format!("cluster {{ port: 5, tls {{ {inside} }} }}");
        let error = error_of(Program::Core, "-c f.conf", &file);
        assert_eq!(error, format!("f.conf:1:19: {reason}"));
    }
    let flags = "-tls -tlscert cert.pem -tlskey other.pem";
    let error = error_of(Program::Streaming, flags, "");
    assert_eq!(error, format!("{pair} tls: private key does not match public key"));
}

/// Goal: what the streaming server could not use to connect to itself is refused, although there is
/// no such connection: it is a mistake, and nobody would see it before the way back.
#[test]
fn what_own_connections_would_need_is_refused_as_by_the_reference() {
    let block = "tls { cert_file: cert.pem, key_file: key.pem }";
    let missing = "no such file or directory";
    for (streaming, expected) in [
        ("secure: true", "nats: secure connection not available".to_owned()),
        ("tls { insecure: true }", "nats: secure connection not available".to_owned()),
        ("tls { server_name: foo }", "nats: secure connection not available".to_owned()),
        ("tls { client_ca: ca.pem }", "nats: secure connection not available".to_owned()),
        (
            "tls { client_ca: none }",
            format!("nats: error loading or parsing rootCA file: open none: {missing}"),
        ),
        (
            "tls { client_ca: junk.pem }",
            "nats: failed to parse root certificate from \"junk.pem\"".to_owned(),
        ),
        (
            "tls { client_cert: none, client_key: key.pem }",
            format!("nats: error loading client certificate: open none: {missing}"),
        ),
        (
            "tls { client_cert: cert.pem }",
            format!("nats: error loading client certificate: open : {missing}"),
        ),
        (
            "tls { client_cert: cert.pem, client_key: other.pem }",
            "nats: error loading client certificate: tls: private key does not match public key"
                .to_owned(),
        ),
        ("nkey_seed_file: none", format!("nats: open none: {missing}")),
        ("nkey_seed_file: junk.pem", "nkeys: no nkey seed found".to_owned()),
    ] {
        let file = format!("streaming {{ {streaming} }}");
        let Some(StartError::Streaming(error)) = file_config(&file).start_error else {
            panic!("{streaming} is taken")
        };
        assert_eq!(without_place(&error), expected, "{streaming}");
    }
    for streaming in [
        "",
        "tls {}",
        "secure: false",
        "tls { client_key: none }",
        "tls { server_name: \"\", insecure: false }",
    ] {
        assert_eq!(file_config(&format!("streaming {{ {streaming} }}")).start_error, None);
    }
    for streaming in ["secure: true", "tls { client_ca: ca.pem }", "tls { insecure: true }"] {
        let file = format!("{block}\nstreaming {{ {streaming} }}");
        assert_eq!(file_config(&file).start_error, None, "{streaming}");
    }
    for flag in ["-tls_client_cert x", "-tls_client_key x", "-tls_client_cacert x"] {
        let error = error_of(Program::Streaming, flag, "");
        assert_eq!(error, "TLS Server certificate must be present and valid", "{flag}");
    }
}

/// Goal: over an external server the same is refused, and what cannot lead to one; but there TLS
/// needs nothing of our own.
#[test]
fn what_an_external_server_would_need_is_refused_as_by_the_reference() {
    let missing = "no such file or directory";
    for (streaming, expected) in [
        ("ns: \"localhost:4222\"", "malformed url: localhost:4222".to_owned()),
        ("nats_server: \"nats://h\"", "address h: missing port in address".to_owned()),
        ("ns: \"nats://h:1\", credentials: none", format!("nats: open none: {missing}")),
        (
            "ns: \"nats://h:1\", credentials: junk.pem",
            "error signing nonce: unable to extract key pair from file \"junk.pem\": nkeys: no \
             nkey seed found"
                .to_owned(),
        ),
        (
            "ns: \"nats://h:1\", credentials: junk.pem, nkey_seed_file: junk.pem",
            "nkeys: no nkey seed found".to_owned(),
        ),
        (
            "nats_server_url: \"nats://h:1\", nkey_seed_file: none",
            format!("nats: open none: {missing}"),
        ),
        (
            "ns: \"nats://h:1\", tls { client_ca: junk.pem }",
            "nats: failed to parse root certificate from \"junk.pem\"".to_owned(),
        ),
    ] {
        let file = format!("streaming {{ {streaming} }}");
        let Some(StartError::Streaming(error)) = file_config(&file).start_error else {
            panic!("{streaming} is taken")
        };
        assert_eq!(without_place(&error), expected, "{streaming}");
    }
    let file = "streaming { ns: \"nats://u:secret@a,tls://b\", user: me, pass: hidden, token: t, \
                secure: true, tls { server_name: c, insecure: true } }";
    let config = file_config(file);
    assert_eq!(config.start_error, None);
    let external = config.streaming.external.as_ref().unwrap();
    let addresses: Vec<String> = external.servers.iter().map(|url| url.address()).collect();
    assert_eq!(addresses, ["a:4222", "b:4222"]);
    assert_eq!((external.username.as_str(), external.token.as_str()), ("me", "t"));
    let shown = format!("{config:?}");
    assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    for nothing in ["ns: \"\"", "user: me, pass: hidden", "credentials: none"] {
        let config = file_config(&format!("streaming {{ {nothing} }}"));
        assert_eq!((config.streaming.external, config.start_error), (None, None), "{nothing}");
    }
    // A flag goes before the file.
    let config = served(
        Program::Streaming,
        "-ns nats://flag:1 -c f.conf",
        "streaming { ns: \"nats://file:1\" }",
    );
    assert_eq!(config.streaming.external.unwrap().servers[0].host, "flag");
}

/// Goal: less than nothing is no limit and no time; the reference starts and serves nobody.
#[test]
fn less_than_nothing_is_refused_with_its_place() {
    let block = "tls { cert_file: cert.pem, key_file: key.pem, timeout: -1 }";
    for (file, key) in [
        ("write_deadline: \"-1s\"", "write_deadline"),
        ("write_deadline: -1", "write_deadline"),
        ("ping_interval: \"-1s\"", "ping_interval"),
        ("max_payload: -1", "max_payload"),
        ("max_control_line: -1", "max_control_line"),
        ("max_pending: -1", "max_pending"),
        ("authorization { user: a, password: b, timeout: -1 }", "timeout"),
        (block, "timeout"),
    ] {
        let error = error_of(Program::Streaming, "-c f.conf", file);
        let expected = format!("{key} must not be negative: nobody could be served");
        assert!(error.starts_with("f.conf:1:") && error.ends_with(&expected), "{error}");
    }
    let core = served(Program::Core, "-c f.conf", "max_payload: -1");
    assert_eq!(core.core.payload_bytes_max, 64 * 1024 * 1024, "-1 is no limit to a core server");
    let error = config_of("-io_batch_size -5").start_error;
    let expected = "io_batch_size must not be negative (-5)".to_owned();
    assert_eq!(error, Some(StartError::Streaming(expected)));
    for file in ["max_connections: -5", "ping_max: -1", "log_size_limit: -5"] {
        assert_eq!(file_config(file).start_error, None, "{file}");
    }
}

/// Goal: who had a Raft cluster learns by which command its data comes here.
#[test]
fn clustering_is_refused_with_the_command_that_takes_its_data_over() {
    let flag = error_of(Program::Streaming, "-clustered -cluster_node_id a", "");
    let block = error_of(Program::Streaming, "-c f.conf", "streaming { cluster { node_id: a } }");
    for (error, begin) in [
        (flag, "flag -clustered is not supported by stanby yet: "),
        (block, "f.conf:1:12: key \"cluster\" is not supported by stanby yet: "),
    ] {
        assert!(error.starts_with(begin) && error.contains("`stanby import`"), "{error}");
    }
}
