//! Who may take how many of the descriptors that the process has
//!
//! A crowd of clients must not keep the lease from being confirmed, the store from opening its
//! files, or a health check from being answered. So whoever accepts or dials asks one account for
//! all listeners and dials, whose size is what the others leave over.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::limits::MONITOR_CONNECTIONS_MAX;

/// How the descriptors of a process are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For the lease, databases, the log, what the loops need, and a store that is being read.
    pub reserve: u64,
    /// Files that the store keeps open.
    pub store: u64,
    /// Connections to the monitoring port.
    pub monitoring: u64,
    /// Connections of clients and routes.
    pub connections: u64,
    /// The part of them that is for routes alone: clients of other members come by them.
    pub routes: u64,
}

impl Plan {
    /// For a process that may have `limit` descriptors.
    #[must_use]
    pub fn of(limit: u64) -> Self {
        let reserve = (limit / 8).clamp(32, 512);
        let store = limit / 4;
        let most = u64::try_from(MONITOR_CONNECTIONS_MAX).unwrap_or(u64::MAX);
        let monitoring = (limit / 16).clamp(8, most);
        let connections = limit.saturating_sub(reserve + store + monitoring).max(8);
        let routes = (connections / 16).clamp(4, 64);
        Self { reserve, store, monitoring, connections, routes }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client, who comes by himself.
    Client,
    /// A route, accepted or dialled.
    Route,
}

/// The connections that a process has.
#[derive(Debug, Default)]
pub struct Account {
    taken: AtomicU64,
}

/// The account of this process.
pub static CONNECTIONS: Account = Account::new();

/// The right to one descriptor; it goes back when this is dropped.
#[derive(Debug)]
pub struct Admission {
    account: &'static Account,
}

impl Account {
    /// Nothing is taken.
    #[must_use]
    pub const fn new() -> Self {
        Self { taken: AtomicU64::new(0) }
    }

    /// One more connection, if there is a descriptor for it.
    pub fn admit(&'static self, plan: Plan, purpose: Purpose) -> Option<Admission> {
        let max = match purpose {
            Purpose::Client => plan.connections - plan.routes,
            Purpose::Route => plan.connections,
        };
        let more = |taken: u64| (taken < max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Admission { account: self })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.account.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_together_are_never_more_than_the_limit() {
        for limit in [100, 256, 400, 1_024, 4_096, 65_536, 1_048_576, u64::MAX / 2] {
            let plan = Plan::of(limit);
            let sum = plan.reserve + plan.store + plan.monitoring + plan.connections;
            assert!(sum <= limit, "{limit}: {plan:?}");
            assert!(plan.routes < plan.connections, "{limit}: {plan:?}");
            assert!(limit / 4 <= plan.connections + limit / 8, "{limit}: most is for clients");
        }
    }

    #[test]
    fn clients_leave_room_for_routes_and_what_goes_makes_room() {
        static ACCOUNT: Account = Account::new();
        let plan = Plan { connections: 10, routes: 3, ..Plan::of(400) };
        let admit = |purpose| ACCOUNT.admit(plan, purpose);
        let mut clients: Vec<_> = (0..20).filter_map(|_| admit(Purpose::Client)).collect();
        assert_eq!(clients.len(), 7);
        let routes: Vec<_> = (0..20).filter_map(|_| admit(Purpose::Route)).collect();
        assert_eq!(routes.len(), 3);
        clients.pop();
        assert!(admit(Purpose::Route).is_some());
        drop(routes);
        assert!(admit(Purpose::Client).is_some());
    }
}
