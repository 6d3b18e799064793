//! `docs/transcripts.md` is what the commands print: on an empty server, on one with channels, on a
//! standby, on the store of a stopped one. `STANBY_TRANSCRIPTS=write` writes it anew.
//!
//! With `STANBY_TRANSCRIPTS=full` (`tests/run --full transcripts`) commands are tried on 10,000
//! channels; `STANBY_GO_SERVER` names a Go streaming server at which those are tried that make
//! sense.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "transcripts/plain.rs"]
mod plain;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::plain::Plain;
use crate::server::{Launch, READY, Server, binary, free_port, wait_for};
use crate::stan::Stan;

const HEAD: &str = "# What the commands print

Made by `tests/transcripts.rs` of real runs, and compared with them by each run of the tests. What
differs from run to run (times, numbers of processes, ports, folders, IDs) is written the same.
";

/// Whether a command says how far it is, which it does where it takes longer than a second.
fn is_progress(line: &str) -> bool {
    let begins = ["trying ", "looking at ", "looked at ", "working at "];
    begins.iter().any(|begin| line.starts_with(begin))
        || (line.contains(" of ") && line.contains(" messages") && !line.contains(':'))
}

/// What is run, and what it printed.
struct Transcript {
    text: String,
    plain: Plain,
}

impl Transcript {
    fn section(&mut self, title: &str) {
        let _ = write!(self.text, "\n## {title}\n");
    }

    /// Runs a command as a person types it, with what `hidden` adds that a person has no need of.
    #[track_caller]
    fn run(&mut self, line: &str, hidden: &[&str]) -> String {
        let output = self.command(line, hidden).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let said: String = said.split_inclusive('\n').filter(|line| !is_progress(line)).collect();
        let printed = String::from_utf8(output.stdout).unwrap() + &said;
        let printed = self.plain.of(&printed);
        let shown = self.plain.of(line);
        let shown = shown.trim_end();
        let _ = write!(self.text, "\n```text\n$ stanby {shown}\n{printed}");
        match output.status.code() {
            Some(0) => self.text.push_str("```\n"),
            code => {
                let _ = write!(self.text, "(exit code {})\n```\n", code.unwrap_or(-1));
            }
        }
        printed
    }

    fn command(&self, line: &str, hidden: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(line.split(' ')).args(hidden);
        for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CONTEXT", "HOME"] {
            command.env_remove(name);
        }
        command.env_remove("XDG_CONFIG_HOME");
        command
    }

    /// Makes what is in this server's own words the same for each run.
    fn know(&mut self, server: &Server, name: &str) {
        let id = server.log.wait("ServerID: ");
        let id = id.rsplit("ServerID: ").next().unwrap().trim().to_owned();
        let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
        self.plain.same(id, name);
        self.plain.same(format!("{} on host", server.pid()), "4711 on host");
        self.plain.same(format!("process {}", server.pid()), "process 4711");
        self.plain.same(format!(" on {host}"), " on host");
    }
}

fn socket(launch: &Launch) -> PathBuf {
    launch.folder().join("control.sock")
}

fn on_an_empty_server(transcript: &mut Transcript) {
    let launch = Launch::new(&[]).file_store(None);
    let launch = launch.clone().arg("-control_socket").arg(socket(&launch));
    transcript.plain.same(launch.folder().join("store").display().to_string(), "/var/lib/stanby");
    transcript.plain.same(launch.http.to_string(), "8222");
    let server = launch.start();
    transcript.know(&server, "SERVER-A");
    let socket = socket(&launch).display().to_string();
    let hidden = ["--socket", socket.as_str()];
    transcript.section("On an empty server");
    for line in ["status", "channel ls", "subscription ls", "durable ls", "client ls"] {
        transcript.run(line, &hidden);
    }
    for line in ["channel info orders", "msg ls orders", "pending orders", "step-down"] {
        transcript.run(line, &hidden);
    }
    transcript.run(&format!("top --once http://127.0.0.1:{}", launch.http), &[]);
}

const USERS: &str = "authorization { users: [{user: ops, password: secret}] }\n\
                     streaming { administrators: [ops] }\n";

/// The store that is left.
fn on_a_server_with_channels(transcript: &mut Transcript) -> Launch {
    let launch = Launch::new(&[]).config(USERS).file_store(None);
    let launch = launch.clone().arg("-control_socket").arg(socket(&launch));
    let folder = launch.folder().display().to_string();
    transcript.plain.same(folder.clone(), "/tmp");
    transcript.plain.same(format!("{folder}/store"), "/var/lib/stanby");
    transcript.plain.same(format!("{folder}/backup"), "/var/backups/stanby");
    for (port, shown) in [(launch.port, "4222"), (launch.http, "8222")] {
        transcript.plain.same(port.to_string(), shown);
    }
    let mut server = launch.start();
    transcript.know(&server, "SERVER-A");
    let mut client = Stan::bare(launch.port, "\"user\":\"ops\",\"pass\":\"secret\"");
    client.register("test-cluster", "filler").unwrap();
    for channel in ["invoices", "orders.de", "orders.fr", "orders.uk"] {
        client.fill(channel, 1..=3);
    }
    client.close().unwrap();
    let url = format!("nats://ops:secret@127.0.0.1:{}", launch.port);
    let socket = socket(&launch).display().to_string();
    let hidden = ["--socket", socket.as_str()];
    transcript.section("On a server with channels");
    transcript.run(&format!("pub --server {url} orders hello"), &[]);
    transcript.run(&format!("pub --server {url} -n 4 -a orders hello"), &[]);
    let sub = format!("sub --server {url} orders --all --durable billing -i worker -n 5");
    transcript.run(&sub, &[]);
    for line in [
        "channel ls",
        "channel ls orders.* --json",
        "channel info orders",
        "msg ls orders -n 2",
        "msg get orders 3",
        "msg get orders 30",
        "msg find orders ell -n 1",
        "durable ls",
        "durable reset orders billing --to first",
        "subscription ls orders",
        "channel purge orders --keep 2",
        "channel purge invoices",
        "channel rm orders",
        "durable rm orders billing",
        "channel rm orders",
        "client rm worker",
    ] {
        transcript.run(line, &hidden);
    }
    transcript.run(&format!("channel ls --server {url}"), &[]);
    transcript.run(&format!("top --once http://127.0.0.1:{}", launch.http), &[]);
    transcript.run(&format!("backup {folder}/backup"), &hidden);
    server.stop(Signal::SIGTERM);
    transcript.run(&format!("channel ls --server {url}"), &[]);
    launch
}

fn on_a_store(transcript: &mut Transcript, launch: &Launch) {
    let folder = launch.folder().display();
    transcript.section("On the store of a stopped server");
    transcript.run(&format!("check {folder}/store"), &[]);
    let init = format!("sql init --sql_driver sqlite --sql_source {folder}/stanby.db");
    transcript.run(&init, &[]);
    transcript.run(&format!("check --lock sqlite:{folder}/stanby.db"), &[]);
    transcript.run(&format!("copy {folder}/store sqlite:{folder}/stanby.db"), &[]);
    transcript.run(&format!("restore {folder}/backup {folder}/restored"), &[]);
    transcript.run("check /nowhere", &[]);
}

fn on_a_standby(transcript: &mut Transcript) {
    let folder = tempfile::tempdir().unwrap();
    let (store, ports) = (folder.path().join("store"), [free_port(), free_port()]);
    transcript.plain.same(folder.path().display().to_string(), "/mnt/shared");
    let member = |own: usize| {
        let cluster = format!("nats://127.0.0.1:{}", ports[own]);
        let routes = format!("nats://127.0.0.1:{}", ports[1 - own]);
        let launch = Launch::new(&["-ft_group", "g", "-cluster", &cluster, "-routes", &routes]);
        let socket = folder.path().join(format!("{own}.sock"));
        launch.file_store(Some(&store)).arg("-control_socket").arg(socket).spawn()
    };
    let active = member(0);
    active.log.wait(READY);
    transcript.know(&active, "SERVER-A");
    Stan::connect(active.launch.port, "me").fill("orders", 1..=5);
    let standby = member(1);
    transcript.know(&standby, "SERVER-B");
    let socket = folder.path().join("1.sock").display().to_string();
    let hidden = ["--socket", socket.as_str()];
    wait_for("both are ready", || {
        let output = transcript.command("status", &hidden).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let is_ready = |line: &&str| line.ends_with(" 1       yes");
        (text.lines().filter(is_ready).count() == 2).then_some(())
    });
    transcript.section("On a standby");
    transcript.run("status", &hidden);
    transcript.run("channel ls", &hidden);
    transcript.run("step-down", &hidden);
}

fn is_full() -> bool {
    std::env::var("STANBY_TRANSCRIPTS").is_ok_and(|it| it == "full")
}

/// Nobody waits longer for a command, whatever there is. This is a figure of the machine, so only
/// the whole form holds a command against it.
const PRINTED_WITHIN: Duration = Duration::from_secs(10);

/// What a command prints that succeeds, and soon.
fn printed(transcript: &Transcript, line: &str, hidden: &[&str]) -> String {
    let begun = Instant::now();
    let output = transcript.command(line, hidden).output().unwrap();
    let text = String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap();
    assert!(output.status.success(), "{line}: {text}");
    let took = begun.elapsed();
    assert!(!is_full() || took < PRINTED_WITHIN, "{line} has taken {took:?}");
    text
}

/// Goal: with very many channels each command is as much of use as with few.
#[test]
fn commands_are_of_use_with_very_many_channels() {
    let count = if is_full() { 10_000 } else { 300 };
    let launch = Launch::new(&["-mc", "0"]);
    let launch = launch.clone().arg("-control_socket").arg(socket(&launch));
    let server = launch.start();
    let mut client = Stan::connect(launch.port, "filler");
    for number in 0..count {
        client.publish(format!("load.{number:05}"), b"hello").unwrap();
    }
    let _sub = client.subscribe(stan::all("load.00007"));
    let transcript = Transcript { text: String::new(), plain: Plain::default() };
    let socket = socket(&launch).display().to_string();
    let hidden = ["--socket", socket.as_str()];
    let run = |line: &str| printed(&transcript, line, &hidden);
    assert_eq!(run("channel ls").lines().count(), count + 1);
    let listed: serde_json::Value = serde_json::from_str(&run("channel ls --json")).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), count);
    for (line, lines, has) in [
        ("channel ls load.00007", 2, "load.00007"),
        ("channel info load.00007", 0, "filler"),
        ("subscription ls", 2, "load.00007"),
        ("subscription ls load.00007", 2, "filler"),
        ("client ls", 2, "filler"),
        ("msg ls load.00009", 2, "hello"),
        ("msg find load.00009 ell", 2, "hello"),
        ("pending load.00007", 0, "filler"),
        ("channel purge load.00009", 1, "1 is left"),
        ("channel rm load.00009", 1, "load.00009"),
        ("status", 0, "active"),
    ] {
        let text = run(line);
        assert!(text.contains(has), "{line}: {text}");
        assert!(lines == 0 || text.lines().count() == lines, "{line}: {text}");
    }
    assert_eq!(run("channel ls").lines().count(), count);
    let url = format!("http://127.0.0.1:{}", launch.http);
    let text = printed(&transcript, &format!("top --once {url}"), &[]);
    assert!(text.contains(&format!("channels {}", count - 1)), "{text}");
    drop(server);
}

/// Goal: what makes sense at a Go server works there, and the rest says why it does not.
#[test]
fn commands_at_a_go_server() {
    let Some(program) = std::env::var_os("STANBY_GO_SERVER") else { return };
    let launch = Launch::new(&[]).program(Path::new(&program));
    let _server = launch.start();
    let transcript = Transcript { text: String::new(), plain: Plain::default() };
    let url = format!("nats://127.0.0.1:{}", launch.port);
    printed(&transcript, &format!("pub --server {url} orders hello"), &[]);
    let text = printed(&transcript, &format!("sub --server {url} orders --all -n 1"), &[]);
    assert!(text.contains("sequence:1 subject:\"orders\" data:\"hello\""), "{text}");
    let pages = format!("http://127.0.0.1:{}", launch.http);
    let text = printed(&transcript, &format!("top --once {pages}"), &[]);
    assert!(text.contains("orders   1 "), "{text}");
    for line in ["channel ls", "client ls", "msg ls orders"] {
        let output = transcript.command(&format!("{line} --server {url}"), &[]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {text}");
        assert!(text.contains("nobody listens on _STAN.admin."), "{line}: {text}");
    }
}

#[test]
fn the_transcripts_are_what_the_commands_print() {
    let mut transcript = Transcript { text: HEAD.to_owned(), plain: Plain::default() };
    on_an_empty_server(&mut transcript);
    let launch = on_a_server_with_channels(&mut transcript);
    on_a_store(&mut transcript, &launch);
    on_a_standby(&mut transcript);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/transcripts.md");
    if std::env::var("STANBY_TRANSCRIPTS").is_ok_and(|it| it == "write") {
        return fs::write(path, transcript.text).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap();
    let different = committed.lines().zip(transcript.text.lines()).find(|(old, new)| old != new);
    assert!(
        committed == transcript.text,
        "docs/transcripts.md differs ({different:?}): look whether that is meant, then run this \
         test with STANBY_TRANSCRIPTS=write"
    );
}
