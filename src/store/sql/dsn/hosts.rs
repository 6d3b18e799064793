//! What this process has seen of the hosts of a source.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::time::Instant;

/// How long a host that hung is tried last.
const AVOIDED_FOR: Duration = Duration::from_secs(10);

/// What was seen of hosts; shared by all copies of a source, and no part of what it says.
///
/// Who did not answer in time is tried last for a while: it would take the time of a whole call at
/// each try, also of those that another host would answer.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    hung: Vec<(String, u16, Instant)>,
    newest: Option<Primary>,
}

/// Which database a PostgreSQL server has, and after how many promotions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::sql) struct Primary {
    /// The same for a primary and its standbys.
    pub system: String,
    /// One more with each promotion.
    pub timeline: u64,
}

impl PartialEq for Seen {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Seen {}

/// A host that a session is with.
#[derive(Debug)]
pub(in crate::store::sql) struct Watched {
    seen: Seen,
    host: String,
    port: u16,
    patience: Duration,
}

impl Watched {
    /// It did not answer within the time that a call may take.
    pub fn no_answer(&self, now: Instant) {
        self.seen.hung(&self.host, self.port, now);
    }

    /// A call that began then failed: the host counts as one that hangs if it took its time.
    pub fn unanswered(&self, began: Instant, now: Instant) {
        if self.patience / 2 <= now.since(began) {
            self.no_answer(now);
        }
    }
}

impl Seen {
    /// For a session with that host, whose calls may take as long as `patience`.
    pub(in crate::store::sql) fn watch(
        &self,
        host: &str,
        port: u16,
        patience: Duration,
    ) -> Watched {
        Watched { seen: self.clone(), host: host.to_owned(), port, patience }
    }

    /// A host did not answer in time.
    pub(in crate::store::sql) fn hung(&self, host: &str, port: u16, now: Instant) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.hung.retain(|(name, number, _)| (name.as_str(), *number) != (host, port));
        memory.hung.push((host.to_owned(), port, now));
    }

    /// `named` in their order, but those that hung lately last.
    pub(super) fn sorted(&self, mut named: Vec<(String, u16)>, now: Instant) -> Vec<(String, u16)> {
        named.sort_by_key(|(host, port)| self.is_hung(host, *port, now));
        named
    }

    /// Whether a host did not answer in time lately.
    pub(in crate::store::sql) fn is_hung(&self, host: &str, port: u16, now: Instant) -> bool {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.hung.iter().any(|(name, number, at)| {
            (name.as_str(), *number) == (host, port) && now.since(*at) < AVOIDED_FOR
        })
    }

    /// A server that takes writes: the reason if it is not the primary that it was.
    ///
    /// # Errors
    /// With what to do.
    pub(in crate::store::sql) fn primary(&self, found: Primary) -> Result<(), String> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = &memory.newest {
            if newest.system != found.system {
                return Err(format!(
                    "it is another database: its system identifier is {}, and {} was seen: name \
                     a primary and its own standbys",
                    found.system, newest.system
                ));
            }
            if found.timeline < newest.timeline {
                return Err(format!(
                    "it is a former primary (timeline {}, and {} was seen): stop it, and let it \
                     follow the new one (pg_rewind)",
                    found.timeline, newest.timeline
                ));
            }
        }
        memory.newest = Some(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hung_lately_is_tried_last() {
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        let seen = Seen::default();
        let named = || vec![("a".to_owned(), 1), ("b".to_owned(), 1), ("c".to_owned(), 1)];
        let order = |now| {
            let sorted = seen.clone().sorted(named(), now);
            sorted.into_iter().map(|(host, _)| host).collect::<String>()
        };
        assert_eq!(order(at(1)), "abc");
        seen.hung("a", 1, at(1));
        seen.hung("b", 2, at(1));
        assert_eq!(order(at(2)), "bca");
        assert_eq!(order(at(12)), "abc");
        let watched = seen.watch("a", 1, Duration::from_secs(2));
        watched.unanswered(at(12), at(12));
        assert_eq!(order(at(12)), "abc");
        watched.unanswered(at(12), at(13));
        assert_eq!(order(at(14)), "bca");
    }

    #[test]
    fn a_former_primary_and_another_database_are_refused() {
        let seen = Seen::default();
        let primary = |system: &str, timeline| Primary { system: system.to_owned(), timeline };
        let refused = |found| seen.primary(found).err().unwrap_or_default();
        assert_eq!(refused(primary("7", 1)), "");
        assert_eq!(refused(primary("7", 2)), "");
        assert_eq!(refused(primary("7", 2)), "");
        assert!(refused(primary("7", 1)).contains("former primary (timeline 1, and 2 was seen)"));
        assert!(refused(primary("8", 2)).contains("another database"));
    }
}
