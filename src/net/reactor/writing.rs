//! How bytes leave, and how connections end

use std::io;
use std::mem;
use std::time::Duration;

use crate::base::id::LoopIndex;
use crate::broker::{ConnectionKind, Credit, Input};
use crate::net::connection::Wrote;
use crate::net::driver::Driver;
use crate::net::reactor::{Reactor, TLS_FAILURE, Timer};
use crate::net::token::Place;

/// How long a connection that is being closed may take for what waits (spec core NATS, 1.2).
const CLOSE_FLUSH_MAX: Duration = Duration::from_millis(100);

impl<D: Driver> Reactor<D> {
    /// One write for each connection that has something to say.
    pub(super) fn write(&mut self) {
        if !self.leaseless.is_empty() && self.lease.is_valid(self.now.at) {
            self.retry_leaseless();
        }
        let mut unsent = mem::take(&mut self.unsent);
        for place in unsent.drain(..) {
            self.write_one(place);
        }
        // What came meanwhile waits for the next turn.
        if self.unsent.is_empty() {
            self.unsent = unsent;
        }
        self.drain_effects();
    }

    pub(super) fn retry_leaseless(&mut self) {
        for place in mem::take(&mut self.leaseless) {
            if let Some(connection) = self.table.get_mut(place) {
                connection.notes.awaits_lease = false;
                self.mark_unsent(place);
            }
        }
    }

    fn write_one(&mut self, place: Place) {
        let session = self.session(place);
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        connection.notes.is_unsent = false;
        if !connection.can_write() {
            return;
        }
        let outbox = self.broker.outbox(session);
        let wrote = connection.write_turn(outbox, &self.lease, &mut self.slices);
        let wrote = match wrote {
            Ok(wrote) => wrote,
            Err(error) => {
                log::debug!("{} - Error flushing: {error}", connection.peer);
                self.finish(place, "Write Error");
                return;
            }
        };
        self.after_write(place, wrote);
        // What an engine delivers now is written in the next turn.
        self.is_pressed |= self.broker.wrote(session);
    }

    fn after_write(&mut self, place: Place, wrote: Wrote) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        let closing = connection.notes.closing;
        match wrote {
            Wrote::All | Wrote::AwaitsPeer if closing.is_some() => {
                self.finish(place, closing.unwrap_or_default());
                return;
            }
            Wrote::All | Wrote::AwaitsPeer | Wrote::Blocked => (),
            Wrote::More => self.mark_unsent(place),
            Wrote::AwaitsLease => {
                if !mem::replace(&mut connection.notes.awaits_lease, true) {
                    self.leaseless.push(place);
                }
            }
        }
        self.mark_ready(place);
    }

    /// The connection is closed as soon as what waits for it is written, or soon.
    pub(super) fn begin_close(&mut self, place: Place, reason: &'static str) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        if connection.is_connecting() {
            self.finish(place, reason);
            return;
        }
        if connection.notes.closing.is_none() {
            connection.notes.closing = Some(reason);
            if !self.is_stopping {
                self.timers.arm(Timer::Flush(place), self.now.at + CLOSE_FLUSH_MAX);
            }
        }
        self.mark_unsent(place);
    }

    /// Ends a connection now.
    pub(super) fn finish(&mut self, place: Place, reason: &str) {
        let session = self.session(place);
        let Some(mut connection) = self.table.remove(place) else {
            return;
        };
        for timer in [Timer::Dial, Timer::Handshake, Timer::Flush] {
            self.timers.cancel(&timer(place));
        }
        if !connection.is_connecting() {
            connection.say_goodbye();
        }
        if connection.notes.is_open {
            let reason = reason.to_owned();
            self.broker.handle(Input::Closed { session, reason }, self.now);
        }
        self.is_pressed = true;
    }

    pub(super) fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Dial(place) => {
                self.give_up_dial(place, &io::Error::from(io::ErrorKind::TimedOut));
            }
            Timer::Handshake(place) => self.on_handshake_late(place),
            Timer::Flush(place) => {
                let connection = self.table.get_mut(place);
                let reason = connection.and_then(|connection| connection.notes.closing);
                self.finish(place, reason.unwrap_or_default());
            }
            Timer::Accept(index) => self.on_accept_again(index),
            Timer::Stop => {
                for place in self.table.places() {
                    self.finish(place, "Server Shutdown");
                }
            }
        }
    }

    fn on_handshake_late(&mut self, place: Place) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        if connection.is_handshaking() {
            log::error!("{} - TLS handshake timeout", connection.peer);
            self.finish(place, TLS_FAILURE);
        }
    }

    /// What the engine said and is not on a socket stays here. The broker has taken it out of the
    /// outboxes; what was encrypted already can only be kept back by an end of the connection.
    pub(super) fn on_engine_gone(&mut self) {
        for place in self.table.places() {
            if self.table.get_mut(place).is_some_and(|connection| connection.holds_leased()) {
                self.finish(place, "Write Error");
            }
        }
        self.retry_leaseless();
        // The lease is the process's: no engine is left that could give a credit.
        for engine in (0..).map(LoopIndex).take(self.peers.len()) {
            for credit in [Credit::Messages, Credit::Requests] {
                let input = Input::Pressure { engine, credit, is_high: false };
                self.broker.handle(input, self.now);
            }
        }
    }

    pub(super) fn on_stop(&mut self, flush_for: Duration) {
        self.is_stopping = true;
        self.is_pressed = true;
        for port in self.ports.drain(..) {
            let whose = if port.kind == ConnectionKind::Client { "Client" } else { "Route" };
            log::debug!("{whose} accept loop exiting..");
        }
        // One bound for all takes the place of one for each.
        self.timers.arm(Timer::Stop, self.now.at + flush_for);
        self.broker.handle(Input::Stop, self.now);
        for place in self.table.places() {
            self.begin_close(place, "Server Shutdown");
        }
    }
}
