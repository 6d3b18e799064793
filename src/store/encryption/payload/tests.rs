//! Payloads against the reference's, and any bytes

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;
use crate::base::encryption::{Secret, StoreKey};

fn sealer(cipher: Cipher, key: &str, channel: &str) -> Sealer {
    let key = StoreKey::of(&Secret::new(key.as_bytes().to_vec()), cipher);
    Sealer::new(cipher, &key.of_channel(channel.as_bytes()))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// What the reference's library makes of `hello` in channel `foo` with key `testkey`.
const VECTORS: [(Cipher, &str); 2] = [
    (
        Cipher::Aes,
        "01 01 02 03 04 00 00 00 00 00 00 00 01 11 d1 c6 36 ed 13 62 13 a8 55 90 fa c9 c3 66 be \
         ba 03 73 c7 59",
    ),
    (
        Cipher::ChaCha,
        "02 01 02 03 04 00 00 00 00 00 00 00 01 db ef aa d7 1c 5b d5 ef 85 f2 d4 e3 22 d2 4d 93 \
         d7 fb 9d 80 27",
    ),
];

#[test]
fn payloads_are_the_references_byte_for_byte() {
    for (cipher, stored) in VECTORS {
        let sealer = sealer(cipher, "testkey", "foo");
        let mut nonces = Nonces::new(0x0102_0304, Epoch(0), Sequence(1));
        assert_eq!(sealer.encrypt(&mut nonces, b"hello"), bytes(stored), "{cipher:?}");
        assert_eq!(sealer.decrypt(&bytes(stored)).unwrap(), b"hello");
        assert_eq!(nonces, Nonces::new(0x0102_0304, Epoch(0), Sequence(2)));
    }
}

#[test]
fn errors_have_the_references_words() {
    for (cipher, text) in [
        (Cipher::Aes, "cipher: message authentication failed"),
        (Cipher::ChaCha, "chacha20poly1305: message authentication failed"),
    ] {
        let sealer = sealer(cipher, "other", "foo");
        let stored = VECTORS.iter().find(|(found, _)| *found == cipher).unwrap().1;
        assert_eq!(sealer.decrypt(&bytes(stored)).unwrap_err().to_string(), text);
        for len in 14..OVERHEAD {
            assert_eq!(sealer.decrypt(&vec![1; len]).unwrap_err().to_string(), text, "{len}");
        }
        for len in 1..=13 {
            let expected = format!("trying to decrypt data that is not (len={len})");
            assert_eq!(sealer.decrypt(&vec![1; len]).unwrap_err().to_string(), expected);
        }
    }
}

#[test]
fn nonces_count_from_the_next_sequence_and_carry() {
    let mut nonces = Nonces::new(7, Epoch(0x1_0003), Sequence(201));
    assert_eq!(nonces.take(), [0, 0, 0, 7, 0, 3, 0, 0, 0, 0, 0, 201]);
    for _ in 0..99 {
        nonces.take();
    }
    assert_eq!(nonces.take(), [0, 0, 0, 7, 0, 3, 0, 0, 0, 0, 1, 45]);
    let mut last = Nonces::new(u32::MAX, Epoch(u64::MAX), Sequence(u64::MAX));
    assert_eq!(last.take(), [0xff; 12]);
    last.take();
}

#[test]
fn what_is_encrypted_is_told_from_what_is_not() {
    // The first message of a store of the Go server with AES, as it stands in the file.
    let recorded = bytes(
        "01 ad 95 f1 ce 00 00 00 00 00 00 00 01 34 cc 50 58 4a 54 f2 6f 94 6b 7b 3c 34 a8 aa 98 \
         e5 87 d4 74 93",
    );
    assert!(looks_encrypted(&recorded, Sequence(1)));
    assert!(looks_encrypted(&recorded, Sequence(7)), "after six that were empty");
    let mut other = recorded.clone();
    other[0] = 2;
    assert!(looks_encrypted(&other, Sequence(1)), "the other cipher");
    other[5..7].copy_from_slice(&[3, 9]);
    assert!(looks_encrypted(&other, Sequence(1)), "ours, of any epoch");
    other[12] = 2;
    assert!(looks_encrypted(&other, Sequence(1)), "after one that was refused");
    other[10] = 0x20;
    assert!(!looks_encrypted(&other, Sequence(1)), "a count that cannot be");
    (other[10], other[12]) = (0, 0);
    assert!(!looks_encrypted(&other, Sequence(1)), "a count that cannot be");
    assert!(!looks_encrypted(&recorded[..28], Sequence(1)), "too short for cipher and tag");
    for text in ["", "\u{1}", "a message of a person who says more than a few words"] {
        assert!(!looks_encrypted(text.as_bytes(), Sequence(1)), "{text:?}");
    }
}

proptest! {
    #[test]
    fn what_was_encrypted_comes_back(
        data in proptest::collection::vec(any::<u8>(), 1..400),
        key in ".{1,80}",
        channel in "[a-z.]{1,80}",
        (prefix, epoch, next) in any::<(u32, u64, u64)>(),
    ) {
        for cipher in [Cipher::Aes, Cipher::ChaCha] {
            let sealer = sealer(cipher, &key, &channel);
            let mut nonces = Nonces::new(prefix, Epoch(epoch), Sequence(next));
            let mut stored = sealer.encrypt(&mut nonces, &data);
            prop_assert_eq!(stored.len(), OVERHEAD + data.len());
            prop_assert_eq!(cipher_of(&stored), Some(cipher));
            prop_assert_eq!(&sealer.decrypt(&stored).unwrap(), &data);
            let at = usize::try_from(next % stored.len() as u64).unwrap();
            stored[at] ^= 1 << (epoch % 8);
            // The first byte names the cipher, and is looked at before.
            prop_assert_eq!(sealer.decrypt(&stored).is_ok(), at == 0);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..80)) {
        for cipher in [Cipher::Aes, Cipher::ChaCha] {
            prop_assert!(sealer(cipher, "key", "foo").decrypt(&data).is_err());
        }
        let _ = (cipher_of(&data), looks_encrypted(&data, Sequence(9)));
    }
}
