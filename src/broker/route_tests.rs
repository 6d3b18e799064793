//! Whole servers joined by routes, driven by hand.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use proptest::prelude::*;

use super::room_tests::{deliver, told};
use super::settings::Cluster;
use super::snapshot::Lists;
use super::tests::Process;
use super::*;
use crate::base::id::Subject;
use crate::base::limits::GOSSIP_DIALS_MAX;

pub(super) fn server(
    loops: u16,
    name: &str,
    more: impl FnOnce(&mut Settings, &mut Cluster),
) -> Process {
    let mut cluster = Cluster { name: "abc".into(), port: 6222, ..Cluster::default() };
    let mut settings = Settings {
        server_id: format!("N{name}"),
        server_name: name.into(),
        client_urls: vec![format!("{name}:4222")],
        ..Settings::default()
    };
    more(&mut settings, &mut cluster);
    settings.cluster = Some(cluster);
    Process::new(loops, settings)
}

pub(super) fn route_to(url: &str) -> ConnectionKind {
    ConnectionKind::RouteSolicited { url: url.to_owned(), is_explicit: true }
}

/// The URLs that a server asked to be dialled since it was asked last.
fn dialled(process: &mut Process) -> Vec<String> {
    process.settle();
    let url_of = |effect| if let Effect::Dial { url, .. } = effect { Some(url) } else { None };
    process.effects.drain(..).filter_map(url_of).collect()
}

fn dial_failed(url: &str) -> Input {
    Input::DialFailed { url: url.to_owned(), reason: "connection refused".to_owned() }
}

/// Joins two servers: `left` dialled `right`.
pub(super) fn join(left: &mut Process, right: &mut Process) -> (SessionId, SessionId) {
    let ours = left.open(0, route_to("right:6222"));
    let theirs = right.open(0, ConnectionKind::RouteAccepted);
    carry(left, ours, right, theirs);
    (ours, theirs)
}

/// Carries bytes both ways until none is left.
pub(super) fn carry(left: &mut Process, ours: SessionId, right: &mut Process, theirs: SessionId) {
    loop {
        let (there, back) = (left.take(ours), right.take(theirs));
        if there.is_empty() && back.is_empty() {
            return;
        }
        right.send(theirs, there.as_bytes());
        left.send(ours, back.as_bytes());
    }
}

#[test]
fn messages_cross_a_route_once_and_only_where_they_are_wanted() {
    for loops in [1, 2] {
        let (mut left, mut right) = (server(loops, "a", |_, _| ()), server(loops, "b", |_, _| ()));
        let far = right.client(loops - 1, ",\"headers\":true");
        right.send(far, b"SUB early 1\r\nSUB early 2\r\n");
        let (ours, theirs) = join(&mut left, &mut right);
        right.send(far, b"SUB late.* 3\r\n");
        carry(&mut left, ours, &mut right, theirs);
        let near = left.client(loops - 1, ",\"headers\":true");
        left.send(near, b"PUB early re 2\r\nhi\r\nPUB other 0\r\n\r\n");
        left.send(near, b"HPUB late.x 12 13\r\nNATS/1.0\r\n\r\n!\r\n");
        let crossing = left.take(ours);
        assert_eq!(
            crossing,
            "RMSG $G early re 2\r\nhi\r\nHMSG $G late.x 12 13\r\nNATS/1.0\r\n\r\n!\r\n"
        );
        right.send(theirs, crossing.as_bytes());
        let got = right.take(far);
        assert_eq!(got.matches("MSG early").count(), 2);
        assert!(got.ends_with("HMSG late.x 3 12 13\r\nNATS/1.0\r\n\r\n!\r\n"));
        right.send(far, b"UNSUB 1\r\n");
        assert_eq!(right.take(theirs), "", "another one still listens");
        right.send(far, b"UNSUB 2\r\n");
        assert_eq!(right.take(theirs), "RS- $G early\r\n");
    }
}

#[test]
fn a_queue_over_two_servers_gets_each_message_once() {
    let (mut left, mut right) = (server(2, "a", |_, _| ()), server(2, "b", |_, _| ()));
    let (ours, theirs) = join(&mut left, &mut right);
    let near = left.client(0, "");
    left.send(near, b"SUB work q 1\r\n");
    let members = [right.client(0, ""), right.client(1, "")];
    for member in members {
        right.send(member, b"SUB work q 1\r\n");
    }
    assert_eq!(right.take(theirs), "RS+ $G work q 1\r\nRS+ $G work q 2\r\n");
    left.send(ours, b"RS+ $G work q 2\r\n");
    let sender = left.client(1, "");
    for _ in 0..300 {
        left.send(sender, b"PUB work 1\r\nx\r\n");
    }
    carry(&mut left, ours, &mut right, theirs);
    let here = left.take(near).matches("MSG work").count();
    let there: usize = members.iter().map(|id| right.take(*id).matches("MSG work").count()).sum();
    assert_eq!(here + there, 300);
    assert!((60..140).contains(&here), "a third of the members is here: {here}");
}

#[test]
fn a_route_that_takes_too_little_is_closed_and_what_waits_for_it_is_bounded() {
    let mut process = server(1, "a", |settings, _| settings.max_pending = 1_000_000);
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    let info =
        "INFO {\"server_id\":\"NB\",\"server_name\":\"b\",\"cluster\":\"abc\",\"proto\":2}\r\n";
    process.send(peer, format!("CONNECT {{}}\r\n{info}RS+ $G a\r\n").as_bytes());
    process.take(peer);
    let sender = process.client(0, "");
    let publish = [&b"PUB a 900000\r\n"[..], &[b'x'; 900_000], b"\r\n"].concat();
    let mut longest = 0;
    for _ in 0..200 {
        if !process.is_open(peer) {
            break;
        }
        process.send(sender, &publish);
        // Its publishers are held back, but not for ever; the route reads a little.
        process.pass(Duration::from_millis(1_500));
        process.read(sender);
        if let Some(outbox) = process.broker(peer).outbox(peer) {
            longest = longest.max(outbox.len());
            if !outbox.is_empty() {
                outbox.advance(1);
            }
        }
    }
    assert!(!process.is_open(peer));
    let bound = crate::base::limits::ROUTE_PENDING_BYTES_MIN;
    assert!((bound - 2_000_000..=bound + 1_000_000).contains(&longest), "{longest}");
}

#[test]
fn a_full_reader_behind_a_route_holds_back_what_goes_to_its_inbox() {
    for loops in [1, 2] {
        let small = |settings: &mut Settings, _: &mut Cluster| settings.max_pending = 40_000;
        let (mut left, mut right) = (server(loops, "a", small), server(loops, "b", small));
        let (ours, theirs) = join(&mut left, &mut right);
        let slow = right.client(loops - 1, "");
        let other = right.client(0, "");
        right.send(slow, b"SUB in.1 1\r\n");
        right.send(other, b"SUB in.2 1\r\n");
        carry(&mut left, ours, &mut right, theirs);
        let engine = loops - 1;
        for key in 1..=2 {
            let inbox = Subject::from(format!("in.{key}"));
            left.loops[usize::from(engine)].watch(key, AccountIndex::GLOBAL, &inbox);
        }
        left.settle();
        assert_eq!(told(&mut left), "1+ 2+");
        for (key, inbox) in [(1, "in.1"), (2, "in.2"), (1, "in.1")] {
            deliver(&mut left, engine, key, inbox, 6_000);
            left.settle();
            carry(&mut left, ours, &mut right, theirs);
        }
        assert_eq!(told(&mut left), "1-", "of the other reader nothing is said");
        // What was under way does not cut it off: the other side has said that it holds back.
        for _ in 0..8 {
            let rest = format!("RMSG $G in.1 6000\r\n{}\r\n", "x".repeat(6_000));
            right.send(theirs, rest.as_bytes());
        }
        assert!(right.is_open(slow));
        let mut slices = Vec::new();
        right.broker(slow).outbox(slow).unwrap().slices(false, &mut slices);
        assert!(!slices.is_empty(), "a peer's deliveries need no lease of ours");
        right.take(slow);
        right.broker(slow).wrote(slow);
        right.settle();
        carry(&mut left, ours, &mut right, theirs);
        assert_eq!(told(&mut left), "1+");
        deliver(&mut left, engine, 1, "in.1", 12_000);
        left.settle();
        told(&mut left);
        carry(&mut left, ours, &mut right, theirs);
        left.broker(ours).wrote(ours);
        left.settle();
        told(&mut left);
        // Nobody waits for a reader that is gone.
        let now = right.now;
        right.broker(slow).closed(slow, "Client Closed", now);
        right.settle();
        carry(&mut left, ours, &mut right, theirs);
        assert_eq!(told(&mut left), "1+");
    }
}

#[test]
fn what_a_queue_member_left_behind_goes_to_another_server() {
    let mut process = server(1, "a", |_, _| ());
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    let info =
        "INFO {\"server_id\":\"NB\",\"server_name\":\"b\",\"cluster\":\"abc\",\"proto\":2}\r\n";
    process.send(peer, format!("CONNECT {{}}\r\n{info}RS+ $G work q 1\r\n").as_bytes());
    process.take(peer);
    process.send(peer, b"RMSG $G work | q 1\r\nx\r\n");
    assert_eq!(process.take(peer), "RMSG $G work | q 1\r\nx\r\n");
}

/// The payloads that engines of `process` were given.
fn heard(process: &mut Process) -> Vec<String> {
    let given = process.effects.drain(..).filter_map(|effect| {
        let Effect::ToEngine(delivery) = effect else { return None };
        Some(String::from_utf8_lossy(&delivery.payload).into_owned())
    });
    given.collect()
}

/// Engines of all loops take messages, or cease to, and take heartbeats all the time.
fn serve(process: &mut Process, is_active: bool) {
    let now = process.now;
    for (engine, broker) in (0..).map(LoopIndex).zip(&mut process.loops) {
        if !is_active {
            broker.handle(Input::EngineGone, now);
        }
        let (account, is_brief) = (AccountIndex::GLOBAL, true);
        let interest =
            |key, credit| EngineInterest { engine, account, key, credit, is_brief, keeper: None };
        broker.listen(&Subject::from("beat"), interest(1, Credit::Free));
        if is_active {
            broker.listen(&Subject::from("sub.x"), interest(2, Credit::Requests));
            broker.listen(&Subject::from("pub.>"), interest(3, Credit::Messages));
        }
    }
    process.settle();
}

/// Goal: what a slow route still carries to a former active was handled by the one after it. When
/// the former one is active again, it does not handle that once more.
#[test]
fn what_a_route_carries_from_before_an_engine_began_does_not_reach_it() {
    for loops in [1, 2] {
        let (mut left, mut right) = (server(loops, "a", |_, _| ()), server(loops, "b", |_, _| ()));
        // A client hears all the time what goes by, so that it is sent all the time.
        let tap = right.client(0, "");
        right.send(tap, b"SUB > 1\r\n");
        let (ours, theirs) = join(&mut left, &mut right);
        let publisher = left.client(loops - 1, "");
        for round in ["first", "second"] {
            let publish = |data: &str| {
                let lines = ["pub.a", "sub.x", "beat"]
                    .map(|subject| format!("PUB {subject} {}\r\n{data}\r\n", data.len()));
                lines.concat().into_bytes()
            };
            left.send(publisher, &publish("early"));
            // The interest of the new active has still to arrive.
            serve(&mut right, true);
            left.send(publisher, &publish("crossing"));
            let carried = left.take(ours);
            right.take(tap);
            right.send(theirs, carried.as_bytes());
            assert_eq!(heard(&mut right), ["early", "crossing"], "{round}: the heartbeats alone");
            assert_eq!(right.take(tap).matches("MSG").count(), 6, "others get all of it");
            let news = right.take(theirs);
            let (asks, tells) = (news.find("PING"), news.find("RS+ $G sub.x"));
            assert!(asks < tells && asks.is_some(), "{round}: asked behind the interest: {news}");
            left.send(ours, news.as_bytes());
            left.send(publisher, &publish("late"));
            carry(&mut left, ours, &mut right, theirs);
            assert_eq!(heard(&mut right), ["late"; 3], "{round}");
            serve(&mut right, false);
            left.send(publisher, &publish("nobody's"));
            carry(&mut left, ours, &mut right, theirs);
            assert_eq!(heard(&mut right), ["nobody's"], "{round}");
        }
    }
}

/// Goal: one loop may still have its engine of a former term when that of the next term begins on
/// another. What routes carry from before is behind an answer all the same.
#[test]
fn an_engine_asks_peers_when_it_begins_though_another_loop_is_late_to_end_its_former_one() {
    let (mut left, mut right) = (server(1, "a", |_, _| ()), server(2, "b", |_, _| ()));
    let (ours, theirs) = join(&mut left, &mut right);
    serve(&mut right, true);
    carry(&mut left, ours, &mut right, theirs);
    let publisher = left.client(0, "");
    // The term ends and another begins; the second loop has heard of neither.
    let now = right.now;
    right.loops[0].handle(Input::EngineGone, now);
    let (engine, account) = (LoopIndex(0), AccountIndex::GLOBAL);
    let (credit, is_brief) = (Credit::Messages, true);
    let interest = EngineInterest { engine, account, key: 3, credit, is_brief, keeper: None };
    left.send(publisher, b"PUB pub.a 5\r\nearly\r\n");
    let carried = left.take(ours);
    right.loops[0].listen(&Subject::from("pub.>"), interest);
    right.settle();
    right.send(theirs, carried.as_bytes());
    assert_eq!(heard(&mut right), [""; 0], "it was sent to a former active");
    carry(&mut left, ours, &mut right, theirs);
    left.send(publisher, b"PUB pub.a 4\r\nlate\r\n");
    carry(&mut left, ours, &mut right, theirs);
    assert!(heard(&mut right).contains(&"late".to_owned()));
}

#[test]
fn clients_learn_the_urls_of_the_cluster() {
    let (mut left, mut right) = (server(2, "a", |_, _| ()), server(1, "b", |_, _| ()));
    let client = left.client(1, ",\"protocol\":1");
    left.ask(client, "PING\r\n");
    let (ours, _) = join(&mut left, &mut right);
    let info = left.take(client);
    assert!(info.contains("\"connect_urls\":[\"a:4222\",\"b:4222\"]"), "{info}");
    let now = left.now;
    left.loops[0].closed(ours, "Client Closed", now);
    left.settle();
    let info = left.take(client);
    assert!(info.contains("\"connect_urls\":[\"a:4222\"]"), "{info}");
}

#[test]
fn a_lame_duck_tells_clients_and_peers_to_go_elsewhere() {
    let (mut left, mut right) = (server(2, "a", |_, _| ()), server(1, "b", |_, _| ()));
    let (ours, theirs) = join(&mut left, &mut right);
    let near = left.client(1, ",\"protocol\":1");
    let far = right.client(0, ",\"protocol\":1");
    left.ask(near, "PING\r\n");
    right.ask(far, "PING\r\n");
    let now = left.now;
    for broker in &mut left.loops {
        broker.handle(Input::LameDuck, now);
    }
    left.settle();
    let info = left.take(near);
    assert!(info.contains("\"connect_urls\":[\"b:4222\"],\"ldm\":true"), "{info}");
    carry(&mut left, ours, &mut right, theirs);
    let info = right.take(far);
    assert!(info.contains("\"connect_urls\":[\"b:4222\"]") && !info.contains("ldm"), "{info}");
    assert_eq!(left.loops[1].clients(), vec![near]);
}

/// Goal: two servers without a name for their cluster find one at the first attempt.
#[test]
fn made_up_names_are_agreed_on_without_a_second_attempt() {
    let made_up = |name: &'static str| {
        move |_: &mut Settings, cluster: &mut Cluster| {
            cluster.name = name.into();
            cluster.is_dynamic = name != "named";
        }
    };
    for (dialler, acceptor, agreed) in
        [("x", "y", "y"), ("y", "x", "y"), ("named", "x", "named"), ("x", "named", "named")]
    {
        let mut left = server(1, "a", made_up(dialler));
        let mut right = server(1, "b", made_up(acceptor));
        join(&mut left, &mut right);
        for process in [&mut left, &mut right] {
            assert_eq!(process.loops[0].routes.cluster_name(), agreed, "{dialler} {acceptor}");
            assert_eq!(process.loops[0].snapshot(process.now, Lists::ALL).routes.len(), 1);
        }
    }
}

#[test]
fn gossip_makes_a_full_mesh() {
    let (mut left, mut right) = (server(1, "a", |_, _| ()), server(1, "b", |_, _| ()));
    let (ours, _) = join(&mut left, &mut right);
    let third = left.open(0, ConnectionKind::RouteAccepted);
    left.take(third);
    let info = "INFO {\"server_id\":\"NC\",\"server_name\":\"c\",\"cluster\":\"abc\",\"proto\":2,\
                \"host\":\"0.0.0.0\",\"port\":6300}\r\n";
    left.send(third, format!("CONNECT {{}}\r\n{info}").as_bytes());
    let gossip = left.take(ours);
    assert!(gossip.contains("\"ip\":\"nats-route://127.0.0.1:6300/\""), "{gossip}");
    right.effects.clear();
    let theirs = right.loops[0].routes.registered()[0];
    right.send(theirs, gossip.as_bytes());
    let dials = |effect: &Effect| {
        let Effect::Dial { url, is_explicit: false } = effect else { return false };
        url == "127.0.0.1:6300"
    };
    assert!(right.effects.iter().any(dials), "{:?}", right.effects);
}

/// Goal: a peer that tells of any number of servers gets few connections opened at one time, and
/// the others are tried once those have failed.
#[test]
fn gossip_opens_a_bounded_number_of_connections_at_a_time() {
    let (mut left, mut right) = (server(1, "a", |_, _| ()), server(1, "b", |_, _| ()));
    join(&mut left, &mut right);
    right.effects.clear();
    let theirs = right.loops[0].routes.registered()[0];
    for number in 0..500 {
        let gossip = format!(
            "INFO {{\"server_id\":\"N{number}\",\"cluster\":\"abc\",\"proto\":2,\"host\":\"h\",\
             \"port\":{port},\"ip\":\"nats-route://10.0.0.1:{port}/\"}}\r\n",
            port = 7_000 + number
        );
        right.send(theirs, gossip.as_bytes());
    }
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..500_usize.div_ceil(GOSSIP_DIALS_MAX) {
        let dials: Vec<String> = right
            .effects
            .drain(..)
            .filter_map(|effect| {
                let Effect::Dial { url, is_explicit: false } = effect else { return None };
                Some(url)
            })
            .collect();
        assert!(!dials.is_empty() && dials.len() <= GOSSIP_DIALS_MAX, "{}", dials.len());
        for url in dials {
            let now = right.now;
            right.loops[0].handle(dial_failed(&url), now);
            tried.insert(url);
        }
        right.pass(Duration::from_secs(1));
    }
    assert_eq!(tried.len(), 500, "each is tried in its turn");
}

#[test]
fn a_second_route_to_the_same_server_is_closed() {
    let (mut left, mut right) = (server(1, "a", |_, _| ()), server(1, "b", |_, _| ()));
    join(&mut left, &mut right);
    join(&mut left, &mut right);
    assert_eq!(left.loops[0].snapshot(left.now, Lists::ALL).routes.len(), 1);
    assert_eq!(right.loops[0].snapshot(right.now, Lists::ALL).routes.len(), 1);
}

#[test]
fn a_lost_route_that_was_configured_is_dialled_again() {
    let mut left = server(1, "a", |_, cluster| cluster.routes = vec!["right:6222".into()]);
    let mut right = server(1, "b", |_, _| ());
    let is_dial = |effect: &Effect| matches!(effect, Effect::Dial { is_explicit: true, .. });
    left.settle();
    assert!(left.effects.drain(..).any(|effect| is_dial(&effect)));
    let now = left.now;
    left.loops[0].handle(dial_failed("right:6222"), now);
    left.pass(Duration::from_secs(2));
    assert!(left.effects.drain(..).any(|effect| is_dial(&effect)), "after a failure");
    let (ours, _) = join(&mut left, &mut right);
    let now = left.now;
    left.loops[0].closed(ours, "Client Closed", now);
    left.pass(Duration::from_secs(2));
    assert!(left.effects.drain(..).any(|effect| is_dial(&effect)), "after a loss");
}

/// Goal: of two servers that close each other's routes in the same moment, or of a server with two
/// names, none is forgotten.
#[test]
fn a_configured_url_is_dialled_as_soon_as_its_server_is_not_connected() {
    const URLS: [&str; 2] = ["right:6222", "alias:6222"];
    let mut left = server(1, "a", |_, cluster| cluster.routes = URLS.map(str::to_owned).to_vec());
    let mut right = server(1, "b", |_, _| ());
    assert_eq!(dialled(&mut left), URLS);
    let mut routes = Vec::new();
    for url in URLS {
        let ours = left.open(0, route_to(url));
        let theirs = right.open(0, ConnectionKind::RouteAccepted);
        carry(&mut left, ours, &mut right, theirs);
        routes.push(ours);
    }
    left.pass(Duration::from_secs(5));
    assert_eq!(dialled(&mut left), [""; 0], "the second is a duplicate");
    let now = left.now;
    left.loops[0].closed(routes[0], "Client Closed", now);
    left.pass(Duration::from_secs(2));
    let mut again = dialled(&mut left);
    again.sort_unstable();
    assert_eq!(again, ["alias:6222", "right:6222"]);
}

/// Goal: a peer that comes and goes by itself takes nothing from the search for it.
#[test]
fn a_configured_url_stays_when_a_route_of_its_address_ends() {
    const URL: &str = "127.0.0.1:6222";
    for come in 1..=2 {
        let mut left = server(1, "a", |_, cluster| cluster.routes = vec![URL.into()]);
        let mut right = server(1, "b", |_, _| ());
        assert_eq!(dialled(&mut left), [URL]);
        let now = left.now;
        left.loops[0].handle(dial_failed(URL), now);
        let theirs: Vec<_> = (0..come).map(|_| join(&mut right, &mut left).1).collect();
        let now = left.now;
        left.loops[0].closed(theirs[0], "Client Closed", now);
        for _ in 0..3 {
            left.pass(Duration::from_secs(2));
            assert_eq!(dialled(&mut left), [URL], "{come} came");
            let now = left.now;
            left.loops[0].handle(dial_failed(URL), now);
        }
    }
}

/// Goal: what peers tell of may be configured later; then it is looked for as long as it is.
#[test]
fn a_reload_that_configures_what_is_dialled_as_gossip_keeps_it() {
    const URL: &str = "10.0.0.1:7000";
    let (mut left, mut right) = (server(1, "a", |_, _| ()), server(1, "b", |_, _| ()));
    let (ours, _) = join(&mut left, &mut right);
    left.send(
        ours,
        b"INFO {\"server_id\":\"NC\",\"cluster\":\"abc\",\"proto\":2,\"host\":\"h\",\"port\":7000,\
          \"ip\":\"nats-route://10.0.0.1:7000/\"}\r\n",
    );
    assert_eq!(dialled(&mut left), [URL]);
    let mut settings = Settings::clone(&left.loops[0].settings);
    settings.cluster.as_mut().unwrap().routes = vec![URL.to_owned(), "right:6222".to_owned()];
    let now = left.now;
    left.loops[0].handle(Input::Settings(Arc::new(settings)), now);
    for _ in 0..3 {
        left.loops[0].handle(dial_failed(URL), left.now);
        left.pass(Duration::from_secs(2));
        assert!(dialled(&mut left).contains(&URL.to_owned()));
    }
}

/// Goal: what a stranger says of itself ends no search: it names us, or a URL that is configured.
#[test]
fn a_stranger_ends_no_search_for_a_configured_url() {
    const URL: &str = "right:6222";
    for id in ["Na", "Nstranger"] {
        let mut left = server(1, "a", |_, cluster| cluster.routes = vec![URL.into()]);
        assert_eq!(dialled(&mut left), [URL]);
        let stranger = left.open(0, ConnectionKind::RouteAccepted);
        let info = format!(
            "CONNECT {{}}\r\nINFO {{\"server_id\":\"{id}\",\"cluster\":\"abc\",\"proto\":2,\
             \"host\":\"h\",\"port\":1,\"ip\":\"{URL}\"}}\r\n"
        );
        left.send(stranger, info.as_bytes());
        left.loops[0].handle(dial_failed(URL), left.now);
        left.pass(Duration::from_secs(2));
        assert_eq!(dialled(&mut left), [URL], "beside {id}");
        left.loops[0].closed(stranger, "Client Closed", left.now);
        left.loops[0].handle(dial_failed(URL), left.now);
        left.pass(Duration::from_secs(2));
        assert_eq!(dialled(&mut left), [URL], "after {id}");
    }
}

/// Goal: who looks whether it is alone knows when all who are there can hear it.
#[test]
fn routes_are_looked_for_until_each_is_there_or_cannot_be_had() {
    let urls = ["right:6222", "gone:6222", "own:6222", "mute:6222"];
    let mut left = server(1, "a", |_, cluster| cluster.routes = urls.map(str::to_owned).to_vec());
    let mut right = server(1, "b", |_, _| ());
    let now = left.now;
    left.loops[0].handle(dial_failed("gone:6222"), now);
    left.loops[0].handle(dial_failed("gone:6222"), now);
    left.loops[0].handle(Input::DialledOurselves { url: "own:6222".into() }, now);
    assert_eq!(left.loops[0].route_search(), Search::UnderWay);
    let (ours, _) = join(&mut left, &mut right);
    for _ in 0..=2 {
        assert_eq!(left.loops[0].route_search(), Search::UnderWay);
        let mute = left.open(0, route_to("mute:6222"));
        let now = left.now;
        left.loops[0].closed(mute, "Client Closed", now);
        left.pass(Duration::from_secs(2));
    }
    let found = left.loops[0].route_search();
    assert_eq!(found, Search::Ended { changes: 1 }, "nobody waits for who hangs up each time");
    let now = left.now;
    left.loops[0].closed(ours, "Client Closed", now);
    assert_eq!(left.loops[0].route_search(), Search::UnderWay, "what was there may come back");
    left.loops[0].handle(dial_failed("right:6222"), now);
    let found = left.loops[0].route_search();
    assert_eq!(found, Search::UnderWay, "who starts a moment later may know nothing of us");
    left.loops[0].handle(dial_failed("right:6222"), now);
    assert_eq!(left.loops[0].route_search(), Search::Ended { changes: 2 });
}

/// Goal: where two servers of one cluster ID met too late to find out, the log says so.
#[test]
fn another_server_of_the_cluster_id_is_named() {
    const SUBJECT: &str = "_STAN.discover.mine";
    let (serving, asking) = (Credit::Requests, Credit::Free);
    for (is_alone, credit, count) in [(true, serving, 1), (true, asking, 0), (false, serving, 0)] {
        let mut left = server(1, "a", |settings, _| {
            let (prefix, cluster_id) = ("_STAN.discover".into(), "mine".into());
            settings.discovery = Some(Discovery { prefix, cluster_id, is_alone });
        });
        let interest = EngineInterest {
            engine: LoopIndex(0),
            account: AccountIndex::GLOBAL,
            key: 1,
            credit,
            is_brief: false,
            keeper: None,
        };
        left.loops[0].listen(&Subject::from(SUBJECT), interest);
        let (ours, _) = join(&mut left, &mut server(1, "b", |_, _| ()));
        left.send(ours, b"RS+ $G _STAN.discover.other\r\n");
        for _ in 0..3 {
            left.send(ours, format!("RS+ $G {SUBJECT}\r\nRS- $G {SUBJECT}\r\n").as_bytes());
        }
        let is_told = |effect: &&Effect| {
            matches!(effect, Effect::Log { level: log::Level::Warn, text }
                if text.contains("Another streaming server of cluster ID \"mine\""))
        };
        assert_eq!(left.effects.iter().filter(is_told).count(), count, "{is_alone} {credit:?}");
    }
}

/// Goal: whom both sides refuse is not waited for.
#[test]
fn a_route_of_another_cluster_is_not_looked_for() {
    let mut left = server(1, "a", |_, cluster| {
        cluster.name = "other".into();
        cluster.routes = vec!["right:6222".into()];
    });
    let mut right = server(1, "b", |_, _| ());
    assert_eq!(left.loops[0].route_search(), Search::UnderWay);
    join(&mut left, &mut right);
    assert_eq!(left.loops[0].route_search(), Search::Ended { changes: 0 });
}

#[test]
fn names_of_clusters_must_agree_unless_made_up() {
    let mut left = server(1, "a", |_, cluster| cluster.name = "other".into());
    let mut right = server(1, "b", |_, _| ());
    let ours = left.open(0, route_to("r"));
    let theirs = right.open(0, ConnectionKind::RouteAccepted);
    let hello = left.take(ours);
    right.take(theirs);
    assert_eq!(
        right.ask(theirs, &hello),
        "-ERR 'Rejecting connection, cluster name \"other\" does not match \"abc\"'\r\n"
    );
    let mut dynamic = server(2, "c", |_, cluster| {
        cluster.name = "zzz".into();
        cluster.is_dynamic = true;
    });
    join(&mut dynamic, &mut server(1, "d", |_, _| ()));
    let client = dynamic.open(1, ConnectionKind::Client);
    assert!(dynamic.take(client).contains("\"cluster\":\"abc\""));
}

/// Goal: nobody waits for the other one to speak, and INFO has what the reference's has.
#[test]
fn both_sides_say_info_first() {
    let mut process = server(1, "a", |_, _| ());
    let ours = process.open(0, route_to("right:6222"));
    let hello = process.take(ours);
    let theirs = process.open(0, ConnectionKind::RouteAccepted);
    let greeting = process.take(theirs);
    let (connect, info) = hello.split_once("\r\n").unwrap();
    assert!(connect.starts_with("CONNECT {"), "{hello}");
    let nonce = |info: &str| {
        let (_, rest) = info.split_once("\"nonce\":\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    for info in [info, &greeting] {
        assert!(info.starts_with("INFO {"), "{info}");
        assert_eq!(nonce(info).len(), 15);
    }
    assert_ne!(nonce(info), nonce(&greeting));
}

#[test]
fn a_cluster_name_without_routes_is_told_clients() {
    let settings = Settings { cluster_name: "only".into(), ..Settings::default() };
    let mut process = Process::new(1, settings);
    let client = process.open(0, ConnectionKind::Client);
    assert!(process.take(client).contains("\"cluster\":\"only\""));
}

/// Goal: a server that stops leaves its clients the URLs of the others.
#[test]
fn a_server_that_stops_does_not_take_back_the_urls_of_its_peers() {
    let (mut left, mut right) = (server(2, "a", |_, _| ()), server(1, "b", |_, _| ()));
    let clients = [left.client(0, ",\"protocol\":1"), left.client(1, ",\"protocol\":1")];
    for client in clients {
        left.ask(client, "PING\r\n");
    }
    join(&mut left, &mut right);
    for client in clients {
        assert!(left.take(client).contains("\"connect_urls\":[\"a:4222\",\"b:4222\"]"));
    }
    let now = left.now;
    for broker in &mut left.loops {
        broker.handle(Input::Stop, now);
    }
    left.settle();
    left.pass(Duration::from_secs(1));
    for client in clients {
        assert_eq!(left.take(client), "", "no INFO, so what is known stays");
    }
}

/// Goal: who has not said who it is can say nothing else, nor at length.
#[test]
fn strangers_on_the_route_port_are_heard_only_about_themselves() {
    for bytes in [
        format!("RS+ $G {}\r\n", vec!["a"; 20_000].join(".")),
        "RS+ $G a\r\n".to_owned(),
        "RMSG $G a 0\r\n\r\n".to_owned(),
        "SUB a 1\r\n".to_owned(),
        "PUB a 0\r\n\r\n".to_owned(),
        format!("CONNECT {{\"name\":\"{}\"}}\r\n", "x".repeat(100_000)),
        format!("INFO {{\"host\":\"{}", "x".repeat(100_000)),
        format!("CONNECT {}\r\n", "[".repeat(50_000)),
        format!("INFO {{\"import\":{}\r\n", "{\"a\":".repeat(10_000)),
        "PING\r\n".repeat(100_000),
    ] {
        let mut process = server(1, "a", |_, _| ());
        let stranger = process.open(0, ConnectionKind::RouteAccepted);
        process.send(stranger, bytes.as_bytes());
        assert_eq!(process.flows[&stranger], Flow::Close, "{}", &bytes[..40.min(bytes.len())]);
        assert_eq!(process.loops[0].accounts[AccountIndex::GLOBAL].snapshot().num_subscriptions, 0);
    }
}

/// Goal: what a peer asks for may be as deep as its line is long.
#[test]
fn interest_of_a_peer_may_be_deep() {
    let mut process = server(1, "a", |_, _| ());
    let peer = process.open(0, ConnectionKind::RouteAccepted);
    let info = "INFO {\"server_id\":\"NX\",\"server_name\":\"x\",\"cluster\":\"abc\"}\r\n";
    process.send(peer, info.as_bytes());
    process.take(peer);
    let deep = vec!["a"; 20_000].join(".");
    process.send(peer, format!("RS+ $G {deep}\r\nRS+ $G *.{deep}\r\n").as_bytes());
    process.send(peer, format!("RMSG $G {deep}.a 0\r\n\r\nRS- $G *.{deep}\r\n").as_bytes());
    process.send(peer, b"PING\r\n");
    assert_eq!(process.take(peer), "PONG\r\n");
    assert_eq!(process.loops[0].accounts[AccountIndex::GLOBAL].snapshot().num_subscriptions, 1);
}

#[test]
fn routes_have_to_authenticate_and_clients_do_not_belong_there() {
    let secure = |_: &mut Settings, cluster: &mut Cluster| {
        cluster.user = Some(("u".into(), "p".into()));
    };
    let mut right = server(1, "b", secure);
    let theirs = right.open(0, ConnectionKind::RouteAccepted);
    right.take(theirs);
    assert_eq!(right.ask(theirs, "PING\r\n"), "-ERR 'Authorization Violation'\r\n");
    let mut left = server(1, "a", secure);
    join(&mut left, &mut right);
    assert_eq!(right.loops[0].snapshot(right.now, Lists::ALL).routes.len(), 1);
    let stray = left.open(0, ConnectionKind::RouteAccepted);
    left.take(stray);
    let answer = left.ask(stray, "CONNECT {\"lang\":\"go\"}\r\n");
    assert_eq!(answer, "-ERR 'attempted to connect to route port'\r\n");
}

/// Lines of clients and of routes, right and wrong.
fn line() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n",
        "CONNECT {\"cluster\":\"abc\"}\r\n",
        "INFO {\"server_id\":\"NX\",\"server_name\":\"x\",\"cluster\":\"abc\"}\r\n",
        "INFO {\"server_id\":\"NY\",\"server_name\":\"y\",\"ip\":\"nats-route://h:1/\"}\r\n",
        "SUB a 1\r\n",
        "SUB a.* q 2\r\n",
        "SUB > 3\r\n",
        "UNSUB 1\r\n",
        "UNSUB 3 2\r\n",
        "PUB a.b re 1\r\nx\r\n",
        "PUB a 0\r\n\r\n",
        "HPUB a 12 13\r\nNATS/1.0\r\n\r\nx\r\n",
        "RS+ $G a\r\n",
        "RS+ $G a.* q 3\r\n",
        "RS- $G a\r\n",
        "RS- $G a.* q\r\n",
        "RMSG $G a 1\r\nx\r\n",
        "RMSG $G a.b + re q 1\r\nx\r\n",
        "HMSG $G a.b | q 0 1\r\nx\r\n",
        "PING\r\n",
        "PONG\r\n",
        "-ERR 'x'\r\n",
        "RS",
        "\r\n",
    ])
}

proptest! {
    /// Goal: whatever clients and routes send in whatever order, nothing breaks, and when all
    /// have left, no interest is left on any loop.
    #[test]
    fn any_lines_in_any_order_are_survived(
        steps in prop::collection::vec((0..6_usize, line(), 0..40_u8), 1..80),
    ) {
        let mut process = server(2, "a", |_, _| ());
        let mut ids = Vec::new();
        for n in 0..4 {
            ids.push(process.open(n % 2, ConnectionKind::Client));
        }
        for _ in 0..2 {
            ids.push(process.open(0, ConnectionKind::RouteAccepted));
        }
        for (who, bytes, chance) in steps {
            let id = ids[who];
            if chance == 0 {
                let now = process.now;
                process.broker(id).closed(id, "Client Closed", now);
                process.settle();
            } else {
                process.send(id, bytes.as_bytes());
            }
            process.pass(Duration::from_millis(300));
        }
        for id in ids {
            let now = process.now;
            process.broker(id).closed(id, "Client Closed", now);
            process.settle();
        }
        for broker in &process.loops {
            prop_assert_eq!(broker.accounts[AccountIndex::GLOBAL].snapshot().num_subscriptions, 0);
            prop_assert_eq!(broker.deadlines.len(), 0);
        }
        process.pass(Duration::from_secs(1));
        let local = process.loops[0].routes.local_interest(std::ops::Bound::Unbounded, 1);
        prop_assert!(local.is_empty());
        prop_assert!(process.loops[0].routes.registered().is_empty());
    }
}
