//! What an operator has let go of a channel: decided by one name, and then taken out of the files.
//!
//! A purge is there once a file of ours is in the channel's folder whose name says which message
//! is the oldest that stays: one rename, so that it is there as a whole or not at all. From then on
//! nobody is given what lies before. Everything else is tidying, done at once and tried again:
//! slices that hold nothing else are removed, and what stays of the slice in which the purge ends
//! is written anew, so that a Go server finds the same. The file goes last, once no slice holds
//! what it forbids, and that is durable.

use crate::base::id::Sequence;
use crate::base::record::{MessageRecord, Purge};
use crate::store::file::channel::Channel;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::{Context, is_refusal};
use crate::store::file::disk::Folder;
use crate::store::file::format::{ChannelFile, channel_file, floor_name};
use crate::store::file::log::io_error;
use crate::store::file::removal::{Archivists, Place};
use crate::store::file::reserve::LEFT_BY_COMMITS;
use crate::store::file::rewrite::{Rewrite, cut_overlaps};
use crate::store::file::slices::Slice;
use crate::store::{Action, StoreError};

/// What stays is written anew only if it is no more than this: commits wait meanwhile, and it is
/// held in memory. Beyond it the slice stays until its last message is let go.
const REWRITTEN_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The oldest message that an operator has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor {
    /// Its sequence; 0: nothing was purged, or all of that is gone from the files.
    pub first: u64,
    /// Whether nothing is left of its payload either.
    pub is_emptied: bool,
}

impl Floor {
    /// What a purge asks for.
    #[must_use]
    pub fn of(purge: &Purge) -> Self {
        Self { first: purge.first.get(), is_emptied: purge.stand_in.is_some() }
    }

    /// Whether anything is to be kept from readers, or taken out of files.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.first != 0
    }
}

impl Channel {
    /// Decides that everything before a message goes; false if that was decided before. The names
    /// in the folder are not synced yet.
    ///
    /// # Errors
    /// [`StoreError`]; the name may be there all the same, and [`Channel::take_floor_back`] removes
    /// it.
    pub fn put_floor(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        floor: Floor,
    ) -> Result<bool, StoreError> {
        if floor <= self.floor {
            return Ok(false);
        }
        self.open_folder(ctx, root)?;
        let mut fresh = Replacement::write(ctx.spare(root, LEFT_BY_COMMITS), ctx.root_path(), &[])?;
        let synced = if ctx.options.sync { fresh.sync() } else { Ok(()) };
        if let Err(error) = synced {
            fresh.discard(root);
            return Err(error);
        }
        ctx.fence.check()?;
        fresh.put(root, Some(self.folder()), &floor_name(floor), ctx.fence.as_ref())?;
        self.is_renamed = true;
        Ok(true)
    }

    /// Takes back what a refused batch has decided.
    ///
    /// # Errors
    /// [`StoreError`]; then it may still be there.
    pub fn take_floor_back(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        floor: Floor,
    ) -> Result<(), StoreError> {
        self.open_folder(ctx, root)?;
        self.remove_floors(ctx, &[floor_name(floor)]).map_err(StoreError::half_done)?;
        // What is answered as refused does not come back with the power.
        let synced = if ctx.options.sync { self.sync_folder(ctx) } else { Ok(()) };
        synced.map_err(StoreError::half_done)
    }

    fn remove_floors(&mut self, ctx: &Context, names: &[Vec<u8>]) -> Result<(), StoreError> {
        let path = ctx.path(self.name.as_bytes(), b"");
        let place = Place { folder: self.folder(), path: &path, fence: ctx.fence.as_ref() };
        place.remove(names)?;
        self.is_renamed = true;
        Ok(())
    }

    /// The files that say so much or less.
    fn floors_up_to(&self, ctx: &Context, floor: Floor) -> Result<Vec<Vec<u8>>, StoreError> {
        let path = ctx.path(self.name.as_bytes(), b"");
        let listed = self.folder().list();
        let entries = listed.map_err(|source| io_error(Action::Read, &path, source))?;
        let mut names: Vec<Vec<u8>> = entries.into_iter().map(|entry| entry.name).collect();
        names.retain(|name| {
            let file = channel_file(name);
            if let ChannelFile::Purged(found) = file { found <= floor } else { false }
        });
        Ok(names)
    }

    /// Whether the oldest message that is counted lies before what an operator has left.
    #[must_use]
    pub fn is_below_floor(&self) -> bool {
        self.messages.first < self.floor.first && 1 < self.messages.message_count
    }

    /// A message as readers get it: of one that an operator has emptied the payload is gone.
    #[must_use]
    pub fn as_left(&self, record: MessageRecord) -> MessageRecord {
        let is_emptied = self.floor.is_emptied && record.sequence.get() == self.floor.first;
        if !is_emptied {
            return record;
        }
        let Sequence(sequence) = record.sequence;
        MessageRecord::stand_in(&self.name, sequence, record.timestamp)
    }

    /// Whether a slice still holds the payload of the message that an operator has emptied.
    fn holds_emptied(&self) -> bool {
        self.floor.is_emptied && self.messages.first == self.floor.first && !self.is_rewritten
    }

    /// Takes out of the files what was purged; true if something was written anew for it. It can be
    /// tried again after an error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn finish_purge(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        archivists: &mut Archivists,
    ) -> Result<bool, StoreError> {
        let floor = self.floor;
        if !floor.is_set() || self.messages.first < floor.first {
            return Ok(false);
        }
        let holds_more = |slice: &Slice| slice.first < floor.first && floor.first <= slice.last;
        let must_rewrite = self.messages.slices.iter().any(holds_more) || self.holds_emptied();
        let must_rewrite = must_rewrite && self.messages.message_count != 0;
        if must_rewrite {
            let is_damaged = self.unwritten_floor == Some(floor);
            if is_damaged || REWRITTEN_BYTES_MAX < self.messages.byte_count {
                return Ok(false);
            }
            self.rewrite_what_stays(ctx, root)?;
        }
        // What could not be cut the last time, too.
        if must_rewrite || self.messages.overlaps.iter().any(|old| !old.must_stay) {
            cut_overlaps(ctx, root, self)?;
            self.remove_dead_slices(ctx, root, archivists)?;
        }
        let is_left = self.messages.slices.iter().any(|slice| slice.first < floor.first)
            || !self.messages.superseded.is_empty()
            || self.messages.overlaps.iter().any(|old| old.from < floor.first);
        if is_left || self.holds_emptied() {
            return Ok(must_rewrite);
        }
        self.open_folder(ctx, root)?;
        // Else a power failure could bring the slices back, and not the name.
        self.is_renamed = true;
        self.sync_folder(ctx)?;
        let names = self.floors_up_to(ctx, floor)?;
        self.remove_floors(ctx, &names)?;
        self.floor = Floor::default();
        self.is_rewritten = false;
        Ok(must_rewrite)
    }

    fn rewrite_what_stays(&mut self, ctx: &Context, root: &dyn Folder) -> Result<(), StoreError> {
        let from = self.messages.first;
        let Some(mut copy) = Rewrite::copy(ctx, root, self, from)? else {
            // Damage: it stays where it is, and is not read at each commit again.
            self.unwritten_floor = Some(self.floor);
            return Ok(());
        };
        self.close_reader();
        // What was read is no successor's, and one that came before the files were there looks at
        // them no more.
        ctx.fence.check()?;
        if copy.begin(ctx, root, self).is_ok() {
            ctx.fence.check()?;
        }
        copy.write(ctx, root, self)?;
        // Whatever the options say: what it was made from may have been durable, and goes.
        if let Err(error) = self.sync_tail(ctx) {
            if is_refusal(&error) {
                copy.discard(ctx, self)?;
            }
            return Err(error);
        }
        ctx.fence.check()?;
        copy.finish(self);
        // What is written anew and synced need not stay elsewhere.
        self.messages.overlaps.iter_mut().for_each(|old| old.must_stay &= old.from < from);
        let live = self.messages.slices.iter().filter(|slice| slice.live_count() != 0);
        self.messages.byte_count = live.map(|slice| slice.bytes).sum();
        self.is_rewritten = self.floor.is_emptied;
        Ok(())
    }
}
