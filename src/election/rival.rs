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

/// Whoever was active before may answer for a while with a lease that holds in its own eyes: nobody
/// is asked so soon.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// Before the second question: one that gets lost is asked again soon. The pause doubles while the
/// claim lasts: anybody can send one, and each question is a line in logs.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// What is known of another active.
#[derive(Debug, Default)]
pub struct Rival {
    /// When the first question may go out; `None`: this server is not active yet.
    settled_at: Option<Instant>,
    asked_at: Option<Instant>,
    /// From the last question to the next one.
    pause: Duration,
    /// Who claims to be active, and until when that counts without another heartbeat.
    claim: Option<(String, Instant)>,
    /// The last question has had no second answer.
    is_asked: bool,
    /// One of the last two questions has.
    is_proven: bool,
}

impl Rival {
    /// Of a server that is active from `now` on.
    #[must_use]
    pub fn of_active(now: Instant) -> Self {
        Self { settled_at: Some(now + SETTLED_AFTER), pause: PAUSE_MIN, ..Self::default() }
    }

    /// Another server claims to be active. True if it is time to ask.
    pub fn on_claim(&mut self, who: String, now: Instant) -> bool {
        let former = self.claim.replace((who.clone(), now + CLAIM_LASTS));
        if former.is_none_or(|(former, _)| former != who) {
            self.pause = PAUSE_MIN;
        }
        let is_time = self.asked_at.is_none_or(|asked_at| asked_at + self.pause <= now);
        is_time && self.settled_at.is_some_and(|settled_at| settled_at <= now)
    }

    /// The question goes out. True if nothing proves the claim any more.
    pub fn on_asked(&mut self, now: Instant) -> bool {
        let is_unanswered = std::mem::replace(&mut self.is_asked, true);
        let is_over = is_unanswered && std::mem::take(&mut self.is_proven);
        if self.asked_at.replace(now).is_some() {
            self.pause = (2 * self.pause).min(PAUSE_MAX);
        }
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
