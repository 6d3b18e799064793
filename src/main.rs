//! Command line in, exit code out

use std::env;
use std::process::ExitCode;

use stanby::cli;

fn main() -> ExitCode {
    cli::main(env::args_os().collect(), stanby::server::run, &cli::COMMANDS)
}
