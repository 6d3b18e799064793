//! Clients that ask for a streaming cluster which nobody here serves: what the log says of them.
//!
//! Such a client gets no answer, as with the reference, and cannot know why; who reads the server's
//! log can. Each cluster ID is named once in a while, and strangers cannot fill the log.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::time::Instant;

/// How long the log says nothing more of the same cluster ID.
const QUIET: Duration = Duration::from_secs(60);

/// Cluster IDs that are remembered; while so many are fresh, others are not named.
const NAMES_MAX: usize = 16;

/// Longest cluster ID that is shown whole.
const SHOWN_BYTES_MAX: usize = 64;

/// Where clients of streaming servers knock: `<prefix>.<cluster ID>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// `_STAN.discover`, unless configured.
    pub prefix: String,
    /// The cluster ID of the streaming server in this process.
    pub cluster_id: String,
    /// Whether this server belongs to no group: nobody else of this cluster ID may be heard.
    pub is_alone: bool,
}

impl Discovery {
    /// Whether clients of this cluster ID knock there.
    pub fn is_own(&self, subject: &[u8]) -> bool {
        let rest = subject.strip_prefix(self.prefix.as_bytes());
        rest.and_then(|rest| rest.strip_prefix(b".")) == Some(self.cluster_id.as_bytes())
    }
}

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    said: BTreeMap<Vec<u8>, Instant>,
    rival_said_at: Option<Instant>,
}

impl Unheard {
    /// Whether the log may say that another server has our cluster ID.
    pub(super) fn may_name_rival(&mut self, now: Instant) -> bool {
        let may = self.rival_said_at.is_none_or(|said_at| QUIET <= now.since(said_at));
        if may {
            self.rival_said_at = Some(now);
        }
        may
    }

    /// The line for a publish to `subject` that nobody heard, if it asks for a streaming server
    /// and was not reported lately.
    pub(super) fn note(
        &mut self,
        discovery: &Discovery,
        subject: &[u8],
        now: Instant,
    ) -> Option<String> {
        let asked = subject.strip_prefix(discovery.prefix.as_bytes())?.strip_prefix(b".")?;
        // What follows a dot is no name, but the subject of pings to a server that is not active.
        if asked.contains(&b'.') {
            return None;
        }
        self.said.retain(|_, said_at| now.since(*said_at) < QUIET);
        let shown = &asked[..asked.len().min(SHOWN_BYTES_MAX)];
        if self.said.contains_key(shown) || self.said.len() == NAMES_MAX {
            return None;
        }
        self.said.insert(shown.to_vec(), now);
        let name = String::from_utf8_lossy(shown);
        Some(if asked == discovery.cluster_id.as_bytes() {
            format!(
                "Connect request for cluster ID {name:?} found no active server: this one is not \
                 active, and no route leads to the one that is"
            )
        } else {
            format!(
                "Connect request for cluster ID {name:?}, which no server here serves; this one \
                 serves {:?}",
                discovery.cluster_id
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    fn discovery() -> Discovery {
        let (prefix, cluster_id) = ("_STAN.discover".to_owned(), "mine".to_owned());
        Discovery { prefix, cluster_id, is_alone: true }
    }

    #[test]
    fn a_cluster_id_is_named_once_in_a_while() {
        let mut unheard = Unheard::default();
        let mut note = |subject: &str, seconds| {
            unheard.note(&discovery(), subject.as_bytes(), at(seconds)).unwrap_or_default()
        };
        assert!(note("_STAN.discover.other", 0).contains("\"other\", which no server here serves"));
        assert_eq!(note("_STAN.discover.other", 59), "");
        assert!(note("_STAN.discover.mine", 59).contains("this one is not active"));
        assert!(note("_STAN.discover.other", 60).contains("\"other\""));
        assert_eq!(note("_STAN.discoverer.other", 60), "");
        assert_eq!(note("_STAN.pub.other", 60), "");
        assert_eq!(note("_STAN.discover.mine.pings", 600), "", "a ping asks for nothing");
        assert_eq!(note("_STAN.discover.another.pings", 600), "");
    }

    #[test]
    fn many_names_are_not_all_named_nor_kept() {
        let mut unheard = Unheard::default();
        let lines = (0..1_000)
            .filter_map(|n| {
                unheard.note(&discovery(), format!("_STAN.discover.{n}").as_bytes(), at(0))
            })
            .count();
        assert_eq!((lines, unheard.said.len()), (NAMES_MAX, NAMES_MAX));
    }
}
