//! What one operation costs does not grow with who else is there, and a turn is bounded.
//!
//! Work is counted, not timed: nodes and receivers that were looked at.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::settings::Cluster;
use super::tests::Process;
use super::*;

const PEER: &str = "CONNECT {\"cluster\":\"c\"}\r\n\
    INFO {\"server_id\":\"NX\",\"server_name\":\"x\",\"cluster\":\"c\"}\r\n";

fn process() -> Process {
    let cluster = Cluster { name: "c".into(), ..Cluster::default() };
    Process::new(1, Settings { cluster: Some(cluster), ..Settings::default() })
}

/// Work of `bytes` when `count` of `line` were said before: by the same session, or another one.
fn work(count: usize, line: fn(usize) -> String, by_others: bool, bytes: &str) -> u64 {
    let mut process = process();
    let asker = process.client(0, ",\"headers\":true,\"no_responders\":true,\"echo\":false");
    let other = if by_others { process.client(0, "") } else { asker };
    let lines: String = (0..count).map(line).collect();
    process.send(other, lines.as_bytes());
    process.take(other);
    let before = process.loops[0].work_done();
    process.send(asker, bytes.as_bytes());
    process.loops[0].work_done() - before
}

/// Goal: an operation costs the same among a hundred and among ten thousand interests.
#[test]
fn an_operation_costs_the_same_among_many_and_among_few() {
    type Line = fn(usize) -> String;
    let own_inboxes: Line = |n| format!("SUB other.{n} {n}\r\n");
    let wild: Line = |n| format!("SUB other.{n}.* {n}\r\n");
    let same: Line = |n| format!("SUB one {n}\r\n");
    let members: Line = |n| format!("SUB one q {n}\r\n");
    let queues: Line = |n| format!("SUB one q{n} {n}\r\n");
    let everything: Line = |n| format!("SUB > {n}\r\n");
    for (what, line, by_others, bytes) in [
        ("a request that nobody hears", own_inboxes, false, "PUB svc other.1 0\r\n\r\n"),
        ("the same among patterns", wild, false, "PUB svc other.1.x 0\r\n\r\n"),
        ("another subject", same, true, "SUB two 1\r\n"),
        ("the same subject", same, true, "SUB one 1\r\nUNSUB 1\r\n"),
        ("the end of one of one's own", same, false, "UNSUB 7\r\n"),
        ("a queue", members, true, "PUB one 0\r\n\r\n"),
        ("a queue of one's own without echo", members, false, "PUB one 0\r\n\r\n"),
        ("a member that comes and goes", members, true, "SUB one q 1\r\nUNSUB 1\r\n"),
        ("a queue among queues", queues, true, "SUB one p 1\r\nUNSUB 1\r\n"),
        ("a pattern among those that match all", everything, true, "SUB a.* 1\r\nUNSUB 1\r\n"),
    ] {
        let (few, many) = (work(100, line, by_others, bytes), work(10_000, line, by_others, bytes));
        assert!(many <= few + 8, "{what}: {few} among a hundred, {many} among ten thousand");
    }
}

/// Goal: what has long names has fewer operations in a turn, on the other loops too.
#[test]
fn an_operation_counts_its_bytes() {
    let short = "SUB *.a 1\r\nUNSUB 1\r\n".to_owned();
    let long = format!("SUB *.{} 1\r\nUNSUB 1\r\n", vec!["a"; 2_000].join("."));
    let mut works = Vec::new();
    for bytes in [short, long] {
        let mut process = Process::new(2, Settings::default());
        let session = process.client(0, "");
        let (before, now) = (process.loops[0].work_done(), process.now);
        let mut input = BytesMut::from(bytes.as_bytes());
        assert_eq!(process.loops[0].read(session, &mut input, now), Flow::NeedMore);
        let here = process.loops[0].work_done() - before;
        let effects = std::iter::from_fn(|| process.loops[0].poll_effect());
        let mail_work =
            |effect| if let Effect::Mail { mail, .. } = effect { mail.work() } else { 0 };
        let there: usize = effects.map(mail_work).sum();
        works.push((here, there));
    }
    let [(here, there), (long_here, long_there)] = works[..] else { unreachable!() };
    assert!(here + 120 <= long_here, "{here} and {long_here}");
    assert!(there + 120 <= long_there, "{there} and {long_there}");
}

/// Goal: a message that comes by a route for one queue does not look at the others.
#[test]
fn a_routed_message_looks_at_its_own_queues_only() {
    let mut works = Vec::new();
    for count in [100, 10_000] {
        let mut process = process();
        let member = process.client(0, "");
        let lines: String = (0..count).map(|n| format!("SUB one q{n} {n}\r\n")).collect();
        process.send(member, lines.as_bytes());
        let peer = process.open(0, ConnectionKind::RouteAccepted);
        process.send(peer, PEER.as_bytes());
        process.pass(Duration::from_secs(1));
        // What was found is remembered from the first one on.
        process.send(peer, b"RMSG $G one | q7 0\r\n\r\n");
        process.take(member);
        let before = process.loops[0].work_done();
        process.send(peer, b"RMSG $G one | q7 q8 q7 0\r\n\r\n");
        works.push(process.loops[0].work_done() - before);
        let got = process.take(member);
        assert_eq!(got, "MSG one 7 0\r\n\r\nMSG one 8 0\r\n\r\n", "each queue once");
    }
    assert!(works[1] <= works[0] + 8, "{works:?}");
}

/// Goal: whatever one session says, others have their turn after a bounded amount of work.
#[test]
fn a_session_yields_when_its_share_is_used_up() {
    let mut process = process();
    let sender = process.client(0, "");
    let receiver = process.client(0, "");
    let subscriptions: String = (0..1_000).fold(String::new(), |mut text, n| {
        write!(text, "SUB one {n}\r\n").unwrap();
        text
    });
    process.send(receiver, subscriptions.as_bytes());
    let mut input = BytesMut::from("PUB one 0\r\n\r\n".repeat(500).as_bytes());
    let now = process.now;
    let mut turns = 0;
    loop {
        let before = process.loops[0].work_done();
        let flow = process.loops[0].read(sender, &mut input, now);
        let work = process.loops[0].work_done() - before;
        assert!(work <= SESSION_WORK_MAX + 2_000, "{work} in one turn");
        turns += 1;
        if flow == Flow::NeedMore {
            break;
        }
        assert_eq!(flow, Flow::Yielded);
        assert!(!input.is_empty());
    }
    assert!(turns >= 500 * 1_000 / SESSION_WORK_MAX, "{turns} turns");
    assert_eq!(process.take(receiver).matches("MSG one").count(), 500_000);
}

/// Goal: the end of a session with many interests is no long turn, and nothing is delivered to it
/// any more; in the end nothing of it is left on any loop, and peers know.
#[test]
fn who_had_many_interests_leaves_in_portions() {
    let cluster = Cluster { name: "c".into(), ..Cluster::default() };
    let settings = Settings { cluster: Some(cluster), ..Settings::default() };
    let mut process = Process::new(2, settings);
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    process.send(peer, PEER.as_bytes());
    let (near, far) = (process.client(0, ""), process.client(1, ""));
    process.send(near, b"SUB one q 1\r\n");
    let lines: String =
        (0..20_000).map(|n| format!("SUB one q {n}\r\nSUB x.{n} b{n}\r\n")).collect();
    process.send(far, lines.as_bytes());
    process.take(peer);
    let now = process.now;
    let before = process.loops[1].work_done();
    process.loops[1].closed(far, "Client Closed", now);
    let work = process.loops[1].work_done() - before;
    assert!(work <= 2 * crate::base::limits::PORTION_WORK_MAX, "{work} at once");
    process.settle();
    assert!(
        process.loops[1].accounts[AccountIndex::GLOBAL].snapshot().num_subscriptions > 1,
        "the rest comes later"
    );
    let sender = process.client(0, "");
    process.send(sender, b"PUB one 0\r\n\r\n".repeat(100).as_slice());
    assert_eq!(process.take(near).matches("MSG one").count(), 100, "the dead get nothing");
    process.pass(Duration::from_secs(1));
    for broker in &process.loops {
        assert_eq!(broker.accounts[AccountIndex::GLOBAL].snapshot().num_subscriptions, 1);
    }
    assert_eq!(process.take(peer).matches("RS- $G x.").count(), 20_000);
}

/// Goal: a route that comes is told all interest, in portions, and what changes meanwhile is right.
#[test]
fn a_new_route_is_told_in_portions_what_is_wanted() {
    let mut process = process();
    let client = process.client(0, "");
    let lines: String = (0..20_000).map(|n| format!("SUB x.{n:05} {n}\r\n")).collect();
    process.send(client, lines.as_bytes());
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    let now = process.now;
    let mut input = BytesMut::from(PEER.as_bytes());
    assert_eq!(process.loops[0].read(peer, &mut input, now), Flow::NeedMore);
    process.settle();
    let first = process.take(peer);
    let told = first.matches("RS+ $G x.").count();
    assert!((1..15_000).contains(&told), "{told} at once");
    process.send(client, b"UNSUB 19999\r\nUNSUB 0\r\nSUB x.new 1000000\r\n");
    process.pass(Duration::from_secs(1));
    let all = first + &process.take(peer);
    let mut known = BTreeSet::new();
    for line in all.lines() {
        match line.split_once(" $G ") {
            Some(("RS+", subject)) => known.insert(subject),
            Some(("RS-", subject)) => known.remove(subject),
            Some(_) | None => continue,
        };
    }
    assert_eq!(known.len(), 19_999);
    assert!(known.contains("x.new") && !known.contains("x.00000") && !known.contains("x.19999"));
}

/// Goal: a peer's URLs are neither compared with each other one by one nor passed on without end.
#[test]
fn a_peer_with_tens_of_thousands_of_urls_is_cut_short() {
    let mut process = process();
    let client = process.client(0, ",\"protocol\":1");
    process.ask(client, "PING\r\n");
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    process.send(peer, PEER.replace('X', "Z").as_bytes());
    let urls: Vec<String> = (0..40_000).map(|n| format!("\"10.0.0.1:{n}\"")).collect();
    let other = process.open(0, ConnectionKind::RouteAccepted);
    let info = |urls: &[String]| {
        let urls = urls.join(",");
        format!(
            "INFO {{\"server_id\":\"NY\",\"server_name\":\"y\",\"cluster\":\"c\",\
             \"connect_urls\":[{urls}]}}\r\n"
        )
    };
    process.send(other, info(&urls).as_bytes());
    let answer = process.take(other);
    assert!(answer.contains("maximum control line exceeded"), "{answer}");
    let other = process.open(0, ConnectionKind::RouteAccepted);
    process.send(other, info(&urls[..2_000]).as_bytes());
    process.pass(Duration::from_secs(1));
    let told = process.take(client);
    assert_eq!(told.matches("10.0.0.1").count(), crate::base::limits::PEER_URLS_MAX, "{told}");
}

/// Patterns of fifteen tokens, of which each is `a` or a wildcard, and then `.*.z`.
fn combinations(count: usize) -> String {
    let tokens = |n: usize| (0..15).map(move |bit| if n >> bit & 1 == 0 { "a" } else { "*" });
    let line = |n| format!("SUB {}.*.z {n}\r\n", tokens(n).collect::<Vec<_>>().join("."));
    (0..count).map(line).collect()
}

/// Goal: a subject for which very many patterns have to be looked at holds up nobody: the search
/// is done in portions, and comes to its end though patterns come and go meanwhile.
#[test]
fn a_search_among_very_many_patterns_is_done_in_portions() {
    let mut process = process();
    let (sender, other) = (process.client(0, ""), process.client(0, ""));
    let receiver = process.client(0, "");
    process.send(receiver, b"SUB a.> 1\r\nSUB *.a.a.> 2\r\n");
    process.send(other, combinations(1 << 15).as_bytes());
    process.take(other);
    let publish = format!("PUB {}.x.y 2\r\nhi\r\n", ["a"; 15].join("."));
    let mut input = BytesMut::from(publish.as_bytes());
    let now = process.now;
    let mut turns = 0;
    loop {
        let before = process.loops[0].work_done();
        let flow = process.loops[0].read(sender, &mut input, now);
        let work = process.loops[0].work_done() - before;
        assert!(work <= SESSION_WORK_MAX + 64, "{work} in one turn");
        turns += 1;
        if flow == Flow::NeedMore {
            break;
        }
        assert_eq!(flow, Flow::Yielded);
        assert!(turns < 1_000, "it comes to an end");
        process.send(other, b"SUB *.b.c x\r\nUNSUB x\r\nUNSUB 77\r\n");
    }
    assert!(turns > 3, "{turns} turns");
    let got = process.take(receiver);
    assert_eq!(got.matches("MSG a.a.a.").count(), 2, "{got}");
    // Nothing is left to be done again.
    let before = process.loops[0].work_done();
    process.send(sender, publish.as_bytes());
    process.send(sender, publish.as_bytes());
    assert_eq!(process.take(receiver).matches("MSG a.a.a.").count(), 4);
    let work = process.loops[0].work_done() - before;
    assert!(work < 2 * (1 << 16), "the second of the two is remembered: {work}");
}

/// Goal: who comes while receivers are looked for gets the next message on that subject, whatever
/// was found for the one before.
#[test]
fn who_comes_during_a_search_gets_the_next_message() {
    for pattern in [">", "*.>", "*.*.>", "a.>", "*.a.a.>"] {
        let mut process = process();
        let (sender, other) = (process.client(0, ""), process.client(0, ""));
        let newcomer = process.client(0, "");
        process.send(other, combinations(1 << 15).as_bytes());
        process.take(other);
        let publish = format!("PUB {}.x.y 2\r\nhi\r\n", ["a"; 15].join("."));
        let mut input = BytesMut::from(publish.as_bytes());
        let now = process.now;
        let mut turns = 0;
        while process.loops[0].read(sender, &mut input, now) == Flow::Yielded {
            turns += 1;
            if turns == 2 {
                process.send(newcomer, format!("SUB {pattern} 1\r\n").as_bytes());
            }
        }
        assert!(turns > 2, "{turns} turns");
        process.take(newcomer);
        process.send(sender, publish.as_bytes());
        assert_eq!(process.take(newcomer).matches("MSG a.a.a.").count(), 1, "{pattern}");
    }
}

/// Goal: that nobody listens is remembered where it was much work to find out.
#[test]
fn a_search_in_vain_among_many_patterns_is_done_once() {
    let mut process = process();
    let sender = process.client(0, "");
    process.send(sender, combinations(1 << 10).as_bytes());
    let publish = format!("PUB {}.x.y 0\r\n\r\n", ["a"; 15].join("."));
    process.send(sender, publish.as_bytes());
    let before = process.loops[0].work_done();
    process.send(sender, publish.as_bytes());
    let work = process.loops[0].work_done() - before;
    assert!(work < 16, "{work}");
    process.send(sender, format!("SUB {}.x.* 1x\r\n", ["a"; 15].join(".")).as_bytes());
    process.send(sender, publish.as_bytes());
    assert_eq!(process.take(sender).matches("MSG a.a.a.").count(), 1, "what comes is found");
}

/// Goal: however much a page lists, no turn copies more than a portion; what stays is listed once,
/// and of connections that a page does not show no interests are copied.
#[test]
fn long_lists_are_copied_in_portions() {
    use super::listing::Mark;
    use super::snapshot::{Lists, Wanted};

    let mut process = process();
    let crowd: Vec<SessionId> = (0..1_500).map(|_| process.client(0, "")).collect();
    let rich = process.client(0, "");
    let lines: String = (0..20_000).map(|n| format!("SUB x.{n} {n}\r\n")).collect();
    process.send(rich, lines.as_bytes());
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    let lines: String = (0..20_000).map(|n| format!("RS+ $G y.{n}\r\n")).collect();
    process.send(peer, (PEER.to_owned() + &lines).as_bytes());
    for id in &crowd[..100] {
        let now = process.now;
        process.loops[0].closed(*id, "Client Closed", now);
    }
    let now = process.now;
    let broker = &mut process.loops[0];
    let gather = |broker: &mut Broker, wanted: &Wanted| {
        let (mut whole, mut mark, mut works) = (None, Some(Mark::default()), Vec::new());
        while let Some(from) = mark {
            let before = broker.work_done();
            let (part, next) = broker.list(now, wanted, from);
            works.push(broker.work_done() - before);
            whole.get_or_insert_with(ServerSnapshot::default).append(part);
            mark = next;
        }
        let most = works.iter().max().copied().unwrap();
        assert!(most <= crate::base::limits::PORTION_WORK_MAX + 32, "{most} in one turn");
        (whole.unwrap(), works.iter().sum::<u64>())
    };
    let (all, _) = gather(broker, &Lists::ALL.into());
    let cids: BTreeSet<u64> = all.connections.iter().map(|found| found.cid).collect();
    assert_eq!((all.connections.len(), cids.len(), all.closed.len()), (1_401, 1_401, 100));
    let of_rich = all.connections.iter().find(|found| found.subscription_count > 0).unwrap();
    let sids: BTreeSet<&str> = of_rich.subscriptions.iter().map(|found| &found.sid[..]).collect();
    assert_eq!((of_rich.subscriptions.len(), sids.len()), (20_000, 20_000));
    assert_eq!(all.routes[0].subscriptions.len(), 20_000);
    let lists = Lists { open: true, subscriptions: true, ..Lists::default() };
    let only = Some(Arc::new(cids.iter().copied().take(10).collect()));
    let (some, work) = gather(broker, &Wanted { lists, only, ..Wanted::default() });
    assert_eq!(some.connections.len(), 10);
    assert!(work < 2_000, "{work} for ten connections without interests");
    let (some, _) = gather(broker, &Wanted { lists, matching: "x.77".into(), ..Wanted::default() });
    let found: usize = some.connections.iter().map(|found| found.subscriptions.len()).sum();
    assert_eq!(found, 1);
}

/// Goal: what an engine has to do with a request is a part of the share of who sent it.
#[test]
fn requests_for_an_engine_count_as_what_they_cost_there() {
    let mut process = process();
    let client = process.client(0, "");
    let interest = EngineInterest {
        engine: LoopIndex(0),
        account: AccountIndex::GLOBAL,
        key: 7,
        credit: Credit::Free,
        is_brief: true,
        keeper: None,
    };
    process.loops[0].listen(&crate::base::id::Subject::from("_STAN.ping"), interest);
    let mut input = BytesMut::from("PUB _STAN.ping 0\r\n\r\n".repeat(10_000).as_bytes());
    let now = process.now;
    let mut turns = 0;
    while process.loops[0].read(client, &mut input, now) == Flow::Yielded {
        turns += 1;
        let mut count = 0;
        while let Some(effect) = process.loops[0].poll_effect() {
            count += usize::from(matches!(effect, Effect::ToEngine(_)));
        }
        assert!((1..2_000).contains(&count), "{count} requests in one turn");
    }
    assert!(turns > 5, "{turns} turns");
}

/// Goal: what a turn copies is bounded in bytes, however long the names are that each receiver
/// gets, here and by mail to another loop.
#[test]
fn what_is_copied_for_each_receiver_counts_as_work() {
    const TURN_BYTES_MAX: usize = 8 * 1024 * 1024;
    for home in [0, 1] {
        let settings = Settings { max_pending: usize::MAX, ..Settings::default() };
        let mut process = Process::new(2, settings);
        let receiver = process.client(home, "");
        let lines: String = (0..10_000).map(|n| format!("SUB > {n}\r\n")).collect();
        process.send(receiver, lines.as_bytes());
        process.take(receiver);
        let sender = process.client(0, "");
        let subject = ["a"; 1_900].join(".");
        let said = format!("PUB {subject} 1\r\nx\r\nPUB after 0\r\n\r\n");
        let mut input = BytesMut::from(said.as_bytes());
        let now = process.now;
        let (mut turns, mut total) = (0, 0);
        loop {
            let flow = process.loops[0].read(sender, &mut input, now);
            process.settle();
            let got = process.take(receiver).len();
            assert!(got < TURN_BYTES_MAX, "{got} bytes in one turn");
            (turns, total) = (turns + 1, total + got);
            if flow == Flow::NeedMore {
                break;
            }
        }
        assert!(10_000 * subject.len() < total, "{total} bytes in {turns} turns");
        assert!(5 < turns, "{turns} turns");
    }
}

/// Goal: a message for very many receivers is given to them in portions: each gets it once and in
/// order, and what its sender says after it waits.
#[test]
fn a_message_for_very_many_receivers_is_spread_over_turns() {
    for len in [2, 1_100] {
        let settings = Settings { max_pending: usize::MAX, ..Settings::default() };
        let mut process = Process::new(1, settings);
        let receivers = [process.client(0, ""), process.client(0, "")];
        let lines: String = (0..15_000).map(|n| format!("SUB one {n}\r\n")).collect();
        for id in receivers {
            process.send(id, lines.as_bytes());
        }
        let sender = process.client(0, "");
        process.send(sender, b"SUB after 1\r\n");
        let payload = "x".repeat(len);
        let publish = |subject| format!("PUB {subject} {len}\r\n{payload}\r\n");
        let said = [publish("one"), publish("after"), publish("one")].concat();
        let mut input = BytesMut::from(said.as_bytes());
        let now = process.now;
        let (mut turns, mut sender_got) = (0, String::new());
        loop {
            let before = process.loops[0].work_done();
            let flow = process.loops[0].read(sender, &mut input, now);
            let work = process.loops[0].work_done() - before;
            // In the first turn the receivers are listed, which is a small part of giving.
            let listed = if turns == 0 { 30_000 } else { 0 };
            assert!(work <= listed + SESSION_WORK_MAX + 64, "{work} in one turn");
            turns += 1;
            sender_got += &process.take(sender);
            let is_early = turns < 3;
            assert!(!(is_early && sender_got.contains("after")), "nothing overtakes it");
            if flow == Flow::NeedMore {
                break;
            }
            assert_eq!(flow, Flow::Yielded);
        }
        assert!(turns > 3, "{turns} turns");
        assert!(sender_got.contains("MSG after 1"));
        for id in receivers {
            let got = process.take(id);
            let mut counts = BTreeMap::new();
            for line in got.lines().filter(|line| line.starts_with("MSG one ")) {
                *counts.entry(line.to_owned()).or_insert(0) += 1;
            }
            assert_eq!(counts.len(), 15_000);
            assert!(counts.values().all(|count| *count == 2));
            assert_eq!(got.matches(&payload).count(), 30_000);
        }
        let traffic = process.loops[0].traffic;
        assert_eq!((traffic.in_msgs, traffic.out_msgs), (3, 60_001));
    }
}

/// Reads what a session says in turns; the work of each is bounded. Says how many there were.
fn read_in_turns(process: &mut Process, id: SessionId, said: &str) -> usize {
    let mut input = BytesMut::from(said.as_bytes());
    let mut turns = 1;
    loop {
        let now = process.now;
        let before = process.loops[0].work_done();
        let flow = process.loops[0].read(id, &mut input, now);
        let work = process.loops[0].work_done() - before;
        assert!(work <= SESSION_WORK_MAX + 256, "{work} in one turn");
        process.settle();
        if flow == Flow::NeedMore {
            return turns;
        }
        assert_eq!(flow, Flow::Yielded);
        turns += 1;
    }
}

/// Goal: queues are receivers: a message for very many of them is listed, and given to them, in
/// portions; each gets it once and in order, from a client and from a peer that names them all.
#[test]
fn a_message_for_very_many_queues_is_spread_over_turns() {
    for (home, is_routed) in [(0, false), (1, false), (0, true), (1, true)] {
        let cluster = Cluster { name: "c".into(), ..Cluster::default() };
        let settings = Settings { cluster: Some(cluster), ..Settings::default() };
        let mut process = Process::new(2, settings);
        let members = [process.client(home, ""), process.client(home, "")];
        for id in members {
            let lines: String = (0..6_000).map(|n| format!("SUB one q{n} {n}\r\n")).collect();
            process.send(id, lines.as_bytes());
        }
        process.send(members[0], b"SUB one plain\r\nSUB on* q 1\r\nSUB > q7 7\r\n");
        let names: String = (0..6_000).map(|n| format!("q{n} ")).collect();
        let (sender, one, two) = if is_routed {
            let peer = process.open(0, ConnectionKind::RouteAccepted);
            process.send(peer, PEER.as_bytes());
            let line = |number| format!("RMSG $G one | {names}q5 q6 1\r\n{number}\r\n");
            (peer, line(1), line(2))
        } else {
            let line = |number| format!("PUB one 1\r\n{number}\r\n");
            (process.client(0, ""), line(1), line(2))
        };
        let turns = read_in_turns(&mut process, sender, &(one + &two));
        assert!(turns > 8, "{turns} turns");
        let got = members.map(|id| process.take(id)).concat();
        let mut by_queue: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let lines: Vec<&str> = got.lines().collect();
        for pair in lines.chunks(2) {
            let sid = pair[0].split(' ').nth(2).unwrap();
            by_queue.entry(sid).or_default().push(pair[1]);
        }
        assert_eq!(by_queue.remove("plain").unwrap(), ["1", "2"]);
        assert_eq!(by_queue.len(), 6_000);
        for (queue, mut got) in by_queue {
            // Two members of a queue are two connections.
            got.sort_unstable();
            assert_eq!(got, ["1", "2"], "{queue} {home} {is_routed}");
        }
    }
}

/// Goal: whoever is slow holds back the sender of a message that is given in portions, too.
#[test]
fn a_message_in_portions_waits_for_who_is_slow() {
    for slow_one in ["a queue of the last portion", "a route"] {
        let cluster = Cluster { name: "c".into(), ..Cluster::default() };
        let settings =
            Settings { cluster: Some(cluster), max_pending: 1_000_000, ..Settings::default() };
        let mut process = Process::new(1, settings);
        let (quick, sender) = (process.client(0, ""), process.client(0, ""));
        let lines: String = (0..6_000).map(|n| format!("SUB one q{n} {n}\r\n")).collect();
        process.send(quick, lines.as_bytes());
        let slow = if slow_one == "a route" {
            let peer = process.open(0, ConnectionKind::RouteAccepted);
            process.send(peer, (PEER.to_owned() + "RS+ $G one\r\nRS+ $G fill\r\n").as_bytes());
            peer
        } else {
            let client = process.client(0, "");
            process.send(client, b"SUB one zzz z\r\nSUB fill f\r\n");
            client
        };
        process.take(slow);
        let filler = format!("PUB fill 600000\r\n{}\r\n", "x".repeat(600_000));
        process.send(sender, filler.as_bytes());
        assert_eq!(process.flows[&sender], Flow::NeedMore);
        process.send(sender, b"PUB one 4\r\nlast\r\n");
        assert_eq!(process.flows[&sender], Flow::Paused, "{slow_one}");
        assert!(!process.take(slow).contains("last"), "{slow_one}");
        process.pass(Duration::from_millis(20));
        process.read(sender);
        assert_eq!(process.flows[&sender], Flow::NeedMore, "{slow_one}");
        assert!(process.take(slow).contains("last"), "{slow_one}");
        assert_eq!(process.take(quick).matches("last").count(), 6_000, "{slow_one}");
    }
}

/// Goal: a route gets one copy of a message, however many queues behind it get it: its peer gives
/// each copy to all its plain subscribers.
#[test]
fn a_route_gets_one_copy_that_names_very_many_queues() {
    let mut process = process();
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    let lines: String = (0..20_000).map(|n| format!("RS+ $G one q{n} 1\r\n")).collect();
    process.send(peer, (PEER.to_owned() + &lines + "RS+ $G one\r\n").as_bytes());
    let sender = process.client(0, "");
    process.take(peer);
    let turns = read_in_turns(&mut process, sender, "PUB one 1\r\n1\r\nPUB two 0\r\n\r\n");
    assert!(turns > 10, "{turns} turns");
    let got = process.take(peer);
    assert_eq!(got.matches("RMSG").count(), 1);
    let names: BTreeSet<&str> = got.split(' ').filter(|word| word.starts_with('q')).collect();
    assert_eq!(names.len(), 20_000);
    assert!(got.ends_with(" 1\r\n1\r\n"), "{}", &got[got.len() - 20..]);
}

/// Goal: queues that end while a message is on its way to them are not taken for others that come
/// in their places.
#[test]
fn a_queue_that_ends_meanwhile_is_no_other_one() {
    let mut process = process();
    let member = process.client(0, "");
    let lines: String = (0..5_000).map(|n| format!("SUB one q{n:04} {n}\r\n")).collect();
    process.send(member, lines.as_bytes());
    let sender = process.client(0, "");
    let mut input = BytesMut::from("PUB one 1\r\n1\r\n");
    let now = process.now;
    while !process.take(member).contains("MSG one 0 ") {
        assert_eq!(process.loops[0].read(sender, &mut input, now), Flow::Yielded);
    }
    let ends: String = (0..5_000).map(|n| format!("UNSUB {n}\r\n")).collect();
    process.send(member, ends.as_bytes());
    let lines: String = (0..5_000).map(|n| format!("SUB two q{n:04} {n}\r\n")).collect();
    process.send(member, lines.as_bytes());
    while process.loops[0].read(sender, &mut input, now) == Flow::Yielded {}
    let late = process.take(member).matches("MSG").count();
    assert_eq!(late, 0, "nobody listens to that any more");
}
