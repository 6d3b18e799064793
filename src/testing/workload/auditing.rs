//! The auditor: a client that reads all that there is, and looks whether a channel is gone that
//! nobody used.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{CHANNELS, Client, Marker, REQUEST_TIMEOUT, Turn};
use crate::base::id::ChannelName;
use crate::proto::pb;
use crate::testing::checker::{Audit, Checker};
use crate::testing::limits::{DEAD_LETTERS, DROPPED};
use crate::testing::parcels::Parcel;

impl Client {
    /// What the auditor found.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Whether it has read each channel up to the message that it put at the end, if it can be.
    #[must_use]
    pub fn has_read_all(&self, checker: &Checker) -> bool {
        read_channels(checker).all(|channel| {
            let channel = &channel;
            let marker = self.markers.get(channel).filter(|marker| marker.is_acked);
            let found = self.audit.get(channel);
            let both = marker.zip(found);
            let is_read = |(marker, found): (&Marker, &BTreeMap<_, Bytes>)| {
                found.values().any(|data| *data == marker.payload)
            };
            both.is_some_and(is_read) || checker.is_refused()
        })
    }

    /// Whether it has looked whether a channel is gone that nobody used.
    #[must_use]
    pub fn has_probed(&self) -> bool {
        self.probe.as_ref().is_some_and(|(_, is_read)| *is_read)
    }

    /// Dead letters are read as they come; nobody publishes there.
    fn read_dead_letters(&mut self, turn: &mut Turn) -> Option<Vec<Parcel>> {
        let channel = ChannelName::from(DEAD_LETTERS);
        if self.subscriptions.values().any(|found| found.channel == channel) {
            return None;
        }
        let request = pb::SubscriptionRequest {
            start_position: pb::StartPosition::First.into(),
            ..pb::SubscriptionRequest::default()
        };
        Some(self.ask(channel, None, request, turn))
    }

    /// Reads every channel from its beginning, and puts a message at the end of each.
    pub(super) fn act_auditing(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        if self.probe.is_none() {
            self.probe = turn.checker.first_unused().map(|channel| (channel.clone(), false));
        }
        if turn.checker.expects_dead_letters()
            && let Some(parcels) = self.read_dead_letters(turn)
        {
            return parcels;
        }
        let probe = self.probe.iter().map(|(channel, _)| channel.clone());
        let channels: Vec<_> = read_channels(turn.checker).chain(probe).collect();
        for channel in channels {
            let opened = self.subscriptions.values().find(|s| s.channel == channel);
            let Some(subscription) = opened else {
                let request = pb::SubscriptionRequest {
                    start_position: pb::StartPosition::First.into(),
                    ..pb::SubscriptionRequest::default()
                };
                return self.ask(channel, None, request, turn);
            };
            let is_open = subscription.ack_inbox.is_some();
            let marker = self.markers.get(&channel);
            let is_due = marker.is_none_or(|marker| !marker.is_acked && marker.until <= turn.now);
            if is_open && is_due {
                let (parcel, payload) = self.message(&channel, turn);
                let until = turn.now + REQUEST_TIMEOUT;
                self.markers.insert(channel, Marker { payload, is_acked: false, until });
                return vec![parcel];
            }
        }
        self.acknowledge_late(turn)
    }
}

/// What is read at the end.
fn read_channels(checker: &Checker) -> impl Iterator<Item = ChannelName> + use<> {
    let dropped = checker.reads_dropped().then(|| ChannelName::from(DROPPED));
    CHANNELS.map(ChannelName::from).into_iter().chain(dropped)
}
