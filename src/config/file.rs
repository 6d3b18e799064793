//! Configuration grammar → tree of values
//!
//! Pure: included files and the environment come in through [`World`]. What the Go server takes
//! means the same here, to the byte; what it refuses is taken only where
//! `docs/compatibility.md` names it, by a second reading that the first does not know of. Both
//! are held by `every_recorded_file_means_what_it_means_to_the_go_parser`. Nothing recurses:
//! brackets, files and variables within each other are stacks.

mod builder;
mod lexer;
mod scalar;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use zeroize::Zeroizing;

use crate::config::World;
use crate::config::tree::{Map, Value};
use builder::Builder;
use lexer::{Kind, Lexer, Token};

/// Files and variables within each other: a cycle ends here.
const DEPTH_MAX: usize = 256;

/// The key by which the text of an environment variable is read.
const VARIABLE_KEY: &str = "pk";

/// Why a file is no configuration. The texts are the reference's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// A file cannot be read.
    #[error("{call} {file}: {reason}")]
    Unreadable {
        /// What the system was asked for.
        call: &'static str,
        /// As named.
        file: String,
        /// The system's words.
        reason: String,
    },
    /// The text breaks the grammar.
    #[error("Parse error on line {line}: '{reason}'")]
    Syntax {
        /// From 1.
        line: usize,
        /// What was expected.
        reason: String,
    },
    /// A key is followed by nothing.
    #[error("config is invalid ({0})")]
    KeyWithoutValue(String),
    /// A whole number does not fit.
    #[error("integer '{0}' is out of the range")]
    IntegerRange(String),
    /// A whole number has digits of another script.
    #[error("expected integer, but got '{0}'")]
    IntegerExpected(String),
    /// A number with a point does not fit.
    #[error("float '{0}' is out of the range")]
    FloatRange(String),
    /// A number with a point has digits of another script.
    #[error("expected float, but got '{0}'")]
    FloatExpected(String),
    /// A date that no calendar has.
    #[error("expected Zulu formatted DateTime, but got '{0}'")]
    DateExpected(String),
    /// A variable is neither a key seen before nor in the environment.
    #[error("variable reference for '{name}' on line {line} can not be found")]
    VariableUnknown {
        /// Without the dollar.
        name: String,
        /// From 1.
        line: usize,
    },
    /// The text of an environment variable is no value.
    #[error("variable reference for '{name}' on line {line} could not be parsed: {cause}")]
    VariableInvalid {
        /// Without the dollar.
        name: String,
        /// From 1.
        line: usize,
        /// Why.
        cause: Box<FileError>,
    },
    /// An included file is wrong.
    #[error("error parsing include file '{file}', {cause}")]
    Include {
        /// As named.
        file: String,
        /// Why.
        cause: Box<FileError>,
    },
    /// A file that includes itself, or a variable of the environment that refers to itself.
    #[error("'{0}' refers to itself")]
    Cycle(String),
    /// Files that refer to themselves by many names.
    #[error("more than 256 files or variables within each other")]
    TooDeep,
}

/// A file that is no configuration, in the reference's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct Refused {
    /// Why.
    pub cause: FileError,
    /// File and line, where the words do not name both.
    pub at: Option<String>,
}

impl Refused {
    /// The reference's words, and the place behind them.
    #[must_use]
    pub fn with_place(&self) -> String {
        let place = self.at.as_ref().map(|at| format!(" ({at})")).unwrap_or_default();
        format!("{}{place}", self.cause)
    }
}

/// What a file says.
#[derive(Debug, Default)]
pub struct Document {
    /// Its keys and values.
    pub map: Map,
    /// What it says in vain, a line each: keys whose values are none, such as `1kbb`.
    pub warnings: Vec<String>,
}

/// Reads and parses `file`.
///
/// # Errors
/// The first thing that is wrong, in this file or one that it includes.
pub fn read(file: &Path, world: &World<'_>) -> Result<Document, Refused> {
    let text = read_bytes(file, world).map_err(|cause| Refused { cause, at: None })?;
    parse(&text, file, world)
}

/// Parses the text of `file`.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &[u8], file: &Path, world: &World<'_>) -> Result<Document, Refused> {
    let text = without_mark(text);
    read_as(Reading::Strict, text, file, world)
        .or_else(|error| read_as(Reading::Lenient, text, file, world).map_err(|_| error))
}

/// Parses `text` as if it stood behind `bytes: `; how sizes on the command line are read.
/// There may be nothing.
///
/// # Errors
/// As [`read`].
pub fn parse_size(text: &str, world: &World<'_>) -> Result<Option<Value>, FileError> {
    let document = parse(format!("bytes: {text}").as_bytes(), Path::new(""), world)
        .map_err(|refused| refused.cause)?;
    Ok(document.map.find("bytes").map(|entry| entry.value.clone()))
}

/// Unlike the reference, which reads a byte order mark as a part of the first key, and so loses it.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

fn read_bytes(file: &Path, world: &World<'_>) -> Result<Zeroizing<Vec<u8>>, FileError> {
    (world.read)(file).map(Zeroizing::new).map_err(|error| FileError::Unreadable {
        // A folder can be opened, but not read.
        call: if error.kind() == io::ErrorKind::IsADirectory { "read" } else { "open" },
        file: file.display().to_string(),
        reason: crate::base::go::system_reason(&error),
    })
}

/// How a text is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// As the reference does.
    Strict,
    /// With the few things that it refuses and that have one meaning only.
    Lenient,
}

/// Why a text is read.
enum Purpose {
    Root,
    Include { name: String },
    Variable { token: Token },
}

/// One text that is being read; the next one is what it refers to.
struct Frame {
    lexer: Lexer,
    builder: Builder,
    folder: PathBuf,
    purpose: Purpose,
    /// Where what was read last begins.
    line: usize,
}

impl Frame {
    fn new(text: Vec<u8>, file: &Path, purpose: Purpose, reading: Reading) -> Self {
        Self {
            lexer: Lexer::new(text, reading == Reading::Lenient),
            builder: Builder::new(Rc::from(file.display().to_string())),
            folder: file.parent().map(Path::to_path_buf).unwrap_or_default(),
            purpose,
            line: 1,
        }
    }

    /// The error as those see it that refer to this text.
    fn explain(&self, cause: FileError) -> FileError {
        let cause = Box::new(cause);
        match &self.purpose {
            Purpose::Root => *cause,
            Purpose::Include { name } => FileError::Include { file: name.clone(), cause },
            Purpose::Variable { token } => {
                FileError::VariableInvalid { name: lossy(&token.bytes), line: token.line, cause }
            }
        }
    }
}

fn read_as(
    reading: Reading,
    text: &[u8],
    file: &Path,
    world: &World<'_>,
) -> Result<Document, Refused> {
    let mut warnings = Vec::new();
    let mut frames = vec![Frame::new(text.to_vec(), file, Purpose::Root, reading)];
    loop {
        match step(&mut frames, reading, world, &mut warnings) {
            Ok(None) => {}
            Ok(Some(map)) => return Ok(Document { map, warnings }),
            Err(error) => {
                let at = place(&frames, &error);
                let cause = frames.iter().rev().fold(error, |error, frame| frame.explain(error));
                return Err(Refused { cause, at });
            }
        }
    }
}

/// Where the innermost file is wrong.
fn place(frames: &[Frame], error: &FileError) -> Option<String> {
    if matches!(error, FileError::KeyWithoutValue(_)) {
        return None;
    }
    let is_file = |frame: &&Frame| !matches!(frame.purpose, Purpose::Variable { .. });
    let is_innermost = frames.last().is_some_and(|frame| is_file(&frame));
    let frame = frames.iter().rev().find(is_file)?;
    let line = if let (FileError::Syntax { line, .. }, true) = (error, is_innermost) {
        *line
    } else {
        frame.line
    };
    Some(format!("{}:{line}", frame.builder.file()))
}

/// Reads one token of the innermost text; gives the whole when the outermost one is read.
fn step(
    frames: &mut Vec<Frame>,
    reading: Reading,
    world: &World<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<Map>, FileError> {
    let Some(frame) = frames.last_mut() else { unreachable!("the outermost text returns") };
    let token = frame.lexer.token()?;
    frame.line = token.line;
    match token.kind {
        Kind::End => {
            let map = frame.builder.finish(&token, warnings)?;
            return close(frames, map);
        }
        Kind::Include => {
            let name = lossy(&token.bytes);
            let file = joined(&frame.folder, &token.bytes);
            refuse_cycle(frames, &file.display().to_string())?;
            match read_bytes(&file, world) {
                Ok(text) => {
                    let text = without_mark(&text).to_vec();
                    frames.push(Frame::new(text, &file, Purpose::Include { name }, reading));
                }
                Err(cause) => {
                    let cause = Box::new(in_variable(frames, cause));
                    return Err(FileError::Include { file: name, cause });
                }
            }
        }
        Kind::Variable => return variable(frames, token, reading, world).map(|()| None),
        Kind::Key
        | Kind::Text
        | Kind::Bool
        | Kind::Integer
        | Kind::Float
        | Kind::Date
        | Kind::ArrayStart
        | Kind::ArrayEnd
        | Kind::MapStart
        | Kind::MapEnd => frame.builder.accept(token)?,
    }
    Ok(None)
}

/// Compat: what a variable includes is read with other words; pinned by
/// `every_recorded_file_means_what_it_means_to_the_go_parser`.
fn in_variable(frames: &[Frame], error: FileError) -> FileError {
    let is_variable = |frame: &Frame| matches!(frame.purpose, Purpose::Variable { .. });
    if !frames.iter().any(is_variable) {
        return error;
    }
    let FileError::Unreadable { call, file, reason } = error else { return error };
    let call = match call {
        "read" => "error opening config file: read",
        _ => "error opening config file: open",
    };
    FileError::Unreadable { call, file, reason }
}

/// The innermost text is read: whoever refers to it gets `map`.
fn close(frames: &mut Vec<Frame>, map: Map) -> Result<Option<Map>, FileError> {
    let purpose = frames.pop().map_or(Purpose::Root, |frame| frame.purpose);
    let Some(outer) = frames.last_mut() else { return Ok(Some(map)) };
    match purpose {
        Purpose::Root => return Ok(Some(map)),
        Purpose::Include { .. } => outer.builder.merge(&map),
        Purpose::Variable { token } => match map.find(VARIABLE_KEY) {
            Some(entry) => {
                let at = outer.builder.position(&token);
                outer.builder.set(entry.value.clone(), at);
            }
            None => return Err(unknown(&token)),
        },
    }
    Ok(None)
}

fn variable(
    frames: &mut Vec<Frame>,
    token: Token,
    reading: Reading,
    world: &World<'_>,
) -> Result<(), FileError> {
    let name = lossy(&token.bytes);
    let Some(frame) = frames.last_mut() else { unreachable!("a text is being read") };
    let at = frame.builder.position(&token);
    // Compat: a bcrypt hash begins like a variable; pinned by
    // `each_kind_of_value_is_what_it_looks_like`.
    if token.bytes.starts_with(b"2a$") {
        frame.builder.set(Value::text([b"$", &token.bytes[..]].concat()), at);
        return Ok(());
    }
    let mut found = frame.builder.find(&name).map(|entry| {
        entry.is_variable.set(true);
        entry.value.clone()
    });
    if found.is_none() {
        if let Some(text) = (world.variable)(&name) {
            refuse_cycle(frames, &name)?;
            let text = Zeroizing::new(text);
            let text = format!("{VARIABLE_KEY}={}", *text).into_bytes();
            frames.push(Frame::new(text, Path::new(""), Purpose::Variable { token }, reading));
            return Ok(());
        }
        found = (reading == Reading::Lenient).then(|| outer_value(frames, &name)).flatten();
    }
    match (found, frames.last_mut()) {
        (Some(value), Some(frame)) => frame.builder.set(value, at),
        _ => return Err(unknown(&token)),
    }
    Ok(())
}

/// The reference ends with an overflow of its stack.
fn refuse_cycle(frames: &[Frame], name: &str) -> Result<(), FileError> {
    let is_same = |frame: &Frame| match &frame.purpose {
        Purpose::Root | Purpose::Include { .. } => frame.builder.file() == name,
        Purpose::Variable { token } => token.bytes == name.as_bytes(),
    };
    if frames.iter().any(is_same) {
        return Err(FileError::Cycle(name.to_owned()));
    }
    if frames.len() > DEPTH_MAX { Err(FileError::TooDeep) } else { Ok(()) }
}

/// What the files say that include this one.
fn outer_value(frames: &[Frame], name: &str) -> Option<Value> {
    let includes = |frame: &&Frame| matches!(frame.purpose, Purpose::Include { .. });
    let depth = frames.iter().rev().take_while(includes).count();
    let entry =
        frames.iter().rev().skip(1).take(depth).find_map(|frame| frame.builder.find(name))?;
    entry.is_variable.set(true);
    Some(entry.value.clone())
}

fn unknown(token: &Token) -> FileError {
    FileError::VariableUnknown { name: lossy(&token.bytes), line: token.line }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The file that is called `name` in `folder`. Compat: also one that begins with a slash, and `..`
/// takes back what was named before it, wherever a link leads; pinned by
/// `included_files_lie_beside_the_including_one_and_merge_into_its_map`.
fn joined(folder: &Path, name: &[u8]) -> PathBuf {
    let name = Path::new(OsStr::from_bytes(name));
    let mut path = PathBuf::new();
    for part in folder.components().chain(name.components()) {
        match part {
            Component::RootDir if path.as_os_str().is_empty() && folder.is_absolute() => {
                path.push("/");
            }
            Component::ParentDir => match path.components().next_back() {
                Some(Component::Normal(_)) => {
                    path.pop();
                }
                Some(Component::RootDir) => {}
                _ => path.push(".."),
            },
            Component::Normal(part) => path.push(part),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
}

#[cfg(test)]
pub(super) mod tests;
