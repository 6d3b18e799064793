//! Bytes that wait for one connection; the bound; slow-consumer verdict.
//!
//! Short pieces are copied into a tail buffer, long ones stay shared slices. Runs remember which
//! bytes an engine sent: those leave only while the lease is valid, whole messages at a time.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};

/// Pieces up to this many bytes are copied: cheaper than a shared slice, and a small slice would
/// keep a whole read buffer alive.
pub const COPY_LEN_MAX: usize = 1024;

/// Slices given for one write; the kernel takes at most 1,024.
const SLICES_MAX: usize = 256;

/// First size of the tail buffer.
const TAIL_LEN_MIN: usize = 512;

/// A tail buffer of this length is not made longer: a new one is begun.
const TAIL_LEN_MAX: usize = 64 * 1024;

/// How many bytes wait, readable from every loop: publishers anywhere look at it before they go
/// on. Written by the owner only.
#[derive(Debug, Default)]
pub struct Gauge(AtomicUsize);

impl Gauge {
    /// Bytes that wait.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes of one kind that follow each other; of leased ones, exactly one message.
#[derive(Clone, Copy, Debug)]
struct Run {
    len: usize,
    is_leased: bool,
    /// Whether the socket took a part of it.
    is_begun: bool,
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
    /// Bytes that the socket ever took.
    taken: u64,
    /// How many these were when nothing waited last.
    filled_from: u64,
    /// Bytes that waited, all in all, before nothing waited last.
    tail_len: usize,
    gauge: Arc<Gauge>,
}

impl Outbox {
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
        self.runs.iter().take_while(|run| !run.is_leased || run.is_begun).map(|run| run.len).sum()
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
    pub fn put_copy(&mut self, bytes: &[u8]) {
        self.tail_for(bytes.len()).extend_from_slice(bytes);
    }

    /// What was appended since the last call is one message, or other bytes of the server.
    pub fn seal(&mut self, is_leased: bool) {
        let len = self.len() - self.sealed_len;
        self.sealed_len += len;
        match self.runs.back_mut() {
            Some(last) if !is_leased && !last.is_leased => last.len += len,
            Some(_) | None => self.runs.push_back(Run { len, is_leased, is_begun: false }),
        }
        self.publish_len();
    }

    /// Drops all that an engine sent, but for the rest of a message that was begun.
    pub fn purge_leased(&mut self) {
        if !self.runs.iter().any(|run| run.is_leased && !run.is_begun) {
            return;
        }
        self.close_tail();
        let runs = std::mem::take(&mut self.runs);
        let mut old = std::mem::take(&mut self.segments);
        self.segments_len = 0;
        self.sealed_len = 0;
        for run in runs {
            let is_kept = !run.is_leased || run.is_begun;
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
        self.gauge.0.store(self.len(), Ordering::Relaxed);
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
