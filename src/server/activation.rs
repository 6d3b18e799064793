//! opens the store and makes the engines of one activation from what was recovered

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::base::channel_limits::LimitsError;
use crate::base::epoch::{Epoch, Fence, Predecessor};
use crate::base::id::LoopIndex;
use crate::base::meters::Meters;
use crate::base::placement;
use crate::base::pulse::Vitals;
use crate::base::random::Random;
use crate::base::record::{RecoveredChannel, RecoveredState};
use crate::base::world;
use crate::config::Config;
use crate::engine::recovery::OtherCluster;
use crate::engine::{self, Engine, recovery};
use crate::net::Mailbox;
use crate::proto::spb;
use crate::server::engine_driver::{self, Activation, Mail};
use crate::server::settings;
use crate::site::Site;
use crate::store::encryption::notice;
use crate::store::progress::Working;
use crate::store::worker::{self, Job, Worker, WorkerSettings};
use crate::store::{self, Remedy, StoreError};

/// Why an activation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its limits make no sense.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// It belongs to another cluster.
    #[error(transparent)]
    OtherCluster(#[from] OtherCluster),
    /// The system gave no thread for the store.
    #[error("unable to start a thread for the store: {0}")]
    Thread(io::Error),
}

impl ActivationError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Store(error) => error.remedy(),
            Self::Limits(_) | Self::OtherCluster(_) => Remedy::Stop,
            Self::Thread(_) => Remedy::StepDown,
        }
    }
}

impl ActivationError {
    /// Whether it stays until a person acts, whoever tries.
    #[must_use]
    pub fn lasts(&self) -> bool {
        match self {
            Self::Store(error) => error.lasts(),
            Self::Limits(_) | Self::OtherCluster(_) => true,
            Self::Thread(_) => false,
        }
    }
}

/// Everything that one activation starts from. It belongs to the thread that recovers.
pub struct Ground {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// Where the data lies.
    pub site: Arc<dyn Site>,
    /// Which activation of this process.
    pub term: u64,
    /// The right to write in this term, and in no other: a thread that wakes late is held up by it.
    pub fence: Arc<dyn Fence>,
    /// How the holder before left.
    pub predecessor: Predecessor,
    /// Where reports of the store workers go, by loop.
    pub mailboxes: Vec<Mailbox<Mail>>,
    /// Where progress is seen.
    pub vitals: Vitals,
    /// What is counted while the stores work.
    pub meters: Meters,
    /// For what engines draw by chance.
    pub seed: u64,
}

/// What was recovered, for the log.
pub struct Recovered {
    /// One activation a loop.
    pub activations: Vec<Activation>,
    /// Channels in the store; `None` if it held nothing at all.
    pub channel_count: Option<usize>,
    /// The server's record was lost though channels are there.
    pub lost_server_record: bool,
    /// The subjects in use.
    pub info: spb::ServerInfo,
    /// What the operator should know of the store.
    pub notices: Vec<store::Notice>,
    /// How long it took.
    pub duration: Duration,
}

impl Ground {
    /// Opens the store, makes the engines, starts the store workers; nothing is served yet.
    ///
    /// # Errors
    /// See [`ActivationError::remedy`].
    pub fn recover(self) -> Result<Recovered, ActivationError> {
        let began = world::now();
        let mut random = Random::new(self.seed);
        let _opening = Working::begin(Arc::clone(self.vitals.opening()));
        let opened = self.site.open(&self.fence, self.predecessor)?;
        let state = opened.recovered;
        let looks = notice::looks(&state.channels, opened.shares.len());
        let had_server = state.server.is_some();
        let channel_count = state.channels.len();
        let streaming = &self.config.streaming;
        let limits = streaming.limits.resolve()?;
        let settings = settings::engine(&self.config, self.site.as_ref(), &limits);
        let (info, info_is_new) = recovery::server_info(
            state.server.clone(),
            &streaming.cluster_id,
            &streaming.discover_prefix,
        )?;
        let server = (info.clone(), info_is_new);
        let starts = starts(self.config.loops, state, &server, &mut random);
        let mut activations = Vec::new();
        for ((start, share), looks) in starts.into_iter().zip(opened.shares).zip(looks) {
            let worker = self.start_worker(&start, share)?;
            // Without it nobody is warned; its mailbox is empty now.
            let _ = worker.try_submit(Job::Look(looks));
            let engine = Engine::recover(settings.clone(), start, world::now());
            let (term, epoch) = (self.term, self.epoch());
            activations.push(Activation { term, epoch, engine, worker });
        }
        Ok(Recovered {
            activations,
            channel_count: (had_server || channel_count > 0).then_some(channel_count),
            lost_server_record: !had_server && channel_count > 0,
            info,
            notices: opened.notices,
            duration: world::instant().since(began.at),
        })
    }

    fn start_worker(
        &self,
        start: &engine::Start,
        share: Box<dyn store::Store>,
    ) -> Result<Worker, ActivationError> {
        let settings = WorkerSettings {
            name: format!("store-{}", start.index.0),
            epoch: self.epoch(),
            pulse: Arc::clone(self.vitals.store(start.index.index())),
            meters: self.meters.store(start.index.index()),
            loops: self.config.loops,
        };
        let mailbox = self.mailboxes[start.index.index()].clone();
        let term = self.term;
        let report = move |report| {
            // A loop that is gone needs no reports: the process is stopping.
            let _ = mailbox.deliver(engine_driver::Mail::Report { term, report });
        };
        worker::spawn(share, settings, report).map_err(ActivationError::Thread)
    }

    fn epoch(&self) -> Epoch {
        self.fence.epoch()
    }
}

/// Why this process could not take over from another active, if it never could.
#[must_use]
pub fn trouble(site: &dyn Site, config: &Config) -> Option<String> {
    let (id, prefix) = (&config.streaming.cluster_id, &config.streaming.discover_prefix);
    let error = recovery::server_info(site.peek_server(), id, prefix).err()?;
    Some(format!("this standby could not take over: {error}"))
}

/// What each loop's engine starts from.
pub(crate) fn starts(
    loops: u16,
    state: RecoveredState,
    (info, info_is_new): &(spb::ServerInfo, bool),
    random: &mut Random,
) -> Vec<engine::Start> {
    let channel_count = state.channels.len() as u64;
    let ids = state.channels.iter().map(|channel| channel.subscription_id_max.0);
    let subscription_id_max = ids.max().unwrap_or(0);
    let mut shares: Vec<Vec<RecoveredChannel>> = (0..loops).map(|_| Vec::new()).collect();
    for channel in state.channels {
        shares[placement::of_channel(&channel.channel, loops).index()].push(channel);
    }
    let start = |(index, channels)| engine::Start {
        index: LoopIndex(index),
        info: info.clone(),
        info_is_new: *info_is_new,
        clients: state.clients.clone(),
        channels,
        channel_count,
        subscription_id_max,
        seed: random.next_u64(),
    };
    (0..loops).zip(shares).map(start).collect()
}
