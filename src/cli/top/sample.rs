//! What the pages of a server say, as far as it is shown. Fields that a page lacks are 0 or empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::time::Instant;
use crate::server::control_protocol::GroupStatus;

/// All that was seen at one look.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When.
    pub at: Instant,
    pub core: Core,
    pub server: Server,
    /// By name.
    pub channels: BTreeMap<String, Channel>,
    /// How many there are, if not all were asked for.
    pub channel_total: usize,
    /// Of a group of stanby servers.
    pub group: Option<GroupStatus>,
}

/// `/varz`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Core {
    pub version: String,
    pub uptime: String,
    /// Bytes.
    pub mem: u64,
    /// Of one core.
    pub cpu: f64,
    pub connections: u64,
    pub routes: u64,
    pub in_msgs: u64,
    pub out_msgs: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub slow_consumers: u64,
}

/// `/streaming/serverz`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Server {
    pub cluster_id: String,
    pub server_id: String,
    pub version: String,
    pub state: String,
    pub uptime: String,
    pub clients: u64,
    pub subscriptions: u64,
    pub channels: u64,
    pub total_msgs: u64,
    pub total_bytes: u64,
    pub in_msgs: u64,
    pub in_bytes: u64,
    pub out_msgs: u64,
    pub out_bytes: u64,
}

/// A channel of `/streaming/channelsz?subs=1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Channel {
    pub name: String,
    pub msgs: u64,
    pub bytes: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    pub subscriptions: Vec<Subscription>,
}

/// One of its subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Subscription {
    pub client_id: String,
    pub inbox: String,
    pub durable_name: String,
    pub queue_name: String,
    pub is_durable: bool,
    pub is_offline: bool,
    pub max_inflight: u64,
    pub ack_wait: u64,
    pub last_sent: u64,
    pub pending_count: u64,
    pub is_stalled: bool,
}

/// A page of channels.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Page {
    pub total: usize,
    pub channels: Vec<Channel>,
}

impl Channel {
    pub fn pending(&self) -> u64 {
        self.subscriptions.iter().map(|found| found.pending_count).sum()
    }

    pub fn stalled(&self) -> usize {
        self.subscriptions.iter().filter(|found| found.is_stalled).count()
    }

    /// How far the last of its subscriptions is behind.
    pub fn lag(&self) -> u64 {
        self.subscriptions.iter().map(|found| found.lag(self)).max().unwrap_or(0)
    }
}

impl Subscription {
    /// Messages that it was not sent yet.
    pub fn lag(&self, channel: &Channel) -> u64 {
        channel.last_seq.saturating_sub(self.last_sent.max(channel.first_seq.saturating_sub(1)))
    }

    /// Its durable or its queue group.
    pub fn label(&self) -> String {
        match (self.queue_name.as_str(), self.durable_name.as_str()) {
            ("", "") => "-".to_owned(),
            ("", durable) => format!("durable {durable}"),
            (queue, _) => format!("queue {queue}"),
        }
    }
}
