//! Opens connections for routes and to external servers: whom a URL means, and how long to wait
//!
//! Names are looked up on a thread of their own, because the system's look-up blocks.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;

use crate::base::random::Random;
use crate::net::listener::{canonical, system_text};

/// How long a connection may take to be made (spec core NATS, 1.2).
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The same to an external NATS server, for all its addresses together (spec protocol, 1.1).
pub const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// Names that wait to be looked up; there are as many as routes that are being opened.
const QUERIES_MAX: usize = 1_024;

/// Whom a route URL means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Target {
    /// Reads `[nats-route://][user[:password]@]host:port`.
    ///
    /// # Errors
    /// Why nobody can be dialled, in the words of the reference.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let rest = rest.split(['/', '?']).next().unwrap_or(rest);
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        if place.is_empty() {
            return Err("missing port in address".to_owned());
        }
        let bracketed = place.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = port.ok_or_else(|| format!("address {place}: missing port in address"))?;
        if host.is_empty() {
            return Err(unknown(host));
        }
        let number = port.parse().map_err(|_| format!("dial tcp: address {port}: invalid port"))?;
        Ok(Self { host: host.to_owned(), port: number })
    }

    /// The address, if none has to be looked up.
    #[must_use]
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

/// One name to be looked up.
pub struct Query {
    /// Whom.
    pub target: Target,
    /// Our own port for routes: who listens there on this machine is us.
    pub own_port: Option<u16>,
    /// For the choice among several addresses.
    pub seed: u64,
    /// Called on the resolver's thread; must not block.
    pub answer: Box<dyn FnOnce(Found) + Send>,
}

/// What a look-up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Addresses to try, at least one, in a random order.
    Addresses(Vec<SocketAddr>),
    /// Only we ourselves are behind the name: there is nobody to connect to.
    Ourselves,
    /// The reason why nothing was found.
    Nothing(String),
}

/// Hands names to the thread that looks them up; the thread ends with the last handle.
#[derive(Clone)]
pub struct Resolver {
    queries: crossbeam_channel::Sender<Query>,
}

impl Resolver {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start() -> io::Result<Self> {
        let (queries, waiting) = crossbeam_channel::bounded::<Query>(QUERIES_MAX);
        let look_up_all = move || {
            for query in waiting {
                let found = look_up(&query);
                (query.answer)(found);
            }
        };
        // Never joined: a look-up can hang for as long as the system's resolver likes.
        thread::Builder::new().name("stanby-resolver".to_owned()).spawn(look_up_all)?;
        Ok(Self { queries })
    }

    /// Asks; false if too many names wait already.
    #[must_use]
    pub fn ask(&self, query: Query) -> bool {
        self.queries.try_send(query).is_ok()
    }
}

fn look_up(query: &Query) -> Found {
    let Target { host, port } = &query.target;
    let mut found: Vec<SocketAddr> = match (host.as_str(), *port).to_socket_addrs() {
        Ok(found) => found.map(canonical).collect(),
        Err(error) => return Found::Nothing(unresolved(host, &error)),
    };
    if found.is_empty() {
        return Found::Nothing(unknown(host));
    }
    if query.own_port == Some(*port) {
        let own = own_addresses();
        found.retain(|address| !own.contains(&address.ip()));
    }
    if found.is_empty() {
        return Found::Ourselves;
    }
    let mut random = Random::new(query.seed);
    for end in (1..found.len()).rev() {
        let other = usize::try_from(random.below(end as u64 + 1)).unwrap_or(0);
        found.swap(end, other);
    }
    Found::Addresses(found)
}

fn unknown(host: &str) -> String {
    format!("lookup for host \"{host}\": lookup {host}: no such host")
}

/// Why a name was not found: the system's library has no numbers for that, only sentences.
fn unresolved(host: &str, error: &io::Error) -> String {
    let text = system_text(error);
    let reason = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    match reason {
        "Name or service not known" | "No address associated with hostname" => unknown(host),
        other => format!("lookup for host \"{host}\": lookup {host}: {}", other.to_lowercase()),
    }
}

fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces.filter_map(|interface| interface.address);
    let ips = addresses.filter_map(|address| {
        let four = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    ips.collect()
}

/// Why a connection was not made, in the words of the reference.
#[must_use]
pub fn failure_text(address: SocketAddr, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::TimedOut {
        return format!("dial tcp {address}: i/o timeout");
    }
    format!("dial tcp {address}: connect: {}", system_text(error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn check(url: &str, host: &str, port: u16) {
        assert_eq!(Target::parse(url), Ok(Target { host: host.to_owned(), port }), "{url}");
    }

    #[test]
    fn a_route_url_names_a_host_and_a_port() {
        check("127.0.0.1:6222", "127.0.0.1", 6222);
        check("nats-route://ruser:p@ss:w@host.example:6222/", "host.example", 6222);
        check("nats://[::1]:1", "::1", 1);
        let nobody = "lookup for host \"\": lookup : no such host";
        for (broken, why) in [
            ("host", "address host: missing port in address"),
            ("nats://u:p@[::1]", "address [::1]: missing port in address"),
            ("host:99999", "dial tcp: address 99999: invalid port"),
            (":6222", nobody),
            ("nats-route://u@:1", nobody),
            ("", "missing port in address"),
        ] {
            assert_eq!(Target::parse(broken), Err(why.to_owned()), "{broken}");
        }
    }

    #[test]
    fn addresses_need_no_look_up() {
        let literal = |url: &str| Target::parse(url).unwrap().literal();
        assert_eq!(literal("[::1]:5"), Some("[::1]:5".parse().unwrap()));
        assert_eq!(literal("localhost:5"), None);
    }

    fn ask(host: &str, own_port: Option<u16>) -> Found {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let resolver = Resolver::start().unwrap();
        let answer = Box::new(move |found| sender.send(found).unwrap());
        let target = Target { host: host.to_owned(), port: 6222 };
        assert!(resolver.ask(Query { target, own_port, seed: 1, answer }));
        receiver.recv().unwrap()
    }

    #[test]
    fn a_name_that_nobody_has_is_told_in_the_words_of_the_reference() {
        let error =
            io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(unresolved("x.y", &error), "lookup for host \"x.y\": lookup x.y: no such host");
        let error = io::Error::other(
            "failed to lookup address information: Temporary failure in name resolution",
        );
        let expected = "lookup for host \"x\": lookup x: temporary failure in name resolution";
        assert_eq!(unresolved("x", &error), expected);
    }

    #[test]
    fn names_are_looked_up_and_our_own_address_is_left_out() {
        assert!(matches!(
            ask("localhost", None),
            Found::Addresses(found) if found.iter().all(|at| at.ip().is_loopback())
        ));
        assert_eq!(ask("localhost", Some(6222)), Found::Ourselves);
        assert!(matches!(ask("localhost", Some(1)), Found::Addresses(_)));
    }

    #[test]
    fn a_refused_connection_is_told_in_the_words_of_the_reference() {
        let address = "127.0.0.1:1".parse().unwrap();
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(
            failure_text(address, &refused),
            "dial tcp 127.0.0.1:1: connect: connection refused"
        );
        let late = io::Error::from(io::ErrorKind::TimedOut);
        assert_eq!(failure_text(address, &late), "dial tcp 127.0.0.1:1: i/o timeout");
    }
}
