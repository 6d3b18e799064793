//! The certificates of a file of authorities, and whether they stand for another one.

use std::net::IpAddr;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{CertificateError, DistinguishedName};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};
use x509_parser::der_parser::asn1_rs::{Any, FromDer as _, Tag};
use x509_parser::prelude::{
    GeneralName, ParsedExtension, X509Certificate, X509Extension, X509Version,
};

use super::{REMEDY, parse, refused, weakness_of};

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Server,
    Client,
}

/// One certificate that is believed, as far as it is needed again and again.
#[derive(Debug)]
struct Listed {
    der: CertificateDer<'static>,
    /// DER of its name.
    subject: Vec<u8>,
    not_before: i64,
    not_after: i64,
    /// Whether it may sign others.
    signs: bool,
    /// How many certificates may stand between it and the one that is shown.
    path_len: Option<usize>,
    serves: bool,
    serves_clients: bool,
    has_name_constraints: bool,
    /// For longer chains; `None` where `webpki` cannot read it.
    anchor: Option<TrustAnchor<'static>>,
}

/// The certificates that are believed.
#[derive(Debug)]
pub struct Authorities(Vec<Listed>);

impl Authorities {
    /// Those of a list that can be read; Go passes over the others too.
    #[must_use]
    pub fn new(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        Self(certificates.into_iter().filter_map(Listed::new).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        let content = |listed: &Listed| Some(Any::from_der(&listed.subject).ok()?.1.data.to_vec());
        let contents = self.0.iter().filter_map(content);
        contents.map(|content| DistinguishedName::in_sequence(&content)).collect()
    }

    /// Whether `shown` may be believed at `now`.
    pub(super) fn verify(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        shown_for: Use,
        provider: &CryptoProvider,
    ) -> Result<(), rustls::Error> {
        let (rest, certificate) = parse(shown)?;
        if !rest.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let checked = check(&certificate, now, shown_for).and_then(|()| {
            if self.is_listed(shown) || self.has_signed(&certificate, now, shown_for, provider) {
                return Ok(());
            }
            self.verify_chain(shown, intermediates, now, shown_for, provider)
        });
        checked.map_err(|error| named(error, &certificate, provider))?;
        match weakness_of(&certificate, provider) {
            Some(weakness) => Err(refused(format!(
                "certificate of {}: {weakness}; {REMEDY}",
                certificate.subject()
            ))),
            None => Ok(()),
        }
    }

    fn is_listed(&self, shown: &CertificateDer<'_>) -> bool {
        self.0.iter().any(|listed| listed.der == *shown)
    }

    /// Whether one of the list has signed `certificate` itself.
    fn has_signed(
        &self,
        certificate: &X509Certificate<'_>,
        now: UnixTime,
        shown_for: Use,
        provider: &CryptoProvider,
    ) -> bool {
        // What a name constraint says of these names is left to `webpki`.
        let has_names = !matches!(certificate.subject_alternative_name(), Ok(None));
        self.0
            .iter()
            .filter(|listed| listed.subject == certificate.issuer().as_raw())
            .filter(|listed| listed.may_sign(now, shown_for))
            .filter(|listed| !(listed.has_name_constraints && has_names))
            .any(|listed| listed.has_signed(certificate, provider))
    }

    fn verify_chain(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        shown_for: Use,
        provider: &CryptoProvider,
    ) -> Result<(), rustls::Error> {
        let may_sign = self.0.iter().filter(|listed| listed.may_sign(now, shown_for));
        let anchors: Vec<TrustAnchor<'_>> =
            may_sign.filter_map(|listed| listed.anchor.clone()).collect();
        let end = EndEntityCert::try_from(shown).map_err(error_of)?;
        let is_short_enough = |path: &VerifiedPath<'_>| {
            let anchor = path.anchor();
            let listed = self.0.iter().find(|listed| listed.anchor.as_ref() == Some(anchor));
            let max = listed.and_then(|listed| listed.path_len);
            if max.is_some_and(|max| max < path.intermediate_certificates().count()) {
                return Err(webpki::Error::PathLenConstraintViolated);
            }
            Ok(())
        };
        end.verify_for_usage(
            provider.signature_verification_algorithms.all,
            &anchors,
            intermediates,
            now,
            shown_for,
            None,
            Some(&is_short_enough),
        )
        .map(|_| ())
        .map_err(error_of)
    }
}

impl Listed {
    fn new(der: CertificateDer<'static>) -> Option<Self> {
        let (_, certificate) = parse(&der).ok()?;
        let constraints = certificate.basic_constraints().ok()?.map(|it| it.value);
        // Compat: before version 3 nothing could say so; pinned by `of-v1` of the recorded table.
        let is_authority = match constraints {
            Some(constraints) => constraints.ca,
            None => certificate.version() != X509Version::V3,
        };
        let usage = certificate.key_usage().ok()?.map(|it| it.value);
        let path_len = constraints.and_then(|it| it.path_len_constraint);
        let anchor = webpki::anchor_from_trusted_cert(&der).ok();
        Some(Self {
            subject: certificate.subject().as_raw().to_vec(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            signs: is_authority && usage.is_none_or(|usage| usage.key_cert_sign()),
            path_len: path_len.and_then(|len| usize::try_from(len).ok()),
            serves: is_used_for(&certificate, Use::Server),
            serves_clients: is_used_for(&certificate, Use::Client),
            has_name_constraints: certificate.name_constraints().ok()?.is_some(),
            anchor: anchor.map(|anchor| anchor.to_owned()),
            der: der.clone(),
        })
    }

    fn may_sign(&self, now: UnixTime, shown_for: Use) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let is_used = match shown_for {
            Use::Server => self.serves,
            Use::Client => self.serves_clients,
        };
        self.signs && is_used && self.not_before <= now && now <= self.not_after
    }

    fn has_signed(&self, certificate: &X509Certificate<'_>, provider: &CryptoProvider) -> bool {
        let Ok((_, own)) = parse(&self.der) else { return false };
        let is_one_algorithm =
            certificate.tbs_certificate.signature == certificate.signature_algorithm;
        let (key, signed) = (encoded_algorithm(own.public_key().raw), signature_of(certificate));
        let (Some(key), Some(signed), true) = (key, signed, is_one_algorithm) else { return false };
        let mut algorithms = provider.signature_verification_algorithms.all.iter();
        algorithms.any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == key
                && algorithm.signature_alg_id().as_ref() == signed
                && algorithm
                    .verify_signature(
                        &own.public_key().subject_public_key.data,
                        certificate.tbs_certificate.as_ref(),
                        &certificate.signature_value.data,
                    )
                    .is_ok()
        })
    }
}

/// What the provider's algorithms call that of a key: the content of the first part of its DER.
pub(super) fn encoded_algorithm(key: &[u8]) -> Option<Vec<u8>> {
    let (_, key) = Any::from_der(key).ok()?;
    let (_, algorithm) = Any::from_der(key.data).ok()?;
    Some(algorithm.data.to_vec())
}

/// The same of the algorithm that a certificate is signed with.
fn signature_of(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let algorithm = &certificate.signature_algorithm;
    let mut encoded = tagged(Tag::Oid, algorithm.algorithm.as_bytes())?;
    if let Some(parameters) = &algorithm.parameters {
        let mut parameters = match parameters.tag() {
            Tag::Sequence => {
                let mut outer = tagged(Tag::Sequence, parameters.data)?;
                outer[0] |= CONSTRUCTED;
                outer
            }
            tag => tagged(tag, parameters.data)?,
        };
        encoded.append(&mut parameters);
    }
    Some(encoded)
}

/// The bit of an identifier that says that it holds others.
const CONSTRUCTED: u8 = 0x20;

/// Short DER; algorithms have no longer one.
fn tagged(tag: Tag, content: &[u8]) -> Option<Vec<u8>> {
    let len = u8::try_from(content.len()).ok().filter(|len| *len < 0x80)?;
    let mut encoded = vec![u8::try_from(tag.0).ok()?, len];
    encoded.extend_from_slice(content);
    Some(encoded)
}

/// Extensions that may be critical, because they are looked at or say nothing that matters here.
const KNOWN_EXTENSIONS: [&str; 9] = [
    "2.5.29.14", // subjectKeyIdentifier
    "2.5.29.15", // keyUsage
    "2.5.29.17", // subjectAltName
    "2.5.29.19", // basicConstraints
    "2.5.29.30", // nameConstraints
    "2.5.29.31", // cRLDistributionPoints
    "2.5.29.32", // certificatePolicies
    "2.5.29.35", // authorityKeyIdentifier
    "2.5.29.37", // extKeyUsage
];

/// What a certificate says of itself alone.
fn check(
    certificate: &X509Certificate<'_>,
    now: UnixTime,
    shown_for: Use,
) -> Result<(), rustls::Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if certificate.validity().not_after.timestamp() < now {
        return Err(CertificateError::Expired.into());
    }
    let is_known = |id: &str| KNOWN_EXTENSIONS.contains(&id);
    let is_damaged = |extension: &X509Extension<'_>| {
        matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. })
            && is_known(&extension.oid.to_id_string())
    };
    // Of two that say different things nobody could tell which one was looked at.
    if certificate.extensions_map().is_err() || certificate.extensions().iter().any(is_damaged) {
        return Err(CertificateError::BadEncoding.into());
    }
    let mut critical = certificate.extensions().iter().filter(|extension| extension.critical);
    if critical.any(|extension| !is_known(&extension.oid.to_id_string())) {
        return Err(CertificateError::UnhandledCriticalExtension.into());
    }
    if !is_used_for(certificate, shown_for) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(())
}

fn is_used_for(certificate: &X509Certificate<'_>, shown_for: Use) -> bool {
    match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => {
            let usage = usage.value;
            usage.any
                || match shown_for {
                    Use::Server => usage.server_auth,
                    Use::Client => usage.client_auth,
                }
        }
        Err(_) => false,
    }
}

const ANY_USE: [usize; 5] = [2, 5, 29, 37, 0];
const SERVER_USE: [usize; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_USE: [usize; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 2];

impl ExtendedKeyUsageValidator for Use {
    fn validate(&self, uses: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let wanted: &[usize] = match self {
            Self::Server => &SERVER_USE,
            Self::Client => &CLIENT_USE,
        };
        let mut is_empty = true;
        for found in uses {
            let found = found?.to_decoded_oid();
            if found == wanted || found == ANY_USE {
                return Ok(());
            }
            is_empty = false;
        }
        if is_empty { Ok(()) } else { Err(webpki::Error::UnsupportedCriticalExtension) }
    }
}

/// Whether the certificate is for this host. The common name counts for nothing.
pub(super) fn verify_name(
    shown: &CertificateDer<'_>,
    name: &ServerName<'_>,
) -> Result<(), rustls::Error> {
    let (_, certificate) = parse(shown)?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |names| &names.value.general_names[..]);
    let is_named = match name {
        ServerName::IpAddress(address) => {
            let octets = match IpAddr::from(*address) {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            names.iter().any(|it| matches!(it, GeneralName::IPAddress(found) if *found == octets))
        }
        ServerName::DnsName(host) => names.iter().any(
            |it| matches!(it, GeneralName::DNSName(pattern) if is_host_of(pattern, host.as_ref())),
        ),
        _ => false,
    };
    if is_named { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
}

/// Whether a name of a certificate is this host's; a star stands for one whole first label.
fn is_host_of(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_same = |left: &str, right: &str| !left.is_empty() && left.eq_ignore_ascii_case(right);
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => !label.is_empty() && is_same(domain, rest),
        (Some(_), None) => false,
        (None, _) => is_same(pattern, host),
    }
}

/// Adds whose certificate it is, and what to do where its kind is what stands in the way.
fn named(
    error: rustls::Error,
    certificate: &X509Certificate<'_>,
    provider: &CryptoProvider,
) -> rustls::Error {
    // These have an alert of their own, by which the peer learns what to do.
    if let rustls::Error::InvalidCertificate(
        CertificateError::Expired
        | CertificateError::NotValidYet
        | CertificateError::NotValidForName
        | CertificateError::BadEncoding,
    ) = error
    {
        return error;
    }
    let subject = certificate.subject();
    if let Some(weakness) = weakness_of(certificate, provider) {
        return refused(format!("certificate of {subject}: {weakness}; {REMEDY}"));
    }
    let is_authority = certificate.basic_constraints().ok().flatten().is_some_and(|it| it.value.ca);
    if certificate.version() != X509Version::V3 || is_authority {
        let kind = if is_authority { "an authority itself" } else { "of X.509 version 1" };
        return refused(format!(
            "certificate of {subject}: it is {kind}, which is believed only directly below an \
             authority of the ca_file, and none of those signed it ({}); {REMEDY}",
            certificate.issuer()
        ));
    }
    error
}

fn error_of(error: webpki::Error) -> rustls::Error {
    use webpki::Error;

    let is_one = |kinds: &[Error]| kinds.contains(&error);
    if matches!(error, Error::CertExpired { .. }) {
        CertificateError::Expired.into()
    } else if matches!(error, Error::CertNotValidYet { .. }) {
        CertificateError::NotValidYet.into()
    } else if is_one(&[Error::UnknownIssuer]) {
        CertificateError::UnknownIssuer.into()
    } else if is_one(&[Error::InvalidSignatureForPublicKey]) {
        CertificateError::BadSignature.into()
    } else if is_one(&[Error::BadDer, Error::BadDerTime]) {
        CertificateError::BadEncoding.into()
    } else {
        refused(format!("certificate: {error}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// Goal: no extension that is read in two ways gets past what is checked.
    #[test]
    fn a_certificate_that_says_a_thing_twice_or_brokenly_is_refused() {
        let names = [0x30, 0x03, 0x82, 0x01, b'a'];
        for (extensions, is_good) in [
            (vec![names.to_vec()], true),
            (vec![names.to_vec(), names.to_vec()], false),
            (vec![vec![0x30, 0x7f]], false),
        ] {
            let mut params = rcgen::CertificateParams::default();
            for content in extensions {
                let id = [2, 5, 29, 17];
                let made = rcgen::CustomExtension::from_oid_content(&id, content);
                params.custom_extensions.push(made);
            }
            let key = rcgen::KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap().der().clone();
            let authorities = Authorities::new([der.clone()]);
            let provider = crate::base::crypto::provider();
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_700_000_000));
            let found = authorities.verify(&der, &[], now, Use::Client, &provider);
            assert_eq!(found.is_ok(), is_good, "{found:?}");
        }
    }

    #[test]
    fn a_star_stands_for_one_label() {
        for (pattern, host, expected) in [
            ("a.example", "A.example", true),
            ("a.example", "a.example.", true),
            ("*.example", "a.example", true),
            ("*.example", "a.b.example", false),
            ("*.example", "example", false),
            ("*.", "a.", false),
            ("*", "a", false),
            ("a*.example", "ab.example", false),
            ("*.*.example", "a.b.example", false),
            ("", "", false),
        ] {
            assert_eq!(is_host_of(pattern, host), expected, "{pattern} {host}");
        }
    }
}
