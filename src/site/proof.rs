//! What a standby writes and syncs in the store before it replaces a holder that hangs.
//!
//! On a thread of its own: where the disk stalls for all, only that thread stands still with it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::election::lease::Owner;
use crate::site::epoch_files::Claim;

/// A write that is under way.
#[derive(Debug)]
pub(super) struct Prover {
    written: Arc<Mutex<Option<io::Result<()>>>>,
}

impl Prover {
    /// Begins to write in `root`.
    pub(super) fn spawn(root: PathBuf, owner: Owner) -> io::Result<Self> {
        let written = Arc::new(Mutex::new(None));
        let told = Arc::clone(&written);
        thread::Builder::new().name("store-prover".to_owned()).spawn(move || {
            let result = Claim::prove(&root, &owner);
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        })?;
        Ok(Self { written })
    }

    /// What became of it, once it is known.
    pub(super) fn take(&self) -> Option<io::Result<()>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
