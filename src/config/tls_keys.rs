//! The `tls` blocks of clients and routes

use std::path::PathBuf;
use std::time::Duration;

use crate::base::go::{self, quote};
use crate::config::checks;
use crate::config::core_keys::{Fault, Reader, map, not_negative};
use crate::config::tree::{Entry, Item, Value};
use crate::config::{TlsConfig, defaults};

/// Go's names of the cipher suites that TLS 1.2 here offers, and of all of TLS 1.3.
const CIPHERS: [&str; 9] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// Those that are always there.
const NEWEST_CIPHERS: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Names that the reference also takes: suites without forward secrecy or with CBC, which this
/// server's TLS does not have. They are passed over with a warning; a list of only these leaves TLS
/// 1.3.
const OLD_CIPHERS: [&str; 11] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

const CURVES: [&str; 4] = ["X25519", "CurveP256", "CurveP384", "CurveP521"];

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the top level.
    Clients,
    /// In `cluster`.
    Routes,
}

/// Reads a block.
pub(super) fn read(
    reader: &mut Reader<'_>,
    entry: &Entry,
    place: Place,
) -> Result<TlsConfig, Fault> {
    let mut tls = TlsConfig { timeout: defaults::AUTH_TIMEOUT, ..TlsConfig::default() };
    for inner in map(entry)? {
        apply(&mut tls, inner, place, &mut reader.warnings)?;
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => {
            return Err(Fault::new(entry, "missing 'key_file' in TLS configuration"));
        }
        (None, Some(_)) => {
            return Err(Fault::new(entry, "missing 'cert_file' in TLS configuration"));
        }
        _ => {}
    }
    checks::certificate_files(&tls, reader.world).map_err(|text| Fault::new(entry, text))?;
    Ok(tls)
}

fn apply(
    tls: &mut TlsConfig,
    entry: &Entry,
    place: Place,
    warnings: &mut Vec<String>,
) -> Result<(), Fault> {
    match entry.key.to_lowercase().as_str() {
        "cert_file" => tls.cert_file = Some(text(entry, "filename")?),
        "key_file" => tls.key_file = Some(text(entry, "filename")?),
        "ca_file" => tls.ca_file = Some(text(entry, "filename")?),
        "insecure" => tls.insecure = boolean(entry)?,
        "verify" => tls.verify = boolean(entry)?,
        "verify_and_map" => {
            tls.verify_and_map = boolean(entry)?;
            tls.verify |= tls.verify_and_map;
        }
        "verify_cert_and_check_known_urls" => {
            if place == Place::Clients {
                return Err(Fault::new(
                    entry,
                    "verify_cert_and_check_known_urls not supported in this context",
                ));
            }
            if boolean(entry)? {
                return Err(Fault::unsupported(entry));
            }
        }
        "cipher_suites" => tls.cipher_suites = ciphers(entry, warnings)?,
        "curve_preferences" => tls.curves = curves(entry)?,
        "timeout" => tls.timeout = timeout(entry)?,
        "connection_rate_limit" => {
            let Value::Integer(value) = entry.value else {
                return Err(parsing(entry, "'connection_rate_limit' wrong type"));
            };
            // A limit that is not kept would be worse than none: nobody would know.
            if value > 0 {
                return Err(Fault::unsupported(entry));
            }
        }
        "pinned_certs" => {
            for item in items(entry)? {
                check_pin(item)?;
            }
            return Err(Fault::unsupported(entry));
        }
        "ocsp_peer" | "cert_store" | "cert_match_by" | "cert_match" => {
            return Err(Fault::unsupported(entry));
        }
        _ => return Err(parsing(entry, &format!("unknown field [{}]", quote(&entry.key)))),
    }
    Ok(())
}

fn parsing(entry: &Entry, reason: &str) -> Fault {
    Fault::new(entry, format!("error parsing tls config, {reason}"))
}

fn text(entry: &Entry, what: &str) -> Result<PathBuf, Fault> {
    entry.value.path().ok_or_else(|| {
        parsing(entry, &format!("expected '{}' to be {what}", entry.key.to_lowercase()))
    })
}

fn boolean(entry: &Entry) -> Result<bool, Fault> {
    if let Value::Bool(value) = entry.value {
        return Ok(value);
    }
    let key = entry.key.to_lowercase();
    Err(parsing(entry, &format!("expected '{key}' to be a boolean")))
}

fn timeout(entry: &Entry) -> Result<Duration, Fault> {
    match &entry.value {
        Value::Integer(seconds) => not_negative(entry, *seconds).map(Duration::from_secs),
        Value::Float(seconds) if *seconds < 0.0 => not_negative(entry, -1).map(Duration::from_secs),
        Value::Float(seconds) => Duration::try_from_secs_f64(*seconds)
            .map_err(|_| parsing(entry, "'timeout' is too long")),
        Value::String(text) => match go::duration(text) {
            Ok(nanos) => not_negative(entry, nanos).map(Duration::from_nanos),
            Err(error) => Err(parsing(entry, &format!("'timeout' {error}"))),
        },
        Value::Bytes(_) | Value::Bool(_) | Value::Date(_) | Value::Array(_) | Value::Map(_) => {
            Err(parsing(entry, "'timeout' wrong type"))
        }
    }
}

fn items(entry: &Entry) -> Result<&[Item], Fault> {
    if let Value::Array(items) = &entry.value {
        Ok(items)
    } else {
        Err(parsing(entry, &format!("'{}' must be an array", entry.key.to_lowercase())))
    }
}

fn names(entry: &Entry) -> Result<Vec<(&Item, &str)>, Fault> {
    let items = items(entry)?;
    if items.is_empty() {
        let key = entry.key.to_lowercase();
        return Err(parsing(entry, &format!("'{key}' cannot be empty")));
    }
    items
        .iter()
        .map(|item| {
            if let Value::String(text) = &item.value {
                Ok((item, text.as_str()))
            } else {
                Err(parsing(entry, &format!("'{}' must hold names", entry.key.to_lowercase())))
            }
        })
        .collect()
}

fn ciphers(entry: &Entry, warnings: &mut Vec<String>) -> Result<Vec<String>, Fault> {
    let mut ciphers = Vec::new();
    for (item, name) in names(entry)? {
        if CIPHERS.contains(&name) {
            ciphers.push(name.to_owned());
        } else if OLD_CIPHERS.contains(&name) {
            warnings.push(passed_over(item, name));
        } else {
            let text = format!("unrecognized cipher {name}");
            return Err(Fault { at: item.at.clone(), text });
        }
    }
    if ciphers.is_empty() {
        ciphers = NEWEST_CIPHERS.map(str::to_owned).to_vec();
    }
    Ok(ciphers)
}

fn curves(entry: &Entry) -> Result<Vec<String>, Fault> {
    let mut curves = Vec::new();
    for (item, name) in names(entry)? {
        if !CURVES.contains(&name) {
            let text = format!("unrecognized curve preference {name}");
            return Err(Fault { at: item.at.clone(), text });
        }
        curves.push(name.to_owned());
    }
    Ok(curves)
}

fn passed_over(item: &Item, name: &str) -> String {
    format!("{}: cipher suite {name} is not supported by stanby and is passed over", item.at)
}

fn check_pin(item: &Item) -> Result<(), Fault> {
    let pin = item.value.to_string().to_ascii_lowercase();
    if pin.len() == 64 && pin.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let text = format!(
        "error parsing tls config, 'pinned_certs' key {pin} does not look like hex-encoded \
         sha256 of DER encoded SubjectPublicKeyInfo"
    );
    Err(Fault { at: item.at.clone(), text })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use crate::config::options::tests::served;
    use crate::config::{Program, TlsConfig};

    fn read(inside: &str) -> (TlsConfig, Vec<String>) {
        let file = format!("tls {{ cert_file: cert.pem, key_file: key.pem, {inside} }}");
        let config = served(Program::Streaming, "-c f.conf", &file);
        (config.core.tls.unwrap(), config.warnings)
    }

    /// Goal: no list that the reference takes keeps the server from starting.
    #[test]
    fn suites_that_do_not_exist_here_are_passed_over_with_a_warning() {
        let (tls, warnings) = read(
            "cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]",
        );
        assert_eq!(tls.cipher_suites, ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert!(warnings[0].contains("TLS_RSA_WITH_AES_128_CBC_SHA"), "{warnings:?}");
        let (tls, warnings) = read("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]");
        assert!(tls.cipher_suites.iter().all(|name| !name.contains("WITH")), "{tls:?}");
        assert_eq!(warnings.len(), 1);
        let (tls, warnings) = read("curve_preferences: [CurveP521, CurveP384]");
        assert_eq!(tls.curves, ["CurveP521", "CurveP384"]);
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}
