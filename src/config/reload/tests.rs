//! What can be reloaded, with the lines that say so, and what cannot

use super::*;
use crate::config::Program;
use crate::config::file::tests::world_with;
use crate::config::options::tests::{config_of, served};

fn reloaded(before: &str, after: &str) -> Result<(Config, Changes), String> {
    let line = "-c f.conf -n name";
    let old = served(Program::Streaming, line, before);
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    world_with(&[("f.conf", after)], |world| reload(&old, &args, world))
}

#[test]
fn changes_have_the_references_lines() {
    for (before, after, line) in [
        ("", "trace: true", "Reloaded: trace = true"),
        ("", "debug: true", "Reloaded: debug = true"),
        ("", "logtime: false", "Reloaded: logtime = false"),
        ("", "log_file: x", "Reloaded: log_file = x"),
        ("", "syslog: true", "Reloaded: syslog = true"),
        ("", "remote_syslog: x", "Reloaded: remote_syslog = x"),
        ("", "max_traced_msg_len: 5", "Reloaded: max_traced_msg_len = 5"),
        ("", "authorization { token: x }", "Reloaded: authorization token"),
        ("", "authorization { users: [{user: x}] }", "Reloaded: authorization users"),
        ("", "authorization { timeout: 3 }", "Reloaded: authorization timeout = 3"),
        ("", "max_connections: 5", "Reloaded: max_connections = 5"),
        ("", "max_control_line: 5", "Reloaded: max_control_line = 5"),
        ("", "max_payload: 5", "Reloaded: max_payload = 5"),
        ("", "ping_interval: \"5s\"", "Reloaded: ping_interval = 5s"),
        ("", "ping_max: 5", "Reloaded: ping_max = 5"),
        ("", "write_deadline: \"5s\"", "Reloaded: write_deadline = 5s"),
        ("", "client_advertise: x", "Reload: client_advertise = x"),
        ("", "server_tags: x", "Reloaded: tags"),
        ("", "pid_file: x", "Reloaded: pid_file = x"),
        ("", "ports_file_dir: x", "Reloaded: ports_file_dir = x"),
        ("", "connect_error_reports: 5", "Reloaded: connect_error_reports = 5"),
        ("", "reconnect_error_reports: 5", "Reloaded: reconnect_error_reports = 5"),
        ("cluster { port: 5 }", "cluster { port: 5, no_advertise: true }", "Reloaded: cluster"),
    ] {
        match reloaded(before, after) {
            Ok((_, changes)) => assert_eq!(changes.lines, [line]),
            Err(error) => panic!("{after}: {error}"),
        }
    }
}

#[test]
fn routes_can_be_added_and_removed() {
    let file = |route: &str| format!("cluster {{ port: 5, routes: [\"nats://h:{route}\"] }}");
    let Ok((_, changes)) = reloaded(&file("1"), &file("2")) else { panic!("refused") };
    assert_eq!(changes.lines, ["Removed route nats://h:1", "Reloaded: cluster routes"]);
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
    assert_eq!(changes, Changes::default());
    assert_eq!(
        reloaded("", "port: [").err().as_deref().map(|e| e.starts_with("Parse")),
        Some(true)
    );
    let without = world_with(&[], |world| reload(&config_of(""), &[], world));
    assert_eq!(
        without.err().as_deref(),
        Some("can only reload config when a file is provided using -c or --config")
    );
}
