//! All loops of the process: opens the ports, starts the threads, stops them

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::Poll;

use crate::base::descriptors::Purpose;
use crate::base::epoch::LeaseClock;
use crate::base::id::LoopIndex;
use crate::base::limits::LOOPS_MAX;
use crate::base::pulse::Pulse;
use crate::base::world;
use crate::broker::{self, Broker, ConnectionKind};
use crate::net::control::{Control, Mail, Mailbox, Rules};
use crate::net::dial::Resolver;
use crate::net::driver::Driver;
use crate::net::listener::{self, Address, ListenError, Listener, system_text};
use crate::net::mailbox::{self, Receiver, Sender};
use crate::net::passwords::Passwords;
use crate::net::reactor::{Parts, Port, Reactor};
use crate::net::token;

/// How long a stop waits for a loop in the middle of a turn.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether a loop has ended.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// One port.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// How long to wait for a predecessor that still holds it.
    pub patience: Duration,
}

/// What the loops are started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The port for clients.
    pub client: Option<Listen>,
    /// The port for routes.
    pub route: Option<Listen>,
    /// How connections are treated.
    pub rules: Rules,
}

/// Why the loops could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The port for clients; the line that the reference ends with.
    #[error("Error listening on port: {address}, \"{source}\"")]
    ClientPort {
        /// As configured.
        address: String,
        /// Why not.
        source: ListenError,
    },
    /// The port for routes; the line that the reference ends with.
    #[error("Error listening on router port: {port} - {source}")]
    RoutePort {
        /// As configured.
        port: u16,
        /// Why not.
        source: ListenError,
    },
    /// Descriptors or threads ran out.
    #[error("the event loops cannot be started: {}", system_text(.0))]
    System(#[from] io::Error),
}

/// The ports of a process before its loops run. Connections are made from now on (the kernel
/// keeps them), and nothing is said on them yet.
#[derive(Debug)]
pub struct Ports {
    client: Option<mio::net::TcpListener>,
    route: Option<mio::net::TcpListener>,
    /// Where the port for clients really is.
    pub client_address: Option<SocketAddr>,
    /// Where the port for routes really is.
    pub route_address: Option<SocketAddr>,
}

impl Ports {
    /// Opens the ports.
    ///
    /// # Errors
    /// [`NetError::ClientPort`] and [`NetError::RoutePort`].
    pub fn open(client: Option<&Listen>, route: Option<&Listen>) -> Result<Self, NetError> {
        let open = |listen: &Listen| -> Result<_, ListenError> {
            let listener = listener::bind(&listen.address, listen.patience)?;
            let address = listener::local_address(&listener, &listen.address)?;
            Ok((listener, listener::canonical(address)))
        };
        let client = client.map(|listen| open(listen).map_err(|e| client_port(listen, e)));
        let route = route.map(|listen| open(listen).map_err(|e| route_port(listen, e)));
        let (client, client_address) = client.transpose()?.unzip();
        let (route, route_address) = route.transpose()?.unzip();
        Ok(Self { client, route, client_address, route_address })
    }

    /// Whether the ports could be opened, but for who may hold them now.
    ///
    /// # Errors
    /// As [`Ports::open`].
    pub fn check(client: &Listen, route: Option<&Listen>) -> Result<(), NetError> {
        listener::check(&client.address).map_err(|error| client_port(client, error))?;
        let Some(route) = route else { return Ok(()) };
        listener::check(&route.address).map_err(|error| route_port(route, error))
    }

    pub(in crate::net) fn into_ports(self) -> Vec<Port> {
        let client = self.client.map(|socket| {
            let listener = Listener::new(socket, Purpose::Client);
            Port::new(listener, ConnectionKind::Client, token::CLIENT_LISTENER)
        });
        let route = self.route.map(|socket| {
            let listener = Listener::new(socket, Purpose::Route);
            Port::new(listener, ConnectionKind::RouteAccepted, token::ROUTE_LISTENER)
        });
        client.into_iter().chain(route).collect()
    }
}

fn client_port(listen: &Listen, source: ListenError) -> NetError {
    NetError::ClientPort { address: listen.address.to_string(), source }
}

fn route_port(listen: &Listen, source: ListenError) -> NetError {
    NetError::RoutePort { port: listen.address.port.unwrap_or(0), source }
}

/// A loop before its thread.
pub(in crate::net) struct Desk<M> {
    pub poll: Poll,
    pub mailbox: Receiver<Mail<M>>,
    pub pulse: Arc<Pulse>,
}

/// The mailboxes of all loops, before there are drivers that need to know them.
pub struct Desks<M> {
    pub(in crate::net) desks: Vec<Desk<M>>,
    pub(in crate::net) senders: Vec<Sender<Mail<M>>>,
}

impl<M: Send + 'static> Desks<M> {
    /// For `loops` loops.
    ///
    /// # Errors
    /// [`NetError::System`] when descriptors run out.
    ///
    /// # Panics
    /// With no loop, or more than [`LOOPS_MAX`]: the configuration was checked before.
    pub fn new(loops: u16) -> Result<Self, NetError> {
        assert!((1..=LOOPS_MAX).contains(&loops), "{loops} loops");
        let (mut desks, mut senders) = (Vec::new(), Vec::new());
        for _ in 0..loops {
            let poll = Poll::new()?;
            let (sender, mailbox) = mailbox::mailbox(poll.registry(), token::MAILBOX)?;
            senders.push(sender);
            desks.push(Desk { poll, mailbox, pulse: Arc::default() });
        }
        Ok(Self { desks, senders })
    }

    /// The pulses of all loops, in their order.
    #[must_use]
    pub fn pulses(&self) -> Vec<Arc<Pulse>> {
        self.desks.iter().map(|desk| Arc::clone(&desk.pulse)).collect()
    }

    /// The mailbox of a loop; mail waits there until the loop runs.
    ///
    /// # Panics
    /// When there is no such loop.
    #[must_use]
    pub fn mailbox(&self, home: LoopIndex) -> Mailbox<M> {
        Mailbox::new(self.senders[home.index()].clone())
    }
}

/// The running loops.
pub struct Reactors<D: Driver> {
    senders: Vec<Sender<Mail<D::Mail>>>,
    threads: Vec<JoinHandle<()>>,
    /// Where the port for clients really is.
    pub client_address: Option<SocketAddr>,
    /// Where the port for routes really is.
    pub route_address: Option<SocketAddr>,
}

impl<D: Driver + 'static> Reactors<D> {
    /// Opens the ports and starts one loop for each driver.
    ///
    /// # Errors
    /// [`NetError`] with the reference's texts.
    pub fn start(
        settings: Settings,
        broker: &Arc<broker::Settings>,
        lease: &LeaseClock,
        drivers: Vec<D>,
    ) -> Result<Self, NetError> {
        let loops = u16::try_from(drivers.len()).unwrap_or(u16::MAX);
        let ports = Ports::open(settings.client.as_ref(), settings.route.as_ref())?;
        Self::run(ports, Desks::new(loops)?, settings.rules, (broker, lease), drivers)
    }

    /// Starts one loop for each driver on ports and with mailboxes that were made before.
    ///
    /// # Errors
    /// [`NetError::System`].
    ///
    /// # Panics
    /// When there are not as many drivers as mailboxes.
    pub fn run(
        ports: Ports,
        desks: Desks<D::Mail>,
        rules: Rules,
        (broker, lease): (&Arc<broker::Settings>, &LeaseClock),
        drivers: Vec<D>,
    ) -> Result<Self, NetError> {
        assert_eq!(desks.desks.len(), drivers.len(), "one driver for each loop");
        let (client_address, route_address) = (ports.client_address, ports.route_address);
        let own_route_port = route_address.map(|address| address.port());
        let (rules, resolver) = (Arc::new(rules), Resolver::start()?);
        let passwords = Passwords::start()?;
        let mut ports = Some(ports.into_ports());
        let mut reactors = Vec::new();
        for ((desk, driver), number) in desks.desks.into_iter().zip(drivers).zip(0..) {
            let (home, seed) = (LoopIndex(number), world::entropy()?);
            reactors.push(Reactor::new(Parts {
                home,
                poll: desk.poll,
                mailbox: desk.mailbox,
                pulse: desk.pulse,
                peers: desks.senders.clone(),
                broker: Broker::new(Arc::clone(broker), home, seed, world::now()),
                driver,
                lease: lease.clone(),
                rules: Arc::clone(&rules),
                // The first loop accepts for all.
                ports: ports.take().unwrap_or_default(),
                resolver: resolver.clone(),
                passwords: passwords.clone(),
                own_route_port,
                seed: seed.rotate_left(32),
            })?);
        }
        let threads = reactors.into_iter().enumerate().map(|(number, reactor)| {
            let name = format!("stanby-loop-{number}");
            thread::Builder::new().name(name).spawn(move || {
                let guard = NoLoopDiesAlone;
                reactor.run();
                drop(guard);
            })
        });
        let threads = threads.collect::<io::Result<_>>()?;
        Ok(Self { senders: desks.senders, threads, client_address, route_address })
    }

    /// How many loops there are.
    #[must_use]
    pub fn loops(&self) -> usize {
        self.senders.len()
    }

    /// The mailbox of a loop.
    ///
    /// # Panics
    /// When there is no such loop.
    #[must_use]
    pub fn mailbox(&self, home: LoopIndex) -> Mailbox<D::Mail> {
        Mailbox::new(self.senders[home.index()].clone())
    }

    /// Tells every loop the same thing.
    pub fn tell_all(&self, control: impl Fn() -> Control) {
        for sender in &self.senders {
            // A loop that has ended needs no word any more.
            let _has_reader = sender.send(Mail::Control(control()));
        }
    }

    /// Treats connections that are made from now on by other rules.
    pub fn reload(&self, rules: Rules) {
        let rules = Arc::new(rules);
        self.tell_all(|| Control::Reload(Arc::clone(&rules)));
    }

    /// Closes the listeners, then the connections, each after what waits for it is written but
    /// no later than after `flush_for`; returns when all threads have ended but those that hang,
    /// which end with the process.
    pub fn stop(self, flush_for: Duration) {
        self.tell_all(|| Control::Stop { flush_for });
        let deadline = world::instant() + flush_for + ENDS_WITHIN;
        for thread in self.threads {
            while !thread.is_finished() && world::instant() < deadline {
                thread::park_timeout(LOOK_PAUSE);
            }
            if !thread.is_finished() {
                log::error!("{} hangs", thread.thread().name().unwrap_or("an event loop"));
                continue;
            }
            // A loop that panicked has ended the process, so there is no other outcome.
            if thread.join().is_err() {
                std::process::abort();
            }
        }
    }
}

/// Ends the process with the thread that drops it in a panic, also where panics unwind: a server
/// that lost a loop is half dead, and its standby takes over only when it is dead.
struct NoLoopDiesAlone;

impl Drop for NoLoopDiesAlone {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn listen(port: Option<u16>) -> Listen {
        let address = Address { host: "0.0.0.0".to_owned(), port };
        Listen { address, patience: Duration::ZERO }
    }

    #[test]
    fn a_port_in_use_ends_the_start_with_the_line_of_the_reference() {
        let holder = Ports::open(Some(&listen(None)), Some(&listen(None))).unwrap();
        let port = holder.client_address.unwrap().port();
        let error = Ports::open(Some(&listen(Some(port))), None).unwrap_err();
        let why = format!("listen tcp 0.0.0.0:{port}: bind: address already in use");
        let line = format!("Error listening on port: 0.0.0.0:{port}, \"{why}\"");
        assert_eq!(error.to_string(), line);
        let port = holder.route_address.unwrap().port();
        let error = Ports::open(None, Some(&listen(Some(port)))).unwrap_err();
        let why = format!("listen tcp 0.0.0.0:{port}: bind: address already in use");
        assert_eq!(error.to_string(), format!("Error listening on router port: {port} - {why}"));
    }
}
