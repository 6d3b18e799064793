//! `stanby check` over stores of the Go server, whole and damaged.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/folders.rs"]
mod folders;
#[path = "support/stores.rs"]
mod stores;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::collection;
use proptest::prelude::*;
use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::Predecessor;
use stanby::base::random::Random;
use stanby::base::record::{Batch, ClientWrite, Lifecycle, SubscriptionWrite};
use stanby::proto::spb;
use stanby::store::check::{self, Report, Rules, Weight};
use stanby::store::file::FileOptions;

use folders::copy;
use stores::{batch, commit, open, open_as, part, subscription};

fn look(root: &Path) -> Report {
    check::directory(root, Rules::default(), &mut |_| ()).unwrap()
}

/// A store with durables, clients and several channels, as the Go server left it.
fn recorded() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores/b-durables"), &root);
    (folder, root)
}

/// Files with records, but for those that have none.
fn files(root: &Path) -> Vec<PathBuf> {
    let has_records = |path: &PathBuf| {
        let is_of_store = path.extension().is_some_and(|it| it == "dat" || it == "idx");
        is_of_store && fs::metadata(path).unwrap().len() > 4
    };
    folders::files(root).into_iter().filter(has_records).collect()
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

#[test]
fn a_store_as_the_go_server_left_it_is_whole() {
    let (_folder, root) = recorded();
    let report = look(&root);
    assert!(!report.is_damaged() && report.findings.is_empty(), "{report:?}");
    assert!(report.messages > 0 && report.subscriptions > 0 && report.clients > 0, "{report:?}");
}

/// Goal: a bit that flips anywhere in a file with checksums is never passed over, and the look
/// changes nothing.
#[test]
fn a_flipped_bit_is_seen_wherever_it_is() {
    let (_folder, root) = recorded();
    let files = files(&root);
    let mut random = Random::new(20_231_122);
    for _ in 0..400 {
        let file = &files[below(&mut random, files.len())];
        let whole = fs::read(file).unwrap();
        let at = below(&mut random, whole.len());
        let bit = random.below(8);
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << bit;
        fs::write(file, &flipped).unwrap();
        let report = look(&root);
        let is_seen = report.findings.iter().any(|found| file.ends_with(&found.file));
        assert!(is_seen, "bit {bit} of byte {at} of {}: {report:?}", file.display());
        assert_eq!(fs::read(file).unwrap(), flipped, "it is as it was");
        fs::write(file, whole).unwrap();
    }
}

/// Goal: what is missing at the end of one file is seen by the other, or inside a record.
#[test]
fn a_cut_is_seen_wherever_it_leaves_a_trace() {
    let (_folder, root) = recorded();
    let files = files(&root);
    let mut random = Random::new(7);
    for _ in 0..200 {
        let file = &files[below(&mut random, files.len())];
        let whole = fs::read(file).unwrap();
        let len = below(&mut random, whole.len());
        fs::write(file, &whole[..len]).unwrap();
        let report = look(&root);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let is_alone = name == "subs.dat" || name == "clients.dat";
        let stem = file.strip_prefix(&root).unwrap().with_extension("");
        let is_seen = report.findings.iter().any(|found| found.file.with_extension("") == stem);
        // A file of its own that ends behind a whole record leaves none: the page says so.
        assert!(is_seen || is_alone, "{len} bytes of {}: {report:?}", file.display());
        fs::write(file, whole).unwrap();
    }
}

#[test]
fn a_file_that_is_gone_is_named_with_what_it_means() {
    for (gone, weight) in [
        ("clients.dat", Weight::Damage),
        ("server.dat", Weight::Damage),
        ("orders/subs.dat", Weight::Damage),
        ("orders/msgs.1.dat", Weight::Damage),
        ("orders/msgs.1.idx", Weight::Mended),
    ] {
        let (_folder, root) = recorded();
        fs::remove_file(root.join(gone)).unwrap();
        let report = look(&root);
        let stem = Path::new(gone).with_extension("");
        let found = report.findings.iter().find(|found| found.file.with_extension("") == stem);
        assert_eq!(found.map(|found| found.weight), Some(weight), "{gone}: {report:?}");
    }
}

/// Runs the command; its exit code and what it says.
fn run(args: &[&str], path: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stanby"));
    let output = command.arg("check").args(args).arg(path).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Goal: a store of more channels than a process may have files open is looked through, and one
/// that it cannot open at all is not called damaged.
#[test]
fn a_limit_of_open_files_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..300).map(|number| format!("orders.{number}")).collect();
    let mut opened = open(folder.path());
    let parts = names.iter().map(|name| part(name, Lifecycle::Create, 1..=1)).collect();
    let server = spb::ServerInfo { cluster_id: "c".into(), ..spb::ServerInfo::default() };
    let first = Batch { server: Some(server), ..batch(parts) };
    commit(opened.shares[0].as_mut(), &first);
    opened.shares[0].close().unwrap();
    let limited = |limit: u32| {
        let script = format!("ulimit -n {limit}; exec \"$0\" check \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_stanby")]).arg(folder.path());
        let output = command.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = limited(64);
    assert!(code == Some(0) && said.contains(": 300 channel(s), "), "{said}");
    let (code, said) = limited(5);
    assert!(code == Some(1) && !said.contains("damaged"), "{said}");
    assert!(said.contains("too many open files: let it have more (ulimit -n)"), "{said}");
}

/// Goal: a directory whose name no JSON document can have is refused by a line, not by a panic.
#[test]
fn a_name_that_is_no_text_is_refused_where_json_is_wanted() {
    let (folder, root) = recorded();
    let odd = folder.path().join(OsStr::from_bytes(b"odd\xff"));
    fs::rename(&root, &odd).unwrap();
    assert_eq!(run(&[], &odd).0, Some(0));
    let (code, said) = run(&["--json"], &odd);
    assert_eq!(
        (code, &said[..]),
        (Some(1), "stanby check: path contains invalid UTF-8 characters\n")
    );
}

/// A channel of 30 messages in slices of 10, with a durable that got 25 of them, and four clients.
fn written(root: &Path, crc_polynomial: u32) {
    let options = FileOptions {
        slice_messages_max: 10,
        crc_polynomial: i64::from(crc_polynomial),
        ..FileOptions::new(root)
    };
    let mut opened = open_as(&options, &StoreLimits::default(), Predecessor::Clean).unwrap();
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=10)]);
    let state = spb::SubState { last_sent: 25, ..subscription(1) };
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(state.into())];
    let client = |id: &'static str| {
        ClientWrite::Add(spb::ClientInfo {
            id: id.into(),
            hb_inbox: "_INBOX.of.a.client".into(),
            ..spb::ClientInfo::default()
        })
    };
    first.clients = ["me", "you", "it", "last"].map(client).to_vec();
    first.server = Some(spb::ServerInfo { cluster_id: "c".into(), ..spb::ServerInfo::default() });
    let share = opened.shares[0].as_mut();
    commit(share, &first);
    commit(share, &batch(vec![part("foo", Lifecycle::Keep, 11..=20)]));
    commit(share, &batch(vec![part("foo", Lifecycle::Keep, 21..=30)]));
    share.close().unwrap();
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Findings of a weight, with what they mean.
fn told(report: &Report, weight: Weight) -> Vec<String> {
    let findings = report.findings.iter().filter(|found| found.weight == weight);
    findings.map(|it| format!("{}: {}; {}", it.file.display(), it.what, it.means)).collect()
}

/// Goal: a store with other checksums is whole by its own rules, and by others it is said once what
/// may be the matter.
#[test]
fn a_store_is_judged_by_the_checksums_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 0x82f6_3b78);
    for args in [&["--crc-poly", "0x82f63b78"][..], &["--crc-poly", "2197175160"], &["--no-crc"]] {
        let (code, text) = run(args, folder.path());
        assert_eq!(code, Some(0), "{args:?}: {text}");
        assert!(text.contains("1 channel(s), 30 message(s)"), "{args:?}: {text}");
        assert!(!text.contains("would fail"), "{args:?}: {text}");
    }
    let (code, text) = run(&[], folder.path());
    assert_eq!(code, Some(3), "{text}");
    assert_eq!(text.matches("look again with --crc-poly or --no-crc").count(), 1, "{text}");
    assert!(text.lines().count() < 20, "{text}");
    for bad in ["0", "4294967296", "-1", "x"] {
        let (code, text) = run(&[&format!("--crc-poly={bad}")], folder.path());
        assert!(code != Some(0) && text.contains("between 1 and 4294967295"), "{bad}: {text}");
    }
    // One damaged file among others is no matter of rules.
    let file = folder.path().join("foo/msgs.2.dat");
    flip(&file, 14);
    let (code, text) = run(&["--crc-poly", "0x82f63b78"], folder.path());
    assert!(code == Some(3) && text.contains("foo/msgs.2.dat, byte 4"), "{text}");
}

/// Goal: what it says of a start is what the start does.
#[test]
fn what_a_start_would_do_is_said_as_it_is() {
    let refused = |report: &Report| report.start_fails.is_some();
    let open_whole = |root: &Path| {
        let opened = open(root);
        let state = opened.recovered.channels[0].state;
        (state.message_count, state.last.0)
    };
    let damaged = |damage: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), 0xEDB8_8320);
        assert!(look(folder.path()).findings.is_empty());
        damage(folder.path());
        (look(folder.path()), folder)
    };
    // Whole records behind it, in both files of records with kinds, and the server's record.
    for (file, at) in [("clients.dat", 14), ("server.dat", 14), ("server.dat", 0)] {
        let (report, _folder) = damaged(&|root| flip(&root.join(file), at));
        let said = told(&report, Weight::Damage);
        assert!(refused(&report) && said.len() == 1, "{said:?}");
        assert!(said[0].contains("a start is refused"), "{said:?}");
        assert!(told(&report, Weight::Mended).is_empty(), "{report:?}");
    }
    // A length that reaches beyond the file, with whole records behind it.
    let (report, _folder) = damaged(&|root| flip(&root.join("clients.dat"), 5));
    assert!(refused(&report) && told(&report, Weight::Mended).is_empty(), "{report:?}");
    // A slice that is gone, data and index.
    let (report, folder) = damaged(&|root| {
        fs::remove_file(root.join("foo/msgs.2.dat")).unwrap();
        fs::remove_file(root.join("foo/msgs.2.idx")).unwrap();
    });
    let said = told(&report, Weight::Damage);
    assert!(said.len() == 1 && said[0].contains("11 to 20 are missing"), "{said:?}");
    assert!(said[0].contains("a start puts nothing in their place"), "{said:?}");
    assert_eq!(open_whole(folder.path()), (report.messages, 30));
    // Its data alone.
    for (number, means) in [(2, "puts empty ones in the place"), (1, "removes the index")] {
        let (report, folder) = damaged(&|root| {
            fs::remove_file(root.join(format!("foo/msgs.{number}.dat"))).unwrap();
        });
        let said = told(&report, Weight::Damage);
        assert!(said.len() == 1 && said[0].contains(means), "{said:?}");
        assert_eq!(open_whole(folder.path()), (report.messages, 30), "{number}");
    }
    // A torn tail.
    let (report, folder) = damaged(&|root| {
        let file = root.join("foo/msgs.3.dat");
        let len = fs::metadata(&file).unwrap().len();
        fs::File::options().write(true).open(&file).unwrap().set_len(len - 1).unwrap();
    });
    let said = told(&report, Weight::Damage);
    assert!(said.len() == 1 && said[0].contains("message 30 of its index"), "{said:?}");
    assert_eq!(open_whole(folder.path()), (29, 29));
    assert_eq!(report.messages, 29);
}

/// Goal: a durable that is ahead of the messages tells that some are missing, however it says so.
#[test]
fn a_durable_ahead_of_the_messages_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 0xEDB8_8320);
    fs::remove_file(folder.path().join("foo/msgs.3.dat")).unwrap();
    fs::remove_file(folder.path().join("foo/msgs.3.idx")).unwrap();
    let said = told(&look(folder.path()), Weight::Damage);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("subscription 1 got message 25, and the last is 20"), "{said:?}");
}

/// Goal: files that lie in the folder of another channel are no files of that one.
/// Goal: what a kill leaves of a slice that was just being begun is no damage.
#[test]
fn a_slice_that_was_only_begun_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    written(&root, 0xEDB8_8320);
    let data = files(&root).into_iter().find(|file| file.ends_with("msgs.3.dat")).unwrap();
    let next = data.with_file_name("msgs.4.dat");
    fs::write(&next, "").unwrap();
    fs::write(next.with_extension("idx"), 1_u32.to_le_bytes()).unwrap();
    let report = look(&root);
    assert!(!report.is_damaged(), "{report:?}");
    let said = told(&report, Weight::Mended);
    assert!(said.iter().any(|line| line.contains("before it held a message")), "{said:?}");
}

#[test]
fn messages_of_another_channel_are_seen() {
    let (_folder, root) = recorded();
    for name in ["msgs.1.dat", "msgs.1.idx"] {
        fs::rename(root.join("audit").join(name), root.join("moved")).unwrap();
        fs::rename(root.join("orders").join(name), root.join("audit").join(name)).unwrap();
        fs::rename(root.join("moved"), root.join("orders").join(name)).unwrap();
    }
    let said = told(&look(&root), Weight::Damage);
    for what in [
        "audit/msgs.1.dat: a message of channel orders",
        "orders/msgs.1.dat: a message of channel audit",
    ] {
        assert!(said.iter().any(|line| line.starts_with(what)), "{what}: {said:?}");
    }
}

/// Goal: who writes there without a lock, as a Go server does, is named.
#[test]
fn whoever_writes_there_meanwhile_is_named() {
    let (_folder, root) = recorded();
    let (_, text) = run(&[], &root);
    assert!(!text.contains("is open for writing"), "{text}");
    let file = fs::File::options().append(true).open(root.join("server.dat")).unwrap();
    let (code, text) = run(&[], &root);
    drop(file);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("server.dat is open for writing by process"), "{text}");
}

#[test]
fn the_command_says_by_its_exit_code_how_a_store_is() {
    let (folder, root) = recorded();
    let run = |path: &Path| run(&[], path);
    let (code, text) = run(&root);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing is damaged") && text.contains("no look at files can find"));
    let file = root.join("orders/msgs.1.dat");
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (code, text) = run(&root);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("orders/msgs.1.dat, byte 4: corrupted data"), "{text}");
    let (code, text) = run(folder.path());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no store in it"), "{text}");
    let (code, text) = run(&folder.path().join("none"));
    assert_eq!(code, Some(1), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Goal: no bytes under any of the names make the look fail.
    #[test]
    fn nonsense_is_looked_through(
        parts in collection::vec((0_usize..6, collection::vec(any::<u8>(), 0..200)), 1..6),
        has_header in any::<bool>(),
        has_checksums in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let channel = ["c/subs.dat", "c/msgs.1.dat", "c/msgs.1.idx", "c/msgs.2.dat"];
        let names = [&["server.dat", "clients.dat"][..], &channel].concat();
        fs::create_dir(folder.path().join("c")).unwrap();
        for (name, bytes) in parts {
            let header: &[u8] = if has_header { &[1, 0, 0, 0] } else { &[] };
            fs::write(folder.path().join(names[name]), [header, &bytes].concat()).unwrap();
        }
        let rules = if has_checksums { Rules::default() } else { Rules::without_checksums() };
        let report = check::directory(folder.path(), rules, &mut |_| ());
        prop_assert!(report.is_ok());
    }
}
