//! what users ask of the active member over NATS, on subjects of its cluster
//!
//! Off unless the configuration names users. Documents and answers are those of the control socket;
//! who asks is known where the connection is this process's own, so what a route brings is told to
//! come here. An answer is one line of JSON in as many messages as it needs; the last one ends
//! the line.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::base::id::Subject;
use crate::base::time::Instant;
use crate::base::world;
use crate::engine::refusal::quoted;
use crate::log::STREAM;
use crate::net::Mailbox;
use crate::server::Server;
use crate::server::administration_protocol::Administration;
use crate::server::control_protocol::{REQUEST_BYTES_MAX, Reply, Request, line};
use crate::server::control_socket::{Answer, Asker};
use crate::server::engine_driver::Mail;
use crate::server::interest_key::Listener;

/// Questions that are answered at the same time.
const ASKERS_MAX: usize = 4;
/// What those are told for whom there is no room.
const BUSY: &str = "too many others are asking: ask again";
/// How often the log has a question that was refused.
const REFUSAL_EVERY: Duration = Duration::from_secs(1);
/// Bytes of one message of an answer: every server takes so many.
const PORTION_BYTES: usize = 256 * 1024;
/// Longest answer: it has to wait for its reader in this process, which cuts off who reads slowly.
const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A question on a subject.
#[derive(Debug)]
pub struct SubjectQuestion {
    /// Where it was asked.
    pub subject: Bytes,
    /// The document.
    pub payload: Bytes,
    /// Where its answer goes; without that nothing is done, because nobody would hear of it.
    pub reply: Option<Subject>,
    /// The user of the connection; `None`: it is not known.
    pub user: Option<String>,
}

/// What is asked, if it is something that is asked so: the last word of the subject says the same
/// as the document, so that a permission to publish is one to ask for that.
///
/// # Errors
/// Why not, for whoever asks.
pub fn read(subject: &[u8], payload: &[u8]) -> Result<Administration, String> {
    if REQUEST_BYTES_MAX < payload.len() as u64 {
        let len = payload.len();
        return Err(format!("the question has {len} bytes: it may have {REQUEST_BYTES_MAX}"));
    }
    let request = serde_json::from_slice(payload).map_err(|_| {
        "this server does not know what is asked: is it of an earlier release?".to_owned()
    })?;
    let Request::Administer(what) = request else {
        return Err("that is asked over the control socket alone".to_owned());
    };
    let word = subject.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    if word != what.word().as_bytes() {
        let (said, asked) = (quoted(word), what.word());
        return Err(format!("the subject says {said}, and the document {asked:?}"));
    }
    Ok(what)
}

impl Server {
    /// Begins to listen, where the configuration names users.
    pub(super) fn hear_administrators(&self) {
        if let Some(subject) = self.administration_subject() {
            let listener = Listener::Administration;
            self.mailboxes[0].deliver(Mail::Listen { subject, listener });
        }
    }

    pub(super) fn end_administrators(&self) {
        if let Some(subject) = self.administration_subject() {
            let listener = Listener::Administration;
            self.mailboxes[0].deliver(Mail::Unlisten { subject, listener });
        }
    }

    fn administration_subject(&self) -> Option<Subject> {
        let streaming = &self.config.streaming;
        let is_on = !streaming.administrators.is_empty();
        is_on.then(|| Subject::from(format!("_STAN.admin.{}.*", streaming.cluster_id)))
    }

    pub(super) fn on_subject_question(&mut self, question: SubjectQuestion) {
        let SubjectQuestion { subject, payload, reply, user } = question;
        let Some(reply) = reply else { return };
        let answers = Answers { mailbox: self.mailboxes[0].clone(), to: reply };
        let answer = self.administrator(user).and_then(|asker| {
            let what = read(&subject, &payload).map_err(Reply::Refused)?;
            Ok(self.administer(what, asker))
        });
        let said = match answer {
            Ok(Answer::Ask(ask)) => match self.answer_aside(answers.clone(), ask) {
                Ok(()) => return,
                Err(why) => Reply::Refused(why),
            },
            Ok(Answer::Say(said)) | Err(said) => said,
        };
        // An empty document only asks whether somebody is here.
        if !payload.is_empty()
            && let Reply::Refused(why) | Reply::Elsewhere(why) = &said
            && let Some(line) = self.refused_questions.line(&subject, why, world::instant())
        {
            log::warn!(target: STREAM, "{line}");
        }
        answers.say(&said);
    }

    /// Who asks, if that one may.
    fn administrator(&self, user: Option<String>) -> Result<Asker, Reply> {
        // After a reload it may be no user any more whom this server tells from others.
        let core = &self.config.core;
        let is_mapped = core.tls.as_ref().is_some_and(|tls| tls.verify_and_map);
        let is_user =
            |name: &String| core.auth.names(name) && (is_mapped || core.auth.has_password(name));
        let administrators = &self.config.streaming.administrators;
        match user {
            Some(user) if administrators.contains(&user) && is_user(&user) => Ok(Asker::User(user)),
            Some(user) => {
                let user = quoted(user.as_bytes());
                let why = format!("{user} may not: administrators of the configuration may");
                Err(Reply::Refused(why))
            }
            None => {
                let (id, host) = (&self.server_id, self.news.own(None).host);
                Err(Reply::Elsewhere(format!(
                    "it is not known who asks: log in to the active server itself, {id} on {host}"
                )))
            }
        }
    }

    /// What asks engines waits for them, which no thread of the server does.
    fn answer_aside(
        &self,
        answers: Answers,
        ask: Box<dyn FnOnce() -> Reply + Send>,
    ) -> Result<(), String> {
        let askers = Arc::clone(&self.subject_askers);
        if ASKERS_MAX <= askers.load(Ordering::Acquire) {
            return Err(BUSY.to_owned());
        }
        askers.fetch_add(1, Ordering::AcqRel);
        let count = Arc::clone(&askers);
        let answer = move || {
            answers.say(&ask());
            count.fetch_sub(1, Ordering::AcqRel);
        };
        if thread::Builder::new().name("subject-asker".to_owned()).spawn(answer).is_err() {
            askers.fetch_sub(1, Ordering::AcqRel);
            return Err(BUSY.to_owned());
        }
        Ok(())
    }
}

/// The refusals that the log has: one a second, and how many there were between them.
#[derive(Debug, Default)]
pub(super) struct RefusedQuestions {
    said_at: Option<Instant>,
    unsaid: u64,
}

impl RefusedQuestions {
    /// The line for a refusal, unless there was one just now.
    fn line(&mut self, subject: &[u8], why: &str, now: Instant) -> Option<String> {
        if self.said_at.is_some_and(|at| now.since(at) < REFUSAL_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.said_at = Some(now);
        let others = match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            count => format!(" ({count} more were refused since the last such line)"),
        };
        Some(format!("Refused what was asked on {}: {why}{others}", quoted(subject)))
    }
}

/// The answer to a question for which there is no room in the queue of the server.
pub(super) fn busy() -> Bytes {
    Bytes::from(line(&Reply::Refused(BUSY.to_owned())))
}

/// Where the answer to one question goes.
#[derive(Clone)]
struct Answers {
    mailbox: Mailbox<Mail>,
    to: Subject,
}

impl Answers {
    fn refuse(&self, why: String) {
        self.say(&Reply::Refused(why));
    }

    fn say(&self, reply: &Reply) {
        let mut said = Bytes::from(line(reply));
        if REPLY_BYTES_MAX < said.len() {
            let len = said.len();
            let why = format!(
                "the answer has {len} bytes, and over NATS it may have {REPLY_BYTES_MAX}: ask for \
                 less, or over the control socket"
            );
            return self.refuse(why);
        }
        let is_refusal = matches!(reply, Reply::Refused(_) | Reply::Elsewhere(_));
        while !said.is_empty() {
            let payload = said.split_to(said.len().min(PORTION_BYTES));
            let subject = self.to.clone();
            // Nothing but a refusal is said by who is not active any more.
            self.mailbox.deliver(match is_refusal {
                true => Mail::Tell { subject, payload },
                false => Mail::Publish { subject, reply: None, payload },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Goal: a flood of refused questions is a line a second, which says how many there were.
    #[test]
    fn refusals_in_the_log_are_counted() {
        let mut refused = RefusedQuestions::default();
        let mut line = |millis: u64| refused.line(b"s", "no", Instant(millis * 1_000_000));
        assert_eq!(line(0).as_deref(), Some("Refused what was asked on \"s\": no"));
        assert_eq!((line(1), line(999)), (None, None));
        let counted =
            "Refused what was asked on \"s\": no (2 more were refused since the last such line)";
        assert_eq!(line(1_000).as_deref(), Some(counted));
        assert_eq!(line(5_000).as_deref(), Some("Refused what was asked on \"s\": no"));
    }

    fn refused(subject: &str, payload: &str) -> String {
        read(subject.as_bytes(), payload.as_bytes()).expect_err("it is refused")
    }

    #[test]
    fn what_is_asked_is_what_subject_and_document_say() {
        let clients = r#"{"ask":"administer","what":"clients"}"#;
        assert_eq!(read(b"_STAN.admin.c.clients", clients.as_bytes()), Ok(Administration::Clients));
        let other = refused("_STAN.admin.c.purge", clients);
        assert_eq!(other, "the subject says \"purge\", and the document \"clients\"");
        for socket in [r#"{"ask":"step-down"}"#, r#"{"ask":"status"}"#] {
            assert!(refused("_STAN.admin.c.status", socket).contains("control socket alone"));
        }
        for wrong in ["", "{}", "[]", "null", "\u{0}", r#"{"ask":"administer","what":"burn"}"#] {
            assert!(refused("_STAN.admin.c.x", wrong).starts_with("this server does not know"));
        }
        let long = "x".repeat(1_000_000);
        assert_eq!(refused("x", &long), "the question has 1000000 bytes: it may have 4096");
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_refused(
            subject in proptest::collection::vec(any::<u8>(), 0..64),
            payload in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let _ = read(&subject, &payload);
        }
    }
}
