//! Layouts against the reference's bytes, and decoding of anything at all.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;

fn crc() -> Crc {
    Crc::new(Crc::IEEE)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Goal: the vectors of spec stores, 4.10.
#[test]
fn records_with_kinds_are_byte_exact() {
    let check = |kind: u8, expected: &str, encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        assert_eq!(hex(&out), expected, "kind {kind}");
    };
    let info = spb::ClientInfo {
        id: "me".into(),
        hb_inbox: "_INBOX.hb".into(),
        conn_id: "c1".into(),
        protocol: 1,
        ping_interval: 5,
        ping_max_out: 3,
        is_leaving: false,
    };
    check(1, "19000001759498100a026d6512095f494e424f582e68621a026331200128053003", &|out| {
        encode_typed(out, client_kind::ADD, &info, &crc()).unwrap();
    });
    let delete = spb::ClientDelete { id: "me".into() };
    check(2, "040000022b6bf6a00a026d65", &|out| {
        encode_typed(out, client_kind::DELETE, &delete, &crc()).unwrap();
    });
    let update = spb::SubStateUpdate { id: 1, seqno: 5 };
    check(5, "040000051a7b9adf08011005", &|out| {
        encode_typed(out, subscription_kind::MESSAGE, &update, &crc()).unwrap();
    });
    check(4, "040000041a7b9adf08011005", &|out| {
        encode_typed(out, subscription_kind::ACK, &update, &crc()).unwrap();
    });
    let delete = spb::SubStateDelete { id: 1 };
    check(3, "0200000361a807fe0801", &|out| {
        encode_typed(out, subscription_kind::DELETE, &delete, &crc()).unwrap();
    });
    let state = spb::SubState {
        id: 1,
        client_id: "me".into(),
        inbox: "inbox".into(),
        ack_inbox: "ack".into(),
        max_in_flight: 1024,
        ack_wait_in_secs: 30,
        ..spb::SubState::default()
    };
    check(1, "170000015a6528d6080112026d652205696e626f782a0361636b308008381e", &|out| {
        encode_typed(out, subscription_kind::NEW, &state, &crc()).unwrap();
    });
}

#[test]
fn other_polynomials_are_those_of_the_options() {
    // Castagnoli of the usual check string.
    assert_eq!(Crc::new(0x82F6_3B78).of(b"123456789"), 0xE306_9283);
    assert_eq!(crc().of(b"123456789"), 0xCBF4_3926);
    let by_table = {
        let mut crc = Crc::new(0x82F6_3B78);
        let other = Crc::new(1);
        assert_ne!(crc.of(b"x"), other.of(b"x"));
        crc.table = None;
        crc
    };
    assert_eq!(by_table.of(b"123456789"), 0xCBF4_3926);
}

#[test]
fn versions_are_checked_in_the_references_words() {
    let check = |bytes: &[u8], expected: &str| {
        assert_eq!(check_version(bytes).unwrap_err(), expected);
    };
    assert!(check_version(&VERSION_HEADER).is_ok());
    check(b"", "unable to verify file version: EOF");
    check(b"\x01\x00\x00", "unable to verify file version: unexpected EOF");
    check(&[2, 0, 0, 0], "unsupported file version: 2 (supports [1..1])");
    check(&[0, 0, 0, 0], "unsupported file version: 0 (supports [1..1])");
}

#[test]
fn names_in_a_channels_folder_are_sorted() {
    for (name, expected) in [
        ("msgs.1.dat", ChannelFile::Data(1)),
        ("msgs.200.idx", ChannelFile::Index(200)),
        ("subs.dat", ChannelFile::Subscriptions),
        ("msgs.a.dat", ChannelFile::Invalid),
        ("msgs.dat", ChannelFile::Invalid),
        ("msgs..dat", ChannelFile::Invalid),
        ("msgs.001.dat", ChannelFile::Invalid),
        ("msgs.+1.dat", ChannelFile::Invalid),
        ("msgs.001.idx", ChannelFile::Other),
        ("msgs.1.dat.bak", ChannelFile::Other),
        ("removed.7.msgs.1.dat", ChannelFile::Removed(7, b"msgs.1.dat".to_vec())),
        ("deleted.7.subs.dat", ChannelFile::Deleted(7)),
        ("purged.9", ChannelFile::Purged(Floor { first: 9, is_emptied: false })),
        ("emptied.9", ChannelFile::Purged(Floor { first: 9, is_emptied: true })),
        ("purged.09", ChannelFile::Other),
        ("cut.7.msgs.1.dat.99", ChannelFile::Other),
    ] {
        assert_eq!(channel_file(name.as_bytes()), expected, "{name}");
    }
    assert_eq!(removed_name(7, b"msgs.1.dat"), b"removed.7.msgs.1.dat");
    assert_eq!(replacement_epoch(&replacement_name(9, 3)), Some(9));
    assert_eq!(replacement_epoch(b"subs1234"), None);
}

#[test]
fn a_header_without_a_payload_byte_is_torn() {
    let header = [5, 0, 0, 0, 1, 2, 3, 4];
    assert_eq!(decode_record(&header, Framing::Plain, None), Ok(Decoded::Torn));
    assert_eq!(decode_record(&[0; 8], Framing::Plain, None), Ok(Decoded::Zeros));
    assert_eq!(decode_record(&[0; 7], Framing::Plain, None), Ok(Decoded::Torn));
    assert_eq!(decode_record(&[], Framing::Plain, None), Ok(Decoded::End));
}

proptest! {
    #[test]
    fn decoding_takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for framing in [Framing::Plain, Framing::Typed] {
            for crc in [None, Some(&crc())] {
                let decoded = decode_record(&bytes, framing, crc);
                if let Ok(Decoded::Record { kind, payload, len }) = decoded {
                    prop_assert!(len <= bytes.len());
                    prop_assert_eq!(len, payload.len() + RECORD_HEADER_LEN);
                    let _ = decode_subscription(kind, payload);
                    let _ = message_place(payload);
                    let _ = leading_sequence(payload);
                }
            }
        }
        let _ = channel_file(&bytes);
        let _ = check_version(&bytes);
    }

    #[test]
    fn what_is_encoded_is_decoded(
        sequence in 1_u64..,
        offset in 0..u64::MAX / 2,
        timestamp in any::<i64>(),
        size in any::<u32>(),
        payload in proptest::collection::vec(any::<u8>(), 1..100),
        polynomial in 1_u32..,
    ) {
        let crc = Crc::new(polynomial);
        let record = IndexRecord { sequence, offset, timestamp, size };
        let mut bytes = Vec::new();
        record.encode(&mut bytes, &crc);
        let chunk = bytes.first_chunk().unwrap();
        prop_assert_eq!(IndexRecord::decode(chunk, Some(&crc)), Ok(Some(record)));
        let mut out = Vec::new();
        encode_plain(&mut out, &payload, &crc);
        let len = out.len();
        out.push(7);
        prop_assert_eq!(
            decode_record(&out, Framing::Plain, Some(&crc)),
            Ok(Decoded::Record { kind: 0, payload: &payload, len })
        );
    }

    #[test]
    fn a_flipped_bit_is_found(
        payload in proptest::collection::vec(any::<u8>(), 1..100),
        at in any::<proptest::sample::Index>(),
    ) {
        let mut out = Vec::new();
        encode_plain(&mut out, &payload, &crc());
        let at = at.index(out.len());
        out[at] ^= 1;
        let decoded = decode_record(&out, Framing::Plain, Some(&crc()));
        if let Ok(Decoded::Record { payload: found, .. }) = decoded {
            prop_assert_ne!(found, payload);
        }
    }
}
