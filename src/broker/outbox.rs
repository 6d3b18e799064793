//! Bytes that wait for one connection; the bound; slow-consumer verdict.
//!
//! Short pieces are copied into a tail buffer, long ones stay shared slices. Runs remember which
//! bytes an engine sent: those leave only while the lease is valid, whole messages at a time.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use bytes::{Buf, Bytes, BytesMut};

use crate::base::id::LoopIndex;

/// Pieces up to this many bytes are copied: cheaper than a shared slice, and a small slice would
/// keep a whole read buffer alive.
pub const COPY_LEN_MAX: usize = 1024;

/// Slices given for one write; the kernel takes at most 1,024.
const SLICES_MAX: usize = 256;

/// First size of the tail buffer.
const TAIL_LEN_MIN: usize = 512;

/// The list of runs begins with room for so many at most.
const RUN_ROOM_MAX: usize = 1024;

/// A tail buffer of this length is not made longer: a new one is begun.
const TAIL_LEN_MAX: usize = 64 * 1024;

/// How many bytes wait, readable from every loop: publishers anywhere look at it before they go
/// on.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Bytes in the outbox. Written by its owner only.
    pending: AtomicUsize,
    /// Of these, bytes of deliveries.
    deliveries: AtomicUsize,
    /// Bytes of deliveries that are in the mail to its owner.
    mailed: AtomicUsize,
    /// The loops, one bit each, that want to be told when there is room.
    watchers: AtomicU64,
    is_closed: AtomicBool,
}

impl Gauge {
    /// Bytes that wait.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.load(Ordering::Relaxed) + self.mailed.load(Ordering::Relaxed)
    }

    /// Whether the connection is at its end, so that nothing is given to it any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// The connection is at its end.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Bytes of deliveries that wait: what engines go by. Core traffic beside them does not hold
    /// them up, or who hears much of it would get nothing else.
    #[must_use]
    pub fn delivery_bytes(&self) -> usize {
        self.deliveries.load(Ordering::Relaxed) + self.mailed.load(Ordering::Relaxed)
    }

    /// A delivery of `len` bytes goes to the owner by mail.
    pub(super) fn on_mailed(&self, len: usize) {
        self.mailed.fetch_add(len, Ordering::Relaxed);
    }

    /// It got there.
    pub(super) fn on_arrived(&self, len: usize) {
        self.mailed.fetch_sub(len, Ordering::Relaxed);
    }

    /// Has the loop `home` told when no more than `low` bytes of deliveries wait; false if that is
    /// so already.
    ///
    /// Each side writes its own word first and reads the other's then, so one of them sees both.
    pub(super) fn watch(&self, home: LoopIndex, low: usize) -> bool {
        self.watchers.fetch_or(1 << home.0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        low < self.delivery_bytes()
    }

    /// The loops to be told now, a bit each: the owner asks after each change.
    pub(super) fn take_watchers(&self, low: usize) -> u64 {
        fence(Ordering::SeqCst);
        if self.watchers.load(Ordering::Relaxed) == 0 || low < self.delivery_bytes() {
            return 0;
        }
        self.watchers.swap(0, Ordering::Relaxed)
    }
}

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Core traffic and what the server says of itself.
    Core,
    /// An engine's answers: they leave only while the lease is valid.
    Answer,
    /// An engine's deliveries, too; the engine holds them back when the outbox is full.
    Delivery,
    /// Deliveries of a peer's engine, which minds its own lease.
    Relayed,
}

impl Kind {
    fn is_leased(self) -> bool {
        matches!(self, Self::Answer | Self::Delivery)
    }

    fn is_delivery(self) -> bool {
        matches!(self, Self::Delivery | Self::Relayed)
    }
}

/// Bytes of one kind that follow each other; of leased ones, exactly one message.
#[derive(Clone, Copy, Debug)]
struct Run {
    len: usize,
    kind: Kind,
    /// Whether the socket took a part of it.
    is_begun: bool,
}

impl Run {
    /// Whether it may leave without a lease.
    fn is_free(&self) -> bool {
        !self.kind.is_leased() || self.is_begun
    }
}

/// Bytes that wait for one connection; the bound; slow-consumer verdict.
#[derive(Debug, Default)]
pub struct Outbox {
    segments: VecDeque<Bytes>,
    segments_len: usize,
    tail: BytesMut,
    runs: VecDeque<Run>,
    /// Bytes of the runs; what is behind them is not sealed yet.
    sealed_len: usize,
    /// Bytes of deliveries.
    delivery_len: usize,
    /// Bytes that the socket ever took.
    taken: u64,
    /// How many these were when nothing waited last.
    filled_from: u64,
    /// Bytes that waited, all in all, before nothing waited last.
    tail_len: usize,
    /// The most runs that waited since nothing waited, and before that.
    run_counts: (usize, usize),
    gauge: Arc<Gauge>,
}

impl Outbox {
    /// An empty one whose length is seen at `gauge`.
    pub(super) fn with_gauge(gauge: Arc<Gauge>) -> Self {
        Self { gauge, ..Self::default() }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments_len + self.tail.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait, but for deliveries: those are not more than their engine allows itself.
    #[must_use]
    pub fn unpaced_len(&self) -> usize {
        self.len() - self.delivery_len
    }

    /// Bytes of an engine's deliveries that wait.
    #[must_use]
    pub fn delivery_len(&self) -> usize {
        self.delivery_len
    }

    /// A copy of the last `count` bytes of what waits.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<u8> {
        let pieces = self.segments.iter().map(|bytes| &bytes[..]).chain([&self.tail[..]]);
        pieces.flatten().skip(self.len().saturating_sub(count)).copied().collect()
    }

    /// The length as other loops see it.
    #[must_use]
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    /// The loops to be told that there is room, a bit each.
    pub(super) fn take_watchers(&self, low: usize) -> u64 {
        self.gauge.take_watchers(low)
    }

    /// Bytes that the socket ever took and that wait: the position of the end in the stream.
    #[must_use]
    pub fn end_position(&self) -> u64 {
        self.taken + self.len() as u64
    }

    /// Bytes that the socket ever took.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The front of what waits, for one vectored write. With `lease_is_valid` false it ends
    /// before the first message that an engine sent (but for the rest of one that was begun).
    pub fn slices<'a>(&'a self, lease_is_valid: bool, out: &mut Vec<IoSlice<'a>>) {
        let mut budget = if lease_is_valid { self.len() } else { self.free_len() };
        let pieces = self.segments.iter().map(|bytes| &bytes[..]).chain([&self.tail[..]]);
        for piece in pieces.filter(|piece| !piece.is_empty()).take(SLICES_MAX) {
            if budget == 0 {
                break;
            }
            let piece = &piece[..piece.len().min(budget)];
            budget -= piece.len();
            out.push(IoSlice::new(piece));
        }
    }

    /// Bytes at the front that may go without a lease.
    fn free_len(&self) -> usize {
        self.runs.iter().take_while(|run| run.is_free()).map(|run| run.len).sum()
    }

    /// The first `len` bytes were taken by the socket.
    ///
    /// # Panics
    /// When fewer bytes wait: then the caller counted wrong.
    pub fn advance(&mut self, len: usize) {
        assert!(len <= self.len(), "the socket took more than there was");
        self.taken += len as u64;
        self.advance_runs(len);
        let mut left = len;
        while left > 0 {
            let Some(front) = self.segments.front_mut() else {
                self.tail.advance(left);
                break;
            };
            let step = left.min(front.len());
            front.advance(step);
            if front.is_empty() {
                self.segments.pop_front();
            }
            self.segments_len -= step;
            left -= step;
        }
        if self.is_empty() {
            // An idle connection keeps no buffer; a busy one soon gets one of the same size.
            self.tail_len = usize::try_from(self.taken - self.filled_from).unwrap_or(usize::MAX);
            self.filled_from = self.taken;
            self.run_counts = (0, self.run_counts.0);
            self.segments = VecDeque::new();
            self.runs = VecDeque::new();
            self.tail = BytesMut::new();
        }
        self.publish_len();
    }

    fn advance_runs(&mut self, len: usize) {
        self.sealed_len -= len;
        let mut left = len;
        while left > 0 {
            let front = self.runs.front_mut().expect("all bytes that a socket takes are in runs");
            let step = left.min(front.len);
            front.len -= step;
            front.is_begun = true;
            left -= step;
            if front.kind.is_delivery() {
                self.delivery_len -= step;
            }
            if front.len == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// The buffer for short pieces; what is appended counts when it is sealed.
    pub fn tail(&mut self) -> &mut BytesMut {
        self.tail_for(0)
    }

    /// The same with room for `len` bytes.
    pub fn tail_for(&mut self, len: usize) -> &mut BytesMut {
        if self.tail.capacity() - self.tail.len() < len || self.tail.capacity() == 0 {
            self.make_room(len);
        }
        &mut self.tail
    }

    #[cold]
    fn make_room(&mut self, len: usize) {
        if TAIL_LEN_MAX <= self.tail.capacity() {
            self.close_tail();
            self.tail = BytesMut::with_capacity(len.max(TAIL_LEN_MAX));
        } else if self.tail.is_empty() {
            let usual = self.tail_len.clamp(TAIL_LEN_MIN, TAIL_LEN_MAX);
            self.tail = BytesMut::with_capacity(len.max(usual));
        } else {
            self.tail.reserve(len);
        }
    }

    /// Appends a long piece of a payload without a copy.
    pub fn put_shared(&mut self, bytes: Bytes) {
        self.close_tail();
        self.segments_len += bytes.len();
        self.segments.push_back(bytes);
    }

    /// Appends a copy.
    #[inline]
    pub fn put_copy(&mut self, bytes: &[u8]) {
        self.tail_for(bytes.len()).extend_from_slice(bytes);
    }

    /// What was appended since the last call is one message, or other bytes of the server.
    pub fn seal(&mut self, is_leased: bool) {
        self.seal_as(if is_leased { Kind::Answer } else { Kind::Core });
    }

    /// What was appended since the last call is one message of a channel, for a subscription.
    pub fn seal_delivery(&mut self, is_leased: bool) {
        self.seal_as(if is_leased { Kind::Delivery } else { Kind::Relayed });
    }

    fn seal_as(&mut self, kind: Kind) {
        let len = self.len() - self.sealed_len;
        self.sealed_len += len;
        match self.runs.back_mut() {
            Some(last) if !kind.is_leased() && last.kind == kind => last.len += len,
            Some(_) | None => self.begin_run(Run { len, kind, is_begun: false }),
        }
        if kind.is_delivery() {
            self.delivery_len += len;
        }
        self.publish_len();
    }

    fn begin_run(&mut self, run: Run) {
        if self.runs.capacity() == 0 {
            // Grown anew each time, it would be moved several times.
            self.runs.reserve(self.run_counts.1.min(RUN_ROOM_MAX));
        }
        self.runs.push_back(run);
        self.run_counts.0 = self.run_counts.0.max(self.runs.len());
    }

    /// Where the last answer of an engine that waits ends, as [`Outbox::taken`] counts.
    pub(super) fn answers_end(&self) -> Option<u64> {
        let mut end = self.taken;
        let mut found = None;
        for run in &self.runs {
            end += run.len as u64;
            if run.kind == Kind::Answer {
                found = Some(end);
            }
        }
        found
    }

    /// Drops all that an engine sent, but for the rest of a message that was begun.
    pub fn purge_leased(&mut self) {
        if self.runs.iter().all(Run::is_free) {
            return;
        }
        self.close_tail();
        let runs = std::mem::take(&mut self.runs);
        let mut old = std::mem::take(&mut self.segments);
        self.segments_len = 0;
        self.sealed_len = 0;
        self.delivery_len = 0;
        for run in runs {
            let is_kept = run.is_free();
            let mut left = run.len;
            while left > 0 {
                let front = old.front_mut().expect("runs cover the segments");
                let piece = front.split_to(left.min(front.len()));
                if front.is_empty() {
                    old.pop_front();
                }
                left -= piece.len();
                if is_kept {
                    self.segments_len += piece.len();
                    self.segments.push_back(piece);
                }
            }
            if is_kept {
                self.sealed_len += run.len;
                self.delivery_len += if run.kind.is_delivery() { run.len } else { 0 };
                self.runs.push_back(run);
            }
        }
        self.publish_len();
    }

    /// Drops everything: the connection is cut.
    pub fn clear(&mut self) {
        let gauge = Arc::clone(&self.gauge);
        *self = Self { gauge, taken: self.taken, filled_from: self.taken, ..Self::default() };
        self.publish_len();
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.segments_len += self.tail.len();
            self.segments.push_back(self.tail.split().freeze());
        }
    }

    fn publish_len(&self) {
        self.gauge.pending.store(self.len(), Ordering::Relaxed);
        self.gauge.deliveries.store(self.delivery_len, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(outbox: &Outbox, lease_is_valid: bool) -> Vec<u8> {
        let mut slices = Vec::new();
        outbox.slices(lease_is_valid, &mut slices);
        slices.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    fn put(outbox: &mut Outbox, bytes: &[u8], is_leased: bool) {
        outbox.put_copy(bytes);
        outbox.seal(is_leased);
    }

    #[test]
    fn without_a_lease_only_what_the_server_says_leaves() {
        let mut outbox = Outbox::default();
        put(&mut outbox, b"PONG", false);
        put(&mut outbox, b"engine1", true);
        put(&mut outbox, b"engine2", true);
        put(&mut outbox, b"INFO", false);
        assert_eq!(content(&outbox, true), b"PONGengine1engine2INFO");
        assert_eq!(content(&outbox, false), b"PONG");
        outbox.advance(7);
        assert_eq!(content(&outbox, false), b"ine1", "a message that was begun is finished");
        outbox.purge_leased();
        assert_eq!(content(&outbox, true), b"ine1INFO");
        outbox.advance(8);
        assert!(outbox.is_empty());
        assert_eq!(outbox.gauge().pending_bytes(), 0);
    }

    #[test]
    fn long_pieces_are_shared_and_keep_their_place() {
        let mut outbox = Outbox::default();
        let long = Bytes::from(vec![b'x'; COPY_LEN_MAX + 1]);
        outbox.put_copy(b"MSG");
        outbox.put_shared(long.clone());
        outbox.put_copy(b"END");
        outbox.seal(true);
        assert_eq!(outbox.len(), long.len() + 6);
        let expected = [b"MSG", &long[..], b"END"].concat();
        assert_eq!(content(&outbox, true), expected);
        outbox.advance(5);
        assert_eq!(content(&outbox, false), expected[5..]);
        assert_eq!(outbox.end_position(), expected.len() as u64);
    }
}
