//! heartbeats of the fault-tolerance group: when the active sends one, what one means that is heard
//!
//! Facts: spec fault tolerance, section 4. A heartbeat of another server never ends this process
//! (anybody can forge one); it makes the keeper check lease and epoch at once.

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

/// The heartbeats of one server in one group.
#[derive(Debug)]
pub struct Group {
    subject: Subject,
    server_id: String,
    interval: Duration,
    next_at: Option<Instant>,
    payload: Bytes,
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

    /// The id of the other server that sent `payload`, if it is a heartbeat of another.
    #[must_use]
    pub fn other_sender(&self, payload: &[u8]) -> Option<String> {
        let sender = heartbeat::decode_heartbeat(payload).ok()?.server_id;
        (sender != self.server_id).then(|| String::from_utf8_lossy(&sender).into_owned())
    }
}
