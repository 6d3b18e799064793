//! Looks through a store in a directory that nobody serves: what is wrong, where, and what it means
//!
//! Files are only read, by the format alone (spec stores, section 4): every checksum, indexes
//! against data, sequences and times over all slices, subscriptions against messages, what is left
//! over of former servers. Then the store is opened over a disk that keeps changes in memory, as a
//! start would open it, for what that would repair or refuse.

mod channel;
mod counts;
mod finding;
mod mending;
mod records;
mod root;
mod slices;
mod typed;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::finding::{Finding, Weight};
pub use self::mending::{Change, MendError, Mender, may_mend, mend};

use self::finding::{Findings, OTHER_RULES};
use crate::base::world;
use crate::store::file::format::Crc;
use crate::store::source;

/// How a store was written.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The polynomial of checksums; `None`: they are not looked at.
    polynomial: Option<u32>,
}

impl Default for Rules {
    /// With the usual checksums.
    fn default() -> Self {
        Self { polynomial: Some(Crc::IEEE) }
    }
}

impl Rules {
    /// Checksums are not looked at.
    #[must_use]
    pub fn without_checksums() -> Self {
        Self { polynomial: None }
    }

    /// With checksums by another polynomial, in reversed notation.
    #[must_use]
    pub fn with_polynomial(polynomial: u32) -> Self {
        Self { polynomial: Some(polynomial) }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where.
    pub directory: PathBuf,
    /// Channels that can be read.
    pub channels: u64,
    /// Messages in them.
    pub messages: u64,
    /// Subscriptions in them.
    pub subscriptions: u64,
    /// Clients.
    pub clients: u64,
    /// Whether a process has the lock of the directory: what it writes meanwhile may look damaged.
    pub is_in_use: bool,
    /// Who has one of its files open for writing, lock or not, as far as the caller has found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// What is wrong or left over, file by file.
    pub findings: Vec<Finding>,
    /// What a start would say.
    pub start: Vec<String>,
    /// Why it would not serve.
    pub start_fails: Option<String>,
    /// What no look at files can find.
    pub unseen: [&'static str; 5],
}

impl Report {
    /// Whether messages, subscriptions or clients are damaged, or a start would fail although
    /// everything can be read.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let would_fail = self.start_fails.is_some() && !self.is_partial();
        would_fail || self.has(Weight::Damage)
    }

    /// Whether something was not looked at.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.has(Weight::Unread)
    }

    /// Whether a start would put something right, without loss of what was acknowledged.
    #[must_use]
    pub fn needs_start(&self) -> bool {
        self.has(Weight::Mended)
    }

    /// Whether it has been written with other checksums than those that were looked for.
    fn is_by_other_rules(&self) -> bool {
        let is_of_all = |found: &Finding| found.file.as_os_str().is_empty();
        self.findings.first().is_some_and(|found| is_of_all(found) && found.means == OTHER_RULES)
    }

    fn has(&self, weight: Weight) -> bool {
        self.findings.iter().any(|finding| finding.weight == weight)
    }
}

/// What leaves no trace.
const UNSEEN: [&str; 5] = [
    "messages at the end of a channel that are missing in its data and its index alike",
    "a channel whose folder is gone",
    "acknowledgements and deliveries missing at the end of a channel's subs.dat, and clients at the \
     end of clients.dat",
    "counts of deliveries and a purge whose files are gone",
    "a file that is whole and has the place of another: an older one, or another channel's subs.dat",
];

/// Why a directory was not looked through.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is none.
    #[error("{}: there is no store in it: no server.dat, no clients.dat and no channel", .0.display())]
    NoStore(PathBuf),
}

/// Looks through the store in `directory`; `say` gets what is looked at.
///
/// # Errors
/// [`CheckError`], if there is nothing to be looked at; what is wrong with a store is a finding.
pub fn directory(
    directory: &Path,
    rules: Rules,
    say: &mut dyn FnMut(&str),
) -> Result<Report, CheckError> {
    let unreadable = |source| CheckError::Io { path: directory.to_owned(), source };
    let crc = rules.polynomial.map(Crc::new);
    let mut findings = Findings::new(directory);
    let found = root::look(directory, crc.as_ref(), &mut findings).map_err(unreadable)?;
    let mut report = Report {
        directory: directory.to_owned(),
        clients: found.clients,
        is_in_use: found.is_in_use,
        unseen: UNSEEN,
        ..Report::default()
    };
    for folder in &found.folders {
        say(&folder.display().to_string());
        if let Some(channel) = channel::look(folder, crc.as_ref(), &mut findings) {
            report.channels += 1;
            report.messages += channel.messages;
            report.subscriptions += channel.subscriptions;
        }
    }
    if report.channels == 0 && !found.has_records() {
        return Err(CheckError::NoStore(directory.to_owned()));
    }
    say("what a start would do");
    match source::open_directory(directory, rules.polynomial, world::now()) {
        Ok(opened) => report.start = opened.notices.into_iter().map(|notice| notice.text).collect(),
        Err(error) => report.start_fails = Some(error.to_string()),
    }
    report.findings = findings.all();
    Ok(report)
}
