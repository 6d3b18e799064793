//! A member that stands still between the lock and the epoch.

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use stanby::site::root_lock;
use stanby::store::sql::{self, sessions};

use super::*;

/// Epochs of the dead that a standby looks through before it claims: time to stop it meanwhile.
const DEAD_EPOCHS: u64 = 3_000;
/// How often a standby that was faster is let go for another try.
const TRIES: usize = 20;

impl Remote {
    #[track_caller]
    fn wait_until_stopped(&self) {
        let stopped = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let status = waitpid(stopped, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(status, WaitStatus::Stopped(stopped, Signal::SIGSTOP));
    }
}

/// A member that was stopped with the lock in its hand and without an epoch, in a directory whose
/// newest epoch is of one that died.
struct Stopped {
    root: tempfile::TempDir,
    member: Remote,
    newest: Epoch,
}

impl Stopped {
    #[track_caller]
    fn new() -> Self {
        let tries = std::iter::repeat_with(Self::try_new).take(TRIES);
        tries.flatten().next().expect("the standby always was faster")
    }

    /// `None` if the epoch was claimed before the signal came.
    fn try_new() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let newest = Epoch(DEAD_EPOCHS + 1);
        fs::write(epoch_files::epoch_path(root.path(), Epoch(DEAD_EPOCHS)), "").unwrap();
        let mut active = Remote::start(root.path(), "active", SOON);
        active.expect(&format!("won {newest}"));
        let lock = root.path().join(".rootdir.lck");
        wait_until_counted(root.path(), newest);
        for epoch in 1..=DEAD_EPOCHS {
            fs::write(epoch_files::epoch_path(root.path(), Epoch(epoch)), "").unwrap();
        }
        let member = Remote::start(root.path(), "stopped", SOON);
        member.expect("waiting for active");
        active.process.kill().unwrap();
        active.process.wait().unwrap();
        wait_until_locked(&lock);
        member.signal(Signal::SIGSTOP);
        member.wait_until_stopped();
        let claimed = epoch_files::list(root.path()).unwrap().epochs.last().copied();
        let is_hit = claimed == Some(newest) && root_lock::is_of_stanby(&lock).unwrap();
        is_hit.then_some(Self { root, member, newest })
    }
}

/// An active has tidied up when it gives signs of life.
#[track_caller]
fn wait_until_counted(root: &Path, epoch: Epoch) {
    let deadline = world::instant() + PATIENCE;
    let counter = || epoch_files::read_holder(root, epoch).unwrap().map_or(0, |it| it.counter);
    while counter() < 2 {
        assert!(world::instant() < deadline, "epoch {epoch} gives no sign of life");
        thread::yield_now();
    }
}

/// Goal: a member that is stopped between the lock and the epoch keeps nobody from serving; when
/// it goes on it claims nothing, leaves the lock to who is active, and stands by.
#[test]
fn a_member_that_is_stopped_before_its_claim_is_passed_over_and_harms_nothing() {
    let Stopped { root, member, newest } = Stopped::new();
    let began_at = world::instant();
    let other = Local::start(settings(root.path(), "other", SOON));
    let (holder, why) = other.waiting();
    assert_eq!(holder, None);
    assert!(why.contains("held by a stanby server that is about to claim"), "{why}");
    let (fence, predecessor) = other.won();
    assert_eq!((fence.epoch(), predecessor), (newest.next(), Predecessor::Replaced));
    assert!(SOON <= world::instant().since(began_at), "it is given time");
    member.signal(Signal::SIGCONT);
    member.expect("waiting for other");
    let lock = root.path().join(".rootdir.lck");
    let third = Remote::start(root.path(), "third", SOON);
    assert!(third.expect("waiting for other").contains("holds"), "the lock is the active's");
    assert!(root_lock::is_of_stanby(&lock).unwrap());
    fence.check().unwrap();
    assert!(other.events.try_iter().all(|event| !matches!(event, KeeperEvent::Lost { .. })));
    drop(third);
    other.keeper.stop();
    member.expect(&format!("won {} Gone", newest.next().next()));
}

/// Goal: it is passed over also where who did that has come and gone, and its epoch was removed:
/// what it claims late is nobody's.
#[test]
fn a_claim_that_comes_after_others_have_come_and_gone_wins_nothing() {
    let Stopped { root, member, newest } = Stopped::new();
    let other = Local::start(settings(root.path(), "other", SOON));
    assert_eq!(other.won().0.epoch(), newest.next());
    other.keeper.stop();
    let third = Local::start(settings(root.path(), "third", SOON));
    let (fence, predecessor) = third.won();
    assert_eq!((fence.epoch(), predecessor), (newest.next().next(), Predecessor::Replaced));
    let deadline = world::instant() + PATIENCE;
    let is_there = |epoch| epoch_files::is_taken(&epoch_files::epoch_path(root.path(), epoch));
    while is_there(newest.next()).unwrap() {
        assert!(world::instant() < deadline, "it stays");
        thread::yield_now();
    }
    member.signal(Signal::SIGCONT);
    member.expect("waiting for third");
    fence.check().unwrap();
    assert!(third.events.try_iter().all(|event| !matches!(event, KeeperEvent::Lost { .. })));
    third.keeper.stop();
    let (won, fourth) = (member.expect("won "), newest.next().next().next());
    assert!(won.starts_with(&format!("won {fourth} ")), "{won}");
}

/// Goal: where nobody is replaced, nobody is passed over, and it is said why nobody serves.
#[test]
fn without_stealing_nobody_is_passed_over() {
    let Stopped { root, member, .. } = Stopped::new();
    let other = Local::start(settings(root.path(), "other", NEVER));
    let (_, why) = other.waiting();
    assert!(why.contains("never passed over"), "{why}");
    assert!(other.events.recv_timeout(2 * SOON).is_err());
    drop(member);
    other.won();
}

/// Goal: a `flock` of another program keeps all of us out, also where one of us has the other lock
/// and waits for that one.
#[test]
fn who_waits_for_anothers_flock_is_not_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let lock = root.path().join(".rootdir.lck");
    let foreign = fs::File::create(&lock).unwrap();
    foreign.lock().unwrap();
    let first = Local::start(settings(root.path(), "first", SOON));
    assert!(first.waiting().1.contains("holds a flock"));
    wait_until_locked(&lock);
    let second = Local::start(settings(root.path(), "second", SOON));
    let until = world::instant() + 2 * SOON;
    while let Ok(event) = second.events.recv_timeout(until.since(world::instant())) {
        assert!(!matches!(event, KeeperEvent::Won { .. }), "it took the role");
    }
    drop(foreign);
    first.won();
}

/// Tries until the lease is won.
#[track_caller]
fn win_in_time(lease: &mut Box<dyn Lease>) -> Grant {
    let deadline = world::instant() + PATIENCE;
    loop {
        match lease.try_take().unwrap() {
            Attempt::Won(grant) => return grant,
            Attempt::Held { why, .. } => assert!(world::instant() < deadline, "{why}"),
        }
        thread::yield_now();
    }
}

/// Goal: over SQLite the process that stands still there is ended, as one that hangs with an epoch
/// is: it may have the database's own lock too.
#[test]
fn over_sqlite_a_member_that_is_stopped_before_its_claim_is_ended() {
    for is_released in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let source = databases::sqlite(root.path());
        let mut before = open_sqlite(root.path(), "before", NEVER);
        if is_released {
            won(&mut before);
            before.release(true).unwrap();
        }
        // Nobody claims an epoch meanwhile.
        let mut writer = sql::connect(&source, databases::CALL_TIMEOUT).unwrap();
        writer.run("BEGIN IMMEDIATE").unwrap();
        let mut member = Remote::start_over("sqlite", root.path(), "stopped", SOON);
        wait_until_locked(&root.path().join("store.db.stanby.lck"));
        member.signal(Signal::SIGSTOP);
        member.wait_until_stopped();
        writer.run("ROLLBACK").unwrap();
        let mut other = open_sqlite(root.path(), "other", SOON);
        let grant = win_in_time(&mut other);
        let epoch = Epoch(if is_released { 2 } else { 1 });
        assert_eq!((grant.fence.epoch(), grant.predecessor), (epoch, Predecessor::Replaced));
        assert!(!member.process.wait().unwrap().success(), "it was ended");
    }
}

/// Goal: over a database server the session that has the lock and claims nothing is ended.
#[test]
fn over_a_database_server_a_session_that_claims_nothing_is_cut_off() {
    for kind in kinds() {
        let folder = tempfile::tempdir().unwrap();
        let source = match kind.name {
            "postgres" => databases::postgres(folder.path()),
            "mysql" => databases::mysql(folder.path()),
            _ => continue,
        };
        let mut lease = (kind.open)(folder.path(), "other", SOON);
        for epoch in [1, 2] {
            let mut claimant = sql::connect(&source, databases::CALL_TIMEOUT).unwrap();
            assert!(sessions::try_lock(claimant.as_mut()).unwrap());
            let began_at = world::instant();
            assert_eq!(held(&mut lease), None);
            let grant = win_in_time(&mut lease);
            let found = (grant.fence.epoch(), grant.predecessor);
            assert_eq!(found, (Epoch(epoch), Predecessor::Replaced));
            assert!(SOON <= world::instant().since(began_at), "it is given time");
            lease.release(true).unwrap();
        }
    }
}
