//! Routes that are being dialled, or will be (spec core NATS, 10.7).
//!
//! A configured URL is always one of these: being dialled, waiting for that, the way of a route
//! that is there, known to lead to a peer whose route came otherwise, or one of this server itself.
//! When the route to such a peer ends, it is dialled again: whoever starts at once with others
//! closes and is closed as a duplicate, and must not stay without a route.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::deadlines::Deadlines;
use crate::base::limits::GOSSIP_DIALS_MAX;
use crate::base::time::Instant;
use crate::broker::{Broker, Effect};

/// Time between attempts at a route.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Both sides of a lost route dial again; a random pause keeps them apart.
const RETRY_SPREAD: Duration = Duration::from_millis(100);

/// One failed attempt in so many is an error in the log; the others are details.
const REPORT_EVERY: u32 = 3600;

/// Servers that agree on a made-up name hang up on each other, and come back. Whoever hangs up more
/// often is not waited for.
const HANG_UPS_MAX: u32 = 2;

/// Routes that are looked for.
#[derive(Debug, Default)]
pub(super) struct Dials {
    by_url: BTreeMap<String, Dial>,
    deadlines: Deadlines<String>,
    /// Configured URLs that lead to a peer whose route is registered, and not by this URL.
    known: BTreeMap<String, String>,
}

/// A route that is being dialled, or will be.
#[derive(Debug, Default)]
struct Dial {
    /// Whether it was asked for and has neither failed nor become a route.
    is_under_way: bool,
    /// Whether nobody can say yet that it will not come.
    is_awaited: bool,
    is_explicit: bool,
    attempts: u32,
    /// In how many of them the peer hung up.
    hang_ups: u32,
    /// The peer, where it is known: once it is connected otherwise, the dial is off.
    remote_id: String,
}

/// A route that has ended.
pub(super) struct Lost {
    pub remote_id: String,
    pub is_explicit: bool,
    pub how: LostHow,
}

/// What a route had come to when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostHow {
    /// It was registered.
    WasThere,
    /// One of both found a fault with the other.
    Refused,
    /// It was not registered, and nobody found a fault: as a duplicate, or because the peer takes
    /// up another name.
    HungUp,
}

impl Dials {
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next_deadline()
    }

    pub fn len(&self) -> usize {
        self.by_url.len()
    }

    /// Whether the server of this id is dialled.
    pub fn seeks(&self, remote_id: &str) -> bool {
        self.by_url.values().any(|dial| dial.remote_id == remote_id)
    }

    /// Whether one of them may still become a route.
    pub fn are_awaited(&self) -> bool {
        self.by_url.values().any(|dial| dial.is_awaited)
    }

    /// The URL became a route, or is not wanted any more.
    pub fn remove(&mut self, url: &str) {
        self.by_url.remove(url);
        self.deadlines.cancel(&url.to_owned());
    }

    /// Such a configured URL need not be dialled while the route to that server is there.
    pub fn set_known(&mut self, url: String, remote_id: String) {
        self.known.insert(url, remote_id);
    }

    pub fn is_known(&self, url: &str) -> bool {
        self.known.contains_key(url)
    }

    /// The URLs that lead to a server whose route has ended.
    pub fn take_known(&mut self, remote_id: &str) -> Vec<String> {
        let is_its = |(url, remote): (&String, &String)| (remote == remote_id).then(|| url.clone());
        let taken: Vec<String> = self.known.iter().filter_map(is_its).collect();
        self.known.retain(|_, remote| remote != remote_id);
        taken
    }

    /// Configured ones that are none of `urls` are not looked for any more.
    pub fn keep_configured(&mut self, urls: &[String]) {
        let is_gone = |(url, dial): &(&String, &Dial)| dial.is_explicit && !urls.contains(url);
        let gone: Vec<String> =
            self.by_url.iter().filter(is_gone).map(|(url, _)| url.clone()).collect();
        gone.iter().for_each(|url| self.remove(url));
        self.known.retain(|url, _| urls.contains(url));
    }
}

impl Broker {
    pub(super) fn dial(&mut self, url: String, is_explicit: bool, remote_id: String) {
        if let Some(found) = self.routes.dials.by_url.get_mut(&url) {
            // What a peer told of may be configured by a reload.
            found.is_explicit |= is_explicit;
            return;
        }
        let dial = Dial { is_awaited: true, is_explicit, remote_id, ..Dial::default() };
        self.routes.dials.by_url.insert(url.clone(), dial);
        self.dial_now(url, is_explicit);
    }

    /// Asks for a connection. Those that peers told of wait for each other: a peer can tell of any
    /// number, and each takes a descriptor.
    fn dial_now(&mut self, url: String, is_explicit: bool) {
        let dials = &mut self.routes.dials;
        let is_gossip = |dial: &&Dial| dial.is_under_way && !dial.is_explicit;
        let under_way = dials.by_url.values().filter(is_gossip).count();
        if !is_explicit && GOSSIP_DIALS_MAX <= under_way {
            dials.deadlines.arm(url, self.now.at + RETRY_AFTER);
            return;
        }
        if let Some(dial) = dials.by_url.get_mut(&url) {
            dial.is_under_way = true;
        }
        self.effects.push_back(Effect::Dial { url, is_explicit });
    }

    /// A dial came to nothing.
    pub(super) fn on_dial_failed(&mut self, url: &str, reason: &str) {
        let retries = self.settings.cluster.as_ref().map_or(0, |cluster| cluster.connect_retries);
        let Some(dial) = self.routes.dials.by_url.get_mut(url) else { return };
        dial.attempts += 1;
        dial.is_under_way = false;
        // Who starts at the same time may not know of us: it is looked for once more.
        dial.is_awaited &= dial.attempts < 2;
        let attempts = dial.attempts;
        let is_over = !dial.is_explicit && attempts > retries;
        let is_reported = attempts == 1 || attempts.is_multiple_of(REPORT_EVERY);
        let level = if is_reported { log::Level::Error } else { log::Level::Debug };
        self.log(level, format!("Error trying to connect to route (attempt {attempts}): {reason}"));
        if is_over {
            self.routes.dials.remove(url);
        } else {
            self.routes.dials.deadlines.arm(url.to_owned(), self.now.at + RETRY_AFTER);
        }
    }

    /// A URL turned out to be one of this server.
    pub(super) fn on_dialled_ourselves(&mut self, url: &str) {
        self.routes.dials.remove(url);
    }

    /// Dials that are due.
    pub(super) fn on_route_deadlines(&mut self) {
        while let Some(url) = self.routes.dials.deadlines.pop_due(self.now.at) {
            let Some(dial) = self.routes.dials.by_url.get(&url) else { continue };
            let (is_explicit, remote_id) = (dial.is_explicit, dial.remote_id.clone());
            let is_off = self.is_connected(&url, is_explicit, remote_id);
            if is_off || (is_explicit && !self.is_configured(&url)) {
                self.routes.dials.remove(&url);
                continue;
            }
            self.dial_now(url, is_explicit);
        }
    }

    /// A route of this URL has ended, or was closed as a duplicate: it is dialled again unless its
    /// peer is connected otherwise.
    pub(super) fn redial(&mut self, url: String, lost: Lost) {
        let Lost { remote_id, how, .. } = lost;
        // A reload may have configured it, or not any more.
        let is_explicit = self.is_configured(&url);
        let former = self.routes.dials.by_url.remove(&url).unwrap_or_default();
        let is_registered = how == LostHow::WasThere;
        // A peer that hangs up on us each time must not keep us busy.
        let attempts = former.attempts + u32::from(!is_registered);
        let hang_ups = former.hang_ups + u32::from(how == LostHow::HungUp);
        let retries = self.settings.cluster.as_ref().map_or(0, |cluster| cluster.connect_retries);
        let is_over = !is_explicit && (lost.is_explicit || !is_registered && attempts > retries);
        if is_over
            || self.routes.is_stopped()
            || self.is_connected(&url, is_explicit, remote_id.clone())
        {
            return;
        }
        let spread = u64::try_from(RETRY_SPREAD.as_nanos()).unwrap_or(u64::MAX);
        let spread = Duration::from_nanos(self.random.below(spread));
        let is_slow = is_explicit || !is_registered;
        let pause = if is_slow { RETRY_AFTER + spread } else { spread };
        let is_awaited = how != LostHow::Refused && hang_ups <= HANG_UPS_MAX;
        let dial =
            Dial { is_under_way: false, is_awaited, is_explicit, attempts, hang_ups, remote_id };
        self.routes.dials.by_url.insert(url.clone(), dial);
        self.routes.dials.deadlines.arm(url, self.now.at + pause);
    }

    /// Whether a URL need not be dialled because its peer is connected; of a configured one that
    /// is remembered, for the time when it no longer is.
    fn is_connected(&mut self, url: &str, is_explicit: bool, remote_id: String) -> bool {
        let is_connected = self.routes.is_registered(&remote_id);
        if is_connected && is_explicit {
            self.routes.dials.set_known(url.to_owned(), remote_id);
        }
        is_connected
    }

    pub(super) fn is_configured(&self, url: &String) -> bool {
        self.settings.cluster.as_ref().is_some_and(|cluster| cluster.routes.contains(url))
    }
}
