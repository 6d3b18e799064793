//! What clients of a group notice of hand-overs, kills and restarts, in three languages.
//!
//! The Go and the Node client library beside raw clients; none of them tries anything again. Three
//! members; all clients are at the third, and a kill is for whoever is active elsewhere. Where the
//! clients' own member follows, that is a row of its own. `STANBY_GROUP=full` has 50 rounds with
//! one loop and 50 with two, otherwise there are two rounds with two; `STANBY_GROUP_ROUNDS` is
//! another number. `tests/clients/programs.sh` builds the programs of both libraries and starts
//! this. The tables are a report, shown with `--nocapture`; asserted is what a client would call an
//! error.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "group_report/ledger.rs"]
mod ledger;
#[path = "support/left_out.rs"]
mod left_out;
#[path = "group_report/pauses.rs"]
mod pauses;
#[path = "group_report/programs.rs"]
mod programs;
#[path = "group_report/raw.rs"]
mod raw;
#[path = "support/server.rs"]
#[allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
mod server;
#[path = "support/stan.rs"]
#[allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
mod stan;
#[path = "group_report/trio.rs"]
mod trio;
#[path = "group_report/verdict.rs"]
mod verdict;
#[path = "support/wire.rs"]
#[allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
mod wire;

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use self::ledger::{Ledger, now};
use self::pauses::{Event, Pauses};
use self::programs::Programs;
use self::raw::{Raw, read_all};
use self::server::wait_for;
use self::trio::Trio;
use self::verdict::{Away, Verdict};

/// Where all clients are.
const CLIENTS: usize = 2;

/// Rounds of one load: so many messages still fit into memory.
const ROUNDS_OF_A_LOAD: usize = 10;

/// Publishes that are unacknowledged when something happens, at least.
const UNACKED_MIN: u64 = 100;

/// How long an ack may take when a member hands over.
const ACK_WITHIN_MS: i64 = 1_000;

/// One test at a time: each fills the machine.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_full() -> bool {
    env::var("STANBY_GROUP").is_ok_and(|size| size == "full")
}

/// Publishes of one publisher that may be unanswered: fewer where a build that is not optimized has
/// to answer them while it does much else.
fn in_flight() -> usize {
    if is_full() { 512 } else { 64 }
}

/// How many rounds there are: another number where all is tried.
fn rounds(full: usize, small: usize) -> usize {
    let given = env::var("STANBY_GROUP_ROUNDS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(if is_full() { full } else { small })
}

fn say(line: &str) {
    // Nothing is left to be told to anybody if the terminal is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

/// All clients, in all three languages.
struct Load {
    raw: Option<Raw>,
    programs: Programs,
    ledger: Ledger,
}

impl Load {
    fn start(trio: &Trio, urls: &str, folder: &Path) -> Self {
        let programs = Programs::start(urls, folder, in_flight());
        let raw = Some(Raw::start(trio.port(CLIENTS), in_flight()));
        Self { raw, programs, ledger: Ledger::default() }
    }

    /// Waits until much is under way.
    fn wait(&self) {
        let shared = &self.raw.as_ref().unwrap().shared;
        let before = shared.acked();
        wait_for("a load", || {
            (before + 2_000 < shared.acked() && UNACKED_MIN < shared.unacked()).then_some(())
        });
    }

    /// Ends the raw clients before their member is: they have no library to come back by.
    fn end_raw(&mut self) {
        let mut raw = self.raw.take().unwrap();
        self.ledger.merge(raw.stop());
        self.ledger.lost.extend(raw.end([0; 4]).lost);
    }

    /// Stops, lets everybody get what is stored, and judges.
    fn end(mut self, trio: &Trio, away: Option<Away>) -> (Verdict, Ledger) {
        let mut ledger = self.ledger;
        ledger.merge(self.raw.as_mut().map(Raw::stop).unwrap_or_default());
        self.programs.stop();
        let stored = read_all(trio.port(CLIENTS));
        let wanted = stored.each_ref().map(Vec::len);
        ledger.merge(self.programs.end(wanted));
        ledger.merge(self.raw.map(|raw| raw.end(wanted)).unwrap_or_default());
        (Verdict::of(&ledger, &stored, away), ledger)
    }
}

/// One load with so many rounds of something.
fn load(
    (loops, rounds): (u16, usize),
    pauses: &mut Pauses,
    round: fn(&mut Trio, &Load) -> Event,
) -> Verdict {
    let mut folder = tempfile::tempdir().unwrap();
    let mut trio = Trio::start(folder.path(), loops);
    let load = Load::start(&trio, &trio.url(CLIENTS), folder.path());
    let events: Vec<Event> = (0..rounds).map(|_| round(&mut trio, &load)).collect();
    let (verdict, ledger) = load.end(&trio, None);
    pauses.add(&events, &ledger);
    if !verdict.broken().is_empty() {
        folder.disable_cleanup(true);
        say(&format!(
            "the store and the programs' ledgers are kept in {}",
            folder.path().display()
        ));
    }
    verdict
}

/// Many rounds with one loop, and as many with two, which alone the small form has; what a client
/// would call an error ends it.
fn report(count: usize, round: fn(&mut Trio, &Load) -> Event, check: fn(&Verdict, &Pauses)) {
    let all_loops: &[u16] = if is_full() { &[1, 2] } else { &[2] };
    for &loops in all_loops {
        let mut pauses = Pauses::default();
        let (mut acked, mut twice, mut again, mut late, mut calls) = (0, 0, 0, 0, 0);
        for begun in (0..count).step_by(ROUNDS_OF_A_LOAD) {
            let rounds = (count - begun).min(ROUNDS_OF_A_LOAD);
            let verdict = load((loops, rounds), &mut pauses, round);
            acked += verdict.acked;
            twice += verdict.twice;
            again += verdict.delivered_again;
            late += verdict.late;
            calls += verdict.calls;
            let broken = verdict.broken();
            assert!(broken.is_empty(), "{loops} loops\n{}\n{}", broken.join("\n"), pauses.table());
            check(&verdict, &pauses);
        }
        say(&format!(
            "{loops} loops, milliseconds: median / worst\n{}{acked} published and acknowledged, \
             {twice} stored twice, {again} delivered again, {late} late, {calls} calls of \
             clients that come and go, no error, no connection closed\n",
            pauses.table()
        ));
        assert!(UNACKED_MIN <= pauses.least_unacked(), "{}", pauses.table());
    }
}

/// Has whoever is active step down.
fn step_down(trio: &mut Trio, load: &Load) -> Event {
    trio.wait_ready();
    let before = trio.wait_active();
    load.wait();
    let at = trio.step_down();
    let after = trio.wait_active();
    let is_apart = before != CLIENTS && after != CLIENTS;
    load.wait();
    Event { what: if is_apart { "step-down" } else { "step-down, at the clients" }, at }
}

/// Kills whoever is active, which is never the clients' own member, and starts it again.
fn kill(trio: &mut Trio, load: &Load) -> Event {
    trio.wait_ready();
    while trio.wait_active() == CLIENTS {
        trio.step_down();
        trio.wait_ready();
    }
    let active = trio.wait_active();
    load.wait();
    let at = now();
    trio.kill(active);
    let is_apart = trio.wait_active() != CLIENTS;
    load.wait();
    trio.restart(active);
    Event { what: if is_apart { "kill" } else { "kill, clients at the successor" }, at }
}

/// Goal: of a hand-over clients of all members notice a pause: each publish is acknowledged soon,
/// none fails, none is stored twice or lost, the order is kept, and no connection is closed.
#[test]
fn a_hand_over_is_a_pause_for_clients_of_all_languages() {
    let _alone = alone();
    report(rounds(50, 2), step_down, |verdict, pauses| {
        assert_eq!((verdict.twice, verdict.late), (0, 0), "stored twice, delivered late");
        let longest = pauses.longest_ack_ms();
        assert!(!is_full() || longest <= ACK_WITHIN_MS, "an ack took {longest} ms");
    });
}

/// Goal: of a killed active clients of other members notice a pause: no error, nothing lost, the
/// order kept.
#[test]
fn a_kill_is_a_pause_for_clients_of_all_languages() {
    let _alone = alone();
    report(rounds(50, 2), kill, |_, _| ());
}

/// Goal: what was acknowledged stays, and in its order, where the clients' own member dies soon
/// after the active.
#[test]
fn nothing_acknowledged_is_lost_where_two_members_die() {
    let _alone = alone();
    let count = rounds(10, 1);
    for number in 0..count {
        let folder = tempfile::tempdir().unwrap();
        let mut trio = Trio::start(folder.path(), u16::try_from(number % 2 + 1).unwrap());
        let programs = Programs::start(&trio.url(CLIENTS), folder.path(), in_flight());
        let active = trio.wait_active();
        assert_ne!(active, CLIENTS);
        programs.wait();
        let later = Duration::from_millis(500 * number as u64 / (count.max(2) as u64 - 1));
        trio.kill(active);
        // Time is the subject here.
        thread::park_timeout(later);
        trio.kill(CLIENTS);
        let ledger = programs.cut();
        let survivor = (0..trio::MEMBERS).find(|place| ![active, CLIENTS].contains(place)).unwrap();
        wait_for("the survivor to serve", || trio.is(survivor, "active").then_some(()));
        let verdict =
            Verdict::of_cut_load(&ledger, &read_all(trio.port(survivor)), Some(0..=now()));
        say(&format!(
            "{later:?} later: {} acknowledged, {} stored twice, {} errors",
            verdict.acked, verdict.twice, verdict.excused
        ));
        assert_eq!(verdict.broken(), Vec::<String>::new(), "{later:?} later");
    }
}

/// Goal: where all members are restarted one after the other, clients of those that stay see no
/// error, those of the restarted one come back by their libraries, and no acked message is lost.
#[test]
fn a_rolling_restart_loses_nothing() {
    let _alone = alone();
    for number in 0..rounds(5, 1) {
        let loops = u16::try_from(number % 2 + 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut trio = Trio::start(folder.path(), loops);
        let mut load = Load::start(&trio, &trio.urls(CLIENTS), folder.path());
        let mut events = Vec::new();
        for place in [0, 1] {
            load.wait();
            events.push(Event { what: "restart of another member", at: now() });
            assert_eq!(trio.terminate(place), Some(143));
            trio.restart(place);
            trio.wait_ready();
            load.wait();
        }
        load.end_raw();
        let at = now();
        assert_eq!(trio.terminate(CLIENTS), Some(143));
        trio.restart(CLIENTS);
        trio.wait_ready();
        let (verdict, ledger) = load.end(&trio, Some(at..=now()));
        let mut pauses = Pauses::default();
        pauses.add(&events, &ledger);
        say(&format!(
            "{loops} loops, milliseconds: median / worst\n{}{} acknowledged, {} stored twice; at \
             the member that was restarted {} errors, {} came back\n",
            pauses.table(),
            verdict.acked,
            verdict.twice,
            verdict.excused,
            ledger.back.len()
        ));
        assert_eq!(verdict.broken(), Vec::<String>::new(), "{loops} loops");
    }
}
