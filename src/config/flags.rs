//! One table: every flag with kind, help text and setter
//!
//! Go's rules (spec configuration, section 1): one or two dashes are the same, `-x v` and `-x=v`,
//! switches take only `-x=v`, the first word that is no flag ends them, the last one given wins.

use std::fmt;

use zeroize::Zeroize as _;

use crate::base::go::{self, NumberError};
use crate::config::Program;
use crate::config::draft::Draft;
use crate::config::flag_table::SECTIONS;
use crate::config::nearest::nearest;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// A whole number with Go's prefixes.
    Integer,
    /// A number with the suffixes of the file; checked after the files were read.
    Size,
    /// Go's notation.
    Duration,
    /// Any text.
    Text,
}

/// What a flag was given.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// For [`Kind::Switch`].
    Switch(bool),
    /// For [`Kind::Integer`]; for [`Kind::Size`] when it is applied.
    Integer(i64),
    /// For [`Kind::Duration`], in nanoseconds.
    Duration(i64),
    /// For [`Kind::Text`], and [`Kind::Size`] before it is applied.
    Text(String),
}

impl Given {
    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        *self == Self::Switch(true)
    }

    /// The number; nanoseconds of a duration.
    #[must_use]
    pub fn number(&self) -> i64 {
        match self {
            Self::Integer(value) | Self::Duration(value) => *value,
            Self::Switch(value) => i64::from(*value),
            Self::Text(_) => 0,
        }
    }

    /// The text; empty for everything else.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Switch(_) | Self::Integer(_) | Self::Duration(_) => String::new(),
        }
    }

    /// Whether it asks for nothing: `false`, 0 or an empty text.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::Switch(value) => !value,
            Self::Integer(value) | Self::Duration(value) => *value == 0,
            Self::Text(text) => text.is_empty(),
        }
    }
}

/// What a flag does.
#[derive(Clone, Copy)]
pub enum Action {
    /// Sets an option; done again over what the files say.
    Set(fn(&mut Draft, &Given)),
    /// Taken by the command line itself: help, version, files, signals.
    Special,
    /// Known to the reference, and refused here if it asks for anything.
    Refused,
    /// Known to the reference, without any effect on this system.
    Ignored,
}

/// One flag.
pub struct Flag {
    /// All its names without dashes, with blanks between; usually the short one first.
    pub names: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether only the streaming server has it.
    pub is_streaming: bool,
    /// One line of help.
    pub help: &'static str,
    /// What it does.
    pub action: Action,
}

/// A flag of the streaming server.
pub(super) const fn streaming(
    names: &'static str,
    kind: Kind,
    help: &'static str,
    action: Action,
) -> Flag {
    Flag { names, kind, is_streaming: true, help, action }
}

/// A flag of both servers.
pub(super) const fn both(
    names: &'static str,
    kind: Kind,
    help: &'static str,
    action: Action,
) -> Flag {
    Flag { names, kind, is_streaming: false, help, action }
}

impl Flag {
    /// Whether `name` is one of its names.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        self.names.split(' ').any(|other| other == name)
    }
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names)
    }
}

/// A part of the help text.
pub struct Section {
    /// Its title; empty = not shown.
    pub title: &'static str,
    /// Its lines.
    pub flags: &'static [Flag],
}

/// A flag as it was given.
#[derive(Clone, Debug)]
pub struct GivenFlag {
    /// The name that was used.
    pub name: String,
    /// Its line in the table.
    pub flag: &'static Flag,
    /// What it was given.
    pub value: Given,
}

impl Drop for GivenFlag {
    /// Writes over what may be a key.
    fn drop(&mut self) {
        if let Given::Text(text) = &mut self.value {
            text.zeroize();
        }
    }
}

/// The command line, taken apart.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    /// In the order in which they were given.
    pub flags: Vec<GivenFlag>,
    /// What followed the flags.
    pub words: Vec<String>,
}

impl CommandLine {
    /// What the flag with this name, or an alias of it, was given last.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<&Given> {
        self.flags.iter().rev().find(|given| given.flag.has_name(name)).map(|given| &given.value)
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.last(name).is_some_and(Given::is_on)
    }

    /// The text of a flag that was given and is not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.last(name).map(Given::text).filter(|text| !text.is_empty())
    }
}

/// What is wrong with the flags: the reference prints it, then the usage, and exits with 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Three dashes, or no name.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// Nobody knows it.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// Its value is missing.
    #[error("flag needs an argument: -{0}")]
    NoArgument(String),
    /// A switch was given something else than true or false.
    #[error("invalid boolean value {} for -{name}: parse error", go::quote(.value))]
    Switch {
        /// As written, without dashes.
        name: String,
        /// As written.
        value: String,
    },
    /// Its value cannot be read.
    #[error("invalid value {} for flag -{name}: {cause}", go::quote(.value))]
    Value {
        /// As written, without dashes.
        name: String,
        /// As written.
        value: String,
        /// Why.
        cause: NumberError,
    },
}

/// Takes a command line apart.
///
/// # Errors
/// The first flag that is wrong.
pub fn parse(program: Program, args: &[String]) -> Result<CommandLine, FlagError> {
    let mut line = CommandLine::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(stripped) = arg.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            line.words.push(arg.clone());
            break;
        };
        if stripped == "-" {
            break;
        }
        let stripped = stripped.strip_prefix('-').unwrap_or(stripped);
        if stripped.starts_with(['-', '=']) {
            return Err(FlagError::Syntax(arg.clone()));
        }
        let (name, value) = match stripped.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (stripped, None),
        };
        let flag = find(program, name).ok_or_else(|| FlagError::Unknown(name.to_owned()))?;
        let value = if flag.kind == Kind::Switch {
            switch(name, value)?
        } else {
            let value = value.or_else(|| args.next().cloned());
            let value = value.ok_or_else(|| FlagError::NoArgument(name.to_owned()))?;
            given(flag.kind, name, value)?
        };
        line.flags.push(GivenFlag { name: name.to_owned(), flag, value });
    }
    line.words.extend(args.cloned());
    Ok(line)
}

/// Where in `args` keys of encryption stand: in which one, and from which byte on.
#[must_use]
pub fn keys(program: Program, args: &[String]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut rest = args.iter().enumerate();
    while let Some((at, arg)) = rest.next() {
        let Some(stripped) = arg.strip_prefix('-') else { break };
        let stripped = stripped.strip_prefix('-').unwrap_or(stripped);
        let (name, value) = match stripped.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (stripped, None),
        };
        let Some(flag) = find(program, name) else { break };
        let place = match value {
            Some(value) => Some((at, arg.len() - value.len())),
            None if flag.kind == Kind::Switch => None,
            None => rest.next().map(|(at, _)| (at, 0)),
        };
        found.extend(place.filter(|_| flag.has_name("encryption_key")));
    }
    found
}

/// What somebody may have meant who gave the flag `name`, which `program` does not have.
#[must_use]
pub fn nearest_flag(program: Program, name: &str) -> Option<&'static str> {
    let flags = SECTIONS.iter().flat_map(|section| section.flags);
    let known = flags.filter(|flag| is_known_to(program, flag));
    nearest(name, known.flat_map(|flag| flag.names.split(' ')))
}

fn find(program: Program, name: &str) -> Option<&'static Flag> {
    let mut flags = SECTIONS.iter().flat_map(|section| section.flags);
    flags.find(|flag| is_known_to(program, flag) && flag.has_name(name))
}

fn is_known_to(program: Program, flag: &Flag) -> bool {
    program == Program::Streaming || !flag.is_streaming
}

fn switch(name: &str, value: Option<String>) -> Result<Given, FlagError> {
    let Some(value) = value else { return Ok(Given::Switch(true)) };
    match go::boolean(&value) {
        Some(value) => Ok(Given::Switch(value)),
        None => Err(FlagError::Switch { name: name.to_owned(), value }),
    }
}

fn given(kind: Kind, name: &str, value: String) -> Result<Given, FlagError> {
    let wrong = |value, cause| FlagError::Value { name: name.to_owned(), value, cause };
    match kind {
        Kind::Integer => match go::integer(&value) {
            Ok(number) => Ok(Given::Integer(number)),
            Err(cause) => Err(wrong(value, cause)),
        },
        Kind::Duration => match go::duration(&value) {
            Ok(nanos) => Ok(Given::Duration(nanos)),
            Err(_) => Err(wrong(value, NumberError::Syntax)),
        },
        Kind::Switch | Kind::Size | Kind::Text => Ok(Given::Text(value)),
    }
}

/// A flag as shells and manuals want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// All its names, the main one last.
    pub names: Vec<&'static str>,
    /// What it takes; `None`: nothing.
    pub value: Option<&'static str>,
    /// One line.
    pub help: &'static str,
}

/// The flags that the help text of a program shows.
pub fn described(program: Program) -> impl Iterator<Item = Described> {
    let sections = SECTIONS.iter().filter(|section| !section.title.is_empty());
    let flags = sections.flat_map(|section| section.flags);
    let is_shown =
        move |flag: &&Flag| is_known_to(program, flag) && !matches!(flag.action, Action::Refused);
    flags.filter(is_shown).map(|flag| Described {
        names: flag.names.split(' ').collect(),
        value: match flag.kind {
            Kind::Switch => None,
            Kind::Integer => Some("int"),
            Kind::Size => Some("size"),
            Kind::Duration => Some("duration"),
            Kind::Text => Some("string"),
        },
        help: flag.help,
    })
}

/// The help text of a program.
#[must_use]
pub fn usage(program: Program) -> String {
    let mut text = format!("\nUsage: {} [options]\n", program.name());
    for section in SECTIONS.iter().filter(|section| !section.title.is_empty()) {
        let lines: String = section
            .flags
            .iter()
            .filter(|flag| is_known_to(program, flag) && !matches!(flag.action, Action::Refused))
            .map(usage_line)
            .collect();
        if !lines.is_empty() {
            text.push_str(&format!("\n{}:\n{lines}", section.title));
        }
    }
    text
}

fn usage_line(flag: &Flag) -> String {
    let names: Vec<String> = flag
        .names
        .split(' ')
        .map(|name| if name.len() < 4 { format!("-{name}") } else { format!("--{name}") })
        .collect();
    let value = match flag.kind {
        Kind::Switch => "[=<bool>]",
        Kind::Integer => " <int>",
        Kind::Size => " <size>",
        Kind::Duration => " <duration>",
        Kind::Text => " <string>",
    };
    let left = format!("    {}{value}", names.join(", "));
    format!("{left:<44} {}\n", flag.help)
}
