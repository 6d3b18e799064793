//! What a configuration file says: values with the place where each stands

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

/// Where something stands, as the reference counts: columns from 0 on line 1, from 1 after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The file as it was named.
    pub file: Rc<str>,
    /// From 1.
    pub line: usize,
    /// In bytes.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Quoted, bare or a block.
    String(String),
    /// `true yes on`, `false no off`.
    Bool(bool),
    /// With its suffix multiplied in.
    Integer(i64),
    /// Digits on both sides of the point.
    Float(f64),
    /// `YYYY-MM-DDTHH:MM:SSZ`, as written; no option takes one.
    Date(String),
    /// `[ … ]`
    Array(Vec<Item>),
    /// `{ … }`
    Map(Map),
}

/// One element of an array.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub at: Position,
}

/// One entry of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// As written.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// What it is.
    pub value: Value,
    /// Whether a variable referred to it: then it may have any name.
    pub is_variable: Cell<bool>,
}

/// Entries in the order of the file; each key once, the last one written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    entries: Vec<Entry>,
}

impl Map {
    /// Adds an entry, in place of an earlier one with the same key.
    pub fn insert(&mut self, entry: Entry) {
        self.entries.retain(|other| other.key != entry.key);
        self.entries.push(entry);
    }

    /// The entry whose key is exactly `key`.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The entries, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Value {
    /// The kind as streaming errors name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::Bool(_) => "bool",
            Self::Integer(_) => "int64",
            Self::Float(_) => "float64",
            Self::Date(_) => "struct",
            Self::Array(_) => "slice",
            Self::Map(_) => "map",
        }
    }

    /// The type as errors of the core half name it.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Date(_) => "time.Time",
            Self::Array(_) => "[]interface {}",
            Self::Map(_) => "map[string]interface {}",
            Self::String(_) | Self::Bool(_) | Self::Integer(_) | Self::Float(_) => self.kind(),
        }
    }
}

impl fmt::Display for Value {
    /// As the reference prints it in `got …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) | Self::Date(text) => f.write_str(text),
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Array(items) => {
                let texts: Vec<String> = items.iter().map(|item| item.value.to_string()).collect();
                write!(f, "[{}]", texts.join(" "))
            }
            Self::Map(map) => {
                let mut texts: Vec<String> =
                    map.iter().map(|entry| format!("{}:{}", entry.key, entry.value)).collect();
                texts.sort();
                write!(f, "map[{}]", texts.join(" "))
            }
        }
    }
}
