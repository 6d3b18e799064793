//! servers of one cluster ID, each with channels of its own: does another one have one of ours?
//! (spec protocol, 18)
//!
//! A server that stands alone asks before it serves, a member of a group some time after it has
//! taken over: its predecessor had the same channels, so nobody has to wait. Both ask again when
//! routes have come or gone, and now and then. Who is answered with a channel that both have ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Sender;

use crate::base::id::Subject;
use crate::base::time::Instant;
use crate::base::world;
use crate::broker::Search;
use crate::election::input::Input;
use crate::engine::effect::Level;
use crate::engine::refusal::quoted;
use crate::net::Control;
use crate::server::channel_list::{decode_message, encode_list};
use crate::server::channel_list_reader::{ListReader, Told};
use crate::server::engine_driver::Mail;
use crate::server::event::{self, Event};
use crate::server::interest_key::{Listener, SERVER_INBOX_PREFIX};
use crate::server::logging::streaming;
use crate::server::{Server, settings};

/// Between two lists while a start asks.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long others have to answer once the routes are there.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Between two looks whether routes have come or gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Our list goes out again after so many looks: what was lost on its way is told then.
const LOOKS_A_LIST: u32 = 30;
/// What a new route carries may be known some time after it: so many lists go out.
const LISTS_FOR_A_ROUTE: u32 = 2;
/// Bytes of lists that may wait to be looked at; one may always.
const LISTS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Servers whose answers are counted.
const SERVERS_MAX: usize = 1_000;
/// A member of a group asks so long after it has taken over: until then its predecessor, which has
/// the same channels, may still answer with a lease that holds in its own eyes.
const MEMBER_ASKS_AFTER: Duration = Duration::from_secs(10);
/// Two that meet later both end, as there: who finds out first goes on answering for so long.
const CONFLICT_ENDS_AFTER: Duration = Duration::from_millis(1_500);

/// What a server tells and hears of the channels of others.
#[derive(Debug)]
pub(super) struct Partitions {
    /// Where all servers send their lists.
    lists: Subject,
    /// Where answers go.
    inbox: Subject,
    /// Our own list, in messages.
    messages: Vec<Bytes>,
    /// In which term a start waits for answers, and until when at most.
    asking: Option<(u64, Instant)>,
    /// Whether other servers may hear it.
    has_cluster: bool,
    /// What the routes were found to be, and since when.
    routes: Option<(Search, Instant)>,
    /// Lists that are still to go out.
    to_send: u32,
    /// Looks since a list went out.
    looks: u32,
    /// Answers to the list that went out last, by server: each part of it has one.
    answers: BTreeMap<Bytes, usize>,
    /// What another server has too, and when this one ends by that.
    conflict: Option<(String, Instant)>,
    next_at: Instant,
    /// To the thread that looks at the lists of others; it ends with this.
    to_reader: Sender<Told>,
    /// Bytes of the lists that wait for it.
    waiting_bytes: Arc<AtomicUsize>,
}

impl Partitions {
    pub fn next_deadline(&self) -> Option<Instant> {
        let conflict_at = self.conflict.as_ref().map(|(_, at)| *at);
        [self.has_cluster.then_some(self.next_at), conflict_at].into_iter().flatten().min()
    }

    fn listening(&self) -> [(Subject, Listener); 2] {
        [
            (self.lists.clone(), Listener::ChannelLists),
            (self.inbox.clone(), Listener::ChannelListAnswers),
        ]
    }

    /// Whether each server that answers has looked at all parts of the list.
    fn is_answered_whole(&self) -> bool {
        self.answers.values().all(|count| self.messages.len() <= *count)
    }

    /// Whether all who are there had the time to answer.
    fn were_all_asked(&self, now: Instant) -> bool {
        let Some((_, deadline)) = self.asking else { return false };
        let is_settled = match self.routes {
            Some((Search::Ended { .. }, since)) => {
                since + ANSWER_WITHIN <= now && self.is_answered_whole()
            }
            _ => !self.has_cluster,
        };
        is_settled || deadline <= now
    }
}

impl Server {
    /// Tells the channels of this server; a start that stands alone waits for what others say.
    pub(super) fn begin_partitions(&mut self, asking_term: Option<u64>) {
        self.end_partitions();
        let Some(own) = settings::partition(&self.config) else { return };
        let server_id = Bytes::from(self.server_id.clone());
        let payload_max = self.config.core.payload_bytes_max;
        let messages = match encode_list(&server_id, own.entries(), payload_max) {
            Ok(messages) => messages,
            Err(error) => return self.end_by_partitions(asking_term, error.to_string()),
        };
        let waiting_bytes = Arc::<AtomicUsize>::default();
        let reader = ListReader::new(
            Arc::clone(&own),
            server_id,
            self.mailboxes[0].clone(),
            Arc::clone(&waiting_bytes),
        );
        let to_reader = match reader.start() {
            Ok(to_reader) => to_reader,
            Err(error) => {
                let text = format!("unable to start a thread: {error}");
                return self.end_by_partitions(asking_term, text);
            }
        };
        let now = world::instant();
        let partitions = Partitions {
            lists: Subject::from(format!("_STAN.part.{}", self.config.streaming.cluster_id)),
            inbox: Subject::from(format!("{SERVER_INBOX_PREFIX}{}", self.random.unique_id())),
            messages,
            asking: asking_term.map(|term| (term, now + self.others_within())),
            has_cluster: self.hears_others(),
            routes: None,
            to_send: LISTS_FOR_A_ROUTE,
            looks: 0,
            answers: BTreeMap::new(),
            conflict: None,
            next_at: if asking_term.is_some() { now } else { now + self.settled_after() },
            to_reader,
            waiting_bytes,
        };
        for (subject, listener) in partitions.listening() {
            self.mailboxes[0].deliver(Mail::Listen { subject, listener });
        }
        self.partitions = Some(partitions);
        self.on_partitions_due(now);
    }

    /// How long after a take-over nobody of before answers clients any more.
    fn settled_after(&self) -> Duration {
        MEMBER_ASKS_AFTER.max(2 * self.config.streaming.steal_after.unwrap_or_default())
    }

    /// Nobody is told any more.
    pub(super) fn end_partitions(&mut self) {
        let Some(partitions) = self.partitions.take() else { return };
        for (subject, listener) in partitions.listening() {
            self.mailboxes[0].deliver(Mail::Unlisten { subject, listener });
        }
    }

    pub(super) fn on_partitions_due(&mut self, now: Instant) {
        let Some(partitions) = &mut self.partitions else { return };
        if let Some((text, _)) = partitions.conflict.take_if(|(_, at)| *at <= now) {
            return self.end_by_partitions(None, text);
        }
        if now < partitions.next_at {
            return;
        }
        if partitions.were_all_asked(now)
            && let Some((term, _)) = partitions.asking.take()
        {
            self.tell(Input::FoundAlone { term });
            return;
        }
        let is_asking = partitions.asking.is_some();
        partitions.next_at = now + if is_asking { ASK_EVERY } else { LOOK_EVERY };
        if partitions.has_cluster {
            partitions.looks += 1;
            let is_due = is_asking || partitions.to_send > 0 || LOOKS_A_LIST <= partitions.looks;
            partitions.to_send = partitions.to_send.saturating_sub(1);
            if is_due {
                partitions.looks = 0;
                partitions.answers.clear();
                self.send_lists();
            }
            let events = self.events_in.clone();
            let done = move |search| event::post(&events, Event::RouteSearch(search));
            self.mailboxes[0].control(Control::RouteSearch { done: Box::new(done) });
        }
    }

    fn send_lists(&self) {
        let Some(partitions) = &self.partitions else { return };
        for payload in &partitions.messages {
            self.mailboxes[0].deliver(Mail::Publish {
                subject: partitions.lists.clone(),
                reply: Some(partitions.inbox.clone()),
                payload: payload.clone(),
            });
        }
    }

    pub(super) fn on_partition_routes(&mut self, search: Search, now: Instant) {
        let Some(partitions) = &mut self.partitions else { return };
        if partitions.routes.is_none_or(|(former, _)| former != search) {
            partitions.routes = Some((search, now));
            partitions.to_send = LISTS_FOR_A_ROUTE;
        }
    }

    /// Another server tells its channels; anybody can. Beyond what is being looked at, lists are
    /// passed over: who is honest sends its own again.
    pub(super) fn on_channel_list(&mut self, payload: Bytes, reply: Option<Subject>) {
        let (Some(partitions), Some(reply)) = (&self.partitions, reply) else { return };
        let len = payload.len();
        let waiting = partitions.waiting_bytes.load(Ordering::Relaxed);
        let has_room = waiting == 0 || waiting + len <= LISTS_BYTES_MAX;
        if has_room && len != 0 && partitions.to_reader.try_send((payload, reply)).is_ok() {
            partitions.waiting_bytes.fetch_add(len, Ordering::Relaxed);
        }
    }

    /// Another server has looked at our list.
    pub(super) fn on_channel_list_answer(&mut self, payload: Bytes) {
        let Some(partitions) = &mut self.partitions else { return };
        let asking_term = partitions.asking.map(|(term, _)| term);
        match decode_message(payload) {
            Ok(answer) if answer.data.is_empty() => {
                if partitions.answers.len() < SERVERS_MAX {
                    *partitions.answers.entry(answer.server_id).or_default() += 1;
                }
            }
            Ok(answer) => {
                let text = format!(
                    "channel {} causes conflict with channels on server {}",
                    quoted(&answer.data),
                    quoted(&answer.server_id)
                );
                if asking_term.is_some() {
                    self.end_by_partitions(asking_term, text);
                } else if partitions.conflict.is_none() {
                    partitions.conflict = Some((text, world::instant() + CONFLICT_ENDS_AFTER));
                }
            }
            Err(error) => {
                let text = format!("unable to decode partitioning response: {error}");
                streaming(Level::Debug, &text);
            }
        }
    }

    fn end_by_partitions(&mut self, asking_term: Option<u64>, text: String) {
        self.end_partitions();
        match asking_term {
            Some(term) => self.tell(Input::FoundAnother { term, text }),
            None => self.tell(Input::Conflict { text: format!("Partitioning error: {text}") }),
        }
    }
}
