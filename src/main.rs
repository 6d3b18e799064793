//! Command line in, exit code out

use std::env;
use std::process::ExitCode;

use stanby::cli::{Command, init, publish, simulate, sql, subscribe, version};

const COMMANDS: [Command; 6] = [
    Command {
        name: "init",
        help: "write a configuration for one server or a pair",
        run: init::run,
    },
    Command { name: "pub", help: "publish messages to a channel", run: publish::run },
    Command { name: "simulate", help: "run groups with faults, from seeds", run: simulate::run },
    Command { name: "sql", help: "make or check the tables of an SQL store", run: sql::run },
    Command { name: "sub", help: "show the messages of a channel", run: subscribe::run },
    Command { name: "version", help: "show which version of stanby this is", run: version::run },
];

fn main() -> ExitCode {
    stanby::cli::main(env::args_os().collect(), stanby::server::run, &COMMANDS)
}
