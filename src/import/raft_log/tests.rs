//! Entries that are made here; those of real nodes: `tests/import.rs`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// A map as the server writes it: short texts, bytes as texts.
fn entry(index: u8, term: u8, kind: u8, data: &[u8]) -> Vec<u8> {
    let text = |text: &[u8]| {
        let mut bytes = vec![0xd9, u8::try_from(text.len()).unwrap()];
        bytes.extend(text);
        bytes
    };
    [
        vec![0x86],
        [text(b"AppendedAt"), text(b"\xbb\xa1e")].concat(),
        [text(b"Data"), text(data)].concat(),
        [text(b"Extensions"), vec![0xc0]].concat(),
        [text(b"Index"), vec![index]].concat(),
        [text(b"Term"), vec![term]].concat(),
        [text(b"Type"), vec![kind]].concat(),
    ]
    .concat()
}

#[test]
fn an_entry_says_where_it_stands_and_what_it_holds() {
    let raw = raw_entry(&7_u64.to_be_bytes(), &entry(7, 3, 0, b"\x50\x04")).unwrap();
    assert_eq!(raw.place, Place { term: 3, index: 7 });
    assert_eq!((raw.kind, raw.data.as_slice()), (COMMAND, &b"\x50\x04"[..]));
}

#[test]
fn what_is_no_entry_is_an_error_that_names_it() {
    let key = 7_u64.to_be_bytes();
    for (bytes, said) in [
        (Vec::new(), "entry 7 is damaged: it is no msgpack map"),
        (b"\xc0".to_vec(), "it is no msgpack map"),
        (b"\x80".to_vec(), "it has no term or type"),
        (entry(8, 3, 0, b""), "it has another index"),
        (entry(7, 3, 0, b"")[..30].to_vec(), "it is no msgpack map"),
    ] {
        let error = raw_entry(&key, &bytes).err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn members_are_those_of_the_record_with_their_votes() {
    let server = |id: &[u8], suffrage: u8| {
        let parts = [&[0x82, 0xa2][..], b"ID", &[0xa1], id, &[0xa8], b"Suffrage", &[suffrage]];
        parts.concat()
    };
    let head = [&[0x81, 0xa7][..], b"Servers", &[0x92]].concat();
    let record = [head, server(b"a", 0), server(b"b", 1)].concat();
    let member = |id: &str, is_voter| Member { id: id.to_owned(), is_voter };
    assert_eq!(members(&record), Some(vec![member("a", true), member("b", false)]));
    assert_eq!(members(b""), None);
    assert_eq!(members(&record[..20]), None);
}

/// The log of a real node, whose term is 2.
fn recorded() -> RaftLog<Vec<u8>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/raft");
    RaftLog::open(fs::read(data.join("young/a/log/imp/raft.log")).unwrap(), None).unwrap()
}

/// Goal: an entry whose term is damaged does not make its node the newest.
#[test]
fn terms_only_grow_and_none_is_to_come() {
    let log = recorded();
    let check = |term, before| log.check_term(Place { term, index: 7 }, before);
    assert!(check(2, 1).is_ok() && check(2, 2).is_ok());
    let error = check(1, 2).unwrap_err().to_string();
    assert_eq!(error, "entry 7 is damaged: its term 1 comes behind 2");
    let error = check(3, 2).unwrap_err().to_string();
    assert_eq!(error, "entry 7 is damaged: its term 3 is to come: it is 2");
}

/// Goal: an operation whose kind is damaged is not passed over.
#[test]
fn an_entry_of_the_library_has_no_content() {
    let log = recorded();
    let key = 7_u64.to_be_bytes();
    for kind in [NOOP, BARRIER] {
        let kind = u8::try_from(kind).unwrap();
        let decoded = log.decode(&key, &entry(7, 2, kind, b"")).unwrap();
        assert_eq!(decoded.content, Content::Nothing);
        let error = log.decode(&key, &entry(7, 2, kind, b"\x50\x04")).unwrap_err().to_string();
        assert!(error.contains("does not go with its content"), "{error}");
    }
}

proptest! {
    /// Goal: whatever a value holds, nothing panics.
    #[test]
    fn any_bytes_are_an_entry_or_an_error(
        flips in prop::collection::vec((0..80_usize, any::<u8>()), 0..8),
        len in 0..100_usize,
    ) {
        let mut bytes = entry(7, 3, 0, b"\x12\x04data");
        for (at, byte) in flips {
            if let Some(found) = bytes.get_mut(at) {
                *found = byte;
            }
        }
        bytes.truncate(len);
        let _ = raw_entry(&7_u64.to_be_bytes(), &bytes);
        let _ = members(&bytes);
    }
}
