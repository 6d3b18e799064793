//! The external NATS servers that there are: the configured ones and those that they tell of.

use crate::base::limits::PEER_URLS_MAX;
use crate::base::random::Random;
use crate::base::server_url::ServerUrl;

/// Letters of a host that a server tells of: no name is longer, and each stands in the log.
const HOST_LEN_MAX: usize = 255;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub url: ServerUrl,
    /// Whether another server has told of it.
    is_learnt: bool,
    /// The name that its certificate is to have, where only an address was told.
    pub tls_name: Option<String>,
}

/// All servers, the one whose turn it is in front.
#[derive(Debug, Default)]
pub(super) struct Servers {
    list: Vec<Known>,
}

impl Servers {
    /// Those of the configuration, in an order of their own for each process.
    pub fn new(urls: &[ServerUrl], random: &mut Random) -> Self {
        let known = |url: &ServerUrl| Known { url: url.clone(), is_learnt: false, tls_name: None };
        let mut servers = Self { list: urls.iter().map(known).collect() };
        servers.shuffle(0, random);
        servers
    }

    /// The one whose turn it is.
    pub fn current(&self) -> Option<&Known> {
        self.list.first()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// It is the turn of the next one.
    pub fn turn(&mut self) {
        if !self.list.is_empty() {
            self.list.rotate_left(1);
        }
    }

    /// The server in front tells which ones there are (spec core NATS, 2.3). Those of the
    /// configuration stay, and it itself; a list that is empty says nothing.
    pub fn learn(&mut self, told: &[String], random: &mut Random) {
        if told.is_empty() {
            return;
        }
        let told = &told[..told.len().min(PEER_URLS_MAX)];
        let mut place = 0;
        self.list.retain(|known| {
            place += 1;
            place == 1 || !known.is_learnt || told.contains(&known.url.address())
        });
        let Some(front) = self.list.first().cloned() else { return };
        let is_name = front.url.host.parse::<std::net::IpAddr>().is_err();
        let name = front.tls_name.or_else(|| is_name.then(|| front.url.host.clone()));
        let old_len = self.list.len();
        for address in told {
            let Ok(mut url) = ServerUrl::decode(address) else { continue };
            if HOST_LEN_MAX < url.host.len() {
                continue;
            }
            if self.list.iter().any(|known| known.url.address() == url.address()) {
                continue;
            }
            url.login.clone_from(&front.url.login);
            url.is_tls = front.url.is_tls;
            let is_address = url.host.parse::<std::net::IpAddr>().is_ok();
            let tls_name = name.clone().filter(|_| is_address);
            self.list.push(Known { url, is_learnt: true, tls_name });
        }
        if old_len < self.list.len() {
            self.shuffle(1, random);
        }
    }

    fn shuffle(&mut self, from: usize, random: &mut Random) {
        for end in (from + 1..self.list.len()).rev() {
            let span = (end + 1 - from) as u64;
            let other = from + usize::try_from(random.below(span)).unwrap_or(0);
            self.list.swap(end, other);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::BTreeSet;

    use super::*;

    fn servers(text: &str) -> Servers {
        Servers::new(&ServerUrl::decode_list(text).unwrap(), &mut Random::new(7))
    }

    fn addresses(servers: &Servers) -> BTreeSet<String> {
        servers.list.iter().map(|known| known.url.address()).collect()
    }

    fn set(text: &str) -> BTreeSet<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn told(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn each_has_its_turn() {
        let mut servers = servers("a,b,c");
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(servers.current().unwrap().url.host.clone());
            servers.turn();
        }
        assert_eq!(seen[..3], seen[3..]);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn what_is_told_comes_and_goes_and_what_is_configured_stays() {
        let mut servers = servers("nats://u:p@a:1,nats://u:p@b:1");
        let front = servers.current().unwrap().url.address();
        let random = &mut Random::new(1);
        servers.learn(&told("a:1 10.0.0.9:4222 d:1 :x"), random);
        assert_eq!(addresses(&servers), set("a:1 b:1 10.0.0.9:4222 d:1"));
        assert_eq!(servers.current().unwrap().url.address(), front, "it is connected to that one");
        let learnt = servers.list.iter().find(|known| known.url.host == "10.0.0.9").unwrap();
        assert_eq!(learnt.url.login, Some(("u".to_owned(), Some("p".to_owned()))));
        assert!(learnt.tls_name.is_some(), "a certificate has a name, not an address");
        servers.learn(&[], random);
        assert_eq!(servers.len(), 4);
        servers.learn(&told("e:1"), random);
        assert_eq!(addresses(&servers), set("a:1 b:1 e:1"));
    }

    #[test]
    fn no_server_tells_of_more_than_a_bound() {
        let mut servers = servers("a,b");
        let many: Vec<String> = (0..5_000).map(|number| format!("h{number}:1")).collect();
        servers.learn(&many, &mut Random::new(1));
        assert!(servers.len() <= PEER_URLS_MAX + 2);
        let before = servers.len();
        servers.learn(&[format!("{}:1", "h".repeat(256)), "a:1".to_owned()], &mut Random::new(1));
        assert!(servers.len() < before, "no host has so long a name");
        assert!(servers.list.iter().all(|known| known.url.host.len() < 256));
    }
}
