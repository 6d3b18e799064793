//! What zeros, empty texts and impossible listeners become, as the reference was measured

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::config::options::tests::served;
use crate::config::places::tests::without_place;
use crate::config::{AuthConfig, StartError};

fn core(file: &str) -> Config {
    served(Program::Core, "-c f.conf", file)
}

fn streaming(file: &str) -> Config {
    served(Program::Streaming, "-c f.conf", file)
}

#[test]
fn a_zero_asks_for_the_default() {
    let zeros = "max_control_line: 0\nmax_payload: 0\nmax_pending: 0\nping_interval: \"0\"\n\
                 ping_max: 0\nwrite_deadline: \"0\"\nlame_duck_grace_period: \"0\"\n\
                 connect_error_reports: 0\nreconnect_error_reports: 0\n\
                 authorization { timeout: 0 }";
    assert_eq!(core(zeros).core, CoreConfig::default());
    let tls = "tls { cert_file: cert.pem, key_file: key.pem, timeout: 0 }";
    let config = core(tls).core;
    assert_eq!(config.tls.map(|tls| tls.timeout), Some(Duration::from_secs(2)));
    assert_eq!(config.auth.timeout, Duration::from_secs(3));
    let cluster = core("cluster { port: 5, authorization { timeout: 0 } }").core.cluster;
    assert_eq!(cluster.map(|cluster| cluster.auth_timeout), Some(Duration::from_secs(2)));
}

#[test]
fn an_empty_name_or_token_protects_nothing() {
    for block in ["user: \"\"", "user: \"\", password: \"\"", "token: \"\""] {
        let auth = core(&format!("authorization {{ {block} }}")).core.auth;
        let open = AuthConfig { timeout: auth.timeout, ..AuthConfig::default() };
        assert_eq!(auth, open, "{block}");
        assert!(!auth.is_required(), "{block}");
    }
}

#[test]
fn routes_listen_everywhere_unless_they_are_told_where() {
    let host = |file: &str| core(file).core.cluster.map(|cluster| cluster.host);
    assert_eq!(host("host: 127.0.0.1\ncluster { port: 5 }").as_deref(), Some("0.0.0.0"));
    assert_eq!(host("cluster { port: 5, host: \"::1\" }").as_deref(), Some("::1"));
}

#[test]
fn routes_of_the_command_line_are_those_of_the_reference() {
    let urls = |text: &str| -> Vec<String> {
        parse_routes(text).unwrap().into_iter().map(|route| route.url).collect()
    };
    assert_eq!(urls(""), [""; 0]);
    assert_eq!(urls("nats://a:1, nats://b:2"), ["nats://a:1", "nats://b:2"]);
    assert_eq!(urls("nats://a:1,nats://b:2,"), ["nats://a:1", "nats://b:2", ""]);
    assert_eq!(urls("nats://a:1, ,nats://b:2"), ["nats://a:1", "", "nats://b:2"]);
}

#[test]
fn impossible_listeners_are_start_errors() {
    for (file, line) in [
        (
            "port: 65536",
            "Error listening on port: 0.0.0.0:65536, \"listen tcp: address 65536: invalid port\"",
        ),
        (
            "host: a\nport: -2",
            "Error listening on port: a:-2, \"listen tcp: address -2: invalid port\"",
        ),
        (
            "host: \"[::1]\"\nport: 5",
            "Error listening on port: [[::1]]:5, \"listen tcp: address [[::1]]:5: missing port in \
             address\"",
        ),
        (
            "host: \"[::1\"\nport: 5",
            "Error listening on port: [[::1]:5, \"listen tcp: address [[::1]:5: unexpected '[' in \
             address\"",
        ),
        (
            "host: \"::1]\"\nport: 5",
            "Error listening on port: [::1]]:5, \"listen tcp: address [::1]]:5: missing port in \
             address\"",
        ),
        (
            "host: \"a:[b]:c\"\nport: 5",
            "Error listening on port: [a:[b]:c]:5, \"listen tcp: address [a:[b]:c]:5: too many \
             colons in address\"",
        ),
        (
            "http: 70000",
            "Can't start monitoring: can't listen to the monitor port: listen tcp: address 70000: \
             invalid port",
        ),
        (
            "cluster { port: 70000 }",
            "Error listening on router port: 70000 - listen tcp: address 70000: invalid port",
        ),
        (
            "client_advertise: \"a:b\"",
            "Error setting server INFO with ClientAdvertise value of a:b, err=strconv.Atoi: parsing \
             \"b\": invalid syntax",
        ),
        (
            "cluster { port: 5, cluster_advertise: \"a:b\" }",
            "Error setting route INFO with Cluster.Advertise value of a:b, err=strconv.Atoi: parsing \
             \"b\": invalid syntax",
        ),
    ] {
        for config in [core(file), streaming(&format!("{file}\nstreaming {{}}"))] {
            let (target, shown) = config.start_error.map(|error| error.fatal_line()).unwrap();
            assert_eq!((target, without_place(&shown)), (crate::log::CORE, line), "{file}");
        }
    }
    let possible = "port: -1\nhttp: 65535\nclient_advertise: \"a:5\"\ncluster { port: 65535 }";
    assert_eq!(core(possible).start_error, None);
    assert_eq!(core("client_advertise: \"[::1]\"").start_error, None);
}

#[test]
fn tls_without_a_certificate_is_refused() {
    for block in ["tls { timeout: 5 }", "cluster { port: 5, tls { timeout: 5 } }"] {
        let config = streaming(&format!("{block}\nstreaming {{}}"));
        let Some(StartError::Streaming(text)) = config.start_error else { panic!("{block}") };
        let text = without_place(&text);
        assert_eq!(text, "tls: cert_file and key_file are missing: nobody could connect");
    }
}

#[test]
fn subjects_that_nobody_can_listen_on_are_start_errors() {
    for key in ["cluster_id", "discover_prefix"] {
        for text in ["", "a b", "a..b", "a.", ">", "a.>"] {
            let config = streaming(&format!("streaming {{ {key}: \"{text}\" }}"));
            let wanted = "could not subscribe to discover subject: nats: invalid subject";
            let (_, error) = config.start_error.map(|error| error.fatal_line()).unwrap();
            assert_eq!(error, format!("Failed to start: {wanted} (f.conf:1:12)"), "{text:?}");
        }
        let config = streaming(&format!("streaming {{ {key}: \"a.b>\" }}"));
        assert_eq!(config.start_error, None, "{key}");
    }
    let group = |text: &str| {
        let file = format!("streaming {{ store: file, dir: d, ft_group: \"{text}\" }}");
        streaming(&file).start_error.map(|error| error.fatal_line().1)
    };
    for text in ["a b", "a\\tb", "a..b", ".a", "a."] {
        let wanted = "ft: unable to subscribe on ft subject: nats: invalid subject";
        let said = group(text).unwrap_or_default();
        assert!(said.starts_with(&format!("Failed to start: {wanted}")), "{text:?}: {said}");
    }
    for text in ["", "a.b", "*", ">", "\u{e4}"] {
        assert_eq!(group(text), None, "{text:?}");
    }
}

#[test]
fn tags_are_in_lower_case_and_once() {
    assert_eq!(core("server_tags: [\"A:b\", \" C \", \"c\", \"\"]").core.tags, ["a:b", "c"]);
    assert_eq!(core("server_tags: One").core.tags, ["one"]);
}

#[test]
fn only_the_core_server_names_its_base_path_where_none_is_given() {
    assert_eq!(core("").monitor.base_path, "/");
    assert_eq!(streaming("").monitor.base_path, "");
    assert_eq!(core("http_base_path: \"/nats\"").monitor.base_path, "/nats");
}
