//! Command line in, exit code out

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    stanby::cli::main(env::args_os().collect(), stanby::server::run, &[])
}
