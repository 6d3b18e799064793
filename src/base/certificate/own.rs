//! Our own certificate with its key: from the text of two files to what a handshake can use
//!
//! What is wrong with them is said in the words of Go's `tls.X509KeyPair`, because people look for
//! these; what is refused here alone names the kind of certificate and the command for a good one.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::{Authorities, REMEDY, weakness_of};

/// The longest RSA key that a handshake here can sign with.
const RSA_BITS_MAX: usize = 4_096;

/// A certificate, those between it and a root, and its key, as PEM; where the certificate lies is
/// for errors.
///
/// # Errors
/// What follows `error parsing X509 certificate/key pair: `.
pub fn own_pair(
    (path, certificate): (&Path, &[u8]),
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let chain = certificates(certificate);
    let end = chain.first().ok_or_else(|| no_certificate(certificate))?;
    let key_found = PrivateKeyDer::from_pem_slice(key);
    if key_found.is_err() {
        no_key(key)?;
    }
    let (_, parsed) =
        X509Certificate::from_der(end).map_err(|_| "x509: malformed certificate".to_owned())?;
    let refused = |why: String| {
        format!("{}: certificate of {}: {why}; {REMEDY}", path.display(), parsed.subject())
    };
    if let Some(weakness) = weakness_of(&parsed, provider) {
        return Err(refused(weakness));
    }
    let spki = parsed.public_key().raw.to_vec();
    let unusable = || "tls: failed to parse private key".to_owned();
    let key_found = key_found.map_err(|_| unusable())?;
    let key = provider.key_provider.load_private_key(key_found).map_err(|_| {
        match parsed.public_key().parsed() {
            Ok(PublicKey::RSA(rsa)) if RSA_BITS_MAX < rsa.key_size() => {
                refused(format!("its RSA key of {} bits is too long", rsa.key_size()))
            }
            _ => unusable(),
        }
    })?;
    match key.public_key() {
        Some(own) if own.as_ref() == spki => Ok(CertifiedKey::new(chain, key)),
        Some(own) if algorithm(&own) != algorithm(&spki) => {
            Err("tls: private key type does not match public key type".to_owned())
        }
        Some(_) => Err("tls: private key does not match public key".to_owned()),
        None => Ok(CertifiedKey::new(chain, key)),
    }
}

/// The authorities of a file.
///
/// # Errors
/// The reference's text, where it holds none.
pub fn authorities(pem: &[u8]) -> Result<Authorities, String> {
    let authorities = Authorities::new(certificates(pem));
    if authorities.is_empty() {
        return Err("failed to parse root ca certificate".to_owned());
    }
    Ok(authorities)
}

/// Why a file of certificates or keys cannot be read.
#[must_use]
pub fn unreadable(path: &Path, error: &io::Error) -> String {
    let step = if error.kind() == io::ErrorKind::IsADirectory { "read" } else { "open" };
    let reason = match error.raw_os_error() {
        Some(code) => Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    };
    format!("{step} {}: {reason}", path.display())
}

/// Those that can be read, as there.
fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// The kind of a public key: of an RSA key, of any curve, and so on, whatever its parameters.
fn algorithm(spki: &[u8]) -> Option<String> {
    let (_, key) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).ok()?;
    Some(key.algorithm.algorithm.to_id_string())
}

fn no_certificate(pem: &[u8]) -> String {
    let kinds = kinds(pem);
    match kinds.as_slice() {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [kind] if kind.ends_with("PRIVATE KEY") => {
            "tls: failed to find certificate PEM data in certificate input, but did find a \
             private key; PEM inputs may have been switched"
                .to_owned()
        }
        kinds if kinds.iter().any(|kind| kind == "CERTIFICATE") => {
            "tls: failed to find any PEM data in certificate input".to_owned()
        }
        kinds => format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM \
             blocks of the following types: [{}]",
            kinds.join(" ")
        ),
    }
}

/// Says why a file of a key holds none; nothing, if it holds one that cannot be used.
fn no_key(pem: &[u8]) -> Result<(), String> {
    let kinds = kinds(pem);
    match kinds.as_slice() {
        [] => Err("tls: failed to find any PEM data in key input".to_owned()),
        kinds if kinds.iter().any(|kind| kind.ends_with("PRIVATE KEY")) => Ok(()),
        [kind] if kind == "CERTIFICATE" => {
            let text = "tls: found a certificate rather than a key in the PEM for the private key";
            Err(text.to_owned())
        }
        kinds => Err(format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after \
             skipping PEM blocks of the following types: [{}]",
            kinds.join(" ")
        )),
    }
}

/// The kinds of all blocks, as their first lines name them.
fn kinds(pem: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(pem);
    let kind = |line: &str| {
        let kind = line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
        Some(kind.to_owned())
    };
    text.lines().filter_map(kind).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    use super::*;
    use crate::base::crypto;

    /// A certificate and its key.
    fn pair(kind: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(kind).unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn read(certificate: &str, key: &str) -> Result<CertifiedKey, String> {
        let certificate = (Path::new("cert.pem"), certificate.as_bytes());
        own_pair(certificate, key.as_bytes(), &crypto::provider())
    }

    fn block(kind: &str, inside: &str) -> String {
        format!("-----BEGIN {kind}-----\n{inside}\n-----END {kind}-----\n")
    }

    /// Goal: each thing that can be wrong with two files is told in the words that the Go server
    /// was heard to say.
    #[test]
    fn what_is_wrong_with_a_pair_is_told_in_the_words_of_the_reference() {
        let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256);
        let (_, other_key) = pair(&PKCS_ECDSA_P256_SHA256);
        let (_, other_kind) = pair(&PKCS_ED25519);
        let parameters = block("EC PARAMETERS", "MIIB");
        let in_vain = "PEM blocks of the following types:";
        for (certificate, key, expected) in [
            (&*certificate, &*other_key, "tls: private key does not match public key".to_owned()),
            (
                &certificate,
                &other_kind,
                "tls: private key type does not match public key type".to_owned(),
            ),
            ("x", &key, "tls: failed to find any PEM data in certificate input".to_owned()),
            (
                &block("CERTIFICATE", "!!!!"),
                &key,
                "tls: failed to find any PEM data in certificate input".to_owned(),
            ),
            (&block("CERTIFICATE", "MIIB"), &key, "x509: malformed certificate".to_owned()),
            (
                &parameters,
                &key,
                format!(
                    "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after \
                     skipping {in_vain} [EC PARAMETERS]"
                ),
            ),
            (
                &key,
                &certificate,
                "tls: failed to find certificate PEM data in certificate input, but did find a \
                 private key; PEM inputs may have been switched"
                    .to_owned(),
            ),
            (
                &certificate,
                &certificate,
                "tls: found a certificate rather than a key in the PEM for the private key"
                    .to_owned(),
            ),
            (&certificate, "", "tls: failed to find any PEM data in key input".to_owned()),
            (
                &certificate,
                &block("EC PRIVATE KEY", "MIIB"),
                "tls: failed to parse private key".to_owned(),
            ),
            (
                &certificate,
                &block("ENCRYPTED PRIVATE KEY", "MIIB"),
                "tls: failed to parse private key".to_owned(),
            ),
            (
                &certificate,
                &format!("{parameters}{certificate}"),
                format!(
                    "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input \
                     after skipping {in_vain} [EC PARAMETERS CERTIFICATE]"
                ),
            ),
        ] {
            let found = read(certificate, key);
            assert_eq!(found.err(), Some(expected), "{certificate}\n{key}");
        }
    }

    #[test]
    fn one_file_may_hold_both_and_more() {
        let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256);
        let both = format!("{}{key}{certificate}", block("EC PARAMETERS", "MIIB"));
        for (certificate, key) in [(&certificate, &key), (&both, &both)] {
            let found = read(certificate, key);
            assert!(found.is_ok(), "{:?}", found.err());
        }
        assert!(authorities(certificate.as_bytes()).is_ok());
        for pem in ["", key.as_str(), &block("CERTIFICATE", "MIIB")] {
            let found = authorities(pem.as_bytes()).err();
            assert_eq!(found.as_deref(), Some("failed to parse root ca certificate"), "{pem}");
        }
    }
}
