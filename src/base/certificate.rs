//! Whose certificates are believed: those of authorities that are listed, or anyone's.
//!
//! The rules are those of Go's `crypto/x509`, as far as they can be had without building chains
//! here: `authorities` looks at a certificate that is listed itself or signed by one that is, and
//! leaves longer chains to `webpki`. `tests/certificates.rs` holds both against the Go server.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::authorities::Authorities;
use self::authorities::{Use, encoded_algorithm};
pub use self::text::text_of;

mod authorities;
pub mod own;
mod text;

/// Where the machine keeps the certificates that it trusts, by distribution.
pub const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What to do about a certificate of a kind that is not supported.
pub const REMEDY: &str = "make one with: openssl req -x509 -CA ca.pem -CAkey ca.key -newkey ec \
    -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=NAME -addext \
    subjectAltName=DNS:NAME -addext basicConstraints=CA:FALSE -keyout key.pem -out cert.pem";

/// Attributes that have a name of their own in a subject (spec core NATS, 14.3).
const ATTRIBUTES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.17", "POSTALCODE"),
];

/// What an attribute of a subject is called, by its object identifier.
#[must_use]
pub fn attribute_name(id: &str) -> Option<&'static str> {
    ATTRIBUTES.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

/// Why a certificate is refused, in our own words.
#[derive(thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl std::fmt::Debug for Refused {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

fn refused(text: String) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Refused(text)))).into()
}

/// What is wrong with a key, if it is of a kind that no handshake here can use.
#[must_use]
pub fn weakness_of(certificate: &X509Certificate<'_>, provider: &CryptoProvider) -> Option<String> {
    let key = certificate.public_key();
    let id = encoded_algorithm(key.raw)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let is_known = algorithms.iter().any(|it| it.public_key_alg_id().as_ref() == id.as_slice());
    if !is_known {
        return Some(format!("its key ({}) is of an unsupported kind", kind_of(certificate)));
    }
    if let Ok(x509_parser::public_key::PublicKey::RSA(rsa)) = key.parsed()
        && rsa.key_size() < crate::base::crypto::RSA_BITS_MIN
    {
        return Some(format!("its RSA key of {} bits is too short", rsa.key_size()));
    }
    None
}

fn kind_of(certificate: &X509Certificate<'_>) -> String {
    let algorithm = &certificate.public_key().algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|it| it.as_oid().ok());
    match curve {
        Some(curve) => format!("{} on {curve}", algorithm.algorithm),
        None => algorithm.algorithm.to_string(),
    }
}

/// Checks a signature of a handshake, whatever the version of the certificate whose key made it.
#[derive(Debug)]
struct Signatures(Arc<CryptoProvider>);

impl Signatures {
    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let (_, parsed) = parse(certificate)?;
        let key = encoded_algorithm(parsed.public_key().raw);
        let key = key.ok_or(CertificateError::BadEncoding)?;
        let schemes = self.0.signature_verification_algorithms.mapping;
        let algorithms = schemes.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let algorithms = algorithms.map_or(&[][..], |(_, algorithms)| *algorithms);
        // With TLS 1.2 a scheme leaves the curve open, which the key says.
        let algorithm = algorithms.iter().find(|it| it.public_key_alg_id().as_ref() == key);
        let algorithm = algorithm.ok_or(CertificateError::BadSignature)?;
        let bits = &parsed.public_key().subject_public_key.data;
        let checked = algorithm.verify_signature(bits, message, signed.signature());
        checked.map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let (_, parsed) = parse(certificate)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn parse<'a>(
    der: &'a CertificateDer<'_>,
) -> Result<(&'a [u8], X509Certificate<'a>), rustls::Error> {
    X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding.into())
}

/// For who wants encryption alone (`insecure: true`, `sslmode=require`): whoever answers is the one
/// that was wanted.
#[derive(Debug)]
pub struct Anyone(Signatures);

impl Anyone {
    /// Signatures of the handshake are still checked, by `provider`.
    #[must_use]
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(Signatures(provider))
    }
}

/// Which names a server's certificate must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The host's, where it was dialled by a name.
    pub by_name: bool,
    /// The host's address, where it was dialled by that.
    pub by_address: bool,
}

impl Named {
    /// Either.
    pub const ALWAYS: Self = Self { by_name: true, by_address: true };
}

/// Believes a server whose certificate these authorities stand for.
#[derive(Debug)]
pub struct Servers {
    authorities: Authorities,
    named: Named,
    signatures: Signatures,
}

impl Servers {
    /// With the names that are asked for.
    #[must_use]
    pub fn new(authorities: Authorities, named: Named, provider: Arc<CryptoProvider>) -> Self {
        Self { authorities, named, signatures: Signatures(provider) }
    }
}

/// Believes a client whose certificate these authorities stand for.
#[derive(Debug)]
pub struct Clients {
    authorities: Authorities,
    subjects: Vec<DistinguishedName>,
    is_optional: bool,
    signatures: Signatures,
}

impl Clients {
    /// One that shows no certificate is believed too if `is_optional`.
    #[must_use]
    pub fn new(authorities: Authorities, is_optional: bool, provider: Arc<CryptoProvider>) -> Self {
        let subjects = authorities.subjects();
        Self { authorities, subjects, is_optional, signatures: Signatures(provider) }
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.schemes()
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.authorities.verify(end_entity, intermediates, now, Use::Server, &self.signatures.0)?;
        let is_address = matches!(server_name, ServerName::IpAddress(_));
        let is_named = if is_address { self.named.by_address } else { self.named.by_name };
        if is_named {
            authorities::verify_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        !self.is_optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.authorities.verify(end_entity, intermediates, now, Use::Client, &self.signatures.0)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}
