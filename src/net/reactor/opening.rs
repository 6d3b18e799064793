//! How connections begin: accepted, handed over by another loop, dialled
//!
//! The first loop accepts and hands sockets over in turns; a connection never moves afterwards.
//! One port for each loop (`SO_REUSEPORT`) would let another process share it by accident.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::Interest;
use mio::net::TcpStream;

use crate::base::descriptors::{self, Purpose};
use crate::base::id::LoopIndex;
use crate::base::world;
use crate::broker::{ConnectionKind, Hello, Input};
use crate::net::connection::Connection;
use crate::net::control::{Control, Mail, Route};
use crate::net::dial::{self, Found, Query, Target};
use crate::net::driver::Driver;
use crate::net::listener::{Accepted, Newcomer, out_of_descriptors};
use crate::net::reactor::{Reactor, Timer};
use crate::net::tls::{Broken, Layer};
use crate::net::token::Place;

impl<D: Driver> Reactor<D> {
    pub(super) fn accept(&mut self) {
        for index in 0..self.ports.len() {
            let mut newcomers = Vec::new();
            let port = &mut self.ports[index];
            if !port.is_ready || self.timers.deadline(&Timer::Accept(index)).is_some() {
                port.is_ready = false;
                continue;
            }
            let kind = port.kind.clone();
            let accepted = port.listener.accept(self.now.at, |newcomer| newcomers.push(newcomer));
            port.is_ready = matches!(accepted, Accepted::BudgetSpent);
            if let Accepted::Paused(until, text) = accepted {
                log::error!("{text}");
                self.timers.arm(Timer::Accept(index), until);
            }
            for newcomer in newcomers {
                self.place(newcomer, kind.clone());
            }
        }
    }

    pub(super) fn on_accept_again(&mut self, index: usize) {
        if let Some(port) = self.ports.get_mut(index) {
            port.is_ready = true;
        }
    }

    /// Gives a new client to the loop whose turn it is; all routes belong to this one.
    fn place(&mut self, newcomer: Newcomer, kind: ConnectionKind) {
        if kind != ConnectionKind::Client {
            self.adopt(newcomer, kind);
            return;
        }
        let home = self.next_home % self.peers.len();
        self.next_home = home + 1;
        if home == self.home.index() {
            self.adopt(newcomer, kind);
            return;
        }
        let home = LoopIndex(u16::try_from(home).expect("fewer loops than LOOPS_MAX"));
        self.send(home, Mail::Control(Control::Adopt { newcomer, kind }));
    }

    /// Owns a connection from now on.
    pub(super) fn adopt(&mut self, newcomer: Newcomer, kind: ConnectionKind) {
        if self.is_stopping {
            return;
        }
        let Newcomer { socket, peer, admission } = newcomer;
        let connection = Connection::new(socket, peer, kind.clone()).admitted(admission);
        let Some(place) = self.register(connection) else {
            return;
        };
        self.open(place);
        if kind == ConnectionKind::RouteAccepted
            && let Some(serving) = self.rules.route_tls.clone()
        {
            self.wrap(place, Layer::serve(&serving), serving.timeout);
        }
    }

    fn register(&mut self, connection: Connection) -> Option<Place> {
        // Small answers must not wait for the acknowledgement of what went before.
        if !connection.is_connecting()
            && let Err(error) = connection.socket.set_nodelay(true)
        {
            log::debug!("{} - Error setting TCP_NODELAY: {error}", connection.peer);
        }
        let peer = connection.peer;
        let place = self.table.insert(connection);
        let connection = self.table.get_mut(place).expect("it was just put there");
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        if let Err(error) = registry.register(&mut connection.socket, place.token(), interest) {
            log::error!("{peer} - Error polling a new connection: {error}");
            self.table.remove(place);
            return None;
        }
        Some(place)
    }

    /// A route begins with TLS at once; its session says nothing before that is done.
    fn wrap(&mut self, place: Place, layer: Result<Layer, Broken>, timeout: Duration) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        match layer {
            Ok(layer) => {
                connection.wrap(layer);
                self.timers.arm(Timer::Handshake(place), self.now.at + timeout);
                self.mark_unsent(place);
            }
            Err(broken) => self.finish_handshake(place, broken.to_string()),
        }
    }

    /// Opens the session, unless that was done.
    pub(super) fn open(&mut self, place: Place) {
        let session = self.session(place);
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        if std::mem::replace(&mut connection.notes.is_open, true) {
            return;
        }
        let hello = Hello { peer: connection.peer, kind: connection.kind.clone() };
        self.broker.handle(Input::Opened { session, hello }, self.now);
        self.drain_effects();
    }

    pub(super) fn dial(&mut self, kind: ConnectionKind) {
        if self.is_stopping {
            return;
        }
        let target = match Target::parse(url_of(&kind)) {
            Ok(target) => target,
            Err(why) => {
                self.dial_failed(&kind, why);
                return;
            }
        };
        let literal = target.literal();
        let route = Route { kind, target };
        if let Some(address) = literal {
            self.on_found(route, Found::Addresses(vec![address]));
            return;
        }
        let mailbox = self.peers[self.home.index()].clone();
        let (target, kind) = (route.target.clone(), route.kind.clone());
        let answer = move |found| {
            // Nobody is left to be told when the loop has ended meanwhile.
            let _has_reader = mailbox.send(Mail::Control(Control::Found { route, found }));
        };
        let seed = self.random.next_u64();
        let answer = Box::new(answer);
        if !self.resolver.ask(Query { target, own_port: self.own_route_port, seed, answer }) {
            self.dial_failed(&kind, "too many names wait to be looked up".to_owned());
        }
    }

    pub(super) fn on_found(&mut self, route: Route, found: Found) {
        if self.is_stopping {
            return;
        }
        let Route { kind, target } = route;
        let addresses = match found {
            Found::Addresses(addresses) => addresses,
            Found::Ourselves => {
                let url = url_of(&kind).to_owned();
                self.broker.handle(Input::DialledOurselves { url }, self.now);
                return;
            }
            Found::Nothing(why) => {
                self.dial_failed(&kind, why);
                return;
            }
        };
        if let ConnectionKind::Upstream { .. } = kind {
            let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
            self.upstream_patience = dial::UPSTREAM_TIMEOUT / count.max(1);
            self.upstream_addresses = addresses;
            self.connect_upstream(&kind, String::new());
            return;
        }
        let Some(address) = addresses.last().copied() else { return };
        let Target { host, port } = target;
        log::debug!("Trying to connect to route on {host}:{port} ({address})");
        if let Err(error) = self.connect(&kind, address, dial::DIAL_TIMEOUT) {
            self.dial_failed(&kind, dial::failure_text(address, &error));
        }
    }

    /// Tries the addresses of an external server that are left, until one of them can be waited
    /// for; `why` the last one failed is told when there is none.
    fn connect_upstream(&mut self, kind: &ConnectionKind, mut why: String) {
        while let Some(address) = self.upstream_addresses.pop() {
            match self.connect(kind, address, self.upstream_patience) {
                Ok(()) => return,
                Err(error) => why = dial::failure_text(address, &error),
            }
        }
        self.dial_failed(kind, why);
    }

    fn connect(
        &mut self,
        kind: &ConnectionKind,
        address: SocketAddr,
        patience: Duration,
    ) -> io::Result<()> {
        let plan = world::descriptor_plan();
        let admission = descriptors::CONNECTIONS.admit(plan, Purpose::Route);
        let admission = admission.ok_or_else(out_of_descriptors)?;
        let socket = TcpStream::connect(address)?;
        let connection = Connection::connecting(socket, address, kind.clone());
        let place = self.register(connection.admitted(admission)).ok_or_else(out_of_descriptors)?;
        self.timers.arm(Timer::Dial(place), self.now.at + patience);
        Ok(())
    }

    fn dial_failed(&mut self, kind: &ConnectionKind, reason: String) {
        let input = match kind {
            ConnectionKind::RouteSolicited { url, .. } => {
                Input::DialFailed { url: url.clone(), reason }
            }
            ConnectionKind::Upstream { .. } => {
                // A name is told here as by the library that the reference connects with.
                let looked_up = reason.strip_prefix("lookup for host ");
                let place = looked_up.and_then(|rest| rest.split_once(": "));
                let reason = match place {
                    Some((_, why)) => format!("dial tcp: {why}"),
                    None => reason,
                };
                Input::UpstreamDialFailed { reason }
            }
            ConnectionKind::Client | ConnectionKind::RouteAccepted => return,
        };
        self.broker.handle(input, self.now);
    }

    /// An event came for a connection that was being made.
    pub(super) fn on_dialled(&mut self, place: Place) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        match connection.try_connected() {
            Ok(false) => (),
            Ok(true) => self.on_connected(place),
            Err(error) => self.give_up_dial(place, &error),
        }
    }

    pub(super) fn give_up_dial(&mut self, place: Place, error: &io::Error) {
        self.timers.cancel(&Timer::Dial(place));
        if let Some(connection) = self.table.remove(place) {
            let why = dial::failure_text(connection.peer, error);
            if connection.is_upstream() {
                self.connect_upstream(&connection.kind, why);
            } else {
                self.dial_failed(&connection.kind, why);
            }
            self.is_pressed = true;
        }
    }

    fn on_connected(&mut self, place: Place) {
        self.timers.cancel(&Timer::Dial(place));
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        if let Err(error) = connection.socket.set_nodelay(true) {
            log::debug!("{} - Error setting TCP_NODELAY: {error}", connection.peer);
        }
        if matches!(connection.kind, ConnectionKind::Upstream { .. }) {
            self.upstream_addresses.clear();
            self.open(place);
            return;
        }
        let ConnectionKind::RouteSolicited { url, .. } = &connection.kind else {
            unreachable!("only routes are dialled");
        };
        let target = Target::parse(url).expect("it was read before it was dialled");
        let Some(dialling) = self.rules.dial_tls.clone() else {
            self.open(place);
            return;
        };
        let is_address = target.literal().is_some();
        let name = self.rules.dial_tls_name.as_ref().filter(|_| is_address);
        let layer = Layer::dial(&dialling, name.unwrap_or(&target.host));
        self.open(place);
        self.wrap(place, layer, dialling.timeout);
    }
}

/// Whom a connection that we open is for, as it is dialled.
fn url_of(kind: &ConnectionKind) -> &str {
    match kind {
        ConnectionKind::RouteSolicited { url, .. } => url,
        ConnectionKind::Upstream { address, .. } => address,
        ConnectionKind::Client | ConnectionKind::RouteAccepted => "",
    }
}
