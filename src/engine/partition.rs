//! one of several servers of a cluster ID: requests of clients that it does not know yet, and of
//! channels that it does not have
//!
//! Every server registers every client, and the client goes on when the first of them has answered.
//! So what it asks next may reach another server before its connect request has done its work there
//! (spec protocol, 18.3).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::base::id::{ClientId, ConnectionId};
use crate::base::limits::{ENGINE_REQUESTS_BYTES_MAX, ENGINE_UNCOMMITTED_BYTES_MAX, REQUEST_BYTES};
use crate::base::subject;
use crate::base::time::Now;
use crate::engine::effect::Level;
use crate::engine::input::PeerMessage;
use crate::engine::publication::Publication;
use crate::engine::refusal::Refusal;
use crate::engine::reply::Reply;
use crate::engine::request::Request;
use crate::engine::{Engine, Timer};
use crate::proto::pb;

/// How long a client of whom nothing is known may take to be registered.
const CLIENT_WITHIN: Duration = Duration::from_secs(1);

/// Requests of clients that join which may wait: what is let go at once is done in one turn.
const JOINING_MAX: usize = 64 * 1024;

/// Requests that may wait for clients of whom nothing is known. Publishes among them hold the
/// credit of those of other clients, and anybody can make up a client. Whose record is being
/// written is no stranger: its requests are bounded as all are, and by [`JOINING_MAX`].
const WAITING_MAX: usize = 16 * 1024;
/// Other requests that may wait for such clients: what is held for strangers must come nowhere near
/// the bound beyond which nothing new is delivered.
const WAITING_REQUESTS_MAX: usize = ENGINE_REQUESTS_BYTES_MAX / 16 / REQUEST_BYTES;
/// Bytes of publishes that may wait for such clients.
const WAITING_BYTES_MAX: usize = ENGINE_UNCOMMITTED_BYTES_MAX / 4;

/// Clients that did not come are refused at once the next time; so many are remembered.
const MISSING_MAX: usize = 256;

type Who = (ClientId, ConnectionId);

/// A request whose client is not registered.
#[derive(Debug)]
struct Early {
    who: Who,
    request: Request,
    reply: Reply,
}

/// The requests that wait for their clients.
#[derive(Debug, Default)]
pub(super) struct EarlyRequests {
    by_number: BTreeMap<u64, Early>,
    by_client: BTreeMap<ClientId, VecDeque<u64>>,
    bytes: usize,
    /// Those that are no publishes.
    request_count: usize,
    last_number: u64,
    /// Clients whose connect requests are examined, or whose records are being written.
    joining: BTreeSet<ClientId>,
    missing: BTreeSet<Who>,
    /// In the order in which they did not come.
    missing_order: VecDeque<Who>,
}

impl EarlyRequests {
    /// Requests that are no publishes: those hold the credit of publishes.
    pub(super) fn request_count(&self) -> usize {
        self.request_count
    }

    fn set_joining(&mut self, client: &ClientId, is_joining: bool) {
        if is_joining {
            self.joining.insert(client.detached());
        } else {
            self.joining.remove(client);
        }
    }

    fn remember_missing(&mut self, who: Who) {
        if self.missing.insert(who.clone()) {
            self.missing_order.push_back(who);
        }
        while MISSING_MAX < self.missing_order.len() {
            let oldest = self.missing_order.pop_front();
            if let Some(who) = oldest {
                self.missing.remove(&who);
            }
        }
    }

    fn forget_missing(&mut self, client: &ClientId) {
        let is_its = |who: &Who| who.0 == *client;
        self.missing.retain(|who| !is_its(who));
        self.missing_order.retain(|who| !is_its(who));
    }

    fn push(&mut self, early: Early) -> u64 {
        self.last_number += 1;
        self.bytes += size_of(&early.request);
        self.request_count += usize::from(!is_publish(&early.request));
        self.by_client.entry(early.who.0.clone()).or_default().push_back(self.last_number);
        self.by_number.insert(self.last_number, early);
        self.last_number
    }

    /// All of them end here; where their answers would go.
    pub(super) fn drain(&mut self) -> Vec<Reply> {
        self.by_client.clear();
        (self.bytes, self.request_count) = (0, 0);
        std::mem::take(&mut self.by_number).into_values().map(|early| early.reply).collect()
    }

    fn take(&mut self, number: u64) -> Option<Early> {
        let early = self.by_number.remove(&number)?;
        self.bytes -= size_of(&early.request);
        self.request_count -= usize::from(!is_publish(&early.request));
        if let Some(numbers) = self.by_client.get_mut(&early.who.0) {
            // They ascend, and the oldest goes first.
            if let Ok(place) = numbers.binary_search(&number) {
                numbers.remove(place);
            }
            if numbers.is_empty() {
                self.by_client.remove(&early.who.0);
            }
        }
        Some(early)
    }
}

fn is_publish(request: &Request) -> bool {
    matches!(request, Request::Publish(_))
}

fn size_of(request: &Request) -> usize {
    if let Request::Publish(publication) = request { publication.size() } else { 0 }
}

impl Engine {
    /// Whether this server has the channel of that name, be it there or not.
    pub(super) fn has_in_partition(&self, channel: &[u8]) -> bool {
        self.settings.partition.as_ref().is_none_or(|partition| partition.has(channel))
    }

    /// Keeps a publish whose client may be about to be registered. Gives it back otherwise.
    #[allow(clippy::result_large_err, reason = "it is moved on at once")]
    pub(super) fn await_publisher(
        &mut self,
        publication: Publication,
        reply: Reply,
        now: Now,
    ) -> Result<(), (Publication, Reply)> {
        let is_legal = !publication.guid().is_empty()
            && subject::is_channel_name(publication.subject())
            && self.has_in_partition(publication.subject());
        let who = (
            ClientId::from(publication.client_id()),
            ConnectionId::from(publication.connection_id()),
        );
        let is_valid = self.clients.is_valid(publication.client_id(), publication.connection_id());
        if !is_legal || is_valid || !self.may_come(&who, publication.size()) {
            return Err((publication, reply));
        }
        self.await_client(who, Request::Publish(publication), reply, now);
        Ok(())
    }

    /// Keeps a subscribe request whose client may be about to be registered. Gives its reply back
    /// if it is to be refused.
    pub(super) fn await_subscriber(
        &mut self,
        request: &pb::SubscriptionRequest,
        reply: Reply,
        now: Now,
    ) -> Result<(), Reply> {
        let who = (ClientId::from(&request.client_id[..]), ConnectionId::default());
        if !self.may_come(&who, 0) {
            return Err(reply);
        }
        self.await_client(who, Request::Subscribe(Box::new(request.clone())), reply, now);
        Ok(())
    }

    /// Whether a connect request of this client is under way. It may replace another life of it,
    /// and what it asks next is of the new one.
    pub(super) fn is_joining(&self, client: &[u8]) -> bool {
        self.settings.partition.is_some() && self.early.joining.contains(client)
    }

    /// A connect request is under way, or was refused.
    pub(super) fn on_client_joining(&mut self, client: &ClientId, is_joining: bool, now: Now) {
        self.early.set_joining(client, is_joining);
        if !is_joining && self.clients.known.contains_key(client) {
            self.on_client_arrived(client, now);
        }
    }

    /// Every engine may have requests of a client that joins.
    pub(super) fn tell_joining(&mut self, client: &ClientId, is_joining: bool, now: Now) {
        if self.settings.partition.is_none() {
            return;
        }
        self.on_client_joining(client, is_joining, now);
        for peer in self.peers() {
            self.tell(peer, PeerMessage::ClientJoining(client.clone(), is_joining));
        }
    }

    fn may_come(&self, who: &Who, bytes: usize) -> bool {
        let early = &self.early;
        // What is no publish comes without bytes.
        let has_room = early.by_number.len() < WAITING_MAX
            && (bytes != 0 || early.request_count < WAITING_REQUESTS_MAX)
            && early.bytes + bytes <= WAITING_BYTES_MAX;
        self.settings.partition.is_some()
            && if early.joining.contains(&who.0) {
                early.by_number.len() < JOINING_MAX
            } else {
                has_room && !early.missing.contains(who)
            }
    }

    fn await_client(&mut self, who: Who, request: Request, reply: Reply, now: Now) {
        let number = self.early.push(Early { who, request, reply });
        self.timers.arm(Timer::Arrival(number), now.at + CLIENT_WITHIN);
    }

    /// A client is registered: what came too early is taken in its order.
    pub(super) fn on_client_arrived(&mut self, client: &ClientId, now: Now) {
        if self.settings.partition.is_none() {
            return;
        }
        self.early.set_joining(client, false);
        self.early.forget_missing(client);
        for number in self.early.by_client.get(client).cloned().unwrap_or_default() {
            let connection = self.early.by_number.get(&number).map(|early| early.who.1.clone());
            let connection = connection.unwrap_or_default();
            if !self.clients.is_valid(client.as_bytes(), connection.as_bytes()) {
                continue;
            }
            self.timers.cancel(&Timer::Arrival(number));
            let Some(Early { request, reply, .. }) = self.early.take(number) else { continue };
            if let Request::Publish(publication) = request {
                self.publish_valid(publication, reply, true, now);
            } else {
                self.on_request(request, reply, now);
            }
        }
    }

    /// A client has not come.
    pub(super) fn on_client_missing(&mut self, number: u64, now: Now) {
        let who = self.early.by_number.get(&number).map(|early| &early.who);
        if who.is_some_and(|(client, _)| self.early.joining.contains(client)) {
            self.timers.arm(Timer::Arrival(number), now.at + CLIENT_WITHIN);
            return;
        }
        let Some(Early { who, request, reply }) = self.early.take(number) else { return };
        self.early.remember_missing(who);
        if let Request::Publish(publication) = request {
            self.refuse_stranger(&publication, &reply);
        } else if let Request::Subscribe(request) = request {
            self.refuse_early_subscribe(&request, &reply);
        }
    }

    /// Answers a subscribe request of a client that is not there.
    pub(super) fn refuse_early_subscribe(
        &mut self,
        request: &pb::SubscriptionRequest,
        reply: &Reply,
    ) {
        self.log(Level::Error, || {
            format!(
                "[Client:{}] Rejecting subscription on {}: connection not created yet",
                String::from_utf8_lossy(&request.client_id),
                crate::engine::refusal::quoted(&request.subject),
            )
        });
        self.respond_refusal(reply, &Refusal::InvalidSubscribe);
    }
}
