//! Flags and file merged, as the user wrote them

use std::path::{Path, PathBuf};

use crate::base::go;
use crate::config::draft::Draft;
use crate::config::flags::{self, Action, CommandLine, FlagError, Given, Kind};
use crate::config::tree::{Map, Value};
use crate::config::{Config, Program, StoreKind, World, core_keys, file, streaming_keys};

/// What who had a Raft cluster can do.
pub(super) const IMPORT_HINT: &str = ": there is no Raft clustering, but groups over one store \
    (-ft_group); `stanby import` takes over the data of a cluster";

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Start a server.
    Serve(Box<Config>),
    /// Check a configuration file, which could be read, against this machine.
    Check {
        /// As named.
        file: PathBuf,
        /// What it and the flags ask for.
        config: Box<Config>,
    },
    /// Show the help text.
    Help,
    /// Show the help text on TLS.
    HelpTls,
    /// Show the version.
    Version,
    /// Send a signal: `<command>[=<pid or file>]`.
    Signal(String),
}

/// Why nothing is started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A flag is wrong: the text to stderr, the usage to stdout, exit code 0.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// A word where only flags are: the text to stderr, exit code 1.
    #[error("unrecognized command: {}", go::quote(.0))]
    Command(String),
    /// Anything else: the text to stderr, exit code 1.
    #[error("{0}")]
    Other(String),
}

/// Understands a command line and the files that it names.
///
/// Order: spec configuration, section 1.
///
/// # Errors
/// The first thing that is wrong.
pub fn load(program: Program, args: &[String], world: &World<'_>) -> Result<Request, OptionsError> {
    let line = flags::parse(program, args)?;
    if line.is_on("version") {
        return Ok(Request::Version);
    }
    if line.is_on("help") {
        return Ok(Request::Help);
    }
    if line.is_on("help_tls") {
        return Ok(Request::HelpTls);
    }
    if let Some(word) = line.words.first() {
        return match word.to_lowercase().as_str() {
            "version" => Ok(Request::Version),
            "help" => Ok(Request::Help),
            _ => Err(OptionsError::Command(word.clone())),
        };
    }
    if let Some(command) = line.text("signal") {
        return Ok(Request::Signal(command));
    }
    if line.is_on("t") && line.text("config").is_none() {
        return Err(other("must specify [-c, --config] option to check configuration file syntax"));
    }
    let config = config(program, &line, world)?;
    match line.text("config") {
        // A core server's file with warnings is wrong for `-t`, as there.
        Some(_) if line.is_on("t") && program == Program::Core && !config.warnings.is_empty() => {
            Err(other(config.warnings.join("\n")))
        }
        // Unlike the reference's streaming server, which starts in spite of `-t`.
        Some(file) if line.is_on("t") => {
            Ok(Request::Check { file: PathBuf::from(file), config: Box::new(config) })
        }
        _ => Ok(Request::Serve(Box::new(config))),
    }
}

fn other(text: impl Into<String>) -> OptionsError {
    OptionsError::Other(text.into())
}

/// The configuration that flags and files give.
///
/// # Errors
/// The first thing that is wrong.
pub fn config(
    program: Program,
    line: &CommandLine,
    world: &World<'_>,
) -> Result<Config, OptionsError> {
    let (mut draft, streaming) = core_part(program, line, world)?;
    if let Some(map) = streaming.transpose()? {
        streaming_keys::apply(&mut draft, &map).map_err(other)?;
    }
    apply_flags(&mut draft, line, world)?;
    draft.finish(world).map_err(other)
}

/// The same for a running server, whose streaming part stays what it is: whatever is wrong there is
/// a warning.
///
/// # Errors
/// The first thing that is wrong in the core server's part.
pub fn reloaded(
    program: Program,
    line: &CommandLine,
    world: &World<'_>,
) -> Result<Config, OptionsError> {
    let (mut draft, streaming) = core_part(program, line, world)?;
    let mut read = draft.clone();
    let outcome = streaming.transpose().and_then(|map| match map {
        Some(map) => streaming_keys::apply(&mut read, &map).map_err(other),
        None => Ok(()),
    });
    draft.config.warnings = read.config.warnings;
    if let Err(error) = outcome {
        let text = format!("{error}: the streaming part stays, and the next start would fail");
        draft.config.warnings.push(text);
    }
    apply_flags(&mut draft, line, world)?;
    draft.finish_reload(world).map_err(other)
}

/// The map of the streaming part, if it could be read.
type StreamingPart = Option<Result<Map, OptionsError>>;

/// What the file says about the core server, and what it says about the streaming server.
fn core_part(
    program: Program,
    line: &CommandLine,
    world: &World<'_>,
) -> Result<(Draft, StreamingPart), OptionsError> {
    let mut draft = Draft::new(program);
    refuse(line)?;
    let core_file = line.text("config");
    let streaming_file = line.text("stan_config").or_else(|| core_file.clone());
    let core_file = core_file.or_else(|| streaming_file.clone());
    if let Some(name) = &core_file {
        let path = Path::new(name);
        let file::Document { map, warnings } =
            file::read(path, world).map_err(|refused| other(refused.with_place()))?;
        draft.config.warnings.extend(warnings);
        if map.is_empty() {
            draft.config.warnings.push(format!("{name}: config has no values or is empty"));
        }
        core_keys::apply(&mut draft, &map, world).map_err(other)?;
        if program == Program::Streaming {
            streaming_keys::warn_of_unknown(&mut draft, &map);
        }
        draft.config.config_file = Some(path.to_path_buf());
    }
    let (Program::Streaming, Some(name)) = (program, &streaming_file) else {
        return Ok((draft, None));
    };
    let is_core = core_file.as_deref() == Some(name);
    let read = read_streaming(Path::new(name), is_core, world);
    let part = read.map(|file::Document { map, warnings }| {
        if !is_core {
            draft.config.warnings.extend(warnings);
            streaming_keys::warn_of_unknown(&mut draft, &map);
        }
        map
    });
    Ok((draft, Some(part)))
}

fn read_streaming(
    path: &Path,
    is_core: bool,
    world: &World<'_>,
) -> Result<file::Document, OptionsError> {
    file::read(path, world).map_err(|refused| {
        if !is_core && matches!(refused.cause, file::FileError::Unreadable { .. }) {
            return other(format!("error opening config file: {refused}"));
        }
        other(refused.with_place())
    })
}

/// What the reference has and this server has not yet is refused by name, if it asks for anything.
fn refuse(line: &CommandLine) -> Result<(), OptionsError> {
    let refused = line
        .flags
        .iter()
        .find(|given| matches!(given.flag.action, Action::Refused) && !given.value.is_nothing());
    match refused {
        Some(given) => {
            let hint = if given.name.starts_with("cluster") { IMPORT_HINT } else { "" };
            let name = &given.name;
            Err(other(format!("flag -{name} is not supported by stanby yet{hint}")))
        }
        None => Ok(()),
    }
}

fn apply_flags(
    draft: &mut Draft,
    line: &CommandLine,
    world: &World<'_>,
) -> Result<(), OptionsError> {
    for given in &line.flags {
        let Action::Set(set) = given.flag.action else { continue };
        // Compat: as there, `-tls_client_…` asks for the server's files too.
        draft.has_tls_flag |= given.name.starts_with("tls");
        draft.config.places.forget(&given.name);
        let wanted = match given.flag.names {
            "dir" => Some(StoreKind::File),
            "sql_source" => Some(StoreKind::Sql),
            _ => None,
        };
        if let Some(store) = wanted.filter(|_| !given.value.is_nothing()) {
            draft.asked_for.push((store, format!("flag -{}", given.name)));
        }
        if given.flag.kind == Kind::Size {
            let size = size(&given.name, &given.value.text(), world)?;
            set(draft, &size);
        } else {
            set(draft, &given.value);
        }
    }
    Ok(())
}

/// Spec configuration, Q9.
fn size(name: &str, text: &str, world: &World<'_>) -> Result<Given, OptionsError> {
    match file::parse_size(text, world) {
        Ok(Some(Value::Integer(value))) => Ok(Given::Integer(value)),
        Ok(Some(value)) => Err(other(format!("{name} should be a size, got '{value}'"))),
        Ok(None) => Err(other(format!("{name} should be a size, got '<nil>'"))),
        Err(error) => Err(other(error.to_string())),
    }
}

#[cfg(test)]
pub(super) mod tests;
