//! Snapshots that are made here; those of real nodes: `tests/import.rs`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;

use super::*;

fn state(client: &str) -> Vec<u8> {
    let client = spb::ClientInfo { id: Bytes::from(client.to_owned()), ..Default::default() };
    let state = spb::RaftSnapshot { clients: vec![client], ..Default::default() }.encode_to_vec();
    [&u32::try_from(state.len()).unwrap().to_le_bytes()[..], &state].concat()
}

fn write(folder: &Path, name: &str, state: &[u8], crc: &str) {
    let folder = folder.join("snapshots").join(name);
    fs::create_dir_all(&folder).unwrap();
    let numbers = numbers(name.trim_end_matches(".tmp")).unwrap();
    let meta = format!(
        "{{\"Version\":1,\"ID\":\"{name}\",\"Index\":{},\"Term\":{},\"Peers\":\"\",\
         \"Configuration\":{{\"Servers\":[{{\"Suffrage\":0,\"ID\":\"a\",\"Address\":\"x.a.x\"}}]}},\
         \"ConfigurationIndex\":1,\"Size\":{},\"CRC\":\"{crc}\"}}\n",
        numbers[1],
        numbers[0],
        state.len()
    );
    fs::write(folder.join(META_FILE), meta).unwrap();
    fs::write(folder.join(STATE_FILE), state).unwrap();
}

fn whole(folder: &Path, name: &str, client: &str) {
    let state = state(client);
    write(folder, name, &state, &base64::encode(&crc64(&state).to_be_bytes()));
}

#[test]
fn a_checksum_is_that_of_ecma() {
    // The check value of CRC-64/XZ, which is the Go library's.
    assert_eq!(crc64(b"123456789"), 0x995D_C9BB_DF19_39FA);
    assert_eq!(base64::encode(b"light work."), "bGlnaHQgd29yay4=");
    assert_eq!(base64::encode(b"light work"), "bGlnaHQgd29yaw==");
}

#[test]
fn the_newest_finished_snapshot_counts() {
    let folder = tempfile::tempdir().unwrap();
    assert!(newest(folder.path()).unwrap().0.is_none(), "there is none");
    whole(folder.path(), "2-90-5", "old");
    whole(folder.path(), "3-20-4", "new");
    whole(folder.path(), "9-99-9.tmp", "unfinished");
    fs::write(folder.path().join("snapshots/permTest"), "").unwrap();
    let (found, errors) = newest(folder.path()).unwrap();
    let found = found.unwrap();
    assert_eq!(found.place, Place { term: 3, index: 20 });
    assert_eq!(found.members, [Member { id: "a".to_owned(), is_voter: true }]);
    assert_eq!(found.state.clients[0].id, "new");
    assert!(errors.is_empty());
}

/// Goal: as a node itself does, of a damaged one the one before it is taken, and it is said.
#[test]
fn a_damaged_snapshot_gives_way_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    whole(folder.path(), "2-90-5", "old");
    write(folder.path(), "3-20-4", &state("new"), "AAAAAAAAAAA=");
    let (found, errors) = newest(folder.path()).unwrap();
    assert_eq!(found.unwrap().state.clients[0].id, "old");
    assert!(errors[0].to_string().contains("its checksum is"), "{}", errors[0]);
    fs::remove_dir_all(folder.path().join("snapshots/2-90-5")).unwrap();
    assert!(newest(folder.path()).unwrap_err().to_string().contains("its checksum is"));
    fs::remove_file(folder.path().join("snapshots/3-20-4").join(STATE_FILE)).unwrap();
    assert!(matches!(newest(folder.path()), Err(SnapshotError::Io { .. })));
}

/// Goal: nobody replays a log from another entry on than the one at which the snapshot ends.
#[test]
fn a_snapshot_that_ends_elsewhere_than_its_name_says_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    whole(folder.path(), "3-20-4", "me");
    let snapshots = folder.path().join("snapshots");
    for other in ["3-21-4", "2-20-4"] {
        fs::rename(snapshots.join("3-20-4"), snapshots.join(other)).unwrap();
        let error = newest(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is damaged: it is for entry 20 of term 3"), "{error}");
        fs::rename(snapshots.join(other), snapshots.join("3-20-4")).unwrap();
    }
    assert!(newest(folder.path()).unwrap().0.is_some());
}

#[test]
fn what_is_no_state_is_an_error() {
    let check =
        |bytes: &[u8]| decode_state(bytes, Some(&base64::encode(&crc64(bytes).to_be_bytes())));
    let whole = state("a");
    assert!(check(&whole).is_ok() && check(b"").is_ok());
    for len in 1..whole.len() {
        assert!(check(&whole[..len]).is_err(), "{len}");
    }
    assert!(check(&[3, 0, 0, 0, 255, 255, 255]).is_err());
    assert!(decode_state(&whole, None).is_err());
    assert!(decode_meta(b"{}").is_err() && decode_meta(b"").is_err());
}
