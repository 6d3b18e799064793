//! One node of a Raft cluster as it was given: its store, its log and its snapshot, all only read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::base::encryption::StoreKey;
use crate::base::files::{self, Access, Links};
use crate::base::id::ChannelName;
use crate::base::record::{ChannelState, RecoveredChannel};
use crate::base::world;
use crate::import::bolt::ReadAt;
use crate::import::members::NodeFacts;
use crate::import::raft_log::{LogError, Member, Place, RaftLog};
use crate::import::snapshot::{self, Snapshot, SnapshotError};
use crate::proto::spb;
use crate::site::writers::{self, Writer};
use crate::store::encryption::notice;
use crate::store::source;
use crate::store::{Store, StoreError};

/// Where a node has its data.
#[derive(Clone, Debug)]
pub struct Given {
    /// As a person named it.
    pub name: String,
    /// Its messages.
    pub store: source::Place,
    /// Its `-cluster_log_path`, or the folder in that which has the name of the cluster.
    pub log_path: PathBuf,
}

/// Why a node cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its store.
    #[error("the store of {name} cannot be read: {source}")]
    Store {
        /// Which node.
        name: String,
        /// Why.
        source: Box<StoreError>,
    },
    /// There is nothing of a node there.
    #[error("{name}: {what}")]
    NotClustered {
        /// Which node.
        name: String,
        /// What was found instead.
        what: String,
    },
    /// There is no log.
    #[error(
        "no Raft log in {}: give the node's -cluster_log_path (there it is \
         <cluster ID>/{LOG_FILE})", .0.display()
    )]
    NoLog(PathBuf),
    /// The log file cannot be opened.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody writes in its store.
    #[error("{name}: {writer}")]
    Written {
        /// Which node.
        name: String,
        /// Who does.
        writer: Writer,
    },
    /// Its server has the log open.
    #[error("{}: a server has it open; stop all nodes of the cluster first", .0.display())]
    Running(PathBuf),
    /// Its log.
    #[error("{}: {source}", .path.display())]
    Log {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<LogError>,
    },
    /// Its snapshots.
    #[error("no snapshot of {name} can be read: {source}")]
    Snapshot {
        /// Which node.
        name: String,
        /// Why the newest cannot.
        source: SnapshotError,
    },
    /// Its messages cannot be read.
    #[error(
        "the messages of {name} are encrypted{how}: give the key of the cluster with --encrypt, \
         and NATS_STREAMING_ENCRYPTION_KEY or --encryption-key"
    )]
    Key {
        /// Which node.
        name: String,
        /// With another key than was given, if one was.
        how: &'static str,
    },
}

/// The name of the file that has the log.
const LOG_FILE: &str = "raft.log";

const DAMAGED_META: &str = "one of its first two pages is damaged, and the other one counts: if \
                            that is the older one, the entries that were written last are missing";

/// A file whose length was taken when it was opened, and which its server has not open.
pub struct LogFile {
    file: Handle,
    len: u64,
}

enum Handle {
    Locked(Flock<File>),
    Plain(File),
}

impl ReadAt for LogFile {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let file = match &self.file {
            Handle::Locked(file) => file,
            Handle::Plain(file) => file,
        };
        file.read_exact_at(buffer, offset)
    }
}

/// One node.
pub struct Node {
    /// What a choice is made from.
    pub facts: NodeFacts,
    /// Its log.
    pub log: RaftLog<LogFile>,
    /// The file that has it.
    pub log_file: PathBuf,
    /// Its newest snapshot.
    pub snapshot: Option<Snapshot>,
    /// The record of its server.
    pub server: spb::ServerInfo,
    /// Lines about what was found.
    pub notices: Vec<String>,
    /// What its store knows of a channel.
    channels: Vec<RecoveredChannel>,
    /// Its messages.
    pub messages: Box<dyn Store>,
}

impl Node {
    /// Opens what was given.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn open(given: &Given, key: Option<&StoreKey>) -> Result<Self, NodeError> {
        let name = given.name.clone();
        let not_clustered =
            |what: &str| NodeError::NotClustered { name: name.clone(), what: what.to_owned() };
        if let source::Place::Directory(root) = &given.store
            && let Some(writer) = writers::find(root)
        {
            return Err(NodeError::Written { name, writer });
        }
        let failed = |source| NodeError::Store { name: name.clone(), source: Box::new(source) };
        let opened = source::open(&given.store, key, world::now()).map_err(failed)?;
        let read_as = |text: &str| format!("nothing was changed, it was read as if: {text}");
        let mut notices: Vec<String> =
            opened.notices.iter().map(|notice| read_as(&notice.text)).collect();
        let channels = opened.recovered.channels;
        let mut shares = opened.shares;
        if notice::notice(&channels, &mut shares).is_some() {
            let how = if key.is_some() { " with another key" } else { "" };
            return Err(NodeError::Key { name, how });
        }
        let server = opened.recovered.server;
        let server = server
            .ok_or_else(|| not_clustered("there is no server's record, so no store of a node"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (cluster, id) = (text(&server.cluster_id), text(&server.node_id));
        if id.is_empty() {
            let what = "it is no store of a Raft cluster: stanby can serve it as it is, or copied";
            return Err(not_clustered(what));
        }
        let messages = shares.pop().ok_or_else(|| not_clustered("it holds nothing"))?;
        let (folder, log_file) = find_log(&given.log_path, &cluster)?;
        let in_log =
            |source: LogError| NodeError::Log { path: log_file.clone(), source: Box::new(source) };
        let log = RaftLog::open(open_log(&log_file)?, key.cloned()).map_err(in_log)?;
        if log.has_damaged_meta() {
            notices.push(format!("{}: {DAMAGED_META}", log_file.display()));
        }
        let found = snapshot::newest(&folder);
        let (snapshot, errors) =
            found.map_err(|source| NodeError::Snapshot { name: name.clone(), source })?;
        let older = |error: SnapshotError| format!("{error}: an older snapshot is used");
        notices.extend(errors.into_iter().map(older));
        let (last, members) = last_and_members(&log, snapshot.as_ref()).map_err(in_log)?;
        let facts = NodeFacts { name, cluster, id, last, members };
        Ok(Self { facts, log, log_file, snapshot, server, notices, channels, messages })
    }

    /// What its store has of the channel of that number.
    #[must_use]
    pub fn channel(&self, name: &ChannelName, number: u64) -> Option<ChannelState> {
        let is_same = super::replay::is_same(self.log.channel_number(name.as_bytes()), number);
        let found = self.channels.binary_search_by(|found| found.channel.cmp(name)).ok()?;
        is_same.then(|| self.channels[found].state)
    }

    /// All channels of its store, with their numbers.
    pub fn channels(&self) -> impl Iterator<Item = (&ChannelName, u64, ChannelState)> {
        self.channels.iter().map(|found| {
            let number = self.log.channel_number(found.channel.as_bytes());
            (&found.channel, number, found.state)
        })
    }
}

/// The folder of the log, and its file.
fn find_log(path: &Path, cluster: &str) -> Result<(PathBuf, PathBuf), NodeError> {
    let folders = [path.join(cluster), path.to_owned()];
    let mut found = folders.into_iter().map(|folder| (folder.join(LOG_FILE), folder));
    let found = found.find(|(file, _)| file.exists());
    let (file, folder) = found.ok_or_else(|| NodeError::NoLog(path.to_owned()))?;
    Ok((folder, file))
}

/// A shared lock keeps no other reader away, and a server that has the file open has one that
/// keeps all away.
fn open_log(path: &Path) -> Result<LogFile, NodeError> {
    let failed = |source| NodeError::Io { path: path.to_owned(), source };
    let file = files::open(path, Access::Read, Links::Followed).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(file) => Ok(LogFile { file: Handle::Locked(file), len }),
        Err((_, Errno::EWOULDBLOCK)) => Err(NodeError::Running(path.to_owned())),
        // A file system that knows no locks tells nothing.
        Err((file, _)) => Ok(LogFile { file: Handle::Plain(file), len }),
    }
}

/// Where the node stands, and the newest members that it knows of: the Raft library takes those
/// too that were not committed yet. Entries of an older term behind a snapshot are no continuation
/// of it: the node was sent the snapshot in their place, and had not thrown them away yet.
fn last_and_members<S: ReadAt>(
    log: &RaftLog<S>,
    snapshot: Option<&Snapshot>,
) -> Result<(Place, Vec<Member>), LogError> {
    let in_snapshot = snapshot.map(|snapshot| snapshot.place).unwrap_or_default();
    let in_log = log.ends().map(|(_, last)| last).unwrap_or_default();
    let last = in_log.max(in_snapshot);
    let newer = match last == in_snapshot {
        true => None,
        false => log.newest_members(in_snapshot.index.saturating_add(1))?,
    };
    let older = || snapshot.map(|snapshot| snapshot.members.clone());
    Ok((last, newer.or_else(older).unwrap_or_default()))
}
