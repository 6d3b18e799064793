//! The lists of a snapshot, in portions: a page about very many is copied in many turns.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::base::limits::PORTION_WORK_MAX;
use crate::base::subject;
use crate::base::time::Now;
use crate::broker::Broker;
use crate::broker::session::Session;
use crate::broker::snapshot::{Lists, ServerSnapshot, SubscriptionSnapshot, Wanted};
use crate::broker::sublist::Interest;

/// Where the next portion begins.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// The slot of a session.
    slot: usize,
    /// Of the session with this number all interests up to this `sid` were told.
    told: Option<(u64, Bytes)>,
    /// How many connections were closed before the next one that is to be told.
    closed: u64,
}

/// Work of a connection that is copied, in receivers of a message.
const CONNECTION_WORK: u64 = 8;

/// Work of an interest that is copied; one that is looked at only is 1.
const INTEREST_WORK: u64 = 2;

impl Broker {
    /// A portion of the state of this loop, for monitoring, and where the next one begins. What
    /// comes and goes meanwhile may be in it or not; what stays is in it once.
    pub fn list(
        &mut self,
        now: Now,
        wanted: &Wanted,
        from: Mark,
    ) -> (ServerSnapshot, Option<Mark>) {
        let limit = self.work_done() + PORTION_WORK_MAX;
        let mut part = self.figures(now);
        let mut mark = from;
        let Lists { open, routes, closed, .. } = wanted.lists;
        while (open || routes) && mark.slot < self.sessions.slot_count() {
            if limit <= self.work_done() {
                return (part, Some(mark));
            }
            self.work += 1;
            self.list_slot(wanted, &mut mark, limit, &mut part);
        }
        mark.closed = mark.closed.max(self.closed_dropped);
        let told = usize::try_from(mark.closed - self.closed_dropped).unwrap_or(usize::MAX);
        for found in self.closed.iter().skip(told).take(if closed { usize::MAX } else { 0 }) {
            if limit <= self.work + self.accounts.visited() {
                return (part, Some(mark));
            }
            self.work += CONNECTION_WORK + found.subscriptions.len() as u64;
            mark.closed += 1;
            part.closed.push(found.clone());
        }
        (part, None)
    }

    /// Tells of the session in a slot, and goes on to the next one if that is all of it.
    fn list_slot(
        &mut self,
        wanted: &Wanted,
        mark: &mut Mark,
        limit: u64,
        part: &mut ServerSnapshot,
    ) {
        let work = self.work_done();
        let told = mark.told.take();
        let session = self.sessions.at(mark.slot).filter(|found| is_wanted(found, wanted));
        let Some(session) = session else {
            mark.slot += 1;
            return;
        };
        let told = told.filter(|(cid, _)| *cid == session.cid).map(|(_, sid)| sid);
        let most = limit.saturating_sub(work).max(1);
        let (subscriptions, work, next) = if wanted.lists.subscriptions {
            session.list_interests(told.as_ref(), &wanted.matching, most)
        } else {
            (Vec::new(), 0, None)
        };
        self.work += work + CONNECTION_WORK;
        if let Some(mut found) = session.connection_snapshot() {
            found.subscriptions = subscriptions;
            part.connections.push(found);
        } else if let Some(mut found) = Self::route_snapshot(session) {
            found.subscriptions = subscriptions;
            part.routes.push(found);
        }
        mark.told = next.map(|sid| (session.cid, sid));
        if mark.told.is_none() {
            mark.slot += 1;
        }
    }

    /// All portions at once.
    #[cfg(test)]
    pub fn snapshot(&mut self, now: Now, lists: Lists) -> ServerSnapshot {
        let wanted = Wanted::from(lists);
        let mut whole: Option<ServerSnapshot> = None;
        let mut mark = Some(Mark::default());
        while let Some(from) = mark {
            let (part, next) = self.list(now, &wanted, from);
            match &mut whole {
                Some(whole) => whole.append(part),
                None => whole = Some(part),
            }
            mark = next;
        }
        ServerSnapshot::merge(whole.into_iter().collect())
    }
}

fn is_wanted(session: &Session, wanted: &Wanted) -> bool {
    if session.client().is_none() {
        return wanted.lists.routes;
    }
    let is_asked_for = wanted.only.as_ref().is_none_or(|only| only.contains(&session.cid));
    wanted.lists.open && !session.is_ending() && is_asked_for
}

impl Session {
    /// Interests behind the one that was `told` last, as far as the work goes; how much it was, and
    /// the last of them if there are more.
    fn list_interests(
        &self,
        told: Option<&Bytes>,
        matching: &str,
        most: u64,
    ) -> (Vec<SubscriptionSnapshot>, u64, Option<Bytes>) {
        let begin = told.map_or(Bound::Unbounded, Bound::Excluded);
        let mut list = Vec::new();
        let mut work = 0;
        for (sid, interest) in self.interests.range::<Bytes, _>((begin, Bound::Unbounded)) {
            work += 1;
            if matching.is_empty() || subject::matches(&interest.subject, matching.as_bytes()) {
                work += INTEREST_WORK - 1;
                list.push(self.subscription_snapshot(sid, interest));
            }
            if most <= work {
                return (list, work, Some(sid.clone()));
            }
        }
        (list, work, None)
    }

    /// The first interests.
    pub fn first_subscriptions(&self, most: usize) -> Vec<SubscriptionSnapshot> {
        let first = self.interests.iter().take(most);
        first.map(|(sid, interest)| self.subscription_snapshot(sid, interest)).collect()
    }

    fn subscription_snapshot(&self, sid: &[u8], interest: &Interest) -> SubscriptionSnapshot {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        SubscriptionSnapshot {
            subject: text(&interest.subject),
            queue: interest.queue.as_deref().map(text),
            sid: text(sid),
            msgs: interest.delivered.load(Ordering::Relaxed),
            max: interest.delivered_max.load(Ordering::Relaxed),
            cid: self.cid,
        }
    }
}
