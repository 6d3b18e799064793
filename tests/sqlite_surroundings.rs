//! What somebody does to an SQLite database behind the server's back: nothing is acknowledged into
//! files that were taken away, and nobody is given a damaged row.

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
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use stanby::store::sql;
use stanby::store::sql::dialect::{Dialect, Driver};
use stanby::store::sql::dsn::Source;

use self::server::{Launch, binary};
use self::stan::{Stan, all, sequences};

/// Long enough for an answer of a server that works.
const ANSWERS_WITHIN: Duration = Duration::from_millis(300);

fn launch(folder: &Path) -> (Launch, PathBuf) {
    let path = folder.join("s.db");
    let text = path.to_str().unwrap();
    let flags = ["-sql_driver", "sqlite", "-sql_source", text];
    assert!(Command::new(binary()).args(["sql", "init"]).args(flags).status().unwrap().success());
    (Launch::new(&[&["-store", "sql"][..], &flags].concat()), path)
}

fn connect(path: &Path) -> Box<dyn Dialect> {
    let source = Source::parse(Driver::Sqlite, path.to_str().unwrap(), &|_| None).unwrap();
    sql::connect(&source, Duration::from_secs(5)).unwrap()
}

/// Goal: that messages are being dropped is said as over the other stores: once in a life of the
/// server, also where the channel was full before.
#[test]
fn a_channel_at_its_limits_is_told_once_in_each_life() {
    let folder = tempfile::tempdir().unwrap();
    let (launch, _path) = launch(folder.path());
    let launch = launch.arg("-mm").arg("3");
    for _life in 0..2 {
        let server = launch.start();
        let mut stan = Stan::connect(server.launch.port, "me");
        assert!(stan.fill("foo", 1..=9).is_empty());
        let line =
            server.log.wait("[WRN] STREAM: Reached limits for store \"foo\" (msgs=3/3 bytes=");
        assert!(line.ends_with("dropping old messages to make room for new ones"), "{line}");
        assert_eq!(server.log.text().matches("Reached limits").count(), 1);
        drop(stan);
    }
}

/// Goal: a row that holds no message of its number and channel is passed over and named, and so are
/// rows that somebody has removed; what lies behind is delivered.
#[test]
fn a_damaged_row_is_never_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let (launch, path) = launch(folder.path());
    let mut server = launch.start();
    let mut stan = Stan::connect(launch.port, "me");
    assert!(stan.fill("foo", 1..=10).is_empty());
    stan.publish("bar", "of another channel").unwrap();
    let mut dialect = connect(&path);
    let foo = "id=(SELECT id FROM Channels WHERE name='foo')";
    for change in [
        format!("UPDATE Messages SET data=x'FFFFFF' WHERE seq=2 AND {foo}"),
        format!("UPDATE Messages SET data='x' WHERE seq=3 AND {foo}"),
        format!("UPDATE Messages SET data=NULL WHERE seq=4 AND {foo}"),
        format!(
            "UPDATE Messages SET data=(SELECT data FROM Messages WHERE seq=1 AND NOT {foo}) \
             WHERE seq=1 AND {foo}"
        ),
        format!(
            "UPDATE Messages SET data=(SELECT data FROM Messages WHERE seq=6 AND {foo}) \
             WHERE seq=5 AND {foo}"
        ),
        format!("DELETE FROM Messages WHERE seq IN (7, 8, 10) AND {foo}"),
    ] {
        // The blob of a row may not be NULL: that one changes nothing.
        let _ = dialect.run(&change);
    }
    let found = stan.subscribe(all("foo"));
    stan.publish("foo", "11").unwrap();
    let mut delivered = Vec::new();
    while delivered.last() != Some(&11) {
        delivered.extend(sequences(&stan.take(&found, 1)));
    }
    delivered.retain(|sequence| *sequence != 4);
    assert_eq!(delivered, [6, 9, 11]);
    for line in [
        "Error looking up message 1 of channel foo: its data is that of a message of channel bar",
        "Error looking up message 2 of channel foo: its data is damaged",
        "Error looking up message 3 of channel foo: its data is damaged",
        "Error looking up message 5 of channel foo: its data is that of message 6",
        "Error looking up messages 7 to 8 of channel foo: somebody has removed their rows",
        "Error looking up messages 10 to 10 of channel foo: somebody has removed their rows",
    ] {
        server.log.wait(line);
    }
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
}

/// How many of a few publishes are acknowledged; that nobody listens any more is no ack.
fn acknowledged(stan: &mut Stan) -> Vec<String> {
    let mut acked = Vec::new();
    for number in 0..5 {
        let text = format!("late {number}");
        let (message, reply) = (stan.message("foo", &text), stan.own(&text.replace(' ', "")));
        stan.publish_async(&message, &reply);
        let arrived = stan.next_on(&reply, ANSWERS_WITHIN);
        acked.extend(arrived.is_some_and(|arrived| arrived.data != "503").then_some(text));
    }
    acked
}

/// Goal: what is acknowledged after a database, or what SQLite keeps beside it, was removed or
/// replaced is in the database that has its name then; and the log says which file it was.
#[test]
fn nothing_is_acknowledged_into_files_that_were_taken_away() {
    let files = ["s.db", "s.db-wal", "s.db-shm"];
    for (name, is_replaced) in files.iter().flat_map(|name| [(name, false), (name, true)]) {
        let folder = tempfile::tempdir().unwrap();
        let (launch, path) = launch(folder.path());
        let mut server = launch.start();
        let mut stan = Stan::connect(launch.port, "me");
        stan.publish("foo", "before").unwrap();
        let file = folder.path().join(name);
        if is_replaced {
            let other = folder.path().join("other");
            fs::copy(&file, &other).unwrap();
            fs::rename(other, &file).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        let acked = acknowledged(&mut stan);
        let line = format!("{} was removed or replaced under the running server", file.display());
        server.log.wait(&line);
        server.kill();
        if *name == "s.db" && !is_replaced {
            assert_eq!(acked, [""; 0]);
            continue;
        }
        let rows = connect(&path).query("SELECT data FROM Messages", &[]).unwrap();
        let stored: Vec<String> = rows.iter().map(|row| row[0].text()).collect();
        for text in acked {
            let is_there = stored.iter().any(|stored| stored.contains(&text));
            assert!(is_there, "{name} {is_replaced}: {text} is not in {stored:?}");
        }
    }
}

/// Goal: what a trigger of the database leaves out in silence is not answered for.
#[test]
fn a_row_that_was_left_out_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (launch, path) = launch(folder.path());
    let mut server = launch.start();
    let mut stan = Stan::connect(launch.port, "me");
    stan.publish("foo", "1").unwrap();
    let mut dialect = connect(&path);
    for table in ["Messages", "Subscriptions", "Channels", "Clients"] {
        let begin = "BEGIN SELECT RAISE(IGNORE); END";
        dialect.run(&format!("CREATE TRIGGER t BEFORE INSERT ON {table} {begin}")).unwrap();
        let refused = match table {
            "Messages" => stan.publish("foo", "2").unwrap_err(),
            "Subscriptions" => stan.try_subscribe(all("foo")).err().unwrap(),
            "Channels" => stan.publish("bar", "1").unwrap_err(),
            _ => Stan::try_connect(launch.port, "other").err().unwrap(),
        };
        assert!(refused.contains("stored 0 of 1 rows"), "{table}: {refused}");
        dialect.run("DROP TRIGGER t").unwrap();
    }
    stan.publish("foo", "2").unwrap();
    let found = stan.subscribe(all("foo"));
    assert_eq!(sequences(&stan.take(&found, 2)), [1, 2]);
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
}

/// Goal: a database has one active, by whatever name it is opened.
#[test]
fn a_link_to_a_database_is_the_same_database() {
    let folder = tempfile::tempdir().unwrap();
    let (launch, path) = launch(folder.path());
    let server = launch.start();
    fs::create_dir(folder.path().join("b")).unwrap();
    let link = folder.path().join("b/other.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let flags = ["-store", "sql", "-sql_driver", "sqlite", "-sql_source", link.to_str().unwrap()];
    let mut second = Launch::new(&flags).spawn();
    assert_eq!(second.wait_exit().code(), Some(1), "{}", second.log.text());
    assert!(second.log.text().contains("holds the lock of"), "{}", second.log.text());
    let mut stan = Stan::connect(server.launch.port, "me");
    assert!(stan.fill("foo", 1..=3).is_empty());
}
