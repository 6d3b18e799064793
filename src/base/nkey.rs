//! The keys that NATS users sign with, and the files that hold them.
//!
//! A seed is text: base 32 of two bytes that say what it is, 32 bytes of an Ed25519 seed and a
//! checksum. A credentials file has a user's JWT and such a seed between lines of dashes.

use std::fmt;

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

/// First byte of a seed, but for its lowest bits.
const PREFIX_SEED: u8 = 18 << 3;
/// First byte of a user's public key.
const PREFIX_USER: u8 = 20 << 3;
/// Bytes of a decoded seed.
const SEED_LEN: usize = 36;

/// Why there is no key in a file; in the words of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No line begins like a seed.
    #[error("nkeys: no nkey seed found")]
    NoSeed,
    /// It is no base 32, or of another length.
    #[error("nkeys: invalid encoding")]
    Encoding,
    /// A letter is wrong.
    #[error("nkeys: invalid checksum")]
    Checksum,
    /// It begins like a seed and is none.
    #[error("nkeys: invalid seed")]
    Seed,
    /// It is the seed of an account, an operator or a server.
    #[error("nats: Not a valid nkey user seed")]
    NotUser,
}

/// The key of a user.
pub struct UserKey {
    pair: Ed25519KeyPair,
    kind: u8,
}

/// What a credentials file holds.
#[derive(Debug)]
pub struct Credentials {
    /// Who the user is, as the account has signed it.
    pub jwt: String,
    /// The user's key.
    pub key: UserKey,
}

impl UserKey {
    /// Finds the seed in the text of a seed file or of a credentials file.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn find(text: &[u8]) -> Result<Self, KeyError> {
        let blocks = blocks(text);
        let is_seed = |line: &&[u8]| [b"SU", b"SA", b"SO"].iter().any(|it| line.starts_with(*it));
        let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let seed = match blocks.get(1) {
            Some(seed) => Some(*seed).filter(is_seed),
            None => lines.find(is_seed),
        };
        Self::decode(seed.ok_or(KeyError::NoSeed)?)
    }

    fn decode(seed: &[u8]) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(base32(seed).ok_or(KeyError::Encoding)?);
        let (body, sum) = bytes.split_last_chunk::<2>().ok_or(KeyError::Encoding)?;
        if bytes.len() != SEED_LEN {
            return Err(KeyError::Encoding);
        }
        if crc16(body) != u16::from_le_bytes(*sum) {
            return Err(KeyError::Checksum);
        }
        if body[0] & 0xf8 != PREFIX_SEED {
            return Err(KeyError::Seed);
        }
        let kind = (body[0] & 7) << 5 | body[1] >> 3;
        let pair = Ed25519KeyPair::from_seed_unchecked(&body[2..]).map_err(|_| KeyError::Seed)?;
        Ok(Self { pair, kind })
    }

    /// The same, if it is the key of a user.
    ///
    /// # Errors
    /// [`KeyError::NotUser`].
    pub fn of_user(self) -> Result<Self, KeyError> {
        if self.kind == PREFIX_USER { Ok(self) } else { Err(KeyError::NotUser) }
    }

    /// The public half, as servers know the user.
    #[must_use]
    pub fn public(&self) -> String {
        let mut bytes = vec![self.kind];
        bytes.extend_from_slice(self.pair.public_key().as_ref());
        bytes.extend_from_slice(&crc16(&bytes).to_le_bytes());
        encode_base32(&bytes)
    }

    /// What proves to a server that has sent `nonce` who this is.
    #[must_use]
    pub fn sign(&self, nonce: &str) -> String {
        encode_base64_url(self.pair.sign(nonce.as_bytes()).as_ref())
    }
}

impl fmt::Debug for UserKey {
    /// Without its private half.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public())
    }
}

impl PartialEq for UserKey {
    fn eq(&self, other: &Self) -> bool {
        self.public() == other.public()
    }
}

impl Eq for UserKey {}

impl Credentials {
    /// Reads the text of a credentials file.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn decode(text: &[u8]) -> Result<Self, KeyError> {
        let jwt = blocks(text).first().copied().unwrap_or(text);
        let jwt = String::from_utf8_lossy(jwt.trim_ascii()).into_owned();
        Ok(Self { jwt, key: UserKey::find(text)? })
    }
}

/// What stands between lines of dashes: the first line behind each opening one.
fn blocks(text: &[u8]) -> Vec<&[u8]> {
    let is_frame = |line: &[u8]| line.starts_with(b"---") && line.ends_with(b"---");
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut found = Vec::new();
    while lines.by_ref().any(is_frame) {
        let Some(content) = lines.find(|line| !line.is_empty()) else { break };
        if is_frame(content) {
            continue;
        }
        if lines.find(|line| !line.is_empty()).is_some_and(is_frame) {
            found.push(content);
        }
    }
    found
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn base32(text: &[u8]) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::with_capacity(text.len() * 5 / 8));
    for letter in text {
        let value = BASE32.iter().position(|known| known == letter)?;
        bits = bits << 5 | u32::try_from(value).ok()?;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
        bits &= (1 << count) - 1;
    }
    Some(bytes)
}

fn encode_base32(bytes: &[u8]) -> String {
    encode_bits(bytes, 5, |value| BASE32[value])
}

fn encode_base64_url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    encode_bits(bytes, 6, |value| LETTERS[value])
}

/// `width` bits a letter, the last one filled up with zeros, no padding behind.
fn encode_bits(bytes: &[u8], width: u32, letter: impl Fn(usize) -> u8) -> String {
    let (mut bits, mut count, mut text) = (0_usize, 0, String::new());
    for byte in bytes {
        bits = bits << 8 | usize::from(*byte);
        count += 8;
        while count >= width {
            count -= width;
            text.push(char::from(letter(bits >> count & ((1 << width) - 1))));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        text.push(char::from(letter(bits << (width - count) & ((1 << width) - 1))));
    }
    text
}

/// CRC-16 with the polynomial 0x1021, from zero.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    /// A user's seed whose 32 bytes are 0 to 31.
    fn seed(kind: u8) -> String {
        let mut bytes = vec![PREFIX_SEED | kind >> 5, (kind & 31) << 3];
        bytes.extend(0..32_u8);
        bytes.extend(crc16(&bytes).to_le_bytes());
        encode_base32(&bytes)
    }

    #[test]
    fn a_seed_signs_as_its_public_half_says() {
        let key = UserKey::find(seed(PREFIX_USER).as_bytes()).unwrap().of_user().unwrap();
        assert!(key.public().starts_with('U') && key.public().len() == 56);
        // RFC 8032 does not have this seed; the signature is checked with the public key.
        let raw = base32(key.public().as_bytes()).unwrap();
        let public =
            ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, raw[1..33].to_vec());
        let pair = Ed25519KeyPair::from_seed_unchecked(&(0..32).collect::<Vec<u8>>()).unwrap();
        assert!(public.verify(b"nonce", pair.sign(b"nonce").as_ref()).is_ok());
        assert_eq!(key.sign("nonce"), encode_base64_url(pair.sign(b"nonce").as_ref()));
    }

    #[test]
    fn a_credentials_file_holds_a_jwt_and_a_seed() {
        let seed = seed(PREFIX_USER);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0.x.y\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\nkeep it\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        for text in [text.clone(), text.replace('\n', "\r\n")] {
            let found = Credentials::decode(text.as_bytes()).unwrap();
            assert_eq!(found.jwt, "eyJ0.x.y");
            assert_eq!(found.key, UserKey::find(seed.as_bytes()).unwrap());
            assert!(!format!("{found:?}").contains(&seed));
        }
    }

    #[test]
    fn what_is_no_seed_is_refused_in_the_words_of_the_reference() {
        let user = seed(PREFIX_USER);
        let wrong = format!("{}A{}", &user[..20], &user[21..]);
        for (text, expected) in [
            ("nonsense".to_owned(), KeyError::NoSeed),
            (String::new(), KeyError::NoSeed),
            ("SU".to_owned(), KeyError::Encoding),
            ("SU1".to_owned(), KeyError::Encoding),
            (user[..40].to_owned(), KeyError::Encoding),
            (wrong, KeyError::Checksum),
        ] {
            assert_eq!(UserKey::find(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
        let account = UserKey::find(seed(0).as_bytes()).unwrap();
        assert_eq!(account.of_user().unwrap_err(), KeyError::NotUser);
    }

    proptest! {
        #[test]
        fn letters_are_bytes_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let found = base32(encode_base32(&bytes).as_bytes()).unwrap();
            prop_assert_eq!(found, bytes);
        }

        #[test]
        fn whatever_a_file_holds_is_read_or_refused(
            text in proptest::collection::vec(any::<u8>(), 0..400)
        ) {
            let _ = Credentials::decode(&text);
        }
    }
}
