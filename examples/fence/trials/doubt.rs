//! The ways to bring members into doubt.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use stanby::base::world;
use stanby::site::epoch_files::{self, LOCK_FILE};

use super::drill::{DrillError, wait_until};
use super::{Doubt, ROLES_TIMEOUT, Trial};

/// Mounts the file after the word on the file before it, pairwise up to `--`, and runs the rest.
const MOUNT_AND_RUN: &str = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit 71; \
                             shift 2; done; shift; exec \"$@\"";

impl Trial<'_> {
    /// One doubt, from its begin until the roles are clear again.
    pub(super) fn doubt(&mut self, doubt: Doubt) -> Result<(), DrillError> {
        match doubt {
            Doubt::Paused => self.pause(),
            Doubt::Blinded => self.blind(),
            Doubt::LockRemoved => self.remove_lock(),
            Doubt::LockReplaced => self.replace_lock(),
            Doubt::LockUsurped => self.usurp_lock(),
        }
    }

    fn pause(&mut self) -> Result<(), DrillError> {
        let (old, new) = (self.active, 1 - self.active);
        let pid = self.pair.pid(old)?;
        self.pair.signal(old, Signal::SIGSTOP)?;
        self.notes.ledger().pauses.push(world::instant());
        self.replaced_by(new)?;
        self.pair.signal(old, Signal::SIGCONT)?;
        self.wait_roles()?;
        if self.pair.pid(old)? != pid {
            self.fault("the paused member was started anew");
        }
        self.expect_log(new, &["gave no sign of life"])?;
        self.expect_log(old, &["was replaced", "a later epoch"])
    }

    fn blind(&mut self) -> Result<(), DrillError> {
        let (old, new) = (self.active, 1 - self.active);
        self.restart_blinded(new)?;
        self.replaced_by(new)?;
        self.wait_roles()?;
        self.some_acks()?;
        self.expect_log(old, &["was replaced", "a later epoch"])?;
        // It sees clearly again before it is the standby.
        self.kill_active()
    }

    /// Starts a standby anew that sees other files over the lock files.
    pub(super) fn restart_blinded(&mut self, place: usize) -> Result<(), DrillError> {
        self.pair.kill(place)?;
        self.pair.wait_exit(place)?;
        let prefix = self.blindfold()?;
        self.pair.set_prefix(place, &prefix);
        self.pair.restart(place)
    }

    /// The command that lays other files over the lock files.
    fn blindfold(&self) -> Result<Vec<String>, DrillError> {
        let failed = DrillError::io("cannot prepare a blindfold");
        let store = self.store();
        let listing = epoch_files::list(&store).map_err(&failed)?;
        let newest = listing.epochs.last().copied().unwrap_or_default();
        let mut words = namespace_words();
        words.extend(["sh", "-c", MOUNT_AND_RUN, "sh"].map(str::to_owned));
        let lock = store.join(LOCK_FILE);
        for (number, path) in [lock, epoch_files::epoch_path(&store, newest)].iter().enumerate() {
            let cover = self.folder.join(format!("cover.{number}"));
            fs::copy(path, &cover).map_err(&failed)?;
            words.extend([cover.display().to_string(), path.display().to_string()]);
        }
        words.push("--".to_owned());
        Ok(words)
    }

    /// Removed, the lock file is made anew by whoever looks first; the active stays.
    fn remove_lock(&mut self) -> Result<(), DrillError> {
        fs::remove_file(self.lock_path()).map_err(DrillError::io("cannot remove the lock file"))?;
        self.stays()
    }

    fn replace_lock(&mut self) -> Result<(), DrillError> {
        self.put_other_lock()?;
        self.stays()
    }

    /// The active cannot get the new file's lock, so it must not go on; nobody may while another
    /// program has it. Afterwards one of both is active.
    fn usurp_lock(&mut self) -> Result<(), DrillError> {
        let other = self.put_other_lock()?;
        let active = self.active;
        if !wait_until(ROLES_TIMEOUT, || self.pair.is_standby(active)) {
            self.fault("it is active though another program has the lock");
        }
        drop(other);
        let mut is_active = [false; 2];
        wait_until(ROLES_TIMEOUT, || {
            is_active = [self.pair.is_active(0), self.pair.is_active(1)];
            is_active[0] || is_active[1]
        });
        self.active = usize::from(is_active[1]);
        self.findings.takeovers += 1;
        self.wait_roles()?;
        self.some_acks()?;
        self.expect_log(active, &["was replaced, and the new one is locked"])
    }

    /// Puts another file, locked here, in the place of the lock file.
    fn put_other_lock(&self) -> Result<File, DrillError> {
        let failed = DrillError::io("cannot replace the lock file");
        let path = self.folder.join("other.lck");
        let file = File::create(&path).map_err(&failed)?;
        let is_locked = epoch_files::try_lock(&file).map_err(&failed)?;
        assert!(is_locked, "nobody else knows the new file");
        fs::rename(&path, self.lock_path()).map_err(&failed)?;
        Ok(file)
    }

    /// The active goes on with the new lock file and says what happened to the old one.
    fn stays(&mut self) -> Result<(), DrillError> {
        let log_len = self.pair.log(self.active)?.len();
        let active = self.active;
        let mut has_said = false;
        wait_until(ROLES_TIMEOUT, || {
            let log = self.pair.log(active).unwrap_or_default();
            has_said = log.get(log_len..).is_some_and(|new| new.contains("lock file"));
            has_said
        });
        if !has_said {
            self.fault("the log says nothing of the lock file");
        }
        self.some_acks()?;
        self.wait_roles()
    }

    /// Waits until a member serves, as it should though the other one did not give its role away.
    pub(super) fn replaced_by(&mut self, new: usize) -> Result<(), DrillError> {
        self.pair.wait_active(new)?;
        self.active = new;
        self.findings.takeovers += 1;
        self.some_acks()
    }

    pub(super) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    fn lock_path(&self) -> PathBuf {
        self.store().join(LOCK_FILE)
    }
}

/// The command that runs another one in a mount namespace of its own.
fn namespace_words() -> Vec<String> {
    let words: &[&str] = match nix::unistd::geteuid().is_root() {
        true => &["unshare", "--mount"],
        false => &["unshare", "--user", "--map-root-user", "--mount"],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Why there can be no mount namespaces here; `None` if there can.
pub fn why_not_blinded(folder: &Path) -> Option<String> {
    let words = namespace_words();
    let (first, others) = words.split_first()?;
    let (cover, covered) = (folder.join("cover"), folder.join("covered"));
    for path in [&cover, &covered] {
        if let Err(error) = File::create(path) {
            return Some(format!("{}: {error}", path.display()));
        }
    }
    let output = std::process::Command::new(first)
        .args(others)
        .args(["sh", "-c", MOUNT_AND_RUN, "sh"])
        .args([cover.as_os_str(), covered.as_os_str()])
        .args(["--", "true"])
        .output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}
