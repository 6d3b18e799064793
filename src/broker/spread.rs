//! A message for very many receivers, in portions: a session goes on with it in its next turns,
//! and nothing that it says later overtakes it.
//!
//! First come those without a queue, then the queues, and in the end the routes: a route gets one
//! copy, which names all queues that it is for.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::id::{AccountIndex, SessionId};
use crate::base::limits::SESSION_WORK_MIN;
use crate::broker::Broker;
use crate::broker::delivery::{CHOICE_WORK, Message, Picks, Source, first_part, weight_of};
use crate::broker::read::Step;
use crate::broker::sublist::Matched;
use crate::wire::Op;
use crate::wire::op::{Publish, words};

/// A message at the front of a session's buffer that some of its receivers have got.
#[derive(Debug)]
pub(super) struct Spread {
    account: AccountIndex,
    /// Its receivers when it came.
    matched: Arc<Matched>,
    /// How many of those without a queue have got it.
    plain_done: usize,
    /// How many of the queues; of a message of a peer how much of the names that the peer gave.
    queues_done: usize,
    /// Of a message of a peer: which queues have got it, because names can come twice.
    served: Vec<bool>,
    /// The copies for routes, which wait until all queues are known that they are for.
    picks: Picks,
    /// Whether it was held back as long as it may be.
    is_stall_waived: bool,
    /// The whole of it, where receivers share its payload.
    frame: Option<Bytes>,
}

impl Spread {
    /// What is left of a message of which the first part was delivered.
    pub fn new(
        account: AccountIndex,
        matched: Arc<Matched>,
        publish: &Publish<'_>,
        frame: Option<Bytes>,
    ) -> Box<Self> {
        let plain_done = first_part(&matched, weight_of(publish)).len();
        Box::new(Self {
            account,
            matched,
            plain_done,
            queues_done: 0,
            served: Vec::new(),
            picks: Picks::default(),
            is_stall_waived: false,
            frame,
        })
    }

    /// Where the next portion ends, among those without a queue and among the queues.
    fn portion(&self, most: usize, weight: usize) -> (usize, usize) {
        let plain_len = self.matched.plain.len();
        if self.plain_done < plain_len {
            let end = self.plain_done.saturating_add((most / weight).max(1)).min(plain_len);
            return (end, self.queues_done);
        }
        (plain_len, self.queues_done.saturating_add((most / (CHOICE_WORK + 1 + weight)).max(1)))
    }
}

impl Broker {
    /// Goes on with the message at the front, which was read from `bytes`, as far as there is work
    /// left for it in this turn.
    pub(super) fn go_on_spreading(
        &mut self,
        id: SessionId,
        mut spread: Box<Spread>,
        op: &Op<'_>,
        (bytes, limit): (&[u8], u64),
    ) -> Step {
        let publish = op.message();
        let most = limit.saturating_sub(self.work_done()).max(SESSION_WORK_MIN);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let ends = spread.portion(most, weight_of(publish));
        if self.must_hold(id, &mut spread, ends) {
            if let Some(session) = self.sessions.get_mut(id) {
                session.spread = Some(spread);
            }
            return Step::Paused;
        }
        let frame = spread.frame.take();
        let shared = frame.as_ref().map(|frame| publish.finder(bytes)(frame));
        let names = if let Op::RouteMessage(routed) = op { routed.queues } else { b"" };
        let message = (shared.as_ref().unwrap_or(publish), frame.as_ref());
        let is_done = self.spread(id, &mut spread, ends, (message, names));
        let step = self.step_of(id);
        if step != Step::Done || is_done {
            return step;
        }
        spread.frame = frame;
        if let Some(session) = self.sessions.get_mut(id) {
            session.spread = Some(spread);
        }
        Step::Yielded
    }

    /// Whether the next portion has to wait, because receivers in it are slow.
    fn must_hold(&mut self, id: SessionId, spread: &mut Spread, ends: (usize, usize)) -> bool {
        let Some(client) = self.sessions.client_mut(id) else { return false };
        spread.is_stall_waived |= std::mem::take(&mut client.is_stall_waived);
        if spread.is_stall_waived {
            return false;
        }
        let matched = Arc::clone(&spread.matched);
        let queues_end = ends.1.min(matched.queues.len());
        let plain = &matched.plain[spread.plain_done..ends.0];
        let queues = &matched.queues[spread.queues_done..queues_end];
        self.must_stall(id, spread.account, (plain, &[], queues))
    }

    /// Gives the message to the receivers of the next portion; true if it was the last one.
    fn spread(
        &mut self,
        id: SessionId,
        spread: &mut Spread,
        (plain_end, queues_end): (usize, usize),
        ((publish, frame), names): ((&Publish<'_>, Option<&Bytes>), &[u8]),
    ) -> bool {
        let Some(session) = self.sessions.get(id) else { return true };
        let source = match session.client() {
            Some(client) => Source::Client { session: id, has_echo: client.options.has_echo },
            None => Source::Route { session: id, names },
        };
        let message = Message {
            via: self.hears_of_inboxes(id).then_some(id),
            ..Message::said(spread.account, publish, frame)
        };
        if spread.plain_done < plain_end {
            let plain = &spread.matched.plain[spread.plain_done..plain_end];
            self.deliver_more(plain, &message, &source);
            spread.plain_done = plain_end;
            return false;
        }
        let is_done = if source.is_route() {
            self.spread_to_named(spread, queues_end, (&message, &source), names)
        } else {
            self.spread_to_queues(spread, queues_end, (&message, &source))
        };
        if !is_done {
            self.hand_over_to_loops(&message, &mut spread.picks);
            return false;
        }
        let mut picks = std::mem::take(&mut spread.picks);
        if !source.is_route() {
            self.pick_routes(&spread.matched, &mut picks);
        }
        self.hand_over(&message, picks);
        true
    }

    fn spread_to_queues(
        &mut self,
        spread: &mut Spread,
        end: usize,
        (message, source): (&Message<'_>, &Source<'_>),
    ) -> bool {
        let end = end.min(spread.matched.queues.len());
        let range = spread.queues_done..end;
        self.work += (CHOICE_WORK * range.len()) as u64;
        for queue in &spread.matched.queues[range.clone()] {
            self.choose(queue, message, source, &mut spread.picks);
        }
        if let Some(matched) = Arc::get_mut(&mut spread.matched) {
            // Nobody else needs the names: to let go of them all at the end takes long, too.
            for queue in &mut matched.queues[range] {
                queue.name = Bytes::new();
            }
        }
        spread.queues_done = end;
        end == spread.matched.queues.len()
    }

    /// The same for the queues that a peer named.
    fn spread_to_named(
        &mut self,
        spread: &mut Spread,
        queues_end: usize,
        (message, source): (&Message<'_>, &Source<'_>),
        names: &[u8],
    ) -> bool {
        let matched = Arc::clone(&spread.matched);
        spread.served.resize(matched.queues.len(), false);
        let most = queues_end - spread.queues_done;
        let mut left = words(&names[spread.queues_done.min(names.len())..]);
        for name in left.by_ref().take(most) {
            self.work += CHOICE_WORK as u64;
            let Some(place) = matched.place_of_queue(name) else { continue };
            if !std::mem::replace(&mut spread.served[place], true) {
                self.choose_named(&matched.queues[place], message, source, &mut spread.picks);
            }
        }
        spread.queues_done = names.len() - left.rest().len();
        spread.queues_done == names.len()
    }
}
