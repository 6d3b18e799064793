//! `stanby copy` by the real binary: between all kinds of stores, killed, refused, and on a full
//! disk.
//!
//! `STANBY_COPY=full`: a million messages (`tests/run --full copy`).

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/databases.rs"]
mod databases;
#[path = "support/lasting.rs"]
mod lasting;
#[path = "support/server.rs"]
mod server;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use stanby::site::new_store::{NewStore, Work};

use crate::lasting::{KEY, Kind, Store, command, must, must_print, must_refuse, said, stanby};
use crate::server::{Launch, wait_for};

fn is_full() -> bool {
    std::env::var_os("STANBY_COPY").is_some_and(|found| found == "full")
}

/// The words of a copy, with what says which of both is encrypted.
fn words<'a>(from: &'a Store, to: &'a Store) -> Vec<&'a str> {
    let mut words = vec!["copy", &from.name, &to.name];
    words.extend((from.kind == Kind::Encrypted).then_some("--from-encrypted"));
    words.extend((to.kind == Kind::Encrypted).then_some("--to-encrypted"));
    words
}

/// Goal: whatever kind of store it goes from and to, the copy has all and the original stays.
#[test]
fn a_store_is_copied_between_all_kinds() {
    let count = if is_full() { 1_000_000 } else { 300 };
    let original = Store::new(Kind::File);
    original.fill(count);
    let expected = original.contents();
    for from in Kind::all() {
        let source = Store::new(from);
        must(&words(&original, &source));
        for to in Kind::all() {
            eprintln!("from {from:?} to {to:?}");
            let target = Store::new(to);
            let text = must(&words(&source, &target));
            let line =
                format!("channel orders: messages 21 to {}, 4 subscription(s), 6 del", 20 + count);
            assert!(text.contains(&line), "{text}");
            let end = format!("copied 4 channel(s), {} message(s) and 2 client(s)", count + 4);
            assert!(text.contains(&end), "{text}");
            assert!(target.contents() == expected, "{:#?}\n{expected:#?}", target.contents());
        }
        assert!(source.contents() == expected, "the source has changed");
    }
    assert!(original.contents() == expected, "the original has changed");
}

/// Goal: what a copy that was killed has left is served by nobody, and the next one ends in the
/// same as one that was not killed.
#[test]
fn a_copy_that_was_killed_goes_on() {
    let original = Store::new(Kind::File);
    original.fill(25_000);
    let expected = original.contents();
    for (to, kills) in [(Kind::File, 3), (Kind::Sqlite, 1)] {
        let target = Store::new(to);
        let mut last_len = written(&target);
        for kill in 0..kills {
            let mut child = command(&words(&original, &target))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            wait_for("the copy to go on", || {
                let len = written(&target);
                let is_ended = child.try_wait().unwrap().is_some();
                (is_ended || last_len + 100_000 < len).then_some(())
            });
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                assert_ne!(kill, 0, "it was not killed at all");
                break;
            }
            last_len = written(&target);
            eprintln!("{to:?}: killed with {last_len} bytes");
            refused_by_a_server(&target);
        }
        let text = must(&words(&original, &target));
        assert!(text.starts_with("went on where it was broken off"), "{text}");
        assert!(target.contents() == expected);
        // Said once more: all is there.
        must(&words(&original, &target));
        assert!(target.contents() == expected);
    }
}

/// How much of the long channel is there, over all epochs.
fn written(target: &Store) -> u64 {
    let len = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let entries = fs::read_dir(target.path().join("orders")).into_iter().flatten().flatten();
    let is_of_messages = |path: &Path| path.extension().is_some_and(|found| found == "dat");
    let files = entries.map(|entry| entry.path()).filter(|path| is_of_messages(path));
    let files: u64 = files.map(|path| len(&path)).sum();
    files + len(&target.folder().join("store.db")) + len(&target.folder().join("store.db-wal"))
}

fn refused_by_a_server(target: &Store) {
    let launch = if target.kind == Kind::Sqlite {
        let source = target.folder().join("store.db").display().to_string();
        Launch::new(&["-store", "sql", "-sql_driver", "sqlite", "-sql_source", &source])
    } else {
        Launch::new(&[]).file_store(Some(&target.path()))
    };
    let mut server = launch.spawn();
    let exit = server.wait_exit();
    assert_eq!(exit.code(), Some(1), "{}", server.log.text());
    let said = "does not match recovered value of \"unfinished copy of test-cluster\"";
    assert!(server.log.text().contains(said), "{}", server.log.text());
}

/// Goal: a copy that breaks off on a full disk says so, and goes on when there is room.
#[test]
fn a_full_disk_ends_a_copy_that_goes_on_when_there_is_room() {
    let original = Store::new(Kind::File);
    original.fill(20_000);
    let folder = tempfile::tempdir().unwrap();
    let mount = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path());
        mount.status().is_ok_and(|status| status.success())
    };
    if !mount("size=1m") {
        databases::left_out::note("the right to mount small file systems");
        return;
    }
    let place = folder.path().join("data").display().to_string();
    let full = stanby(&["copy", &original.name, &place]);
    let room = mount("remount,size=100m");
    let again = stanby(&["copy", &original.name, &place]);
    let back = Store::new(Kind::File);
    let returned = stanby(&["copy", &place, &back.name]);
    let unmounted = Command::new("umount").arg("-l").arg(folder.path()).status();
    assert_eq!(full.status.code(), Some(1), "{}", said(&full));
    assert!(said(&full).to_lowercase().contains("no space left"), "{}", said(&full));
    assert!(room && again.status.success(), "{}", said(&again));
    assert!(returned.status.success(), "{}", said(&returned));
    assert!(unmounted.unwrap().success());
    assert!(back.contents() == original.contents());
}

/// What was made of a copy that was killed once there was something in its directory.
fn killed_at_once(original: &Store, target: &Store) {
    let mut child = command(&words(original, target))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is_begun = || fs::read_dir(target.path()).is_ok_and(|mut entries| entries.next().is_some());
    while !is_begun() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Goal: a copy says what it is before anything else is there, so no server takes what it leaves
/// for an empty store, however early it is killed.
#[test]
fn a_copy_that_was_killed_at_once_is_no_empty_store() {
    let original = Store::new(Kind::File);
    original.fill(30);
    let expected = original.contents();
    for _ in 0..8 {
        let target = Store::new(Kind::File);
        killed_at_once(&original, &target);
        let record = fs::read(target.path().join("server.dat")).unwrap_or_default();
        // Without a byte of its record there is nothing in the directory at all.
        let entries = fs::read_dir(target.path()).unwrap().count();
        assert!(!record.is_empty() || entries == 1, "{entries} entries");
        if !record.is_empty() {
            let mut server = Launch::new(&[]).file_store(Some(&target.path())).spawn();
            assert_eq!(server.wait_exit().code(), Some(1), "{}", server.log.text());
            assert!(server.log.text().contains("\"unfinished copy of test-cluster\""));
        }
        must(&words(&original, &target));
        assert!(target.contents() == expected);
    }
    // It is there before the store is opened, and no copy goes on with what it did not leave.
    let target = Store::new(Kind::File);
    let opened = NewStore::open_or_go_on(&target.config(), Work::Copy, b"test-cluster");
    let (new, found) = opened.unwrap();
    assert_eq!(found, stanby::site::new_store::Found::Nothing);
    drop(new);
    let why = "it is that of cluster \"unfinished copy of test-cluster\"";
    let other = NewStore::open_or_go_on(&target.config(), Work::Restore, b"test-cluster");
    assert!(other.err().unwrap().to_string().contains(why));
}

/// Goal: some channels make a store of their own, by their names.
#[test]
fn channels_are_chosen_by_name() {
    let original = Store::new(Kind::File);
    original.fill(30);
    let target = Store::new(Kind::File);
    let text = must(&[
        "copy",
        "--channel",
        "orders.>",
        "--channel",
        "quiet",
        &original.name,
        &target.name,
    ]);
    assert!(text.contains("copied 2 channel(s), 3 message(s)"), "{text}");
    let names: Vec<String> =
        target.contents().channels.iter().map(|it| it.name.to_string()).collect();
    assert_eq!(names, ["orders.late", "quiet"]);
    let other = Store::new(Kind::File);
    let refused = |pattern: &str, why: &str| {
        must_refuse(&["copy", "--channel", pattern, &original.name, &other.name], why);
        assert!(!other.path().exists(), "nothing is made");
    };
    refused("nobody.*", "no channel matches \"nobody.*\"");
    refused("a..b", "\"a..b\" is no name of channels");
}

/// Goal: nothing that is there is touched: not a store with something else, nor one that is in use.
#[test]
fn what_would_harm_a_store_is_refused() {
    let original = Store::new(Kind::File);
    original.fill(30);

    let folder = tempfile::tempdir().unwrap();
    let stray = folder.path().join("stray");
    fs::write(&stray, "mine").unwrap();
    let at = folder.path().display().to_string();
    must_refuse(&["copy", &original.name, &at], "the new store is not empty: there is ");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let other = Store::new(Kind::File);
    other.fill(40);
    let had = other.contents();
    must_refuse(
        &["copy", &original.name, &other.name],
        "is complete, and has other messages of orders",
    );
    assert!(other.contents() == had);
    must_refuse(
        &["copy", "--channel", "quiet", &original.name, &other.name],
        "is complete, and has other channels (gone)",
    );
    assert!(other.contents() == had);

    let link = folder.path().join("link");
    std::os::unix::fs::symlink(original.path(), &link).unwrap();
    let link = link.display().to_string();
    must_refuse(&["copy", &original.name, &link], "both are one store");
    let below = format!("{}/sub/new", original.name);
    must_refuse(&["copy", &original.name, &below], "lies in the store that is copied");

    let launch = Launch::new(&[]).file_store(Some(&original.path()));
    let mut running = launch.start();
    let new = Store::new(Kind::File);
    must_refuse(&["copy", &original.name, &new.name], "it is in use; stop its server first");
    running.stop(nix::sys::signal::Signal::SIGTERM);
    // Its server has let go of the client that did not come back.
    let expected = original.contents();
    let path = original.path().join("server.dat");
    let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
    must_refuse(&["copy", &original.name, &new.name], "server.dat is open for writing by");
    drop(writer);
    assert!(!new.path().exists(), "nothing is made");

    let nowhere = folder.path().join("nowhere").display().to_string();
    must_refuse(&["copy", &nowhere, &new.name], "has no store: ");
    assert!(!Path::new(&nowhere).exists(), "nothing is made");
    must_refuse(&["copy", "postgres:port=x", &new.name], "invalid SQL source for driver postgres");
    assert!(original.contents() == expected);
}

/// Goal: a key that is wrong or forgotten never makes a copy that nobody can read.
#[test]
fn keys_are_asked_for() {
    let secret = Store::new(Kind::Encrypted);
    secret.fill(30);
    let target = Store::new(Kind::File);
    let why = "look encrypted, and no key is given";
    must_refuse(&["copy", &secret.name, &target.name], why);
    let mut wrong = command(&["copy", "--from-encrypted", &secret.name, &target.name]);
    let output = wrong.env(KEY, "wrong").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("cipher: message authentication failed"), "{}", said(&output));
    let mut none = command(&["copy", "--from-encrypted", &secret.name, &target.name]);
    let output = none.env_remove(KEY).output().unwrap();
    assert!(said(&output).contains("key"), "{}", said(&output));
    must(&["copy", "--from-encrypted", &secret.name, &target.name]);
    assert!(target.contents() == secret.contents());
    // What is there in clear is no encrypted copy, whole or begun.
    let both = ["copy", "--from-encrypted", "--to-encrypted"];
    let why = "is complete, and has other messages (orders is in clear)";
    must_refuse(&[&both[..], &[&secret.name, &target.name]].concat(), why);
    let begun = Store::new(Kind::File);
    let server = secret.contents().server.unwrap();
    let (mut new, _) =
        NewStore::open_or_go_on(&begun.config(), Work::Copy, &server.cluster_id).unwrap();
    new.begin(&server).unwrap();
    drop(new);
    let why = "it is that of cluster \"unfinished copy of test-cluster\"";
    must_refuse(&[&both[..], &[&secret.name, &begun.name]].concat(), why);
    must(&["copy", "--from-encrypted", &secret.name, &begun.name]);
    let encrypted = Store::new(Kind::Encrypted);
    must(&words(&secret, &encrypted));
    let text = must(&words(&secret, &encrypted));
    assert!(text.starts_with("all of it was there, and was only read back"), "{text}");
}

/// Goal: what is damaged is not copied as if it were whole.
#[test]
fn a_damaged_source_is_named() {
    let original = Store::new(Kind::File);
    original.fill(3_000);
    let path = original.path().join("orders/msgs.1.dat");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&path, &bytes).unwrap();
    let target = Store::new(Kind::File);
    let output = stanby(&["copy", &original.name, &target.name]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("`stanby check` says more"), "{}", said(&output));
    assert!(stanby(&["check", &original.name]).status.code() == Some(3));
}

/// Goal: limits of a server's configuration are heard before anything is written.
#[test]
fn limits_of_the_new_server_are_asked() {
    let original = Store::new(Kind::File);
    original.fill(30);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.conf");
    let name = file.display().to_string();
    let data = folder.path().join("data");
    let limited = |limits: &str| {
        let text =
            format!("streaming {{ store: file, dir: {data:?}, store_limits {{ {limits} }} }}\n");
        fs::write(&file, text).unwrap();
    };
    for (limits, why) in [
        (
            "max_msgs: 7",
            "limits of the store that is to have orders allow 7 message(s), and there are 30",
        ),
        ("max_channels: 2", "allow 2 channel(s), and it has 2"),
        ("max_subs: 1", "allow 1 subscription(s), and there are 4"),
    ] {
        limited(limits);
        must_refuse(&["copy", &original.name, &name], why);
        assert!(!data.exists(), "nothing is made");
    }
    limited("max_msgs: 30");
    let report = must_print(&["copy", "--json", &original.name, &name]);
    assert_eq!(report["cluster_id"], "test-cluster");
    assert_eq!(report["channels"][1]["messages"], 30);
}
