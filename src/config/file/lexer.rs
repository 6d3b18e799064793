//! Text → tokens: which bytes are a key, a value, a comment
//!
//! What may stand where depends on what encloses it alone, and that is a stack of brackets, so any
//! depth costs memory only. A NUL byte counts as the end wherever the end would be looked for.

use zeroize::Zeroizing;

use super::FileError;
use crate::config::file::scalar::is_digit;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Text,
    Bool,
    Integer,
    Float,
    Date,
    /// Without its dollar.
    Variable,
    /// The name of a file.
    Include,
    ArrayStart,
    ArrayEnd,
    MapStart,
    MapEnd,
    End,
}

/// One token; line and column are as the reference counts them.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub bytes: Vec<u8>,
    pub line: usize,
    pub column: usize,
}

/// What encloses the place that is read; nothing = the top level.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Map,
    Array,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Expect {
    /// A key, or an element of an array.
    Entry,
    /// What separates a key from its value.
    Separator,
    /// What ends a value.
    Terminator,
}

/// What a step of reading gives: a token, or nothing yet.
pub(super) type Step = Result<Option<Token>, FileError>;

/// A character of the text; the end is a NUL.
const END: char = '\0';

/// Reads one text.
pub(super) struct Lexer {
    /// Written over when it is dropped: there may be a key in it.
    pub(super) text: Zeroizing<Vec<u8>>,
    /// Where the token begins.
    pub(super) start: usize,
    pub(super) pos: usize,
    /// Bytes of the character that was read last.
    width: usize,
    line: usize,
    line_start: usize,
    /// Where the line begins on which the token began.
    token_line_start: usize,
    /// The token up to its last escape.
    escaped: Option<Vec<u8>>,
    brackets: Vec<Bracket>,
    expect: Expect,
    /// Whether what the reference refuses is taken where its meaning is plain.
    pub(super) is_lenient: bool,
}

impl Lexer {
    pub fn new(text: Vec<u8>, is_lenient: bool) -> Self {
        Self {
            text: Zeroizing::new(text),
            start: 0,
            pos: 0,
            width: 0,
            line: 1,
            line_start: 0,
            token_line_start: 0,
            escaped: None,
            brackets: Vec::new(),
            expect: Expect::Entry,
            is_lenient,
        }
    }

    /// The next token. There is none behind [`Kind::End`] or an error.
    pub fn token(&mut self) -> Result<Token, FileError> {
        loop {
            let step = match (self.expect, self.brackets.last()) {
                (Expect::Entry, None) => self.top_entry(),
                (Expect::Entry, Some(Bracket::Map)) => self.map_entry(),
                (Expect::Entry, Some(Bracket::Array)) => self.element(),
                (Expect::Separator, None) => self.top_separator(),
                (Expect::Separator, Some(_)) => self.map_separator(),
                (Expect::Terminator, None) => self.top_terminator(),
                (Expect::Terminator, Some(Bracket::Map)) => self.map_terminator(),
                (Expect::Terminator, Some(Bracket::Array)) => self.array_terminator(),
            };
            if let Some(token) = step? {
                return Ok(token);
            }
        }
    }

    // Text

    pub(super) fn next(&mut self) -> char {
        let Some(first) = self.text.get(self.pos) else {
            self.width = 0;
            return END;
        };
        if *first == b'\n' {
            self.line += 1;
            self.line_start = self.pos;
        }
        let (found, width) = decode(&self.text[self.pos..]);
        self.width = width;
        self.pos += width;
        found
    }

    /// Takes the last character back.
    pub(super) fn back(&mut self) {
        self.pos -= self.width;
        if self.text.get(self.pos) == Some(&b'\n') {
            self.line -= 1;
        }
    }

    fn peek(&mut self) -> char {
        let found = self.next();
        self.back();
        found
    }

    /// Drops what was read since the last token.
    fn skip(&mut self) {
        self.start = self.pos;
        self.token_line_start = self.line_start;
    }

    pub(super) fn token_text(&self) -> &[u8] {
        &self.text[self.start..self.pos]
    }

    /// What was read since the last token, as one.
    pub(super) fn emit(&mut self, kind: Kind) -> Step {
        let mut bytes = self.escaped.take().unwrap_or_default();
        bytes.extend_from_slice(self.token_text());
        let column = self.pos.saturating_sub(self.token_line_start).saturating_sub(bytes.len());
        self.skip();
        Ok(Some(Token { kind, bytes, line: self.line, column }))
    }

    /// A value: what was read, with what has to follow it.
    pub(super) fn emit_value(&mut self, kind: Kind) -> Step {
        self.expect = Expect::Terminator;
        self.emit(kind)
    }

    pub(super) fn syntax<T>(&self, reason: impl Into<String>) -> Result<T, FileError> {
        Err(FileError::Syntax { line: self.line, reason: reason.into() })
    }

    fn comment(&mut self) {
        while !is_line_end_or_end(self.peek()) {
            self.next();
        }
        self.skip();
    }

    /// Whether the slash that was read begins a comment, which is skipped then.
    fn is_comment(&mut self) -> bool {
        let is_comment = self.next() == '/';
        if is_comment {
            self.comment();
        } else {
            self.back();
        }
        is_comment
    }

    // Entries

    fn top_entry(&mut self) -> Step {
        loop {
            match self.next() {
                '{' => self.skip(),
                '#' => self.comment(),
                '/' if self.is_comment() => {}
                '/' => return self.syntax("Unexpected EOF."),
                END if self.pos > self.start => return self.syntax("Unexpected EOF."),
                END => return self.emit(Kind::End),
                found if found.is_whitespace() => self.skip(),
                found => {
                    self.back();
                    return self.key(found, "");
                }
            }
        }
    }

    fn map_entry(&mut self) -> Step {
        loop {
            match self.peek() {
                ']' => return self.syntax("Unexpected array end ']' processing map."),
                '}' => {
                    self.next();
                    return self.close(Kind::MapEnd);
                }
                '#' => {
                    self.next();
                    self.comment();
                }
                '/' => {
                    self.next();
                    if self.is_comment() {
                        continue;
                    }
                    // Compat: a single slash is dropped, and whatever follows it begins the key;
                    // pinned by `every_recorded_file_means_what_it_means_to_the_go_parser`.
                    return self.bare_key();
                }
                END => return self.syntax("Unexpected EOF processing map."),
                found if found.is_whitespace() => {
                    self.next();
                    self.skip();
                }
                found => return self.key(found, "."),
            }
        }
    }

    /// The key that begins with `first`; `dot` ends the error text of a map.
    fn key(&mut self, first: char, dot: &str) -> Step {
        match first {
            '=' | ':' => self.syntax(format!("Unexpected key separator '{first}'{dot}")),
            '"' | '\'' => {
                self.next();
                self.skip();
                self.quoted_key(first)
            }
            _ => self.bare_key(),
        }
    }

    fn quoted_key(&mut self, quote: char) -> Step {
        loop {
            match self.peek() {
                END => break,
                found if found == quote => {
                    let key = self.emit(Kind::Key);
                    self.next();
                    self.skip();
                    self.expect = Expect::Separator;
                    return key;
                }
                _ => self.next(),
            };
        }
        match (self.brackets.last(), quote) {
            (Some(_), '"') => self.syntax("Unexpected EOF processing double quoted map key."),
            (Some(_), _) => self.syntax("Unexpected EOF processing quoted map key."),
            (None, _) if self.pos > self.start => self.syntax("Unexpected EOF."),
            (None, _) => self.emit(Kind::End),
        }
    }

    fn bare_key(&mut self) -> Step {
        self.skip();
        self.next();
        loop {
            let found = self.peek();
            if found.is_whitespace() && self.token_text().eq_ignore_ascii_case(b"include") {
                self.skip();
                return self.include();
            }
            if found == END && !self.brackets.is_empty() {
                return self.syntax("Unexpected EOF processing map key.");
            }
            if found.is_whitespace() || matches!(found, '=' | ':' | END) {
                self.expect = Expect::Separator;
                return self.emit(Kind::Key);
            }
            self.next();
        }
    }

    fn include(&mut self) -> Step {
        while matches!(self.peek(), ' ' | '\t') {
            self.next();
            self.skip();
        }
        let wrong = match self.next() {
            quote @ ('\'' | '"') => {
                self.skip();
                return self.quoted_include(quote);
            }
            '[' => "start of an array",
            '{' => "start of a map",
            '(' => "start of a block",
            '-' => "start of a number",
            '\\' => "escape sequence",
            '\n' | '\r' => "new line",
            found if is_digit(found) => "start of a number",
            _ => {
                self.back();
                return self.bare_include();
            }
        };
        self.syntax(format!("Expected include value but found {wrong}"))
    }

    fn bare_include(&mut self) -> Step {
        loop {
            match self.next() {
                '\n' | '\r' | END | ';' | '}' | ' ' | '\t' => {
                    self.back();
                    return self.emit_value(Kind::Include);
                }
                '\'' => return self.emit_before_quote(Kind::Include),
                _ => {}
            }
        }
    }

    fn quoted_include(&mut self, quote: char) -> Step {
        loop {
            match self.next() {
                END if quote == '"' => {
                    return self.syntax("Unexpected EOF in double quoted include");
                }
                END => return self.syntax("Unexpected EOF in quoted include"),
                found if found == quote => return self.emit_before_quote(Kind::Include),
                _ => {}
            }
        }
    }

    /// A value that ends before the quote that was read.
    pub(super) fn emit_before_quote(&mut self, kind: Kind) -> Step {
        self.back();
        let token = self.emit_value(kind);
        self.next();
        self.skip();
        token
    }

    // Between keys and values

    fn top_separator(&mut self) -> Step {
        loop {
            match self.next() {
                '=' | ':' => {
                    self.skip();
                    return self.value();
                }
                END => return self.emit(Kind::End),
                found if found.is_whitespace() => self.skip(),
                _ => {
                    self.back();
                    return self.value();
                }
            }
        }
    }

    fn map_separator(&mut self) -> Step {
        let mut has_separator = false;
        loop {
            match self.next() {
                '=' | ':' if !has_separator => {
                    has_separator = true;
                    self.skip();
                }
                ',' => return self.syntax("Unexpected map value terminator \",\"."),
                '}' => {
                    self.skip();
                    return self.close(Kind::MapEnd);
                }
                found if found.is_whitespace() => self.skip(),
                _ => {
                    self.back();
                    return self.value();
                }
            }
        }
    }

    fn element(&mut self) -> Step {
        loop {
            match self.next() {
                '#' => self.comment(),
                '/' if self.is_comment() => {}
                '/' | ',' => return self.syntax("Unexpected array value terminator ','."),
                ']' => return self.close(Kind::ArrayEnd),
                found if found.is_whitespace() => self.skip(),
                _ => {
                    self.back();
                    return self.value();
                }
            }
        }
    }

    // Behind values

    fn top_terminator(&mut self) -> Step {
        loop {
            match self.next() {
                '#' => {
                    self.comment();
                    break;
                }
                '/' if self.is_comment() => break,
                // Compat: a single slash is passed over.
                '/' | ' ' | '\t' => {}
                '\n' | '\r' | END | ';' | ',' | '}' => {
                    self.skip();
                    break;
                }
                found => {
                    return self.syntax(format!(
                        "Expected a top-level value to end with a new line, comment or EOF, but \
                         got '{found}' instead."
                    ));
                }
            }
        }
        self.expect = Expect::Entry;
        Ok(None)
    }

    fn map_terminator(&mut self) -> Step {
        loop {
            match self.next() {
                '#' => self.comment(),
                '/' if self.is_comment() => {}
                '/' | ';' | ',' | '\n' | '\r' => {
                    self.skip();
                    self.expect = Expect::Entry;
                    return Ok(None);
                }
                ' ' | '\t' => self.skip(),
                '}' => return self.close(Kind::MapEnd),
                found => {
                    return self.syntax(format!(
                        "Expected a map value terminator \",\" or a map terminator \"}}\", but \
                         got '{found}' instead."
                    ));
                }
            }
        }
    }

    fn array_terminator(&mut self) -> Step {
        loop {
            match self.next() {
                '#' => self.comment(),
                '/' if self.is_comment() => {}
                '/' | ',' | '\n' | '\r' => {
                    self.skip();
                    self.expect = Expect::Entry;
                    return Ok(None);
                }
                ' ' | '\t' => self.skip(),
                ']' => return self.close(Kind::ArrayEnd),
                found => {
                    return self.syntax(format!(
                        "Expected an array value terminator \",\" or an array terminator \"]\", \
                         but got '{found}' instead."
                    ));
                }
            }
        }
    }

    fn open(&mut self, bracket: Bracket, kind: Kind) -> Step {
        self.skip();
        self.brackets.push(bracket);
        self.expect = Expect::Entry;
        self.emit(kind)
    }

    fn close(&mut self, kind: Kind) -> Step {
        self.skip();
        self.brackets.pop();
        self.emit_value(kind)
    }

    // Values

    fn value(&mut self) -> Step {
        while matches!(self.peek(), ' ' | '\t') {
            self.next();
            self.skip();
        }
        let found = self.next();
        match found {
            '[' => self.open(Bracket::Array, Kind::ArrayStart),
            '{' => self.open(Bracket::Map, Kind::MapStart),
            '\'' | '"' => {
                self.skip();
                self.quoted(found)
            }
            '(' => {
                self.skip();
                self.block()
            }
            '-' => self.negative(),
            '.' => self.syntax("Floats must start with a digit"),
            '\n' | '\r' => self.syntax("Expected value but found new line"),
            found if is_digit(found) => self.number(),
            _ => {
                self.back();
                self.bare()
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Step {
        loop {
            match self.next() {
                '\\' if quote == '"' => self.escape()?,
                END if self.pos > self.start => return self.syntax("Unexpected EOF."),
                END => return self.emit(Kind::End),
                found if found == quote => return self.emit_before_quote(Kind::Text),
                _ => {}
            }
        }
    }

    /// A string without quotes; its beginning may have been read.
    pub(super) fn bare(&mut self) -> Step {
        loop {
            match self.next() {
                '\\' => self.escape()?,
                '\n' | '\r' | END | ';' | ',' | ']' | '}' | ' ' | '\t' => {
                    self.back();
                    let kind = self.bare_kind();
                    return self.emit_value(kind);
                }
                '\'' => return self.emit_before_quote(Kind::Text),
                _ => {}
            }
        }
    }

    fn bare_kind(&mut self) -> Kind {
        const BOOLS: [&[u8]; 6] = [b"true", b"false", b"on", b"off", b"yes", b"no"];
        let text = self.token_text();
        if self.escaped.is_some() {
            Kind::Text
        } else if BOOLS.iter().any(|word| word.eq_ignore_ascii_case(text)) {
            Kind::Bool
        } else if text.first() == Some(&b'$') {
            self.start += 1;
            Kind::Variable
        } else {
            Kind::Text
        }
    }

    /// One escape sequence, whose backslash was read.
    fn escape(&mut self) -> Result<(), FileError> {
        let mut bytes = self.escaped.take().unwrap_or_default();
        bytes.extend_from_slice(&self.text[self.start..self.pos - 1]);
        bytes.push(match self.next() {
            't' => b'\t',
            'n' => b'\n',
            'r' => b'\r',
            '"' => b'"',
            '\\' => b'\\',
            'x' => self.hex()?,
            found => {
                return self.syntax(format!(
                    "Invalid escape character '{}'. Only the following escape characters \
                     are allowed: \\xXX, \\t, \\n, \\r, \\\", \\\\.",
                    shown(found)
                ));
            }
        });
        self.start = self.pos;
        self.escaped = Some(bytes);
        Ok(())
    }

    fn hex(&mut self) -> Result<u8, FileError> {
        for _ in 0..2 {
            if matches!(self.next(), '\n' | '\r') {
                let text = "Expected two hexadecimal digits after '\\x', but hit end of line";
                return self.syntax(text);
            }
        }
        let digits = String::from_utf8_lossy(&self.text[self.pos - 2..self.pos]).into_owned();
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        match u8::from_str_radix(&digits, 16) {
            Ok(byte) if is_hex => Ok(byte),
            _ => self
                .syntax(format!("Expected two hexadecimal digits after '\\x', but got '{digits}'")),
        }
    }

    /// `(` up to a `)` that stands alone on a line.
    fn block(&mut self) -> Step {
        loop {
            match self.next() {
                END => return self.syntax("Unexpected EOF processing block."),
                ')' if self.text[..self.pos - 1].ends_with(b"\n") => match self.next() {
                    '\n' => {
                        self.back();
                        return self.emit_before_quote(Kind::Text);
                    }
                    END => {
                        // Compat: at the end of a file the bracket is a part of the text.
                        self.pos -= 2 * self.width;
                        let text = self.emit_value(Kind::Text);
                        self.next();
                        self.skip();
                        return text;
                    }
                    _ => self.back(),
                },
                _ => {}
            }
        }
    }
}

/// A character in an error text.
pub(super) fn shown(found: char) -> String {
    if found == '\n' { "\\n".to_owned() } else { found.to_string() }
}

fn is_line_end_or_end(found: char) -> bool {
    matches!(found, '\n' | '\r' | END)
}

/// The first character, and its bytes; what is no UTF-8 counts byte by byte.
fn decode(text: &[u8]) -> (char, usize) {
    let len = match text.first() {
        Some(0..0x80) => 1,
        Some(0xc0..0xe0) => 2,
        Some(0xe0..0xf0) => 3,
        Some(0xf0..) => 4,
        Some(_) | None => 0,
    };
    let first = text.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match first.and_then(|text| text.chars().next()) {
        Some(found) => (found, len),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}
