//! What each kind of session may send, and what it gets: the tables of `kind`, as a peer sees them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;

use super::settings::{Auth, Cluster};
use super::tests::{Process, post};
use super::*;
use crate::base::server_url::ServerUrl;

/// A verb, a line that begins with it, and what becomes of a client and of a route that says it:
/// before CONNECT where a password is asked for, before CONNECT, and after the handshake; and of an
/// external server before and after its handshake.
///
/// `+` it is heard, `?` the verb is not known, `!` nothing is said before a password, `c` it is
/// heard and ends the session.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

const TABLE: [Row; 27] = [
    ("PUB", "PUB a 0\r\n\r\n", "!++", "!??", "??"),
    // The server's INFO offers headers; who uses them says so in CONNECT.
    ("HPUB", "HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n", "!c+", "!??", "??"),
    ("SUB", "SUB a 1\r\n", "!++", "!??", "??"),
    ("UNSUB", "UNSUB 1\r\n", "!++", "!??", "??"),
    ("PING", "PING\r\n", "!++", "!++", "++"),
    ("PONG", "PONG\r\n", "!++", "!++", "c+"),
    ("CONNECT", "CONNECT {\"user\":\"u\",\"pass\":\"p\"}\r\n", "+++", "+++", "??"),
    ("INFO", "INFO {}\r\n", "!++", "!++", "++"),
    ("+OK", "+OK\r\n", "!++", "!?+", "++"),
    ("-ERR", "-ERR 'x'\r\n", "!cc", "!cc", "cc"),
    ("MSG", "MSG a 1 0\r\n\r\n", "!??", "!??", "++"),
    ("HMSG", "HMSG $G a 12 12\r\nNATS/1.0\r\n\r\n\r\n", "!??", "!?+", "++"),
    ("RMSG", "RMSG $G a 0\r\n\r\n", "!??", "!?+", "??"),
    ("LMSG", "LMSG c $G a 12 12\r\nNATS/1.0\r\n\r\n\r\n", "!??", "!?+", "??"),
    ("RS+", "RS+ $G a\r\n", "!??", "!?+", "??"),
    ("RS-", "RS- $G a\r\n", "!??", "!?+", "??"),
    ("LS+", "LS+ c $G a\r\n", "!??", "!?+", "??"),
    ("LS-", "LS- c $G a\r\n", "!??", "!?+", "??"),
    ("A+", "A+ $G\r\n", "!??", "!?+", "??"),
    ("A-", "A- $G\r\n", "!??", "!?+", "??"),
    // Members of one group alone tell each other of their engines.
    ("SE+", "SE+ 1 $G a\r\n", "!??", "!?c", "??"),
    ("SE-", "SE- 1 $G a\r\n", "!??", "!?c", "??"),
    ("SE=", "SE= 1 ready\r\n", "!??", "!?c", "??"),
    ("KEPT", "KEPT 1 1 1\r\n", "!??", "!?c", "??"),
    ("KMSG", "KMSG $G a 0\r\n\r\n", "!??", "!?c", "??"),
    ("DONE", "DONE 1 1 1\r\n", "!??", "!?c", "??"),
    ("TOLD", "TOLD 1\r\n", "!??", "!?c", "??"),
];

const CLIENT_HANDSHAKE: &str = "CONNECT {\"verbose\":false,\"headers\":true}\r\n";
const ROUTE_HANDSHAKE: &str = "CONNECT {\"cluster\":\"abc\"}\r\nINFO {\"server_id\":\"NB\",\
    \"server_name\":\"b\",\"cluster\":\"abc\",\"proto\":2}\r\n";

fn process(asks_password: bool) -> Process {
    let user = asks_password.then(|| ("u".to_owned(), "p".to_owned()));
    let cluster = Cluster { name: "abc".into(), user: user.clone(), ..Cluster::default() };
    Process::new(
        1,
        Settings {
            server_id: "NA".into(),
            server_name: "a".into(),
            auth: Auth { user, ..Auth::default() },
            cluster: Some(cluster),
            ..Settings::default()
        },
    )
}

fn verdict(kind: &ConnectionKind, asks_password: bool, handshake: &str, line: &str) -> char {
    let mut process = process(asks_password);
    let id = process.open(0, kind.clone());
    process.ask(id, handshake);
    assert!(process.is_open(id), "the handshake is one");
    let answer = process.ask(id, line);
    match (process.is_open(id), &answer) {
        (true, _) => '+',
        (false, text) if text.contains("'Unknown Protocol Operation'") => '?',
        (false, text) if text.contains("'Authorization Violation'") => '!',
        (false, _) => 'c',
    }
}

/// Goal: nobody says more than its kind may, at any time.
#[test]
fn each_kind_may_send_what_the_table_says() {
    let named: BTreeSet<&[u8]> = TABLE.iter().map(|(verb, ..)| verb.as_bytes()).collect();
    assert_eq!(named, crate::wire::verbs(), "each verb has a row");
    for (verb, line, client, route, _) in TABLE {
        for (kind, handshake, expected) in [
            (ConnectionKind::Client, CLIENT_HANDSHAKE, client),
            (ConnectionKind::RouteAccepted, ROUTE_HANDSHAKE, route),
        ] {
            let found: String = [(true, ""), (false, ""), (false, handshake)]
                .map(|(asks_password, said)| verdict(&kind, asks_password, said, line))
                .into_iter()
                .collect();
            assert_eq!(found, expected, "{verb} of {kind:?}");
        }
    }
}

/// Goal: the same of an external server, whose client we are.
#[test]
fn an_external_server_may_send_what_the_table_says() {
    let greeting = "INFO {\"server_id\":\"NX\",\"headers\":true}\r\nPONG\r\nPONG\r\n";
    for (verb, line, _, _, expected) in TABLE {
        let outcome = |handshake: &str| {
            let servers = ServerUrl::decode_list("nats://h:1").unwrap();
            let upstream = settings::Upstream { servers, ..settings::Upstream::default() };
            let upstream = Some(Arc::new(upstream));
            let mut process = Process::new(1, Settings { upstream, ..Settings::default() });
            let (address, tls_name) = ("h:1".to_owned(), "h".to_owned());
            let id = process.open(0, ConnectionKind::Upstream { address, tls_name });
            process.ask(id, handshake);
            assert!(process.is_open(id), "the handshake is one");
            process.ask(id, line);
            let is_unknown = |effect: &Effect| {
                let Effect::Upstream(news) = effect else { return false };
                format!("{news:?}").contains("Unknown Protocol")
            };
            match (process.is_open(id), process.effects.iter().any(is_unknown)) {
                (true, _) => '+',
                (false, true) => '?',
                (false, false) => 'c',
            }
        };
        let found: String = ["", greeting].map(outcome).into_iter().collect();
        assert_eq!(found, expected, "{verb}");
    }
}

/// Goal: a message goes to whom its way allows: one that came by a route goes no further.
#[test]
fn each_kind_gets_what_the_table_says() {
    for (from, client_gets, route_gets) in
        [("client", true, true), ("engine", true, true), ("route", true, false)]
    {
        let mut process = process(false);
        let listener = process.client(0, "");
        process.send(listener, b"SUB a 1\r\nSUB a 2\r\nSUB a q 3\r\n");
        let route = process.open(0, ConnectionKind::RouteAccepted);
        process.ask(route, ROUTE_HANDSHAKE);
        process.ask(route, "RS+ $G a\r\nRS+ $G > q 1\r\n");
        match from {
            "client" => {
                let sender = process.client(0, "");
                process.send(sender, b"PUB a 1\r\nx\r\n");
            }
            "engine" => {
                let now = process.now;
                process.loops[0].publish(&post("a", b"x"), None, now);
            }
            _ => process.send(route, b"RMSG $G a 1\r\nx\r\n"),
        }
        let (there, beyond) = (process.take(listener), process.take(route));
        // Each interest of a client is one of its own; a route has one copy for all of them.
        assert_eq!(there.matches("MSG a").count() >= 2, client_gets, "{from}: {there}");
        assert_eq!(
            beyond.matches("RMSG $G a").count(),
            usize::from(route_gets),
            "{from}: {beyond}"
        );
    }
}
