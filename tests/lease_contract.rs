//! One suite, every Lease; and the keeper over real files and processes.
//!
//! A lease joins by one line in `kinds`. Processes of their own are this test program again, with
//! one test selected that does as its parent says over pipes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/databases.rs"]
mod databases;
#[path = "lease_contract/keeper_settings.rs"]
mod keeper_settings;
#[path = "lease_contract/leftovers.rs"]
mod leftovers;
#[path = "lease_contract/releases.rs"]
mod releases;
#[path = "lease_contract/stalls.rs"]
mod stalls;
#[path = "lease_contract/unclaimed.rs"]
mod unclaimed;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use stanby::base::epoch::{Epoch, Fence, FenceError, LeaseClock, Predecessor};
use stanby::base::pulse::Vitals;
use stanby::base::world;
use stanby::election::keeper::{self, Keeper, KeeperEvent, Mode};
use stanby::election::lease::{Attempt, Grant, Holder, Lease, LeaseError, Owner, Wake, Writer};
use stanby::site::epoch_files;
use stanby::site::file_lock::FileLease;
use stanby::site::sql_lock::SqlLease;
use stanby::store::sql::dsn::Source;

use self::keeper_settings::KeeperSettings;

/// One kind of lease: a lease of what lies in the folder, for the member of that name, with its
/// steal time.
struct Kind {
    name: &'static str,
    open: fn(&Path, &str, Duration) -> Box<dyn Lease>,
}

/// All kinds; a database server takes part if the environment says where it is.
fn kinds() -> Vec<Kind> {
    let mut kinds =
        vec![Kind { name: "file", open: open_file }, Kind { name: "sqlite", open: open_sqlite }];
    if databases::postgres_address().is_some() {
        let open = |folder: &Path, member: &str, steal| {
            open_sql(databases::postgres(folder), member, steal)
        };
        kinds.push(Kind { name: "postgres", open });
    }
    if databases::mysql_address().is_some() {
        let open =
            |folder: &Path, member: &str, steal| open_sql(databases::mysql(folder), member, steal);
        kinds.push(Kind { name: "mysql", open });
    }
    kinds
}

fn open_sql(source: Source, member: &str, steal_after: Duration) -> Box<dyn Lease> {
    Box::new(SqlLease::new(source, databases::CALL_TIMEOUT, owner(member), steal_after))
}

fn open_sqlite(folder: &Path, member: &str, steal_after: Duration) -> Box<dyn Lease> {
    open_sql(databases::sqlite(folder), member, steal_after)
}

fn open_file(folder: &Path, member: &str, steal_after: Duration) -> Box<dyn Lease> {
    Box::new(FileLease::new(folder, owner(member), steal_after))
}

fn owner(member: &str) -> Owner {
    let writer = if member.starts_with("later") {
        Writer { format: u32::MAX, release: "9.9.9".to_owned() }
    } else {
        Writer::this_release()
    };
    Owner { server_id: member.to_owned(), pid: std::process::id(), writer, ..Owner::default() }
}

/// Longer than anything takes that is not broken.
const PATIENCE: Duration = Duration::from_secs(120);

fn for_every_lease(goal: impl Fn(&dyn Fn(&str) -> Box<dyn Lease>)) {
    for kind in kinds() {
        let folder = tempfile::tempdir().unwrap();
        eprintln!("the lease over a {}", kind.name);
        goal(&|member| (kind.open)(folder.path(), member, Duration::ZERO));
    }
}

fn won(lease: &mut Box<dyn Lease>) -> Grant {
    match lease.try_take().unwrap() {
        Attempt::Won(grant) => grant,
        Attempt::Held { why, .. } => panic!("{why}"),
    }
}

fn held(lease: &mut Box<dyn Lease>) -> Option<Holder> {
    match lease.try_take().unwrap() {
        Attempt::Won(grant) => panic!("won epoch {}", grant.fence.epoch()),
        Attempt::Held { holder, .. } => holder,
    }
}

/// Goal: one holder, named to all others; each take-over has a later epoch.
#[test]
fn a_lease_has_one_holder() {
    for_every_lease(|open| {
        let (mut one, mut two) = (open("one"), open("two"));
        let first = won(&mut one);
        one.settle().unwrap();
        one.confirm().unwrap();
        assert_eq!(first.fence.epoch(), Epoch(1));
        assert_eq!(held(&mut two).unwrap().server_id, "one");
        one.release(false).unwrap();
        let second = won(&mut two);
        assert_eq!(second.fence.epoch(), Epoch(2));
        assert_eq!(held(&mut one).unwrap().server_id, "two");
        second.fence.check().unwrap();
        match first.fence.check() {
            Err(FenceError::Superseded { ours: Epoch(1), found: Epoch(2), owner }) => {
                assert_eq!(owner, "two");
            }
            other => panic!("{other:?}"),
        }
    });
}

/// Goal: a holder answers for as long as its own steal time allows, so that one is what counts, and
/// not that of a member with another setting.
#[test]
fn nobody_is_replaced_while_it_may_still_answer() {
    let (hasty_after, patient_after) = (Duration::from_millis(100), Duration::from_secs(3_600));
    for kind in kinds() {
        eprintln!("the lease over a {}", kind.name);
        let folder = tempfile::tempdir().unwrap();
        let mut patient = (kind.open)(folder.path(), "patient", patient_after);
        let mut hasty = (kind.open)(folder.path(), "hasty", hasty_after);
        let grant = won(&mut patient);
        patient.settle().unwrap();
        let until = world::instant() + 10 * hasty_after;
        while world::instant() < until {
            match hasty.try_take().unwrap() {
                Attempt::Won(_) => panic!("a holder that may be silent for an hour was replaced"),
                Attempt::Held { why, .. } => {
                    assert!(why.contains("its own ft_steal_after is longer"), "{why}");
                }
            }
        }
        grant.fence.check().unwrap();
    }
    // With one setting for both, who gives no sign of life is replaced.
    let folder = tempfile::tempdir().unwrap();
    let mut silent = open_file(folder.path(), "silent", hasty_after);
    let mut hasty = open_file(folder.path(), "hasty", hasty_after);
    won(&mut silent);
    silent.settle().unwrap();
    let give_up_at = world::instant() + PATIENCE;
    while let Attempt::Held { why, .. } = hasty.try_take().unwrap() {
        assert!(world::instant() < give_up_at, "{why}");
    }
}

/// Goal: a successor knows whether its predecessor left everything synced.
#[test]
fn a_clean_release_is_told_to_the_successor() {
    for_every_lease(|open| {
        let (mut one, mut two) = (open("one"), open("two"));
        assert_eq!(won(&mut one).predecessor, Predecessor::Clean, "there was none");
        one.release(true).unwrap();
        assert_eq!(won(&mut two).predecessor, Predecessor::Clean);
        two.release(false).unwrap();
        assert_eq!(won(&mut one).predecessor, Predecessor::Gone);
        drop(one);
        assert_eq!(won(&mut two).predecessor, Predecessor::Gone);
    });
}

/// Goal: whoever waits is woken when the holder goes.
#[test]
fn who_waits_is_woken() {
    for_every_lease(|open| {
        let (mut one, mut two) = (open("one"), open("two"));
        won(&mut one);
        held(&mut two);
        let (sender, woken) = crossbeam_channel::unbounded();
        let wake: Wake = Arc::new(move || sender.send(()).unwrap());
        two.wait(&wake).unwrap();
        assert!(woken.is_empty());
        drop(one);
        woken.recv_timeout(PATIENCE).unwrap();
        won(&mut two);
    });
}

/// Goal: of many that try at once exactly one wins, each time.
#[test]
fn of_many_claimants_exactly_one_wins() {
    for_every_lease(|open| {
        for round in 1..=20 {
            let barrier = Arc::new(Barrier::new(4));
            let claimants = ["a", "b", "c", "d"].map(|member| {
                let (mut lease, barrier) = (open(member), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    let attempt = lease.try_take().unwrap();
                    let epoch = match &attempt {
                        Attempt::Won(grant) => Some(grant.fence.epoch()),
                        Attempt::Held { .. } => None,
                    };
                    // Nobody lets go before all have tried.
                    barrier.wait();
                    epoch
                })
            });
            let epochs = claimants.map(|claimant| claimant.join().unwrap());
            let epochs: Vec<Epoch> = epochs.into_iter().flatten().collect();
            assert_eq!(epochs, [Epoch(round)]);
        }
    });
}

/// Goal: a confirmation fails for good when a later epoch has begun.
#[test]
fn a_confirmation_sees_a_later_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let mut lease = open_file(folder.path(), "one", Duration::ZERO);
    won(&mut lease);
    lease.confirm().unwrap();
    epoch_files::claim_by_create(folder.path(), Epoch(9), &owner("nine")).unwrap();
    assert!(matches!(lease.confirm(), Err(LeaseError::Lost(_))));
}

// ---- The keeper, in this process and in others.

fn settings(root: &Path, member: &str, steal_after: Duration) -> KeeperSettings {
    let owner = owner(member);
    let vitals = Vitals::default();
    let (root, mode, open) = (root.to_owned(), Mode::Group, open_file);
    KeeperSettings { root, steal_after, mode, owner, vitals, open }
}

/// A keeper in this process.
struct Local {
    keeper: Keeper,
    clock: LeaseClock,
    events: Receiver<KeeperEvent>,
}

impl Local {
    fn start(settings: KeeperSettings) -> Self {
        let (sender, events) = crossbeam_channel::unbounded();
        let clock = LeaseClock::default();
        // A keeper that is stopped with its test may still report.
        let report = move |event| drop(sender.send(event));
        let keeper = settings.spawn(clock.clone(), report);
        Self { keeper, clock, events }
    }

    /// Waits for the next win, whose lease is confirmed.
    #[track_caller]
    fn won(&self) -> (Arc<dyn Fence>, Predecessor) {
        let won = self.won_at_all();
        assert!(self.clock.is_valid(world::instant()));
        won
    }

    /// Waits for the next win; passes over what is only for the log. A lease of milliseconds may
    /// have ended before this test looks at it.
    #[track_caller]
    fn won_at_all(&self) -> (Arc<dyn Fence>, Predecessor) {
        loop {
            match self.events.recv_timeout(PATIENCE).unwrap() {
                KeeperEvent::Won { fence, predecessor } => return (fence, predecessor),
                KeeperEvent::Waiting { .. } | KeeperEvent::Trouble { .. } => (),
                KeeperEvent::Lost { why }
                | KeeperEvent::Impossible { why }
                | KeeperEvent::RefusedStandAlone { why, .. } => {
                    panic!("{why}");
                }
            }
        }
    }

    #[track_caller]
    fn lost(&self) -> String {
        loop {
            match self.events.recv_timeout(PATIENCE).unwrap() {
                KeeperEvent::Lost { why } => {
                    assert!(!self.clock.is_valid(world::instant()));
                    return why;
                }
                KeeperEvent::Waiting { .. } | KeeperEvent::Trouble { .. } => (),
                KeeperEvent::Won { .. }
                | KeeperEvent::Impossible { .. }
                | KeeperEvent::RefusedStandAlone { .. } => {
                    panic!("won or refused");
                }
            }
        }
    }

    #[track_caller]
    fn waiting(&self) -> (Option<Holder>, String) {
        match self.events.recv_timeout(PATIENCE).unwrap() {
            KeeperEvent::Waiting { holder, why } => (holder, why),
            KeeperEvent::Trouble { text, .. } => panic!("{text}"),
            KeeperEvent::Lost { why }
            | KeeperEvent::Impossible { why }
            | KeeperEvent::RefusedStandAlone { why, .. } => {
                panic!("{why}");
            }
            KeeperEvent::Won { fence, .. } => panic!("won epoch {}", fence.epoch()),
        }
    }
}

impl Local {
    /// Waits until the keeper waits for somebody that is none of ours.
    #[track_caller]
    fn waits_for_a_foreigner(&self) {
        loop {
            let (holder, why) = self.waiting();
            assert_eq!(holder, None);
            if why.contains("not by a stanby server: a Go server is active") {
                return;
            }
        }
    }
}

/// A keeper in a process of its own.
struct Remote {
    process: Child,
    commands: ChildStdin,
    events: Receiver<String>,
}

const ROOT: &str = "LEASE_CONTRACT_ROOT";
const KIND: &str = "LEASE_CONTRACT_KIND";
const MEMBER: &str = "LEASE_CONTRACT_MEMBER";
const STEAL_MILLIS: &str = "LEASE_CONTRACT_STEAL_MILLIS";

impl Remote {
    fn start(root: &Path, member: &str, steal_after: Duration) -> Self {
        Self::start_over("file", root, member, steal_after)
    }

    /// Over what `kinds` has of that name.
    fn start_over(kind: &str, root: &Path, member: &str, steal_after: Duration) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_member_in_a_process_of_its_own", "--nocapture"])
            .env(ROOT, root)
            .env(KIND, kind)
            .env(MEMBER, member)
            .env(STEAL_MILLIS, steal_after.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, events) = crossbeam_channel::unbounded();
        thread::spawn(move || forward(lines, &sender));
        Self { process, commands, events }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
    }

    /// Waits for an event that begins with `beginning`.
    #[track_caller]
    fn expect(&self, beginning: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(event) = self.events.recv_timeout(PATIENCE) {
            if event.starts_with(beginning) {
                return event;
            }
            seen.push(event);
        }
        panic!("expected {beginning}, saw {seen:?}");
    }
}

fn forward(lines: impl Iterator<Item = std::io::Result<String>>, sender: &Sender<String>) {
    for line in lines.map_while(Result::ok) {
        // The test program's own lines come on the same pipe, and may stand before ours.
        let Some(at) = line.find("event ") else {
            continue;
        };
        if sender.send(line[at + 6..].to_owned()).is_err() {
            return;
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // It may have been killed by its test.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a goal: the other end of `Remote`, when this program runs as one.
#[test]
fn a_member_in_a_process_of_its_own() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else {
        return;
    };
    let member = std::env::var(MEMBER).unwrap();
    let steal_after = Duration::from_millis(std::env::var(STEAL_MILLIS).unwrap().parse().unwrap());
    let (sender, fences) = crossbeam_channel::unbounded();
    let clock = LeaseClock::default();
    let report = move |event| {
        let line = match event {
            KeeperEvent::Waiting { holder, why } => {
                format!("waiting for {} ({why})", holder.unwrap_or_default().server_id)
            }
            KeeperEvent::Won { fence, predecessor } => {
                let line = format!("won {} {predecessor:?}", fence.epoch());
                sender.send(fence).unwrap();
                line
            }
            KeeperEvent::Lost { why } => format!("lost {why}"),
            KeeperEvent::RefusedStandAlone { why, .. } => format!("refused {why}"),
            KeeperEvent::Trouble { text, .. } => format!("trouble {text}"),
            KeeperEvent::Impossible { why } => format!("impossible {why}"),
        };
        say(&line);
    };
    let kind = std::env::var(KIND).unwrap();
    let open = kinds().into_iter().find(|one| one.name == kind).unwrap().open;
    let settings = KeeperSettings { open, ..settings(&root, &member, steal_after) };
    let keeper = settings.spawn(clock, report);
    let mut fence: Option<Arc<dyn Fence>> = None;
    for line in std::io::stdin().lines().map_while(Result::ok) {
        fence = fences.try_iter().last().or(fence);
        match line.as_str() {
            "release" => {
                keeper.release(fence.as_ref().unwrap().epoch(), true, PATIENCE);
            }
            "check" => match fence.as_ref().unwrap().check() {
                Ok(()) => say("fence held"),
                Err(error) => say(&format!("fence {error}")),
            },
            other => panic!("{other}"),
        }
    }
}

/// Around the test program's capture.
fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nevent {line}").and_then(|()| out.flush()).unwrap();
}

#[track_caller]
fn wait_until_locked(path: &Path) {
    let deadline = world::instant() + PATIENCE;
    while !epoch_files::is_locked(path).unwrap() {
        assert!(world::instant() < deadline, "{} is not locked", path.display());
        thread::yield_now();
    }
}

const NEVER: Duration = Duration::ZERO;
/// A short steal time; the signs of life come twelve times as often.
const SOON: Duration = Duration::from_secs(1);

/// Goal: a killed active is noticed at once, by the kernel, not by a time-out.
#[test]
fn a_killed_active_is_succeeded() {
    let root = tempfile::tempdir().unwrap();
    let active = Remote::start(root.path(), "active", NEVER);
    active.expect("won 1 Clean");
    let standby = Local::start(settings(root.path(), "standby", NEVER));
    assert_eq!(standby.waiting().0.unwrap().server_id, "active");
    active.signal(Signal::SIGKILL);
    let (fence, predecessor) = standby.won();
    assert_eq!((fence.epoch(), predecessor), (Epoch(2), Predecessor::Gone));
    fence.check().unwrap();
}

/// Goal: a released lease goes to the one who waits, who knows that it was released cleanly.
#[test]
fn a_release_hands_over() {
    let root = tempfile::tempdir().unwrap();
    let mut active = Remote::start(root.path(), "active", NEVER);
    active.expect("won 1");
    let standby = Local::start(settings(root.path(), "standby", NEVER));
    standby.waiting();
    active.tell("release");
    let (fence, predecessor) = standby.won();
    assert_eq!((fence.epoch(), predecessor), (Epoch(2), Predecessor::Clean));
    active.tell("check");
    active.expect("fence epoch 1 was replaced: epoch 2 belongs to standby");
}

/// Goal: a stopped active is replaced; when it goes on it is fenced, becomes a standby, and leaves
/// the role where it is until its successor dies.
#[test]
fn a_stopped_active_is_replaced_and_does_not_come_back() {
    let root = tempfile::tempdir().unwrap();
    let mut old = Remote::start(root.path(), "old", SOON);
    old.expect("won 1");
    let new = Local::start(settings(root.path(), "new", SOON));
    new.waiting();
    old.signal(Signal::SIGSTOP);
    let (fence, predecessor) = new.won();
    assert_eq!((fence.epoch(), predecessor), (Epoch(2), Predecessor::Replaced));
    old.tell("check");
    old.signal(Signal::SIGCONT);
    old.expect("lost epoch 1 was replaced: epoch 2 belongs to new");
    old.expect("waiting for new");
    old.tell("check");
    old.expect("fence epoch 1 was replaced");
    // The successor now takes the lock that the old one let go: a third member waits for it.
    wait_until_locked(&root.path().join(".rootdir.lck"));
    let third = Remote::start(root.path(), "third", SOON);
    let seen = third.expect("waiting for new");
    assert!(seen.contains("holds"), "{seen}");
    fence.check().unwrap();
    assert!(new.events.try_iter().all(|event| !matches!(event, KeeperEvent::Lost { .. })));
    new.keeper.stop();
    // The other one may say first whom it waits for now.
    let winner = loop {
        let event = crossbeam_channel::select! {
            recv(old.events) -> event => event.unwrap(),
            recv(third.events) -> event => event.unwrap(),
            default(PATIENCE) => panic!("nobody wins"),
        };
        if !event.starts_with("waiting for ") {
            break event;
        }
    };
    assert!(winner.starts_with("won 3 Gone"), "{winner}");
}

/// Goal: a former active that still hangs with the lock in its hand is not taken for a Go server
/// when its successor ends too: the next one takes over.
#[test]
fn a_replaced_active_that_keeps_the_lock_does_not_keep_its_successors_out() {
    let root = tempfile::tempdir().unwrap();
    let old = Remote::start(root.path(), "old", SOON);
    old.expect("won 1");
    let mut new = Remote::start(root.path(), "new", SOON);
    new.expect("waiting for old");
    old.signal(Signal::SIGSTOP);
    new.expect("won 2 Replaced");
    let third = Local::start(settings(root.path(), "third", SOON));
    assert_eq!(third.waiting().0.unwrap().server_id, "new");
    new.process.kill().unwrap();
    let (fence, predecessor) = third.won();
    assert_eq!((fence.epoch(), predecessor), (Epoch(3), Predecessor::Replaced));
    old.signal(Signal::SIGCONT);
    old.expect("lost epoch 1 was replaced: epoch 3 belongs to third");
    old.expect("waiting for third");
    wait_until_locked(&root.path().join(".rootdir.lck"));
    fence.check().unwrap();
    assert!(third.events.try_iter().all(|event| !matches!(event, KeeperEvent::Lost { .. })));
    third.keeper.stop();
    old.expect("won 4");
}

/// Goal: nobody is replaced while it gives signs of life, or where stealing is switched off.
#[test]
fn a_living_active_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let active = Local::start(settings(root.path(), "active", SOON));
    let (fence, _) = active.won();
    let standby = Local::start(settings(root.path(), "standby", SOON));
    standby.waiting();
    let seen = || epoch_files::read_holder(root.path(), Epoch(1)).unwrap().unwrap().counter;
    let until = seen() + 20;
    let deadline = world::instant() + PATIENCE;
    while seen() < until {
        assert!(world::instant() < deadline, "no signs of life");
        thread::yield_now();
    }
    fence.check().unwrap();
    assert!(standby.events.is_empty());
    assert!(active.clock.is_valid(world::instant()));
}

/// Goal: an active whose lock file was removed or replaced locks the new one, and stays active.
#[test]
fn a_replaced_lock_file_is_locked_again() {
    let root = tempfile::tempdir().unwrap();
    let lock = root.path().join(".rootdir.lck");
    let active = Local::start(settings(root.path(), "active", NEVER));
    let (fence, _) = active.won();
    for _ in 0..2 {
        fs::remove_file(&lock).unwrap();
        active.keeper.check_now();
        wait_until_locked(&lock);
    }
    let standby = Local::start(settings(root.path(), "standby", NEVER));
    assert_eq!(standby.waiting().0.unwrap().server_id, "active");
    fence.check().unwrap();
    active.keeper.stop();
    assert_eq!(standby.won().0.epoch(), Epoch(2));
}

/// Goal: a lock file that somebody else replaced and locked costs the role, before the lease ends.
#[test]
fn a_replaced_and_locked_lock_file_costs_the_role() {
    let root = tempfile::tempdir().unwrap();
    let lock = root.path().join(".rootdir.lck");
    let active = Local::start(settings(root.path(), "active", SOON));
    active.won();
    let foreign = fs::File::create(root.path().join("new")).unwrap();
    assert!(epoch_files::try_lock(&foreign).unwrap());
    fs::rename(root.path().join("new"), &lock).unwrap();
    assert!(active.lost().contains("was replaced, and the new one is locked"));
    active.waits_for_a_foreigner();
    drop(foreign);
    assert_eq!(active.won().0.epoch(), Epoch(2));
}

/// Goal: what cannot be confirmed is given up when the lease ends, and taken again when it can be.
#[test]
fn a_vanished_directory_costs_the_role_until_it_is_back() {
    let parent = tempfile::tempdir().unwrap();
    let (root, gone) = (parent.path().join("root"), parent.path().join("gone"));
    fs::create_dir(&root).unwrap();
    let member = Local::start(settings(&root, "member", SOON));
    let (fence, _) = member.won();
    fs::rename(&root, &gone).unwrap();
    assert!(matches!(fence.check(), Err(FenceError::Unreadable(_))));
    member.lost();
    fs::rename(&gone, &root).unwrap();
    let (fence, predecessor) = member.won();
    assert_eq!((fence.epoch(), predecessor), (Epoch(2), Predecessor::Gone));
}

/// Goal: a late release of an epoch that was lost does not touch the one that was won since.
#[test]
fn a_late_release_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let member = Local::start(settings(root.path(), "member", NEVER));
    let (first, _) = member.won();
    member.keeper.release(first.epoch(), true, Duration::ZERO);
    let (second, predecessor) = member.won();
    assert_eq!((second.epoch(), predecessor), (Epoch(2), Predecessor::Clean));
    member.keeper.release(first.epoch(), true, Duration::ZERO);
    let other = Local::start(settings(root.path(), "other", NEVER));
    assert_eq!(other.waiting().0.unwrap().epoch, Epoch(2));
    assert!(member.clock.is_valid(world::instant()));
    second.check().unwrap();
}

/// Goal: after a clean release a Go server that came and went, which only its truncation of the
/// lock file shows, is not taken for a clean predecessor.
#[test]
fn a_go_server_in_between_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let mut lease = open_file(root.path(), "one", Duration::ZERO);
    won(&mut lease);
    lease.release(true).unwrap();
    let lock = root.path().join(".rootdir.lck");
    let time = || fs::metadata(&lock).unwrap().modified().unwrap();
    let released_at = time();
    // Times of files move in steps of some milliseconds.
    while time() == released_at {
        fs::File::create(&lock).unwrap();
    }
    assert_eq!(won(&mut lease).predecessor, Predecessor::Gone);
}

/// Goal: who was fenced though it held all locks does not trust them: it waits until its successor
/// gives no signs of life, so that the role does not go to and fro.
#[test]
fn locks_that_proved_nothing_are_not_trusted() {
    let root = tempfile::tempdir().unwrap();
    let member = Local::start(settings(root.path(), "member", SOON));
    member.won();
    // The other's lock is not seen from here, as on a file system whose locks stay on one machine.
    let (epoch, other) = (Epoch(2), owner("other"));
    drop(epoch_files::claim_by_create(root.path(), epoch, &other).unwrap());
    let file = fs::File::options().write(true).open(root.path().join(".stanby.epoch.2")).unwrap();
    assert!(member.lost().contains("epoch 2 belongs to other"));
    // Until it is seen that the locks prove nothing the other one counts as active.
    let (mut counter, mut distrusts_since) = (0, None);
    let deadline = world::instant() + PATIENCE;
    while distrusts_since.is_none_or(|since| world::instant() < since + SOON * 2) {
        counter += 1;
        file.write_all_at(format!("{counter:020}").as_bytes(), 0).unwrap();
        thread::yield_now();
        assert!(world::instant() < deadline, "the locks are trusted");
        for event in member.events.try_iter() {
            let KeeperEvent::Waiting { why, .. } = event else { panic!("it does not wait") };
            assert!(distrusts_since.is_none(), "{why}");
            if why.contains("not trusted") {
                distrusts_since = Some(world::instant());
            }
        }
    }
    let (fence, predecessor) = member.won();
    assert_eq!((fence.epoch(), predecessor), (Epoch(3), Predecessor::Replaced));
}

/// Goal: a holder of the lock that is none of ours is never replaced, and named as such.
#[test]
fn a_foreign_holder_is_never_replaced() {
    let root = tempfile::tempdir().unwrap();
    let foreign = fs::File::create(root.path().join(".rootdir.lck")).unwrap();
    assert!(epoch_files::try_lock(&foreign).unwrap());
    let standby = Local::start(settings(root.path(), "standby", Duration::from_millis(20)));
    standby.waits_for_a_foreigner();
    assert!(standby.events.recv_timeout(Duration::from_millis(300)).is_err());
    drop(foreign);
    assert_eq!(standby.won_at_all().1, Predecessor::Clean);
}

/// Goal: a program that only holds a `flock` on the lock file keeps us out too, and is named.
#[test]
fn a_flock_keeps_us_out() {
    let root = tempfile::tempdir().unwrap();
    let foreign = fs::File::create(root.path().join(".rootdir.lck")).unwrap();
    foreign.lock().unwrap();
    let standby = Local::start(settings(root.path(), "standby", NEVER));
    let (_, why) = standby.waiting();
    assert!(why.contains("holds a flock"), "{why}");
    drop(foreign);
    standby.won();
}

/// What tells that a lease has woken whoever waits in it.
fn bell() -> (Wake, Receiver<()>) {
    let (sender, woken) = crossbeam_channel::unbounded();
    (Arc::new(move || sender.send(()).unwrap()), woken)
}

/// Goal: the two locks of a dying owner's lock file go one after the other; whoever waits is woken
/// when both have gone, and has the lease then: no look at the clock is needed.
#[test]
fn a_flock_that_goes_last_wakes_the_waiter() {
    let root = tempfile::tempdir().unwrap();
    let lock = root.path().join(".rootdir.lck");
    let dying = fs::File::create(&lock).unwrap();
    assert!(epoch_files::try_lock(&dying).unwrap());
    dying.lock().unwrap();
    let mut lease = open_file(root.path(), "standby", Duration::ZERO);
    held(&mut lease);
    let (wake, woken) = bell();
    lease.wait(&wake).unwrap();
    epoch_files::unlock(&dying).unwrap();
    // By the waiter now.
    wait_until_locked(&lock);
    held(&mut lease);
    assert!(woken.is_empty());
    dying.unlock().unwrap();
    woken.recv_timeout(PATIENCE).unwrap();
    won(&mut lease);
}

/// Goal: the same where the flock goes last of all and is met by a try, not by a waiter.
#[test]
fn a_flock_that_is_met_by_a_try_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let dying = fs::File::create(root.path().join(".rootdir.lck")).unwrap();
    dying.lock().unwrap();
    let mut lease = open_file(root.path(), "standby", Duration::ZERO);
    held(&mut lease);
    let (wake, woken) = bell();
    lease.wait(&wake).unwrap();
    drop(dying);
    woken.recv_timeout(PATIENCE).unwrap();
    won(&mut lease);
}

/// Goal: the same for the lock of a dying owner's epoch.
#[test]
fn an_epochs_lock_that_goes_last_wakes_the_waiter() {
    let root = tempfile::tempdir().unwrap();
    let dying = fs::File::create(root.path().join(".rootdir.lck")).unwrap();
    assert!(epoch_files::try_lock(&dying).unwrap());
    dying.lock().unwrap();
    let epoch = epoch_files::claim_by_create(root.path(), Epoch(1), &owner("dying")).unwrap();
    let mut lease = open_file(root.path(), "standby", Duration::ZERO);
    let (wake, woken) = bell();
    assert_eq!(held(&mut lease).unwrap().server_id, "dying");
    lease.wait(&wake).unwrap();
    drop(dying);
    woken.recv_timeout(PATIENCE).unwrap();
    assert_eq!(held(&mut lease).unwrap().server_id, "dying");
    lease.wait(&wake).unwrap();
    drop(epoch);
    woken.recv_timeout(PATIENCE).unwrap();
    won(&mut lease);
    assert!(woken.is_empty());
}

/// Goal: a second stand-alone server refuses, names the holder, and harms nothing.
#[test]
fn a_second_stand_alone_server_refuses() {
    let root = tempfile::tempdir().unwrap();
    let alone =
        |member| KeeperSettings { mode: Mode::StandAlone, ..settings(root.path(), member, NEVER) };
    let first = Local::start(alone("first"));
    let (fence, _) = first.won();
    let second = Local::start(alone("second"));
    let began_at = world::instant();
    second.waiting();
    match second.events.recv_timeout(PATIENCE).unwrap() {
        KeeperEvent::RefusedStandAlone { holder, .. } => {
            assert_eq!(holder.unwrap().server_id, "first");
        }
        KeeperEvent::Won { .. }
        | KeeperEvent::Lost { .. }
        | KeeperEvent::Waiting { .. }
        | KeeperEvent::Impossible { .. }
        | KeeperEvent::Trouble { .. } => panic!("not refused"),
    }
    assert!(Duration::from_millis(1_500) < world::instant().since(began_at));
    fence.check().unwrap();
}

/// Goal: who stands alone and may not write there ends; in a group it says that this stays.
#[test]
fn a_directory_that_is_none_ends_who_stands_alone() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let alone = KeeperSettings { mode: Mode::StandAlone, ..settings(&file, "alone", NEVER) };
    let alone = Local::start(alone);
    match alone.events.recv_timeout(PATIENCE).unwrap() {
        KeeperEvent::Impossible { why } => assert!(why.contains("Not a directory"), "{why}"),
        KeeperEvent::Won { .. }
        | KeeperEvent::Lost { .. }
        | KeeperEvent::Waiting { .. }
        | KeeperEvent::RefusedStandAlone { .. }
        | KeeperEvent::Trouble { .. } => panic!("it goes on"),
    }
    let member = Local::start(settings(&file, "member", NEVER));
    match member.events.recv_timeout(PATIENCE).unwrap() {
        KeeperEvent::Trouble { text, lasts } => {
            assert!(text.contains("Not a directory") && lasts, "{text}");
        }
        KeeperEvent::Won { .. }
        | KeeperEvent::Lost { .. }
        | KeeperEvent::Waiting { .. }
        | KeeperEvent::RefusedStandAlone { .. }
        | KeeperEvent::Impossible { .. } => panic!("no trouble"),
    }
}

/// Goal: any number of heartbeats of others costs a few looks, and nothing waits behind them.
#[test]
fn a_flood_of_heartbeats_costs_a_few_looks() {
    let root = tempfile::tempdir().unwrap();
    let active = Local::start(settings(root.path(), "active", NEVER));
    let (fence, _) = active.won();
    for _ in 0..50_000 {
        active.keeper.check_now();
    }
    active.keeper.release(fence.epoch(), true, PATIENCE);
    let standby = Local::start(settings(root.path(), "standby", NEVER));
    // The record of the first epoch stays until the second one has settled.
    let counter = epoch_files::read_holder(root.path(), Epoch(1)).unwrap().map(|it| it.counter);
    standby.won();
    assert!(counter.unwrap_or(0) < 1_000, "{counter:?} signs of life");
}
