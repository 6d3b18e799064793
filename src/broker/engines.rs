//! The engines as a broker knows them: what they listen to, what holds up who writes to them, what
//! they say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::base::epoch::Epoch;
use crate::base::errand::Errand;
use crate::base::id::{AccountIndex, LoopIndex, SessionId, Subject};
use crate::base::origin::Origin;
use crate::broker::delivery::Source;
use crate::broker::mail::Mail;
use crate::broker::room::Rooms;
use crate::broker::{Broker, Effect};

/// What an engine has to have free before something is handed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Credit {
    /// Nothing: it is bounded by what it answers.
    Free,
    /// Room for messages, in the engine that [`crate::broker::Settings::owner`] names.
    Messages,
    /// Room for requests, in all engines.
    Requests,
}

/// An interest of an engine, as the brokers keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineInterest {
    /// Which engine listens.
    pub engine: LoopIndex,
    /// In which account.
    pub account: AccountIndex,
    /// What the engine's driver recognises it by.
    pub key: u64,
    /// What has to be free before something that comes in is handed over.
    pub credit: Credit,
    /// Whether what comes in is let go soon: then it may share its memory with others.
    pub is_brief: bool,
    /// The epoch of the engine, if what clients send it is kept until it is done.
    pub keeper: Option<Epoch>,
}

impl EngineInterest {
    /// The loop that no process has.
    const ELSEWHERE: LoopIndex = LoopIndex(u16::MAX);

    /// One of an engine of another member; each that says something of its engines has a number.
    pub(super) fn elsewhere(account: AccountIndex, epoch: Epoch, claim: u64) -> Self {
        Self {
            engine: Self::ELSEWHERE,
            account,
            key: claim,
            credit: Credit::Free,
            is_brief: true,
            keeper: Some(epoch),
        }
    }

    /// Whether the engine is one of this process.
    pub(super) fn is_here(&self) -> bool {
        self.engine != Self::ELSEWHERE
    }
}

/// Subject and reply of a message, in one piece of memory.
#[derive(Clone, Debug)]
pub struct Names {
    pub(super) bytes: Bytes,
    pub(super) subject_len: usize,
}

impl From<Subject> for Names {
    fn from(subject: Subject) -> Self {
        Self { subject_len: subject.as_bytes().len(), bytes: subject.to_bytes() }
    }
}

impl Names {
    /// The subject that it was published on.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.bytes[..self.subject_len]
    }

    /// Where an answer should go.
    #[must_use]
    pub(super) fn reply(&self) -> Option<&[u8]> {
        let reply = &self.bytes[self.subject_len..];
        (!reply.is_empty()).then_some(reply)
    }

    /// Bytes of both.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The same, without the reply.
    #[must_use]
    pub fn into_subject(mut self) -> Subject {
        self.bytes.truncate(self.subject_len);
        Subject::from(self.bytes)
    }

    /// Where an answer should go.
    #[must_use]
    pub fn into_reply(mut self) -> Option<Subject> {
        self.bytes.advance(self.subject_len);
        (!self.bytes.is_empty()).then(|| Subject::from(self.bytes))
    }
}

/// What an engine publishes.
#[derive(Clone, Debug)]
pub struct Post {
    /// In which account.
    pub account: AccountIndex,
    /// Where to.
    pub subject: Subject,
    /// First part of the payload.
    pub head: Bytes,
    /// Second part of the payload, often empty.
    pub tail: Bytes,
    /// Whether it may leave only while the lease is held.
    pub is_leased: bool,
}

/// A message that an engine's interest matched; given to the driver of the loop it arrived on.
#[derive(Clone, Debug)]
pub struct EngineDelivery {
    /// Which engine listens.
    pub engine: LoopIndex,
    /// What its driver recognises the interest by.
    pub key: u64,
    /// Its subject and reply.
    pub names: Names,
    /// The payload without NATS headers.
    pub payload: Bytes,
    /// Who sent it.
    pub origin: Arc<Origin>,
    /// Who keeps it until it is done.
    pub errand: Option<Errand>,
}

/// What a broker keeps of the engines.
#[derive(Debug, Default)]
pub(super) struct Engines {
    /// Interests of this loop's engine, but for those of subscriptions.
    pub listening: BTreeSet<(Subject, EngineInterest)>,
    /// Those: as many as there are subscriptions.
    pub of_subscriptions: BTreeSet<(Subject, EngineInterest)>,
    /// Engines that have no credit of a kind to give.
    pub pressed: BTreeSet<(Credit, LoopIndex)>,
    /// Who they are to each other.
    pub origin: Arc<Origin>,
    /// Interests of each loop's engine in messages and requests; the loop that owns the routes
    /// counts them.
    pub serving_counts: BTreeMap<LoopIndex, usize>,
    /// Sessions that wait for a credit.
    pub paused: BTreeSet<SessionId>,
    /// Who reads what this loop's engine delivers.
    pub rooms: Rooms,
}

impl Engines {
    fn listened(&mut self, interest: EngineInterest) -> &mut BTreeSet<(Subject, EngineInterest)> {
        if interest.is_of_subscription() {
            return &mut self.of_subscriptions;
        }
        &mut self.listening
    }
}

impl Broker {
    /// The engine of this loop publishes.
    pub(super) fn on_post(&mut self, post: &Post, reply: Option<&Subject>) {
        if self.settings.upstream.is_some() {
            return self.say_upstream(post, reply, false);
        }
        let message = post.message(reply, false);
        let matched = self.accounts[post.account].matches(message.subject);
        let is_heard =
            matched.is_some_and(|matched| self.deliver(&matched, &message, &Source::Engine));
        if let (false, Some(reply)) = (is_heard, reply) {
            self.effects.push_back(Effect::NoResponders { reply: reply.clone() });
        }
    }

    /// The engine of this loop sends a message of a channel.
    pub(super) fn on_channel_post(&mut self, key: u64, post: &Post) {
        if self.settings.upstream.is_some() {
            self.say_upstream(post, None, true);
            return self.look_for_upstream_room();
        }
        let message = post.message(None, true);
        if let Some(matched) = self.accounts[post.account].matches(message.subject) {
            self.deliver(&matched, &message, &Source::Engine);
            self.look_for_room(key, post.account, &matched);
        }
    }

    /// The engine of this loop listens.
    pub(super) fn on_listen(&mut self, subject: &Subject, interest: EngineInterest) {
        let (subject, interest) = (subject.detached(), self.as_kept(interest));
        if interest.keeper.is_some() {
            self.retire_rest();
        }
        if self.engines.listened(interest).insert((subject.clone(), interest)) {
            self.on_engine_listens(&subject, interest);
            self.mail_all(&Mail::Listen(subject, interest));
        }
    }

    /// The engine of this loop no longer listens.
    pub(super) fn on_unlisten(&mut self, subject: &Subject, interest: EngineInterest) {
        let interest = self.as_kept(interest);
        if self.engines.listened(interest).remove(&(subject.clone(), interest)) {
            self.on_engine_unlistens(subject, interest);
            self.mail_all(&Mail::Unlisten(subject.clone(), interest));
        }
    }

    /// The engine of this loop is gone.
    pub(super) fn on_engine_gone(&mut self) {
        // First: who keeps something for it has to know that it goes to somebody else.
        self.end_own_engines();
        self.retire_engine();
        self.engines.rooms = std::mem::take(&mut self.engines.rooms).emptied();
        self.purge_leased();
        self.mail_all(&Mail::EngineGone);
    }

    /// An engine is full, or no longer.
    pub(super) fn on_pressure(&mut self, engine: LoopIndex, credit: Credit, is_high: bool) {
        if is_high {
            self.engines.pressed.insert((credit, engine));
        } else if self.engines.pressed.remove(&(credit, engine)) {
            for session in std::mem::take(&mut self.engines.paused) {
                self.resume(session);
            }
        }
    }

    pub(super) fn on_engine_listens(&mut self, subject: &Subject, interest: EngineInterest) {
        if self.accounts[interest.account].listen(subject.as_bytes(), interest) {
            // First: what a peer sends because of this interest is behind its answer.
            self.on_engine_count(interest, true);
            self.announce_engine(interest, &subject.to_bytes(), 1);
            self.tell_upstream(subject, interest);
        }
    }

    pub(super) fn on_engine_unlistens(&mut self, subject: &Subject, interest: EngineInterest) {
        if self.accounts[interest.account].unlisten(subject.as_bytes(), interest) {
            self.announce_engine(interest, &subject.to_bytes(), -1);
            self.untell_upstream(subject, interest);
            self.on_engine_count(interest, false);
        }
    }

    /// What engines published is not to leave any more.
    pub(super) fn purge_leased(&mut self) {
        for session in self.sessions.iter_mut() {
            session.outbox.purge_leased();
        }
    }
}
