//! What an error of TLS says to a person: in the words of Go's `crypto/tls` and `crypto/x509` where
//! they have some, because people and tools look for these

#![allow(clippy::wildcard_enum_match_arm, reason = "the library's enums grow with each version")]

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError};
use rustls::{PeerIncompatible, pki_types::UnixTime};

use super::Refused;
use crate::base::civil::Civil;

/// One error, without names of the library.
#[must_use]
pub fn text_of(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(source))) => {
            match source.downcast_ref::<Refused>() {
                Some(ours) => ours.to_string(),
                None => unverified(&of_chain(&source.to_string())),
            }
        }
        Error::InvalidCertificate(error) => unverified(&of_certificate(error)),
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::AlertReceived(alert) => format!("remote error: tls: {}", of_alert(*alert)),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
            "tls: handshake message exceeds maximum of 65536 bytes".to_owned()
        }
        Error::DecryptError => "local error: tls: bad record MAC".to_owned(),
        Error::PeerIncompatible(why) => of_peer(why),
        other => format!("tls: {other}"),
    }
}

fn unverified(reason: &str) -> String {
    format!("tls: failed to verify certificate: x509: {reason}")
}

fn of_certificate(error: &CertificateError) -> String {
    let out_of_time = "certificate has expired or is not yet valid";
    match error {
        CertificateError::Expired | CertificateError::NotValidYet => out_of_time.to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("{out_of_time}: current time {} is after {}", shown(*time), shown(*not_after))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("{out_of_time}: current time {} is before {}", shown(*time), shown(*not_before))
        }
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::NotValidForName => "certificate is valid for other names".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented }
            if presented.is_empty() =>
        {
            let name = expected.to_str();
            format!("certificate is not valid for any names, but wanted to match {name}")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = presented.iter().map(|name| plain_name(name)).collect::<Vec<_>>();
            format!("certificate is valid for {}, not {}", names.join(", "), expected.to_str())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".to_owned()
        }
        CertificateError::BadEncoding => "malformed certificate".to_owned(),
        CertificateError::BadSignature => "signature does not match the key".to_owned(),
        other => of_chain(&format!("{other:?}")),
    }
}

/// A name in a certificate: the library writes `DnsName("a")`.
fn plain_name(name: &str) -> &str {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(name).trim_matches('"')
}

/// What the library says of a chain of certificates, which it says by names of its own.
fn of_chain(name: &str) -> String {
    if name.starts_with("CaUsedAsEndEntity") {
        return "certificate is an authority itself (CA:TRUE)".to_owned();
    }
    if name.starts_with("UnsupportedSignatureAlgorithm") {
        return "cannot verify signature: algorithm unimplemented".to_owned();
    }
    format!("certificate cannot be used: {}", words(name))
}

/// The name of a variant as words.
fn words(name: &str) -> String {
    let mut text = String::new();
    for letter in name.split([' ', '(', '{']).next().unwrap_or_default().chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn of_alert(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::UnexpectedMessage => "unexpected message",
        AlertDescription::BadRecordMac => "bad record MAC",
        AlertDescription::RecordOverflow => "record overflow",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::IllegalParameter => "illegal parameter",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::DecodeError => "error decoding message",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::InsufficientSecurity => "insufficient security level",
        AlertDescription::InternalError => "internal error",
        AlertDescription::UserCanceled => "user canceled",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::CertificateRequired => "certificate required",
        other => return format!("alert({})", u8::from(other)),
    };
    text.to_owned()
}

fn of_peer(why: &PeerIncompatible) -> String {
    match why {
        PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon => {
            "tls: no cipher suite supported by both client and server".to_owned()
        }
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::SupportedVersionsExtensionRequired => {
            "tls: client offered only unsupported versions".to_owned()
        }
        other => format!("tls: peer cannot be served: {}", words(&format!("{other:?}"))),
    }
}

/// Date and time as Go shows them (RFC 3339, UTC).
fn shown(time: UnixTime) -> String {
    format!("{}Z", Civil::at(i64::try_from(time.as_secs()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::ServerName;

    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    /// Goal: nobody who reads the log has to know the names of a library.
    #[test]
    fn errors_are_told_in_the_words_of_the_reference() {
        let verifying = "tls: failed to verify certificate: x509: ";
        let expected = ServerName::try_from("foo").unwrap();
        let presented = vec!["DnsName(\"localhost\")".to_owned()];
        let other = |name: &'static str| {
            CertificateError::Other(OtherError(Arc::from(
                Box::<dyn std::error::Error + Send + Sync>::from(name),
            )))
        };
        for (error, text) in [
            (
                CertificateError::ExpiredContext {
                    time: at(1_795_921_006),
                    not_after: at(951_782_400),
                },
                "certificate has expired or is not yet valid: current time 2026-11-29T02:56:46Z is \
                 after 2000-02-29T00:00:00Z",
            ),
            (CertificateError::UnknownIssuer, "certificate signed by unknown authority"),
            (
                CertificateError::NotValidForNameContext { expected, presented },
                "certificate is valid for localhost, not foo",
            ),
            (CertificateError::InvalidPurpose, "certificate specifies an incompatible key usage"),
            (other("CaUsedAsEndEntity"), "certificate is an authority itself (CA:TRUE)"),
            (
                other("UnsupportedSignatureAlgorithmContext { signature_algorithm_id: [6] }"),
                "cannot verify signature: algorithm unimplemented",
            ),
            (
                other("PathLenConstraintViolated"),
                "certificate cannot be used: path len constraint \
                                                  violated",
            ),
        ] {
            let found = text_of(&Error::InvalidCertificate(error));
            assert_eq!(found, format!("{verifying}{text}"));
        }
        for (error, text) in [
            (Error::NoCertificatesPresented, "tls: client didn't provide a certificate"),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "remote error: tls: unknown certificate authority",
            ),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "tls: first record does not look like a TLS handshake",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon),
                "tls: no cipher suite supported by both client and server",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::ExtendedMasterSecretExtensionRequired),
                "tls: peer cannot be served: extended master secret extension required",
            ),
        ] {
            assert_eq!(text_of(&error), text);
        }
    }
}
