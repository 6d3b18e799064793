//! What the clients of a store were told, and so what must be in it.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use stanby::base::delivery_count::{DeliveryCount, ReaderId};
use stanby::base::record::{
    Batch, ChannelBatch, ClientWrite, Lifecycle, MessageRecord, RecoveredChannel, SubscriptionWrite,
};
use stanby::proto::pb;

/// What a channel keeps.
pub const MESSAGES_MAX: usize = 10;
/// What was sent and not acknowledged, by subscription.
pub type Pending = BTreeMap<u64, BTreeSet<u64>>;

/// One channel, as far as its clients were told.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub messages: BTreeMap<u64, String>,
    pub first: u64,
    pub last: u64,
    /// Follow the last one, if they are there.
    pub unknown: Vec<String>,
    /// What a former active may still add, as long as no later epoch writes to the channel.
    pub late: Vec<String>,
    /// One of these.
    pub pending: Vec<Pending>,
    /// Or one of these, which was found instead of an older one, and may be lost with the power.
    pub doubtful_pending: Vec<Pending>,
    /// Or one of these, as `late`.
    pub late_pending: Vec<Pending>,
    pub may_be_missing: bool,
    /// What an operator wants to let go, and was not told of: the first message that would stay,
    /// and whether its payload goes.
    pub purge: Option<(u64, bool)>,
    /// Tells it from another channel of that name: the timestamp of its messages for who counts.
    pub made: i64,
    /// How often a message was delivered to a reader: one of these; 0 = it is not counted.
    pub counts: BTreeMap<(ReaderId, u64), BTreeSet<u32>>,
}

/// Everything that clients were told.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub channels: BTreeMap<String, Known>,
    pub clients: Vec<BTreeSet<Vec<u8>>>,
    pub doubtful_clients: Vec<BTreeSet<Vec<u8>>>,
    pub has_server: bool,
    /// Of which a creation was refused: it may be there all the same, empty.
    pub deleted: BTreeMap<String, Vec<Known>>,
    /// Whether a former active goes on with what it was doing when another one took over.
    pub has_late_one: bool,
    /// Whether the power goes: it may take what was found, and never answered for, or a part of it.
    pub may_lose_unanswered: bool,
    /// Seconds since the tests began.
    pub seconds: u64,
    /// All payloads that were ever found, or answered for.
    pub kept: BTreeSet<String>,
    /// How many channels were made.
    made: i64,
    /// Whether the disk has failed.
    pub was_faulty: bool,
}

impl Model {
    /// Clients ask for what is in the batch: from now on it may be there.
    pub fn ask(&mut self, batch: &Batch) {
        if !batch.clients.is_empty() {
            let mut state = self.clients.first().cloned().unwrap_or_default();
            self.clients = vec![state.clone()];
            for write in &batch.clients {
                match write {
                    ClientWrite::Add(info) => drop(state.insert(info.id.to_vec())),
                    ClientWrite::Delete(id) => drop(state.remove(id.as_bytes())),
                }
                self.clients.push(state.clone());
            }
        }
        for part in &batch.channels {
            let known = self.channels.entry(part.channel.to_string()).or_default();
            if known.pending.is_empty() {
                known.pending.push(Pending::new());
            }
            for count in &part.deliveries {
                let key = (count.reader, count.sequence.get());
                known.counts.entry(key).or_insert_with(|| [0].into()).insert(count.count);
            }
            known.may_be_missing = part.lifecycle != Lifecycle::Keep;
            let asked = part.purge.as_ref();
            known.purge = asked.map(|it| (it.first.get(), it.stand_in.is_some()));
            known.unknown = part.messages.iter().map(payload_of).collect();
            (known.late, known.late_pending) = (Vec::new(), Vec::new());
            let mut state = known.pending[0].clone();
            for write in &part.subscriptions {
                match write {
                    SubscriptionWrite::Create(sub) => drop(state.insert(sub.id, BTreeSet::new())),
                    SubscriptionWrite::Update(_) => (),
                    SubscriptionWrite::Delete(id) => drop(state.remove(&id.0)),
                    SubscriptionWrite::Sent(id, at) => {
                        state.get_mut(&id.0).map(|pending| pending.insert(at.get()));
                    }
                    SubscriptionWrite::Acked(id, at) => {
                        state.get_mut(&id.0).map(|pending| pending.remove(&at.get()));
                    }
                }
                known.pending.push(state.clone());
            }
        }
    }

    /// What tells a channel from others of that name.
    pub fn made(&mut self, channel: &str) -> Option<i64> {
        let known = self.channels.get_mut(channel)?;
        if known.made == 0 {
            self.made += 1;
            known.made = self.made;
        }
        Some(known.made)
    }

    pub fn answer_clients(&mut self, batch: &Batch, is_refused: bool) {
        if !batch.clients.is_empty() {
            if !is_refused {
                self.doubtful_clients.clear();
            }
            let state = if is_refused { self.clients.first() } else { self.clients.last() };
            self.clients = state.cloned().into_iter().collect();
        }
        self.has_server |= batch.server.is_some() && !is_refused;
    }

    /// They are told what became of it.
    pub fn answer(&mut self, part: &ChannelBatch, is_refused: bool) {
        let name = part.channel.to_string();
        let known = self.channels.get_mut(&name).unwrap();
        let is_gone = match part.lifecycle {
            Lifecycle::Keep => false,
            Lifecycle::Create => is_refused,
            Lifecycle::Delete => !is_refused,
        };
        if is_gone {
            self.channels.remove(&name).unwrap();
            self.deleted.remove(&name);
            if part.lifecycle == Lifecycle::Create {
                // On a disk that takes nothing, not even this can be taken back.
                let pending = vec![Pending::new()];
                let empty = Known { pending, ..Known::default() };
                self.deleted.entry(name).or_default().push(empty);
            }
            return;
        }
        known.may_be_missing = false;
        if part.lifecycle == Lifecycle::Create {
            self.deleted.remove(&name);
        }
        let known = self.channels.get_mut(&name).unwrap();
        let unknown = std::mem::take(&mut known.unknown);
        let purge = known.purge.take();
        if let Some(purge) = purge.filter(|_| !is_refused) {
            known.let_go(purge);
        }
        if is_refused {
            known.pending.truncate(1);
            return;
        }
        for count in &part.deliveries {
            let counts = known.counts.entry((count.reader, count.sequence.get())).or_default();
            // What is acknowledged is let go of by the next write of counts; where the disk takes
            // nothing, what goes may come back too.
            if count.count != 0 || (count.is_gone && !self.was_faulty) {
                *counts = [count.count].into();
            }
        }
        known.pending = vec![known.pending.pop().unwrap()];
        known.doubtful_pending.clear();
        for payload in unknown {
            self.kept.insert(payload.clone());
            known.keep(payload);
        }
    }

    pub fn check_clients(&mut self, ids: BTreeSet<Vec<u8>>, has_server: bool) {
        let is_known = self.clients.contains(&ids)
            || self.doubtful_clients.contains(&ids)
            || (self.clients.is_empty() && ids.is_empty());
        assert!(is_known, "clients {ids:?}, of {:?}", self.clients);
        let others = std::mem::replace(&mut self.clients, vec![ids]);
        if self.may_lose_unanswered {
            // Whoever writes one writes all of them anew.
            self.doubtful_clients.extend(others);
        }
        assert!(has_server || !self.has_server, "the server's record is lost");
        self.has_server = has_server;
    }
}

impl Known {
    /// Its payload is lost; that there was such a message is not.
    pub fn lose(&mut self, sequence: u64) {
        if let Some(payload) = self.messages.get_mut(&sequence) {
            payload.clear();
        } else if let Some(ahead) = sequence.checked_sub(self.last + 1)
            && let Some(payload) = self.unknown.get_mut(usize::try_from(ahead).unwrap())
        {
            payload.clear();
        }
    }

    fn keep(&mut self, payload: String) {
        self.last += 1;
        self.messages.insert(self.last, payload);
        self.first = self.first.max(1);
        while MESSAGES_MAX < self.messages.range(self.first..).count() {
            self.first += 1;
        }
    }

    fn let_go(&mut self, (first, is_emptied): (u64, bool)) {
        self.first = self.first.max(first);
        if is_emptied && let Some(payload) = self.messages.get_mut(&first) {
            payload.clear();
        }
    }

    /// What is pending is what was answered, or may be instead of it.
    pub fn check_pending(
        &mut self,
        name: &str,
        found: &RecoveredChannel,
        (has_late_one, may_lose): (bool, bool),
    ) {
        let subscriptions = found.subscriptions.iter();
        let pending: Pending = subscriptions
            .map(|one| (one.state.id, one.pending.iter().map(|at| at.get()).collect()))
            .collect();
        let is_late = self.late_pending.contains(&pending);
        let is_doubtful = self.doubtful_pending.contains(&pending);
        let is_known = is_late || is_doubtful || self.pending.contains(&pending);
        assert!(is_known, "{name}: {pending:?} of {self:?}");
        let others = std::mem::replace(&mut self.pending, vec![pending]);
        if has_late_one && !is_late {
            self.late_pending.extend(others);
        } else if may_lose {
            // Whoever writes to the channel writes all of it anew.
            self.doubtful_pending.extend(others);
        }
    }

    /// Each count is what was answered, or asked for since.
    pub fn check_counts(&mut self, name: &str, found: &[DeliveryCount], may_change: bool) {
        let ours = found.iter().filter(|count| count.timestamp.0 == self.made);
        let found: BTreeMap<(ReaderId, u64), u32> =
            ours.map(|one| ((one.reader, one.sequence.get()), one.count)).collect();
        for key in found.keys() {
            assert!(self.counts.contains_key(key), "{name}: {key:?} was never counted");
        }
        for (key, known) in &mut self.counts {
            let count = found.get(key).copied().unwrap_or(0);
            assert!(known.contains(&count), "{name}: {key:?} was delivered {count} of {known:?}");
            if !may_change {
                *known = [count].into();
            }
        }
    }

    /// All that was kept is there, nothing else is, and nothing twice.
    /// Gives what is not there of what nobody was told of. Of that a power failure may have taken
    /// a part, for which nothing stands, or an empty message.
    pub fn check_messages(
        &mut self,
        name: &str,
        found: &[(u64, String)],
        may_lose: bool,
    ) -> Vec<String> {
        if let Some((first, is_emptied)) = self.purge {
            let is_there = found
                .first()
                .is_some_and(|(at, payload)| *at == first && (!is_emptied || payload.is_empty()));
            if is_there {
                self.let_go((first, is_emptied));
            }
        }
        let last = found.last().map_or(self.last, |(sequence, _)| *sequence).max(self.last);
        let new = usize::try_from(last - self.last).unwrap();
        assert!(new <= self.unknown.len(), "{name}: {found:?} is more than {self:?}");
        let mut unknown = std::mem::take(&mut self.unknown);
        let left = unknown.split_off(new);
        for payload in unknown {
            let at = self.last + 1;
            match found.iter().find(|(sequence, _)| *sequence == at) {
                Some((_, stands)) if may_lose && stands.is_empty() => self.keep(String::new()),
                None if may_lose => self.last = at,
                Some(_) | None => self.keep(payload),
            }
        }
        let begin = found.first().map_or(self.last + 1, |(sequence, _)| *sequence);
        // All messages of the channel with an age limit may have expired by now.
        let end = if name == "aged" { self.last + 1 } else { self.first };
        assert!(
            (self.first..=end).contains(&begin) || self.last == 0,
            "{name}: begins at {begin}, but {self:?}"
        );
        self.first = begin.max(self.first);
        let expected: Vec<(u64, String)> =
            self.messages.range(begin..).map(|(at, payload)| (*at, payload.clone())).collect();
        assert_eq!(found, expected, "{name}");
        left
    }
}

pub fn payload_of(record: &MessageRecord) -> String {
    let message = pb::MsgProto::decode(record.encoded.clone()).unwrap();
    assert_eq!(message.sequence, record.sequence.get());
    String::from_utf8(message.data.to_vec()).unwrap()
}
