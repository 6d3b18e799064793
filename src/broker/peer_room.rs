//! What stanby servers tell each other of the inboxes behind a route.
//!
//! The server of a reader sees its outbox; the one whose engine delivers holds back. So the latter
//! says of an inbox that it will (then its messages do not count for `max_pending` at the other),
//! and the former when the reader is full and when there is room. They do so by INFO on the route,
//! with fields of ours that other servers pass over, and only if the peer's own INFO asks for it:
//! no client can say such a thing, and a Go peer hears nothing of it.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::base::id::SessionId;
use crate::broker::mail::{InboxName, Mail};
use crate::broker::route::{HOME, write_info};
use crate::broker::sublist::Interest;
use crate::broker::{Broker, Effect};
use crate::wire::{InboxNews, InboxState, Info};

impl Broker {
    /// Whether the peer of a route wants to be told.
    pub(super) fn hears_of_inboxes(&self, id: SessionId) -> bool {
        let info = self.sessions.route(id).and_then(|route| route.info.as_ref());
        info.is_some_and(|info| info.stanby_inboxes)
    }

    /// A message that came by `route` went to a client that has no room for more. It is said
    /// again when much more comes: what the peer knew may be gone with a subscription.
    #[cold]
    pub(super) fn tell_peer_full(&mut self, route: SessionId, interest: &Interest) {
        let again_after = self.settings.delivery_high() as u64;
        let Some(session) = self.sessions.get_mut(interest.session) else { return };
        let end = session.outbox.end_position();
        let Some(client) = session.client_mut() else { return };
        let key = (route, interest.inbox());
        let told_at = client.full_for.get(&key).copied();
        if told_at.is_some_and(|told_at| end <= told_at + again_after) {
            return;
        }
        client.full_for.insert(key, end);
        self.tell_peer(route, &interest.inbox(), InboxState::Full);
    }

    /// A client has room again, or is gone.
    pub(super) fn tell_peers_room(&mut self, id: SessionId) {
        let Some(client) = self.sessions.client_mut(id) else { return };
        for ((route, inbox), _) in std::mem::take(&mut client.full_for) {
            self.tell_peer(route, &inbox, InboxState::Free);
        }
    }

    pub(super) fn tell_peer(&mut self, route: SessionId, inbox: &InboxName, state: InboxState) {
        if self.home != HOME {
            let mail = Mail::TellPeer(route, inbox.clone(), state);
            self.effects.push_back(Effect::Mail { to: HOME, mail });
            return;
        }
        if !self.hears_of_inboxes(route) {
            return;
        }
        let server_id = self.settings.server_id.clone();
        let (account, subject) = inbox;
        let account = self.accounts.name(*account).to_owned();
        let Some(session) = self.sessions.get_mut(route).filter(|found| !found.is_ending()) else {
            return;
        };
        let Ok(subject) = String::from_utf8(subject.to_vec()) else { return };
        let stanby_inbox = Some(InboxNews { account, subject, state });
        write_info(session, &Info { server_id, stanby_inbox, ..Info::default() });
        self.mark_dirty(route);
    }

    /// The peer of `route` has told something.
    pub(super) fn on_inbox_news(&mut self, route: SessionId, news: &InboxNews) {
        let Some(account) = self.accounts.find(news.account.as_bytes()) else { return };
        let inbox = (account, Bytes::copy_from_slice(news.subject.as_bytes()));
        if news.state == InboxState::Paced {
            // All trees share these; the messages come after this by way of this loop.
            for interest in self.accounts[account].literal_interests(&inbox.1) {
                interest.is_paced_by_peer.store(true, Ordering::Relaxed);
            }
            return;
        }
        let has_room = news.state == InboxState::Free;
        self.mail_all(&Mail::PeerRoom(route, inbox.clone(), has_room));
        self.on_inbox_room(route, &inbox, has_room);
    }

    pub(super) fn on_inbox_room(&mut self, route: SessionId, inbox: &InboxName, has_room: bool) {
        for key in self.engines.rooms.set_behind(route, inbox, has_room) {
            self.effects.push_back(Effect::Room { key, has_room });
        }
    }
}
