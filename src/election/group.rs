//! heartbeats of the fault-tolerance group: when the active sends one, what one means that is heard
//!
//! Facts: spec fault tolerance, section 4. Anybody can send any number of heartbeats. One of
//! another server never ends this process; it makes the keeper check lease and epoch soon. A
//! standby believes none but of the member that the holder record names.

use std::time::Duration;

use bytes::Bytes;

use crate::base::id::Subject;
use crate::base::random::Random;
use crate::base::time::{Instant, WallTime};
use crate::election::heartbeat::{self, Heartbeat};

/// Time between two heartbeats, before the random part.
const INTERVAL: Duration = Duration::from_secs(1);

/// The random part is below a tenth in both directions.
const SPREAD_PERCENT: u64 = 10;

/// A line on another server's claim is followed by silence, which doubles each time (spec fault
/// tolerance, 4.5).
const CLAIM_PAUSE_MIN: Duration = Duration::from_secs(1);
const CLAIM_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The heartbeats of one server in one group.
#[derive(Debug)]
pub struct Group {
    subject: Subject,
    server_id: String,
    interval: Duration,
    next_at: Option<Instant>,
    payload: Bytes,
    /// Whom the holder record names; `None` behind a Go server, which has none.
    holder: Option<String>,
    /// When the next claim of another server is worth a line, and how long it is quiet after that.
    claim_logged_from: Instant,
    claim_pause: Duration,
}

/// What a heartbeat means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing: our own, none at all, or of somebody whom nothing else tells us of.
    Nothing,
    /// To a standby: the active can be reached from here.
    ActiveIsReachable,
    /// To an active: another server says that it is active too.
    OtherClaims {
        /// Its server ID, as text.
        who: String,
        /// Whether it is time for a line in the log.
        is_news: bool,
    },
}

impl Group {
    /// The group `name` of the cluster `cluster_id`, with an interval drawn once for the process.
    #[must_use]
    pub fn new(cluster_id: &str, name: &str, server_id: &str, random: &mut Random) -> Self {
        let percent = 100 - SPREAD_PERCENT + random.below(2 * SPREAD_PERCENT + 1);
        let interval = INTERVAL * u32::try_from(percent).expect("at most 110") / 100;
        Self {
            subject: heartbeat::subject(cluster_id, name),
            server_id: server_id.to_owned(),
            interval,
            next_at: None,
            payload: Bytes::new(),
            holder: None,
            claim_logged_from: Instant::default(),
            claim_pause: CLAIM_PAUSE_MIN,
        }
    }

    /// Where heartbeats travel.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// This server is active since `activated_at`: the first heartbeat is due at once.
    pub fn on_active(&mut self, activated_at: WallTime, now: Instant) {
        self.payload = heartbeat::encode_heartbeat(&Heartbeat {
            server_id: Bytes::from(self.server_id.clone()),
            active_since: activated_at,
        });
        self.next_at = Some(now);
    }

    /// This server is no longer active.
    pub fn on_inactive(&mut self) {
        self.next_at = None;
    }

    /// When [`Group::due`] has something to send.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next_at
    }

    /// The heartbeat that is due at `now`.
    pub fn due(&mut self, now: Instant) -> Option<Bytes> {
        if now < self.next_at? {
            return None;
        }
        self.next_at = Some(now + self.interval);
        Some(self.payload.clone())
    }

    /// Another member is active, as the lease shows; `None` if it does not show whom. True if that
    /// is another one than before.
    pub fn set_holder(&mut self, holder: Option<&str>) -> bool {
        let holder = holder.filter(|id| !id.is_empty()).map(str::to_owned);
        let is_new = self.holder != holder;
        self.holder = holder;
        is_new
    }

    /// What came on the group's subject.
    pub fn hear(&mut self, payload: &[u8], is_active: bool, now: Instant) -> Meaning {
        let Ok(Heartbeat { server_id: sender, .. }) = heartbeat::decode_heartbeat(payload) else {
            return Meaning::Nothing;
        };
        if sender == self.server_id {
            return Meaning::Nothing;
        }
        if !is_active {
            let is_known = self.holder.as_ref().is_none_or(|holder| sender == *holder);
            return if is_known { Meaning::ActiveIsReachable } else { Meaning::Nothing };
        }
        let is_news = self.claim_logged_from <= now;
        if is_news {
            // After a long silence it is news again.
            if self.claim_logged_from + CLAIM_PAUSE_MAX <= now {
                self.claim_pause = CLAIM_PAUSE_MIN;
            }
            self.claim_logged_from = now + self.claim_pause;
            self.claim_pause = (self.claim_pause * 2).min(CLAIM_PAUSE_MAX);
        }
        Meaning::OtherClaims { who: String::from_utf8_lossy(&sender).into_owned(), is_news }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group::new("cluster", "group", "own", &mut Random::new(1))
    }

    fn from(server_id: &'static str) -> Bytes {
        let server_id = Bytes::from_static(server_id.as_bytes());
        heartbeat::encode_heartbeat(&Heartbeat { server_id, active_since: WallTime(1) })
    }

    #[test]
    fn a_standby_believes_none_but_the_holder_of_the_lease() {
        let mut group = group();
        group.set_holder(Some("active"));
        let now = Instant(1);
        assert_eq!(group.hear(&from("forged"), false, now), Meaning::Nothing);
        assert_eq!(group.hear(&from("own"), false, now), Meaning::Nothing);
        assert_eq!(group.hear(b"no heartbeat", false, now), Meaning::Nothing);
        assert_eq!(group.hear(&from("active"), false, now), Meaning::ActiveIsReachable);
        group.set_holder(None);
        let of_a_go_server = group.hear(&from("unknown"), false, now);
        assert_eq!(of_a_go_server, Meaning::ActiveIsReachable, "there is nobody else to believe");
    }

    #[test]
    fn claims_of_others_fill_no_log() {
        let mut group = group();
        let mut news = 0;
        for millis in 0..600_000 {
            let now = Instant(millis * 1_000_000);
            match group.hear(&from("forged"), true, now) {
                Meaning::OtherClaims { is_news, .. } => news += u32::from(is_news),
                Meaning::Nothing | Meaning::ActiveIsReachable => panic!("no claim"),
            }
        }
        assert!((7..=17).contains(&news), "{news} lines in ten minutes");
    }
}
