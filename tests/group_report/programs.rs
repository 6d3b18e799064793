//! The part of a load that is done by the Go and the Node client library, each in its own program.
//!
//! `tests/clients/programs.sh COMMAND…` builds them and says where they are.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, fs};

use super::ledger::Ledger;
use super::left_out;
use super::server::wait_for;

/// Variables of the environment that name the two, and what they lack without.
const PROGRAMS: [(&str, &str); 2] =
    [("STANBY_GO_CLIENTS", "Go clients"), ("STANBY_NODE_CLIENTS", "Node clients")];

/// Bytes of a ledger from which on a program is in full swing.
const MUCH: u64 = 400_000;

/// One program that runs.
struct Program {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    ledger: PathBuf,
}

/// All that there are.
pub struct Programs(Vec<Program>);

impl Programs {
    /// Starts them at `urls`, each with a ledger in `folder`; of each publisher so many publishes
    /// may be unanswered.
    pub fn start(urls: &str, folder: &Path, in_flight: usize) -> Self {
        let mut all = Vec::new();
        for (variable, name) in PROGRAMS {
            let Some(words) = env::var(variable).ok().filter(|words| !words.is_empty()) else {
                left_out::note(name);
                continue;
            };
            let ledger = folder.join(variable);
            let mut words = words.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words).args(["load", urls]).arg(&ledger).arg(in_flight.to_string());
            let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut child = started.unwrap_or_else(|error| panic!("{command:?}: {error}"));
            let input = child.stdin.take().unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            all.push(Program { name, child, input, output, ledger });
        }
        all.iter_mut().for_each(|program| program.wait("ready"));
        all.iter_mut().for_each(|program| program.tell("begin"));
        all.iter_mut().for_each(|program| program.wait("begun"));
        Self(all)
    }

    /// Waits until each of them has much under way.
    pub fn wait(&self) {
        for program in &self.0 {
            let len = || fs::metadata(&program.ledger).map_or(0, |found| found.len());
            wait_for("a load", || (MUCH < len()).then_some(()));
        }
    }

    /// Stops what publishes, and waits until each publish has ended.
    pub fn stop(&mut self) {
        self.0.iter_mut().for_each(|program| program.tell("stop"));
        self.0.iter_mut().for_each(|program| program.wait("stopped"));
    }

    /// Lets the listeners get so much of each channel, and ends; gives what all did.
    pub fn end(self, wanted: [usize; 4]) -> Ledger {
        let wanted = wanted.map(|count| count.to_string()).join(" ");
        self.finish(&format!("end {wanted}"))
    }

    /// Ends them as they are; gives what all did up to then.
    pub fn cut(self) -> Ledger {
        self.finish("quit")
    }

    fn finish(mut self, line: &str) -> Ledger {
        self.0.iter_mut().for_each(|program| program.tell(line));
        let mut ledger = Ledger::default();
        for program in &mut self.0 {
            let status = program.child.wait().unwrap();
            assert!(status.success(), "the {} ended with {status}", program.name);
            ledger.merge(Ledger::read(&program.ledger));
        }
        ledger
    }
}

impl Program {
    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn wait(&mut self, word: &str) {
        let mut said = String::new();
        self.output.read_line(&mut said).unwrap();
        assert_eq!(said.trim_end(), word, "the {} say something else", self.name);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
