//! How bytes leave, and how connections end

use std::io;
use std::mem;
use std::time::Duration;

use crate::broker::ConnectionKind;
use crate::net::connection::{Deadline, Wrote};
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
        let mut outbox = self.broker.outbox(session);
        let len = outbox.as_ref().map_or(0, |outbox| outbox.len());
        let wrote = connection.write_turn(outbox.as_deref_mut(), &self.lease, &mut self.slices);
        let left = outbox.map_or(0, |outbox| outbox.len());
        let wrote = match wrote {
            Ok(wrote) => wrote,
            Err(error) => {
                log::debug!("{} - Error flushing: {error}", connection.peer);
                self.finish(place, "Write Error");
                return;
            }
        };
        let is_late = wrote == Wrote::Blocked || connection.has_sealed();
        match connection.notes.after_write(is_late, len - left, left) {
            Deadline::Keep => (),
            Deadline::Arm => {
                self.timers.arm(Timer::Write(place), self.now.at + self.rules.write_deadline);
            }
            Deadline::Cancel => {
                self.timers.cancel(&Timer::Write(place));
            }
        }
        self.after_write(place, wrote);
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
            self.timers.arm(Timer::Flush(place), self.now.at + CLOSE_FLUSH_MAX);
        }
        self.mark_unsent(place);
    }

    /// Ends a connection now.
    pub(super) fn finish(&mut self, place: Place, reason: &str) {
        let session = self.session(place);
        let Some(mut connection) = self.table.remove(place) else {
            return;
        };
        for timer in [Timer::Dial, Timer::Handshake, Timer::Write, Timer::Flush] {
            self.timers.cancel(&timer(place));
        }
        if !connection.is_connecting() {
            connection.say_goodbye();
        }
        if connection.notes.is_open {
            self.broker.closed(session, reason, self.now);
        } else if let ConnectionKind::RouteSolicited { url, is_explicit } = &connection.kind {
            self.broker.dial_failed(url, *is_explicit, reason, self.now);
        }
        self.is_pressed = true;
    }

    pub(super) fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Dial(place) => {
                self.give_up_dial(place, &io::Error::from(io::ErrorKind::TimedOut));
            }
            Timer::Handshake(place) => self.on_handshake_late(place),
            Timer::Write(place) => self.on_write_late(place),
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

    /// A route that takes at least something keeps its connection; a client has to take all that
    /// waited (spec core NATS, 5.2).
    fn on_write_late(&mut self, place: Place) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        let has_moved = connection.notes.goal.take().is_some_and(|goal| goal.has_moved);
        if has_moved && connection.kind != ConnectionKind::Client {
            self.mark_unsent(place);
            let again = self.now.at + self.rules.write_deadline;
            self.timers.arm(Timer::Write(place), again);
            if let Some(connection) = self.table.get_mut(place) {
                // Whatever it takes until then counts.
                let left = usize::MAX;
                let goal = crate::net::connection::Goal { left, has_moved: false };
                connection.notes.goal = Some(goal);
            }
            return;
        }
        self.finish(place, "Slow Consumer (Write Deadline)");
    }

    pub(super) fn on_stop(&mut self, flush_for: Duration) {
        self.is_stopping = true;
        self.is_pressed = true;
        self.ports.clear();
        self.timers.arm(Timer::Stop, self.now.at + flush_for);
        for place in self.table.places() {
            self.begin_close(place, "Server Shutdown");
            // The bound for all takes the place of the one for each.
            self.timers.cancel(&Timer::Flush(place));
        }
    }
}
