//! What all shares of one file store have in common.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::base::channel_limits::ResolvedLimits;
use crate::base::epoch::Fence;
use crate::store::file::disk::{Disk, Folder};
use crate::store::file::format::Crc;
use crate::store::file::log::path_below;
use crate::store::file::options::FileOptions;
use crate::store::file::reserve::{Reserve, Spare};
use crate::store::{Remedy, StoreError};

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
    /// What is set aside for a full disk.
    pub reserve: Reserve,
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

    /// The way to the reserve, for what leaves so many files of it.
    #[must_use]
    pub fn spare<'a>(&'a self, root: &'a dyn Folder, left: u8) -> Spare<'a> {
        Spare { reserve: &self.reserve, root, epoch: self.fence.epoch().0, left }
    }
}

/// What ended this process's work, where the fence is asked last: whoever was replaced meanwhile is
/// told so, and not that its successor has removed or written what it had open.
pub fn unless_replaced(error: StoreError, fence: &dyn Fence) -> StoreError {
    let is_of_others = matches!(error, StoreError::Vanished { .. } | StoreError::Intruder { .. });
    match fence.check() {
        Err(fenced) if is_of_others => fenced.into(),
        Ok(()) | Err(_) => error,
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
