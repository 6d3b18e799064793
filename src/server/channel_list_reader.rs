//! the thread that looks at the channels of other servers, and answers them
//!
//! Anybody can send a list, as long as a message may be: nobody else waits while it is looked at.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::id::Subject;
use crate::base::partition::{Partition, Shared};
use crate::base::time::Instant;
use crate::base::world;
use crate::engine::effect::Level;
use crate::engine::refusal::quoted;
use crate::net::Mailbox;
use crate::server::channel_list::{
    ListError, ListMessage, decode_message, decode_names, encode_message,
};
use crate::server::engine_driver::Mail;
use crate::server::event;
use crate::server::logging::streaming;

/// A list, and where its sender wants the answer.
pub(super) type Told = (Bytes, Subject);

/// Lists that may wait, if they are small.
const WAITING_MAX: usize = event::heard_max(0);
/// A list that cannot be read is an error in the log, once in so long.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);
/// Overlaps of patterns that are warned of.
const OVERLAPS_MAX: usize = 100;

/// What it knows.
pub(super) struct ListReader {
    own: Arc<Partition>,
    server_id: Bytes,
    mailbox: Mailbox<Mail>,
    waiting_bytes: Arc<AtomicUsize>,
    complains_from: Instant,
    /// What was warned of.
    overlaps: BTreeSet<(Bytes, Bytes)>,
}

impl ListReader {
    /// `waiting_bytes` gets less by what was looked at.
    pub fn new(
        own: Arc<Partition>,
        server_id: Bytes,
        mailbox: Mailbox<Mail>,
        waiting_bytes: Arc<AtomicUsize>,
    ) -> Self {
        let (complains_from, overlaps) = (Instant::default(), BTreeSet::new());
        Self { own, server_id, mailbox, waiting_bytes, complains_from, overlaps }
    }

    /// Starts the thread, which ends when what this gives is dropped.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(mut self) -> io::Result<Sender<Told>> {
        let (to_reader, told): (_, Receiver<Told>) = bounded(WAITING_MAX);
        let work = move || told.iter().for_each(|(payload, reply)| self.read(payload, reply));
        thread::Builder::new().name("channel-lists".to_owned()).spawn(work)?;
        Ok(to_reader)
    }

    fn read(&mut self, payload: Bytes, subject: Subject) {
        self.waiting_bytes.fetch_sub(payload.len(), Ordering::Relaxed);
        let answer = match decode_message(payload) {
            Ok(list) if list.server_id == self.server_id => return,
            Ok(list) => self.answer_of(&list),
            Err(error) => Err(error),
        };
        match answer {
            Ok(data) => {
                let server_id = self.server_id.clone();
                let payload = encode_message(&ListMessage { server_id, data });
                self.mailbox.deliver(Mail::Publish { subject, reply: None, payload });
            }
            Err(error) => {
                let now = world::instant();
                if self.complains_from <= now {
                    self.complains_from = now + COMPLAIN_EVERY;
                    let text = format!("Error processing partitioning request: {error}");
                    streaming(Level::Error, &text);
                }
            }
        }
    }

    /// The first channel that both have; empty if there is none.
    fn answer_of(&mut self, list: &ListMessage) -> Result<Bytes, ListError> {
        let theirs = Partition::told(decode_names(&list.data)?).ok_or(ListError::Names)?;
        match self.own.shared_with(&theirs) {
            Shared::Nothing => Ok(Bytes::new()),
            Shared::Channel(name) => Ok(name),
            Shared::Overlap(ours, theirs) => {
                let pair = (ours, theirs);
                if self.overlaps.len() < OVERLAPS_MAX && !self.overlaps.contains(&pair) {
                    let text = format!(
                        "channels {} of this server and {} of server {} overlap: a channel of both \
                         would be served twice",
                        quoted(&pair.0),
                        quoted(&pair.1),
                        quoted(&list.server_id)
                    );
                    streaming(Level::Warning, &text);
                    self.overlaps.insert(pair);
                }
                Ok(Bytes::new())
            }
        }
    }
}
