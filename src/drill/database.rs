//! The store that members share: their arguments for it, its tables, and commands that stop it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::DrillError;
use super::patience::Patience;
use super::process;
use super::scenario::{Keeper, Store};

/// How long tables may take to be made.
const TABLES_WITHIN: Duration = Duration::from_secs(60);

/// How long a command of the user's may take: a database that ends writes all that it holds.
pub(crate) const COMMAND_WITHIN: Duration = Duration::from_secs(120);

/// The arguments of each member for a store in `folder`, which is made as far as it has to be.
pub(crate) fn make(
    store: &Store,
    folder: &Path,
    patience: &Patience,
) -> Result<Vec<String>, DrillError> {
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
    let mut command = Command::new(own);
    command.args(["sql", "init"]).args(flags);
    let said = process::run("make the tables", &mut command, (patience, TABLES_WITHIN))?;
    if !said.status.success() {
        return Err(DrillError::World(format!("cannot make the tables: {}", said.err)));
    }
    Ok(words(&[&["-store", "sql"], &flags[..]].concat()))
}

/// Runs a command that the user gave.
pub(crate) fn run(
    what: &str,
    command: &str,
    bounds: (&Patience, Duration),
) -> Result<(), DrillError> {
    let mut shell = Command::new("sh");
    let said = process::run(what, shell.args(["-c", command]), bounds)?;
    if said.status.success() {
        return Ok(());
    }
    let (status, said) = (said.status, said.err);
    Err(DrillError::World(format!("cannot {what}: {command:?} ended with {status}: {said}")))
}
