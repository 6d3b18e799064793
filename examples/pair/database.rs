//! The database of a pair that shares one instead of a directory.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stanby::store::sql;
use stanby::store::sql::dialect::Driver;
use stanby::store::sql::dsn::Source;

use super::DrillError;

/// Making a database may have to wait for a checkpoint.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A database of its own of that name, with its tables; gives the servers' flags for it, the source
/// last. Servers are where `STANBY_TEST_POSTGRES` (pairs without a database) and
/// `STANBY_TEST_MYSQL` (a Go DSN up to the slash) say.
pub fn make_named(
    driver: &str,
    name: &str,
    binary: &Path,
    folder: &Path,
) -> Result<Vec<String>, DrillError> {
    let address = |variable: &str| {
        env::var(variable).map_err(|_| DrillError(format!("{variable} does not say where it is")))
    };
    let source = match driver {
        "postgres" => {
            let address = address("STANBY_TEST_POSTGRES")?;
            create(Driver::Postgres, &format!("{address} dbname=postgres"), name)?;
            format!("{address} dbname={name}")
        }
        "mysql" => {
            let address = address("STANBY_TEST_MYSQL")?;
            create(Driver::Mysql, &format!("{address}/mysql"), name)?;
            format!("{address}/{name}")
        }
        _ => folder.join("store.db").display().to_string(),
    };
    let flags = ["-sql_driver", driver, "-sql_source", &source].map(str::to_owned);
    let made = Command::new(binary).args(["sql", "init"]).args(&flags).output();
    let made = made.map_err(DrillError::io("cannot make the tables"))?;
    if !made.status.success() {
        let text = String::from_utf8_lossy(&made.stderr).into_owned();
        return Err(DrillError(format!("cannot make the tables: {text}")));
    }
    let store = ["-store", "sql"].map(str::to_owned);
    Ok(store.into_iter().chain(flags).collect())
}

fn create(driver: Driver, admin: &str, name: &str) -> Result<(), DrillError> {
    let failed = |error: &dyn std::fmt::Display| DrillError(format!("no database: {error}"));
    let source = Source::parse(driver, admin, &|_| None).map_err(|error| failed(&error))?;
    let mut dialect = sql::connect(&source, CALL_TIMEOUT).map_err(|error| failed(&error))?;
    dialect.run(&format!("CREATE DATABASE {name}")).map_err(|error| failed(&error))
}
