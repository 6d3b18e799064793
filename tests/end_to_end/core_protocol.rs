//! Core NATS: INFO, CONNECT, PUB, HPUB, SUB, UNSUB, queue groups, headers, no responders, frames.

use crate::LOOPS;
use crate::server::{Launch, Server, wait_for};
use crate::wire::{
    Conn, HEADER, ask_for, connect, count, error, message, message_headers, publish,
    publish_headers, request, same,
};

const OK: &[u8] = b"+OK\r\n";

/// On servers with one, two and four loops.
fn each(check: impl Fn(&Server)) {
    for loops in LOOPS {
        check(&Launch::new(&[]).loops(loops).start());
    }
}

fn quick(server: &Server) -> Conn {
    Conn::client(server.launch.port, "")
}

fn headers(server: &Server) -> Conn {
    Conn::client(server.launch.port, "\"headers\":true,\"no_responders\":true")
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn info_tells_what_clients_need() {
    let server = Launch::new(&[]).start();
    let (first, second) = (Conn::open(server.launch.port), Conn::open(server.launch.port));
    let info = &first.info;
    let id = info["server_id"].as_str().unwrap();
    let is_key = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
    assert!(id.len() == 56 && id.starts_with('N') && id.bytes().all(is_key), "{id}");
    assert_eq!(info["server_name"], info["server_id"]);
    assert!(info["version"].as_str().unwrap().starts_with("2.9."), "{info}");
    assert!(info["go"].is_string() && info["client_id"].is_u64(), "{info}");
    let wanted = serde_json::json!({
        "proto": 1, "headers": true, "max_payload": 1_048_576, "client_ip": "127.0.0.1",
        "host": "127.0.0.1", "port": server.launch.port,
    });
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&info[key], value, "{key}");
    }
    for absent in
        ["auth_required", "tls_required", "tls_verify", "tls_available", "nonce", "ldm", "cluster"]
    {
        assert!(info.get(absent).is_none(), "{absent} in {info}");
    }
    assert!(info["client_id"].as_u64() < second.info["client_id"].as_u64());
}

#[test]
fn info_shows_what_is_configured() {
    let text = "server_name: alpha\nclient_advertise: \"10.1.2.3:4567\"\nmax_payload: 1000\n";
    let server = Launch::new(&[]).config(text).start();
    let info = Conn::open(server.launch.port).info;
    let found = (&info["server_name"], &info["host"], &info["port"], &info["max_payload"]);
    assert_eq!(found, (&"alpha".into(), &"10.1.2.3".into(), &4567.into(), &1000.into()), "{info}");
}

#[test]
fn verbose_is_the_default_and_each_operation_gets_its_ok() {
    let server = Launch::new(&[]).start();
    let mut conn = Conn::open(server.launch.port);
    let found = conn.ask(joined(&[b"SUB v 1\r\n", &publish("v", b"x")]));
    same(found, joined(&[OK, OK, &message("v", "1", b"x")]), "before CONNECT");
    same(conn.ask(b"CONNECT {\"verbose\":true,\"headers\":true}\r\n"), OK, "CONNECT");
    same(conn.ask(b"SUB v 1\r\n"), OK, "SUB with a sid in use");
    same(conn.ask(publish_headers("nobody", HEADER, b"")), OK, "HPUB");
    same(conn.ask(b"UNSUB 1\r\nUNSUB 99\r\n"), joined(&[OK, OK]), "UNSUB");
    same(conn.ask(b"SUB bad. 2\r\n"), error("Invalid Subject"), "a refused SUB has no +OK");
    same(conn.ask(b"CONNECT {\"verbose\":false}\r\nCONNECT {\"echo\":false}\r\n"), b"", "quiet");
    same(conn.ask(joined(&[b"SUB w 3\r\n", &publish("w", b"x")])), b"", "options stay");
}

#[test]
fn a_connect_that_cannot_be_taken_closes() {
    let server = Launch::new(&[]).start();
    let cases: [(&str, Vec<u8>); 5] = [
        ("{\"protocol\":2}", error("invalid client protocol")),
        ("{\"protocol\":-1}", error("invalid client protocol")),
        ("{\"no_responders\":true}", error("no responders requires headers support")),
        ("{\"account\":\"A\"}", error("Authorization Violation")),
        ("{x", Vec::new()),
    ];
    for (document, answer) in cases {
        let found = Conn::open(server.launch.port).fatal(format!("CONNECT {document}\r\n"));
        same(found, answer, document);
    }
    let mut conn = Conn::open(server.launch.port);
    let loose = b"CONNECT{\"verbose\":false,\"zzz\":[1,{}]}\r\nSUB compact 1\r\n";
    same(conn.ask(loose), b"", "unknown fields, no blank");
}

#[test]
fn echo_is_for_those_who_want_it() {
    each(|server| {
        let mut quiet = Conn::client(server.launch.port, "\"echo\":false");
        let mut other = quick(server);
        other.ask(b"SUB echo 1\r\nSUB eq g 2\r\n");
        let own = [b"SUB echo 1\r\nSUB eq g 2\r\n".to_vec(), publish("echo", b"x")].concat();
        same(quiet.ask(own), b"", "own message");
        same(other.hear(&mut quiet), message("echo", "1", b"x"), "other connection");
        quiet.send(publish("eq", b"q").repeat(20));
        same(other.hear(&mut quiet), message("eq", "2", b"q").repeat(20), "the other member");
        other.send(publish("echo", b"y"));
        same(quiet.hear(&mut other), message("echo", "1", b"y"), "message of another");
    });
}

#[test]
fn messages_arrive_byte_for_byte() {
    each(|server| {
        let mut conn = quick(server);
        let blob: Vec<u8> = (0..=255).chain(*b"\r\nPUB exact 3\r\nMSG\r\n").collect();
        let asked = [
            b"SUB exact s-1/x\r\n".to_vec(),
            publish("exact", b"hello"),
            ask_for("exact", "re.ply", b""),
            publish("exact", &blob),
        ];
        let wanted = [
            message("exact", "s-1/x", b"hello"),
            request("exact", "s-1/x", "re.ply", b""),
            message("exact", "s-1/x", &blob),
        ];
        same(conn.ask(asked.concat()), wanted.concat(), "MSG");
        let loose = b"sUb  loose\t 1 \r\npub \t loose  2\nhi\r\nPuB\tloose\tre 2\r\nho\r\n";
        let wanted = [message("loose", "1", b"hi"), request("loose", "1", "re", b"ho")];
        same(conn.ask(loose), wanted.concat(), "white space and letter case");
        same(conn.ask(b"+OK\r\nINFO {}\r\nPONG\r\n"), b"", "operations nobody needs");
        same(conn.send(b"PINGxyz\r\nping\n").ops(2).concat(), b"PONG\r\nPONG\r\n", "PING");
        let big = vec![b'z'; 1_048_576];
        let found = conn.ask([b"SUB big 1b\r\n".to_vec(), publish("big", &big)].concat());
        assert!(found == message("big", "1b", &big), "a payload of max_payload bytes changed");
    });
}

#[test]
fn order_holds_between_any_two_connections() {
    each(|server| {
        let mut publishers: Vec<Conn> = (0..4).map(|_| quick(server)).collect();
        let mut subscribers: Vec<Conn> = (0..4).map(|_| quick(server)).collect();
        subscribers.iter_mut().for_each(|conn| drop(conn.ask(b"SUB mesh.* 1\r\n")));
        for number in 0..200 {
            for (index, conn) in publishers.iter_mut().enumerate() {
                conn.send(publish(&format!("mesh.{index}"), number.to_string().as_bytes()));
            }
        }
        for conn in &mut subscribers {
            let found = conn.ops(800);
            for index in 0..4 {
                let subject = format!("mesh.{index}");
                let of_one =
                    found.iter().filter(|op| count(op, &subject, "1") == 1).flatten().copied();
                let wanted = (0..200)
                    .flat_map(|number: i32| message(&subject, "1", number.to_string().as_bytes()));
                assert!(of_one.eq(wanted), "order of {subject}");
            }
        }
    });
}

#[test]
fn unsub_now_later_and_too_late() {
    let server = Launch::new(&[]).start();
    let mut conn = quick(&server);
    let asked = [
        b"SUB un 1\r\nUNSUB 77\r\n".to_vec(),
        publish("un", b"1"),
        b"UNSUB 1\r\nUNSUB 1\r\n".to_vec(),
        publish("un", b"2"),
    ];
    same(conn.ask(asked.concat()), message("un", "1", b"1"), "now, unknown and repeated");
    let asked = [
        b"SUB max 2\r\n".to_vec(),
        publish("max", b"1"),
        b"UNSUB 2 3\r\n".to_vec(),
        publish("max", b"x").repeat(5),
    ];
    let wanted = [message("max", "2", b"1"), message("max", "2", b"x").repeat(2)];
    same(conn.ask(asked.concat()), wanted.concat(), "a max counts what was delivered before");
    conn.ask([b"SUB late 3\r\n".to_vec(), publish("late", b"").repeat(3)].concat());
    same(conn.ask([b"UNSUB 3 2\r\n".to_vec(), publish("late", b"x")].concat()), b"", "reached");
    let again = [b"SUB late 3\r\n".to_vec(), publish("late", b"y")].concat();
    same(conn.ask(again), message("late", "3", b"y"), "the sid is free again");
}

#[test]
fn patterns_match_by_whole_tokens() {
    let cases = [
        ("w1.*", "w1.a", true),
        ("w1.*", "w1", false),
        ("w1.*", "w1.a.b", false),
        ("w2.*.c", "w2.b.c", true),
        ("w3.>", "w3.a.b.c", true),
        ("w3.>", "w3", false),
        ("w4.a", "W4.a", false),
        ("w5", "w5.a", false),
        ("w6*", "w6a", false),
        ("w6*", "w6*", true),
        ("w7.a>", "w7.ab", false),
        ("w7.a>", "w7.a>", true),
        ("w8.*", "w8.*", true),
        ("w8.>", "w8.*.>", true),
        ("w9.>", "w9..a", false),
        ("w9.>", "w9.a.", false),
        ("*.wa", ".wa", false),
    ];
    each(|server| {
        for (pattern, subject, matches) in cases {
            let (mut conn, mut publisher) = (quick(server), quick(server));
            conn.ask(format!("SUB {pattern} 1\r\n"));
            publisher.send(publish(subject, b"x"));
            let wanted = if matches { message(subject, "1", b"x") } else { Vec::new() };
            same(conn.hear(&mut publisher), wanted, &format!("{pattern} and {subject}"));
        }
    });
}

#[test]
fn malformed_subjects_are_refused_and_the_connection_stays() {
    let server = Launch::new(&[]).start();
    let mut conn = quick(&server);
    for subject in ["bad.", ".bad", "bad..x", "bad.>.x", ">.bad", "."] {
        same(conn.ask(format!("SUB {subject} 1\r\n")), error("Invalid Subject"), subject);
    }
    let found = conn.ask([b"SUB good 1\r\n".to_vec(), publish("good", b"")].concat());
    same(found, message("good", "1", b""), "the refused sid is free");
    let mut pedantic = Conn::client(server.launch.port, "\"pedantic\":true");
    for subject in ["ped.*", "ped.>", "ped..x", "ped.", ".ped"] {
        let found = pedantic.ask(publish(subject, b"x"));
        same(found, error("Invalid Publish Subject"), subject);
    }
    let reserved = error("Permissions Violation for Publish to \"_GR_.x\"");
    same(conn.ask(publish("_GR_.x", b"")), reserved, "_GR_");
    for reply in ["_GR_.x", "_R_.x", "$JS.ACK.x"] {
        let text = format!("Permissions Violation for Publish with Reply of \"{reply}\"");
        same(conn.ask(ask_for("good", reply, b"")), error(&text), reply);
    }
    let text = "Permissions Violation for Subscription to \"r\" using queue \"_sys_\"";
    same(conn.ask(b"SUB r _sys_ 2\r\n"), error(text), "reserved queue");
}

#[test]
fn queue_groups_share_and_lose_nothing() {
    each(|server| {
        let mut members: Vec<Conn> = (0..8).map(|_| quick(server)).collect();
        members.iter_mut().for_each(|conn| drop(conn.ask(b"SUB load g 1\r\n")));
        let mut publisher = quick(server);
        publisher.send(publish("load", b"x").repeat(1_600));
        let found: Vec<usize> =
            members.iter_mut().map(|conn| count(&conn.hear(&mut publisher), "load", "1")).collect();
        assert_eq!(found.iter().sum::<usize>(), 1_600, "{found:?}");
        assert!(found.iter().all(|share| 0 < *share), "{found:?}");
        let mut leaver = members.pop().unwrap();
        leaver.ask(b"UNSUB 1\r\n");
        publisher.send(publish("load", b"x").repeat(70));
        assert_eq!(count(&leaver.hear(&mut publisher), "load", "1"), 0);
        let rest = members.iter_mut().map(|c| count(&c.hear(&mut publisher), "load", "1"));
        assert_eq!(rest.sum::<usize>(), 70);
    });
}

#[test]
fn each_group_and_each_plain_subscription_gets_every_message() {
    each(|server| {
        let (mut first, mut second) = (quick(server), quick(server));
        for conn in [&mut first, &mut second] {
            conn.ask(b"SUB each.x g 1\r\nSUB each.* g 2\r\nSUB each.x h 3\r\nSUB each.> 4\r\n");
        }
        let mut publisher = quick(server);
        publisher.send(publish("each.x", b"x").repeat(50));
        let found = [first.hear(&mut publisher), second.hear(&mut publisher)].concat();
        let by_sid = ["1", "2", "3", "4"].map(|sid| count(&found, "each.x", sid));
        assert_eq!(by_sid[0] + by_sid[1], 50, "one group over different patterns: {by_sid:?}");
        assert_eq!(by_sid[2..], [50, 100], "group, plain");
    });
}

#[test]
fn headers_travel_and_old_clients_get_the_body() {
    each(|server| {
        let (mut new, mut old) = (headers(server), quick(server));
        let asked = [
            b"SUB head 7\r\n".to_vec(),
            publish_headers("head", HEADER, b"body"),
            publish_headers("head", b"", b"bare"),
            publish("head", b"plain"),
        ];
        let wanted = [
            message_headers("head", "7", HEADER, b"body"),
            message("head", "7", b"bare"),
            message("head", "7", b"plain"),
        ];
        same(new.ask(asked.concat()), wanted.concat(), "HMSG");
        old.ask(b"SUB strip 1\r\n");
        new.send(publish_headers("strip", HEADER, b"body"));
        same(old.hear(&mut new), message("strip", "1", b"body"), "without headers");
    });
    let server = Launch::new(&[]).config("no_header_support: true").start();
    let mut conn = Conn::open(server.launch.port);
    assert_eq!(conn.info["headers"], false);
    same(
        conn.fatal([connect("\"headers\":true"), publish_headers("h", HEADER, b"")].concat()),
        b"",
        "off",
    );
}

#[test]
fn who_asks_nobody_is_told() {
    each(|server| {
        let (mut conn, mut unasked) =
            (headers(server), Conn::client(server.launch.port, "\"headers\":true"));
        let none = b"HMSG nr.1 5 16 16\r\nNATS/1.0 503\r\n\r\n\r\n";
        let asked = [b"SUB nr.* 5\r\n".to_vec(), ask_for("nobody", "nr.1", b"x")].concat();
        same(conn.send(asked).op(), none, "503");
        let asked = [b"SUB nr2 2\r\n".to_vec(), ask_for("nobody", "nr2", b"")].concat();
        same(unasked.ask(asked), b"", "unasked");
        same(conn.ask(ask_for("nobody", "other", b"")), b"", "nobody awaits the reply");
        let mut listener = quick(server);
        listener.ask(b"SUB heard 1\r\n");
        // Its interest is known everywhere once a message came through.
        let mut seen = Vec::new();
        wait_for("interest of the listener", || {
            conn.send(publish("heard", b"hello"));
            seen = listener.hear(&mut conn);
            (!seen.is_empty()).then_some(())
        });
        same(conn.ask(ask_for("heard", "nr.2", b"")), b"", "heard");
        drop(listener);
        wait_for("503 after the listener left", || {
            let found = conn.ask(ask_for("heard", "nr.3", b""));
            found.windows(3).any(|window| window == b"503").then_some(())
        });
    });
}

/// A session with every operation, and the sorted answers to it.
fn session(tag: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (a, b, q) = (format!("{tag}.a"), format!("{tag}.b"), format!("{tag}.q"));
    let asked = [
        b"CONNECT {\"verbose\":true,\"pedantic\":false,\"headers\":true}\r\n".to_vec(),
        format!("SUB {tag}.* 1\r\nSUB {q} grp 22\r\n").into_bytes(),
        ask_for(&a, "reply", b"hel\r\nlo"),
        publish_headers(&b, HEADER, b"world"),
        publish(&q, b""),
        b"UNSUB 22\r\nUNSUB 1 10\r\nPING\r\n".to_vec(),
    ];
    let mut answers = vec![OK.to_vec(); 8];
    answers.extend([
        request(&a, "1", "reply", b"hel\r\nlo"),
        message_headers(&b, "1", HEADER, b"world"),
        message(&q, "1", b""),
        message(&q, "22", b""),
        b"PONG\r\n".to_vec(),
    ]);
    answers.sort();
    (asked.concat(), answers)
}

#[test]
fn frames_may_be_cut_anywhere() {
    let server = Launch::new(&[]).start();
    let (asked, answers) = session("cut");
    let check = |conn: &mut Conn, what: &str| {
        let mut found = conn.ops(answers.len());
        found.sort();
        assert_eq!(found, answers, "{what}");
    };
    for at in 1..asked.len() {
        let mut conn = Conn::open(server.launch.port);
        conn.send(&asked[..at]);
        // Another connection's round trip: the loops have read what came before.
        quick(&server).ask(b"");
        conn.send(&asked[at..]);
        check(&mut conn, &format!("split at {at}"));
    }
    let mut conn = Conn::open(server.launch.port);
    for byte in &asked {
        conn.send([*byte]);
    }
    check(&mut conn, "byte by byte");
}
