//! Who may see messages: the user whom the configuration names, by HTTP's basic authentication.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::base::base64;
use crate::base::time::Instant;
use crate::monitor::sources::Check;

/// Nobody is configured.
pub const NOBODY: &str = "Messages are not shown: the configuration of this server names no user \
    who may see them (dashboard { user, password }).";

/// Who asks has not said who it is.
pub const NAMELESS: &str = "Messages are shown to the user whom the configuration names.";

/// User or password are wrong; which of them is not said.
pub const WRONG: &str = "User or password is wrong.";

/// A guess came right after another one.
pub const TOO_SOON: &str = "Somebody has just given a wrong password. Try again in a second.";

/// Time between two passwords that are looked at, after a wrong one: who guesses must neither get
/// far nor keep the threads of the pages at work.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest header that is read.
const HEADER_BYTES_MAX: usize = 1024;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the user.
    Welcome,
    /// It names nobody.
    Nameless,
    /// It is not the user.
    Wrong,
    /// It was not looked at.
    TooSoon,
}

/// Remembers who was right, so that a hash is not computed for each request.
#[derive(Default)]
pub struct Gate {
    /// By which check, and the digest of the header.
    right: Option<(Check, [u8; 32])>,
    not_before: Option<Instant>,
}

impl Gate {
    /// Judges the header `Authorization` of a request.
    pub fn judge(&mut self, check: &Check, header: Option<&str>, now: Instant) -> Verdict {
        let Some(header) = header.filter(|header| header.len() <= HEADER_BYTES_MAX) else {
            return Verdict::Nameless;
        };
        let Some((user, password)) = credentials(header) else { return Verdict::Nameless };
        let digest: [u8; 32] = Sha256::digest(header.as_bytes()).into();
        if let Some((by, right)) = &self.right
            && Arc::ptr_eq(by, check)
            && *right == digest
        {
            return Verdict::Welcome;
        }
        if self.not_before.is_some_and(|at| now < at) {
            return Verdict::TooSoon;
        }
        if check(&user, &password) {
            self.right = Some((Arc::clone(check), digest));
            return Verdict::Welcome;
        }
        self.not_before = Some(now + PAUSE);
        Verdict::Wrong
    }
}

/// User and password of `Basic <base64>`.
fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(base64::decode(rest.trim())?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    // `ada:lovelace`, `ada:guess`.
    const RIGHT: &str = "Basic YWRhOmxvdmVsYWNl";
    const GUESS: &str = "basic YWRhOmd1ZXNz";

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    /// The one user, and how often a password was looked at.
    fn counted() -> (Check, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let own = Arc::clone(&count);
        let check: Check = Arc::new(move |user, password| {
            own.fetch_add(1, Ordering::Relaxed);
            (user, password) == ("ada", "lovelace")
        });
        (check, count)
    }

    #[test]
    fn whoever_is_right_is_looked_at_once() {
        let (check, count) = counted();
        let mut gate = Gate::default();
        for _ in 0..3 {
            assert_eq!(gate.judge(&check, Some(RIGHT), at(0)), Verdict::Welcome);
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let other: Check = Arc::new(|_, _| false);
        assert_eq!(gate.judge(&other, Some(RIGHT), at(0)), Verdict::Wrong, "it was replaced");
    }

    #[test]
    fn guesses_come_one_a_second_and_keep_nobody_out() {
        let (check, count) = counted();
        let mut gate = Gate::default();
        assert_eq!(gate.judge(&check, Some(RIGHT), at(0)), Verdict::Welcome);
        assert_eq!(gate.judge(&check, Some(GUESS), at(0)), Verdict::Wrong);
        for _ in 0..100 {
            assert_eq!(gate.judge(&check, Some(GUESS), at(999)), Verdict::TooSoon);
        }
        assert_eq!(gate.judge(&check, Some(RIGHT), at(999)), Verdict::Welcome);
        assert_eq!(gate.judge(&check, Some(GUESS), at(1_000)), Verdict::Wrong);
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_is_no_user_and_password_is_nobody() {
        let (check, _) = counted();
        let long = format!("Basic {}", "A".repeat(HEADER_BYTES_MAX));
        for header in ["", "Basic", "Basic !", "Basic YWRh", "Bearer YWRhOmE=", "Basic /w==", &long]
        {
            let verdict = Gate::default().judge(&check, Some(header), at(0));
            assert_eq!(verdict, Verdict::Nameless, "{header}");
        }
        assert_eq!(Gate::default().judge(&check, None, at(0)), Verdict::Nameless);
    }
}
