//! What brokers of one process tell each other.
//!
//! Mail of one sender is handled in the order in which it was sent. A reactor that has read
//! bytes from a socket takes in the mail that lies there before it lets its broker handle them:
//! so whoever was told that a SUB is in force finds it in force on every loop.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::base::epoch::Epoch;
use crate::base::errand::Finished;
use crate::base::id::{AccountIndex, LoopIndex, SessionId, Subject};
use crate::base::planted::{self, Bug};
use crate::broker::delivery::{Message, Part, Picks, Source};
use crate::broker::former::Interests;
use crate::broker::ledger::Parcel;
use crate::broker::outbox::Gauge;
use crate::broker::serving::View;
use crate::broker::sublist::Interest;
use crate::broker::upstream::Said;
use crate::broker::{Broker, Effect, EngineInterest};
use crate::wire::InboxState;
use crate::wire::op::Mark;

/// What brokers of one process tell each other.
#[derive(Debug, Clone)]
pub enum Mail {
    /// A session of the sender listens.
    Interest(Arc<Interest>),
    /// Sessions of the sender no longer listen.
    InterestsGone(Vec<Arc<Interest>>),
    /// An interest of a route of the sender stands for another number of members.
    Weight(Arc<Interest>),
    /// The sender's engine listens.
    Listen(Subject, EngineInterest),
    /// The sender's engine no longer listens.
    Unlisten(Subject, EngineInterest),
    /// The sender's engine is gone: what it published and is not yet on a socket stays here.
    EngineGone,
    /// A session of the sender whose outbox was full has room again.
    Room(SessionId),
    /// To the owner of the routes: tell the peer of a route what has become of an inbox.
    TellPeer(SessionId, InboxName, InboxState),
    /// The peer of a route has told whether an inbox has room.
    PeerRoom(SessionId, InboxName, bool),
    /// To the owner of the connection to the external server: what an engine says.
    Upstream(Box<Said>),
    /// Whether the external server takes what engines say.
    UpstreamReachable(bool),
    /// To that owner: tell the sender when all that it listens to is in force.
    Flush(LoopIndex, u64),
    /// It is.
    Flushed(u64),
    /// Nobody listens to what the receiver's engine has asked with this reply.
    NoResponders(Subject),
    /// An engine of another member listens to a subject (true), or no longer.
    Elsewhere(Bytes, EngineInterest, bool),
    /// For engines of another member nothing is kept any more on these subjects.
    Forgotten(Vec<(Bytes, EngineInterest)>),
    /// To the owner of the routes: the sender's engine has listened to these, and is gone.
    Retiring(Interests),
    /// An engine has listened to these and is gone; and the number of those for whom it is kept.
    Retired(Interests, Option<u64>),
    /// Whether a former active may have something to say before an engine here delivers.
    HearingOut(bool),
    /// To the owner of the routes: the engines of this process end.
    EnginesEnded,
    /// To the owner of the routes: a loop has said all that it keeps to who serves as it sees it.
    Told(LoopIndex, View),
    /// Whether the member behind a route has not said all that it keeps for the engines here.
    Untold(SessionId, bool),
    /// Whose engines get what clients send, from now on.
    Serving(View),
    /// To the owner of the routes: an input for the engines of a peer.
    Parcel(Box<Parcel>),
    /// The engines of an epoch have done something of a ledger.
    Mark(Epoch, u64, Mark),
    /// The sender's engine has done these.
    Done(Vec<Finished>),
    /// A message, and who of the receiver's sessions gets it.
    Deliver(Box<Delivery>),
    /// What `connect_urls` of INFO are from now on.
    ConnectUrls(Arc<Vec<String>>),
    /// What the cluster is called from now on.
    ClusterName(Arc<String>),
}

/// The subject of an inbox, in its account.
pub type InboxName = (AccountIndex, Bytes);

/// A message, and who gets it.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(super) account: AccountIndex,
    pub(super) subject: Bytes,
    pub(super) reply: Option<Bytes>,
    pub(super) header_len: usize,
    pub(super) head: Bytes,
    pub(super) tail: Bytes,
    pub(super) is_leased: bool,
    pub(super) is_paced: bool,
    pub(super) via: Option<SessionId>,
    pub(super) to: PickList,
}

/// Who of a loop gets a message: mostly one.
pub(super) type PickList = SmallVec<[Pick; 1]>;

/// Who gets a message.
#[derive(Clone, Debug)]
pub(super) enum Pick {
    /// A client's interest.
    Client(Arc<Interest>),
    /// A route.
    Route(RoutePick),
}

/// A route that gets a message, once, for plain interests there and for these queues.
#[derive(Clone, Debug)]
pub(super) struct RoutePick {
    pub session: SessionId,
    /// Their names, with a blank behind each.
    pub queues: Vec<u8>,
    pub gauge: Arc<Gauge>,
    /// Whether one of the interests has no wildcard.
    pub is_literal: bool,
}

impl Pick {
    fn session(&self) -> SessionId {
        match self {
            Self::Client(interest) => interest.session,
            Self::Route(route) => route.session,
        }
    }

    /// How much waits for whoever gets the message.
    pub(super) fn gauge(&self) -> &Gauge {
        match self {
            Self::Client(interest) => &interest.gauge,
            Self::Route(route) => &route.gauge,
        }
    }
}

impl Delivery {
    fn message(&self) -> Message<'_> {
        Message {
            account: self.account,
            subject: &self.subject,
            reply: self.reply.as_deref(),
            header_len: self.header_len,
            parts: [Part::shared(&self.head), Part::shared(&self.tail)],
            is_leased: self.is_leased,
            is_paced: self.is_paced,
            via: self.via,
        }
    }
}

impl Mail {
    /// What it is to do, in receivers of a message; 0 for a message that has one.
    #[must_use]
    pub fn work(&self) -> usize {
        match self {
            Self::Interest(interest) => interest.work(),
            Self::InterestsGone(interests) => interests.iter().map(|gone| gone.work()).sum(),
            Self::Deliver(delivery) => {
                delivery.to.len().saturating_sub(1) * delivery.message().weight()
            }
            Self::Forgotten(batch) => batch.len(),
            Self::Retiring(batch) => batch.len(),
            Self::Retired(batch, _) => 2 * batch.len(),
            Self::Weight(_)
            | Self::Listen(..)
            | Self::Unlisten(..)
            | Self::EngineGone
            | Self::Room(_)
            | Self::TellPeer(..)
            | Self::PeerRoom(..)
            | Self::Upstream(_)
            | Self::UpstreamReachable(_)
            | Self::Flush(..)
            | Self::Flushed(_)
            | Self::Elsewhere(..)
            | Self::HearingOut(_)
            | Self::EnginesEnded
            | Self::Told(..)
            | Self::Untold(..)
            | Self::Serving(_)
            | Self::Parcel(_)
            | Self::Mark(..)
            | Self::Done(_)
            | Self::NoResponders(_)
            | Self::ConnectUrls(_)
            | Self::ClusterName(_) => 0,
        }
    }
}

impl Broker {
    /// Something from the broker of another loop.
    pub(super) fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Interest(interest)
                if planted::is(Bug::InterestLost) && interest.subject.len().is_multiple_of(4) => {}
            Mail::Interest(interest) => self.add_to_tree(interest),
            Mail::InterestsGone(interests) => self.remove_from_tree(&interests),
            Mail::Weight(interest) => self.accounts[interest.account].reweigh(&interest),
            Mail::Listen(subject, interest) => self.on_engine_listens(&subject, interest),
            Mail::Unlisten(subject, interest) => self.on_engine_unlistens(&subject, interest),
            Mail::EngineGone => self.purge_leased(),
            Mail::Room(session) => self.on_room(session),
            Mail::TellPeer(route, inbox, state) => self.tell_peer(route, &inbox, state),
            Mail::PeerRoom(route, inbox, has_room) => {
                self.on_inbox_room(route, &inbox, has_room);
            }
            Mail::Upstream(said) => self.on_said(&said),
            Mail::UpstreamReachable(is_reachable) => self.on_upstream_reachable(is_reachable),
            Mail::Flush(from, token) => self.flush_upstream(from, token),
            Mail::Flushed(token) => self.effects.push_back(Effect::Flushed { token }),
            Mail::NoResponders(reply) => self.effects.push_back(Effect::NoResponders { reply }),
            Mail::Elsewhere(subject, interest, is_listening) => {
                self.on_elsewhere(&subject, interest, is_listening);
            }
            Mail::Forgotten(batch) => self.on_forgotten(&batch),
            Mail::Retiring(batch) => self.on_retiring(batch),
            Mail::Retired(batch, heir) => self.on_retired(&batch, heir),
            Mail::HearingOut(is_so) => self.on_hearing_out(is_so),
            Mail::EnginesEnded => self.end_own_engines(),
            Mail::Told(home, view) => self.on_loop_told(home, view),
            Mail::Untold(route, is_so) => self.on_untold(route, is_so),
            Mail::Serving(view) => self.on_view(view),
            Mail::Parcel(parcel) => self.write_parcel(&parcel),
            Mail::Mark(epoch, ledger, mark) => self.on_mark(epoch, ledger, mark),
            Mail::Done(finished) => self.on_done(finished),
            Mail::Deliver(delivery) => self.on_delivery(&delivery),
            Mail::ConnectUrls(urls) => self.on_connect_urls(urls),
            Mail::ClusterName(name) => self.on_cluster_name(&name),
        }
    }

    /// Sends the same to all other loops.
    pub(super) fn mail_all(&mut self, mail: &Mail) {
        for to in (0..self.settings.loops).map(LoopIndex).filter(|to| *to != self.home) {
            self.effects.push_back(Effect::Mail { to, mail: mail.clone() });
        }
    }

    fn on_delivery(&mut self, delivery: &Delivery) {
        let message = delivery.message();
        for pick in &delivery.to {
            if delivery.is_paced {
                pick.gauge().on_arrived(message.len());
            }
            match pick {
                Pick::Client(interest) => {
                    if !self.give(interest, &message) && interest.queue.is_some() {
                        // It left while the message was on its way: another member gets it.
                        self.deliver_to_queue_of(interest, &message);
                    }
                }
                Pick::Route(route) => {
                    self.give_route(route.session, (&route.queues, route.is_literal), &message);
                }
            }
            if delivery.is_paced {
                self.on_less_pending(pick.session());
            }
        }
    }

    fn deliver_to_queue_of(&mut self, gone: &Interest, message: &Message<'_>) {
        let tree = &mut self.accounts[message.account];
        let Some(name) = &gone.queue else { return };
        let queue = tree.queue_of(message.subject, name);
        let mut picks = Picks::default();
        self.choose(&queue, message, &Source::Engine, &mut picks);
        self.hand_over(message, picks);
    }
}
