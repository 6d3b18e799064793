//! What stanby members tell each other of readers behind a route that are full.
//!
//! The member that a reader is connected to sees its outbox; the member whose engine delivers is
//! told by INFO on the route, with a field of ours that other servers pass over, and only if its
//! own INFO has asked for it. So no client can say such a thing, and a Go peer hears nothing of it.

use bytes::Bytes;

use crate::base::id::SessionId;
use crate::broker::mail::Mail;
use crate::broker::route::{HOME, write_info};
use crate::broker::sublist::Interest;
use crate::broker::{Broker, Effect};
use crate::wire::{InboxRoom, Info};

impl Broker {
    /// Whether the peer of a route wants to be told.
    pub(super) fn wants_rooms(&self, id: SessionId) -> bool {
        let route = self.sessions.get(id).and_then(|session| session.route.as_ref());
        route.and_then(|route| route.info.as_ref()).is_some_and(|info| info.stanby_rooms)
    }

    /// A message that came by `route` went to a client that has no room for more. It is said
    /// again when much more comes: what the peer knew may be gone with a subscription.
    #[cold]
    pub(super) fn tell_peer_full(&mut self, route: SessionId, interest: &Interest) {
        let again_after = self.settings.delivery_high() as u64;
        let Some(session) = self.sessions.get_mut(interest.session) else { return };
        let end = session.outbox.end_position();
        let key = (route, interest.subject.clone());
        let told_at = session.about.full_for.get(&key).copied();
        if told_at.is_some_and(|told_at| end <= told_at + again_after) {
            return;
        }
        session.about.full_for.insert(key, end);
        self.tell_peer(route, interest.subject.clone(), false);
    }

    /// A client has room again, or is gone.
    pub(super) fn tell_peers_room(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        for ((route, inbox), _) in std::mem::take(&mut session.about.full_for) {
            self.tell_peer(route, inbox, true);
        }
    }

    pub(super) fn tell_peer(&mut self, route: SessionId, inbox: Bytes, has_room: bool) {
        if self.home != HOME {
            let mail = Mail::TellPeer(route, inbox, has_room);
            self.effects.push_back(Effect::Mail { to: HOME, mail });
            return;
        }
        let server_id = self.settings.server_id.clone();
        let Some(session) = self.sessions.get_mut(route).filter(|found| !found.is_ending()) else {
            return;
        };
        let Ok(inbox) = String::from_utf8(inbox.to_vec()) else { return };
        let stanby_room = Some(InboxRoom { inbox, has_room });
        write_info(session, &Info { server_id, stanby_room, ..Info::default() });
        self.mark_dirty(route);
    }

    /// The peer of `route` has told of a reader there.
    pub(super) fn on_peer_room(&mut self, route: SessionId, inbox: &Bytes, has_room: bool) {
        self.mail_all(&Mail::PeerRoom(route, inbox.clone(), has_room));
        self.on_inbox_room(route, inbox, has_room);
    }

    pub(super) fn on_inbox_room(&mut self, route: SessionId, inbox: &Bytes, has_room: bool) {
        for key in self.rooms.set_behind(route, inbox, has_room) {
            self.effects.push_back(Effect::Room { key, has_room });
        }
    }
}
