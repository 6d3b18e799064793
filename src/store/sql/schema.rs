//! Creates and checks the tables of sql/*.sql.

use crate::store::sql::dialect::{Dialect, Driver, Failure, SqlError, Value};

/// The version of the reference's tables that we know (spec stores, 8.3).
pub const VERSION: i64 = 1;

/// The names of all tables.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    SHARED.into_iter().chain(OWN).chain([DELIVERIES, FENCE]).map(|(table, _)| table)
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

/// Ours, where deliveries are counted; a database that has no need of it may lack it.
const DELIVERIES: Table = ("StanbyDeliveries", "id, reader, seq, stamp, deliveries");

/// Ours, in a cluster whose nodes do not know each other's locks.
const FENCE: Table = ("StanbyFence", "worker, epoch, counter");

/// All that this database needs of ours.
fn own(dialect: &dyn Dialect) -> impl Iterator<Item = Table> + use<> {
    OWN.into_iter().chain(dialect.node().map(|_| FENCE))
}

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
/// [`SqlError`] of the statement that the database did not take, with what helps. None where it
/// denies a statement that nothing needs, because all is there.
pub fn init(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    if dialect.driver() == Driver::Mysql {
        // Tables of another kind know no transactions.
        dialect.run("SET SESSION default_storage_engine = InnoDB")?;
    }
    let mut denied = None;
    for statement in statements(dialect.driver(), false) {
        match dialect.run(statement) {
            // An index asks for the owner of its table even where it is there already.
            Err(error) if error.failure == Failure::Denied => {
                denied.get_or_insert(error);
            }
            done => done.map_err(|error| explained(dialect, Goal::Make, "", error))?,
        }
    }
    match denied {
        Some(error) if !check(dialect)?.is_empty() => {
            Err(explained(dialect, Goal::Make, "", error))
        }
        _ => Ok(()),
    }
}

/// What is missing or wrong, a line each; empty if a server can work with it.
///
/// # Errors
/// [`SqlError`] if the database cannot be asked.
pub fn check(dialect: &mut dyn Dialect) -> Result<Vec<String>, SqlError> {
    let mut wrong = Vec::new();
    let mut cures = Vec::new();
    for (table, columns) in SHARED.into_iter().chain(own(dialect)) {
        if let Err(error) = look(dialect, (table, columns)) {
            if matches!(error.failure, Failure::Unreachable | Failure::Busy) {
                return Err(error);
            }
            let advice = advice(dialect, Goal::Read, table, &error);
            let (cause, cure) = advice.unwrap_or_else(|| (error.to_string(), String::new()));
            wrong.push(format!("table {table}: {error}; {cause}"));
            if !cure.is_empty() && !cures.contains(&cure) {
                cures.push(cure);
            }
        }
    }
    wrong.extend(cures);
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

/// Sees that every table can be written.
///
/// # Errors
/// [`SqlError`]; its text says what is needed. None where somebody else writes all the time.
pub fn check_rights(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    for table in SHARED.into_iter().chain(own(dialect)) {
        match write_nothing(dialect, table) {
            Ok(()) => {}
            Err(error) if error.failure == Failure::Busy => return Ok(()),
            Err(error) => return Err(explained(dialect, Goal::Write, table.0, error)),
        }
    }
    Ok(())
}

/// Statements that find no row ask for the same rights as those that find some.
fn write_nothing(dialect: &mut dyn Dialect, (table, columns): Table) -> Result<(), SqlError> {
    let column = columns.split(',').next().unwrap_or(columns);
    for statement in [
        format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE 1=0"),
        format!("UPDATE {table} SET {column}={column} WHERE 1=0"),
        format!("DELETE FROM {table} WHERE 1=0"),
    ] {
        dialect.execute(&statement, &[])?;
    }
    Ok(())
}

/// Sees to it that a server can begin: the Go server's tables must be there, ours are made.
///
/// # Errors
/// [`SqlError`]; its text names what helps where tables are missing, wrong or not permitted.
pub fn prepare(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    for table in SHARED {
        if let Err(error) = look(dialect, table) {
            return Err(explained(dialect, Goal::Read, table.0, error));
        }
    }
    for (table, columns) in own(dialect) {
        match look(dialect, (table, columns)) {
            Ok(()) => {}
            // Where it is there after all, the next look says what is wrong with it.
            Err(error) if error.failure == Failure::Missing => make_own(dialect)?,
            Err(error) => return Err(explained(dialect, Goal::Read, table, error)),
        }
        if let Err(error) = look(dialect, (table, columns)) {
            return Err(explained(dialect, Goal::Read, table, error));
        }
    }
    Ok(())
}

/// Sees to it that deliveries can be counted: the table is made, and can be written.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_deliveries(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    let (table, _) = DELIVERIES;
    match look(dialect, DELIVERIES) {
        Ok(()) => {}
        Err(error) if error.failure == Failure::Missing => make_own(dialect)?,
        Err(error) => return Err(explained(dialect, Goal::Read, table, error)),
    }
    if let Err(error) = look(dialect, DELIVERIES) {
        return Err(explained(dialect, Goal::Read, table, error));
    }
    match write_nothing(dialect, DELIVERIES) {
        Err(error) if error.failure != Failure::Busy => {
            Err(explained(dialect, Goal::Write, table, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn make_own(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    for statement in statements(dialect.driver(), true) {
        if let Err(error) = dialect.run(statement) {
            return Err(explained(dialect, Goal::Make, "", error));
        }
    }
    Ok(())
}

/// What a statement was for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    Read,
    Write,
    Make,
}

/// The error with its cause and with what helps against that cause.
fn explained(dialect: &mut dyn Dialect, goal: Goal, table: &str, error: SqlError) -> SqlError {
    match advice(dialect, goal, table, &error) {
        Some((cause, cure)) => SqlError { text: format!("{error}; {cause}: {cure}"), ..error },
        None => error,
    }
}

/// A cause and its cure; `None` where the error says all that is known.
fn advice(
    dialect: &mut dyn Dialect,
    goal: Goal,
    table: &str,
    error: &SqlError,
) -> Option<(String, String)> {
    match error.failure {
        Failure::Missing if goal != Goal::Make => Some(not_as_needed(dialect, table)),
        Failure::Denied => Some(not_permitted(dialect, goal, table)),
        Failure::ReadOnly => {
            let cure = "it is a copy, in recovery, or read-only; use one that takes writes";
            Some(("the database takes no writes".to_owned(), cure.to_owned()))
        }
        Failure::Unreachable
        | Failure::Unknown
        | Failure::Busy
        | Failure::Full
        | Failure::BadValue
        | Failure::Duplicate
        | Failure::Missing
        | Failure::Other => None,
    }
}

/// The table is not there, or without a column, or where this user does not look.
fn not_as_needed(dialect: &mut dyn Dialect, table: &str) -> (String, String) {
    if dialect.query(&format!("SELECT 1 FROM {table} WHERE 1=0"), &[]).is_ok() {
        let mut all = SHARED.into_iter().chain(OWN).chain([DELIVERIES, FENCE]);
        let columns = all.find(|(name, _)| *name == table);
        let columns = columns.map_or("", |(_, columns)| columns).replace('`', "");
        return (
            format!("table {table} is wrong"),
            format!(
                "it needs the columns {columns}; `stanby sql init` changes no table that is \
                 there, so alter it, or drop it if nothing in it is needed and then run: {}",
                init_command(dialect.driver())
            ),
        );
    }
    if let Some((schema, user)) = closed_schema(dialect, table) {
        return (
            format!("table {table} is in schema {schema}, which {user} may not use"),
            format!("the schema's owner gives the right: GRANT USAGE ON SCHEMA {schema} TO {user}"),
        );
    }
    (format!("table {table} is missing"), format!("run: {}", init_command(dialect.driver())))
}

fn init_command(driver: Driver) -> String {
    format!("stanby sql init -sql_driver {} -sql_source <source>", driver.name())
}

/// PostgreSQL leaves a schema out of the search without a word if the user may not use it.
fn closed_schema(dialect: &mut dyn Dialect, table: &str) -> Option<(String, String)> {
    if dialect.driver() != Driver::Postgres {
        return None;
    }
    let statement = format!(
        "SELECT quote_ident(nspname), quote_ident(current_user) FROM pg_class \
         JOIN pg_namespace ON pg_namespace.oid = relnamespace \
         WHERE relname = '{}' AND NOT has_schema_privilege(pg_namespace.oid, 'USAGE')",
        table.to_lowercase()
    );
    let rows = dialect.query(&statement, &[]).ok()?;
    let row = rows.first()?;
    Some((row.first()?.text(), row.get(1)?.text()))
}

/// The user of the source lacks rights; the cure names exactly those.
fn not_permitted(dialect: &mut dyn Dialect, goal: Goal, table: &str) -> (String, String) {
    let driver = dialect.driver();
    if driver == Driver::Sqlite {
        return (
            "the user that the server runs as needs the rights to read and write".to_owned(),
            "the file of the database, its journal beside it, and their folder".to_owned(),
        );
    }
    let grant = grant(dialect, goal);
    match goal {
        Goal::Read | Goal::Write => (
            format!("the user of the source needs the rights to read and write {table}"),
            format!("the owner of the tables gives them: {grant}"),
        ),
        Goal::Make => (
            "the user of the source may not make the tables that are missing".to_owned(),
            format!(
                "run with a source whose user may: {}; then, as the same user: {grant}",
                init_command(driver)
            ),
        ),
    }
}

/// The statement that gives the user of this session what it lacks.
fn grant(dialect: &mut dyn Dialect, goal: Goal) -> String {
    const RIGHTS: &str = "GRANT SELECT, INSERT, UPDATE, DELETE ON";
    let who = match dialect.driver() {
        Driver::Postgres => "SELECT quote_ident(current_user), ''",
        Driver::Sqlite | Driver::Mysql => "SELECT CURRENT_USER(), DATABASE()",
    };
    let rows = dialect.query(who, &[]).unwrap_or_default();
    let text = |index: usize| rows.first()?.get(index).map(Value::text);
    let user = text(0).unwrap_or_else(|| "<user>".to_owned());
    if dialect.driver() == Driver::Mysql {
        let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
        // A name of a database is a pattern there.
        let database = text(1).unwrap_or_default().replace('_', "\\_").replace('%', "\\%");
        return format!("{RIGHTS} `{database}`.* TO '{name}'@'{host}'");
    }
    let mut tables = Vec::new();
    for table in SHARED.into_iter().chain(own(dialect)) {
        let failure = match look(dialect, table).and_then(|()| write_nothing(dialect, table)) {
            Ok(()) => continue,
            Err(error) => error.failure,
        };
        // What somebody else makes belongs to somebody else.
        if failure == Failure::Denied || (failure == Failure::Missing && goal == Goal::Make) {
            tables.push(table.0);
        }
    }
    format!("{RIGHTS} {} TO {user}", tables.join(", "))
}
