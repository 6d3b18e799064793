//! What routes that come, go and speak cost those that are there: all is done in portions.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::settings::Cluster;
use super::tests::{Process, post};
use super::*;
use crate::base::limits::{ADDRESS_ROUTES_MAX, PORTION_WORK_MAX, ROUTE_PENDING_BYTES_MIN};

/// A server with routes of authenticated peers, each of which tells of a URL of its own.
fn process(loops: u16, routes: usize) -> (Process, Vec<SessionId>) {
    process_with(loops, routes, Settings::default())
}

fn process_with(loops: u16, routes: usize, settings: Settings) -> (Process, Vec<SessionId>) {
    let user = Some(("u".to_owned(), "p".to_owned()));
    let cluster = Cluster { name: "c".into(), user, ..Cluster::default() };
    let mut process = Process::new(loops, Settings { cluster: Some(cluster), ..settings });
    let peers = (0..routes).map(|n| introduced(&mut process, n)).collect::<Vec<_>>();
    process.pass(Duration::from_secs(1));
    for id in &peers {
        process.take(*id);
    }
    process.effects.clear();
    (process, peers)
}

fn introduction(n: usize) -> String {
    format!(
        "CONNECT {{\"cluster\":\"c\",\"user\":\"u\",\"pass\":\"p\"}}\r\n\
         INFO {{\"server_id\":\"NX{n:04}\",\"server_name\":\"x{n}\",\"cluster\":\"c\",\
         \"connect_urls\":[\"10.0.0.1:{n}\"]}}\r\n"
    )
}

fn introduced(process: &mut Process, n: usize) -> SessionId {
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    process.send(peer, introduction(n).as_bytes());
    peer
}

/// Goal: whom a new route is told is no work of the turn in which it comes; in the end each has
/// heard of it once, and what a turn does is the same beside few and beside many.
#[test]
fn others_hear_of_a_new_route_in_portions_and_once() {
    for count in [10, 1_000] {
        let (mut process, peers) = process(1, count);
        let before = process.loops[0].work_done();
        let new = process.open(0, ConnectionKind::RouteAccepted);
        let mut input = BytesMut::from(introduction(9_999).as_bytes());
        let now = process.now;
        assert_eq!(process.loops[0].read(new, &mut input, now), Flow::NeedMore);
        let work = process.loops[0].work_done() - before;
        assert!(work <= PORTION_WORK_MAX + 512, "{work} beside {count}");
        let mut heard: Vec<String> = peers.iter().map(|id| process.take(*id)).collect();
        let at_once = heard.iter().filter(|text| text.contains("NX9999")).count();
        assert!(at_once <= 300, "{at_once} of {count} at once");
        process.pass(Duration::from_millis(1));
        for (text, id) in heard.iter_mut().zip(&peers) {
            *text += &process.take(*id);
            assert_eq!(text.matches("NX9999").count(), 1, "{text}");
        }
        assert!(!process.take(new).contains("NX9999"), "nobody hears of itself");
    }
}

/// Goal: of a peer that is gone before its turn came nobody hears any more.
#[test]
fn a_route_that_left_is_not_told_of() {
    let (mut process, peers) = process(1, 1_000);
    let new = introduced(&mut process, 9_999);
    let now = process.now;
    process.loops[0].closed(new, "Client Closed", now);
    process.pass(Duration::from_millis(1));
    let heard = peers.iter().filter(|id| process.take(**id).contains("NX9999")).count();
    assert!(heard <= 300, "{heard}");
}

/// Goal: many routes that come or go at once change the list of the cluster's URLs a few times,
/// and the last one is right.
#[test]
fn the_list_of_urls_follows_many_routes_in_few_steps() {
    let (mut process, peers) = process(2, 1_000);
    let client = process.client(1, ",\"protocol\":1");
    process.ask(client, "PING\r\n");
    let now = process.now;
    let mut lists = 0;
    for id in &peers[1..] {
        process.loops[0].closed(*id, "Client Closed", now);
        while let Some(effect) = process.loops[0].poll_effect() {
            let Effect::Mail { to, mail } = effect else { continue };
            lists += usize::from(matches!(mail, Mail::ConnectUrls(_)));
            process.loops[to.index()].handle(Input::Mail(mail), now);
        }
    }
    assert!(lists <= 20, "{lists} lists in one turn");
    process.pass(Duration::from_millis(1));
    let told = process.take(client);
    let last = told.rsplit("INFO ").next().unwrap();
    assert_eq!(last.matches("10.0.0.1:").count(), 1, "{last}");
    assert!(last.contains("10.0.0.1:0\""), "{last}");
}

/// Goal: a URL that two peers tell of stays until both are gone.
#[test]
fn a_url_of_two_peers_is_told_once_and_until_both_left() {
    let (mut process, peers) = process(1, 1);
    let twin = process.open(0, ConnectionKind::RouteAccepted);
    process.send(twin, introduction(0).replace("NX0000", "NX0001").replace("x0", "x1").as_bytes());
    let now = process.now;
    let urls = |process: &Process| process.loops[0].info.connect_urls.clone();
    assert_eq!(urls(&process), ["10.0.0.1:0"]);
    process.loops[0].closed(peers[0], "Client Closed", now);
    assert_eq!(urls(&process), ["10.0.0.1:0"]);
    // A peer that sends its clients away is counted as gone, and once.
    process.send(twin, b"INFO {\"server_id\":\"NX0001\",\"ldm\":true}\r\n");
    process.pass(Duration::from_millis(1));
    assert!(urls(&process).is_empty(), "{:?}", urls(&process));
    process.loops[0].closed(twin, "Client Closed", now);
    assert!(urls(&process).is_empty());
}

/// Goal: what a client asks for is as much work as routes that are told of it.
#[test]
fn interest_counts_as_what_is_said_to_routes() {
    let (mut process, peers) = process(1, 1_000);
    let client = process.client(0, "");
    let lines: String = (0..200).map(|n| format!("SUB x.{n} {n}\r\n")).collect();
    let mut input = BytesMut::from(lines.as_bytes());
    let (now, mut turns, mut flow) = (process.now, 0, Flow::Yielded);
    while flow == Flow::Yielded {
        flow = process.loops[0].read(client, &mut input, now);
        turns += 1;
        let told = process.take(peers[0]).matches("RS+ $G x.").count();
        assert!(told <= 20, "{told} interests told 1,000 routes in one turn");
    }
    assert!(turns >= 10, "{turns} turns");
}

/// Goal: the end of a session with many interests takes many routes no longer at one time.
#[test]
fn who_leaves_is_taken_out_in_smaller_parts_where_there_are_many_routes() {
    let (mut process, peers) = process(1, 1_000);
    let client = process.client(0, "");
    let lines: String = (0..300).map(|n| format!("SUB x.{n} {n}\r\n")).collect();
    process.send(client, lines.as_bytes());
    process.take(peers[0]);
    process.pass(Duration::from_millis(1));
    let now = process.now;
    process.loops[0].closed(client, "Client Closed", now);
    let told = process.take(peers[0]).matches("RS- $G x.").count();
    assert!((1..20).contains(&told), "{told} at once");
    process.pass(Duration::from_millis(1));
    assert_eq!(told + process.take(peers[0]).matches("RS- $G x.").count(), 300);
}

/// Goal: one address brings a bounded number of routes, unless they have proved to be peers; who
/// goes makes room.
#[test]
fn strangers_bring_a_bounded_number_of_routes() {
    let cluster = Cluster { name: "c".into(), ..Cluster::default() };
    let mut process = Process::new(1, Settings { cluster: Some(cluster), ..Settings::default() });
    let peers: Vec<_> = (0..ADDRESS_ROUTES_MAX).map(|n| introduced(&mut process, n)).collect();
    assert!(peers.iter().all(|id| process.is_open(*id)));
    let refused = introduced(&mut process, 9_000);
    assert!(process.take(refused).ends_with("-ERR 'maximum connections exceeded'\r\n"));
    assert!(!process.is_open(refused));
    assert!(process.is_open(peers[0]), "those that are there stay");
    let now = process.now;
    process.loops[0].closed(refused, "Client Closed", now);
    process.loops[0].closed(peers[3], "Client Closed", now);
    let next = introduced(&mut process, 9_001);
    assert!(process.is_open(next));
    let refused = introduced(&mut process, 9_002);
    assert!(!process.is_open(refused), "the one that was refused has freed no place");
    let ours = process
        .open(0, ConnectionKind::RouteSolicited { url: "right:6222".into(), is_explicit: true });
    process.send(ours, introduction(9_003).as_bytes());
    assert!(process.is_open(ours), "a route that we asked for is none of a stranger");
}

/// Goal: what a stranger tells of itself lies in memory once, however many routes hear it.
#[test]
fn a_long_introduction_is_copied_for_nobody() {
    let (mut process, peers) = process(1, 200);
    let long = "y".repeat(40_000);
    let new = process.open(0, ConnectionKind::RouteAccepted);
    let said = introduction(9_999).replace("\"x9999\"", &format!("\"{long}\""));
    process.send(new, said.as_bytes());
    process.pass(Duration::from_millis(1));
    let mut places = std::collections::BTreeSet::new();
    for id in &peers {
        let mut slices = Vec::new();
        process.loops[0].outbox(*id).unwrap().slices(true, &mut slices);
        let line = slices.iter().find(|slice| slice.len() > long.len()).unwrap();
        places.insert(line.as_ptr().addr());
    }
    assert_eq!(places.len(), 1);
}

/// A turn later, with nothing but what is left from before.
fn turn(process: &mut Process) {
    process.now.at = process.now.at + Duration::from_nanos(1);
    let now = process.now;
    process.loops[0].handle_timeout(now);
    process.settle();
}

/// Goal: sessions that ended are taken out as quickly as others can come with as many interests;
/// and a route that comes meanwhile is told what is wanted here all the same.
#[test]
fn what_ended_neither_piles_up_nor_keeps_a_new_route_waiting() {
    let (mut process, _) = process(1, 1);
    let crowd: Vec<_> = (0..10).map(|_| process.client(0, "")).collect();
    for (at, id) in crowd.iter().enumerate() {
        let lines: String = (0..2_500).map(|n| format!("SUB x.{at}.{n} {n}\r\n")).collect();
        process.send(*id, lines.as_bytes());
    }
    let now = process.now;
    for id in &crowd {
        process.loops[0].closed(*id, "Client Closed", now);
    }
    process.settle();
    let len = |process: &Process| {
        process.loops[0].accounts[AccountIndex::GLOBAL].snapshot().num_subscriptions
    };
    let before = len(&process);
    let new = introduced(&mut process, 9_999);
    process.take(new);
    turn(&mut process);
    let gone = before - len(&process);
    let most_to_come = crate::base::limits::TURN_WORK_MAX / super::sublist::INTEREST_WORK as u64;
    assert!(most_to_come / 2 < gone, "{gone} in one turn, where {most_to_come} can come");
    assert!(len(&process) > 0, "not all is done yet");
    assert!(process.take(new).contains("RS+ $G x."), "the route is told too");
}

/// Goal: a route that ends because of what is told in a portion is no portion within it.
#[test]
fn routes_that_end_in_a_portion_do_not_begin_another_one() {
    let settings = Settings { max_pending: 1_024, ..Settings::default() };
    let (mut process, peers) = process_with(2, 5, settings);
    for id in &peers {
        process.send(*id, b"RS+ $G big\r\n");
    }
    let now = process.now;
    let large = vec![b'x'; ROUTE_PENDING_BYTES_MIN / 64];
    for _ in 0..63 {
        process.loops[0].publish(&post("big", &large), None, now);
    }
    process.loops[0].publish(&post("big", &large[50_000..]), None, now);
    while process.loops[0].poll_effect().is_some() {}
    assert!(peers.iter().all(|id| process.is_open(*id)));
    let said = introduction(9_999).replace("\"x9999\"", &format!("\"{}\"", "y".repeat(60_000)));
    let new = process.open(0, ConnectionKind::RouteAccepted);
    let flow = process.loops[0].read(new, &mut BytesMut::from(said.as_bytes()), now);
    assert_eq!(flow, Flow::NeedMore);
    let mut order = String::new();
    while let Some(effect) = process.loops[0].poll_effect() {
        if matches!(effect, Effect::Close { .. }) {
            order.push_str("closed ");
        } else if matches!(effect, Effect::Mail { mail: Mail::InterestsGone(_), .. }) {
            order.push_str("taken-out ");
        }
    }
    let expected = "closed ".repeat(5) + &"taken-out ".repeat(5);
    assert_eq!(order, expected);
}
