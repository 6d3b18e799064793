//! What routes that come, go and speak cost those that are there: all is done in portions.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::settings::Cluster;
use super::tests::Process;
use super::*;
use crate::base::limits::{ADDRESS_ROUTES_MAX, PORTION_WORK_MAX};

/// A server with routes of authenticated peers, each of which tells of a URL of its own.
fn process(loops: u16, routes: usize) -> (Process, Vec<SessionId>) {
    let user = Some(("u".to_owned(), "p".to_owned()));
    let cluster = Cluster { name: "c".into(), user, ..Cluster::default() };
    let mut process =
        Process::new(loops, Settings { cluster: Some(cluster), ..Settings::default() });
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
