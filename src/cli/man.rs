//! `stanby man`: writes the manual pages of all commands.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, CommandFactory, Parser};

use super::{COMMANDS, connection, describe};
use crate::base::files::{self, Access, Links};

/// Write the manual pages of all commands
#[derive(Debug, Parser)]
#[command(name = "stanby man", after_help = EXAMPLES)]
struct Args {
    /// Folder that gets them; pages that are there are replaced
    dir: PathBuf,
}

const EXAMPLES: &str = "Examples:
  stanby man /usr/share/man/man1 && man stanby";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let dir = match connection::parse::<Args>("stanby man", args) {
        Ok(Args { dir }) => dir,
        Err(code) => return code,
    };
    for (name, page) in pages() {
        let path = dir.join(name);
        if let Err(error) = write(&path, &page) {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "stanby man: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        let _ = writeln!(io::stdout(), "wrote {}", path.display());
    }
    ExitCode::SUCCESS
}

fn write(path: &Path, page: &[u8]) -> io::Result<()> {
    files::open(path, Access::Replace(0o644), Links::Refused)?.write_all(page)
}

/// Name and text of each page: the program's, and one for each command.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut program = describe::program(&COMMANDS).mut_args(with_other_names);
    // Commands of commands get their full names.
    program.build();
    let mut pages = Vec::new();
    let mut left = vec![("stanby".to_owned(), program)];
    while let Some((name, command)) = left.pop() {
        let children = command.get_subcommands().filter(|child| child.get_name() != "help");
        left.extend(children.map(|child| (format!("{name}-{}", child.get_name()), child.clone())));
        let mut page = Vec::new();
        // A buffer takes everything.
        let _ = clap_mangen::Man::new(command).title(name.clone()).render(&mut page);
        pages.push((format!("{name}.1"), page));
    }
    pages.sort();
    pages
}

/// The renderer leaves out all names but one, and those of the Go server are what people know.
fn with_other_names(arg: Arg) -> Arg {
    let names = arg.get_visible_aliases().unwrap_or_default();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if names.is_empty() {
        return arg;
    }
    let names: Vec<String> = names.iter().map(|name| format!("-{name}")).collect();
    arg.help(format!("{help}; also {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_options() {
        let pages = pages();
        let page = |name: &str| {
            let found = pages.iter().find(|(known, _)| known == name);
            String::from_utf8_lossy(&found.expect(name).1).into_owned()
        };
        for command in &COMMANDS {
            assert!(page(&format!("stanby-{}.1", command.name)).contains(".SH NAME"));
        }
        assert!(page("stanby.1").contains("ft_group"));
        for name in ["also \\-cid", "also \\-mc", "also \\-SD", "\\-p"] {
            assert!(page("stanby.1").contains(name), "{name}");
        }
        assert!(page("stanby-sql-init.1").contains("sql_driver"));
        assert!(page("stanby-init.1").contains("shared"));
    }
}
