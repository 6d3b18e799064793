//! Site: where the data of a server lies; one object, made once from the configuration.
//!
//! All that depends on the kind of place is behind it: what is done before anybody may write, the
//! lease, opening under a fence, what is read while standing by, what is known from one activation
//! to the next, and what people see of it. Nobody else knows whether data lies in memory, in files
//! or in a database. A new kind of place is one more file here.
//!
//! Reading order: `directory`, `file_lock` with `root_lock`, `lock_waiter` and `epoch_files` (its
//! lease), `writers` (without any), `database` and `sql_lock` (its lease), `memory`, `encrypted`
//! around any of them, `place`: what a command opens, and `new_store`: what one makes. `lock_trial`
//! and `lease_trial` try what locks are worth, of a directory and of a database (`trial` is what
//! both have), and `mounts` knows what file systems do with them.

mod database;
mod directory;
mod encrypted;
pub mod epoch_files;
pub mod file_lock;
pub mod lease_trial;
pub mod lock_trial;
mod lock_waiter;
mod memory;
pub mod mending;
pub mod mounts;
pub mod new_store;
pub mod place;
mod proof;
pub mod root_lock;
pub mod sql_lock;
#[cfg(test)]
mod tests;
pub mod trial;
pub mod writers;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::epoch::{Fence, Predecessor};
use crate::config::{Config, StoreKind};
use crate::election::lease::{Lease, Owner};
use crate::proto::spb;
use crate::store::{Opened, StoreError};

use self::database::Database;
use self::directory::Directory;
use self::encrypted::Encrypted;
use self::memory::Memory;

/// The place where the data of one server lies. It is asked by several threads.
pub trait Site: Send + Sync {
    /// As the log and the monitoring pages name it.
    fn name(&self) -> &'static str;

    /// What is done before anybody may write; what an operator should know goes to the log.
    ///
    /// # Errors
    /// What ends a start.
    fn prepare(&self) -> Result<(), StoreError>;

    /// Whether [`Site::prepare`] would do; nothing is made. The text is for the end of a sentence
    /// and says what stays untried.
    ///
    /// # Errors
    /// As there.
    fn check(&self) -> Result<&'static str, StoreError>;

    /// Makes an empty place one of `server`, before anything else of it is made, where that can be
    /// seen by others.
    ///
    /// # Errors
    /// As [`Site::prepare`].
    fn begin(&self, _server: &spb::ServerInfo) -> Result<(), StoreError> {
        Ok(())
    }

    /// The right to write there, for `owner`; `None` where nobody else could have it.
    fn lease(&self, owner: Owner) -> Option<Box<dyn Lease>>;

    /// Reads all that is there, and gives a share for each loop; `fence` is that of the term.
    ///
    /// # Errors
    /// See [`StoreError::remedy`].
    fn open(&self, fence: &Arc<dyn Fence>, predecessor: Predecessor) -> Result<Opened, StoreError>;

    /// The server's record, while another process may be writing; `None` if it cannot be told.
    fn peek_server(&self) -> Option<spb::ServerInfo> {
        None
    }

    /// Begins to read ahead what the next [`Site::open`] will need, while another server is
    /// active, where that is of use. It goes on until then, or until [`Site::end_survey`].
    ///
    /// # Errors
    /// When it cannot begin; opening then only takes longer.
    fn survey(&self) -> io::Result<()> {
        Ok(())
    }

    /// Drops what was read ahead.
    fn end_survey(&self) {}

    /// How many acknowledged messages it has lost; `None` of a place that does not lose any by
    /// itself.
    fn lost_count(&self) -> Option<u64> {
        None
    }

    /// Whether no two subscriptions have one number, not even those of two channels.
    fn numbers_subscriptions_as_one(&self) -> bool {
        false
    }

    /// Where on this machine it lies, whatever links lead there; `None` of a place elsewhere.
    fn path(&self) -> Option<PathBuf> {
        None
    }

    /// How many bytes longer a message can be there than it was staged.
    fn message_overhead_max(&self) -> usize {
        0
    }
}

/// The site that `config` describes.
///
/// # Errors
/// [`StoreError::Unusable`] when it cannot be told what that is.
pub fn of(config: &Config) -> Result<Arc<dyn Site>, StoreError> {
    let site: Arc<dyn Site> = match config.streaming.store {
        StoreKind::Memory => Arc::new(Memory::new(config)),
        StoreKind::File => Arc::new(Directory::new(config)),
        StoreKind::Sql => Arc::new(Database::new(config)?),
    };
    Ok(match &config.streaming.encryption {
        Some(key) => Arc::new(Encrypted::new(site, key.clone())),
        None => site,
    })
}

/// After how long without a sign of life a holder is replaced: a server alone takes nothing from
/// anybody.
fn steal_after(config: &Config) -> Duration {
    let streaming = &config.streaming;
    streaming.steal_after.filter(|_| streaming.ft_group.is_some()).unwrap_or_default()
}
