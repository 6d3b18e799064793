//! What trials of locks have in common, of those of a directory (`lock_trial`) and of a database
//! (`lease_trial`): who else tries, what is found, and the files that one leaves that was killed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::base::files::{self, Access, Links};
use crate::base::world;
use crate::site::mounts::{Mount, Remark, Weight};
use crate::site::root_lock::{self, Tried};

/// How long the lock of a killed process may stay.
pub(super) const FREED_WITHIN: Duration = Duration::from_secs(30);
/// How long another one may take to see what was made, and when that is soon enough.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(120);
pub(super) const SEEN_SOON: Duration = Duration::from_millis(500);
/// Ending of the name of a guard.
const GUARD: &str = ".guard";
/// After this long files without a guard are of no trial that goes on.
const ABANDONED_AFTER: Duration = Duration::from_secs(3_600);

/// Makes another process that tries.
pub type Others<'a> = &'a mut dyn FnMut() -> io::Result<Box<dyn Other>>;

/// Another process that tries for the locks.
pub trait Other: Send {
    /// Tells it what to do; what it answered.
    ///
    /// # Errors
    /// When it cannot be reached any more.
    fn ask(&mut self, line: &str) -> io::Result<String>;

    /// Ends it at once, without a chance to let go of anything.
    ///
    /// # Errors
    /// When it cannot be reached any more.
    fn kill(&mut self) -> io::Result<()>;
}

/// How something that was tried ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was tried.
    pub what: &'static str,
    /// None: as it has to be.
    pub weight: Option<Weight>,
    /// What was seen.
    pub seen: String,
}

/// What is known of a place without a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// How far it matters.
    pub weight: Weight,
    /// The fact, and what can be done.
    pub text: String,
}

impl From<Remark> for Fact {
    fn from(Remark { weight, text }: Remark) -> Self {
        Self { weight, text: text.to_owned() }
    }
}

/// What was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// The locks of files.
    Directory {
        /// Where they are.
        directory: PathBuf,
        /// The file system below it, if that is known.
        mount: Option<Mount>,
    },
    /// The lease of a database.
    Database {
        /// Which one, without a password.
        database: String,
    },
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What is known of it.
    pub remarks: Vec<Fact>,
    /// What was tried.
    pub steps: Vec<Step>,
}

impl Report {
    /// Whether a group may use it.
    #[must_use]
    pub fn will_do(&self) -> bool {
        let weights = self.steps.iter().filter_map(|step| step.weight);
        let known = self.remarks.iter().map(|fact| fact.weight);
        weights.chain(known).all(|weight| weight != Weight::Unfit)
    }
}

/// A file that is locked while a trial goes on: what lies beside an unlocked one is left over.
pub(super) struct Guard(#[expect(dead_code, reason = "it is held, and not used")] File);

impl Guard {
    /// Makes that of the trial whose names begin with `stem`.
    pub(super) fn take(folder: &Path, stem: &str) -> io::Result<Self> {
        let path = folder.join(format!("{stem}{GUARD}"));
        let file = files::open(&path, Access::CreateNew(0o600), Links::Refused)?;
        // Where it cannot be locked, that is for the trial itself to find out.
        let _ = root_lock::try_both(&file);
        Ok(Self(file))
    }
}

/// Removes what trials have left in `folder` that were killed: files whose names begin with
/// `prefix`, and a number behind it.
pub(super) fn remove_left(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
        let is_of_number = |byte: u8| byte.is_ascii_hexdigit();
        let len = rest.bytes().take_while(|byte| is_of_number(*byte) || *byte == b'-').count();
        let stem = format!("{prefix}{}", &rest[..len]);
        if 0 < len && is_left(folder, &stem) {
            remove(folder, &stem);
        }
    }
}

/// Whether nobody is at work on that trial any more.
fn is_left(folder: &Path, stem: &str) -> bool {
    let guard = folder.join(format!("{stem}{GUARD}"));
    match files::open(&guard, Access::Update, Links::Refused) {
        Ok(file) => matches!(root_lock::try_both(&file), Ok(Tried::Taken)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => is_abandoned(folder, stem),
        Err(_) => false,
    }
}

/// Whether what has no guard was not touched for so long that no trial can be at work on it.
fn is_abandoned(folder: &Path, stem: &str) -> bool {
    let now = world::now().wall.0;
    let touched = |entry: fs::DirEntry| entry.metadata().and_then(|found| found.modified()).ok();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut own = entries.filter(|entry| is_of(entry, stem)).filter_map(touched);
    own.all(|at| {
        let at = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let until = (at + ABANDONED_AFTER).as_nanos();
        until < u128::from(u64::try_from(now).unwrap_or(0))
    })
}

fn is_of(entry: &fs::DirEntry, stem: &str) -> bool {
    let name = entry.file_name();
    let rest = name.to_str().and_then(|name| name.strip_prefix(stem));
    // The number of another trial may begin with this one.
    rest.is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_ascii_hexdigit()))
}

/// Removes the files of a trial; what cannot be removed is passed over by every store.
pub(super) fn remove(folder: &Path, stem: &str) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| is_of(entry, stem)) {
        let _ = fs::remove_file(entry.path());
    }
}

pub(super) fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Goal: the next trial removes what a killed one has left, and nothing of one that goes on.
    #[test]
    fn what_a_killed_trial_has_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in
            ["t.1-a.lock", "t.1-a.new", "t.1-ab.lock", "t.2-b.lock", "t.3-c.lock", "t.", "x"]
        {
            fs::write(path.join(name), "").unwrap();
        }
        drop(Guard::take(path, "t.1-a").unwrap());
        let goes_on = Guard::take(path, "t.1-ab").unwrap();
        remove_left(path, "t.");
        let left = ["t.", "t.1-ab.guard", "t.1-ab.lock", "t.2-b.lock", "t.3-c.lock", "x"];
        assert_eq!(names(path), left);
        drop(goes_on);
        remove_left(path, "t.");
        // Whose guard nobody knows may go on, as far as its times tell.
        assert_eq!(names(path), ["t.", "t.2-b.lock", "t.3-c.lock", "x"]);
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::options()
            .write(true)
            .open(path.join("t.2-b.lock"))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        remove_left(path, "t.");
        assert_eq!(names(path), ["t.", "t.3-c.lock", "x"]);
    }
}
