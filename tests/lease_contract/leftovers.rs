//! What members that are gone leave in a directory.

use super::*;

/// Goal: what dead standbys prepared goes while the active serves.
#[test]
fn prepared_epochs_do_not_pile_up() {
    let root = tempfile::tempdir().unwrap();
    let active = Local::start(settings(root.path(), "active", NEVER));
    active.won();
    let claims = || epoch_files::list(root.path()).unwrap().claims;
    for number in 0..100 {
        drop(epoch_files::Claim::prepare(root.path(), &owner(&format!("dead{number}"))).unwrap());
    }
    let living = epoch_files::Claim::prepare(root.path(), &owner("living")).unwrap();
    let deadline = world::instant() + PATIENCE;
    while claims().len() > 16 {
        assert!(world::instant() < deadline, "{:?}", claims());
        active.keeper.check_now();
        thread::yield_now();
    }
    assert!(claims().contains(&".stanby.claim.living".to_owned()));
    living.discard();
}

/// Goal: many take-overs leave neither epochs nor claims behind, and no folder at all.
#[test]
fn take_overs_leave_one_epoch_file() {
    let root = tempfile::tempdir().unwrap();
    for epoch in 1..=5 {
        let member = Local::start(settings(root.path(), &format!("m{epoch}"), NEVER));
        assert_eq!(member.won().0.epoch(), Epoch(epoch));
        let standby = Local::start(settings(root.path(), &format!("s{epoch}"), NEVER));
        standby.waiting();
        standby.keeper.stop();
        member.keeper.stop();
    }
    let names = || -> Vec<String> {
        let entries = fs::read_dir(root.path()).unwrap().map(Result::unwrap);
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let mut names = names();
    names.sort();
    assert_eq!(names, [".rootdir.lck", ".stanby.epoch.5"]);
}
