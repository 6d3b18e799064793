//! a backup of what this process serves, made by a thread of its own; how far it is
//!
//! The thread asks the store workers, through the loops as pages do, what they hold and for the
//! messages: they answer between their commits. It writes to the new directory alone.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, Sequence, Ticket};
use crate::base::placement;
use crate::base::record::{FetchRequest, MessageRecord, RecoveredChannel};
use crate::base::time::Instant;
use crate::base::world;
use crate::config::Config;
use crate::election::membership::Standing;
use crate::engine::effect::Level;
use crate::monitor::Published;
use crate::net::control::Mailbox;
use crate::proto::spb;
use crate::server::Server;
use crate::server::control_protocol::{BackupEnd, BackupStatus};
use crate::server::engine_driver::Mail;
use crate::server::logging::streaming;
use crate::site::Site;
use crate::store::source::unlimited;
use crate::store::worker::{Peek, Stocktaking};
use crate::store::{Inventory, Wanted};
use crate::transfer::backup::{self, Progress, Served};
use crate::transfer::error::TransferError;
use crate::transfer::origin::Origin;

/// What is read at once; whoever commits waits for no more.
const READ_COUNT_MAX: usize = 512;
const READ_BYTES_MAX: usize = 1024 * 1024;
const NAMES_MAX: usize = 1_024;

/// How long a store may be too busy to answer, or without an engine.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How soon a question is asked again that found no room.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// A backup that was begun.
pub(super) struct Backup {
    status: Arc<Published<BackupStatus>>,
}

impl Server {
    /// Begins to copy what is served into a new directory.
    ///
    /// # Errors
    /// Why not, for a person.
    pub(super) fn begin_backup(&mut self, to: &str) -> Result<BackupStatus, String> {
        if let Some(status) = self.backup_status().filter(|status| status.end == BackupEnd::Open) {
            return Err(format!("a backup into {} is being made", status.to));
        }
        if Standing::from(self.member.role()) != Standing::Active {
            return Err("this member is not active".to_owned());
        }
        if !Path::new(to).is_absolute() {
            return Err(format!("{to} is not a whole path"));
        }
        let status = BackupStatus { to: to.to_owned(), ..BackupStatus::default() };
        let published = Arc::new(Published::new(status.clone()));
        let run = Run {
            config: config_of(&self.config, Path::new(to)),
            site: Arc::clone(&self.site),
            cluster_id: self.cluster_id.clone(),
            served: ByMail { mailboxes: self.mailboxes.clone(), epoch: None, last: None },
            status: Arc::clone(&published),
            began_at: world::instant(),
        };
        let thread = thread::Builder::new().name("backup".to_owned()).spawn(move || run.run());
        thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        streaming(Level::Info, &format!("A backup into {} was asked for", status.to));
        self.backup = Some(Backup { status: published });
        Ok(status)
    }

    /// How far the last one is.
    pub(super) fn backup_status(&self) -> Option<BackupStatus> {
        self.backup.as_ref().map(|backup| BackupStatus::clone(&backup.status.load()))
    }
}

/// As a server over the new directory alone.
fn config_of(own: &Config, to: &Path) -> Config {
    let mut config = own.clone();
    config.streaming.directory = Some(to.to_owned());
    config.streaming.limits = unlimited();
    config.streaming.ft_group = None;
    config.streaming.file.slice_archive_script = None;
    config
}

/// What the thread has.
struct Run {
    config: Config,
    site: Arc<dyn Site>,
    cluster_id: Bytes,
    served: ByMail,
    status: Arc<Published<BackupStatus>>,
    began_at: Instant,
}

impl Run {
    fn run(mut self) {
        let (status, began_at) = (Arc::clone(&self.status), self.began_at);
        let to = status.load().to.clone();
        let publish = |progress: &Progress, end: BackupEnd| {
            let millis = world::instant().since(began_at).as_millis();
            status.set(BackupStatus {
                to: to.clone(),
                end,
                channels: progress.channels,
                channels_all: progress.channels_all,
                messages: progress.messages,
                subscriptions: progress.subscriptions,
                clients: progress.clients,
                millis: u64::try_from(millis).unwrap_or(u64::MAX),
            });
        };
        let mut last = Progress::default();
        let done = self.prepared().and_then(|server| {
            backup::back_up(&mut self.served, server, &self.config, &mut |progress| {
                last = *progress;
                publish(progress, BackupEnd::Open);
            })
        });
        match done {
            Ok(progress) => {
                streaming(Level::Info, &format!("The backup into {to} is complete"));
                publish(&progress, BackupEnd::Done);
            }
            Err(error) => {
                streaming(Level::Error, &format!("The backup into {to} has failed: {error}"));
                publish(&last, BackupEnd::Failed(error.to_string()));
            }
        }
    }
}

impl Run {
    /// The server's record, if this process serves, and if the place will do.
    fn prepared(&mut self) -> Result<spb::ServerInfo, TransferError> {
        // Nothing is made by who does not serve, or serves what is backed up in another way.
        self.served.check()?;
        let to = self.config.streaming.directory.clone().unwrap_or_default();
        let parent = to.ancestors().skip(1).find_map(|parent| parent.canonicalize().ok());
        if let (Some(own), Some(parent)) = (self.site.path(), parent)
            && parent.starts_with(own)
        {
            // It would be a channel.
            let text = format!("{} lies in the store itself", to.display());
            return Err(TransferError::Served(text));
        }
        let server = self.site.peek_server();
        server.filter(|found| found.cluster_id == self.cluster_id).ok_or_else(|| {
            TransferError::Served("the record of this server cannot be read: ask again".to_owned())
        })
    }
}

/// What this process serves, as its loops give it.
struct ByMail {
    mailboxes: Vec<Mailbox<Mail>>,
    /// Of those who have answered.
    epoch: Option<Epoch>,
    /// Whose messages are read, and to which one.
    last: Option<(ChannelName, Sequence)>,
}

impl ByMail {
    fn loop_of(&self, channel: &ChannelName) -> usize {
        let loops = u16::try_from(self.mailboxes.len()).unwrap_or(u16::MAX);
        usize::from(placement::of_channel(channel, loops).0)
    }

    /// Asks until it is answered: who works goes first, and a question that finds no room is gone.
    fn ask<T>(
        &self,
        index: usize,
        mail: impl Fn(Sender<Result<T, String>>) -> Mail,
    ) -> Result<T, TransferError> {
        let deadline = world::instant() + ANSWER_WITHIN;
        loop {
            let (told, answer) = bounded(1);
            self.mailboxes[index].deliver(mail(told));
            let left = deadline.since(world::instant());
            match answer.recv_timeout(left) {
                Ok(answer) => return answer.map_err(TransferError::Served),
                Err(RecvTimeoutError::Disconnected) if !left.is_zero() => {
                    thread::park_timeout(ASK_AGAIN_AFTER);
                }
                Err(_) => {
                    let seconds = ANSWER_WITHIN.as_secs();
                    let text = format!(
                        "this member is not active, or its store does not answer within {seconds} s"
                    );
                    return Err(TransferError::Served(text));
                }
            }
        }
    }

    fn inventory(&mut self, index: usize, wanted: &Wanted) -> Result<Inventory, TransferError> {
        let found: Inventory = self.ask(index, |told| {
            // The asker may have given up waiting.
            let done = Box::new(move |found| drop(told.try_send(found)));
            Mail::Inventory(Stocktaking { wanted: wanted.clone(), done })
        })?;
        if *self.epoch.get_or_insert(found.epoch) != found.epoch {
            let text = "another member was active meanwhile: ask again".to_owned();
            return Err(TransferError::Served(text));
        }
        Ok(found)
    }
}

impl Origin for ByMail {
    fn read(
        &mut self,
        channel: &ChannelName,
        from: Sequence,
    ) -> Result<Vec<MessageRecord>, TransferError> {
        let request = FetchRequest {
            ticket: Ticket(0),
            channel: channel.clone(),
            from,
            count_max: READ_COUNT_MAX,
            bytes_max: READ_BYTES_MAX,
        };
        let mut messages: Vec<MessageRecord> = self.ask(self.loop_of(channel), |told| {
            // The asker may have given up waiting.
            let done = Box::new(move |read| drop(told.try_send(read)));
            Mail::Peek(Peek { request: request.clone(), done })
        })?;
        if let Some((of, last)) = &self.last
            && of == channel
        {
            messages.retain(|message| message.sequence <= *last);
        }
        Ok(messages)
    }

    fn confirm(&mut self) -> Result<(), TransferError> {
        Ok(())
    }
}

impl Served for ByMail {
    fn clients(&mut self) -> Result<Vec<spb::ClientInfo>, TransferError> {
        Ok(self.inventory(0, &Wanted::Clients)?.clients)
    }

    fn names(&mut self) -> Result<Vec<ChannelName>, TransferError> {
        let mut names = Vec::new();
        for index in 0..self.mailboxes.len() {
            let mut after = None;
            loop {
                let wanted = Wanted::Names { after: after.clone(), count_max: NAMES_MAX };
                let found = self.inventory(index, &wanted)?.names;
                let Some(last) = found.last() else { break };
                after = Some(last.clone());
                names.extend(found);
            }
        }
        names.sort();
        Ok(names)
    }

    fn channel(&mut self, name: &ChannelName) -> Result<Option<RecoveredChannel>, TransferError> {
        let wanted = Wanted::Channel(name.clone());
        let found = self.inventory(self.loop_of(name), &wanted)?.channel;
        self.last = found.as_ref().map(|channel| (name.clone(), channel.state.last));
        Ok(found)
    }

    fn check(&mut self) -> Result<(), TransferError> {
        self.inventory(0, &Wanted::Names { after: None, count_max: 0 }).map(drop)
    }
}
