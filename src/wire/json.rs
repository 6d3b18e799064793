//! The documents of INFO and CONNECT as Go reads them: what is no JSON, and what has another type.
//!
//! Compat: both are told in the reference's words, which stand in the log; and what it takes (bytes
//! that are no UTF-8, half a pair of surrogates, numbers beyond all bounds where nobody asks for
//! them, `null`, keys in any letter case) is taken. Pinned by
//! `end_to_end::log_lines::what_a_stranger_says_is_logged_as_by_the_reference`.

use serde_json::{Map, Value};

use crate::base::go::quote;

/// How deep a document may be, as in the reference.
const DEPTH_MAX: usize = 10_000;

/// What a field of a document may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
    /// A whole number of at most so many bits, with a sign or without.
    Whole(u32, bool),
    /// A list of texts.
    Texts,
    /// An object of this type.
    Object(&'static str),
}

/// What a document may have.
#[derive(Debug)]
pub(super) struct Schema {
    /// What it is called in errors about a field.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [(&'static str, Kind)],
}

/// A document that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DocumentError(pub(super) String);

/// The fields of a document that the schema names; of a repeated one the last.
///
/// # Errors
/// The first thing that is wrong, in the reference's words.
pub(super) fn read(json: &[u8], schema: &Schema) -> Result<Map<String, Value>, DocumentError> {
    let members = match Scanner::new(json).document().map_err(DocumentError)? {
        Document::Object(members) => members,
        Document::Null => Vec::new(),
        Document::Other(value) => {
            let (kind, name) = (kind_of(value), schema.name);
            let text = format!("json: cannot unmarshal {kind} into Go value of type server.{name}");
            return Err(DocumentError(text));
        }
    };
    let mut fields = Map::new();
    let mut wrong = None;
    for (key, value) in members {
        let key = unquoted(key).to_lowercase();
        let Some((name, kind)) = schema.fields.iter().find(|(name, _)| *name == key) else {
            continue;
        };
        if value == b"null" {
            continue;
        }
        match kind.read(value) {
            Ok(value) => {
                fields.insert(key, value);
            }
            Err((found, wanted)) => {
                let place = format!("Go struct field {}.{name} of type {wanted}", schema.name);
                let text = format!("json: cannot unmarshal {found} into {place}");
                wrong = wrong.or(Some(DocumentError(text)));
            }
        }
    }
    wrong.map_or(Ok(fields), Err)
}

impl Kind {
    /// A value of this kind; else what it is and what was wanted.
    fn read(self, json: &[u8]) -> Result<Value, (String, String)> {
        let found = kind_of(json);
        let other = || Err((found.to_owned(), self.type_name()));
        match (self, found) {
            (Self::Bool, "bool") => Ok(Value::Bool(json == b"true")),
            (Self::Text, "string") => Ok(Value::String(unquoted(json))),
            (Self::Whole(bits, is_signed), "number") => {
                let text = String::from_utf8_lossy(json).into_owned();
                let number = text.parse::<i128>().ok();
                let fits = |number: &i128| {
                    let (least, bits) = if is_signed { (-1, bits - 1) } else { (0, bits) };
                    (least << bits..1 << bits).contains(number)
                };
                let number = number.filter(fits).and_then(whole);
                number.ok_or_else(|| (format!("number {text}"), self.type_name()))
            }
            (Self::Texts, "array") | (Self::Object(_), "object") => {
                // What is deeper than the library reads is of no use here either.
                let value = serde_json::from_str(&String::from_utf8_lossy(json));
                let value = value.unwrap_or(Value::Null);
                let of_list = |value: &Value| value.as_array()?.iter().find_map(not_text);
                match of_list(&value).filter(|_| self == Self::Texts) {
                    Some(found) => Err((found.to_owned(), "string".to_owned())),
                    None => Ok(value),
                }
            }
            _ => other(),
        }
    }

    fn type_name(self) -> String {
        match self {
            Self::Bool => "bool".to_owned(),
            Self::Text => "string".to_owned(),
            Self::Whole(64, true) => "int".to_owned(),
            Self::Whole(bits, true) => format!("int{bits}"),
            Self::Whole(bits, false) => format!("uint{bits}"),
            Self::Texts => "[]string".to_owned(),
            Self::Object(name) => format!("server.{name}"),
        }
    }
}

fn whole(number: i128) -> Option<Value> {
    i64::try_from(number).map(Value::from).or_else(|_| u64::try_from(number).map(Value::from)).ok()
}

fn not_text(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null | Value::String(_) => None,
        Value::Bool(_) => Some("bool"),
        Value::Number(_) => Some("number"),
        Value::Array(_) => Some("array"),
        Value::Object(_) => Some("object"),
    }
}

/// What a whole value is, by its first byte.
fn kind_of(json: &[u8]) -> &'static str {
    match json.first() {
        Some(b'"') => "string",
        Some(b'[') => "array",
        Some(b'{') => "object",
        Some(b't' | b'f') => "bool",
        Some(_) | None => "number",
    }
}

/// The text of a string with its quotes, whose escapes are in order.
fn unquoted(json: &[u8]) -> String {
    let inner = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    let shown = String::from_utf8_lossy(inner);
    let mut units: Vec<u16> = Vec::new();
    let mut letters = shown.chars();
    while let Some(letter) = letters.next() {
        let escaped = if letter == '\\' { letters.next() } else { None };
        let plain = match escaped {
            None => letter,
            Some('b') => '\x08',
            Some('f') => '\x0c',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let digits: String = letters.by_ref().take(4).collect();
                units.push(u16::from_str_radix(&digits, 16).unwrap_or(0xfffd));
                continue;
            }
            Some(other) => other,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16_lossy(&units)
}

/// A document without a syntax error.
enum Document<'a> {
    /// Its members, in their order: key with its quotes, value.
    Object(Vec<(&'a [u8], &'a [u8])>),
    Null,
    /// A value that is no object.
    Other(&'a [u8]),
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// A value, or the end of a list that is empty.
    ValueOrEnd,
    Key,
    /// A key, or the end of an object that is empty.
    KeyOrEnd,
    Colon,
    /// A comma, or the end of what this is in.
    AfterValue,
}

/// Reads a document once, from its beginning to its end.
struct Scanner<'a> {
    json: &'a [u8],
    at: usize,
    /// What is open: objects are true.
    open: Vec<bool>,
}

type Scanned<T> = Result<T, String>;

const END: &str = "unexpected end of JSON input";

fn unexpected(letter: u8, place: &str) -> String {
    let quoted = match letter {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        _ => {
            // As there, a byte counts as the letter of that number.
            let quoted = quote(char::from(letter).encode_utf8(&mut [0; 4]));
            quoted[1..quoted.len() - 1].to_owned()
        }
    };
    format!("invalid character '{quoted}' {place}")
}

impl<'a> Scanner<'a> {
    fn new(json: &'a [u8]) -> Self {
        Self { json, at: 0, open: Vec::new() }
    }

    /// The whole document.
    fn document(mut self) -> Scanned<Document<'a>> {
        let json = self.json;
        let mut members = Vec::new();
        let (mut key, mut begin) = (&json[..0], 0);
        let mut next = Next::Value;
        loop {
            let letter = self.skip_blanks().ok_or(END)?;
            let start = self.at;
            let is_member = self.open.as_slice() == [true];
            if is_member && next == Next::Value {
                begin = start;
            }
            next = self.step(letter, next)?;
            if is_member && next == Next::Colon {
                key = &json[start..self.at];
            }
            if next == Next::AfterValue && self.open.is_empty() {
                break;
            }
            if next == Next::AfterValue && self.open.as_slice() == [true] {
                members.push((key, &json[begin..self.at]));
            }
        }
        if let Some(letter) = self.skip_blanks() {
            return Err(unexpected(letter, "after top-level value"));
        }
        let value = json.trim_ascii();
        Ok(match value.first() {
            Some(b'{') => Document::Object(members),
            Some(b'n') => Document::Null,
            Some(_) | None => Document::Other(value),
        })
    }

    fn skip_blanks(&mut self) -> Option<u8> {
        while matches!(self.json.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    /// Passes over what begins here, and says what may come then.
    fn step(&mut self, letter: u8, next: Next) -> Scanned<Next> {
        let is_object = self.open.last() == Some(&true);
        match (next, letter) {
            (Next::Value | Next::ValueOrEnd, b'{') => return self.begin(true),
            (Next::Value | Next::ValueOrEnd, b'[') => return self.begin(false),
            (Next::ValueOrEnd, b']') | (Next::KeyOrEnd, b'}') => self.end(),
            (Next::AfterValue, b']') if !is_object => self.end(),
            (Next::AfterValue, b'}') if is_object => self.end(),
            (Next::Value | Next::ValueOrEnd, _) => self.scalar(letter)?,
            (Next::Key | Next::KeyOrEnd, b'"') => {
                self.string()?;
                return Ok(Next::Colon);
            }
            (Next::Key | Next::KeyOrEnd, _) => {
                return Err(unexpected(letter, "looking for beginning of object key string"));
            }
            (Next::Colon, b':') => {
                self.at += 1;
                return Ok(Next::Value);
            }
            (Next::Colon, _) => return Err(unexpected(letter, "after object key")),
            (Next::AfterValue, b',') => {
                self.at += 1;
                return Ok(if is_object { Next::Key } else { Next::Value });
            }
            (Next::AfterValue, _) if is_object => {
                return Err(unexpected(letter, "after object key:value pair"));
            }
            (Next::AfterValue, _) => return Err(unexpected(letter, "after array element")),
        }
        Ok(Next::AfterValue)
    }

    fn begin(&mut self, is_object: bool) -> Scanned<Next> {
        self.at += 1;
        self.open.push(is_object);
        if DEPTH_MAX < self.open.len() {
            return Err("exceeded max depth".to_owned());
        }
        Ok(if is_object { Next::KeyOrEnd } else { Next::ValueOrEnd })
    }

    fn end(&mut self) {
        self.at += 1;
        self.open.pop();
    }

    fn scalar(&mut self, letter: u8) -> Scanned<()> {
        match letter {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(unexpected(letter, "looking for beginning of value")),
        }
    }

    /// The next byte; a blank at the end, as in the reference.
    fn letter(&self) -> u8 {
        self.json.get(self.at).copied().unwrap_or(b' ')
    }

    fn literal(&mut self, word: &str) -> Scanned<()> {
        for expected in word.chars() {
            if char::from(self.letter()) != expected {
                let place = format!("in literal {word} (expecting '{expected}')");
                return Err(unexpected(self.letter(), &place));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Scanned<()> {
        if self.letter() == b'-' {
            self.at += 1;
        }
        if self.letter() == b'0' {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.letter() == b'.' {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.letter(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.letter(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    /// At least one.
    fn digits(&mut self, place: &str) -> Scanned<()> {
        if !self.letter().is_ascii_digit() {
            return Err(unexpected(self.letter(), place));
        }
        while self.letter().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Scanned<()> {
        self.at += 1;
        loop {
            let letter = *self.json.get(self.at).ok_or(END)?;
            self.at += 1;
            match letter {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                ..0x20 => return Err(unexpected(letter, "in string literal")),
                _ => (),
            }
        }
    }

    fn escape(&mut self) -> Scanned<()> {
        let letter = self.letter();
        self.at += 1;
        match letter {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => {
                for _ in 0..4 {
                    let letter = self.letter();
                    if !letter.is_ascii_hexdigit() {
                        let place = "in \\u hexadecimal character escape";
                        return Err(unexpected(letter, place));
                    }
                    self.at += 1;
                }
                Ok(())
            }
            _ => Err(unexpected(letter, "in string escape code")),
        }
    }
}
