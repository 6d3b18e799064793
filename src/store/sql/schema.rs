//! Creates and checks the tables of sql/*.sql.

use crate::store::sql::dialect::{Dialect, Driver, Failure, SqlError};

/// The version of the reference's tables that we know (spec stores, 8.3).
pub const VERSION: i64 = 1;

/// The names of all tables.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    SHARED.into_iter().chain(OWN).map(|(table, _)| table)
}

/// Table and columns that must be there.
type Table = (&'static str, &'static str);

/// What the Go server made too.
const SHARED: [Table; 7] = [
    ("ServerInfo", "uniquerow, id, proto, version"),
    ("Clients", "id, hbinbox, proto"),
    ("Channels", "id, name, maxseq, maxmsgs, maxbytes, maxage, deleted"),
    ("Messages", "id, seq, timestamp, size, data"),
    ("Subscriptions", "id, subid, lastsent, proto, deleted"),
    ("SubsPending", "subid, `row`, seq, lastsent, pending, acks"),
    ("StoreLock", "id, tick"),
];

/// Ours.
const OWN: [Table; 3] = [
    ("StanbyEpoch", "uniquerow, epoch, lockid, owner"),
    ("StanbyHolder", "uniquerow, epoch, counter, released, record"),
    ("StanbyTotals", "id, firstseq, lastseq, messages, bytes"),
];

fn script(driver: Driver) -> &'static str {
    match driver {
        Driver::Sqlite => include_str!("../../../sql/sqlite.sql"),
        Driver::Postgres => include_str!("../../../sql/postgres.sql"),
        Driver::Mysql => include_str!("../../../sql/mysql.sql"),
    }
}

/// The statements that make all tables, or only ours.
fn statements(driver: Driver, only_own: bool) -> impl Iterator<Item = &'static str> {
    let lines = script(driver).lines().filter(|line| line.ends_with(';'));
    lines.filter(move |line| !only_own || line.contains("EXISTS Stanby"))
}

/// Makes what is missing; what is there stays as it is.
///
/// # Errors
/// [`SqlError`] of the statement that the database did not take.
pub fn init(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    if dialect.driver() == Driver::Mysql {
        // Tables of another kind know no transactions.
        dialect.run("SET SESSION default_storage_engine = InnoDB")?;
    }
    statements(dialect.driver(), false).try_for_each(|statement| dialect.run(statement))
}

/// What is missing or wrong, a line each; empty if a server can work with it.
///
/// # Errors
/// [`SqlError`] if the database cannot be asked.
pub fn check(dialect: &mut dyn Dialect) -> Result<Vec<String>, SqlError> {
    let mut wrong = Vec::new();
    for (table, columns) in SHARED.into_iter().chain(OWN) {
        if let Err(error) = look(dialect, (table, columns)) {
            if matches!(error.failure, Failure::Unreachable | Failure::Busy) {
                return Err(error);
            }
            wrong.push(format!("table {table}: {error}"));
        }
    }
    if wrong.is_empty()
        && let Err(error) = check_rights(dialect)
    {
        wrong.push(error.to_string());
    }
    Ok(wrong)
}

fn look(dialect: &mut dyn Dialect, (table, columns): Table) -> Result<(), SqlError> {
    dialect.query(&format!("SELECT {columns} FROM {table} WHERE 1=0"), &[]).map(drop)
}

/// Sees that every table can be written: statements that find no row ask for the same rights.
///
/// # Errors
/// [`SqlError`]; its text says what is needed. None where somebody else writes all the time.
pub fn check_rights(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    for (table, columns) in SHARED.into_iter().chain(OWN) {
        let column = columns.split(',').next().unwrap_or(columns);
        for statement in [
            format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE 1=0"),
            format!("UPDATE {table} SET {column}={column} WHERE 1=0"),
            format!("DELETE FROM {table} WHERE 1=0"),
        ] {
            match dialect.execute(&statement, &[]) {
                Ok(_) => {}
                Err(error) if error.failure == Failure::Busy => return Ok(()),
                Err(error) => return Err(unwritable(table, error)),
            }
        }
    }
    Ok(())
}

fn unwritable(table: &str, error: SqlError) -> SqlError {
    let text = match error.failure {
        Failure::Denied => {
            format!("{error}; the user of the source needs the rights to read and write {table}")
        }
        Failure::ReadOnly => format!(
            "{error}; the database takes no writes: it is a copy, in recovery, or read-only"
        ),
        Failure::Unreachable
        | Failure::Unknown
        | Failure::Busy
        | Failure::Full
        | Failure::BadValue
        | Failure::Duplicate
        | Failure::Missing
        | Failure::Other => return error,
    };
    SqlError { text, ..error }
}

/// Sees to it that a server can begin: the Go server's tables must be there, ours are made.
///
/// # Errors
/// [`SqlError`]; its text names the command that helps where tables are missing.
pub fn prepare(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    let driver = dialect.driver();
    for table in SHARED {
        look(dialect, table).map_err(|error| missing(driver, table.0, error))?;
    }
    if OWN.iter().any(|table| look(dialect, *table).is_err()) {
        for statement in statements(driver, true) {
            dialect.run(statement).map_err(|error| missing(driver, "Stanby…", error))?;
        }
        for table in OWN {
            look(dialect, table).map_err(|error| missing(driver, table.0, error))?;
        }
    }
    Ok(())
}

fn missing(driver: Driver, table: &str, error: SqlError) -> SqlError {
    if matches!(error.failure, Failure::Unreachable | Failure::Busy) {
        return error;
    }
    let name = driver.name();
    let text = format!(
        "{error}; table {table} is missing or wrong, run: stanby sql init -sql_driver {name} \
         -sql_source <source>"
    );
    SqlError { text, ..error }
}
