//! What a file of a disk in memory holds, and what of it is durable.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::base::random::Random;

/// Bytes that a disk writes as a whole.
const SECTOR_LEN: usize = 512;

#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that were written since they were synced.
    dirty: BTreeSet<usize>,
    /// Sectors of which a sync failed: they are called clean, and are not durable.
    lost: BTreeSet<usize>,
    /// What a sync has called durable that was not.
    promised: Option<Vec<u8>>,
    /// The disk has changed what it had called durable.
    pub(super) is_harmed: bool,
    /// Names that it has.
    pub(super) links: u64,
    pub(super) changed_at: i64,
}

/// What a file has lost with the power.
#[derive(Debug)]
pub(super) struct Loss {
    /// What it held.
    pub(super) before: Vec<u8>,
    /// So many bytes of that are as they were, from its beginning on.
    pub(super) kept: usize,
    /// A sync had called some of it durable.
    pub(super) is_promised: bool,
}

impl File {
    pub(super) fn new(changed_at: i64) -> Self {
        Self { changed_at, ..Self::default() }
    }

    pub(super) fn append(&mut self, bytes: &[u8], changed_at: i64) {
        let first = self.bytes.len() / SECTOR_LEN;
        self.bytes.extend_from_slice(bytes);
        for sector in first..self.bytes.len().div_ceil(SECTOR_LEN) {
            self.dirty.insert(sector);
            self.lost.remove(&sector);
        }
        self.changed_at = changed_at;
    }

    pub(super) fn truncate(&mut self, len: u64, changed_at: i64) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.bytes.resize(len.min(1 << 40), 0);
        self.changed_at = changed_at;
        self.dirty.retain(|sector| sector * SECTOR_LEN < len);
        self.lost.retain(|sector| sector * SECTOR_LEN < len);
        if !len.is_multiple_of(SECTOR_LEN) {
            self.dirty.insert(len / SECTOR_LEN);
        }
    }

    fn write_sector(&mut self, sector: usize) {
        let begin = sector * SECTOR_LEN;
        let end = (begin + SECTOR_LEN).min(self.bytes.len());
        if begin < end {
            if self.durable.len() < end {
                self.durable.resize(end, 0);
            }
            self.durable[begin..end].copy_from_slice(&self.bytes[begin..end]);
        }
    }

    pub(super) fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.write_sector(sector);
        }
        self.durable.resize(self.bytes.len(), 0);
        self.promised = None;
    }

    /// A sync says that all of it is durable, and does nothing.
    pub(super) fn promise(&mut self) {
        self.promised = Some(self.bytes.clone());
    }

    /// The kernel forgets that its pages were to be written; some of them were.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        for sector in std::mem::take(&mut self.dirty) {
            if random.below(2) == 0 {
                self.write_sector(sector);
            } else {
                self.lost.insert(sector);
            }
        }
    }

    /// Changes one bit of a range, which is not empty.
    pub(super) fn flip(&mut self, range: Range<usize>, chance: u64) {
        let at = range.start + usize::try_from(chance / 8 % range.len() as u64).unwrap_or(0);
        let flipped = self.bytes[at] ^ (1 << (chance % 8));
        self.bytes[at] = flipped;
        if let Some(durable) = self.durable.get_mut(at) {
            *durable = flipped;
        }
        self.is_harmed = true;
    }

    /// The power goes, and comes back.
    pub(super) fn cut_power(&mut self, random: &mut Random, keeps_order: bool) -> Option<Loss> {
        let is_clean = self.dirty.is_empty() && self.lost.is_empty();
        let is_durable = is_clean && self.durable.len() == self.bytes.len();
        let before = if is_durable { Vec::new() } else { self.bytes.clone() };
        if keeps_order {
            self.land_in_order(random);
        } else {
            self.land(random);
        }
        self.lost.clear();
        self.bytes.clone_from(&self.durable);
        let promised = self.promised.take();
        let is_promised = promised.is_some_and(|promised| !self.bytes.starts_with(&promised));
        self.is_harmed |= is_promised;
        let kept = before.iter().zip(&self.bytes).take_while(|(was, is)| was == is).count();
        let is_whole = is_durable || (kept == before.len() && kept == self.bytes.len());
        (!is_whole).then_some(Loss { before, kept, is_promised })
    }

    /// What was appended is there up to some sector.
    fn land_in_order(&mut self, random: &mut Random) {
        let added = self.bytes.len().saturating_sub(self.durable.len());
        let kept = match random.below(3) {
            0 => 0,
            1 => added,
            _ => usize::try_from(random.below(added as u64 + 1)).unwrap_or(0),
        };
        let mut len = self.durable.len() + kept;
        if kept != added {
            // A sector is there or not.
            len = (len / SECTOR_LEN * SECTOR_LEN).max(self.durable.len());
        }
        for sector in std::mem::take(&mut self.dirty) {
            if sector * SECTOR_LEN < len {
                self.write_sector(sector);
            }
        }
        self.durable.resize(len, 0);
    }

    /// Each sector is there or not.
    fn land(&mut self, random: &mut Random) {
        let lens = [self.durable.len(), self.bytes.len()];
        let (low, high) = (lens[0].min(lens[1]), lens[0].max(lens[1]));
        let len = match random.below(3) {
            0 => lens[0],
            1 => lens[1],
            _ => low + usize::try_from(random.below((high - low) as u64 + 1)).unwrap_or(0),
        };
        for sector in std::mem::take(&mut self.dirty) {
            if random.below(2) == 0 {
                self.write_sector(sector);
            }
        }
        self.durable.resize(len, 0);
    }
}
