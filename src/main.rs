//! Command line in, exit code out

use std::env;
use std::process::ExitCode;

use stanby::cli;

fn main() -> ExitCode {
    // A build with planted bugs, which nobody ships, has the one that a test names.
    #[cfg(feature = "planted")]
    if let Ok(name) = env::var("STANBY_PLANTED_BUG") {
        stanby::base::planted::plant_everywhere(&name);
    }
    cli::main(env::args_os().collect(), stanby::server::run, &cli::COMMANDS)
}
