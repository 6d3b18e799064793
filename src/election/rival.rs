//! another server that is active in this group too, with another store
//!
//! Both hold the lease of their own store and can do each other no harm, but their clients hear two
//! servers. A heartbeat alone proves nothing, because anybody can send one. So who is active and
//! hears one asks a question that only those answer who serve clients of this cluster ID: besides
//! its own answer there must be a second one.

use std::time::Duration;

use crate::base::time::Instant;

/// How long one claim lasts: three heartbeats.
const CLAIM_LASTS: Duration = Duration::from_secs(3);

/// What is known of another active.
#[derive(Debug, Default)]
pub struct Rival {
    /// Who claims to be active, and until when that counts without another heartbeat.
    claim: Option<(String, Instant)>,
    /// The last question has had no second answer.
    is_asked: bool,
    /// One of the last two questions has.
    is_proven: bool,
}

impl Rival {
    /// Another server claims to be active.
    pub fn on_claim(&mut self, who: String, now: Instant) {
        self.claim = Some((who, now + CLAIM_LASTS));
    }

    /// The question goes out. True if nothing proves the claim any more.
    pub fn on_asked(&mut self) -> bool {
        let is_unanswered = std::mem::replace(&mut self.is_asked, true);
        is_unanswered && std::mem::take(&mut self.is_proven)
    }

    /// A second server has answered; who it is, if that is new.
    pub fn on_answered(&mut self) -> Option<&str> {
        let (who, _) = self.claim.as_ref().filter(|_| self.is_asked)?;
        self.is_asked = false;
        let is_new = !std::mem::replace(&mut self.is_proven, true);
        is_new.then_some(who.as_str())
    }

    /// When the claim is over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.claim.as_ref().map(|(_, until)| *until)
    }

    /// Forgets a claim that is over. True if it was proven.
    pub fn due(&mut self, now: Instant) -> bool {
        let is_over = self.claim.take_if(|(_, until)| *until <= now).is_some();
        is_over && std::mem::take(&mut self.is_proven)
    }
}
