//! `stanby init`: writes a commented configuration for one server or a pair.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, ValueEnum};

use super::{connection, output};
use crate::base::files::{self, Access, Links};
use crate::config::options::{self, Request};
use crate::config::{Program, World};

/// Write a configuration for one server or a pair
///
/// The files say what each setting is for, and are never written over others.
#[derive(Debug, Parser)]
#[command(name = "stanby init", after_help = EXAMPLES)]
struct Args {
    /// One server, or an active with a standby
    which: Which,
    /// Where messages are kept
    #[arg(long, value_enum, default_value_t = Kind::File)]
    store: Kind,
    /// Folder of the file store (of a pair: one that both machines share), or the `SQLite` file
    /// [default: /var/lib/stanby/data]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Source of a `PostgreSQL` or `MySQL` database
    #[arg(long)]
    source: Option<String>,
    /// Cluster ID: clients name it
    #[arg(long, default_value = "test-cluster")]
    cluster_id: String,
    /// Hosts of a pair, separated by a comma; without them both run on this machine
    #[arg(long, value_delimiter = ',')]
    hosts: Vec<String>,
    /// Where the files go
    #[arg(long, default_value = ".")]
    to: PathBuf,
}

const DIR_DEFAULT: &str = "/var/lib/stanby/data";

/// Where the units for systemd have their configurations.
const UNITS_FOLDER: &str = "/etc/stanby";

/// The folder that the units make for the service, and let it write in.
const STATE_FOLDER: &str = "/var/lib/stanby";

const EXAMPLES: &str = "Examples:
  stanby init single --dir /var/lib/stanby/data
  stanby init pair --dir /tmp/stan
  stanby init pair --hosts a.example.com,b.example.com --dir /mnt/shared/stan --to /etc/stanby
  stanby init pair --store postgres --source 'host=db user=stan dbname=stan' --hosts a,b";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// One server
    Single,
    /// An active and a standby
    Pair,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// In memory: gone with the process
    Memory,
    /// In files
    File,
    /// In an `SQLite` file
    Sqlite,
    /// In a `PostgreSQL` database
    Postgres,
    /// In a `MySQL` or `MariaDB` database
    Mysql,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("a pair needs a store that both have: --store file, sqlite, postgres or mysql")]
    Memory,
    #[error("--source is missing: where the database is, such as 'host=db user=stan dbname=stan'")]
    NoSource,
    #[error("a pair has two hosts: --hosts a,b")]
    Hosts,
    #[error("both of a pair on one host have other ports: leave --hosts out")]
    OneHost,
    #[error("both members of a pair over SQLite run on one machine: leave --hosts out")]
    SqliteHosts,
    #[error("{option} says nothing about this store: it is for {wanted}")]
    Unused { option: &'static str, wanted: &'static str },
    #[error("{path} would not hold: {why}")]
    Config { path: PathBuf, why: String },
    #[error("{what} {text:?} cannot stand in a configuration")]
    Text { what: &'static str, text: String },
    #[error("{path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match connection::parse::<Args>("stanby init", args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match init(&args) {
        Ok(text) => output::end(text.as_bytes(), ExitCode::SUCCESS),
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "stanby init: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What one member has for itself.
struct Member<'a> {
    name: &'a str,
    /// Clients connect here; one on each machine, or on ports next to each other.
    shift: u16,
    /// Where the other member is, as seen from this one.
    other: Option<(&'a str, u16)>,
}

fn init(args: &Args) -> Result<String, InitError> {
    check(args)?;
    let members: Vec<Member<'_>> = match (args.which, &args.hosts[..]) {
        (Which::Single, _) => vec![Member { name: "stanby", shift: 0, other: None }],
        (Which::Pair, [one, other]) => vec![
            Member { name: "stanby-1", shift: 0, other: Some((other, 0)) },
            Member { name: "stanby-2", shift: 0, other: Some((one, 0)) },
        ],
        (Which::Pair, _) => vec![
            Member { name: "stanby-1", shift: 0, other: Some(("127.0.0.1", 1)) },
            Member { name: "stanby-2", shift: 1, other: Some(("127.0.0.1", 0)) },
        ],
    };
    let files: Vec<(PathBuf, String)> = members
        .iter()
        .map(|member| (args.to.join(format!("{}.conf", member.name)), text(args, member)))
        .collect();
    for (path, text) in &files {
        try_out(text).map_err(|why| InitError::Config { path: path.clone(), why })?;
    }
    std::fs::create_dir_all(&args.to)
        .map_err(|source| InitError::Write { path: args.to.clone(), source })?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for (path, text) in files {
        write_new(&path, &text).map_err(|source| {
            paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
            if source.kind() != io::ErrorKind::AlreadyExists {
                // What was begun of it.
                drop(std::fs::remove_file(&path));
            }
            InitError::Write { path: path.clone(), source }
        })?;
        paths.push(path);
    }
    Ok(next_steps(args, &members, &paths))
}

fn check(args: &Args) -> Result<(), InitError> {
    let is_pair = args.which == Which::Pair;
    if is_pair && args.store == Kind::Memory {
        return Err(InitError::Memory);
    }
    if matches!(args.store, Kind::Postgres | Kind::Mysql) && args.source.is_none() {
        return Err(InitError::NoSource);
    }
    let is_database = matches!(args.store, Kind::Postgres | Kind::Mysql);
    if args.source.is_some() && !is_database {
        return Err(InitError::Unused { option: "--source", wanted: "postgres and mysql" });
    }
    if args.dir.is_some() && !matches!(args.store, Kind::File | Kind::Sqlite) {
        return Err(InitError::Unused { option: "--dir", wanted: "file and sqlite" });
    }
    if args.store == Kind::Sqlite && !args.hosts.is_empty() {
        return Err(InitError::SqliteHosts);
    }
    match &args.hosts[..] {
        [] => {}
        [one, other] if is_pair => {
            let is_one =
                one.eq_ignore_ascii_case(other) || is_this_machine(one) && is_this_machine(other);
            if is_one {
                return Err(InitError::OneHost);
            }
        }
        _ => return Err(InitError::Hosts),
    }
    if let Some(host) = args.hosts.iter().find(|host| !is_host(host)) {
        return Err(InitError::Text { what: "host", text: host.clone() });
    }
    let dir = args.dir();
    let source = args.source.as_deref().unwrap_or_default();
    for (what, text) in [("--dir", dir), ("--source", source), ("--cluster-id", &args.cluster_id)] {
        if text.is_empty() && what != "--source" || text.chars().any(char::is_control) {
            return Err(InitError::Text { what, text: text.to_owned() });
        }
    }
    Ok(())
}

impl Args {
    fn dir(&self) -> &str {
        // What is no text is refused as one that cannot stand in a file.
        self.dir.as_deref().map_or(DIR_DEFAULT, |dir| dir.to_str().unwrap_or("\n"))
    }
}

/// Whether a server would start with it, as far as the text goes.
fn try_out(text: &str) -> Result<(), String> {
    let world = World {
        read: &|_| Ok(text.as_bytes().to_vec()),
        variable: &|_| None,
        secret: &|_| None,
        cores: 2,
    };
    let arguments = ["-c".to_owned(), "stanby.conf".to_owned()];
    let request = options::load(Program::Streaming, &arguments, &world);
    let Request::Serve(config) = request.map_err(|error| error.to_string())? else {
        return Ok(());
    };
    match (config.warnings.first(), config.start_error) {
        (Some(warning), _) => Err(warning.clone()),
        (None, Some(error)) => Err(error.fatal_line().1),
        (None, None) => Ok(()),
    }
}

/// Whether a name or address can stand for a machine.
fn is_host(host: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    host.parse::<Ipv6Addr>().is_ok() || !host.is_empty() && host.chars().all(is_letter)
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// A source may hold a password.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = files::open(path, Access::CreateNew(0o640), Links::Refused)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// As a configuration takes a text with anything in it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// An address that a URL takes.
fn host_of(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

fn text(args: &Args, member: &Member<'_>) -> String {
    let mut text = format!(
        "# {name}: written by `stanby init`. `stanby -t -c {name}.conf` looks whether it holds.\n\n\
         # Clients connect here: give all of them the addresses of all members.\n\
         port: {port}\n\
         # Health checks and numbers: http://localhost:{http}/streaming/healthz?ready=1\n\
         http_port: {http}\n",
        name = member.name,
        port = 4222 + member.shift,
        http = 8222 + member.shift,
    );
    if let Some((host, shift)) = member.other {
        let listen = if args.hosts.is_empty() { "127.0.0.1" } else { "0.0.0.0" };
        let _ = write!(
            text,
            "\n# The members are one NATS cluster: a client of the standby reaches the active by this route.\n\
             cluster {{\n    \
                 name: {name}\n    \
                 listen: {listen}\n    \
                 routes: [ {route} ]\n    \
                 # Whoever reaches the port may join. To ask for a password, on both:\n    \
                 # authorization {{ user: \"route\", password: \"secret\" }}\n    \
                 # and in `routes` \"nats://route:secret@{host}:{port}\"\n\
             }}\n",
            name = quoted(&args.cluster_id),
            listen = quoted(&format!("{}:{}", listen, 6222 + member.shift)),
            route = quoted(&format!("nats://{}:{}", host_of(host), 6222 + shift)),
            host = host_of(host),
            port = 6222 + shift,
        );
    }
    let _ = write!(
        text,
        "\nstreaming {{\n    \
             # Clients name it.\n    \
             cluster_id: {}\n",
        quoted(&args.cluster_id)
    );
    text.push_str(&store_lines(args));
    if member.other.is_some() {
        text.push_str(
            "\n    # Members of one group: one is active, the other takes over.\n    \
             ft_group: \"pair\"\n    \
             # An active that hangs for so long is replaced; the same on both.\n    \
             ft_steal_after: \"5s\"\n",
        );
    }
    text.push_str(
        "\n    # What a channel keeps at most; 0 is no limit. `channels` has other limits by name.\n    \
         store_limits {\n        \
             max_channels: 100\n        \
             max_msgs: 1000000\n        \
             max_bytes: 1GB\n        \
             max_age: \"0s\"\n        \
             max_subs: 1000\n    \
         }\n}\n\n\
         # Who may connect. Without this everybody who reaches the port may.\n\
         # authorization { user: \"shop\", password: \"change me\" }\n\n\
         # Encrypted connections of clients.\n\
         # tls { cert_file: \"/etc/stanby/cert.pem\", key_file: \"/etc/stanby/key.pem\" }\n",
    );
    text
}

fn store_lines(args: &Args) -> String {
    let dir = args.dir();
    let sql = |driver: &str, source: &str| {
        format!(
            "\n    # The tables are made by: {}\n    \
             store: sql\n    \
             sql_options {{\n        \
                 driver: {driver}\n        \
                 source: {}\n    \
             }}\n",
            sql_init(driver, source),
            quoted(source)
        )
    };
    match (args.store, args.which) {
        (Kind::Memory, _) => {
            "\n    # Messages are gone with the process.\n    store: memory\n".to_owned()
        }
        (Kind::File, which) => {
            let shared = if which == Which::Pair {
                "    # Both members use this folder: on two machines a shared file system with locks (NFS 4).\n"
            } else {
                ""
            };
            format!("\n    store: file\n{shared}    dir: {}\n", quoted(dir))
        }
        (Kind::Sqlite, _) => sql("sqlite", dir),
        (Kind::Postgres, _) => sql("postgres", args.source.as_deref().unwrap_or_default()),
        (Kind::Mysql, _) => sql("mysql", args.source.as_deref().unwrap_or_default()),
    }
}

fn sql_init(driver: &str, source: &str) -> String {
    format!("stanby sql init -sql_driver {driver} -sql_source {}", shell_word(source))
}

/// As a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn next_steps(args: &Args, members: &[Member<'_>], paths: &[PathBuf]) -> String {
    let mut text = String::new();
    for path in paths {
        let _ = writeln!(text, "wrote {}", path.display());
    }
    text.push_str("\nNext:\n");
    let is_service = args.to == Path::new(UNITS_FOLDER);
    if args.to.starts_with("/etc") {
        let files: Vec<String> = paths.iter().map(|path| path_word(path)).collect();
        let _ = writeln!(text, "  chgrp stanby {}    # who runs the service", files.join(" "));
    }
    if is_service {
        text.push_str(&service_steps(args));
    }
    let (driver, source) = match args.store {
        Kind::Memory | Kind::File => (None, ""),
        Kind::Sqlite => (Some("sqlite"), args.dir()),
        Kind::Postgres => (Some("postgres"), args.source.as_deref().unwrap_or_default()),
        Kind::Mysql => (Some("mysql"), args.source.as_deref().unwrap_or_default()),
    };
    if let Some(driver) = driver {
        // The file is of whoever makes it, and the service writes in it.
        let user =
            if is_service && args.store == Kind::Sqlite { "runuser -u stanby -- " } else { "" };
        let _ = writeln!(text, "  {user}{}", sql_init(driver, source));
    }
    for (index, (member, path)) in members.iter().zip(paths).enumerate() {
        let place =
            args.hosts.get(index).map_or_else(String::new, |host| format!("    # on {host}"));
        let command = match (is_service, args.which) {
            (false, _) => format!("stanby -c {}", path_word(path)),
            (true, Which::Single) => "systemctl enable --now stanby".to_owned(),
            (true, Which::Pair) => format!("systemctl enable --now stanby@{}", member.name),
        };
        let _ = writeln!(text, "  {command}{place}");
    }
    for (index, member) in members.iter().enumerate() {
        let host = args.hosts.get(index).map_or_else(|| "localhost".to_owned(), |it| host_of(it));
        let port = 8222 + member.shift;
        let _ = writeln!(text, "  curl -f '{host}:{port}/streaming/healthz?ready=1'");
    }
    text
}

/// What the service needs of its machine before it starts by a unit.
fn service_steps(args: &Args) -> String {
    let mut text = String::new();
    if args.which == Which::Pair {
        text.push_str(
            "  systemctl disable --now stanby    # the single server that a package has started\n",
        );
    }
    let dir = Path::new(args.dir());
    let folder = match args.store {
        Kind::File => Some(dir),
        Kind::Sqlite => dir.parent(),
        Kind::Memory | Kind::Postgres | Kind::Mysql => None,
    };
    let Some(folder) = folder.filter(|folder| !folder.starts_with(STATE_FOLDER)) else {
        return text;
    };
    let (unit, same) = match args.which {
        Which::Single => ("stanby.service", ""),
        Which::Pair if args.hosts.is_empty() => ("stanby@.service", ""),
        Which::Pair => ("stanby@.service", "    # `id -u stanby` has to be the same on both"),
    };
    let place = format!("/etc/systemd/system/{unit}.d");
    let folder = path_word(folder);
    let _ = writeln!(text, "  install -d -o stanby -g stanby -m 750 {folder}{same}");
    let _ = writeln!(text, "  mkdir -p {place}");
    let _ = writeln!(
        text,
        r#"  printf '[Service]\nReadWritePaths="%s"\n' {folder} >{place}/store.conf"#
    );
    text.push_str("  systemctl daemon-reload\n");
    text
}

/// A path as a shell takes it.
fn path_word(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use tempfile::TempDir;

    use super::*;
    use crate::config::Config;

    fn args_of(line: &[&str]) -> Args {
        Args::try_parse_from(std::iter::once(&"stanby init").chain(line)).unwrap()
    }

    fn made(line: &[&str]) -> (TempDir, Vec<Config>) {
        let to = TempDir::new().unwrap();
        let mut args = args_of(line);
        args.to = to.path().to_owned();
        init(&args).unwrap();
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let read = |path: &Path| files::read_text(path);
        let world = World { read: &read, variable: &|_| None, secret: &|_| None, cores: 2 };
        let config = |path: &PathBuf| {
            let arguments = ["-c".to_owned(), path.display().to_string()];
            let request = options::load(Program::Streaming, &arguments, &world).unwrap();
            let Request::Serve(config) = request else { panic!("{request:?}") };
            *config
        };
        let configs = names.iter().map(config).collect();
        (to, configs)
    }

    #[test]
    fn what_is_written_holds_without_a_warning() {
        for line in [
            &["single"][..],
            &["single", "--store", "memory"],
            &["single", "--store", "sqlite", "--dir", "/tmp/a b.db"],
            &["pair"],
            &["pair", "--hosts", "a,::1", "--dir", "/mnt/\"x\" \\ #{y}"],
            &["pair", "--store", "postgres", "--source", "host=db password='a \"b\\'"],
            &["pair", "--store", "mysql", "--source", "u:p@tcp(db)/stan", "--cluster-id", "shop"],
        ] {
            let (_to, configs) = made(line);
            for config in &configs {
                assert_eq!(config.warnings, Vec::<String>::new(), "{line:?}");
                assert_eq!(config.start_error, None, "{line:?}");
                assert_eq!(config.streaming.ft_group.is_some(), line[0] == "pair");
            }
            assert_eq!(configs.len(), if line[0] == "pair" { 2 } else { 1 });
        }
    }

    #[test]
    fn what_was_given_arrives_as_it_is() {
        let dir = "/mnt/\"x\" \\ #{y}";
        let (_to, configs) = made(&["pair", "--dir", dir, "--cluster-id", "shop"]);
        for config in &configs {
            assert_eq!(config.streaming.directory.as_deref(), Some(Path::new(dir)));
            assert_eq!(config.streaming.cluster_id, "shop");
        }
        assert_eq!((configs[0].core.port, configs[1].core.port), (4222, 4223));
        let route =
            |index: usize| configs[index].core.cluster.as_ref().unwrap().routes[0].address.clone();
        assert_eq!(
            (route(0), route(1)),
            ("127.0.0.1:6223".to_owned(), "127.0.0.1:6222".to_owned())
        );
        let source = "host=db password='a \"b\\'";
        let (_to, configs) = made(&["single", "--store", "postgres", "--source", source]);
        assert_eq!(configs[0].streaming.sql.source, source);
    }

    #[test]
    fn the_folder_is_made_and_the_service_must_be_able_to_read_it() {
        let to = TempDir::new().unwrap();
        let mut args = args_of(&["single"]);
        args.to = to.path().join("a/b");
        let said = init(&args).unwrap();
        assert!(args.to.join("stanby.conf").exists());
        assert!(!said.contains("chgrp"), "{said}");
        args.to = PathBuf::from("/etc/elsewhere");
        let said = next_steps(&args, &[], &[args.to.join("stanby.conf")]);
        assert!(said.contains("chgrp stanby /etc/elsewhere/stanby.conf"), "{said}");
    }

    fn steps_of_a_service(line: &[&str], names: &[&'static str]) -> String {
        let mut args = args_of(line);
        args.to = PathBuf::from(UNITS_FOLDER);
        let member = |name: &&'static str| Member { name, shift: 0, other: None };
        let members: Vec<Member<'_>> = names.iter().map(member).collect();
        let paths: Vec<PathBuf> =
            names.iter().map(|name| args.to.join(format!("{name}.conf"))).collect();
        next_steps(&args, &members, &paths)
    }

    /// Goal: who follows the steps has a service that may read its file and write its store.
    #[test]
    fn beside_the_units_the_next_steps_are_those_of_the_service() {
        let pair = ["stanby-1", "stanby-2"];
        let said = steps_of_a_service(&["pair", "--hosts", "a,b", "--dir", "/mnt/stan"], &pair);
        let mut steps = said.lines().map(str::trim).skip_while(|line| *line != "Next:").skip(1);
        for step in [
            "chgrp stanby /etc/stanby/stanby-1.conf /etc/stanby/stanby-2.conf    # who runs the service",
            "systemctl disable --now stanby    # the single server that a package has started",
            "install -d -o stanby -g stanby -m 750 /mnt/stan    # `id -u stanby` has to be the same on both",
            "mkdir -p /etc/systemd/system/stanby@.service.d",
            r#"printf '[Service]\nReadWritePaths="%s"\n' /mnt/stan >/etc/systemd/system/stanby@.service.d/store.conf"#,
            "systemctl daemon-reload",
            "systemctl enable --now stanby@stanby-1    # on a",
            "systemctl enable --now stanby@stanby-2    # on b",
        ] {
            assert_eq!(steps.next(), Some(step), "{said}");
        }
    }

    #[test]
    fn a_service_is_given_what_its_store_needs_and_no_more() {
        let said = steps_of_a_service(&["single"], &["stanby"]);
        assert!(said.contains("  systemctl enable --now stanby\n"), "{said}");
        assert!(!said.contains("install -d") && !said.contains("disable"), "{said}");
        let said = steps_of_a_service(&["single", "--store", "sqlite"], &["stanby"]);
        let made = "  runuser -u stanby -- stanby sql init -sql_driver sqlite";
        assert!(said.contains(made) && !said.contains("install -d"), "{said}");
        let line = ["pair", "--store", "postgres", "--source", "host=db", "--hosts", "a,b"];
        let said = steps_of_a_service(&line, &["stanby-1", "stanby-2"]);
        assert!(said.contains("  stanby sql init -sql_driver postgres"), "{said}");
        assert!(!said.contains("install -d"), "{said}");
    }

    /// Goal: a file that is there stays, and no half of a pair is left.
    #[test]
    fn nothing_is_written_over() {
        let to = TempDir::new().unwrap();
        let second = to.path().join("stanby-2.conf");
        std::fs::write(&second, "mine").unwrap();
        let mut args = args_of(&["pair"]);
        args.to = to.path().to_owned();
        let error = init(&args).unwrap_err().to_string();
        assert!(error.contains("stanby-2.conf") && error.contains("exists"), "{error}");
        assert_eq!(std::fs::read_to_string(&second).unwrap(), "mine");
        assert!(!to.path().join("stanby-1.conf").exists());
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        for (line, said) in [
            (&["pair", "--store", "memory"][..], "--store file"),
            (&["single", "--store", "postgres"], "--source is missing"),
            (&["pair", "--hosts", "a"], "--hosts a,b"),
            (&["single", "--hosts", "a,b"], "--hosts a,b"),
            (&["pair", "--hosts", "a,a"], "leave --hosts out"),
            (&["pair", "--hosts", "a b,c"], "cannot stand in a configuration"),
            (&["single", "--dir", "a\nb"], "cannot stand in a configuration"),
            (&["pair", "--hosts", "a:4222,b"], "cannot stand in a configuration"),
            (&["pair", "--hosts", "fe80::1%eth0,b"], "cannot stand in a configuration"),
            (&["pair", "--hosts", "a,A"], "leave --hosts out"),
            (&["pair", "--hosts", "localhost,127.0.0.1"], "leave --hosts out"),
            (&["pair", "--store", "sqlite", "--hosts", "a,b"], "on one machine"),
            (&["single", "--source", "x"], "it is for postgres and mysql"),
            (&["single", "--store", "memory", "--dir", "x"], "it is for file and sqlite"),
            (&["single", "--cluster-id", "a b"], "would not hold"),
            (&["single", "--cluster-id", "a.>"], "would not hold"),
        ] {
            let error = init(&args_of(line)).unwrap_err().to_string();
            assert!(error.contains(said), "{line:?}: {error}");
        }
    }
}
