//! Sessions with real database servers: what a commit means, what a source asks for, whose lock
//! it is.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/databases.rs"]
mod databases;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence};
use stanby::base::id::{ChannelName, Sequence};
use stanby::base::record::{Batch, ChannelBatch, Lifecycle, MessageRecord};
use stanby::base::time::WallTime;
use stanby::base::world;
use stanby::election::lease::{Attempt, Lease, Owner};
use stanby::site::sql_lock::SqlLease;
use stanby::store::sql::dialect::{Dialect, Driver, SqlError};
use stanby::store::sql::dsn::Source;
use stanby::store::sql::{self, durability, schema};
use stanby::store::{Opened, OutcomeUnknown, Remedy};

/// The lock's key in releases that did not tell schemas apart.
const OLD_KEY: &str = "126943688024697";

fn connect(source: &Source) -> Box<dyn Dialect> {
    sql::connect(source, databases::CALL_TIMEOUT).unwrap()
}

fn lease(source: &Source, member: &str) -> SqlLease {
    let owner = Owner { server_id: member.to_owned(), ..Owner::default() };
    SqlLease::new(source.clone(), databases::CALL_TIMEOUT, owner, Duration::ZERO)
}

fn open(source: &Source) -> (SqlLease, Opened) {
    let mut lease = lease(source, "holder");
    let Attempt::Won(grant) = lease.try_take().unwrap() else { panic!("it is held") };
    let fence: Arc<dyn Fence> = grant.fence;
    let limits = StoreLimits::default();
    let options = databases::options(source.clone());
    (lease, sql::open(&options, &limits, &fence, 1, world::now()).unwrap())
}

fn commit(opened: &mut Opened, lifecycle: Lifecycle, sequence: u64) -> Result<(), OutcomeUnknown> {
    let message = MessageRecord {
        sequence: Sequence(sequence),
        timestamp: WallTime(1),
        encoded: bytes::Bytes::from_static(b"x"),
    };
    let channel = ChannelName::from("foo");
    let part =
        ChannelBatch { channel, lifecycle, messages: vec![message], ..ChannelBatch::default() };
    let batch = Batch { channels: vec![part], durable: true, ..Batch::default() };
    let report = opened.shares[0].commit(Epoch(1), &batch)?;
    assert_eq!(report.channels[0].refused, None);
    Ok(())
}

/// One value.
fn ask(dialect: &mut dyn Dialect, statement: &str) -> String {
    let row = dialect.query(statement, &[]).unwrap().remove(0);
    match row[0].text() {
        text if text.is_empty() => row[0].signed().to_string(),
        text => text,
    }
}

fn parse(driver: Driver, text: &str) -> Source {
    Source::parse(driver, text, &|_| None).unwrap()
}

/// A database of its own on PostgreSQL, and its source as a person writes it.
fn postgres(goal: impl Fn(&Source, &str)) {
    let Some(address) = databases::postgres_address() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = databases::postgres(folder.path());
    goal(&source, &format!("{address} dbname={}", source.database));
}

/// The same on MySQL or MariaDB.
fn mysql(goal: impl Fn(&Source, &str)) {
    let Some(address) = databases::mysql_address() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = databases::mysql(folder.path());
    goal(&source, &format!("{address}/{}", source.database));
}

/// At the COMMIT of each transaction that inserts a message PostgreSQL runs `body`.
fn at_commit(source: &Source, body: &str) {
    let mut dialect = connect(source);
    for statement in [
        "CREATE SEQUENCE rounds".to_owned(),
        format!(
            "CREATE FUNCTION at_commit() RETURNS trigger AS $$ BEGIN {body} RETURN NULL; END $$ \
             LANGUAGE plpgsql"
        ),
        "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON Messages DEFERRABLE INITIALLY \
         DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit()"
            .to_owned(),
    ] {
        dialect.run(&statement).unwrap();
    }
}

/// Goal: a COMMIT that comes with a warning ("already committed locally") is no success: nobody is
/// answered, the role goes. So it is where the source asks for no warnings.
#[test]
fn a_commit_that_comes_with_a_warning_is_not_believed() {
    postgres(|source, text| {
        at_commit(source, "RAISE WARNING 'canceling wait for synchronous replication';");
        let quiet = parse(Driver::Postgres, &format!("{text} client_min_messages=error"));
        let (_lease, mut opened) = open(&quiet);
        let error = commit(&mut opened, Lifecycle::Create, 1).unwrap_err();
        assert_eq!(error.remedy(), Remedy::StepDown, "{error}");
        assert!(error.to_string().contains("canceling wait for synchronous"), "{error}");
        assert!(error.to_string().contains("not known"), "{error}");
        let later = commit(&mut opened, Lifecycle::Create, 1).unwrap_err();
        assert_eq!(later.remedy(), Remedy::StepDown, "{later}");
    });
}

/// Goal: a COMMIT is not cancelled by a time-out for statements: who waits for a synchronous
/// standby would be told that it is done.
#[test]
fn a_time_out_for_statements_cancels_no_commit() {
    postgres(|source, text| {
        at_commit(source, "PERFORM pg_sleep(1);");
        let hasty = parse(Driver::Postgres, &format!("{text} statement_timeout=500"));
        let (_lease, mut opened) = open(&hasty);
        commit(&mut opened, Lifecycle::Create, 1).unwrap();
        let mut dialect = connect(&hasty);
        assert_eq!(ask(dialect.as_mut(), "SHOW statement_timeout"), "500ms");
        assert!(dialect.query("SELECT pg_sleep(2)", &[]).is_err());
    });
}

/// Goal: a conflict with another transaction, at a statement or at the end, is tried again.
#[test]
fn a_conflict_is_tried_again() {
    postgres(|source, _| {
        let conflict = "RAISE EXCEPTION 'conflict' USING ERRCODE = '40001';";
        at_commit(source, &format!("IF nextval('rounds') < 3 THEN {conflict} END IF;"));
        let (_lease, mut opened) = open(source);
        commit(&mut opened, Lifecycle::Create, 1).unwrap();
        assert_eq!(ask(connect(source).as_mut(), "SELECT last_value FROM rounds"), "3");
    });
    mysql(|source, _| {
        let mut dialect = connect(source);
        dialect.run("CREATE TABLE rounds (n INT) ENGINE=MyISAM").unwrap();
        dialect.run("INSERT INTO rounds VALUES (0)").unwrap();
        let trigger = "CREATE TRIGGER conflict BEFORE INSERT ON Messages FOR EACH ROW BEGIN \
                       UPDATE rounds SET n = n + 1; IF (SELECT n FROM rounds) < 3 THEN SIGNAL \
                       SQLSTATE '40001' SET MYSQL_ERRNO = 1213; END IF; END";
        dialect.run(trigger).unwrap();
        let (_lease, mut opened) = open(source);
        commit(&mut opened, Lifecycle::Create, 1).unwrap();
        assert_eq!(ask(dialect.as_mut(), "SELECT n FROM rounds"), "3");
    });
}

fn warned(source: &Source, part: &str) -> bool {
    let warnings = durability::warnings(source, connect(source).as_mut()).unwrap();
    warnings.iter().any(|line| line.contains(part))
}

/// Goal: a session waits for its commits, unless the source itself says otherwise, which is warned
/// of; so is what only the database's owner can change.
#[test]
fn commits_are_durable_or_it_is_said() {
    postgres(|source, text| {
        let database = &source.database;
        let off = format!("ALTER DATABASE {database} SET synchronous_commit = off");
        connect(source).run(&off).unwrap();
        assert_eq!(ask(connect(source).as_mut(), "SHOW synchronous_commit"), "on");
        assert!(!warned(source, "synchronous_commit"));
        for named in ["synchronous_commit=off", "options='-c synchronous_commit=off'"] {
            let asynchronous = parse(Driver::Postgres, &format!("{text} {named}"));
            assert_eq!(ask(connect(&asynchronous).as_mut(), "SHOW synchronous_commit"), "off");
            assert!(warned(&asynchronous, "the source has synchronous_commit = off"));
        }
        assert!(!warned(source, "UNLOGGED"));
        connect(source).run("ALTER TABLE Messages SET UNLOGGED").unwrap();
        assert!(warned(source, "ALTER TABLE messages SET LOGGED"));
    });
    mysql(|source, _| {
        let mut dialect = connect(source);
        dialect.run("SET GLOBAL innodb_flush_log_at_trx_commit = 2").unwrap();
        assert!(warned(source, "set innodb_flush_log_at_trx_commit = 1"));
        dialect.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1").unwrap();
        assert!(!warned(source, "innodb_flush_log_at_trx_commit"));
        assert!(!warned(source, "ENGINE=InnoDB"));
        dialect.run("ALTER TABLE Clients ENGINE=MyISAM").unwrap();
        assert!(warned(source, "ALTER TABLE Clients ENGINE=InnoDB"));
    });
}

fn refused(source: &Source) -> String {
    match sql::connect(source, databases::CALL_TIMEOUT) {
        Ok(_) => panic!("{source} was taken"),
        Err(SqlError { text, .. }) => text,
    }
}

/// Goal: what a source says of the session is so, and what the server does not know is refused in
/// its words.
#[test]
fn each_parameter_reaches_the_session() {
    postgres(|_, text| {
        let of = |more: &str| parse(Driver::Postgres, &format!("{text} {more}"));
        let all = "application_name='my app' search_path='a, public' geqo=off \
                   options='-c work_mem=3MB' app.key=5 lock_timeout=100";
        let mut dialect = connect(&of(all));
        for (name, value) in [
            ("application_name", "my app"),
            ("search_path", "a, public"),
            ("geqo", "off"),
            ("work_mem", "3MB"),
            ("app.key", "5"),
            ("lock_timeout", "100ms"),
            ("statement_timeout", "5s"),
        ] {
            assert_eq!(ask(dialect.as_mut(), &format!("SHOW {name}")), value, "{name}");
        }
        let unknown = refused(&of("passfile=/x"));
        assert!(unknown.contains("unrecognized configuration parameter \"passfile\""), "{unknown}");
        // A named session stays named while it serves.
        let (_lease, _opened) = open(&of("application_name=mine"));
        let named = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mine' AND \
                     datname = current_database()";
        assert_ne!(ask(dialect.as_mut(), named), "0");
    });
    mysql(|_, text| {
        let of = |more: &str| parse(Driver::Mysql, &format!("{text}?{more}"));
        let all = "lock_wait_timeout=7&sql_mode=%27ANSI%27&charset=nosuch,latin1&parseTime=true";
        let mut dialect = connect(&of(all));
        for (name, value) in [
            ("@@lock_wait_timeout", "7"),
            ("@@sql_mode LIKE '%ANSI_QUOTES%'", "1"),
            ("@@sql_mode LIKE '%STRICT_TRANS_TABLES%'", "1"),
            ("@@character_set_client", "latin1"),
            ("@@autocommit", "1"),
        ] {
            assert_eq!(ask(dialect.as_mut(), &format!("SELECT {name}")), value, "{name}");
        }
        let mut dialect = connect(&of("collation=utf8mb4_bin&autocommit=0"));
        assert_eq!(ask(dialect.as_mut(), "SELECT @@collation_connection"), "utf8mb4_bin");
        assert_eq!(ask(dialect.as_mut(), "SELECT @@autocommit"), "1");
        assert!(refused(&of("nosuch=1")).contains("Unknown system variable 'nosuch'"));
    });
}

/// Goal: the first of several hosts that takes writes is used.
#[test]
fn a_host_that_is_down_is_passed_over() {
    postgres(|source, text| {
        let more = format!("host=127.0.0.1,127.0.0.1 port=1,{}", source.port);
        assert_eq!(
            ask(connect(&parse(Driver::Postgres, &format!("{text} {more}"))).as_mut(), "SELECT 1"),
            "1"
        );
        let none = "host=127.0.0.1,127.0.0.1 port=1,2";
        let why = refused(&parse(Driver::Postgres, &format!("{text} {none}")));
        assert!(why.contains("127.0.0.1:1: ") && why.contains("127.0.0.1:2: "), "{why}");
    });
}

/// Goal: a password comes from the file that the environment names.
#[test]
fn a_password_file_is_used() {
    postgres(|source, _| {
        let user = format!("u_{}", source.database);
        let mut dialect = connect(source);
        dialect
            .run("DO $$ BEGIN CREATE ROLE asks_password; EXCEPTION WHEN OTHERS THEN END $$")
            .unwrap();
        dialect.run(&format!("CREATE USER {user} PASSWORD 'hush' IN ROLE asks_password")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pass");
        let Source { host, port, database, .. } = source;
        fs::write(&file, format!("{host}:{port}:*:{user}:hush\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let variable =
            |name: &str| (name == "PGPASSFILE").then(|| file.to_string_lossy().into_owned());
        let text = format!("host={host} port={port} user={user} dbname={database} sslmode=disable");
        let with = Source::parse(Driver::Postgres, &text, &variable).unwrap();
        assert_eq!(ask(connect(&with).as_mut(), "SELECT current_user::text"), user);
        refused(&parse(Driver::Postgres, &text));
    });
}

/// Goal: the lock is that of one schema: two stores of one database do not keep each other out, and
/// a take-over of one ends no session of the other. A member of a release that took one lock for
/// the whole database is kept out, and keeps out.
#[test]
fn two_schemas_of_a_database_have_a_lock_each() {
    postgres(|source, text| {
        connect(source).run("CREATE SCHEMA other").unwrap();
        let other = parse(Driver::Postgres, &format!("{text} search_path=other"));
        schema::init(connect(&other).as_mut()).unwrap();
        let (mut first, mut opened) = open(source);
        let (_second, _) = open(&other);
        commit(&mut opened, Lifecycle::Create, 1).unwrap();
        assert_eq!(ask(connect(&other).as_mut(), "SELECT count(*) FROM Messages"), "0");
        assert!(matches!(lease(source, "third").try_take().unwrap(), Attempt::Held { .. }));
        assert!(matches!(lease(&other, "third").try_take().unwrap(), Attempt::Held { .. }));
        sql::sessions::end_stores(connect(&other).as_mut()).unwrap();
        sql::sessions::end_holder(connect(&other).as_mut()).unwrap();
        commit(&mut opened, Lifecycle::Keep, 2).unwrap();
        first.confirm().unwrap();
        let old_tries = format!("SELECT pg_try_advisory_lock({OLD_KEY})::int");
        let mut old = connect(source);
        assert_eq!(ask(old.as_mut(), &old_tries), "0");
        first.release(true).unwrap();
        drop(opened);
        let deadline = world::instant() + Duration::from_secs(20);
        while ask(old.as_mut(), &old_tries) == "0" {
            assert!(world::instant() < deadline);
        }
        assert!(matches!(lease(source, "new").try_take().unwrap(), Attempt::Held { .. }));
        drop(old);
        let mut new = lease(source, "new");
        while !matches!(new.try_take().unwrap(), Attempt::Won(_)) {
            assert!(world::instant() < deadline);
        }
    });
}

/// Goal: names of databases that differ only in case, or only far behind, have a lock each.
#[test]
fn two_databases_of_similar_names_have_a_lock_each() {
    let Some(address) = databases::mysql_address() else { return };
    let admin = connect(&parse(Driver::Mysql, &format!("{address}/mysql")));
    let mut admin = admin;
    let number = std::process::id();
    let long = format!("{:a<45}{number}", "long");
    for pair in [
        [format!("Case{number}"), format!("case{number}")],
        [format!("{long}x"), format!("{long}y")],
    ] {
        let mut leases = pair.map(|name| {
            admin.run(&format!("CREATE DATABASE {name}")).unwrap();
            let source = parse(Driver::Mysql, &format!("{address}/{name}"));
            schema::init(connect(&source).as_mut()).unwrap();
            lease(&source, "holder")
        });
        for lease in &mut leases {
            assert!(matches!(lease.try_take().unwrap(), Attempt::Won(_)));
        }
    }
}

/// What the environment says of the system's authorities.
fn trusting(file: &Path) -> impl Fn(&str) -> Option<String> {
    let file = file.to_string_lossy().into_owned();
    move |name| (name == "SSL_CERT_FILE").then(|| file.clone())
}

/// Goal: each way of encryption of the Go driver for PostgreSQL is what it says.
#[test]
fn encryption_of_postgres_is_what_the_source_asks_for() {
    let Some(folder) = databases::certificates() else { return };
    let ca = folder.join("ca.pem");
    postgres(|source, text| {
        let of = |more: &str| {
            let text = text.replace("sslmode=disable", "").replace("host=127.0.0.1", "");
            format!("{text} {more}")
        };
        let is_encrypted = "SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let named = format!("sslrootcert={}", ca.display());
        let (name, address) = ("host=localhost", "host=127.0.0.1");
        for (more, expected) in [
            (format!("{name} sslmode=disable"), Some("0")),
            (address.to_owned(), Some("1")),
            (format!("{address} sslmode=require {named}"), Some("1")),
            (format!("{address} sslmode=require sslrootcert=/no/such"), Some("1")),
            (format!("{name} sslmode=verify-full {named}"), Some("1")),
            // The certificate is for the name alone, which this one does not look at.
            (format!("{address} sslmode=verify-ca {named}"), Some("1")),
            (format!("{address} sslmode=verify-full {named}"), None),
            (format!("{name} sslmode=verify-full"), None),
            (format!("{name} sslmode=verify-ca sslrootcert=/no/such"), None),
        ] {
            let source = parse(Driver::Postgres, &of(&more));
            match expected {
                Some(value) => {
                    assert_eq!(ask(connect(&source).as_mut(), is_encrypted), value, "{more}");
                }
                None => drop(refused(&source)),
            }
        }
        let text = of(&format!("{name} sslmode=verify-full"));
        let trusted = Source::parse(Driver::Postgres, &text, &trusting(&ca)).unwrap();
        assert_eq!(ask(connect(&trusted).as_mut(), is_encrypted), "1");

        let user = format!("c_{}", source.database);
        let mut dialect = connect(source);
        dialect
            .run("DO $$ BEGIN CREATE ROLE asks_certificate; EXCEPTION WHEN OTHERS THEN END $$")
            .unwrap();
        dialect.run(&format!("CREATE USER {user} IN ROLE asks_certificate")).unwrap();
        let own = folder.join("client.pem");
        let key = folder.join("client.key");
        let pair = format!("sslcert={} sslkey={}", own.display(), key.display());
        let shown = of(&format!("{address} user={user} {pair}"));
        assert_eq!(ask(connect(&parse(Driver::Postgres, &shown)).as_mut(), is_encrypted), "1");
    });
}

/// Goal: the same of the Go driver for MySQL.
#[test]
fn encryption_of_mysql_is_what_the_source_asks_for() {
    let Some(folder) = databases::certificates() else { return };
    let (ca, nothing) = (folder.join("ca.pem"), |_: &str| None);
    mysql(|_, text| {
        let cipher = "SELECT LENGTH(VARIABLE_VALUE) > 0 FROM information_schema.SESSION_STATUS \
                      WHERE VARIABLE_NAME = 'Ssl_cipher'";
        let name = text.replace("127.0.0.1", "localhost");
        for (address, more, trusted, expected) in [
            (text, "", false, Some("0")),
            (text, "?tls=false", false, Some("0")),
            (text, "?tls=preferred", false, Some("1")),
            (text, "?tls=skip-verify", false, Some("1")),
            (name.as_str(), "?tls=true", true, Some("1")),
            (name.as_str(), "?tls=true", false, None),
            (text, "?tls=true", true, None),
        ] {
            let variable: &dyn Fn(&str) -> Option<String> =
                if trusted { &trusting(&ca) } else { &nothing };
            let text = format!("{address}{more}");
            let source = Source::parse(Driver::Mysql, &text, variable).unwrap();
            match expected {
                Some(value) => assert_eq!(ask(connect(&source).as_mut(), cipher), value, "{text}"),
                None => drop(refused(&source)),
            }
        }
    });
}
