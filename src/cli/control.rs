//! How commands find the running server that they ask.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use super::connection::CommandError;
use crate::base::control_folder;
use crate::server::administration_protocol::{Administered, Administration};
use crate::server::control_protocol::{self, AskError, BackupStatus, GroupStatus, Reply, Request};
use crate::server::control_socket;

/// How long a server may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// How long a hand-over may take, and its answer.
const STEP_DOWN_WITHIN: Duration = Duration::from_secs(35);

/// Which server is asked.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServerArgs {
    /// Its control socket; else the only server of this machine, or one of its only group
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Cluster ID, where servers of several clusters run on this machine
    #[arg(short, long, value_name = "ID")]
    pub cluster: Option<String>,
}

/// Why no server was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The one that was found or named.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// No socket listens.
    #[error(
        "no server answers on this machine{of}: looked in {places}. A server names its control \
         socket in its log; --socket names it here, and another user's is reached as root"
    )]
    Nobody {
        /// Of which cluster, if one was asked for.
        of: String,
        /// Where.
        places: String,
    },
    /// Servers of several groups listen.
    #[error(
        "several groups have servers on this machine: choose one with --cluster or --socket\n{0}"
    )]
    Several(String),
    /// It is there and says nothing.
    #[error(
        "{}: the server does not answer: it hangs, or is stopped; if it is active, a standby \
         replaces it after ft_steal_after", .0.display()
    )]
    Hangs(PathBuf),
    /// It answered that it does not do it.
    #[error("{0}")]
    Refused(String),
    /// A NATS server could not be asked.
    #[error(transparent)]
    Nats(#[from] CommandError),
    /// It was asked for a change, and its answer is lost.
    #[error(
        "{server}: {why}: whether it was done is not known; look, before it is asked for again"
    )]
    Unknown {
        /// Who was asked.
        server: String,
        /// How the answer was lost.
        why: String,
    },
    /// Of several things some were not done.
    #[error("{}", .failed.join("\n"))]
    Some {
        /// What is printed of those that were.
        done: String,
        /// A line for each that was not.
        failed: Vec<String>,
    },
    /// It answered something else.
    #[error("{}: the server answers another question: is it of another release?", .0.display())]
    Other(PathBuf),
}

/// A server that was asked how it is.
#[derive(Debug)]
pub struct Found {
    /// Its control socket.
    pub socket: PathBuf,
    /// What it said.
    pub status: GroupStatus,
}

/// Where servers of this machine have their sockets.
#[must_use]
pub fn folders() -> Vec<PathBuf> {
    let user = geteuid();
    let mut folders = control_folder::candidates(|name| env::var(name).ok(), user.as_raw());
    if user.is_root() {
        folders.extend(folders_of_others());
    }
    folders
}

/// Root reaches the servers of all users.
fn folders_of_others() -> Vec<PathBuf> {
    let entries =
        fs::read_dir("/tmp").into_iter().flatten().take(control_socket::ENTRIES_MAX).flatten();
    let is_one = |entry: &fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let user = name.strip_prefix("stanby-").and_then(|user| user.parse::<u32>().ok());
        user.is_some_and(|user| user != 0) && entry.file_type().is_ok_and(|found| found.is_dir())
    };
    entries.filter(is_one).map(|entry| entry.path()).collect()
}

impl ServerArgs {
    /// The server that is meant; of a group that has several members here, the active one first.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn find(&self) -> Result<Found, ControlError> {
        if let Some(socket) = &self.socket {
            return status(socket);
        }
        let folders = folders();
        let answering =
            folders.iter().flat_map(|folder| control_socket::all_in(folder)).filter_map(|socket| {
                // One that does not answer has ended, or is another user's.
                status(&socket).ok()
            });
        let is_meant = |found: &Found| {
            self.cluster.as_ref().is_none_or(|cluster| *cluster == found.status.cluster_id)
        };
        let found: Vec<Found> = answering.filter(is_meant).collect();
        let groups: BTreeSet<String> = found.iter().map(Found::group).collect();
        if groups.len() > 1 {
            let lines: Vec<String> = found
                .iter()
                .map(|found| format!("  {}  {}", found.group(), found.socket.display()))
                .collect();
            return Err(ControlError::Several(lines.join("\n")));
        }
        let is_active = |found: &Found| found.status.active().map(|it| it.server_id.clone());
        let own = |found: &Found| found.status.members.first().map(|it| it.news.server_id.clone());
        let best = found.into_iter().max_by_key(|found| is_active(found) == own(found));
        best.ok_or_else(|| {
            let places = folders.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
            let of = self.cluster.as_ref().map(|id| format!(" for cluster {id:?}"));
            ControlError::Nobody { of: of.unwrap_or_default(), places: places.join(", ") }
        })
    }
}

impl Found {
    /// What tells one group of this machine from another, for a person.
    fn group(&self) -> String {
        let GroupStatus { cluster_id, group, store, .. } = &self.status;
        match group {
            Some(group) => format!("cluster {cluster_id}, group {group}, {store}"),
            None => {
                let own = self.status.members.first().map_or(0, |known| known.news.pid);
                format!("cluster {cluster_id}, stand-alone, process {own}, {store}")
            }
        }
    }
}

/// A server that does not answer in time is named as that.
fn named(error: AskError) -> ControlError {
    if let AskError::Io { path, source } = &error
        && source.kind() == ErrorKind::WouldBlock
    {
        return ControlError::Hangs(path.clone());
    }
    ControlError::Ask(error)
}

/// How the server at `socket` says that its group is.
///
/// # Errors
/// [`ControlError`].
pub fn status(socket: &Path) -> Result<Found, ControlError> {
    match control_protocol::ask(socket, Request::Status, STATUS_WITHIN).map_err(named)? {
        Reply::Status(status) => Ok(Found { socket: socket.to_owned(), status: *status }),
        Reply::Refused(why) | Reply::Elsewhere(why) => Err(ControlError::Refused(why)),
        Reply::SteppedDown(_) | Reply::Administered(_) | Reply::Backup(_) => {
            Err(ControlError::Other(socket.to_owned()))
        }
    }
}

/// Asks the server at `socket` to let another member be active, and waits until one is.
///
/// # Errors
/// [`ControlError`].
pub fn step_down(socket: &Path) -> Result<control_protocol::SteppedDown, ControlError> {
    // One that hangs is told from one that takes its time.
    status(socket)?;
    match control_protocol::ask(socket, Request::StepDown, STEP_DOWN_WITHIN).map_err(named)? {
        Reply::SteppedDown(done) => Ok(done),
        Reply::Refused(why) | Reply::Elsewhere(why) => Err(ControlError::Refused(why)),
        Reply::Status(_) | Reply::Administered(_) | Reply::Backup(_) => {
            Err(ControlError::Other(socket.to_owned()))
        }
    }
}

/// Asks the active server at `socket` for its state, or to change it.
///
/// # Errors
/// [`ControlError`].
pub fn administer(
    socket: &Path,
    what: Administration,
    patience: Duration,
) -> Result<Administered, ControlError> {
    // One that hangs is told from one that takes its time.
    status(socket)?;
    let reply = control_protocol::ask(socket, Request::Administer(what), patience);
    administered(reply.map_err(named)?, socket)
}

/// What `whom` has answered to what was asked of the active one.
///
/// # Errors
/// [`ControlError`].
pub fn administered(reply: Reply, whom: &Path) -> Result<Administered, ControlError> {
    match reply {
        Reply::Administered(told) => Ok(*told),
        Reply::Refused(why) | Reply::Elsewhere(why) => Err(ControlError::Refused(why)),
        Reply::Status(_) | Reply::SteppedDown(_) | Reply::Backup(_) => {
            Err(ControlError::Other(whom.to_owned()))
        }
    }
}

/// Where the active one is asked: it may be another process of this machine than the one found.
/// Where it runs elsewhere, `command` is to be given there.
///
/// # Errors
/// [`ControlError::Refused`], which says where it runs.
pub fn active_socket(found: &Found, command: Option<&str>) -> Result<PathBuf, ControlError> {
    let Some(own) = found.status.members.first().map(|known| &known.news) else {
        return Ok(found.socket.clone());
    };
    let named = own.active.as_ref();
    let (id, host, control) = match (found.status.active(), named) {
        (Some(active), _) if active.server_id == own.server_id => return Ok(found.socket.clone()),
        (Some(active), _) => (&active.server_id, &active.host, &active.control),
        (None, Some(active)) => (&active.server_id, &active.host, &active.control),
        // It says itself why it cannot.
        (None, None) => return Ok(found.socket.clone()),
    };
    match control {
        Some(control) if *host == own.host => Ok(PathBuf::from(control)),
        Some(control) => {
            let command = command.unwrap_or("the same");
            let text = format!("{id} is active, on {host}: there, {command} --socket {control}");
            Err(ControlError::Refused(text))
        }
        None => Err(ControlError::Refused(format!(
            "{id} is active, on {host}, and has no control socket"
        ))),
    }
}

/// Asks the server at `socket` about a backup.
///
/// # Errors
/// [`ControlError`].
pub fn backup(socket: &Path, request: Request) -> Result<BackupStatus, ControlError> {
    match control_protocol::ask(socket, request, STATUS_WITHIN).map_err(named)? {
        Reply::Backup(status) => Ok(*status),
        Reply::Refused(why) | Reply::Elsewhere(why) => Err(ControlError::Refused(why)),
        Reply::Status(_) | Reply::SteppedDown(_) | Reply::Administered(_) => {
            Err(ControlError::Other(socket.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::membership::{Known, KnownActive, MemberNews};

    fn standby(active: Option<KnownActive>) -> Found {
        let news = MemberNews {
            server_id: "own".to_owned(),
            host: "here".to_owned(),
            active,
            ..MemberNews::default()
        };
        let members = vec![Known { news, silent_ms: 0 }];
        let status = GroupStatus { members, ..GroupStatus::default() };
        Found { socket: PathBuf::from("/own.sock"), status }
    }

    fn active(host: &str, control: Option<&str>) -> Option<KnownActive> {
        let (host, control) = (host.to_owned(), control.map(str::to_owned));
        Some(KnownActive { server_id: "a".to_owned(), host, control, ..KnownActive::default() })
    }

    #[test]
    fn the_active_one_is_asked_where_it_is() {
        let socket = |active| {
            active_socket(&standby(active), Some("stanby step-down"))
                .map_err(|error| error.to_string())
        };
        assert_eq!(socket(active("here", Some("/a.sock"))), Ok(PathBuf::from("/a.sock")));
        assert_eq!(socket(None), Ok(PathBuf::from("/own.sock")));
        let elsewhere = socket(active("there", Some("/a.sock"))).expect_err("not from here");
        assert_eq!(elsewhere, "a is active, on there: there, stanby step-down --socket /a.sock");
        assert!(socket(active("here", None)).is_err());
    }
}
