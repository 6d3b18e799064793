//! Whatever carries a subject carries its account: two accounts never hear each other.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::room_tests::told;
use super::settings::Cluster;
use super::tests::{Process, post};
use super::*;
use crate::base::origin::Origin;

const OTHER: AccountIndex = AccountIndex(1);

/// Two loops with two accounts, and a route whose peer knows both.
fn process() -> (Process, SessionId) {
    let cluster = Cluster { name: "abc".into(), ..Cluster::default() };
    let mut process = Process::new(2, Settings { cluster: Some(cluster), ..Settings::default() });
    for broker in &mut process.loops {
        assert_eq!(broker.accounts.add("OTHER", broker.home), OTHER);
    }
    let route = process.open(0, ConnectionKind::RouteAccepted);
    process.ask(
        route,
        "CONNECT {}\r\nINFO {\"server_id\":\"NB\",\"server_name\":\"b\",\"cluster\":\"abc\",\
         \"stanby_inboxes\":true}\r\n",
    );
    (process, route)
}

fn client(process: &mut Process, home: u16, account: AccountIndex) -> SessionId {
    let id = process.client(home, ",\"echo\":false");
    let origin = Origin { account, connection: Some(id), user: None };
    process.broker(id).sessions.get_mut(id).unwrap().origin = Arc::new(origin);
    id
}

/// Goal: a message is heard in its account, on each loop, in queues, by engines and behind routes,
/// and nowhere else.
#[test]
fn two_accounts_never_hear_each_other() {
    let (mut process, route) = process();
    let listeners: Vec<(AccountIndex, SessionId)> = [(0, 0), (0, 1), (1, 0), (1, 1)]
        .map(|(account, home)| (AccountIndex(account), home))
        .map(|(account, home)| (account, client(&mut process, home, account)))
        .into();
    for (_, id) in &listeners {
        process.send(*id, b"SUB a 1\r\nSUB b.> q 2\r\n");
    }
    let told_peer = process.take(route);
    for interest in ["$G a", "OTHER a", "$G b.> q 2", "OTHER b.> q 2"] {
        assert!(told_peer.contains(&format!("RS+ {interest}\r\n")), "{interest}: {told_peer}");
    }
    process.send(route, b"RS+ OTHER a\r\nRS+ $G b.c\r\nRS+ NOBODY a\r\n");
    let interest = EngineInterest {
        engine: LoopIndex(1),
        account: OTHER,
        key: 1,
        credit: Credit::Free,
        is_brief: true,
        keeper: None,
    };
    process.loops[1].listen(&"a".into(), interest);
    process.settle();
    process.take(route);
    for account in [AccountIndex::GLOBAL, OTHER] {
        for home in 0..2 {
            let sender = client(&mut process, home, account);
            process.effects.clear();
            process.send(sender, b"PUB a 0\r\n\r\nPUB b.c 0\r\n\r\n");
            let is_other = account == OTHER;
            let crossing = process.take(route);
            assert_eq!(crossing.contains("RMSG OTHER a 0"), is_other, "{crossing}");
            assert_eq!(crossing.contains("RMSG $G b.c"), !is_other, "{crossing}");
            assert!(!crossing.contains("RMSG $G a"), "{crossing}");
            let is_heard = |effect: &Effect| matches!(effect, Effect::ToEngine(_));
            assert_eq!(process.effects.iter().any(is_heard), is_other);
            let mut in_queue = 0;
            for (theirs, id) in &listeners {
                let got = process.take(*id);
                assert_eq!(got.contains("MSG a 1"), *theirs == account, "{theirs:?}: {got}");
                assert!(*theirs == account || got.is_empty(), "{theirs:?}: {got}");
                in_queue += got.matches("MSG b.c 2").count();
            }
            assert_eq!(in_queue, 1);
        }
    }
    process.send(route, b"RMSG OTHER a 0\r\n\r\nRMSG NOBODY a 0\r\n\r\n");
    for (theirs, id) in &listeners {
        assert_eq!(process.take(*id).matches("MSG a").count(), usize::from(*theirs == OTHER));
    }
}

/// Goal: an engine's answers, and what it is told of inboxes, are those of its account.
#[test]
fn an_engine_speaks_in_its_account() {
    let (mut process, route) = process();
    let global = client(&mut process, 0, AccountIndex::GLOBAL);
    let other = client(&mut process, 1, OTHER);
    for id in [global, other] {
        process.send(id, b"SUB in 1\r\n");
    }
    process.send(route, b"RS+ OTHER in\r\n");
    process.take(route);
    process.loops[0].watch(1, AccountIndex::GLOBAL, &"in".into());
    process.loops[0].watch(2, OTHER, &"in".into());
    process.settle();
    assert_eq!(told(&mut process), "1+ 2+");
    assert!(process.take(route).contains("\"account\":\"OTHER\",\"subject\":\"in\""));
    let full = |state: &str, account: &str| {
        format!(
            "INFO {{\"server_id\":\"NB\",\"stanby_inbox\":{{{account}\"subject\":\"in\",\
             \"state\":\"{state}\"}}}}\r\n"
        )
    };
    process.send(route, full("full", "").as_bytes());
    assert_eq!(told(&mut process), "", "nobody behind the route listens there");
    process.send(route, full("full", "\"account\":\"OTHER\",").as_bytes());
    assert_eq!(told(&mut process), "2-");
    let now = process.now;
    process.loops[0].publish(&Post { account: OTHER, ..post("in", b"x") }, None, now);
    process.settle();
    assert_eq!(process.take(global), "");
    assert_eq!(process.take(other), "MSG in 1 1\r\nx\r\n");
}
