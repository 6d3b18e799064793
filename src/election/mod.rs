//! Member: the roles and their transitions, as logic
//!
//! The one place that decides what this process is in its group. `server` tells it what happens
//! ([`input::Input`]) and does what it asks for ([`effect::Effect`]); nothing here reads a clock, a
//! file or a socket, and nothing waits: while a disk does not answer, a lost lease or a signal is
//! an input like any other.
//!
//! ```text
//!          won            recovered       found alone      all serve, opened    all synced
//! Standby ─────► Recovering ──────► Probing ────────► Opening ─────────► Settling ─────► Active
//!    ▲               │     (alone)     │                 │                  │              │
//!    │               │                 └─────────────────┴────────┬─────────┴──────────────┤
//!    │               │ lost                    lost, store failed │       stop, hand-over  │
//!    │               ▼                                            ▼                        ▼
//!    └─────────── Leaving ◄────────────────────────────────────────────────────────── Draining
//!  threads ended  (recovery, then loops, then threads)   lost, handed over                 │
//!                                                                          drained to stop ▼
//!                                                                                        Ended
//! ```
//!
//! | Input | Changes |
//! |---|---|
//! | `Won` | a standby begins a term; who still leaves a former one begins after that |
//! | `Lost` | every role that holds the lease leaves at once; nothing is released |
//! | `Recovered` | loops get their engines; of a term that is over the threads are waited for |
//! | `RecoveryFailed` | ends the process, or leads back to standby with growing pauses |
//! | `FoundAlone`, `FoundAnother` | the engines speak; or as a failed recovery |
//! | `Conflict` | ends the process |
//! | `Answered` | counts the loops' answers to `Serve`, `Sync` and `Deactivate` |
//! | `Opened` | with all answers to `Serve`: a second round, then `Announce` |
//! | `StoreFailed` | leaves and releases, or ends the process |
//! | `Left` | no thread of the term runs: releases, ends, or begins the next term |
//! | `StopAsked`, `SeenOff` | who serves drains first; who recovers is waited for a moment |
//! | `Drained` | after all loops: releases, clean if all were; ends or leaves |
//! | `HandOverAsked` | drains, leaves, and lets others have the lease |
//! | `StopAfterHandOver`, `OtherServes` | the same, and ends once another one has done the rest |
//! | `LameDuckAsked` | sees clients off |
//! | `Waiting`, `Heartbeat` | whom a standby believes; who is active looks at its lease |
//! | `RivalAnswered` | an active shows that another one has another store |
//! | `Due` | heartbeats; what was waited for for too long |

pub mod effect;
pub mod group;
pub mod heartbeat;
pub mod input;
pub mod keeper;
pub mod lease;
pub mod membership;
pub mod rival;
pub mod sight;
mod stopping;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::epoch::{Epoch, Predecessor};
use crate::base::time::{Instant, Now};
use crate::election::effect::Effect;
use crate::election::group::{Group, Meaning};
use crate::election::input::{Ending, Failure, Input, Question};
use crate::election::rival::Rival;

/// First pause after an activation that failed for a reason that may pass; doubles each time.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest pause between such activations.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long the loops may take to answer before the process counts as broken.
const LOOPS_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long one heartbeat of the active shows that it is reachable: three of them.
const REACHABLE_FOR: Duration = Duration::from_secs(3);

/// How long the end of a process waits for the member that takes its place.
const SUCCESSOR_SERVES_WITHIN: Duration = Duration::from_secs(5);

const NOT_CLOSED_IN_TIME: &str = "the store did not close in time";

/// What a member is in its group. Each role but the first and the last holds the lease, or has
/// held it and still has something to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Waits for the lease.
    Standby,
    /// A thread reads the store.
    Recovering {
        /// Under this epoch.
        epoch: Epoch,
    },
    /// Its engines exist and are silent: stand-alone, it asks whether another server is there.
    Probing {
        /// Under this epoch.
        epoch: Epoch,
    },
    /// Its engines speak; clients are not listened to everywhere yet.
    Opening {
        /// Under this epoch.
        epoch: Epoch,
        /// So many loops have not handed over their first effects.
        missing: u16,
        /// The engine that serves clients listens.
        is_open: bool,
    },
    /// All loops listen, and hear of each other's interests.
    Settling {
        /// Under this epoch.
        epoch: Epoch,
        /// So many loops have not yet.
        missing: u16,
    },
    /// Serves.
    Active {
        /// Under this epoch.
        epoch: Epoch,
    },
    /// Hands over or stops: commits what is staged.
    Draining {
        /// Under this epoch.
        epoch: Epoch,
        /// So many loops have not closed their store.
        missing: u16,
    },
    /// Serves no more; something of this term still runs.
    Leaving {
        /// Under this epoch.
        epoch: Epoch,
        /// What is waited for.
        rest: Rest,
        /// How the lease is given back after that; `None` if it is lost.
        release: Option<Release>,
    },
    /// Nothing happens any more.
    Ended,
}

/// What of a term that is over still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The thread that reads the store. It has its own fence, so whatever it still does changes
    /// nothing that a successor reads.
    Recovery,
    /// Loops that have not dropped their engines.
    Loops {
        /// How many.
        missing: u16,
    },
    /// The threads of the store.
    Threads,
}

/// How a lease is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Everything is synced.
    pub is_clean: bool,
    /// How long it is left to others.
    pub retry_after: Duration,
}

/// What the process is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Staying,
    /// Ends as soon as its clients have been sent away.
    SeeingOff,
    /// Another member is to serve before it ends.
    HandingOver(Ending),
    /// Another one serves: it ends as soon as what its clients have sent is done.
    SeeingThrough {
        ending: Ending,
        missing: u16,
    },
    Stopping(Ending),
}

/// One process of the group.
#[derive(Debug)]
pub struct Member {
    role: Role,
    life: Life,
    loops: u16,
    /// `None`: it stands alone.
    group: Option<Group>,
    /// Counts activations.
    term: u64,
    /// Clients were served in this process.
    has_served: bool,
    /// How often activations failed in a row.
    failures: u32,
    /// It has given the lease back for another member, which has not said yet that it serves.
    awaits_successor: bool,
    /// What was won while a former term was still being left.
    won: Option<(Epoch, Predecessor)>,
    /// Until when the active counts as reachable without another heartbeat of it.
    reachable_until: Option<Instant>,
    /// Another server that is active too.
    rival: Rival,
    /// When what the role waits for has taken too long.
    due_at: Option<Instant>,
    effects: VecDeque<Effect>,
}

impl Member {
    /// A standby with so many event loops; without a group it stands alone.
    #[must_use]
    pub fn new(loops: u16, group: Option<Group>) -> Self {
        Self {
            role: Role::Standby,
            life: Life::Staying,
            loops,
            group,
            term: 0,
            has_served: false,
            failures: 0,
            awaits_successor: false,
            won: None,
            reachable_until: None,
            rival: Rival::default(),
            due_at: None,
            effects: VecDeque::new(),
        }
    }

    /// Its role now.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it is a member of a group; otherwise it stands alone.
    #[must_use]
    pub fn is_in_group(&self) -> bool {
        self.group.is_some()
    }

    /// The next thing it asks for.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When it wants [`Input::Due`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.role == Role::Ended {
            return None;
        }
        let heartbeat_at = self.group.as_ref().and_then(Group::next_deadline);
        let rival_at = self.rival.next_deadline();
        [heartbeat_at, self.reachable_until, rival_at, self.due_at].into_iter().flatten().min()
    }

    /// Takes one input.
    ///
    /// # Panics
    /// When the lease is won by one who has it: then this process is wrong about itself.
    pub fn handle(&mut self, input: Input, now: Now) {
        if self.role == Role::Ended {
            return;
        }
        match input {
            Input::Waiting { holder } => self.on_waiting(holder.as_deref()),
            Input::Won { epoch, predecessor } => self.on_won(epoch, predecessor, now),
            Input::Lost { why } => self.on_lost(why, now),
            Input::Conflict { text } if self.epoch().is_some() => self.fail(text, now),
            Input::Conflict { .. } => (),
            Input::Refused { why } => self.fail(format!("Failed to start: {why}"), now),
            Input::Recovered { term } if term == self.term => self.on_recovered(now),
            Input::RecoveryFailed { term, failure } if term == self.term => {
                self.on_recovery_failed(failure, now);
            }
            Input::FoundAlone { term } if term == self.term => self.on_found_alone(now),
            Input::FoundAnother { term, text } if term == self.term => {
                self.on_found_another(text, now);
            }
            Input::Answered { term, question } if term == self.term => {
                self.on_answered(question, now);
            }
            Input::Opened { term } if term == self.term => self.on_opened(now),
            Input::Drained { term, result } if term == self.term => {
                self.on_drained(result, now);
            }
            Input::StoreFailed { term, text, is_final } if term == self.term => {
                self.on_store_failed(text, is_final, now);
            }
            Input::Left { term } if term == self.term => self.on_left(now),
            // Of a former term.
            Input::Recovered { .. }
            | Input::RecoveryFailed { .. }
            | Input::FoundAlone { .. }
            | Input::FoundAnother { .. }
            | Input::Answered { .. }
            | Input::Opened { .. }
            | Input::Drained { .. }
            | Input::StoreFailed { .. }
            | Input::Left { .. } => (),
            Input::StopAsked { ending } => self.on_stop_asked(ending, now),
            Input::HandOverAsked => self.on_hand_over_asked(now),
            Input::StopAfterHandOver { ending } => self.on_stop_after_hand_over(ending, now),
            Input::OtherServes => self.on_other_serves(),
            Input::LameDuckAsked => self.on_lame_duck_asked(),
            Input::SeenOff => self.on_stop_asked(Ending::Done, now),
            Input::Heartbeat { payload } => self.on_heartbeat(&payload, now.at),
            Input::RivalAnswered => self.on_rival_answered(),
            Input::Due => self.on_due(now),
        }
    }

    // ---- becoming active -----------------------------------------------------------------------

    fn on_won(&mut self, epoch: Epoch, predecessor: Predecessor, now: Now) {
        if let Life::HandingOver(ending) | Life::SeeingThrough { ending, .. } = self.life {
            // It was lost before it could be given back, and nobody else wants it.
            self.on_stop_asked(ending, now);
        } else if let Role::Leaving { .. } = self.role {
            // Its keeper was faster than the last thread of the former term.
            self.won = Some((epoch, predecessor));
        } else {
            assert!(self.role == Role::Standby, "the lease was won as {:?}", self.role);
            self.begin(epoch, predecessor, now);
        }
    }

    fn begin(&mut self, epoch: Epoch, predecessor: Predecessor, now: Now) {
        self.term += 1;
        self.awaits_successor = false;
        self.role = Role::Recovering { epoch };
        if let Some(group) = &mut self.group {
            group.on_active(now.wall, now.at);
        }
        self.effects.push_back(Effect::Recover { term: self.term, epoch, predecessor });
    }

    fn on_recovered(&mut self, now: Now) {
        if let Role::Recovering { epoch } = self.role {
            self.effects.push_back(Effect::Activate { term: self.term });
            if self.is_stopping() {
                self.drain(epoch, now);
            } else if self.group.is_none() {
                self.role = Role::Probing { epoch };
                self.effects.push_back(Effect::AskAround { term: self.term });
            } else {
                self.serve(epoch, now);
            }
        } else if let Role::Leaving { rest: Rest::Recovery, .. } = self.role {
            self.await_store();
        }
    }

    fn on_recovery_failed(&mut self, failure: Failure, now: Now) {
        if let Role::Recovering { epoch } = self.role {
            if self.is_stopping() {
                self.effects.push_back(Effect::Complain { text: failure.text });
                self.end();
            } else if let Some(release) = self.excuse(failure, now) {
                self.withdraw();
                self.take_back();
                self.role = Role::Standby;
                self.release(epoch, release);
            }
        } else if let Role::Leaving { rest: Rest::Recovery, .. } = self.role {
            self.go(now);
        }
    }

    /// Says why an activation failed; how to release then, unless the process ends by that.
    fn excuse(&mut self, failure: Failure, now: Now) -> Option<Release> {
        let Failure { text, is_final, lasts } = failure;
        let is_alone = self.group.is_none();
        if is_final || is_alone && !self.has_served && lasts {
            self.fail(if is_alone { format!("Failed to start: {text}") } else { text }, now);
            return None;
        }
        let retry_after = RETRY_MIN.saturating_mul(1 << self.failures.min(10)).min(RETRY_MAX);
        self.failures += 1;
        self.effects.push_back(Effect::Complain { text: text.clone() });
        self.effects.push_back(Effect::ShowTrouble { text, lasts });
        Some(Release { is_clean: false, retry_after })
    }

    fn on_found_alone(&mut self, now: Now) {
        if let Role::Probing { epoch } = self.role {
            self.serve(epoch, now);
        }
    }

    /// At the start that is final, as with the reference. Whoever has served already is not ended
    /// by an answer that anybody can give.
    fn on_found_another(&mut self, text: String, now: Now) {
        if let Role::Probing { .. } = self.role {
            let failure = Failure { text, is_final: !self.has_served, lasts: false };
            if let Some(release) = self.excuse(failure, now) {
                self.leave(Some(release), now);
            }
        }
    }

    fn serve(&mut self, epoch: Epoch, now: Now) {
        self.failures = 0;
        self.role = Role::Opening { epoch, missing: self.loops, is_open: false };
        self.effects.push_back(Effect::Serve { term: self.term });
        self.due_at = Some(now.at + LOOPS_ANSWER_WITHIN);
    }

    fn on_answered(&mut self, question: Question, now: Now) {
        match (&mut self.role, question) {
            (Role::Opening { missing, .. }, Question::Serve) => {
                *missing = missing.saturating_sub(1);
                if *missing == 0 {
                    self.due_at = None;
                }
                self.settle(now);
            }
            (Role::Settling { epoch, missing }, Question::Sync) => {
                *missing = missing.saturating_sub(1);
                if *missing == 0 {
                    self.role = Role::Active { epoch: *epoch };
                    self.rival = Rival::of_active(now.at);
                    self.due_at = None;
                    self.effects.push_back(Effect::Announce);
                }
            }
            (Role::Leaving { rest: Rest::Loops { missing }, .. }, Question::Deactivate) => {
                *missing = missing.saturating_sub(1);
                if *missing == 0 {
                    self.await_store();
                }
            }
            (_, Question::Through) => self.on_through(now),
            // Of a role that was left meanwhile.
            (_, Question::Serve | Question::Sync | Question::Deactivate) => (),
        }
    }

    fn on_opened(&mut self, now: Now) {
        if let Role::Opening { is_open, .. } = &mut self.role {
            *is_open = true;
            self.has_served = true;
            self.settle(now);
        }
    }

    /// Once every loop has mailed its interests to all others, a second round sees them in.
    fn settle(&mut self, now: Now) {
        if let Role::Opening { epoch, missing: 0, is_open: true } = self.role {
            self.role = Role::Settling { epoch, missing: self.loops };
            self.effects.push_back(Effect::Sync { term: self.term });
            self.due_at = Some(now.at + LOOPS_ANSWER_WITHIN);
        }
    }

    // ---- serving no more -----------------------------------------------------------------------

    fn on_lost(&mut self, why: String, now: Now) {
        self.effects.push_back(Effect::Complain { text: why });
        match self.role {
            // The report crossed our own release on its way.
            Role::Standby | Role::Ended => (),
            Role::Leaving { epoch, rest, .. } => {
                self.role = Role::Leaving { epoch, rest, release: None };
                self.won = None;
            }
            // Nothing may be written any more, so there is nothing to drain.
            Role::Recovering { .. } | Role::Draining { .. } if self.is_stopping() => self.end(),
            Role::Recovering { .. }
            | Role::Probing { .. }
            | Role::Opening { .. }
            | Role::Settling { .. }
            | Role::Active { .. }
            | Role::Draining { .. } => self.leave(None, now),
        }
    }

    /// What is staged cannot be committed any more: it is dropped.
    fn on_store_failed(&mut self, text: String, is_final: bool, now: Now) {
        if let Role::Draining { .. } = self.role {
            return self.on_drained(Err(text), now);
        }
        if is_final {
            self.effects.push_back(Effect::Complain { text: text.clone() });
            return self.fail(text, now);
        }
        self.effects.push_back(Effect::Complain { text });
        match self.role {
            Role::Probing { .. }
            | Role::Opening { .. }
            | Role::Settling { .. }
            | Role::Active { .. } => {
                let release = Release { is_clean: false, retry_after: Duration::ZERO };
                self.leave(Some(release), now);
            }
            Role::Standby
            | Role::Recovering { .. }
            | Role::Draining { .. }
            | Role::Leaving { .. }
            | Role::Ended => (),
        }
    }

    /// Lets go of everything of this term.
    fn leave(&mut self, release: Option<Release>, now: Now) {
        let Some(epoch) = self.epoch() else { return };
        self.withdraw();
        self.take_back();
        let rest = if let Role::Recovering { .. } = self.role {
            Rest::Recovery
        } else {
            self.due_at = Some(now.at + LOOPS_ANSWER_WITHIN);
            Rest::Loops { missing: self.loops }
        };
        self.role = Role::Leaving { epoch, rest, release };
    }

    /// Nothing that was said under the lease leaves any more: also where there are no engines yet,
    /// because heartbeats were. It would hold up all that the loops say behind it.
    fn take_back(&mut self) {
        self.effects.push_back(Effect::Deactivate { term: self.term });
    }

    fn withdraw(&mut self) {
        if let Some(group) = &mut self.group {
            group.on_inactive();
        }
        self.rival = Rival::default();
        self.due_at = None;
        self.effects.push_back(Effect::Withdraw);
    }

    /// A disk that does not answer delays the return to standby; but the end of a process is
    /// bounded.
    fn await_store(&mut self) {
        let Role::Leaving { epoch, release, .. } = self.role else { return };
        self.role = Role::Leaving { epoch, rest: Rest::Threads, release };
        self.effects.push_back(Effect::AwaitStore { term: self.term });
        if !self.is_stopping() {
            self.due_at = None;
        }
    }

    fn on_left(&mut self, now: Now) {
        if let Role::Leaving { rest: Rest::Threads, .. } = self.role {
            self.go(now);
        }
    }

    /// No thread of the term runs any more.
    fn go(&mut self, now: Now) {
        let Role::Leaving { epoch, release, .. } = self.role else { return };
        self.role = Role::Standby;
        self.due_at = None;
        if let Some(release) = release {
            self.release(epoch, release);
        }
        if self.is_stopping() {
            self.end();
        } else if let Life::HandingOver(_) = self.life {
            self.due_at = Some(now.at + SUCCESSOR_SERVES_WITHIN);
        } else if let Some((epoch, predecessor)) = self.won.take() {
            self.begin(epoch, predecessor, now);
        }
    }

    fn release(&mut self, epoch: Epoch, Release { is_clean, retry_after }: Release) {
        self.effects.push_back(Effect::Release { epoch, is_clean, retry_after });
    }

    // ---- the group, and what is due ------------------------------------------------------------

    fn on_waiting(&mut self, holder: Option<&str>) {
        let Some(group) = &mut self.group else { return };
        if group.set_holder(holder) {
            // Whoever was believed before is not the one.
            self.reachable_until = None;
            self.effects.push_back(Effect::ShowReachable(false));
        }
        self.effects.push_back(Effect::Survey);
    }

    /// On a standby: clients of this process reach the active. On an active: another server claims
    /// to be active too; believe the data, not the message.
    fn on_heartbeat(&mut self, payload: &[u8], now: Instant) {
        let is_active = match self.role {
            Role::Standby | Role::Recovering { .. } | Role::Leaving { .. } | Role::Ended => false,
            Role::Probing { .. }
            | Role::Opening { .. }
            | Role::Settling { .. }
            | Role::Active { .. }
            | Role::Draining { .. } => true,
        };
        let Some(group) = &mut self.group else { return };
        match group.hear(payload, is_active, now) {
            Meaning::Nothing => (),
            Meaning::ActiveIsReachable => {
                self.reachable_until = Some(now + REACHABLE_FOR);
                self.effects.push_back(Effect::ShowReachable(true));
            }
            Meaning::OtherClaims { who, is_news } => {
                if is_news {
                    let text = format!("ft: serverID {who:?} claims to be active");
                    self.effects.push_back(Effect::Complain { text });
                }
                if self.rival.on_claim(who, now) {
                    if self.rival.on_asked(now) {
                        self.effects.push_back(Effect::ShowRival(None));
                    }
                    self.effects.push_back(Effect::AskRival);
                }
                self.effects.push_back(Effect::CheckLease);
            }
        }
    }

    /// The store tells who is active, and it says that this server is. So the other one has another
    /// store, and only a person knows which of them is right.
    fn on_rival_answered(&mut self) {
        let Some(who) = self.rival.on_answered() else { return };
        let text = format!(
            "ft: serverID {who:?} is active in this group too and answers clients, though this \
             server holds the lease of its store: look whether their stores are one (a directory \
             that is not mounted, another database), and stop the one that has the wrong store"
        );
        self.effects.push_back(Effect::Complain { text: text.clone() });
        self.effects.push_back(Effect::ShowRival(Some(text)));
    }

    fn on_due(&mut self, now: Now) {
        let is_due = |at: &Instant| *at <= now.at;
        if self.reachable_until.take_if(|at| is_due(at)).is_some() {
            self.effects.push_back(Effect::ShowReachable(false));
        }
        if self.rival.due(now.at) {
            self.effects.push_back(Effect::ShowRival(None));
        }
        if let Some(group) = &mut self.group
            && let Some(payload) = group.due(now.at)
        {
            let subject = group.subject().clone();
            self.effects.push_back(Effect::Publish { subject, payload });
        }
        if self.due_at.take_if(|at| is_due(at)).is_some() {
            self.on_too_late(now);
        }
    }

    fn on_too_late(&mut self, now: Now) {
        match self.role {
            Role::Draining { .. } => self.on_drained(Err(NOT_CLOSED_IN_TIME.to_owned()), now),
            Role::Recovering { .. } | Role::Leaving { .. } if self.is_stopping() => self.end(),
            Role::Opening { .. } | Role::Settling { .. } | Role::Leaving { .. } => {
                self.effects.push_back(Effect::Break);
            }
            // No other member serves: clients are no better off for waiting longer.
            Role::Standby => self.on_hand_over_late(now),
            Role::Recovering { .. } | Role::Probing { .. } | Role::Active { .. } | Role::Ended => {}
        }
    }

    /// Under which epoch it holds the lease, or held it and still has something to end.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match self.role {
            Role::Standby | Role::Ended => None,
            Role::Recovering { epoch }
            | Role::Probing { epoch }
            | Role::Opening { epoch, .. }
            | Role::Settling { epoch, .. }
            | Role::Active { epoch }
            | Role::Draining { epoch, .. }
            | Role::Leaving { epoch, .. } => Some(epoch),
        }
    }

    fn is_stopping(&self) -> bool {
        matches!(self.life, Life::Stopping(_))
    }
}
