//! The cryptography of all TLS in this process: that of `ring`, and the curves that it lacks.
//!
//! [`provider`] is the one place that chooses it. It is also what drivers find that ask the process
//! for its provider (MySQL's).

use std::sync::{Arc, LazyLock};

use rustls::SignatureScheme;
use rustls::crypto::{
    CryptoProvider, KeyProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, ring,
};
use rustls::pki_types::{PrivateKeyDer, SignatureVerificationAlgorithm};
use rustls::sign::SigningKey;

use self::ecdsa::{Ecdsa, P521Key};

mod ecdsa;
mod exchange;

/// Keys of RSA below this many bits are not believed.
pub const RSA_BITS_MIN: usize = 2048;

/// The provider of the process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = CryptoProvider {
            signature_verification_algorithms: algorithms(),
            key_provider: &Keys,
            ..ring::default_provider()
        };
        provider.kx_groups.push(&exchange::P521);
        // Somebody who embeds this library may have chosen another one for the rest of the process.
        let _ = provider.clone().install_default();
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// The key exchange that Go calls so; `None` if there is none here.
#[must_use]
pub fn curve(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    match name {
        "X25519" => Some(ring::kx_group::X25519),
        "CurveP256" => Some(ring::kx_group::SECP256R1),
        "CurveP384" => Some(ring::kx_group::SECP384R1),
        "CurveP521" => Some(&exchange::P521),
        _ => None,
    }
}

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// Those of `ring` for RSA, Ed25519 and the usual pairs of curve and digest, then ours.
fn algorithms() -> WebPkiSupportedAlgorithms {
    static ALL: LazyLock<Vec<Algorithm>> = LazyLock::new(|| {
        let own = Ecdsa::ALL.iter().map(|algorithm| algorithm as Algorithm);
        ring_algorithms().all.iter().copied().chain(own).collect()
    });
    static MAPPING: LazyLock<Vec<(SignatureScheme, &'static [Algorithm])>> = LazyLock::new(|| {
        let [p256_512, p384_512, p521_256, p521_384, p521_512] = &Ecdsa::ALL;
        let of_ring = ring_algorithms().mapping.iter().map(|(scheme, algorithms)| {
            // With TLS 1.2 a scheme says the digest only; the first of a list is that of TLS 1.3.
            let more: &[Algorithm] = if *scheme == SignatureScheme::ECDSA_NISTP256_SHA256 {
                &[p521_256]
            } else if *scheme == SignatureScheme::ECDSA_NISTP384_SHA384 {
                &[p521_384]
            } else {
                &[]
            };
            let algorithms = [algorithms, more].concat();
            (*scheme, &*algorithms.leak())
        });
        let with_512: Vec<Algorithm> = vec![p521_512, p384_512, p256_512];
        let own = (SignatureScheme::ECDSA_NISTP521_SHA512, &*with_512.leak());
        of_ring.chain([own]).collect()
    });
    WebPkiSupportedAlgorithms { all: &ALL, mapping: &MAPPING }
}

fn ring_algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}

/// What a certificate's key may be.
#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(
        &self,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        if let Some(key) = P521Key::decode(&key) {
            return Ok(Arc::new(key));
        }
        ring::default_provider().key_provider.load_private_key(key)
    }
}
