//! What goes over a connection, as lines of the log (spec core NATS, 2.14).
//!
//! Only while tracing is on: what came in is shown before it is handled, what goes out when it was
//! put into the outbox.

use memchr::memchr;

use crate::base::go::quote_any;
use crate::base::id::SessionId;
use crate::broker::Broker;
use crate::broker::sublist::Interest;

/// Verbs whose lines end with the size of a payload that follows.
const WITH_PAYLOAD: [&[u8]; 6] = [b"PUB", b"HPUB", b"MSG", b"HMSG", b"RMSG", b"LMSG"];

const CONNECT: &[u8] = b"CONNECT";

/// Verbs behind which anything may stand at once.
const WITHOUT_BLANK: [&[u8]; 5] = [CONNECT, b"INFO", b"PING", b"PONG", b"+OK"];

/// What Go servers do not show going out.
const UNTRACED: [&[u8]; 2] = [b"INFO", b"CONNECT"];

/// What they do not show coming in.
const UNTRACED_IN: [&[u8]; 3] = [b"INFO", b"+OK", b"-ERR"];

/// What they show without what stands behind it.
const WITHOUT_ARGUMENTS: [&[u8]; 2] = [b"PING", b"PONG"];

impl Broker {
    /// One whole operation that came in.
    pub(super) fn trace_in(&mut self, id: SessionId, operation: &[u8]) {
        let (rest, verb) = self.trace_line(id, operation);
        if has_payload(verb) {
            let payload = rest.strip_suffix(b"\r\n").unwrap_or(rest);
            let text = payload_text(payload, self.settings.traced_bytes_max);
            self.log_about(id, log::Level::Trace, &format!("<<- MSG_PAYLOAD: {text}"));
        }
    }

    /// The line of an operation that came in. Gives what is behind it, and its verb.
    pub(super) fn trace_line<'a>(
        &mut self,
        id: SessionId,
        operation: &'a [u8],
    ) -> (&'a [u8], &'a [u8]) {
        let (line, rest) = split_line(operation);
        let (verb, arguments) = split_verb(line);
        if is_one_of(&UNTRACED_IN, verb) {
            return (rest, verb);
        }
        let verb_text = show(verb).to_ascii_uppercase();
        let mut text = if arguments.is_empty() || is_one_of(&WITHOUT_ARGUMENTS, verb) {
            format!("<<- [{verb_text}]")
        } else {
            format!("<<- [{verb_text} {}]", show(arguments))
        };
        if verb.eq_ignore_ascii_case(CONNECT) {
            text = without_password(&text);
        }
        self.log_about(id, log::Level::Trace, &text);
        (rest, verb)
    }

    /// An interest of a client is at its end.
    pub(super) fn trace_end(&mut self, interest: &Interest) {
        if interest.rules.is_server {
            return;
        }
        let text = format!("<-> [DELSUB {}]", show(&interest.sid));
        self.log_about(interest.session, log::Level::Trace, &text);
    }

    /// What was put into the outbox since the last call.
    pub(super) fn trace_out(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let end = session.outbox.end_position();
        let count = end.saturating_sub(session.traced_to);
        session.traced_to = end;
        let bytes = session.outbox.last(usize::try_from(count).unwrap_or(usize::MAX));
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (line, after) = split_line(rest);
            let (verb, _) = split_verb(line);
            let skipped = if has_payload(verb) { payload_len(line) + 2 } else { 0 };
            rest = after.get(skipped..).unwrap_or_default();
            if !UNTRACED.contains(&verb) {
                let text = outgoing_text(line);
                self.log_about(id, log::Level::Trace, &format!("->> [{text}]"));
            }
        }
    }
}

/// `+OK` and the quotes of an error are shown without their marks.
fn outgoing_text(line: &[u8]) -> String {
    let line = line.strip_prefix(b"+").unwrap_or(line);
    let error = line.strip_prefix(b"-ERR '").and_then(|text| text.strip_suffix(b"'"));
    error.map_or_else(|| show(line), |text| format!("-ERR {}", show(text)))
}

fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, rest) = match memchr(b'\n', bytes) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), rest)
}

/// The arguments as they are, but for the blanks before them.
fn split_verb(line: &[u8]) -> (&[u8], &[u8]) {
    let blank = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    let begins =
        |name: &&&[u8]| line.get(..name.len()).is_some_and(|b| b.eq_ignore_ascii_case(name));
    let end = WITHOUT_BLANK.iter().find(begins).map_or(blank, |name| name.len());
    (&line[..end], line[end..].trim_ascii_start())
}

fn is_one_of(names: &[&[u8]], verb: &[u8]) -> bool {
    names.iter().any(|name| verb.eq_ignore_ascii_case(name))
}

fn has_payload(verb: &[u8]) -> bool {
    is_one_of(&WITH_PAYLOAD, verb)
}

fn payload_len(line: &[u8]) -> usize {
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(last).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `["hello"]`; longer than `max` (0 is no bound) it is cut, and says so. Compat: so many letters
/// of what is shown are left, and not of what it stands for.
fn payload_text(payload: &[u8], max: usize) -> String {
    if max == 0 || payload.len() <= max {
        return format!("[{}]", quote_any(payload));
    }
    let quoted = quote_any(&payload[..max]);
    let shown = &quoted.as_bytes()[1..=max];
    format!("[\"{}...\"]", String::from_utf8_lossy(shown))
}

/// Hides the value behind the first word that begins with `pass` (spec core NATS, 2.14).
fn without_password(text: &str) -> String {
    let Some(at) = text.find("pass") else { return text.to_owned() };
    let Some(mark) = text[at..].find([':', '=']) else { return text.to_owned() };
    let value = &text[at + mark + 1..];
    let value = value.trim_start();
    let value = value.strip_prefix('"').unwrap_or(value);
    let begin = text.len() - value.len();
    let end = value.find(['"', ',', '}', '\r', '\n']).unwrap_or(value.len());
    format!("{}[REDACTED]{}", &text[..begin], &value[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            (r#"{"user":"u","pass":"s3cret","x":1}"#, r#"{"user":"u","pass":"[REDACTED]","x":1}"#),
            (r#"{"password": s3cret}"#, r#"{"password": [REDACTED]}"#),
            (r#"{"user":"u"}"#, r#"{"user":"u"}"#),
            ("passing", "passing"),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }

    #[test]
    fn payloads_are_quoted_and_cut() {
        assert_eq!(payload_text(b"he\"llo\r\n\xff", 0), "[\"he\\\"llo\\r\\n\\xff\"]");
        assert_eq!(payload_text(b"hello", 3), "[\"hel...\"]");
        assert_eq!(payload_text(b"hello", 5), "[\"hello\"]");
        assert_eq!(payload_text(b"h\x00\x01\xff", 0), r#"["h\x00\x01\xff"]"#);
        assert_eq!(payload_text(b"h\x00\x01abcd", 5), r#"["h\x00..."]"#);
    }
}
