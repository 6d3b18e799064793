//! Tokens → a tree of values
//!
//! Keys that wait for their values are one stack for all open maps. So a value that is missing is
//! taken from a later place as the reference takes it: `m { a: }` is `a: {}`.

use std::mem;
use std::rc::Rc;

use super::FileError;
use super::lexer::{Kind, Token};
use super::scalar;
use crate::base::go;
use crate::config::tree::{Entry, Item, Items, Map, Position, Value};

/// What was opened and is not closed yet.
enum Open {
    Map(Map),
    Array(Items),
}

/// Takes the tokens of one text.
pub(super) struct Builder {
    file: Rc<str>,
    root: Map,
    open: Vec<Open>,
    keys: Vec<(String, Position)>,
    /// Whether the last token was a key that nothing but a value may follow.
    ends_in_key: bool,
}

impl Builder {
    pub fn new(file: Rc<str>) -> Self {
        Self { file, root: Map::default(), open: Vec::new(), keys: Vec::new(), ends_in_key: false }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn position(&self, token: &Token) -> Position {
        Position { file: Rc::clone(&self.file), line: token.line, column: token.column }
    }

    /// Takes any token but the end, an include and a variable.
    pub fn accept(&mut self, token: Token) -> Result<(), FileError> {
        let at = self.position(&token);
        let Token { kind, bytes, .. } = token;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        self.ends_in_key = false;
        let value = match kind {
            Kind::Key => {
                // Compat: a bracket that closes nothing is a key, and may end the text.
                self.ends_in_key = bytes != b"}";
                self.keys.push((text(bytes), at));
                return Ok(());
            }
            Kind::MapStart => {
                self.open.push(Open::Map(Map::default()));
                return Ok(());
            }
            Kind::ArrayStart => {
                self.open.push(Open::Array(Items::default()));
                return Ok(());
            }
            Kind::MapEnd | Kind::ArrayEnd => match self.open.pop() {
                Some(Open::Map(map)) => Value::Map(map),
                Some(Open::Array(items)) => Value::Array(items),
                None => unreachable!("brackets are paired by the lexer"),
            },
            Kind::Text => Value::text(bytes),
            Kind::Bool => {
                let is_on = [&b"true"[..], b"yes", b"on"];
                Value::Bool(is_on.iter().any(|word| word.eq_ignore_ascii_case(&bytes)))
            }
            Kind::Integer => match scalar::integer(&text(bytes))? {
                Some(value) => value,
                None => return Ok(()),
            },
            Kind::Float => scalar::float(&text(bytes))?,
            Kind::Date => scalar::date(text(bytes))?,
            Kind::Variable | Kind::Include | Kind::End => {
                unreachable!("the caller resolves what is outside of the text")
            }
        };
        self.set(value, at);
        Ok(())
    }

    /// Gives the innermost map or array a value, which stands at `at` if it is an element.
    pub fn set(&mut self, value: Value, at: Position) {
        self.ends_in_key = false;
        if let Some(Open::Array(items)) = self.open.last_mut() {
            items.push(Item { value, at });
            return;
        }
        let Some((key, at)) = self.keys.pop() else {
            unreachable!("a value of a map follows its key")
        };
        self.insert(Entry { key, at, value, is_variable: false.into() });
    }

    fn insert(&mut self, entry: Entry) {
        match self.open.last_mut() {
            Some(Open::Map(map)) => map.insert(entry),
            Some(Open::Array(_)) => unreachable!("nothing is included in an array"),
            None => self.root.insert(entry),
        }
    }

    /// Adds the entries of an included file to the innermost map.
    pub fn merge(&mut self, map: &Map) {
        self.ends_in_key = false;
        for entry in map {
            self.insert(entry.clone());
        }
    }

    /// The entry that `name` refers to: from the innermost map outwards, as far as they were read.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let inner = self.open.iter().rev().filter_map(|open| match open {
            Open::Map(map) => map.find(name),
            Open::Array(_) => None,
        });
        inner.chain(self.root.find(name)).next()
    }

    /// What was read, and warnings of what was not. What is still open at the end is not in it.
    pub fn finish(&mut self, end: &Token, warnings: &mut Vec<String>) -> Result<Map, FileError> {
        if self.ends_in_key {
            return Err(FileError::KeyWithoutValue(self.position(end).to_string()));
        }
        for (key, at) in self.keys.iter().filter(|(key, _)| key != "}") {
            warnings.push(format!("{at}: field {} has no value and is ignored", go::quote(key)));
        }
        Ok(mem::take(&mut self.root))
    }
}
