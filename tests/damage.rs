//! `stanby check` and its `--repair` over directories that are damaged at random: stores of the Go
//! server and of ours, encrypted ones, with purges and with counts of deliveries.
//!
//! A sample in each run; `STANBY_DAMAGE=full` (`tests/run --full check`): a thousand, each served
//! afterwards by ours, and by the Go server that `STANBY_GO_SERVER` names. `STANBY_FIRST_SEED` is
//! the first one's seed; `STANBY_DAMAGE_SEED` is one that is tried alone.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]
#![allow(clippy::print_stderr, reason = "the whole form tells what it has done")]

#[path = "damage/bases.rs"]
mod bases;
#[path = "support/databases.rs"]
mod databases;
#[path = "support/folders.rs"]
mod folders;
#[path = "support/format_checker.rs"]
mod format_checker;
#[path = "damage/harm.rs"]
mod harm;
#[path = "support/lasting.rs"]
mod lasting;
#[path = "support/server.rs"]
mod server;
#[path = "support/stores.rs"]
mod stores;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use stanby::base::epoch::Unfenced;
use stanby::base::random::Random;
use stanby::store::check::{self, Change, Finding, MendError, Mender, Report, Weight};

use bases::{Base, Contents};
use folders::copy;
use server::Launch;

fn is_full() -> bool {
    std::env::var_os("STANBY_DAMAGE").is_some_and(|found| found == "full")
}

fn first_seed() -> u64 {
    let named = std::env::var("STANBY_FIRST_SEED").ok();
    named.and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

fn look(base: &Base, root: &Path) -> Report {
    check::directory(root, base.rules, &mut |_| ()).unwrap()
}

fn mend(base: &Base, root: &Path) -> Result<Vec<Change>, MendError> {
    let mut mender = Mender { fence: &Unfenced, confirm: &mut || Ok(()), say: &mut |_| () };
    check::mend(&look(base, root), base.rules, &mut mender)
}

/// Why a reader that shares no code with the server refuses the store, if it does.
fn broken_rule(root: &Path) -> Option<String> {
    let read = catch_unwind(AssertUnwindSafe(|| format_checker::read_store(root)));
    let panic = read.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned())).unwrap())
}

/// Every file with what is in it.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_owned();
        (name, fs::read(path).unwrap())
    };
    folders::files(root).into_iter().map(named).collect()
}

/// Where something is wrong: a channel, or a file of the root.
fn place_of(file: &Path) -> PathBuf {
    file.iter().next().map(PathBuf::from).unwrap_or_default()
}

/// One directory, damaged.
struct Case<'a> {
    seed: u64,
    base: &'a Base,
    root: &'a Path,
    harms: Vec<harm::Harm>,
    before: Report,
}

impl Case<'_> {
    /// What a failed check says of it.
    fn told(&self) -> String {
        let Self { seed, base, harms, before, .. } = self;
        let found = before.findings.iter().take(8).map(|it| format!("{it:?}"));
        let found: Vec<String> = found.collect();
        format!(
            "seed {seed}, {}: {harms:?}\nfound: {}\n{:?}",
            base.name,
            found.join("\n"),
            before.start_fails
        )
    }

    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.before.findings.iter().filter(|found| found.weight != Weight::Note)
    }

    /// What leaves a trace is found, in the channel or file in which it is.
    fn is_not_passed_over(&self) {
        if !self.base.has_checksums || self.findings().any(|it| it.file.as_os_str().is_empty()) {
            return;
        }
        if let Some(rule) = broken_rule(self.root) {
            assert!(self.findings().next().is_some(), "silent: {rule}\n{}", self.told());
        }
        for harm in self.harms.iter().filter(|it| it.is_certain && self.harms.len() == 1) {
            let place = place_of(&harm.files[0]);
            let is_seen = self.findings().any(|it| place_of(&it.file) == place);
            assert!(is_seen, "silent about {harm:?}\n{}", self.told());
        }
    }

    /// After the repair: only what was named is missing, and every damaged byte is kept.
    fn is_mended(&self, damaged: &BTreeMap<PathBuf, Vec<u8>>, changes: &[Change]) {
        let told = || format!("{}\ndone: {changes:#?}", self.told());
        let after = look(self.base, self.root);
        assert_eq!(after.start_fails, None, "{}", told());
        // Nobody can say what stood in the server's record; a start makes a new one.
        let is_known = |it: &&Finding| it.file != Path::new("server.dat");
        let still: Vec<&Finding> = after
            .findings
            .iter()
            .filter(|it| matches!(it.weight, Weight::Damage | Weight::Mended))
            .filter(is_known)
            .collect();
        assert!(still.is_empty(), "still {still:#?}\n{}", told());
        if self.base.has_checksums {
            let copied = tempfile::tempdir().unwrap();
            copy(self.root, copied.path());
            for name in ["server.dat", "clients.dat"] {
                if !copied.path().join(name).exists() {
                    fs::write(copied.path().join(name), [1, 0, 0, 0]).unwrap();
                }
            }
            let broken = broken_rule(copied.path());
            assert_eq!(broken, None, "{}", told());
        }
        let kept: BTreeSet<Vec<u8>> = files(self.root).into_values().collect();
        for (name, bytes) in damaged {
            assert!(kept.contains(bytes), "{} is gone\n{}", name.display(), told());
        }
        self.lacks_only_what_is_named(&bases::contents(self.root, self.base), changes);
        assert_eq!(mend(self.base, self.root).unwrap(), [], "mended at once\n{}", told());
    }

    /// Whether anything was said of a file of that name, or done to it.
    fn is_named(&self, file: &Path, changes: &[Change]) -> bool {
        self.before.findings.iter().any(|it| it.file == file)
            || changes.iter().any(|change| change.file == file)
    }

    /// Whether the harm itself is of a kind that no look at files can find.
    fn is_untraceable(&self, place: &Path) -> bool {
        let leaves_none = |harm: &&harm::Harm| !harm.is_certain;
        self.harms
            .iter()
            .filter(leaves_none)
            .any(|harm| harm.files.iter().any(|file| place_of(file) == place || file == place))
    }

    fn lacks_only_what_is_named(&self, now: &Contents, changes: &[Change]) {
        let told = || format!("{}\ndone: {changes:#?}", self.told());
        let whole = &self.base.contents;
        for (id, client) in &whole.clients {
            let file = Path::new("clients.dat");
            let is_right = now.clients.get(id) == Some(client);
            assert!(
                is_right || self.is_named(file, changes) || self.is_untraceable(file),
                "client {id}\n{}",
                told()
            );
        }
        let file = Path::new("server.dat");
        let is_right = now.server == whole.server;
        assert!(
            is_right
                || !self.base.has_checksums
                || self.is_named(file, changes)
                || self.is_untraceable(file),
            "server\n{}",
            told()
        );
        let lost = lost(changes);
        for (name, channel) in &whole.channels {
            let Some(found) = now.channels.get(name) else {
                assert!(self.is_untraceable(Path::new(name)), "{name} is gone\n{}", told());
                continue;
            };
            for (sequence, message) in &found.messages {
                match lost.contains(&(name.clone(), *sequence)) {
                    true => assert!(message.is_empty(), "{name} {sequence}\n{}", told()),
                    false => assert!(
                        channel.messages.get(sequence) == Some(message)
                            || !self.base.has_checksums
                            || self.is_untraceable(Path::new(name)),
                        "{name} {sequence} is another message\n{}",
                        told()
                    ),
                }
            }
            let is_there = |sequence: &&u64| {
                found.messages.contains_key(*sequence) || lost.contains(&(name.clone(), **sequence))
            };
            let silent: Vec<&u64> =
                channel.messages.keys().filter(|sequence| !is_there(sequence)).collect();
            let is_alone = self.harms.len() == 1 && !self.is_untraceable(Path::new(name));
            // Where both files of a slice are damaged, nobody knows what they held.
            assert!(!is_alone || silent.is_empty(), "{name} lacks {silent:?}\n{}", told());
            let file = Path::new(name).join("subs.dat");
            for (id, (state, pending)) in &channel.subscriptions {
                let is_right = found.subscriptions.get(id).is_some_and(|(is, has)| {
                    is == state && pending.iter().all(|it| has.contains(it))
                });
                assert!(
                    is_right || self.is_named(&file, changes) || self.is_untraceable(&file),
                    "{name}: subscription {id}: {state} {pending:?}\n is {:?}\n{}",
                    found.subscriptions.get(id),
                    told()
                );
            }
            let is_counted = found.counts == channel.counts
                || self.findings().any(|it| it.file.to_string_lossy().contains("deliveries"))
                || self.harms.iter().any(|it| !it.is_certain);
            assert!(is_counted, "{name}: counts\n{}", told());
        }
    }

    /// A server of each kind serves what is left.
    fn is_served(&self, program: Option<&Path>) {
        let mut launch = Launch::new(&self.base.flags);
        if let Some(program) = program {
            launch = launch.program(program);
        }
        let copied = tempfile::tempdir().unwrap();
        copy(self.root, copied.path());
        let mut server = launch.file_store(Some(copied.path())).start();
        server.stop(Signal::SIGTERM);
    }
}

/// Messages that a change calls lost.
fn lost(changes: &[Change]) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    for Change { file, what, .. } in changes {
        let named = what.strip_prefix("lost messages: ");
        for range in named.into_iter().flat_map(|named| named.split(", ")) {
            let (first, last) = range.split_once(" to ").unwrap_or((range, range));
            for sequence in first.parse().unwrap()..=last.parse::<u64>().unwrap() {
                found.insert((file.to_string_lossy().into_owned(), sequence));
            }
        }
    }
    found
}

/// What became of a case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Ended {
    Whole,
    Mended,
    LeftAlone,
}

fn tried(seed: u64, bases: &[Base], servers: &[Option<PathBuf>]) -> Ended {
    let mut random = Random::new(seed);
    let base = &bases[usize::try_from(random.below(bases.len() as u64)).unwrap()];
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    copy(&base.root, &root);
    let times = [1, 1, 1, 2, 3][usize::try_from(random.below(5)).unwrap()];
    let harms: Vec<harm::Harm> =
        (0..times).filter_map(|_| harm::harm(&root, &mut random)).collect();
    let damaged = files(&root);
    let before = match check::directory(&root, base.rules, &mut |_| ()) {
        Ok(found) => found,
        // All that made it a store is gone.
        Err(check::CheckError::NoStore(_)) => return Ended::LeftAlone,
        Err(error) => panic!("seed {seed}: {error}"),
    };
    let case = Case { seed, base, root: &root, harms, before };
    assert_eq!(files(&root), damaged, "a look changes nothing\n{}", case.told());
    case.is_not_passed_over();
    let is_well = !case.before.is_damaged() && !case.before.needs_start();
    let changes = match mend(base, &root) {
        Ok(changes) => changes,
        // Nothing is changed where that would make things worse.
        Err(MendError::OtherRules | MendError::TooMany { .. }) => return Ended::LeftAlone,
        Err(error) => panic!("{error}\n{}", case.told()),
    };
    assert!(!is_well || changes.is_empty(), "{changes:#?}\n{}", case.told());
    case.is_mended(&damaged, &changes);
    // Without checksums nobody sees that a record of the server is another's.
    let is_servers = |file: &PathBuf| file == Path::new("server.dat");
    let is_others =
        !base.has_checksums && case.harms.iter().any(|harm| harm.files.iter().any(is_servers));
    for server in servers.iter().filter(|_| !is_others) {
        case.is_served(server.as_deref());
    }
    if is_well { Ended::Whole } else { Ended::Mended }
}

/// Goal: whatever comes to a store, the look says so if it leaves a trace, and after a repair
/// servers serve all but what was named.
#[test]
fn whatever_comes_to_a_store_is_said_and_mended() {
    let bases = bases::all();
    let count = if is_full() { 1_000 } else { 25 };
    let go = std::env::var_os("STANBY_GO_SERVER").map(PathBuf::from);
    let mut served = vec![None];
    served.extend(go.map(Some));
    let hook = std::panic::take_hook();
    // The reader that is asked about the format says no by a panic.
    std::panic::set_hook(Box::new(|_| ()));
    let mut ends: BTreeMap<Ended, u64> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut seeds = first_seed()..first_seed() + count;
    if let Ok(only) = std::env::var("STANBY_DAMAGE_SEED") {
        let only = only.parse().unwrap();
        seeds = only..only + 1;
    }
    for seed in seeds {
        let servers: &[Option<PathBuf>] =
            if is_full() || seed == first_seed() { &served } else { &[] };
        match catch_unwind(AssertUnwindSafe(|| tried(seed, &bases, servers))) {
            Ok(end) => *ends.entry(end).or_default() += 1,
            Err(panic) => {
                failures.push(panic.downcast_ref::<String>().cloned().unwrap_or_default())
            }
        }
    }
    std::panic::set_hook(hook);
    eprintln!(
        "{count} directories from seed {}: {ends:?}, {} failed",
        first_seed(),
        failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
