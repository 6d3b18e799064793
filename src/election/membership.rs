//! what members of a group tell each other of themselves, and what each knows of the others
//!
//! Beside the heartbeat, which Go servers understand too, a member publishes [`MemberNews`] as JSON
//! on a subject of our own. Anybody can forge one: it is shown to people, and says whom a member
//! that steps down may hope for. Who is active, the store alone says.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::epoch::{Epoch, Predecessor};
use crate::base::id::Subject;
use crate::base::time::{Instant, WallTime};
use crate::election::Role;

/// Longest news that is read; ours are below 4 KiB.
const NEWS_BYTES_MAX: usize = 16 * 1024;

/// Members that are remembered. A forger can crowd out the rest only with as many fresh ones.
const MEMBERS_MAX: usize = 64;

/// How long one's word is good: three of them may be lost.
const FRESH: Duration = Duration::from_secs(4);

/// How long a member that is silent is still shown.
const REMEMBERED: Duration = Duration::from_secs(120);

/// Take-overs of its own that a member tells of.
pub const TAKE_OVERS_MAX: usize = 8;

/// Where members of the group `name` of the cluster `cluster_id` tell of themselves.
#[must_use]
pub fn subject(cluster_id: &str, name: &str) -> Subject {
    Subject::from(format!("_STAN.ft.{cluster_id}.{name}.members"))
}

/// What a member is, as people read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Waits for the lease.
    #[default]
    Standby,
    /// Has the lease, and does not serve yet.
    TakingOver,
    /// Serves.
    Active,
    /// Serves no more; something of its term still runs.
    Leaving,
    /// Its process ends: the last word.
    Gone,
    /// It has said nothing for a while: what it is nobody knows.
    Silent,
    /// A later release says something else.
    #[serde(other)]
    Unknown,
}

impl Standing {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::TakingOver => "taking over",
            Self::Active => "active",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Role> for Standing {
    fn from(role: Role) -> Self {
        match role {
            Role::Standby | Role::Ended => Self::Standby,
            Role::Recovering { .. }
            | Role::Probing { .. }
            | Role::Opening { .. }
            | Role::Settling { .. } => Self::TakingOver,
            Role::Active { .. } => Self::Active,
            Role::Draining { .. } | Role::Leaving { .. } => Self::Leaving,
        }
    }
}

/// Whom a member knows to be active.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownActive {
    /// Its server ID.
    pub server_id: String,
    /// On which machine.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Its epoch.
    pub epoch: u64,
    /// Its control socket.
    pub control: Option<String>,
}

/// A take-over by the member that tells of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TakeOver {
    /// The epoch that began with it.
    pub epoch: u64,
    /// When clients were served, Unix nanoseconds of that machine.
    pub at: i64,
    /// From the lease to that moment, milliseconds.
    pub millis: f64,
    /// How the active before left, as far as the store tells.
    pub after: String,
}

impl TakeOver {
    /// Under `epoch`, `took` after the lease was won.
    #[must_use]
    pub fn new(epoch: Epoch, at: WallTime, took: Duration, predecessor: Predecessor) -> Self {
        let after = match predecessor {
            Predecessor::Clean => "it had let go with everything synced, or there was none",
            Predecessor::Gone => "it died, or was a Go server",
            Predecessor::Replaced => "it hung, and was replaced",
        };
        let millis = (took.as_secs_f64() * 1_000_000.0).round() / 1_000.0;
        Self { epoch: epoch.0, at: at.0, millis, after: after.to_owned() }
    }
}

/// What a member tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberNews {
    /// Its server ID: another one for each start.
    pub server_id: String,
    /// Its name, if one was configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// On which machine.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Its release.
    pub release: String,
    /// What it is.
    pub role: Standing,
    /// Since when, Unix nanoseconds of that machine.
    pub since: i64,
    /// Its epoch, while it has one.
    pub epoch: Option<u64>,
    /// Why clients may not be sent there, or why it would not take over.
    pub trouble: Option<String>,
    /// On a standby: whose lease it waits for; `None` also where that is a Go server.
    pub active: Option<KnownActive>,
    /// On a standby: what it waits for, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Routes to other servers.
    pub routes: u64,
    /// The control socket on its machine.
    pub control: Option<String>,
    /// Where its monitoring pages are.
    pub monitoring: Option<String>,
    /// The last of its own, oldest first.
    pub take_overs: Vec<TakeOver>,
}

impl MemberNews {
    /// As it is published.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("texts and numbers are always JSON"))
    }

    /// What bytes say that anybody can have sent; `None` if that is nothing.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        if NEWS_BYTES_MAX < payload.len() {
            return None;
        }
        let news: Self = serde_json::from_slice(payload).ok()?;
        (!news.server_id.is_empty()).then_some(news)
    }
}

/// A member as another one knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// What it said last.
    #[serde(flatten)]
    pub news: MemberNews,
    /// How long ago that was, in milliseconds; 0 of itself.
    pub silent_ms: u64,
}

impl Known {
    /// Whether it has said lately that it would take over, or serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        u128::from(self.silent_ms) < FRESH.as_millis() && self.news.trouble.is_none()
    }
}

/// What a member knows of the others.
#[derive(Debug, Default)]
pub struct Membership {
    members: BTreeMap<String, (MemberNews, Instant)>,
}

impl Membership {
    /// Somebody says something of itself; `own` is this member's server ID. What it says that it
    /// is; `None`: nothing, or there is no room for it.
    pub fn hear(&mut self, payload: &[u8], own: &str, now: Instant) -> Option<Standing> {
        let news = MemberNews::decode(payload).filter(|news| news.server_id != own)?;
        self.members.retain(|_, (_, heard_at)| now.since(*heard_at) < REMEMBERED);
        // A member that was started anew takes the place of what it was before.
        let is_same = |old: &MemberNews| {
            old.host == news.host && old.monitoring.is_some() && old.monitoring == news.monitoring
        };
        self.members.retain(|_, (old, heard_at)| now.since(*heard_at) < FRESH || !is_same(old));
        if self.members.len() == MEMBERS_MAX && !self.members.contains_key(&news.server_id) {
            let oldest = self.members.iter().min_by_key(|(_, (_, heard_at))| *heard_at);
            match oldest.map(|(id, (_, heard_at))| (id.clone(), *heard_at)) {
                Some((id, heard_at)) if FRESH <= now.since(heard_at) => {
                    drop(self.members.remove(&id))
                }
                Some(_) | None => return None,
            }
        }
        let standing = news.role;
        if standing == Standing::Gone {
            self.members.remove(&news.server_id);
            return Some(standing);
        }
        self.members.insert(news.server_id.clone(), (news, now));
        Some(standing)
    }

    /// All of them, with how long they have been silent.
    pub fn known(&self, now: Instant) -> impl Iterator<Item = Known> {
        let shown = self.members.values().map(move |(news, heard_at)| (news, now.since(*heard_at)));
        shown.filter(|(_, silent)| *silent < REMEMBERED).map(|(news, silent)| Known {
            news: MemberNews {
                role: if silent < FRESH { news.role } else { Standing::Silent },
                ..news.clone()
            },
            silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// A standby that would take over at once.
    ///
    /// # Errors
    /// Why there is none, for a person.
    pub fn successor(&self, now: Instant) -> Result<&MemberNews, String> {
        let heard = self.members.values();
        let fresh =
            heard.filter(|(_, heard_at)| now.since(*heard_at) < FRESH).map(|(news, _)| news);
        let standbys: Vec<_> = fresh.filter(|news| news.role == Standing::Standby).collect();
        if let Some(ready) = standbys.iter().find(|news| news.trouble.is_none()) {
            return Ok(ready);
        }
        let Some(news) = standbys.first() else {
            return Err("no other member of the group is heard that stands by".to_owned());
        };
        let trouble = news.trouble.as_deref().unwrap_or_default();
        Err(format!(
            "the standby {} (process {} on {}) is not ready: {trouble}; if a role has changed within \
             the last seconds, ask again",
            news.server_id, news.pid, news.host
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby(id: &str) -> MemberNews {
        MemberNews { server_id: id.to_owned(), host: "h".to_owned(), ..MemberNews::default() }
    }

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_told_is_what_is_heard() {
        let news = MemberNews {
            role: Standing::Active,
            epoch: Some(7),
            since: 1_700_000_000_000_000_000,
            take_overs: vec![TakeOver::new(
                Epoch(7),
                WallTime(5),
                Duration::from_micros(12_500),
                Predecessor::Gone,
            )],
            ..standby("a")
        };
        assert_eq!(MemberNews::decode(&news.encode()), Some(news));
    }

    #[test]
    fn a_later_release_may_say_more() {
        let later = br#"{"server_id":"a","role":"dancing","shoes":{"size":[42]}}"#;
        let news = MemberNews::decode(later).expect("the rest is understood");
        assert_eq!((news.role, news.server_id.as_str()), (Standing::Unknown, "a"));
    }

    #[test]
    fn who_would_take_over_is_heard_lately_and_ready() {
        let mut members = Membership::default();
        assert!(members.successor(at(0)).is_err());
        let stuck = MemberNews { trouble: Some("no lock".to_owned()), ..standby("a") };
        members.hear(&stuck.encode(), "own", at(0));
        let why = members.successor(at(0)).expect_err("it is not ready");
        assert!(why.contains("a (process 0 on h) is not ready: no lock; if a role"), "{why}");
        members.hear(&standby("b").encode(), "own", at(1));
        assert_eq!(members.successor(at(2)).map(|news| news.server_id.clone()), Ok("b".to_owned()));
        assert!(members.successor(at(9)).is_err(), "it has been silent for too long");
        members.hear(&standby("own").encode(), "own", at(9));
        assert!(members.successor(at(9)).is_err(), "that is this member itself");
    }

    #[test]
    fn who_is_silent_is_no_active_and_gives_way_to_what_it_became() {
        let mut members = Membership::default();
        let of = |id: &str, role| MemberNews {
            role,
            monitoring: Some("http://h:8222".to_owned()),
            ..standby(id)
        };
        members.hear(&of("before", Standing::Active).encode(), "own", at(0));
        let roles = |members: &Membership, seconds| {
            members.known(at(seconds)).map(|known| known.news.role).collect::<Vec<_>>()
        };
        assert_eq!(roles(&members, 1), [Standing::Active]);
        assert_eq!(roles(&members, 9), [Standing::Silent]);
        members.hear(&of("after", Standing::Standby).encode(), "own", at(9));
        assert_eq!(roles(&members, 9), [Standing::Standby]);
    }

    #[test]
    fn who_says_goodbye_is_forgotten() {
        let mut members = Membership::default();
        members.hear(&standby("a").encode(), "own", at(0));
        let last = MemberNews { role: Standing::Gone, ..standby("a") };
        assert_eq!(members.hear(&last.encode(), "own", at(1)), Some(Standing::Gone));
        assert_eq!(members.known(at(1)).count(), 0);
    }

    #[test]
    fn nonsense_is_nobody() {
        let mut members = Membership::default();
        let long = format!(r#"{{"server_id":"a","host":"{}"}}"#, "x".repeat(NEWS_BYTES_MAX));
        for payload in [&b""[..], b"{}", b"[]", b"\xff\xfe", br#"{"server_id":7}"#, long.as_bytes()]
        {
            members.hear(payload, "own", at(0));
        }
        assert_eq!(members.known(at(0)).count(), 0);
    }

    #[test]
    fn forgers_fill_no_memory_and_push_nobody_out() {
        let mut members = Membership::default();
        members.hear(&standby("real").encode(), "own", at(0));
        for n in 0..10_000 {
            members.hear(&standby(&format!("forged{n}")).encode(), "own", at(1));
        }
        assert_eq!(members.known(at(1)).count(), MEMBERS_MAX);
        assert!(members.known(at(1)).any(|known| known.news.server_id == "real"));
        assert_eq!(members.known(at(2_000)).count(), 0);
    }
}
