//! Brokers driven by hand: bytes in, bytes out.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::broker::account::{Permissions, SubjectRules};
use crate::broker::settings::{Auth, User};

/// All loops of one process, with the mail between them.
pub(super) struct Process {
    pub loops: Vec<Broker>,
    pub now: Now,
    buffers: BTreeMap<SessionId, BytesMut>,
    flows: BTreeMap<SessionId, Flow>,
    pub effects: Vec<Effect>,
    next_slot: u32,
}

impl Process {
    pub fn new(loops: u16, settings: Settings) -> Self {
        let now = Now { at: Instant(1_000_000_000), wall: WallTime(1_000_000_000) };
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

    fn read(&mut self, id: SessionId) {
        let mut buffer = self.buffers.remove(&id).unwrap_or_default();
        let now = self.now;
        let flow = self.broker(id).read(id, &mut buffer, now);
        self.buffers.insert(id, buffer);
        self.flows.insert(id, flow);
        self.settle();
    }

    /// Carries mail until none is left; keeps the other effects.
    pub fn settle(&mut self) {
        loop {
            let mut is_idle = true;
            for index in 0..self.loops.len() {
                while let Some(effect) = self.loops[index].poll_effect() {
                    is_idle = false;
                    if let Effect::Mail { to, mail } = effect {
                        let from = LoopIndex(u16::try_from(index).unwrap());
                        let now = self.now;
                        self.loops[to.index()].handle_mail(from, mail, now);
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

    fn is_open(&mut self, id: SessionId) -> bool {
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
    assert_eq!(process.loops[0].snapshot(process.now).slow_consumers, 1);
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
fn engines_hear_without_headers_and_their_credit_holds_publishers() {
    let mut process = Process::new(2, Settings::default());
    for engine in 0..2 {
        let interest = EngineInterest { engine: LoopIndex(engine), key: 1, needs_credit: true };
        process.loops[usize::from(engine)].listen(&Subject::from("pub.>"), interest);
    }
    process.settle();
    let client = process.client(0, ",\"headers\":true");
    process.send(client, b"HPUB pub.foo re 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
    let deliveries: Vec<EngineDelivery> = process
        .effects
        .drain(..)
        .filter_map(|effect| match effect {
            Effect::ToEngine(delivery) => Some(delivery),
            _ => None,
        })
        .collect();
    assert_eq!(deliveries.len(), 1, "one service, though two engines offer it");
    assert_eq!(deliveries[0].payload, "hi");
    assert_eq!(deliveries[0].reply, Some(Subject::from("re")));
    assert_eq!(deliveries[0].origin, Some(client));

    let owner = crate::base::placement::of_channel(&"foo".into(), 2);
    process.loops[0].set_pressure(owner, true);
    process.send(client, b"PUB pub.foo 1\r\nx\r\n");
    assert_eq!(process.flows[&client], Flow::Paused);
    process.loops[0].set_pressure(owner, false);
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
    let (head, tail) = (Bytes::from_static(b"he"), Bytes::from_static(b"llo"));
    process.loops[0].publish(&"a".into(), None, &head, &tail, now);
    process.settle();
    assert_eq!(process.take(near), "MSG a 1 5\r\nhello\r\n");
    process.loops[0].publish(&"a".into(), None, &head, &tail, now);
    process.loops[0].engine_gone();
    process.settle();
    assert_eq!(process.take(near), "", "it had not left yet");
    assert_eq!(process.take(far), "");
    process.effects.clear();
    process.loops[0].publish(&"nobody".into(), Some(&"re".into()), &head, &tail, now);
    process.settle();
    assert!(matches!(&process.effects[..], [Effect::NoResponders { .. }]));
}
