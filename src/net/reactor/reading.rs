//! How bytes come in, and what becomes of them

use crate::base::limits::{READ_TURN_BYTES_MAX, TURN_WORK_MAX};
use crate::broker::{ConnectionKind, Flow, Input};
use crate::net::connection::{End, Turn};
use crate::net::driver::Driver;
use crate::net::mailbox::Sender;
use crate::net::reactor::{CLOSED, Reactor, TLS_FAILURE, Timer};
use crate::net::tls::{Layer, TlsError};
use crate::net::token::Place;

impl<D: Driver> Reactor<D> {
    /// Takes bytes from the sockets that have some, each and all together within a budget.
    pub(super) fn read(&mut self) {
        self.is_held = self.peers.iter().any(Sender::is_full);
        if self.is_held {
            return;
        }
        let mut budget_bytes = READ_TURN_BYTES_MAX;
        if let Some(place) = self.greeting.pop_front() {
            self.read_one(place, &mut budget_bytes);
        }
        for _ in 0..self.ready.len() {
            if budget_bytes == 0 {
                return;
            }
            let Some(place) = self.ready.pop_front() else {
                return;
            };
            let Some(connection) = self.table.get_mut(place) else {
                continue;
            };
            if connection.notes.is_arrived {
                // What was read before has still to be handled.
                self.ready.push_back(place);
            } else if connection.is_handshaking() {
                self.greeting.push_back(place);
            } else {
                self.read_one(place, &mut budget_bytes);
            }
        }
    }

    fn read_one(&mut self, place: Place, budget_bytes: &mut usize) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        connection.notes.is_ready = false;
        if !connection.can_read() {
            return;
        }
        let len = connection.input.len();
        match connection.read_turn(&mut self.pool) {
            Turn::Drained => (),
            Turn::BudgetSpent => {
                connection.notes.is_ready = true;
                self.ready.push_back(place);
            }
            Turn::Ended(end) => connection.ended = Some(end),
        }
        *budget_bytes = budget_bytes.saturating_sub(connection.input.len() - len);
        self.mark_arrived(place);
    }

    /// Each connection that has bytes gets its share of the turn, as long as there is something
    /// left of it; who is not through, or had none, is on the list for the next one.
    pub(super) fn handle_arrived(&mut self) {
        // What was read makes mail too.
        if self.is_held {
            return;
        }
        let count = self.arrived.len();
        self.broker.share_turn(count);
        let limit = self.broker.work_done() + TURN_WORK_MAX;
        for _ in 0..count {
            let Some(place) = self.arrived.pop_front() else {
                return;
            };
            self.handle_input(place);
            self.drain_effects();
            if limit <= self.broker.work_done() {
                return;
            }
        }
    }

    /// Gives the session what its socket brought.
    fn handle_input(&mut self, place: Place) {
        let session = place.session(self.home);
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        connection.notes.is_arrived = false;
        if let Some(peer) = connection.poll_established() {
            self.timers.cancel(&Timer::Handshake(place));
            self.broker.handle(Input::TlsEstablished { session, peer }, self.now);
            self.mark_unsent(place);
        }
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        if connection.has_sealed() {
            self.mark_unsent(place);
        }
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        let is_heard = connection.notes.is_open && connection.notes.closing.is_none();
        let flow = if is_heard && !connection.input.is_empty() {
            self.broker.read(session, &mut connection.input, self.now)
        } else {
            Flow::NeedMore
        };
        match flow {
            Flow::NeedMore => {
                connection.shrink_input();
                if let Some(end) = connection.ended.take() {
                    self.on_ended(place, &end);
                }
            }
            Flow::Paused => {
                connection.notes.is_paused = true;
            }
            Flow::Yielded => self.mark_arrived(place),
            Flow::StartTls => self.start_tls(place),
            Flow::Close => self.begin_close(place, CLOSED),
        }
    }

    /// The session asked for TLS; what is left of its input begins the handshake. The broker
    /// minds how long that takes.
    fn start_tls(&mut self, place: Place) {
        let session = self.session(place);
        let is_greeted = self.broker.outbox(session).is_none_or(|outbox| outbox.is_empty());
        let Some(connection) = self.table.get_mut(place) else { return };
        let layer = match &connection.kind {
            ConnectionKind::Upstream { tls_name, .. } => match &self.rules.upstream_tls {
                Some(dialling) => Layer::dial(dialling, tls_name),
                None => return self.finish_handshake(place, TlsError::NoRoots.to_string()),
            },
            ConnectionKind::Client
            | ConnectionKind::RouteAccepted
            | ConnectionKind::RouteSolicited { .. } => match &self.rules.client_tls {
                Some(serving) => Layer::serve(serving),
                None => return self.finish(place, TLS_FAILURE),
            },
        };
        match layer {
            // Who begins before it read INFO would find the rest of INFO inside its handshake.
            Ok(layer) if is_greeted => {
                connection.wrap(layer);
                self.mark_ready(place);
                self.mark_unsent(place);
            }
            Ok(_) => self.finish(place, TLS_FAILURE),
            Err(broken) => self.finish_handshake(place, broken.to_string()),
        }
    }

    fn on_ended(&mut self, place: Place, end: &End) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        // A client that has said nothing yet where TLS is required is in its handshake too.
        if connection.is_handshaking() || self.broker.awaits_handshake(place.session(self.home)) {
            let why = connection.handshake_end(end);
            self.finish_handshake(place, why);
            return;
        }
        match end {
            End::Closed => self.begin_close(place, CLOSED),
            // A server's own words are all that tells why.
            End::Failed(_) | End::Tls(_) if connection.is_upstream() => {
                let why = connection.handshake_end(end);
                self.finish(place, &why);
            }
            End::Failed(_) | End::Tls(_) => self.finish(place, "Read Error"),
        }
    }

    /// A handshake came to nothing: the broker logs it with the connection's number.
    pub(super) fn finish_handshake(&mut self, place: Place, reason: String) {
        let session = self.session(place);
        self.broker.handle(Input::TlsFailed { session, reason }, self.now);
        self.finish(place, TLS_FAILURE);
    }
}
