//! all commands and flags in one tree, as shells and manuals want them

use clap::{Arg, ArgAction};

use crate::cli::Command;
use crate::config::{Program, flags};

/// What the program is, as its manual begins.
const ABOUT: &str = "a fault-tolerant NATS Streaming server";

/// `stanby`, with the flags of the server and all commands.
#[must_use]
pub(super) fn program(commands: &[Command]) -> clap::Command {
    let described = commands.iter().map(|command| {
        let described = (command.describe)().name(command.name);
        if described.get_about().is_some() { described } else { described.about(command.help) }
    });
    clap::Command::new("stanby")
        .about(ABOUT)
        .long_about(
            "Without a command it runs a server, made to take the place of nats-streaming-server: \
             its flags may have one dash or two.",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args(flags::described(Program::Streaming).map(argument))
        .subcommands(described)
}

fn argument(flag: flags::Described) -> Arg {
    let flags::Described { names, value, help } = flag;
    let is_short = |name: &&str| name.len() == 1;
    let short = names.iter().find(|name| is_short(name)).and_then(|name| name.chars().next());
    let mut long: Vec<&'static str> = names.iter().copied().filter(|it| !is_short(it)).collect();
    let main = long.pop();
    let mut arg = Arg::new(main.or(names.first().copied()).unwrap_or_default()).help(help);
    if let Some(short) = short {
        arg = arg.short(short);
    }
    if let Some(main) = main {
        arg = arg.long(main).visible_aliases(long);
    }
    match value {
        Some(name) => arg.value_name(name).action(ArgAction::Set),
        None => arg.action(ArgAction::SetTrue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::COMMANDS;

    /// Goal: the tree has every command and flag, each once.
    #[test]
    fn the_tree_has_all_commands_and_flags() {
        let tree = program(&COMMANDS);
        tree.clone().debug_assert();
        for command in &COMMANDS {
            assert!(tree.find_subcommand(command.name).is_some(), "{}", command.name);
        }
        for flag in flags::described(Program::Streaming) {
            let has = |name: &&str| {
                tree.get_arguments().any(|arg| {
                    let short = arg.get_short().map(String::from);
                    let long = arg.get_long_and_visible_aliases().unwrap_or_default();
                    short.as_deref() == Some(*name) || long.contains(name)
                })
            };
            assert!(flag.names.iter().all(has), "{:?}", flag.names);
        }
    }
}
