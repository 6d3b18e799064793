//! An operator at work on a group, often just before something happens to the active.

use std::time::Duration;

use super::Group;
use crate::base::id::ChannelName;
use crate::election::Role;
use crate::testing::checker::Matter;
use crate::testing::faults::Kind;
use crate::testing::limits::DROPPED;

impl Group {
    /// An operator hears what has become of its questions, and asks the next one.
    pub(super) fn administer(&mut self) {
        let now = self.now.at;
        let due = self.doomed.iter().filter(|(_, at)| **at <= now);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.doomed.remove(&id);
            if let Some(number) = self.number_of(id) {
                self.kill(number);
            }
        }
        self.checker.set_now(now);
        let Some(mut operator) = self.operator.take() else { return };
        let processes = self.slots.iter_mut().filter_map(|slot| slot.process.as_mut());
        for told in operator.hear(&mut processes.collect::<Vec<_>>(), &mut self.checker) {
            if !told.is_done {
                continue;
            }
            // Whoever uses what is gone is told so, and begins anew.
            for client in &mut self.clients {
                match &told.matter {
                    Matter::Subscription { inbox } => client.on_ended(inbox, &mut self.checker),
                    Matter::Drop => {
                        client.on_channel_ended(&ChannelName::from(DROPPED), &mut self.checker);
                    }
                    Matter::Purge { .. }
                    | Matter::Client { .. }
                    | Matter::Reset { .. }
                    | Matter::Removal { .. } => (),
                }
            }
        }
        let is_due = !self.is_healed && operator.is_due();
        self.operator = Some(operator);
        if is_due {
            self.ask_active(false);
        }
    }

    fn ask_active(&mut self, is_urgent: bool) {
        let is_active = |role| matches!(role, Role::Active { .. });
        let mut processes = self.slots.iter_mut().filter_map(|slot| slot.process.as_mut());
        let active = processes.find(|process| is_active(process.member.role()));
        if let (Some(operator), Some(active)) = (&mut self.operator, active) {
            operator.ask(active, is_urgent, &self.clients, &mut self.checker);
        }
    }

    /// What an operator asks for just before a fault.
    pub(super) fn ask_before(&mut self, kind: Kind) {
        let is_of_member =
            matches!(kind, Kind::Kill | Kind::Pause(_) | Kind::Stop | Kind::HandOver);
        if !is_of_member || self.is_healed {
            return;
        }
        self.checker.set_now(self.now.at);
        if self.operator.as_mut().is_some_and(|operator| operator.is_ahead_of_fault().is_some()) {
            self.ask_active(true);
        }
    }

    /// A member dies, where an operator is at work soon: in the midst of what is asked of it.
    pub(super) fn kill_soon(&mut self, number: usize) {
        let within = self.operator.as_mut().and_then(super::Operator::is_ahead_of_fault);
        let id = self.slots[number].process.as_ref().map(|process| process.id);
        match (within, id) {
            (Some(micros), Some(id)) => {
                let at = self.now.at + Duration::from_micros(micros);
                let _ = self.doomed.entry(id).or_insert(at);
            }
            _ => self.kill(number),
        }
    }
}
