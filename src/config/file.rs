//! Configuration grammar → tree of values
//!
//! Facts: spec core NATS, section 15 with its overrides in section 0. Pure: included files and
//! the environment come in through [`World`]. Where the reference reads on past nonsense or
//! swallows a bracket (`[1]`), this says no, or reads what is meant.

mod scalar;

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::config::World;
use crate::config::tree::{Entry, Item, Map, Position, Value};

/// Files and variables within each other: a cycle ends here.
const DEPTH_MAX: usize = 32;

/// Maps and arrays within each other; each level needs stack.
const NESTING_MAX: usize = 128;

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
    /// Files or variables that refer to themselves.
    #[error("more than 32 files or variables within each other")]
    TooDeep,
}

/// Reads and parses `file`.
///
/// # Errors
/// The first thing that is wrong, in this file or one that it includes.
pub fn read(file: &Path, world: &World<'_>) -> Result<Map, FileError> {
    let text = read_text(file, world)?;
    parse(&text, file, world)
}

/// Parses the text of `file`.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, file: &Path, world: &World<'_>) -> Result<Map, FileError> {
    let mut scopes = vec![Map::default()];
    Parser::new(text, file, world, 0).document(&mut scopes)?;
    Ok(scopes.pop().unwrap_or_default())
}

/// Parses `text` as if it stood behind `key=`; how sizes on the command line are read.
///
/// # Errors
/// As [`read`].
pub fn parse_value(key: &str, text: &str, world: &World<'_>) -> Result<Value, FileError> {
    value_of(key, text, world, 0)
}

fn value_of(key: &str, text: &str, world: &World<'_>, depth: usize) -> Result<Value, FileError> {
    let mut scopes = vec![Map::default()];
    let document = format!("{key}={text}");
    Parser::new(&document, Path::new(""), world, depth).document(&mut scopes)?;
    let map = scopes.pop().unwrap_or_default();
    Ok(map.find(key).map_or_else(|| Value::String(String::new()), |entry| entry.value.clone()))
}

fn read_text(file: &Path, world: &World<'_>) -> Result<String, FileError> {
    let bytes = (world.read)(file).map_err(|error| FileError::Unreadable {
        // A folder can be opened, but not read.
        call: if error.kind() == io::ErrorKind::IsADirectory { "read" } else { "open" },
        file: file.display().to_string(),
        reason: crate::config::go::system_reason(&error),
    })?;
    Ok(String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').to_owned())
}

/// What encloses a value: it decides what may follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Top,
    Map,
    Array,
}

struct Parser<'a> {
    text: &'a [u8],
    source: &'a str,
    pos: usize,
    line: usize,
    line_start: usize,
    file: Rc<str>,
    folder: PathBuf,
    world: &'a World<'a>,
    depth: usize,
    nesting: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str, file: &Path, world: &'a World<'a>, depth: usize) -> Self {
        Self {
            text: source.as_bytes(),
            source,
            pos: 0,
            line: 1,
            line_start: 0,
            file: Rc::from(file.display().to_string()),
            folder: file.parent().map(Path::to_path_buf).unwrap_or_default(),
            world,
            depth,
            nesting: 0,
        }
    }

    fn document(&mut self, scopes: &mut Vec<Map>) -> Result<(), FileError> {
        if self.depth > DEPTH_MAX {
            return Err(FileError::TooDeep);
        }
        self.skip_blank_lines()?;
        if self.peek() == Some(b'{') {
            self.advance();
        }
        loop {
            self.skip_blank_lines()?;
            match self.peek() {
                None => return Ok(()),
                Some(b'}') => self.advance(),
                Some(_) => self.entry(scopes, Inside::Top)?,
            }
        }
    }

    // Text

    fn peek(&self) -> Option<u8> {
        self.text.get(self.pos).copied()
    }

    fn advance(&mut self) {
        if self.peek() == Some(b'\n') {
            self.line += 1;
            self.line_start = self.pos;
        }
        self.pos += 1;
    }

    /// What stands here, for error texts; NUL at the end of the file, as the reference shows it.
    fn shown(&self) -> char {
        self.source.get(self.pos..).and_then(|rest| rest.chars().next()).unwrap_or('\0')
    }

    fn position(&self) -> Position {
        let column = self.pos - self.line_start;
        Position { file: Rc::clone(&self.file), line: self.line, column }
    }

    fn slice(&self, from: usize) -> &'a str {
        self.source.get(from..self.pos).unwrap_or_default()
    }

    fn syntax<T>(&self, reason: impl Into<String>) -> Result<T, FileError> {
        Err(FileError::Syntax { line: self.line, reason: reason.into() })
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | 0x0b | 0x0c)) {
            self.advance();
        }
    }

    /// Skips blanks, line ends and comments.
    fn skip_blank_lines(&mut self) -> Result<(), FileError> {
        loop {
            self.skip_blanks();
            match self.peek() {
                Some(b'\n') => self.advance(),
                Some(b'#' | b'/') => self.comment()?,
                _ => return Ok(()),
            }
        }
    }

    /// Skips a comment, up to the end of its line.
    fn comment(&mut self) -> Result<(), FileError> {
        if self.peek() == Some(b'/') && self.text.get(self.pos + 1) != Some(&b'/') {
            return self.syntax("Expected a comment after '/'");
        }
        while !matches!(self.peek(), None | Some(b'\n')) {
            self.advance();
        }
        Ok(())
    }

    // Entries

    fn entry(&mut self, scopes: &mut Vec<Map>, inside: Inside) -> Result<(), FileError> {
        let (key, at, is_quoted) = self.key(inside)?;
        if !is_quoted && key.eq_ignore_ascii_case("include") && self.is_at_blank() {
            self.include(scopes)?;
            return self.end_of_value(inside);
        }
        loop {
            self.skip_blanks();
            match self.peek() {
                Some(b'\n') => self.advance(),
                None => return Err(FileError::KeyWithoutValue(self.position().to_string())),
                _ => break,
            }
        }
        if matches!(self.peek(), Some(b'=' | b':')) {
            self.advance();
            self.skip_blanks();
        }
        if inside == Inside::Map {
            self.skip_blank_lines()?;
        } else if self.peek() == Some(b'\n') {
            self.advance();
            return self.syntax("Expected value but found new line");
        }
        let value = self.value(scopes, inside)?;
        self.end_of_value(inside)?;
        if let Some(scope) = scopes.last_mut() {
            scope.insert(Entry { key, at, value, is_variable: false.into() });
        }
        Ok(())
    }

    fn is_at_blank(&self) -> bool {
        self.peek().is_some_and(|byte| byte.is_ascii_whitespace())
    }

    fn key(&mut self, inside: Inside) -> Result<(String, Position, bool), FileError> {
        match self.peek() {
            Some(byte @ (b'=' | b':')) => {
                let dot = if inside == Inside::Map { "." } else { "" };
                self.syntax(format!("Unexpected key separator '{}'{dot}", char::from(byte)))
            }
            Some(b',') if inside == Inside::Map => {
                self.syntax("Unexpected map value terminator \",\".")
            }
            Some(quote @ (b'"' | b'\'')) => {
                self.advance();
                let at = self.position();
                let start = self.pos;
                self.skip_to_quote(quote)?;
                let key = self.slice(start).to_owned();
                self.advance();
                Ok((key, at, true))
            }
            _ => {
                let at = self.position();
                let start = self.pos;
                while let Some(byte) = self.peek() {
                    if byte.is_ascii_whitespace() || matches!(byte, 0x0b | b'=' | b':') {
                        break;
                    }
                    self.advance();
                }
                if inside == Inside::Map && self.peek().is_none() {
                    return self.syntax("Unexpected EOF processing map key.");
                }
                Ok((self.slice(start).to_owned(), at, false))
            }
        }
    }

    fn skip_to_quote(&mut self, quote: u8) -> Result<(), FileError> {
        while let Some(byte) = self.peek() {
            if byte == quote {
                return Ok(());
            }
            self.advance();
        }
        self.syntax("Unexpected EOF.")
    }

    fn include(&mut self, scopes: &mut Vec<Map>) -> Result<(), FileError> {
        self.skip_blanks();
        let name = match self.peek() {
            Some(b'\n') => {
                self.advance();
                return self.syntax("Expected include value but found new line");
            }
            None => return Err(FileError::KeyWithoutValue(self.position().to_string())),
            Some(quote @ (b'"' | b'\'')) => {
                self.advance();
                let start = self.pos;
                self.skip_to_quote(quote)?;
                let name = self.slice(start).to_owned();
                self.advance();
                name
            }
            Some(_) => {
                let start = self.pos;
                while self.peek().is_some_and(|byte| !is_include_end(byte)) {
                    self.advance();
                }
                self.slice(start).to_owned()
            }
        };
        let relative = name.trim_start_matches('/');
        let file = self.folder.join(relative);
        let failed = |cause| FileError::Include { file: name.clone(), cause: Box::new(cause) };
        let text = read_text(&file, self.world).map_err(failed)?;
        let mut parser = Parser::new(&text, &file, self.world, self.depth + 1);
        parser.nesting = self.nesting;
        parser.document(scopes).map_err(failed)
    }

    /// What may follow a value, up to and with the end of the entry.
    fn end_of_value(&mut self, inside: Inside) -> Result<(), FileError> {
        self.skip_blanks();
        match (self.peek(), inside) {
            (Some(b'#'), _) => self.comment(),
            (Some(b'/'), _) if self.text.get(self.pos + 1) == Some(&b'/') => self.comment(),
            (Some(b'\n' | b','), _) | (Some(b';'), Inside::Top | Inside::Map) => {
                self.advance();
                Ok(())
            }
            // Left for whoever reads the map or array.
            (Some(b'}'), Inside::Top | Inside::Map)
            | (Some(b']'), Inside::Array)
            | (None, Inside::Top) => Ok(()),
            (_, Inside::Top) => self.syntax(format!(
                "Expected a top-level value to end with a new line, comment or EOF, but got '{}' \
                 instead.",
                self.shown()
            )),
            (_, Inside::Map) => self.syntax(format!(
                "Expected a map value terminator \",\" or a map terminator \"}}\", but got '{}' \
                 instead.",
                self.shown()
            )),
            (_, Inside::Array) => self.syntax(format!(
                "Expected an array value terminator \",\" or an array terminator \"]\", but got \
                 '{}' instead.",
                self.shown()
            )),
        }
    }

    // Values

    fn value(&mut self, scopes: &mut Vec<Map>, inside: Inside) -> Result<Value, FileError> {
        match self.peek() {
            Some(b'{') => self.map(scopes),
            Some(b'[') => self.array(scopes),
            Some(b'(') => self.block(),
            Some(b'"') => self.double_quoted(),
            Some(b'\'') => {
                self.advance();
                let start = self.pos;
                self.skip_to_quote(b'\'')?;
                let text = self.slice(start).to_owned();
                self.advance();
                Ok(Value::String(text))
            }
            Some(b'-') => self.negative(),
            Some(b'.') => self.syntax("Floats must start with a digit"),
            Some(b',') if inside == Inside::Map => {
                self.syntax("Unexpected map value terminator \",\".")
            }
            Some(b'}') if inside == Inside::Map => {
                Err(FileError::KeyWithoutValue(self.position().to_string()))
            }
            Some(byte) if byte.is_ascii_digit() => self.number(),
            Some(b'$') if !self.text[self.pos..].starts_with(b"$2a$") => self.variable(scopes),
            _ => self.bare(self.pos),
        }
    }

    fn nest(&mut self) -> Result<(), FileError> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return self.syntax("More than 128 maps and arrays within each other");
        }
        self.advance();
        Ok(())
    }

    fn map(&mut self, scopes: &mut Vec<Map>) -> Result<Value, FileError> {
        self.nest()?;
        scopes.push(Map::default());
        loop {
            self.skip_blank_lines()?;
            match self.peek() {
                None => return self.syntax("Unexpected EOF processing map."),
                Some(b'}') => break,
                Some(_) => self.entry(scopes, Inside::Map)?,
            }
        }
        self.advance();
        self.nesting -= 1;
        Ok(Value::Map(scopes.pop().unwrap_or_default()))
    }

    fn array(&mut self, scopes: &mut Vec<Map>) -> Result<Value, FileError> {
        self.nest()?;
        let mut items = Vec::new();
        loop {
            self.skip_blank_lines()?;
            match self.peek() {
                None => return self.syntax("Unexpected EOF processing array."),
                Some(b']') => break,
                Some(b',') => return self.syntax("Unexpected array value terminator ','."),
                Some(byte) => {
                    let mut at = self.position();
                    // The reference points behind what opens a value.
                    at.column += usize::from(matches!(byte, b'"' | b'\'' | b'{' | b'[' | b'('));
                    let value = self.value(scopes, Inside::Array)?;
                    self.end_of_value(Inside::Array)?;
                    items.push(Item { value, at });
                }
            }
        }
        self.advance();
        self.nesting -= 1;
        Ok(Value::Array(items))
    }

    /// `(` up to a `)` that is the first character of a line and stands alone on it.
    fn block(&mut self) -> Result<Value, FileError> {
        self.advance();
        let start = self.pos;
        while self.peek().is_some() {
            let is_line_start = self.pos > start && self.text.get(self.pos - 1) == Some(&b'\n');
            if is_line_start && self.peek() == Some(b')') {
                let rest = self.text[self.pos + 1..].split(|byte| *byte == b'\n').next();
                if rest.is_none_or(|rest| rest.iter().all(u8::is_ascii_whitespace)) {
                    let text = self.slice(start).to_owned();
                    self.advance();
                    return Ok(Value::String(text));
                }
            }
            self.advance();
        }
        self.syntax("Unexpected EOF processing block.")
    }

    fn double_quoted(&mut self) -> Result<Value, FileError> {
        self.advance();
        let mut bytes = Vec::new();
        loop {
            match self.peek() {
                None => return self.syntax("Unexpected EOF."),
                Some(b'"') => break,
                Some(b'\\') => bytes.push(self.escape()?),
                Some(byte) => {
                    bytes.push(byte);
                    self.advance();
                }
            }
        }
        self.advance();
        Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// One escape sequence; `pos` is at its backslash, and behind it afterwards.
    fn escape(&mut self) -> Result<u8, FileError> {
        self.advance();
        let byte = match self.peek() {
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b'"') => b'"',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = self.source.get(self.pos + 1..self.pos + 3).unwrap_or_default();
                let Ok(byte) = u8::from_str_radix(digits, 16) else {
                    return self.syntax(format!(
                        "Expected two hexadecimal digits after '\\x', but got '{digits}'"
                    ));
                };
                self.advance();
                self.advance();
                byte
            }
            _ => {
                return self.syntax(format!(
                    "Invalid escape character '{}'. Only the following escape characters are \
                     allowed: \\xXX, \\t, \\n, \\r, \\\", \\\\.",
                    self.shown()
                ));
            }
        };
        self.advance();
        Ok(byte)
    }

    /// A bare string that began at `start`; `pos` may be further on already.
    fn bare(&mut self, start: usize) -> Result<Value, FileError> {
        let mut bytes = self.slice(start).as_bytes().to_vec();
        let mut is_plain = true;
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' => {
                    is_plain = false;
                    bytes.push(self.escape()?);
                }
                // A quote ends the string and is dropped.
                b'\'' => {
                    self.advance();
                    break;
                }
                _ if is_bare_end(byte) => break,
                _ => {
                    bytes.push(byte);
                    self.advance();
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let word = if is_plain { text.to_ascii_lowercase() } else { String::new() };
        Ok(match word.as_str() {
            "true" | "yes" | "on" => Value::Bool(true),
            "false" | "no" | "off" => Value::Bool(false),
            _ => Value::String(text),
        })
    }

    fn variable(&mut self, scopes: &[Map]) -> Result<Value, FileError> {
        self.advance();
        let start = self.pos;
        while self.peek().is_some_and(|byte| !is_bare_end(byte)) {
            self.advance();
        }
        let name = self.slice(start);
        let line = self.line;
        if let Some(entry) = scopes.iter().rev().find_map(|scope| scope.find(name)) {
            entry.is_variable.set(true);
            return Ok(entry.value.clone());
        }
        let Some(text) = (self.world.variable)(name) else {
            return Err(FileError::VariableUnknown { name: name.to_owned(), line });
        };
        value_of(name, &text, self.world, self.depth + 1).map_err(|cause| {
            FileError::VariableInvalid { name: name.to_owned(), line, cause: Box::new(cause) }
        })
    }
}

fn is_bare_end(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, 0x0b | b',' | b';' | b']' | b'}')
}

fn is_include_end(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b';' | b'}')
}

#[cfg(test)]
pub(super) mod tests;
