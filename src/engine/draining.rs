//! how an engine comes to its end: what it has taken is finished, or given back
//!
//! What comes in is held up before (`server/engine_driver.rs`), so nothing new begins. A request
//! that several engines work on is finished at the one where it began, which then tells the others
//! that it needs them no longer; an engine has done all that it can be asked for when all others
//! have said so. What has changed nothing yet and would wait for a client or for the store is given
//! back: whoever keeps it gives it to a successor.

use crate::engine::Engine;
use crate::engine::effect::Effect;
use crate::engine::input::PeerMessage;

impl Engine {
    /// Nothing more comes in.
    pub(super) fn begin_draining(&mut self) {
        self.is_draining = true;
        self.answer_all();
        self.give_back_askers();
        self.give_back_unjudged();
        for (_, (_, _, reply)) in self.subscriptions.finding.drain() {
            reply.give_back();
        }
        for reply in self.early.drain() {
            reply.give_back();
        }
    }

    /// Another engine has finished what it had begun.
    pub(super) fn on_peer_finished(&mut self) {
        self.finished_peers += 1;
    }

    /// Looks how far the end has come.
    pub(super) fn look_at_end(&mut self) {
        if !self.is_draining || self.is_drained || !self.commits.is_idle() {
            return;
        }
        if !self.is_finished && self.has_finished() {
            self.is_finished = true;
            for peer in self.peers() {
                self.tell(peer, PeerMessage::Finished);
            }
        }
        if self.is_finished && self.finished_peers == self.peers().count() {
            self.is_drained = true;
            self.effects.push_back(Effect::Drained);
        }
    }

    /// Whether no request that began here is under way.
    fn has_finished(&self) -> bool {
        self.channels.waiting_count == 0 && self.clients.are_settled()
    }
}
