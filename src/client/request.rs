//! One question to a core subject, and its answer of many messages.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::codec::{Incoming, Received};
use super::error::ClientError;
use super::link::{Link, ReadHalf};
use super::options::Options;
use crate::base::time::Instant;
use crate::base::world;

/// How long nothing may be heard before it is asked whether somebody is still at the question.
const CHECK_AFTER: Duration = Duration::from_secs(1);

/// How long the answer to that may take.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What it is called where no answer comes.
    pub name: &'static str,
    /// Where.
    pub subject: &'a str,
    /// The document.
    pub payload: &'a [u8],
    /// How long the whole answer may take.
    pub within: Duration,
    /// Its bytes at most.
    pub bytes_max: usize,
    /// Whether who answers an empty document so is one who can be at work on a question.
    pub is_at_work: fn(&[u8]) -> bool,
}

/// How a question has ended.
#[derive(Debug)]
pub enum Told {
    /// The whole answer.
    Answer(Vec<u8>),
    /// Nobody listens: nothing was done.
    Nobody,
    /// It was not asked, because nobody could be found to answer it: nothing was done.
    Unasked(ClientError),
    /// It was asked, and no answer will come. Whether it was done is not known.
    Lost(ClientError),
}

/// Asks the first server of `options` that can be reached. The answer is one line, whose end is the
/// end of its last message.
///
/// An empty document goes before the question, to learn whether who gets it is the one to do it:
/// what is passed on by others can be lost without anybody being told. Later it asks whether that
/// one is still there, while no answer comes.
///
/// # Errors
/// When no server can be reached, or it does not let us ask: then nothing was asked.
pub fn ask(options: Options, question: Question<'_>) -> Result<Told, ClientError> {
    let entropy = || world::entropy().map_err(io_error("cannot read entropy"));
    let inbox = || Ok(format!("_INBOX.{:016x}{:016x}", entropy()?, entropy()?));
    let (answers, checks) = (inbox()?, inbox()?);
    let (link, half) = Link::open(Arc::new(options))?;
    let answer_sid = link.listen(&answers)?;
    link.listen(&checks)?;
    let now = world::instant();
    let answer = Vec::new();
    let mut asking = Asking {
        question,
        link,
        half,
        answer_sid,
        answers,
        checks,
        answer,
        is_asked: false,
        heard_at: now,
        checked_at: None,
    };
    asking.check(now)?;
    asking.wait(now + question.within)
}

/// A question that waits for its answer.
struct Asking<'a> {
    question: Question<'a>,
    link: Link,
    half: ReadHalf,
    answer_sid: u64,
    answers: String,
    checks: String,
    answer: Vec<u8>,
    is_asked: bool,
    /// When somebody was last heard who is at work on it.
    heard_at: Instant,
    /// Since when it is not known whether somebody is.
    checked_at: Option<Instant>,
}

impl Asking<'_> {
    fn wait(mut self, until: Instant) -> Result<Told, ClientError> {
        while world::instant() < until {
            let told = match self.half.next() {
                Ok(Some(Incoming::Received(received))) => self.on_received(&received),
                Ok(Some(Incoming::Error(text))) if text.starts_with("Permissions Violation") => {
                    return Err(ClientError::Refused(text));
                }
                Ok(Some(Incoming::Error(text))) => Err(ClientError::ConnectionLost(text)),
                Ok(Some(Incoming::Ping)) => {
                    self.link.pong();
                    Ok(None)
                }
                Ok(Some(Incoming::Info(_) | Incoming::Pong | Incoming::Other) | None) => {
                    self.look(world::instant()).map(|()| None)
                }
                Err(error) => Err(error),
            };
            match told {
                Ok(None) => (),
                Ok(Some(told)) => return Ok(told),
                Err(why) => return Ok(self.ended(why)),
            }
        }
        let name = self.question.name;
        Ok(self.ended(ClientError::RequestTimeout { request: name }))
    }

    fn ended(&self, why: ClientError) -> Told {
        if self.is_asked { Told::Lost(why) } else { Told::Unasked(why) }
    }

    fn on_received(&mut self, received: &Received) -> Result<Option<Told>, ClientError> {
        if received.sid != self.answer_sid {
            return self.on_check(received);
        }
        if received.is_no_responders {
            return Ok(Some(Told::Nobody));
        }
        if self.question.bytes_max < self.answer.len() + received.payload.len() {
            let source = io::Error::from(io::ErrorKind::InvalidData);
            return Err(io_error("the answer is too long")(source));
        }
        self.answer.extend_from_slice(&received.payload);
        (self.heard_at, self.checked_at) = (world::instant(), None);
        let is_whole = self.answer.last() == Some(&b'\n');
        Ok(is_whole.then(|| Told::Answer(std::mem::take(&mut self.answer))))
    }

    /// Whoever answers a check is the one to ask, and at work on the question, or has nothing to do
    /// with it any more; what that one said before has come before.
    fn on_check(&mut self, received: &Received) -> Result<Option<Told>, ClientError> {
        let is_at_work =
            !received.is_no_responders && (self.question.is_at_work)(&received.payload);
        match (is_at_work, self.is_asked) {
            (true, _) => {
                (self.heard_at, self.checked_at) = (world::instant(), None);
                if !self.is_asked {
                    let (subject, answers) = (self.question.subject, self.answers.as_bytes());
                    self.link.publish(subject.as_bytes(), answers, self.question.payload)?;
                    self.is_asked = true;
                }
                Ok(None)
            }
            (false, false) if received.is_no_responders => Ok(Some(Told::Nobody)),
            (false, false) => Ok(Some(Told::Answer(received.payload.to_vec()))),
            (false, true) => {
                let text = "who was asked is not active any more".to_owned();
                Err(ClientError::ConnectionLost(text))
            }
        }
    }

    /// Asks whether somebody is there, once nothing was heard for a while; how long that one may be
    /// silent is bounded.
    fn look(&mut self, now: Instant) -> Result<(), ClientError> {
        match self.checked_at {
            Some(at) if CHECK_WITHIN <= now.since(at) => {
                let text = "nobody answers any more".to_owned();
                Err(ClientError::ConnectionLost(text))
            }
            None if CHECK_AFTER <= now.since(self.heard_at) => self.check(now),
            Some(_) | None => Ok(()),
        }
    }

    fn check(&mut self, now: Instant) -> Result<(), ClientError> {
        self.checked_at = Some(now);
        let subject = self.question.subject.as_bytes();
        self.link.publish(subject, self.checks.as_bytes(), b"")
    }
}

fn io_error(action: &'static str) -> impl Fn(io::Error) -> ClientError {
    move |source| ClientError::Io { action, source }
}
