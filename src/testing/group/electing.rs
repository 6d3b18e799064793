//! What happens to the member of a process, and what it asks for, done: what `server` does for the
//! same member.

use std::time::Duration;

use super::{Group, ToLook, ToOpen};
use crate::base::epoch::{Fence, Predecessor};
use crate::election::Role;
use crate::election::effect::Effect;
use crate::election::input::{Ending, Failure, Input, Question};
use crate::server::engine_driver::Mail;
use crate::server::event::Event;
use crate::server::interest_key::Listener;
use crate::store::{Opened, Remedy, StoreError};
use crate::testing::faults::Kind;
use crate::testing::leases::{Told, server_id};
use crate::testing::process;

/// A server that stands alone listens for others for so long at most.
const ALONE_AFTER_MAX_MS: u64 = 40;
/// Of so many looks whether it is alone one finds another server: anybody can answer.
const LOOKS_PER_ANSWER: usize = 8;
/// Clients that were told to go elsewhere are sent away after so long.
const SEEN_OFF_AFTER: Duration = Duration::from_millis(100);

impl Group {
    pub(super) fn turn_keeper(&mut self, number: usize) {
        let now = self.clocks_of(number);
        let Some(process) = &mut self.slots[number].process else { return };
        let may_take = process.may_take_lease();
        match process.keeper.turn(now.at, may_take) {
            None if process.keeper.is_claiming() => self.meet_claim(number),
            None => (),
            Some(Told::Lost(why)) => {
                self.trace.say(now.at, || format!("m{number} has lost its lease"));
                self.tell(number, Input::Lost { why });
            }
            Some(Told::Waiting(holder)) => {
                self.tell(number, Input::Waiting { holder: holder.map(server_id) });
            }
            Some(Told::Won(fence, predecessor)) => {
                let epoch = fence.epoch();
                process.fence = Some(fence);
                self.steps += 1;
                self.trace.say(now.at, || format!("m{number} wins epoch {epoch}: {predecessor:?}"));
                self.tell(number, Input::Won { epoch, predecessor });
            }
        }
    }

    /// A member has the lock and no epoch yet.
    fn meet_claim(&mut self, number: usize) {
        let Some(fault) = self.faults.on_claim() else { return };
        let now = self.now.at;
        self.trace.say(now, || format!("fault {fault:?} before m{number} claims its epoch"));
        if let Kind::Pause(lasts) = fault.kind {
            self.slots[number].paused_until = now + lasts;
        } else {
            self.kill(number);
        }
    }

    /// Tells the member of a process what happened, and does what it asks for.
    pub(super) fn tell(&mut self, number: usize, input: Input) {
        let now = self.clocks_of(number);
        if let Some(process) = &mut self.slots[number].process {
            process.member.handle(input, now);
        }
        while let Some(process) = &mut self.slots[number].process {
            let Some(effect) = process.member.poll_effect() else { return };
            self.carry_out(number, effect);
        }
    }

    fn carry_out(&mut self, number: usize, effect: Effect) {
        let now = self.clocks_of(number);
        let Some(process) = &mut self.slots[number].process else { return };
        match effect {
            Effect::Recover { term, predecessor, .. } => {
                process.is_busy = true;
                self.recover(number, term, predecessor);
            }
            Effect::Activate { .. } => {
                process.activate();
                process.said.is_active = false;
                self.takeovers += 1;
                self.checker.on_takeover(number);
                self.trace.say(now.at, || format!("m{number} has engines"));
            }
            Effect::AskAround { term } => {
                let lasts = Duration::from_millis(self.random.below(ALONE_AFTER_MAX_MS));
                process.alone_at = Some((term, now.at + lasts));
            }
            Effect::Serve { term } => process.post_all(|| Mail::Serve { term }),
            Effect::Sync { term } => process.post_all(|| Mail::Sync { term }),
            Effect::Deactivate { term } => process.post_all(|| Mail::Deactivate { term }),
            Effect::Drain { term } => process.post_all(|| Mail::Drain { term }),
            Effect::SeeThrough { term } => process.post_all(|| Mail::SeeThrough { term }),
            Effect::Withdraw => process.alone_at = None,
            Effect::AwaitStore { term } => process.await_store(term),
            Effect::Release { epoch, is_clean, retry_after } => {
                process.release(epoch, is_clean, now.at + retry_after);
            }
            Effect::CheckLease => process.keeper.check_now(now.at),
            // Nobody says here that another one serves.
            Effect::StandByAgain => (),
            Effect::Survey => {
                let id = process.id;
                self.looks.push_back(ToLook { number, id });
            }
            Effect::Publish { subject, payload } => {
                process.post(0, Mail::Publish { subject, reply: None, payload });
            }
            Effect::SeeOff => process.see_off(now.at + SEEN_OFF_AFTER, now),
            Effect::Announce => {
                process.said.is_active = true;
                self.trace.say(now.at, || format!("m{number} is active"));
            }
            Effect::Complain { text } | Effect::Fail { line: text } => {
                self.trace.say(now.at, || format!("m{number} says: {text}"));
            }
            Effect::ShowReachable(reaches_active) => process.said.reaches_active = reaches_active,
            // For people.
            Effect::ShowTrouble { .. }
            | Effect::ShowRival(_)
            | Effect::AskRival
            | Effect::SayStopping => (),
            Effect::Break => {
                self.checker.on_given_up(number);
                self.end(number, "is broken");
            }
            Effect::End { .. } => self.end(number, "ends"),
        }
    }

    fn recover(&mut self, number: usize, term: u64, predecessor: Predecessor) {
        let Some(process) = &self.slots[number].process else { return };
        let Some(fence) = process.fence.clone() else {
            unreachable!("whoever recovers has won a lease");
        };
        let id = process.id;
        self.openings.push_back(ToOpen { number, id, term, fence, predecessor });
    }

    fn end(&mut self, number: usize, how: &str) {
        self.bury(number, false);
        self.trace.say(self.now.at, || format!("m{number} {how}"));
    }

    /// The store of a term was read, or was not.
    pub(super) fn on_opened(&mut self, opening: &ToOpen, opened: Result<Opened, StoreError>) {
        let (number, term, now) = (opening.number, opening.term, self.clocks_of(opening.number));
        self.hear_of_harm();
        let settings = process::engine_settings(self.plan.loops, &self.resolved, self.plan.seed);
        let mut random = self.random.clone();
        let Some(process) = self.process(number, opening.id) else { return };
        process.is_busy = false;
        let is_wanted = matches!(process.member.role(), Role::Recovering { .. });
        let input = match opened {
            Ok(opened) => {
                let fence = opening.fence.as_ref();
                process.recover((term, fence), opened, &settings, &mut random, now);
                Input::Recovered { term }
            }
            Err(error) => {
                let (text, is_final) = (error.to_string(), error.remedy() == Remedy::Stop);
                if is_final && is_wanted {
                    self.checker.on_store_refused(&text);
                }
                let failure = Failure { text, is_final, lasts: error.lasts() };
                Input::RecoveryFailed { term, failure }
            }
        };
        self.random = random;
        self.tell(number, input);
    }

    /// What loops and stores told the server's own thread.
    pub(super) fn hear_events(&mut self, number: usize) {
        while let Some(process) = &mut self.slots[number].process {
            let Some(event) = process.poll_event() else { return };
            let input = match event {
                Event::Answered { term, question } => Input::Answered { term, question },
                Event::Deactivated { term, worker } => {
                    process.on_engine_gone(worker);
                    Input::Answered { term, question: Question::Deactivate }
                }
                Event::Opened { term } => Input::Opened { term },
                Event::Drained { term } => Input::Drained { term, result: Ok(()) },
                Event::StoreFailed { term, text, remedy } => {
                    let is_final = remedy == Remedy::Stop;
                    if is_final && process.is_serving() {
                        self.checker.on_store_refused(&text);
                    }
                    Input::StoreFailed { term, text, is_final }
                }
                Event::Heard { listener: Listener::GroupHeartbeat, payload, .. } => {
                    Input::Heartbeat { payload }
                }
                // There are no signals, no other threads, and nobody looks around by a message.
                Event::Signal(_)
                | Event::Asked(_)
                | Event::AskedBySubject(_)
                | Event::Upstream(_)
                | Event::UpstreamReachable(_)
                | Event::UpstreamRefused
                | Event::Keeper(_)
                | Event::Recovered { .. }
                | Event::Left { .. }
                | Event::Looked { .. }
                | Event::Clients { .. }
                | Event::RouteSearch(_)
                | Event::Heard { .. }
                | Event::NobodyListens { .. } => continue,
            };
            self.tell(number, input);
        }
    }

    /// What has become due.
    pub(super) fn look_at_deadlines(&mut self, number: usize) {
        let now = self.now.at;
        let Some(process) = &mut self.slots[number].process else { return };
        if let Some(term) = process.take_left() {
            self.tell(number, Input::Left { term });
        }
        let Some(process) = &mut self.slots[number].process else { return };
        if let Some((term, _)) = process.alone_at.take_if(|(_, at)| *at <= now) {
            let is_answered = !self.plan.is_in_memory && !self.is_healed;
            if is_answered && self.faults.choose(LOOKS_PER_ANSWER) == 0 {
                let text = "another server answers".to_owned();
                self.tell(number, Input::FoundAnother { term, text });
            } else {
                self.tell(number, Input::FoundAlone { term });
            }
        }
        let Some(process) = &mut self.slots[number].process else { return };
        if process.closed_at.is_some_and(|at| at <= now) {
            process.close_clients();
            self.tell(number, Input::SeenOff);
        }
        let Some(process) = &mut self.slots[number].process else { return };
        if process.member.next_deadline().is_some_and(|at| at <= now) {
            self.tell(number, Input::Due);
        }
    }

    /// Somebody asks a member to end, or to let another one serve.
    pub(super) fn ask_to_stop(&mut self, number: usize) {
        let input = match self.faults.choose(8) {
            0 => Input::StopAsked { ending: Ending::AtOnce },
            1 => Input::StopAsked { ending: Ending::Terminated },
            2 | 3 => Input::HandOverAsked,
            4 => Input::LameDuckAsked,
            _ => Input::StopAsked { ending: Ending::Done },
        };
        self.ask(number, input);
    }

    /// Somebody asks a member to let another one serve.
    pub(super) fn ask_to_hand_over(&mut self, number: usize) {
        self.ask(number, Input::HandOverAsked);
    }

    fn ask(&mut self, number: usize, input: Input) {
        self.trace.say(self.now.at, || format!("m{number} is asked: {input:?}"));
        if let Some(process) = &mut self.slots[number].process {
            process.said.is_to_end |= !matches!(input, Input::HandOverAsked);
            if let Role::Opening { epoch, .. }
            | Role::Settling { epoch, .. }
            | Role::Active { epoch } = process.member.role()
            {
                process.said.resigned = Some(epoch);
            }
        }
        self.tell(number, input);
    }
}
