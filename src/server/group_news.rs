//! what this member tells the others of its group of itself, and what it knows of them

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::base::epoch::{Epoch, Predecessor};
use crate::base::id::Subject;
use crate::base::time::{Instant, Now};
use crate::base::world;
use crate::broker::snapshot::Wanted;
use crate::config::Config;
use crate::election::input::Input;
use crate::election::lease::{Holder, Owner};
use crate::election::membership::{
    self, Known, KnownActive, MemberNews, Membership, Standing, TAKE_OVERS_MAX, TakeOver,
};
use crate::monitor::GroupFacts;
use crate::net::Control;
use crate::server::Server;
use crate::server::engine_driver::Mail;
use crate::server::interest_key::Listener;

/// Time between two words: as between two heartbeats.
const INTERVAL: Duration = Duration::from_secs(1);

/// A lease that was won, until clients are served.
#[derive(Debug)]
struct Won {
    at: Instant,
    epoch: Epoch,
    predecessor: Predecessor,
}

/// This member as the others are to know it, and what it knows of them.
#[derive(Debug)]
pub(super) struct GroupNews {
    /// Where the members tell of themselves; `None`: this server stands alone.
    subject: Option<Subject>,
    cluster_id: String,
    group: Option<String>,
    /// What does not change.
    own: MemberNews,
    standing: Standing,
    /// Since when.
    since: Now,
    active: Option<KnownActive>,
    waits_for: Option<String>,
    won: Option<Won>,
    take_overs: VecDeque<TakeOver>,
    take_over_count: u64,
    last_take_over: Option<Duration>,
    /// Counted by loop 0, when it was asked last.
    routes: Arc<AtomicU64>,
    next_at: Instant,
    /// What the others said.
    pub members: Membership,
}

impl GroupNews {
    /// A member that stands by.
    #[must_use]
    pub fn new(config: &Config, owner: &Owner, monitoring: Option<String>) -> Self {
        let streaming = &config.streaming;
        let name = streaming.ft_group.as_ref();
        Self {
            subject: name.map(|name| membership::subject(&streaming.cluster_id, name)),
            cluster_id: streaming.cluster_id.clone(),
            group: name.cloned(),
            own: MemberNews {
                server_id: owner.server_id.clone(),
                name: config.core.server_name.clone(),
                host: owner.host.clone(),
                pid: owner.pid,
                release: owner.writer.release.clone(),
                control: owner.control_path.clone(),
                monitoring,
                ..MemberNews::default()
            },
            standing: Standing::default(),
            since: world::now(),
            active: None,
            waits_for: None,
            won: None,
            take_overs: VecDeque::new(),
            take_over_count: 0,
            last_take_over: None,
            routes: Arc::default(),
            next_at: Instant::default(),
            members: Membership::default(),
        }
    }

    /// When there is something to say.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.next_at
    }

    /// What metrics show of it.
    fn facts(&self, status: Value, now: Instant) -> GroupFacts {
        let others: Vec<Known> = self.members.known(now).collect();
        let is_ready = |known: &&Known| known.news.role == Standing::Standby && known.is_ready();
        let active = others.iter().find(|known| known.news.role == Standing::Active);
        GroupFacts {
            cluster_id: self.cluster_id.clone(),
            name: self.group.clone().unwrap_or_default(),
            role: self.standing.name(),
            epoch: self.won.as_ref().map(|won| won.epoch.0),
            take_overs: self.take_over_count,
            last_take_over: self.last_take_over,
            ready_standbys: others.iter().filter(is_ready).count() as u64,
            active_silent_for: active.map(|known| Duration::from_millis(known.silent_ms)),
            status,
            told_at: Some(now),
        }
    }

    /// Whose lease is waited for, and what that is in words.
    pub fn set_holder(&mut self, holder: Option<&Holder>, why: &str) {
        self.waits_for = Some(why.to_owned());
        self.active =
            holder.filter(|holder| !holder.server_id.is_empty()).map(|holder| KnownActive {
                server_id: holder.server_id.clone(),
                host: holder.host.clone(),
                pid: holder.pid,
                epoch: holder.epoch.0,
                control: holder.control_path.clone(),
            });
    }

    /// The lease is this member's.
    pub fn on_won(&mut self, epoch: Epoch, predecessor: Predecessor, at: Instant) {
        (self.active, self.waits_for) = (None, None);
        self.won = Some(Won { at, epoch, predecessor });
    }

    /// Clients are served.
    pub fn on_serving(&mut self, now: Now) {
        let Some(Won { at, epoch, predecessor }) = &self.won else { return };
        if self.take_overs.len() == TAKE_OVERS_MAX {
            self.take_overs.pop_front();
        }
        let took = now.at.since(*at);
        self.take_over_count += 1;
        self.last_take_over = Some(took);
        self.take_overs.push_back(TakeOver::new(*epoch, now.wall, took, *predecessor));
    }

    /// What it is now; others hear at once of what is new.
    pub fn set_standing(&mut self, standing: Standing, now: Now) {
        if standing == self.standing {
            return;
        }
        if standing == Standing::Standby {
            self.won = None;
            crate::log::set_epoch(None);
        }
        (self.standing, self.since, self.next_at) = (standing, now, now.at);
    }

    /// This member now; `trouble` as its health page has it.
    #[must_use]
    pub fn own(&self, trouble: Option<String>) -> MemberNews {
        MemberNews {
            role: self.standing,
            since: self.since.wall.0,
            epoch: self.won.as_ref().map(|won| won.epoch.0),
            trouble,
            active: self.active.clone(),
            waits_for: self.waits_for.clone(),
            routes: self.routes.load(Ordering::Relaxed),
            take_overs: self.take_overs.iter().cloned().collect(),
            ..self.own.clone()
        }
    }

    /// This member, then the others.
    #[must_use]
    pub fn all(&self, trouble: Option<String>, now: Instant) -> Vec<Known> {
        let own = Known { news: self.own(trouble), silent_ms: 0 };
        std::iter::once(own).chain(self.members.known(now)).collect()
    }
}

impl Server {
    /// Begins to listen to the others.
    pub(super) fn hear_members(&self) {
        let Some(subject) = self.news.subject.clone() else { return };
        self.mailboxes[0].deliver(Mail::Listen { subject, listener: Listener::MemberNews });
    }

    pub(super) fn on_member_news(&mut self, payload: &[u8], now: Instant) {
        let standing = self.news.members.hear(payload, &self.server_id, now);
        if standing == Some(Standing::Active) {
            self.tell(Input::OtherServes);
        }
    }

    /// Tells the others, and whoever reads metrics, what this member is, if it is time or something
    /// else than before.
    pub(super) fn tell_members(&mut self) {
        let now = world::now();
        self.news.set_standing(self.member.role().into(), now);
        if now.at < self.news.next_at {
            return;
        }
        self.news.next_at = now.at + INTERVAL;
        self.pages.set_group(self.news.facts(self.shown_group(), now.at));
        self.count_routes();
        self.say_news();
    }

    /// The group for whoever reaches the pages: all but where the control sockets are.
    fn shown_group(&self) -> Value {
        let mut status = self.group_status();
        for known in &mut status.members {
            known.news.control = None;
            known.news.active.iter_mut().for_each(|active| active.control = None);
        }
        serde_json::to_value(status).expect("texts and numbers are always JSON")
    }

    /// The last word: others need not wait whether another one comes.
    pub(super) fn say_goodbye(&mut self) {
        self.news.set_standing(Standing::Gone, world::now());
        self.say_news();
    }

    fn say_news(&self) {
        let Some(subject) = self.news.subject.clone() else { return };
        let payload = self.news.own(self.pages.trouble(world::instant())).encode();
        self.mailboxes[0].deliver(Mail::Tell { subject, payload });
    }

    /// Has loop 0 count its routes; what it says is there the next time.
    pub(super) fn count_routes(&self) {
        let routes = Arc::clone(&self.news.routes);
        let wanted = Wanted::default();
        let done = Box::new(move |found: crate::broker::snapshot::ServerSnapshot, _| {
            routes.store(found.remotes.len() as u64, Ordering::Relaxed);
        });
        self.mailboxes[0].control(Control::List { wanted, from: Default::default(), done });
    }
}
