//! What must hold at the end, of what a client finds that reads all there is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::promise::{On, Promise};
use super::{Acked, Audit, Checker, Published, is_read};
use crate::base::id::{ChannelName, Sequence};
use crate::testing::limits::{DEAD_LETTERS, DROPPED, Kept};

impl Checker {
    /// What must hold at the end, of what a client finds that reads all.
    pub fn check_audit(&mut self, audit: &Audit) {
        let mut broken = self.missing_acked(audit);
        broken.extend(self.not_gone(audit));
        for (channel, messages) in audit {
            broken.extend(self.first_gap(channel, messages).map(|text| (Promise::P4, text)));
            // Dead letters come in the order in which they die.
            let is_ordered = channel.as_bytes() != DEAD_LETTERS.as_bytes();
            let disorder = is_ordered.then(|| self.disorder(channel, messages)).flatten();
            broken.extend(disorder.map(|text| (Promise::P4, text)));
        }
        for (channel, told) in &self.told {
            broken.extend(self.untold(channel, told, audit.get(channel)));
        }
        for (promise, text) in broken {
            self.fail(promise, text);
        }
        let empty = audit.iter().flat_map(|(channel, messages)| {
            let empty = messages.iter().filter(|(_, data)| data.is_empty());
            empty.map(move |(sequence, _)| (channel, *sequence))
        });
        for (channel, sequence) in empty {
            self.check_stand_in(channel, sequence);
        }
    }

    /// What was delivered of a channel, and is not there as it was.
    fn untold(
        &self,
        channel: &ChannelName,
        told: &BTreeMap<Sequence, (Bytes, i64)>,
        found: Option<&BTreeMap<Sequence, Bytes>>,
    ) -> Vec<(Promise, String)> {
        let is_there = |at: &Sequence| !self.doubts.excuses(On::Message(channel, *at));
        let begins = found.and_then(|found| found.keys().next().copied());
        let first = self.first_kept(channel, begins.unwrap_or_default());
        let told: Vec<_> = told.iter().filter(|(at, _)| is_there(at)).collect();
        let is_gone = |(sequence, (payload, _)): &&(&Sequence, &(Bytes, i64))| {
            let now = found.and_then(|found| found.get(*sequence));
            let is_let_go = **sequence < first && self.may_be_purged(channel, **sequence);
            let may_be_gone = now.is_none() && (!self.must_stay(channel) || is_let_go);
            let is_emptied = now.is_some_and(Bytes::is_empty) || payload.is_empty();
            let may_be_gone =
                may_be_gone || is_emptied && self.is_purge_stand_in(channel, **sequence);
            now != Some(payload) && !may_be_gone
        };
        let gone = told.iter().filter(is_gone).map(|(sequence, _)| {
            (Promise::P1, format!("{channel}:{sequence} was delivered and is not there"))
        });
        let pairs = told.iter().zip(told.iter().skip(1));
        let falls = pairs.filter(|((_, (_, earlier)), (_, (_, later)))| later < earlier);
        let falls = falls.map(|((before, _), (after, _))| {
            (Promise::P4, format!("time falls in {channel} between {before} and {after}"))
        });
        gone.chain(falls).collect()
    }

    /// Whether everything in a channel stays, and is read at the end.
    fn must_stay(&self, channel: &ChannelName) -> bool {
        is_read(channel) && self.kept(channel) == Kept::All
    }

    /// Whether what is published again is not stored again.
    fn is_stored_once(&self, channel: &ChannelName) -> bool {
        let policy = self.limits.policy_of(channel);
        policy.is_some_and(|policy| !policy.dedup_window.is_zero())
    }

    /// A sequence that is missing among those that must be there.
    fn first_gap(
        &self,
        channel: &ChannelName,
        messages: &BTreeMap<Sequence, Bytes>,
    ) -> Option<String> {
        let last = messages.keys().next_back()?.get();
        let first = messages.keys().next().copied()?;
        let let_go = self.first_kept(channel, first).prev().get();
        let gone = match self.kept(channel) {
            Kept::All => let_go,
            Kept::Newest(count) => last.saturating_sub(count).max(let_go),
            Kept::Some => return None,
        };
        let is_missing = |number: &u64| {
            let sequence = Sequence(*number);
            let can_be = !messages.contains_key(&sequence);
            can_be && !self.doubts.excuses(On::Message(channel, sequence))
        };
        let missing = (gone + 1..last).find(is_missing)?;
        Some(format!("{channel}:{missing} is missing before {last}"))
    }

    /// What a connection published once is there in the order in which it did.
    fn disorder(
        &self,
        channel: &ChannelName,
        messages: &BTreeMap<Sequence, Bytes>,
    ) -> Option<String> {
        let mut last_of = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let first_sent = messages.iter().filter(|(sequence, payload)| {
            let on = On::Message(channel, **sequence);
            // Where no client tries again the first of two is the one that it has sent.
            let is_first = seen.insert(*payload) && self.doubts.moves().is_some();
            (is_first || !self.doubts.may_be_twice(payload)) && !self.doubts.excuses(on)
        });
        first_sent.filter_map(|(_, data)| self.published.get(data)).find_map(|published| {
            let Published { connection, number, .. } = *published;
            let last = last_of.insert(connection, number).filter(|last| number < *last)?;
            Some(format!("{channel} has message {number} of connection {connection} behind {last}"))
        })
    }

    fn missing_acked(&self, audit: &Audit) -> Vec<(Promise, String)> {
        let mut counts: BTreeMap<(&ChannelName, &Bytes), usize> = BTreeMap::new();
        for (channel, messages) in audit {
            messages.values().for_each(|data| *counts.entry((channel, data)).or_default() += 1);
        }
        let mut broken = Vec::new();
        let mut acked_counts: BTreeMap<&ChannelName, u64> = BTreeMap::new();
        let stays = |data: &&Bytes, _acked: &&Acked| !self.doubts.may_be_gone(data);
        for (payload, Acked { channel, .. }) in self.acked.iter().filter(|(d, a)| stays(d, a)) {
            *acked_counts.entry(channel).or_default() += 1;
            let count = counts.get(&(channel, payload)).copied().unwrap_or(0);
            let may_be_twice = self.doubts.may_be_twice(payload) && !self.is_stored_once(channel);
            let is_once = count == 1 || (1 < count && may_be_twice);
            let may_be_let_go = count == 0 && self.may_be_let_go(channel, payload);
            if !is_once && self.must_stay(channel) && !may_be_let_go {
                let text = format!("{payload:?} was acked and is {count} times in {channel}");
                broken.push((Promise::P1, text));
            }
        }
        acked_counts.remove(&ChannelName::from(DROPPED));
        for (channel, count) in acked_counts {
            // Whatever was removed since had a sequence of its own.
            let last = audit.get(channel).and_then(|found| found.keys().next_back());
            if let Some(last) = last.filter(|last| last.get() < count) {
                let text = format!("{count} messages of {channel} were acked, {last} stored");
                broken.push((Promise::P1, text));
            }
        }
        broken
    }
}
