//! Mends a store that was looked through: what is whole goes into new files, the old ones are kept
//!
//! Files in which acknowledged data is damaged are written anew from the records that can be
//! proved, and put under the old names; the old files stay beside them under names that both
//! servers pass over. Nothing is deleted, and each file is replaced in one step, so whoever is
//! killed in between leaves a store that can be mended again. Messages that nobody has any more
//! are stood in for by empty ones, as the reference does for gaps, so that no sequence is given
//! out twice. What a start puts right by itself is left to it.

mod deliveries;
mod files;
mod messages;
mod records;
mod slices;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::deliveries::Deliveries;
use self::files::{Hand, Piece, push};
use self::records::NoTake;
use super::finding::Weight;
use super::records::Bytes;
use super::{Report, Rules, counts};
use crate::base::epoch::{Fence, FenceError};
use crate::store::file::deliveries::HEADER;
use crate::store::file::format::{
    CLIENTS_FILE, ChannelFile, Crc, SERVER_FILE, SUBSCRIPTIONS_FILE, channel_file, decode_client,
    decode_subscription, deliveries_number,
};

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// To which file, below the directory.
    pub file: PathBuf,
    /// What.
    pub what: String,
    /// What it means for clients.
    pub means: &'static str,
}

/// Why a store was not mended, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// A file cannot be read or written.
    #[error("{}: {source}; what was mended before is whole, and the rest as it was", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not all of it may be read.
    #[error("not all of it may be read, so nothing was changed: mend it as a user who may")]
    Unread,
    /// Its checksums are others.
    #[error(
        "no checksum fits, so nothing was changed: say by --crc-poly or --no-crc how it was written"
    )]
    OtherRules,
    /// Too many messages would have to be made up.
    #[error(
        "{}: its files name message {last}, and {missing} up to it are missing, which is more than \
         can be true: restore it from a backup", .path.display()
    )]
    TooMany {
        /// The channel's folder.
        path: PathBuf,
        /// How many are missing.
        missing: u64,
        /// The last one that is named.
        last: u64,
    },
    /// Its files belong to somebody else.
    #[error(
        "it belongs to user {owner}, and what another one makes there its server may not use: run \
         this as that user"
    )]
    Foreign {
        /// Whose it is.
        owner: u32,
    },
    /// Somebody else has it by now.
    #[error("{0}; what was mended before is whole, and the rest as it was")]
    Fenced(#[from] FenceError),
    /// The lease was not renewed.
    #[error("{0}; what was mended before is whole, and the rest as it was")]
    Lease(String),
}

/// Who mends: nobody else may have the store meanwhile.
pub struct Mender<'a> {
    /// Asked before each file is replaced; its epoch is part of the names that old files get.
    pub fence: &'a dyn Fence,
    /// Shows that the store is still held.
    pub confirm: &'a mut dyn FnMut() -> Result<(), String>,
    /// Gets what is worked at.
    pub say: &'a mut dyn FnMut(&str),
}

/// Whether it can be known what is wrong, and whether its server can use what is made.
///
/// # Errors
/// [`MendError`].
pub fn may_mend(report: &Report) -> Result<(), MendError> {
    if report.is_partial() {
        return Err(MendError::Unread);
    }
    if report.is_by_other_rules() {
        return Err(MendError::OtherRules);
    }
    let root = &report.directory;
    let owner = fs::metadata(root).map_err(files::failed(root))?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        return Err(MendError::Foreign { owner });
    }
    Ok(())
}

/// Mends what [`super::directory`] has found damaged, or such that a start would put it right: the
/// Go server's would not. Says what was done.
///
/// # Errors
/// [`MendError`]. Files that were named before are mended all the same.
pub fn mend(
    report: &Report,
    rules: Rules,
    mender: &mut Mender<'_>,
) -> Result<Vec<Change>, MendError> {
    may_mend(report)?;
    let root = report.directory.clone();
    let usual = Crc::new(Crc::IEEE);
    let crc = rules.polynomial.map(Crc::new);
    let checksums = (crc.as_ref().unwrap_or(&usual), crc.is_some());
    let mut hand = Hand::new(&root, mender);
    let damaged: BTreeSet<&Path> = report
        .findings
        .iter()
        .filter(|found| matches!(found.weight, Weight::Damage | Weight::Mended))
        .map(|found| found.file.as_path())
        .collect();
    for file in &damaged {
        match file.as_os_str().as_bytes() {
            SERVER_FILE => server(&mut hand, &root, crc.as_ref())?,
            CLIENTS_FILE => {
                let what = (
                    CLIENTS_FILE,
                    "what was said of them there is unknown: they have to connect again",
                );
                records::mend(&mut hand, &root, what, checksums, decode_client, &mut NoTake)?;
            }
            name if deliveries_number(name).is_some() => counts(&mut hand, &root.join(file))?,
            _ => (),
        }
    }
    let folders: BTreeSet<PathBuf> = damaged
        .iter()
        .filter_map(|file| file.components().next().filter(|_| 1 < file.components().count()))
        .map(|folder| root.join(folder))
        .chain(damaged.iter().map(|file| root.join(file)).filter(|path| path.is_dir()))
        .collect();
    for folder in folders {
        hand.say(&folder);
        channel(&mut hand, &folder, checksums)?;
    }
    Ok(hand.changes())
}

/// Its record stays if it can be proved; else nobody can say what stood there.
fn server(hand: &mut Hand<'_, '_>, root: &Path, crc: Option<&Crc>) -> Result<(), MendError> {
    let path = root.join("server.dat");
    if !hand.exists(&path)? {
        return Ok(());
    }
    match records::whole_server(&path, crc).map_err(files::failed(&path))? {
        Some(pieces) => {
            let kept = hand.replace(&path, &pieces)?.unwrap_or_default();
            let what = format!("written anew with its record; the old file is kept as {kept}");
            hand.note(&path, what, "nothing");
            Ok(())
        }
        None => {
            let means = "a start begins with new subjects: clients have to connect again";
            hand.take_away(&path, "its record is not whole", means)
        }
    }
}

fn channel(
    hand: &mut Hand<'_, '_>,
    folder: &Path,
    checksums: (&Crc, bool),
) -> Result<(), MendError> {
    let invalid = hand.listed(folder)?.into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        channel_file(name) == ChannelFile::Invalid
    });
    for path in invalid {
        let means = "nothing: no server would have read it, nor started with it there";
        hand.take_away(&path, "its name is none that a slice can have", means)?;
    }
    let mut deliveries = Deliveries::default();
    let what = (
        SUBSCRIPTIONS_FILE,
        "what was delivered there is delivered again, and a subscription that begins there is gone",
    );
    records::mend(hand, folder, what, checksums, decode_subscription, &mut deliveries)?;
    let listed = hand.listed(folder)?;
    let purged_up_to = listed.iter().filter_map(|path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        if let ChannelFile::Purged(floor) = channel_file(name) { Some(floor.first) } else { None }
    });
    let last = purged_up_to.fold(deliveries.last(), u64::max);
    slices::mend(hand, folder, checksums, last)
}

/// Counts that can be proved go into a new file.
fn counts(hand: &mut Hand<'_, '_>, path: &Path) -> Result<(), MendError> {
    let found = Bytes::open(path).and_then(|mut bytes| counts::parts(&mut bytes));
    let found = found.map_err(files::failed(path))?;
    let mut pieces = vec![Piece::New(HEADER.to_vec())];
    for (from, to) in &found.whole {
        push(&mut pieces, Piece::Of { path: path.to_owned(), from: *from, to: *to });
    }
    let kept = hand.replace(path, &pieces)?.unwrap_or_default();
    if !found.has_header {
        let what = format!("its header is made anew; the old file is kept as {kept}");
        hand.note(path, what, "nothing");
    }
    for (from, to) in found.lost {
        let what = format!("bytes {from} to {to} are no record and left out; kept in {kept}");
        hand.note(path, what, counts::LOST);
    }
    Ok(())
}

/// The folder's files, sorted by name.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    found.sort();
    Ok(found)
}
