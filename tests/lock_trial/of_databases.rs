//! Databases: each that there is, behind a pooler too.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::unistd::Uid;

use stanby::base::world;
use stanby::election::lease::{Attempt, Lease, Owner};
use stanby::site::sql_lock::SqlLease;
use stanby::store::sql;
use stanby::store::sql::dialect::Driver;
use stanby::store::sql::dsn::Source;

use crate::databases::{self, left_out};
use crate::{command, listening, text};

/// Runs `goal` for each database that there is, with its name on a command line.
fn for_every(goal: impl Fn(&str, &Source)) {
    databases::for_every(|source, folder| {
        let name = databases::name(folder);
        let named = match source.driver {
            Driver::Sqlite => format!("sqlite:{}", source.database),
            Driver::Postgres => {
                format!("postgres:{} dbname={name}", databases::postgres_address().unwrap())
            }
            Driver::Mysql => format!("mysql:{}/{name}", databases::mysql_address().unwrap()),
        };
        goal(&named, source);
        assert_eq!(left(source), Vec::<String>::new(), "something is left behind");
    });
}

/// What trials have made and not removed.
fn left(source: &Source) -> Vec<String> {
    let asked = match source.driver {
        Driver::Sqlite => {
            let folder = Path::new(&source.database).parent().unwrap();
            let entries = fs::read_dir(folder).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            return names.filter(|name| name.contains("stanby_trial")).collect();
        }
        Driver::Postgres => {
            "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'stanby_trial%'"
        }
        // Of the whole server: other tests of this program have some of their own.
        Driver::Mysql => return Vec::new(),
    };
    let mut dialect = sql::connect(source, databases::CALL_TIMEOUT).unwrap();
    dialect.query(asked, &[]).unwrap().iter().map(|row| row[0].text()).collect()
}

fn tried(name: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = command(Path::new(name)).args(args).output().unwrap();
    (output.status.code(), text(&output))
}

/// Goal: each database that a group can use does, and an active server there goes on.
#[test]
fn two_processes_try_a_database_and_its_server_goes_on() {
    for_every(|name, source| {
        let owner = Owner::this_process("active", Vec::new(), None);
        let timeout = databases::CALL_TIMEOUT;
        let mut lease = SqlLease::new(source.clone(), timeout, owner, Duration::from_secs(5));
        assert!(matches!(lease.try_take().unwrap(), Attempt::Won(_)));
        let (code, said) = tried(name, &[]);
        assert_eq!(code, Some(0), "{said}");
        for line in [
            "ok       two processes exclude each other: ",
            "ok       a killed process lets go: the next one has its lease after ",
            "ok       a lease that is given back is taken: after ",
            "ok       a new epoch is seen: after ",
            "ok       of two that claim at once one has it: ",
            "ok       a message is committed: in ",
            "This database will do for a group (tried between two processes of this machine",
        ] {
            assert!(said.contains(line), "{line}\n{said}");
        }
        lease.confirm().unwrap();
        if source.driver != Driver::Sqlite {
            return;
        }
        let output = command(Path::new(name)).arg("--json").output().unwrap();
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success() && document["will_do"] == true, "{document}");
        assert_eq!(document["steps"].as_array().unwrap().len(), 6, "{document}");
        assert!(document["database"].is_string(), "{document}");
    });
}

/// Goal: a file of SQLite's keeps its mode and every byte, whoever's it is; what is none is said,
/// and what a killed trial has left beside it goes.
#[test]
fn a_file_of_sqlite_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreign.db");
    let given = format!("{}?journal_mode=DELETE", path.display());
    let source = Source::parse(Driver::Sqlite, &given, &|_| None).unwrap();
    sql::make(&source).unwrap();
    let mut dialect = sql::connect(&source, databases::CALL_TIMEOUT).unwrap();
    dialect.run("CREATE TABLE theirs (number INTEGER)").unwrap();
    drop(dialect);
    let before = fs::read(&path).unwrap();
    // Bytes 18 and 19 are 2 where a file has a write-ahead log.
    assert_eq!(before[18..20], [1, 1]);
    for name in ["", "-wal", "-shm", ".guard"] {
        fs::write(folder.path().join(format!("foreign.db.stanby_trial_1f{name}")), "").unwrap();
    }
    let (code, said) = tried(&format!("sqlite:{}", path.display()), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(fs::read(&path).unwrap() == before, "the file was changed");
    let names = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["foreign.db"]);
    let text = folder.path().join("text");
    fs::write(&text, "no database at all").unwrap();
    let (code, said) = tried(&format!("sqlite:{}", text.display()), &[]);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("text is no database of SQLite"), "{said}");
}

/// Goal: another machine takes part where there can be one, and both end; a stranger reaches
/// nothing.
#[test]
fn another_machine_tries_a_database_too() {
    for_every(|name, source| {
        if source.driver == Driver::Sqlite {
            let (code, said) = tried(name, &["--peer", "127.0.0.1:1"]);
            assert_eq!(code, Some(1), "{said}");
            return assert!(said.contains("a database of SQLite is of one machine"), "{said}");
        }
        let (mut other, address) = listening(Path::new(name));
        let (code, said) = tried(name, &["--peer", &address]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("(tried with {address})")), "{said}");
        assert!(other.wait().unwrap().success());
        strangers(name);
    });
}

fn strangers(name: &str) {
    let mut child = command(Path::new(name))
        .arg("--answer")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "take public\ntake stanby_trial_1;x\n\ntake\n\u{1}\ndrop stanby_trial_1\n";
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert_eq!(said.lines().count(), 6, "{said}");
    assert_eq!(said.matches("error that is no name of a trial").count(), 5, "{said}");
    // Nobody has made those tables.
    assert!(said.lines().last().unwrap().starts_with("error sql: "), "{said}");
}

/// Goal: two that are with two databases are found out.
#[test]
fn another_database_is_seen() {
    if databases::postgres_address().is_none() {
        return;
    }
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [ours, others] = folders.each_ref().map(|folder| {
        databases::postgres(folder.path());
        let name = databases::name(folder.path());
        format!("postgres:{} dbname={name}", databases::postgres_address().unwrap())
    });
    let (mut other, address) = listening(Path::new(&others));
    let (code, said) = tried(&ours, &["--peer", &address]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("is it another database?"), "{said}");
    assert!(other.wait().unwrap().success());
}

/// Goal: what weakens commits is said, and what a user may not do; neither leaves anything.
#[test]
fn what_weakens_a_database_is_said() {
    let Some(address) = databases::postgres_address() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = databases::postgres(folder.path());
    let name = databases::name(folder.path());
    let named = format!("postgres:{address} dbname={name}");
    let (code, said) = tried(&format!("{named} synchronous_commit=off"), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning  the source has synchronous_commit = off: "), "{said}");

    let mut dialect = sql::connect(&source, databases::CALL_TIMEOUT).unwrap();
    dialect.run(&format!("CREATE ROLE {name} LOGIN")).unwrap();
    let weak = named.replace("user=stanby", &format!("user={name}"));
    let (code, said) = tried(&weak, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("permission denied") && said.contains("GRANT CREATE ON"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for (name, expected) in [
        (format!("{named}_gone"), "does not exist"),
        ("postgres:host=127.0.0.1 port=1 user=x".to_owned(), "unable to connect"),
        ("postgres:nonsense".to_owned(), "the database (postgres): "),
        ("mysql:".to_owned(), "the database (mysql): "),
        ("sqlite:/nowhere/x.db".to_owned(), "/nowhere/x.db"),
    ] {
        let (code, said) = tried(&name, &[]);
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(left(&source), Vec::<String>::new());
}

/// A PgBouncer in front of the tests' PostgreSQL.
struct Pooler {
    child: Child,
    port: u16,
}

impl Pooler {
    /// None where it is not installed.
    fn start(folder: &Path, mode: &str, more: &str) -> Option<Self> {
        let address = databases::postgres_address()?;
        let port_behind = address.split(' ').find_map(|it| it.strip_prefix("port=")).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={port_behind} user=stanby\n[pgbouncer]\n\
             listen_addr=127.0.0.1\nlisten_port={port}\nauth_type=any\nunix_socket_dir=\n\
             pool_mode={mode}\n{more}\n"
        );
        let path = folder.join("pooler.ini");
        fs::write(&path, settings).unwrap();
        let mut command = Command::new("pgbouncer");
        if Uid::effective().is_root() {
            // It does not run as root.
            fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "pgbouncer"]);
        }
        let spawned = command.arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut pooler = Self { child: spawned.ok()?, port };
        let end = world::instant() + databases::CALL_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = pooler.child.try_wait().unwrap();
            if ended.is_some_and(|status| status.code() == Some(127)) {
                return None;
            }
            assert!(ended.is_none() && world::instant() < end, "PgBouncer does not listen");
            thread::park_timeout(Duration::from_millis(20));
        }
        Some(pooler)
    }

    fn name(&self, database: &str) -> String {
        let port = self.port;
        format!("postgres:host=127.0.0.1 port={port} user=stanby sslmode=disable dbname={database}")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Goal: a pooler that gives one session to several members is found out; behind one that passes
/// over what a session asks for, the tables of the store itself are not touched.
#[test]
fn a_pooler_whose_sessions_are_shared_is_unfit() {
    if databases::postgres_address().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = databases::postgres(folder.path());
    let database = databases::name(folder.path());
    let Some(pooler) = Pooler::start(folder.path(), "transaction", "") else {
        return left_out::note("PgBouncer");
    };
    let (code, said) = tried(&pooler.name(&database), &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("unfit    two sessions are one of the server's: a pooler"), "{said}");
    drop(pooler);
    let pooler = Pooler::start(folder.path(), "session", "").unwrap();
    let (code, said) = tried(&pooler.name(&database), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a pooler lies between; for the trial name the database"), "{said}");
    drop(pooler);
    let ignoring = "ignore_startup_parameters=options";
    let pooler = Pooler::start(folder.path(), "session", ignoring).unwrap();
    let (code, said) = tried(&pooler.name(&database), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does a pooler pass over their options?"), "{said}");
    drop(pooler);
    assert_eq!(left(&source), Vec::<String>::new());
    let mut dialect = sql::connect(&source, databases::CALL_TIMEOUT).unwrap();
    let epochs = dialect.query("SELECT epoch FROM StanbyEpoch", &[]).unwrap();
    assert!(epochs.is_empty(), "the store's own tables were used");
}
