//! Bytes that no client would send, on each port and in each request.

use std::net::TcpStream;

use bytes::Bytes;
use prost::Message as _;
use stanby::base::random::Random;
use stanby::proto::pb;

use crate::server::{Launch, Server, free_port};
use crate::stan::{Stan, all, ask};
use crate::wire::{Conn, message, publish, same};

/// A server that must live through everything, and a client that is served all the while.
struct Calm {
    server: Server,
    stan: Stan,
    published: u64,
}

impl Calm {
    fn start(launch: &Launch) -> Self {
        let server = launch.start();
        let stan = Stan::connect(launch.port, "calm");
        Self { server, stan, published: 0 }
    }

    fn still_serves(&mut self, what: &str) {
        assert!(self.server.is_running(), "{what}");
        self.published += 1;
        let number = self.published;
        assert!(self.stan.fill("calm", number..=number).is_empty(), "{what}");
    }

    fn finish(mut self) {
        let count = usize::try_from(self.published).unwrap();
        let found = self.stan.replay("calm", count);
        let data = found.iter().map(|delivery| delivery.message.data.clone());
        assert!(data.eq((1..=self.published).map(|number| Bytes::from(number.to_string()))));
    }
}

fn random_bytes(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| u8::try_from(random.next_u64() & 0xff).unwrap()).collect()
}

#[test]
fn random_bytes_on_the_ports_of_clients_and_routes() {
    for loops in crate::server::LOOPS {
        let route = free_port();
        let launch = Launch::new(&[]).loops(loops);
        let launch = launch.arg("-cluster").arg(format!("nats://127.0.0.1:{route}"));
        let mut calm = Calm::start(&launch);
        let mut random = Random::new(7);
        let heads: [&[u8]; 9] = [
            b"",
            b"PUB ",
            b"SUB ",
            b"CONNECT {",
            b"HPUB a 1 ",
            b"RS+ $G ",
            b"RMSG $G x ",
            b"INFO {",
            b"PUB x 99999\r\n",
        ];
        for turn in 0..120 {
            for port in [launch.port, route] {
                let mut conn = Conn::silent(TcpStream::connect(("127.0.0.1", port)).unwrap());
                let garbage = random_bytes(&mut random, 300);
                conn.send([heads[turn % heads.len()], &garbage, b"\r\n"].concat());
            }
            if turn % 20 == 0 {
                calm.still_serves("random bytes");
            }
        }
        // A client's whole session on the port of routes, and the other way round.
        let mut wrong = Conn::silent(TcpStream::connect(("127.0.0.1", route)).unwrap());
        wrong.send(b"CONNECT {\"verbose\":false,\"lang\":\"go\"}\r\nPING\r\n");
        let seen = String::from_utf8(wrong.until_closed()).unwrap();
        assert!(seen.contains("-ERR 'attempted to connect to route port'"), "{seen}");
        calm.still_serves("a client on the port of routes");
        calm.finish();
    }
}

/// All subjects of requests, as the server named them, with a request that is right for each.
fn requests(stan: &Stan) -> Vec<(Bytes, Vec<u8>)> {
    let subjects = &stan.subjects;
    let connect = pb::ConnectRequest {
        client_id: "mutant".into(),
        heartbeat_inbox: stan.own("heartbeat"),
        protocol: 1,
        conn_id: "mutant".into(),
        ..pb::ConnectRequest::default()
    };
    let subscribe = pb::SubscriptionRequest {
        client_id: stan.id.clone(),
        inbox: stan.own("mutant"),
        durable_name: "mutant".into(),
        ..all("mutant")
    };
    let leave = pb::UnsubscribeRequest {
        client_id: stan.id.clone(),
        subject: "mutant".into(),
        inbox: stan.own("mutant"),
        ..pb::UnsubscribeRequest::default()
    };
    let close = pb::CloseRequest { client_id: "mutant".into() };
    let publish = Bytes::from([&subjects.pub_prefix[..], b".mutant"].concat());
    vec![
        ("_STAN.discover.test-cluster".into(), connect.encode_to_vec()),
        (publish, stan.message("mutant", [b'm'; 40]).encode_to_vec()),
        (subjects.sub_requests.clone(), subscribe.encode_to_vec()),
        (subjects.unsub_requests.clone(), leave.encode_to_vec()),
        (subjects.sub_close_requests.clone(), leave.encode_to_vec()),
        (subjects.close_requests.clone(), close.encode_to_vec()),
        (subjects.ping_requests.clone(), pb::Ping { conn_id: "mutant".into() }.encode_to_vec()),
    ]
}

#[test]
fn truncated_changed_and_huge_requests() {
    for loops in crate::server::LOOPS {
        let mut calm = Calm::start(&Launch::new(&["-mc", "0"]).loops(loops));
        let mut hostile = Stan::connect(calm.server.launch.port, "hostile");
        let mut random = Random::new(9);
        for (subject, good) in requests(&hostile) {
            let reply = hostile.own("ignored");
            for len in 0..good.len() {
                hostile.send(&subject, &reply, &good[..len]);
            }
            for _ in 0..200 {
                let mut changed = good.clone();
                let at = usize::try_from(random.next_u64()).unwrap() % changed.len();
                changed[at] = u8::try_from(random.next_u64() & 0xff).unwrap();
                hostile.send(&subject, &reply, &changed);
            }
            // A length far beyond the message, a huge varint, and a payload of the largest size.
            hostile.send(&subject, &reply, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f");
            hostile.send(&subject, &reply, &[0xff; 64]);
            hostile.send(&subject, &reply, &vec![b'x'; 1_048_576]);
            let huge = [&b"\x0a\x80\x80\x3c"[..], &vec![b'y'; 983_040]].concat();
            hostile.send(&subject, &reply, &huge);
            hostile.flush();
            calm.still_serves(&String::from_utf8_lossy(&subject));
        }
        calm.finish();
    }
}

#[test]
fn subjects_and_names_that_are_not_text() {
    for loops in crate::server::LOOPS {
        let mut calm = Calm::start(&Launch::new(&[]).loops(loops));
        let mut conn = Conn::client(calm.server.launch.port, "");
        let asked = [&b"SUB \xff\xfe.* 1\r\nPUB \xff\xfe.\x80 2\r\nhi\r\n"[..]].concat();
        same(conn.ask(asked), b"MSG \xff\xfe.\x80 1 2\r\nhi\r\n", "core subjects");
        let names: [&[u8]; 6] =
            [b"\xff", b"a\x00b", b"%2e%2e", b"\xc3\x28", b"a b\nc", &[b'n'; 200]];
        for name in names {
            calm.stan.publish(name, "x").unwrap();
            let found = calm.stan.replay(name, 1);
            assert_eq!(found[0].message.subject, name, "{name:?}");
        }
        conn.ask(publish("_STAN.pub.\u{fffd}", b"x"));
        calm.still_serves("names of any bytes");
        calm.finish();
    }
}

#[test]
fn names_of_any_bytes_survive_in_a_file_store() {
    let launch = Launch::new(&[]).file_store(None);
    let mut server = launch.start();
    let mut stan = Stan::connect(launch.port, "names");
    let names: [&[u8]; 4] = [b"\xff\xfe", b"a b", b"\xc3\x28", b"quo\"te"];
    let is_stored: Vec<bool> = names.iter().map(|name| stan.publish(name, "x").is_ok()).collect();
    let path = stan.publish("../outside", "x");
    assert!(path.is_err(), "a slash is refused");
    // No folder can have these names; that is their publisher's mistake, and no reason to stop.
    let folderless: [(&[u8], &str); 4] = [
        (&[b'n'; 400], "file name too long"),
        (b"server.dat", "not a directory"),
        (b"clients.dat", "not a directory"),
        (b"a\x00b", "invalid argument"),
    ];
    for (name, reason) in folderless {
        let path = launch.folder().join("store").join(String::from_utf8_lossy(name).as_ref());
        let refusal = format!("mkdir {}: {reason}", path.display());
        assert_eq!(stan.publish(name, "x"), Err(refusal.clone()));
        assert_eq!(stan.try_subscribe(ask(name)).map(drop), Err(refusal));
    }
    assert!(!server.log.text().contains("[FTL]") && server.is_running());
    stan.publish("plain", "after the refusals").unwrap();
    server.kill();
    drop(stan);
    let _server = launch.start();
    let mut stan = Stan::connect(launch.port, "names");
    for (name, _) in names.iter().zip(is_stored).filter(|(_, is_stored)| *is_stored) {
        assert_eq!(stan.replay(name, 1)[0].message.subject, *name, "{name:?}");
    }
    assert_eq!(stan.replay("plain", 1).len(), 1);
}

#[test]
fn a_core_client_that_forges_internal_traffic_harms_nobody() {
    let mut calm = Calm::start(&Launch::new(&["-ft_group", "g"]).file_store(None));
    let mut conn = Conn::client(calm.server.launch.port, "");
    for subject in ["_STAN.ft.g.test-cluster", "_STAN.acks.x", "_STAN.sub.test-cluster", "_INBOX.x"]
    {
        conn.ask([publish(subject, b"\x0a\x05wrong"), publish(subject, b"")].concat());
    }
    same(conn.ask(b""), b"", "served");
    let asked = [b"SUB x 1\r\n".to_vec(), publish("x", b"y")].concat();
    same(conn.ask(asked), message("x", "1", b"y"), "served");
    calm.still_serves("forged messages");
    calm.finish();
}
