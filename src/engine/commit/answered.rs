//! what is done once the store has answered: for what is kept, and for what it refuses

use bytes::Bytes;

use crate::base::id::Ticket;
use crate::base::planted::{self, Bug};
use crate::base::record::{ChannelOutcome, CommitReport, Lifecycle, SubscriptionWrite};
use crate::base::time::Now;
use crate::engine::Engine;
use crate::engine::channel::{Life, latest_of};
use crate::engine::commit::{After, Part, StagedPublish};
use crate::engine::effect::{Effect, Level};
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::subscription::SubscriptionLife;
use crate::proto::spb;

impl Engine {
    /// Hands the next batch out, if none is under way.
    pub(in crate::engine) fn flush(&mut self, now: Now) {
        let channels = &mut self.channels.slab;
        let handed_out = self.commits.hand_out(channels, now.at, self.is_draining);
        if let Some((ticket, mut batch)) = handed_out {
            // What a successor takes over must be all there is.
            batch.durable |= self.is_draining;
            if planted::is(Bug::PurgeInMemory) {
                batch.channels.iter_mut().for_each(|part| part.purge = None);
            }
            self.effects.push_back(Effect::Commit { ticket, batch: Box::new(batch) });
        }
        self.look_at_end();
    }

    /// A commit is through.
    pub(in crate::engine) fn on_committed(
        &mut self,
        ticket: Ticket,
        report: CommitReport,
        now: Now,
    ) {
        let Some(done) = self.commits.under_way.take() else {
            unreachable!("a report of {ticket:?} without a commit under way");
        };
        assert_eq!(done.ticket, ticket, "reports come in the order of the commits");
        self.commits.held_bytes -= done.held_bytes;
        self.look_at_held();
        assert_eq!(done.parts.len(), report.channels.len(), "one outcome a channel");
        let clients_refused = report.clients_refused.map(Refusal::Store);
        let mut refused: Vec<(usize, Refusal)> = Vec::new();
        let mut written = Vec::new();
        let mut parked = Vec::new();
        let mut later = Vec::new();
        for (part, outcome) in done.parts.into_iter().zip(report.channels) {
            part.assert_whole(&outcome);
            let (index, is_deleted) = (part.channel, part.lifecycle == Lifecycle::Delete);
            if is_deleted {
                parked.append(&mut self.take_parked(index));
            }
            if let Some(text) = &outcome.refused {
                refused.push((index, Refusal::Store(text.clone())));
                later.append(&mut self.on_part_refused(part, &outcome, now));
            } else if !is_deleted {
                self.on_part_written(part, &outcome, now);
                written.push(index);
            } else {
                self.on_channel_deleted(index);
            }
        }
        let of = |channel: usize| refused.iter().find(|(index, _)| *index == channel);
        // Errors first, then deliveries, then acks (spec protocol, 1.1 and 8.2).
        for publish in done.publishes.iter().chain(&later) {
            if let Some((_, refusal)) = of(publish.channel) {
                self.refuse_staged(publish, refusal);
            }
        }
        for index in written {
            self.deliver_channel(index, now);
        }
        let mut publishes = done.publishes;
        self.commits.on_answered(publishes.len(), now.at);
        for publish in publishes.drain(..) {
            if of(publish.channel).is_none() {
                self.ack_publish(publish);
            }
        }
        self.commits.reuse(publishes);
        for after in done.after {
            self.on_after(after, clients_refused.as_ref(), &refused, now);
        }
        self.remove_refused_channels(&refused, now);
        self.unpark(parked, now);
        self.emit_credit();
        self.flush(now);
    }

    fn on_part_written(&mut self, part: Part, outcome: &ChannelOutcome, now: Now) {
        if let Some(purge) = &part.purge {
            let (first, stand_in) = (outcome.state.first, &purge.stand_in);
            let is_gone = |sequence| {
                sequence < first || stand_in.as_ref().is_some_and(|it| it.sequence == sequence)
            };
            self.drop_purged(part.channel, is_gone, now.at);
        }
        let channel = &mut self.channels.slab[part.channel];
        let purged = part.purge.as_ref().map(|purge| purge.first);
        if let Some(purge) = part.purge {
            channel.before_purge = channel.state;
            if let (Some(stand_in), Some(policed)) = (&purge.stand_in, &mut channel.policed) {
                policed.begin_anew(stand_in.sequence);
            }
            channel.empty_recent(purge.stand_in.clone());
            if let Some(stand_in) = purge.stand_in {
                self.purge_window(part.channel, &stand_in);
            }
        }
        let channel = &mut self.channels.slab[part.channel];
        channel.state = outcome.state;
        if planted::is(Bug::PurgeInMemory)
            && let Some(first) = purged
        {
            channel.state.first = first;
            channel.state.message_count = channel.state.last.get() + 1 - first.get();
        }
        if part.lifecycle == Lifecycle::Create {
            channel.life = Life::Open;
            let text = format!("Channel {} has been created", quoted(channel.name.as_bytes()));
            self.effects.push_back(Effect::Log { level: Level::Info, text });
        }
        self.keep_recent(part.channel, part.messages);
    }

    /// Gives back the publishes that were staged meanwhile: they are refused too, after those of
    /// the part.
    fn on_part_refused(
        &mut self,
        part: Part,
        outcome: &ChannelOutcome,
        now: Now,
    ) -> Vec<StagedPublish> {
        let index = part.channel;
        if part.purge.is_some() {
            // Nothing else of the channel is in its batch: what was published behind it goes on.
            self.channels.slab[index].state = outcome.state;
            let channel = &mut self.channels.slab[index];
            self.commits.put_first(index, channel, latest_of(part.lasting));
            let stand_in = part.purge.and_then(|purge| purge.stand_in);
            let mut gone = part.gone;
            // Those of the message that was to be emptied go on counting.
            gone.retain(|it| {
                stand_in.as_ref().is_none_or(|stand_in| it.sequence != stand_in.sequence)
            });
            self.commits.put_counts_first(index, channel, gone);
            self.restate_pending(index);
            return Vec::new();
        }
        let text = outcome.refused.clone().unwrap_or_default();
        let later = self.commits.take_publishes(index);
        let channel = &mut self.channels.slab[index];
        let name = quoted(channel.name.as_bytes());
        match part.lifecycle {
            Lifecycle::Create => {
                channel.life = Life::Refused;
                self.log(Level::Error, || format!("Creating channel {name} failed: {text}"));
                return later;
            }
            Lifecycle::Delete => {
                channel.life = Life::Open;
                self.log(Level::Error, || format!("Error deleting channel {name}: {text}"));
                let channel = &mut self.channels.slab[index];
                for write in std::mem::take(&mut channel.unwritten) {
                    self.commits.subscription(index, channel, write);
                }
                self.commits.put_counts_first(index, channel, part.gone);
                self.start_inactivity(index, now);
                return later;
            }
            Lifecycle::Keep => (),
        }
        channel.state = outcome.state;
        if !planted::is(Bug::SequencePassedOver) {
            channel.last = outcome.state.last;
        }
        if let Some(window) = &mut channel.window {
            window.forget_behind(outcome.state.last);
            // Else a clock that was ahead for what was refused would end the windows of the rest.
            let time = window.time_by(outcome.state.last);
            channel.last_timestamp = time.unwrap_or(channel.last_timestamp);
        }
        self.commits.overtake_purges(index);
        // Before what is staged: that was asked for later, and its record counts.
        self.commits.put_first(index, channel, latest_of(part.lasting));
        self.commits.put_counts_first(index, channel, part.gone);
        self.commits.clamp(index, outcome.state.last.0);
        self.clamp_positions(index);
        self.restate_pending(index);
        later
    }

    /// A part was refused, and with it entries of what was delivered. A later position may be
    /// written before one of them is acknowledged, so what is pending is said again, first: else
    /// it would count as acknowledged after a take-over (P5). Its record comes before it: the first
    /// one may have been refused too. Of all this a full disk may take the beginning only, so the
    /// record says no position beyond what is pending; a last one does.
    fn restate_pending(&mut self, index: usize) {
        let mut writes = Vec::new();
        let keys = self.subscriptions_of(index);
        for found in keys.filter_map(|key| self.subscriptions.by_key.get(&key)) {
            let Some(first) = found.pending.sequences().next() else { continue };
            let is_recorded = found.life != SubscriptionLife::Starting;
            let record = found.record();
            if is_recorded {
                let last_sent = record.last_sent.min(first.prev().0);
                let before = spb::SubState { last_sent, ..record.clone() };
                writes.push(SubscriptionWrite::Update(before.into()));
            }
            let sent = |sequence| SubscriptionWrite::Sent(found.id, sequence);
            writes.extend(found.pending.sequences().map(sent));
            if is_recorded {
                writes.push(SubscriptionWrite::Update(record.into()));
            }
        }
        self.commits.put_first(index, &mut self.channels.slab[index], writes);
    }

    /// Drops the channels whose creation failed, after everybody was told.
    fn remove_refused_channels(&mut self, refused: &[(usize, Refusal)], now: Now) {
        for (index, refusal) in refused {
            if self.channels.slab.get(*index).is_none_or(|found| found.life != Life::Refused) {
                continue;
            }
            // The rest stays in its batch: what a request is told is what became of its record.
            let mut starts = Vec::new();
            for at in 0..self.commits.queue.len() {
                let waiting = std::mem::take(&mut self.commits.queue[at].after);
                let (gone, kept): (Vec<After>, Vec<After>) =
                    waiting.into_iter().partition(|after| match after {
                        After::Start(starting) => self.channel_of(starting.key) == Some(*index),
                        After::Serve
                        | After::Announce(_)
                        | After::Marked(_)
                        | After::Forgotten { .. }
                        | After::Unregistered(_)
                        | After::Administered { .. }
                        | After::Deliver(_)
                        | After::Left { .. } => false,
                    });
                self.commits.queue[at].after = kept;
                starts.extend(gone);
            }
            for after in starts {
                self.on_after(after, None, &[(*index, refusal.clone())], now);
            }
            // Last: who is refused may have said of its counts that they go.
            self.commits.forget_channel(*index);
            self.remove_channel(*index);
        }
    }

    pub(in crate::engine) fn do_after(&mut self, after: After, now: Now) {
        if let Some(after) = self.commits.after(after) {
            self.on_after(after, None, &[], now);
        }
    }

    fn on_after(
        &mut self,
        after: After,
        clients_refused: Option<&Refusal>,
        refused: &[(usize, Refusal)],
        now: Now,
    ) {
        match after {
            After::Serve => match clients_refused {
                None => self.listen_to_services(),
                Some(refusal) => {
                    self.log(Level::Error, || {
                        format!("Unable to write the server's record: {}", refusal.text())
                    });
                    self.commits.server(self.info.clone());
                    self.do_after(After::Serve, now);
                }
            },
            After::Announce(client) => match clients_refused {
                None => self.announce_client(&client, now),
                Some(refusal) => self.refuse_client(&client, refusal, now),
            },
            After::Marked(client) => {
                if let Some(refusal) = clients_refused {
                    // It is ended all the same, as far as this member serves.
                    self.log(Level::Error, || {
                        let name = quoted(client.as_bytes());
                        format!("Unable to write that client {name} leaves: {}", refusal.text())
                    });
                }
                self.end_client(&client, now);
            }
            After::Forgotten { home, client } => self.forgotten(home, client, now),
            After::Unregistered(client) => {
                if let Some(refusal) = clients_refused {
                    let name = quoted(client.as_bytes());
                    let text = refusal.text();
                    self.log(Level::Error, || format!("Error unregistering client {name}: {text}"));
                }
                self.unregistered(&client, clients_refused, now);
            }
            After::Start(starting) => {
                let index = self.channel_of(starting.key);
                match refused.iter().find(|(found, _)| Some(*found) == index) {
                    None => self.start_subscription(starting, now),
                    Some((_, refusal)) => self.undo_subscription(&starting, refusal, now),
                }
            }
            After::Administered { token, what } => self.administered(token, what, refused, now),
            After::Deliver(counted) => self.deliver_counted(*counted, refused, now),
            After::Left { reply } => self.respond(&reply, Bytes::new()),
        }
    }
}
