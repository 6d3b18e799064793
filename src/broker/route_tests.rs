//! Whole servers joined by routes, driven by hand.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::settings::Cluster;
use super::tests::Process;
use super::*;

fn server(loops: u16, name: &str, more: impl FnOnce(&mut Settings, &mut Cluster)) -> Process {
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

/// Joins two servers: `left` dialled `right`.
fn join(left: &mut Process, right: &mut Process) -> (SessionId, SessionId) {
    let url = "right:6222".to_owned();
    let kind = ConnectionKind::RouteSolicited { url, is_explicit: true };
    let ours = left.open(0, kind);
    let theirs = right.open(0, ConnectionKind::RouteAccepted);
    carry(left, ours, right, theirs);
    (ours, theirs)
}

/// Carries bytes both ways until none is left.
fn carry(left: &mut Process, ours: SessionId, right: &mut Process, theirs: SessionId) {
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
    assert!(info.starts_with("INFO ") && !info.contains("connect_urls"), "{info}");
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
    let dials = |effect: &Effect| matches!(effect, Effect::Dial { url, is_explicit: false } if url == "127.0.0.1:6300");
    assert!(right.effects.iter().any(dials), "{:?}", right.effects);
}

#[test]
fn a_second_route_to_the_same_server_is_closed() {
    let (mut left, mut right) = (server(1, "a", |_, _| ()), server(1, "b", |_, _| ()));
    join(&mut left, &mut right);
    join(&mut left, &mut right);
    assert_eq!(left.loops[0].snapshot(left.now).routes.len(), 1);
    assert_eq!(right.loops[0].snapshot(right.now).routes.len(), 1);
}

#[test]
fn a_lost_route_that_was_configured_is_dialled_again() {
    let mut left = server(1, "a", |_, cluster| cluster.routes = vec!["right:6222".into()]);
    let mut right = server(1, "b", |_, _| ());
    let is_dial = |effect: &Effect| matches!(effect, Effect::Dial { is_explicit: true, .. });
    left.settle();
    assert!(left.effects.drain(..).any(|effect| is_dial(&effect)));
    let now = left.now;
    left.loops[0].dial_failed("right:6222", "connection refused", now);
    left.pass(Duration::from_secs(2));
    assert!(left.effects.drain(..).any(|effect| is_dial(&effect)), "after a failure");
    let (ours, _) = join(&mut left, &mut right);
    let now = left.now;
    left.loops[0].closed(ours, "Client Closed", now);
    left.pass(Duration::from_secs(2));
    assert!(left.effects.drain(..).any(|effect| is_dial(&effect)), "after a loss");
}

#[test]
fn names_of_clusters_must_agree_unless_made_up() {
    let mut left = server(1, "a", |_, cluster| cluster.name = "other".into());
    let mut right = server(1, "b", |_, _| ());
    let ours = left.open(0, ConnectionKind::RouteSolicited { url: "r".into(), is_explicit: true });
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
    assert_eq!(right.loops[0].snapshot(right.now).routes.len(), 1);
    let stray = left.open(0, ConnectionKind::RouteAccepted);
    left.take(stray);
    let answer = left.ask(stray, "CONNECT {\"lang\":\"go\"}\r\n");
    assert_eq!(answer, "-ERR 'attempted to connect to route port'\r\n");
}
