//! The bare program's session: the database's own lock, and the two commits behind it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stanby::site::epoch_files;
use stanby::store::sql::dialect::{Dialect, Driver, transaction};
use stanby::store::sql::dsn::Source;
use stanby::store::sql::{self, dialect::SqlError};

/// Longer than any round: the wait for the lock is one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Which database, and the file that has SQLite's lock.
pub struct Place {
    source: Source,
    lock_path: PathBuf,
}

impl Place {
    /// From the server's words for it.
    pub fn parse(driver: &str, source: &str, folder: &Path) -> io::Result<Self> {
        let driver = Driver::named(driver).ok_or(io::ErrorKind::InvalidInput)?;
        let source = Source::parse(driver, source, &|_| None).map_err(io::Error::other)?;
        Ok(Self { source, lock_path: folder.join("lock") })
    }

    fn connect(&self) -> io::Result<Box<dyn Dialect>> {
        sql::connect(&self.source, CALL_TIMEOUT).map_err(io::Error::other)
    }
}

/// Makes the tables.
pub fn make(place: &Place) -> io::Result<()> {
    let mut dialect = place.connect()?;
    for statement in [
        "CREATE TABLE BareEpoch (epoch BIGINT)",
        "CREATE TABLE BareRow (seq BIGINT)",
        "INSERT INTO BareEpoch (epoch) VALUES (0)",
    ] {
        dialect.run(statement).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Waits for the lock, claims an epoch, commits one row; gives what has the lock. `is_waiting` is
/// called when all is ready for the wait.
pub fn take(
    place: &Place,
    is_waiting: impl FnOnce() -> io::Result<()>,
) -> io::Result<(Box<dyn Dialect>, Option<File>)> {
    let mut dialect = place.connect()?;
    is_waiting()?;
    let file = lock(dialect.as_mut(), &place.lock_path)?;
    commit(dialect.as_mut(), "UPDATE BareEpoch SET epoch=epoch+1").map_err(io::Error::other)?;
    commit(dialect.as_mut(), "INSERT INTO BareRow (seq) VALUES (1)").map_err(io::Error::other)?;
    Ok((dialect, file))
}

fn lock(dialect: &mut dyn Dialect, path: &Path) -> io::Result<Option<File>> {
    let wait = match dialect.driver() {
        Driver::Sqlite => {
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
            epoch_files::lock(&file)?;
            return Ok(Some(file));
        }
        Driver::Postgres => "SELECT pg_advisory_lock(1)",
        Driver::Mysql => "SELECT GET_LOCK('stanby.bare', 3600)",
    };
    dialect.query(wait, &[]).map_err(io::Error::other)?;
    Ok(None)
}

fn commit(dialect: &mut dyn Dialect, statement: &str) -> Result<(), SqlError> {
    transaction(dialect, |dialect| dialect.execute(statement, &[]).map(drop))
}
