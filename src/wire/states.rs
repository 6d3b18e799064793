//! Where the reference's parser stands behind each letter of a verb: its errors name the number.
//!
//! Pinned by `end_to_end::log_lines::what_a_stranger_says_is_logged_as_by_the_reference`.

use crate::wire::parser::Side;

/// Numbers behind the first letter, the second and so on.
const STATES: [(&[u8], &[u8]); 19] = [
    (b"+OK", &[1, 2, 3]),
    (b"-ERR", &[4, 5, 6, 7]),
    (b"CONNECT", &[10, 11, 12, 13, 14, 15, 16]),
    (b"HPUB", &[18, 19, 20, 21]),
    (b"HMSG", &[18, 24, 25, 26]),
    (b"PUB", &[29, 30, 31]),
    (b"PING", &[29, 34, 35, 36]),
    (b"PONG", &[29, 37, 38, 39]),
    (b"SUB", &[43, 44, 45]),
    (b"A+", &[48, 49]),
    (b"A-", &[48, 52]),
    (b"LS+", &[55, 56, 45]),
    (b"LS-", &[55, 56, 63]),
    (b"LMSG", &[55, 66, 67, 68]),
    (b"RS+", &[57, 58, 45]),
    (b"RS-", &[57, 58, 63]),
    (b"RMSG", &[57, 66, 67, 68]),
    (b"UNSUB", &[59, 60, 61, 62, 63]),
    (b"INFO", &[71, 72, 73, 74]),
];

/// Before the two bytes that end a payload.
const PAYLOAD_END: u8 = 41;

/// Verbs whose arguments may follow without a blank.
const WITHOUT_BLANK: [&[u8]; 2] = [b"CONNECT", b"INFO"];

/// Verbs that only servers say to each other.
fn is_servers(verb: &[u8]) -> bool {
    matches!(verb[0], b'A' | b'L' | b'R')
}

/// How many letters of a verb `bytes` begins with, and the number behind them.
pub(super) fn behind_verb(bytes: &[u8], side: Side) -> (usize, u8) {
    let known = STATES.iter().filter(|(verb, _)| side != Side::Client || !is_servers(verb));
    let common = |verb: &[u8]| {
        let is_same = |(a, b): &(&u8, &u8)| a.eq_ignore_ascii_case(b);
        verb.iter().zip(bytes).take_while(is_same).count()
    };
    let counted = known.map(|(verb, states)| (common(verb), *states));
    let longest = counted.max_by_key(|(count, _)| *count);
    match longest {
        Some((count @ 1.., states)) => (count, states[count - 1]),
        Some((0, _)) | None => (0, 0),
    }
}

/// The number in the arguments of a verb.
pub(super) fn in_arguments(verb: &[u8]) -> u8 {
    let found = STATES.iter().find(|(name, _)| name.eq_ignore_ascii_case(verb));
    let last = found.and_then(|(_, states)| states.last()).copied().unwrap_or_default();
    let has_blank = !WITHOUT_BLANK.iter().any(|name| name.eq_ignore_ascii_case(verb));
    last + 1 + u8::from(has_blank)
}

/// The number before one of the two bytes that end a payload.
pub(super) fn at_payload_end(place: usize) -> u8 {
    if place == 0 { PAYLOAD_END } else { PAYLOAD_END + 1 }
}

/// Whether that is where a payload ends.
pub(super) fn is_at_payload_end(state: u8) -> bool {
    (PAYLOAD_END..=PAYLOAD_END + 1).contains(&state)
}
