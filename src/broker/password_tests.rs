//! Clients whose password is known as a hash: they wait, and nobody else does.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::settings::{Auth, User};
use super::snapshot::Lists;
use super::tests::Process;
use super::*;

const HASH: &str = "$2a$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG";
const OTHER: &str = "$2a$05$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG";
const CONNECT: &str = "CONNECT {\"user\":\"u\",\"pass\":\"p\",\"verbose\":true}\r\nPING\r\n";

fn settings(hash: &str) -> Settings {
    let user = User { name: "u".into(), password: hash.into(), ..User::default() };
    let auth = Auth { users: vec![user], ..Auth::default() };
    Settings { auth, ..Settings::default() }
}

/// A process, and a client that has given its password.
fn waiting() -> (Process, SessionId) {
    let mut process = Process::new(1, settings(HASH));
    let id = process.open(0, ConnectionKind::Client);
    process.take(id);
    assert_eq!(process.ask(id, CONNECT), "", "nothing before the password was looked at");
    assert_eq!(process.flows[&id], Flow::Paused);
    assert_eq!(asked(&mut process), [HASH]);
    (process, id)
}

/// The hashes that something is to be held against.
fn asked(process: &mut Process) -> Vec<String> {
    let hash = |effect: Effect| match effect {
        Effect::Verify { hash, password, .. } => (password == "p").then_some(hash),
        Effect::Resume { .. }
        | Effect::ToEngine(_)
        | Effect::NoResponders { .. }
        | Effect::Room { .. }
        | Effect::Mail { .. }
        | Effect::Close { .. }
        | Effect::Dial { .. }
        | Effect::DialUpstream { .. }
        | Effect::Upstream(_)
        | Effect::Flushed { .. }
        | Effect::Outflown { .. }
        | Effect::Through { .. }
        | Effect::Log { .. } => None,
    };
    process.effects.drain(..).filter_map(hash).collect()
}

fn answer(process: &mut Process, id: SessionId, hash: &str, is_right: bool) -> String {
    let now = process.now;
    let input = Input::Verified { session: id, hash: hash.to_owned(), is_right };
    process.broker(id).handle(input, now);
    process.settle();
    process.read(id);
    process.take(id)
}

#[test]
fn a_client_waits_until_its_password_was_looked_at() {
    let (mut process, id) = waiting();
    assert_eq!(answer(&mut process, id, HASH, true), "+OK\r\nPONG\r\n");
    assert_eq!(process.flows[&id], Flow::NeedMore);
    assert_eq!(process.ask(id, CONNECT), "+OK\r\nPONG\r\n", "the same is not looked at again");
    process.ask(id, "CONNECT {\"pass\":\"other\"}\r\n");
    assert_eq!(process.flows[&id], Flow::Paused, "another password is");
}

#[test]
fn a_client_with_the_wrong_password_is_refused() {
    let (mut process, id) = waiting();
    let said = answer(&mut process, id, HASH, false);
    assert_eq!(said, "-ERR 'Authorization Violation'\r\n");
    assert_eq!(process.flows[&id], Flow::Close);
}

/// Goal: a loop computes no hash for routes either, and until it is known a peer says nothing.
#[test]
fn a_route_waits_until_its_password_was_looked_at() {
    for is_right in [true, false] {
        let user = Some(("u".to_owned(), HASH.to_owned()));
        let cluster = settings::Cluster { name: "c".into(), user, ..Default::default() };
        let mut process =
            Process::new(1, Settings { cluster: Some(cluster), ..Settings::default() });
        let id = process.open(0, ConnectionKind::RouteAccepted);
        process.take(id);
        let connect = "CONNECT {\"user\":\"u\",\"pass\":\"p\",\"cluster\":\"c\"}\r\n";
        let info = "INFO {\"server_id\":\"NX\",\"server_name\":\"x\",\"cluster\":\"c\"}\r\n";
        assert_eq!(process.ask(id, &format!("{connect}{info}PING\r\n")), "");
        assert_eq!(process.flows[&id], Flow::Paused);
        assert_eq!(asked(&mut process), [HASH]);
        let said = answer(&mut process, id, HASH, is_right);
        let expected = if is_right { "PONG\r\n" } else { "-ERR 'Authorization Violation'\r\n" };
        assert_eq!(said, expected);
        let routes = process.loops[0].snapshot(process.now, Lists::ALL).routes;
        assert_eq!(routes.len(), usize::from(is_right));
    }
}

/// Goal: the time-out is for who does not say who it is; whose turn does not come waits much
/// longer, and is never told that it was wrong.
#[test]
fn a_password_may_wait_for_its_turn() {
    for is_begun in [false, true] {
        let mut process = Process::new(1, settings(HASH));
        let id = process.open(0, ConnectionKind::Client);
        process.take(id);
        process.send(id, CONNECT.as_bytes());
        let question = process.effects.drain(..).find_map(question_of).unwrap();
        assert!(!is_begun || question.begin());
        process.pass(Duration::from_secs(29));
        assert_eq!(process.take(id), "");
        assert!(question.waits() != is_begun, "it is still to be looked at");
        process.pass(Duration::from_secs(2));
        if is_begun {
            assert_eq!(answer(&mut process, id, HASH, true), "+OK\r\nPONG\r\n");
        } else {
            assert_eq!(process.take(id), "-ERR 'Authentication Timeout'\r\n");
            assert!(!question.begin(), "nobody waits for it any more");
        }
    }
}

/// Goal: who left is not answered, so nobody works for it.
#[test]
fn the_question_of_a_closed_connection_is_dropped() {
    let mut process = Process::new(1, settings(HASH));
    let id = process.open(0, ConnectionKind::Client);
    process.send(id, CONNECT.as_bytes());
    let question = process.effects.drain(..).find_map(question_of).unwrap();
    assert!(question.waits());
    let now = process.now;
    process.broker(id).closed(id, "Client Closed", now);
    assert!(!question.waits());
}

fn question_of(effect: Effect) -> Option<Arc<asked::Asked>> {
    if let Effect::Verify { asked, .. } = effect { Some(asked) } else { None }
}

/// Goal: what was asked before a reload does not answer what is asked after it.
#[test]
fn an_answer_about_a_former_hash_is_none() {
    let (mut process, id) = waiting();
    let now = process.now;
    process.broker(id).reload(Arc::new(settings(OTHER)), now);
    process.settle();
    assert_eq!(asked(&mut process), [OTHER]);
    assert_eq!(answer(&mut process, id, HASH, true), "");
    assert_eq!(process.flows[&id], Flow::Paused);
    assert_eq!(answer(&mut process, id, OTHER, false), "-ERR 'Authorization Violation'\r\n");
}
