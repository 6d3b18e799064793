//! Every operation a client or a route can send or receive.

use std::ops::Range;

/// One operation as a view into the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// `INFO <json>`.
    Info(&'a [u8]),
    /// `CONNECT <json>`.
    Connect(&'a [u8]),
    /// `PUB` and `HPUB`.
    Publish(Publish<'a>),
    /// `SUB`.
    Subscribe {
        /// May have wildcards; not checked.
        subject: &'a [u8],
        /// The queue, if any.
        queue: Option<&'a [u8]>,
        /// What the client calls it.
        sid: &'a [u8],
    },
    /// `UNSUB`.
    Unsubscribe {
        /// What the client calls it.
        sid: &'a [u8],
        /// After how many messages; `None` means now (also for a number that is none).
        max: Option<u64>,
    },
    /// `MSG` and `HMSG` to a client.
    Message {
        /// What was published.
        message: Publish<'a>,
        /// The interest that it is for.
        sid: &'a [u8],
    },
    /// `PING`.
    Ping,
    /// `PONG`.
    Pong,
    /// `+OK`.
    Ok,
    /// `-ERR <text>`, with the quotes.
    Err(&'a [u8]),
    /// `RS+`, `LS+`: interest of a peer.
    RouteSubscribe {
        /// What.
        interest: RouteInterest<'a>,
        /// The weight of a queue; 1 without queue.
        weight: u32,
    },
    /// `RS-`, `LS-`: no longer.
    RouteUnsubscribe(RouteInterest<'a>),
    /// `RMSG`, `HMSG`, `LMSG` between servers.
    RouteMessage(RouteMessage<'a>),
    /// `A+` (true) and `A-` (false) with an account name.
    Account(&'a [u8], bool),
    /// `SE+` (true) and `SE-` (false), ours: what an engine of the peer listens to, and no longer.
    EngineInterest {
        /// Which engine.
        epoch: u64,
        /// The account.
        account: &'a [u8],
        /// The subject.
        subject: &'a [u8],
        /// Whether it listens.
        is_listening: bool,
    },
    /// `SE=`, ours: where the engines of an epoch stand.
    EngineState {
        /// Which engines.
        epoch: u64,
        /// Where.
        state: EngineState,
    },
    /// `KEPT`, ours: the next `KMSG` is for the engines alone, and kept by the peer until it is
    /// done; those that follow without another `KEPT` have the next numbers.
    Kept(Kept),
    /// `DONE`, ours: pairs of a ledger and what in it is done.
    Done {
        /// By the engines of which epoch.
        epoch: u64,
        /// The pairs, as they were read.
        marks: &'a [u8],
    },
    /// `TOLD`, ours: all that the peer keeps for the engines of this epoch was said.
    Told {
        /// Of which epoch.
        epoch: u64,
    },
}

/// What a stanby server says of its engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// All that they listen to was said.
    Ready,
    /// They take nothing more; what they have taken they finish.
    Closed,
    /// All that they have taken is finished, and its marks were said.
    Ended,
}

/// What stands before a message for engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// For the engines of this epoch, and no other.
    pub epoch: u64,
    /// The ledger of who keeps it; 0 if nobody does.
    pub ledger: u64,
    /// Its number there.
    pub number: u64,
    /// Whether former engines may have had it too.
    pub is_again: bool,
}

impl Kept {
    /// What the message behind it is, unless something else is said of that.
    #[must_use]
    pub fn next(self) -> Self {
        let step = u64::from(self.ledger != 0);
        Self { number: self.number.saturating_add(step), ..self }
    }
}

/// A number of the words of our own operations.
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

/// What is done of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// All up to a number.
    UpTo(u64),
    /// This number, whatever is before it.
    Single(u64),
}

/// What stands before a number that is done alone.
pub(crate) const SINGLE: u8 = b'=';

/// The pairs of `DONE`; those that make no sense end the list with `None`.
pub(crate) fn marks(line: &[u8]) -> impl Iterator<Item = Option<(u64, Mark)>> + '_ {
    let mut words = words(line);
    let mark = |word: &[u8]| match word {
        [SINGLE, rest @ ..] => number(rest).map(Mark::Single),
        all => number(all).map(Mark::UpTo),
    };
    std::iter::from_fn(move || {
        let ledger = words.next()?;
        let pair = || Some((number(ledger)?, mark(words.next()?)?));
        Some({ pair }())
    })
}

impl<'a> Op<'a> {
    /// What a client or a route publishes.
    pub(crate) fn message(&self) -> &Publish<'a> {
        match self {
            Self::Publish(publish) => publish,
            Self::RouteMessage(routed) => &routed.message,
            Self::Connect(_)
            | Self::Info(_)
            | Self::Ping
            | Self::Pong
            | Self::Ok
            | Self::Err(_)
            | Self::Subscribe { .. }
            | Self::Unsubscribe { .. }
            | Self::Message { .. }
            | Self::RouteSubscribe { .. }
            | Self::RouteUnsubscribe(_)
            | Self::Account(..)
            | Self::EngineInterest { .. }
            | Self::EngineState { .. }
            | Self::Kept(_)
            | Self::Done { .. }
            | Self::Told { .. } => unreachable!("no message: {self:?}"),
        }
    }

    /// Finds the message that was read from `bytes` again in what these were moved or copied to.
    pub(crate) fn finder(&self, bytes: &[u8]) -> impl Fn(&[u8]) -> Op<'_> + use<> {
        let find = self.message().finder(bytes);
        let routed = if let Self::RouteMessage(routed) = self {
            let origin = routed.origin.map(|origin| place(origin, bytes));
            let places = (place(routed.account, bytes), place(routed.queues, bytes));
            Some((origin, places, routed.is_kept))
        } else {
            None
        };
        move |moved| match &routed {
            None => Op::Publish(find(moved)),
            Some((origin, (account, queues), is_kept)) => Op::RouteMessage(RouteMessage {
                origin: origin.as_ref().map(|origin| &moved[origin.clone()]),
                account: &moved[account.clone()],
                message: find(moved),
                queues: &moved[queues.clone()],
                is_kept: *is_kept,
            }),
        }
    }
}

/// Where `part` lies in `bytes`. What is empty may lie anywhere.
fn place(part: &[u8], bytes: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr().addr() - bytes.as_ptr().addr();
    start..start + part.len()
}

/// A message as published: subject, reply, headers and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where to.
    pub subject: &'a [u8],
    /// Where an answer goes.
    pub reply: Option<&'a [u8]>,
    /// Length of the header block at the start of `payload`; `None` for the operations without
    /// headers (`PUB`, `MSG`, `RMSG`).
    pub header_len: Option<usize>,
    /// Header block and payload.
    pub payload: &'a [u8],
}

impl Publish<'_> {
    /// As [`Op::finder`].
    pub(crate) fn finder(&self, bytes: &[u8]) -> impl Fn(&[u8]) -> Publish<'_> + use<> {
        let (subject, payload) = (place(self.subject, bytes), place(self.payload, bytes));
        let reply = self.reply.map(|reply| place(reply, bytes));
        let header_len = self.header_len;
        move |moved| Publish {
            subject: &moved[subject.clone()],
            reply: reply.as_ref().map(|reply| &moved[reply.clone()]),
            header_len,
            payload: &moved[payload.clone()],
        }
    }
}

/// What a peer is, or is no longer, interested in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInterest<'a> {
    /// The cluster of the leafnode it stands for (`LS+`, `LS-`).
    pub origin: Option<&'a [u8]>,
    /// The account.
    pub account: &'a [u8],
    /// The subject.
    pub subject: &'a [u8],
    /// The queue, if any.
    pub queue: Option<&'a [u8]>,
}

/// A message between servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteMessage<'a> {
    /// The cluster of the leafnode it came from (`LMSG`).
    pub origin: Option<&'a [u8]>,
    /// The account.
    pub account: &'a [u8],
    /// The message.
    pub message: Publish<'a>,
    /// Names of the queues that it is for, with blanks between; empty if for none.
    pub queues: &'a [u8],
    /// `KMSG`, ours: it is what the last `KEPT` has announced, or the next one behind that.
    pub is_kept: bool,
}

impl<'a> RouteMessage<'a> {
    /// The queues that the message is for.
    pub fn queue_names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        words(self.queues)
    }
}

/// The arguments of a line: what lies between blanks and tabs.
pub(crate) fn words(line: &[u8]) -> Words<'_> {
    Words { rest: line }
}

impl<'a> Words<'a> {
    /// All that is left, from the first word to the last.
    pub(crate) fn rest(&self) -> &'a [u8] {
        let is_word = |byte: &u8| !matches!(byte, b' ' | b'\t');
        let Some(start) = self.rest.iter().position(is_word) else { return &[] };
        let end = self.rest.iter().rposition(is_word).map_or(start, |last| last + 1);
        &self.rest[start..end]
    }
}

/// See [`words`].
#[derive(Clone, Debug)]
pub(crate) struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = self.rest.iter().position(|byte| !is_blank(byte))?;
        let rest = &self.rest[start..];
        let len = memchr::memchr2(b' ', b'\t', rest).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(len);
        self.rest = rest;
        Some(word)
    }
}
