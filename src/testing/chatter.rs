//! What clients say to each other beside streaming: plain NATS by wildcards, queues and headers.
//!
//! Each message names its subject, so whoever gets it can tell whether it was meant. Messages may
//! be lost; nobody gets more than it has asked for, and nobody gets one twice but where a queue may
//! have had it: a server whose members of that queue have just left sends it on to another one,
//! which gives it to all who listen there, as the reference does (spec core NATS, 4.3).

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use crate::base::random::Random;
use crate::testing::checker::{Checker, Promise};
use crate::wire::op::Publish;
use crate::wire::{Op, encoder};

/// What is listened to, and as which queue.
type Heed = (&'static str, Option<&'static str>);

const HEEDS: [Heed; 7] = [
    ("chat.*", None),
    ("chat.>", None),
    ("chat.a", None),
    ("chat.*.b", None),
    ("*.b", None),
    ("chat.*", Some("some")),
    ("chat.a.>", Some("some")),
];
const SUBJECTS: [&str; 4] = ["chat.a", "chat.b", "chat.a.b", "chat.b.c.d"];
const NOBODY: &str = "nobody.listens";
const INTERESTS_MAX: usize = 6;
const HEADER: &[u8] = b"NATS/1.0\r\nKind: idle\r\n\r\n";
/// Of so many messages one is longer than what is copied.
const MESSAGES_PER_LONG: u64 = 8;
/// Whoever asks for some messages only asks for so many.
const ASKED_FOR: u64 = 2;

/// What one client listens to, on its connection.
#[derive(Debug, Default)]
pub struct Chatter {
    message_count: u64,
    interests: BTreeMap<u64, Interest>,
}

#[derive(Debug)]
struct Interest {
    heed: Heed,
    /// Most messages that may come.
    max: Option<usize>,
    seen: BTreeSet<Bytes>,
    /// How many came, the same ones again included.
    heard_count: usize,
}

impl Chatter {
    /// The connection is gone, and everything with it.
    pub fn restart(&mut self) {
        self.interests.clear();
    }

    /// Says something, or begins or ends to listen. `sid` is free; whether it was used.
    pub fn act(
        &mut self,
        (number, sid): (usize, u64),
        reply: &[u8],
        random: &mut Random,
        out: &mut BytesMut,
    ) -> bool {
        match random.below(8) {
            0 | 1 if self.interests.len() < INTERESTS_MAX => {
                self.listen(sid, random, out);
                return true;
            }
            2 => {
                let count = self.interests.len().max(1) as u64;
                let place = usize::try_from(random.below(count)).unwrap_or(0);
                // What is on its way still comes.
                if let Some(sid) = self.interests.keys().nth(place) {
                    let sid = sid.to_string();
                    let op = Op::Unsubscribe { sid: sid.as_bytes(), max: None };
                    encoder::encode(&op, out);
                }
            }
            3 => encoder::encode(&Op::Ping, out),
            _ => self.say(number, reply, random, out),
        }
        false
    }

    fn listen(&mut self, sid: u64, random: &mut Random, out: &mut BytesMut) {
        let heed @ (pattern, queue) = HEEDS[choose(random, HEEDS.len())];
        let text = sid.to_string();
        let (subject, queue) = (pattern.as_bytes(), queue.map(str::as_bytes));
        encoder::encode(&Op::Subscribe { subject, queue, sid: text.as_bytes() }, out);
        let is_brief = random.below(3) == 0;
        if is_brief {
            let op = Op::Unsubscribe { sid: text.as_bytes(), max: Some(ASKED_FOR) };
            encoder::encode(&op, out);
        }
        let max = is_brief.then_some(usize::try_from(ASKED_FOR).unwrap_or(0));
        self.interests.insert(sid, Interest { heed, max, seen: BTreeSet::new(), heard_count: 0 });
    }

    fn say(&mut self, number: usize, reply: &[u8], random: &mut Random, out: &mut BytesMut) {
        self.message_count += 1;
        let subject = match random.below(8) {
            0 => NOBODY,
            _ => SUBJECTS[choose(random, SUBJECTS.len())],
        };
        let mut payload = Vec::new();
        let has_header = random.below(3) == 0;
        if has_header {
            payload.extend_from_slice(HEADER);
        }
        let text = format!("{subject} is told {} by c{number}", self.message_count);
        payload.extend_from_slice(text.as_bytes());
        if random.below(MESSAGES_PER_LONG) == 0 {
            payload.resize(payload.len() + 1_500, b'.');
        }
        let op = Op::Publish(Publish {
            subject: subject.as_bytes(),
            reply: (random.below(2) == 0).then_some(reply),
            header_len: has_header.then_some(HEADER.len()),
            payload: &payload,
        });
        encoder::encode(&op, out);
    }

    /// A message for the interest `sid`; false if that is none of these.
    pub fn hear(&mut self, sid: &[u8], message: &Publish<'_>, checker: &mut Checker) -> bool {
        let sid = std::str::from_utf8(sid).ok().and_then(|sid| sid.parse().ok());
        let Some(interest) = sid.and_then(|sid: u64| self.interests.get_mut(&sid)) else {
            return false;
        };
        let (pattern, queue) = interest.heed;
        let subject = String::from_utf8_lossy(message.subject);
        let text = Bytes::copy_from_slice(&message.payload[message.header_len.unwrap_or(0)..]);
        let place = format!("{subject} for {pattern} {queue:?}");
        if !is_meant(pattern, &subject) || !text.starts_with(subject.as_bytes()) {
            checker.fail(Promise::Core, format!("{place} is not what was asked for: {text:?}"));
        }
        if !interest.seen.insert(text.clone()) && (queue.is_some() || !is_for_a_queue(&subject)) {
            checker.fail(Promise::Core, format!("{place} came twice: {text:?}"));
        }
        interest.heard_count += 1;
        if interest.max.is_some_and(|max| max < interest.heard_count) {
            checker.fail(
                Promise::Core,
                format!("{place} came though only {ASKED_FOR} were asked for"),
            );
        }
        if let Some(queue) = queue {
            checker.on_shared((pattern, queue), text);
        }
        true
    }
}

fn is_for_a_queue(subject: &str) -> bool {
    HEEDS.iter().any(|(pattern, queue)| queue.is_some() && is_meant(pattern, subject))
}

/// Whether a pattern is for this subject.
fn is_meant(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            (wanted, Some(token)) if wanted == "*" || wanted == token => (),
            (_, Some(_)) => return false,
        }
    }
    tokens.next().is_none()
}

fn choose(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_subjects_of_its_form_only() {
        for (pattern, subject) in [("a.*", "a.b"), ("a.>", "a.b.c"), ("*.b", "a.b"), ("a", "a")] {
            assert!(is_meant(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [("a.*", "a"), ("a.*", "a.b.c"), ("a.>", "a"), ("a", "b")] {
            assert!(!is_meant(pattern, subject), "{pattern} {subject}");
        }
    }
}
