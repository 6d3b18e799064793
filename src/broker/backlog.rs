//! What does not fit into one turn is done in portions, so that nobody waits for it.
//!
//! A session with a million interests may end, a route may come for which a million are news, and
//! all clients may have to be told something: each of these is one event, and work for a second.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::base::id::{AccountIndex, SessionId};
use crate::base::limits::{PORTION_WORK_MAX, ROUTE_NEWS_BYTES_MAX, TURN_WORK_MAX};
use crate::base::time::Instant;
use crate::broker::Broker;
use crate::broker::client::Client;
use crate::broker::former::{Forgotten, Retired};
use crate::broker::mail::Mail;
use crate::broker::mesh::InterestKey;
use crate::broker::route::{encode_info, write_engine_interest, write_interest};
use crate::broker::session::Session;
use crate::broker::sublist::Interest;
use crate::wire::Info;

/// Interests that are taken out, or told a route, before the portion is looked at again.
pub(super) const BATCH_LEN: usize = 256;

/// How soon a route that has much to read is looked at again.
const FULL_ROUTE_RETRY: Duration = Duration::from_millis(5);

/// Interests of sessions that ended and routes that hear of each, multiplied, in one batch.
const LEAVING_BATCH_WORK: usize = 2 * BATCH_LEN;

/// Work of an INFO, in receivers of a message.
const INFO_WORK: u64 = 16;

/// From so many ended sessions on that wait, they may not come more quickly than they go.
const LEAVING_WAITING_MAX: usize = 8;

/// What is to be done in the turns to come.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Interests of sessions that ended.
    leaving: VecDeque<btree_map::IntoValues<Bytes, Arc<Interest>>>,
    /// What engines of this loop that are gone listened to.
    pub retiring: Retired,
    /// What those listened to for whom nothing is kept any more.
    pub forgetting: VecDeque<Forgotten>,
    /// Inboxes of which the engine is told that there is room, if there is.
    pub rooms: VecDeque<u64>,
    /// How many inboxes that nobody names are still to be looked at, because a pattern came or
    /// went, and from which one on.
    pub unnamed: (usize, u64),
    /// Routes that are being told what is wanted here.
    news: VecDeque<News>,
    /// The same of those that have much to read, by when they are looked at again.
    delayed: BTreeMap<(Instant, SessionId), News>,
    /// Routes that have come and of which the others are told.
    introductions: VecDeque<Introduction>,
    /// An external server that is being told what is listened to, and when it is told more.
    telling: Option<(SessionId, Instant)>,
    /// Whether the URLs of the cluster are others than clients were told.
    are_urls_old: bool,
    /// Clients that are being told other URLs: the slot of the next one, and how many are left.
    informing: Option<(usize, usize)>,
    /// The turn that has a portion left, and up to where the work of the broker may go in it.
    turn: Option<(Instant, u64)>,
    /// Whether a portion is being done: what ends because of it waits for the next one.
    is_worked_off: bool,
}

/// A route that is being told what is wanted here.
#[derive(Debug)]
struct News {
    route: SessionId,
    /// What it was told last.
    told: Told,
}

/// How far it was told.
#[derive(Debug)]
enum Told {
    /// What others than engines listen to, up to there.
    Interest(Option<InterestKey>),
    /// And what engines listen to, up to there.
    EngineInterest(Option<(AccountIndex, Bytes)>),
}

/// A route of which the others are told.
#[derive(Debug)]
struct Introduction {
    route: SessionId,
    /// The INFO that they hear.
    line: Bytes,
    /// The server that was told last.
    told: Option<String>,
}

impl Backlog {
    /// Whether a route is still being told what is wanted here.
    pub fn is_telling(&self, route: SessionId) -> bool {
        let mut all = self.news.iter().chain(self.delayed.values());
        all.any(|news| news.route == route)
    }

    /// When the next portion is due; `now` is the time of the last input.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let has_work = !self.leaving.is_empty()
            || !self.retiring.is_empty()
            || !self.forgetting.is_empty()
            || !self.rooms.is_empty()
            || self.unnamed.0 > 0
            || !self.news.is_empty()
            || !self.introductions.is_empty()
            || self.are_urls_old
            || self.informing.is_some();
        if has_work {
            return Some(now);
        }
        let delayed = self.delayed.first_key_value().map(|((at, _), _)| *at);
        let telling = self.telling.map(|(_, at)| at.max(now));
        delayed.into_iter().chain(telling).min()
    }
}

impl Broker {
    /// A portion of what is to be done.
    pub(super) fn on_portion_due(&mut self) {
        if self.backlog.next_deadline(self.now.at).is_some_and(|at| at <= self.now.at) {
            self.backlog.turn = None;
            self.work_off();
        }
    }

    /// What of this turn's portion is left is used.
    pub(super) fn work_off(&mut self) {
        if std::mem::replace(&mut self.backlog.is_worked_off, true) {
            return;
        }
        let work = self.work_done();
        let is_behind = LEAVING_WAITING_MAX < self.backlog.leaving.len();
        let portion = if is_behind { TURN_WORK_MAX } else { PORTION_WORK_MAX };
        let limit = match self.backlog.turn {
            Some((at, limit)) if at == self.now.at => limit,
            Some(_) | None => work + portion,
        };
        self.backlog.turn = Some((self.now.at, limit));
        // None of them keeps the others from going on: each has half of what is left.
        let half = |broker: &Self| {
            let work = broker.work_done();
            work + limit.saturating_sub(work).div_ceil(2)
        };
        self.take_out_leaving(half(self));
        self.retire_some(half(self));
        self.forget_some(half(self));
        self.tell_rooms(half(self));
        self.look_at_unnamed(half(self));
        self.tell_interests(half(self));
        self.tell_news(half(self));
        self.refresh_urls(limit);
        self.introduce_some(half(self));
        self.inform_some(half(self));
        self.take_out_leaving(limit);
        self.retire_some(limit);
        self.forget_some(limit);
        self.tell_rooms(limit);
        self.look_at_unnamed(limit);
        self.tell_interests(limit);
        self.tell_news(limit);
        self.introduce_some(limit);
        self.inform_some(limit);
        self.backlog.is_worked_off = false;
    }

    /// Interests of a session that ended are taken out of the trees of all loops.
    pub(super) fn leave(&mut self, interests: std::collections::BTreeMap<Bytes, Arc<Interest>>) {
        if !interests.is_empty() {
            self.backlog.leaving.push_back(interests.into_values());
            self.work_off();
        }
    }

    fn take_out_leaving(&mut self, limit: u64) {
        while self.work_done() < limit {
            let Some(front) = self.backlog.leaving.front_mut() else { return };
            // Each route may hear of each of them.
            let len = (LEAVING_BATCH_WORK / (2 + self.routes.registered_count())).max(1);
            let batch: Vec<Arc<Interest>> = front.by_ref().take(len).collect();
            if batch.len() < len {
                self.backlog.leaving.pop_front();
            }
            let name_work: usize = batch.iter().map(|gone| gone.name_work()).sum();
            self.work += (2 * batch.len() + name_work) as u64;
            self.remove_from_tree(&batch);
            self.mail_all(&Mail::InterestsGone(batch));
        }
    }

    /// Tells a new route all that is wanted here. What changes meanwhile it is told at once, so
    /// that in the end the last word about each subject is right.
    pub(super) fn send_local_interest(&mut self, route: SessionId) {
        self.backlog.news.push_back(News { route, told: Told::Interest(None) });
        self.work_off();
    }

    fn tell_news(&mut self, limit: u64) {
        while let Some(first) = self.backlog.delayed.first_entry() {
            if self.now.at < first.key().0 {
                break;
            }
            self.backlog.news.push_back(first.remove());
        }
        while self.work_done() < limit {
            let Some(news) = self.backlog.news.pop_front() else { return };
            self.work += 1;
            self.tell_route(news);
        }
    }

    /// Tells one route a part; its turn for more comes after that of the others.
    fn tell_route(&mut self, mut news: News) {
        let Some(session) = self.sessions.get(news.route).filter(|found| !found.is_ending()) else {
            return;
        };
        if session.outbox.len() > ROUTE_NEWS_BYTES_MAX {
            let at = self.now.at + FULL_ROUTE_RETRY;
            self.backlog.delayed.insert((at, news.route), news);
            return;
        }
        let told = match &news.told {
            Told::Interest(told) => told,
            Told::EngineInterest(told) => {
                let told = told.clone();
                return self.tell_engine_interests(news.route, told.as_ref());
            }
        };
        let begin = told.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let part = self.routes.local_interest(begin, BATCH_LEN);
        let wanted: Vec<_> =
            part.iter().filter(|((_, subject, _), _)| self.may_import(subject)).collect();
        let Some(session) = self.sessions.get_mut(news.route) else { return };
        for ((account, subject, queue), count) in wanted {
            let name = self.accounts.name(*account);
            write_interest(session, (name, subject, queue.as_ref()), *count);
        }
        self.work += part.len() as u64;
        self.mark_dirty(news.route);
        news.told = if part.len() < BATCH_LEN {
            Told::EngineInterest(None)
        } else {
            Told::Interest(part.into_iter().next_back().map(|(key, _)| key))
        };
        self.backlog.news.push_back(news);
    }

    /// The same of what engines listen to for which is kept what clients send.
    fn tell_engine_interests(&mut self, route: SessionId, told: Option<&(AccountIndex, Bytes)>) {
        let part = self.routes.engine_interests_after(told, BATCH_LEN);
        let is_sibling = self.is_sibling(route);
        let sibling_epoch = self.serving.begun_epoch().filter(|_| is_sibling);
        for (account, subject) in &part {
            // Siblings are told nothing of engines that are gone.
            if !self.may_import(subject) || is_sibling && sibling_epoch.is_none() {
                continue;
            }
            let name = self.accounts.name(*account);
            let Some(session) = self.sessions.get_mut(route) else { return };
            match sibling_epoch {
                Some(epoch) => write_engine_interest(session, (name, subject), epoch, true),
                None => write_interest(session, (name, subject, None), 1),
            }
        }
        self.work += part.len() as u64;
        self.mark_dirty(route);
        if part.len() < BATCH_LEN {
            let text = "Sent local subscriptions to route";
            self.log_about(route, log::Level::Debug, text);
            return self.on_news_told(route);
        }
        let told = Told::EngineInterest(part.into_iter().next_back());
        self.backlog.news.push_back(News { route, told });
    }

    /// Tells an external server all that is listened to.
    pub(super) fn tell_interests_to(&mut self, server: SessionId) {
        self.backlog.telling = Some((server, self.now.at));
        self.work_off();
    }

    fn tell_interests(&mut self, limit: u64) {
        while self.work_done() < limit {
            let Some((server, at)) = self.backlog.telling else { return };
            if self.now.at < at {
                return;
            }
            let outbox = self.sessions.get(server).map_or(0, |found| found.outbox.len());
            if ROUTE_NEWS_BYTES_MAX < outbox {
                self.backlog.telling = Some((server, self.now.at + FULL_ROUTE_RETRY));
                return;
            }
            self.work += 1;
            if !self.tell_some_interests(server, BATCH_LEN) {
                self.backlog.telling = None;
            }
        }
    }

    /// The other routes hear of a new one. Of many that come at once each is work for all.
    pub(super) fn introduce(&mut self, route: SessionId, info: &Info) {
        let mut line = BytesMut::new();
        encode_info(info, &mut line);
        let introduction = Introduction { route, line: line.freeze(), told: None };
        self.backlog.introductions.push_back(introduction);
        self.work_off();
    }

    fn introduce_some(&mut self, limit: u64) {
        while self.work_done() < limit {
            let Some(mut next) = self.backlog.introductions.pop_front() else { return };
            self.work += 1;
            // Who left meanwhile is not worth a dial.
            if self.sessions.get(next.route).is_none_or(Session::is_ending) {
                continue;
            }
            let Some((server, other)) = self.routes.next_registered(next.told.as_deref()) else {
                continue;
            };
            next.told = Some(server);
            if let Some(session) =
                self.sessions.get_mut(other).filter(|found| found.id != next.route)
            {
                // One copy for all: it may be as long as a stranger wants.
                session.outbox.put_shared(next.line.clone());
                session.outbox.seal(false);
                self.work += INFO_WORK;
                self.mark_dirty(other);
                self.look_at_route(other);
            }
            self.backlog.introductions.push_front(next);
        }
    }

    /// The URLs of the cluster are others now, or may be.
    pub(super) fn urls_changed(&mut self) {
        self.backlog.are_urls_old = true;
        self.work_off();
    }

    /// What clients are told follows once a portion, however many routes came and went.
    fn refresh_urls(&mut self, limit: u64) {
        if self.backlog.are_urls_old && self.work_done() < limit {
            self.backlog.are_urls_old = false;
            self.update_urls();
        }
    }

    /// INFO to the clients that want to hear of changes.
    pub(super) fn inform_clients(&mut self) {
        let next = self.backlog.informing.map_or(0, |(next, _)| next);
        self.backlog.informing = Some((next, self.sessions.slot_count()));
        self.work_off();
    }

    fn inform_some(&mut self, limit: u64) {
        while let Some((next, left)) = self.backlog.informing {
            if left == 0 {
                self.backlog.informing = None;
                return;
            }
            if limit <= self.work_done() {
                return;
            }
            let next = if next < self.sessions.slot_count() { next } else { 0 };
            self.backlog.informing = Some((next + 1, left - 1));
            self.work += 1;
            let version = self.urls_version;
            let is_behind = |client: &Client| client.urls_version != version;
            let found =
                self.sessions.at(next).filter(|session| session.client().is_some_and(is_behind));
            let id = found.map(|session| session.id);
            if let Some(id) = id.filter(|id| self.hears_info(*id)) {
                self.work += INFO_WORK + self.info.connect_urls.len() as u64;
                self.send_info(id);
            }
        }
    }
}
