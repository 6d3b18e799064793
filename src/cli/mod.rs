//! One file a command; which one is meant, by the name of the executable or the first word

pub mod administration;
pub mod backup;
pub mod bench;
pub mod channel;
pub mod check;
mod check_lock;
pub mod client;
pub mod completions;
pub mod connection;
mod context;
pub mod control;
pub mod copy;
mod describe;
pub mod drill;
pub mod durable;
pub mod export;
pub mod health;
pub mod import;
pub mod init;
pub mod man;
pub mod message;
mod output;
pub mod pending;
mod progress;
pub mod publish;
pub mod relocate;
pub mod restore;
pub mod serve;
pub mod simulate;
pub mod sql;
pub mod status;
pub mod step_down;
mod stopped;
mod stores;
pub mod subscribe;
pub mod subscription;
mod table;
pub mod top;
pub mod version;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::base::world;
use crate::config::{Config, Program};

/// Runs a server until it ends.
pub type Serve = fn(Config) -> ExitCode;

/// One of our own commands, such as `stanby pub`.
pub struct Command {
    /// The first word.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Does it; `args` begins behind the first word.
    pub run: fn(args: Vec<OsString>) -> ExitCode,
    /// Its options, as shells and manuals want them.
    pub describe: fn() -> clap::Command,
}

/// All of our own commands.
pub const COMMANDS: [Command; 27] = [
    Command {
        name: "backup",
        help: "copy the store of a server that runs",
        run: backup::run,
        describe: backup::describe,
    },
    Command {
        name: "bench",
        help: "measure a server: rates, latencies, CPU and memory",
        run: bench::run,
        describe: bench::describe,
    },
    Command {
        name: "channel",
        help: "show the channels of a running server, purge or delete one",
        run: channel::run,
        describe: channel::describe,
    },
    Command {
        name: "check",
        help: "look through a store for damage",
        run: check::run,
        describe: check::describe,
    },
    Command {
        name: "client",
        help: "show the clients of a running server, or close one",
        run: client::run,
        describe: client::describe,
    },
    Command {
        name: "completions",
        help: "print the completions of a shell",
        run: completions::run,
        describe: completions::describe,
    },
    Command {
        name: "copy",
        help: "copy a store into a new one of any kind",
        run: copy::run,
        describe: copy::describe,
    },
    Command {
        name: "drill",
        help: "test failover by a scenario, and judge what clients were told",
        run: drill::run,
        describe: drill::describe,
    },
    Command {
        name: "export",
        help: "write a store as lines of JSON",
        run: export::run,
        describe: export::describe,
    },
    Command {
        name: "durable",
        help: "show the durables of a running server, reset or remove one",
        run: durable::run,
        describe: durable::describe,
    },
    Command {
        name: "health",
        help: "ask a server how it is, for health checks",
        run: health::run,
        describe: health::describe,
    },
    Command {
        name: "import",
        help: "take over the data of a Raft cluster",
        run: import::run,
        describe: import::describe,
    },
    Command {
        name: "init",
        help: "write a configuration for one server or a pair",
        run: init::run,
        describe: init::describe,
    },
    Command {
        name: "man",
        help: "write the manual pages of all commands",
        run: man::run,
        describe: man::describe,
    },
    Command {
        name: "move",
        help: "move a channel from one stopped server to another",
        run: relocate::run,
        describe: relocate::describe,
    },
    Command {
        name: "msg",
        help: "show messages that a running server keeps",
        run: message::run,
        describe: message::describe,
    },
    Command {
        name: "pending",
        help: "show which messages of a channel wait for whom",
        run: pending::run,
        describe: pending::describe,
    },
    Command {
        name: "pub",
        help: "publish messages to a channel",
        run: publish::run,
        describe: publish::describe,
    },
    Command {
        name: "restore",
        help: "make a store of an exported one, or of a backup",
        run: restore::run,
        describe: restore::describe,
    },
    Command {
        name: "simulate",
        help: "run groups with faults, from seeds",
        run: simulate::run,
        describe: simulate::describe,
    },
    Command {
        name: "sql",
        help: "make or check the tables of an SQL store",
        run: sql::run,
        describe: sql::describe,
    },
    Command {
        name: "status",
        help: "show who of a group is active, and who would take over",
        run: status::run,
        describe: status::describe,
    },
    Command {
        name: "step-down",
        help: "let another server of the group be active",
        run: step_down::run,
        describe: step_down::describe,
    },
    Command {
        name: "sub",
        help: "show the messages of a channel",
        run: subscribe::run,
        describe: subscribe::describe,
    },
    Command {
        name: "subscription",
        help: "show who subscribes to the channels of a running server",
        run: subscription::run,
        describe: subscription::describe,
    },
    Command {
        name: "top",
        help: "show a server at a glance, again and again",
        run: top::run,
        describe: top::describe,
    },
    Command {
        name: "version",
        help: "show which version of stanby this is",
        run: version::run,
        describe: version::describe,
    },
];

/// What a command line means.
enum Meaning<'a> {
    Command(&'a Command),
    Serve(Program),
}

/// Does what a command line says. `args` begins with the executable's name.
///
/// The executable answers to three names: `stanby` and `nats-streaming-server` are the streaming
/// server, `nats-server` is the core server. As `stanby` it takes the other names, and our own
/// commands, as a first word.
#[must_use]
pub fn main(args: Vec<OsString>, serve: Serve, commands: &[Command]) -> ExitCode {
    let mut args = args.into_iter();
    let executable = args.next().unwrap_or_default();
    let mut args: Vec<OsString> = args.collect();
    let (meaning, takes_first) = {
        // Without a copy: it may hold a key.
        let first = args.first().map(|word| word.to_string_lossy());
        meaning(&executable, first.as_deref(), commands)
    };
    if takes_first {
        args.remove(0);
    }
    // Under another server's name the help text is that server's.
    let is_own = is_own_name(&executable) && !takes_first;
    match meaning {
        Meaning::Command(command) => {
            // A store has files by the thousand; where it cannot be raised, who needs more says so.
            let _ = world::raise_descriptor_limit();
            (command.run)(args)
        }
        Meaning::Serve(program) => {
            serve::run(program, args, serve, if is_own { commands } else { &[] })
        }
    }
}

/// The meaning, and whether the first word only said which it is.
fn meaning<'a>(
    executable: &OsString,
    first: Option<&str>,
    commands: &'a [Command],
) -> (Meaning<'a>, bool) {
    match file_name(executable).as_deref() {
        Some("nats-server") => return (Meaning::Serve(Program::Core), false),
        Some("nats-streaming-server") => return (Meaning::Serve(Program::Streaming), false),
        _ => {}
    }
    match first {
        Some("nats-server") => (Meaning::Serve(Program::Core), true),
        Some("nats-streaming-server" | "stanby") => (Meaning::Serve(Program::Streaming), true),
        first => match commands.iter().find(|command| Some(command.name) == first) {
            Some(command) => (Meaning::Command(command), true),
            None => (Meaning::Serve(Program::Streaming), false),
        },
    }
}

fn is_own_name(executable: &OsString) -> bool {
    !matches!(file_name(executable).as_deref(), Some("nats-server" | "nats-streaming-server"))
}

fn file_name(executable: &OsString) -> Option<String> {
    Path::new(executable).file_name().map(|name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(_args: Vec<OsString>) -> ExitCode {
        ExitCode::SUCCESS
    }

    #[test]
    fn the_name_or_the_first_word_says_what_is_meant() {
        let describe = || clap::Command::new("pub");
        let commands = [Command { name: "pub", help: "", run, describe }];
        let told = |executable: &str, first: Option<&str>| {
            let executable = OsString::from(executable);
            match meaning(&executable, first, &commands) {
                (Meaning::Command(command), takes) => (command.name, takes),
                (Meaning::Serve(program), takes) => (program.name(), takes),
            }
        };
        assert_eq!(told("/usr/bin/nats-server", Some("pub")), ("nats-server", false));
        assert_eq!(told("nats-streaming-server", None), ("nats-streaming-server", false));
        assert_eq!(told("stanby", None), ("nats-streaming-server", false));
        assert_eq!(told("stanby", Some("-p")), ("nats-streaming-server", false));
        assert_eq!(told("stanby", Some("nats-server")), ("nats-server", true));
        assert_eq!(told("stanby", Some("stanby")), ("nats-streaming-server", true));
        assert_eq!(told("stanby", Some("pub")), ("pub", true));
        assert_eq!(told("renamed", Some("extra")), ("nats-streaming-server", false));
    }
}
