//! what waits for the store beside messages: how much it may be
//!
//! A request that changes something is held until that is committed. When that is too much, the
//! connections of this process that make requests are not read (the driver sees to that), nothing
//! new is delivered, because that has to be written too, and what comes by routes all the same is
//! refused. Acks are always taken: there are no more than what was delivered.

use crate::base::limits::{ENGINE_REQUESTS_BYTES_MAX, REQUEST_BYTES};
use crate::base::time::Now;
use crate::engine::Engine;
use crate::engine::refusal::Refusal;
use crate::engine::reply::Reply;
use crate::engine::request::Request;

impl Engine {
    /// Bytes of requests, and of what they and deliveries change, that wait for the store.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let waiting_count = self.channels.waiting_count
            + self.clients.waiting_count
            + self.subscriptions.finding.len()
            + self.early.request_count();
        self.commits.held_bytes() + REQUEST_BYTES * waiting_count
    }

    /// Lets deliveries wait for the store, or go on. They do so long before requests, so that these
    /// get through where a replay is faster than the store.
    pub(super) fn look_at_held(&mut self) {
        let is_crowded = ENGINE_REQUESTS_BYTES_MAX / 4 < self.held_bytes();
        self.reads.set_crowded(is_crowded);
    }

    /// Takes a request, unless far too many wait.
    pub(super) fn take_request(&mut self, request: Request, reply: Reply, now: Now) {
        if self.held_bytes() <= 2 * ENGINE_REQUESTS_BYTES_MAX {
            return self.on_request(request, reply, now);
        }
        let (reply_to, refusal) = (&reply, Refusal::TooManyRequests);
        match request {
            Request::Connect(_) => self.refuse_connect(reply_to, &refusal),
            Request::Subscribe(_) | Request::Unsubscribe(_) | Request::SubscriptionClose(_) => {
                self.respond_refusal(reply_to, &refusal);
            }
            Request::Close(_) => self.refuse_close(reply_to, &refusal),
            Request::Publish(_)
            | Request::Ping(_)
            | Request::Undecodable { .. }
            | Request::Ignored => self.on_request(request, reply, now),
        }
    }
}
