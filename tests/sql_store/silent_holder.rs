//! A holder that gives no sign of life over SQLite: whose process a standby may end, and when.

use std::process::{Command, Stdio};
use std::time::Duration;

use stanby::election::lease::{Attempt, Lease, LeaseError, Owner};
use stanby::site::sql_lock::SqlLease;
use stanby::store::sql::dsn::Source;

use super::{connect, databases, held_because, won};

/// A holder that gives no sign of life, recorded as `pid` on `host`, and a standby that steals.
fn silent_holder(source: &Source, host: &str, pid: u32) -> (SqlLease, SqlLease) {
    let (owner, timeout) = (|server_id: &str| server_id.to_owned(), Duration::from_millis(200));
    let holder =
        Owner { server_id: owner("holder"), host: host.to_owned(), pid, ..Owner::default() };
    let mut holder = SqlLease::new(source.clone(), timeout, holder, Duration::ZERO);
    won(&mut holder);
    let member = Owner { server_id: owner("standby"), host: "here".to_owned(), ..Owner::default() };
    let standby = SqlLease::new(source.clone(), timeout, member, Duration::from_millis(600));
    (holder, standby)
}

/// Goal: over SQLite nobody is killed but who is recorded and has the lock: not a process that got
/// the number of one that is gone, none of another machine. The standby says so and waits.
#[test]
fn nobody_is_killed_who_does_not_hold_the_lock() {
    let mut bystander = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    for (host, why) in [("here", "is not the one that has the lock"), ("there", "runs on there")] {
        let folder = tempfile::tempdir().unwrap();
        let source = databases::sqlite(folder.path());
        let (_holder, mut standby) = silent_holder(&source, host, bystander.id());
        let why = held_because(&mut standby, why);
        assert!(why.contains(&format!("process {}", bystander.id())), "{why}");
    }
    assert_eq!(bystander.try_wait().unwrap(), None, "it lives");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

/// Goal: a holder that hangs with SQLite's own lock, so that nobody can even read its counter, is
/// taken for one without a sign of life all the same.
#[test]
fn who_hangs_inside_a_transaction_is_found_out_with_a_write_ahead_log_and_without() {
    for journal in ["DELETE", "WAL"] {
        let folder = tempfile::tempdir().unwrap();
        let source = Source { journal: journal.to_owned(), ..databases::sqlite(folder.path()) };
        let (_holder, mut standby) = silent_holder(&source, "here", std::process::id());
        held_because(&mut standby, "holds the lock");
        let mut hanging = connect(&source);
        hanging.run("BEGIN EXCLUSIVE").unwrap();
        held_because(&mut standby, "gives no sign of life");
    }
}

/// Goal: so is one that hangs while it reads, where that keeps writers out, and one that was told
/// the database by a link.
#[test]
fn who_hangs_with_any_lock_that_is_in_the_way_is_found_out() {
    for (journal, hang) in
        [("DELETE", &["BEGIN", "SELECT count(*) FROM Channels"][..]), ("WAL", &["BEGIN IMMEDIATE"])]
    {
        let folder = tempfile::tempdir().unwrap();
        let real = databases::sqlite(folder.path());
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink(&real.database, &link).unwrap();
        let database = link.to_str().unwrap().to_owned();
        let source = Source { journal: journal.to_owned(), database, ..real };
        let (_holder, mut standby) = silent_holder(&source, "here", std::process::id());
        held_because(&mut standby, "holds the lock");
        let mut hanging = connect(&source);
        for statement in hang {
            hanging.run(statement).unwrap();
        }
        held_because(&mut standby, "gives no sign of life");
    }
}

/// Goal: who cannot write because a neighbour has SQLite's lock to write is no hanging holder.
#[test]
fn nobody_is_killed_because_a_neighbour_keeps_all_from_writing() {
    let mut bystander = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = databases::sqlite(folder.path());
    let (_holder, mut standby) = silent_holder(&source, "here", bystander.id());
    held_because(&mut standby, "holds the lock");
    let mut neighbour = connect(&source);
    neighbour.run("BEGIN IMMEDIATE").unwrap();
    let mut refused = 0;
    while refused < 12 {
        match standby.try_take() {
            Ok(Attempt::Held { why, .. }) => assert!(!why.contains("no sign of life"), "{why}"),
            Ok(Attempt::Won(_)) => panic!("it is held"),
            Err(LeaseError::NotNow(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    neighbour.run("ROLLBACK").unwrap();
    held_because(&mut standby, "gives no sign of life");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}
