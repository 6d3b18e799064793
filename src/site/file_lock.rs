//! A lock on a file of the shared directory.
//!
//! Two locks on the Go server's lock file (`root_lock`), and beside them the epoch's
//! (`epoch_files`). A thread blocks in the kernel for whichever is waited for, so that a dead owner
//! is noticed at once (`lock_waiter`).
//!
//! The kernel takes the locks of a dying process away one by one, so any of them can still be held
//! an instant after another was granted: each is waited for, none is only tried.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use crate::base::files::{self, Access, Links};
use crate::base::limits;
use crate::base::time::Instant;
use crate::base::world;
use crate::election::keeper;
use crate::election::lease::{Attempt, Grant, Holder, Lease, LeaseError, Owner, Wake};
use crate::election::sight::{self, Mark, NewestEpoch, Proof, Sight, Stillness, Verdict, judge};
use crate::log::STREAM;
use crate::site::epoch_files::{self, Claim, FileFence, LOCK_FILE, Owned};
use crate::site::lock_waiter::{Waited, Waiter, Wanted};
use crate::site::proof::Prover;
use crate::site::root_lock::{self, Tried};

/// Longest pause between two looks of a standby: at the lock file's identity, and at the counter.
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(100);
/// Pause while something is waited for that no lock tells of.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// Prepared epochs, as standbys that died leave them, beyond which the active tidies up.
const CLAIMS_MAX: usize = 16;

/// The lease of a shared directory.
pub struct FileLease {
    root: PathBuf,
    owner: Owner,
    /// Zero = never take an epoch from a living holder.
    steal_after: Duration,
    claim: Option<Claim>,
    held: Option<Held>,
    lock: Option<File>,
    lock_waiter: Option<Waiter>,
    epoch_waiter: Option<(Epoch, Waiter)>,
    /// The holder of the newest epoch, when it was last looked for.
    newest: Option<Holder>,
    /// Epochs below `newest` that were still there when it was found: none comes later.
    earlier: Vec<Epoch>,
    stillness: Stillness,
    /// For how long a member of ours has the lock and nobody an epoch.
    unclaimed: Stillness,
    proof: Proof,
    /// A write for the next proof is under way, and what the holder showed when it began.
    prover: Option<(Mark, Prover)>,
    distrusts_locks: bool,
    /// Of the lock file's two locks only the `flock` was not free.
    is_flocked: bool,
    verdict: Verdict,
}

/// What one look at the directory has shown.
struct Seen {
    sight: Sight,
    /// Of the newest epoch.
    holder: Option<Holder>,
    /// What has to stand still after our own write.
    mark: Mark,
}

struct Held {
    owned: Owned,
    fence: Arc<FileFence>,
    /// False until an active that came by stealing has got the lock: it serves without.
    has_had_lock: bool,
}

impl FileLease {
    /// A lease of `root` for `owner`.
    #[must_use]
    pub fn new(root: &Path, owner: Owner, steal_after: Duration) -> Self {
        Self {
            root: root.to_owned(),
            owner: owner.or_silent_for(keeper::stall_bound(steal_after)),
            steal_after,
            claim: None,
            held: None,
            lock: None,
            lock_waiter: None,
            epoch_waiter: None,
            newest: None,
            earlier: Vec::new(),
            stillness: Stillness::default(),
            unclaimed: Stillness::default(),
            proof: Proof::default(),
            prover: None,
            distrusts_locks: false,
            is_flocked: false,
            verdict: Verdict::WaitForLock,
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join(LOCK_FILE)
    }

    fn patience(&self) -> Duration {
        if self.steal_after.is_zero() { limits::STEAL_AFTER_DEFAULT } else { self.steal_after }
    }

    /// Sees to `self.lock`: what the waiting thread got, or what is free right now.
    fn look_at_lock(&mut self) -> Result<(), LeaseError> {
        let path = self.lock_path();
        let is_named = |file: &File| is_same_file(file, &path).unwrap_or(false);
        self.is_flocked = false;
        match self.lock_waiter.as_ref().map(Waiter::take) {
            Some(Waited::Blocked { is_halfway })
                if self.lock_waiter.as_ref().is_some_and(|waiter| waiter.is_of(&path)) =>
            {
                self.is_flocked = is_halfway;
                return Ok(());
            }
            // Another file has that name now, or none.
            Some(Waited::Blocked { .. }) => self.lock_waiter = None,
            Some(Waited::Done(file)) => {
                self.lock_waiter = None;
                let file = file.map_err(|error| not_locked(&path, &error))?;
                self.lock = file.filter(is_named);
            }
            None => (),
        }
        if self.lock.as_ref().is_some_and(|file| !is_named(file)) {
            self.lock = None;
            if let Some(held) = &self.held {
                log::error!(
                    target: STREAM,
                    "the lock file {} was removed or replaced while this server held it: it is \
                     active under epoch {} and takes the new one",
                    path.display(),
                    held.fence.epoch()
                );
            }
        }
        if self.lock.is_none() && self.epoch_waiter.is_none() {
            self.try_lock(&path)?;
        }
        Ok(())
    }

    fn try_lock(&mut self, path: &Path) -> Result<(), LeaseError> {
        let file = open_lock(path)?;
        match root_lock::try_both(&file).map_err(|error| not_locked(path, &error))? {
            Tried::Taken => self.lock = is_same_file(&file, path).unwrap_or(false).then_some(file),
            Tried::Flocked => self.is_flocked = true,
            Tried::Held => (),
        }
        Ok(())
    }

    /// What there is to see, and who holds the newest epoch.
    fn look(&mut self) -> io::Result<Seen> {
        let began_at = world::instant();
        let (is_fresh, holder) = self.find_newest()?;
        let mut sight = Sight {
            has_lock: self.lock.is_some(),
            unclaimed_for: None,
            newest: None,
            is_fresh,
            still_for: Duration::ZERO,
            is_stuck: false,
            proven_for: None,
            steal_after: self.steal_after,
            distrusts_locks: self.distrusts_locks,
            patience: self.patience(),
        };
        if let Some(holder) = &holder {
            sight.steal_after = sight::patience_with(holder, self.steal_after);
            sight.patience = sight.patience.max(holder.silence_max);
            let path = epoch_files::epoch_path(&self.root, holder.epoch);
            let is_held = epoch_files::is_locked(&path)?;
            let lock_time = self.lock.as_ref().map(lock_time).transpose()?;
            let is_released = holder.released_at.is_some() && holder.released_at == lock_time;
            let has_living_predecessor = !is_held && self.has_living_predecessor()?;
            sight.newest = Some(NewestEpoch { is_held, is_released, has_living_predecessor });
            sight.is_stuck = holder.stuck_since.is_some();
            // Another's lock is seen from here: locks work after all.
            self.distrusts_locks &= !is_held;
            sight.distrusts_locks = self.distrusts_locks;
        }
        let is_unclaimed = !sight.has_lock
            && sight.newest.is_none_or(|newest| !newest.is_held)
            && root_lock::is_of_stanby(&self.lock_path())?;
        let epoch = holder.as_ref().map_or(Epoch::default(), |holder| holder.epoch);
        let mark = match &holder {
            Some(holder) if !is_unclaimed => mark_of(holder),
            Some(_) | None => Mark::Unclaimed(epoch),
        };
        let (read, gap_max) = ((began_at, world::instant()), self.patience() / 2);
        if let Some(holder) = &holder {
            let sign = (epoch, holder.counter);
            sight.still_for = self.stillness.observe(sign, read, gap_max);
        }
        if is_unclaimed {
            sight.unclaimed_for = Some(self.unclaimed.observe((epoch, 0), read, gap_max));
        } else {
            self.unclaimed.reset();
        }
        sight.proven_for = self.proof.observe(mark, read, gap_max);
        Ok(Seen { sight, holder, mark })
    }

    /// Whether the owner of an epoch before the newest lives: it was replaced, and may still write.
    fn has_living_predecessor(&self) -> io::Result<bool> {
        for epoch in &self.earlier {
            if epoch_files::is_locked(&epoch_files::epoch_path(&self.root, *epoch))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether nothing of a store is there yet, and the newest epoch's holder. A folder of many
    /// channels is long, and at a take-over every moment counts: what was seen before is only
    /// looked at again.
    fn find_newest(&mut self) -> io::Result<(bool, Option<Holder>)> {
        if let Some(seen) = &self.newest
            && let Some(holder) = epoch_files::reread_newest(&self.root, seen)?
        {
            return Ok((false, Some(holder)));
        }
        let mut listing = epoch_files::list(&self.root)?;
        self.newest = match listing.newest(&self.root)? {
            Some(epoch) => epoch_files::read_holder(&self.root, epoch)?,
            None => None,
        };
        listing.epochs.pop_last();
        self.earlier = listing.epochs.into_iter().collect();
        Ok((!listing.has_store, self.newest.clone()))
    }

    /// Writes in the store; what is seen of it changes when that is durable.
    fn prove(&mut self, seen: &mut Seen) -> Result<(), LeaseError> {
        let failed = |error| failure("write and sync in", &self.root, &error);
        let mark = seen.mark;
        let written = self.prover.as_ref().and_then(|(before, prover)| {
            let written = prover.take()?;
            // What was written before it began to hang proves nothing.
            Some(written.map(|()| *before == mark))
        });
        if let Some(written) = written {
            self.prover = None;
            if written.map_err(failed)? {
                self.proof.give(mark, world::instant());
            }
        } else if self.prover.is_none() {
            let prover = Prover::spawn(self.root.clone(), self.owner.clone());
            self.prover = Some((mark, prover.map_err(failed)?));
        }
        seen.sight.proven_for = Some(Duration::ZERO);
        Ok(())
    }

    fn claim(&mut self, newest: Option<Epoch>) -> Result<Option<Instant>, LeaseError> {
        let before = newest.unwrap_or_default();
        let epoch = before.next();
        if epoch.is_last() {
            let path = epoch_files::epoch_path(&self.root, before);
            let path = path.display();
            return Err(LeaseError::Never(format!(
                "no epoch can follow that of {path}: if no server of this store runs, remove it"
            )));
        }
        let failed = |error: io::Error| failure("claim the next epoch in", &self.root, &error);
        let owned = match self.claim.take() {
            Some(claim) => match claim.link(&self.root, epoch) {
                Ok(true) => Some(claim.into_owned(&self.root, epoch)),
                Ok(false) => {
                    self.claim = Some(claim);
                    None
                }
                Err(error) if has_no_links(&error) => {
                    // On a full disk, one of them is all there is room for.
                    claim.discard();
                    epoch_files::claim_by_create(&self.root, epoch, &self.owner).map_err(failed)?
                }
                // A new active took it for one that a dead process left: another one is made.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(error)),
            },
            None => None,
        };
        let Some(owned) = owned else {
            return Ok(None);
        };
        let checked_at = world::instant();
        if !self.is_newest(epoch).map_err(failed)? {
            return Ok(None);
        }
        let fence = Arc::new(FileFence::new(&self.root, epoch, &self.owner.server_id));
        self.held = Some(Held { owned, fence, has_had_lock: self.lock.is_some() });
        self.epoch_waiter = None;
        Ok(Some(checked_at))
    }

    /// Whether the epoch that we have just claimed is the newest. It may be an old one whose file
    /// was cleaned away since we looked; but then the one before it was cleaned away before.
    fn is_newest(&self, epoch: Epoch) -> io::Result<bool> {
        match &self.newest {
            Some(before) => {
                let next = epoch_files::epoch_path(&self.root, epoch.next());
                let is_last = !epoch_files::is_taken(&next)?;
                let found = epoch_files::read_holder(&self.root, before.epoch)?;
                Ok(is_last && found.is_some_and(|found| found.server_id == before.server_id))
            }
            None => Ok(epoch_files::list(&self.root)?.epochs.last() == Some(&epoch)),
        }
    }

    /// The lock file that we hold must still be the one at its path.
    fn confirm_lock(&mut self) -> Result<(), LeaseError> {
        self.look_at_lock()?;
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        held.has_had_lock |= self.lock.is_some();
        if held.has_had_lock && self.lock.is_none() {
            let path = self.lock_path();
            let text = format!("{} was replaced, and the new one is locked", path.display());
            return Err(LeaseError::NotNow(text));
        }
        Ok(())
    }

    fn wait_for_lock(&mut self, wake: &Wake) -> Result<(), LeaseError> {
        if self.lock.is_some() || self.lock_waiter.is_some() {
            return Ok(());
        }
        let path = self.lock_path();
        let waiter = Waiter::spawn(open_lock(&path)?, wake, Wanted::LockFile);
        self.lock_waiter = Some(waiter.map_err(|error| not_locked(&path, &error))?);
        Ok(())
    }

    /// Waits for the death of the newest epoch's owner. The lock is left to it: an active that
    /// came by stealing takes it as soon as it is free.
    fn wait_for_epoch(&mut self, wake: &Wake) -> Result<(), LeaseError> {
        self.lock = None;
        let Some(epoch) = self.newest.as_ref().map(|holder| holder.epoch) else {
            return Ok(());
        };
        if self.epoch_waiter.as_ref().is_some_and(|(waited, _)| *waited == epoch) {
            return Ok(());
        }
        let path = epoch_files::epoch_path(&self.root, epoch);
        let file = epoch_files::open_to_wait(&self.root, epoch);
        let waiter = file.and_then(|file| Waiter::spawn(file, wake, Wanted::EpochsEnd));
        self.epoch_waiter = Some((epoch, waiter.map_err(|error| not_locked(&path, &error))?));
        Ok(())
    }

    fn tell_of_replacement(&self, Seen { sight, holder, .. }: &Seen) {
        let (whom, path) = (name_of(holder.as_ref()), self.lock_path());
        let path = path.display();
        if let Some(lasts) = sight.unclaimed_for {
            log::warn!(
                target: STREAM,
                "a stanby server has held {path} for {lasts:.1?} without claiming an epoch: that is \
                 not waited for"
            );
        } else if self.lock.is_none() && sight.newest.is_some_and(|newest| !newest.is_held) {
            log::warn!(
                target: STREAM,
                "{whom} is gone, and the one that it had replaced still holds {path}: that is not \
                 waited for"
            );
        } else if sight.is_stuck {
            let text = "says that its store makes no progress, but ours does";
            log::warn!(target: STREAM, "{whom} {text}: it is replaced");
        } else {
            let text = format!("gave no sign of life for {:.1?}", sight.still_for);
            log::warn!(target: STREAM, "{whom} {text}: it is replaced");
        }
    }

    fn forget_what_stood_still(&mut self) {
        self.stillness.reset();
        self.unclaimed.reset();
    }

    fn why(&self, holder: Option<&Holder>) -> String {
        let is_stuck = holder.is_some_and(|holder| holder.stuck_since.is_some());
        let stuck = if is_stuck { "; it says that its store makes no progress" } else { "" };
        let longer = holder.map(|holder| sight::of_longer_patience(holder, self.steal_after));
        let stuck = format!("{stuck}{}", longer.unwrap_or_default());
        let holder = name_of(holder);
        let path = self.lock_path();
        match self.verdict {
            Verdict::Claim(_) | Verdict::Prove => {
                "another member claimed the next epoch".to_owned()
            }
            Verdict::WaitForLock => format!("{holder} holds {}{stuck}", path.display()),
            Verdict::WaitForEpoch => {
                format!("{holder} is active without {}{stuck}", path.display())
            }
            Verdict::WaitForForeigner if self.is_flocked => {
                format!("another program holds a flock on {}", path.display())
            }
            Verdict::WaitForForeigner => format!(
                "{} is held, but not by a stanby server: a Go server is active; it is never \
                 replaced while it holds the lock",
                path.display()
            ),
            Verdict::WaitForClaim if self.steal_after.is_zero() => format!(
                "{} is held by a stanby server that has not claimed an epoch: with \
                 ft_steal_after 0s it is never passed over",
                path.display()
            ),
            Verdict::WaitForClaim => format!(
                "{} is held by a stanby server that is about to claim the next epoch; should it \
                 hang, it is passed over",
                path.display()
            ),
            Verdict::WaitForStillness => format!(
                "the locks of {} do not show that {holder} lives, so they are not trusted: \
                 waiting until it gives no sign of life",
                self.root.display()
            ),
        }
    }
}

impl Lease for FileLease {
    fn try_take(&mut self) -> Result<Attempt, LeaseError> {
        assert!(self.held.is_none(), "the lease is ours already");
        if self.claim.is_none() {
            let claim = Claim::prepare(&self.root, &self.owner);
            let claim = claim.map_err(|error| failure("prepare an epoch in", &self.root, &error));
            self.claim = Some(claim?);
        }
        if self.epoch_waiter.as_ref().is_some_and(|(_, waiter)| waiter.is_done()) {
            self.epoch_waiter = None;
        }
        self.look_at_lock()?;
        let seen = self.look().map_err(|error| failure("read", &self.root, &error));
        let mut seen = seen.inspect_err(|_| self.forget_what_stood_still())?;
        if let Some(holder) = &seen.holder {
            let follows = self.owner.writer.can_follow(&holder.writer, &self.root.display());
            // Who can go on with it needs the lock.
            follows.inspect_err(|_| self.lock = None)?;
        }
        let newest = seen.holder.as_ref().map(|holder| holder.epoch);
        if self.epoch_waiter.as_ref().is_some_and(|(waited, _)| Some(*waited) != newest) {
            self.epoch_waiter = None;
        }
        let was_foreign = self.verdict == Verdict::WaitForForeigner;
        self.verdict = judge(&seen.sight);
        if self.verdict == Verdict::Prove {
            self.prove(&mut seen)?;
            self.verdict = judge(&seen.sight);
        }
        // The lock is not tried for while the epoch's owner is waited for.
        if self.verdict == Verdict::WaitForLock && self.epoch_waiter.is_some() {
            self.verdict = Verdict::WaitForEpoch;
        }
        if let Verdict::Claim(predecessor) = self.verdict
            && let Some(checked_at) = self.claim(newest)?
        {
            if predecessor == Predecessor::Replaced {
                self.tell_of_replacement(&seen);
            }
            let held = self.held.as_ref().expect("claimed");
            let fence = Arc::clone(&held.fence) as Arc<dyn Fence>;
            return Ok(Attempt::Won(Grant { fence, predecessor, checked_at }));
        }
        if self.verdict == Verdict::WaitForForeigner && !was_foreign && !self.is_flocked {
            // One of ours may have the lock and be about to claim its epoch: look once more.
            let why = format!("{} is held", self.lock_path().display());
            return Ok(Attempt::Held { holder: None, why });
        }
        let why = self.why(seen.holder.as_ref());
        let is_gone = matches!(self.verdict, Verdict::WaitForForeigner | Verdict::WaitForClaim);
        let holder = seen.holder.filter(|_| !is_gone);
        Ok(Attempt::Held { holder, why })
    }

    fn wait(&mut self, wake: &Wake) -> Result<Duration, LeaseError> {
        if self.held.is_some() {
            self.wait_for_lock(wake)?;
            return Ok(LOOK_PAUSE_MAX);
        }
        match self.verdict {
            Verdict::Claim(_) | Verdict::Prove => return Ok(Duration::ZERO),
            Verdict::WaitForLock | Verdict::WaitForForeigner | Verdict::WaitForClaim => {
                self.wait_for_lock(wake)?;
            }
            Verdict::WaitForEpoch => self.wait_for_epoch(wake)?,
            Verdict::WaitForStillness => {
                self.lock = None;
                return Ok(POLL_PAUSE.min(self.patience() / 8));
            }
        }
        Ok(LOOK_PAUSE_MAX.min(self.patience() / 8))
    }

    fn settle(&mut self) -> Result<(), LeaseError> {
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        let begun = held.owned.begin(world::now().wall).and_then(|()| held.owned.renew());
        let cleaned = begun.and_then(|()| epoch_files::clean(&self.root, held.fence.epoch()));
        cleaned.map_err(|error| failure("tidy the epochs of", &self.root, &error))
    }

    fn confirm(&mut self) -> Result<(), LeaseError> {
        let Some(held) = &mut self.held else {
            return Err(LeaseError::Lost("the lease is not held".to_owned()));
        };
        match held.fence.check() {
            Ok(()) => (),
            Err(error @ FenceError::Superseded { .. }) => {
                self.distrusts_locks = self.lock.is_some();
                return Err(LeaseError::Lost(error.to_string()));
            }
            Err(error @ FenceError::Unreadable(_)) => {
                return Err(LeaseError::NotNow(error.to_string()));
            }
        }
        let ours = held.fence.epoch();
        let listing = epoch_files::list(&self.root);
        let listing = listing.map_err(|error| failure("list", &self.root, &error))?;
        if listing.epochs.last().is_some_and(|newest| ours < *newest) {
            self.distrusts_locks = self.lock.is_some();
            return Err(LeaseError::Lost(format!("a later epoch than {ours} has begun")));
        }
        if CLAIMS_MAX < listing.claims.len() {
            let cleaned = epoch_files::clean(&self.root, ours);
            cleaned.map_err(|error| failure("tidy the epochs of", &self.root, &error))?;
        }
        let renewed = held.owned.renew();
        renewed.map_err(|error| failure("give a sign of life in", &self.root, &error))?;
        self.confirm_lock()
    }

    fn mark_stuck(&mut self, since: Option<Instant>) -> Result<(), LeaseError> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        let marked = held.owned.mark_stuck(since);
        marked.map_err(|error| failure("mark the holder in", &self.root, &error))
    }

    fn release(&mut self, clean: bool) -> Result<(), LeaseError> {
        let mut marked = Ok(());
        if let Some(held) = self.held.take() {
            if clean {
                // Without the lock there is no telling who comes next: the mark would be believed
                // by nobody.
                let lock_time = self.lock.as_ref().map_or(Ok(0), lock_time);
                marked = lock_time.and_then(|time| held.owned.mark_released(time));
            }
            // Its lock goes before the other one, so that whoever gets that finds this free.
            drop(held);
        }
        self.lock = None;
        self.lock_waiter = None;
        self.epoch_waiter = None;
        self.forget_what_stood_still();
        self.verdict = Verdict::WaitForLock;
        marked.map_err(|error| failure("mark the release in", &self.root, &error))
    }
}

impl Drop for FileLease {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            claim.discard();
        }
    }
}

fn mark_of(holder: &Holder) -> Mark {
    match holder.stuck_since {
        Some(since) => Mark::Stuck(holder.epoch, since),
        None => Mark::Life(holder.epoch, holder.counter),
    }
}

/// A holder in a line of the log.
fn name_of(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| {
        let Holder { server_id, host, pid, epoch, .. } = holder;
        format!("server {server_id} (epoch {epoch}, process {pid} on {host})")
    })
}

fn open_lock(path: &Path) -> Result<File, LeaseError> {
    // Not truncated, never written to: a Go server truncates it whenever it likes.
    let opened = files::open(path, Access::Keep(0o666), Links::Followed);
    opened.map_err(|error| failure("open", path, &error))
}

fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    let (open, named) = (file.metadata()?, fs::metadata(path)?);
    Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// When the lock file was last truncated, which Go servers do at each try; Unix nanoseconds.
fn lock_time(lock: &File) -> io::Result<u64> {
    let metadata = lock.metadata()?;
    let nanos = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Ok(u64::try_from(nanos).unwrap_or(0))
}

fn has_no_links(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [nix::libc::EPERM, nix::libc::EOPNOTSUPP, nix::libc::ENOSYS, nix::libc::EMLINK]
        .iter()
        .any(|no_links| code == Some(*no_links))
}

fn not_locked(path: &Path, error: &io::Error) -> LeaseError {
    failure("lock", path, error)
}

/// Sorts by what a person would have to do: nothing, or something.
fn failure(action: &str, path: &Path, error: &io::Error) -> LeaseError {
    let text = format!("cannot {action} {}: {error}", path.display());
    let needs_a_person = [
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::Unsupported,
        io::ErrorKind::NotADirectory,
        io::ErrorKind::ReadOnlyFilesystem,
    ];
    if needs_a_person.contains(&error.kind()) {
        LeaseError::Never(text)
    } else {
        LeaseError::NotNow(text)
    }
}
