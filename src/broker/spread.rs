//! A message for very many receivers, in portions: a session goes on with it in its next turns,
//! and nothing that it says later overtakes it.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::id::{AccountIndex, SessionId};
use crate::base::limits::SESSION_WORK_MIN;
use crate::broker::Broker;
use crate::broker::delivery::{Message, Source, first_part, weight_of};
use crate::broker::read::Step;
use crate::broker::sublist::Matched;
use crate::wire::op::Publish;

/// A message at the front of a session's buffer that some of its receivers have got.
#[derive(Debug)]
pub(super) struct Spread {
    account: AccountIndex,
    /// Its receivers when it came.
    matched: Arc<Matched>,
    /// How many of them have got it.
    done: usize,
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
        let done = first_part(&matched, weight_of(publish)).len();
        Box::new(Self { account, matched, done, frame })
    }
}

impl Broker {
    /// Goes on with the message at the front, which was read from `bytes`, as far as there is work
    /// left for it in this turn.
    pub(super) fn go_on_spreading(
        &mut self,
        id: SessionId,
        mut spread: Box<Spread>,
        publish: &Publish<'_>,
        (bytes, limit): (&[u8], u64),
    ) -> Step {
        let most = limit.saturating_sub(self.work_done()).max(SESSION_WORK_MIN);
        let most = usize::try_from(most).unwrap_or(usize::MAX) / weight_of(publish);
        let end = spread.done.saturating_add(most.max(1)).min(spread.matched.plain.len());
        let frame = spread.frame.take();
        let find = publish.finder(bytes);
        let shared = frame.as_ref().map(|frame| find(frame));
        self.spread(id, &spread, end, shared.as_ref().unwrap_or(publish), frame.as_ref());
        let step = self.step_of(id);
        let is_done = end == spread.matched.plain.len();
        if step != Step::Done || is_done {
            return step;
        }
        (spread.done, spread.frame) = (end, frame);
        if let Some(session) = self.sessions.get_mut(id) {
            session.spread = Some(spread);
        }
        Step::Yielded
    }

    fn spread(
        &mut self,
        id: SessionId,
        spread: &Spread,
        end: usize,
        publish: &Publish<'_>,
        frame: Option<&Bytes>,
    ) {
        let Some(session) = self.sessions.get(id) else { return };
        let source = match session.client() {
            Some(client) => Source::Client { session: id, has_echo: client.options.has_echo },
            None => Source::Route { session: id, queues: &[] },
        };
        let message = Message {
            via: self.hears_of_inboxes(id).then_some(id),
            ..Message::said(spread.account, publish, frame)
        };
        self.deliver_more(&spread.matched.plain[spread.done..end], &message, &source);
    }
}
