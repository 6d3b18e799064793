//! All receivers of a subject: who they are, and how very many of them are listed in portions.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::broker::EngineInterest;
use crate::broker::sublist::{Entries, GroupId, Interest, Queues};

/// All receivers of a subject.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// Interests of clients without a queue.
    pub plain: Vec<Arc<Interest>>,
    /// One interest of each route that has some without a queue.
    pub routes: Vec<Arc<Interest>>,
    /// The queues, ordered by name.
    pub queues: Vec<QueueMatch>,
    /// Engines. Of engines that listen to the same subject with the same key (a service that each
    /// loop offers) there is one: `home`'s own if it is among them.
    pub engines: Vec<EngineInterest>,
    /// The same of those for which is kept what clients send, here and at other members.
    pub kept: Vec<EngineInterest>,
    /// Whether the queues have still to be put in order.
    is_unordered: bool,
}

/// A queue that gets a message. Who is in it is asked of the tree when somebody is chosen.
#[derive(Clone, Debug)]
pub struct QueueMatch {
    /// Its name.
    pub name: Bytes,
    /// Where its members are: one group for each subject that it listens on.
    pub groups: SmallVec<[GroupId; 1]>,
}

impl Matched {
    /// Whether nobody listens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_receivers() && self.engines.is_empty() && self.kept.is_empty()
    }

    /// Whether a message waits in outboxes: somebody other than engines listens.
    #[must_use]
    pub fn has_receivers(&self) -> bool {
        !self.plain.is_empty() || !self.routes.is_empty() || !self.queues.is_empty()
    }

    /// The queue of this name.
    #[must_use]
    pub fn queue(&self, name: &[u8]) -> Option<&QueueMatch> {
        self.queues.get(self.place_of_queue(name)?)
    }

    /// Where it is in the list.
    #[must_use]
    pub fn place_of_queue(&self, name: &[u8]) -> Option<usize> {
        self.queues.binary_search_by(|queue| queue.name[..].cmp(name)).ok()
    }

    /// How many receivers there are, a queue being one.
    #[must_use]
    pub fn fanout(&self) -> u64 {
        let receivers = self.plain.len() + self.routes.len() + self.queues.len();
        (receivers + self.engines.len() + self.kept.len()) as u64
    }

    /// Adds those of one pattern.
    pub(super) fn add(&mut self, entries: &Entries, home: u16) {
        self.add_others(entries, home);
        let Some(more) = &entries.more else { return };
        if !matches!(more.queues, Queues::Many(_)) || !self.queues.is_empty() {
            self.is_unordered = true;
        }
        more.queues.each(|name, group| self.add_queue(name, group));
    }

    fn add_queue(&mut self, name: &Bytes, group: GroupId) {
        self.queues.push(QueueMatch { name: name.clone(), groups: SmallVec::from_buf([group]) });
    }

    /// Adds those of one pattern that are in no queue.
    fn add_others(&mut self, entries: &Entries, home: u16) {
        for slot in entries.plain.slots() {
            if slot.first().rules.shares_copies {
                self.routes.extend(slot.interests().iter().cloned());
            } else {
                self.plain.extend(slot.interests().iter().cloned());
            }
        }
        let Some(more) = &entries.more else { return };
        for (index, interest) in more.engines.iter().enumerate() {
            let is_chosen = interest.engine.0 == home
                || !more.engines.iter().enumerate().any(|(other_index, other)| {
                    (other.key, other.is_here()) == (interest.key, interest.is_here())
                        && (other.engine.0 == home || other_index < index)
                });
            if is_chosen && interest.keeper.is_some() {
                self.kept.push(*interest);
            } else if is_chosen {
                self.engines.push(*interest);
            }
        }
    }

    /// Joins what several patterns brought of one route or one queue.
    pub(super) fn join(&mut self) {
        // Of each route one that has no wildcard, if there is one.
        self.routes.sort_by_key(|interest| (interest.session, !interest.is_literal));
        self.routes.dedup_by_key(|interest| interest.session);
        // A service may listen to several patterns that a subject fits.
        for engines in [&mut self.engines, &mut self.kept] {
            if 1 < engines.len() {
                let mut seen = SmallVec::<[_; 4]>::new();
                engines.retain(|interest| {
                    let is_new = !seen.contains(interest);
                    seen.push(*interest);
                    is_new
                });
            }
        }
        if !std::mem::take(&mut self.is_unordered) {
            return;
        }
        self.queues.sort_by(|left, right| left.name.cmp(&right.name));
        self.queues.dedup_by(|next, kept| {
            let is_same = next.name == kept.name;
            if is_same {
                kept.groups.extend(next.groups.drain(..));
            }
            is_same
        });
    }
}

/// The receivers that a search has found, as far as they are listed.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub found: Matched,
    /// Patterns of which all are listed.
    pub patterns_done: usize,
    /// The last queue that is listed of the pattern that follows.
    last_queue: Option<Bytes>,
}

impl Listing {
    /// Lists those of the pattern that follows, with up to `most` of its queues; says how many.
    pub fn add_some(&mut self, entries: Option<&Entries>, home: u16, most: u64) -> u64 {
        let before = self.found.fanout();
        let last = self.last_queue.take();
        if let Some(entries) = entries {
            self.last_queue = self.add_after(entries, last, (home, most));
        }
        if self.last_queue.is_none() {
            self.patterns_done += 1;
        }
        self.found.fanout() - before
    }

    /// The last queue that was listed, if there are more.
    fn add_after(
        &mut self,
        entries: &Entries,
        last: Option<Bytes>,
        (home, most): (u16, u64),
    ) -> Option<Bytes> {
        let Some(Queues::Many(queues)) = entries.more.as_ref().map(|more| &more.queues) else {
            if last.is_none() {
                self.found.add(entries, home);
            }
            return None;
        };
        if last.is_none() {
            self.found.add_others(entries, home);
            self.found.is_unordered |= !self.found.queues.is_empty();
        }
        let begin = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = queues.range((begin, Bound::Unbounded));
        let mut listed = None;
        for (name, group) in left.by_ref().take(usize::try_from(most.max(1)).unwrap_or(usize::MAX))
        {
            self.found.add_queue(name, *group);
            listed = Some(name);
        }
        listed.filter(|_| left.next().is_some()).cloned()
    }
}
