//! The thread that takes and renews the lease and reports its loss.
//!
//! It does nothing else, so that load cannot delay a renewal. After a loss it waits for the lease
//! again by itself. The lease clock is revoked before anybody is told of a loss.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::base::epoch::{Fence, LeaseClock, Predecessor};
use crate::base::limits;
use crate::base::time::Instant;
use crate::base::world;
use crate::election::epoch_files::Owner;
use crate::election::file_lock::FileLease;
use crate::election::lease::{Attempt, Grant, Holder, Lease, LeaseError, Wake};

/// How long a stand-alone process waits for a predecessor that may still be dying.
const STAND_ALONE_PATIENCE: Duration = Duration::from_secs(2);
/// Pause after a failure that may pass by itself.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);
/// Pause after a failure that stays until a person acts.
const NEVER_PAUSE: Duration = Duration::from_secs(5);
/// How soon a confirmation that failed is tried again, as long as the lease lasts.
const CONFIRM_AGAIN: Duration = Duration::from_millis(20);

/// Whether there may be other members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A group: waits for the lease for ever.
    Group,
    /// One server alone: refuses to start if another one has the store.
    StandAlone,
}

/// How a keeper is set up.
#[derive(Clone, Debug)]
pub struct KeeperSettings {
    /// The shared directory; it exists.
    pub root: PathBuf,
    /// After how long without a sign of life a living holder is replaced; zero = never.
    pub steal_after: Duration,
    /// Whether there may be other members.
    pub mode: Mode,
    /// What the holder record says of this process.
    pub owner: Owner,
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
    /// The lease cannot be taken or confirmed for now. Told when it changes.
    Trouble {
        /// A line for the log.
        text: String,
    },
}

enum Command {
    Wake,
    CheckNow,
    Release { clean: bool, retry_after: Duration },
    Stop,
}

/// A running keeper. Dropping it ends the thread, and with it the lease.
pub struct Keeper {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// How long the lease of a group with this steal time lasts without confirmation.
#[must_use]
pub fn lease_bound(steal_after: Duration) -> Duration {
    let steal_after = if steal_after.is_zero() { limits::STEAL_AFTER_DEFAULT } else { steal_after };
    steal_after / 3
}

/// Starts the keeper of a shared directory.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn(
    settings: KeeperSettings,
    clock: LeaseClock,
    report: impl FnMut(KeeperEvent) + Send + 'static,
) -> io::Result<Keeper> {
    // A stand-alone server takes nothing from anybody.
    let steal_after = match settings.mode {
        Mode::Group => settings.steal_after,
        Mode::StandAlone => Duration::ZERO,
    };
    let lease = FileLease::new(&settings.root, settings.owner, steal_after);
    let terms = Terms { bound: lease_bound(settings.steal_after), mode: settings.mode };
    spawn_with(Box::new(lease), terms, clock, report)
}

/// What a keeper needs to know beside its lease.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long the lease lasts without confirmation.
    pub bound: Duration,
    /// Whether there may be other members.
    pub mode: Mode,
}

/// Starts the keeper of any lease.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn_with(
    lease: Box<dyn Lease>,
    terms: Terms,
    clock: LeaseClock,
    report: impl FnMut(KeeperEvent) + Send + 'static,
) -> io::Result<Keeper> {
    // Unbounded, but for each waiting thread and each command of a person there is one entry.
    let (commands, inbox) = crossbeam_channel::unbounded();
    let waker = commands.clone();
    let wake: Wake = Arc::new(move || {
        // The keeper may have ended before a lock was granted.
        let _ = waker.send(Command::Wake);
    });
    let started_at = world::instant();
    let mut task = Task {
        lease,
        terms,
        clock,
        report: Box::new(report),
        inbox,
        wake,
        state: State::Standby { next_try_at: started_at, not_before: started_at },
        refuse_at: (terms.mode == Mode::StandAlone).then(|| started_at + STAND_ALONE_PATIENCE),
        told: None,
    };
    let thread =
        thread::Builder::new().name("lease-keeper".to_owned()).spawn(move || task.run())?;
    Ok(Keeper { commands, thread: Some(thread) })
}

impl Keeper {
    /// Looks at lease and epoch at once: a heartbeat came from another server.
    pub fn check_now(&self) {
        self.tell(Command::CheckNow);
    }

    /// Gives the lease back, and does not try for it again before `retry_after`. `clean`: the
    /// store was closed and everything in it is synced. Not answered by a `Lost`.
    pub fn release(&self, clean: bool, retry_after: Duration) {
        self.tell(Command::Release { clean, retry_after });
    }

    /// Ends the thread, and waits for that; a lease that is still held goes without a clean mark.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // With `panic = "abort"` a thread never ends by a panic.
            let _ = thread.join();
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
        next_confirm_at: Instant,
        confirmed_at: Instant,
    },
}

struct Task {
    lease: Box<dyn Lease>,
    terms: Terms,
    clock: LeaseClock,
    report: Box<dyn FnMut(KeeperEvent) + Send>,
    inbox: Receiver<Command>,
    wake: Wake,
    state: State,
    /// When to give up; `None` as soon as the lease was won once.
    refuse_at: Option<Instant>,
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
                Some(Command::Release { clean, retry_after }) => self.release(clean, retry_after),
                Some(Command::Wake | Command::CheckNow) | None => {
                    if self.turn().is_none() {
                        return self.stop();
                    }
                }
            }
        }
    }

    fn stop(&mut self) {
        self.clock.revoke();
        // Not clean, so nothing is to be marked that could fail.
        let _ = self.lease.release(false);
    }

    fn release(&mut self, clean: bool, retry_after: Duration) {
        self.clock.revoke();
        if let Err(error) = self.lease.release(clean) {
            self.trouble(&error);
        }
        let not_before = world::instant() + retry_after;
        self.state = State::Standby { next_try_at: not_before, not_before };
    }

    /// One try or one confirmation; `None` when there is nothing more to do for ever.
    fn turn(&mut self) -> Option<()> {
        match self.state {
            State::Standby { not_before, .. } if world::instant() < not_before => Some(()),
            State::Standby { .. } => self.try_take(),
            State::Holding { confirmed_at, .. } => {
                self.confirm(confirmed_at);
                Some(())
            }
        }
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
        (self.report)(KeeperEvent::Won { fence, predecessor });
        self.refuse_at = None;
        self.told = None;
        self.holding(checked_at);
        let settled = self.lease.settle().and_then(|()| self.lease.wait(&self.wake).map(|_| ()));
        if let Err(error) = settled {
            self.trouble(&error);
        }
    }

    fn holding(&mut self, confirmed_at: Instant) {
        let next_confirm_at = confirmed_at + self.terms.bound / 4;
        self.state = State::Holding { next_confirm_at, confirmed_at };
    }

    fn confirm(&mut self, confirmed_at: Instant) {
        let began_at = world::instant();
        match self.lease.confirm() {
            Ok(()) => {
                self.clock.confirm(began_at, self.terms.bound);
                self.holding(began_at);
                self.told = None;
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
                self.state = State::Holding { next_confirm_at, confirmed_at };
            }
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

    /// Tells what is wrong, once; how long to wait before the next try.
    fn trouble(&mut self, error: &LeaseError) -> Duration {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            self.told = Some(text.clone());
            (self.report)(KeeperEvent::Trouble { text });
        }
        match error {
            LeaseError::Never(_) => NEVER_PAUSE,
            LeaseError::NotNow(_) | LeaseError::Lost(_) => TROUBLE_PAUSE,
        }
    }
}
