//! What somebody else can put under a name that the server opens: a pipe, a folder, a socket, a
//! device, a link that leads nowhere. Each ends in service or in an error that names it, and
//! signals are heard.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use self::server::{Launch, PATIENCE, Server, wait_for};
use self::stan::Stan;

const KINDS: [&str; 5] = ["pipe", "folder", "socket", "device", "link to nowhere"];

/// Puts something of that kind in the place of whatever is there.
fn put(kind: &str, path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    } else if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path).unwrap();
    }
    match kind {
        "pipe" => mkfifo(path, Mode::S_IRWXU).unwrap(),
        "folder" => fs::create_dir(path).unwrap(),
        // Its entry stays when the listener goes.
        "socket" => drop(UnixListener::bind(path).unwrap()),
        "device" => symlink("/dev/zero", path).unwrap(),
        _ => symlink("/nowhere/at/all", path).unwrap(),
    }
}

fn all_text(server: &Server) -> String {
    format!("{}\n{}", server.log.text(), server.stdout.text())
}

/// The server serves and stops when it is asked to, or has ended with a line that names `path`.
fn serves_or_names(launch: &Launch, path: &Path, what: &str) {
    let begun = Instant::now();
    let mut server = launch.spawn();
    let serves = wait_for(&format!("service or an end with {what}"), || {
        if !server.is_running() {
            return Some(false);
        }
        (server.get("/streaming/healthz?active=1").status == 200).then_some(true)
    });
    if serves {
        let mut stan = Stan::connect(launch.port, "me");
        stan.publish("foo", "text").unwrap();
        assert_eq!(server.stop(Signal::SIGTERM), Some(143), "{what}");
    } else {
        let code = server.wait_exit().code();
        let text = all_text(&server);
        assert_eq!(code, Some(1), "{what}: {text}");
        let path = path.display().to_string();
        let line = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
        assert!(line.contains(&path), "{what}: the last line does not name {path}:\n{text}");
    }
    assert!(begun.elapsed() < PATIENCE, "{what}");
}

/// A store with an unfinished end, as a crash leaves it; each case gets a copy.
fn crashed_store() -> Launch {
    let launch = Launch::new(&[]).file_store(None);
    let mut server = launch.start();
    let mut stan = Stan::connect(launch.port, "me");
    stan.publish("foo", "before").unwrap();
    server.kill();
    launch
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Goal: whatever stands under a name of the store or of the election, in the root.
#[test]
fn names_of_the_store_hold_nobody_up() {
    let base = crashed_store();
    let store = base.folder().join("copy");
    let launch = Launch::new(&[]).file_store(Some(&store));
    for name in [
        ".stanby.epoch.2",
        ".stanby.epoch.99",
        ".stanby.epoch.18446744073709551615",
        ".stanby.claim.abc",
        ".stanby.settled.99",
        ".stanby.reserve",
        ".stanby.replacement.1.x",
        ".rootdir.lck",
        "server.dat",
        "clients.dat",
    ] {
        for kind in KINDS {
            copy(&base.folder().join("store"), &store);
            put(kind, &store.join(name));
            serves_or_names(&launch, &store.join(name), &format!("a {kind} at {name}"));
        }
    }
}

/// Goal: the last number of all is told to be that, and no reason is made up.
#[test]
fn an_epoch_that_nothing_can_follow_is_named() {
    let base = crashed_store();
    let store = base.folder().join("store");
    for number in ["18446744073709551615", "18446744073709551614"] {
        let path = store.join(format!(".stanby.epoch.{number}"));
        fs::write(&path, "").unwrap();
        let mut server = base.run();
        assert_eq!(server.wait_exit().code(), Some(1));
        let text = server.log.text();
        let wanted = format!("no epoch can follow that of {}", path.display());
        assert!(text.contains(&wanted) && !text.contains("another member"), "{text}");
        fs::remove_file(path).unwrap();
    }
    let mut server = base.start();
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
}

/// Goal: in a group the entry is named, nobody ends, and service begins when it is gone.
#[test]
fn a_member_of_a_group_serves_when_what_is_in_its_way_is_gone() {
    let launch = Launch::new(&["-ft_group", "g"]).file_store(None);
    let store = launch.folder().join("store");
    fs::create_dir(&store).unwrap();
    let path = store.join(".stanby.epoch.7");
    put("pipe", &path);
    let mut server = launch.spawn();
    server.log.wait(&format!("{} is a pipe", path.display()));
    fs::remove_file(&path).unwrap();
    server.log.wait(server::READY);
    // It serves on where only a number far away is taken, and not where the next one is.
    put("folder", &store.join(".stanby.epoch.70"));
    let mut stan = Stan::connect(launch.port, "me");
    stan.publish("foo", "text").unwrap();
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
}

/// Goal: whatever stands under a name that the operator gave.
#[test]
fn names_of_the_command_line_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("name");
    let text = path.to_str().unwrap();
    let tls =
        |cert: &str| format!("port: 0\ntls {{ cert_file: \"{cert}\", key_file: \"{cert}\" }}");
    for kind in KINDS {
        put(kind, &path);
        for launch in [
            Launch::new(&["-P", text]),
            Launch::new(&["-l", text]),
            Launch::new(&["-c", text]),
            Launch::new(&[]).config(&tls(text)),
            Launch::new(&[]).through(&["env", &format!("TZ=:{text}")]),
        ] {
            serves_or_names(&launch, &path, &format!("a {kind}"));
        }
    }
}

/// Goal: whatever stands under the name of an SQLite database, or of the lock beside it.
#[test]
fn names_of_an_sqlite_store_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("s.db");
    let text = database.to_str().unwrap();
    let flags = ["-sql_driver", "sqlite", "-sql_source", text];
    let launch = Launch::new(&[&["-store", "sql"][..], &flags].concat());
    for kind in KINDS {
        for name in ["s.db", "s.db.stanby.lck"] {
            let _ = fs::remove_file(&database);
            let mut init = Command::new(server::binary());
            assert!(init.args(["sql", "init"]).args(flags).status().unwrap().success());
            let path = folder.path().join(name);
            put(kind, &path);
            serves_or_names(&launch, &path, &format!("a {kind} at {name}"));
            if path.is_dir() {
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
    }
}

/// Goal: a start that something holds up ends when it is asked to, with the usual exit code.
#[test]
fn a_signal_ends_a_start_that_hangs() {
    for (driver, source) in [
        ("postgres", "host=127.0.0.1 port=PORT user=me dbname=db sslmode=disable"),
        ("mysql", "me:word@tcp(127.0.0.1:PORT)/db"),
    ] {
        for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 0), (Signal::SIGQUIT, 2)] {
            let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = silent.local_addr().unwrap().port().to_string();
            let source = source.replace("PORT", &port);
            let flags = ["-store", "sql", "-sql_driver", driver, "-sql_source", &source];
            let mut server = Launch::new(&flags).spawn();
            let _waiting = silent.accept().unwrap();
            assert_eq!(server.stop(signal), Some(code), "{driver}: {}", server.log.text());
            server.log.wait("Stopped before the start has ended");
        }
    }
}

/// Goal: a file that somebody has made longer than any can be is named, and the machine is not
/// asked for the memory.
#[test]
fn a_file_of_absurd_length_is_named() {
    for name in ["server.dat", "clients.dat", "long/msgs.1.idx", "long/subs.dat"] {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let launch = Launch::new(&[]).file_store(Some(&store));
        let mut server = launch.start();
        let mut client = Stan::connect(server.launch.port, "me");
        client.publish("long", "x").unwrap();
        server.stop(Signal::SIGTERM);
        let path = store.join(name);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        if file.set_len(1 << 40).is_err() {
            // A file system that has no files of this length has none that is absurd.
            return;
        }
        // Who has it open to write would be named instead.
        drop(file);
        let mut server = launch.spawn();
        let line = server.log.wait("bytes are more than can be read at once");
        assert!(line.contains(name), "{line}");
        assert_eq!(server.stop(Signal::SIGTERM), Some(143));
    }
}
