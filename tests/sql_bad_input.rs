//! What an SQL store cannot begin with, by the process: a line that says it, an exit code that is
//! not 0, and never a password.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]

#[path = "support/databases.rs"]
mod databases;
#[path = "support/server.rs"]
mod server;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;
use prost::Message as _;

use stanby::proto::pb;
use stanby::store::sql::dialect::{Dialect, Driver, Value};
use stanby::store::sql::dsn::Source;
use stanby::store::sql::{self, schema};

use self::server::{Launch, READY, Server};

/// No line of any log may have it.
const PASSWORD: &str = "hush-hush";

fn connect(source: &Source) -> Box<dyn Dialect> {
    sql::connect(source, databases::CALL_TIMEOUT).unwrap()
}

/// The source as a person writes it, for another user if one is named.
fn text(source: &Source, user: Option<&str>) -> String {
    let Source { host, port, database, .. } = source;
    let (login, password) = match user {
        Some(user) => (user.to_owned(), PASSWORD),
        None => (source.user.clone().unwrap_or_default(), ""),
    };
    match source.driver {
        Driver::Sqlite => database.clone(),
        Driver::Postgres => {
            let password = format!("password='{password}'");
            format!(
                "host={host} port={port} user={login} {password} dbname={database} sslmode=disable"
            )
        }
        Driver::Mysql => format!("{login}:{password}@tcp({host}:{port})/{database}"),
    }
}

fn launch(driver: Driver, source: &str, more: &[&str]) -> Launch {
    let flags = ["-store", "sql", "-sql_driver", driver.name(), "-sql_source", source];
    Launch::new(&[&flags, more].concat())
}

/// The start fails with a line that has all of `parts`.
fn refused(launch: &Launch, parts: &[&str]) {
    let mut server = launch.run();
    assert_eq!(server.wait_exit().code(), Some(1));
    said(&server, parts);
}

fn said(server: &Server, parts: &[&str]) {
    let log = server.log.text();
    let line = log.lines().find(|line| line.contains("[FTL]")).unwrap_or_default();
    assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} are not in: {line}\n{log}");
    assert!(!log.contains(PASSWORD) && !server.stdout.text().contains(PASSWORD), "{log}");
}

/// Runs `goal` for each database but SQLite, which knows no users; `rights` are granted to a user
/// that is made for it.
fn for_a_user(rights: &str, goal: impl Fn(&Source, &str)) {
    databases::for_every(|source, _| {
        // Users are the whole server's.
        let user = format!("u_{}", source.database);
        let mut dialect = connect(source);
        let statements = match source.driver {
            Driver::Sqlite => return,
            Driver::Postgres => [
                format!("CREATE USER {user} PASSWORD '{PASSWORD}'"),
                format!("GRANT {rights} ON ALL TABLES IN SCHEMA public TO {user}"),
            ],
            Driver::Mysql => [
                format!("CREATE USER {user} IDENTIFIED BY '{PASSWORD}'"),
                format!("GRANT {rights} ON {}.* TO {user}", source.database),
            ],
        };
        statements.iter().for_each(|statement| dialect.run(statement).unwrap());
        goal(source, &user);
    });
}

#[test]
fn a_source_that_cannot_be_understood_is_refused() {
    for (driver, source, why) in [
        (Driver::Postgres, format!("user=me password={PASSWORD} port=x"), "tcp/x: unknown port"),
        (Driver::Postgres, format!("postgres://me:{PASSWORD}@h:x/db"), "invalid port"),
        (Driver::Mysql, format!("me:{PASSWORD}@tcp(h)"), "missing the slash"),
        (Driver::Mysql, format!("me:{PASSWORD}@tcp(h:x)/db"), "tcp/x: unknown port"),
        (Driver::Mysql, format!("mysql://me:{PASSWORD}@h/db"), "network 'h' unknown"),
        (Driver::Sqlite, String::new(), "SQL"),
        (Driver::Sqlite, "?journal_mode=OFF".to_owned(), "no file is named"),
    ] {
        refused(&launch(driver, &source, &[]), &[why]);
    }
    let unknown = Launch::new(&["-store", "sql", "-sql_driver", "oracle", "-sql_source", "x"]);
    refused(&unknown, &["unknown driver \"oracle\""]);
}

/// What the Go drivers say where nobody listens.
const REFUSED: &str = "dial tcp 127.0.0.1:1: connect: connection refused";

#[test]
fn who_does_not_get_in_is_told_where() {
    refused(&launch(Driver::Sqlite, "/no/such/store.db", &[]), &["/no/such/store.db", "sql init"]);
    let nobody =
        format!("host=127.0.0.1 port=1 user=me password={PASSWORD} dbname=d sslmode=disable");
    refused(&launch(Driver::Postgres, &nobody, &[]), &["postgres://me@127.0.0.1:1/d", REFUSED]);
    let nobody = format!("me:{PASSWORD}@tcp(127.0.0.1:1)/d");
    refused(&launch(Driver::Mysql, &nobody, &[]), &["mysql://me@127.0.0.1:1/d", REFUSED]);
    databases::for_every(|source, _| {
        let why = match source.driver {
            Driver::Sqlite => return,
            Driver::Postgres => "pq: role \"nosuch\" does not exist",
            Driver::Mysql => "Error 1045 (28000): Access denied for user 'nosuch'",
        };
        refused(&launch(source.driver, &text(source, Some("nosuch")), &[]), &[why]);
    });
}

#[test]
fn a_wrong_password_is_refused_and_not_shown() {
    for_a_user("ALL", |source, user| {
        let mut dialect = connect(source);
        let (other, why) = match source.driver {
            Driver::Sqlite => return,
            Driver::Postgres => {
                dialect.run("CREATE ROLE asks_password").unwrap();
                dialect.run(&format!("GRANT asks_password TO {user}")).unwrap();
                (format!("ALTER USER {user} PASSWORD 'other'"), "password authentication failed")
            }
            Driver::Mysql => {
                (format!("ALTER USER {user} IDENTIFIED BY 'other'"), "Access denied for user")
            }
        };
        let launch = launch(source.driver, &text(source, Some(user)), &[]);
        // The right one serves, and is not shown either.
        let mut server = launch.start();
        assert_eq!(server.stop(Signal::SIGTERM), Some(143));
        assert!(!server.log.text().contains(PASSWORD), "{}", server.log.text());
        dialect.run(&other).unwrap();
        refused(&launch, &[why, user]);
    });
}

#[test]
fn tables_that_are_missing_or_wrong_are_named_with_the_command() {
    databases::for_every(|source, _| {
        let launch = launch(source.driver, &text(source, None), &[]);
        connect(source).run("ALTER TABLE Messages RENAME COLUMN size TO length").unwrap();
        refused(&launch, &["table Messages is wrong", "seq, timestamp, size", "sql init"]);
        connect(source).run("DROP TABLE Messages").unwrap();
        refused(&launch, &["table Messages is missing: run: stanby sql init"]);
        init(source);
        launch.start().stop(Signal::SIGTERM);
    });
}

/// The command that the texts name.
fn init(source: &Source) {
    let source_text = text(source, None);
    let flags = ["-sql_driver", source.driver.name(), "-sql_source", &source_text];
    let done = Command::new(server::binary()).args(["sql", "init"]).args(flags).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Goal: for each way in which a user may be short of rights, the statement in the line of the
/// start is the one that helps, and nothing else needs to be known.
#[test]
fn the_statement_that_is_named_gives_the_rights_that_are_missing() {
    let prepares: [&[&str]; 4] = [
        // Nothing was granted on what the owner's `init` made.
        &["REVOKE ALL ON StanbyEpoch, StanbyHolder, StanbyTotals FROM USER"],
        &["REVOKE INSERT ON Messages, Clients FROM USER"],
        // A database of the Go server: the user may not make what is missing.
        &["DROP TABLE StanbyTotals", "REVOKE SELECT ON StanbyHolder FROM USER"],
        &["REVOKE USAGE ON SCHEMA public FROM PUBLIC", "REVOKE DELETE ON StoreLock FROM USER"],
    ];
    for statements in prepares {
        for_a_user("SELECT, INSERT, UPDATE, DELETE", |source, user| {
            let mut dialect = connect(source);
            if source.driver == Driver::Mysql {
                // Rights are the whole database's there.
                dialect
                    .run(&format!("REVOKE DELETE ON {}.* FROM {user}", source.database))
                    .unwrap();
            } else {
                for statement in statements {
                    dialect.run(&statement.replace("USER", user)).unwrap();
                }
            }
            cured(source, user);
        });
    }
}

/// Does what the line of a start says until it says nothing more.
fn cured(source: &Source, user: &str) {
    let launch = launch(source.driver, &text(source, Some(user)), &[]);
    let mut dialect = connect(source);
    for _ in 0..3 {
        let mut server = launch.run();
        assert_eq!(server.wait_exit().code(), Some(1));
        let log = server.log.text();
        let line = log.lines().find(|line| line.contains("[FTL]")).unwrap();
        if line.contains("sql init") {
            init(source);
        }
        let (_, grant) = line.rsplit_once(": GRANT ").unwrap_or_else(|| panic!("{line}"));
        dialect.run(&format!("GRANT {grant}")).unwrap();
        let own = Source::parse(source.driver, &text(source, Some(user)), &|_| None).unwrap();
        if schema::check(connect(&own).as_mut()).unwrap().is_empty() {
            break;
        }
    }
    let mut server = launch.start();
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
    // Whoever may make nothing may say so again where nothing is to be made.
    let own = text(source, Some(user));
    let flags = ["sql", "init", "-sql_driver", source.driver.name(), "-sql_source", &own];
    assert!(Command::new(server::binary()).args(flags).status().unwrap().success());
}

#[test]
fn rights_that_are_missing_are_named() {
    for_a_user("SELECT, UPDATE, DELETE", |source, user| {
        let launch = launch(source.driver, &text(source, Some(user)), &[]);
        refused(&launch, &["denied", "needs the rights to read and write ServerInfo"]);
    });
    // Ours are missing, as in a database of the Go server, and this user makes none.
    for_a_user("SELECT, INSERT, UPDATE, DELETE", |source, user| {
        let launch = launch(source.driver, &text(source, Some(user)), &[]);
        connect(source).run("DROP TABLE StanbyTotals").unwrap();
        refused(&launch, &["denied", "may not make the tables that are missing", "sql init"]);
    });
}

#[test]
fn a_database_that_takes_no_writes_is_refused() {
    for_a_user("ALL", |source, user| {
        let launch = launch(source.driver, &text(source, Some(user)), &[]);
        let mut dialect = connect(source);
        match source.driver {
            Driver::Sqlite => {}
            Driver::Postgres => {
                let name = &source.database;
                let only = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
                dialect.run(&only).unwrap();
                refused(&launch, &["read-only", "takes no writes"]);
            }
            Driver::Mysql => {
                // Not for whoever administers it, as which all other tests run.
                dialect.run("SET GLOBAL read_only = 1").unwrap();
                let checked = std::panic::catch_unwind(|| {
                    refused(&launch, &["read-only", "takes no writes"]);
                });
                dialect.run("SET GLOBAL read_only = 0").unwrap();
                checked.unwrap();
            }
        }
    });
}

/// Root may write everything, so the server runs as somebody else then.
#[test]
fn a_file_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = databases::sqlite(folder.path());
    connect(&source).run("PRAGMA journal_mode=DELETE").unwrap();
    let path = folder.path().join("store.db");
    let program = folder.path().join("stanby");
    fs::copy(server::binary(), &program).unwrap();
    let lock = fs::File::create(folder.path().join("store.db.stanby.lck")).unwrap();
    for (file, mode) in [(&path, 0o444), (&program, 0o755), (&folder.path().to_path_buf(), 0o755)] {
        fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
    }
    drop(lock);
    let text = format!("{}?journal_mode=DELETE", path.display());
    let mut launch = launch(Driver::Sqlite, &text, &[]).program(&program);
    fs::set_permissions(launch.folder(), Permissions::from_mode(0o755)).unwrap();
    if nix::unistd::geteuid().is_root() {
        let nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];
        launch = launch.through(&nobody);
    }
    refused(&launch, &["readonly", "takes no writes"]);
}

#[test]
fn a_second_server_on_a_database_refuses_and_names_the_holder() {
    databases::for_every(|source, _| {
        let text = text(source, None);
        let mut first = launch(source.driver, &text, &[]).start();
        let mut second = launch(source.driver, &text, &[]).run();
        assert_eq!(second.wait_exit().code(), Some(1));
        let holder = format!("process {}", first.pid());
        said(
            &second,
            &["Failed to start: server ", &holder, "holds the lock of", &source.to_string()],
        );
        assert_eq!(first.stop(Signal::SIGTERM), Some(143), "and is not disturbed");
    });
}

#[test]
fn a_database_of_another_cluster_is_refused() {
    databases::for_every(|source, _| {
        let text = text(source, None);
        let mut first = launch(source.driver, &text, &["-cluster_id", "one"]).start();
        first.stop(Signal::SIGTERM);
        let other = launch(source.driver, &text, &["-cluster_id", "other"]);
        refused(&other, &["cluster ID \"other\" does not match recovered value of \"one\""]);
        let mut again = launch(source.driver, &text, &["-cluster_id", "one"]).spawn();
        again.log.wait(READY);
        again.stop(Signal::SIGTERM);
    });
}

/// Goal: what passes ends no start: somebody alters a table, or makes it compact, and meanwhile a
/// session is lost.
#[test]
fn a_start_waits_for_a_table_that_somebody_has_locked() {
    databases::for_every(|source, _| {
        let (lock, unlock) = match source.driver {
            // Nobody is kept from reading there.
            Driver::Sqlite => return,
            Driver::Postgres => (&["BEGIN", "LOCK TABLE Messages"][..], "COMMIT"),
            Driver::Mysql => (&["LOCK TABLES Messages WRITE"][..], "UNLOCK TABLES"),
        };
        let launch = launch(source.driver, &text(source, None), &["-ft_steal_after", "2s"]);
        let mut neighbour = connect(source);
        lock.iter().for_each(|statement| neighbour.run(statement).unwrap());
        let mut server = launch.spawn();
        server.log.wait("the start waits, and tries again");
        if source.driver == Driver::Postgres {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname=current_database() AND pid<>pg_backend_pid()";
            neighbour.query(end, &[]).unwrap();
        }
        neighbour.run(unlock).unwrap();
        server.log.wait(READY);
        server.stop(Signal::SIGTERM);
    });
}

/// Goal: an epoch that none can follow is a damaged row: nobody claims above it, and the row and
/// what helps are named.
#[test]
fn an_epoch_that_none_can_follow_is_named_as_damaged() {
    databases::for_every(|source, _| {
        let launch = launch(source.driver, &text(source, None), &[]);
        launch.start().stop(Signal::SIGTERM);
        for damaged in [i64::MAX, -5] {
            let change = format!("UPDATE StanbyEpoch SET epoch={damaged}");
            if connect(source).run(&change).is_err() {
                // MySQL's column takes no negative number.
                continue;
            }
            let words = ["StanbyEpoch", "stop all servers", "UPDATE StanbyEpoch SET epoch=1"];
            refused(&launch, &words);
        }
        connect(source).run("UPDATE StanbyEpoch SET epoch=1").unwrap();
        launch.start().stop(Signal::SIGTERM);
    });
}

/// What is said of the limit of connections is what happens.
#[test]
fn a_limit_of_connections_that_is_not_kept_is_said() {
    databases::for_every(|source, _| {
        let text = text(source, None);
        let flags = ["-sql_max_open_conns", "2", "-loops", "2"];
        let mut server = launch(source.driver, &text, &flags).start();
        let line = server.log.wait("sql_max_open_conns is 2");
        assert!(line.contains("3 connections are open"), "{line}");
        let count = match source.driver {
            Driver::Sqlite => None,
            Driver::Postgres => Some(
                "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid()",
            ),
            Driver::Mysql => Some(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() \
                 AND id <> CONNECTION_ID()",
            ),
        };
        if let Some(count) = count {
            // That of the recovery goes a moment later.
            server::wait_for("three connections", || {
                let found = connect(source).query(count, &[]).unwrap()[0][0].unsigned();
                (found == 3).then_some(())
            });
        }
        server.stop(Signal::SIGTERM);
    });
}

/// `sql check` says what a start would.
#[test]
fn a_check_finds_rights_that_are_missing() {
    for_a_user("SELECT", |source, user| {
        let text = text(source, Some(user));
        let own = Source::parse(source.driver, &text, &|_| None).unwrap();
        let wrong = schema::check(connect(&own).as_mut()).unwrap();
        assert!(wrong.len() == 1 && wrong[0].contains("needs the rights"), "{wrong:?}");
    });
}

/// A user who may not make tables works where they are.
#[test]
fn who_may_make_no_tables_works_where_they_are() {
    for_a_user("SELECT, INSERT, UPDATE, DELETE", |source, user| {
        let mut server = launch(source.driver, &text(source, Some(user)), &[]).start();
        server.log.wait(READY);
        server.stop(Signal::SIGTERM);
    });
}

/// What a source says of its commits is so, and the start warns of it.
#[test]
fn a_source_that_does_not_wait_for_commits_is_warned_of() {
    databases::for_every(|source, _| {
        if source.driver == Driver::Postgres {
            let text = format!("{} synchronous_commit=off", text(source, None));
            let mut server = launch(source.driver, &text, &[]).start();
            let line = server.log.wait("the source has synchronous_commit = off");
            assert!(line.contains("[WRN]"), "{line}");
            server.stop(Signal::SIGTERM);
        }
    });
}

/// Goal: nobody serves ciphertext without having been told.
#[test]
fn a_store_that_the_go_server_encrypted_is_warned_of() {
    databases::for_every(|source, _| {
        let launch = launch(source.driver, &text(source, None), &[]);
        launch.start().stop(Signal::SIGTERM);
        let mut dialect = connect(source);
        dialect.run("INSERT INTO Channels (id, name, maxseq) VALUES (1, 'secret', 1)").unwrap();
        // Cipher 1, nonce with the count 1, and what nobody can read.
        let data = [&[1, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 1][..], &[7; 30]].concat();
        let message = pb::MsgProto {
            sequence: 1,
            subject: "secret".into(),
            data: data.into(),
            timestamp: 1,
            ..Default::default()
        };
        let encoded = message.encode_to_vec();
        let insert = format!(
            "INSERT INTO Messages (id, seq, timestamp, size, data) VALUES (1, 1, 1, {}, ?)",
            encoded.len()
        );
        dialect.execute(&insert, &[Value::Bytes(encoded.into())]).unwrap();
        let mut server = launch.start();
        let line = server.log.wait("look encrypted");
        assert!(line.contains("[WRN]") && line.contains("channel secret"), "{line}");
        server.stop(Signal::SIGTERM);
    });
}
