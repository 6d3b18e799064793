//! What the pages are made of, as the server hands it over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::channel_limits::{ChannelLimits, ChannelOverrides, ResolvedLimits};
use crate::base::epoch::LeaseClock;
use crate::base::id::ChannelName;
use crate::base::meters::Meters;
use crate::base::pulse::Vitals;
use crate::base::record::{FetchRequest, MessageRecord};
use crate::base::time::{Instant, WallTime};
use crate::broker::snapshot::{self as broker, ServerSnapshot};
use crate::engine::snapshot::{self as engine, Snapshot};

/// Asks the reactors for a snapshot with what is wanted in it. It may wait a bounded time for their
/// answers (2 s for each portion, 10 s for all): it is never called on the thread that answers
/// health checks.
pub type Ask<W, T> = Box<dyn Fn(W) -> Result<T, Unavailable> + Send + Sync>;

/// Why there is no snapshot, in words that complete "no answer: …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Everything that the pages show.
pub struct Sources {
    /// Who is active, and whether this process is ready.
    pub status: Arc<Published<Status>>,
    /// Until when this process may answer; confirms that an active one really serves.
    pub lease: LeaseClock,
    /// Whether loops and stores get on.
    pub vitals: Vitals,
    /// What was configured, replaced by a reload.
    pub core: Arc<Published<CoreFacts>>,
    /// What is known of the streaming server; `None` in a core server: its pages are absent.
    pub streaming: Option<Streaming>,
    /// The brokers of all loops, merged.
    pub broker: Ask<broker::Wanted, ServerSnapshot>,
    /// What is counted while the stores work.
    pub meters: Meters,
    /// What this process is in its group.
    pub group: Arc<Published<GroupFacts>>,
    /// Where the data lies, if that is a directory.
    pub directory: Option<PathBuf>,
    /// Who may see messages; replaced by a reload.
    pub viewer: Arc<Published<Option<Check>>>,
}

/// Whether these are the user and the password of whoever may see messages. It may take as long as
/// a hash does.
pub type Check = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// What a process is in its group, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// As configured.
    pub cluster_id: String,
    /// The group's name; empty: it stands alone.
    pub name: String,
    /// In words.
    pub role: &'static str,
    /// While it has one.
    pub epoch: Option<u64>,
    /// By this process.
    pub take_overs: u64,
    /// How long the last one took.
    pub last_take_over: Option<Duration>,
    /// Other members that stand by and are ready.
    pub ready_standbys: u64,
    /// On a standby: since when nothing of the active was heard; `None` if nothing ever was.
    pub active_silent_for: Option<Duration>,
    /// The whole group as `stanby status` has it, and when that was.
    pub status: serde_json::Value,
    /// See `status`.
    pub told_at: Option<Instant>,
}

/// The streaming half of [`Sources`].
pub struct Streaming {
    /// Configured, and since activation resolved.
    pub facts: Arc<Published<StreamingFacts>>,
    /// The engines of all loops, merged; empty on a standby.
    pub engine: Ask<engine::Wanted, Snapshot>,
    /// Messages of a channel, read by the store's own thread between its commits.
    pub messages: Ask<FetchRequest, Vec<MessageRecord>>,
    /// What local time is ahead of UTC at a moment, in seconds.
    pub utc_offset: fn(WallTime) -> i64,
}

/// A value that one thread replaces and others read without waiting.
#[derive(Debug, Default)]
pub struct Published<T>(Mutex<Arc<T>>);

impl<T> Published<T> {
    /// Publishes the first value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Mutex::new(Arc::new(value)))
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        let value = Arc::new(value);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// The value of now. The lock is held for a copy of a pointer only.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The state of the process as `serverz` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not in a group.
    #[default]
    Standalone,
    /// The active of a group.
    FtActive,
    /// A standby of a group; one that is activating too.
    FtStandby,
    /// It ended by itself.
    Failed,
    /// It is stopping.
    Shutdown,
}

impl State {
    /// As tools read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Standalone => "STANDALONE",
            Self::FtActive => "FT_ACTIVE",
            Self::FtStandby => "FT_STANDBY",
            Self::Failed => "FAILED",
            Self::Shutdown => "SHUTDOWN",
        }
    }
}

/// Who is active, and whether this process is ready; small, read by every health check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// See [`State`].
    pub state: State,
    /// Active, recovered, subscribed: clients are served while the lease is valid.
    pub is_serving: bool,
    /// Standby: it waits for the lock right now.
    pub watches_lock: bool,
    /// Standby: there is a route to the active, so clients of this process are served through it.
    pub has_route_to_active: bool,
    /// Why it is not ready, where the rest does not say it (`disk full`, `recovering, 40 %`).
    pub trouble: Option<String>,
    /// It stays until a person acts, and no other process of this machine would fare better.
    pub trouble_lasts: bool,
    /// Active: another server of the group is too, with another store; what to do about it.
    pub rival: Option<String>,
    /// The external NATS server that it runs over is not there: nobody reaches it.
    pub is_cut_off: bool,
    /// That one does not let it listen to something that it has to hear.
    pub is_refused: bool,
    /// Listeners that are not open, as `/healthz` names them (`server`, `route`).
    pub closed_listeners: Vec<&'static str>,
}

impl Status {
    /// Whether the process can be of use at all as things are.
    ///
    /// # Errors
    /// The reason why not, for a person.
    pub fn check_live(&self) -> Result<(), String> {
        match &self.trouble {
            Some(trouble) if self.trouble_lasts => Err(trouble.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether clients are served by this process, and by no other, and all of it gets on.
    ///
    /// # Errors
    /// The reason why not, for a person.
    pub fn check_active(
        &self,
        lease: &LeaseClock,
        vitals: &Vitals,
        now: Instant,
    ) -> Result<(), String> {
        vitals.check(now)?;
        match self.state {
            State::FtStandby => Err(self.or_trouble("standby")),
            State::Failed => Err(self.or_trouble("failed")),
            State::Shutdown => Err(self.or_trouble("shutting down")),
            State::Standalone | State::FtActive if !self.is_serving => {
                Err(self.or_trouble("the streaming server is not started yet"))
            }
            State::Standalone | State::FtActive if !lease.is_valid(now) => {
                Err(self.or_trouble("the lease is not confirmed"))
            }
            State::Standalone | State::FtActive if self.is_cut_off => Err(CUT_OFF.to_owned()),
            State::Standalone | State::FtActive if self.is_refused => Err(REFUSED.to_owned()),
            State::Standalone | State::FtActive => self.rival.clone().map_or(Ok(()), Err),
        }
    }

    /// Whether clients may be sent here: an active that serves, or a standby that would take over,
    /// of which all gets on.
    ///
    /// # Errors
    /// The reason why not, for a person.
    pub fn check_ready(
        &self,
        lease: &LeaseClock,
        vitals: &Vitals,
        now: Instant,
    ) -> Result<(), String> {
        if self.state != State::FtStandby {
            return self.check_active(lease, vitals, now);
        }
        vitals.check(now)?;
        match (&self.trouble, self.watches_lock, self.has_route_to_active) {
            (Some(trouble), _, _) => Err(trouble.clone()),
            (None, _, _) if self.is_cut_off => Err(CUT_OFF.to_owned()),
            (None, _, _) if self.is_refused => Err(REFUSED.to_owned()),
            (None, false, _) => Err("standby, but it does not watch the lock".to_owned()),
            (None, true, false) => Err(NOT_HEARD.to_owned()),
            (None, true, true) => Ok(()),
        }
    }

    fn or_trouble(&self, reason: &str) -> String {
        self.trouble.clone().unwrap_or_else(|| reason.to_owned())
    }
}

/// Whoever runs over a NATS server elsewhere serves nobody without it.
const CUT_OFF: &str = "the external NATS server is away";

/// The log names what.
const REFUSED: &str =
    "the external NATS server does not let this user listen to all that it has to";

/// A standby is of no use where nobody hears it; both causes look the same from here.
const NOT_HEARD: &str =
    "standby, but it hears no heartbeat of the active: no route to it, or another -ft_group";

/// What the core server was told, and what it found out when it started.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "they are shown one by one")]
pub struct CoreFacts {
    /// As in INFO.
    pub server_id: String,
    /// As in INFO: the id if none was configured.
    pub server_name: String,
    /// Empty if none was configured.
    pub configured_name: String,
    /// As in INFO.
    pub version: String,
    /// As in INFO; left out if empty.
    pub git_commit: String,
    /// As in INFO.
    pub go: String,
    /// What clients connect to.
    pub host: String,
    /// The real port, or the advertised one.
    pub port: u16,
    /// As configured; left out if there are none.
    pub tags: Vec<String>,
    /// Whether clients have to prove who they are.
    pub auth_required: bool,
    /// Whether clients have to use TLS.
    pub tls_required: bool,
    /// Whether clients have to show a certificate.
    pub tls_verify: bool,
    /// As in INFO; left out if empty.
    pub ip: String,
    /// 0 = no limit.
    pub connections_max: u64,
    /// Interests of a connection; 0 = no limit, left out.
    pub interests_max: u64,
    /// Between pings.
    pub ping_interval: Duration,
    /// Unanswered pings.
    pub pings_max: u32,
    /// Of the monitoring pages.
    pub http_host: String,
    /// The real port; 0 if there is none.
    pub http_port: u16,
    /// As configured.
    pub http_base_path: String,
    /// The real port; 0 if there is none.
    pub https_port: u16,
    /// How long a client has to authenticate.
    pub auth_timeout: Duration,
    /// Bytes of a protocol line.
    pub control_line_bytes_max: usize,
    /// Bytes of a message.
    pub payload_bytes_max: usize,
    /// Bytes that may wait for a client.
    pub pending_bytes_max: usize,
    /// The cluster, if there is one.
    pub cluster: Option<ClusterFacts>,
    /// How long a TLS handshake may take.
    pub tls_timeout: Duration,
    /// How long a write may stand still.
    pub write_deadline: Duration,
    /// Whether pages name the system account.
    pub has_system_account: bool,
}

/// The cluster part of [`CoreFacts`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterFacts {
    /// Its name.
    pub name: String,
    /// Where routes connect to; empty if nowhere.
    pub host: String,
    /// The real port.
    pub port: u16,
    /// How long a route has to authenticate.
    pub auth_timeout: Duration,
    /// `host:port` of the configured routes.
    pub urls: Vec<String>,
    /// How long a TLS handshake may take.
    pub tls_timeout: Duration,
    /// Whether routes use TLS.
    pub is_tls: bool,
}

/// What the streaming server was told, and what it found in its store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamingFacts {
    /// Compat: empty until the start has run, and on a standby.
    pub cluster_id: String,
    /// Of this process.
    pub server_id: String,
    /// The reference's version that we are compatible with.
    pub version: String,
    /// As in `/varz`.
    pub go: String,
    /// `MEMORY`, `FILE` or `SQL`.
    pub store: &'static str,
    /// When the process started.
    pub started: WallTime,
    /// 0 = no limit.
    pub channels_max: u64,
    /// For channels that no pattern names.
    pub global: LimitNumbers,
    /// By name or pattern.
    pub per_channel: BTreeMap<String, LimitNumbers>,
    /// What that means for any channel; `None` on a standby.
    pub limits: Option<Arc<ResolvedLimits>>,
    /// Acknowledged messages that the database has lost; `None` where the store is no database.
    pub lost_messages: Option<u64>,
}

impl StreamingFacts {
    /// What a channel may hold.
    #[must_use]
    pub fn limits_of(&self, channel: &ChannelName) -> LimitNumbers {
        self.limits.as_ref().map_or(self.global, |limits| limits.of(channel).into())
    }
}

/// Limits of a channel as numbers; in raw ones 0 = inherit and -1 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the fields are those of the page")]
pub struct LimitNumbers {
    pub max_msgs: i64,
    pub max_bytes: i64,
    pub max_age: i64,
    pub max_subscriptions: i64,
    pub max_inactivity: i64,
}

impl From<ChannelLimits> for LimitNumbers {
    /// Resolved limits: 0 = no limit.
    fn from(limits: ChannelLimits) -> Self {
        Self {
            max_msgs: count(limits.messages_max),
            max_bytes: count(limits.bytes_max),
            max_age: super::format::nanos(limits.age_max),
            max_subscriptions: count(limits.subscriptions_max),
            max_inactivity: super::format::nanos(limits.inactivity_max),
        }
    }
}

impl From<ChannelOverrides> for LimitNumbers {
    /// Limits as configured, on a standby.
    fn from(limits: ChannelOverrides) -> Self {
        let number = |limit: Option<u64>| match limit {
            None => 0,
            Some(0) => -1,
            Some(limit) => count(limit),
        };
        let time = |limit: Option<Duration>| match limit {
            None => 0,
            Some(Duration::ZERO) => -1,
            Some(limit) => super::format::nanos(limit),
        };
        Self {
            max_msgs: number(limits.messages_max),
            max_bytes: number(limits.bytes_max),
            max_age: time(limits.age_max),
            max_subscriptions: number(limits.subscriptions_max),
            max_inactivity: time(limits.inactivity_max),
        }
    }
}

fn count(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(1_000);

    fn ready(status: &Status, lease: &LeaseClock) -> String {
        status
            .check_ready(lease, &Vitals::default(), NOW)
            .map_or_else(|reason| reason, |()| "ready".to_owned())
    }

    #[test]
    fn a_standby_is_ready_when_it_watches_the_lock_and_reaches_the_active() {
        let lease = LeaseClock::default();
        let mut status = Status { state: State::FtStandby, ..Status::default() };
        assert_eq!(ready(&status, &lease), "standby, but it does not watch the lock");
        status.watches_lock = true;
        assert_eq!(ready(&status, &lease), NOT_HEARD);
        status.has_route_to_active = true;
        assert_eq!(ready(&status, &lease), "ready");
        assert_eq!(status.check_active(&lease, &Vitals::default(), NOW), Err("standby".to_owned()));
        status.trouble = Some("no space left on device".to_owned());
        assert_eq!(ready(&status, &lease), "no space left on device");
    }

    #[test]
    fn an_active_is_ready_only_while_its_lease_is_confirmed() {
        let lease = LeaseClock::default();
        let mut status = Status { state: State::FtActive, ..Status::default() };
        assert_eq!(ready(&status, &lease), "the streaming server is not started yet");
        status.is_serving = true;
        assert_eq!(ready(&status, &lease), "the lease is not confirmed");
        lease.confirm(NOW, Duration::from_nanos(1));
        assert_eq!(ready(&status, &lease), "ready");
        status.rival = Some("two stores".to_owned());
        assert_eq!(ready(&status, &lease), "two stores");
        assert_eq!(status.check_live(), Ok(()), "a restart mends nothing");
        status.state = State::Shutdown;
        assert_eq!(ready(&status, &lease), "shutting down");
    }

    #[test]
    fn raw_limits_tell_inherited_from_unlimited() {
        let raw = ChannelOverrides { messages_max: Some(0), ..ChannelOverrides::default() };
        let numbers = LimitNumbers::from(raw);
        assert_eq!((numbers.max_msgs, numbers.max_bytes, numbers.max_age), (-1, 0, 0));
    }
}
