//! What one subscription was sent and has not acknowledged, and the rows that say so.
//!
//! Rows have the Go server's form (spec stores, 8.3): each adds sequences (`pending`) and takes
//! away earlier ones (`acks`). When what the rows hold is mostly dead, one row with all that lives
//! replaces them, so that they stay in proportion.

use std::collections::BTreeSet;

use bytes::Bytes;

/// Sequences in one row: with 20 digits each they fit 64 KiB, the Go schema's column on MySQL.
const ROW_LEN_MAX: usize = 2_000;
/// Dead entries that rows may hold beside as many as live ones.
const DEAD_MIN: usize = 256;
/// Rows of one subscription.
const ROWS_MAX: usize = 32;

/// One row to insert.
#[derive(Debug, PartialEq, Eq)]
pub struct PendingRow {
    /// Sequences that became pending.
    pub pending: Vec<u64>,
    /// Sequences of earlier rows that are not any more.
    pub acks: Vec<u64>,
}

/// What a flush must do for one subscription.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// All rows that are there go first.
    pub drops_rows: bool,
    /// Rows to insert, in order.
    pub rows: Vec<PendingRow>,
    /// The subscription's own column is to be raised to its last sent sequence.
    pub sets_last_sent: bool,
    /// The rows hold all that lives, and nothing else.
    renews: bool,
}

/// The pending set of one subscription.
#[derive(Debug, Default)]
pub struct Pending {
    /// Highest sequence that was sent.
    pub last_sent: u64,
    live: BTreeSet<u64>,
    /// Which of `live` the rows do not hold yet.
    fresh: BTreeSet<u64>,
    /// What the rows hold and is acknowledged.
    acked: BTreeSet<u64>,
    saved_last_sent: u64,
    row_count: usize,
    /// Entries of all rows, dead ones too.
    entry_count: usize,
}

impl Pending {
    /// A new subscription's.
    #[must_use]
    pub fn new(last_sent: u64) -> Self {
        Self { last_sent, saved_last_sent: last_sent, ..Self::default() }
    }

    /// One whose rows are lost or are removed: all of it is to be written.
    #[must_use]
    pub fn unwritten(last_sent: u64, live: impl Iterator<Item = u64>) -> Self {
        let live: BTreeSet<u64> = live.collect();
        Self { last_sent, fresh: live.clone(), live, ..Self::default() }
    }

    /// Sent and not acknowledged, ascending.
    pub fn live(&self) -> impl Iterator<Item = u64> + '_ {
        self.live.iter().copied()
    }

    /// Takes in a row as found, in the order of their numbers.
    pub fn recover_row(&mut self, seq: u64, last_sent: u64, pending: &[u64], acks: &[u64]) {
        if seq > 0 {
            self.live.insert(seq);
        }
        self.live.extend(pending);
        for ack in acks {
            self.live.remove(ack);
        }
        let highest = pending.iter().copied().max().unwrap_or(0).max(seq);
        self.last_sent = self.last_sent.max(last_sent).max(highest);
        self.row_count += 1;
        self.entry_count += pending.len() + acks.len() + usize::from(seq > 0);
    }

    /// A message was sent.
    pub fn sent(&mut self, seq: u64) {
        self.last_sent = self.last_sent.max(seq);
        if self.live.insert(seq) && !self.acked.remove(&seq) {
            self.fresh.insert(seq);
        }
    }

    /// A message was acknowledged.
    pub fn acked(&mut self, seq: u64) {
        self.last_sent = self.last_sent.max(seq);
        if self.live.remove(&seq) && !self.fresh.remove(&seq) {
            self.acked.insert(seq);
        }
    }

    /// Whether the rows differ from what is known.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.fresh.is_empty() || !self.acked.is_empty() || self.last_sent != self.saved_last_sent
    }

    /// What to write, if anything is.
    #[must_use]
    pub fn plan(&self) -> Option<Flush> {
        if !self.is_dirty() {
            return None;
        }
        let mut flush = Flush::default();
        let grown = self.entry_count + self.fresh.len() + self.acked.len();
        let must_renew = self.live.is_empty()
            || self.row_count >= ROWS_MAX
            || grown > self.live.len() * 2 + DEAD_MIN;
        flush.renews = must_renew;
        if must_renew {
            flush.drops_rows = self.row_count > 0;
            let live: Vec<u64> = self.live().collect();
            let row = |part: &[u64]| PendingRow { pending: part.to_vec(), acks: Vec::new() };
            flush.rows = live.chunks(ROW_LEN_MAX).map(row).collect();
        } else {
            let mut acks: Vec<u64> = self.acked.iter().copied().collect();
            let fresh: Vec<u64> = self.fresh.iter().copied().collect();
            let mut parts = fresh.chunks(ROW_LEN_MAX);
            while !acks.is_empty() || parts.len() > 0 {
                let rest = acks.split_off(acks.len().min(ROW_LEN_MAX));
                let pending = parts.next().map(<[u64]>::to_vec).unwrap_or_default();
                flush.rows.push(PendingRow { pending, acks });
                acks = rest;
            }
        }
        flush.sets_last_sent = flush.rows.is_empty();
        Some(flush)
    }

    /// What was planned is in the database now.
    pub fn on_flushed(&mut self, flush: &Flush) {
        self.saved_last_sent = self.last_sent;
        if flush.renews {
            (self.row_count, self.entry_count) = (0, 0);
        }
        self.row_count += flush.rows.len();
        let len = |row: &PendingRow| row.pending.len() + row.acks.len();
        self.entry_count += flush.rows.iter().map(len).sum::<usize>();
        self.fresh.clear();
        self.acked.clear();
    }
}

/// Sequences as a row holds them: a JSON array; none is `NULL` there, here nothing.
#[must_use]
pub fn encode(sequences: &[u64]) -> Option<Bytes> {
    if sequences.is_empty() {
        return None;
    }
    serde_json::to_vec(sequences).ok().map(Bytes::from)
}

/// The opposite of [`encode`].
///
/// # Errors
/// When it is no array of numbers.
pub fn decode(bytes: &[u8]) -> Result<Vec<u64>, serde_json::Error> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice::<Option<Vec<u64>>>(bytes).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn what_is_acknowledged_before_a_flush_is_never_written() {
        let mut pending = Pending::new(0);
        pending.sent(1);
        pending.sent(2);
        pending.acked(1);
        pending.acked(2);
        let expected = Flush { sets_last_sent: true, renews: true, ..Flush::default() };
        let flush = pending.plan();
        assert_eq!((&flush, pending.last_sent), (&Some(expected), 2));
        assert!(pending.is_dirty(), "a plan alone changes nothing");
        pending.on_flushed(&flush.unwrap());
        assert!(!pending.is_dirty());
    }

    /// Does to the rows what a flush asks for.
    fn apply(pending: &mut Pending, rows: &mut Vec<(u64, PendingRow)>) {
        let Some(flush) = pending.plan() else { return };
        pending.on_flushed(&flush);
        if flush.drops_rows {
            rows.clear();
        }
        rows.extend(flush.rows.into_iter().map(|row| (pending.last_sent, row)));
    }

    #[test]
    fn rows_tell_the_same_as_the_set_whatever_happens() {
        let mut random = crate::base::random::Random::new(7);
        for _ in 0..50 {
            let mut pending = Pending::new(0);
            let mut rows: Vec<(u64, PendingRow)> = Vec::new();
            for _ in 0..2_000 {
                let seq = 1 + random.below(40);
                match random.below(5) {
                    0 | 1 => pending.sent(seq),
                    2 | 3 => pending.acked(seq),
                    _ => apply(&mut pending, &mut rows),
                }
            }
            apply(&mut pending, &mut rows);
            if pending.live().next().is_none() {
                continue;
            }
            let mut found = Pending::new(0);
            for (last_sent, row) in &rows {
                let again = |list: &[u64]| decode(&encode(list).unwrap_or_default()).unwrap();
                found.recover_row(0, *last_sent, &again(&row.pending), &again(&row.acks));
            }
            assert!(found.live().eq(pending.live()));
            assert!(rows.len() <= ROWS_MAX);
        }
    }
}
