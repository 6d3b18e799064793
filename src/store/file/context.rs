//! What all shares of one file store have in common.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use crate::base::channel_limits::ResolvedLimits;
use crate::base::epoch::Fence;
use crate::store::file::disk::{Access, Disk, Folder};
use crate::store::file::format::{Crc, RESERVE_FILE};
use crate::store::file::log::path_below;
use crate::store::file::options::FileOptions;
use crate::store::{Remedy, StoreError};

/// Bytes set aside, so that acknowledgements can be written on a full disk.
const RESERVE_BYTES: u64 = 1024 * 1024;

/// Options, limits and the right to write.
pub struct Context {
    /// As the user gave them.
    pub options: FileOptions,
    /// By channel.
    pub limits: ResolvedLimits,
    /// The checksum.
    pub crc: Crc,
    /// The right to write.
    pub fence: Arc<dyn Fence>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Whether the reserve lies on the disk.
    pub has_reserve: AtomicBool,
}

impl Context {
    /// The root's path.
    #[must_use]
    pub fn root_path(&self) -> &Path {
        &self.options.root
    }

    /// The path of a file, for errors.
    #[must_use]
    pub fn path(&self, channel: &[u8], name: &[u8]) -> PathBuf {
        path_below(&self.options.root, channel, name)
    }

    /// The checksum, if reads verify it.
    #[must_use]
    pub fn verifying_crc(&self) -> Option<&Crc> {
        self.options.crc.then_some(&self.crc)
    }

    /// Sets the reserve aside, if there is room.
    pub fn set_reserve_aside(&self, root: &dyn Folder) {
        if self.has_reserve.load(Ordering::Relaxed) {
            return;
        }
        let is_there = match root.open(RESERVE_FILE, Access::CreateNew) {
            Ok(file) => match file.allocate(RESERVE_BYTES) {
                Ok(()) => true,
                Err(_) => {
                    // Without room, or on a file system that cannot: there is no reserve.
                    let _ = root.unlink(RESERVE_FILE);
                    false
                }
            },
            Err(error) => error.kind() == std::io::ErrorKind::AlreadyExists,
        };
        self.has_reserve.store(is_there, Ordering::Relaxed);
    }

    /// Gives the reserve up; true if that may have made room.
    pub fn release_reserve(&self, root: &dyn Folder) -> bool {
        self.has_reserve.swap(false, Ordering::Relaxed) && root.unlink(RESERVE_FILE).is_ok()
    }
}

/// The text of an error that refuses a write and lets everything else go on. Running out of
/// descriptors is one: files are closed, and the next try finds some.
///
/// # Errors
/// The error itself, if it is of another kind.
pub fn refusal(error: StoreError) -> Result<String, StoreError> {
    if is_refusal(&error) { Ok(error.to_string()) } else { Err(error) }
}

/// Whether it is an error that [`refusal`] gives the text of.
#[must_use]
pub fn is_refusal(error: &StoreError) -> bool {
    match error.remedy() {
        Remedy::Refuse => true,
        Remedy::StepDown | Remedy::Stop => is_out_of_descriptors(error),
    }
}

/// Whether the process, or the machine, has no descriptor left.
#[must_use]
pub fn is_out_of_descriptors(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else {
        return false;
    };
    let codes = [Errno::EMFILE, Errno::ENFILE];
    source.raw_os_error().is_some_and(|code| codes.contains(&Errno::from_raw(code)))
}
