//! What a person and a harness see: names, flags, exit codes, files, log lines, signals, reload.

use std::fs;
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::server::{CORE_READY, Launch, READY, binary, free_port, wait_for};
use crate::stan::Stan;
use crate::wire::{Conn, connect, error, same};

/// Runs the binary to its end under a name.
fn run_as(name: &str, args: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    Command::new(binary()).arg0(name).args(args).output().unwrap()
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    texts(&run_as("nats-streaming-server", args))
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn one_executable_answers_to_three_names() {
    let streaming = "nats-streaming-server version 0.25.6, nats-server: v2.9.24\n";
    let core = "nats-server: v2.9.24\n";
    for flag in ["-v", "--version", "version"] {
        assert_eq!(run(&[flag]), (Some(0), streaming.to_owned(), String::new()), "{flag}");
    }
    let cases: [(&str, &[&str], &str); 5] = [
        ("nats-server", &["-v"], core),
        ("/any/where/nats-server", &["--version"], core),
        ("stanby", &["nats-server", "-v"], core),
        ("stanby", &["nats-streaming-server", "-v"], streaming),
        ("stanby", &["stanby", "-v"], streaming),
    ];
    for (name, args, wanted) in cases {
        let output = texts(&run_as(name, args));
        assert_eq!(output, (Some(0), wanted.to_owned(), String::new()), "{name} {args:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("nats-server");
    std::os::unix::fs::symlink(binary(), &link).unwrap();
    let output = texts(&Command::new(&link).arg("-v").output().unwrap());
    assert_eq!(output, (Some(0), core.to_owned(), String::new()), "a symbolic link");
}

#[test]
fn help_and_wrong_flags_show_the_usage_and_end_well() {
    for flag in ["-h", "--help", "help"] {
        let (code, out, err) = run(&[flag]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{flag}");
        assert!(out.contains("-ft_group") && out.contains("-cluster_id"), "{out}");
    }
    let (code, out, err) = run(&["-nosuch"]);
    assert_eq!(code, Some(0));
    assert!(err.starts_with("flag provided but not defined: -nosuch"), "{err}");
    assert!(out.contains("-cluster_id"), "the usage");
    let (code, out, err) = run(&["-p", "x"]);
    assert_eq!(code, Some(0));
    assert!(err.starts_with("invalid value \"x\" for flag -p: parse error"), "{err}");
    assert!(out.contains("-cluster_id"), "the usage");
}

/// Goal: what is wrong is the last thing that stands on the terminal, with what was meant.
#[test]
fn a_wrong_flag_ends_with_its_line_the_nearest_one_and_the_go_servers_code() {
    let cases: [(&str, i32, &str); 10] = [
        ("-stroe file", 0, "flag provided but not defined: -stroe (did you mean -store?)"),
        (
            "--clusterid x",
            0,
            "flag provided but not defined: -clusterid (did you mean -cluster_id?)",
        ),
        ("-ftgroup=a", 0, "flag provided but not defined: -ftgroup (did you mean -ft_group?)"),
        ("-wholly_else", 0, "flag provided but not defined: -wholly_else"),
        ("-mc abc", 0, "invalid value \"abc\" for flag -mc: parse error"),
        ("verison", 1, "unrecognized command: \"verison\" (did you mean version?)"),
        ("pubb -c x", 1, "unrecognized command: \"pubb\" (did you mean pub?)"),
        (
            "nats-server verison",
            1,
            "nats-server: unrecognized command: \"verison\" (did you mean version?)",
        ),
        ("nats-server pubb", 1, "nats-server: unrecognized command: \"pubb\""),
        ("-SD false", 1, "unrecognized command: \"false\" (did you mean -SD=false?)"),
    ];
    for (words, wanted_code, wanted) in cases {
        let script = format!("exec \"$0\" {words} 2>&1");
        let output = Command::new("sh").args(["-c", &script]).arg(binary()).output().unwrap();
        let (code, out, _) = texts(&output);
        assert_eq!((code, out.lines().last()), (Some(wanted_code), Some(wanted)), "{words}");
    }
}

#[test]
fn wrong_command_lines_end_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent").display().to_string();
    let cases: [(&str, &[&str], String); 6] = [
        ("nats-streaming-server", &["extra"], "unrecognized command: \"extra\"".to_owned()),
        ("nats-server", &["extra"], "nats-server: unrecognized command: \"extra\"".to_owned()),
        (
            "nats-streaming-server",
            &["-sc", &absent],
            format!("open {absent}: no such file or directory"),
        ),
        (
            "nats-server",
            &["-c", &absent],
            format!("nats-server: open {absent}: no such file or directory"),
        ),
        (
            "nats-server",
            &["-t"],
            "must specify [-c, --config] option to check configuration file syntax".to_owned(),
        ),
        ("nats-streaming-server", &["-sl", "zzz=1"], "unknown signal \"zzz\"".to_owned()),
    ];
    for (name, args, wanted) in cases {
        let (code, out, err) = texts(&run_as(name, args));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{name} {args:?}: {err}");
        assert!(err.contains(&wanted), "{name} {args:?}: {err}, not {wanted}");
    }
}

#[test]
fn starts_that_fail_say_why_and_end_with_one() {
    let cases: [(&[&str], &str); 6] = [
        (
            &["-P", "/nowhere/pid"],
            "[FTL] Could not write pidfile: open /nowhere/pid: no such file or directory",
        ),
        (
            &["-cluster", "nats://127.0.0.1:70000"],
            "[FTL] Error listening on router port: 70000 - listen tcp: address 70000: invalid port",
        ),
        (&["-st", "BOLT"], "[FTL] STREAM: Failed to start: unsupported store type: BOLT"),
        (
            &["-st", "FILE"],
            "[FTL] STREAM: Failed to start: for FILE stores, root directory must be specified",
        ),
        (
            &["--ft_group", "x"],
            "[FTL] STREAM: Failed to start: ft: only FILE or SQL stores supported in FT mode",
        ),
        (&["-cid", "a b"], "[FTL] STREAM: Failed to start: could not subscribe to discover"),
    ];
    for (flags, wanted) in cases {
        let mut server = Launch::new(flags).run();
        assert_eq!(server.wait_exit().code(), Some(1), "{flags:?}");
        assert!(server.log.text().contains(wanted), "{flags:?}: {}", server.log.text());
        assert_eq!(server.stdout.text(), "", "{flags:?}");
    }
    let first = Launch::new(&[]).start();
    let mut launch = Launch::new(&[]);
    launch.port = first.launch.port;
    let mut second = launch.run();
    assert_eq!(second.wait_exit().code(), Some(1));
    let address = first.address();
    let wanted = format!(
        "[FTL] Error listening on port: {address}, \"listen tcp {address}: bind: address already \
         in use\""
    );
    assert!(second.log.text().contains(&wanted), "{}", second.log.text());
}

#[test]
fn what_is_not_supported_is_refused_by_name_and_place() {
    for flag in ["-clustered", "-js"] {
        let (code, out, err) = run(&[flag]);
        let said = format!("{out}{err}");
        assert!(said.contains(flag.trim_start_matches('-')), "{flag}: {code:?} {said}");
    }
    let keys = [
        "accounts { A { users: [ { user: a, password: b } ] } }",
        "leafnodes { port: 7422 }",
        "operator: \"/nowhere\"",
        "jetstream: enabled",
        "streaming { cluster { node_id: a } }",
    ];
    for key in keys {
        let launch = Launch::new(&[]).config(&format!("debug: false\n{key}\n"));
        let mut server = launch.run();
        assert_eq!(server.wait_exit().code(), Some(1), "{key}");
        let log = server.log.text();
        let word = key.split([' ', ':']).next().unwrap();
        assert!(log.contains("server.conf:2"), "{key}: file and line are in {log}");
        assert!(log.contains(word) || log.contains("cluster"), "{key}: {log}");
    }
}

#[test]
fn signals_end_with_the_codes_that_harnesses_expect() {
    let cases = [
        (Launch::new(&[]), Signal::SIGTERM, 143),
        (Launch::new(&[]), Signal::SIGINT, 0),
        (Launch::new(&[]).file_store(None), Signal::SIGTERM, 143),
        (Launch::core(&[]), Signal::SIGTERM, 1),
        (Launch::core(&[]), Signal::SIGINT, 0),
        (Launch::new(&[]), Signal::SIGQUIT, 2),
    ];
    for (launch, signal, code) in cases {
        let mut server = launch.start();
        assert_eq!(server.stop(signal), Some(code), "{signal}");
        assert_eq!(server.stdout.text(), "", "nothing on stdout");
        if signal != Signal::SIGQUIT {
            let text = server.log.text();
            let core = ["Initiating Shutdown...", "Server Exiting.."];
            assert!(core.iter().all(|line| text.contains(line)), "{text}");
        }
    }
}

#[test]
fn log_lines_that_tools_wait_for() {
    let launch = Launch::new(&["-cid", "lines"]).file_store(None);
    let server = launch.start();
    let text = server.log.text();
    let first = text.lines().next().unwrap();
    let start = "] STREAM: Starting nats-streaming-server[lines] version 0.25.6";
    assert!(first.ends_with(start), "{first}");
    assert!(first.starts_with(&format!("[{}] ", server.pid())), "{first}");
    let time = first.split(' ').nth(2).unwrap();
    assert!(time.len() == 15 && time.as_bytes()[8] == b'.', "{time}");
    let wanted = [
        "STREAM: ServerID: ".to_owned(),
        "STREAM: Go version: ".to_owned(),
        "STREAM: Git commit: [".to_owned(),
        "Starting nats-server".to_owned(),
        "  Version:  2.9.24".to_owned(),
        format!("Starting http monitor on 127.0.0.1:{}", launch.http),
        format!("Listening for client connections on 127.0.0.1:{}", launch.port),
        "Server is ready".to_owned(),
        "STREAM: Recovering the state...".to_owned(),
        "STREAM: No recovered state".to_owned(),
        "STREAM: Message store is FILE".to_owned(),
        "STREAM: Store location: ".to_owned(),
        format!("STREAM: {READY}"),
    ];
    let mut rest = text.as_str();
    for line in wanted {
        let at =
            rest.find(&line).unwrap_or_else(|| panic!("{line:?} is not, or not in order:\n{text}"));
        rest = &rest[at + line.len()..];
    }
    assert_eq!(rest.trim(), "", "the ready line is the last");
}

#[test]
fn a_start_says_what_its_configuration_is() {
    let config = "max_payload: 9MB\nno_auth_user: a\n\
                  authorization { users: [ { user: a, password: b } ] }\n";
    let launch = Launch::new(&["-SD"]).config(config);
    let file = launch.config_path();
    let server = launch.start();
    for line in [
        "[WRN] Plaintext passwords detected, use nkeys or bcrypt".to_owned(),
        format!("[INF] Using configuration file: {}", file.display()),
        "[WRN] Maximum payloads over 8.00 MB are generally discouraged and could lead to poor \
         performance"
            .to_owned(),
        "[DBG] STREAM: Discover subject:           _STAN.discover.test-cluster".to_owned(),
        "[DBG] STREAM: Close subject:              _STAN.close.test-cluster".to_owned(),
    ] {
        server.log.wait(&line);
    }
    let quiet = Launch::new(&["-auth", "plain"]).start();
    assert!(!quiet.log.text().contains("[WRN]"), "{}", quiet.log.text());
}

#[test]
fn a_channel_at_its_limits_is_told_once() {
    for server in
        [Launch::new(&["-mm", "3"]).start(), Launch::new(&["-mm", "3"]).file_store(None).start()]
    {
        let mut stan = Stan::connect(server.launch.port, "me");
        assert!(stan.fill("foo", 1..=9).is_empty());
        let line =
            server.log.wait("[WRN] STREAM: Reached limits for store \"foo\" (msgs=3/3 bytes=");
        assert!(line.ends_with("dropping old messages to make room for new ones"), "{line}");
        assert_eq!(server.log.text().matches("Reached limits").count(), 1);
    }
}

#[test]
fn pid_and_ports_files() {
    let launch = Launch::new(&[]);
    let folder = launch.folder().to_path_buf();
    let pid_file = folder.join("pid");
    let launch = launch.arg("-P").arg(&pid_file).arg("--ports_file_dir").arg(&folder);
    let mut server = launch.start();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), server.pid().to_string(), "no newline");
    let ports = folder.join(format!("nats-streaming-server_{}.ports", server.pid()));
    let found: serde_json::Value = serde_json::from_slice(&fs::read(&ports).unwrap()).unwrap();
    let wanted = serde_json::json!({
        "nats": [format!("nats://127.0.0.1:{}", launch.port)],
        "monitoring": [format!("http://127.0.0.1:{}", launch.http)],
    });
    assert_eq!(found, wanted);
    server.stop(Signal::SIGTERM);
    assert!(pid_file.exists(), "the pid file is left behind");
    assert!(!ports.exists(), "the ports file is not");
}

#[test]
fn a_log_file_is_reopened_and_rotated() {
    let launch = Launch::new(&["-SDV"]);
    let path = launch.folder().join("server.log");
    let limited = launch.arg("-l").arg(&path).arg("-log_size_limit").arg("20000");
    let mut server = limited.spawn();
    let read = || fs::read_to_string(&path).unwrap_or_default();
    wait_for("the ready line in the file", || read().contains(READY).then_some(()));
    let moved = limited.folder().join("moved.log");
    fs::rename(&path, &moved).unwrap();
    server.signal(Signal::SIGUSR1);
    wait_for("a new file", || read().contains("File log re-opened").then_some(()));
    let mut stan = Stan::connect(limited.port, "writer");
    let backup = wait_for("a rotated log", || {
        assert!(stan.fill("log", 1..=50).is_empty());
        fs::read_dir(limited.folder()).unwrap().find_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with("server.log.").then_some(name)
        })
    });
    wait_for("the line that names the backup", || {
        let first = read().lines().next().unwrap_or_default().to_owned();
        (first.contains("Rotated log, backup saved as") && first.contains("server.log."))
            .then_some(())
    });
    assert!(backup.len() == "server.log.2026.01.01.00.00.00.000000000".len(), "{backup}");
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
    assert_eq!((server.log.text(), server.stdout.text()), (String::new(), String::new()));
}

#[test]
fn another_process_sends_signals_by_pid_or_file() {
    let launch = Launch::new(&[]);
    let file = launch.folder().join("pid");
    let launch = launch.arg("-P").arg(&file);
    let mut server = launch.start();
    let mark = server.log.len();
    let (code, out, err) = run(&["-sl", &format!("reopen={}", server.pid())]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
    server.log.wait_after(mark, "File log re-open ignored, not a file logger");
    assert_eq!(run(&["--signal", &format!("ldm={}", server.pid())]).0, Some(0));
    same(Conn::client(launch.port, "").ask(b""), b"", "lame duck is ignored");
    assert_eq!(run(&["-sl", &format!("term={}", file.display())]).0, Some(0));
    assert_eq!(server.wait_exit().code(), Some(143));
    let (code, _, err) = run(&["-sl", &format!("term={}", server.pid())]);
    assert_eq!(code, Some(1), "a process that is gone: {err}");
}

#[test]
fn a_reload_closes_only_those_who_lost_their_right() {
    let users = |second: &str| {
        format!(
            "authorization {{ users = [ {{ user: a, pass: pw }}, {{ user: b, pass: {second} }} ] }}\n"
        )
    };
    let server = Launch::new(&[]).config(&users("pw")).start();
    let port = server.launch.port;
    let mut kept = Conn::client(port, "\"user\":\"a\",\"pass\":\"pw\"");
    let mut lost = Conn::client(port, "\"user\":\"b\",\"pass\":\"pw\"");
    let mut stan = Stan::bare(port, "\"user\":\"a\",\"pass\":\"pw\"");
    stan.register("test-cluster", "stays").unwrap();
    let mark = server.log.len();
    server.launch.rewrite_config(&users("other"));
    server.signal(Signal::SIGHUP);
    server.log.wait_after(mark, "Reloaded server configuration");
    same(lost.until_closed(), error("Authorization Violation"), "lost its right");
    same(kept.ask(b""), b"", "kept its right");
    stan.publish("foo", "x").unwrap();
    let old = Conn::open(port).fatal(connect("\"user\":\"b\",\"pass\":\"pw\""));
    same(old, error("Authorization Violation"), "the old password");
    Conn::client(port, "\"user\":\"b\",\"pass\":\"other\"");
    let mark = server.log.len();
    server.launch.rewrite_config("authorization { users = [ { user: a pass: pw } ] }\n");
    server.signal(Signal::SIGHUP);
    server.log.wait_after(mark, "[ERR] STREAM: Reload: ");
    same(kept.ask(b""), b"", "a configuration that cannot be read changes nothing");
}

/// Goal: a file may name the port that -1 chose, and whoever is closed for the limit is told.
#[test]
fn a_reload_takes_chosen_ports_and_tells_those_it_closes() {
    let server = Launch::new(&[]).config("cluster { port: -1, name: a }\n").start();
    let line = server.log.wait("Listening for route connections on ");
    let route_port = line.trim().rsplit(':').next().unwrap().to_owned();
    let mut conns: Vec<Conn> = (0..3).map(|_| Conn::client(server.launch.port, "")).collect();
    let mark = server.log.len();
    let text = format!("cluster {{ port: {route_port}, name: a }}\nmax_connections: 1\n");
    server.launch.rewrite_config(&text);
    server.signal(Signal::SIGHUP);
    server.log.wait_after(mark, "[INF] Closed 2 connections to fall within max_connections");
    server.log.wait_after(mark, "Reloaded server configuration");
    wait_for("two are closed", || {
        (server.json("/connz")["num_connections"].as_u64() == Some(1)).then_some(())
    });
    let answers: Vec<Vec<u8>> = conns.iter_mut().map(|conn| conn.send(b"PING\r\n").op()).collect();
    let told = answers.iter().filter(|op| **op == error("maximum connections exceeded"));
    assert_eq!((told.count(), answers.contains(&b"PONG\r\n".to_vec())), (2, true), "{answers:?}");
}

#[test]
fn a_reload_changes_the_log_level() {
    let server = Launch::new(&[]).config("debug: false\n").start();
    let mark = server.log.len();
    server.launch.rewrite_config("debug: true\n");
    server.signal(Signal::SIGHUP);
    server.log.wait_after(mark, "Reloaded: debug = true");
    let mark = server.log.len();
    server.launch.rewrite_config("debug: true\nmax_paylod: 5\n");
    server.signal(Signal::SIGHUP);
    let warning = server.log.wait_after(mark, "[WRN] STREAM: ");
    assert!(warning.contains("server.conf:2:1: unknown field \"max_paylod\""), "{warning}");
    server.log.wait_after(mark, "Reloaded server configuration");
    Conn::client(server.launch.port, "");
    server.log.wait_after(mark, "[DBG]");
}

#[test]
fn a_configuration_can_be_checked_without_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ok.conf");
    let text = path.display().to_string();
    fs::write(&path, format!("port: {}\n", free_port())).unwrap();
    let (code, out, err) = texts(&run_as("nats-server", &["-t", "-c", &text]));
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    assert!(err.contains(&format!("configuration file {text} is valid")), "{err}");
    fs::write(&path, "port: nonsense\n").unwrap();
    let (code, _, err) = texts(&run_as("nats-server", &["-t", "-c", &text]));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("ok.conf:1"), "{err}");
    // An unknown key is no error there, but here nobody overlooks it.
    fs::write(&path, "streaming {\n  stor: file\n  dir: /data/stan\n}\n").unwrap();
    let (code, out, err) = run(&["-t", "-c", &text]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    assert!(err.contains(&format!("{text}:2:3: unknown field \"stor\"")), "{err}");
    assert!(err.contains("the nearest known one is \"store\""), "{err}");
    assert!(err.contains(&format!("{text}:3:3: field \"dir\" has no effect")), "{err}");
    assert!(err.ends_with("is valid, with 2 warnings\n"), "{err}");
    fs::write(&path, "streaming {\n  store: file\n}\n").unwrap();
    let (code, _, err) = run(&["-t", "-c", &text]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("root directory must be specified"), "{err}");
}

/// The form of the charts and guides: a path in the streaming block without quotes.
#[test]
fn a_file_with_unquoted_paths_starts_a_file_store() {
    let mut launch = Launch::new(&[]);
    let store = launch.folder().join("store");
    let text = format!(
        "streaming {{\n  id: stan\n  store: file\n  dir: {}\n  ft_group_name: group # of two\n\
         \u{20} file_options {{\n    buffer_size: 32mb // more\n  }}\n}}\n",
        store.display()
    );
    launch = launch.config(&text);
    let server = launch.start();
    server.log.wait("Message store is FILE");
    assert!(store.join("server.dat").is_file());
    assert!(!server.log.text().contains("server.conf:"), "{}", server.log.text());
}

#[test]
fn a_start_warns_of_what_a_file_says_in_vain() {
    let server = Launch::new(&[]).config("streaming {\n  stor: file\n}\n").start();
    assert!(server.log.text().contains("server.conf:2:3: unknown field \"stor\""));
    assert!(server.log.text().contains("Message store is MEMORY"));
}

/// Goal: harnesses start the next server milliseconds after the end of the last one.
#[test]
fn port_and_store_are_free_for_the_next_process_at_once() {
    let launch = Launch::new(&[]).file_store(None);
    let mut slowest = std::time::Duration::ZERO;
    for turn in 0..5 {
        let begun = std::time::Instant::now();
        let server = launch.start();
        slowest = slowest.max(begun.elapsed());
        let mut stan = Stan::connect(launch.port, "turn");
        stan.publish("turns", turn.to_string()).unwrap();
        stan.close().unwrap();
        // Not waited for: the next process must wait for port and lock by itself.
        server.signal(Signal::SIGTERM);
        let ending = std::thread::spawn(move || {
            let mut server = server;
            server.wait_exit().code()
        });
        if turn == 4 {
            assert_eq!(ending.join().unwrap(), Some(143));
        }
    }
    println!("slowest start to ready: {slowest:?} (harnesses are comfortable below 250 ms)");
    let server = launch.start();
    let mut stan = Stan::connect(launch.port, "reader");
    assert_eq!(stan.replay("turns", 5).len(), 5);
    drop(server);
}

#[test]
fn a_core_server_has_no_streaming_layer() {
    let server = Launch::core(&[]).start();
    assert!(server.log.text().contains(CORE_READY) && !server.log.text().contains("STREAM"));
    let mut stan = Stan::bare(server.launch.port, "");
    assert_eq!(stan.request(b"_STAN.discover.test-cluster", b""), "503");
    assert_eq!(server.get("/streaming/serverz").status, 404);
    assert_eq!(server.get("/varz").status, 200);
}
