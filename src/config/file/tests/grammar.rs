//! The grammar against the answers of the Go server's parser to thousands of generated files
//!
//! `tests/data/configuration_grammar.jsonl` has one case a line: its files (a text alone is
//! `main.conf`) and what the parser of `nats-server` 2.9.24 said, as a tree with all places or as
//! an error. A byte is the character with its number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::{env, fs};

use serde_json::json;

use super::generator::{Files, Generator, VARIABLES};
use super::*;
use crate::config::tree::Entry;

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn bytes(latin: &str) -> Vec<u8> {
    latin.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

/// What is no UTF-8 is replaced in other ways by others: one mark for each run stands for it.
fn without_replaced(text: &str) -> String {
    if !text.contains(char::REPLACEMENT_CHARACTER) {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut is_in_run = false;
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else if !is_in_run {
            out.push('?');
        }
        is_in_run = !c.is_ascii();
    }
    out
}

fn quoted(text: &[u8], out: &mut String) {
    out.push('"');
    for byte in text {
        match byte {
            b'"' | b'\\' | 0..32 | 127.. => write!(out, "\\{byte:02x}").unwrap(),
            _ => out.push(char::from(*byte)),
        }
    }
    out.push('"');
}

fn place(at: &Position, out: &mut String) {
    if &*at.file != "main.conf" {
        write!(out, "{}:", at.file).unwrap();
    }
    write!(out, "{}:{}", at.line, at.column).unwrap();
}

/// A tree in one line, as the recorder writes it.
fn dump(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => quoted(text.as_bytes(), out),
        Value::Bytes(text) => quoted(text, out),
        Value::Float(value) => write!(out, "f{:016x}", value.to_bits()).unwrap(),
        Value::Bool(_) | Value::Integer(_) | Value::Date(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (count, item) in items.iter().enumerate() {
                if count > 0 {
                    out.push(' ');
                }
                if !item.at.file.is_empty() {
                    place(&item.at, out);
                    out.push('=');
                }
                dump(&item.value, out);
            }
            out.push(']');
        }
        Value::Map(map) => dump_map(map, out),
    }
}

fn dump_map(map: &Map, out: &mut String) {
    let mut entries: Vec<(String, &Entry)> =
        map.iter().map(|entry| (without_replaced(&entry.key), entry)).collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    out.push('{');
    for (count, (key, entry)) in entries.into_iter().enumerate() {
        if count > 0 {
            out.push(' ');
        }
        quoted(key.as_bytes(), out);
        // What comes from the environment has no place.
        if !entry.at.file.is_empty() {
            out.push('@');
            place(&entry.at, out);
            out.push_str(if entry.is_variable.get() { "$" } else { "" });
        }
        out.push('=');
        dump(&entry.value, out);
    }
    out.push('}');
}

fn with_files<T>(files: &Files, run: impl FnOnce(&World<'_>) -> T) -> T {
    run(&World {
        read: &|path| match files.get(path.to_string_lossy().as_ref()) {
            Some(text) => Ok(text.clone()),
            None if [".", "..", "sub"].iter().any(|folder| Path::new(folder) == path) => {
                Err(io::Error::from_raw_os_error(21))
            }
            None => {
                let is_in_file = path
                    .ancestors()
                    .skip(1)
                    .any(|path| files.contains_key(&*path.to_string_lossy()));
                Err(io::Error::from_raw_os_error(if is_in_file { 20 } else { 2 }))
            }
        },
        variable: &|name| {
            VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        },
        secret: &|_| None,
        cores: 2,
    })
}

/// What this parser says, as the recorder writes it.
fn answer(files: &Files, reading: Reading) -> String {
    let main = files.get("main.conf").unwrap();
    let read = |world: &World<'_>| read_as(reading, main, Path::new("main.conf"), world);
    match with_files(files, read) {
        Ok(Document { map, .. }) => {
            let mut out = String::new();
            dump_map(&map, &mut out);
            out
        }
        Err(error) => latin(format!("!{}", without_replaced(&error.to_string())).as_bytes()),
    }
}

/// Why an answer may differ from the Go parser's; `docs/compatibility.md` has this list.
fn exception(files: &Files, expected: &str, found: &str) -> Option<&'static str> {
    // A size that does not fit into 64 bits is refused; the Go parser wraps around.
    let is_size = |text: &str| {
        let digits = text.trim_start_matches('-').trim_end_matches(|c: char| c.is_alphabetic());
        let has_suffix = text.ends_with(|c: char| c.is_alphabetic());
        has_suffix && text.trim_start_matches('-').starts_with(digits)
    };
    let size =
        found.split("integer '").nth(1).and_then(|rest| rest.strip_suffix("' is out of the range"));
    if expected != found && size.is_some_and(is_size) {
        return Some("size of more than 64 bits");
    }
    // A mark is passed over; the Go parser takes it for a part of the first key, and a file that
    // has nothing else for a broken one.
    let has_mark = |(name, text): (&String, &Vec<u8>)| {
        name != "main.conf" && text.starts_with("\u{feff}".as_bytes())
    };
    files.iter().any(has_mark).then_some("byte order mark in an included file")
}

fn compare(files: &Files, expected: &str) -> Result<Option<&'static str>, String> {
    let found = answer(files, Reading::Strict);
    if found == expected {
        return Ok(None);
    }
    let shown: Vec<String> =
        files.iter().map(|(name, text)| format!("{name}: {:?}", latin(text))).collect();
    exception(files, expected, &found)
        .map(Some)
        .ok_or_else(|| format!("{}\n  expected {expected}\n  found    {found}", shown.join("\n  ")))
}

fn case_of(line: &str) -> (Files, String) {
    let (files, expected): (serde_json::Value, String) = serde_json::from_str(line).unwrap();
    if let Some(text) = files.as_str() {
        return (Files::from([("main.conf".to_owned(), bytes(text))]), expected);
    }
    let files: BTreeMap<String, String> = serde_json::from_value(files).unwrap();
    (files.into_iter().map(|(name, text)| (name, bytes(&text))).collect(), expected)
}

#[test]
fn every_recorded_file_means_what_it_means_to_the_go_parser() {
    let recorded = include_str!("../../../../tests/data/configuration_grammar.jsonl");
    let mut wrong = Vec::new();
    let (mut count, mut refused, mut exceptions) = (0, 0, BTreeMap::new());
    for line in recorded.lines() {
        let (files, expected) = case_of(line);
        count += 1;
        refused += usize::from(expected.starts_with('!'));
        match compare(&files, &expected) {
            Ok(None) => {}
            Ok(Some(name)) => *exceptions.entry(name).or_insert(0) += 1,
            Err(text) => wrong.push(text),
        }
    }
    println!("{count} files, {refused} of them refused; exceptions {exceptions:?}");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 3_000 && refused * 10 >= count * 3, "{count} files, {refused} refused");
}

/// All that a file can be made of; the generator has to reach each.
const PRODUCTIONS: &str = "array; block; boolean; blank between key and value; bare string; \
     byte order mark; colon; comment with a hash; comment with slashes; date; document in braces; \
     empty key; equals sign; escape; include; include of what is not there; key in double quotes; \
     key in single quotes; lines that end in CR LF; map; mutation; no value; number with a point; \
     number with a suffix; odd bare string; odd blank; odd key; soup of marks; \
     string in double quotes; string in single quotes; value on the next line; \
     value that begins like a comment; variable; whole number";

/// Generates files. With `GRAMMAR_CASES` in the environment they are also written there, for a
/// recorder; with `GRAMMAR_ANSWERS` they are compared with its answers.
#[test]
fn generated_files_reach_every_production_and_never_stop_the_parser() {
    let number = |name: &str, default: usize| {
        env::var(name).map_or(default, |text| text.parse::<usize>().unwrap())
    };
    let count = number("GRAMMAR_COUNT", 5_000);
    let seed = number("GRAMMAR_SEED", 1);
    let mut generator = Generator::new(u64::try_from(seed).unwrap());
    let mut cases = json!(BTreeMap::from(VARIABLES)).to_string();
    let answers = env::var("GRAMMAR_ANSWERS").map(|file| fs::read_to_string(file).unwrap());
    let mut answers = answers.as_deref().map(str::lines).ok();
    let (mut refused, mut lenient, mut wrong) = (0, 0, Vec::new());
    let (mut reasons, mut exceptions) = (BTreeMap::<String, usize>::new(), BTreeMap::new());
    for _ in 0..count {
        let files = generator.case();
        let strict = answer(&files, Reading::Strict);
        if let Some(reason) = strict.strip_prefix('!') {
            refused += 1;
            lenient += usize::from(!answer(&files, Reading::Lenient).starts_with('!'));
            *reasons.entry(kind_of(reason)).or_default() += 1;
        }
        if let Some(answers) = &mut answers {
            let expected: String = serde_json::from_str(answers.next().unwrap()).unwrap();
            match compare(&files, &expected) {
                Ok(None) => {}
                Ok(Some(name)) => *exceptions.entry(name).or_insert(0) += 1,
                Err(text) => wrong.push(text),
            }
        }
        let texts: BTreeMap<&String, String> =
            files.iter().map(|(name, text)| (name, latin(text))).collect();
        write!(cases, "\n{}", json!(texts)).unwrap();
    }
    if let Ok(file) = env::var("GRAMMAR_CASES") {
        fs::write(file, cases).unwrap();
    }
    println!("seed {seed}: {count} files, {refused} refused, {lenient} of these taken leniently");
    println!("contents: {:?}\nreasons: {reasons:?}", generator.counts);
    println!("compared: {}, exceptions {exceptions:?}", answers.is_some());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused * 10 >= count * 3, "{refused} of {count} refused");
    let reached: BTreeSet<&str> = generator.counts.keys().copied().collect();
    assert_eq!(reached, PRODUCTIONS.split("; ").collect::<BTreeSet<_>>());
}

/// An error without what is particular to one file.
fn kind_of(reason: &str) -> String {
    let words = reason.split_whitespace().filter(|word| {
        !word.contains(|c: char| !c.is_ascii_alphabetic() && c != ',' && c != ':' && c != '.')
    });
    words.take(9).collect::<Vec<_>>().join(" ")
}
