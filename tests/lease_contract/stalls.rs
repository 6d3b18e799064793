//! What a keeper makes of loops and stores that hang, and of a holder that says so.

use stanby::base::pulse::Pulse;

use super::*;

/// A member whose loop and store have the test's pulses.
struct Watched {
    local: Local,
    event_loop: Arc<Pulse>,
    vitals: Vitals,
}

impl Watched {
    fn start(root: &Path, member: &str, steal_after: Duration) -> Self {
        let event_loop = Arc::new(Pulse::default());
        let bound = keeper::stall_bound(steal_after);
        let vitals = Vitals::new(vec![Arc::clone(&event_loop)], bound);
        let settings =
            KeeperSettings { vitals: vitals.clone(), ..settings(root, member, steal_after) };
        Self { local: Local::start(settings), event_loop, vitals }
    }

    /// The record of epoch 1.
    fn holder(root: &Path) -> Holder {
        epoch_files::read_holder(root, Epoch(1)).unwrap().unwrap()
    }
}

/// Waits until `is_so`.
#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = world::instant() + PATIENCE;
    while !is_so() {
        assert!(world::instant() < deadline, "not in time: {what}");
        thread::yield_now();
    }
}

/// Goal: a loop that hangs ends the renewal, so its member is replaced though its keeper lives.
#[test]
fn a_hung_loop_costs_the_role() {
    let root = tempfile::tempdir().unwrap();
    let active = Watched::start(root.path(), "active", SOON);
    active.local.won();
    let standby = Local::start(settings(root.path(), "standby", SOON));
    standby.waiting();
    active.event_loop.beat(world::instant());
    let (fence, predecessor) = standby.won();
    assert_eq!((fence.epoch(), predecessor), (Epoch(2), Predecessor::Replaced));
    assert!(active.local.lost().contains("belongs to standby"));
}

/// Goal: a store that makes no progress is said in the record, and its member is replaced by one
/// whose own write is durable.
#[test]
fn a_stuck_store_costs_the_role_where_it_works_for_another() {
    let root = tempfile::tempdir().unwrap();
    let active = Watched::start(root.path(), "active", SOON);
    active.local.won();
    active.vitals.store(0).beat(world::instant());
    let standby = Local::start(settings(root.path(), "standby", SOON));
    let (fence, predecessor) = standby.won();
    assert_eq!((fence.epoch(), predecessor), (Epoch(2), Predecessor::Replaced));
    assert!(active.local.lost().contains("belongs to standby"));
    // Its thread still hangs in a call: it does not come back before that has ended.
    standby.keeper.stop();
    let until = world::instant() + SOON;
    while let Ok(event) = active.local.events.recv_timeout(until.since(world::instant())) {
        assert!(matches!(event, KeeperEvent::Trouble { .. }), "it takes no part");
    }
    active.vitals.store(0).end();
    assert_eq!(active.local.won().0.epoch(), Epoch(3));
}

/// Goal: where nobody else may take over, a stall changes nothing but what is said of it.
#[test]
fn without_stealing_a_stall_costs_no_role() {
    let root = tempfile::tempdir().unwrap();
    let vitals = Vitals::new(vec![Arc::default()], Duration::ZERO);
    let settings_of_active =
        KeeperSettings { vitals: vitals.clone(), ..settings(root.path(), "active", NEVER) };
    let active = Local::start(settings_of_active);
    active.won();
    vitals.store(0).beat(world::instant());
    wait_until("it is marked", || Watched::holder(root.path()).stuck_since.is_some());
    let counter = Watched::holder(root.path()).counter;
    wait_until("it goes on", || counter + 2 < Watched::holder(root.path()).counter);
    vitals.store(0).rest();
    wait_until("it is not marked", || Watched::holder(root.path()).stuck_since.is_none());
    assert!(active.clock.is_valid(world::instant()));
}

/// Goal: who cannot write in the store itself replaces nobody: a disk that stalls for all moves no
/// role.
#[test]
fn who_cannot_write_in_the_store_replaces_nobody() {
    let root = tempfile::tempdir().unwrap();
    let old = Remote::start(root.path(), "old", SOON);
    old.expect("won 1");
    // A folder of that name keeps the standby from writing what it would write.
    let in_the_way = root.path().join(".stanby.claim.new.proof");
    fs::create_dir(&in_the_way).unwrap();
    let new = Local::start(settings(root.path(), "new", SOON));
    new.waiting();
    old.signal(Signal::SIGSTOP);
    match new.events.recv_timeout(PATIENCE).unwrap() {
        KeeperEvent::Trouble { text, .. } => assert!(text.contains("write and sync"), "{text}"),
        KeeperEvent::Won { fence, .. } => panic!("won {}", fence.epoch()),
        KeeperEvent::Lost { .. }
        | KeeperEvent::Waiting { .. }
        | KeeperEvent::RefusedStandAlone { .. }
        | KeeperEvent::Impossible { .. } => panic!("no trouble"),
    }
    let until = world::instant() + SOON * 2;
    while let Ok(event) = new.events.recv_timeout(until.since(world::instant())) {
        assert!(!matches!(event, KeeperEvent::Won { .. }), "it took the role");
    }
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(new.won().1, Predecessor::Replaced);
}
