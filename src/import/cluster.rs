//! The nodes of a Raft cluster into one store: reads, decides, checks, and then writes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::base::encryption::StoreKey;
use crate::base::id::{ChannelName, Sequence, SubscriptionId};
use crate::base::record::{
    ChannelBatch, ChannelState, Lifecycle, MessageRecord, SubscriptionWrite,
};
use crate::base::time::WallTime;
use crate::config::Config;
use crate::import::course::{Course, Doubt};
use crate::import::error::ImportError;
use crate::import::extent::{self, Extent, Holders, Known, Range};
use crate::import::in_log::InLog;
use crate::import::members::{self, Choice};
use crate::import::messages::{Cursor, Gathering, Origin};
use crate::import::node::{Given, Node};
use crate::import::raft_log::{Content, Entry, LogError};
use crate::import::replay::{Channel, State, Subscription};
use crate::import::whole;
use crate::proto::spb;
use crate::site::new_store::{NewStore, Work};

/// Messages and bytes of one commit.
const BATCH_COUNT: usize = 1_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Subscription writes, and clients, of one commit.
const BATCH_WRITES: usize = 10_000;
/// Notes on entries that do not fit.
const DOUBTS_MAX: usize = 100;

/// What is asked for.
pub struct Request<'a> {
    /// The nodes.
    pub nodes: Vec<Given>,
    /// The key of the cluster, if it has one.
    pub key: Option<StoreKey>,
    /// Goes on without a majority, and without messages that are missing.
    pub is_forced: bool,
    /// The server that will have the new store; `None`: it is only checked what there would be.
    pub target: Option<&'a Config>,
}

/// What was, or would be, imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The cluster ID.
    pub cluster_id: String,
    /// The node whose log counts.
    pub node_id: String,
    /// Its last entry.
    pub last_index: u64,
    /// And the term of that.
    pub last_term: u64,
    /// Where its snapshot ends; 0 without any.
    pub snapshot_index: u64,
    /// Members that were given.
    pub given: Vec<String>,
    /// Members that were not.
    pub absent: Vec<String>,
    /// How many clients.
    pub clients: usize,
    /// All channels.
    pub channels: Vec<ChannelReport>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// One channel of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChannelReport {
    /// Its name.
    pub name: String,
    /// Its first message; 0 if it never had one.
    pub first: u64,
    /// Its last message.
    pub last: u64,
    /// How many subscriptions.
    pub subscriptions: usize,
    /// How many messages the node's store had not, and its log had.
    pub from_log: u64,
    /// How many both had not, and the store of another node had.
    pub from_others: u64,
    /// What nobody had: empty messages stand in.
    pub missing: Vec<Range>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The channel that is being written.
    pub channel: &'a ChannelName,
    /// Messages written.
    pub done: u64,
    /// Messages of all channels.
    pub all: u64,
}

/// One channel as it will be.
struct Planned {
    name: ChannelName,
    number: u64,
    snapshot_first: u64,
    extent: Extent,
    holders: Holders,
    subscriptions: Vec<Subscription>,
}

/// Imports the nodes into the new store, or only says what would be there.
///
/// # Errors
/// [`ImportError`]. Nothing is written before everything was read once.
pub fn import(
    request: &Request<'_>,
    tell: &mut dyn FnMut(&Progress<'_>),
) -> Result<Report, ImportError> {
    let mut nodes = Vec::new();
    for given in &request.nodes {
        nodes.push(Node::open(given, request.key.as_ref())?);
    }
    let choice = choose(&nodes, request.is_forced)?;
    let mut notes = Vec::new();
    if let Some(what) = whole::logs(&nodes, choice.index, &mut notes) {
        let chosen = nodes[choice.index].facts.name.clone();
        if !request.is_forced {
            return Err(ImportError::Difference { what, chosen });
        }
        notes.push(format!("{what}; what {chosen} has was taken"));
    }
    let Replayed { state, in_log, course } =
        replay(&nodes[choice.index], request.is_forced, &mut notes)?;
    let state = state.finish();
    let planned = plan(&mut nodes, choice.index, state.channels, &in_log)?;
    if let Some(text) = missing(&planned).filter(|_| !request.is_forced) {
        return Err(ImportError::Missing(text));
    }
    let unexplained = whole::stores(&nodes, &choice, &course);
    if !unexplained.messages.is_empty() && !request.is_forced {
        let what = unexplained.messages.join("; ");
        let chosen = nodes[choice.index].facts.name.clone();
        return Err(ImportError::Unexplained { what, chosen });
    }
    notes.extend(unexplained.messages.into_iter().chain(unexplained.channels));
    let mut report = report(&nodes, &choice, &planned, state.clients.len());
    report.notes.extend(notes);
    let Some(config) = request.target else { return Ok(report) };
    let server = server_record(&nodes[choice.index]);
    let mut target = NewStore::open(config, Work::Import, &server.cluster_id)?;
    let work = || {
        target.begin(&server)?;
        let mut clients: Vec<_> = state.clients.values().cloned().collect();
        while !clients.is_empty() {
            let rest = clients.split_off(clients.len().min(BATCH_WRITES));
            target.write_clients(std::mem::replace(&mut clients, rest))?;
        }
        let mut writing = Writing {
            target: &mut target,
            in_log: &in_log,
            is_forced: request.is_forced,
            done: 0,
            all: planned.iter().map(|it| it.extent.count()).sum(),
            subscription_next: 1,
            tell,
        };
        for (channel, told) in planned.into_iter().zip(&mut report.channels) {
            writing.channel(&mut nodes, choice.index, channel, told)?;
        }
        Ok(())
    };
    let done = work().and_then(|()| Ok(target.finish(server)?));
    done.map_err(|error: ImportError| ImportError::BrokenOff(Box::new(error)))?;
    Ok(report)
}

fn choose(nodes: &[Node], is_forced: bool) -> Result<Choice, ImportError> {
    for (index, node) in nodes.iter().enumerate() {
        let is_same = |other: &&Node| other.log_file == node.log_file;
        if let Some(same) = nodes[..index].iter().find(is_same) {
            let (one, other) = (same.facts.name.clone(), node.facts.name.clone());
            let log = node.log_file.display().to_string();
            return Err(ImportError::SameLog { one, other, log });
        }
    }
    let facts: Vec<_> = nodes.iter().map(|node| node.facts.clone()).collect();
    let logs: Vec<_> = nodes.iter().map(|node| node.log_file.as_path()).collect();
    if let Some((store, log)) = members::swapped(&facts, &logs).filter(|_| !is_forced) {
        return Err(ImportError::Swapped {
            store: facts[store].name.clone(),
            id: facts[store].id.clone(),
            log: logs[store].display().to_string(),
            named: facts[log].id.clone(),
        });
    }
    let choice = members::choose(&facts)?;
    if !choice.has_majority() && !is_forced {
        let best = &facts[choice.index];
        return Err(ImportError::Minority {
            given: choice.present.len(),
            all: choice.present.len() + choice.absent.len(),
            name: best.name.clone(),
            index: best.last.index,
            term: best.last.term,
            absent: choice.absent.join(", "),
        });
    }
    Ok(choice)
}

/// What a snapshot and the log behind it make.
struct Replayed {
    state: State,
    /// Where messages are in the log.
    in_log: InLog,
    course: Course,
}

/// Replays the node's log. What does not fit ends it, unless it is forced: then it is a note.
fn replay(node: &Node, is_forced: bool, notes: &mut Vec<String>) -> Result<Replayed, ImportError> {
    let path = node.log_file.display().to_string();
    let notices: String = node.notices.iter().map(|text| format!(" ({text})")).collect();
    let failed = |source| {
        let (path, notices) = (path.clone(), notices.clone());
        ImportError::Log { path, source: Box::new(source), notices }
    };
    let snapshot = node.snapshot.as_ref();
    let mut state = snapshot.map(|it| State::of_snapshot(&it.state)).unwrap_or_default();
    let mut doubt = |index: u64, doubt: Doubt| {
        let what = format!("{path}: entry {index} is damaged: {doubt}");
        if !is_forced {
            return Err(ImportError::Doubt { what, notices: notices.clone() });
        }
        // A log that fits nowhere would say so of each entry.
        if notes.len() < DOUBTS_MAX {
            notes.push(what);
        }
        Ok(())
    };
    let begin = snapshot.map(|snapshot| snapshot.place).unwrap_or_default();
    let mut course = Course::new(begin.index, snapshot.map(|it| &it.state));
    let last = node.facts.last.index;
    let (mut in_log, mut term) = (InLog::default(), 0);
    let older = node.log.leads_up_to(begin).map_err(failed)?;
    let mut next = older.unwrap_or(begin.index + 1);
    for entry in node.log.entries_from(next).map_err(failed)? {
        let Entry { place, content } = entry.map_err(failed)?;
        let index = place.index;
        if last < index {
            break;
        }
        node.log.check_term(place, term).map_err(failed)?;
        term = place.term;
        if index != next {
            let found = format!("entry {index} comes next");
            return Err(failed(LogError::Gap { expected: next, found }));
        }
        next += 1;
        if let Content::Operation(operation) = content {
            in_log.note(index, &operation);
            // What is older than the snapshot is in it, but for its messages.
            if begin.index < index {
                if let Err(found) = course.note(index, &operation) {
                    doubt(index, found)?;
                }
                state.apply(&operation);
            }
        }
    }
    if next <= last {
        let found = "the log ends before it".to_owned();
        return Err(failed(LogError::Gap { expected: next, found }));
    }
    for (index, found) in course.passed() {
        doubt(index, found)?;
    }
    Ok(Replayed { state, in_log, course })
}

fn plan(
    nodes: &mut [Node],
    chosen: usize,
    channels: BTreeMap<Bytes, Channel>,
    in_log: &InLog,
) -> Result<Vec<Planned>, ImportError> {
    let mut planned = Vec::new();
    for (name, channel) in channels {
        let name = ChannelName::from(name);
        let number = match channel.number {
            // As the node's own store has it.
            0 => nodes[chosen].log.channel_number(name.as_bytes()),
            number => number,
        };
        let mut known =
            Known { snapshot_first: channel.first, last: channel.last, ..Known::default() };
        let mut holders = Holders::default();
        holders.log.extend(in_log.ranges(name.as_bytes(), number));
        for (index, node) in nodes.iter_mut().enumerate() {
            if let Some(state) = node.channel(&name, number) {
                known.stores.push((state.first.get(), state.last.get()));
                let is_own = index == chosen;
                let to = if is_own { &mut holders.store } else { &mut holders.others };
                to.extend(held(node, &name, state)?);
            }
        }
        for ranges in [&holders.store, &holders.log, &holders.others] {
            known.held.extend(ranges);
        }
        let extent = extent::of(&known);
        let subscriptions = channel.subscriptions.into_values();
        let subscriptions = subscriptions.map(|it| within(it, &extent)).collect();
        let snapshot_first = channel.first;
        planned.push(Planned { name, number, snapshot_first, extent, holders, subscriptions });
    }
    Ok(planned)
}

/// What of a channel's messages is in the store of a node.
fn held(
    node: &mut Node,
    name: &ChannelName,
    state: ChannelState,
) -> Result<Vec<Range>, ImportError> {
    let (first, last) = (state.first.get(), state.last.get());
    if first == 0 || last < first || state.message_count == 0 {
        return Ok(Vec::new());
    }
    if state.message_count == last - first + 1 {
        return Ok(vec![(first, last)]);
    }
    let mut ranges: Vec<Range> = Vec::new();
    let mut cursor = Cursor::new(node.messages.as_mut(), name);
    let mut next = first;
    while let Some(found) = cursor.next_from(next)? {
        let sequence = found.sequence.get();
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == sequence => *end = sequence,
            Some(_) | None => ranges.push((sequence, sequence)),
        }
        next = sequence + 1;
    }
    Ok(ranges)
}

/// Positions lie within the channel.
fn within(mut subscription: Subscription, extent: &Extent) -> Subscription {
    let state = &mut subscription.state;
    state.last_sent = state.last_sent.min(extent.last);
    let range = extent.first..=extent.last;
    subscription.pending.retain(|sequence| range.contains(sequence));
    subscription
}

fn missing(planned: &[Planned]) -> Option<String> {
    let of_channel = |channel: &Planned| {
        let ranges = channel.extent.missing.iter();
        let ranges: Vec<_> = ranges.map(|range| shown(*range)).collect();
        (!ranges.is_empty()).then(|| format!("{} of channel {}", ranges.join(", "), channel.name))
    };
    let texts: Vec<_> = planned.iter().filter_map(of_channel).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// A range as people read it.
#[must_use]
pub fn shown((first, last): Range) -> String {
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

fn report(nodes: &[Node], choice: &Choice, planned: &[Planned], clients: usize) -> Report {
    let chosen = &nodes[choice.index];
    let of_node = |node: &Node| {
        let name = node.facts.name.clone();
        node.notices.iter().map(move |text| format!("{name}: {text}")).collect::<Vec<_>>()
    };
    let mut notes: Vec<String> = nodes.iter().flat_map(of_node).collect();
    for stranger in &choice.strangers {
        notes.push(format!(
            "{} is no member of the cluster any more: only its messages are looked at",
            nodes[*stranger].facts.name
        ));
    }
    if !choice.has_majority() {
        notes.push(format!(
            "no majority of the members was given: what {} alone had is missing",
            choice.absent.join(", ")
        ));
    }
    for channel in planned.iter().filter(|it| 0 < it.snapshot_first) {
        let (name, first, extent) = (&channel.name, channel.snapshot_first, &channel.extent);
        if first < extent.first {
            notes.push(format!(
                "channel {name} began with message {first} when the snapshot was made, and begins \
                 with {} in the stores: limits have let go of those between, or they are lost",
                extent.first
            ));
        }
    }
    let channel = |channel: &Planned| {
        let (from_log, from_others) = channel.holders.from_log_and_others(&channel.extent);
        ChannelReport {
            name: channel.name.to_string(),
            first: channel.extent.first,
            last: channel.extent.last,
            subscriptions: channel.subscriptions.len(),
            from_log,
            from_others,
            missing: channel.extent.missing.clone(),
        }
    };
    Report {
        cluster_id: chosen.facts.cluster.clone(),
        node_id: chosen.facts.id.clone(),
        last_index: chosen.facts.last.index,
        last_term: chosen.facts.last.term,
        snapshot_index: chosen.snapshot.as_ref().map_or(0, |snapshot| snapshot.place.index),
        given: choice.present.clone(),
        absent: choice.absent.clone(),
        clients,
        channels: planned.iter().map(channel).collect(),
        notes,
    }
}

/// That of the node, which is no node any more.
fn server_record(node: &Node) -> spb::ServerInfo {
    spb::ServerInfo { node_id: Bytes::new(), ..node.server.clone() }
}

/// What is being written.
struct Writing<'a> {
    target: &'a mut NewStore,
    in_log: &'a InLog,
    is_forced: bool,
    done: u64,
    all: u64,
    /// Where the new store numbers all subscriptions as one.
    subscription_next: u64,
    tell: &'a mut dyn FnMut(&Progress<'_>),
}

impl Writing<'_> {
    fn channel(
        &mut self,
        nodes: &mut [Node],
        chosen: usize,
        channel: Planned,
        told: &mut ChannelReport,
    ) -> Result<(), ImportError> {
        let begin = ChannelBatch {
            channel: channel.name.clone(),
            lifecycle: Lifecycle::Create,
            begins_after: Sequence(channel.extent.first.saturating_sub(1)),
            ..ChannelBatch::default()
        };
        if channel.extent.last == 0 {
            self.target.write(begin)?;
        } else {
            self.messages(nodes, chosen, &channel, begin, told)?;
        }
        self.subscriptions(channel)
    }

    fn messages(
        &mut self,
        nodes: &mut [Node],
        chosen: usize,
        channel: &Planned,
        mut part: ChannelBatch,
        told: &mut ChannelReport,
    ) -> Result<(), ImportError> {
        let (name, number) = (&channel.name, channel.number);
        let has: Vec<bool> = nodes.iter().map(|it| it.channel(name, number).is_some()).collect();
        let (mut own, mut others, mut log) = (None, Vec::new(), None);
        for ((index, node), has) in nodes.iter_mut().enumerate().zip(has) {
            let cursor = has.then(|| Cursor::new(node.messages.as_mut(), name));
            if index == chosen {
                (own, log) = (cursor, Some(&node.log));
            } else {
                others.extend(cursor);
            }
        }
        let Some(log) = log else { return Ok(()) };
        // Counted anew: what was looked at before was ranges, and these are messages.
        (told.from_log, told.from_others) = (0, 0);
        let mut gathering = Gathering::new((name, number), own, (log, self.in_log), others);
        let (mut bytes, mut last_time) = (0, WallTime(0));
        for sequence in channel.extent.first..=channel.extent.last {
            let message = match gathering.take(sequence)? {
                Some((message, origin)) => {
                    told.from_log += u64::from(origin == Origin::Log);
                    told.from_others += u64::from(origin == Origin::OtherStore);
                    message
                }
                // It was let go of, and keeps the place of the next number.
                None if channel.extent.first == channel.extent.last => {
                    MessageRecord::stand_in(name, sequence, last_time)
                }
                None => {
                    if !self.is_forced {
                        let text = format!("{sequence} of channel {name}");
                        return Err(ImportError::Missing(text));
                    }
                    note_missing(&mut told.missing, sequence);
                    MessageRecord::stand_in(name, sequence, last_time)
                }
            };
            last_time = message.timestamp;
            bytes += message.encoded.len();
            part.messages.push(message);
            if BATCH_COUNT <= part.messages.len() || BATCH_BYTES <= bytes {
                self.write(&mut part)?;
                bytes = 0;
            }
        }
        if !part.messages.is_empty() {
            self.write(&mut part)?;
        }
        Ok(())
    }

    /// Writes what is there, and goes on behind it.
    fn write(&mut self, part: &mut ChannelBatch) -> Result<(), ImportError> {
        let channel = part.channel.clone();
        let next = ChannelBatch { channel: channel.clone(), ..ChannelBatch::default() };
        let part = std::mem::replace(part, next);
        self.done += u64::try_from(part.messages.len()).unwrap_or(0);
        self.target.write(part)?;
        (self.tell)(&Progress { channel: &channel, done: self.done, all: self.all });
        Ok(())
    }

    fn subscriptions(&mut self, channel: Planned) -> Result<(), ImportError> {
        let mut writes = Vec::new();
        for Subscription { mut state, pending, .. } in channel.subscriptions {
            if self.target.numbers_subscriptions_as_one() {
                state.id = self.subscription_next;
                self.subscription_next += 1;
            }
            let id = SubscriptionId(state.id);
            writes.push(SubscriptionWrite::Create(state.into()));
            let sent = |sequence| SubscriptionWrite::Sent(id, Sequence(sequence));
            writes.extend(pending.into_iter().map(sent));
        }
        while !writes.is_empty() {
            let rest = writes.split_off(writes.len().min(BATCH_WRITES));
            let part = ChannelBatch {
                channel: channel.name.clone(),
                subscriptions: std::mem::replace(&mut writes, rest),
                ..ChannelBatch::default()
            };
            self.target.write(part)?;
        }
        Ok(())
    }
}

/// Adds one to ranges that ascend.
fn note_missing(ranges: &mut Vec<Range>, sequence: u64) {
    if ranges.iter().any(|(first, last)| (*first..=*last).contains(&sequence)) {
        return;
    }
    match ranges.last_mut() {
        Some((_, last)) if *last + 1 == sequence => *last = sequence,
        Some(_) | None => ranges.push((sequence, sequence)),
    }
    ranges.sort_unstable();
}
