//! DER of a peer's certificate → its entry in connz

use std::fmt::Write;

use serde::Serialize;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate, X509Name};

use crate::base::certificate::attribute_name;

/// One certificate.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct PeerCertificate {
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    /// Of the public key with its algorithm, in hex.
    spki_sha256: String,
    /// Of the whole certificate, in hex.
    cert_sha256: String,
}

impl PeerCertificate {
    /// What is shown of a certificate; `None` if it is none.
    pub(super) fn decode(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self {
            subject: subject(certificate.subject()),
            spki_sha256: hex(&Sha256::digest(certificate.public_key().raw)),
            cert_sha256: hex(&Sha256::digest(der)),
        })
    }
}

/// The most specific part first, as RFC 2253 wants it.
fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    match (attribute_name(&id), attribute.as_str()) {
        (Some(name), Ok(value)) => format!("{name}={}", escaped(value)),
        (Some(name), Err(_)) => format!("{name}=#{}", hex(attribute.as_slice())),
        (None, _) => format!("{id}=#{}", hex(attribute.as_slice())),
    }
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (place, letter) in value.chars().enumerate() {
        let is_special = match letter {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            '#' => place == 0,
            ' ' => place == 0 || place == last,
            _ => false,
        };
        if is_special {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rcgen::PublicKeyData;

    use super::*;

    #[test]
    fn a_certificate_is_shown_with_subject_and_digests() {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Org, Inc");
        params.distinguished_name.push(rcgen::DnType::CommonName, "name");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let found = PeerCertificate::decode(certificate.der()).unwrap();
        assert_eq!(found.subject, "CN=name,O=Org\\, Inc");
        assert_eq!(found.cert_sha256, hex(&Sha256::digest(certificate.der())));
        assert_eq!(found.spki_sha256, hex(&Sha256::digest(key.subject_public_key_info())));
        assert_ne!(found.spki_sha256, found.cert_sha256);
        assert_eq!(PeerCertificate::decode(b"no certificate"), None);
    }

    #[test]
    fn values_are_escaped_where_they_must_be() {
        assert_eq!(escaped(" a #b "), "\\ a #b\\ ");
        assert_eq!(escaped("#x<y>"), "\\#x\\<y\\>");
        assert_eq!(hex(&[0, 0x0f, 0xa0]), "000fa0");
    }
}
