//! What stands in the place of a payload: one byte for the cipher, nonce, ciphertext, tag.
//!
//! Facts: spec stores, 10.3 and 10.4. There is nothing else that is authenticated with it.

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::base::encryption::{Cipher, KEY_LEN, wipe_stack};
use crate::base::epoch::Epoch;
use crate::base::id::Sequence;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;
/// Bytes of the tag behind the ciphertext.
const TAG_LEN: usize = 16;
/// How much longer a payload gets.
pub const OVERHEAD: usize = 1 + NONCE_LEN + TAG_LEN;

/// Bits of a nonce that count messages; before them are those of the epoch and the prefix.
const COUNT_BITS: u32 = 48;

/// So many messages may have been encrypted and refused while a store was open.
const REFUSED_MAX: u64 = 1 << 20;

/// Why a payload cannot be read; the texts are the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// It begins like one that is encrypted, and ends within its nonce.
    #[error("trying to decrypt data that is not (len={0})")]
    TooShort(usize),
    /// Another key, or other bytes than were written.
    #[error("cipher: message authentication failed")]
    Aes,
    /// The same with the other cipher.
    #[error("chacha20poly1305: message authentication failed")]
    ChaCha,
}

/// Numbers that are used once for one key.
///
/// | bits | |
/// |---|---|
/// | 32 | a prefix: by chance for each opening of a store, then counted up for each channel |
/// | 16 | the end of the epoch's number |
/// | 48 | the sequence of the first message that is encrypted, counted up for each one |
///
/// The reference has 64 bits for the count. Its random bits alone tell two servers apart that
/// write the same sequences one after the other: a former active, or a batch that is written again
/// after a refusal and a restart. Here the epoch does, with certainty. A channel that is deleted
/// and made again gets another prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonces(u128);

impl Nonces {
    /// Those of a channel whose next message is number `next`.
    #[must_use]
    pub fn new(prefix: u32, epoch: Epoch, next: Sequence) -> Self {
        let count = u128::from(next.get()) & ((1 << COUNT_BITS) - 1);
        let epoch = u128::from(epoch.0 & u64::from(u16::MAX));
        Self((u128::from(prefix) << 64) | (epoch << COUNT_BITS) | count)
    }

    fn take(&mut self) -> [u8; NONCE_LEN] {
        let [.., a, b, c, d, e, f, g, h, i, j, k, l] = self.0.to_be_bytes();
        self.0 = self.0.wrapping_add(1);
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

/// One cipher with one key.
pub struct Sealer {
    cipher: Cipher,
    /// On the heap, so that moving it leaves no copy.
    key: Box<LessSafeKey>,
}

impl Sealer {
    /// The cipher with this key.
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8; KEY_LEN]) -> Self {
        let key = prepared(cipher, key);
        wipe_stack();
        Self { cipher, key }
    }

    /// What is stored in the place of `data`.
    #[must_use]
    pub fn encrypt(&self, nonces: &mut Nonces, data: &[u8]) -> Vec<u8> {
        let nonce = nonces.take();
        let mut sealed = Vec::with_capacity(OVERHEAD + data.len());
        sealed.push(code(self.cipher));
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(data);
        let (_, text) = sealed.split_at_mut(1 + NONCE_LEN);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), text);
        // A cipher refuses 64 GiB and more.
        let tag = tag.expect("a message has far fewer bytes than a cipher can take");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// What `stored` was, which [`cipher_of`] says is of this cipher.
    ///
    /// # Errors
    /// [`DecryptError`].
    pub fn decrypt(&self, stored: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let split = stored.get(1..).and_then(|rest| rest.split_first_chunk::<NONCE_LEN>());
        let Some((nonce, sealed)) = split.filter(|(_, sealed)| !sealed.is_empty()) else {
            return Err(DecryptError::TooShort(stored.len()));
        };
        let mut data = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, Aad::empty(), &mut data);
        let len = opened.map(|opened| opened.len()).map_err(|_| match self.cipher {
            Cipher::Aes => DecryptError::Aes,
            Cipher::ChaCha => DecryptError::ChaCha,
        })?;
        data.truncate(len);
        Ok(data)
    }
}

#[inline(never)]
fn prepared(cipher: Cipher, key: &[u8; KEY_LEN]) -> Box<LessSafeKey> {
    let algorithm = match cipher {
        Cipher::Aes => &AES_256_GCM,
        Cipher::ChaCha => &CHACHA20_POLY1305,
    };
    let key = UnboundKey::new(algorithm, key).expect("keys of both ciphers have this length");
    Box::new(LessSafeKey::new(key))
}

fn code(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Aes => 1,
        Cipher::ChaCha => 2,
    }
}

/// With what a payload seems to be encrypted; `None` of one that is in clear.
#[must_use]
pub fn cipher_of(stored: &[u8]) -> Option<Cipher> {
    match stored.first() {
        Some(1) => Some(Cipher::Aes),
        Some(2) => Some(Cipher::ChaCha),
        Some(_) | None => None,
    }
}

/// Whether a payload can be an encrypted one of the message `sequence`: its nonce ends with the
/// number of encrypted messages up to this one, which is its sequence if none was empty, and a
/// little more where batches were refused.
#[must_use]
pub fn looks_encrypted(stored: &[u8], sequence: Sequence) -> bool {
    let count = stored.get(5..13).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    let count = count.map(|count| count & ((1 << COUNT_BITS) - 1));
    OVERHEAD <= stored.len()
        && cipher_of(stored).is_some()
        && count.is_some_and(|count| (1..=sequence.0.saturating_add(REFUSED_MAX)).contains(&count))
}

#[cfg(test)]
mod tests;
