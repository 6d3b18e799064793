//! ECDSA that `ring` lacks: P-521, and SHA-512 with the smaller curves.

use p521::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, alg_id,
};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Bytes of a number below the order of P-521.
const P521_BYTES: usize = 66;

/// One curve with one digest.
#[derive(Debug)]
pub(super) struct Ecdsa {
    curve: Curve,
    digest: AlgorithmIdentifier,
}

#[derive(Clone, Copy, Debug)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Ecdsa {
    /// P-256 and P-384 with SHA-512; P-521 with SHA-256, SHA-384 and SHA-512.
    pub(super) const ALL: [Self; 5] = [
        Self { curve: Curve::P256, digest: alg_id::ECDSA_SHA512 },
        Self { curve: Curve::P384, digest: alg_id::ECDSA_SHA512 },
        Self { curve: Curve::P521, digest: alg_id::ECDSA_SHA256 },
        Self { curve: Curve::P521, digest: alg_id::ECDSA_SHA384 },
        Self { curve: Curve::P521, digest: alg_id::ECDSA_SHA512 },
    ];

    fn digest_of(&self, message: &[u8]) -> Vec<u8> {
        if self.digest == alg_id::ECDSA_SHA256 {
            Sha256::digest(message).to_vec()
        } else if self.digest == alg_id::ECDSA_SHA384 {
            Sha384::digest(message).to_vec()
        } else {
            Sha512::digest(message).to_vec()
        }
    }
}

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let digest = self.digest_of(message);
        let is_good = match self.curve {
            Curve::P256 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key);
                let signature = p256::ecdsa::Signature::from_der(signature);
                let (Ok(key), Ok(signature)) = (key, signature) else {
                    return Err(InvalidSignature);
                };
                key.verify_prehash(&digest, &signature)
            }
            Curve::P384 => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key);
                let signature = p384::ecdsa::Signature::from_der(signature);
                let (Ok(key), Ok(signature)) = (key, signature) else {
                    return Err(InvalidSignature);
                };
                key.verify_prehash(&digest, &signature)
            }
            Curve::P521 => {
                let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(key);
                let signature = p521::ecdsa::Signature::from_der(signature);
                let (Ok(key), Ok(signature)) = (key, signature) else {
                    return Err(InvalidSignature);
                };
                key.verify_prehash(&widened(&digest), &signature)
            }
        };
        is_good.map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        match self.curve {
            Curve::P256 => alg_id::ECDSA_P256,
            Curve::P384 => alg_id::ECDSA_P384,
            Curve::P521 => alg_id::ECDSA_P521,
        }
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.digest
    }
}

/// A digest as the number of the same value, which is wider than any of them with this curve.
fn widened(digest: &[u8]) -> [u8; P521_BYTES] {
    let mut number = [0; P521_BYTES];
    number[P521_BYTES - digest.len()..].copy_from_slice(digest);
    number
}

/// A private key of P-521.
#[derive(Clone)]
pub(super) struct P521Key {
    key: p521::ecdsa::SigningKey,
    public: SubjectPublicKeyInfoDer<'static>,
}

impl std::fmt::Debug for P521Key {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("P521Key").finish_non_exhaustive()
    }
}

impl P521Key {
    /// The key, if it is one of this curve.
    pub(super) fn decode(der: &PrivateKeyDer<'_>) -> Option<Self> {
        use p521::pkcs8::DecodePrivateKey;

        let secret = if let PrivateKeyDer::Pkcs8(der) = der {
            p521::SecretKey::from_pkcs8_der(der.secret_pkcs8_der()).ok()?
        } else if let PrivateKeyDer::Sec1(der) = der {
            p521::SecretKey::from_sec1_der(der.secret_sec1_der()).ok()?
        } else {
            return None;
        };
        let key = p521::ecdsa::SigningKey::from(&secret);
        let point = key.verifying_key().to_sec1_point(false);
        let point = point.as_bytes();
        let public = rustls::sign::public_key_to_spki(&alg_id::ECDSA_P521, point);
        Some(Self { key, public })
    }
}

impl SigningKey for P521Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let is_offered = offered.contains(&SignatureScheme::ECDSA_NISTP521_SHA512);
        is_offered.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.public.clone())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for P521Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let digest = Sha512::digest(message);
        let signature: Result<p521::ecdsa::Signature, _> = self.key.sign_prehash(&digest);
        let signature = signature.map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// Goal: the secret number of a signature is the one of RFC 6979, A.2.7, all 521 bits of
    /// it; one with fewer bits would give the key away.
    #[test]
    fn a_signature_of_p521_is_that_of_the_standard() {
        let key = bytes(
            "00fad06daa62ba3b25d2fb40133da757205de67f5bb0018fee8c86e1b68c7e75caa896eb32f1f47c70855\
             836a6d16fcc1466f6d8fbec67db89ec0c08b0e996b83538",
        );
        let key = p521::ecdsa::SigningKey::from_slice(&key).unwrap();
        let signature: p521::ecdsa::Signature =
            key.sign_prehash(&Sha512::digest(b"sample")).unwrap();
        let expected = bytes(
            "00c328fafcbd79dd77850370c46325d987cb525569fb63c5d3bc53950e6d4c5f174e25a1ee9017b5d4506\
             06add152b534931d7d4e8455cc91f9b15bf05ec36e377fa00617cce7cf5064806c467f678d3b4080d6f1c\
             c50af26ca209417308281b68af282623eaa63e5b5c0723d8b8c37ff0777b1a20f8ccb1dccc43997f1ee0e\
             44da4a67a",
        );
        assert_eq!(signature.to_bytes().to_vec(), expected);
    }

    #[test]
    fn signatures_of_each_digest_are_good_for_it_alone() {
        let scalar = bytes(&"01".repeat(P521_BYTES));
        let key = p521::ecdsa::SigningKey::from_slice(&scalar).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        for algorithm in &Ecdsa::ALL[2..] {
            let digest = widened(&algorithm.digest_of(b"text"));
            let signature: p521::ecdsa::Signature = key.sign_prehash(&digest).unwrap();
            let signature = signature.to_der();
            for other in &Ecdsa::ALL {
                let found = other.verify_signature(point.as_bytes(), b"text", signature.as_bytes());
                assert_eq!(found.is_ok(), std::ptr::eq(other, algorithm), "{other:?}");
            }
        }
    }
}
