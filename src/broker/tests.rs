//! Brokers driven by hand: bytes in, bytes out.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::snapshot::Lists;
use super::*;
use crate::base::id::Subject;
use crate::base::origin::Origin;
use crate::broker::account::{Permissions, SubjectRules};
use crate::broker::settings::{Auth, User};

/// All loops of one process, with the mail between them.
pub(super) struct Process {
    pub loops: Vec<Broker>,
    pub now: Now,
    buffers: BTreeMap<SessionId, BytesMut>,
    pub flows: BTreeMap<SessionId, Flow>,
    pub effects: Vec<Effect>,
    next_slot: u32,
}

/// What an engine publishes.
pub(super) fn post(subject: &str, payload: &[u8]) -> Post {
    Post {
        account: AccountIndex::GLOBAL,
        subject: subject.into(),
        head: Bytes::copy_from_slice(payload),
        tail: Bytes::new(),
        is_leased: true,
    }
}

/// Inputs by their names, so that tests are short.
impl Broker {
    pub(super) fn open(&mut self, session: SessionId, hello: Hello, now: Now) {
        self.handle(Input::Opened { session, hello }, now);
    }

    pub(super) fn closed(&mut self, session: SessionId, reason: &str, now: Now) {
        self.handle(Input::Closed { session, reason: reason.to_owned() }, now);
    }

    pub(super) fn publish(&mut self, post: &Post, reply: Option<&Subject>, now: Now) {
        self.handle(
            Input::Publish { post: post.clone(), reply: reply.cloned().map(Box::new) },
            now,
        );
    }

    pub(super) fn reload(&mut self, settings: Arc<Settings>, now: Now) {
        self.handle(Input::Settings(settings), now);
    }

    pub(super) fn set_pressure(&mut self, engine: LoopIndex, credit: Credit, is_high: bool) {
        self.handle(Input::Pressure { engine, credit, is_high }, self.now);
    }

    pub(super) fn listen(&mut self, subject: &Subject, interest: EngineInterest) {
        self.handle(Input::Listen { subject: subject.clone(), interest }, self.now);
    }

    pub(super) fn watch(&mut self, key: u64, account: AccountIndex, inbox: &Subject) {
        self.watch_for(key, account, inbox, false);
    }

    pub(super) fn watch_for(
        &mut self,
        key: u64,
        account: AccountIndex,
        inbox: &Subject,
        needs_listener: bool,
    ) {
        let inbox = inbox.clone();
        self.handle(Input::Watch { key, account, inbox, needs_listener }, self.now);
    }
}

impl Process {
    pub(super) fn new(loops: u16, settings: Settings) -> Self {
        // A machine that has been up for hours.
        let at = Instant(0) + Duration::from_secs(20_000);
        let now = Now { at, wall: WallTime(1_000_000_000) };
        let settings = Arc::new(Settings { loops, ..settings });
        let loops = (0..loops)
            .map(|home| Broker::new(Arc::clone(&settings), LoopIndex(home), u64::from(home), now))
            .collect();
        Self {
            loops,
            now,
            buffers: BTreeMap::new(),
            flows: BTreeMap::new(),
            effects: Vec::new(),
            next_slot: 0,
        }
    }

    pub fn broker(&mut self, id: SessionId) -> &mut Broker {
        &mut self.loops[id.home.index()]
    }

    pub fn open(&mut self, home: u16, kind: ConnectionKind) -> SessionId {
        let id = SessionId { home: LoopIndex(home), slot: self.next_slot, generation: 1 };
        self.next_slot += 1;
        let (peer, now) = ("127.0.0.1:5000".parse().unwrap(), self.now);
        self.broker(id).open(id, Hello { peer, kind }, now);
        self.settle();
        id
    }

    /// A client that is not verbose; INFO and the answer to CONNECT are taken.
    pub fn client(&mut self, home: u16, more: &str) -> SessionId {
        let id = self.open(home, ConnectionKind::Client);
        let connect = format!("CONNECT {{\"verbose\":false,\"pedantic\":false{more}}}\r\n");
        self.send(id, connect.as_bytes());
        self.take(id);
        id
    }

    pub fn send(&mut self, id: SessionId, bytes: &[u8]) {
        self.buffers.entry(id).or_default().extend_from_slice(bytes);
        self.read(id);
    }

    pub fn read(&mut self, id: SessionId) {
        loop {
            let mut buffer = self.buffers.remove(&id).unwrap_or_default();
            let now = self.now;
            let flow = self.broker(id).read(id, &mut buffer, now);
            self.buffers.insert(id, buffer);
            self.flows.insert(id, flow);
            self.settle();
            if flow != Flow::Yielded {
                return;
            }
        }
    }

    /// Carries mail until none is left; keeps the other effects.
    pub fn settle(&mut self) {
        loop {
            let mut is_idle = true;
            for index in 0..self.loops.len() {
                while let Some(effect) = self.loops[index].poll_effect() {
                    is_idle = false;
                    if let Effect::Mail { to, mail } = effect {
                        self.loops[to.index()].handle(Input::Mail(mail), self.now);
                    } else {
                        self.effects.push(effect);
                    }
                }
            }
            if is_idle {
                return;
            }
        }
    }

    /// All that waits for a session.
    pub fn take(&mut self, id: SessionId) -> String {
        while self.broker(id).poll_dirty().is_some() {}
        let Some(outbox) = self.broker(id).outbox(id) else { return String::new() };
        let mut taken = Vec::new();
        while !outbox.is_empty() {
            let mut slices = Vec::new();
            outbox.slices(true, &mut slices);
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            outbox.advance(bytes.len());
            taken.extend(bytes);
        }
        String::from_utf8_lossy(&taken).into_owned()
    }

    pub fn ask(&mut self, id: SessionId, bytes: &str) -> String {
        self.send(id, bytes.as_bytes());
        self.take(id)
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now.at + time;
        loop {
            let due = self.loops.iter().filter_map(Broker::next_deadline).min();
            let at = due.map_or(end, |due| due.min(end)).max(self.now.at);
            self.now = Now { at, wall: self.now.wall + at.since(self.now.at) };
            let now = self.now;
            for broker in &mut self.loops {
                broker.handle_timeout(now);
            }
            self.settle();
            if due.is_none_or(|due| due > end) {
                return;
            }
        }
    }

    pub fn is_open(&mut self, id: SessionId) -> bool {
        self.broker(id).sessions.get(id).is_some_and(|session| !session.is_ending())
    }
}

fn every_number_of_loops(check: impl Fn(&mut Process, &dyn Fn(u16) -> u16)) {
    for loops in [1, 2, 4] {
        check(&mut Process::new(loops, Settings::default()), &|wanted| wanted % loops);
    }
}

#[test]
fn info_comes_first_and_has_the_fields_of_the_reference() {
    let mut process = Process::new(1, Settings { server_id: "NID".into(), ..Settings::default() });
    let id = process.open(0, ConnectionKind::Client);
    assert_eq!(
        process.take(id),
        "INFO {\"server_id\":\"NID\",\"server_name\":\"\",\"version\":\"2.9.24\",\"proto\":1,\
         \"go\":\"go1.20.14\",\"host\":\"0.0.0.0\",\"port\":4222,\"headers\":true,\
         \"max_payload\":1048576,\"client_id\":1,\"client_ip\":\"127.0.0.1\"} \r\n"
    );
}

#[test]
fn verbose_is_the_default_and_ping_has_no_ok() {
    let mut process = Process::new(1, Settings::default());
    let id = process.open(0, ConnectionKind::Client);
    process.take(id);
    let answer = process.ask(id, "SUB a 1\r\nPUB a 1\r\nx\r\nPING\r\nSUB bad. 2\r\nUNSUB 9\r\n");
    let expected = "+OK\r\n+OK\r\nMSG a 1 1\r\nx\r\nPONG\r\n-ERR 'Invalid Subject'\r\n+OK\r\n";
    assert_eq!(answer, expected);
}

#[test]
fn messages_reach_all_interests_on_all_loops() {
    every_number_of_loops(|process, home| {
        let sender = process.client(home(0), "");
        let near = process.client(home(0), "");
        let far = process.client(home(1), "");
        process.send(near, b"SUB a.* 1\r\n");
        process.send(far, b"SUB a.b 2\r\nSUB > 3\r\n");
        process.send(sender, b"PUB a.b re 5\r\nhello\r\n");
        assert_eq!(process.take(near), "MSG a.b 1 re 5\r\nhello\r\n");
        assert_eq!(process.take(far), "MSG a.b 2 re 5\r\nhello\r\nMSG a.b 3 re 5\r\nhello\r\n");
        process.send(far, b"UNSUB 2\r\nUNSUB 3\r\n");
        process.send(sender, b"PUB a.b 0\r\n\r\n");
        assert_eq!(process.take(far), "");
    });
}

#[test]
fn long_payloads_arrive_whole_however_they_are_split() {
    every_number_of_loops(|process, home| {
        let sender = process.client(home(0), "");
        let far = process.client(home(1), "");
        process.send(far, b"SUB big 1\r\n");
        let payload = "x".repeat(5000);
        let bytes = format!("PUB big 5000\r\n{payload}\r\n");
        for piece in bytes.as_bytes().chunks(777) {
            process.send(sender, piece);
        }
        assert_eq!(process.take(far), format!("MSG big 1 5000\r\n{payload}\r\n"));
    });
}

#[test]
fn a_queue_gives_each_message_to_one_member() {
    every_number_of_loops(|process, home| {
        let sender = process.client(home(0), "");
        let members: Vec<SessionId> = (0..4).map(|n| process.client(home(n), "")).collect();
        for member in &members {
            process.send(*member, b"SUB work q 1\r\n");
        }
        for _ in 0..400 {
            process.send(sender, b"PUB work 1\r\nx\r\n");
        }
        let counts: Vec<usize> =
            members.iter().map(|id| process.take(*id).matches("MSG").count()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 400);
        assert!(counts.iter().all(|count| *count >= 50), "{counts:?}");
    });
}

#[test]
fn auto_unsubscribe_counts_on_the_loop_of_the_listener() {
    every_number_of_loops(|process, home| {
        let sender = process.client(home(0), "");
        let far = process.client(home(1), "");
        process.send(far, b"SUB a 1\r\nUNSUB 1 2\r\n");
        for _ in 0..5 {
            process.send(sender, b"PUB a 0\r\n\r\n");
        }
        assert_eq!(process.take(far), "MSG a 1 0\r\n\r\n".repeat(2));
        process.send(far, b"SUB a 1\r\n");
        process.send(sender, b"PUB a 0\r\n\r\n");
        assert_eq!(process.take(far), "MSG a 1 0\r\n\r\n");
    });
}

#[test]
fn headers_and_no_responders() {
    let mut process = Process::new(2, Settings::default());
    let new = process.client(0, ",\"headers\":true,\"no_responders\":true");
    let old = process.client(1, "");
    process.send(old, b"SUB h 1\r\n");
    process.send(new, b"SUB h 2\r\nHPUB h 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
    assert_eq!(process.take(old), "MSG h 1 2\r\nhi\r\n");
    assert_eq!(process.take(new), "HMSG h 2 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
    let answer = process.ask(new, "SUB re.* 5\r\nPUB nobody re.1 1\r\nx\r\n");
    assert_eq!(answer, "HMSG re.1 5 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
    assert_eq!(process.ask(old, "SUB r 6\r\nPUB nobody r 0\r\n\r\n"), "");
}

#[test]
fn what_closes_says_so_in_the_words_of_the_reference() {
    for (bytes, expected) in [
        ("ZZZ\r\n", "-ERR 'Unknown Protocol Operation'\r\n"),
        ("RS+ $G a\r\n", "-ERR 'Unknown Protocol Operation'\r\n"),
        ("PUB a 2\r\nabc", "-ERR 'Unknown Protocol Operation'\r\n"),
        ("PUB a 1048577\r\n", "-ERR 'Maximum Payload Violation'\r\n"),
        ("PUB a\r\n", ""),
        ("HPUB a 1 1\r\n", ""),
        ("-ERR 'no'\r\n", ""),
        ("CONNECT {x\r\n", ""),
        ("CONNECT {\"protocol\":2}\r\n", "-ERR 'invalid client protocol'\r\n"),
        ("CONNECT {\"account\":\"A\"}\r\n", "-ERR 'Authorization Violation'\r\n"),
    ] {
        let mut process = Process::new(1, Settings::default());
        let id = process.client(0, "");
        assert_eq!(process.ask(id, bytes), expected, "{bytes}");
        assert_eq!(process.flows[&id], Flow::Close, "{bytes}");
        assert!(!process.is_open(id), "{bytes}");
    }
}

#[test]
fn permissions_refuse_and_filter() {
    let rules = |allow: &[&str], deny: &[&str]| SubjectRules {
        allow: Some(allow.iter().map(|text| (*text).to_owned()).collect()),
        deny: deny.iter().map(|text| (*text).to_owned()).collect(),
    };
    let permissions = Permissions {
        publish: rules(&["w.>"], &["w.secret"]),
        subscribe: rules(&["w.>"], &["w.x"]),
        responses: None,
    };
    let user = User {
        name: "u".into(),
        password: "p".into(),
        permissions: Some(Arc::new(permissions)),
        connection_types: Vec::new(),
    };
    let auth = Auth { users: vec![user], ..Auth::default() };
    let mut process = Process::new(2, Settings { auth, ..Settings::default() });
    let id = process.client(0, ",\"user\":\"u\",\"pass\":\"p\"");
    let far = process.client(1, ",\"user\":\"u\",\"pass\":\"p\"");
    assert_eq!(
        process.ask(id, "SUB c 1\r\nPUB w.secret 0\r\n\r\nSUB w.> 2\r\n"),
        "-ERR 'Permissions Violation for Subscription to \"c\"'\r\n\
         -ERR 'Permissions Violation for Publish to \"w.secret\"'\r\n"
    );
    process.send(far, b"PUB w.x 0\r\n\r\nPUB w.y 0\r\n\r\n");
    assert_eq!(process.take(id), "MSG w.y 2 0\r\n\r\n");
    let stranger = process.open(0, ConnectionKind::Client);
    process.take(stranger);
    assert_eq!(process.ask(stranger, "PING\r\n"), "-ERR 'Authorization Violation'\r\n");
}

#[test]
fn a_silent_client_is_pinged_and_then_cut_as_stale() {
    let settings = Settings { ping_interval: Duration::from_millis(400), ..Settings::default() };
    let mut process = Process::new(1, settings);
    let id = process.client(0, "");
    process.pass(Duration::from_secs(2));
    assert_eq!(process.take(id), "PING\r\nPING\r\n-ERR 'Stale Connection'\r\n");
    assert!(!process.is_open(id));
}

#[test]
fn a_client_that_does_not_authenticate_in_time_is_closed() {
    let auth = Auth { token: Some("t".into()), ..Auth::default() };
    let mut process = Process::new(1, Settings { auth, ..Settings::default() });
    let id = process.open(0, ConnectionKind::Client);
    process.take(id);
    process.pass(Duration::from_secs(1));
    assert!(process.is_open(id));
    process.pass(Duration::from_secs(2));
    assert!(process.take(id).ends_with("-ERR 'Authentication Timeout'\r\n"));
    assert!(!process.is_open(id));
}

#[test]
fn publishers_are_held_back_and_slow_receivers_cut() {
    let settings = Settings { max_pending: 10_000, ..Settings::default() };
    let mut process = Process::new(2, settings);
    let slow = process.client(0, "");
    let sender = process.client(1, "");
    process.send(slow, b"SUB a 1\r\n");
    let publish = format!("PUB a 3000\r\n{}\r\n", "x".repeat(3000));
    for _ in 0..2 {
        process.send(sender, publish.as_bytes());
        assert_eq!(process.flows[&sender], Flow::NeedMore);
    }
    process.send(sender, publish.as_bytes());
    assert_eq!(process.flows[&sender], Flow::Paused);
    process.take(slow);
    process.pass(Duration::from_millis(20));
    let is_resumed = |effect: &Effect| matches!(effect, Effect::Resume { .. });
    assert!(process.effects.iter().any(is_resumed));
    process.read(sender);
    assert_eq!(process.flows[&sender], Flow::NeedMore);

    for _ in 0..3 {
        process.send(sender, publish.as_bytes());
        process.pass(Duration::from_millis(1500));
        process.read(sender);
    }
    assert!(!process.is_open(slow), "it never read");
    assert_eq!(process.loops[0].snapshot(process.now, Lists::ALL).slow_consumers, 1);
}

#[test]
fn who_publishes_to_itself_is_held_back_until_it_reads() {
    let settings = Settings { max_pending: 10_000, ..Settings::default() };
    let mut process = Process::new(1, settings);
    let own = process.client(0, "");
    process.send(own, b"SUB a 1\r\n");
    let publish = format!("PUB a 3000\r\n{}\r\n", "x".repeat(3000));
    let mut read_len = 0;
    process.send(own, publish.repeat(50).as_bytes());
    for _ in 0..50 {
        assert!(process.is_open(own));
        let waiting = process.broker(own).outbox(own).unwrap().len();
        assert!(waiting <= 10_000, "{waiting} bytes wait");
        read_len += process.take(own).len();
        process.pass(Duration::from_millis(5));
        process.read(own);
    }
    read_len += process.take(own).len();
    assert!(50 * 3000 < read_len, "{read_len}");
    assert_eq!(process.flows[&own], Flow::NeedMore);
}

#[test]
fn bytes_that_wait_too_long_cut_the_connection() {
    let mut process = Process::new(1, Settings::default());
    let slow = process.client(0, "");
    process.send(slow, b"SUB a 1\r\nPUB a 0\r\n\r\n");
    process.pass(Duration::from_secs(5));
    assert!(process.is_open(slow));
    process.pass(Duration::from_secs(6));
    assert!(!process.is_open(slow));
}

#[test]
fn requests_wait_while_any_engine_is_crowded_and_publishes_do_not() {
    let mut process = Process::new(2, Settings::default());
    for (key, subject, credit) in [
        (1, "pub.>", Credit::Messages),
        (2, "connect", Credit::Requests),
        (3, "ack.1", Credit::Free),
    ] {
        let interest = EngineInterest {
            engine: LoopIndex(0),
            account: AccountIndex::GLOBAL,
            key,
            credit,
            is_brief: true,
            keeper: None,
        };
        process.loops[0].listen(&Subject::from(subject), interest);
    }
    process.settle();
    let client = process.client(0, "");
    process.loops[0].set_pressure(LoopIndex(1), Credit::Requests, true);
    process.send(client, b"PUB pub.foo 0\r\n\r\nPUB ack.1 0\r\n\r\n");
    assert_eq!(process.flows[&client], Flow::NeedMore);
    process.send(client, b"PUB connect 0\r\n\r\n");
    assert_eq!(process.flows[&client], Flow::Paused);
    // It is our doing that its PONG is not seen.
    process.pass(Duration::from_secs(1_000));
    assert!(process.is_open(client));
    process.effects.clear();
    process.loops[0].set_pressure(LoopIndex(1), Credit::Requests, false);
    process.settle();
    assert!(matches!(process.effects[0], Effect::Resume { session } if session == client));
    process.read(client);
    assert_eq!(process.flows[&client], Flow::NeedMore);
}

#[test]
fn engines_hear_without_headers_and_their_credit_holds_publishers() {
    // Whose a message is, only its payload says: `one` and `two` are those of the second engine.
    let owner = |payload: &[u8], _, _| match payload {
        b"none" => None,
        _ => Some(LoopIndex(u16::from(payload != b"zero"))),
    };
    let mut process = Process::new(2, Settings { owner, ..Settings::default() });
    for engine in 0..2 {
        let interest = EngineInterest {
            engine: LoopIndex(engine),
            account: AccountIndex::GLOBAL,
            key: 1,
            credit: Credit::Messages,
            is_brief: true,
            keeper: None,
        };
        process.loops[usize::from(engine)].listen(&Subject::from("pub.>"), interest);
    }
    process.settle();
    let client = process.client(0, ",\"headers\":true,\"user\":\"me\"");
    process.send(client, b"HPUB pub.foo re 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
    let deliveries: Vec<EngineDelivery> = process
        .effects
        .drain(..)
        .filter_map(
            |effect| {
                if let Effect::ToEngine(delivery) = effect { Some(delivery) } else { None }
            },
        )
        .collect();
    assert_eq!(deliveries.len(), 1, "one service, though two engines offer it");
    assert_eq!(deliveries[0].payload, "hi");
    assert_eq!(deliveries[0].names.subject(), b"pub.foo");
    assert_eq!(deliveries[0].names.clone().into_reply(), Some(Subject::from("re")));
    let user = Some("me".to_owned());
    let origin = Origin { account: AccountIndex::GLOBAL, connection: Some(client), user };
    assert_eq!(*deliveries[0].origin, origin);

    process.loops[0].set_pressure(LoopIndex(1), Credit::Messages, true);
    process.send(client, b"PUB pub.foo 4\r\nzero\r\nPUB pub.foo 4\r\nnone\r\n");
    assert_eq!(process.flows[&client], Flow::NeedMore);
    process.effects.clear();
    process.send(client, b"HPUB pub.foo 12 15\r\nNATS/1.0\r\n\r\none\r\n");
    assert_eq!(process.flows[&client], Flow::Paused);
    process.loops[0].set_pressure(LoopIndex(1), Credit::Messages, false);
    process.settle();
    assert!(matches!(process.effects[..], [Effect::Resume { .. }]));
    process.read(client);
    assert_eq!(process.flows[&client], Flow::NeedMore);
}

#[test]
fn an_engine_speaks_to_clients_until_it_is_gone() {
    let mut process = Process::new(2, Settings::default());
    let (near, far) = (process.client(0, ""), process.client(1, ""));
    process.send(near, b"SUB a 1\r\n");
    process.send(far, b"SUB a 1\r\n");
    let now = process.now;
    let hello = Post { tail: Bytes::from_static(b"llo"), ..post("a", b"he") };
    process.loops[0].publish(&hello, None, now);
    process.settle();
    assert_eq!(process.take(near), "MSG a 1 5\r\nhello\r\n");
    process.loops[0].publish(&hello, None, now);
    process.loops[0].handle(Input::EngineGone, now);
    process.settle();
    assert_eq!(process.take(near), "", "it had not left yet");
    assert_eq!(process.take(far), "");
    process.effects.clear();
    process.loops[0].publish(&post("nobody", b""), Some(&"re".into()), now);
    process.settle();
    assert!(matches!(&process.effects[..], [Effect::NoResponders { .. }]));
}

#[test]
fn a_reload_closes_only_those_who_lost_their_right() {
    let user = |name: &str, password: &str, allow: Option<&str>| User {
        name: name.into(),
        password: password.into(),
        permissions: allow.map(|allow| {
            let allow = Some(vec![allow.to_owned()]);
            let subscribe = SubjectRules { allow, deny: Vec::new() };
            Arc::new(Permissions { subscribe, ..Permissions::default() })
        }),
        connection_types: Vec::new(),
    };
    let with = |users| Settings { auth: Auth { users, ..Auth::default() }, ..Settings::default() };
    let old = vec![user("kept", "p", None), user("changed", "p", None), user("gone", "p", None)];
    let mut process = Process::new(1, with(old));
    let ids = ["kept", "changed", "gone"]
        .map(|name| process.client(0, &format!(",\"user\":\"{name}\",\"pass\":\"p\"")));
    process.send(ids[0], b"SUB a 1\r\nSUB b 2\r\n");
    let new = Arc::new(with(vec![user("kept", "p", Some("a")), user("changed", "q", None)]));
    let now = process.now;
    process.loops[0].reload(new, now);
    process.settle();
    let removed = "-ERR 'Permissions Violation for Subscription to \"b\" (sid \"2\")'\r\n";
    assert_eq!(process.take(ids[0]), removed);
    assert_eq!(process.take(ids[1]), "-ERR 'Authorization Violation'\r\n");
    assert_eq!(process.take(ids[2]), "");
    assert_eq!(ids.map(|id| process.is_open(id)), [true, false, false]);
    process.send(ids[0], b"PUB b 0\r\n\r\nPUB a 0\r\n\r\n");
    assert_eq!(process.take(ids[0]), "MSG a 1 0\r\n\r\n");
}

#[test]
fn a_reload_that_lowers_max_connections_closes_no_more_than_it_must_and_says_why() {
    let mut process = Process::new(2, Settings::default());
    let ids: Vec<_> = (0..6).map(|count| process.client(count % 2, "")).collect();
    for id in &ids {
        process.take(*id);
    }
    let mut settings = Settings::clone(&process.loops[0].settings);
    settings.max_connections = 2;
    let (settings, now) = (Arc::new(settings), process.now);
    for broker in &mut process.loops {
        broker.reload(Arc::clone(&settings), now);
    }
    process.settle();
    let closed = ids.iter().filter(|id| !process.is_open(**id)).count();
    assert_eq!(closed, 4);
    for id in ids {
        let text = process.take(id);
        let is_told = text == "-ERR 'maximum connections exceeded'\r\n";
        assert_eq!(is_told, !process.is_open(id), "{text:?}");
    }
}

#[test]
fn the_server_refuses_what_is_above_max_connections_and_takes_the_next_when_one_left() {
    let settings = Settings { max_connections: 2, ..Settings::default() };
    let mut process = Process::new(2, settings);
    let (first, _second) = (process.client(0, ""), process.client(1, ""));
    let third = process.open(0, ConnectionKind::Client);
    assert!(process.take(third).ends_with("-ERR 'maximum connections exceeded'\r\n"));
    let now = process.now;
    process.broker(first).closed(first, "Client Closed", now);
    let fourth = process.open(1, ConnectionKind::Client);
    assert!(process.is_open(fourth));
    let closed = process.loops[0].snapshot(now, Lists::ALL).closed;
    assert_eq!(closed[0].closed.as_ref().unwrap().1, "Client Closed");
}

/// Goal: figures are kept, so that they need no list; a list is there when it is asked for.
#[test]
fn a_snapshot_has_the_lists_that_are_asked_for_and_all_figures() {
    let mut process = Process::new(2, Settings::default());
    let (first, second) = (process.client(0, ""), process.client(1, ""));
    process.send(first, b"SUB a 1\r\nSUB b 2\r\n");
    process.send(second, b"SUB c 1\r\n");
    let now = process.now;
    let mut ask = |lists| {
        ServerSnapshot::merge(
            process.loops.iter_mut().map(|one| one.snapshot(now, lists)).collect(),
        )
    };
    let figures = ask(Lists::default());
    assert_eq!((figures.open_count, figures.subscriptions.num_subscriptions), (2, 3));
    assert!(figures.connections.is_empty() && figures.closed.is_empty());
    let open = ask(Lists { open: true, ..Lists::default() }).connections;
    let counts: Vec<usize> = open.iter().map(|found| found.subscription_count).collect();
    assert_eq!(counts, [2, 1]);
    assert!(open.iter().all(|found| found.subscriptions.is_empty()));
    assert_eq!(ask(Lists::ALL).connections[0].subscriptions.len(), 2);
}

#[test]
fn a_queue_spares_a_member_that_is_slow_while_another_has_room() {
    let settings = Settings { max_pending: 10_000, ..Settings::default() };
    let mut process = Process::new(1, settings);
    let (slow, quick) = (process.client(0, ""), process.client(0, ""));
    let sender = process.client(0, "");
    process.send(slow, b"SUB a 1\r\nSUB w q 2\r\n");
    process.send(quick, b"SUB w q 2\r\n");
    let fill = format!("PUB a 6000\r\n{}\r\n", "x".repeat(6000));
    process.send(sender, fill.as_bytes());
    for _ in 0..50 {
        process.send(sender, b"PUB w 0\r\n\r\n");
        assert_eq!(process.take(quick), "MSG w 2 0\r\n\r\n");
    }
}

#[test]
fn no_session_is_large() {
    assert!(size_of::<Session>() <= 600, "{}", size_of::<Session>());
    assert!(size_of::<client::Client>() <= 600, "{}", size_of::<client::Client>());
}

#[test]
fn a_reload_changes_what_wildcard_interests_must_not_hear() {
    let with = |deny: &[&str]| {
        let deny = deny.iter().map(|text| (*text).to_owned()).collect();
        let subscribe = SubjectRules { allow: None, deny };
        let permissions = Some(Arc::new(Permissions { subscribe, ..Permissions::default() }));
        let name = "u".to_owned();
        let users = vec![User { name, permissions, ..User::default() }];
        Settings { loops: 2, auth: Auth { users, ..Auth::default() }, ..Settings::default() }
    };
    let mut process = Process::new(2, with(&["a.x"]));
    let (id, far) = (process.client(0, ",\"user\":\"u\""), process.client(1, ",\"user\":\"u\""));
    process.send(id, b"SUB a.* 1\r\nUNSUB 1 2\r\n");
    process.send(far, b"PUB a.x 0\r\n\r\nPUB a.y 0\r\n\r\n");
    assert_eq!(process.take(id), "MSG a.y 1 0\r\n\r\n");
    let (new, now) = (Arc::new(with(&["a.y"])), process.now);
    for broker in &mut process.loops {
        broker.reload(Arc::clone(&new), now);
    }
    process.settle();
    process.send(far, b"PUB a.y 0\r\n\r\nPUB a.x 0\r\n\r\nPUB a.x 0\r\n\r\n");
    assert_eq!(process.take(id), "MSG a.x 1 0\r\n\r\n", "the count of two goes on");
}

#[test]
fn tls_comes_between_info_and_the_rest_and_nothing_goes_out_in_clear() {
    let tls = crate::broker::settings::ClientTls::Required { verify: false };
    let tls_timeout = Duration::from_secs(5);
    let settings = Settings { tls, tls_timeout, ..Settings::default() };
    let mut process = Process::new(1, settings);
    let id = process.open(0, ConnectionKind::Client);
    assert!(process.take(id).contains("\"tls_required\":true"));
    process.pass(Duration::from_secs(3));
    assert_eq!(process.take(id), "", "no PING before the handshake");
    process.send(id, b"\x16\x03");
    assert_eq!(process.flows[&id], Flow::StartTls);
    assert_eq!(process.buffers[&id].len(), 2, "the handshake gets all bytes");
    process.buffers.clear();
    let (peer, now) = (TlsPeer::default(), process.now);
    process.broker(id).handle(Input::TlsEstablished { session: id, peer }, now);
    assert_eq!(process.ask(id, "CONNECT {\"verbose\":false}\r\nPING\r\n"), "PONG\r\n");

    let silent = process.open(0, ConnectionKind::Client);
    process.pass(Duration::from_secs(6));
    assert!(!process.is_open(silent));
    let tls = crate::broker::settings::ClientTls::Available { verify: false };
    let mut process = Process::new(1, Settings { tls, ..Settings::default() });
    let plain = process.open(0, ConnectionKind::Client);
    process.take(plain);
    assert_eq!(process.ask(plain, "PING\r\n"), "PONG\r\n");
}

#[test]
fn a_client_is_pinged_soon_after_its_connect_and_then_when_it_was_quiet_for_an_interval() {
    let mut process = Process::new(1, Settings::default());
    let (id, mute) = (process.client(0, ""), process.open(0, ConnectionKind::Client));
    process.take(mute);
    process.pass(Duration::from_millis(1_990));
    assert_eq!(process.take(id), "");
    process.pass(Duration::from_millis(420));
    assert_eq!(process.take(id), "PING\r\n", "2 s and up to a fifth more after its CONNECT");
    process.pass(Duration::from_millis(7));
    process.send(id, b"PONG\r\n");
    let rtt = process.broker(id).sessions.get(id).and_then(|session| session.ping.rtt);
    let rtt = rtt.unwrap();
    assert!((7..450).contains(&rtt.as_millis()), "since the PING left, not the connect: {rtt:?}");
    process.pass(Duration::from_secs(57));
    assert_eq!(process.take(mute), "", "who said nothing is first asked after an interval");
    process.send(id, b"PUB a 0\r\n\r\n");
    let (mut quiet_seconds, mut asked) = (0, String::new());
    while process.take(id).is_empty() {
        process.pass(Duration::from_secs(1));
        asked.push_str(&process.take(mute));
        quiet_seconds += 1;
    }
    assert!((120..=240).contains(&quiet_seconds), "{quiet_seconds}");
    assert!(asked.starts_with("PING\r\n"), "{asked}");
}

#[test]
fn two_clients_that_publish_to_each_other_do_not_wait_for_ever() {
    let settings = Settings { max_pending: 10_000, ..Settings::default() };
    let mut process = Process::new(2, settings);
    let ids = [process.client(0, ""), process.client(1, "")];
    process.send(ids[0], b"SUB a 1\r\n");
    process.send(ids[1], b"SUB b 1\r\n");
    for (id, subject) in [(ids[0], "b"), (ids[1], "a")] {
        let publish = format!("PUB {subject} 3000\r\n{}\r\n", "x".repeat(3000));
        for _ in 0..3 {
            process.send(id, publish.as_bytes());
        }
        assert_eq!(process.flows[&id], Flow::Paused);
    }
    process.effects.clear();
    process.pass(Duration::from_secs(2));
    let resumed = |effect: &Effect| match effect {
        Effect::Resume { session } => Some(*session),
        Effect::ToEngine(_)
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
        | Effect::Verify { .. }
        | Effect::Log { .. } => None,
    };
    let found: BTreeSet<SessionId> = process.effects.iter().filter_map(resumed).collect();
    assert_eq!(found, BTreeSet::from(ids));
    for id in ids {
        process.read(id);
        assert_eq!(process.flows[&id], Flow::NeedMore);
    }
}

/// Goal: where users are listed the log says who was refused; where there is one password for all
/// there is no name to be told.
#[test]
fn the_log_names_a_refused_user_where_users_are_listed() {
    let user = User { name: "u".into(), password: "right".into(), ..User::default() };
    let listed = Auth { users: vec![user], ..Auth::default() };
    let alone = Auth { user: Some(("u".into(), "right".into())), ..Auth::default() };
    for (auth, expected) in
        [(listed, "authentication error - User \"u\""), (alone, "authentication error")]
    {
        let mut process = Process::new(1, Settings { auth, ..Settings::default() });
        let id = process.open(0, ConnectionKind::Client);
        process.take(id);
        process.effects.clear();
        let said = process.ask(id, "CONNECT {\"user\":\"u\",\"pass\":\"wrong\"}\r\n");
        assert_eq!(said, "-ERR 'Authorization Violation'\r\n");
        let logged = |effect: &Effect| {
            if let Effect::Log { text, .. } = effect { Some(text.clone()) } else { None }
        };
        let logged = process.effects.iter().filter_map(logged).collect::<Vec<_>>();
        assert!(logged.iter().any(|line| line.ends_with(expected)), "{logged:?}");
    }
}
