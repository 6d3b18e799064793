//! One cluster route: what to tell the peer, what it told us.

use bytes::Bytes;

use crate::base::id::SessionId;
use crate::base::time::Instant;
use crate::broker::client::Step;
use crate::broker::session::Session;
use crate::broker::snapshot::RouteSnapshot;
use crate::broker::{Broker, Hello};
use crate::wire::{CloseReason, Op};

#[derive(Debug)]
pub(super) struct RouteState {}

#[derive(Debug, Default)]
pub(super) struct Routes {}

impl Routes {
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

impl Broker {
    pub(super) fn start_routes(&mut self) {}
    pub(super) fn stop_routes(&mut self) {}
    pub(super) fn open_route(&mut self, id: SessionId, hello: Hello) {
        self.sessions.insert(Session::new(id, hello.kind, hello.peer, self.now));
        self.end(id, CloseReason::RouteRemoved);
    }
    pub(super) fn begin_route(&mut self, _id: SessionId) {}
    pub(super) fn on_route_op(&mut self, _: SessionId, _: &Op<'_>, _: Option<&Bytes>) -> Step {
        Step::End
    }
    pub(super) fn on_route_ended(&mut self, _id: SessionId) {}
    pub(super) fn on_route_deadlines(&mut self) {}
    pub(super) fn on_dial_failed(&mut self, _url: &str, _reason: &str) {}
    pub(super) fn on_cluster_reload(&mut self) {}
    pub(super) fn route_snapshots(&self) -> Vec<RouteSnapshot> {
        Vec::new()
    }
    pub(super) fn announce(&mut self, _subject: &Bytes, _queue: Option<&Bytes>, _change: i64) {}
}
