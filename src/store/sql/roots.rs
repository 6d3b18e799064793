//! Whose certificates are believed on the way to a database: a file's, or the system's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::base::certificate::SYSTEM_ROOTS;
use crate::base::files;
use crate::store::sql::dsn::{Pem, SystemAuthorities, Tls};

/// Bytes of a file in a folder of authorities.
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// The authorities that `tls` names, or the system's, as PEM.
///
/// # Errors
/// When there is none, or a file that is named cannot be read.
pub(super) fn text(tls: &Tls) -> io::Result<Vec<u8>> {
    match &tls.authorities {
        Some(pem) => read(pem),
        None => system(&tls.system),
    }
}

/// What is in a file, or the text itself.
///
/// # Errors
/// With the file's name.
pub(super) fn read(pem: &Pem) -> io::Result<Vec<u8>> {
    match pem {
        Pem::Text(text) => Ok(text.clone().into_bytes()),
        Pem::File(path) => files::read_text(path).map_err(|error| unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("error reading {}: {error}", path.display()))
}

/// The certificates of a text.
///
/// # Errors
/// When one of them is damaged.
pub(super) fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.map_err(io::Error::other)
}

/// The first file that is there, and every file of the folders. Where neither is named, the places
/// of the usual distributions.
fn system(system: &SystemAuthorities) -> io::Result<Vec<u8>> {
    let usual = || SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
    let file = system.file.clone().filter(|path| path.exists()).or_else(usual);
    let mut text = Vec::new();
    if let Some(path) = &file {
        text = files::read_text(path).map_err(|error| unreadable(path, &error))?;
    }
    for folder in &system.folders {
        // Compat: what cannot be read there is passed over.
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let Ok(more) = files::read(&entry.path(), FILE_LEN_MAX) else { continue };
            if certificates(&more).is_ok_and(|found| !found.is_empty()) {
                text.push(b'\n');
                text.extend(more);
            }
        }
    }
    if text.is_empty() {
        return Err(io::Error::other("no file of trusted authorities was found"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn named_places_of_the_system_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            made.cert.pem()
        };
        let file = folder.path().join("file.pem");
        fs::write(&file, make("one")).unwrap();
        let more = folder.path().join("more");
        fs::create_dir(&more).unwrap();
        fs::write(more.join("two"), make("two")).unwrap();
        fs::write(more.join("three"), "no certificate").unwrap();
        let count = |file: Option<PathBuf>, folders: &[PathBuf]| {
            let places = SystemAuthorities { file, folders: folders.to_vec() };
            certificates(&system(&places).unwrap()).unwrap().len()
        };
        assert_eq!(count(Some(file.clone()), &[]), 1);
        assert_eq!(count(Some(file), &[more]), 2);
    }
}
