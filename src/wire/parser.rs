//! Front of a buffer → one Op, or "need more", or ProtocolError.
//!
//! Tolerates what the Go server tolerates (spec core NATS, 2.1): letter case of verbs, blanks and
//! tabs between arguments, a bare line feed. Keeps no state: a partial operation is parsed again
//! from its start, which costs one control line.

use memchr::{memchr, memchr2};
use smallvec::SmallVec;

use crate::wire::errors::ProtocolError;
use crate::wire::op::{
    EngineState, Kept, Op, Publish, RouteInterest, RouteMessage, marks as marks_of, number, words,
};
use crate::wire::states;

/// Longest control line between servers in bytes: room for an INFO with thousands of URLs, and
/// still a bound, because routes have none in the protocol.
pub const ROUTE_LINE_MAX: usize = 1024 * 1024;

/// The same of a message that names the queues that it is for: there is one line for all of them,
/// because the peer gives it to its plain subscribers for each.
pub const ROUTE_NAMES_LINE_MAX: usize = 4 * ROUTE_LINE_MAX;

/// Longest line of somebody who has not said yet that it is a server of our cluster: room for an
/// INFO with more URLs than are taken from one.
const INTRODUCTION_LINE_MAX: usize = 64 * 1024;

/// Longest payload between servers in bytes: the most that any configuration makes sense with.
pub const ROUTE_PAYLOAD_MAX: usize = 64 * 1024 * 1024;

/// Who sends the bytes: each side has its own operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client, to a server.
    Client,
    /// A server, to a client.
    Server,
    /// A server, to a server of its cluster.
    Route,
    /// Somebody who says to be a server, to the server whose cluster it wants to join.
    Stranger,
}

/// What one connection may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Who sends.
    pub side: Side,
    /// Most bytes of arguments in a line.
    pub control_line_max: usize,
    /// Most bytes of header block and payload together.
    pub payload_max: usize,
    /// Whether `HPUB` is allowed.
    pub has_headers: bool,
}

impl Limits {
    /// What a route may send.
    #[must_use]
    pub fn route() -> Self {
        Self {
            side: Side::Route,
            control_line_max: ROUTE_LINE_MAX,
            payload_max: ROUTE_PAYLOAD_MAX,
            has_headers: true,
        }
    }

    /// What may come on the port for routes before it is known who it is.
    #[must_use]
    pub fn stranger() -> Self {
        let control_line_max = INTRODUCTION_LINE_MAX;
        Self { side: Side::Stranger, control_line_max, payload_max: 0, has_headers: false }
    }

    /// What a server may send to its client.
    #[must_use]
    pub fn server() -> Self {
        Self { side: Side::Server, ..Self::route() }
    }
}

/// What was found at the front of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// One whole operation. The caller drops `len` bytes from its buffer.
    Op {
        /// The operation.
        op: Op<'a>,
        /// Its length.
        len: usize,
    },
    /// The operation is not whole.
    NeedMore {
        /// Length of the whole operation, where that is known already.
        len: Option<usize>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Info,
    Connect,
    Pub,
    HPub,
    Sub,
    Unsub,
    Msg,
    HMsg,
    Ping,
    Pong,
    Ok,
    Err,
    RouteSub,
    RouteUnsub,
    LeafSub,
    LeafUnsub,
    RouteMsg,
    KeptMsg,
    LeafMsg,
    AccountSub,
    AccountUnsub,
    EngineSub,
    EngineUnsub,
    EngineState,
    Kept,
    Done,
    Told,
}

/// What may stand behind a verb.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// A blank or tab.
    Blank,
    /// Anything.
    Anything,
}

type Table = &'static [(&'static [u8], Verb, After)];

const FROM_CLIENT: Table = &[
    (b"PUB", Verb::Pub, After::Blank),
    (b"HPUB", Verb::HPub, After::Blank),
    (b"SUB", Verb::Sub, After::Blank),
    (b"UNSUB", Verb::Unsub, After::Blank),
    (b"PING", Verb::Ping, After::Anything),
    (b"PONG", Verb::Pong, After::Anything),
    (b"CONNECT", Verb::Connect, After::Anything),
    (b"INFO", Verb::Info, After::Anything),
    (b"+OK", Verb::Ok, After::Anything),
    (b"-ERR", Verb::Err, After::Blank),
];

const FROM_SERVER: Table = &[
    (b"MSG", Verb::Msg, After::Blank),
    (b"HMSG", Verb::HMsg, After::Blank),
    (b"PING", Verb::Ping, After::Anything),
    (b"PONG", Verb::Pong, After::Anything),
    (b"INFO", Verb::Info, After::Anything),
    (b"+OK", Verb::Ok, After::Anything),
    (b"-ERR", Verb::Err, After::Blank),
];

const FROM_ROUTE: Table = &[
    (b"RMSG", Verb::RouteMsg, After::Blank),
    (b"KMSG", Verb::KeptMsg, After::Blank),
    (b"KEPT", Verb::Kept, After::Blank),
    (b"DONE", Verb::Done, After::Blank),
    (b"TOLD", Verb::Told, After::Blank),
    (b"HMSG", Verb::HMsg, After::Blank),
    (b"LMSG", Verb::LeafMsg, After::Blank),
    (b"RS+", Verb::RouteSub, After::Blank),
    (b"RS-", Verb::RouteUnsub, After::Blank),
    (b"LS+", Verb::LeafSub, After::Blank),
    (b"LS-", Verb::LeafUnsub, After::Blank),
    (b"A+", Verb::AccountSub, After::Blank),
    (b"A-", Verb::AccountUnsub, After::Blank),
    (b"SE+", Verb::EngineSub, After::Blank),
    (b"SE-", Verb::EngineUnsub, After::Blank),
    (b"SE=", Verb::EngineState, After::Blank),
    (b"PING", Verb::Ping, After::Anything),
    (b"PONG", Verb::Pong, After::Anything),
    (b"CONNECT", Verb::Connect, After::Anything),
    (b"INFO", Verb::Info, After::Anything),
    (b"+OK", Verb::Ok, After::Anything),
    (b"-ERR", Verb::Err, After::Blank),
];

const FROM_STRANGER: Table = &[
    (b"PING", Verb::Ping, After::Anything),
    (b"PONG", Verb::Pong, After::Anything),
    (b"CONNECT", Verb::Connect, After::Anything),
    (b"INFO", Verb::Info, After::Anything),
    (b"-ERR", Verb::Err, After::Blank),
];

/// Every verb that anybody may send.
#[cfg(test)]
pub(crate) fn verbs() -> std::collections::BTreeSet<&'static [u8]> {
    let tables = [FROM_CLIENT, FROM_SERVER, FROM_ROUTE, FROM_STRANGER];
    tables.into_iter().flatten().map(|(verb, ..)| *verb).collect()
}

/// Reads one operation from the front of `bytes`. Never consumes a part of one.
///
/// # Errors
/// When what is there cannot become an operation of `limits.side` that keeps to the limits; said
/// as early as it is known, also of an operation that is not whole.
#[inline]
pub fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Parsed<'a>, ProtocolError> {
    if limits.side == Side::Client
        && let Some((publish, len)) = parse_usual_pub(bytes, limits)
    {
        return Ok(Parsed::Op { op: Op::Publish(publish), len });
    }
    parse_any(bytes, limits)
}

/// A whole publish without headers whose line is as client libraries write it. `None` says nothing:
/// whatever is unusual or wrong is found the general way.
#[inline]
pub(super) fn parse_usual_pub<'a>(
    bytes: &'a [u8],
    limits: &Limits,
) -> Option<(Publish<'a>, usize)> {
    let line = bytes.strip_prefix(b"PUB ")?;
    let line_len = memchr(b'\n', line)? + 1;
    let line = line[..line_len].strip_suffix(b"\r\n")?;
    if limits.control_line_max < line.len() {
        return None;
    }
    let (names, size) = line.split_at(line.iter().rposition(|byte| !byte.is_ascii_digit())? + 1);
    let size = parse_size(size).filter(|size| *size <= limits.payload_max)?;
    let names = names.strip_suffix(b" ")?;
    let (subject, reply) = match memchr2(b' ', b'\t', names) {
        None => (names, None),
        Some(at) => {
            let reply = names[at..].strip_prefix(b" ")?;
            if reply.is_empty() || memchr2(b' ', b'\t', reply).is_some() {
                return None;
            }
            (&names[..at], Some(reply))
        }
    };
    if subject.is_empty() {
        return None;
    }
    let (payload, end) = bytes[b"PUB ".len() + line_len..].split_at_checked(size)?;
    if !end.starts_with(b"\r\n") {
        return None;
    }
    let len = b"PUB ".len() + line_len + size + b"\r\n".len();
    Some((Publish { subject, reply, header_len: None, payload }, len))
}

pub(super) fn parse_any<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Parsed<'a>, ProtocolError> {
    let Some((verb, verb_len)) = find_verb(bytes, limits.side)? else {
        return Ok(Parsed::NeedMore { len: None });
    };
    let line_end = memchr(b'\n', &bytes[verb_len..]).map(|at| verb_len + at);
    let line = &bytes[verb_len..line_end.unwrap_or(bytes.len())];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let start = line.iter().position(|byte| !is_blank(*byte)).unwrap_or(line.len());
    let arguments = &line[start..];
    let is_named =
        limits.side == Side::Route && matches!(verb, Verb::RouteMsg | Verb::LeafMsg | Verb::HMsg);
    if arguments.len() > limits.control_line_max
        && (!is_named || arguments.len() > ROUTE_NAMES_LINE_MAX)
    {
        let state = states::in_arguments(&bytes[..verb_len]);
        let unfinished_len = if line_end.is_none() { arguments.len() } else { 0 };
        let max = limits.control_line_max;
        return Err(ProtocolError::too_long(state, max, unfinished_len, arguments));
    }
    let Some(line_end) = line_end else {
        return Ok(Parsed::NeedMore { len: None });
    };
    let len = line_end + 1;
    let op = match verb {
        Verb::Info => Op::Info(arguments),
        Verb::Connect => Op::Connect(arguments),
        Verb::Ping => Op::Ping,
        Verb::Pong => Op::Pong,
        Verb::Ok => Op::Ok,
        Verb::Err => Op::Err(arguments),
        Verb::Sub => parse_sub(arguments)?,
        Verb::Unsub => parse_unsub(arguments)?,
        Verb::AccountSub => Op::Account(arguments, true),
        Verb::AccountUnsub => Op::Account(arguments, false),
        Verb::RouteSub | Verb::LeafSub => parse_route_sub(arguments, verb)?,
        Verb::RouteUnsub | Verb::LeafUnsub => parse_route_unsub(arguments, verb)?,
        Verb::EngineSub => parse_engine_interest(arguments, true)?,
        Verb::EngineUnsub => parse_engine_interest(arguments, false)?,
        Verb::EngineState => parse_engine_state(arguments)?,
        Verb::Kept => Op::Kept(parse_kept(arguments)?),
        Verb::Done => parse_done(arguments)?,
        Verb::Told => parse_told(arguments)?,
        Verb::Pub | Verb::HPub => {
            let head = parse_pub(arguments, verb, limits)?;
            return with_payload(bytes, len, head, |_, publish| Op::Publish(publish));
        }
        Verb::Msg => return parse_msg(bytes, len, arguments, false, limits),
        Verb::HMsg if limits.side == Side::Server => {
            return parse_msg(bytes, len, arguments, true, limits);
        }
        Verb::RouteMsg | Verb::KeptMsg | Verb::LeafMsg | Verb::HMsg => {
            return parse_route_msg(bytes, len, arguments, verb, limits);
        }
    };
    Ok(Parsed::Op { op, len })
}

fn find_verb(bytes: &[u8], side: Side) -> Result<Option<(Verb, usize)>, ProtocolError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let table = match side {
        Side::Client => FROM_CLIENT,
        Side::Server => FROM_SERVER,
        Side::Route => FROM_ROUTE,
        Side::Stranger => FROM_STRANGER,
    };
    for (name, verb, after) in table {
        let common = name.len().min(bytes.len());
        if !bytes[..common].eq_ignore_ascii_case(&name[..common]) {
            continue;
        }
        return match bytes.get(name.len()) {
            // Another verb may begin alike (PING, PONG), but none is whole yet either.
            None if *after == After::Blank || bytes.len() < name.len() => Ok(None),
            Some(byte) if *after == After::Blank && !is_blank(*byte) => Err(unknown(bytes, side)),
            None | Some(_) => Ok(Some((*verb, name.len()))),
        };
    }
    Err(unknown(bytes, side))
}

fn unknown(bytes: &[u8], side: Side) -> ProtocolError {
    let (at, state) = states::behind_verb(bytes, side);
    ProtocolError::UnknownOperation { state, at }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

type Words<'a> = SmallVec<[&'a [u8]; 6]>;

/// Words of the longest line of HPUB.
const PUB_WORDS_MAX: usize = 4;

/// The control line of a message: its sizes are known, its payload is not looked at.
struct Head<'a> {
    subject: &'a [u8],
    reply: Option<&'a [u8]>,
    header_len: Option<usize>,
    size: usize,
}

fn with_payload<'a>(
    bytes: &'a [u8],
    line_len: usize,
    head: Head<'a>,
    make: impl FnOnce(&'a [u8], Publish<'a>) -> Op<'a>,
) -> Result<Parsed<'a>, ProtocolError> {
    let Head { subject, reply, header_len, size } = head;
    let end = line_len + size;
    for (place, expected) in b"\r\n".iter().enumerate() {
        let at = end + place;
        if bytes.get(at).is_some_and(|byte| byte != expected) {
            let state = states::at_payload_end(place);
            return Err(ProtocolError::UnknownOperation { state, at });
        }
    }
    let len = end + 2;
    if bytes.len() < len {
        return Ok(Parsed::NeedMore { len: Some(len) });
    }
    let payload = &bytes[line_len..end];
    let op = make(payload, Publish { subject, reply, header_len, payload });
    Ok(Parsed::Op { op, len })
}

fn parse_pub<'a>(line: &'a [u8], verb: Verb, limits: &Limits) -> Result<Head<'a>, ProtocolError> {
    let has_headers = verb == Verb::HPub;
    if has_headers && !limits.has_headers {
        return Err(ProtocolError::HeadersNotSupported);
    }
    let step = if has_headers { "processHeaderPub" } else { "processPub" };
    // A list on the stack: this is the line of each message. One word too many is enough.
    let mut found: [&[u8]; PUB_WORDS_MAX + 1] = [b""; PUB_WORDS_MAX + 1];
    let mut count = 0;
    for (place, word) in found.iter_mut().zip(words(line)) {
        *place = word;
        count += 1;
    }
    parse_head(&found[..count], step, has_headers, line, limits)
}

/// `<subject> [reply] [header size] <size>`.
fn parse_head<'a>(
    words: &[&'a [u8]],
    step: &'static str,
    has_headers: bool,
    line: &[u8],
    limits: &Limits,
) -> Result<Head<'a>, ProtocolError> {
    let (subject, reply, sizes) = match (has_headers, words) {
        (false, [subject, size]) => (*subject, None, (None, *size)),
        (false, [subject, reply, size]) => (*subject, Some(*reply), (None, *size)),
        (true, [subject, header, size]) => (*subject, None, (Some(*header), *size)),
        (true, [subject, reply, header, size]) => (*subject, Some(*reply), (Some(*header), *size)),
        _ => return Err(ProtocolError::arguments(step, "Parse Error", line)),
    };
    let (header_len, size) = parse_sizes(sizes, step, line, limits)?;
    Ok(Head { subject, reply, header_len, size })
}

fn parse_sizes(
    (header, size): (Option<&[u8]>, &[u8]),
    step: &'static str,
    line: &[u8],
    limits: &Limits,
) -> Result<(Option<usize>, usize), ProtocolError> {
    let header_len = match header.map(parse_size) {
        Some(None) => {
            return Err(ProtocolError::arguments(step, "Bad or Missing Header Size", line));
        }
        Some(found) => found,
        None => None,
    };
    let what = if header.is_some() { "Bad or Missing Total Size" } else { "Bad or Missing Size" };
    let size = parse_size(size).ok_or_else(|| ProtocolError::arguments(step, what, line))?;
    if header_len.is_some_and(|header_len| header_len > size) {
        return Err(ProtocolError::arguments(step, "Header Size larger then TotalSize", line));
    }
    if size > limits.payload_max {
        return Err(ProtocolError::PayloadTooLarge { size, max: limits.payload_max });
    }
    Ok((header_len, size))
}

/// One to nine digits (spec core NATS, 2.1).
fn parse_size(word: &[u8]) -> Option<usize> {
    if word.is_empty() || word.len() > 9 || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(word.iter().fold(0, |size, digit| size * 10 + usize::from(digit - b'0')))
}

fn parse_sub(line: &[u8]) -> Result<Op<'_>, ProtocolError> {
    let words: Words<'_> = words(line).collect();
    match words.as_slice() {
        [subject, sid] => Ok(Op::Subscribe { subject, queue: None, sid }),
        [subject, queue, sid] => Ok(Op::Subscribe { subject, queue: Some(queue), sid }),
        _ => Err(ProtocolError::arguments("processSub", "Parse Error", line)),
    }
}

fn parse_unsub(line: &[u8]) -> Result<Op<'_>, ProtocolError> {
    let words: Words<'_> = words(line).collect();
    match words.as_slice() {
        [sid] => Ok(Op::Unsubscribe { sid, max: None }),
        [sid, max] => {
            let max = parse_size(max).filter(|max| *max > 0).map(|max| max as u64);
            Ok(Op::Unsubscribe { sid, max })
        }
        _ => Err(ProtocolError::arguments("processUnsub", "Parse Error", line)),
    }
}

fn parse_msg<'a>(
    bytes: &'a [u8],
    len: usize,
    line: &'a [u8],
    has_headers: bool,
    limits: &Limits,
) -> Result<Parsed<'a>, ProtocolError> {
    let mut words: Words<'a> = words(line).collect();
    if words.len() < 3 {
        return Err(ProtocolError::arguments("processMsg", "Parse Error", line));
    }
    let sid = words.remove(1);
    let head = parse_head(&words, "processMsg", has_headers, line, limits)?;
    with_payload(bytes, len, head, |_, message| Op::Message { message, sid })
}

fn parse_route_sub(line: &[u8], verb: Verb) -> Result<Op<'_>, ProtocolError> {
    let mut words: Words<'_> = words(line).collect();
    let origin =
        if verb == Verb::LeafSub && !words.is_empty() { Some(words.remove(0)) } else { None };
    let bad = || ProtocolError::arguments("processRemoteSub", "Parse Error", line);
    let (account, subject, queue, weight) = match words.as_slice() {
        [account, subject] => (*account, *subject, None, 1),
        [account, subject, queue, weight] => {
            let weight = parse_size(weight).ok_or_else(bad)?;
            (*account, *subject, Some(*queue), u32::try_from(weight).map_err(|_| bad())?.max(1))
        }
        _ => return Err(bad()),
    };
    let interest = RouteInterest { origin, account, subject, queue };
    Ok(Op::RouteSubscribe { interest, weight })
}

fn parse_route_unsub(line: &[u8], verb: Verb) -> Result<Op<'_>, ProtocolError> {
    let words: Words<'_> = words(line).collect();
    let (origin, account, subject, queue) = match (verb, words.as_slice()) {
        (_, [account, subject]) => (None, *account, *subject, None),
        (Verb::LeafUnsub, [origin, account, subject, queue]) => {
            (Some(*origin), *account, *subject, Some(*queue))
        }
        (_, [account, subject, queue]) => (None, *account, *subject, Some(*queue)),
        _ => return Err(ProtocolError::arguments("processRemoteUnsub", "Parse Error", line)),
    };
    Ok(Op::RouteUnsubscribe(RouteInterest { origin, account, subject, queue }))
}

/// `<epoch> <account> <subject>`.
fn parse_engine_interest(line: &[u8], is_listening: bool) -> Result<Op<'_>, ProtocolError> {
    let words: Words<'_> = words(line).collect();
    let bad = || ProtocolError::arguments("processEngineSub", "Parse Error", line);
    let [epoch, account, subject] = words.as_slice() else { return Err(bad()) };
    let epoch = number(epoch).ok_or_else(bad)?;
    Ok(Op::EngineInterest { epoch, account, subject, is_listening })
}

/// `<epoch> <ready | closed | ended>`.
fn parse_engine_state(line: &[u8]) -> Result<Op<'_>, ProtocolError> {
    let words: Words<'_> = words(line).collect();
    let bad = || ProtocolError::arguments("processEngineState", "Parse Error", line);
    let [epoch, state] = words.as_slice() else { return Err(bad()) };
    let state = match *state {
        b"ready" => EngineState::Ready,
        b"closed" => EngineState::Closed,
        b"ended" => EngineState::Ended,
        _ => return Err(bad()),
    };
    Ok(Op::EngineState { epoch: number(epoch).ok_or_else(bad)?, state })
}

/// `<epoch> <ledger> <number> [again]`.
fn parse_kept(line: &[u8]) -> Result<Kept, ProtocolError> {
    let bad = || ProtocolError::arguments("processKept", "Parse Error", line);
    let mut words = words(line);
    let mut next = || number(words.next()?);
    let (Some(epoch), Some(ledger), Some(number)) = (next(), next(), next()) else {
        return Err(bad());
    };
    let is_again = match (words.next(), words.next()) {
        (None, None) => false,
        (Some(b"again"), None) => true,
        _ => return Err(bad()),
    };
    Ok(Kept { epoch, ledger, number, is_again })
}

/// `<epoch> <ledger> <[=]number> [<ledger> <[=]number> …]`.
fn parse_done(line: &[u8]) -> Result<Op<'_>, ProtocolError> {
    let bad = || ProtocolError::arguments("processDone", "Parse Error", line);
    let mut words = words(line);
    let epoch = words.next().and_then(number).ok_or_else(bad)?;
    let marks = words.rest();
    if marks.is_empty() || marks_of(marks).any(|mark| mark.is_none()) {
        return Err(bad());
    }
    Ok(Op::Done { epoch, marks })
}

/// `<epoch>`.
fn parse_told(line: &[u8]) -> Result<Op<'_>, ProtocolError> {
    let bad = || ProtocolError::arguments("processTold", "Parse Error", line);
    let mut words = words(line);
    let epoch = words.next().and_then(number).ok_or_else(bad)?;
    if words.next().is_some() {
        return Err(bad());
    }
    Ok(Op::Told { epoch })
}

/// `[origin] <account> <subject> [reply | + reply queues… | '|' queues…] [header size] <size>`.
fn parse_route_msg<'a>(
    bytes: &'a [u8],
    len: usize,
    line: &'a [u8],
    verb: Verb,
    limits: &Limits,
) -> Result<Parsed<'a>, ProtocolError> {
    let step = "processRoutedMsgArgs";
    let bad = || ProtocolError::arguments(step, "Parse Error", line);
    let (front, size) = split_last_word(line).ok_or_else(bad)?;
    let (front, header) = if matches!(verb, Verb::RouteMsg | Verb::KeptMsg) {
        (front, None)
    } else {
        let (front, header) = split_last_word(front).ok_or_else(bad)?;
        (front, Some(header))
    };
    let mut front = words(front);
    let origin = if verb == Verb::LeafMsg { Some(front.next().ok_or_else(bad)?) } else { None };
    let account = front.next().ok_or_else(bad)?;
    let subject = front.next().ok_or_else(bad)?;
    let third = front.next();
    let (reply, queues) = match (third, front.rest()) {
        (reply, b"") => (reply, &line[..0]),
        (Some(b"+"), _) => (front.next(), front.rest()),
        (Some(b"|"), queues) => (None, queues),
        _ => return Err(bad()),
    };
    if limits.control_line_max < line.len() - queues.len() {
        let state = states::in_arguments(b"RMSG");
        return Err(ProtocolError::too_long(state, limits.control_line_max, 0, line));
    }
    let pair = (header, size);
    let (header_len, size) = parse_sizes(pair, step, line, limits)?;
    let head = Head { subject, reply, header_len, size };
    with_payload(bytes, len, head, |_, message| {
        let is_kept = verb == Verb::KeptMsg;
        Op::RouteMessage(RouteMessage { origin, account, message, queues, is_kept })
    })
}

/// What lies before the last word of a line, and that word.
fn split_last_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().rposition(|byte| !is_blank(*byte))? + 1;
    let start = line[..end].iter().rposition(|byte| is_blank(*byte)).map_or(0, |at| at + 1);
    Some((&line[..start], &line[start..end]))
}
