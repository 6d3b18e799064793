//! Files that are missing or end before they begin: repaired at the start, and said.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/format_checker.rs"]
mod format_checker;
#[path = "support/stores.rs"]
mod stores;

use std::fs;
use std::path::Path;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::Predecessor;
use stanby::base::id::Sequence;
use stanby::base::record::{Batch, ClientWrite, Lifecycle, SubscriptionWrite};
use stanby::proto::spb;
use stanby::store::Opened;
use stanby::store::file::FileOptions;

use stores::{batch, commit, fetch, fetch_whole, open, open_as, part, subscription};

/// Three slices of three messages, a subscription and a client.
fn fill(root: &Path) {
    fill_by(root, 3);
}

/// The same with slices of so many messages.
fn fill_by(root: &Path, slice_messages_max: i64) {
    let options = FileOptions { slice_messages_max, ..FileOptions::new(root) };
    let mut opened = open_as(&options, &StoreLimits::default(), Predecessor::Clean).unwrap();
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=9)]);
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
    let info = spb::ClientInfo { id: "me".into(), ..spb::ClientInfo::default() };
    first.clients = vec![ClientWrite::Add(info)];
    commit(opened.shares[0].as_mut(), &first);
}

fn notice(opened: &Opened) -> &str {
    assert_eq!(opened.notices.iter().filter(|notice| notice.is_warning).count(), 1);
    &opened.notices[0].text
}

/// Goal: a slice whose data is gone is said at the start; its sequences are not given twice.
#[test]
fn a_missing_data_file_is_said_and_its_sequences_stay_used() {
    for (number, first, last) in [(3, 7, 9), (2, 4, 6)] {
        let root = tempfile::tempdir().unwrap();
        fill(root.path());
        fs::remove_file(root.path().join(format!("foo/msgs.{number}.dat"))).unwrap();
        let mut again = open(root.path());
        let said = &again.notices[0].text;
        assert!(said.contains(&format!("names messages {first} to {last}")), "{said}");
        assert!(said.contains(&format!("foo/msgs.{number}.dat\" is missing")), "{said}");
        assert_eq!(again.recovered.channels[0].state.last, Sequence(9));
        commit(again.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Keep, 10..=10)]));
        assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), (1..=10).collect::<Vec<_>>());
        let found = format_checker::read_store(root.path());
        let is_empty = |sequence: u64| (first..=last).contains(&sequence);
        for message in &found.channels["foo"].messages {
            assert_eq!(message.data.is_empty(), is_empty(message.sequence), "{message:?}");
        }
        drop(again);
        assert!(open(root.path()).notices.is_empty(), "it is whole now");
    }
}

/// Goal: the index of a copy whose data never reached the disk takes nothing from the slices that
/// it was copied from; for what only the lost data held empty messages stand in.
#[test]
fn the_index_of_a_lost_copy_takes_nothing_from_what_was_copied() {
    let alone = "msgs.1002.idx";
    for copied in ["msgs.2.idx", "msgs.3.idx"] {
        let root = tempfile::tempdir().unwrap();
        fill(root.path());
        let folder = root.path().join("foo");
        fs::copy(folder.join(copied), folder.join(alone)).unwrap();
        let mut again = open(root.path());
        let said = notice(&again);
        assert!(said.contains("Older slices hold all of them"), "{said}");
        assert!(!folder.join(alone).exists());
        assert_eq!(again.recovered.channels[0].state.last, Sequence(9));
        commit(again.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Keep, 10..=10)]));
        assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), (1..=10).collect::<Vec<_>>());
        let found = format_checker::read_store(root.path());
        for message in &found.channels["foo"].messages {
            assert!(!message.data.is_empty(), "{message:?}");
        }
    }
    // Of a slice that holds a copy and more, only the rest is lost.
    let root = tempfile::tempdir().unwrap();
    fill(root.path());
    let folder = root.path().join("foo");
    let in_one = tempfile::tempdir().unwrap();
    fill_by(in_one.path(), 9);
    fs::copy(in_one.path().join("foo/msgs.1.idx"), folder.join(alone)).unwrap();
    fs::remove_file(folder.join("msgs.3.dat")).unwrap();
    fs::remove_file(folder.join("msgs.3.idx")).unwrap();
    let again = open(root.path());
    assert!(again.notices.iter().any(|notice| notice.text.contains("stand in")));
    assert_eq!(again.recovered.channels[0].state.last, Sequence(9));
    drop(again);
    let found = format_checker::read_store(root.path());
    for message in &found.channels["foo"].messages {
        assert_eq!(message.data.is_empty(), 7 <= message.sequence, "{message:?}");
    }
}

/// Goal: what is damaged beside the index of a lost copy is no reason to let empty messages stand
/// in for what is whole.
#[test]
fn the_index_of_a_lost_copy_counts_for_less_than_what_older_slices_hold() {
    const INDEX: (usize, usize) = (4, 32);
    for (what, damaged, lost) in
        [("index", 4, None), ("no index", 0, None), ("data", 2, Some(3)), ("data", 7, Some(8))]
    {
        let root = tempfile::tempdir().unwrap();
        fill_by(root.path(), 9);
        let folder = root.path().join("foo");
        let mut copy = fs::read(folder.join("msgs.1.idx")).unwrap();
        if what == "data" {
            // A message of which it says nothing is behind it.
            copy.truncate(INDEX.0 + 5 * INDEX.1);
            let mut data = fs::read(folder.join("msgs.1.dat")).unwrap();
            let one = (data.len() - 4) / 9;
            data[4 + damaged * one + one / 2] ^= 1;
            fs::write(folder.join("msgs.1.dat"), data).unwrap();
        } else if what == "index" {
            let mut index = copy.clone();
            index[INDEX.0 + damaged * INDEX.1] ^= 1;
            fs::write(folder.join("msgs.1.idx"), index).unwrap();
        } else {
            fs::remove_file(folder.join("msgs.1.idx")).unwrap();
        }
        fs::write(folder.join("msgs.1002.idx"), copy).unwrap();
        let mut again = open(root.path());
        let messages = fetch_whole(again.shares[0].as_mut(), "foo", 0);
        let whole = messages.iter().filter(|message| !message.data.is_empty());
        let whole: Vec<u64> = whole.map(|message| message.sequence).collect();
        let expected: Vec<u64> = (1..=9).filter(|one| Some(*one) != lost).collect();
        assert_eq!(whole, expected, "{what} {damaged}");
        assert_eq!(again.recovered.channels[0].state.last, Sequence(9), "{what} {damaged}");
    }
}

/// Goal: a copy of which a power failure has taken a part, its middle too, takes nothing from the
/// slices that it was copied from.
#[test]
fn a_copy_with_holes_takes_nothing_from_what_was_copied() {
    const LEN: usize = 4;
    for (holes, cut) in [(3..6, 9), (0..2, 9), (3..6, 8), (1..2, 7), (0..8, 9)] {
        let root = tempfile::tempdir().unwrap();
        fill(root.path());
        let folder = root.path().join("foo");
        let in_one = tempfile::tempdir().unwrap();
        fill_by(in_one.path(), 9);
        let mut copy = fs::read(in_one.path().join("foo/msgs.1.dat")).unwrap();
        let one = (copy.len() - LEN) / 9;
        copy[LEN + holes.start * one..LEN + holes.end * one].fill(0);
        copy.truncate(LEN + cut * one);
        fs::write(folder.join("msgs.1002.dat"), copy).unwrap();
        fs::write(folder.join("msgs.1002.idx"), [0; 36]).unwrap();
        let mut again = open(root.path());
        assert_eq!(again.recovered.channels[0].state.last, Sequence(9), "{holes:?}, {cut}");
        commit(again.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Keep, 10..=10)]));
        let found = fetch(again.shares[0].as_mut(), "foo", 0);
        assert_eq!(found, (1..=10).collect::<Vec<_>>(), "{holes:?}, {cut}");
        drop(again);
        let found = format_checker::read_store(root.path());
        for message in &found.channels["foo"].messages {
            assert!(!message.data.is_empty(), "{holes:?}, {cut}: {message:?}");
        }
    }
}

/// Bytes that this thread has read.
fn read_so_far() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

/// Goal: a long row of damage in slices that hold the same messages costs by its length.
#[test]
fn a_row_of_damage_is_read_once() {
    const COUNT: usize = 4_000;
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let messages = part("foo", Lifecycle::Create, 1..=COUNT as u64);
    commit(opened.shares[0].as_mut(), &batch(vec![messages]));
    drop(opened);
    let folder = root.path().join("foo");
    let mut data = fs::read(folder.join("msgs.1.dat")).unwrap();
    let index = fs::read(folder.join("msgs.1.idx")).unwrap();
    // All but the first and the last.
    for record in index[4 + 32..].chunks_exact(32).take(COUNT - 2) {
        let offset = u64::from_le_bytes(record[8..16].try_into().unwrap());
        data[usize::try_from(offset).unwrap() + 12] ^= 1;
    }
    let len = u64::try_from(data.len()).unwrap();
    for number in [1, 1002] {
        fs::write(folder.join(format!("msgs.{number}.dat")), &data).unwrap();
    }
    fs::copy(folder.join("msgs.1.idx"), folder.join("msgs.1002.idx")).unwrap();
    let before = read_so_far();
    let again = open(root.path());
    let read = read_so_far() - before;
    assert_eq!(again.recovered.channels[0].state.last, Sequence(COUNT as u64));
    // A sector at most for each message.
    assert!(read < 100 * len, "{read} bytes of files of {len}");
}

/// Goal: an index that is left of the oldest slice goes: limits remove slices from that end.
#[test]
fn an_index_that_is_left_of_the_oldest_slice_goes() {
    let root = tempfile::tempdir().unwrap();
    fill(root.path());
    fs::remove_file(root.path().join("foo/msgs.1.dat")).unwrap();
    let mut again = open(root.path());
    let said = notice(&again);
    assert!(said.contains("names messages 1 to 3") && said.contains("removed"), "{said}");
    assert!(!root.path().join("foo/msgs.1.idx").exists());
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), (4..=9).collect::<Vec<_>>());
}

/// Goal: a folder with a file of the format is a channel, and what is none can be made one: a
/// creation that is refused by what no start reads would be refused for ever.
#[test]
fn whatever_lies_in_a_folder_a_channel_of_that_name_can_be_had() {
    let every: [&[&str]; 7] = [
        &[],
        &["other.txt"],
        &["msgs.0.dat", "msgs.0.idx"],
        &["msgs.0.idx"],
        &["msgs.001.idx"],
        &["msgs.1.idx"],
        &["subs.dat"],
    ];
    for names in every {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("foo")).unwrap();
        for name in names {
            fs::write(root.path().join("foo").join(name), b"\x01\x00\x00\x00").unwrap();
        }
        let mut opened = open(root.path());
        let is_channel = !opened.recovered.channels.is_empty();
        let lifecycle = if is_channel { Lifecycle::Keep } else { Lifecycle::Create };
        commit(opened.shares[0].as_mut(), &batch(vec![part("foo", lifecycle, 1..=2)]));
        drop(opened);
        let mut again = open(root.path());
        assert_eq!(again.recovered.channels.len(), 1, "{names:?}");
        assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), [1, 2], "{names:?}");
    }
}

/// Goal: a file of records that ends inside of its version header is torn there: it is completed,
/// and the server starts.
#[test]
fn a_file_that_ends_in_its_header_is_a_torn_tail() {
    for file in ["clients.dat", "foo/subs.dat"] {
        for content in [&b""[..], b"\x01", b"\x01\x00\x00"] {
            let root = tempfile::tempdir().unwrap();
            fill(root.path());
            fs::write(root.path().join(file), content).unwrap();
            let mut again = open(root.path());
            let said = notice(&again);
            assert!(said.contains(&format!("it ended after {} bytes", content.len())), "{said}");
            assert_eq!(fs::read(root.path().join(file)).unwrap(), b"\x01\x00\x00\x00");
            commit(again.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Keep, 10..=10)]));
            format_checker::read_store(root.path());
            drop(again);
            assert!(open(root.path()).notices.is_empty());
        }
    }
}

/// Goal: the length of a new file can reach the disk before its content does: zeros where the
/// header should be are a torn tail, as a header that ends too early is.
#[test]
fn a_header_of_zeros_was_never_written() {
    for file in ["clients.dat", "foo/subs.dat", "foo/msgs.3.dat", "foo/msgs.3.idx"] {
        for len in [0, 1, 3, 4, 700] {
            let root = tempfile::tempdir().unwrap();
            fill(root.path());
            fs::write(root.path().join(file), vec![0; len]).unwrap();
            let mut again = open(root.path());
            let is_index = file.ends_with("idx");
            assert_eq!(again.notices.is_empty(), is_index, "{file} {len}: an index is made anew");
            let last = if file == "foo/msgs.3.dat" { 6 } else { 9 };
            assert_eq!(again.recovered.channels[0].state.last, Sequence(last), "{file} {len}");
            let next = part("foo", Lifecycle::Keep, last + 1..=last + 1);
            commit(again.shares[0].as_mut(), &batch(vec![next]));
            assert_eq!(
                fetch(again.shares[0].as_mut(), "foo", 0),
                (1..=last + 1).collect::<Vec<_>>()
            );
            format_checker::read_store(root.path());
            drop(again);
            assert!(open(root.path()).notices.is_empty(), "{file} {len}: it is whole now");
        }
    }
}

/// Goal: what lies whole behind a header of zeros is not given up with it.
#[test]
fn messages_behind_a_header_of_zeros_are_kept() {
    let root = tempfile::tempdir().unwrap();
    fill(root.path());
    let path = root.path().join("foo/msgs.3.dat");
    let mut bytes = fs::read(&path).unwrap();
    bytes[..4].fill(0);
    fs::write(&path, bytes).unwrap();
    let mut again = open(root.path());
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), (1..=9).collect::<Vec<_>>());
    format_checker::read_store(root.path());
}

/// Goal: a bit that flips in front of whole clients is refused and leaves the file as it was,
/// however the server before ended; behind them all it is a torn tail.
#[test]
fn a_flipped_bit_in_front_of_clients_drops_none_of_them() {
    let root = tempfile::tempdir().unwrap();
    fill(root.path());
    let options = FileOptions::new(root.path());
    let reopen = |predecessor| open_as(&options, &StoreLimits::default(), predecessor);
    let mut opened = reopen(Predecessor::Clean).unwrap();
    let client = |id: &'static str| {
        ClientWrite::Add(spb::ClientInfo {
            id: id.into(),
            hb_inbox: "_INBOX.of.a.client".into(),
            ..spb::ClientInfo::default()
        })
    };
    let clients = ["you", "it", "last"].map(client).to_vec();
    commit(opened.shares[0].as_mut(), &Batch { clients, ..batch(Vec::new()) });
    drop(opened);
    let file = root.path().join("clients.dat");
    let whole = fs::read(&file).unwrap();
    // Its kind, its length, its checksum, and what it says, of the first and a later one.
    for at in [4, 7, 8, 14, 30, 60] {
        for predecessor in [Predecessor::Clean, Predecessor::Gone] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x41;
            fs::write(&file, &bytes).unwrap();
            let error = reopen(predecessor).err().map(|error| error.to_string());
            let is_refused =
                error.as_ref().is_some_and(|text| text.contains("recover client file"));
            assert!(is_refused, "{at} {predecessor:?}: {error:?}");
            assert_eq!(fs::read(&file).unwrap(), bytes, "{at} {predecessor:?}");
        }
    }
    let mut torn = whole.clone();
    *torn.last_mut().unwrap() ^= 0x41;
    fs::write(&file, torn).unwrap();
    let opened = reopen(Predecessor::Gone).unwrap();
    assert_eq!(opened.recovered.clients.len(), 3);
    assert!(notice(&opened).contains("has been truncated"));
}
