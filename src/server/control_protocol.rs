//! what is said over a control socket: one line of JSON each way

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::election::membership::{Known, MemberNews};
use crate::server::administration_protocol::{Administered, Administration};

/// Longest question that is read.
pub(super) const REQUEST_BYTES_MAX: u64 = 4 * 1024;

/// Longest answer: lists of hundreds of thousands of channels or subscriptions.
const REPLY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a command asks of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// How the group is.
    Status,
    /// That another member become active.
    StepDown,
    /// That what it serves be copied into a new directory.
    Backup {
        /// Its whole path.
        to: String,
    },
    /// How far that is.
    BackupStatus,
    /// Something of what the active one keeps, or a change of it.
    Administer(Administration),
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<GroupStatus>),
    /// Another member is active.
    SteppedDown(SteppedDown),
    /// To [`Request::Backup`] and [`Request::BackupStatus`].
    Backup(Box<BackupStatus>),
    /// To [`Request::Administer`].
    Administered(Box<Administered>),
    /// It is not done, and why.
    Refused(String),
    /// It is not done here, and where it is to be asked.
    Elsewhere(String),
}

/// A group as one of its members knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// Cluster ID, as configured.
    pub cluster_id: String,
    /// Name of the group; `None`: the server stands alone.
    pub group: Option<String>,
    /// Where the data lies.
    pub store: String,
    /// The member that answers, then the others.
    pub members: Vec<Known>,
}

/// A hand-over that was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SteppedDown {
    /// Who was active.
    pub from: String,
    /// Who is.
    pub to: String,
    /// From the question to the successor's first sign that it serves, milliseconds.
    pub millis: f64,
}

/// A backup as it is, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupStatus {
    /// The directory.
    pub to: String,
    /// How it ended.
    pub end: BackupEnd,
    /// Channels that are copied.
    pub channels: u64,
    /// Channels of the store when it began.
    pub channels_all: u64,
    /// Messages that are copied.
    pub messages: u64,
    /// Subscriptions that are copied.
    pub subscriptions: u64,
    /// Clients that are copied.
    pub clients: u64,
    /// How long it has taken, milliseconds.
    pub millis: u64,
}

/// How a backup ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupEnd {
    /// It has not.
    #[default]
    Open,
    /// It is whole.
    Done,
    /// It is not, and why.
    Failed(String),
}

/// Why a server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens, or the socket is another user's.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("{}: the answer cannot be understood", .path.display())]
    Nonsense {
        /// Which socket.
        path: PathBuf,
    },
}

/// Asks the server that listens at `path`, and waits up to `patience` for its answer.
///
/// # Errors
/// [`AskError`].
pub fn ask(path: &Path, request: Request, patience: Duration) -> Result<Reply, AskError> {
    let failed = |source| AskError::Io { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(patience)).map_err(failed)?;
    stream.set_write_timeout(Some(patience)).map_err(failed)?;
    // One that has no time says so without reading, and hangs up.
    let asked = stream.write_all(&line(&request));
    let mut answer = Vec::new();
    let mut reader = BufReader::new(stream.take(REPLY_BYTES_MAX));
    let read = reader.read_until(b'\n', &mut answer);
    if answer.last() != Some(&b'\n') {
        asked.and(read).map_err(failed)?;
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&answer).map_err(|_| AskError::Nonsense { path: path.to_owned() })
}

/// A value as one line.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("texts and numbers are always JSON");
    bytes.push(b'\n');
    bytes
}

impl GroupStatus {
    /// Who is active, as far as the member that answers can tell: itself, one that it hears, or the
    /// one that the store names.
    #[must_use]
    pub fn active(&self) -> Option<&MemberNews> {
        use crate::election::membership::Standing;
        let named = self.members.first().and_then(|own| own.news.active.as_ref());
        let is_named =
            |known: &&Known| named.is_some_and(|active| active.server_id == known.news.server_id);
        let own = self.members.first().filter(|known| known.news.role == Standing::Active);
        own.or_else(|| self.members.iter().find(is_named)).map(|known| &known.news)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::administration_protocol::Extent;

    #[test]
    fn both_sides_mean_the_same() {
        let backup = Request::Backup { to: "/backups/monday".to_owned() };
        let purge = Administration::Purge { channel: "c".to_owned(), extent: Extent::Keep(3) };
        let administer = Request::Administer(purge);
        for request in
            [Request::Status, Request::StepDown, backup, Request::BackupStatus, administer]
        {
            let read: Request = serde_json::from_slice(&line(&request)).expect("a request");
            assert_eq!(read, request);
        }
        let status = GroupStatus { cluster_id: "c".to_owned(), ..GroupStatus::default() };
        for reply in [
            Reply::Status(Box::new(status)),
            Reply::SteppedDown(SteppedDown::default()),
            Reply::Backup(Box::default()),
            Reply::Refused("no".to_owned()),
        ] {
            let read: Reply = serde_json::from_slice(&line(&reply)).expect("a reply");
            assert_eq!(read, reply);
        }
        assert_eq!(line(&Request::StepDown), b"{\"ask\":\"step-down\"}\n");
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = serde_json::from_slice::<Request>(&bytes);
            let _ = serde_json::from_slice::<Reply>(&bytes);
        }
    }
}
