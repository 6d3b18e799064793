//! The parser against bytes as they come, and against the encoder.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::BytesMut;
use proptest::prelude::*;

use super::op::{Publish, RouteInterest, RouteMessage};
use super::parser::{parse_any, parse_usual_pub};
use super::*;

fn client() -> Limits {
    Limits { side: Side::Client, control_line_max: 64, payload_max: 1000, has_headers: true }
}

fn check(limits: &Limits, bytes: &[u8], expected: Op<'_>) {
    let text = String::from_utf8_lossy(bytes);
    let found = parse(bytes, limits).unwrap();
    assert_eq!(found, Parsed::Op { op: expected, len: bytes.len() }, "{text}");
    if let Parsed::Op { op: op @ (Op::Publish(_) | Op::RouteMessage(_)), .. } = found {
        let copy = bytes.to_vec();
        assert_eq!(op.finder(bytes)(&copy), op, "{text} is found again in a copy");
    }
    for end in 0..bytes.len() {
        let partial = parse(&bytes[..end], limits);
        assert!(matches!(partial, Ok(Parsed::NeedMore { .. })), "{text} cut at {end}: {partial:?}");
    }
}

fn publish<'a>(subject: &'a [u8], reply: Option<&'a [u8]>, payload: &'a [u8]) -> Publish<'a> {
    Publish { subject, reply, header_len: None, payload }
}

#[test]
fn blanks_letter_case_and_line_ends_are_free() {
    let limits = client();
    check(&limits, b"pub \t a  2\nhi\r\n", Op::Publish(publish(b"a", None, b"hi")));
    check(&limits, b"PuB\ta\tre 0\r\n\r\n", Op::Publish(publish(b"a", Some(b"re"), b"")));
    check(&limits, b"sUb  a\t 1 \r\n", Op::Subscribe { subject: b"a", queue: None, sid: b"1" });
    assert_eq!(parse_usual_pub(b"pub a 2\r\nhi\r\n", &limits), None);
    let usual = parse_usual_pub(b"PUB a re 2\r\nhi\r\n", &limits);
    assert_eq!(usual, Some((publish(b"a", Some(b"re"), b"hi"), 16)));
    check(&limits, b"PINGxyz\n", Op::Ping);
    check(&limits, b"CONNECT{}\r\n", Op::Connect(b"{}"));
    check(&limits, b"unsub 1 x\r\n", Op::Unsubscribe { sid: b"1", max: None });
    let headers = Publish { header_len: Some(2), ..publish(b"a", None, b"hhp") };
    check(&limits, b"HPUB a 2 3\r\nhhp\r\n", Op::Publish(headers));
}

#[test]
fn routes_have_their_own_operations() {
    let limits = Limits::route();
    let interest = RouteInterest { origin: None, account: b"$G", subject: b"a", queue: None };
    check(&limits, b"RS+ $G a\r\n", Op::RouteSubscribe { interest, weight: 1 });
    let queued = RouteInterest { queue: Some(b"q"), ..interest };
    check(&limits, b"RS+ $G a q 3\r\n", Op::RouteSubscribe { interest: queued, weight: 3 });
    check(&limits, b"RS- $G a q\r\n", Op::RouteUnsubscribe(queued));
    check(&limits, b"LS-  $G a\r\n", Op::RouteUnsubscribe(interest));
    let leaf = RouteInterest { origin: Some(b"c"), ..interest };
    check(&limits, b"LS+ c $G a\r\n", Op::RouteSubscribe { interest: leaf, weight: 1 });
    let route = |reply, queues| {
        let message = publish(b"a", reply, b"x");
        let (origin, is_kept) = (None, false);
        Op::RouteMessage(RouteMessage { origin, account: b"$G", message, queues, is_kept })
    };
    check(&limits, b"RMSG $G a 1\r\nx\r\n", route(None, b""));
    check(&limits, b"RMSG $G a re 1\r\nx\r\n", route(Some(b"re"), b""));
    check(&limits, b"RMSG $G a + re q r 1\r\nx\r\n", route(Some(b"re"), b"q r"));
    check(&limits, b"RMSG $G a | q 1\r\nx\r\n", route(None, b"q"));
    check(&limits, b"A+ $G\r\n", Op::Account(b"$G", true));
    for bad in [&b"RMSG $G 1\r\n"[..], b"RMSG $G a b c 1\r\n", b"RS+ $G a q\r\n", b"LMSG\r\n"] {
        assert!(parse(bad, &limits).is_err(), "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn a_client_of_a_server_understands_what_it_says() {
    let limits = Limits::server();
    let message = publish(b"a", Some(b"re"), b"x");
    check(&limits, b"MSG a 7 re 1\r\nx\r\n", Op::Message { message, sid: b"7" });
    let message = Publish { header_len: Some(1), ..publish(b"a", None, b"hx") };
    check(&limits, b"HMSG a 7 1 2\r\nhx\r\n", Op::Message { message, sid: b"7" });
    check(&limits, b"-ERR 'Stale Connection'\r\n", Op::Err(b"'Stale Connection'"));
    check(&limits, b"+OK\r\n", Op::Ok);
}

#[test]
fn what_is_wrong_is_said_as_soon_as_it_is_known() {
    let limits = client();
    let long = [b"SUB ".as_slice(), &[b'a'; 65]].concat();
    let unknown = |state, at| ProtocolError::UnknownOperation { state, at };
    for (bytes, expected) in [
        (&b"Z"[..], unknown(0, 0)),
        (b" PING", unknown(0, 0)),
        (b"\r", unknown(0, 0)),
        (b"PUBS", unknown(31, 3)),
        (b"SUB\r", unknown(45, 3)),
        (b"RS+", unknown(0, 0)),
        (b"PUB a 1\r\nxy", unknown(41, 10)),
        (b"PUB a 1\r\nx\ry", unknown(42, 11)),
        (&long, ProtocolError::too_long(47, 64, 65, &[b'a'; 65])),
        (b"PUB a 1001\n", ProtocolError::PayloadTooLarge { size: 1001, max: 1000 }),
    ] {
        let found = parse(bytes, &limits);
        assert_eq!(found, Err(expected), "{}", String::from_utf8_lossy(bytes));
    }
    for bytes in ["PUB a\n", "PUB a b c 1\n", "PUB a -1\n", "PUB a 1234567890\n", "HPUB a 3 2\n"] {
        let found = parse(bytes.as_bytes(), &limits).unwrap_err();
        assert_eq!(found.reason(), CloseReason::ProtocolViolation, "{bytes}");
    }
    let deaf = Limits { has_headers: false, ..limits };
    assert_eq!(parse(b"HPUB a 1 1\n", &deaf), Err(ProtocolError::HeadersNotSupported));
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(33..127_u8, 1..8)
}

proptest! {
    /// Goal: what the encoder writes the parser reads back, whole and unchanged.
    #[test]
    fn messages_survive_encoding(
        (subject, sid) in (word(), word()),
        reply in prop::option::of(word()),
        queues in prop::collection::vec(word(), 0..3),
        payload in prop::collection::vec(any::<u8>(), 0..40),
        header_len in prop::option::of(0..40_usize),
    ) {
        let header_len = header_len.map(|len| len.min(payload.len()));
        let reply = reply.as_deref();
        let message = Publish { subject: &subject, reply, header_len, payload: &payload };
        let queues = queues.join(&b' ');
        let (origin, account, is_kept) = (None, &b"$G"[..], false);
        let routed = RouteMessage { origin, account, message, queues: &queues, is_kept };
        let message_kept = Publish { header_len: None, ..message };
        let kept = RouteMessage { message: message_kept, queues: b"", is_kept: true, ..routed };
        for (op, limits) in [
            (Op::Publish(message), Limits { control_line_max: 4096, ..client() }),
            (Op::Message { message, sid: &sid }, Limits::server()),
            (Op::RouteMessage(routed), Limits::route()),
            (Op::RouteMessage(kept), Limits::route()),
        ] {
            let mut bytes = BytesMut::new();
            encoder::encode(&op, &mut bytes);
            let len = bytes.len();
            prop_assert_eq!(parse(&bytes, &limits), Ok(Parsed::Op { op, len }));
        }
    }

    /// Goal: what is read the quick way is what the general way reads.
    #[test]
    fn the_quick_way_reads_what_the_general_way_reads(
        begin in prop::sample::select(vec!["PUB ", "PUB a", "PUB a.b ", "PUB a b ", "pub a "]),
        middle in prop::collection::vec(prop::sample::select(b" \t\r\n013a.".to_vec()), 0..6),
        end in prop::sample::select(vec!["0\r\n", "3\r\n", " 3\r\n", "1001\r\n", "3\n", ""]),
        rest in prop::sample::select(vec!["abc\r\n", "abc\r\nPUB ", "ab\r\n", "\r\n", "", "\r\nx"]),
        control_line_max in 3..12_usize,
    ) {
        let bytes = [begin.as_bytes(), &middle, end.as_bytes(), rest.as_bytes()].concat();
        let limits = Limits { control_line_max, ..client() };
        if let Some((publish, len)) = parse_usual_pub(&bytes, &limits) {
            let expected = Parsed::Op { op: Op::Publish(publish), len };
            prop_assert_eq!(parse_any(&bytes, &limits), Ok(expected));
        }
    }

    /// Goal: no bytes make the parser panic, or consume more than there is.
    #[test]
    fn any_bytes_are_survived(
        verb in prop::sample::select(vec!["PUB ", "HPUB ", "SUB ", "RMSG ", "HMSG ", "LS+ ", ""]),
        rest in prop::collection::vec(prop::sample::select(b" \t\r\n0123a+|$G.".to_vec()), 0..40),
    ) {
        let bytes = [verb.as_bytes(), &rest].concat();
        for limits in [client(), Limits::route(), Limits::server()] {
            if let Ok(Parsed::Op { len, .. }) = parse(&bytes, &limits) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}

#[test]
fn documents_take_null_and_unknown_fields() {
    let connect = Connect::decode(b"{\"name\":null,\"verbose\":false,\"zzz\":[1]}").unwrap();
    assert_eq!((connect.name, connect.verbose), (None, Some(false)));
    let info = Info::decode(b"{\"server_id\":\"N\",\"connect_urls\":null,\"xkey\":1}").unwrap();
    assert_eq!(info.server_id, "N");
    assert!(Connect::decode(b"{x").is_err());
}

#[test]
fn documents_are_read_as_go_reads_them() {
    let text = b"{\"Verbose\":true,\"USER\":\"a\",\"echo\":true,\"echo\":false}";
    let connect = Connect::decode(text).unwrap();
    let found = (connect.verbose, connect.user.as_deref(), connect.echo);
    assert_eq!(found, (Some(true), Some("a"), Some(false)));
    let info = Info::decode(b"{\"headers\":null,\"max_payload\":null,\"name\xff\":1}").unwrap();
    assert!(!info.headers && info.max_payload == 0);
}

/// Goal: the line of a message between servers has room for very many queues, and for them only.
#[test]
fn a_line_that_names_very_many_queues_is_taken_from_a_peer() {
    let names = "name ".repeat(400_000);
    let line = format!("RMSG $G one + back {names}1\r\nx\r\n");
    let Ok(Parsed::Op { op: Op::RouteMessage(routed), len }) =
        parse(line.as_bytes(), &Limits::route())
    else {
        panic!("it is a message");
    };
    assert_eq!((len, routed.queue_names().count()), (line.len(), 400_000));
    assert_eq!((routed.message.subject, routed.message.reply), (&b"one"[..], Some(&b"back"[..])));
    let long = "a".repeat(2_000_000);
    for line in [format!("RMSG $G {long} 1\r\nx\r\n"), format!("RS+ $G {long}\r\n")] {
        assert!(parse(line.as_bytes(), &Limits::route()).is_err());
    }
}
