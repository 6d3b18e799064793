//! The key of encryption at rest: from what an operator gives to one key a channel.
//!
//! Facts: spec stores, 10.1 and 10.2. Of what was given only a digest stays in memory, and that in
//! two halves, neither of which is it: whoever finds a page of this process in a core dump or in
//! swap has no key. Whole keys exist in ciphers, and while one is made from them.

use std::fmt;

use ring::digest::{Context, SHA256};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// More than any call here leaves behind on its stack.
const STACK_BYTES: usize = 16 * 1024;

/// What payloads are encrypted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM.
    Aes,
    /// ChaCha20-Poly1305.
    ChaCha,
}

impl Cipher {
    /// The one that an operator means by `name`, in any case of letters; nothing is the one that
    /// the machine is made for. `None` if there is no such cipher.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name.to_uppercase().as_str() {
            "" if cfg!(any(target_arch = "x86_64", target_arch = "x86")) => Some(Self::Aes),
            "" | "CHACHA" => Some(Self::ChaCha),
            "AES" => Some(Self::Aes),
            _ => None,
        }
    }
}

/// Bytes that nobody is shown, and that are written over when they are dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Whether something in it could not be shown, and was replaced, before it came here.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        let sign = char::REPLACEMENT_CHARACTER.to_string();
        self.0.windows(sign.len()).any(|part| part == sign.as_bytes())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// The key of a store, and the cipher for what is written from now on.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreKey {
    /// What is written is encrypted with.
    pub cipher: Cipher,
    halves: Halves,
}

/// A digest as the sum of two parts.
#[derive(Clone, PartialEq, Eq)]
struct Halves {
    mask: Zeroizing<[u8; KEY_LEN]>,
    masked: Zeroizing<[u8; KEY_LEN]>,
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey({:?}, not shown)", self.cipher)
    }
}

impl StoreKey {
    /// The key that `given` stands for: any bytes, but not none.
    #[must_use]
    pub fn of(given: &Secret, cipher: Cipher) -> Self {
        let whole = digest(&[&given.0]);
        let mask = digest(&[b"mask", whole.as_slice()]);
        let mut masked = mask.clone();
        add(&mut masked, &whole);
        Self { cipher, halves: Halves { mask, masked } }
    }

    /// The key of the log of a Raft node (spec stores, 10.5).
    #[must_use]
    pub fn of_log(&self) -> Zeroizing<[u8; KEY_LEN]> {
        let mut whole = self.halves.masked.clone();
        add(&mut whole, &self.halves.mask);
        whole
    }

    /// The key of one channel, for either cipher.
    #[must_use]
    pub fn of_channel(&self, channel: &[u8]) -> Zeroizing<[u8; KEY_LEN]> {
        let mut whole = self.halves.masked.clone();
        add(&mut whole, &self.halves.mask);
        // Compat: the zeros are a slip of the reference, and a part of its format; pinned by
        // `a_channels_key_is_the_references`.
        let zeros = vec![0; KEY_LEN + 1 + channel.len()];
        digest(&[&zeros, whole.as_slice(), b".", channel])
    }
}

fn add(sum: &mut [u8; KEY_LEN], other: &[u8; KEY_LEN]) {
    sum.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
}

fn digest(parts: &[&[u8]]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    digest_into(&mut key, parts);
    wipe_stack();
    key
}

#[inline(never)]
fn digest_into(key: &mut [u8; KEY_LEN], parts: &[&[u8]]) {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    key.copy_from_slice(context.finish().as_ref());
}

/// Writes over what calls that have returned have left on the stack of this thread.
#[inline(never)]
pub fn wipe_stack() {
    let mut bytes = [0u8; STACK_BYTES];
    bytes.zeroize();
    std::hint::black_box(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_channels_key_is_the_references() {
        let key = StoreKey::of(&Secret::new(b"testkey".to_vec()), Cipher::Aes);
        let expected = "f7adfb33c7099549cbe4914b815ee420108607adf04d79e2d4d3fefc65becc81";
        assert_eq!(hex(key.of_channel(b"foo").as_slice()), expected);
        assert_ne!(hex(key.of_channel(b"bar").as_slice()), expected, "each channel has its own");
        let mut whole = key.halves.masked.clone();
        add(&mut whole, &key.halves.mask);
        let digest = "98483c6eb40b6c31a448c22a66ded3b5e5e8d5119cac8327b655c8b5c4836489";
        assert_eq!(hex(whole.as_slice()), digest);
        assert!(whole != key.halves.mask && whole != key.halves.masked, "no half is the whole");
    }

    #[test]
    fn a_cipher_is_named_in_any_case_and_the_machines_own_is_the_default() {
        let own = if cfg!(target_arch = "x86_64") { Cipher::Aes } else { Cipher::ChaCha };
        for (name, expected) in [
            ("AES", Some(Cipher::Aes)),
            ("aes", Some(Cipher::Aes)),
            ("ChaCha", Some(Cipher::ChaCha)),
            ("", Some(own)),
            ("AES ", None),
            ("chacha20", None),
        ] {
            assert_eq!(Cipher::named(name), expected, "{name:?}");
        }
    }

    #[test]
    fn nothing_shows_a_key() {
        let secret = Secret::new(b"testkey".to_vec());
        let shown = format!("{secret:?} {:?}", StoreKey::of(&secret, Cipher::Aes));
        assert_eq!(shown, "Secret(not shown) StoreKey(Aes, not shown)");
    }
}
