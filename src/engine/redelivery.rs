//! ack-wait deadlines; what goes out again and in what order
//!
//! A pass goes through the pending messages of one subscription. It reads those that are no
//! longer in memory from the store, so it may take several turns (spec protocol, section 11).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message;

use crate::base::id::{Sequence, SubscriptionId, Ticket};
use crate::base::limits::{
    FETCH_BYTES_MAX, FETCH_MESSAGES_MAX, REDELIVERY_SLACK, TRANSFER_REDELIVERY_DELAY,
};
use crate::base::planted::{self, Bug};
use crate::base::record::{FetchRequest, MessageRecord, StoreRead, SubscriptionWrite};
use crate::base::time::{Instant, Now};
use crate::engine::delivery::{Reader, Reads, Work};
use crate::engine::effect::{Effect, Level};
use crate::engine::pending::DueAt;
use crate::engine::publication::AckView;
use crate::engine::queue_group::GroupKey;
use crate::engine::snapshot::Hold;
use crate::engine::subscription::{Subscription, SubscriptionKey};
use crate::engine::{Engine, Timer};
use crate::proto::spb;

/// Why a pass is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassKind {
    /// The timer fired: what is due, to any member of the group.
    Timer,
    /// After recovery: what is due, only to the subscription that had it.
    Startup,
    /// A durable came back: everything, in sequence order.
    Resume,
}

/// A pass that is under way.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) kind: PassKind,
    pub(super) todo: VecDeque<Sequence>,
    /// The first deadline that was not reached yet when the pass was planned.
    next: Option<Instant>,
    /// Deadlines are being made from timestamps; nothing is sent yet.
    is_resolving: bool,
    /// Up to when messages are due in this pass, and the last that it has listed; where they are
    /// kept in that order it lists a few at a time.
    limit: Instant,
    listed: Option<DueAt>,
    /// What is listed has waited, and may go out now.
    pub(super) is_serving: bool,
    fetching: Option<Ticket>,
    /// Messages that were read, and the range in which no others exist.
    read: BTreeMap<Sequence, MessageRecord>,
    read_range: Option<(Sequence, Sequence)>,
    /// It waited for room.
    was_held: bool,
    /// Bytes of what was read that count as read ahead, while it waits.
    kept_bytes: usize,
}

/// What a look-up during a pass gave.
enum LookUp {
    Found(MessageRecord),
    Gone,
    Later,
}

/// The next count of a message; on overflow it skips 0.
fn count_up(counts: &mut BTreeMap<Sequence, u32>, sequence: Sequence) -> u32 {
    let count = counts.entry(sequence).or_insert(0);
    *count = count.wrapping_add(1).max(1);
    *count
}

impl Pass {
    fn new(kind: PassKind) -> Self {
        Self {
            kind,
            todo: VecDeque::new(),
            next: None,
            is_resolving: false,
            limit: Instant(0),
            listed: None,
            is_serving: false,
            fetching: None,
            read: BTreeMap::new(),
            read_range: None,
            was_held: false,
            kept_bytes: 0,
        }
    }

    /// Bytes of what it has read and keeps while it waits.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// It waits for room; what it has read waits with it as far as `reads` has room for that.
    fn hold(&mut self, reads: &mut Reads) {
        self.was_held = true;
        let bytes = self.read.values().map(|record| record.encoded.len()).sum();
        if reads.try_keep(bytes) {
            self.kept_bytes = bytes;
        } else {
            self.read.clear();
            self.read_range = None;
        }
    }

    /// Whether a read for it is under way.
    pub(super) fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// Lists what this pass has to look at.
    fn plan(&mut self, subscription: &Subscription, now: Now) {
        self.read.clear();
        self.read_range = None;
        if self.kind == PassKind::Resume {
            self.todo = subscription.pending.sequences().collect();
            return;
        }
        let pending = &subscription.pending;
        self.is_resolving = pending.has_unknown();
        if self.is_resolving {
            let unknown = pending.iter().filter(|(_, due)| due.is_none());
            self.todo = unknown.map(|(sequence, _)| sequence).collect();
            return;
        }
        let limit = now.at + REDELIVERY_SLACK;
        self.limit = limit;
        self.next = pending.next_due(limit);
        if self.list_more(subscription) {
            return;
        }
        let known = pending.iter().filter_map(|(sequence, due)| Some((due?, sequence)));
        let mut due: Vec<DueAt> = known.filter(|(due, _)| *due <= limit).collect();
        due.sort_unstable();
        self.todo = due.into_iter().map(|(_, sequence)| sequence).collect();
    }

    /// Lists the next that are due, where they are kept in that order; false if they are not.
    fn list_more(&mut self, subscription: &Subscription) -> bool {
        let pending = &subscription.pending;
        let Some(due) = pending.due_by(self.limit, self.listed, FETCH_MESSAGES_MAX) else {
            return false;
        };
        self.listed = due.last().copied().or(self.listed);
        self.todo.extend(due.into_iter().map(|(_, sequence)| sequence));
        true
    }

    /// How many messages from the front of the list lie side by side.
    fn run_len(&self) -> usize {
        let mut expected = self.todo.front().copied().unwrap_or_default();
        let run = self.todo.iter().take_while(|sequence| {
            let is_next = **sequence == expected;
            expected = expected.next();
            is_next
        });
        run.take(FETCH_MESSAGES_MAX).count().max(1)
    }
}

impl Engine {
    /// Starts the timer of a subscription with pending messages, if it has none.
    pub(super) fn arm_redelivery(&mut self, key: SubscriptionKey, now: Now) {
        if let Some(found) = self.subscriptions.by_key.get(&key)
            && self.timers.deadline(&Timer::Redelivery(key)).is_none()
            && !planted::is(Bug::NoRedelivery)
        {
            self.timers.arm(Timer::Redelivery(key), now.at + found.ack_wait());
        }
    }

    /// The redelivery timer fired (spec protocol, 11.2).
    pub(super) fn on_redelivery_due(&mut self, key: SubscriptionKey, now: Now) {
        let Some(found) = self.subscriptions.by_key.get(&key) else {
            return;
        };
        if !found.is_online() {
            return;
        }
        if found.pending.is_empty() {
            return self.end_hold_for_room(key, now);
        }
        if let Some(pass) = &found.pass {
            // The pass under way does not know what was transferred meanwhile.
            let is_held = pass.was_held && found.is_congested;
            let wait = if is_held { found.ack_wait() } else { TRANSFER_REDELIVERY_DELAY };
            self.timers.arm(Timer::Redelivery(key), now.at + wait);
            return;
        }
        if found.is_failing && found.group.is_none() {
            let (client, id) = (found.client.clone(), found.id);
            self.timers.arm(Timer::Redelivery(key), now.at + found.ack_wait());
            self.log(Level::Debug, || {
                format!(
                    "[Client:{client}] Skipping redelivery to subid={id} due to missed client \
                     heartbeat"
                )
            });
            return;
        }
        self.begin_pass(key, PassKind::Timer, now);
    }

    /// What new messages wait for is acknowledged, or gone.
    fn end_hold_for_room(&mut self, key: SubscriptionKey, now: Now) {
        if let Some(found) = self.subscriptions.by_key.get_mut(&key)
            && found.hold == Some(Hold::Counted)
        {
            found.hold = None;
            self.deliver(Reader::Plain(key), now);
        }
    }

    pub(super) fn begin_pass(&mut self, key: SubscriptionKey, kind: PassKind, now: Now) {
        if let Some(found) = self.subscriptions.by_key.get_mut(&key) {
            let mut pass = Box::new(Pass::new(kind));
            pass.plan(found, now);
            found.pass = Some(pass);
            if kind == PassKind::Resume {
                let (client, id) = (found.client.clone(), found.id);
                let name = if found.queue.is_empty() {
                    found.durable.to_string()
                } else {
                    found.queue.to_string()
                };
                self.log(Level::Debug, || {
                    format!("[Client:{client}] Redelivering to subid={id}, durable={name}")
                });
            }
            self.run_pass(key, now);
        }
    }

    /// Goes on with a pass as far as messages are at hand and the turn has budget.
    pub(super) fn run_pass(&mut self, key: SubscriptionKey, now: Now) {
        // A pass that is taken out of its subscription and not put back is over.
        let Some(mut pass) = self.take_pass(key) else {
            return;
        };
        if self.is_draining {
            return;
        }
        // No more at once than of new messages, so that neither keeps the other off a slow reader.
        let burst = self.reads.begin_burst();
        loop {
            let Some(sequence) = self.next_in_pass(key, &mut pass, now) else {
                return self.end_pass(key, &pass, now);
            };
            let is_pending = self
                .subscriptions
                .by_key
                .get(&key)
                .is_some_and(|found| found.pending.contains(sequence));
            if !is_pending {
                pass.todo.pop_front();
                continue;
            }
            if !self.reads.may_send(burst) {
                self.reads.go_on_later(Work::Pass(key));
                break;
            }
            if !pass.is_resolving && self.is_known_outlived(key, sequence, now) {
                pass.todo.pop_front();
                self.reads.count_sent(0);
                self.let_outlive(key, sequence, now);
                continue;
            }
            if !pass.is_resolving && !pass.is_serving && self.set_aside(key, sequence, now) {
                pass.todo.pop_front();
                continue;
            }
            if !pass.is_resolving && self.must_hold(key, pass.kind) {
                if pass.kind == PassKind::Startup {
                    // Its group does not wait with it, and another member may have room.
                    pass.kind = PassKind::Timer;
                    self.end_startup(key);
                    continue;
                }
                pass.hold(&mut self.reads);
                break;
            }
            match self.look_up(key, &mut pass, sequence, now) {
                LookUp::Later => break,
                LookUp::Gone => {
                    pass.todo.pop_front();
                    self.forget_delivery_to(key, sequence);
                    self.settle(key, sequence, now);
                }
                LookUp::Found(record) => {
                    pass.todo.pop_front();
                    if pass.is_resolving {
                        self.resolve(key, &record, now);
                    } else if !self.redeliver(key, &pass, record, now) {
                        return self.end_pass(key, &pass, now);
                    }
                }
            }
        }
        if let Some(found) = self.subscriptions.by_key.get_mut(&key) {
            found.pass = Some(pass);
        }
    }

    /// The message that a pass looks at next: what was due first, then what has waited for long
    /// enough, while any may go out.
    fn next_in_pass(
        &mut self,
        key: SubscriptionKey,
        pass: &mut Pass,
        now: Now,
    ) -> Option<Sequence> {
        if pass.todo.is_empty() {
            let found = self.subscriptions.by_key.get(&key)?;
            if pass.is_resolving {
                pass.plan(found, now);
            } else if pass.kind != PassKind::Resume && !pass.is_serving {
                pass.list_more(found);
            }
        }
        if pass.todo.is_empty() && !pass.is_resolving {
            let count = self.places(key, pass.kind).min(FETCH_MESSAGES_MAX);
            let found = self.subscriptions.by_key.get(&key)?;
            pass.is_serving = true;
            pass.todo.extend(found.pending.waiting().take(count));
        }
        pass.todo.front().copied()
    }

    fn take_pass(&mut self, key: SubscriptionKey) -> Option<Box<Pass>> {
        let found = self.subscriptions.by_key.get_mut(&key)?;
        if found.pass.as_ref()?.fetching.is_some() {
            return None;
        }
        let mut pass = found.pass.take()?;
        self.reads.give_up(std::mem::take(&mut pass.kept_bytes));
        Some(pass)
    }

    fn look_up(
        &mut self,
        key: SubscriptionKey,
        pass: &mut Pass,
        sequence: Sequence,
        now: Now,
    ) -> LookUp {
        let Some(index) = self.channel_of(key) else {
            return LookUp::Gone;
        };
        let channel = &mut self.channels.slab[index];
        if sequence < channel.state.first || channel.state.last < sequence {
            return LookUp::Gone;
        }
        if let Some(record) = channel.recent_at(sequence) {
            return LookUp::Found(record.clone());
        }
        if let Some(record) = pass.read.remove(&sequence) {
            return LookUp::Found(record);
        }
        if pass.read_range.is_some_and(|(from, to)| from <= sequence && sequence <= to) {
            return LookUp::Gone;
        }
        let policed = channel.policed.as_mut();
        if let Some(at) = policed.and_then(|policed| policed.time_to_find(now.wall)) {
            let found = self.reads.find_age(index, channel, at, Work::Pass(key));
            pass.fetching = found.as_ref().map(|(ticket, _)| *ticket);
            self.effects.extend(found.map(|(_, read)| read));
        } else if let Some(ticket) = self.reads.fetch_for_pass(key) {
            pass.fetching = Some(ticket);
            pass.read.clear();
            pass.read_range = None;
            let request = FetchRequest {
                ticket,
                channel: channel.name.clone(),
                from: sequence,
                count_max: pass.run_len(),
                bytes_max: FETCH_BYTES_MAX,
            };
            self.effects.push_back(Effect::Read(StoreRead::Fetch(request)));
        }
        LookUp::Later
    }

    /// It is known how far messages are too old, for which a pass has waited.
    pub(super) fn end_look_of_pass(&mut self, key: SubscriptionKey, ticket: Ticket, now: Now) {
        let found = self.subscriptions.by_key.get_mut(&key);
        let pass = found.and_then(|found| found.pass.as_mut());
        if let Some(pass) = pass.filter(|pass| pass.fetching == Some(ticket)) {
            pass.fetching = None;
            self.run_pass(key, now);
        }
    }

    /// A fetch of a pass came back.
    pub(super) fn on_pass_fetched(
        &mut self,
        key: SubscriptionKey,
        ticket: Ticket,
        result: Result<Vec<MessageRecord>, String>,
        now: Now,
    ) {
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        let (id, next_due) = (found.id, now.at + found.ack_wait());
        let Some(pass) = found.pass.as_mut().filter(|pass| pass.fetching == Some(ticket)) else {
            return;
        };
        pass.fetching = None;
        let Some(&asked) = pass.todo.front() else {
            return self.run_pass(key, now);
        };
        match result {
            Err(text) => {
                // It stays pending, and is tried again with the next timer. Without a deadline it
                // would be listed again at once, for ever, and what comes after it never sent.
                pass.todo.pop_front();
                // Unless it was acked meanwhile.
                if pass.is_resolving || pass.is_serving {
                    found.pending.postpone(asked, next_due);
                }
                self.log(Level::Error, || {
                    format!(
                        "Error getting message for redelivery subid={id}, seq={asked}, err={text}"
                    )
                });
            }
            Ok(records) => {
                let to = match records.last() {
                    Some(last) if asked < last.sequence => last.sequence,
                    Some(_) | None => asked,
                };
                pass.read_range = Some((asked, to));
                pass.read = records.into_iter().map(|found| (found.sequence, found)).collect();
            }
        }
        self.run_pass(key, now);
    }

    /// Makes the deadline of a recovered message from its timestamp.
    fn resolve(&mut self, key: SubscriptionKey, record: &MessageRecord, now: Now) {
        if let Some(found) = self.subscriptions.by_key.get_mut(&key) {
            let age = now.wall.0.saturating_sub(record.timestamp.0);
            let sent_at = match u64::try_from(age) {
                Ok(age) => now.at - std::time::Duration::from_nanos(age),
                Err(_) => now.at + std::time::Duration::from_nanos(age.unsigned_abs()),
            };
            let due = match &self.channels.slab[found.channel].policed {
                // When it was sent last is not known: never sooner than the list says.
                Some(policed) if !policed.policy.back_off.is_empty() => {
                    let deliveries = policed.redelivered(found.reader, record.sequence) + 1;
                    now.at + policed.policy.wait(found.ack_wait(), deliveries)
                }
                Some(_) | None => sent_at + found.ack_wait(),
            };
            if self.channels.slab[found.channel].policed.is_some() {
                found.pending.keep_order();
            }
            found.pending.set(record.sequence, due);
        }
    }

    /// Sends one message again; false ends the pass.
    fn redeliver(
        &mut self,
        key: SubscriptionKey,
        pass: &Pass,
        record: MessageRecord,
        now: Now,
    ) -> bool {
        let sequence = record.sequence;
        let Some(index) = self.channel_of(key) else { return false };
        let channel = &self.channels.slab[index];
        let (is_policed, is_counted) = (channel.policed.is_some(), channel.counts());
        if is_policed && self.passes_over(key, &record, now) {
            return true;
        }
        let is_of_few = self.redelivered_max(key) > 0;
        let mut target = key;
        // What is to be a dead letter stays with the member that has it.
        let is_used_up = is_counted && self.is_used_up(key, &record);
        let group = self.subscriptions.by_key.get(&key).and_then(|found| found.group);
        if !is_used_up {
            let Some(taker) = self.taker(key, pass.kind) else { return false };
            target = taker;
        }
        // Where deliveries are counted durably, it is done when the message is sent.
        let mut count = is_counted.then_some(1);
        if let Some(group) = group.and_then(|key| self.subscriptions.groups.get_mut(&key)) {
            count = count.or_else(|| Some(count_up(&mut group.redeliveries, sequence)));
        }
        let (mut out, subscriptions, channels) = self.outgoing(now);
        let Some(found) = subscriptions.by_key.get_mut(&target) else {
            return false;
        };
        let count = count.unwrap_or_else(|| count_up(&mut found.redeliveries, sequence));
        let channel = &mut channels.slab[found.channel];
        if pass.was_held {
            // The time for which there was no room is not its reader's: it counts from now.
            found.pending.postpone(sequence, now.at);
        }
        let count = Some(count).filter(|_| !planted::is(Bug::RedeliveryUnmarked));
        out.send(target, found, channel, record, count);
        if is_of_few && !is_used_up {
            found.pending.begin_out(sequence);
        }
        if target != key {
            // The other member has it now.
            self.settle(key, sequence, now);
        }
        true
    }

    /// Whether a message is too old to be delivered again: then it counts as acknowledged.
    fn passes_over(&mut self, key: SubscriptionKey, record: &MessageRecord, now: Now) -> bool {
        let Some(index) = self.channel_of(key) else { return false };
        let policed = self.channels.slab[index].policed.as_mut();
        let is_so = policed.is_some_and(|it| it.is_outlived(record.timestamp, now.wall));
        if is_so {
            self.let_outlive(key, record.sequence, now);
        }
        is_so
    }

    /// The same, where it is known without reading the message.
    fn is_known_outlived(&self, key: SubscriptionKey, sequence: Sequence, now: Now) -> bool {
        let policed = self.channel_of(key).and_then(|it| self.channels.slab[it].policed.as_ref());
        policed.is_some_and(|policed| sequence < policed.first_fresh(now.wall))
    }

    fn let_outlive(&mut self, key: SubscriptionKey, sequence: Sequence, now: Now) {
        self.traffic.outlived += 1;
        self.forget_delivery_to(key, sequence);
        self.forget_redeliveries(key, sequence);
        self.settle(key, sequence, now);
    }

    /// A message is not sent again: nobody counts how often it was.
    fn forget_redeliveries(&mut self, key: SubscriptionKey, sequence: Sequence) {
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else { return };
        found.redeliveries.remove(&sequence);
        let group = found.group;
        if let Some(group) = group.and_then(|key| self.subscriptions.groups.get_mut(&key)) {
            group.redeliveries.remove(&sequence);
        }
    }

    fn end_pass(&mut self, key: SubscriptionKey, pass: &Pass, now: Now) {
        let kind = pass.kind;
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        let group = found.group;
        // Compat: what this pass has sent waits for the next deadline of another message, else for
        // a whole ack wait, whatever its own deadline is (spec protocol, 11.2).
        let next = if self.channels.slab[found.channel].policed.is_some() {
            // With a back-off what it has sent may be due before anything else is.
            found.pending.next_due(now.at)
        } else {
            pass.next.filter(|due| now.at < *due)
        };
        let at = (!found.pending.is_empty()).then(|| next.unwrap_or(now.at + found.ack_wait()));
        // One that was armed meanwhile, for transferred messages, may be earlier.
        let armed = self.timers.deadline(&Timer::Redelivery(key));
        let at = at.map(|at| armed.map_or(at, |armed| at.min(armed)));
        let was_on_hold = found.hold.take().is_some();
        let has_waiting = found.pending.has_waiting();
        match at {
            None => {
                self.timers.cancel(&Timer::Redelivery(key));
            }
            Some(_) if kind == PassKind::Resume => self.arm_redelivery(key, now),
            Some(at) => self.timers.arm(Timer::Redelivery(key), at),
        }
        if kind == PassKind::Startup {
            self.release_startup(group);
        }
        // What waits keeps no new one off any more.
        self.unstall(key, now);
        if let Some(group) = group.filter(|_| !has_waiting) {
            // There may be room for what waits at others.
            self.wake_waiter(group, now);
        }
        if kind != PassKind::Timer || was_on_hold {
            match group {
                Some(group) => self.deliver(Reader::Group(group), now),
                None => self.deliver(Reader::Plain(key), now),
            }
        }
    }

    /// The recovered messages of a subscription were tried, as far as its group is concerned.
    fn release_startup(&mut self, group: Option<GroupKey>) {
        if let Some(group) = group.and_then(|key| self.subscriptions.groups.get_mut(&key)) {
            group.hold_count = group.hold_count.saturating_sub(1);
            if group.hold_count == 0 {
                // Counts begin again at 1 after a restart.
                group.redeliveries.clear();
            }
        }
    }

    /// What a subscription had before a restart cannot be sent now.
    fn end_startup(&mut self, key: SubscriptionKey) {
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        found.hold = None;
        let group = found.group;
        self.release_startup(group);
        if let Some(group) = group {
            self.reads.go_on_later(Work::Deliver(Reader::Group(group)));
        }
    }

    /// A member whose recovered messages were not tried yet has left its group.
    pub(super) fn release_group_hold(&mut self, leaver: &Subscription) {
        if leaver.hold == Some(Hold::Recovered)
            && let Some(group) =
                leaver.group.and_then(|key| self.subscriptions.groups.get_mut(&key))
        {
            group.hold_count = group.hold_count.saturating_sub(1);
        }
    }

    /// An ack came in on an ack inbox (spec protocol, section 12).
    pub(super) fn on_ack(&mut self, key: SubscriptionKey, payload: Bytes, now: Now) {
        let done = AckView::decode(&payload, |ack| self.on_ack_of(key, ack, now));
        if let Err(error) = done
            && spb::CtrlMsg::decode(payload).is_err()
        {
            self.log(Level::Error, || format!("Unable to unmarshal Ack: {error}"));
        }
    }

    fn on_ack_of(&mut self, key: SubscriptionKey, ack: AckView<'_>, now: Now) {
        let sequence = Sequence(ack.sequence);
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        let index = found.channel;
        if self.channels.slab[index].name.as_bytes() != ack.channel {
            if self.channels.find(ack.channel).is_none() {
                let name = String::from_utf8_lossy(ack.channel).into_owned();
                self.log(Level::Error, || {
                    format!("Unable to process ack seq={sequence}, channel {name} not found")
                });
            }
            return;
        }
        if self.settings.trace {
            let (client, id) = (&found.client, found.id);
            let text = format!(
                "[Client:{client}] Processing ack for subid={id}, subject={}, seq={sequence}",
                self.channels.slab[index].name
            );
            self.effects.push_back(Effect::Log { level: Level::Trace, text });
        }
        if let Some(was_out) = found.pending.remove(sequence) {
            found.redeliveries.remove(&sequence);
            let (id, group) = (found.id, found.group);
            if let Some(group) = group.and_then(|key| self.subscriptions.groups.get_mut(&key)) {
                group.redeliveries.remove(&sequence);
            }
            let is_stalled = found.is_stalled;
            self.write_ack(index, id, sequence);
            if was_out {
                self.free_place(key, now);
            }
            if self.channels.slab[index].policed.is_some() {
                self.forget_delivery_to(key, sequence);
            }
            if is_stalled {
                self.unstall(key, now);
            }
        } else if found.group.is_some() {
            self.ack_elsewhere(key, index, sequence, now);
            self.unstall(key, now);
        }
    }

    /// A late ack for a message that another member of the group holds now.
    fn ack_elsewhere(&mut self, key: SubscriptionKey, index: usize, sequence: Sequence, now: Now) {
        let group = self.subscriptions.by_key.get(&key).and_then(|found| found.group);
        let Some(group) = group.and_then(|key| self.subscriptions.groups.get_mut(&key)) else {
            return;
        };
        let by_key = &mut self.subscriptions.by_key;
        let mut holder = None;
        for member in group.members.iter() {
            if let Some(found) = by_key.get_mut(member)
                && let Some(was_out) = found.pending.remove(sequence)
            {
                holder = Some((*member, found.id, was_out));
                break;
            }
        }
        if let Some((holder, id, was_out)) = holder {
            group.redeliveries.remove(&sequence);
            self.write_ack(index, id, sequence);
            if was_out {
                self.free_place(holder, now);
            }
            self.forget_delivery_to(key, sequence);
        }
    }

    /// An internal ack: the message is gone, or another member has it (spec protocol, 12.3).
    pub(super) fn settle(&mut self, key: SubscriptionKey, sequence: Sequence, now: Now) {
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        if let Some(was_out) = found.pending.remove(sequence) {
            let (index, id) = (found.channel, found.id);
            self.write_ack(index, id, sequence);
            if was_out {
                self.free_place(key, now);
            }
        }
        self.unstall(key, now);
    }

    fn write_ack(&mut self, index: usize, id: SubscriptionId, sequence: Sequence) {
        let write = SubscriptionWrite::Acked(id, sequence);
        self.commits.subscription(index, &mut self.channels.slab[index], write);
    }

    pub(super) fn unstall(&mut self, key: SubscriptionKey, now: Now) {
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        if !found.is_stalled || found.is_full() {
            return;
        }
        found.is_stalled = false;
        match found.group {
            Some(group) => self.deliver(Reader::Group(group), now),
            None => self.deliver(Reader::Plain(key), now),
        }
    }
}
