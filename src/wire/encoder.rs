//! Op → bytes at the end of a buffer.

use bytes::{BufMut, BytesMut};

use crate::wire::op::{EngineState, Kept, Mark, Op, Publish, RouteInterest, SINGLE};

/// Appends a whole operation.
pub fn encode(op: &Op<'_>, out: &mut BytesMut) {
    match op {
        Op::Info(json) => line(out, &[b"INFO ", json]),
        Op::Connect(json) => line(out, &[b"CONNECT ", json]),
        Op::Publish(publish) => {
            let verb: &[u8] = if publish.header_len.is_some() { b"HPUB " } else { b"PUB " };
            line_of(out, verb, publish, None);
            payload(out, publish.payload);
        }
        Op::Message { message, sid } => {
            let verb: &[u8] = if message.header_len.is_some() { b"HMSG " } else { b"MSG " };
            line_of(out, verb, message, Some(sid));
            payload(out, message.payload);
        }
        Op::Subscribe { subject, queue, sid } => {
            out.put_slice(b"SUB ");
            word(out, subject);
            if let Some(queue) = queue {
                word(out, queue);
            }
            line(out, &[sid]);
        }
        Op::Unsubscribe { sid, max: None } => line(out, &[b"UNSUB ", sid]),
        Op::Unsubscribe { sid, max: Some(max) } => {
            line(out, &[b"UNSUB ", sid, b" ", max.to_string().as_bytes()]);
        }
        Op::Ping => out.put_slice(b"PING\r\n"),
        Op::Pong => out.put_slice(b"PONG\r\n"),
        Op::Ok => out.put_slice(b"+OK\r\n"),
        Op::Err(text) => line(out, &[b"-ERR ", text]),
        Op::RouteSubscribe { interest, weight } => route_sub(out, interest, *weight),
        Op::RouteUnsubscribe(interest) => route_unsub(out, interest),
        Op::RouteMessage(route) => {
            if let Some(origin) = route.origin {
                out.put_slice(b"LMSG ");
                word(out, origin);
            } else if route.is_kept {
                out.put_slice(b"KMSG ");
            } else if route.message.header_len.is_some() {
                out.put_slice(b"HMSG ");
            } else {
                out.put_slice(b"RMSG ");
            }
            route_words(out, route.account, &route.message, route.queues);
            let header_len = match (route.origin, route.message.header_len) {
                (Some(_), None) => Some(0),
                (_, header_len) => header_len,
            };
            sizes(out, header_len, route.message.payload.len());
            payload(out, route.message.payload);
        }
        Op::Account(account, true) => line(out, &[b"A+ ", account]),
        Op::Account(account, false) => line(out, &[b"A- ", account]),
        Op::EngineInterest { .. }
        | Op::EngineState { .. }
        | Op::Kept(_)
        | Op::Done { .. }
        | Op::Told { .. } => encode_ours(op, out),
    }
}

/// What members of one group tell each other.
fn encode_ours(op: &Op<'_>, out: &mut BytesMut) {
    match op {
        Op::EngineInterest { epoch, account, subject, is_listening } => {
            out.put_slice(if *is_listening { b"SE+ " } else { b"SE- " });
            big_number(out, *epoch, b" ");
            line(out, &[account, b" ", subject]);
        }
        Op::EngineState { epoch, state } => {
            out.put_slice(b"SE= ");
            big_number(out, *epoch, b" ");
            let state: &[u8] = match state {
                EngineState::Ready => b"ready",
                EngineState::Closed => b"closed",
                EngineState::Ended => b"ended",
            };
            line(out, &[state]);
        }
        Op::Kept(Kept { epoch, ledger, number, is_again }) => {
            out.put_slice(b"KEPT ");
            big_number(out, *epoch, b" ");
            big_number(out, *ledger, b" ");
            big_number(out, *number, if *is_again { b" again\r\n" } else { b"\r\n" });
        }
        Op::Done { epoch, marks } => {
            out.put_slice(b"DONE ");
            big_number(out, *epoch, b" ");
            line(out, &[marks]);
        }
        Op::Told { epoch } => {
            out.put_slice(b"TOLD ");
            big_number(out, *epoch, b"\r\n");
        }
        Op::Info(_)
        | Op::Connect(_)
        | Op::Publish(_)
        | Op::Message { .. }
        | Op::Subscribe { .. }
        | Op::Unsubscribe { .. }
        | Op::Ping
        | Op::Pong
        | Op::Ok
        | Op::Err(_)
        | Op::RouteSubscribe { .. }
        | Op::RouteUnsubscribe(_)
        | Op::RouteMessage(_)
        | Op::Account(..) => unreachable!("it is none of ours: {op:?}"),
    }
}

/// Appends `-ERR '<text>'`.
pub fn error(out: &mut BytesMut, text: &str) {
    line(out, &[b"-ERR '", text.as_bytes(), b"'"]);
}

/// Most bytes of a MSG or HMSG beside its names and its payload.
pub const MESSAGE_FRAME_MAX: usize = 64;

/// Appends the line of MSG, or of HMSG if `header_len` is given; the payload of `size` bytes and
/// a line end follow.
pub fn message_line(
    out: &mut BytesMut,
    names: (&[u8], &[u8], Option<&[u8]>),
    header_len: Option<usize>,
    size: usize,
) {
    let (subject, sid, reply) = names;
    out.put_slice(if header_len.is_some() { b"HMSG " } else { b"MSG " });
    word(out, subject);
    word(out, sid);
    if let Some(reply) = reply {
        word(out, reply);
    }
    sizes(out, header_len, size);
}

/// Appends the line of PUB; the payload of `size` bytes and a line end follow.
pub fn publish_line(out: &mut BytesMut, (subject, reply): (&[u8], Option<&[u8]>), size: usize) {
    out.put_slice(b"PUB ");
    word(out, subject);
    if let Some(reply) = reply {
        word(out, reply);
    }
    sizes(out, None, size);
}

/// Appends the line of RMSG, or of HMSG if `header_len` is given, between servers; the payload of
/// `size` bytes and a line end follow.
pub fn route_message_line(
    out: &mut BytesMut,
    account: &[u8],
    (subject, reply): (&[u8], Option<&[u8]>),
    queues: &[u8],
    (header_len, size): (Option<usize>, usize),
) {
    out.put_slice(if header_len.is_some() { b"HMSG " } else { b"RMSG " });
    let message = Publish { subject, reply, header_len, payload: b"" };
    route_words(out, account, &message, queues);
    sizes(out, header_len, size);
}

/// Appends the line of KMSG; the payload of `size` bytes and a line end follow.
pub fn kept_message_line(
    out: &mut BytesMut,
    account: &[u8],
    (subject, reply): (&[u8], Option<&[u8]>),
    size: usize,
) {
    out.put_slice(b"KMSG ");
    word(out, account);
    word(out, subject);
    if let Some(reply) = reply {
        word(out, reply);
    }
    sizes(out, None, size);
}

fn route_words(out: &mut BytesMut, account: &[u8], message: &Publish<'_>, queues: &[u8]) {
    word(out, account);
    word(out, message.subject);
    match (message.reply, queues.is_empty()) {
        (Some(reply), true) => word(out, reply),
        (Some(reply), false) => {
            word(out, b"+");
            word(out, reply);
        }
        (None, true) => (),
        (None, false) => word(out, b"|"),
    }
    if !queues.is_empty() {
        word(out, queues.trim_ascii_end());
    }
}

fn route_sub(out: &mut BytesMut, interest: &RouteInterest<'_>, weight: u32) {
    match interest.origin {
        Some(origin) => {
            out.put_slice(b"LS+ ");
            word(out, origin);
        }
        None => out.put_slice(b"RS+ "),
    }
    word(out, interest.account);
    match interest.queue {
        Some(queue) => {
            word(out, interest.subject);
            word(out, queue);
            line(out, &[weight.to_string().as_bytes()]);
        }
        None => line(out, &[interest.subject]),
    }
}

fn route_unsub(out: &mut BytesMut, interest: &RouteInterest<'_>) {
    match interest.origin {
        Some(origin) => {
            out.put_slice(b"LS- ");
            word(out, origin);
        }
        None => out.put_slice(b"RS- "),
    }
    word(out, interest.account);
    match interest.queue {
        Some(queue) => line(out, &[interest.subject, b" ", queue]),
        None => line(out, &[interest.subject]),
    }
}

fn line_of(out: &mut BytesMut, verb: &[u8], publish: &Publish<'_>, sid: Option<&[u8]>) {
    out.put_slice(verb);
    word(out, publish.subject);
    if let Some(sid) = sid {
        word(out, sid);
    }
    if let Some(reply) = publish.reply {
        word(out, reply);
    }
    sizes(out, publish.header_len, publish.payload.len());
}

fn word(out: &mut BytesMut, word: &[u8]) {
    out.put_slice(word);
    out.put_u8(b' ');
}

fn line(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.put_slice(part);
    }
    out.put_slice(b"\r\n");
}

fn payload(out: &mut BytesMut, payload: &[u8]) {
    out.put_slice(payload);
    out.put_slice(b"\r\n");
}

/// Appends one pair of `DONE`.
pub(crate) fn mark(out: &mut BytesMut, ledger: u64, mark: Mark) {
    if !out.is_empty() {
        out.put_u8(b' ');
    }
    big_number(out, ledger, b" ");
    match mark {
        Mark::UpTo(number) => big_number(out, number, b""),
        Mark::Single(number) => {
            out.put_u8(SINGLE);
            big_number(out, number, b"");
        }
    }
}

fn sizes(out: &mut BytesMut, header_len: Option<usize>, size: usize) {
    if let Some(header_len) = header_len {
        number(out, header_len, b" ");
    }
    number(out, size, b"\r\n");
}

const DIGITS: &[u8; 10] = b"0123456789";

/// Decimal digits and what follows them, without the detour over a `String`: this is on the path
/// of each message.
fn number(out: &mut BytesMut, value: usize, end: &[u8]) {
    big_number(out, value as u64, end);
}

fn big_number(out: &mut BytesMut, mut value: u64, end: &[u8]) {
    let mut digits = [0; 32];
    let mut at = digits.len() - end.len();
    digits[at..].copy_from_slice(end);
    loop {
        at -= 1;
        digits[at] = DIGITS[usize::try_from(value % 10).unwrap_or(0)];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}
