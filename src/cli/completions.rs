//! `stanby completions`: what a shell needs to complete commands and flags.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use super::{COMMANDS, connection, describe, output};

/// Print the completions of a shell
#[derive(Debug, Parser)]
#[command(name = "stanby completions", after_help = EXAMPLES)]
struct Args {
    /// Which shell
    shell: Shell,
}

const EXAMPLES: &str = "Examples:
  stanby completions bash > /usr/share/bash-completion/completions/stanby
  stanby completions zsh > /usr/share/zsh/vendor-completions/_stanby
  stanby completions fish > /usr/share/fish/vendor_completions.d/stanby.fish";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby completions", args) {
        Ok(Args { shell }) => output::end(&completions(shell), ExitCode::SUCCESS),
        Err(code) => code,
    }
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut describe::program(&COMMANDS), "stanby", &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_learns_commands_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8_lossy(&completions(shell)).into_owned();
            for word in ["simulate", "cluster_id", "ft_group", "sql_driver"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
        }
    }
}
