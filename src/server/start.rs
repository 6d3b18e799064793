//! from a configuration to a server whose listeners are open

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use crate::base::epoch::{LeaseClock, Predecessor, Unfenced};
use crate::base::id::{LoopIndex, Subject};
use crate::base::meters::Meters;
use crate::base::pulse::Vitals;
use crate::base::random::Random;
use crate::base::world;
use crate::broker::auth::is_bcrypt;
use crate::config::reload::ROUTES_UNVERIFIED;
use crate::config::{self, ClusterConfig, Config, ControlPlace, CoreConfig, Program, banner};
use crate::election::Member;
use crate::election::group::Group;
use crate::election::heartbeat;
use crate::election::keeper::{self, Mode, Terms};
use crate::election::lease::{Owner, Writer};
use crate::log::{CORE, LogError, STREAM};
use crate::net::listener::ListenError;
use crate::net::reactors::{Desks, Ports};
use crate::net::tls::TlsError;
use crate::net::{Mailbox, NetError, Reactors};
use crate::server::administration_subjects::RefusedQuestions;
use crate::server::control_socket::ControlSocket;
use crate::server::engine_driver::{EngineDriver, Mail};
use crate::server::event::{self, Event};
use crate::server::files::{self, Files};
use crate::server::group_news::GroupNews;
use crate::server::interest_key::Listener;
use crate::server::pages::{self, Pages};
use crate::server::preparation;
use crate::server::service_manager::ServiceManager;
use crate::server::{Server, settings};
use crate::site::{self, Site};
use crate::store::StoreError;

/// How long a start waits for the port of a predecessor that is still dying.
pub(super) const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// Larger messages are warned of.
const PAYLOAD_BYTES_ADVISED: usize = 8 * 1024 * 1024;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration asks for something that cannot be; the text is the reference's.
    #[error("{}", .0.fatal_line().1)]
    Refused(config::StartError),
    /// The store's folder or options cannot be used.
    #[error("Failed to start: {0}")]
    Store(#[from] StoreError),
    /// A port cannot be opened.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A certificate or key cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The monitoring port cannot be opened; the line that the reference ends with.
    #[error("Can't start monitoring: can't listen to the monitor port: {0}")]
    MonitorPort(ListenError),
    /// The monitoring pages cannot be served.
    #[error("Can't start monitoring: {0}")]
    Monitor(io::Error),
    /// The pid file cannot be written: who asked for it would wait for it in vain.
    #[error("Could not write pidfile: {0}")]
    PidFile(String),
    /// No external NATS server can be logged in to; the text is the reference's.
    #[error("Failed to start: {0}")]
    Upstream(String),
    /// The control socket cannot be where it was configured.
    #[error("Failed to start: control socket {}: {source}", .path.display())]
    ControlSocket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The system refuses something else.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl StartError {
    /// Whose line it is in the log.
    #[must_use]
    pub fn target(&self) -> &'static str {
        match self {
            Self::Refused(error) => error.fatal_line().0,
            Self::Store(_) | Self::Upstream(_) | Self::ControlSocket { .. } => STREAM,
            Self::Net(_)
            | Self::Tls(_)
            | Self::MonitorPort(_)
            | Self::Monitor(_)
            | Self::PidFile(_)
            | Self::Log(_)
            | Self::System { .. } => CORE,
        }
    }
}

/// What of a start the next step needs.
struct Begun {
    config: Arc<Config>,
    random: Random,
    /// Of the streaming server: a unique id.
    server_id: String,
}

/// Starts everything that does not need the lease.
///
/// # Errors
/// [`StartError`]; nothing is left behind but the folder of the store.
pub fn start(config: Config) -> Result<Server, StartError> {
    let seed = world::entropy().map_err(|source| system("cannot read entropy", source))?;
    let mut random = Random::new(seed);
    let server_id = random.unique_id();
    let begun = Begun { config: Arc::new(config), random, server_id };
    let site = begun.greet()?;
    begun.open(site)
}

fn system(what: &'static str, source: io::Error) -> StartError {
    StartError::System { what, source }
}

impl Begun {
    fn is_streaming(&self) -> bool {
        self.config.program == Program::Streaming
    }

    /// The first lines, and what is refused before a port is open.
    fn greet(&self) -> Result<Arc<dyn Site>, StartError> {
        if self.is_streaming() {
            let id = &self.config.streaming.cluster_id;
            for line in banner::streaming_lines(id, &self.server_id) {
                log::info!(target: STREAM, "{line}");
            }
        }
        preparation::refuse(&self.config)?;
        let site = site::of(&self.config)?;
        site.prepare()?;
        Ok(site)
    }

    fn open(mut self, site: Arc<dyn Site>) -> Result<Server, StartError> {
        let config = Arc::clone(&self.config);
        let found_id = server_public_id(&mut self.random);
        let rules = settings::rules(&config)?;
        let core = &config.core;
        let name = core.server_name.clone().unwrap_or_else(|| found_id.clone());
        let cluster_name = core
            .cluster
            .as_ref()
            .map(|cluster| cluster.name.clone().unwrap_or_else(|| self.make_up_name(&config)));
        let shown_name = cluster_name.as_deref().or(core.cluster_name.as_deref());
        let upstream = settings::upstream(&config).map_err(StartError::Upstream)?;
        // Compat: over an external server no core server begins here.
        let is_own = upstream.is_none();
        if is_own {
            for line in banner::core_lines(shown_name, &name, &found_id) {
                log::info!(target: CORE, "{line}");
            }
            log_configuration(&config);
        }
        let (ports, monitor_port) = open_ports(&config)?;
        let found = settings::Found {
            server_id: found_id,
            client_port: ports.client_address.map_or(0, |address| address.port()),
            route_port: ports.route_address.map(|address| address.port()),
            counters: Arc::default(),
            made_up_cluster: cluster_name.unwrap_or_default(),
            upstream,
        };
        let desks: Desks<Mail> = Desks::new(config.loops)?;
        let mailboxes: Vec<_> = loops(&config).map(|home| desks.mailbox(home)).collect();
        let lease = LeaseClock::default();
        let vitals = vitals(&config, &desks, &mailboxes);
        let meters = Meters::new(config.loops);
        let watched = (lease.clone(), vitals.clone(), meters.clone());
        let pages = Pages::new(&config, site.as_ref(), &found, &self.server_id, watched);
        let (monitor, http_ports) = pages.serve(&config, &mailboxes, monitor_port)?;
        if is_own {
            log_listening(&config, &found);
        }
        let (events_in, events) = event::queue();
        let drivers =
            loops(&config).map(|home| EngineDriver::new(home, config.loops, events_in.clone()));
        let broker = Arc::new(settings::broker(&config, &found));
        let drivers = drivers.collect();
        let reactors = Reactors::run(ports, desks, rules, (&broker, &lease), drivers)?;
        if !is_own && let Err(error) = await_upstream(&events) {
            reactors.stop(Duration::ZERO);
            return Err(error);
        }
        let files = self.leave_files(&found, http_ports.clone())?;
        if is_own {
            log::info!(target: CORE, "Server is ready");
        }
        let group = group(&config, &self.server_id, &mut self.random);
        let control = open_control(&config, &self.server_id, &events_in)?;
        let service_manager = ServiceManager::new(config.notify_socket.as_deref());
        let owner = owner(&config, &self.server_id, &found, control.as_ref());
        let mut server = Server {
            member: Member::new(config.loops, group),
            news: GroupNews::new(&config, &owner, http_ports.first().cloned()),
            control,
            subject_askers: Arc::default(),
            refused_questions: RefusedQuestions::default(),
            hand_over: None,
            backup: None,
            config,
            site,
            found,
            server_id: self.server_id,
            events,
            events_in,
            reactors: Some(reactors),
            mailboxes,
            lease,
            vitals,
            meters,
            keeper: None,
            fence: None,
            recovered: None,
            cluster_id: Bytes::new(),
            discovery: Subject::default(),
            ending: Vec::new(),
            probe: None,
            rivals: None,
            partitions: None,
            is_looking: false,
            pages,
            monitor,
            random: self.random,
            files,
            service_manager,
            lame_duck: None,
        };
        server.start_streaming(owner)?;
        Ok(server)
    }

    /// The name of a cluster that has none. Members of a group make up the same one, for whoever
    /// has another closes routes until all have agreed.
    fn make_up_name(&mut self, config: &Config) -> String {
        let streaming = &config.streaming;
        let Some(group) = &streaming.ft_group else { return self.random.unique_id() };
        let text = format!("{}\n{group}", streaming.cluster_id);
        let seed = text.bytes().fold(0_u64, |seed, byte| seed.rotate_left(8) ^ u64::from(byte));
        Random::new(seed).unique_id()
    }

    fn leave_files(
        &self,
        found: &settings::Found,
        http_ports: Vec<String>,
    ) -> Result<Files, StartError> {
        let config = &self.config;
        let is_own = found.upstream.is_none();
        let cluster = config.core.cluster.as_ref().filter(|_| is_own);
        let own_urls = || files::urls("nats", &config.core.host, found.client_port);
        let mut files = Files::new(files::Ports {
            nats: if is_own { own_urls() } else { Vec::new() },
            monitoring: http_ports,
            cluster: match (cluster, found.route_port) {
                (Some(cluster), Some(port)) => files::urls("nats", &cluster.host, port),
                (_, _) => Vec::new(),
            },
        });
        if let Some(path) = &config.pid_file {
            Files::write_pid(path).map_err(StartError::PidFile)?;
        }
        if let Some(folder) = &config.ports_file_dir
            && let Err(error) = files.write_ports(folder)
        {
            log::error!(target: CORE, "Error writing ports file {error}");
        }
        Ok(files)
    }
}

impl Server {
    /// The streaming half: where nobody else can be it is active at once, otherwise it asks for the
    /// lease.
    fn start_streaming(&mut self, owner: Owner) -> Result<(), StartError> {
        if self.config.program != Program::Streaming {
            self.pages.set_core_only();
            self.service_manager.ready("serving");
            return Ok(());
        }
        let streaming = &self.config.streaming;
        if streaming.client_tls.skip_verify {
            let text = "TLS certificate chain and hostname will not be verified. DO NOT USE IN \
                        PRODUCTION!";
            log::warn!(target: STREAM, "{text}");
        }
        if let Some(name) = &streaming.ft_group {
            let subject = heartbeat::subject(&streaming.cluster_id, name);
            let listener = Listener::GroupHeartbeat;
            self.mailboxes[0].deliver(Mail::Listen { subject, listener });
            log::info!(target: STREAM, "Starting in standby mode");
            self.pages.set_standby();
            self.service_manager.ready("standby");
        }
        let steal_after = streaming.steal_after.unwrap_or_default();
        let mode = match streaming.ft_group {
            Some(_) => Mode::Group,
            None => Mode::StandAlone,
        };
        self.hear_members();
        if let Some(lease) = self.site.lease(owner) {
            let terms = Terms {
                bound: keeper::lease_bound(steal_after),
                mode,
                is_replaced_when_hung: mode == Mode::Group && !steal_after.is_zero(),
                vitals: self.vitals.clone(),
            };
            let events = self.events_in.clone();
            let report = move |told| event::post(&events, Event::Keeper(told));
            let spawned = keeper::spawn(lease, terms, self.lease.clone(), report);
            let failed = |source| system("cannot start the lease keeper", source);
            self.keeper = Some(spawned.map_err(failed)?);
        } else {
            self.lease.hold_for_ever();
            let (fence, predecessor) = (Arc::new(Unfenced), Predecessor::Clean);
            let won = keeper::KeeperEvent::Won { fence, predecessor };
            event::post(&self.events_in, Event::Keeper(won));
        }
        Ok(())
    }
}

/// What the record of the holder says of this process.
fn owner(
    config: &Config,
    server_id: &str,
    found: &settings::Found,
    control: Option<&ControlSocket>,
) -> Owner {
    let owner = Owner {
        server_id: server_id.to_owned(),
        host: files::host_name(),
        pid: std::process::id(),
        addresses: match &found.upstream {
            Some(found) => found.servers.iter().map(ToString::to_string).collect(),
            None => files::urls("nats", &config.core.host, found.client_port),
        },
        control_path: control.map(|control| control.path().display().to_string()),
        writer: Writer::this_release(),
        ..Owner::default()
    };
    owner.or_silent_for(keeper::stall_bound(config.streaming.steal_after.unwrap_or_default()))
}

/// Where commands of this machine reach the server. A place that was configured has to do.
fn open_control(
    config: &Config,
    server_id: &str,
    events: &Sender<Event>,
) -> Result<Option<ControlSocket>, StartError> {
    if config.program != Program::Streaming {
        return Ok(None);
    }
    let opened = match &config.streaming.control {
        ControlPlace::Nowhere => return Ok(None),
        ControlPlace::At(path) => Some(
            ControlSocket::open(path, events)
                .map_err(|source| StartError::ControlSocket { path: path.clone(), source })?,
        ),
        ControlPlace::AnyFolder => {
            match ControlSocket::open_in(&config.control_folders, server_id, events) {
                Ok(socket) => Some(socket),
                Err(why) => {
                    log::warn!(target: STREAM, "No control socket, commands cannot reach it: {why}");
                    None
                }
            }
        }
    };
    if let Some(socket) = &opened {
        log::info!(target: STREAM, "Control socket is {}", socket.path().display());
    }
    Ok(opened)
}

/// The group whose member this server is, if it is one.
fn group(config: &Config, server_id: &str, random: &mut Random) -> Option<Group> {
    let streaming = &config.streaming;
    let name = streaming.ft_group.as_ref().filter(|_| config.program == Program::Streaming)?;
    Some(Group::new(&streaming.cluster_id, name, server_id, random))
}

/// Waits until an external server was logged in to; nothing else happens before.
fn await_upstream(events: &Receiver<Event>) -> Result<(), StartError> {
    loop {
        match events.recv() {
            Ok(Event::Upstream(result)) => return result.map_err(StartError::Upstream),
            Ok(_) => (),
            Err(_) => unreachable!("the server holds a sender"),
        }
    }
}

/// The ports for clients, routes and pages; over an external server those for pages only.
fn open_ports(config: &Config) -> Result<(Ports, Option<TcpListener>), StartError> {
    let core = &config.core;
    if config.streaming.external.is_some() {
        return Ok((Ports::open(None, None)?, pages::open_port(config)?));
    }
    let client = settings::listen(&core.host, core.port, PORT_PATIENCE);
    let route = core
        .cluster
        .as_ref()
        .map(|cluster| settings::listen(&cluster.host, cluster.port, PORT_PATIENCE));
    // As in the reference: of several ports that are taken, the first of these is named.
    let monitor_port = pages::open_port(config)?;
    Ok((Ports::open(Some(&client), route.as_ref())?, monitor_port))
}

/// What shows whether loops and stores get on, and wakes the loops.
fn vitals(config: &Config, desks: &Desks<Mail>, mailboxes: &[Mailbox<Mail>]) -> Vitals {
    let steal_after = config.streaming.steal_after.unwrap_or(Duration::ZERO);
    let woken = mailboxes.to_vec();
    let wake = move || woken.iter().for_each(Mailbox::wake);
    Vitals::new(desks.pulses(), keeper::stall_bound(steal_after)).knocking(wake)
}

fn loops(config: &Config) -> impl Iterator<Item = LoopIndex> + use<> {
    (0..config.loops).map(LoopIndex)
}

/// Whether a password can be read in the configuration. A user without one is meant to come with
/// a certificate where these are mapped to users.
fn has_plain_password(core: &CoreConfig) -> bool {
    let is_mapped = core.tls.as_ref().is_some_and(|tls| tls.verify_and_map);
    let single = core.auth.password.iter().filter(|password| !password.is_empty());
    let listed = core.auth.users.iter().map(|user| &user.password);
    let mut passwords = single.chain(listed.filter(|text| !(is_mapped && text.is_empty())));
    passwords.any(|password| !is_bcrypt(password))
}

/// What an operator should know of the configuration.
fn log_configuration(config: &Config) {
    if has_plain_password(&config.core) {
        log::warn!(target: CORE, "Plaintext passwords detected, use nkeys or bcrypt");
    }
    if let Some(file) = &config.config_file {
        log::info!(target: CORE, "Using configuration file: {}", file.display());
    }
    if config.core.payload_bytes_max > PAYLOAD_BYTES_ADVISED {
        let text = "Maximum payloads over 8.00 MB are generally discouraged and could lead to \
                    poor performance";
        log::warn!(target: CORE, "{text}");
    }
}

fn log_listening(config: &Config, found: &settings::Found) {
    let client = pages::display_address(&config.core.host, found.client_port);
    log::info!(target: CORE, "Listening for client connections on {client}");
    if config.core.tls.is_some() {
        log::info!(target: CORE, "TLS required for client connections");
    }
    if let (Some(cluster), Some(port)) = (&config.core.cluster, found.route_port) {
        log::info!(target: CORE, "Cluster name is {}", cluster_name(cluster, found));
        if cluster.name.is_none() {
            let text = "Cluster name was dynamically generated, consider setting one";
            log::warn!(target: CORE, "{text}");
        }
        let route = pages::display_address(&cluster.host, port);
        log::info!(target: CORE, "Listening for route connections on {route}");
        if cluster.tls.as_ref().is_some_and(|tls| tls.insecure) {
            log::warn!(target: CORE, "{ROUTES_UNVERIFIED}");
        }
    }
}

fn cluster_name<'a>(cluster: &'a ClusterConfig, found: &'a settings::Found) -> &'a str {
    cluster.name.as_deref().unwrap_or(&found.made_up_cluster)
}

/// The public id of a core server: `N` and 55 base-32 letters, as clients expect its form.
fn server_public_id(random: &mut Random) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let letter =
        |random: &mut Random| char::from(LETTERS[usize::try_from(random.below(32)).unwrap_or(0)]);
    std::iter::once('N').chain((0..55).map(|_| letter(random))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TlsConfig, User};

    fn is_plain(is_mapped: bool, single: Option<&str>, listed: &[&str]) -> bool {
        let tls = TlsConfig { verify_and_map: is_mapped, ..TlsConfig::default() };
        let mut core = CoreConfig { tls: Some(tls), ..CoreConfig::default() };
        let user = |password: &&str| User { password: (*password).to_owned(), ..User::default() };
        core.auth.password = single.map(str::to_owned);
        core.auth.users = listed.iter().map(user).collect();
        has_plain_password(&core)
    }

    #[test]
    fn a_user_without_password_has_no_plain_one_where_certificates_name_users() {
        let hash = "$2a$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG";
        assert!(!is_plain(true, None, &["", hash]));
        assert!(is_plain(true, None, &["", "pw"]));
        assert!(is_plain(false, None, &[""]));
        assert!(!is_plain(false, None, &[hash]));
        assert!(is_plain(false, Some("pw"), &[]));
        assert!(!is_plain(false, Some(""), &[]) && !is_plain(false, Some(hash), &[]));
    }
}
