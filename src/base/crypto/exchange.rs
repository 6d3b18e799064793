//! Key exchange with P-521, which `ring` lacks. Who has a certificate of that curve may ask for it.

use p521::elliptic_curve::point::AffineCoordinates;
use p521::elliptic_curve::sec1::ToSec1Point;
use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup, ring};
use rustls::{Error, NamedGroup, PeerMisbehaved};

/// Bytes of a number below the order of the curve, and of a coordinate.
const NUMBER_BYTES: usize = 66;

/// What the first byte of such a number may hold.
const FIRST_BYTE_MASK: u8 = 1;

/// The group.
#[derive(Debug)]
pub(super) struct P521;

/// One exchange that was begun.
struct Begun {
    secret: p521::SecretKey,
    public: Vec<u8>,
}

impl SupportedKxGroup for P521 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let random = ring::default_provider().secure_random;
        let secret = loop {
            let mut number = [0; NUMBER_BYTES];
            random.fill(&mut number)?;
            number[0] &= FIRST_BYTE_MASK;
            // Fails for zero and from the order on, which nobody will ever see.
            if let Ok(secret) = p521::SecretKey::from_slice(&number) {
                break secret;
            }
        };
        let public = secret.public_key().to_sec1_point(false).as_bytes().to_vec();
        Ok(Box::new(Begun { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

impl ActiveKeyExchange for Begun {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        // TLS knows the uncompressed form alone.
        let is_uncompressed = peer.first() == Some(&4);
        let peer = p521::PublicKey::from_sec1_bytes(peer).ok().filter(|_| is_uncompressed);
        let peer = peer.ok_or(PeerMisbehaved::InvalidKeyShare)?;
        let shared = peer.to_projective() * *self.secret.to_nonzero_scalar();
        Ok(SharedSecret::from(&shared.to_affine().x()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn both_sides_come_to_the_same_secret_and_a_false_point_is_refused() {
        let (one, other) = (P521.start().unwrap(), P521.start().unwrap());
        let (to_one, to_other) = (other.pub_key().to_vec(), one.pub_key().to_vec());
        assert_ne!(to_one, to_other);
        let one = one.complete(&to_one).unwrap();
        let other = other.complete(&to_other).unwrap();
        assert_eq!(one.secret_bytes(), other.secret_bytes());
        assert_eq!(one.secret_bytes().len(), NUMBER_BYTES);
        let mut false_point = to_one;
        false_point[100] ^= 1;
        assert!(P521.start().unwrap().complete(&false_point).is_err());
        assert!(P521.start().unwrap().complete(&[0]).is_err());
    }
}
