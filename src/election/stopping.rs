//! How a member serves no more because somebody wants it so: it stops, hands over, or cannot go on.

use std::time::Duration;

use super::{Life, Member, Release, Role};
use crate::base::epoch::Epoch;
use crate::base::time::Now;
use crate::election::effect::Effect;
use crate::election::input::Ending;

/// How long a member that handed over leaves the lease to others.
pub(super) const RETRY_AFTER_HAND_OVER: Duration = Duration::from_secs(2);
/// The lease is not asked for again: the process stops.
pub(super) const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a planned stop waits for the store to take what is staged.
pub(super) const DRAIN_WITHIN: Duration = Duration::from_secs(20);
/// How long the end of a process waits for threads of its store that it cannot call back.
pub(super) const STORE_ENDS_WITHIN: Duration = Duration::from_secs(2);

impl Member {
    pub(super) fn on_stop_asked(&mut self, ending: Ending, now: Now) {
        match (self.life, ending) {
            (_, Ending::AtOnce) => {
                self.life = Life::Stopping(ending);
                return self.end();
            }
            // Who is about to stop goes on with that, and who sees its clients off too.
            (Life::Stopping(_), _) | (Life::SeeingOff, Ending::Terminated) => return,
            (_, _) => {
                self.life = Life::Stopping(ending);
            }
        }
        self.effects.push_back(Effect::SayStopping);
        match self.role {
            Role::Standby | Role::Leaving { .. } | Role::Ended => self.end(),
            // It cannot be called back; what is read by then is closed cleanly.
            Role::Recovering { .. } => self.due_at = Some(now.at + STORE_ENDS_WITHIN),
            Role::Probing { epoch }
            | Role::Opening { epoch, .. }
            | Role::Settling { epoch, .. }
            | Role::Active { epoch } => self.drain(epoch, now),
            Role::Draining { .. } => (),
        }
    }

    pub(super) fn on_hand_over_asked(&mut self, now: Now) {
        match self.role {
            Role::Opening { epoch, .. } | Role::Settling { epoch, .. } | Role::Active { epoch } => {
                self.drain(epoch, now);
            }
            Role::Standby
            | Role::Recovering { .. }
            | Role::Probing { .. }
            | Role::Draining { .. }
            | Role::Leaving { .. }
            | Role::Ended => (),
        }
    }

    pub(super) fn on_stop_after_hand_over(&mut self, ending: Ending, now: Now) {
        match (self.life, self.role) {
            (Life::Staying, Role::Active { epoch }) => {
                self.life = Life::HandingOver(ending);
                self.drain(epoch, now);
            }
            // Asked twice, or there is nothing to hand over.
            (_, _) => self.on_stop_asked(ending, now),
        }
    }

    /// Who hands over has given the lease back by then: what its clients have sent comes to its end
    /// at the other one. If a forger says it, that is waited for in vain, for a bounded time.
    pub(super) fn on_other_serves(&mut self) {
        if self.role != Role::Standby || !std::mem::take(&mut self.awaits_successor) {
            return;
        }
        if let Life::HandingOver(ending) = self.life {
            self.life = Life::SeeingThrough { ending, missing: self.loops };
            self.effects.push_back(Effect::SeeThrough { term: self.term });
        } else {
            self.effects.push_back(Effect::StandByAgain);
        }
    }

    pub(super) fn on_through(&mut self, now: Now) {
        let Life::SeeingThrough { ending, missing } = &mut self.life else { return };
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            let ending = *ending;
            self.on_stop_asked(ending, now);
        }
    }

    /// The successor, or what is still to be done, has not come in time.
    pub(super) fn on_hand_over_late(&mut self, now: Now) {
        if let Life::HandingOver(ending) | Life::SeeingThrough { ending, .. } = self.life {
            self.on_stop_asked(ending, now);
        }
    }

    pub(super) fn on_lame_duck_asked(&mut self) {
        if self.life == Life::Staying {
            self.life = Life::SeeingOff;
            self.effects.push_back(Effect::SeeOff);
        }
    }

    pub(super) fn drain(&mut self, epoch: Epoch, now: Now) {
        self.withdraw();
        self.role = Role::Draining { epoch, missing: self.loops };
        self.effects.push_back(Effect::Drain { term: self.term });
        self.due_at = Some(now.at + DRAIN_WITHIN);
    }

    pub(super) fn on_drained(&mut self, result: Result<(), String>, now: Now) {
        let Role::Draining { epoch, missing } = &mut self.role else { return };
        let (epoch, is_clean) = (*epoch, result.is_ok());
        match result {
            Ok(()) => *missing = missing.saturating_sub(1),
            Err(text) => self.effects.push_back(Effect::Complain { text }),
        }
        if is_clean && *missing != 0 {
            return;
        }
        if self.is_stopping() {
            self.release(epoch, Release { is_clean, retry_after: FOR_EVER });
            self.end();
        } else {
            let retry_after = match self.life {
                Life::HandingOver(_) => FOR_EVER,
                Life::Staying
                | Life::SeeingOff
                | Life::SeeingThrough { .. }
                | Life::Stopping(_) => RETRY_AFTER_HAND_OVER,
            };
            self.awaits_successor = true;
            self.leave(Some(Release { is_clean, retry_after }), now);
        }
    }

    /// The process cannot go on.
    pub(super) fn fail(&mut self, line: String, now: Now) {
        self.effects.push_back(Effect::Fail { line });
        self.life = Life::Stopping(Ending::Failed);
        match self.role {
            Role::Standby | Role::Recovering { .. } | Role::Ended => {
                self.withdraw();
                self.end();
            }
            Role::Leaving { .. } => (),
            Role::Probing { .. }
            | Role::Opening { .. }
            | Role::Settling { .. }
            | Role::Active { .. }
            | Role::Draining { .. } => self.leave(None, now),
        }
        self.due_at = Some(now.at + STORE_ENDS_WITHIN);
    }

    pub(super) fn end(&mut self) {
        let Life::Stopping(ending) = self.life else { unreachable!("nobody asked for an end") };
        self.role = Role::Ended;
        self.effects.push_back(Effect::End { ending });
    }
}
