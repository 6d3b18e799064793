//! What a client cannot know: the one place that says so, for every rule of the checker.
//!
//! A rule says what a client may be told. It holds as far as the client can know what the server
//! knows, and that ends in five ways:
//!
//! - **An earlier term.** Who takes over does not know what its predecessor sent last, nor what
//!   was acknowledged to that one and not stored: what is of an earlier term proves nothing.
//! - **An earlier life.** A request that was not answered may come true at any later time, in a
//!   new life of its client too: a durable may be open of which nobody was told.
//! - **An unknown outcome.** What was published again, because no answer came, is there once, or
//!   more often, or later than its first answer says.
//! - **A disk that refuses.** The server answers some of what it could not write down, as the
//!   reference does: the end of a client or durable, and acknowledgements.
//! - **A disk that deceives**, which calls durable what is not, or gives back other bits than it
//!   was given: nobody promises anything of what was stored then.
//!
//! A run is calm in which nothing goes wrong; there everybody is answered.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::DurableKey;
use crate::base::id::Subject;

/// Counts how often a member became active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Term(u32);

/// What clients of a run cannot know.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    is_calm: bool,
    is_troubled: bool,
    is_deceived: bool,
    term: Term,
    /// Who became active last.
    active: Option<usize>,
    /// By durable that may be open: which inbox asked for it last.
    open: BTreeMap<DurableKey, Subject>,
    /// Payloads that were published again because no answer had come.
    repeated: BTreeSet<Bytes>,
}

/// What is said all the same of a disk that deceives: by the beginnings of the texts.
const HOLDS_ALWAYS: [&str; 4] = ["P2", "P9", "panicked", "nobody has published"];

impl Doubts {
    pub(super) fn new(is_calm: bool) -> Self {
        Self { is_calm, ..Self::default() }
    }

    /// Nothing goes wrong in this run.
    pub(super) fn is_calm(&self) -> bool {
        self.is_calm
    }

    /// The disk refuses something.
    pub(super) fn on_troubled(&mut self) {
        self.is_troubled = true;
    }

    /// What was answered may not be written down.
    pub(super) fn may_be_unwritten(&self) -> bool {
        self.is_troubled
    }

    /// The disk has taken what it had called durable, or changed it.
    pub(super) fn on_deceived(&mut self) {
        self.is_deceived = true;
    }

    pub(super) fn is_deceived(&self) -> bool {
        self.is_deceived
    }

    /// Whether a promise that reads so may be broken.
    pub(super) fn may_break(&self, text: &str) -> bool {
        self.is_deceived && !HOLDS_ALWAYS.iter().any(|it| text.starts_with(it))
    }

    /// A member has become active.
    pub(super) fn on_active(&mut self, member: usize) {
        self.term.0 += 1;
        self.active = Some(member);
    }

    /// What happens now is of this term.
    pub(super) fn term(&self) -> Term {
        self.term
    }

    pub(super) fn is_earlier(&self, term: Term) -> bool {
        term < self.term
    }

    /// In which term it is, if it is this member that became active last.
    pub(super) fn term_of(&self, member: usize) -> Option<Term> {
        (self.active == Some(member)).then_some(self.term)
    }

    /// A durable is asked for. True if it may be open already.
    pub(super) fn on_asked(&mut self, key: &DurableKey, inbox: &Subject) -> bool {
        self.open.insert(key.clone(), inbox.clone()).is_some()
    }

    /// A durable that was asked for with this inbox is open no longer, as somebody was told.
    pub(super) fn on_closed(&mut self, key: &DurableKey, inbox: &Subject) {
        if self.open.get(key) == Some(inbox) {
            self.open.remove(key);
        }
    }

    /// It is published again.
    pub(super) fn on_repeated(&mut self, payload: Bytes) {
        self.repeated.insert(payload);
    }

    /// Whether it may be there more than once, and later than its first answer.
    pub(super) fn may_be_twice(&self, payload: &Bytes) -> bool {
        self.repeated.contains(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ChannelName;
    use crate::proto::pb;
    use crate::testing::checker::{Asking, Checker, Start};
    use crate::testing::limits;
    use crate::testing::trace::Trace;

    fn checker() -> Checker {
        let limits = limits::tight().resolve().expect("no section is wrong");
        Checker::new(limits, Trace::new(false))
    }

    fn deliver(checker: &mut Checker, sequence: u64, data: &'static [u8]) {
        let message = pb::MsgProto {
            sequence,
            subject: Bytes::from_static(b"orders"),
            data: Bytes::from_static(data),
            ..pb::MsgProto::default()
        };
        checker.on_delivered(&Subject::from("reader"), &message);
    }

    #[test]
    fn nothing_is_delivered_that_nobody_has_published_whatever_a_disk_does() {
        let mut checker = checker();
        checker.on_deceived();
        checker.on_published(Bytes::from_static(b"one"), 1, 1);
        deliver(&mut checker, 1, b"one");
        deliver(&mut checker, 2, b"");
        assert_eq!(checker.violation(), None);
        deliver(&mut checker, 3, b"onf");
        assert!(checker.violation().is_some());
    }

    /// Goal: what a checker says when a durable is refused as open, which was asked for in an
    /// earlier life of its client too.
    fn refused(is_confirmed: bool, is_closed: bool) -> Option<String> {
        let mut checker = checker();
        let channel = ChannelName::from("orders");
        let key = DurableKey { channel: channel.clone(), name: "c1-mine".to_owned() };
        let ask = |checker: &mut Checker, inbox: &Subject| {
            checker.on_asked(&Asking {
                inbox,
                channel: &channel,
                durable: Some(&key),
                in_queue: false,
                in_flight_max: 1,
                start: Start::Remembered,
            });
        };
        let (first, second) = (Subject::from("first"), Subject::from("second"));
        ask(&mut checker, &first);
        if is_confirmed {
            checker.on_confirmed(&first);
        }
        if is_closed {
            checker.on_left(&first);
            checker.on_durable_closed(&key, &first);
        } else {
            checker.on_outlived(&first);
        }
        ask(&mut checker, &second);
        checker.on_locked_out(&second);
        checker.violation().map(str::to_owned)
    }

    #[test]
    fn a_request_of_an_earlier_life_may_come_true_unless_it_was_answered() {
        assert_eq!(refused(false, false), None);
        assert!(refused(true, false).is_some());
        assert!(refused(true, true).is_some());
    }

    #[test]
    fn what_is_of_an_earlier_term_proves_nothing() {
        let mut doubts = Doubts::default();
        doubts.on_active(0);
        let term = doubts.term();
        assert_eq!((doubts.term_of(0), doubts.term_of(1)), (Some(term), None));
        doubts.on_active(1);
        assert!(doubts.is_earlier(term) && doubts.term_of(0).is_none());
    }
}
