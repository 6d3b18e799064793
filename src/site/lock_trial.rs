//! Proves by trial that the locks of a directory exclude, with other processes that try for them.
//!
//! What is tried is what members do: both locks on one file, claims by hard links, and the look for
//! a name that another one makes. All of it is in files of this trial's own, which go with it, so a
//! server that runs there is not disturbed. The other process (`answer`) is told what to do by
//! lines, so that it may be on another machine.

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::base::files::{self, Access, Links};
use crate::base::world;
use crate::site::mounts::{self, Mount, Weight};
use crate::site::root_lock::{self, Tried};
use crate::site::trial::{
    self, FREED_WITHIN, Fact, Guard, Other, Others, Place, Report, SEEN_SOON, SEEN_WITHIN, Step,
    shown,
};

/// Every name of a trial begins so. As a channel it is impossible, and the store passes it over.
const PREFIX: &str = ".stanby.trial.";
/// What it means when it takes longer.
const LATE: &str = "an active that was replaced would hear of it so late";
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Names that are claimed by both at once, and writes that are synced.
const CLAIMS: usize = 50;
const SYNCS: usize = 50;
/// Bytes of such a write.
const WRITE_LEN: usize = 4096;
/// Bytes of a line of the conversation.
const LINE_LEN_MAX: u64 = 4096;

/// Does in `directory` what the lines of `input` say, until they end.
///
/// # Errors
/// When input or output break; what goes wrong in the directory is an answer.
pub fn answer(directory: &Path, mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut lock: Option<File> = None;
    loop {
        let mut line = String::new();
        if io::Read::take(&mut input, LINE_LEN_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let done = match own_name(name) {
            Some(name) => done(verb, &directory.join(name), &mut lock),
            None => Err(io::Error::other("that is no name of a trial")),
        };
        let said = done.unwrap_or_else(|error| format!("error {error}"));
        writeln!(output, "{}", said.replace('\n', " "))?;
        output.flush()?;
    }
}

/// A name that a trial may use: nobody who connects reaches any other file.
fn own_name(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (!rest.is_empty() && rest.bytes().all(is_plain)).then_some(name)
}

fn done(verb: &str, path: &Path, lock: &mut Option<File>) -> io::Result<String> {
    let said = match verb {
        "take" => {
            let file = files::open(path, Access::Update, Links::Refused)?;
            match root_lock::try_both(&file)? {
                Tried::Taken => {
                    *lock = Some(file);
                    "taken"
                }
                Tried::Held | Tried::Flocked => "held",
            }
        }
        "whose" if root_lock::is_of_stanby(path)? => "stanby",
        "whose" => "unknown",
        "sees" => match files::open(path, Access::Read, Links::Refused) {
            Ok(_) => "yes",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "no",
            Err(error) => return Err(error),
        },
        "claim" => claimed(path, "other")?,
        _ => return Err(io::Error::other("that is not understood: is it of another release?")),
    };
    Ok(said.to_owned())
}

/// Claims a name as epochs are claimed: only one can link it. `who` tells the two apart: processes
/// of two machines may have one number.
fn claimed(path: &Path, who: &str) -> io::Result<&'static str> {
    let own = path.with_extension(who);
    files::open(&own, Access::Keep(0o600), Links::Refused)?;
    let linked = fs::hard_link(&own, path);
    let _ = fs::remove_file(&own);
    match linked {
        Ok(()) => Ok("made"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok("there"),
        Err(error) => Err(error),
    }
}

/// The files of a trial; they go with it.
struct Files<'a> {
    directory: &'a Path,
    stem: String,
    _guard: Guard,
}

impl Files<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.stem)
    }

    fn path(&self, what: &str) -> PathBuf {
        self.directory.join(self.name(what))
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        trial::remove(self.directory, &self.stem);
    }
}

/// Tries the directory with other processes, each made by `other`; `say` hears what is tried.
///
/// # Errors
/// When nothing can be tried there, or the other process cannot be reached.
pub fn run(directory: &Path, other: Others<'_>, say: &mut dyn FnMut(&str)) -> io::Result<Report> {
    let mount = mounts::below(directory)?;
    let remarks = mount.as_ref().map(Mount::remarks).unwrap_or_default();
    trial::remove_left(directory, PREFIX);
    let stem = format!("{PREFIX}{}-{:x}", std::process::id(), world::entropy()?);
    let guard = Guard::take(directory, &stem)?;
    let files = Files { directory, stem, _guard: guard };
    files::open(&files.path("lock"), Access::CreateNew(0o600), Links::Refused)?;
    let mut trial = Trial { files, steps: Vec::new() };
    say("two processes that want one lock");
    if trial.exclusion(other)? {
        say("names that both claim");
        trial.claims(other)?;
        say("how soon a name is seen");
        trial.sight(other)?;
    }
    say("how long a sync takes");
    trial.syncs()?;
    let Trial { files, steps } = trial;
    drop(files);
    let place = Place::Directory { directory: directory.to_owned(), mount };
    Ok(Report { place, remarks: remarks.into_iter().map(Fact::from).collect(), steps })
}

struct Trial<'a> {
    files: Files<'a>,
    steps: Vec<Step>,
}

impl Trial<'_> {
    fn note(&mut self, what: &'static str, weight: Option<Weight>, seen: impl Into<String>) {
        self.steps.push(Step { what, weight, seen: seen.into() });
    }

    fn open_lock(&self) -> io::Result<File> {
        files::open(&self.files.path("lock"), Access::Update, Links::Refused)
    }

    /// Who has the lock keeps all others out, is known, and lets go when it is killed; false where
    /// nothing else is worth a try.
    fn exclusion(&mut self, other: Others<'_>) -> io::Result<bool> {
        const EXCLUDES: &str = "two processes exclude each other";
        let take = format!("take {}", self.files.name("lock"));
        let mut holder = other()?;
        let said = holder.ask(&take)?;
        if said != "taken" {
            let seen =
                format!("the other one cannot have the lock: {said}: is it another directory?");
            self.note(EXCLUDES, Some(Weight::Unfit), seen);
            return Ok(false);
        }
        if root_lock::try_both(&self.open_lock()?)? == Tried::Taken {
            let seen = "both have the lock at once: two members would be active at once";
            self.note(EXCLUDES, Some(Weight::Unfit), seen);
            return Ok(false);
        }
        let is_known = root_lock::is_of_stanby(&self.files.path("lock"))?;
        let Some(_ours) = self.freed(holder.as_mut())? else { return Ok(false) };
        match other()?.ask(&take)?.as_str() {
            "held" => self.note(EXCLUDES, None, "whoever has the lock keeps the other one out"),
            said => {
                let seen = format!("one is kept out, and the other one is not: {said}");
                self.note(EXCLUDES, Some(Weight::Unfit), seen);
                return Ok(false);
            }
        }
        let seen = match is_known {
            true => "a member of stanby is told from a Go server",
            false => {
                "it is not told: a member that stops in the midst of a take-over is waited for"
            }
        };
        self.note("whose lock it is", (!is_known).then_some(Weight::Note), seen);
        Ok(true)
    }

    /// Waits for the lock of `holder`, which is killed meanwhile; the lock.
    fn freed(&mut self, holder: &mut dyn Other) -> io::Result<Option<File>> {
        const FREED: &str = "a killed process lets go";
        let file = self.open_lock()?;
        let (sender, receiver) = mpsc::channel();
        // It cannot be called back, and ends with this process at the latest.
        thread::Builder::new().name("trial".to_owned()).spawn(move || {
            let waited = root_lock::wait_for_both(&file, || ());
            let _ = sender.send(waited.map(|()| (world::instant(), file)));
        })?;
        let killed_at = world::instant();
        holder.kill()?;
        let (weight, seen, file) = match receiver.recv_timeout(FREED_WITHIN) {
            Ok(Ok((at, file))) => {
                let seen =
                    format!("the next one has its lock after {}", shown(at.since(killed_at)));
                (None, seen, Some(file))
            }
            Ok(Err(error)) => (Some(Weight::Unfit), format!("waiting for it fails: {error}"), None),
            Err(_) => {
                let seen = format!("it is still locked after {}", shown(FREED_WITHIN));
                (Some(Weight::Unfit), seen, None)
            }
        };
        self.note(FREED, weight, seen);
        Ok(file)
    }

    /// Of two that claim a name at once, one has it.
    fn claims(&mut self, other: Others<'_>) -> io::Result<()> {
        const CLAIMED: &str = "of two that claim one epoch one has it";
        let mut rival = other()?;
        for number in 0..CLAIMS {
            let what = format!("claim-{number}");
            let (path, line) =
                (self.files.path(&what), format!("claim {}", self.files.name(&what)));
            let (ours, said) = thread::scope(|scope| {
                let said = scope.spawn(|| rival.ask(&line));
                let ours =
                    claimed(&path, "own").map_or_else(|error| error.to_string(), str::to_owned);
                (ours, said.join().unwrap_or_else(|_| Err(io::Error::other("it ended"))))
            });
            let said = said?;
            if !matches!((ours.as_str(), said.as_str()), ("made", "there") | ("there", "made")) {
                let seen = format!("here: {ours}; there: {said}");
                self.note(CLAIMED, Some(Weight::Unfit), seen);
                return Ok(());
            }
        }
        self.note(CLAIMED, None, format!("{CLAIMS} times"));
        Ok(())
    }

    /// Who has looked for a name in vain sees it once it is made.
    fn sight(&mut self, other: Others<'_>) -> io::Result<()> {
        const SEEN: &str = "a new epoch is seen";
        let mut looker = other()?;
        let line = format!("sees {}", self.files.name("new"));
        let before = looker.ask(&line)?;
        if before != "no" {
            self.note(SEEN, Some(Weight::Unfit), format!("before it was made: {before}"));
            return Ok(());
        }
        files::open(&self.files.path("new"), Access::CreateNew(0o600), Links::Refused)?;
        let made_at = world::instant();
        loop {
            let said = looker.ask(&line)?;
            let late = world::instant().since(made_at);
            match said.as_str() {
                "yes" if late <= SEEN_SOON => {
                    self.note(SEEN, None, format!("after {}", shown(late)))
                }
                "yes" => {
                    let seen = format!("after {}: {LATE}", shown(late));
                    self.note(SEEN, Some(Weight::Warning), seen);
                }
                "no" if late < SEEN_WITHIN => {
                    thread::park_timeout(LOOK_PAUSE);
                    continue;
                }
                said => {
                    let seen = format!("{said} after {}: {LATE}", shown(late));
                    self.note(SEEN, Some(Weight::Unfit), seen);
                }
            }
            return Ok(());
        }
    }

    /// What a publish waits for.
    fn syncs(&mut self) -> io::Result<()> {
        const SYNCED: &str = "a write is synced";
        let mut file =
            files::open(&self.files.path("written"), Access::CreateNew(0o600), Links::Refused)?;
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let began_at = world::instant();
            file.write_all(&[b'x'; WRITE_LEN])?;
            file.sync_data()?;
            times.push(world::instant().since(began_at));
        }
        times.sort_unstable();
        let (median, worst) = (times[SYNCS / 2], times[SYNCS - 1]);
        let seen = format!("in {} (median of {SYNCS}), {} at worst", shown(median), shown(worst));
        self.note(SYNCED, None, seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::BufReader;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Another one that is a thread of this process: the locks of open files exclude there, too.
    struct Thread {
        stream: BufReader<UnixStream>,
        thread: Option<thread::JoinHandle<()>>,
        /// What it answers in place of what it would.
        lie: fn(&str) -> Option<&'static str>,
    }

    impl Thread {
        fn start(directory: &Path, lie: fn(&str) -> Option<&'static str>) -> Self {
            let (ours, its) = UnixStream::pair().unwrap();
            let directory = directory.to_owned();
            let thread = thread::spawn(move || {
                answer(&directory, BufReader::new(its.try_clone().unwrap()), its).unwrap();
            });
            Self { stream: BufReader::new(ours), thread: Some(thread), lie }
        }
    }

    impl Other for Thread {
        fn ask(&mut self, line: &str) -> io::Result<String> {
            if let Some(said) = (self.lie)(line) {
                return Ok(said.to_owned());
            }
            writeln!(self.stream.get_mut(), "{line}")?;
            let mut said = String::new();
            self.stream.read_line(&mut said)?;
            Ok(said.trim_end().to_owned())
        }

        fn kill(&mut self) -> io::Result<()> {
            self.stream.get_mut().shutdown(std::net::Shutdown::Both)?;
            self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
            Ok(())
        }
    }

    fn tried(lie: fn(&str) -> Option<&'static str>) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut other = || Ok(Box::new(Thread::start(root, lie)) as Box<dyn Other>);
        let report = run(root, &mut other, &mut |_| ()).unwrap();
        let left = fs::read_dir(root).unwrap().count();
        assert_eq!(left, 0, "something is left behind");
        report
    }

    #[test]
    fn a_directory_with_sound_locks_will_do() {
        let report = tried(|_| None);
        assert!(report.will_do(), "{report:?}");
        assert_eq!(report.steps.len(), 6);
        assert!(report.steps.iter().all(|step| step.weight.is_none()), "{report:?}");
    }

    #[test]
    fn locks_that_do_not_exclude_are_found() {
        let lies: [fn(&str) -> Option<&'static str>; 4] = [
            // It has a lock that this process can have all the same.
            |line| line.starts_with("take").then_some("taken"),
            |line| line.starts_with("take").then_some("error No locks available"),
            |line| line.starts_with("claim").then_some("made"),
            |line| line.starts_with("sees").then_some("yes"),
        ];
        for lie in lies {
            let report = tried(lie);
            assert!(!report.will_do(), "{report:?}");
        }
    }

    #[test]
    fn whoever_connects_reaches_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let said = |line: &str| {
            let mut output = Vec::new();
            answer(folder.path(), format!("{line}\n").as_bytes(), &mut output).unwrap();
            String::from_utf8(output).unwrap()
        };
        let refused = [
            "take ft.lck",
            "take .stanby.trial.",
            "take .stanby.trial.1/../../x",
            "claim /etc/passwd",
            "sees ../x",
            "",
            "take",
            "\u{1}",
        ];
        for line in refused {
            assert_eq!(said(line), "error that is no name of a trial\n", "{line:?}");
        }
        assert!(said("drop .stanby.trial.1").contains("another release"));
        assert!(said("take .stanby.trial.1").starts_with("error No such file"));
        assert_eq!(said("sees .stanby.trial.1"), "no\n");
        assert_eq!(said("claim .stanby.trial.1"), "made\n");
        assert_eq!(said("sees .stanby.trial.1"), "yes\n");
        let endless = "x".repeat(3 * 4096);
        assert!(said(&endless).lines().count() > 1);
    }
}
