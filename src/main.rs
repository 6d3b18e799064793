//! Command line in, exit code out

use std::env;
use std::process::ExitCode;

use stanby::cli::{Command, publish, sql, subscribe};

const COMMANDS: [Command; 3] = [
    Command { name: "pub", help: "publish messages to a channel", run: publish::run },
    Command { name: "sql", help: "make or check the tables of an SQL store", run: sql::run },
    Command { name: "sub", help: "show the messages of a channel", run: subscribe::run },
];

fn main() -> ExitCode {
    stanby::cli::main(env::args_os().collect(), stanby::server::run, &COMMANDS)
}
