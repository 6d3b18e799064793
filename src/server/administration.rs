//! what an operator asks of the active member: brought to the engines, by the thread of who asks
//!
//! The server's own thread says only whether this member is the one to ask. Lists come in portions,
//! as those of the pages do, and messages are read by the store between its commits; so nothing
//! here holds up a loop. A change is an input of the engine that owns what is changed.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::bounded;
use memchr::memmem;
use prost::Message;

use crate::base::id::{ChannelName, ClientId, LoopIndex, Sequence, SubscriptionId, Ticket};
use crate::base::placement;
use crate::base::record::{FetchRequest, MessageRecord};
use crate::base::subject;
use crate::base::time::WallTime;
use crate::base::world;
use crate::election::membership::Standing;
use crate::engine::administration::{
    Change, Extent as EngineExtent, Outcome, Position as EnginePosition,
};
use crate::engine::effect::Level;
use crate::engine::refusal::quoted;
use crate::engine::snapshot::{
    ChannelSnapshot, ClientSnapshot, PendingSnapshot, Snapshot, SubscriptionSnapshot, Wanted,
};
use crate::net::Mailbox;
use crate::proto::pb;
use crate::server::Server;
use crate::server::administration_protocol::{
    Administered, Administration, ChannelFacts, ClientFacts, Extent, MessageFacts, PendingFacts,
    Position, Purged, SubscriptionFacts,
};
use crate::server::control_protocol::Reply;
use crate::server::control_socket::{Answer, Asker};
use crate::server::engine_driver::Mail;
use crate::server::logging::streaming;
use crate::server::pages;

/// How long a change may take: a commit, behind those that wait.
const CHANGED_WITHIN: Duration = Duration::from_secs(25);

/// Of a channel so much is looked through for one question: the next one goes on from there.
const LOOKED_AT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// So many messages are asked of the store at once.
const PORTION_COUNT: usize = 1_000;
/// And so many bytes.
const PORTION_BYTES: usize = 256 * 1024;

impl Server {
    /// Whether this member is the one to ask, and what asks its engines.
    pub(super) fn administer(&self, what: Administration, asker: Asker) -> Answer {
        let refused = |why: &str| Answer::Say(Reply::Refused(why.to_owned()));
        match Standing::from(self.member.role()) {
            Standing::Active => (),
            Standing::Standby => return refused(&self.who_is_active()),
            Standing::TakingOver
            | Standing::Leaving
            | Standing::Gone
            | Standing::Silent
            | Standing::Unknown => return refused("this member is between two roles: ask again"),
        }
        let is_serving = self.pages.watch_serving();
        let engines = Engines { mailboxes: self.mailboxes.clone(), asker };
        Answer::Ask(Box::new(move || {
            let told = engines.carry_out(what);
            // Lists of engines that end are cut short.
            match told {
                Ok(told) if is_list(&told) && !is_serving() => {
                    Reply::Refused("this member has ceased to be active: ask again".to_owned())
                }
                Ok(told) => Reply::Administered(Box::new(told)),
                Err(why) => Reply::Refused(why),
            }
        }))
    }

    fn who_is_active(&self) -> String {
        match self.group_status().active() {
            Some(active) => {
                let (id, host) = (&active.server_id, &active.host);
                format!("this member stands by: ask {id}, which is active on {host}")
            }
            None => "this member stands by, and does not know who is active".to_owned(),
        }
    }
}

fn is_list(told: &Administered) -> bool {
    match told {
        Administered::Channels(_)
        | Administered::Channel(_)
        | Administered::Clients(_)
        | Administered::Subscriptions(_)
        | Administered::Messages { .. }
        | Administered::Pending(_) => true,
        Administered::Purged(_) | Administered::Done => false,
    }
}

/// The engines of an active member, for one question.
struct Engines {
    mailboxes: Vec<Mailbox<Mail>>,
    asker: Asker,
}

impl Engines {
    fn carry_out(&self, what: Administration) -> Result<Administered, String> {
        match what {
            Administration::Channels { pattern } => self.channels(pattern.as_deref()),
            Administration::Channel { channel } => {
                Ok(Administered::Channel(self.channel(&named(&channel)?)?))
            }
            Administration::Purge { channel, extent } => self.purge(named(&channel)?, extent),
            Administration::RemoveChannel { channel, force } => {
                let channel = named(&channel)?;
                self.change(Change::DeleteChannel { channel, with_subscriptions: force })
            }
            Administration::Clients => {
                let found = self.list(Wanted::Clients)?;
                Ok(Administered::Clients(found.clients.iter().map(client_facts).collect()))
            }
            Administration::CloseClient { client } => {
                self.change(Change::CloseClient(ClientId::from(client.as_bytes())))
            }
            Administration::Subscriptions { channel: Some(channel) } => {
                let found = self.channel(&named(&channel)?)?;
                Ok(Administered::Subscriptions(found.subscriptions.unwrap_or_default()))
            }
            Administration::Subscriptions { channel: None } => {
                let found = self.list(Wanted::All)?;
                let facts = found.channels.iter().flat_map(all_of);
                Ok(Administered::Subscriptions(facts.collect()))
            }
            Administration::CloseSubscription { channel, id } => {
                let (channel, id) = (named(&channel)?, SubscriptionId(id));
                self.change(Change::CloseSubscription { channel, id })
            }
            Administration::Messages { channel, from, count, contains } => {
                self.messages(&named(&channel)?, from, count, contains.as_deref())
            }
            Administration::Pending { channel } => self.pending(&named(&channel)?),
            Administration::ResetDurable { channel, id, to } => {
                let (channel, id) = (named(&channel)?, SubscriptionId(id));
                let to = match to {
                    Position::First => EnginePosition::First,
                    Position::Last => EnginePosition::Last,
                    Position::New => EnginePosition::New,
                    Position::At(sequence) => EnginePosition::At(Sequence(sequence)),
                    Position::Since(at) => {
                        EnginePosition::At(self.last_before(&channel, WallTime(at))?.next())
                    }
                };
                self.change(Change::ResetDurable { channel, id, to })
            }
            Administration::RemoveDurable { channel, id } => {
                let (channel, id) = (named(&channel)?, SubscriptionId(id));
                self.change(Change::RemoveDurable { channel, id })
            }
        }
    }

    fn list(&self, wanted: Wanted) -> Result<Snapshot, String> {
        let ask = pages::ask_engines(self.mailboxes.clone());
        ask(wanted).map_err(|error| error.to_string())
    }

    fn channels(&self, pattern: Option<&str>) -> Result<Administered, String> {
        if let Some(pattern) = pattern.filter(|it| !subject::is_channel_pattern(it.as_bytes())) {
            return Err(format!("{} is no pattern of channels", quoted(pattern.as_bytes())));
        }
        let found = self.list(Wanted::Names)?;
        let is_meant = |one: &&ChannelSnapshot| {
            pattern.is_none_or(|it| subject::matches(it.as_bytes(), one.channel.as_bytes()))
        };
        let facts = found.channels.iter().filter(is_meant).map(channel_facts);
        Ok(Administered::Channels(facts.collect()))
    }

    fn channel(&self, name: &ChannelName) -> Result<ChannelFacts, String> {
        let found = self.list(Wanted::Channels(Arc::from([name.clone()])))?;
        let found = found.channels.into_iter().next();
        let found = found.ok_or_else(|| no_channel(name))?;
        let subscriptions = Some(all_of(&found).collect());
        Ok(ChannelFacts { subscriptions, ..channel_facts(&found) })
    }

    fn purge(&self, channel: ChannelName, extent: Extent) -> Result<Administered, String> {
        let extent = match extent {
            Extent::All => EngineExtent::All,
            Extent::Keep(count) => EngineExtent::Keep(count),
            Extent::To(sequence) => EngineExtent::To(Sequence(sequence)),
            Extent::Before(at) => EngineExtent::To(self.last_before(&channel, WallTime(at))?),
        };
        let name = channel.to_string();
        match self.ask(Change::Purge { channel, extent })? {
            Outcome::Purged { removed, state } => Ok(Administered::Purged(Purged {
                channel: name,
                removed,
                messages: state.message_count,
                first: state.first.0,
                last: state.last.0,
            })),
            Outcome::Gone => Ok(Administered::Done),
            Outcome::Refused(why) => Err(why),
        }
    }

    /// The last message that was stored before a time, by halves; 0 if none was.
    fn last_before(&self, channel: &ChannelName, at: WallTime) -> Result<Sequence, String> {
        let found = self.channel(channel)?;
        let (mut low, mut high) = (found.first, found.last.saturating_add(1));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.read_one(channel, middle)? {
                Some(message) if message.timestamp < at => low = message.sequence.next().0,
                Some(_) | None => high = middle,
            }
        }
        Ok(Sequence(low.saturating_sub(1)))
    }

    fn read_one(&self, channel: &ChannelName, from: u64) -> Result<Option<MessageRecord>, String> {
        Ok(self.read(channel, from, (1, 1))?.into_iter().next())
    }

    fn read(
        &self,
        channel: &ChannelName,
        from: u64,
        (count_max, bytes_max): (usize, usize),
    ) -> Result<Vec<MessageRecord>, String> {
        let read = pages::ask_stores(self.mailboxes.clone());
        let (ticket, channel, from) = (Ticket::default(), channel.clone(), Sequence(from));
        read(FetchRequest { ticket, channel, from, count_max, bytes_max })
            .map_err(|error| error.to_string())
    }

    /// Messages from one on, in portions between which the store does other things.
    fn messages(
        &self,
        channel: &ChannelName,
        from: u64,
        count: usize,
        contains: Option<&str>,
    ) -> Result<Administered, String> {
        let held = self.channel(channel)?;
        let mut from = from.max(held.first);
        let (mut found, mut looked_at) = (Vec::new(), 0);
        while found.len() < count && from <= held.last && looked_at < LOOKED_AT_BYTES_MAX {
            let most = if contains.is_some() { PORTION_COUNT } else { count - found.len() };
            let portion = self.read(channel, from, (most.min(PORTION_COUNT), PORTION_BYTES))?;
            if portion.is_empty() {
                from = held.last.saturating_add(1);
            }
            for record in portion {
                from = record.sequence.next().0;
                looked_at += record.encoded.len();
                let message = message_facts(&record)?;
                let is_meant =
                    contains.is_none_or(|part| memmem::find(&message.1, part.as_bytes()).is_some());
                if is_meant {
                    found.push(message.0);
                }
                if found.len() == count {
                    break;
                }
            }
        }
        Ok(Administered::Messages { found, next: (from <= held.last).then_some(from) })
    }

    fn pending(&self, channel: &ChannelName) -> Result<Administered, String> {
        let found = self.list(Wanted::Pending(channel.clone()))?;
        let found = found.channels.first().ok_or_else(|| no_channel(channel))?;
        let now = world::now();
        let of_one = |one: &SubscriptionSnapshot| {
            let (subscription, client) = (one.id.0, one.client.to_string());
            let (durable, queue) = (one.durable_name.to_string(), one.queue_name.to_string());
            let fact = |pending: &PendingSnapshot| PendingFacts {
                sequence: pending.sequence.0,
                subscription,
                client: client.clone(),
                durable: durable.clone(),
                queue: queue.clone(),
                since: pending.sent_at.map(|at| {
                    let ago = i64::try_from(now.at.since(at).as_nanos()).unwrap_or(i64::MAX);
                    now.wall.0.saturating_sub(ago)
                }),
                redelivered: pending.redelivered,
            };
            one.pending.iter().map(fact).collect::<Vec<_>>()
        };
        Ok(Administered::Pending(found.subscriptions.iter().flat_map(of_one).collect()))
    }

    fn change(&self, change: Change) -> Result<Administered, String> {
        match self.ask(change)? {
            Outcome::Gone | Outcome::Purged { .. } => Ok(Administered::Done),
            Outcome::Refused(why) => Err(why),
        }
    }

    /// Asks the engine that is responsible, and says in the log who did and what came of it.
    fn ask(&self, change: Change) -> Result<Outcome, String> {
        let (what, home) = self.describe(&change);
        let who = self.asker.to_string();
        streaming(Level::Info, &format!("{who} asks to {what}"));
        let (told, answer) = bounded(1);
        // Whoever asked and did not wait misses it; the log has it all the same.
        let done = move |outcome: Outcome| {
            streaming(Level::Info, &format!("{who} asked to {what}: {}", ending(&outcome)));
            let _ = told.try_send(outcome);
        };
        self.mailboxes[home.index()].deliver(Mail::Administer { change, done: Box::new(done) });
        answer.recv_timeout(CHANGED_WITHIN).map_err(|error| {
            let why = if error.is_timeout() {
                let seconds = CHANGED_WITHIN.as_secs();
                format!("the store has not answered for {seconds} s")
            } else {
                "this member has ceased to be active meanwhile".to_owned()
            };
            format!("{why}: whether it is done is not known; look, and ask again")
        })
    }

    /// A change in words, and the loop whose engine makes it.
    fn describe(&self, change: &Change) -> (String, LoopIndex) {
        let loops = u16::try_from(self.mailboxes.len()).unwrap_or(u16::MAX);
        let of_channel = |name| placement::of_channel(name, loops);
        let shown = |name: &ChannelName| quoted(name.as_bytes());
        match change {
            Change::Purge { channel, extent } => {
                let how = match extent {
                    EngineExtent::All => "of everything".to_owned(),
                    EngineExtent::Keep(count) => format!("but for the newest {count} messages"),
                    EngineExtent::To(to) => format!("up to message {to}"),
                };
                (format!("purge channel {} {how}", shown(channel)), of_channel(channel))
            }
            Change::DeleteChannel { channel, with_subscriptions } => {
                let how = if *with_subscriptions { " with its subscriptions" } else { "" };
                (format!("delete channel {}{how}", shown(channel)), of_channel(channel))
            }
            Change::CloseClient(client) => {
                let what = format!("close client {}", quoted(client.as_bytes()));
                (what, placement::of_client(client, loops))
            }
            Change::CloseSubscription { channel, id } => {
                let what = format!("close subscription {id} of channel {}", shown(channel));
                (what, of_channel(channel))
            }
            Change::ResetDurable { channel, id, to } => {
                let to = match to {
                    EnginePosition::First => "the first message".to_owned(),
                    EnginePosition::Last => "the last message".to_owned(),
                    EnginePosition::New => "what is published next".to_owned(),
                    EnginePosition::At(sequence) => format!("message {sequence}"),
                };
                let what = format!("reset durable {id} of channel {} to {to}", shown(channel));
                (what, of_channel(channel))
            }
            Change::RemoveDurable { channel, id } => {
                let what = format!("remove durable {id} of channel {}", shown(channel));
                (what, of_channel(channel))
            }
        }
    }
}

fn ending(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Purged { removed, state } => {
            format!("{removed} messages are gone, {} are left", state.message_count)
        }
        Outcome::Gone => "done".to_owned(),
        Outcome::Refused(why) => format!("refused: {why}"),
    }
}

fn no_channel(name: &ChannelName) -> String {
    format!("there is no channel {}", quoted(name.as_bytes()))
}

/// The name of one channel.
fn named(name: &str) -> Result<ChannelName, String> {
    let bytes = name.as_bytes();
    if subject::has_wildcard(bytes) {
        return Err(format!("{} means several channels: name one", quoted(bytes)));
    }
    if !subject::is_channel_name(bytes) {
        return Err(format!("{} is no name of a channel", quoted(bytes)));
    }
    Ok(ChannelName::from(bytes))
}

fn channel_facts(found: &ChannelSnapshot) -> ChannelFacts {
    ChannelFacts {
        channel: found.channel.to_string(),
        messages: found.state.message_count,
        bytes: found.state.byte_count,
        first: found.state.first.0,
        last: found.state.last.0,
        subscriptions: None,
    }
}

fn client_facts(found: &ClientSnapshot) -> ClientFacts {
    ClientFacts {
        client: found.client.to_string(),
        heartbeat_inbox: found.heartbeat_inbox.to_string(),
        failed_heartbeats: found.failed_heartbeats,
    }
}

/// A message, and its payload.
fn message_facts(record: &MessageRecord) -> Result<(MessageFacts, Bytes), String> {
    let sequence = record.sequence.0;
    let message = pb::MsgProto::decode(record.encoded.clone())
        .map_err(|error| format!("message {sequence} cannot be read: {error}"))?;
    let text = std::str::from_utf8(&message.data).ok().map(str::to_owned);
    let hex = || {
        message.data.iter().fold(String::new(), |mut hex, byte| {
            // Text never fails to be written to.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    };
    let hex = text.is_none().then(hex);
    let (timestamp, size) = (record.timestamp.0, message.data.len());
    Ok((MessageFacts { sequence, timestamp, size, text, hex }, message.data))
}

fn all_of(found: &ChannelSnapshot) -> impl Iterator<Item = SubscriptionFacts> {
    found.subscriptions.iter().map(|one: &SubscriptionSnapshot| SubscriptionFacts {
        channel: found.channel.to_string(),
        id: one.id.0,
        client: one.client.to_string(),
        durable: one.durable_name.to_string(),
        queue: one.queue_name.to_string(),
        is_durable: one.is_durable,
        is_offline: one.is_offline,
        is_stalled: one.is_stalled,
        in_flight_max: one.in_flight_max,
        ack_wait_secs: one.ack_wait_secs,
        last_sent: one.last_sent.0,
        pending: one.pending_count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_one_channel_is_taken() {
        let refused = |name: &str| named(name).expect_err("no name of one channel");
        assert_eq!(named("foo.bar"), Ok(ChannelName::from("foo.bar")));
        assert_eq!(refused("foo.*"), "\"foo.*\" means several channels: name one");
        assert_eq!(refused(">"), "\">\" means several channels: name one");
        assert_eq!(refused("foo..bar"), "\"foo..bar\" is no name of a channel");
        assert_eq!(refused(""), "\"\" is no name of a channel");
    }
}
