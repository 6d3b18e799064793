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

/// Between two questions while nothing is proven: one that comes too early, or gets lost, is asked
/// again soon.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Between two questions once it is.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(20);

/// What is known of another active.
#[derive(Debug, Default)]
pub struct Rival {
    /// When it is time for the next question.
    ask_at: Instant,
    /// Who claims to be active, and until when that counts without another heartbeat.
    claim: Option<(String, Instant)>,
    /// The last question has had no second answer.
    is_asked: bool,
    /// One of the last two questions has.
    is_proven: bool,
}

impl Rival {
    /// Another server claims to be active. True if it is time to ask.
    pub fn on_claim(&mut self, who: String, now: Instant) -> bool {
        let former = self.claim.replace((who, now + CLAIM_LASTS));
        former.is_none() || self.ask_at <= now
    }

    /// The question goes out. True if nothing proves the claim any more.
    pub fn on_asked(&mut self, now: Instant) -> bool {
        let is_unanswered = std::mem::replace(&mut self.is_asked, true);
        let is_over = is_unanswered && std::mem::take(&mut self.is_proven);
        self.ask_at = now + if self.is_proven { ASK_AGAIN_AFTER } else { ASK_EVERY };
        is_over
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
