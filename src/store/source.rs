//! A store that is only read, by whoever moves it to another place; it stays as it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::channel_limits::{ChannelLimits, StoreLimits};
use crate::base::encryption::StoreKey;
use crate::base::epoch::{Predecessor, Unfenced};
use crate::base::time::Now;
use crate::store::file::format::Crc;
use crate::store::file::overlay::Overlay;
use crate::store::file::{self, FileOptions, Opening};
use crate::store::sql::dialect::Driver;
use crate::store::sql::dsn;
use crate::store::{Opened, StoreError, encryption, sql};

/// Where a store lies.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a directory.
    Directory(PathBuf),
    /// In a database.
    Database(Box<dsn::Source>),
}

impl Place {
    /// The database that a driver's name and a source mean; `variable` is the environment's.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn database(
        driver: &str,
        source: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let found = Driver::named(driver).filter(|driver| *driver != Driver::Sqlite);
        let found = found.ok_or_else(|| format!("unknown driver {driver:?}: postgres or mysql"))?;
        let source = dsn::Source::parse(found, source, variable);
        source.map(|source| Self::Database(source.into())).map_err(|error| error.to_string())
    }
}

impl fmt::Display for Place {
    /// Without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(root) => root.display().fmt(f),
            Self::Database(source) => source.fmt(f),
        }
    }
}

/// Opens what lies there, with one share that holds all of it and takes no commit. Nobody may write
/// there meanwhile.
///
/// # Errors
/// [`StoreError`].
pub fn open(place: &Place, key: Option<&StoreKey>, now: Now) -> Result<Opened, StoreError> {
    let opened = match place {
        Place::Directory(root) => open_directory(root, Some(Crc::IEEE), now)?,
        Place::Database(source) => sql::source::open(source)?,
    };
    Ok(match key {
        // Nothing is encrypted, so no chance is needed.
        Some(key) => encryption::around(opened, key, 0),
        None => opened,
    })
}

/// The same of a directory whose checksums are by `polynomial`, in reversed notation; `None`: they
/// are not verified.
///
/// # Errors
/// [`StoreError`].
pub fn open_directory(
    root: &Path,
    polynomial: Option<u32>,
    now: Now,
) -> Result<Opened, StoreError> {
    let options = FileOptions {
        compact_enabled: false,
        sync: false,
        crc: polynomial.is_some(),
        crc_polynomial: i64::from(polynomial.unwrap_or(Crc::IEEE)),
        ..FileOptions::new(root)
    };
    let opening = Opening {
        options: &options,
        limits: &unlimited(),
        fence: Arc::new(Unfenced),
        // What may not be durable is not made so here.
        predecessor: Predecessor::Clean,
        loops: 1,
        now,
        survey: None,
    };
    file::open_on(Arc::new(Overlay::default()), opening)
}

/// Limits that let go of nothing.
#[must_use]
pub fn unlimited() -> StoreLimits {
    StoreLimits {
        channels_max: 0,
        global: ChannelLimits {
            messages_max: 0,
            bytes_max: 0,
            age_max: Duration::ZERO,
            subscriptions_max: 0,
            inactivity_max: Duration::ZERO,
        },
        per_channel: Default::default(),
        policies: Default::default(),
    }
}
