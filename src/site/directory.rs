//! A site in a directory, which all members of a group share.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::channel_limits::StoreLimits;
use crate::base::epoch::{Fence, Predecessor};
use crate::base::world;
use crate::config::{Config, StoreKind};
use crate::election::lease::{Lease, Owner};
use crate::log::STREAM;
use crate::proto::spb;
use crate::site::file_lock::FileLease;
use crate::site::mounts::{self, Weight};
use crate::site::{Site, steal_after, writers};
use crate::store::file::disk::RealDisk;
use crate::store::file::survey::Surveyor;
use crate::store::file::{self, FileOptions, Opening};
use crate::store::{Opened, StoreError};

/// A directory.
pub(super) struct Directory {
    options: FileOptions,
    limits: StoreLimits,
    loops: u16,
    steal_after: Duration,
    is_alone: bool,
    /// Whether this process has had it open: then it may have files of it open still.
    was_open: AtomicBool,
    /// While another member is active.
    surveyor: Mutex<Option<Surveyor>>,
}

impl Directory {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            options: options(config),
            limits: config.streaming.limits.clone(),
            loops: config.loops,
            steal_after: steal_after(config),
            is_alone: config.streaming.ft_group.is_none(),
            was_open: AtomicBool::new(false),
            surveyor: Mutex::default(),
        }
    }

    /// Held for moments only: never while something is read.
    fn surveyor(&self) -> MutexGuard<'_, Option<Surveyor>> {
        self.surveyor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what a file system that machines share lacks for a group. Whoever has to know more
    /// asks `stanby check --lock`.
    fn warn_of_mount(&self) {
        let root = &self.options.root;
        // A directory that is not there yet is on no file system.
        let Ok(Some(mount)) = mounts::below(root) else { return };
        if mount.is_shared() != Some(true) {
            return;
        }
        for remark in mount.remarks().iter().filter(|remark| Weight::Warning <= remark.weight) {
            let (kind, text) = (&mount.kind, remark.text);
            log::warn!(target: STREAM, "{} is on {kind}: {text}", root.display());
        }
    }

    /// What became of preparing or checking. A member of a group whose directory cannot be used
    /// now says so in its pages, and goes on trying; a server alone ends.
    fn judge(
        &self,
        result: Result<(), StoreError>,
        say: impl FnOnce(&StoreError),
    ) -> Result<(), StoreError> {
        match result {
            Err(error @ StoreError::Io { .. }) if !self.is_alone => {
                say(&error);
                Ok(())
            }
            Ok(()) if self.is_alone && self.options.root.exists() => {
                file::check_rights(&self.options)
            }
            result => result,
        }
    }
}

impl Site for Directory {
    fn name(&self) -> &'static str {
        StoreKind::File.name()
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let say = |error: &StoreError| log::error!(target: STREAM, "{error}");
        let prepared = self.judge(file::prepare(&self.options), say);
        if !self.is_alone {
            self.warn_of_mount();
        }
        prepared
    }

    fn check(&self) -> Result<&'static str, StoreError> {
        self.judge(file::check(&self.options), |_| ()).map(|()| "")
    }

    fn begin(&self, server: &spb::ServerInfo) -> Result<(), StoreError> {
        file::begin(&self.options, server)
    }

    fn lease(&self, owner: Owner) -> Option<Box<dyn Lease>> {
        Some(Box::new(FileLease::new(&self.options.root, owner, self.steal_after)))
    }

    fn open(&self, fence: &Arc<dyn Fence>, predecessor: Predecessor) -> Result<Opened, StoreError> {
        // A group has its lock, and a take-over no time.
        if !self.was_open.swap(true, Ordering::Relaxed) && self.is_alone {
            writers::await_none(&self.options.root)?;
        }
        let surveyor = self.surveyor().take();
        let opening = Opening {
            options: &self.options,
            limits: &self.limits,
            fence: Arc::clone(fence),
            predecessor,
            loops: self.loops,
            now: world::now(),
            survey: surveyor.map(Surveyor::finish),
        };
        file::open_on(Arc::new(RealDisk), opening)
    }

    fn peek_server(&self) -> Option<spb::ServerInfo> {
        file::peek_server(&self.options)
    }

    fn path(&self) -> Option<PathBuf> {
        let root = &self.options.root;
        Some(fs::canonicalize(root).unwrap_or_else(|_| root.clone()))
    }

    fn survey(&self) -> io::Result<()> {
        if self.surveyor().is_none() {
            let surveyor = Surveyor::spawn(&RealDisk, &self.options)?;
            *self.surveyor() = surveyor;
        }
        Ok(())
    }

    fn end_survey(&self) {
        let surveyor = self.surveyor().take();
        drop(surveyor);
    }
}

/// Options of the file store. A file store without a folder is refused when the configuration is
/// read.
fn options(config: &Config) -> FileOptions {
    let from = &config.streaming.file;
    FileOptions {
        root: config.streaming.directory.clone().unwrap_or_default(),
        compact_enabled: from.compact_enabled,
        compact_fragmentation: i64::from(from.compact_fragmentation),
        compact_interval_secs: signed(from.compact_interval.as_secs()),
        compact_bytes_min: signed(from.compact_bytes_min),
        buffer_bytes: signed(from.buffer_bytes as u64),
        read_buffer_bytes: signed(from.read_buffer_bytes as u64),
        crc: from.crc,
        crc_polynomial: i64::from(from.crc_polynomial),
        sync: from.sync,
        slice_messages_max: signed(from.slice_messages_max),
        slice_bytes_max: signed(from.slice_bytes_max),
        slice_age_max: from.slice_age_max,
        slice_archive_script: from.slice_archive_script.clone(),
        descriptors_max: signed(from.descriptors_max),
        parallel_recovery: signed(from.parallel_recovery as u64),
        truncate_bad_eof: from.truncate_bad_eof,
        auto_sync: from.auto_sync,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
