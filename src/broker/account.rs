//! Accounts, users, permissions.
//!
//! An account is a space of subjects of its own, with an interest tree of its own. There is one,
//! `$G`; whatever carries a subject names its account all the same. What a user may say and hear
//! in it is in its [`Permissions`] (spec core NATS, 7).

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use bytes::Bytes;

use crate::base::id::{AccountIndex, LoopIndex};
use crate::base::subject;
use crate::base::time::Instant;
use crate::broker::sublist::Sublist;
use crate::wire::GLOBAL_ACCOUNT;

/// Replies that one connection may have waiting for its answers.
const REPLIES_MAX: usize = 4096;

/// The accounts of a process, as one loop has them: their names, and who listens there.
#[derive(Debug)]
pub(super) struct Accounts {
    list: Vec<(Box<str>, Sublist)>,
}

impl Accounts {
    pub fn new(home: LoopIndex) -> Self {
        let mut accounts = Self { list: Vec::new() };
        let global = accounts.add(GLOBAL_ACCOUNT, home);
        assert_eq!(global, AccountIndex::GLOBAL, "it is the first");
        accounts
    }

    /// One more; all loops are given them in the same order.
    pub fn add(&mut self, name: &str, home: LoopIndex) -> AccountIndex {
        let index = u16::try_from(self.list.len()).expect("accounts are few");
        self.list.push((name.into(), Sublist::new(home.0)));
        AccountIndex(index)
    }

    /// The account with this name; `None` if there is none of it here.
    pub fn find(&self, name: &[u8]) -> Option<AccountIndex> {
        let at = self.list.iter().position(|(known, _)| known.as_bytes() == name)?;
        u16::try_from(at).ok().map(AccountIndex)
    }

    pub fn name(&self, account: AccountIndex) -> &str {
        &self.list[account.index()].0
    }

    /// The names of all accounts, each at its index.
    pub fn names(&self) -> Vec<String> {
        self.list.iter().map(|(name, _)| String::from(&**name)).collect()
    }

    /// Nodes and entries of all trees that were looked at.
    #[inline]
    pub fn visited(&self) -> u64 {
        self.list.iter().fold(0, |sum, (_, tree)| sum + tree.visited())
    }
}

impl Index<AccountIndex> for Accounts {
    type Output = Sublist;

    #[inline]
    fn index(&self, account: AccountIndex) -> &Sublist {
        &self.list[account.index()].1
    }
}

impl IndexMut<AccountIndex> for Accounts {
    #[inline]
    fn index_mut(&mut self, account: AccountIndex) -> &mut Sublist {
        &mut self.list[account.index()].1
    }
}

/// What a user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// What it may publish.
    pub publish: SubjectRules,
    /// What it may listen to; entries may be `<subject> <queue>`.
    pub subscribe: SubjectRules,
    /// Whether it may answer requests on any reply subject.
    pub responses: Option<Responses>,
}

/// Allowed and denied subjects; denial wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectRules {
    /// `None` is everything.
    pub allow: Option<Vec<String>>,
    /// What is not allowed after all.
    pub deny: Vec<String>,
}

impl SubjectRules {
    /// Whether `subject` is allowed; `default` where there is no list of what is.
    #[must_use]
    pub fn allows(&self, subject: &[u8], default: bool) -> bool {
        let is_covered = |list: &[String]| list.iter().any(|pattern| covers(pattern, subject));
        self.allow.as_deref().map_or(default, is_covered) && !is_covered(&self.deny)
    }
}

/// `allow_responses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responses {
    /// Answers to each request; `None` is any number.
    pub max: Option<u32>,
    /// For how long; `None` is for ever.
    pub ttl: Option<Duration>,
}

impl Default for Responses {
    fn default() -> Self {
        Self { max: Some(1), ttl: Some(Duration::from_secs(120)) }
    }
}

impl Permissions {
    /// Whether `subject` may be published without being an answer.
    #[must_use]
    pub fn may_publish(&self, subject: &[u8]) -> bool {
        // With allow_responses and no list, only answers are allowed.
        self.publish.allows(subject, self.responses.is_none())
    }

    /// Whether `subject`, which may have wildcards, may be listened to.
    #[must_use]
    pub fn may_subscribe(&self, subject: &[u8], queue: Option<&[u8]>) -> bool {
        let allowed = match self.subscribe.allow.as_deref() {
            None | Some([]) => true,
            Some(allow) => Verdict::of(allow, subject, queue).allows(queue),
        };
        allowed && !Verdict::of(&self.subscribe.deny, subject, queue).denies()
    }

    /// Whether an interest in `subject` can match something that is denied, so that each message
    /// has to be looked at (spec core NATS, 7.3).
    #[must_use]
    pub fn needs_filter(&self, subject: &[u8]) -> bool {
        subject::has_wildcard(subject) && !self.subscribe.deny.is_empty()
    }

    /// Whether a message on `subject` must not be delivered.
    #[must_use]
    pub fn is_filtered(&self, subject: &[u8]) -> bool {
        self.subscribe.deny.iter().any(|entry| !entry.contains(' ') && covers(entry, subject))
    }
}

/// What a list of `<subject>[ <queue>]` entries says about one interest.
struct Verdict {
    plain_matches: bool,
    queue_entry_matches: bool,
    queue_matches: bool,
}

impl Verdict {
    fn of(list: &[String], subject: &[u8], queue: Option<&[u8]>) -> Self {
        let mut verdict =
            Self { plain_matches: false, queue_entry_matches: false, queue_matches: false };
        for entry in list {
            match entry.split_once(' ') {
                None => verdict.plain_matches |= covers(entry, subject),
                Some((pattern, queue_pattern)) => {
                    if covers(pattern, subject) {
                        verdict.queue_entry_matches = true;
                        let queue_pattern = queue_pattern.trim();
                        verdict.queue_matches |=
                            queue.is_some_and(|queue| covers(queue_pattern, queue));
                    }
                }
            }
        }
        verdict
    }

    fn allows(&self, queue: Option<&[u8]>) -> bool {
        match queue {
            None => self.plain_matches,
            Some(_) if self.queue_entry_matches => self.queue_matches,
            Some(_) => self.plain_matches,
        }
    }

    fn denies(&self) -> bool {
        self.plain_matches || self.queue_matches
    }
}

/// Wildcards of `subject` count as plain tokens: `foo.*` is covered by `foo.*`, not by `foo.bar`.
fn covers(pattern: &str, subject: &[u8]) -> bool {
    subject::matches(pattern.as_bytes(), subject)
        && subject.split(|byte| *byte == b'.').all(|token| !token.is_empty())
}

/// The requests that one connection was given and may answer.
#[derive(Debug, Default)]
pub struct Replies {
    waiting: BTreeMap<Bytes, Waiting>,
    /// The same in the order in which they came: none lives longer than one that came later.
    by_age: BTreeMap<u64, Bytes>,
    next_number: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    at: Instant,
    answer_count: u32,
}

impl Replies {
    /// A request with this reply was delivered.
    pub fn record(&mut self, reply: &[u8], responses: Responses, now: Instant) {
        self.remove(reply);
        self.prune(responses, now);
        let reply = Bytes::copy_from_slice(reply);
        let number = self.next_number;
        self.next_number += 1;
        self.by_age.insert(number, reply.clone());
        self.waiting.insert(reply, Waiting { number, at: now, answer_count: 0 });
    }

    /// Whether `subject` may be published as an answer; counts it.
    pub fn allow(&mut self, subject: &[u8], responses: Responses, now: Instant) -> bool {
        let Some(waiting) = self.waiting.get_mut(subject) else { return false };
        waiting.answer_count += 1;
        let in_time = responses.ttl.is_none_or(|ttl| now.since(waiting.at) <= ttl);
        if in_time && responses.max.is_none_or(|max| waiting.answer_count <= max) {
            return true;
        }
        self.remove(subject);
        false
    }

    fn remove(&mut self, reply: &[u8]) {
        if let Some(gone) = self.waiting.remove(reply) {
            self.by_age.remove(&gone.number);
        }
    }

    /// Makes room for one more: what expired goes, and the oldest where nothing has, because the
    /// table has a bound.
    fn prune(&mut self, responses: Responses, now: Instant) {
        while let Some((_, oldest)) = self.by_age.first_key_value() {
            let oldest = oldest.clone();
            let age = self.waiting.get(&oldest).map_or(Duration::ZERO, |found| now.since(found.at));
            if self.waiting.len() < REPLIES_MAX && responses.ttl.is_none_or(|ttl| age <= ttl) {
                return;
            }
            self.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe(allow: &[&str], deny: &[&str]) -> Permissions {
        let list = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect();
        Permissions {
            subscribe: SubjectRules { allow: Some(list(allow)), deny: list(deny) },
            ..Permissions::default()
        }
    }

    #[test]
    fn queue_entries_of_subscribe_lists() {
        for (allow, deny, subject, queue, expected) in [
            (&["foo bar"][..], &[][..], "foo", None, false),
            (&["foo bar"], &[], "foo", Some("bar"), true),
            (&["foo bar"], &[], "foo", Some("fizz"), false),
            (&["foo"], &[], "foo", Some("any"), true),
            (&["> bar.>"], &[], "x", Some("bar.bang"), true),
            (&["> bar.>"], &[], "x", None, false),
            (&[">"], &["> >"], "x", None, true),
            (&[">"], &["> >"], "x", Some("q"), false),
            (&[">"], &["> *.dev", "> *.stg"], "x", Some("bar"), true),
            (&[">"], &["> *.dev", "> *.stg"], "x", Some("a.dev"), false),
            (&["foo.*"], &[], "foo.*", None, true),
            (&["foo.bar"], &[], "foo.*", None, false),
        ] {
            let permissions = subscribe(allow, deny);
            let found = permissions.may_subscribe(subject.as_bytes(), queue.map(str::as_bytes));
            assert_eq!(found, expected, "{allow:?} {deny:?} {subject} {queue:?}");
        }
    }

    #[test]
    fn answers_are_counted_and_expire() {
        let responses = Responses { max: Some(2), ttl: Some(Duration::from_nanos(10)) };
        let mut replies = Replies::default();
        replies.record(b"r", responses, Instant(0));
        assert!(replies.allow(b"r", responses, Instant(1)));
        assert!(replies.allow(b"r", responses, Instant(2)));
        assert!(!replies.allow(b"r", responses, Instant(3)));
        replies.record(b"s", responses, Instant(0));
        assert!(!replies.allow(b"s", responses, Instant(11)));
        assert!(!replies.allow(b"t", responses, Instant(0)));
    }

    #[test]
    fn when_too_many_wait_the_oldest_goes() {
        let responses = Responses { max: Some(1), ttl: None };
        let mut replies = Replies::default();
        for n in 0..REPLIES_MAX + 2 {
            replies.record(n.to_string().as_bytes(), responses, Instant(n as u64));
        }
        assert_eq!((replies.waiting.len(), replies.by_age.len()), (REPLIES_MAX, REPLIES_MAX));
        assert!(!replies.allow(b"1", responses, Instant(9_999)));
        assert!(replies.allow(b"2", responses, Instant(9_999)));
        assert!(!replies.allow(b"2", responses, Instant(9_999)), "once");
        assert_eq!(
            (replies.waiting.len(), replies.by_age.len()),
            (REPLIES_MAX - 1, REPLIES_MAX - 1)
        );
    }
}
