//! The store that members share: their arguments for it, its tables, and commands that stop it.

use std::path::Path;
use std::process::{Command, Stdio};

use super::DrillError;
use super::scenario::{Keeper, Store};

/// The arguments of each member for a store in `folder`, which is made as far as it has to be.
pub(crate) fn make(store: &Store, folder: &Path) -> Result<Vec<String>, DrillError> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let (driver, source) = match store.keeper {
        Keeper::Directory => {
            let path = folder.join("store").display().to_string();
            return Ok(words(&["-store", "file", "-dir", &path]));
        }
        Keeper::Sqlite => ("sqlite", folder.join("store.db").display().to_string()),
        Keeper::Postgres => ("postgres", store.source.clone().unwrap_or_default()),
        Keeper::Mysql => ("mysql", store.source.clone().unwrap_or_default()),
    };
    let flags = ["-sql_driver", driver, "-sql_source", &source];
    // Whatever server is drilled, the tables are the same; a Go server makes none.
    let own = std::env::current_exe().map_err(DrillError::io("cannot find this program"))?;
    let output = Command::new(own).args(["sql", "init"]).args(flags).stdin(Stdio::null()).output();
    let output = output.map_err(DrillError::io("cannot make the tables"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DrillError::World(format!("cannot make the tables: {text}")));
    }
    Ok(words(&[&["-store", "sql"], &flags[..]].concat()))
}

/// Runs a command that the user gave.
pub(crate) fn run(what: &str, command: &str) -> Result<(), DrillError> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let output = output.map_err(DrillError::io(format!("cannot {what}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let status = output.status;
    Err(DrillError::World(format!("cannot {what}: {command:?} ended with {status}: {said}")))
}
