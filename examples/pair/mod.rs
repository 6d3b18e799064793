//! A pair of servers as processes, a load for it, and a ledger of what clients were told.
//!
//! For examples and tests that do to a pair what no scenario of `stanby drill` can say: which file
//! a member sees, what it is measured beside, who spoke last.

#![allow(dead_code, reason = "the examples and tests that share it use different parts")]

pub mod database;
pub mod ledger;
pub mod load;
pub mod pair;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use stanby::base::world;
use stanby::client::ClientError;

use self::ledger::Kill;
use self::load::Notes;
use self::pair::Pair;

/// How long the first ack after a kill may take.
const FIRST_ACK_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between two looks at a condition.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// What a drill does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub binary: PathBuf,
    /// Passed on to the servers.
    pub loops: Option<u16>,
    /// The program of the external NATS server that clients and members connect to; `None` = the
    /// members are NATS servers themselves.
    pub external: Option<PathBuf>,
    /// Channels that are published to in turn.
    pub channels: usize,
    /// Durable subscribers, each on every channel.
    pub durables: usize,
    /// Members of one durable queue group on every channel.
    pub queue_members: usize,
    /// Time between two messages.
    pub publish_every: Duration,
    /// More flags for the servers.
    pub server_args: Vec<String>,
    /// Whether the servers are one NATS cluster.
    pub has_routes: bool,
}

impl Plan {
    /// One channel, one durable, a message every 5 ms.
    pub fn new(binary: PathBuf) -> Self {
        Self {
            binary,
            loops: None,
            external: None,
            channels: 1,
            durables: 1,
            queue_members: 0,
            publish_every: Duration::from_millis(5),
            server_args: Vec::new(),
            has_routes: true,
        }
    }
}

/// Why a drill could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DrillError(pub String);

impl DrillError {
    /// An error that is nobody's but ours.
    pub fn said(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// What was being done when the system refused.
    pub fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self(format!("{action}: {error}"))
    }
}

/// The server of the same build as this example: `target/<profile>/stanby`.
pub fn own_server() -> Result<PathBuf, DrillError> {
    let own = std::env::current_exe().map_err(DrillError::io("where am I"))?;
    let folder = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let server = folder.join("stanby");
    match server.exists() {
        true => Ok(server),
        false => {
            let profile = folder.file_name().unwrap_or_default().to_string_lossy();
            let profile = if profile == "debug" { "dev".into() } else { profile };
            Err(DrillError(format!(
                "{} does not exist: run `cargo build --profile {profile} --bins --examples`, or \
                 name a server by --bin",
                server.display(),
            )))
        }
    }
}

impl From<ClientError> for DrillError {
    fn from(error: ClientError) -> Self {
        Self(format!("client: {error}"))
    }
}

/// Waits until the servers have worked for a while: from now on, `count` acks.
pub fn wait_for_acks(notes: &Notes, count: u64) -> Result<(), DrillError> {
    let before = notes.ledger().ack_count;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let found = || notes.ledger().ack_count - before;
    if wait_until(FIRST_ACK_TIMEOUT, || found() >= count) {
        return Ok(());
    }
    Err(DrillError(format!("only {} of {count} acks in {FIRST_ACK_TIMEOUT:?}", found())))
}

/// Kills the active and waits for the first ack of a message published after that.
pub fn fail_over(pair: &mut Pair, active: usize, notes: &Notes) -> Result<(), DrillError> {
    pair.kill(active)?;
    notes.ledger().kills.push(Kill { at: world::instant(), first_ack: None });
    let is_over = || notes.ledger().kills.last().is_some_and(|kill| kill.first_ack.is_some());
    if wait_until(FIRST_ACK_TIMEOUT, is_over) {
        return Ok(());
    }
    Err(DrillError(format!("no ack in {FIRST_ACK_TIMEOUT:?} after the active was killed")))
}

/// Looks until `is_done`, at most `timeout`; whether it is.
pub fn wait_until(timeout: Duration, mut is_done: impl FnMut() -> bool) -> bool {
    let deadline = world::instant() + timeout;
    loop {
        if is_done() {
            return true;
        }
        if world::instant() >= deadline {
            return false;
        }
        thread::park_timeout(LOOK_PAUSE);
    }
}
