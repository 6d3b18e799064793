//! A store as a command line names it: a directory, a database, or the configuration of its server.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::Path;

use super::stopped;
use crate::base::files::{self, Access, Links};
use crate::config::{Config, machine};
use crate::store::source::unlimited;

/// The help of all commands that take one.
pub(super) const HELP: &str = "A store is a directory (the -dir of its server); a database, as postgres:SOURCE, \
    mysql:SOURCE or sqlite:FILE with the -sql_source of its server, or as postgres://…; or a file: the configuration \
    of its server, with all that it says of store, limits and key.";

/// What is wrong with the name of a store.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreNameError {
    /// It cannot be put into a configuration.
    #[error("{0:?} is not UTF-8: give another name for it")]
    Text(OsString),
    /// A file that is no configuration.
    #[error("{0} is a database of SQLite: say sqlite:{0}")]
    Sqlite(String),
    /// What it describes is no store.
    #[error("{name}: {why}")]
    Config {
        /// As it was given.
        name: String,
        /// Why not.
        why: String,
    },
}

/// How each file of SQLite begins.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";

/// The configuration of a server over the store that is named so. A store that is named by itself
/// has no limits.
///
/// # Errors
/// [`StoreNameError`].
pub(super) fn config(name: &OsStr, is_encrypted: bool) -> Result<Box<Config>, StoreNameError> {
    let name = name.to_str().ok_or_else(|| StoreNameError::Text(name.to_owned()))?;
    let is_file = fs::metadata(name).is_ok_and(|found| found.is_file());
    if is_file && begins_with_sqlite(Path::new(name)) {
        return Err(StoreNameError::Sqlite(name.to_owned()));
    }
    let mut arguments: Vec<String> = match database(name) {
        Some((driver, source)) => ["-store", "sql", "-sql_driver", driver, "-sql_source", source]
            .map(str::to_owned)
            .into(),
        None if is_file => ["-c", name].map(str::to_owned).into(),
        None => ["-store", "file", "-dir", name].map(str::to_owned).into(),
    };
    let has_own_limits = arguments[0] == "-c";
    arguments.extend(is_encrypted.then(|| "-encrypt".to_owned()));
    let wrong = |why: String| StoreNameError::Config { name: shown(name), why };
    let loaded = machine::with_world(|world| stopped::server(&arguments, world));
    let mut config = loaded.map_err(wrong)?;
    if !has_own_limits {
        config.streaming.limits = unlimited();
    }
    Ok(config)
}

/// Whether that names a database, and no directory or file.
pub(super) fn is_database(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| database(name).is_some())
}

fn begins_with_sqlite(path: &Path) -> bool {
    let mut start = [0; SQLITE.len()];
    let opened = files::open(path, Access::Read, Links::Followed);
    opened.and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *SQLITE
}

/// Driver and source.
fn database(name: &str) -> Option<(&str, &str)> {
    if name.starts_with("postgres://") || name.starts_with("postgresql://") {
        return Some(("postgres", name));
    }
    let (driver, source) = name.split_once(':')?;
    ["postgres", "mysql", "sqlite"].contains(&driver).then_some((driver, source))
}

/// As it may be shown: a source can have a password in it.
pub(super) fn shown(name: &str) -> String {
    match database(name) {
        Some((driver @ ("postgres" | "mysql"), _)) => format!("the database ({driver})"),
        Some(_) | None => name.to_owned(),
    }
}
