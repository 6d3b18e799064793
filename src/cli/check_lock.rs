//! `stanby check --lock`: whether the locks of a directory or a database exclude, tried with other
//! processes.

use std::env;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::connection::printable;
use super::progress::Progress;
use super::{stopped, stores};
use crate::base::world;
use crate::config::Config;
use crate::site::lease_trial;
use crate::site::lock_trial;
use crate::site::mounts::{Mount, Weight};
use crate::site::trial::{Other, Place, Report, Step};

/// The directory or database will not do.
const UNFIT: u8 = 3;
/// How long another machine may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long somebody who connects may say nothing.
const SILENT_AT_MOST: Duration = Duration::from_secs(120);
/// Connections that are talked with at once.
const CONNECTIONS_MAX: usize = 8;
/// How long somebody is waited for who tries.
const LISTEN_FOR: Duration = Duration::from_secs(3_600);
/// The last word of a trial.
const DONE: &str = "done";
/// The first word to whoever connects; the number is of this conversation's form.
const GREETING: &str = "stanby lock trial 1";
/// Bytes of a line of the conversation.
const LINE_LEN_MAX: usize = 4096;

/// How locks are tried.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct LockArgs {
    /// Try whether its locks exclude, instead of reading it: between two processes of this machine
    ///
    /// A server that runs there is not disturbed.
    #[arg(long, conflicts_with_all = ["repair", "no_crc", "crc_poly"])]
    pub lock: bool,
    /// Try it with another machine, where the same command runs with --listen
    #[arg(long, value_name = "HOST:PORT", requires = "lock", conflicts_with = "listen")]
    pub peer: Option<String>,
    /// Be the other machine of one trial, at this address of this machine
    #[arg(long, value_name = "HOST:PORT", requires = "lock", conflicts_with = "json")]
    pub listen: Option<String>,
    /// Does what the lines of its input say.
    #[arg(long, requires = "lock", hide = true)]
    pub answer: bool,
}

/// What is tried.
enum Ground {
    Directory(PathBuf),
    Database(Box<Config>),
}

impl Ground {
    /// What that names: a database, the configuration of a server, or a directory.
    fn named(name: &Path) -> Result<Self, String> {
        if !stores::is_database(name.as_os_str()) && !name.is_file() {
            return Ok(Self::Directory(name.to_owned()));
        }
        let config = stores::config(name.as_os_str(), false).map_err(|error| error.to_string())?;
        match lease_trial::ground(&config) {
            Ok(lease_trial::Ground::Database) => Ok(Self::Database(config)),
            Ok(lease_trial::Ground::Directory(directory)) => Ok(Self::Directory(directory)),
            Err(error) => Err(format!("{}: {error}", name.display())),
        }
    }
}

/// Runs it: what is said, and how it ends.
pub(super) fn ran(
    name: &Path,
    args: &LockArgs,
    as_json: bool,
) -> Result<(String, ExitCode), String> {
    let place = Ground::named(name)?;
    let shown_name = stores::shown(&name.to_string_lossy());
    let named = |error: &dyn std::fmt::Display| format!("{shown_name}: {error}");
    if args.answer {
        let (input, output) = (io::stdin().lock(), io::stdout().lock());
        return match &place {
            Ground::Directory(directory) => {
                lock_trial::answer(directory, input, output).map_err(|error| named(&error))
            }
            Ground::Database(config) => {
                lease_trial::answer(config, input, output).map_err(|error| named(&error))
            }
        }
        .map(|()| done());
    }
    if let Some(address) = &args.listen {
        return listen(name, address).map(|()| done());
    }
    let mut progress = Progress::new();
    let say = &mut |what: &str| progress.say(&format!("trying {what}"));
    let other = &mut || match &args.peer {
        Some(address) => Remote::connect(address).map(boxed),
        None => Process::start(name).map(boxed),
    };
    let tried = match &place {
        Ground::Directory(directory) => {
            lock_trial::run(directory, other, say).map_err(|error| named(&error))
        }
        Ground::Database(config) => {
            let is_remote = args.peer.is_some();
            lease_trial::run(config, is_remote, other, say).map_err(|error| named(&error))
        }
    };
    if let Some(mut last) = args.peer.as_ref().and_then(|it| Remote::connect(it).ok()) {
        // It ends by itself, too, only later.
        let _ = last.say(DONE);
    }
    progress.end();
    let report = tried?;
    let code = if report.will_do() { ExitCode::SUCCESS } else { ExitCode::from(UNFIT) };
    let text = match as_json {
        true => stopped::json(&Told { will_do: report.will_do(), report: &report })?,
        false => shown(&report, args.peer.as_deref()),
    };
    Ok((text, code))
}

fn done() -> (String, ExitCode) {
    (String::new(), ExitCode::SUCCESS)
}

fn boxed(other: impl Other + 'static) -> Box<dyn Other> {
    Box::new(other)
}

/// What a program is told.
#[derive(Serialize)]
struct Told<'a> {
    will_do: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// Another process of this machine.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(name: &Path) -> io::Result<Self> {
        let mut child = answering(name)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| io::Error::other("it has no pipes"))?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }
}

/// This program again, as one that does what it is told.
fn answering(name: &Path) -> io::Result<Child> {
    let program: PathBuf = env::current_exe()?;
    let mut command = Command::new(program);
    command.arg("check").arg(name).args(["--lock", "--answer"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}

impl Other for Process {
    fn ask(&mut self, line: &str) -> io::Result<String> {
        writeln!(self.input, "{line}")?;
        heard(&mut self.output)
    }

    fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process of another machine.
struct Remote {
    input: TcpStream,
    output: BufReader<TcpStream>,
}

impl Remote {
    fn connect(address: &str) -> io::Result<Self> {
        let because = |error: io::Error| {
            let text =
                format!("{address}: {error}: does `stanby check --lock --listen` run there?");
            io::Error::new(error.kind(), text)
        };
        let places = address.to_socket_addrs().map_err(because)?;
        let mut last = io::Error::other("it is no address");
        for place in places {
            match TcpStream::connect_timeout(&place, ANSWER_WITHIN) {
                Ok(input) => {
                    input.set_read_timeout(Some(ANSWER_WITHIN))?;
                    input.set_nodelay(true)?;
                    let mut output = BufReader::new(input.try_clone()?);
                    let greeting = heard(&mut output).map_err(because)?;
                    if greeting != GREETING {
                        return Err(because(io::Error::other(
                            "somebody else answers, or another release",
                        )));
                    }
                    return Ok(Self { input, output });
                }
                Err(error) => last = error,
            }
        }
        Err(because(last))
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes())
    }
}

impl Other for Remote {
    fn ask(&mut self, line: &str) -> io::Result<String> {
        self.say(line)?;
        heard(&mut self.output)
    }

    /// Whoever listens there kills its process when this connection ends.
    fn kill(&mut self) -> io::Result<()> {
        self.input.shutdown(Shutdown::Both)
    }
}

/// A line, without its end; whoever says it drop by drop is left after a while.
fn heard(input: &mut impl BufRead) -> io::Result<String> {
    let (mut line, began_at) = (Vec::new(), world::instant());
    loop {
        let found = input.fill_buf()?;
        if found.is_empty() {
            let text = "the other process has ended";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let end = found.iter().position(|byte| *byte == b'\n');
        let len = end.unwrap_or(found.len());
        line.extend_from_slice(&found[..len]);
        input.consume(end.map_or(len, |end| end + 1));
        if LINE_LEN_MAX < line.len() || ANSWER_WITHIN < world::instant().since(began_at) {
            return Err(io::Error::other("the other side says no whole line"));
        }
        if end.is_some() {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

/// Is the other machine: gives each connection a process, which dies with it.
fn listen(name: &Path, address: &str) -> Result<(), String> {
    let named = |error: io::Error| format!("{address}: {error}");
    let listener = TcpListener::bind(address).map_err(named)?;
    let at = listener.local_addr().map_err(named)?;
    let place = match stores::is_database(name.as_os_str()) {
        // Its name can have a password in it.
        true => "DATABASE".into(),
        false => name.to_string_lossy(),
    };
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(
        io::stderr(),
        "listening on {at}; on the other machine: stanby check {place} --lock --peer {at}",
    );
    let (tell, told) = mpsc::channel();
    let name = name.to_owned();
    let accept = thread::Builder::new().name("listen".to_owned());
    let accepting = accept.spawn(move || accept_each(&name, &listener, &tell));
    drop(accepting.map_err(named)?);
    // What still talks ends with this process, and its own processes with it.
    told.recv_timeout(LISTEN_FOR)
        .map_err(|_| format!("{address}: nobody has tried it within {} s", LISTEN_FOR.as_secs()))
}

/// Talks with a few at a time, so that one who says nothing holds up nobody.
fn accept_each(name: &Path, listener: &TcpListener, tell: &Sender<()>) {
    let talking = Arc::new(());
    for stream in listener.incoming().map_while(Result::ok) {
        // One of them is that of this loop. Whoever is too many is not heard.
        if CONNECTIONS_MAX < Arc::strong_count(&talking) {
            continue;
        }
        let (name, tell, own) = (name.to_owned(), tell.clone(), Arc::clone(&talking));
        let talk = thread::Builder::new().name("talk".to_owned()).spawn(move || {
            match converse(&name, &stream) {
                Ok(true) => drop(tell.send(())),
                Ok(false) => (),
                Err(error) => drop(writeln!(io::stderr(), "{error}")),
            }
            drop(own);
        });
        // Without a thread that one is not heard.
        drop(talk);
    }
}

/// Does what one connection says; whether it was the last word.
fn converse(name: &Path, stream: &TcpStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(SILENT_AT_MOST))?;
    stream.set_nodelay(true)?;
    let mut process = Process::start(name)?;
    let (mut input, mut output) = (BufReader::new(stream.try_clone()?), stream);
    writeln!(output, "{GREETING}")?;
    loop {
        match heard(&mut input) {
            Ok(line) if line == DONE => return Ok(true),
            Ok(line) => {
                let said = process.ask(&line)?;
                output.write_all(format!("{said}\n").as_bytes())?;
            }
            // This is how a process is killed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn shown(report: &Report, peer: Option<&str>) -> String {
    let mut text = String::new();
    // Text never fails to be written to.
    let _ = match &report.place {
        Place::Directory { directory, mount: Some(Mount { kind, source, point, .. }) } => {
            let directory = directory.display();
            writeln!(text, "{directory}: {kind}, {source} at {}", point.display())
        }
        Place::Directory { directory, mount: None } => writeln!(text, "{}", directory.display()),
        Place::Database { database } => writeln!(text, "{database}"),
    };
    let noun = match report.place {
        Place::Directory { .. } => "directory",
        Place::Database { .. } => "database",
    };
    report.remarks.iter().for_each(|it| say_line(&mut text, Some(it.weight), &it.text));
    say_steps(&mut text, &report.steps);
    let with = match peer {
        Some(peer) => format!("tried with {peer}"),
        None => "tried between two processes of this machine; for members on two machines try \
                 it with --listen there and --peer here"
            .to_owned(),
    };
    let verdict = if report.will_do() {
        format!("This {noun} will do for a group")
    } else {
        format!("Do not run a group over this {noun}, for what is called unfit above")
    };
    let _ = writeln!(text, "\n{verdict} ({with}).");
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

fn say_steps(text: &mut String, steps: &[Step]) {
    for Step { what, weight, seen } in steps {
        say_line(text, *weight, &format!("{what}: {seen}"));
    }
}

fn say_line(text: &mut String, weight: Option<Weight>, line: &str) {
    // Text never fails to be written to.
    let _ = writeln!(text, "{:<8} {line}", word(weight));
}

fn word(weight: Option<Weight>) -> &'static str {
    match weight {
        None => "ok",
        Some(Weight::Note) => "note",
        Some(Weight::Warning) => "warning",
        Some(Weight::Unfit) => "unfit",
    }
}
