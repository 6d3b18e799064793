//! Databases that are made here, whole and damaged. Those of real nodes: `tests/import.rs`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;

const PAGE: usize = 4096;

/// The key of the log entry `index`.
fn key(index: u64) -> Vec<u8> {
    index.to_be_bytes().to_vec()
}

fn value(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

/// One page, perhaps of several: `elements` are flags, or the page below, with key and value.
fn page(number: u64, kind: u16, elements: &[(u64, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut behind = Vec::new();
    let mut table = Vec::new();
    for (index, (what, key, value)) in elements.iter().enumerate() {
        let at = (elements.len() - index) * ELEMENT_LEN + behind.len();
        let [at, key_len, value_len] =
            [at, key.len(), value.len()].map(|len| u32::try_from(len).unwrap().to_le_bytes());
        let what = what.to_le_bytes();
        match kind {
            BRANCH => table.extend([&at[..], &key_len, &what].concat()),
            _ => table.extend([&what[..4], &at, &key_len, &value_len].concat()),
        }
        behind.extend([&key[..], value].concat());
    }
    let len = (PAGE_HEADER_LEN + table.len() + behind.len()).div_ceil(PAGE) * PAGE;
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(u16::try_from(elements.len()).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(len / PAGE - 1).unwrap().to_le_bytes());
    bytes.extend(table);
    bytes.extend(behind);
    bytes.resize(len, 0);
    bytes
}

fn meta(number: u64, root: u64, page_end: u64, transaction: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for half in [MAGIC, VERSION, 4096, 0] {
        meta.extend(half.to_le_bytes());
    }
    for word in [root, 0, u64::MAX, page_end, transaction] {
        meta.extend(word.to_le_bytes());
    }
    meta.extend(fnv(&meta).to_le_bytes());
    let mut bytes = page(number, META, &[]);
    bytes[PAGE_HEADER_LEN..PAGE_HEADER_LEN + META_LEN].copy_from_slice(&meta);
    bytes
}

/// A bucket `logs` with the entries 1 to 30 on three leaves, the second of two pages; a bucket
/// `conf` that lies in its own value.
fn database() -> Vec<u8> {
    let entries = |range: std::ops::RangeInclusive<u64>| -> Vec<_> {
        range.map(|index| (0, key(index), value(index))).collect()
    };
    let mut large = entries(11..=20);
    large[4].2 = vec![b'x'; 5_000];
    let inline = page(0, LEAF, &[(0, b"CurrentTerm".to_vec(), key(7))]);
    let inline = [&[0; BUCKET_HEADER_LEN][..], &inline[..200]].concat();
    let logs = [4_u64.to_le_bytes(), [0; 8]].concat();
    let buckets = [(1, b"conf".to_vec(), inline), (1, b"logs".to_vec(), logs)];
    let below = [(5, key(1), Vec::new()), (6, key(11), Vec::new()), (8, key(21), Vec::new())];
    [
        meta(0, 3, 9, 2),
        meta(1, 2, 9, 1),
        page(2, LEAF, &[]),
        page(3, LEAF, &buckets),
        page(4, BRANCH, &below),
        page(5, LEAF, &entries(1..=10)),
        page(6, LEAF, &large),
        page(8, LEAF, &entries(21..=30)),
    ]
    .concat()
}

/// All that can be read of it, as whoever reads a log does.
fn walk(bytes: Vec<u8>) -> Result<Vec<Pair>, BoltError> {
    let bolt = Bolt::open(bytes)?;
    let mut found = Vec::new();
    for name in [&b"logs"[..], b"conf", b"none"] {
        let Some(bucket) = bolt.bucket(name)? else { continue };
        bolt.last(&bucket)?;
        for pair in bolt.entries_from(&bucket, b"")? {
            found.push(pair?);
        }
    }
    Ok(found)
}

#[test]
fn keys_come_in_their_order_from_any_of_them_on() {
    let bolt = Bolt::open(database()).unwrap();
    let logs = bolt.bucket(b"logs").unwrap().unwrap();
    for from in 0..=31_u64 {
        let found: Vec<Pair> =
            bolt.entries_from(&logs, &key(from)).unwrap().map(Result::unwrap).collect();
        let expected: Vec<_> = (from.max(1)..=30).map(key).collect();
        assert_eq!(found.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), expected);
    }
    assert_eq!(bolt.last(&logs).unwrap(), Some((key(30), value(30))));
    let fifteenth = bolt.entries_from(&logs, &key(15)).unwrap().next().unwrap().unwrap();
    assert_eq!(fifteenth.1.len(), 5_000, "a value over two pages");
    let conf = bolt.bucket(b"conf").unwrap().unwrap();
    assert_eq!(bolt.last(&conf).unwrap(), Some((b"CurrentTerm".to_vec(), key(7))));
    assert!(bolt.bucket(b"channels").unwrap().is_none());
}

/// Goal: who was killed while it wrote the first page leaves the second, with an older root.
#[test]
fn of_the_first_pages_the_newest_whole_one_counts() {
    let mut bytes = database();
    bytes[PAGE_HEADER_LEN + 48] ^= 1;
    let bolt = Bolt::open(bytes.clone()).unwrap();
    assert!(bolt.bucket(b"logs").unwrap().is_none(), "the older root has no bucket");
    bytes[PAGE + PAGE_HEADER_LEN + 48] ^= 1;
    assert!(matches!(Bolt::open(bytes), Err(BoltError::NoDatabase)));
    for foreign in [Vec::new(), b"nothing".to_vec(), vec![0; 3 * PAGE]] {
        assert!(matches!(Bolt::open(foreign), Err(BoltError::NoDatabase)));
    }
}

#[test]
fn what_is_cut_off_is_missed() {
    let whole = database();
    assert_eq!(walk(whole.clone()).unwrap().len(), 31);
    for len in (2 * PAGE..whole.len()).step_by(PAGE / 2) {
        let error = walk(whole[..len].to_vec()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("is damaged") && said.contains("file ends"), "{len}: {said}");
    }
}

/// Goal: a page that leads to one above it, or twice to the same, ends the walk.
#[test]
fn a_tree_with_a_circle_ends() {
    let mut bytes = database();
    for (element, page) in [(0_usize, 4_u64), (1, 4), (2, 5)] {
        let mut circle = bytes.clone();
        let at = 4 * PAGE + PAGE_HEADER_LEN + element * ELEMENT_LEN + 8;
        circle[at..at + 8].copy_from_slice(&page.to_le_bytes());
        assert!(walk(circle).is_err(), "element {element} leads to {page}");
    }
    bytes[5 * PAGE] = 6;
    assert!(walk(bytes).unwrap_err().to_string().contains("another one lies in its place"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Goal: whatever bytes say, nothing panics, and a walk ends.
    #[test]
    fn any_bytes_end_as_a_database_or_an_error(
        flips in prop::collection::vec((0..9 * PAGE, any::<u8>()), 1..12),
        len in 0..=9 * PAGE,
        is_cut in any::<bool>(),
    ) {
        let mut bytes = database();
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(len);
        }
        let _ = walk(bytes);
    }
}
