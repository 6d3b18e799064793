//! `stanby drill`: failover by a script, and what clients were told of it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;

use super::connection::{self, printable, printable_lines};
use super::output;
use super::table::{listed, table};
use crate::base::files;
use crate::base::random::Random;
use crate::base::world;
use crate::client::Options;
use crate::drill::course;
use crate::drill::expectation::{Expectation, Quantity};
use crate::drill::report::{self, Report};
use crate::drill::scenario::{self, Attach, Keeper, Members, Scenario, Store};
use crate::drill::shipped::{self, SHIPPED};

/// Test failover by a scenario: start or attach to members, load them, disturb them, and judge
///
/// It publishes with clients of its own, keeps a book of every ack, does what the scenario says
/// (kills, pauses, hand-overs …), reads everything back at the end, and says what does not hold.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby drill", after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("what").required(true))]
struct Args {
    /// A scenario: the name of one that ships, or a file (with its `.toml`)
    #[arg(group = "what")]
    scenario: Option<String>,
    /// The usual drill of a pair: its active member is killed three times
    #[arg(long, group = "what")]
    pair: bool,
    /// List the scenarios that ship
    #[arg(long, group = "what")]
    list: bool,
    /// Print a scenario that ships, to begin one's own with
    #[arg(long, group = "what", value_name = "NAME")]
    show: Option<String>,
    /// Drill this server program, also a nats-streaming-server
    #[arg(long, value_name = "PATH")]
    server: Option<String>,
    /// Over another store: file, sqlite, postgres or mysql
    #[arg(long, value_name = "KIND", value_parser = scenario::keeper)]
    store: Option<Keeper>,
    /// Source of the database, for postgres and mysql; what is in it stays
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Over an external NATS server, which is started: this program (a nats-server, or stanby)
    #[arg(long, value_name = "PATH")]
    external: Option<String>,
    /// So many groups over it, each with its part of the channels; they take their turns by round
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=4))]
    partitions: Option<u8>,
    /// One more argument of each member, as --argument=--loops=2
    #[arg(long, value_name = "ARGUMENT")]
    argument: Vec<String>,
    /// How often the steps are done
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Expect this, in the place of what the scenario expects of the same
    #[arg(long, value_name = "EXPECTATION", value_parser = Expectation::parse)]
    expect: Vec<Expectation>,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    attach: AttachArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// How a database is stopped that the drill does not run.
#[derive(Debug, clap::Args)]
struct DatabaseArgs {
    /// Command that stops the database, for `stop the database`
    #[arg(long, value_name = "COMMAND")]
    stop_database: Option<String>,
    /// Command that starts the database, for `start the database`
    #[arg(long, value_name = "COMMAND")]
    start_database: Option<String>,
}

/// Members that run already.
#[derive(Debug, clap::Args)]
struct AttachArgs {
    /// Start no members: these addresses are drilled
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', requires = "monitor")]
    #[arg(conflicts_with_all = ["server", "store", "source", "stop_database", "start_database"])]
    #[arg(conflicts_with_all = ["external", "partitions", "argument"])]
    attach: Vec<String>,
    /// Their monitoring addresses, in the same order
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', requires = "attach")]
    monitor: Vec<String>,
    /// Their cluster ID
    #[arg(short, long, value_name = "ID", default_value = "test-cluster")]
    cluster: String,
    /// Command that sends `{signal}` (KILL, TERM, STOP, CONT) to member `{member}` (1, 2 …)
    #[arg(long, value_name = "COMMAND", requires = "attach")]
    signal_command: Option<String>,
    /// Command that starts member `{member}`
    #[arg(long, value_name = "COMMAND", requires = "attach")]
    start_command: Option<String>,
    /// Command that has member `{member}`, which is active, step down
    #[arg(long, value_name = "COMMAND", requires = "attach")]
    step_down_command: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
}

/// Who clients are to members that run already, as for `stanby pub`; what is not given is taken
/// from the environment. A user may also stand in the addresses.
#[derive(Debug, clap::Args)]
struct LoginArgs {
    /// User name [variable: `NATS_USER`]
    #[arg(long, requires = "attach")]
    user: Option<String>,
    /// Password of the user [variable: `NATS_PASSWORD`]
    #[arg(long, requires = "attach")]
    password: Option<String>,
    /// File with the credentials of a user (JWT and seed) [variable: `NATS_CREDS`]
    #[arg(long, value_name = "FILE", requires = "attach")]
    creds: Option<PathBuf>,
    /// File with the seed of a user's key [variable: `NATS_NKEY`]
    #[arg(long, value_name = "FILE", requires = "attach", conflicts_with = "creds")]
    nkey: Option<PathBuf>,
    /// Speak TLS, and trust the certificates of this file [variable: `NATS_CA`]
    #[arg(long, value_name = "FILE", requires = "attach")]
    tlsca: Option<PathBuf>,
    /// Speak TLS, and show this certificate [variable: `NATS_CERT`]
    #[arg(long, value_name = "FILE", requires = "attach")]
    tlscert: Option<PathBuf>,
    /// Key of that certificate [variable: `NATS_KEY`]
    #[arg(long, value_name = "FILE", requires = "attach")]
    tlskey: Option<PathBuf>,
}

/// What is made of the report.
#[derive(Debug, clap::Args)]
struct OutputArgs {
    /// Print the report as a JSON document
    #[arg(long)]
    json: bool,
    /// Write it as JUnit XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write it as a page with a timeline too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Keep the store and the logs of the members; they are kept too where something does not hold
    #[arg(long)]
    keep: bool,
}

const EXAMPLES: &str = "Examples:
  stanby drill --pair
  stanby drill hung-active --html report.html
  stanby drill kill-the-active --server /usr/bin/nats-streaming-server --expect 'take_over < 5s'
  stanby drill kill-the-active --external /usr/sbin/nats-server
  stanby drill mine.toml --store postgres --source 'dbname=drill sslmode=disable' --junit drill.xml
  stanby drill kill-the-active --attach a:4222,b:4222 --monitor a:8222,b:8222 \\
      --signal-command 'docker kill -s {signal} stan-{member}' --start-command 'docker start stan-{member}'
Exit code: 0 if all that is expected holds, 1 if something does not, 2 for a scenario or options that
cannot be understood, 3 if the drill could not be done or was interrupted, or a report not be written.";

/// Something that was expected does not hold.
const NOT_HELD: u8 = 1;

/// A scenario or options that cannot be understood.
const USAGE: u8 = 2;

/// It could not be done.
const NOT_DONE: u8 = 3;

/// Names of lost messages and faults in the table; the JSON document has more.
const NAMED_MAX: usize = 20;

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = connection::parse_or::<Args>("stanby drill", args, ExitCode::from(USAGE));
    let args = match args {
        Ok(args) => args,
        Err(code) => return code,
    };
    let (text, code) = match done(&args) {
        Ok((text, code)) => (text, code),
        Err((why, code)) => {
            // Nothing is left to be told to anybody if the terminal is gone.
            let _ = writeln!(io::stderr(), "stanby drill: {}", printable_lines(&why));
            return ExitCode::from(code);
        }
    };
    output::end(text.as_bytes(), ExitCode::from(code))
}

/// What is printed and the exit code, or why there is nothing to print.
type Done = Result<(String, u8), (String, u8)>;

fn done(args: &Args) -> Done {
    let misunderstood = |text: String| (text, USAGE);
    if args.list {
        return list(args.output.json).map(|text| (text, 0)).map_err(misunderstood);
    }
    if let Some(name) = &args.show {
        return Ok((find(name).map_err(misunderstood)?.to_owned(), 0));
    }
    let scenario = scenario(args).map_err(misunderstood)?;
    args.output.check().map_err(|why| (why, NOT_DONE))?;
    drill(args, &scenario)
}

fn find(name: &str) -> Result<&'static str, String> {
    let found = shipped::find(name);
    found.map(|shipped| shipped.text).ok_or_else(|| {
        let names: Vec<&str> = SHIPPED.iter().map(|shipped| shipped.name).collect();
        format!(
            "no scenario that ships is called {name:?}: {}; a file is named with its .toml",
            names.join(", ")
        )
    })
}

fn list(is_json: bool) -> Result<String, String> {
    let parse = |shipped: &shipped::Shipped| {
        scenario::parse(shipped.text).map_err(|error| format!("{}: {error}", shipped.name))
    };
    let all = SHIPPED.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if is_json {
        let documents: Vec<_> = all
            .iter()
            .map(|scenario| serde_json::json!({ "name": scenario.name, "about": scenario.about }))
            .collect();
        return Ok(connection::document(&documents));
    }
    let rows = all.into_iter().map(|scenario| [scenario.name, scenario.about]);
    Ok(listed(["SCENARIO", "WHAT IT SHOWS"], rows))
}

/// The scenario that is meant, with what the options change.
fn scenario(args: &Args) -> Result<Scenario, String> {
    let name = args.scenario.as_deref().unwrap_or(shipped::PAIR);
    let is_file = name.contains('/') || Path::new(name).extension().is_some_and(|it| it == "toml");
    let text = match is_file {
        false => find(name)?.to_owned(),
        true => {
            let bytes = files::read_text(Path::new(name));
            let bytes = bytes.map_err(|error| format!("{name}: {error}"))?;
            String::from_utf8(bytes).map_err(|_| format!("{name}: it is no text in UTF-8"))?
        }
    };
    let mut scenario = scenario::parse(&text).map_err(|error| format!("{name}: {error}"))?;
    if scenario.attach.is_some()
        && let Some(option) = args.of_members()
    {
        return Err(format!(
            "{name}: attach: these members run already, and {option} is for those that the drill \
             starts"
        ));
    }
    change(&mut scenario, args);
    scenario.check().map_err(|error| format!("{name}: {error}"))?;
    Ok(scenario)
}

impl Args {
    /// An option that says something of members that the drill starts, if there is one.
    fn of_members(&self) -> Option<&'static str> {
        let DatabaseArgs { stop_database, start_database } = &self.database;
        let given = [
            (self.server.is_some(), "--server"),
            (self.store.is_some(), "--store"),
            (self.source.is_some(), "--source"),
            (self.external.is_some(), "--external"),
            (self.partitions.is_some(), "--partitions"),
            (!self.argument.is_empty(), "--argument"),
            (stop_database.is_some(), "--stop-database"),
            (start_database.is_some(), "--start-database"),
        ];
        given.into_iter().find(|(is_given, _)| *is_given).map(|(_, option)| option)
    }
}

/// What is said on the command line goes before what the file says.
fn change(scenario: &mut Scenario, args: &Args) {
    if let Some(rounds) = args.rounds {
        scenario.rounds = usize::from(rounds);
    }
    for expectation in &args.expect {
        scenario.expect.retain(|other| other.quantity != expectation.quantity);
    }
    scenario.expect.extend(&args.expect);
    if !args.attach.attach.is_empty() {
        let AttachArgs { attach, monitor, cluster, .. } = &args.attach;
        scenario.members = Members::default();
        scenario.store = Store::default();
        scenario.attach = Some(Attach {
            members: attach.clone(),
            monitors: monitor.clone(),
            cluster: cluster.clone(),
            signal: args.attach.signal_command.clone(),
            start: args.attach.start_command.clone(),
            step_down: args.attach.step_down_command.clone(),
        });
        return;
    }
    change_members(&mut scenario.members, args);
    let store = &mut scenario.store;
    if let Some(keeper) = args.store {
        store.keeper = keeper;
        store.source = None;
    }
    let given = |given: &Option<String>, found: &mut Option<String>| {
        if given.is_some() {
            found.clone_from(given);
        }
    };
    given(&args.source, &mut store.source);
    given(&args.database.stop_database, &mut store.stop);
    given(&args.database.start_database, &mut store.start);
}

fn change_members(members: &mut Members, args: &Args) {
    if let Some(server) = &args.server {
        members.server = Some(server.clone());
    }
    if let Some(external) = &args.external {
        members.external = Some(external.clone());
    }
    if let Some(partitions) = args.partitions {
        members.partitions = usize::from(partitions);
    }
    members.arguments.extend_from_slice(&args.argument);
}

fn drill(args: &Args, scenario: &Scenario) -> Done {
    let not_done = |text: String| (text, NOT_DONE);
    let stop = connection::stop_flag().map_err(|error| not_done(error.to_string()))?;
    let login = login(args, scenario).map_err(not_done)?;
    let folder = folder().map_err(|error| not_done(format!("cannot make a folder: {error}")))?;
    let is_watched = io::stderr().is_terminal();
    let mut tell = |text: &str| {
        if is_watched {
            // Progress is not worth an error.
            let _ = write!(io::stderr(), "\r\x1b[K{}", printable(text));
        }
    };
    let result = course::run(scenario, (&folder, &login), &stop, &mut tell);
    if is_watched {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    let kept = format!("store and logs are kept in {}", folder.display());
    match result {
        Err(error) => {
            let text = error.to_string();
            let mut kept = format!("\n{kept}");
            // Before the first member was started there is nothing to look at.
            if fs::remove_dir(&folder).is_ok() {
                kept = String::new();
            }
            if let Some(path) = &args.output.junit
                && let Err(why) = write(path, &report::junit_of_error(&scenario.name, &text))
            {
                kept += &format!("\n{why}");
            }
            Err(not_done(text + &kept))
        }
        Ok(report) => {
            let is_written = args.output.write_all(&report);
            let is_kept = args.output.keep || !report.held;
            if !is_kept {
                // What cannot be removed harms nobody.
                let _ = fs::remove_dir_all(&folder);
            }
            let code = match (is_written, report.held, report.interrupted) {
                (false, _, _) | (true, false, true) => NOT_DONE,
                (true, true, _) => 0,
                (true, false, false) => NOT_HELD,
            };
            if args.output.json {
                return Ok((connection::document(&report), code));
            }
            let kept = if is_kept { format!("{kept}\n") } else { String::new() };
            Ok((shown(&report) + &kept, code))
        }
    }
}

/// How clients log in: nobody asks at members that the drill starts.
fn login(args: &Args, scenario: &Scenario) -> Result<Options, String> {
    let Some(attach) = &scenario.attach else { return Ok(Options::new(&[], "", "")) };
    let LoginArgs { user, password, creds, nkey, tlsca, tlscert, tlskey } = &args.attach.login;
    let login = connection::LoginArgs {
        server: attach.members.clone(),
        user: user.clone(),
        password: password.clone(),
        token: None,
        creds: creds.clone(),
        nkey: nkey.clone(),
        tlsca: tlsca.clone(),
        tlscert: tlscert.clone(),
        tlskey: tlskey.clone(),
        context: None,
    };
    login.load(&attach.cluster, "").map_err(|error| error.to_string())
}

/// A folder of our own, for logs, control sockets and a store.
fn folder() -> io::Result<PathBuf> {
    let name = Random::new(world::entropy()?).unique_id();
    let name = format!("stanby-drill-{}", name.get(..8).unwrap_or(&name));
    let path = std::env::temp_dir().join(name);
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

impl OutputArgs {
    /// Sees whether the files can be written, before anything is begun; what is in them stays.
    fn check(&self) -> Result<(), String> {
        for path in [&self.junit, &self.html].into_iter().flatten() {
            let is_new = fs::symlink_metadata(path).is_err();
            let opened = files::open_to_write(path, files::Access::Append(0o644));
            opened.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            if is_new {
                // A drill that cannot be done leaves no empty page.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// Writes the files; whether all could be, and if not, says why. What was found is printed all
    /// the same.
    fn write_all(&self, report: &Report) -> bool {
        let junit = self.junit.as_ref().map(|path| write(path, &report::junit(report)));
        let html = self.html.as_ref().map(|path| write(path, &report::page(report)));
        let mut is_written = true;
        for why in [junit, html].into_iter().flatten().filter_map(Result::err) {
            is_written = false;
            // Nothing is left to be told to anybody if the terminal is gone.
            let _ = writeln!(io::stderr(), "stanby drill: {}", printable(&why));
        }
        is_written
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let file = files::open_to_write(path, files::Access::Replace(0o644));
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// The report as people read it.
fn shown(report: &Report) -> String {
    let store = report.store.map(|store| format!(" over {store}")).unwrap_or_default();
    let Report { scenario, server, members, .. } = report;
    let mut text = printable(&format!("{scenario}: {members} member(s){store}: {server}")) + "\n\n";
    if !report.events.is_empty() {
        let rows = report.events.iter().map(|event| {
            let first = match event.first_ack_ms {
                Some(millis) => format!("{millis:.1} ms"),
                None if event.disturbs => "never".to_owned(),
                None => String::new(),
            };
            [format!("{:.2} s", event.at_ms / 1_000.0), event.what.clone(), first]
        });
        text += &(listed(["AT", "STEP", "FIRST ACK AFTER IT"], rows) + "\n");
    }
    if !report.expectations.is_empty() {
        let rows = report.expectations.iter().map(|judged| {
            let found = judged.found.clone().unwrap_or_else(|| "unknown".to_owned());
            let held = if judged.held { "held" } else { "FAILED" };
            [judged.expected.clone(), found, held.to_owned()]
        });
        text += &(listed(["EXPECTED", "FOUND", ""], rows) + "\n");
    }
    let found = |quantity: Quantity| report.shown(quantity);
    let all = [Quantity::Published, Quantity::Acked, Quantity::Failed, Quantity::Lost]
        .into_iter()
        .chain([Quantity::Twice, Quantity::Redelivered, Quantity::Reconnects])
        .map(|quantity| format!("{} {}", found(quantity), quantity.name()));
    text += &(all.collect::<Vec<_>>().join(", ") + "\n");
    let times = [Quantity::Ack, Quantity::AckP99, Quantity::Pause];
    let times = times.map(|quantity| format!("{} {}", quantity.name(), found(quantity)));
    text += &(times.join(", ") + "\n");
    text += &named("lost", &report.lost);
    text += &named("wrong", &report.faults);
    // Whoever published them knows; they are named where nobody expected them.
    let is_expected = report
        .expectations
        .iter()
        .all(|judged| judged.held || !judged.expected.starts_with(Quantity::Failed.name()));
    if !is_expected {
        text += &named("failed", &report.failures);
    }
    text + &format!("verdict: {}\n", printable(&report.verdict()))
}

fn named(what: &str, lines: &[String]) -> String {
    let mut rows: Vec<Vec<String>> = lines
        .iter()
        .take(NAMED_MAX)
        .map(|line| vec![format!("{what}:"), printable(line)])
        .collect();
    if NAMED_MAX < lines.len() {
        let left = lines.len() - NAMED_MAX;
        // They are no more than a thousand, however many there were.
        let more = format!("… and {left} more that --json names");
        rows.push(vec![format!("{what}:"), more]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        let words = std::iter::once("stanby drill").chain(words.iter().copied());
        <Args as clap::Parser>::try_parse_from(words).expect("options")
    }

    #[test]
    fn options_go_before_the_file() {
        let args = args(&[
            "kill-the-active",
            "--rounds",
            "7",
            "--expect",
            "lost = 1",
            "--store",
            "mysql",
            "--source",
            "x",
            "--server",
            "/bin/s",
        ]);
        let scenario = scenario(&args).expect("a scenario");
        assert_eq!((scenario.rounds, scenario.store.keeper), (7, Keeper::Mysql));
        assert_eq!(scenario.members.server.as_deref(), Some("/bin/s"));
        let lost: Vec<String> = scenario.expect.iter().map(ToString::to_string).collect();
        assert_eq!(lost.iter().filter(|text| text.starts_with("lost")).count(), 1);
        assert!(lost.contains(&"lost = 1".to_owned()));
    }

    #[test]
    fn what_is_attached_has_no_members_of_ours() {
        let words = ["kill-the-active", "--attach", "a:1,b:1", "--monitor", "a:2,b:2"];
        let error = scenario(&args(&words)).expect_err("nobody could be killed");
        assert!(error.contains("--signal-command"), "{error}");
        let commands =
            ["--signal-command", "x {signal} {member}", "--start-command", "y {address}"];
        let scenario = scenario(&args(&[&words[..], &commands[..]].concat())).expect("whole");
        assert_eq!(scenario.member_count(), 2);
    }

    #[test]
    fn a_scenario_that_is_not_there_is_named_with_those_that_are() {
        let error = scenario(&args(&["kill-the-actve"])).expect_err("a typing error");
        assert!(error.contains("\"kill-the-actve\": kill-the-active, term-"), "{error}");
        let error = scenario(&args(&["/none/mine.toml"])).expect_err("no file");
        assert!(error.starts_with("/none/mine.toml: "), "{error}");
    }
}
