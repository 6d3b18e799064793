//! what the monitoring pages are made of

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::base::epoch::LeaseClock;
use crate::base::meters::Meters;
use crate::base::placement;
use crate::base::pulse::Vitals;
use crate::base::record::{FetchRequest, MessageRecord};
use crate::base::time::Instant;
use crate::base::world;
use crate::broker::auth::{self, Credentials};
use crate::broker::listing as broker_list;
use crate::broker::settings::Auth;
use crate::broker::snapshot::{self as broker, ServerSnapshot};
use crate::config::{Config, MonitorConfig, PageUser, Program, banner};
use crate::election::lease::Holder;
use crate::engine::snapshot::{self as engine, Snapshot};
use crate::log::CORE;
use crate::monitor::{
    Ask, Check, ClusterFacts, CoreFacts, GroupFacts, LimitNumbers, Monitor, Published, Sources,
    State, Status, Streaming, StreamingFacts, Unavailable,
};
use crate::net::listener;
use crate::net::reactors::Listen;
use crate::net::{Control, Mailbox};
use crate::server::engine_driver::Mail;
use crate::server::settings::{self, Found};
use crate::server::start::{PORT_PATIENCE, StartError};
use crate::site::Site;
use crate::store::worker::Peek;

/// How long a page waits for the next answer of the loops.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long it waits for all portions of long lists.
const LISTS_WITHIN: Duration = Duration::from_secs(10);

/// What the server publishes for the pages.
pub struct Pages {
    status: Arc<Published<Status>>,
    core: Arc<Published<CoreFacts>>,
    streaming: Arc<Published<StreamingFacts>>,
    lease: LeaseClock,
    vitals: Vitals,
    meters: Meters,
    group: Arc<Published<GroupFacts>>,
    directory: Option<PathBuf>,
    viewer: Arc<Published<Option<Check>>>,
    is_group: bool,
}

impl Pages {
    /// The facts at the start.
    #[must_use]
    pub fn new(
        config: &Config,
        site: &dyn Site,
        found: &Found,
        server_id: &str,
        (lease, vitals, meters): (LeaseClock, Vitals, Meters),
    ) -> Self {
        Self {
            status: Arc::default(),
            core: Arc::new(Published::new(core_facts(config, found))),
            streaming: Arc::new(Published::new(streaming_facts(config, site, server_id))),
            lease,
            vitals,
            meters,
            group: Arc::default(),
            directory: config.streaming.directory.as_ref().and_then(|_| site.path()),
            viewer: Arc::new(Published::new(viewer(&config.monitor))),
            is_group: config.streaming.ft_group.is_some(),
        }
    }

    /// Serves the pages on their port, if they are switched on. The URLs are for the ports file.
    ///
    /// # Errors
    /// [`StartError::Monitor`] and [`StartError::Tls`].
    pub fn serve(
        &self,
        config: &Config,
        mailboxes: &[Mailbox<Mail>],
        listener: Option<TcpListener>,
    ) -> Result<(Option<Monitor>, Vec<String>), StartError> {
        let monitor = &config.monitor;
        let Some(listener) = listener else {
            return Ok((None, Vec::new()));
        };
        let is_tls = monitor.https_port != 0;
        let port = listener.local_addr().map_err(StartError::Monitor)?.port();
        let tls = match (&config.core.tls, is_tls) {
            (Some(tls), true) => Some(settings::serving_pages(tls)?.server_config()),
            (_, _) => None,
        };
        let scheme = if is_tls { "https" } else { "http" };
        let shown = display_address(&monitor.host, port);
        log::info!(target: CORE, "Starting {scheme} monitor on {shown}");
        let mut facts = CoreFacts::clone(&self.core.load());
        if is_tls {
            facts.https_port = port;
        } else {
            facts.http_port = port;
        }
        self.core.set(facts);
        let sources = self.sources(config, mailboxes);
        let running = Monitor::start(listener, tls, &monitor.base_path, sources)
            .map_err(StartError::Monitor)?;
        let urls = crate::server::files::urls(scheme, &monitor.host, port);
        Ok((Some(running), urls))
    }

    fn sources(&self, config: &Config, mailboxes: &[Mailbox<Mail>]) -> Sources {
        let streaming = (config.program == Program::Streaming).then(|| Streaming {
            facts: Arc::clone(&self.streaming),
            engine: ask_engines(mailboxes.to_vec()),
            messages: ask_stores(mailboxes.to_vec()),
            utc_offset: crate::log::utc_offset,
        });
        Sources {
            status: Arc::clone(&self.status),
            lease: self.lease.clone(),
            vitals: self.vitals.clone(),
            core: Arc::clone(&self.core),
            streaming,
            broker: ask_brokers(mailboxes.to_vec()),
            meters: self.meters.clone(),
            group: Arc::clone(&self.group),
            directory: self.directory.clone(),
            viewer: Arc::clone(&self.viewer),
        }
    }

    /// A core server has no roles.
    pub fn set_core_only(&self) {
        self.update(|status| status.is_serving = true);
    }

    /// A listener takes nobody any more; `name` is what `/healthz` calls it.
    pub fn set_closed(&self, name: &'static str) {
        self.update(|status| {
            if !status.closed_listeners.contains(&name) {
                status.closed_listeners.push(name);
            }
        });
    }

    /// In a group, not active.
    pub fn set_standby(&self) {
        self.update(|status| {
            status.state = State::FtStandby;
            status.is_serving = false;
        });
    }

    /// The keeper waits for the lock; `holder` is what it knows of the active.
    pub fn set_waiting(&self, holder: Option<&Holder>) {
        let holder = holder.map_or("nobody that is known".to_owned(), |holder| {
            let Holder { server_id, host, pid, epoch, .. } = holder;
            format!("server {server_id} (epoch {epoch}, process {pid} on {host})")
        });
        log::debug!(target: crate::log::STREAM, "the lease is held by {holder}");
        self.update(|status| {
            status.watches_lock = true;
            status.trouble = None;
            status.trouble_lasts = false;
        });
    }

    /// Whether a route to another server is up, by which clients of a standby are served.
    pub fn set_route(&self, is_up: bool) {
        self.update(|status| status.has_route_to_active = is_up);
    }

    /// Whether the external NATS server is there.
    pub fn set_reachable(&self, is_reachable: bool) {
        self.update(|status| {
            status.is_cut_off = !is_reachable;
            // Whoever is logged in to next says it again.
            status.is_refused &= is_reachable;
        });
    }

    /// The external NATS server does not let it listen to something.
    pub fn set_refused(&self) {
        self.update(|status| status.is_refused = true);
    }

    /// The lease is won, the store is being read.
    pub fn set_recovering(&self) {
        self.update(|status| {
            status.watches_lock = false;
            status.trouble = Some("recovering".to_owned());
            status.trouble_lasts = false;
        });
    }

    /// Clients are served.
    pub fn set_active(&self, config: &Config, cluster_id: &[u8]) {
        let is_group = self.is_group;
        self.update(|status| {
            status.state = if is_group { State::FtActive } else { State::Standalone };
            status.is_serving = true;
            status.watches_lock = false;
            status.trouble = None;
            status.trouble_lasts = false;
        });
        let mut facts = StreamingFacts::clone(&self.streaming.load());
        facts.cluster_id = String::from_utf8_lossy(cluster_id).into_owned();
        let limits = config.streaming.limits.resolve().ok();
        if let Some(limits) = limits {
            let numbers = limits.entries().iter();
            facts.per_channel =
                numbers.map(|entry| (entry.name.to_string(), entry.limits.into())).collect();
            facts.limits = Some(Arc::new(limits));
        }
        self.streaming.set(facts);
    }

    /// How many acknowledged messages the site has lost.
    pub fn set_lost(&self, count: u64) {
        let mut facts = StreamingFacts::clone(&self.streaming.load());
        facts.lost_messages = Some(count);
        self.streaming.set(facts);
    }

    /// Clients are not served any more.
    pub fn set_inactive(&self) {
        let is_group = self.is_group;
        self.update(|status| {
            status.is_serving = false;
            status.rival = None;
            if is_group {
                status.state = State::FtStandby;
            }
        });
    }

    /// Why it is not ready, and whether that stays until a person acts.
    pub fn set_trouble(&self, text: &str, lasts: bool) {
        self.update(|status| {
            status.trouble = Some(text.to_owned());
            status.trouble_lasts = lasts;
        });
    }

    /// What is wrong where another server is active too; `None`: none is.
    pub fn set_rival(&self, text: Option<String>) {
        self.update(|status| status.rival = text);
    }

    /// It is stopping.
    pub fn set_shutdown(&self) {
        self.update(|status| {
            status.state = State::Shutdown;
            status.is_serving = false;
        });
    }

    /// Why clients may not be sent here, as the health page says it; `None`: they may.
    #[must_use]
    pub fn trouble(&self, now: Instant) -> Option<String> {
        self.status.load().check_ready(&self.lease, &self.vitals, now).err()
    }

    /// Tells, whenever it is asked, whether this process serves clients.
    pub fn watch_serving(&self) -> impl Fn() -> bool + Send + use<> {
        let status = Arc::clone(&self.status);
        move || status.load().is_serving
    }

    /// What this process is in its group.
    pub fn set_group(&self, facts: GroupFacts) {
        self.group.set(facts);
    }

    /// The port of the pages; 0 if there are none.
    pub fn monitor_port(&self) -> u16 {
        let facts = self.core.load();
        facts.http_port.max(facts.https_port)
    }

    /// What a reload changed.
    pub fn set_core(&self, config: &Config, found: &Found) {
        self.viewer.set(viewer(&config.monitor));
        let old = self.core.load();
        let mut facts = core_facts(config, found);
        (facts.http_port, facts.https_port) = (old.http_port, old.https_port);
        // Compat: another address to advertise is told to clients, and not here.
        (facts.host, facts.port) = (old.host.clone(), old.port);
        self.core.set(facts);
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut status = Status::clone(&self.status.load());
        change(&mut status);
        self.status.set(status);
    }
}

/// Opens the monitoring port, if the pages are switched on.
///
/// # Errors
/// [`StartError::MonitorPort`].
pub fn open_port(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(Listen { address, patience }) = port(config) else { return Ok(None) };
    let listener = listener::bind(&address, patience).map_err(StartError::MonitorPort)?;
    Ok(Some(listener.into()))
}

/// Whether [`open_port`] would do, but for who may hold the port now.
///
/// # Errors
/// As there.
pub fn check_port(config: &Config) -> Result<(), StartError> {
    let Some(Listen { address, .. }) = port(config) else { return Ok(()) };
    listener::check(&address).map_err(StartError::MonitorPort)
}

/// Where the pages are, if they are switched on.
fn port(config: &Config) -> Option<Listen> {
    let monitor = &config.monitor;
    let is_tls = monitor.https_port != 0;
    let port = if is_tls { monitor.https_port } else { monitor.http_port };
    monitor.is_on().then(|| settings::listen(&monitor.host, port, PORT_PATIENCE))
}

fn ask_brokers(mailboxes: Vec<Mailbox<Mail>>) -> Ask<broker::Wanted, ServerSnapshot> {
    Box::new(move |wanted| {
        let ask = |index: usize, from: broker_list::Mark, done: Answer<_, _>| {
            mailboxes[index].control(Control::List { wanted: wanted.clone(), from, done });
        };
        gather(mailboxes.len(), ask, ServerSnapshot::append).map(ServerSnapshot::merge)
    })
}

pub(super) fn ask_engines(mailboxes: Vec<Mailbox<Mail>>) -> Ask<engine::Wanted, Snapshot> {
    Box::new(move |wanted| {
        let ask = |index: usize, from: engine::Mark, done: Answer<_, _>| {
            mailboxes[index].deliver(Mail::Snapshot { wanted: wanted.clone(), from, done });
        };
        gather(mailboxes.len(), ask, Snapshot::append).map(Snapshot::merge)
    })
}

/// The store of the loop that has the channel is asked; the loop only passes the question on.
pub(super) fn ask_stores(mailboxes: Vec<Mailbox<Mail>>) -> Ask<FetchRequest, Vec<MessageRecord>> {
    Box::new(move |request| {
        let loops = u16::try_from(mailboxes.len()).unwrap_or(u16::MAX);
        let index = usize::from(placement::of_channel(&request.channel, loops).0);
        let (told, answer) = bounded::<Result<Vec<MessageRecord>, String>>(1);
        // The asker may have given up waiting.
        let done = Box::new(move |read| drop(told.try_send(read)));
        mailboxes[index].deliver(Mail::Peek(Peek { request, done }));
        let read = answer.recv_timeout(ANSWER_WITHIN);
        read.map_err(|_| Unavailable("the store is busy".to_owned()))?.map_err(Unavailable)
    })
}

/// Whether it is the user whom the configuration lets see messages.
fn viewer(config: &MonitorConfig) -> Option<Check> {
    let PageUser { name, password } = config.viewer.clone()?;
    let auth = Auth { user: Some((name, password)), ..Auth::default() };
    Some(Arc::new(move |user, password| {
        let (user, password) = (user.to_owned(), password.to_owned());
        let given = Credentials { user, password, ..Credentials::default() };
        auth::authenticate(&auth, &given, None).is_ok()
    }))
}

/// Takes a portion, and where the next one begins if there is more.
type Answer<T, M> = Box<dyn FnOnce(T, Option<M>) + Send>;

/// Asks each loop for portions until it has no more.
fn gather<T: Send + 'static, M: Default + Send + 'static>(
    loops: usize,
    ask: impl Fn(usize, M, Answer<T, M>),
    append: impl Fn(&mut T, T),
) -> Result<Vec<T>, Unavailable> {
    let deadline = world::instant() + LISTS_WITHIN;
    let (told, answers) = bounded(loops);
    let ask = |index, from| {
        let told = told.clone();
        // The asker may have given up waiting.
        ask(index, from, Box::new(move |part, next| drop(told.send((index, part, next)))));
    };
    let mut wholes: Vec<Option<T>> = (0..loops).map(|_| None).collect();
    (0..loops).for_each(|index| ask(index, M::default()));
    let mut left = loops;
    while left > 0 {
        let patience = deadline.since(world::instant()).min(ANSWER_WITHIN);
        let (index, part, next) = answers
            .recv_timeout(patience)
            .map_err(|_| Unavailable("an event loop is busy".to_owned()))?;
        match &mut wholes[index] {
            Some(whole) => append(whole, part),
            whole => *whole = Some(part),
        }
        match next {
            Some(from) => ask(index, from),
            None => left -= 1,
        }
    }
    Ok(wholes.into_iter().flatten().collect())
}

/// `host:port` as log lines show it.
#[must_use]
pub fn display_address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn core_facts(config: &Config, found: &Found) -> CoreFacts {
    let core = &config.core;
    let broker = settings::broker(config, found);
    CoreFacts {
        server_id: broker.server_id,
        server_name: broker.server_name,
        configured_name: core.server_name.clone().unwrap_or_default(),
        version: broker.version,
        go: broker.go,
        host: broker.host,
        port: broker.port,
        tags: core.tags.clone(),
        auth_required: core.auth.is_required(),
        tls_required: core.tls.is_some() && !core.allow_non_tls,
        tls_verify: core.tls.as_ref().is_some_and(|tls| tls.verify),
        connections_max: core.connections_max.unwrap_or(0),
        interests_max: core.interests_max.unwrap_or(0),
        ping_interval: core.ping_interval,
        pings_max: core.pings_max,
        http_host: config.monitor.host.clone(),
        http_base_path: config.monitor.base_path.clone(),
        auth_timeout: core.auth.timeout,
        control_line_bytes_max: core.control_line_bytes_max,
        payload_bytes_max: core.payload_bytes_max,
        pending_bytes_max: core.pending_bytes_max,
        cluster: cluster_facts(config, found),
        tls_timeout: broker.tls_timeout,
        write_deadline: core.write_deadline,
        has_system_account: core.has_system_account,
        ..CoreFacts::default()
    }
}

fn cluster_facts(config: &Config, found: &Found) -> Option<ClusterFacts> {
    let Some(cluster) = &config.core.cluster else {
        // A name that is configured is shown, be it that no other server can come.
        let name = config.core.cluster_name.clone()?;
        return Some(ClusterFacts { name, ..ClusterFacts::default() });
    };
    Some(ClusterFacts {
        name: cluster.name.clone().unwrap_or_else(|| found.made_up_cluster.clone()),
        host: cluster.host.clone(),
        port: found.route_port.unwrap_or(0),
        auth_timeout: cluster.auth_timeout,
        urls: cluster.routes.iter().map(|route| route.address.clone()).collect(),
        tls_timeout: cluster.tls.as_ref().map_or(settings::TLS_TIMEOUT, |tls| tls.timeout),
        is_tls: cluster.tls.is_some(),
    })
}

fn streaming_facts(config: &Config, site: &dyn Site, server_id: &str) -> StreamingFacts {
    let streaming = &config.streaming;
    let per_channel: BTreeMap<String, LimitNumbers> = streaming
        .limits
        .per_channel
        .iter()
        .map(|(name, limits)| (name.to_string(), (*limits).into()))
        .collect();
    StreamingFacts {
        cluster_id: String::new(),
        server_id: server_id.to_owned(),
        version: banner::STREAMING_VERSION.to_owned(),
        go: "go1.20.14".to_owned(),
        store: site.name(),
        started: world::now().wall,
        channels_max: streaming.limits.channels_max,
        global: streaming.limits.global.into(),
        per_channel,
        limits: None,
        lost_messages: site.lost_count(),
    }
}
