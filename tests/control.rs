//! The control socket: how a group is, stepping down, and what is refused.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "what takes too long has failed")]

#[path = "support/server.rs"]
mod server;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use self::server::{Launch, PATIENCE, READY, Server, binary, free_port, wait_for};

/// Within which a command has to say that a server hangs: more than the 5 s that it waits for a
/// sign of life, and far less than the minute that a change may take.
const SOON: Duration = Duration::from_secs(30);

/// A member of a group over `store`, with routes among all `route_ports`.
struct Member {
    server: Server,
    socket: PathBuf,
}

fn member(store: &Path, route_ports: &[u16], own: usize) -> Member {
    let socket = store.with_extension(format!("{own}.sock"));
    let routes: Vec<String> = route_ports
        .iter()
        .filter(|port| **port != route_ports[own])
        .map(|port| format!("nats://127.0.0.1:{port}"))
        .collect();
    let cluster = format!("nats://127.0.0.1:{}", route_ports[own]);
    let launch = Launch::new(&["-ft_group", "g", "-cluster", &cluster])
        .file_store(Some(store))
        .arg("-routes")
        .arg(routes.join(","))
        .arg("-control_socket")
        .arg(&socket);
    let server = launch.spawn();
    Member { server, socket }
}

/// A group whose first member is active, and whose others are ready and known to it.
fn group(store: &Path, members: usize) -> Vec<Member> {
    let ports: Vec<u16> = (0..members).map(|_| free_port()).collect();
    let mut all = vec![member(store, &ports, 0)];
    all[0].server.log.wait(READY);
    all.extend((1..members).map(|own| member(store, &ports, own)));
    wait_for("standbys that are ready", || {
        let status = status(&all[0].socket);
        let known = status["members"].as_array().unwrap();
        let is_ready = |known: &&Value| known["trouble"].is_null();
        (known.iter().filter(is_ready).count() == members).then_some(())
    });
    all
}

fn stanby(args: &[&str]) -> Output {
    Command::new(binary()).args(args).output().unwrap()
}

fn status(socket: &Path) -> Value {
    let output = stanby(&["status", "--json", "--socket", socket.to_str().unwrap()]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    })
}

fn step_down(socket: &Path) -> (bool, String) {
    let output = stanby(&["step-down", "--socket", socket.to_str().unwrap()]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn roles(status: &Value) -> Vec<String> {
    let members = status["members"].as_array().unwrap();
    members.iter().map(|member| member["role"].as_str().unwrap().to_owned()).collect()
}

/// Goal: whoever asks a member to step down hears who is active when another one serves, and any
/// member tells the same of the group.
#[test]
fn a_member_that_steps_down_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let all = group(&folder.path().join("store"), 2);
    assert_eq!(roles(&status(&all[0].socket)), ["active", "standby"]);
    // Asked of the standby: the command goes to the active one itself.
    let (is_done, text) = step_down(&all[1].socket);
    assert!(is_done && text.contains("stepped down"), "{text}");
    wait_for("the successor's word", || {
        (roles(&status(&all[1].socket))[0] == "active").then_some(())
    });
    assert_eq!(all[1].server.get("/streaming/healthz?active=1").status, 200);
    let known = status(&all[0].socket);
    wait_for("what the other one says", || {
        (roles(&status(&all[0].socket))[1] == "active").then_some(())
    });
    assert_eq!(known["group"], "g");
    let successor = status(&all[1].socket);
    let take_over = &successor["members"][0]["take_overs"][0];
    assert_eq!(take_over["epoch"], 2);
    assert!(take_over["after"].as_str().unwrap().contains("let go with everything synced"));
}

/// Goal: a member that hangs is told within seconds from one that takes its time over a change, by
/// each command that asks or changes something.
#[test]
fn a_member_that_hangs_is_named_soon() {
    let folder = tempfile::tempdir().unwrap();
    let all = group(&folder.path().join("store"), 1);
    let socket = all[0].socket.display().to_string();
    all[0].server.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let backup = folder.path().join("backup").display().to_string();
    let ask = |words: &str| {
        let words: Vec<String> =
            words.split(' ').chain(["--socket", &socket]).map(str::to_owned).collect();
        thread::spawn(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            (words.join(" "), stanby(&words))
        })
    };
    let asked =
        ["status", "step-down", "channel ls", "channel rm orders --force", "pending orders"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("backup {backup}")]);
    let asked: Vec<_> = asked.map(|words| ask(&words)).collect();
    for asked in asked {
        let (words, output) = asked.join().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let is_named = said.contains(&format!("{socket}: the server does not answer: it hangs"));
        assert!(!output.status.success() && is_named, "{words}: {said}");
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    all[0].server.signal(Signal::SIGCONT);
    wait_for("it goes on", || {
        stanby(&["status", "--socket", &socket]).status.success().then_some(())
    });
}

/// Goal: who asks while a hand-over is under way gets an answer, and one hand-over is done.
#[test]
fn two_who_ask_at_once_get_an_answer_each() {
    let folder = tempfile::tempdir().unwrap();
    let all = group(&folder.path().join("store"), 2);
    let asked = [(); 2].map(|()| {
        let socket = all[0].socket.clone();
        thread::spawn(move || step_down(&socket))
    });
    let answers = asked.map(|thread| thread.join().unwrap());
    let done = answers.iter().filter(|(is_done, _)| *is_done).count();
    assert!(0 < done, "{answers:?}");
    let mut refused = answers.iter().filter(|(is_done, _)| !is_done);
    let words = ["already", "not active", "between two roles", "no other member", "not ready"];
    let is_clear = |(_, text): &(bool, String)| words.iter().any(|word| text.contains(word));
    assert!(refused.all(is_clear), "{answers:?}");
}

/// Goal: nobody gives the role away where nobody would take it, and two who ask get an answer each.
#[test]
fn a_member_without_a_successor_stays_active() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut all = group(&store, 2);
    all[1].server.kill();
    wait_for("a standby that is silent for too long", || {
        let (is_done, text) = step_down(&all[0].socket);
        assert!(!is_done, "{text}");
        text.contains("no other member of the group is heard that stands by").then_some(())
    });
    assert_eq!(all[0].server.get("/streaming/healthz?active=1").status, 200);
    let output = stanby(&["status", "--socket", all[0].socket.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(text.contains("silent for"), "{text}");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_server_of_no_group_has_nobody_to_step_down_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let _server = Launch::new(&["-control_socket", socket.to_str().unwrap()]).start();
    let (is_done, text) = step_down(&socket);
    assert!(!is_done && text.contains("belongs to no group"), "{text}");
    assert!(status(&socket)["group"].is_null());
}

/// Goal: SIGTERM to the active of a group ends it only after another member serves.
#[test]
fn sigterm_hands_over_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = group(&folder.path().join("store"), 3);
    assert_eq!(all[0].server.stop(Signal::SIGTERM), Some(143));
    let is_active =
        |member: &Member| member.server.get("/streaming/healthz?active=1").status == 200;
    assert!(all[1..].iter().any(is_active), "one of the others served before this one ended");
    let other = &all[1].socket;
    wait_for("a group without the one that ended", || {
        (status(other)["members"].as_array().unwrap().len() == 2).then_some(())
    });
}

/// Goal: what lies where the socket is to be, and is not an old one of ours, stays as it is.
#[test]
fn a_place_that_somebody_else_has_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let launch = Launch::new(&["-control_socket", path.to_str().unwrap()]);
    fs::write(&path, "mine").unwrap();
    let refused = launch.run();
    let expected =
        format!("Failed to start: control socket {}: there is something", path.display());
    assert!(refused.log.text().contains(&expected), "{}", refused.log.text());
    assert_eq!(fs::read(&path).unwrap(), b"mine");

    fs::remove_file(&path).unwrap();
    let neighbour = UnixListener::bind(&path).unwrap();
    let refused = launch.run();
    let expected = "another process listens there";
    assert!(refused.log.text().contains(expected), "{}", refused.log.text());

    // It has ended and left its socket.
    drop(neighbour);
    let mut server = launch.start();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let members = status(&path)["members"].as_array().unwrap().len();
    assert_eq!(members, 1);
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
    assert!(!path.exists(), "it goes with the process");
}

#[test]
fn a_server_without_a_control_socket_says_how_to_name_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Launch::new(&["-control_socket", "off"]).start();
    assert!(!server.log.text().contains("Control socket"));
    let output = stanby(&["status", "--socket", folder.path().join("none").to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"));
}

/// Goal: nonsense, silence and crowds on the socket keep nobody out, and end nothing.
#[test]
fn nonsense_on_the_socket_is_answered_or_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let mut server = Launch::new(&["-control_socket", path.to_str().unwrap()]).start();
    for sent in [&b"\n"[..], b"{}\n", b"{\"ask\":\"dance\"}\n", b"\xff\xfe\n", b"{\"ask\":7}\n"] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(sent).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("does not know what is asked"), "{answer}");
    }
    let mut long = UnixStream::connect(&path).unwrap();
    long.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // It hangs up in the midst of it.
    let _ = long.write_all(&vec![b'x'; 1 << 20]);
    let silent: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let crowded = stanby(&["status", "--socket", path.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&crowded.stderr).into_owned();
    assert!(crowded.status.success() || text.contains("ask again"), "{text}");
    drop(silent);
    wait_for("an answer once they are gone", || {
        let output = stanby(&["status", "--socket", path.to_str().unwrap()]);
        output.status.success().then_some(())
    });
    assert!(server.is_running());
}
