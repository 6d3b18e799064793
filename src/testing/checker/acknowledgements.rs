//! Acknowledgements that a server has taken, as far as a client can know.
//!
//! Nobody answers an acknowledgement. But a connection and an engine keep their order, and a batch
//! is stored as a whole: where a client of the active acknowledges messages of a channel, publishes
//! to that channel behind that, and is told that this is stored, then the acknowledgements are too.
//! That is so only if nobody took over meanwhile, else one of the two may have met another member;
//! and not before the first such answer of a term, because publishes are kept for one who becomes
//! active, and acknowledgements are not. What was delivered in an earlier term is left out: that it
//! was sent may be lost with the power, and then it is new to who takes over.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::doubts::Term;
use super::{Checker, DurableKey};
use crate::base::id::{ChannelName, Sequence, Subject};

/// Who goes on with a position: a subscription, or its durable in all of its lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reader {
    Durable(DurableKey),
    Inbox(Subject),
}

/// On one connection to the active, in one of its terms.
type Way = (u32, Term);

/// An acknowledgement that was sent; `None` where its durable was changed meanwhile.
type Sent = Option<(Reader, Sequence)>;

/// What is known of acknowledgements.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    /// By connection: the member at its other end.
    ends: BTreeMap<u32, usize>,
    /// In which term it was delivered last.
    given: BTreeMap<(Subject, Sequence), Term>,
    /// Sent, and not known to be stored.
    sent: BTreeMap<(Way, ChannelName), Vec<Sent>>,
    /// By a publish that is under way: so many of those were sent before it.
    before: BTreeMap<Bytes, (Way, usize)>,
    /// Where a publish that was sent in this term was stored: who serves the channel is there.
    served: BTreeSet<(Way, ChannelName)>,
    /// Stored.
    stored: BTreeSet<(Reader, ChannelName, Sequence)>,
}

impl Acknowledgements {
    /// What is under way of a durable may not be taken.
    pub(super) fn forget_under_way(&mut self, key: &DurableKey) {
        let is_of = |(reader, _): &mut (Reader, Sequence)| *reader == Reader::Durable(key.clone());
        for sent in self.sent.values_mut().flatten() {
            sent.take_if(is_of);
        }
    }

    /// What a durable had acknowledged may come again.
    pub(super) fn forget_stored(&mut self, key: &DurableKey) {
        let is_of = |reader: &Reader| *reader == Reader::Durable(key.clone());
        self.stored.retain(|(reader, ..)| !is_of(reader));
    }
}

impl Checker {
    /// A client has a connection to a member.
    pub fn on_linked(&mut self, connection: u32, member: usize) {
        self.acknowledgements.ends.insert(connection, member);
    }

    fn way(&self, connection: u32) -> Option<Way> {
        let end = self.acknowledgements.ends.get(&connection)?;
        Some((connection, self.doubts.term_of(*end)?))
    }

    /// A message has come.
    pub(super) fn on_given(&mut self, inbox: &Subject, sequence: Sequence) {
        let term = self.doubts.term();
        self.acknowledgements.given.insert((inbox.clone(), sequence), term);
    }

    fn reader(&self, inbox: &Subject) -> Option<(Reader, ChannelName)> {
        let asked = self.asked.get(inbox)?;
        let reader = match &asked.durable {
            // Another member of a queue may be sent it on another way, at any time.
            _ if asked.in_queue => return None,
            Some(key) if self.is_loosened(key) => return None,
            Some(key) => Reader::Durable(key.clone()),
            None => Reader::Inbox(inbox.clone()),
        };
        Some((reader, asked.channel.clone()))
    }

    /// An acknowledgement leaves on a connection.
    pub fn on_ack_sent(&mut self, inbox: &Subject, sequence: Sequence, connection: u32) {
        let Some(way) = self.way(connection) else { return };
        let Some((reader, channel)) = self.reader(inbox) else { return };
        let is_given = self.acknowledgements.given.get(&(inbox.clone(), sequence)) == Some(&way.1);
        if !is_given || !self.acknowledgements.served.contains(&(way, channel.clone())) {
            return;
        }
        let sent = self.acknowledgements.sent.entry((way, channel)).or_default();
        sent.push(Some((reader, sequence)));
    }

    /// A publish leaves on a connection.
    pub fn on_publish_sent(&mut self, guid: &Bytes, channel: &ChannelName, connection: u32) {
        let Some(way) = self.way(connection) else { return };
        let sent = self.acknowledgements.sent.get(&(way, channel.clone()));
        let count = sent.map_or(0, Vec::len);
        self.acknowledgements.before.insert(guid.clone(), (way, count));
    }

    /// A publish is answered: it is stored.
    pub fn on_publish_stored(&mut self, guid: &Bytes, channel: &ChannelName) {
        let known = &mut self.acknowledgements;
        let Some((way, count)) = known.before.remove(guid) else { return };
        if self.doubts.is_earlier(way.1) {
            return;
        }
        known.served.insert((way, channel.clone()));
        let Some(sent) = known.sent.get(&(way, channel.clone())) else { return };
        let stored = sent.iter().take(count).flatten();
        known.stored.extend(stored.map(|(reader, s)| (reader.clone(), channel.clone(), *s)));
    }

    /// What was acknowledged, and the server has taken it, comes again. It may if a disk was full:
    /// what it refuses of acknowledgements is not written again.
    pub(super) fn taken(&self, inbox: &Subject, sequence: Sequence) -> Option<String> {
        if self.doubts.may_be_unwritten() {
            return None;
        }
        let (reader, channel) = self.reader(inbox)?;
        let text =
            format!("{channel}:{sequence} on {inbox} was acknowledged before, and stored so");
        self.acknowledgements.stored.contains(&(reader, channel, sequence)).then_some(text)
    }
}
