//! What can be reloaded, with the lines that say so, and what cannot

use super::*;
use crate::config::Program;
use crate::config::file::tests::world_with;
use crate::config::options::tests::{config_of, served};

fn reloaded(before: &str, after: &str) -> Result<(Config, Changes), String> {
    let line = "-c f.conf -n name";
    let old = served(Program::Streaming, line, before);
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    world_with(&[("f.conf", after)], |world| reload(&old, PORTS, &args, world))
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
        let found = reloaded(any, &after).err();
        assert_eq!(found, Some(format!("config reload not supported for {error}")));
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
    assert_eq!(changes.lines[2..], ["Removed route nats://h:1", "Reloaded: cluster routes"]);
    assert_eq!(changes.routes_added.iter().map(|route| route.port).collect::<Vec<_>>(), [2]);
    assert_eq!(changes.routes_removed.iter().map(|route| route.port).collect::<Vec<_>>(), [1]);
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
        let found = reloaded("", after).err();
        assert_eq!(found, Some(format!("config reload not supported for {error}")));
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
