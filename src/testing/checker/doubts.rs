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
//!   was given: of what the file held that it has done so to, and of nothing else, nobody promises
//!   anything. Where the store is refused because of that, nobody is served any more.
//!
//! An empty message stands in for what a disk has lost with the power before it was durable, or has
//! deceived about; where it has not, nobody may be given one.
//!
//! A run is calm in which nothing goes wrong; there everybody is answered.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::DurableKey;
use super::promise::{On, Promise};
use crate::base::id::{ChannelName, Sequence, Subject};
use crate::testing::faults::Moves;
use crate::testing::harm::{self, Harm, Held};

/// Counts how often a member became active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Term(u32);

/// What clients of a run cannot know.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    is_calm: bool,
    moves: Option<Moves>,
    has_moved: bool,
    is_troubled: bool,
    damage: Damage,
    /// What was not durable when the power went, by where it lay.
    lost: BTreeMap<(ChannelName, Sequence), BTreeSet<Bytes>>,
    term: Term,
    /// Who became active last.
    active: Option<usize>,
    /// By durable that may be open: which inbox asked for it last.
    open: BTreeMap<DurableKey, Subject>,
    /// Payloads that were published again because no answer had come.
    repeated: BTreeSet<Bytes>,
}

/// What a disk has deceived about.
#[derive(Debug, Default)]
pub(super) struct Damage {
    messages: BTreeSet<(ChannelName, Sequence)>,
    payloads: BTreeSet<Bytes>,
    /// By channel: what is known of its subscriptions.
    subscriptions: BTreeSet<ChannelName>,
    /// Whatever of them.
    channels: BTreeSet<ChannelName>,
    has_clients: bool,
    has_server: bool,
    /// The store is refused because of it.
    is_final: bool,
}

impl Damage {
    fn add(&mut self, held: &Held) {
        match held {
            Held::Messages(channel, found) => {
                self.channels.insert(channel.clone());
                for (sequence, data) in found {
                    self.messages.insert((channel.clone(), *sequence));
                    self.payloads.extend(data.clone());
                }
            }
            Held::Subscriptions(channel) => {
                self.channels.insert(channel.clone());
                self.subscriptions.insert(channel.clone());
            }
            Held::End(channel) => drop(self.channels.insert(channel.clone())),
            Held::Clients => self.has_clients = true,
            Held::Server => self.has_server = true,
            Held::Nothing => (),
        }
    }

    fn is_at(&self, channel: &ChannelName, sequence: Sequence) -> bool {
        !self.messages.is_empty() && self.messages.contains(&(channel.clone(), sequence))
    }

    /// Whether something that is said so of the store is said of what is damaged.
    fn is_named_in(&self, text: &str) -> bool {
        let is_named = |channel: &ChannelName| text.contains(&channel.to_string());
        (self.has_clients && harm::names_clients(text))
            || (self.has_server && harm::names_server(text))
            || self.channels.iter().any(is_named)
    }

    fn excuses(&self, on: On<'_>) -> bool {
        match on {
            On::Nothing => false,
            On::Message(channel, sequence) => self.is_at(channel, sequence),
            On::Delivery(channel, sequence) => {
                self.is_at(channel, sequence) || self.excuses(On::Subscriptions(channel))
            }
            On::Subscriptions(channel) => {
                self.excuses(On::Clients) || self.subscriptions.contains(channel)
            }
            On::Channel(channel) => self.channels.contains(channel),
            // Whose subjects are other ones hears of nobody.
            On::Clients => self.has_clients || self.has_server,
        }
    }
}

impl Doubts {
    pub(super) fn new(is_calm: bool) -> Self {
        Self { is_calm, ..Self::default() }
    }

    /// Nothing goes wrong in this run.
    pub(super) fn is_calm(&self) -> bool {
        self.is_calm
    }

    /// Nothing goes wrong in this run but that the active changes in this way.
    pub(super) fn set_moves(&mut self, moves: Option<Moves>) {
        self.moves = moves;
    }

    /// See [`Doubts::set_moves`].
    pub(super) fn moves(&self) -> Option<Moves> {
        self.moves
    }

    /// The active changes, as was set.
    pub(super) fn on_moved(&mut self) {
        self.has_moved = true;
    }

    /// Whether that has happened: whoever was asked before may not have known of anybody active.
    pub(super) fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// The disk refuses something.
    pub(super) fn on_troubled(&mut self) {
        self.is_troubled = true;
    }

    /// What was answered may not be written down.
    pub(super) fn may_be_unwritten(&self) -> bool {
        self.is_troubled
    }

    /// A disk does not give back something as it was given.
    pub(super) fn on_harm(&mut self, harm: &Harm) {
        if let Held::Messages(channel, found) = &harm.held {
            for (sequence, data) in found {
                let lost = self.lost.entry((channel.clone(), *sequence)).or_default();
                lost.extend(data.clone());
            }
        }
        if harm.is_deceit {
            self.damage.add(&harm.held);
        }
    }

    /// The store is refused. True if that may be so.
    pub(super) fn on_store_refused(&mut self, text: &str) -> bool {
        self.damage.is_final |= self.damage.is_named_in(text);
        self.damage.is_final
    }

    /// Nobody can serve what a disk has changed.
    pub(super) fn is_refused(&self) -> bool {
        self.damage.is_final
    }

    /// What was lost of a sequence before it was durable, or was deceived about.
    pub(super) fn lost_at(&self, channel: &ChannelName, at: Sequence) -> Option<&BTreeSet<Bytes>> {
        self.lost.get(&(channel.clone(), at))
    }

    /// Whether a disk has deceived about what this hangs on.
    pub(super) fn excuses(&self, on: On<'_>) -> bool {
        self.damage.is_final || self.damage.excuses(on)
    }

    /// Whether a disk has deceived about where this payload lay.
    pub(super) fn may_be_gone(&self, payload: &Bytes) -> bool {
        self.damage.is_final || self.damage.payloads.contains(payload)
    }

    /// Whether a promise may be broken that hangs on this.
    pub(super) fn may_break(&self, promise: Promise, on: On<'_>) -> bool {
        let is_unserved = self.damage.is_final && !promise.holds_always();
        is_unserved || (promise != Promise::Genuine && self.damage.excuses(on))
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
    use crate::proto::pb;
    use crate::testing::checker::{Asking, Audit, Checker, Start};
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

    fn orders() -> ChannelName {
        ChannelName::from("orders")
    }

    /// Goal: a checker that was told of three messages, of which the second is acked, before a disk
    /// did something.
    fn told(is_deceit: bool, held: Option<Held>) -> Checker {
        let mut checker = checker();
        for (number, data) in [(1, &b"one"[..]), (2, b"two"), (3, b"three")] {
            checker.on_published(Bytes::from_static(data), 1, number);
            deliver(&mut checker, number, data);
        }
        checker.on_acked(&orders(), Bytes::from_static(b"two"));
        if let Some(held) = held {
            checker.on_harm(&Harm { is_deceit, held });
        }
        checker
    }

    fn second() -> Held {
        Held::Messages(orders(), vec![(Sequence(2), Some(Bytes::from_static(b"two")))])
    }

    fn audit(messages: &[(u64, &'static [u8])]) -> Audit {
        let found = messages.iter().map(|(at, data)| (Sequence(*at), Bytes::from_static(data)));
        [(orders(), found.collect())].into()
    }

    #[test]
    fn nothing_is_delivered_that_nobody_has_published_whatever_a_disk_does() {
        let mut checker = told(true, Some(second()));
        deliver(&mut checker, 2, b"");
        assert_eq!(checker.violation(), None);
        deliver(&mut checker, 2, b"twp");
        assert_eq!(checker.violation().map(|it| it.promise), Some(Promise::Genuine));
    }

    #[test]
    fn a_disk_that_deceives_excuses_what_the_file_held_and_nothing_else() {
        let broken = |held, messages| {
            let mut checker = told(true, held);
            checker.check_audit(&audit(messages));
            checker.violation().map(|it| it.promise)
        };
        let subscriptions = || Some(Held::Subscriptions(orders()));
        let other = Held::Messages(ChannelName::from("Jobs"), vec![(Sequence(2), None)]);
        let without_second: &[(u64, &[u8])] = &[(1, b"one"), (3, b"three")];
        assert_eq!(broken(Some(second()), without_second), None);
        assert_eq!(broken(Some(other), without_second), Some(Promise::P1));
        assert_eq!(broken(subscriptions(), without_second), Some(Promise::P1));
        assert_eq!(broken(Some(second()), &[(1, b"one"), (2, b"two")]), Some(Promise::P1));
        assert_eq!(broken(Some(Held::Clients), without_second), Some(Promise::P1));
    }

    #[test]
    fn a_store_is_refused_for_what_a_disk_has_changed_alone() {
        let broken = |held, text| {
            let mut checker = told(true, held);
            checker.on_store_refused(text);
            checker.check_audit(&Audit::new());
            checker.violation().map(|it| it.promise)
        };
        assert_eq!(broken(Some(second()), "unable to recover [orders]"), None);
        assert_eq!(broken(Some(second()), "unable to recover [Jobs]"), Some(Promise::P1));
        assert_eq!(broken(None, "unable to recover [orders]"), Some(Promise::P1));
    }

    #[test]
    fn an_empty_message_stands_in_for_what_was_lost_and_not_acked() {
        let broken = |held, at| {
            let mut checker = told(false, held);
            checker.on_harm(&Harm {
                is_deceit: false,
                held: Held::Messages(
                    orders(),
                    vec![(Sequence(4), Some(Bytes::from_static(b"four")))],
                ),
            });
            deliver(&mut checker, at, b"");
            checker.violation().map(|it| it.promise)
        };
        assert_eq!(broken(None, 4), None);
        assert_eq!(broken(None, 5), Some(Promise::P1), "nothing was lost there");
        // It was not told of before, and acked.
        let acked = Held::Messages(orders(), vec![(Sequence(6), Some(Bytes::from_static(b"two")))]);
        assert_eq!(broken(Some(acked), 6), Some(Promise::P1));
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
        checker.violation().map(ToString::to_string)
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
