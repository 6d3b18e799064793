//! What can be reloaded, with the lines that say so, and what cannot

use super::*;
use crate::config::Program;
use crate::config::file::tests::world_with;
use crate::config::options::tests::{config_of, served, with_file};
use crate::config::places::tests::without_place;

fn reloaded(before: &str, after: &str) -> Result<(Config, Changes), String> {
    let line = "-c f.conf -n name";
    let old = served(Program::Streaming, line, before);
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    with_file(after, |world| reload(&old, PORTS, &args, world))
}

const PORTS: Ports = Ports { client: 40_001, route: 40_002, monitor: 40_003 };

/// Goal: whoever writes the ports that -1 chose into the file, or takes them out again, changes
/// nothing.
#[test]
fn a_file_may_name_the_ports_that_were_chosen() {
    let any = "port: -1\nhttp: -1\ncluster { port: -1, name: a }\n";
    let named = "port: 40001\nhttp: 40003\ncluster { port: 40002, name: a }\n";
    for (before, after) in [(any, named), (named, any)] {
        let changes = |after| reloaded(before, after).map(|(_, changes)| changes);
        assert_eq!(changes(after), changes(before), "{before} -> {after}");
    }
    for (after, error) in [
        (any.replacen("-1", "5", 1), "Port: old=-1, new=5"),
        (any.replace("http: -1", "http: 5"), "HTTPPort: old=-1, new=5"),
        (any.replace("{ port: -1", "{ port: 5"), "cluster port: old=-1, new=5"),
    ] {
        let found = reloaded(any, &after).err().unwrap_or_default();
        assert_eq!(without_place(&found), format!("config reload not supported for {error}"));
    }
}

/// What the reference says each time, because it cannot tell whether these have changed.
const ALWAYS: [&str; 2] = ["Reloaded: authorization users", "Reloaded: accounts"];

/// Goal: the lines of a reload are those that the reference was seen to write, in its order.
#[test]
fn lines_are_those_of_the_reference_in_its_order() {
    let user = "authorization { user: a, password: b }";
    for (before, after, earlier, later) in [
        ("", "", &[][..], &[][..]),
        ("", "trace: true", &["trace = true"], &[]),
        ("", "debug: true", &["debug = true"], &[]),
        ("", "logtime: false", &["logtime = false"], &[]),
        ("", "max_connections: 10", &["max_connections = 10"], &[]),
        ("max_connections: 10", "", &["max_connections = 65536"], &[]),
        ("", "log_file: x", &[], &["log_file = x"]),
        ("", "syslog: true", &[], &["syslog = true"]),
        ("", "remote_syslog: x", &[], &["remote_syslog = x"]),
        ("", "log_format: json", &[], &["log_format = json"]),
        ("", "dashboard { user: a, password: b }", &[], &["dashboard user"]),
        ("", "max_traced_msg_len: 5", &[], &["max_traced_msg_len = 5"]),
        ("", "authorization { token: x }", &[], &["authorization token"]),
        ("", "authorization { users: [{user: x}] }", &[], &[]),
        ("", "authorization { timeout: 3 }", &[], &["authorization timeout = 3"]),
        ("", user, &[], &["authorization username", "authorization password"]),
        (user, "authorization { user: a, password: c }", &[], &["authorization password"]),
        ("", "max_control_line: 5", &[], &["max_control_line = 5"]),
        ("", "max_payload: 5", &[], &["max_payload = 5"]),
        ("", "ping_interval: \"5s\"", &[], &["ping_interval = 5s"]),
        ("", "ping_max: 5", &[], &["ping_max = 5"]),
        ("", "write_deadline: \"5s\"", &[], &["write_deadline = 5s"]),
        ("", "server_tags: x", &[], &["tags"]),
        ("", "pid_file: x", &[], &["pid_file = x"]),
        ("", "ports_file_dir: x", &[], &["ports_file_dir = x"]),
        ("", "connect_error_reports: 5", &[], &["connect_error_reports = 5"]),
        ("", "reconnect_error_reports: 5", &[], &["reconnect_error_reports = 5"]),
        ("cluster { port: 5 }", "cluster { port: 5, no_advertise: true }", &[], &["cluster"]),
        (
            "",
            "debug: true\nmax_payload: 2MB\nping_max: 3\nmax_connections: 9\ntrace: true\n\
             logtime: false\nwrite_deadline: \"3s\"\nserver_tags: x\n\
             authorization { user: a, password: b, timeout: 4 }",
            &["trace = true", "debug = true", "logtime = false", "max_connections = 9"],
            &[
                "authorization username",
                "authorization password",
                "ping_max = 3",
                "authorization timeout = 4",
                "max_payload = 2097152",
                "write_deadline = 3s",
                "tags",
            ],
        ),
    ] {
        let line = |end: &&str| format!("Reloaded: {end}");
        let wanted: Vec<String> = (earlier.iter().map(line))
            .chain(ALWAYS.map(str::to_owned))
            .chain(later.iter().map(line))
            .collect();
        match reloaded(before, after) {
            Ok((_, changes)) => assert_eq!(changes.lines, wanted, "{before} -> {after}"),
            Err(error) => panic!("{after}: {error}"),
        }
    }
    let Ok((_, changes)) = reloaded("", "client_advertise: x") else { panic!("refused") };
    assert_eq!(changes.lines[0], "Reload: client_advertise = x", "without the \"ed\" of others");
}

#[test]
fn routes_can_be_added_and_removed() {
    let file = |route: &str| format!("cluster {{ port: 5, routes: [\"nats://h:{route}\"] }}");
    let Ok((_, changes)) = reloaded(&file("1"), &file("2")) else { panic!("refused") };
    assert_eq!(changes.lines[..2], ALWAYS);
    assert_eq!(changes.lines[2..], ["Reloaded: cluster routes"]);
    let addresses = |routes: &[RouteUrl]| -> Vec<String> {
        routes.iter().map(|route| route.address.clone()).collect()
    };
    assert_eq!(addresses(&changes.routes_added), ["h:2"]);
    assert_eq!(addresses(&changes.routes_removed), ["h:1"]);
    assert!(!changes.cluster && !changes.auth);
}

#[test]
fn what_needs_a_restart_is_refused_and_streaming_options_stay() {
    for (after, error) in [
        ("port: 5", "Port: old=4222, new=5"),
        ("host: h", "Host: old=0.0.0.0, new=h"),
        ("max_subs: 5", "MaxSubs: old=0, new=5"),
        ("max_pending: 2MB", "MaxPending: old=67108864, new=2097152"),
        ("max_sub_tokens: 5", "MaxSubTokens: old=0, new=5"),
        ("http: 5", "HTTPPort: old=0, new=5"),
        ("http_base_path: x", "HTTPBasePath: old=, new=x"),
        ("log_size_limit: 5", "LogSizeLimit: old=0, new=5"),
        ("allow_non_tls: true", "AllowNonTLS: old=false, new=true"),
        ("no_header_support: true", "NoHeaderSupport: old=false, new=true"),
        ("no_sys_acc: true", "NoSystemAccount: old=false, new=true"),
        ("lame_duck_duration: \"40s\"", "LameDuckDuration: old=2m0s, new=40s"),
        ("cluster { listen: \"0.0.0.0:5\" }", "cluster host: old=, new=0.0.0.0"),
    ] {
        let found = reloaded("", after).err().unwrap_or_default();
        let error = format!("config reload not supported for {error} (f.conf:1:");
        assert!(found.starts_with(&error), "{found}");
    }
    let Ok((config, changes)) = reloaded("", "streaming { limits { mc: 5 }, sd: true }") else {
        panic!("refused")
    };
    assert_eq!(config.streaming.limits.channels_max, 100);
    assert!(!config.log.streaming.debug);
    assert_eq!(changes.lines, ALWAYS);
    assert_eq!(Changes { lines: Vec::new(), ..changes }, Changes::default());
    assert_eq!(
        reloaded("", "port: [").err().as_deref().map(|e| e.starts_with("Parse")),
        Some(true)
    );
    let without = world_with(&[], |world| reload(&config_of(""), PORTS, &[], world));
    assert_eq!(
        without.err().as_deref(),
        Some("can only reload config when a file is provided using -c or --config")
    );
}

/// What a reload says beside what it says each time, as by the reference; or why it is refused.
fn outcome(before: &str, after: &str) -> String {
    match reloaded(before, after) {
        Ok((_, changes)) => {
            let lines = changes.lines.iter().filter(|line| !ALWAYS.contains(&line.as_str()));
            let short = lines.map(|line| line.strip_prefix("Reloaded: ").unwrap_or(line));
            short.collect::<Vec<_>>().join("; ")
        }
        Err(text) => match text.strip_prefix("config reload not supported for ") {
            Some(option) => format!("not {option}"),
            None => text,
        },
    }
}

const TLS: &str = "tls { cert_file: cert.pem, key_file: key.pem }";
const USERS: &str = "authorization { users: [ {user: a, password: b}, {user: c, password: d} ] }";
const CLUSTER: &str = "cluster { name: a, listen: \"127.0.0.1:5\" }";

/// Options that the reference was seen to reload or to refuse: the file before, the file after,
/// what was said.
#[rustfmt::skip]
const OPTIONS: [(&str, &str, &str); 69] = [
    ("", "host: 127.0.0.1", "not Host: old=0.0.0.0, new=127.0.0.1"),
    ("", "port: 25999", "not Port: old=4222, new=25999"),
    ("", "port: 70000", "not Port: old=4222, new=70000"),
    ("", "client_advertise: \"1.2.3.4:x\"", "invalid ClientAdvertise value of 1.2.3.4:x, err=strconv.Atoi: parsing \"x\": invalid syntax"),
    ("client_advertise: \"1.2.3.4:5\"", "", "Reload: client_advertise = "),
    ("", "trace_verbose: true", "trace = true; trace_verbose = true"),
    ("trace_verbose: true", "", "trace = false; trace_verbose = false"),
    ("", "logtime_utc: true", "logtime_utc = true"),
    ("", "log_size_limit: 10KB", "not LogSizeLimit: old=0, new=10240"),
    ("", "max_payload: 100MB", "max_payload (104857600) cannot be higher than max_pending (67108864)"),
    ("", "max_payload: 9MB", "max_payload = 9437184"),
    ("", "max_pending: 10MB", "not MaxPending: old=67108864, new=10485760"),
    ("", "max_subscriptions: 10", "not MaxSubs: old=0, new=10"),
    ("", "max_sub_tokens: 5", "not MaxSubTokens: old=0, new=5"),
    ("", "lame_duck_duration: \"40s\"", "not LameDuckDuration: old=2m0s, new=40s"),
    ("", "lame_duck_grace_period: \"4s\"", "not LameDuckGracePeriod: old=10s, new=4s"),
    ("", "lame_duck_grace_period: \"400s\"", "not LameDuckGracePeriod: old=10s, new=6m40s"),
    ("", "http: 25999", "not HTTPPort: old=0, new=25999"),
    ("", "http: 70000", "not HTTPPort: old=0, new=70000"),
    ("", "http_base_path: x", "not HTTPBasePath: old=, new=x"),
    ("", "no_auth_user: x", "not NoAuthUser: old=, new=x"),
    (USERS, "no_auth_user: zz", "not NoAuthUser: old=, new=zz"),
    (USERS, "authorization { users: [ {user: a, password: b} ] }\nno_auth_user: a", "not NoAuthUser: old=, new=a"),
    ("no_auth_user: a\nauthorization { users: [ {user: a, password: b} ] }", USERS, "not NoAuthUser: old=a, new="),
    ("no_auth_user: a\nauthorization { users: [ {user: a, password: b} ] }", "", ""),
    ("no_auth_user: a\nauthorization { users: [ {user: a} ] }", "authorization { users: [ {user: x} ] }", ""),
    ("", "no_header_support: true", "not NoHeaderSupport: old=false, new=true"),
    ("", "disable_sublist_cache: true", "not NoSublistCache: old=false, new=true"),
    ("disable_sublist_cache: true", "", "not NoSublistCache: old=true, new=false"),
    ("", "no_sys_acc: true", "not NoSystemAccount: old=false, new=true"),
    ("", "allow_non_tls: true", "not AllowNonTLS: old=false, new=true"),
    ("", TLS, "authorization timeout = 3; tls = enabled"),
    (TLS, TLS, "tls = enabled"),
    (TLS, "tls { cert_file: cert.pem, key_file: key.pem, timeout: 5 }", "authorization timeout = 6; tls timeout = 5; tls = enabled"),
    (TLS, "tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem, verify: true }", "tls = enabled"),
    (TLS, "tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem, verify_and_map: true }", "not TLSMap: old=false, new=true"),
    (TLS, "", "authorization timeout = 2; tls = disabled"),
    (TLS, "tls { cert_file: cert.pem, key_file: other.pem }", "f.conf:1:0: error parsing X509 certificate/key pair: tls: private key does not match public key"),
    (TLS, "tls { cert_file: none, key_file: key.pem }", "f.conf:1:0: error parsing X509 certificate/key pair: open none: no such file or directory"),
    ("", CLUSTER, "not cluster host: old=, new=127.0.0.1"),
    (CLUSTER, "", "not cluster host: old=127.0.0.1, new="),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:6\" }", "not cluster port: old=5, new=6"),
    (CLUSTER, "cluster { name: a, listen: \"0.0.0.0:5\" }", "not cluster host: old=127.0.0.1, new=0.0.0.0"),
    (CLUSTER, "cluster { name: b, listen: \"127.0.0.1:5\" }", "Cluster name updated to b; cluster"),
    (CLUSTER, "cluster { listen: \"127.0.0.1:5\" }", "cluster"),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:5\", no_advertise: true }", "cluster"),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:5\", cluster_advertise: \"1.2.3.4:5\" }", "cluster"),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:5\", cluster_advertise: \"1.2.3.4:x\" }", "invalid Cluster.Advertise value of 1.2.3.4:x, err=strconv.Atoi: parsing \"x\": invalid syntax"),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:5\", authorization { user: a, password: b } }", "cluster"),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:5\", permissions { import: \"a.>\" } }", "cluster"),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:5\", connect_retries: 5 }", "cluster"),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:5\", routes: [\"nats://127.0.0.1\"] }", "cluster routes"),
    ("cluster { name: a, listen: \"127.0.0.1:5\", routes: [\"nats://h:1\"] }", CLUSTER, "cluster routes"),
    (CLUSTER, "cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, insecure: true } }", "cluster; TLS certificate chain and hostname of solicited routes will not be verified. DO NOT USE IN PRODUCTION!"),
    ("cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem } }", "cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem } }", ""),
    ("cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem } }", "cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem } }", "cluster"),
    ("cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem } }", "cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem } }", "cluster"),
    ("cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem } }", "cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, timeout: 4 } }", "cluster"),
    ("cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem } }", "cluster { name: b, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem } }", "Cluster name updated to b; cluster"),
    ("cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem, insecure: true } }", "cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem, insecure: true } }", "cluster; TLS certificate chain and hostname of solicited routes will not be verified. DO NOT USE IN PRODUCTION!"),
    ("cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, insecure: true } }", "cluster { name: a, listen: \"127.0.0.1:5\", tls { cert_file: cert.pem, key_file: key.pem, insecure: true } }", ""),
    ("", "store_dir: \"/tmp/x\"", ""),
    ("", "jetstream: false", ""),
    ("", "accounts {}", ""),
    ("", "leafnodes { port: 0 }", ""),
    ("", "mqtt { port: 0 }", ""),
    ("", "foo_bar: 1", ""),
    ("server_name: foo", "server_name: bar\nport: 5\nhost: x", "not Host: old=0.0.0.0, new=x"),
    ("", "max_pending: 10MB\nhttp: 5\nmax_subs: 5\nlog_size_limit: 5", "not MaxSubs: old=0, new=5"),
];

#[test]
fn each_option_is_reloaded_or_refused_as_by_the_reference() {
    for (before, after, expected) in OPTIONS {
        let found = outcome(before, after);
        assert_eq!(without_place(&found), expected, "{before:?} -> {after:?}");
    }
}

/// Goal: the core server's part is reloaded whatever became of the other one, which is told.
#[test]
fn what_is_wrong_in_the_streaming_part_stops_no_reload() {
    for streaming in [
        "streaming { limits { mm: \"x\" } }",
        "streaming { store: foo }",
        "streaming { store: file }",
        "streaming { limits { mm: -1 } }",
        "streaming { encrypt: true }",
        "streaming { ns: \"nats://x:1\" }",
        "streaming { partitioning: true }",
        "streaming { cluster { node_id: a } }",
        "streaming: 5",
        "streaming { tls { client_ca: none } }",
    ] {
        let file = format!("{streaming}\nmax_connections: 5");
        match reloaded("", &file) {
            Ok((config, changes)) => {
                assert_eq!(changes.lines[0], "Reloaded: max_connections = 5", "{streaming}");
                assert_eq!(config.streaming, served(Program::Streaming, "", "").streaming);
            }
            Err(error) => panic!("{streaming}: {error}"),
        }
    }
    let Ok((config, _)) = reloaded("", "streaming { limits { mm: \"x\" } }") else {
        panic!("refused")
    };
    let warning = "f.conf:1:21: parameter \"mm\" value is expected to be int64, got string: the \
                   streaming part stays, and the next start would fail";
    assert_eq!(config.warnings, [warning]);
}
