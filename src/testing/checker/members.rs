//! What members say of themselves and how they end, seen by who asks them and waits for their
//! processes; and what becomes of channels that nobody uses.

use std::time::Duration;

use super::{Checker, Promise};
use crate::base::epoch::Epoch;
use crate::base::id::ChannelName;
use crate::base::time::Instant;
use crate::election::Role;

/// What a process has said of itself, and was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// That it is active, since it last became so.
    pub is_active: bool,
    /// That its clients reach the active.
    pub reaches_active: bool,
    /// It was asked to end.
    pub is_to_end: bool,
    /// It was asked to hand over what it had under this epoch.
    pub resigned: Option<Epoch>,
}

/// A process that lives.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Which member it is.
    pub number: usize,
    /// What it is in its group.
    pub role: Role,
    /// What it has said.
    pub said: Said,
}

/// A channel is deleted so long after its time at the latest, if nothing goes wrong.
const DELETED_WITHIN: Duration = Duration::from_secs(1);

impl Checker {
    /// A process ends because its own loops do not answer it. They always do here, if late.
    pub fn on_given_up(&mut self, member: usize) {
        let text = format!("m{member} gives itself up: its loops do not answer");
        self.fail(Promise::Roles, text);
    }

    /// What is not as it has to be some time after the last fault: one member is active, all others
    /// stand by, they say so, and nobody is there who was asked to go.
    #[must_use]
    pub fn first_unrest(&self, members: &[Seen], is_group: bool) -> Option<String> {
        let of_one = members.iter().find_map(|Seen { number, role, said, .. }| match role {
            _ if said.is_to_end => Some(format!("m{number} was asked to end, and is still there")),
            Role::Active { epoch } if said.resigned == Some(*epoch) => {
                Some(format!("m{number} was asked to hand over, and has not"))
            }
            Role::Active { .. } if !said.is_active => {
                Some(format!("m{number} does not say that it is active"))
            }
            Role::Active { .. } | Role::Standby => None,
            Role::Recovering { .. }
            | Role::Probing { .. }
            | Role::Opening { .. }
            | Role::Settling { .. }
            | Role::Draining { .. }
            | Role::Leaving { .. }
            | Role::Ended => Some(format!("m{number} stays {role:?}")),
        });
        let count = members.iter().filter(|it| matches!(it.role, Role::Active { .. })).count();
        let of_all = || (count != 1).then(|| format!("{count} members are active"));
        let is_blind = |it: &&Seen| is_group && it.role == Role::Standby && !it.said.reaches_active;
        let of_standbys = || {
            let Seen { number, .. } = members.iter().find(is_blind)?;
            Some(format!("m{number} stands by, and does not say that it reaches the active"))
        };
        of_one.or_else(of_all).or_else(of_standbys)
    }

    /// Nothing goes wrong any more.
    pub fn on_healed(&mut self) {
        self.healed_at = Some(self.now);
    }

    /// Somebody sends a publish to a channel.
    pub fn on_used(&mut self, channel: &ChannelName) {
        if !self.limits.of(channel).inactivity_max.is_zero() {
            self.used.insert(channel.clone(), self.now);
        }
    }

    /// Whether a channel that goes when nobody uses it was used.
    #[must_use]
    pub fn may_linger(&self) -> bool {
        !self.used.is_empty()
    }

    /// One that has to be gone by now.
    #[must_use]
    pub fn first_unused(&self) -> Option<&ChannelName> {
        self.used.keys().find(|channel| self.is_unused(channel, self.now))
    }

    /// Whether nobody has used a channel at `now` for so long that it is gone. Who takes over
    /// counts from the beginning, and nothing is said of what faults keep from being deleted.
    pub(super) fn is_unused(&self, channel: &ChannelName, now: Instant) -> bool {
        let used_at = self.used.get(channel).copied();
        let Some((used_at, healed_at)) = used_at.zip(self.healed_at) else { return false };
        let since = used_at.max(healed_at).max(self.taken_over_at);
        since + self.limits.of(channel).inactivity_max + DELETED_WITHIN < now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::limits;
    use crate::testing::trace::Trace;

    fn checker() -> Checker {
        let limits = limits::tight().resolve().expect("no section is wrong");
        Checker::new(limits, Trace::new(false))
    }

    fn seen(number: usize, role: Role, said: Said) -> Seen {
        Seen { number, role, said }
    }

    #[test]
    fn a_group_is_at_rest_when_one_serves_and_the_others_know_it() {
        let (active, standby) = (Role::Active { epoch: Epoch(3) }, Role::Standby);
        let says = Said { is_active: true, ..Said::default() };
        let hears = Said { reaches_active: true, ..Said::default() };
        let unrest = |members: &[Seen]| checker().first_unrest(members, true);
        let (first, second) = (seen(0, active, says), seen(1, standby, hears));
        assert_eq!(unrest(&[first, second]), None);
        assert!(unrest(&[second]).is_some(), "nobody serves");
        assert!(unrest(&[first, seen(1, active, says)]).is_some(), "two serve");
        assert!(unrest(&[seen(0, active, Said::default()), second]).is_some());
        assert!(unrest(&[first, seen(1, standby, Said::default())]).is_some());
        let draining = Role::Draining { epoch: Epoch(2), missing: 1 };
        assert!(unrest(&[first, seen(1, draining, hears)]).is_some());
        let asked = Said { is_to_end: true, ..hears };
        assert!(unrest(&[first, seen(1, standby, asked)]).is_some());
        let resigned = |epoch| Said { resigned: Some(Epoch(epoch)), ..says };
        assert!(unrest(&[seen(0, active, resigned(3)), second]).is_some());
        assert_eq!(unrest(&[seen(0, active, resigned(2)), second]), None);
        assert_eq!(checker().first_unrest(&[first], false), None);
    }

    #[test]
    fn a_channel_is_unused_once_nothing_goes_wrong_for_long_enough() {
        let mut checker = checker();
        let (passing, staying) = (ChannelName::from("passing.1"), ChannelName::from("orders"));
        let seconds = |count: u64| Instant(count * 1_000_000_000);
        checker.set_now(seconds(1));
        checker.on_used(&passing);
        checker.on_used(&staying);
        checker.set_now(seconds(9));
        assert_eq!(checker.first_unused(), None, "faults may keep it from being deleted");
        checker.on_healed();
        checker.on_takeover(0);
        checker.set_now(seconds(10));
        assert_eq!(checker.first_unused(), None);
        checker.set_now(seconds(11));
        assert_eq!(checker.first_unused(), Some(&passing));
        assert!(!checker.is_unused(&staying, seconds(99)));
    }
}
