//! The connection to an external server, driven by hand: what it is told, and what becomes of that.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use proptest::prelude::*;

use super::tests::{Process, post};
use super::*;
use crate::base::id::Subject;
use crate::base::server_url::ServerUrl;
use crate::broker::settings::Upstream;

const INFO: &str = "INFO {\"server_id\":\"NX\",\"headers\":true,\"max_payload\":100}\r\n";

fn process(loops: u16, urls: &str) -> Process {
    with(loops, Upstream { servers: ServerUrl::decode_list(urls).unwrap(), ..named() })
}

fn named() -> Upstream {
    Upstream { name: "_NSS-c-general".to_owned(), ..Upstream::default() }
}

fn with(loops: u16, upstream: Upstream) -> Process {
    let upstream = Some(Arc::new(upstream));
    let mut process = Process::new(loops, Settings { upstream, ..Settings::default() });
    process.settle();
    process
}

/// Whom it dials, in order.
fn dialled(process: &mut Process) -> Vec<String> {
    let mut found = Vec::new();
    process.effects.retain(|effect| {
        let Effect::DialUpstream { address, .. } = effect else { return true };
        found.push(address.clone());
        false
    });
    found
}

fn news(process: &mut Process) -> Vec<UpstreamNews> {
    let mut found = Vec::new();
    process.effects.retain(|effect| {
        let Effect::Upstream(news) = effect else { return true };
        if !matches!(news, UpstreamNews::Reachable(_)) {
            found.push(news.clone());
        }
        false
    });
    found
}

fn rooms(process: &mut Process) -> Vec<(u64, bool)> {
    let mut found = Vec::new();
    process.effects.retain(|effect| {
        let Effect::Room { key, has_room } = effect else { return true };
        found.push((*key, *has_room));
        false
    });
    found
}

fn open(process: &mut Process) -> SessionId {
    let (address, tls_name) = ("h:1".to_owned(), "h".to_owned());
    process.open(0, ConnectionKind::Upstream { address, tls_name })
}

/// A connection on which all that is listened to is in force; gives what was said after CONNECT.
fn up(process: &mut Process) -> (SessionId, String) {
    let id = open(process);
    let connect = process.ask(id, INFO);
    assert!(connect.starts_with("CONNECT {") && connect.ends_with("}\r\nPING\r\n"), "{connect}");
    let said = process.ask(id, "PONG\r\n");
    process.ask(id, "PONG\r\n");
    (id, said)
}

fn interest(engine: u16, key: u64) -> EngineInterest {
    EngineInterest {
        engine: LoopIndex(engine),
        account: AccountIndex::GLOBAL,
        key,
        credit: Credit::Messages,
        is_brief: false,
        keeper: None,
    }
}

fn say(process: &mut Process, home: u16, post: &Post, reply: Option<&Subject>) {
    let now = process.now;
    process.loops[usize::from(home)].publish(post, reply, now);
    process.settle();
}

fn deliver(process: &mut Process, home: u16, key: u64, post: &Post) {
    let now = process.now;
    let input = Input::Deliver { key, post: post.clone() };
    process.loops[usize::from(home)].handle(input, now);
    process.settle();
}

fn fail_dial(process: &mut Process, reason: &str) {
    let now = process.now;
    process.loops[0].handle(Input::UpstreamDialFailed { reason: reason.to_owned() }, now);
    process.settle();
}

fn lose(process: &mut Process, id: SessionId) {
    let now = process.now;
    process.loops[0].closed(id, "Client Closed", now);
    process.settle();
}

/// What engines got: key, subject and payload.
fn heard(process: &mut Process) -> Vec<(u64, String, String)> {
    let mut found = Vec::new();
    process.effects.retain(|effect| {
        let Effect::ToEngine(delivery) = effect else { return true };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let EngineDelivery { key, names, payload, .. } = delivery;
        found.push((*key, text(names.subject()), text(payload)));
        false
    });
    found
}

/// Goal: what is listened to, on whichever loop and before or after the login, is told as one SUB
/// each; what comes in is for that one alone; and after its end for nobody.
#[test]
fn each_interest_has_its_own_number_and_gets_what_is_for_it() {
    for loops in [1, 2] {
        let mut process = process(loops, "nats://h:1");
        let other = loops - 1;
        process.loops[usize::from(other)].listen(&"pub.>".into(), interest(other, 1));
        process.settle();
        let (id, said) = up(&mut process);
        assert_eq!(said, "SUB pub.> 1\r\nPING\r\n");
        process.loops[0].listen(&"pub.a".into(), interest(0, 2));
        process.settle();
        assert_eq!(process.take(id), "SUB pub.a 2\r\n");
        process.loops[0].listen(&"no\r\nsubject".into(), interest(0, 5));
        process.settle();
        assert_eq!(process.take(id), "");
        process.send(id, b"MSG pub.a 2 r 1\r\nx\r\nMSG pub.a 1 1\r\ny\r\nMSG pub.a 9 1\r\nz\r\n");
        let expected = [(2, "pub.a".into(), "x".into()), (1, "pub.a".into(), "y".into())];
        assert_eq!(heard(&mut process), expected);
        // Headers are no part of what engines know.
        process.send(id, b"HMSG pub.a 1 12 13\r\nNATS/1.0\r\n\r\nb\r\n");
        assert_eq!(heard(&mut process), [(1, "pub.a".into(), "b".into())]);
        let now = process.now;
        let gone = Input::Unlisten { subject: "pub.>".into(), interest: interest(other, 1) };
        process.loops[usize::from(other)].handle(gone, now);
        process.settle();
        assert_eq!(process.take(id), "UNSUB 1\r\n");
        process.loops[usize::from(other)].listen(&"pub.>".into(), interest(other, 1));
        process.settle();
        assert_eq!(process.take(id), "SUB pub.> 4\r\n", "a number of before is never used again");
        process.send(id, b"MSG pub.b 1 1\r\nx\r\n");
        assert_eq!(heard(&mut process), [], "it was said to the one that has ended");
        assert!(process.is_open(id));
    }
}

/// Goal: what an engine says goes to the external server, and nowhere else, in its order.
#[test]
fn what_rooms_say_goes_out_whoever_listens_here() {
    for loops in [1, 2] {
        let mut process = process(loops, "nats://h:1");
        let other = loops - 1;
        process.loops[0].listen(&"a".into(), interest(0, 1));
        let (id, _) = up(&mut process);
        say(&mut process, other, &post("a", b"1"), Some(&"r".into()));
        deliver(&mut process, other, 7, &post("b", b"22"));
        say(&mut process, other, &post("c", b""), None);
        assert_eq!(process.take(id), "PUB a r 1\r\n1\r\nPUB b 2\r\n22\r\nPUB c 0\r\n\r\n");
        assert_eq!(heard(&mut process), [], "it comes back from there, to all servers alike");
    }
}

/// Goal: nothing that would make the server hang up is said to it: names that are more than one
/// word, a line that is too long, a message larger than it takes.
#[test]
fn what_no_server_would_take_is_left_out() {
    let mut process = process(1, "nats://h:1");
    let (id, _) = up(&mut process);
    news(&mut process);
    let long = "x".repeat(5_000);
    let large = [b'x'; 101];
    say(&mut process, 0, &post("a b", b""), None);
    say(&mut process, 0, &post("a\r\nPUB b 0\r\n", b""), None);
    say(&mut process, 0, &post("", b""), None);
    say(&mut process, 0, &post("a", b""), Some(&"r\tr".into()));
    say(&mut process, 0, &post(&long, b""), None);
    say(&mut process, 0, &post("a", &large), None);
    say(&mut process, 0, &post("a", &large[1..]), None);
    let said = process.take(id);
    assert_eq!(said, format!("PUB a 100\r\n{}\r\n", "x".repeat(100)));
    let line =
        "Asynchronous error on connection _NSS-c-general, subject a b: nats: invalid subject";
    assert_eq!(news(&mut process), [UpstreamNews::Said(log::Level::Error, line.to_owned())]);
}

/// Goal: very many interests are told in portions, and nothing is said before all of them are: the
/// answer would find nobody. What comes and goes meanwhile is told once, and at once.
#[test]
fn of_very_many_interests_each_turn_tells_a_portion() {
    const COUNT: u64 = 20_000;
    let mut process = process(1, "nats://h:1");
    for key in 1..=COUNT {
        process.loops[0].listen(&format!("in.{key}").as_str().into(), interest(0, key));
    }
    process.settle();
    let id = open(&mut process);
    process.ask(id, INFO);
    let first = process.ask(id, "PONG\r\n");
    let portion = first.matches("SUB ").count();
    assert!((256..=10_000).contains(&portion), "{portion}");
    let (gone, come) = (COUNT - 1, COUNT + 1);
    let now = process.now;
    let subject = format!("in.{gone}").as_str().into();
    process.loops[0].handle(Input::Unlisten { subject, interest: interest(0, gone) }, now);
    process.loops[0].listen(&format!("in.{come}").as_str().into(), interest(0, come));
    say(&mut process, 0, &post("early", b"x"), None);
    let mut said = first;
    for _ in 0..100 {
        process.pass(Duration::from_millis(5));
        said.push_str(&process.take(id));
    }
    for key in (1..=COUNT + 1).filter(|key| *key != gone) {
        let sub = format!("SUB in.{key} {key}\r\n");
        assert_eq!(said.matches(&sub).count(), 1, "{sub}");
    }
    assert!(!said.contains(&format!("SUB in.{gone} ")) && !said.contains("early"));
    assert!(said.ends_with("PING\r\n") && said.matches("PING").count() == 1);
    process.ask(id, "PONG\r\n");
    say(&mut process, 0, &post("late", b"x"), None);
    assert!(process.take(id).contains("PUB late"));
}

/// Goal: who waits for what it listens to is told when the server has answered a PING behind it,
/// on whichever loop, and also where the connection was lost meanwhile.
#[test]
fn a_flush_ends_when_what_was_listened_to_is_in_force() {
    let flushed = |process: &mut Process| {
        let is_flushed = |effect: &Effect| matches!(effect, Effect::Flushed { token: 5 });
        let count = process.effects.iter().filter(|effect| is_flushed(effect)).count();
        process.effects.retain(|effect| !is_flushed(effect));
        count
    };
    for loops in [1, 2] {
        let mut process = process(loops, "nats://h:1");
        let other = usize::from(loops - 1);
        let now = process.now;
        process.loops[other].handle(Input::Flush { token: 5 }, now);
        process.settle();
        let id = open(&mut process);
        process.ask(id, INFO);
        process.ask(id, "PONG\r\n");
        assert_eq!(flushed(&mut process), 0, "the SUBs are on their way");
        process.ask(id, "PONG\r\n");
        assert_eq!(flushed(&mut process), 1);
        process.loops[other].handle(Input::Flush { token: 5 }, now);
        process.settle();
        assert_eq!(process.take(id), "PING\r\n");
        lose(&mut process, id);
        assert_eq!(flushed(&mut process), 0);
        // What is listened to behind the first SUBs has an answer of its own.
        let id = open(&mut process);
        process.ask(id, INFO);
        process.ask(id, "PONG\r\n");
        process.loops[other].listen(&"late".into(), interest(loops - 1, 3));
        process.loops[other].handle(Input::Flush { token: 5 }, now);
        process.settle();
        assert_eq!(process.take(id), "SUB late 1\r\nPING\r\n");
        process.ask(id, "PONG\r\n");
        assert_eq!(flushed(&mut process), 0);
        process.ask(id, "PONG\r\n");
        assert_eq!(flushed(&mut process), 1);
    }
    let mut own = Process::new(1, Settings::default());
    let now = own.now;
    own.loops[0].handle(Input::Flush { token: 5 }, now);
    own.settle();
    assert_eq!(flushed(&mut own), 1, "what is inside the process is in force at once");
}

/// Goal: engines deliver while the server takes it: not before the first login, not while it is
/// away, and not beyond what waits for it.
#[test]
fn inboxes_have_room_while_the_server_takes_what_is_delivered() {
    for loops in [1, 2] {
        let mut process = process(loops, "nats://h:1");
        let other = loops - 1;
        process.loops[usize::from(other)].watch(7, AccountIndex::GLOBAL, &"inbox".into());
        process.settle();
        assert_eq!(rooms(&mut process), [(7, false)]);
        let (id, _) = up(&mut process);
        assert_eq!(rooms(&mut process), [(7, true)]);
        let info = "INFO {\"server_id\":\"NX\",\"headers\":true,\"max_payload\":1048576}\r\n";
        process.ask(id, info);
        let payload = vec![b'x'; 1024 * 1024];
        for _ in 0..5 {
            deliver(&mut process, other, 7, &post("inbox", &payload));
        }
        assert_eq!(rooms(&mut process), [(7, false)]);
        assert_eq!(process.take(id).matches("PUB inbox").count(), 5);
        process.loops[0].wrote(id);
        process.settle();
        assert_eq!(rooms(&mut process), [(7, true)]);
        lose(&mut process, id);
        assert_eq!(rooms(&mut process), [(7, false)]);
        deliver(&mut process, other, 7, &post("inbox", b"x"));
        let (id, said) = up(&mut process);
        assert_eq!(rooms(&mut process), [(7, true)]);
        assert_eq!(said, "PING\r\n", "nothing is kept for it");
        assert!(process.is_open(id));
    }
}

/// Goal: a request that nobody hears is known for one at once, by the loop that asked.
#[test]
fn a_server_says_that_nobody_listens() {
    let mut process = process(2, "nats://h:1");
    process.loops[1].listen(&"inbox.*".into(), interest(1, 1));
    process.settle();
    let (id, _) = up(&mut process);
    process.send(id, b"HMSG inbox.5 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
    let is_told = |effect: &Effect| {
        let Effect::NoResponders { reply } = effect else { return false };
        reply.as_bytes() == b"inbox.5"
    };
    assert!(process.effects.iter().any(is_told));
    assert_eq!(heard(&mut process), []);
    // A message with a payload is one, whatever its headers say.
    process.send(id, b"HMSG inbox.5 1 16 17\r\nNATS/1.0 503\r\n\r\nx\r\n");
    assert_eq!(heard(&mut process).len(), 1);
}

/// Goal: at the start each server is tried once, and the reason is the reference's.
#[test]
fn a_start_fails_when_no_server_takes_the_login() {
    let mut process = process(1, "a,b");
    let mut tried = dialled(&mut process);
    fail_dial(&mut process, "dial tcp 1.2.3.4:4222: connect: connection refused");
    tried.extend(dialled(&mut process));
    assert_eq!(news(&mut process), []);
    fail_dial(&mut process, "dial tcp 1.2.3.5:4222: connect: connection refused");
    tried.sort();
    assert_eq!(tried, ["a:4222", "b:4222"]);
    let none = "nats: no servers available for connection".to_owned();
    assert_eq!(news(&mut process), [UpstreamNews::Failed(none)]);
    process.pass(Duration::from_secs(60));
    assert_eq!(dialled(&mut process), [""; 0]);

    for (said, why) in [
        ("-ERR 'Authorization Violation'\r\n", "nats: Authorization Violation"),
        ("nonsense\r\n", "nats: "),
    ] {
        let mut process = self::process(1, "nats://h:1");
        let id = open(&mut process);
        process.ask(id, INFO);
        process.ask(id, said);
        assert!(!process.is_open(id));
        let [UpstreamNews::Failed(text)] = &news(&mut process)[..] else { panic!("{said}") };
        assert!(text.starts_with(why), "{text}");
    }
    let mut silent = self::process(1, "nats://h:1");
    let id = open(&mut silent);
    silent.pass(Duration::from_secs(2));
    assert!(!silent.is_open(id));
    assert_eq!(news(&mut silent), [UpstreamNews::Failed("nats: timeout".to_owned())]);
}

/// Goal: once there was a login, a server is looked for for ever, with a pause after each round.
#[test]
fn a_lost_server_is_looked_for_until_there_is_one() {
    let mut process = process(1, "a,b");
    dialled(&mut process);
    let (id, _) = up(&mut process);
    assert_eq!(news(&mut process), [UpstreamNews::LoggedIn]);
    lose(&mut process, id);
    assert_eq!(dialled(&mut process).len(), 1, "another one at once");
    for _ in 0..20 {
        fail_dial(&mut process, "dial tcp 1.2.3.4:4222: connect: connection refused");
        assert_eq!(dialled(&mut process), [""; 0]);
        process.pass(Duration::from_millis(249));
        assert_eq!(dialled(&mut process), [""; 0]);
        process.pass(Duration::from_millis(101));
        assert_eq!(dialled(&mut process).len(), 1);
        fail_dial(&mut process, "dial tcp 1.2.3.4:4222: connect: connection refused");
        assert_eq!(dialled(&mut process).len(), 1);
    }
    let lines: Vec<String> = news(&mut process)
        .into_iter()
        .map(|news| match news {
            UpstreamNews::Said(_, ref text) => text.clone(),
            UpstreamNews::LoggedIn
            | UpstreamNews::Failed(_)
            | UpstreamNews::Reachable(_)
            | UpstreamNews::Refused => panic!("{news:?}"),
        })
        .collect();
    assert_eq!(
        lines,
        [
            "connection \"_NSS-c-general\" has been disconnected: EOF",
            "unable to connect to an external NATS server: dial tcp 1.2.3.4:4222: connect: \
         connection refused",
        ]
    );
    // Whoever refuses the login now may take it later.
    let id = open(&mut process);
    process.ask(id, INFO);
    process.ask(id, "-ERR 'Authorization Violation'\r\n");
    assert!(!process.is_open(id));
    process.pass(Duration::from_secs(1));
    news(&mut process);
    up(&mut process);
    let [UpstreamNews::Said(log::Level::Info, line)] = &news(&mut process)[..] else {
        panic!("no word of it")
    };
    assert!(
        line.starts_with("connection \"_NSS-c-general\" reconnected to NATS Server at \"nats:")
    );
}

/// Goal: a permission that lacks is said and changes nothing; any other error ends the connection.
#[test]
fn errors_of_the_server_are_logged() {
    let mut process = process(1, "nats://h:1");
    let (id, _) = up(&mut process);
    news(&mut process);
    process.ask(id, "-ERR 'Permissions Violation for Publish to \"x\"'\r\n");
    assert!(process.is_open(id));
    let line = "Asynchronous error on connection _NSS-c-general: nats: Permissions Violation for \
                Publish to \"x\"";
    assert_eq!(news(&mut process), [UpstreamNews::Said(log::Level::Error, line.to_owned())]);
    process.ask(id, "-ERR 'Permissions Violation for Subscription to \"_STAN.pub.x.>\"'\r\n");
    assert_eq!(news(&mut process)[0], UpstreamNews::Refused);
    for _ in 0..100 {
        process.ask(id, "-ERR 'Permissions Violation for Publish to \"x\"'\r\n");
    }
    assert_eq!(news(&mut process).len(), 8, "ten lines a second, with those before");
    process.pass(Duration::from_secs(1));
    process.ask(id, "-ERR 'Permissions Violation for Publish to \"x\"'\r\n");
    let told = format!("{:?}", news(&mut process));
    assert!(told.contains("92 more error(s) on connection _NSS-c-general were not said"), "{told}");
    process.ask(id, "-ERR 'Slow Consumer'\r\n");
    assert!(!process.is_open(id));
    let line = "connection \"_NSS-c-general\" has been disconnected: nats: Slow Consumer";
    assert_eq!(news(&mut process), [UpstreamNews::Said(log::Level::Error, line.to_owned())]);
}

/// Goal: a server that hangs is found out by PINGs, however much else it was told.
#[test]
fn a_server_that_answers_no_ping_is_left() {
    let mut process = process(1, "nats://h:1");
    let (id, _) = up(&mut process);
    // What it is told it takes.
    for _ in 0..67 {
        process.pass(Duration::from_secs(5));
        process.take(id);
    }
    assert!(process.is_open(id), "two PINGs may be unanswered");
    for _ in 0..13 {
        process.pass(Duration::from_secs(5));
        process.take(id);
    }
    assert!(!process.is_open(id));
    let texts = format!("{:?}", news(&mut process));
    assert!(texts.contains("nats: stale connection"), "{texts}");
}

/// Goal: whom the URL names goes before what the options say; a user alone is a token.
#[test]
fn the_login_is_that_of_the_url_or_of_the_options() {
    let options = |url: &str| Upstream {
        servers: ServerUrl::decode_list(url).unwrap(),
        user: "ou".into(),
        password: "op".into(),
        token: "ot".into(),
        ..named()
    };
    for (url, has, has_not) in [
        ("nats://h:1", "\"user\":\"ou\",\"pass\":\"op\",\"auth_token\":\"ot\"", "uu"),
        ("nats://uu:p%21@h:1", "\"user\":\"uu\",\"pass\":\"p!\"", "auth_token"),
        ("nats://tt@h:1", "\"auth_token\":\"tt\"", "\"user\""),
    ] {
        let mut process = with(1, options(url));
        let id = open(&mut process);
        let said = process.ask(id, INFO);
        assert!(said.contains(has) && !said.contains(has_not), "{said}");
        assert!(said.contains("\"echo\":true") && said.contains("\"no_responders\":true"));
    }
}

/// Goal: TLS begins where one side asks for it, and the server's word before it is all that is
/// heard in clear.
#[test]
fn tls_begins_where_one_side_asks_for_it() {
    let offers = ["", ",\"tls_available\":true", ",\"tls_required\":true"];
    for (is_secure, outcomes) in [(false, ['-', '-', 't']), (true, ['x', 't', 't'])] {
        for (offer, expected) in offers.iter().zip(outcomes) {
            let servers = ServerUrl::decode_list("nats://h:1").unwrap();
            let mut process = with(1, Upstream { servers, is_secure, ..named() });
            let id = open(&mut process);
            let info = format!("INFO {{\"server_id\":\"NX\"{offer}}}\r\n");
            let said = process.ask(id, &info);
            let outcome = match (process.is_open(id), process.flows[&id]) {
                (_, Flow::StartTls) => 't',
                (true, _) => '-',
                (false, _) => 'x',
            };
            assert_eq!(outcome, expected, "{is_secure} {offer}");
            assert_eq!(said.contains("CONNECT"), expected == '-');
            let texts = format!("{:?}", news(&mut process));
            let refused = texts.contains("nats: secure connection not available");
            assert_eq!(refused, expected == 'x');
            if expected == 't' {
                let (peer, now) = (TlsPeer::default(), process.now);
                process.loops[0].handle(Input::TlsEstablished { session: id, peer }, now);
                assert!(process.take(id).contains("\"tls_required\":true"));
            }
        }
    }
}

/// Goal: what a former term still had to say stays here.
#[test]
fn nothing_of_an_engine_that_is_gone_leaves() {
    let mut process = process(1, "nats://h:1");
    let (id, _) = up(&mut process);
    say(&mut process, 0, &post("a", b"x"), None);
    let now = process.now;
    process.loops[0].handle(Input::EngineGone, now);
    assert_eq!(process.take(id), "");
    process.loops[0].watch(7, AccountIndex::GLOBAL, &"inbox".into());
    process.settle();
    assert_eq!(rooms(&mut process), [(7, true)], "the next one knows of the server");
}

/// Goal: at the end nobody is looked for.
#[test]
fn a_stop_is_no_loss() {
    let mut process = process(1, "nats://h:1");
    let (id, _) = up(&mut process);
    news(&mut process);
    dialled(&mut process);
    let now = process.now;
    process.loops[0].handle(Input::Stop, now);
    process.settle();
    lose(&mut process, id);
    process.pass(Duration::from_secs(5));
    assert_eq!((news(&mut process).len(), dialled(&mut process).len()), (0, 0));
}

/// Something that a server says, right or wrong.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("INFO {\"server_id\":\"NX\",\"headers\":true,\"max_payload\":9}\r\n".to_owned()),
        Just("INFO {\"connect_urls\":[\"x:1\",\":\",\"[::1]:2\"],\"ldm\":true}\r\n".to_owned()),
        Just("INFO {\r\n".to_owned()),
        Just("PONG\r\n".to_owned()),
        Just("PING\r\n".to_owned()),
        Just("+OK\r\n".to_owned()),
        Just("-ERR 'Permissions Violation'\r\n".to_owned()),
        Just("-ERR 'x'\r\n".to_owned()),
        (0..9_u64, 0..30_usize).prop_map(|(sid, len)| {
            format!("MSG pub.a {sid} reply {len}\r\n{}\r\n", "x".repeat(len))
        }),
        (0..9_u64, 0..30_usize).prop_map(|(sid, len)| {
            format!(
                "HMSG pub.a {sid} 16 {}\r\nNATS/1.0 503\r\n\r\n{}\r\n",
                16 + len,
                "x".repeat(len)
            )
        }),
        ".{0,40}",
    ]
}

proptest! {
    /// Goal: whatever a server says and however it is cut, the connection goes on or ends; a new
    /// one is looked for, and serves.
    #[test]
    fn a_server_that_says_anything_does_no_harm(
        words in proptest::collection::vec(word(), 0..30),
        cut in 1..40_usize,
        has_greeted in any::<bool>(),
    ) {
        let mut process = process(2, "a,b");
        process.loops[1].listen(&"pub.>".into(), interest(1, 1));
        process.settle();
        up(&mut process);
        let first = process.loops[0].upstream.as_ref().unwrap().session().unwrap();
        lose(&mut process, first);
        let id = open(&mut process);
        if has_greeted {
            process.ask(id, INFO);
            process.ask(id, "PONG\r\nPONG\r\n");
        }
        for piece in words.concat().as_bytes().chunks(cut) {
            if process.is_open(id) && process.flows.get(&id) != Some(&Flow::StartTls) {
                process.send(id, piece);
                process.take(id);
            }
        }
        lose(&mut process, id);
        process.pass(Duration::from_millis(400));
        prop_assert!(!dialled(&mut process).is_empty());
        let (id, said) = up(&mut process);
        prop_assert!(said.starts_with("SUB pub.> 1"), "{}", said);
        process.effects.clear();
        process.send(id, b"MSG pub.a 1 1\r\nx\r\n");
        prop_assert_eq!(heard(&mut process).len(), 1);
    }
}
