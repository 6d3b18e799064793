//! What a share has written and not synced: made durable with a commit, or after a time.

use crate::base::planted::{self, Bug};
use crate::base::record::Batch;
use crate::base::world;
use crate::store::file::context::refusal;
use crate::store::file::disk::DiskFile;
use crate::store::file::log::io_error;
use crate::store::file::share::{Share, recount};
use crate::store::file::sync::{Way, sync_files};
use crate::store::{Action, StoreError};

impl Share {
    /// Syncs what is dirty. `Ok(Some(text))` if the disk had no room for it.
    ///
    /// # Errors
    /// [`StoreError`], if it is not a full disk.
    pub(super) fn sync(&mut self) -> Result<Option<String>, StoreError> {
        let synced = match self.unsynced.take() {
            Some(text) => Ok(Err(text)),
            None if planted::is(Bug::FailedSyncForgiven) => {
                let _forgiven = self.sync_dirty();
                Ok(Ok(()))
            }
            None => self.sync_dirty().map_or_else(|error| refusal(error).map(Err), |()| Ok(Ok(()))),
        };
        match synced? {
            Ok(()) => {
                for name in std::mem::take(&mut self.dirty) {
                    if let Some(channel) = self.channels.get_mut(&name) {
                        channel.mark_synced();
                        recount(&mut self.open_count, channel);
                    }
                }
                self.deliveries.on_synced();
                self.dirty_since = None;
                self.is_root_renamed = false;
                self.must_sync_filesystem = false;
                self.holds_put_off = false;
                Ok(None)
            }
            Err(text) if self.holds_put_off => Err(self.sync_refused(text)),
            Err(text) => {
                // What the kernel has dropped no later sync brings back: say it all anew.
                self.deliveries.on_sync_failed(self.root.as_ref());
                for name in &self.dirty {
                    if let Some(channel) = self.channels.get_mut(name) {
                        channel.must_replace_subscriptions = true;
                    }
                }
                Ok(Some(text))
            }
        }
    }

    /// What is there now and may be gone after a power failure, and can be refused to nobody.
    pub(super) fn sync_refused(&self, text: String) -> StoreError {
        let source = std::io::Error::other(text);
        io_error(Action::Sync, self.ctx.root_path(), source).half_done()
    }

    fn sync_dirty(&mut self) -> Result<(), StoreError> {
        if planted::is(Bug::NoSync) {
            return Ok(());
        }
        let ctx = self.ctx.as_ref();
        let mut files: Vec<&dyn DiskFile> = Vec::new();
        let mut folder_count = usize::from(self.is_root_renamed);
        for name in &self.dirty {
            if let Some(channel) = self.channels.get(name) {
                files.extend(channel.dirty_files());
                folder_count += usize::from(channel.is_renamed);
            }
        }
        files.extend(self.deliveries.dirty_file());
        let sync_error = |source| io_error(Action::Sync, ctx.root_path(), source);
        let count = files.len() + folder_count;
        if let (true, Some(device)) = (self.must_sync_filesystem, self.synced_device) {
            self.root.sync_filesystem().map_err(sync_error)?;
            return self.sync_beyond(device);
        }
        if let (Some(device), true) = (self.synced_device, count != 0) {
            let began = world::instant();
            let way = self.pace.choose(count, began, || self.root.unwritten_len());
            match way {
                Way::Together => self.root.sync_filesystem().map_err(sync_error)?,
                Way::Apart => sync_files(&files).map_err(sync_error)?,
            }
            // Names are rarely new: only what each message needs is compared.
            if way == Way::Together || folder_count == 0 {
                self.pace.learn(way, count, began, world::instant());
            }
            if way == Way::Together {
                return self.sync_beyond(device);
            }
        } else {
            sync_files(&files).map_err(sync_error)?;
        }
        drop(files);
        if planted::is(Bug::NamesNotSynced) {
            return Ok(());
        }
        for name in &self.dirty {
            if let Some(channel) = self.channels.get_mut(name) {
                channel.sync_folder(ctx)?;
            }
        }
        if self.is_root_renamed {
            self.root.sync().map_err(sync_error)?;
        }
        Ok(())
    }

    /// What a sync of the file system `device` has not reached: a channel's folder, or a file of
    /// it, can lie on another one.
    fn sync_beyond(&mut self, device: u64) -> Result<(), StoreError> {
        let ctx = self.ctx.as_ref();
        for name in &self.dirty {
            let Some(channel) = self.channels.get_mut(name) else { continue };
            if !channel.is_reached_by_sync_of(device) {
                channel.sync_beyond(ctx, device)?;
            }
        }
        Ok(())
    }

    /// What nobody waits for is synced by a later commit, or after the time of `auto_sync`.
    /// `Ok(Some(text))` if the disk had no room for a slice that was filled.
    ///
    /// # Errors
    /// [`StoreError`], if it is not a full disk.
    pub(super) fn leave_dirty(&mut self, batch: &Batch) -> Result<Option<String>, StoreError> {
        let has_messages = batch.channels.iter().any(|part| !part.messages.is_empty());
        self.holds_put_off |= self.ctx.options.sync && has_messages;
        if !self.dirty.is_empty() && self.dirty_since.is_none() {
            self.dirty_since = Some(self.now.at);
        }
        for part in &batch.channels {
            if let Some(channel) = self.channels.get_mut(&part.channel) {
                match channel.close_finished(&self.ctx) {
                    Ok(is_unsynced) => self.must_sync_filesystem |= is_unsynced,
                    Err(error) => return refusal(error).map(Some),
                }
                recount(&mut self.open_count, channel);
            }
        }
        Ok(None)
    }
}
