//! What a configuration file says: values with the place where each stands
//!
//! Maps and arrays are shared, not copied, where a variable refers to them, and nothing here
//! recurses: a file may nest as deeply and repeat itself as often as it likes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use zeroize::Zeroize as _;

/// A value is shown in messages up to this length; variables within variables can make it huge.
const SHOWN_BYTES_MAX: usize = 16 * 1024;

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
    /// A string that is no UTF-8: a path may be one, a name or password may not.
    Bytes(Vec<u8>),
    /// `true yes on`, `false no off`.
    Bool(bool),
    /// With its suffix multiplied in.
    Integer(i64),
    /// Digits on both sides of the point.
    Float(f64),
    /// `YYYY-MM-DDTHH:MM:SSZ`, as written; no option takes one.
    Date(String),
    /// `[ … ]`
    Array(Items),
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

/// The elements of an array, in order. A clone is the same array.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Items(Rc<Elements>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Elements(Vec<Item>);

impl Items {
    pub(crate) fn push(&mut self, item: Item) {
        Rc::make_mut(&mut self.0).0.push(item);
    }
}

impl std::ops::Deref for Items {
    type Target = [Item];

    fn deref(&self) -> &[Item] {
        &self.0.0
    }
}

impl<'a> IntoIterator for &'a Items {
    type Item = &'a Item;
    type IntoIter = std::slice::Iter<'a, Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Drop for Elements {
    fn drop(&mut self) {
        dismantle(self.0.drain(..).map(|item| item.value).collect());
    }
}

/// One entry of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// As written; what is no UTF-8 in it is shown as `U+FFFD`.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// What it is.
    pub value: Value,
    /// Whether a variable referred to it: then it may have any name.
    pub is_variable: Cell<bool>,
}

/// Entries in the order of the file; of a key that is there twice the last value counts. A clone
/// is the same map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Rc<Entries>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Entries {
    list: Vec<Entry>,
    places: BTreeMap<String, usize>,
}

impl Map {
    /// Adds an entry, in place of an earlier one with the same key.
    pub fn insert(&mut self, entry: Entry) {
        let entries = Rc::make_mut(&mut self.0);
        match entries.places.get(&entry.key) {
            Some(place) => {
                let former = std::mem::replace(&mut entries.list[*place], entry);
                dismantle(vec![former.value]);
            }
            None => {
                entries.places.insert(entry.key.clone(), entries.list.len());
                entries.list.push(entry);
            }
        }
    }

    /// The entry whose key is exactly `key`.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<&Entry> {
        self.0.places.get(key).map(|place| &self.0.list[*place])
    }

    /// The entries, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.0.list.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.list.is_empty()
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        dismantle(self.list.drain(..).map(|entry| entry.value).collect());
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Frees values level by level: to free each with what it contains would need stack for each level.
fn dismantle(mut values: Vec<Value>) {
    while let Some(value) = values.pop() {
        match value {
            Value::Array(items) => {
                if let Some(mut items) = Rc::into_inner(items.0) {
                    values.extend(items.0.drain(..).map(|item| item.value));
                }
            }
            Value::Map(map) => {
                if let Some(mut map) = Rc::into_inner(map.0) {
                    values.extend(map.list.drain(..).map(|entry| entry.value));
                }
            }
            // There may be a key among them.
            Value::String(mut text) => text.zeroize(),
            Value::Bytes(mut bytes) => bytes.zeroize(),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Date(_) => {}
        }
    }
}

impl Value {
    /// The string that `bytes` are.
    #[must_use]
    pub fn text(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::String)
    }

    /// The path that a string is, whatever its encoding.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::String(text) => Some(PathBuf::from(text)),
            Self::Bytes(bytes) => Some(PathBuf::from(OsStr::from_bytes(bytes))),
            Self::Bool(_)
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Date(_)
            | Self::Array(_)
            | Self::Map(_) => None,
        }
    }

    /// The kind as streaming errors name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) | Self::Bytes(_) => "string",
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
            Self::String(_)
            | Self::Bytes(_)
            | Self::Bool(_)
            | Self::Integer(_)
            | Self::Float(_) => self.kind(),
        }
    }
}

/// What is still to be shown of a value.
enum Piece<'a> {
    Text(&'a str),
    Value(&'a Value),
}

impl fmt::Display for Value {
    /// As the reference prints it in `got …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pieces = vec![Piece::Value(self)];
        let mut shown = String::new();
        while let Some(piece) = pieces.pop() {
            if shown.len() > SHOWN_BYTES_MAX {
                shown.push('…');
                break;
            }
            match piece {
                Piece::Text(text) => shown.push_str(text),
                Piece::Value(Self::String(text) | Self::Date(text)) => shown.push_str(text),
                Piece::Value(Self::Bytes(bytes)) => {
                    shown.push_str(&String::from_utf8_lossy(bytes));
                }
                Piece::Value(Self::Bool(value)) => shown.push_str(&value.to_string()),
                Piece::Value(Self::Integer(value)) => shown.push_str(&value.to_string()),
                Piece::Value(Self::Float(value)) => shown.push_str(&value.to_string()),
                Piece::Value(Self::Array(items)) => {
                    shown.push('[');
                    pieces.push(Piece::Text("]"));
                    for (place, item) in items.iter().enumerate().rev() {
                        pieces.push(Piece::Value(&item.value));
                        pieces.push(Piece::Text(if place == 0 { "" } else { " " }));
                    }
                }
                Piece::Value(Self::Map(map)) => {
                    shown.push_str("map[");
                    pieces.push(Piece::Text("]"));
                    // Sorted by key.
                    for (count, (key, place)) in map.0.places.iter().enumerate().rev() {
                        pieces.push(Piece::Value(&map.0.list[*place].value));
                        pieces.push(Piece::Text(":"));
                        pieces.push(Piece::Text(key));
                        pieces.push(Piece::Text(if count == 0 { "" } else { " " }));
                    }
                }
            }
        }
        f.write_str(&shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An array in an array, `depth` times.
    fn nested(depth: usize) -> Value {
        let mut value = Value::Integer(1);
        for _ in 0..depth {
            let mut items = Items::default();
            items.push(Item { value, at: Position::default() });
            value = Value::Array(items);
        }
        value
    }

    #[test]
    fn a_value_of_any_depth_is_shown_and_freed_without_a_stack_for_each_level() {
        let value = nested(1_000_000);
        let shown = value.to_string();
        assert!(shown.starts_with("[[[") && shown.ends_with('…') && shown.len() < 20_000);
    }

    #[test]
    fn what_variables_repeat_is_shown_in_bounds() {
        let mut value = Value::Integer(1);
        for _ in 0..60 {
            let mut items = Items::default();
            items.push(Item { value: value.clone(), at: Position::default() });
            items.push(Item { value, at: Position::default() });
            value = Value::Array(items);
        }
        assert!(value.to_string().len() < 20_000);
    }
}
