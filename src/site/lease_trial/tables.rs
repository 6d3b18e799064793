//! The tables of a trial: made for it beside those of the store, and removed with it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::files::{self, Access, Links};
use crate::site::sql_lock;
use crate::site::trial::{self, Guard};
use crate::store::sql::dialect::{Dialect, Driver, Failure, SqlError, Value};
use crate::store::sql::dsn::Source;
use crate::store::sql::{self, schema};

/// How every file of SQLite begins.
const HEAD: &[u8] = b"SQLite format 3\0";

/// How the name of each trial's schema, database or file begins.
const PREFIX: &str = "stanby_trial_";

/// A name that a trial may use: nobody who connects reaches any other tables.
pub(super) fn own_name(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?;
    let is_plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (!rest.is_empty() && rest.len() <= 16 && rest.bytes().all(is_plain)).then_some(name)
}

/// Where the tables of that name are, over the same server as those of the store.
pub(super) fn of(given: &Source, name: &str) -> Source {
    let mut own = given.clone();
    match given.driver {
        Driver::Postgres => {
            own.parameters.retain(|(key, _)| !key.eq_ignore_ascii_case("search_path"));
            own.parameters.push(("search_path".to_owned(), name.to_owned()));
        }
        Driver::Mysql => name.clone_into(&mut own.database),
        Driver::Sqlite => {
            own.database = file_of(given, name).to_string_lossy().into_owned();
        }
    }
    own
}

fn file_of(given: &Source, name: &str) -> PathBuf {
    let mut path = sql_lock::real_path(given).into_os_string();
    path.push(format!(".{name}"));
    path.into()
}

/// A session with the tables of a trial, and with no others: a pooler may pass over what a source
/// says of its sessions.
pub(super) fn connect(
    own: &Source,
    name: &str,
    call_timeout: Duration,
) -> Result<Box<dyn Dialect>, SqlError> {
    let asked = match own.driver {
        Driver::Sqlite => return sql::connect(own, call_timeout),
        Driver::Postgres => "SELECT current_schema()",
        Driver::Mysql => "SELECT DATABASE()",
    };
    let mut dialect = sql::connect(own, call_timeout).map_err(passed_over)?;
    let rows = dialect.query(asked, &[])?;
    let found = rows.first().and_then(|row| row.first()).map(Value::text).unwrap_or_default();
    if found == name {
        return Ok(dialect);
    }
    let why = format!(
        "sessions come to the tables of {found:?} in place of those of the trial, {name}: is it \
         another database, or does a pooler pass over their options? Name the database itself"
    );
    Err(SqlError::of_connection(Failure::Missing, own, &why))
}

/// As PgBouncer refuses what it does not hand on.
fn passed_over(error: SqlError) -> SqlError {
    if !error.text.contains("unsupported startup parameter") {
        return error;
    }
    let text = format!("{error}: a pooler lies between; for the trial name the database itself");
    SqlError { text, ..error }
}

/// Tables that are there until they are removed.
pub(super) struct Tables {
    given: Source,
    own: Source,
    name: String,
    call_timeout: Duration,
    is_removed: bool,
    /// Of the files of SQLite.
    _guard: Option<Guard>,
}

impl Tables {
    /// Makes them, under a name of their own.
    pub(super) fn make(
        given: &Source,
        call_timeout: Duration,
        number: u64,
    ) -> Result<Self, SqlError> {
        let name = format!("{PREFIX}{number:x}");
        let own = of(given, &name);
        let mut guard = None;
        match given.driver {
            Driver::Sqlite => {
                guard = Some(guarded(given, &own)?);
                sql::make(&own)?;
            }
            Driver::Postgres | Driver::Mysql => {
                let kind = kind(given.driver);
                let mut dialect = sql::connect(given, call_timeout)?;
                let made = dialect.run(&format!("CREATE {kind} {name}"));
                made.map_err(|error| may_not(error, kind))?;
            }
        }
        let given = given.clone();
        let tables = Self { given, own, name, call_timeout, is_removed: false, _guard: guard };
        // A dropped one removes what is there.
        let mut dialect = connect(&tables.own, &tables.name, call_timeout)?;
        schema::init(dialect.as_mut())?;
        Ok(tables)
    }

    pub(super) fn own(&self) -> &Source {
        &self.own
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Removes them; who cannot is told what stays.
    pub(super) fn remove(mut self) -> Result<(), SqlError> {
        self.is_removed = true;
        self.drop_all()
    }

    fn drop_all(&self) -> Result<(), SqlError> {
        let statement = match self.given.driver {
            Driver::Sqlite => {
                let (folder, stem) = place_of(Path::new(&self.own.database));
                trial::remove(folder, &stem);
                return Ok(());
            }
            Driver::Postgres => format!("DROP SCHEMA {} CASCADE", self.name),
            Driver::Mysql => format!("DROP DATABASE {}", self.name),
        };
        let mut dialect = sql::connect(&self.given, self.call_timeout)?;
        let stays = |error: SqlError| {
            let text = format!("{error}; what the trial made stays: {statement}");
            SqlError { text, ..error }
        };
        dialect.run(&statement).map_err(stays)
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        if !self.is_removed {
            // What failed before is what is told.
            let _ = self.drop_all();
        }
    }
}

fn kind(driver: Driver) -> &'static str {
    if driver == Driver::Postgres { "SCHEMA" } else { "DATABASE" }
}

fn may_not(error: SqlError, kind: &str) -> SqlError {
    if error.failure != Failure::Denied {
        return error;
    }
    let grant = match kind {
        "SCHEMA" => "GRANT CREATE ON DATABASE the_database TO the_user",
        _ => "GRANT ALL ON `stanby\\_trial\\_%`.* TO the_user",
    };
    let text = format!(
        "{error}; the trial makes tables of its own, so that no server is disturbed: name a user \
         who may, or {grant} for the time of the trial"
    );
    SqlError { text, ..error }
}

/// What is asked of an SQLite file without opening it as a database: whether it is one.
pub(super) fn check_file(given: &Source) -> Result<(), SqlError> {
    let path = sql_lock::real_path(given);
    let no_database = |why: &str| SqlError::of_connection(Failure::Missing, given, &why);
    let opened = files::open(&path, Access::Read, Links::Followed);
    let file = opened.map_err(|error| no_database(&format!("{}: {error}", path.display())))?;
    let mut head = Vec::new();
    let read = file.take(HEAD.len() as u64).read_to_end(&mut head);
    read.map_err(|error| no_database(&format!("{}: {error}", path.display())))?;
    // Nothing was written into an empty one yet.
    if head.is_empty() || head == HEAD {
        return Ok(());
    }
    Err(no_database(&format!("{} is no database of SQLite", path.display())))
}

/// Makes room for the file of a trial: what killed ones have left goes.
fn guarded(given: &Source, own: &Source) -> Result<Guard, SqlError> {
    let (folder, stem) = place_of(Path::new(&own.database));
    let real = sql_lock::real_path(given);
    let (_, beside) = place_of(&real);
    trial::remove_left(folder, &format!("{beside}.{PREFIX}"));
    let guard = Guard::take(folder, &stem);
    guard.map_err(|error| SqlError::of_connection(Failure::Missing, own, &error))
}

/// The folder and the name of a file.
fn place_of(path: &Path) -> (&Path, String) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (folder.unwrap_or(Path::new(".")), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_connects_reaches_no_other_tables() {
        assert_eq!(own_name("stanby_trial_1f"), Some("stanby_trial_1f"));
        for name in [
            "",
            "stanby",
            "stanby_trial_",
            "stanby_trial_x",
            "stanby_trial_1;DROP",
            "stanby_trial_../1",
            "stanby_trial_11111111111111111",
            "STANBY_TRIAL_1",
        ] {
            assert_eq!(own_name(name), None, "{name}");
        }
    }
}
