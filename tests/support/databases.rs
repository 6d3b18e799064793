//! Databases for tests: of SQLite in a folder, of servers where the environment says they are.

#![allow(dead_code, reason = "each test program uses a part")]

#[path = "left_out.rs"]
pub mod left_out;

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::Unfenced;
use stanby::base::world;
use stanby::election::lease::{Attempt, Lease, Owner};
use stanby::site::sql_lock::SqlLease;
use stanby::store::Opened;
use stanby::store::sql::dsn::Source;
use stanby::store::sql::lost::Remembered;
use stanby::store::sql::{self, SqlOptions, dialect::Driver, schema};

/// Longer than any call takes that is not broken.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// `key=value` pairs without a database, of a user who may create some; set by `tests/run`.
pub fn postgres_address() -> Option<String> {
    address("STANBY_TEST_POSTGRES", "PostgreSQL (tests/support/databases.sh)")
}

/// What stands before the slash of a Go DSN, of a user who may create databases.
pub fn mysql_address() -> Option<String> {
    address("STANBY_TEST_MYSQL", "MariaDB (tests/support/databases.sh)")
}

/// The ports of the nodes of a Galera cluster, whose user `root` needs no password.
pub fn galera_ports() -> Option<Vec<u16>> {
    let found = address("STANBY_TEST_GALERA", "Galera (tests/support/databases.sh --replicated)")?;
    Some(found.split(',').map(|port| port.parse().unwrap()).collect())
}

fn address(variable: &str, name: &'static str) -> Option<String> {
    let found = env::var(variable).ok();
    if found.is_none() {
        left_out::note(name);
    }
    found
}

/// Where the certificates are that the database servers use: `ca.pem`, `client.pem`, `client.key`.
pub fn certificates() -> Option<PathBuf> {
    address("STANBY_TEST_CERTIFICATES", "database servers with TLS").map(PathBuf::from)
}

/// Runs `goal` for each database that there is, with one of its own and a folder.
pub fn for_every(goal: impl Fn(&Source, &Path)) {
    let mut kinds: Vec<fn(&Path) -> Source> = vec![sqlite];
    if postgres_address().is_some() {
        kinds.push(postgres);
    }
    if mysql_address().is_some() {
        kinds.push(mysql);
    }
    for kind in kinds {
        let folder = tempfile::tempdir().unwrap();
        let source = kind(folder.path());
        eprintln!("over {}", source.driver.name());
        goal(&source, folder.path());
    }
}

fn source(driver: Driver, text: &str) -> Source {
    Source::parse(driver, text, &|_| None).unwrap()
}

/// A name for the database that belongs to a folder.
pub fn name(folder: &Path) -> String {
    let name = folder.file_name().unwrap().to_string_lossy().to_lowercase();
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    format!("t{}_{}", std::process::id(), letters.collect::<String>())
}

/// Whether this is the first time that the folder is asked about that.
fn is_first(folder: &Path, what: &str) -> bool {
    File::create_new(folder.join(what)).is_ok()
}

/// Makes database and tables once, and gives the source of it.
fn made(folder: &Path, admin: Option<Source>, own: Source) -> Source {
    if is_first(folder, "made") {
        if let Some(admin) = admin {
            let mut dialect = sql::connect(&admin, CALL_TIMEOUT).unwrap();
            dialect.run(&format!("CREATE DATABASE {}", name(folder))).unwrap();
        }
        sql::make(&own).unwrap();
        let mut dialect = sql::connect(&own, CALL_TIMEOUT).unwrap();
        schema::init(dialect.as_mut()).unwrap();
        assert_eq!(schema::check(dialect.as_mut()).unwrap(), Vec::<String>::new());
    }
    own
}

/// SQLite in the folder.
pub fn sqlite(folder: &Path) -> Source {
    let own = source(Driver::Sqlite, &folder.join("store.db").to_string_lossy());
    made(folder, None, own)
}

/// A database of its own on the PostgreSQL server.
pub fn postgres(folder: &Path) -> Source {
    let address = postgres_address().unwrap();
    let admin = source(Driver::Postgres, &format!("{address} dbname=postgres"));
    let own = source(Driver::Postgres, &format!("{address} dbname={}", name(folder)));
    made(folder, Some(admin), own)
}

/// A database of its own on the MySQL or MariaDB server.
pub fn mysql(folder: &Path) -> Source {
    let address = mysql_address().unwrap();
    let admin = source(Driver::Mysql, &format!("{address}/mysql"));
    let own = source(Driver::Mysql, &format!("{address}/{}", name(folder)));
    made(folder, Some(admin), own)
}

fn open(folder: &Path, source: Source, limits: &StoreLimits, loops: u16) -> Opened {
    if is_first(folder, "claimed") {
        let owner = Owner { server_id: "contract".to_owned(), ..Owner::default() };
        let mut lease = SqlLease::new(source.clone(), CALL_TIMEOUT, owner, Duration::ZERO);
        assert!(matches!(lease.try_take().unwrap(), Attempt::Won(_)));
    }
    let fence = Arc::new(Unfenced) as Arc<dyn stanby::base::epoch::Fence>;
    sql::open(&options(source), limits, &fence, loops, world::now()).unwrap()
}

pub fn options(source: Source) -> SqlOptions {
    SqlOptions {
        source,
        no_caching: false,
        connections_max: 0,
        bulk_insert_limit: 0,
        call_timeout: CALL_TIMEOUT,
        remembered: Remembered::default(),
    }
}

pub fn open_sqlite(folder: &Path, limits: &StoreLimits, loops: u16) -> Opened {
    open(folder, sqlite(folder), limits, loops)
}

pub fn open_postgres(folder: &Path, limits: &StoreLimits, loops: u16) -> Opened {
    open(folder, postgres(folder), limits, loops)
}

pub fn open_mysql(folder: &Path, limits: &StoreLimits, loops: u16) -> Opened {
    open(folder, mysql(folder), limits, loops)
}
