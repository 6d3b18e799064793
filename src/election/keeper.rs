//! The thread that takes and renews the lease and reports its loss.
//!
//! It does nothing else, so that load cannot delay a renewal. After a loss it waits for the lease
//! again by itself. The lease clock is revoked before anybody is told of a loss.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::base::epoch::{Epoch, Fence, FenceError, LeaseClock, Predecessor};
use crate::base::limits;
use crate::base::pulse::{Stall, Vitals};
use crate::base::time::Instant;
use crate::base::world;
use crate::election::lease::{Attempt, Grant, Holder, Lease, LeaseError, Wake};

#[cfg(test)]
mod tests;

/// The name of its thread, by which a process of ours is known. At most 15 letters, as the kernel
/// keeps of it.
pub(crate) const THREAD: &str = "lease-keeper";

/// How long a stand-alone process waits for a predecessor that may still be dying.
const STAND_ALONE_PATIENCE: Duration = Duration::from_secs(2);
/// Pause after a failure that may pass by itself.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);
/// Pause after a failure that stays until a person acts.
const NEVER_PAUSE: Duration = Duration::from_secs(5);
/// How soon a confirmation that failed is tried again, as long as the lease lasts.
const CONFIRM_AGAIN: Duration = Duration::from_millis(20);
/// How long a stop waits for a call to the disk or database.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether the thread has ended.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// Between two confirmations that heartbeats of others ask for.
const CHECK_PAUSE: Duration = Duration::from_millis(100);
/// How often a standby looks whether the threads of its own former term have ended.
const FORMER_TERM_PAUSE: Duration = Duration::from_millis(50);

/// Whether there may be other members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A group: waits for the lease for ever.
    Group,
    /// One server alone: refuses to start if another one has the store.
    StandAlone,
}

/// What a keeper reports.
pub enum KeeperEvent {
    /// Somebody else is active. Told when it changes.
    Waiting {
        /// What is known of it.
        holder: Option<Holder>,
        /// A line for the log.
        why: String,
    },
    /// This process is the holder from now on.
    Won {
        /// For the store.
        fence: Arc<dyn Fence>,
        /// How the holder before left.
        predecessor: Predecessor,
    },
    /// Not any more; the lease clock was revoked before.
    Lost {
        /// A line for the log.
        why: String,
    },
    /// Another process has the store, and this one stands alone. The keeper has ended.
    RefusedStandAlone {
        /// What is known of it.
        holder: Option<Holder>,
        /// A line for the log.
        why: String,
    },
    /// This one stands alone and cannot ever take the lease (no permission, a file system that is
    /// only read). The keeper has ended.
    Impossible {
        /// A line for the log.
        why: String,
    },
    /// The lease cannot be taken or confirmed for now. Told when it changes.
    Trouble {
        /// A line for the log.
        text: String,
        /// It stays until a person acts.
        lasts: bool,
    },
}

enum Command {
    Wake,
    CheckNow,
    Release {
        epoch: Epoch,
        clean: bool,
        retry_after: Duration,
    },
    /// What a release said of when to try again holds no more.
    TryNow,
    Stop,
}

/// A running keeper. Dropping it ends the thread, and with it the lease.
pub struct Keeper {
    commands: Sender<Command>,
    /// A check was asked for and not begun: more of them are the same one.
    is_check_wanted: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How long the lease of a group with this steal time lasts without confirmation.
#[must_use]
pub fn lease_bound(steal_after: Duration) -> Duration {
    stall_bound(steal_after) / 3
}

/// What a keeper needs to know beside its lease.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long the lease lasts without confirmation.
    pub bound: Duration,
    /// Whether there may be other members.
    pub mode: Mode,
    /// Whether others take the role of a member that hangs: then a loop that hangs ends the
    /// renewal.
    pub is_replaced_when_hung: bool,
    /// Whether loops and stores get on.
    pub vitals: Vitals,
}

/// How long a thread may go without a sign of progress in a group with this steal time.
#[must_use]
pub fn stall_bound(steal_after: Duration) -> Duration {
    if steal_after.is_zero() { limits::STEAL_AFTER_DEFAULT } else { steal_after }
}

/// Starts the keeper of a lease. `report` is called from its thread and must not block.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn(
    lease: Box<dyn Lease>,
    terms: Terms,
    clock: LeaseClock,
    report: impl FnMut(KeeperEvent) + Send + 'static,
) -> io::Result<Keeper> {
    // Unbounded, but there is one entry for each waiting thread, each end of a term, and all
    // checks that are asked for together.
    let (commands, inbox) = crossbeam_channel::unbounded();
    let waker = commands.clone();
    let wake: Wake = Arc::new(move || {
        // The keeper may have ended before a lock was granted.
        let _ = waker.send(Command::Wake);
    });
    let started_at = world::instant();
    let is_check_wanted = Arc::new(AtomicBool::new(false));
    let mut task = Task {
        lease,
        is_check_wanted: Arc::clone(&is_check_wanted),
        refuse_at: (terms.mode == Mode::StandAlone).then(|| started_at + STAND_ALONE_PATIENCE),
        terms,
        clock,
        report: Box::new(report),
        inbox,
        wake,
        state: State::Standby { next_try_at: started_at, not_before: started_at },
        stuck_since: None,
        told: None,
    };
    let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(move || task.run())?;
    Ok(Keeper { commands, is_check_wanted, thread: Some(thread) })
}

impl Keeper {
    /// Looks at lease and epoch soon: a heartbeat came from another server. Anybody can send any
    /// number of them, so they cost no more than ten looks a second.
    pub fn check_now(&self) {
        if !self.is_check_wanted.swap(true, Ordering::AcqRel) {
            self.tell(Command::CheckNow);
        }
    }

    /// Tries for the lease again at once, although it was released for a while.
    pub fn try_now(&self) {
        self.tell(Command::TryNow);
    }

    /// Gives the lease of `epoch` back, and does not try for it again before `retry_after`.
    /// `clean`: the store was closed and everything in it is synced. Not answered by a `Lost`. If
    /// that epoch was lost meanwhile, a later one that was won since is not touched.
    pub fn release(&self, epoch: Epoch, clean: bool, retry_after: Duration) {
        self.tell(Command::Release { epoch, clean, retry_after });
    }

    /// Ends the thread, and waits for that, but not for a disk that does not answer: then the lease
    /// ends with the process. One that is still held goes without a clean mark.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.tell(Command::Stop);
        let Some(thread) = self.thread.take() else { return };
        let deadline = world::instant() + ENDS_WITHIN;
        while !thread.is_finished() && world::instant() < deadline {
            thread::park_timeout(LOOK_PAUSE);
        }
    }

    fn tell(&self, command: Command) {
        // A stand-alone keeper that refused has ended by itself.
        let _ = self.commands.send(command);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

enum State {
    /// Not even a wake-up makes it try before `not_before`.
    Standby {
        next_try_at: Instant,
        not_before: Instant,
    },
    Holding {
        fence: Arc<dyn Fence>,
        next_confirm_at: Instant,
        confirmed_at: Instant,
    },
}

struct Task {
    lease: Box<dyn Lease>,
    is_check_wanted: Arc<AtomicBool>,
    terms: Terms,
    clock: LeaseClock,
    report: Box<dyn FnMut(KeeperEvent) + Send>,
    inbox: Receiver<Command>,
    wake: Wake,
    state: State,
    /// When to give up; `None` as soon as the lease was won once.
    refuse_at: Option<Instant>,
    /// What the holder record says of our store.
    stuck_since: Option<Instant>,
    /// The last line that was reported, so that it is not repeated at each try.
    told: Option<String>,
}

impl Task {
    fn run(&mut self) {
        loop {
            let due_at = match self.state {
                State::Standby { next_try_at, .. } => next_try_at,
                State::Holding { next_confirm_at, .. } => next_confirm_at,
            };
            let pause = due_at.since(world::instant());
            let command = match pause {
                Duration::ZERO => self.inbox.try_recv().ok(),
                pause => self.inbox.recv_timeout(pause).ok(),
            };
            match command {
                Some(Command::Stop) => return self.stop(),
                Some(Command::Release { epoch, clean, retry_after }) => {
                    self.release(epoch, clean, retry_after);
                }
                Some(Command::TryNow) => self.try_now(),
                // However many there are, what is due comes first.
                Some(Command::CheckNow) if !pause.is_zero() => self.on_check_wanted(),
                Some(Command::Wake | Command::CheckNow) | None => {
                    self.is_check_wanted.store(false, Ordering::Release);
                    if self.turn().is_none() {
                        return self.stop();
                    }
                }
            }
        }
    }

    /// Whoever was to come first has come.
    fn try_now(&mut self) {
        if let State::Standby { next_try_at, not_before } = &mut self.state {
            *not_before = Instant::default();
            *next_try_at = (*next_try_at).min(world::instant());
        }
    }

    /// A standby looks all the time anyway.
    fn on_check_wanted(&mut self) {
        self.is_check_wanted.store(false, Ordering::Release);
        if let State::Holding { next_confirm_at, confirmed_at, .. } = &mut self.state {
            *next_confirm_at = (*next_confirm_at).min(*confirmed_at + CHECK_PAUSE);
        }
    }

    fn stop(&mut self) {
        self.clock.revoke();
        // Not clean, so nothing is to be marked that could fail.
        let _ = self.lease.release(false);
    }

    fn release(&mut self, released: Epoch, clean: bool, retry_after: Duration) {
        if matches!(&self.state, State::Holding { fence, .. } if fence.epoch() != released) {
            return;
        }
        self.clock.revoke();
        if let Err(error) = self.lease.release(clean) {
            self.trouble(&error);
        }
        let not_before = world::instant() + retry_after;
        self.state = State::Standby { next_try_at: not_before, not_before };
    }

    /// One try or one confirmation; `None` when there is nothing more to do for ever.
    fn turn(&mut self) -> Option<()> {
        match &self.state {
            State::Standby { not_before, .. } if world::instant() < *not_before => Some(()),
            State::Standby { .. } if self.terms.vitals.is_store_in_use() => {
                self.wait_for_former_term();
                Some(())
            }
            State::Standby { .. } => self.try_take(),
            State::Holding { fence, confirmed_at, .. } => {
                let (fence, confirmed_at) = (Arc::clone(fence), *confirmed_at);
                self.confirm(&fence, confirmed_at);
                Some(())
            }
        }
    }

    /// A thread of the store of a former term may be in the middle of a write: as long as it runs,
    /// no other one may begin.
    fn wait_for_former_term(&mut self) {
        let now = world::instant();
        if let Some(stall) = self.terms.vitals.stuck_store(now) {
            let text = format!("this server cannot become active: {}", stall.what);
            self.tell_trouble(text);
        }
        let next_try_at = now + FORMER_TERM_PAUSE;
        self.state = State::Standby { next_try_at, not_before: Instant::default() };
    }

    fn try_take(&mut self) -> Option<()> {
        let pause = match self.lease.try_take() {
            Ok(Attempt::Won(grant)) => {
                self.on_won(grant);
                return Some(());
            }
            Ok(Attempt::Held { holder, why }) => {
                let now = world::instant();
                if self.refuse_at.is_some_and(|at| at <= now) {
                    (self.report)(KeeperEvent::RefusedStandAlone { holder, why });
                    return None;
                }
                self.waiting(holder, why);
                let wanted = self.lease.wait(&self.wake);
                wanted.unwrap_or_else(|error| self.trouble(&error))
            }
            Err(LeaseError::Never(why)) if self.refuse_at.is_some() => {
                (self.report)(KeeperEvent::Impossible { why });
                return None;
            }
            Err(error) => self.trouble(&error),
        };
        let next_try_at = world::instant() + pause;
        let next_try_at = self.refuse_at.map_or(next_try_at, |at| at.min(next_try_at));
        self.state = State::Standby { next_try_at, not_before: Instant::default() };
        Some(())
    }

    fn on_won(&mut self, grant: Grant) {
        let Grant { fence, predecessor, checked_at } = grant;
        self.clock.confirm(checked_at, self.terms.bound);
        self.stuck_since = None;
        self.holding(&fence, checked_at);
        (self.report)(KeeperEvent::Won { fence, predecessor });
        self.refuse_at = None;
        self.told = None;
        let settled = self.lease.settle().and_then(|()| self.lease.wait(&self.wake).map(|_| ()));
        if let Err(error) = settled {
            self.trouble(&error);
        }
    }

    fn holding(&mut self, fence: &Arc<dyn Fence>, confirmed_at: Instant) {
        let next_confirm_at = confirmed_at + self.terms.bound / 4;
        let fence = Arc::clone(fence);
        self.state = State::Holding { fence, next_confirm_at, confirmed_at };
    }

    fn confirm(&mut self, fence: &Arc<dyn Fence>, confirmed_at: Instant) {
        let began_at = world::instant();
        self.terms.vitals.knock();
        if self.terms.is_replaced_when_hung
            && let Some(stall) = self.terms.vitals.hung_loop(began_at)
        {
            return self.withhold(fence, confirmed_at, &stall);
        }
        let stall = self.terms.vitals.stuck_store(began_at);
        self.mark_stuck(stall.as_ref());
        match self.lease.confirm() {
            Ok(()) => {
                self.clock.confirm(began_at, self.terms.bound);
                self.holding(fence, began_at);
                if stall.is_none() {
                    self.told = None;
                }
                // The lock may have to be waited for again, if its file was replaced.
                if let Err(error) = self.lease.wait(&self.wake) {
                    self.trouble(&error);
                }
            }
            Err(LeaseError::Lost(why)) => self.on_lost(why),
            Err(error) => {
                self.trouble(&error);
                let now = world::instant();
                if confirmed_at + self.terms.bound <= now {
                    return self.on_lost(error.to_string());
                }
                let next_confirm_at = now + CONFIRM_AGAIN;
                let fence = Arc::clone(fence);
                self.state = State::Holding { fence, next_confirm_at, confirmed_at };
            }
        }
    }

    /// A process with a loop that hangs serves only a part of its clients: it gives no sign of
    /// life, so that another member takes over, and looks whether one has.
    fn withhold(&mut self, fence: &Arc<dyn Fence>, confirmed_at: Instant, stall: &Stall) {
        self.tell_trouble(format!("the lease is not renewed any more: {}", stall.what));
        match fence.check() {
            Err(error @ FenceError::Superseded { .. }) => return self.on_lost(error.to_string()),
            Err(FenceError::Unreadable(_)) | Ok(()) => (),
        }
        let next_confirm_at = world::instant() + self.terms.bound / 4;
        let fence = Arc::clone(fence);
        self.state = State::Holding { fence, next_confirm_at, confirmed_at };
    }

    /// Keeps what the holder record says of our store up to date.
    fn mark_stuck(&mut self, stall: Option<&Stall>) {
        if let Some(stall) = stall {
            self.tell_trouble(stall.what.to_string());
        }
        let since = stall.map(|stall| stall.since);
        if self.stuck_since == since {
            return;
        }
        match self.lease.mark_stuck(since) {
            Ok(()) => self.stuck_since = since,
            // Tried again with the next sign of life.
            Err(error) => drop(self.trouble(&error)),
        }
    }

    fn on_lost(&mut self, why: String) {
        self.clock.revoke();
        (self.report)(KeeperEvent::Lost { why });
        // Not clean, so nothing is to be marked that could fail.
        let _ = self.lease.release(false);
        self.told = None;
        self.state =
            State::Standby { next_try_at: world::instant(), not_before: Instant::default() };
    }

    fn waiting(&mut self, holder: Option<Holder>, why: String) {
        if self.told.as_ref() != Some(&why) {
            self.told = Some(why.clone());
            (self.report)(KeeperEvent::Waiting { holder, why });
        }
    }

    fn tell_trouble(&mut self, text: String) {
        self.tell(text, false);
    }

    fn tell(&mut self, text: String, lasts: bool) {
        if self.told.as_ref() != Some(&text) {
            self.told = Some(text.clone());
            (self.report)(KeeperEvent::Trouble { text, lasts });
        }
    }

    /// Tells what is wrong, once; how long to wait before the next try.
    fn trouble(&mut self, error: &LeaseError) -> Duration {
        self.tell(error.to_string(), matches!(error, LeaseError::Never(_)));
        match error {
            LeaseError::Never(_) => NEVER_PAUSE,
            LeaseError::NotNow(_) | LeaseError::Lost(_) => TROUBLE_PAUSE,
        }
    }
}
