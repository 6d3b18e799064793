//! A connection that publishes, and what became of each message

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::BenchError;
use super::connection::{Connection, Said, push_publish};
use super::fields::{Fields, Value};
use super::frame::{Frame, read_number};
use super::plan::Pace;
use super::report;
use super::streaming::{ACKS, HEARTBEATS};
use crate::base::time::Instant;
use crate::base::world;

/// So many bytes wait to be sent at most.
const UNSENT_MAX: usize = 256 * 1024;

/// So long without an answer is the end.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// After so long with nothing but refusals nobody waits for the rest of them.
const REFUSED_AFTER: Duration = Duration::from_secs(3);

/// How often an interrupt is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a message is known to have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// It is not.
    None,
    /// An acknowledgement of a streaming server names its GUID.
    ByGuid,
    /// Something comes to its own subject.
    BySubject,
}

/// What one publisher does.
pub(crate) struct Load {
    /// One for each channel, taken in turn.
    pub(crate) frames: Vec<Frame>,
    /// How a message is known to have arrived.
    pub(crate) answers: Answers,
    /// How many.
    pub(crate) messages: u64,
    /// Messages without an answer at most.
    pub(crate) in_flight: usize,
    /// When each is due, if not as soon as there is room.
    pub(crate) pace: Option<Pace>,
}

/// What became of the messages of one publisher.
pub(crate) struct Published {
    /// Nanoseconds from when each was due to its answer.
    pub(crate) latencies: Histogram<u64>,
    /// Answers that were an error.
    pub(crate) failed: u64,
    /// The first of them.
    pub(crate) first_error: Option<String>,
}

struct State {
    /// When the message of each number was due, by its place here; 0: it is answered.
    due: Vec<u64>,
    sent: u64,
    answered: u64,
    out: Published,
}

/// Publishes everything, and waits until all of it has arrived.
pub(crate) fn run(
    connection: &mut Connection,
    load: &Load,
    is_over: &AtomicBool,
) -> Result<Published, BenchError> {
    let began = world::instant();
    let window = load.in_flight.max(1);
    let latencies = report::latencies();
    let out = Published { latencies, failed: 0, first_error: None };
    // Answers may come in another order than messages were sent in.
    let mut state = State { due: vec![0; 4 * window], sent: 0, answered: 0, out };
    let mut heard_at = began;
    while state.answered < load.messages {
        let before = (state.sent, state.answered);
        let next_due = fill(connection, load, &mut state, began);
        let has_sent = connection.send()?;
        if load.answers == Answers::None && connection.unsent() < UNSENT_MAX {
            state.answered = state.sent;
        }
        let mut read_at = None;
        let has_read = connection.receive(|said, out| {
            let now = *read_at.get_or_insert_with(world::instant);
            state.take(&said, out, load.answers, now);
            ControlFlow::Continue(())
        })?;
        let now = read_at.unwrap_or_else(world::instant);
        // Heartbeats are no progress.
        if before != (state.sent, state.answered) {
            heard_at = now;
        }
        if is_over.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        if REFUSED_AFTER <= now.since(began)
            && let Some(refused) = state.only_refusals()
        {
            return Err(refused);
        }
        if next_due.is_none() && STALLED_AFTER <= now.since(heard_at) {
            let seconds = STALLED_AFTER.as_secs();
            let (done, wanted) = (state.answered, Some(load.messages));
            return Err(BenchError::Stalled { seconds, done, wanted, what: "acknowledgements" });
        }
        if has_read || has_sent {
            continue;
        }
        let look_at = now + LOOK_EVERY;
        connection.wait(next_due.map_or(look_at, |due| due.min(look_at)))?;
    }
    if load.answers == Answers::None {
        connection.flush()?;
    }
    Ok(state.out)
}

/// Appends all that may be sent now; when the next one is due, if that is all that it waits for.
fn fill(
    connection: &mut Connection,
    load: &Load,
    state: &mut State,
    began: Instant,
) -> Option<Instant> {
    let window = u64::try_from(load.in_flight.max(1)).unwrap_or(u64::MAX);
    let mut now = world::instant();
    while state.sent < load.messages && connection.unsent() < UNSENT_MAX {
        let place = state.place(state.sent);
        let is_full = window <= state.sent - state.answered || state.due[place] != 0;
        if load.answers != Answers::None && is_full {
            return None;
        }
        // With a rate it counts from when it was due, not from when there was room for it.
        let due = match load.pace {
            None => now,
            Some(pace) => {
                let due = began + pace.due(state.sent);
                if now < due {
                    now = world::instant();
                }
                if now < due {
                    return Some(due);
                }
                due
            }
        };
        let frames = &load.frames;
        let number = state.sent;
        let frame = &frames[usize::try_from(number).unwrap_or(0) % frames.len()];
        if load.answers != Answers::None {
            state.due[place] = due.0;
        }
        frame.append(connection.out(), number, due.0);
        state.sent += 1;
    }
    None
}

impl State {
    fn take(&mut self, said: &Said<'_>, out: &mut Vec<u8>, answers: Answers, now: Instant) {
        let Said::Message { sid, subject, reply, payload } = said else { return };
        match *sid {
            HEARTBEATS => {
                if let Some(reply) = reply {
                    push_publish(out, reply, None, b"");
                }
            }
            ACKS => {
                let (number, error) = match answers {
                    Answers::None => return,
                    Answers::ByGuid => acknowledged(payload),
                    Answers::BySubject => {
                        let number = subject.rsplit(|byte| *byte == b'.').next();
                        (number.and_then(read_number), refused(payload))
                    }
                };
                if let Some(number) = number {
                    self.count(number, error, now);
                }
            }
            _ => (),
        }
    }

    /// What is said where every answer until now was an error.
    fn only_refusals(&self) -> Option<BenchError> {
        let count = self.answered;
        let reason = self.out.first_error.clone().filter(|_| self.out.failed == count)?;
        Some(BenchError::TakesNothing { count, reason })
    }

    fn place(&self, number: u64) -> usize {
        let places = u64::try_from(self.due.len()).unwrap_or(u64::MAX);
        usize::try_from(number % places).unwrap_or(0)
    }

    fn count(&mut self, number: u64, error: Option<String>, now: Instant) {
        let places = u64::try_from(self.due.len()).unwrap_or(u64::MAX);
        if self.sent <= number || places < self.sent - number {
            // Its place is that of a later one by now: it was answered long ago.
            return;
        }
        let place = self.place(number);
        let due = std::mem::take(&mut self.due[place]);
        if due == 0 {
            // It was answered already, as a request by the second of two that hear it.
            return;
        }
        self.answered += 1;
        if let Some(error) = error {
            self.out.failed += 1;
            self.out.first_error.get_or_insert(error);
            return;
        }
        self.out.latencies.saturating_record(now.0.saturating_sub(due).max(1));
    }
}

/// Number and error of an acknowledgement of a streaming server.
fn acknowledged(payload: &[u8]) -> (Option<u64>, Option<String>) {
    let (mut number, mut error) = (None, None);
    for (field, value) in Fields(payload) {
        match (field, value) {
            (1, Value::Bytes(guid)) => number = read_number(guid),
            (2, Value::Bytes(text)) => error = Some(String::from_utf8_lossy(text).into_owned()),
            _ => (),
        }
    }
    (number, error)
}

/// What an answer to a subject of its own says is wrong: nobody listens, or an error of JetStream.
fn refused(payload: &[u8]) -> Option<String> {
    let is_status = payload.starts_with(b"NATS/1.0 503");
    let is_error = payload.starts_with(b"{\"error\"");
    (is_status || is_error).then(|| String::from_utf8_lossy(payload).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::pb;

    /// Goal: of two answers to one question the second counts for nobody, however late it comes.
    #[test]
    fn a_second_answer_counts_for_no_other_message() {
        let out = Published { latencies: report::latencies(), failed: 0, first_error: None };
        let mut state = State { due: vec![0; 4], sent: 0, answered: 0, out };
        let send = |state: &mut State| {
            let place = state.place(state.sent);
            state.due[place] = 1;
            state.sent += 1;
        };
        for number in 0..4 {
            send(&mut state);
            state.count(number, None, Instant(2));
            state.count(number, None, Instant(2));
            assert_eq!(state.answered, number + 1);
        }
        send(&mut state);
        // The place of the fifth was that of the first, and nobody has asked the sixth.
        for number in [0, 5, u64::MAX] {
            state.count(number, Some("no".to_owned()), Instant(3));
        }
        assert_eq!((state.answered, state.out.failed), (4, 0));
        state.count(4, None, Instant(3));
        assert_eq!((state.answered, state.out.latencies.len()), (5, 5));
    }

    #[test]
    fn an_acknowledgement_says_which_and_whether() {
        let ack = |error: &str| {
            let guid = "000000000000000a".into();
            pb::PubAck { guid, error: error.to_owned().into() }.encode_to_vec()
        };
        assert_eq!(acknowledged(&ack("")), (Some(10), None));
        assert_eq!(acknowledged(&ack("no")), (Some(10), Some("no".to_owned())));
        assert_eq!(acknowledged(b"nonsense"), (None, None));
        assert_eq!(refused(b"{\"stream\":\"a\",\"seq\":1}"), None);
        assert!(refused(b"{\"error\":{\"code\":503}}").is_some());
        assert!(refused(b"NATS/1.0 503\r\n\r\n").is_some());
    }
}
