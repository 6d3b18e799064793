//! Who the members are to a step, and the waits of a drill for what they look like.

use std::ops::Range;
use std::time::Duration;

use super::{Course, Early};
use crate::base::go;
use crate::drill::by_hand::ByHand;
use crate::drill::group::Group;
use crate::drill::ledger::Role;
use crate::drill::step::{Condition, Target, WAIT_MAX};

impl Course<'_> {
    /// The members that a step is for, from 0; waits until somebody is what it names.
    pub(super) fn targets(&mut self, target: Target) -> Result<Vec<usize>, Early> {
        match target {
            Target::Active => {
                self.wait_until(Condition::Active, WAIT_MAX)?;
                Ok(self.active().into_iter().collect())
            }
            Target::Standby => {
                let is_there = |course: &mut Self| course.standby().is_some();
                self.wait(WAIT_MAX, is_there).map_err(|early| match early {
                    Early::Broken(_) => Early::Broken("no member stands by".to_owned()),
                    early @ (Early::Error(_) | Early::Interrupted) => early,
                })?;
                Ok(self.standby().into_iter().collect())
            }
            Target::Member(number) => Ok(vec![number - 1]),
            Target::All => Ok((0..self.is_up.len()).filter(|member| self.runs(*member)).collect()),
        }
        .and_then(|members: Vec<usize>| match members.is_empty() {
            true => Err(Early::Broken(format!("nobody is {target}"))),
            false => Ok(members),
        })
    }

    /// Whether a member is there to be told anything.
    pub(super) fn runs(&self, member: usize) -> bool {
        match &self.group {
            Group::Started(_) => self.is_up[member],
            Group::Attached(_) => self.role(member) != Role::Gone,
        }
    }

    pub(super) fn role(&self, member: usize) -> Role {
        self.notes.ledger().role(member).unwrap_or_default()
    }

    pub(super) fn members_of(&self, part: usize) -> Range<usize> {
        let members = self.parts.members;
        part * members..(part + 1) * members
    }

    pub(super) fn active_of(&self, part: usize) -> Option<usize> {
        self.members_of(part)
            .find(|member| self.runs(*member) && self.role(*member) == Role::Active)
    }

    /// Who is active in the partition whose turn it is.
    pub(super) fn active(&self) -> Option<usize> {
        self.active_of(self.turn)
    }

    /// Who stands by there.
    pub(super) fn standby(&self) -> Option<usize> {
        let stands_by = |role| role == Role::Ready || role == Role::Unready;
        self.members_of(self.turn)
            .find(|member| self.runs(*member) && stands_by(self.role(*member)))
    }

    /// Whether each partition is served.
    pub(super) fn all_are_served(&self) -> bool {
        (0..self.begun).all(|part| self.active_of(part).is_some())
    }

    pub(super) fn wait_until(
        &mut self,
        condition: Condition,
        within: Duration,
    ) -> Result<(), Early> {
        if condition == Condition::InputEnds && self.by_hand.is_none() {
            self.by_hand = Some(ByHand::start(&self.notes)?);
        }
        let (acks, deliveries, failures) = {
            let ledger = self.notes.ledger();
            (ledger.ack_count, ledger.delivery_count, ledger.failure_count)
        };
        let is_so = move |course: &mut Self| match condition {
            Condition::Active => course.all_are_served(),
            Condition::Ready => course.is_ready(),
            Condition::TakenOver => {
                let active = course.active();
                let has_recovered = course.notes.ledger().has_recovered;
                has_recovered && active.is_some() && active != course.before
            }
            Condition::Ended => course.has_one_ended(),
            Condition::InputEnds => course.by_hand.as_ref().is_some_and(ByHand::is_over),
            Condition::Acks(count) => acks + count <= course.notes.ledger().ack_count,
            Condition::Deliveries(count) => {
                deliveries + count <= course.notes.ledger().delivery_count
            }
            Condition::Failures(count) => failures + count <= course.notes.ledger().failure_count,
        };
        // Nobody publishes any more when the book is full: what hangs on that may never come.
        let hangs_on_load = match condition {
            Condition::Active | Condition::Ready | Condition::Ended | Condition::InputEnds => false,
            Condition::TakenOver
            | Condition::Acks(_)
            | Condition::Deliveries(_)
            | Condition::Failures(_) => true,
        };
        let full_book = move |course: &Self| {
            let ledger = course.notes.ledger();
            (hangs_on_load && ledger.is_full).then_some(ledger.publish_count)
        };
        self.wait(within, |course| full_book(course).is_some() || is_so(course))?;
        match full_book(self) {
            None => Ok(()),
            Some(count) => Err(Early::Broken(format!(
                "the book of the drill is full: after {count} publishes there are no more"
            ))),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.all_are_served()
            && (0..self.is_up.len())
                .filter(|member| self.runs(*member))
                .all(|member| matches!(self.role(member), Role::Active | Role::Ready))
    }

    pub(super) fn has_one_ended(&mut self) -> bool {
        let Group::Started(started) = &mut self.group else {
            return (0..self.is_up.len()).any(|member| self.role(member) == Role::Gone);
        };
        (0..self.is_up.len()).any(|member| !self.is_up[member] && started.has_ended(member))
    }

    pub(super) fn wait(
        &mut self,
        within: Duration,
        mut is_so: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Early> {
        let patience = self.patience.clone();
        let mut crashed = None;
        let is_done = patience.is_so_within(within, || {
            crashed = self.crashed();
            crashed.is_some() || is_so(self)
        });
        match crashed {
            Some(text) => Err(Early::Broken(text)),
            None if is_done => Ok(()),
            None if patience.is_over() => Err(Early::Interrupted),
            None => {
                Err(Early::Broken(format!("not within {}; {}", go::show(within), self.described())))
            }
        }
    }

    /// What a member said last that nobody has ended and that has ended.
    pub(super) fn crashed(&mut self) -> Option<String> {
        let Group::Started(started) = &mut self.group else { return None };
        if let Some(text) = started.external_ended() {
            return Some(text);
        }
        let place = (0..started.count()).find(|it| self.is_up[*it] && started.has_ended(*it))?;
        Some(started.last_words(place))
    }

    /// What the members look like, for a person.
    pub(super) fn described(&self) -> String {
        let member = |member: usize| {
            let role = match self.role(member) {
                Role::Gone => "is not there",
                Role::Hangs => "does not answer",
                Role::Unready => "is not active, and not ready",
                Role::Ready => "stands by",
                Role::Active => "is active",
            };
            format!("member {} {role}", member + 1)
        };
        (0..self.is_up.len()).map(member).collect::<Vec<_>>().join(", ")
    }
}
