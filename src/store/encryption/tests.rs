//! Nonces, mixed payloads, what cannot be decrypted: over a store that keeps all that it was given

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use super::*;
use crate::base::encryption::Secret;
use crate::base::id::Ticket;
use crate::base::record::{ChannelOutcome, ChannelState};

/// What lies in a store that takes everything, or refuses it where that was asked for.
#[derive(Default)]
struct Shelf {
    messages: Vec<MessageRecord>,
    /// Payloads of all that was ever written, refused or not.
    written: Vec<Vec<u8>>,
    refusals: VecDeque<bool>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Shelf>>);

impl Store for Fake {
    fn commit(&mut self, _: Epoch, batch: &Batch) -> Result<CommitReport, OutcomeUnknown> {
        let mut shelf = self.0.lock().unwrap();
        let mut report = CommitReport::default();
        for part in &batch.channels {
            let is_refused = shelf.refusals.pop_front().unwrap_or_default();
            for message in &part.messages {
                let data = pb::MsgProto::decode(message.encoded.clone()).unwrap().data;
                shelf.written.push(data.to_vec());
            }
            if !is_refused {
                shelf.messages.extend(part.messages.iter().cloned());
            }
            report.channels.push(ChannelOutcome {
                channel: part.channel.clone(),
                refused: is_refused.then(|| "no".to_owned()),
                state: ChannelState::default(),
            });
        }
        Ok(report)
    }

    fn fetch(&mut self, request: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError> {
        let shelf = self.0.lock().unwrap();
        let from = shelf.messages.iter().filter(|message| request.from <= message.sequence);
        Ok(from.take(request.count_max).cloned().collect())
    }

    fn find_time(&mut self, _: &ChannelName, _: WallTime) -> Result<Sequence, StoreError> {
        Ok(Sequence::ZERO)
    }

    fn maintain(&mut self, _: Now) -> Result<Maintained, StoreError> {
        Ok(Maintained::default())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn key(given: &str, cipher: Cipher) -> StoreKey {
    StoreKey::of(&Secret::new(given.as_bytes().to_vec()), cipher)
}

fn message(sequence: u64, data: &[u8]) -> MessageRecord {
    let proto = pb::MsgProto {
        sequence,
        subject: "foo".into(),
        data: data.to_vec().into(),
        timestamp: 5,
        ..pb::MsgProto::default()
    };
    MessageRecord {
        sequence: Sequence(sequence),
        timestamp: WallTime(5),
        encoded: proto.encode_to_vec().into(),
    }
}

/// Writes messages from `first` on with these payloads; false if they were refused.
fn write(
    store: &mut Encrypted,
    epoch: u64,
    lifecycle: Lifecycle,
    messages: &[(u64, &str)],
) -> bool {
    let messages = messages.iter().map(|(sequence, data)| message(*sequence, data.as_bytes()));
    let part = ChannelBatch {
        channel: ChannelName::from("foo"),
        lifecycle,
        messages: messages.collect(),
        ..ChannelBatch::default()
    };
    let batch = Batch { channels: vec![part], durable: true, ..Batch::default() };
    let report = store.commit(Epoch(epoch), &batch).unwrap();
    report.channels[0].refused.is_none()
}

/// The payloads from `from` on.
fn read(store: &mut Encrypted, from: u64) -> Result<Vec<String>, String> {
    let request = FetchRequest {
        ticket: Ticket(1),
        channel: ChannelName::from("foo"),
        from: Sequence(from),
        count_max: 100,
        bytes_max: 100_000,
    };
    let messages = store.fetch(&request).map_err(|error| error.to_string())?;
    let text = |message: MessageRecord| {
        let data = pb::MsgProto::decode(message.encoded).unwrap().data;
        String::from_utf8(data.to_vec()).unwrap()
    };
    Ok(messages.into_iter().map(text).collect())
}

/// Goal: no two of the payloads that were ever handed to a store have one nonce, whatever became
/// of them: refused and written again, by a former active and its successor, in a channel that was
/// deleted and made again, and even where chance draws one prefix twice.
#[test]
fn no_nonce_is_used_twice_with_a_key() {
    let shelf = Fake::default();
    for epoch in 1..=3 {
        let inner = Box::new(shelf.clone());
        let mut store = Encrypted::new(inner, key("testkey", Cipher::Aes), 77);
        shelf.0.lock().unwrap().refusals.extend([false, true, true, false, false, false, false]);
        assert!(write(&mut store, epoch, Lifecycle::Create, &[(1, "a"), (2, "b")]));
        assert!(!write(&mut store, epoch, Lifecycle::Keep, &[(3, "c"), (4, "d")]));
        assert!(!write(&mut store, epoch, Lifecycle::Keep, &[(3, "e")]));
        assert!(write(&mut store, epoch, Lifecycle::Keep, &[(3, "f")]));
        assert!(write(&mut store, epoch, Lifecycle::Delete, &[]));
        assert!(write(&mut store, epoch, Lifecycle::Create, &[(1, "g")]));
        assert!(write(&mut store, epoch, Lifecycle::Keep, &[(2, "h"), (3, "i")]));
        assert!(write(&mut store, epoch, Lifecycle::Delete, &[]));
        // A creation that is refused.
        shelf.0.lock().unwrap().refusals.extend([true, false]);
        assert!(!write(&mut store, epoch, Lifecycle::Create, &[(1, "j")]));
        assert!(write(&mut store, epoch, Lifecycle::Create, &[(1, "k")]));
    }
    let written = &shelf.0.lock().unwrap().written;
    let nonces: BTreeSet<&[u8]> = written.iter().map(|data| &data[1..13]).collect();
    assert_eq!((written.len(), nonces.len()), (33, 33));
}

#[test]
fn a_payload_that_is_empty_stays_so() {
    let shelf = Fake::default();
    let mut store = Encrypted::new(Box::new(shelf.clone()), key("testkey", Cipher::Aes), 0);
    write(&mut store, 1, Lifecycle::Create, &[(1, ""), (2, "b")]);
    assert_eq!(read(&mut store, 1).unwrap(), ["", "b"]);
    let shelf = shelf.0.lock().unwrap();
    assert_eq!(shelf.messages[0], message(1, b""));
    assert_eq!(shelf.written[1].len(), payload::OVERHEAD + 1);
}

#[test]
fn clear_text_and_both_ciphers_are_read_with_either_selected() {
    let shelf = Fake::default();
    let open = |cipher| Encrypted::new(Box::new(shelf.clone()), key("testkey", cipher), 0);
    shelf.0.lock().unwrap().messages.push(message(1, b"clear"));
    write(&mut open(Cipher::Aes), 1, Lifecycle::Create, &[(2, "aes")]);
    write(&mut open(Cipher::ChaCha), 2, Lifecycle::Keep, &[(3, "chacha")]);
    shelf.0.lock().unwrap().messages.push(message(4, b"\x03clear"));
    for cipher in [Cipher::Aes, Cipher::ChaCha] {
        let read = read(&mut open(cipher), 1).unwrap();
        assert_eq!(read, ["clear", "aes", "chacha", "\u{3}clear"], "{cipher:?}");
    }
}

/// Goal: what can be read is given up to the first that cannot, which by itself is an error.
#[test]
fn a_message_that_cannot_be_decrypted_ends_what_is_given() {
    let shelf = Fake::default();
    let open = |given| Encrypted::new(Box::new(shelf.clone()), key(given, Cipher::Aes), 0);
    write(&mut open("testkey"), 1, Lifecycle::Create, &[(1, "a")]);
    write(&mut open("other"), 2, Lifecycle::Keep, &[(2, "b")]);
    write(&mut open("testkey"), 3, Lifecycle::Keep, &[(3, "c")]);
    shelf.0.lock().unwrap().messages.push(message(4, b"\x01short"));
    let store = &mut open("testkey");
    assert_eq!(read(store, 1).unwrap(), ["a"]);
    assert_eq!(read(store, 2).unwrap_err(), "cipher: message authentication failed");
    assert_eq!(read(store, 3).unwrap(), ["c"]);
    assert_eq!(read(store, 4).unwrap_err(), "trying to decrypt data that is not (len=6)");
    let error = StoreError::from(DecryptError::Aes);
    assert_eq!((error.remedy(), error.lasts()), (crate::store::Remedy::Refuse, false));
}

/// Goal: a message is never longer in the store than engines are told.
#[test]
fn a_message_gets_longer_by_no_more_than_its_bound() {
    let mut store = Encrypted::new(Box::new(Fake::default()), key("testkey", Cipher::ChaCha), 0);
    let name = ChannelName::from("foo");
    for len in (1..400).chain(16_300..16_400).chain([2_097_120, 2_097_151]) {
        let message = message(1, &vec![7; len]);
        let stored = store.encrypted_message(Epoch(1), &name, &message);
        let added = stored.encoded.len() - message.encoded.len();
        assert!((payload::OVERHEAD..=MESSAGE_OVERHEAD_MAX).contains(&added), "{len}: {added}");
    }
}
