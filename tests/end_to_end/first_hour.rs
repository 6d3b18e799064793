//! What a person sees who tries the commands for the first time and gets something wrong.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::monitoring::pair;
use crate::server::{Launch, Output, Server, binary, wait_for};

/// One of our own commands, running.
struct Running {
    child: Child,
    out: Arc<Output>,
    err: Arc<Output>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .arg0("stanby")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, _) = Output::follow(child.stdout.take().unwrap());
        let (err, _) = Output::follow(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    fn client(command: &str, server: &Server, args: &[&str]) -> Self {
        let address = server.address();
        Self::start(&[&[command, "-s", &address], args].concat())
    }

    /// The exit code and everything on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        self.err.wait_end();
        (code, self.err.text())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_wrong_cluster_id_is_named_by_the_command_and_in_the_servers_log() {
    let server = Launch::new(&["-cid", "orders-cluster"]).start();
    for (command, args) in [
        ("sub", &["-c", "order-cluster", "foo"][..]),
        ("pub", &["-c", "order-cluster", "foo", "hello"][..]),
    ] {
        let (code, text) = Running::client(command, &server, args).end();
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("connect request timeout"), "{text}");
        assert!(text.contains("cluster ID \"order-cluster\"") && text.contains("-c"), "{text}");
        assert!(text.contains("standby"), "{text}");
    }
    let line = server.log.wait("Connect request for cluster ID \"order-cluster\"");
    assert!(
        line.contains("[WRN]") && line.contains("this one serves \"orders-cluster\""),
        "{line}"
    );
    let lines = server.log.text().matches("\"order-cluster\"").count();
    assert_eq!(lines, 1, "said once for all that ask: {}", server.log.text());
}

#[test]
fn sub_says_what_it_listens_to_and_a_second_one_is_told_to_choose_another_id() {
    let server = Launch::new(&[]).start();
    let first = Running::client("sub", &server, &["-i", "me", "--durable", "d", "foo"]);
    let line = first.err.wait("Listening on [foo]");
    for part in ["cluster=[test-cluster]", "clientID=[me]", "durable=[d]", &server.address()] {
        assert!(line.contains(part), "{line}");
    }
    let (code, text) = Running::client("sub", &server, &["-i", "me", "foo"]).end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("stan: clientID already registered"), "{text}");
    assert!(text.contains("choose one with -i"), "{text}");
}

#[test]
fn sub_says_when_its_connection_is_lost_and_when_it_is_back() {
    let launch = Launch::new(&[]).file_store(None);
    let mut server = launch.start();
    let running = Running::client("sub", &server, &["-i", "me", "foo"]);
    running.err.wait("Listening on [foo]");
    server.stop(Signal::SIGINT);
    running.err.wait("Connection lost");
    let server = launch.start();
    running.err.wait(&format!("Connected again, to {}", server.address()));
    let (code, text) = Running::client("pub", &server, &["-i", "you", "foo", "hello"]).end();
    assert_eq!(code, Some(0), "{text}");
    running.out.wait("data:\"hello\"");
}

#[test]
fn pub_goes_on_at_the_next_server_and_loses_nothing_that_it_reported() {
    let launch = Launch::new(&[]).file_store(None);
    let mut server = launch.start();
    let mut running = Running::client("pub", &server, &["-n", "2000", "foo", "hello"]);
    running.out.wait("Published");
    server.stop(Signal::SIGKILL);
    let server = launch.start();
    assert!(running.child.wait().unwrap().success(), "{}", running.err.text());
    running.out.wait_end();
    let reported = running.out.text().matches("Published [foo]").count();
    assert_eq!(reported, 2000);
    let page = server.get("/streaming/channelsz?channel=foo").body;
    let count: u64 =
        serde_json::from_str::<serde_json::Value>(&page).unwrap()["msgs"].as_u64().unwrap();
    // What was under way may be there twice.
    assert!((2000..=2001).contains(&count), "{page}");
}

/// Goal: who publishes through a standby is not told that the active behind it is gone, and goes on
/// all the same.
#[test]
fn pub_through_a_standby_goes_on_when_the_active_is_replaced() {
    let [first, second] = pair(1);
    let mut active = first.start();
    let standby = second.spawn();
    let is_ready = |server: &Server| server.get("/streaming/healthz?ready=1").status == 200;
    wait_for("a ready standby", || is_ready(&standby).then_some(()));
    let mut running = Running::client("pub", &standby, &["-n", "1000", "foo", "hello"]);
    running.out.wait("Published");
    active.kill();
    assert!(running.child.wait().unwrap().success(), "{}", running.err.text());
    running.out.wait_end();
    assert_eq!(running.out.text().matches("Published [foo]").count(), 1000);
}

#[test]
fn pub_ends_by_a_signal_while_it_waits_for_an_ack() {
    let mut server = Launch::new(&[]).start();
    let running = Running::client("pub", &server, &["-n", "1000000", "foo", "hello"]);
    running.out.wait("Published");
    server.stop(Signal::SIGKILL);
    let id = nix::unistd::Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    nix::sys::signal::kill(id, Signal::SIGINT).unwrap();
    let (code, text) = running.end();
    assert!(text.contains("interrupted: 1 messages have no ack"), "{text}");
    assert_eq!(code, Some(1));
}

#[test]
fn pub_refuses_what_no_channel_can_be_called() {
    let server = Launch::new(&[]).start();
    for name in ["a b", "", "a..b", "a.*", "a/b", "a\r\nPUB b 1"] {
        let (code, text) = Running::client("pub", &server, &[name, "hello"]).end();
        assert_eq!(code, Some(1), "{name:?}");
        assert!(text.contains(&format!("invalid channel name {name:?}")), "{text}");
    }
    let (_, text) = Running::start(&["-p", "24555", "pub", "foo", "hello"]).end();
    assert!(text.contains("a command comes first: stanby pub"), "{text}");
}

#[test]
fn stanby_says_what_it_is_and_which_version() {
    let own = env!("CARGO_PKG_VERSION");
    let version = Running::start(&["version"]);
    let line = version.out.wait(&format!("stanby {own}"));
    assert!(line.contains("nats-streaming-server 0.25.6"), "{line}");
    let help = Running::start(&["--help"]);
    help.out.wait("--cluster_id");
    let text = help.out.text();
    assert!(text.starts_with("stanby: a fault-tolerant NATS Streaming server"), "{text}");
    let commands = text.find("stanby sub").unwrap();
    assert!(commands < text.find("Usage: nats-streaming-server [options]").unwrap(), "{text}");
    let log = Launch::new(&[]).start().log.text();
    assert!(log.contains(&format!("stanby:   {own}")), "{log}");
}
