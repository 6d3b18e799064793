//! One question to a core subject, and its answer of many messages.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::codec::Incoming;
use super::error::ClientError;
use super::link::Link;
use super::options::Options;
use crate::base::world;

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
}

/// Asks the first server of `options` that can be reached. The answer is one line, whose end is the
/// end of its last message; `None`: nobody listens.
///
/// # Errors
/// When no server can be reached, it does not let us ask, or no whole answer comes.
pub fn ask(options: Options, question: Question<'_>) -> Result<Option<Vec<u8>>, ClientError> {
    let entropy = || world::entropy().map_err(io_error("cannot read entropy"));
    let inbox = format!("_INBOX.{:016x}{:016x}", entropy()?, entropy()?);
    let until = world::instant() + question.within;
    let (link, mut half) = Link::open(Arc::new(options))?;
    link.listen(&inbox)?;
    link.publish(question.subject.as_bytes(), inbox.as_bytes(), question.payload)?;
    let mut answer = Vec::new();
    while world::instant() < until {
        match half.next()? {
            Some(Incoming::Received(received)) if received.is_no_responders => return Ok(None),
            Some(Incoming::Received(received)) => {
                if question.bytes_max < answer.len() + received.payload.len() {
                    let source = io::Error::from(io::ErrorKind::InvalidData);
                    return Err(io_error("the answer is too long")(source));
                }
                answer.extend_from_slice(&received.payload);
                if answer.last() == Some(&b'\n') {
                    return Ok(Some(answer));
                }
            }
            Some(Incoming::Ping) => link.pong(),
            Some(Incoming::Error(text)) => return Err(ClientError::Refused(text)),
            Some(Incoming::Info(_) | Incoming::Pong | Incoming::Other) | None => (),
        }
    }
    Err(ClientError::RequestTimeout { request: question.name })
}

fn io_error(action: &'static str) -> impl Fn(io::Error) -> ClientError {
    move |source| ClientError::Io { action, source }
}
