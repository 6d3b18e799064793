//! `stanby export` and `stanby restore` by the real binary: there and back, cut, damaged, killed.

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
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::lasting::{Kind, Store, command, must, must_refuse, said};
use crate::server::wait_for;

/// A million messages are `tests/run --full copy`.
fn count() -> u64 {
    let is_full = std::env::var_os("STANBY_COPY").is_some_and(|found| found == "full");
    if is_full { 1_000_000 } else { 500 }
}

/// The lines of a store, in a file of a folder.
fn export(store: &Store, folder: &Path) -> PathBuf {
    let path = folder.join(format!("{:?}.jsonl", store.kind));
    let mut words = vec!["export", &store.name];
    words.extend((store.kind == Kind::Encrypted).then_some("--encrypted"));
    let output = command(&words).stdout(fs::File::create(&path).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    path
}

fn restore<'a>(file: &'a Path, store: &'a Store) -> Vec<&'a str> {
    let mut words = vec!["restore", file.to_str().unwrap(), &store.name];
    words.extend((store.kind == Kind::Encrypted).then_some("--to-encrypted"));
    words
}

/// Goal: lines say all that a store has, whatever its kind, and make a store of any kind again.
#[test]
fn a_store_goes_to_lines_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let original = Store::new(Kind::File);
    original.fill(count());
    let expected = original.contents();
    let lines = export(&original, folder.path());
    for kind in Kind::all() {
        eprintln!("{kind:?}");
        let store = Store::new(kind);
        let text = must(&restore(&lines, &store));
        let end = format!("restored 4 channel(s), {} message(s) and 2 client(s)", count() + 4);
        assert!(text.contains(&end), "{text}");
        assert!(store.contents() == expected, "{:#?}\n{expected:#?}", store.contents());
        let again = export(&store, folder.path());
        let back = Store::new(Kind::File);
        must(&restore(&again, &back));
        assert!(back.contents() == expected, "{kind:?}");
        // Said once more: all is there.
        must(&restore(&lines, &store));
    }
}

/// Goal: each line can be read by whoever knows JSON, without the format of a store.
#[test]
fn lines_are_json() {
    let folder = tempfile::tempdir().unwrap();
    let original = Store::new(Kind::File);
    original.fill(30);
    let text = fs::read_to_string(export(&original, folder.path())).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["type"], "head");
    assert_eq!(lines[0]["format"], 1);
    assert_eq!(lines[0]["cluster_id"], "test-cluster");
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).count();
    assert_eq!(["client", "channel", "message", "subscription", "end"].map(of), [2, 4, 34, 4, 1]);
    let durable = lines.iter().find(|line| line["durable_name"] == "d").unwrap();
    assert_eq!(durable["pending"], serde_json::json!([22, 25, 30]));
    assert_eq!(durable["last_sent"], 30);
    assert!(!original.path().join("orders.jsonl").exists());
}

/// Goal: a file that is not what was written makes no store, and says which line is wrong.
#[test]
fn what_is_cut_or_damaged_names_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let original = Store::new(Kind::File);
    original.fill(30);
    let path = export(&original, folder.path());
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let changed = folder.path().join("changed.jsonl");
    let target = Store::new(Kind::File);
    let refused = |text: String, why: &str| {
        fs::write(&changed, text).unwrap();
        must_refuse(&restore(&changed, &target), why);
        assert!(!target.path().exists(), "nothing is made");
    };
    let join = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let count = lines.len();

    refused(join(&lines[..20]), "line 21: the file ends here, and has no last line: it was cut");
    refused(whole[..whole.len() - 9].to_owned(), &format!("line {count}: the file ends within it"));
    refused(
        join(&lines[..20]) + "{\"type\":\"mess",
        "line 21: the file ends within it: it was cut",
    );
    refused(String::new(), "line 1: the file ends here");
    refused("some text\n".to_owned(), "line 1: this is no exported store");
    refused("{\"type\":\"end\",\"lines\":0}\n".to_owned(), "line 1: this is no exported store");

    let message = lines.iter().position(|line| line.contains("\"data\":\"b")).unwrap();
    let number = message + 1;
    let damaged = lines[message].replacen("\"data\":\"b", "\"data\":\"c", 1);
    assert_ne!(damaged, lines[message]);
    let mut with = lines.clone();
    with[message] = &damaged;
    refused(join(&with), &format!("line {number}: its checksum is of another line"));
    let mut without = lines.clone();
    without.remove(message + 3);
    refused(join(&without), &format!("line {}: message", number + 3));
    let mut swapped = lines.clone();
    swapped.swap(message, message + 1);
    refused(join(&swapped), &format!("line {number}: message"));
    let mut twice = lines.clone();
    twice.insert(count - 1, lines[count - 2]);
    refused(join(&twice), &format!("line {count}: the end should be here"));

    let newer = lines[0].replacen("\"format\":1", "\"format\":2", 1);
    let newer = newer.replacen(env!("CARGO_PKG_VERSION"), "7.1.0", 1);
    refused(
        newer + "\n",
        "stanby 7.1.0 has written it, in format 2; this one reads formats up to 1",
    );

    let joined = join(&lines) + &join(&lines);
    refused(joined, &format!("line {count}: something follows the last line"));

    // Who changes a line on purpose takes its checksum out.
    let (body, _) = lines[message].split_once(",\"crc\"").unwrap();
    let by_hand = format!("{body}}}");
    let mut with = lines.clone();
    with[message] = &by_hand;
    fs::write(&changed, join(&with)).unwrap();
    must(&restore(&changed, &target));
    assert!(target.contents() == original.contents());
}

/// Writes lines into a file that must be refused, with nothing made of it.
fn refused(folder: &Path, lines: &[&str], why: &str) {
    let (changed, target) = (folder.join("changed.jsonl"), Store::new(Kind::File));
    fs::write(&changed, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    must_refuse(&restore(&changed, &target), why);
    assert!(!target.path().exists(), "nothing is made");
}

/// Goal: numbers that no server gives, written by hand and so without a checksum, name their line.
#[test]
fn what_nobody_can_have_names_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let original = Store::new(Kind::File);
    original.fill(30);
    let whole = fs::read_to_string(export(&original, folder.path())).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let edited = |part: &str, by: &dyn Fn(&str) -> String, why: &str| {
        let at = lines.iter().position(|line| line.contains(part)).unwrap();
        let (body, _) = lines[at].split_once(",\"crc\"").unwrap();
        let changed = by(&format!("{body}}}"));
        let mut with = lines.clone();
        with[at] = &changed;
        refused(folder.path(), &with, &format!("line {}: {why}", at + 1));
    };
    let set = |line: &str, name: &str, value: serde_json::Value| {
        let mut document: serde_json::Value = serde_json::from_str(line).unwrap();
        document[name] = value;
        document.to_string()
    };
    let subscription = "\"type\":\"subscription\"";
    let absurd = u64::MAX;
    edited(subscription, &|line| set(line, "id", absurd.into()), "no subscription has the number");
    edited(subscription, &|line| set(line, "pending", vec![0].into()), "message 0 is pending");
    edited(
        subscription,
        &|line| set(line, "max_in_flight", (-1).into()),
        "its bounds are negative",
    );
    edited(
        "\"type\":\"channel\"",
        &|line| set(&set(line, "last", absurd.into()), "first", absurd.into()),
        "no channel gets as far as message",
    );
}

/// Goal: what a restoration that was killed has left goes on, and another store is not touched.
#[test]
fn a_restoration_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let original = Store::new(Kind::File);
    original.fill(40_000);
    let path = export(&original, folder.path());
    let target = Store::new(Kind::File);
    let mut child = command(&restore(&path, &target))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let written = || fs::metadata(target.path().join("orders/msgs.1.dat")).map_or(0, |it| it.len());
    wait_for("the restoration to go on", || (100_000 < written()).then_some(()));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was not killed");
    let text = must(&restore(&path, &target));
    assert!(text.starts_with("went on where it was broken off"), "{text}");
    assert!(target.contents() == original.contents());

    let other = Store::new(Kind::File);
    other.fill(31);
    let had = other.contents();
    must_refuse(&restore(&path, &other), "is complete, and has other messages of orders");
    assert!(other.contents() == had);
}

/// Goal: what cannot be exported whole ends without its last line.
#[test]
fn what_cannot_be_exported_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let secret = Store::new(Kind::Encrypted);
    secret.fill(30);
    must_refuse(&["export", &secret.name], "look encrypted, and no key is given");
    let nowhere = folder.path().join("nowhere").display().to_string();
    must_refuse(&["export", &nowhere], "has no store: ");
    let store = Store::new(Kind::File);
    store.fill(30);
    let writer = fs::OpenOptions::new().append(true).open(store.path().join("server.dat")).unwrap();
    must_refuse(&["export", &store.name], "server.dat is open for writing by");
    drop(writer);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output =
        Command::new(server::binary()).args(["export", &store.name]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("the lines cannot be written"), "{}", said(&output));
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    must_refuse(&restore(&fifo, &Store::new(Kind::File)), "fifo");
}
