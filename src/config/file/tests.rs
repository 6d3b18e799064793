//! The grammar against what the reference was measured to say

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "figures are printed, not asserted")]

use std::io;

use proptest::prelude::*;

use super::*;
use crate::config::tree::{Entry, Item, Items, Position};

mod generator;
mod grammar;

/// A world with three variables and no files but those given.
pub(crate) fn world_with<T>(files: &[(&str, &str)], run: impl FnOnce(&World<'_>) -> T) -> T {
    run(&World {
        read: &|path| match files.iter().find(|(name, _)| Path::new(name) == path) {
            Some((_, text)) => Ok(text.as_bytes().to_vec()),
            None => Err(io::Error::from_raw_os_error(2)),
        },
        variable: &|name| match name {
            "EV" => Some("22".to_owned()),
            "ES" => Some("'3x'".to_owned()),
            "EB" => Some("a b".to_owned()),
            "LOOP" => Some("$LOOP".to_owned()),
            _ => None,
        },
        secret: &|_| None,
        cores: 4,
    })
}

fn parsed(text: &str) -> Result<Map, String> {
    let parse = |world: &World<'_>| parse(text.as_bytes(), Path::new("f.conf"), world);
    world_with(&[], parse).map(|document| document.map).map_err(|error| error.to_string())
}

fn value(text: &str) -> Value {
    match parsed(text) {
        Ok(map) => map.iter().last().map(|entry| entry.value.clone()).unwrap_or(Value::Bool(false)),
        Err(error) => panic!("{text:?}: {error}"),
    }
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// What the reference was measured to say to many small files.
#[derive(serde::Deserialize)]
pub(crate) struct Recorded {
    /// File and error: against the grammar.
    syntax: Vec<(String, String)>,
    /// Files that it takes.
    taken: Vec<String>,
    /// File and error: with wrong options.
    pub(crate) options: Vec<(String, String)>,
}

pub(crate) fn recorded() -> Recorded {
    let text = include_str!("../../../tests/data/configuration.json");
    match serde_json::from_str(text) {
        Ok(recorded) => recorded,
        Err(error) => panic!("the recorded files cannot be read: {error}"),
    }
}

#[test]
fn wrong_files_are_refused_in_the_words_of_the_reference() {
    for (file, error) in &recorded().syntax {
        assert_eq!(parsed(file).err().as_ref(), Some(error), "{file:?}");
    }
}

#[test]
fn what_the_reference_takes_is_taken() {
    for file in &recorded().taken {
        assert_eq!(parsed(file).err(), None, "{file:?}");
    }
}

#[test]
fn each_kind_of_value_is_what_it_looks_like() {
    for (file, expected) in [
        ("a: 5", Value::Integer(5)),
        ("a = -5", Value::Integer(-5)),
        ("a 1k", Value::Integer(1_000)),
        ("a 1KB", Value::Integer(1_024)),
        ("a 2MiB", Value::Integer(2 << 20)),
        ("a 3g", Value::Integer(3_000_000_000)),
        ("a 1eb", Value::Integer(1 << 60)),
        ("a 1.5", Value::Float(1.5)),
        ("a -1.5", Value::Float(-1.5)),
        ("a 127.0.0.1:4222", text("127.0.0.1:4222")),
        ("a 2.8.0", text("2.8.0")),
        ("a 10s", text("10s")),
        ("a 3xyz", text("3xyz")),
        ("a nats://u:p@h:1", text("nats://u:p@h:1")),
        ("a YES", Value::Bool(true)),
        ("a off", Value::Bool(false)),
        ("a 'off'", text("off")),
        ("a \"x\\x41\\t\\\"\"", text("xA\t\"")),
        ("a 'raw \\n'", text("raw \\n")),
        ("a \"two\nlines\"", text("two\nlines")),
        ("a (\n b { c }\n)\n", text("\n b { c }\n")),
        ("a 2016-05-04T18:53:41Z", Value::Date("2016-05-04T18:53:41Z".to_owned())),
        ("a $EV", Value::Integer(22)),
        ("a $ES", text("3x")),
        ("a \"$EV\"", text("$EV")),
        ("a $2a$11$abc", text("$2a$11$abc")),
        ("b: 7\na: $b", Value::Integer(7)),
        ("\u{feff}a: 1", Value::Integer(1)),
        ("{\"a\": true}", Value::Bool(true)),
        ("a: 1\na: 2", Value::Integer(2)),
    ] {
        assert_eq!(value(file), expected, "{file:?}");
    }
}

#[test]
fn what_the_reference_reads_past_is_refused() {
    for (file, error) in [
        ("a 99999999999999999m", "integer '99999999999999999m' is out of the range"),
        ("/", "Parse error on line 1: 'Unexpected EOF.'"),
        ("a $LOOP", "'LOOP' refers to itself"),
        // As there; a duration has units that a number has not.
        ("a 1e3", "but got '3' instead.'"),
    ] {
        let found = parsed(file).err().unwrap_or_default();
        assert!(found.ends_with(error) || found.contains(error), "{file:?}: {found}");
    }
}

#[test]
fn brackets_may_be_as_deep_as_memory_is() {
    let depth = 30_000;
    for (open, close) in [("[", "]"), ("{a ", "}"), ("[{a: ", "}]")] {
        let (open, close) = (open.repeat(depth), close.repeat(depth));
        assert_eq!(parsed(&format!("a: {open}1 {close}")).err(), None);
        assert!(parsed(&format!("a: {open}1 ")).is_err());
    }
}

/// What the Go server refuses and this one takes, each with what it refuses with it.
#[test]
fn what_has_one_meaning_only_is_taken_and_nothing_else() {
    let shown = |text: &str| parsed(text).map(|map| map.iter().last().unwrap().value.to_string());
    for (file, expected) in [
        ("a: [1]", "[1]"),
        ("a: [1,2]", "[1 2]"),
        ("a: [[1],[2]]", "[[1] [2]]"),
        ("a: 5m30s", "5m30s"),
        ("a { b: 1m1s }", "map[b:1m1s]"),
        ("a: [5m30s]", "[5m30s]"),
    ] {
        assert_eq!(shown(file).as_deref(), Ok(expected), "{file:?}");
    }
    for file in ["a: 1e3", "a: 1m5", "a: 1k5s", "a: 5m30x", "a: 1.5h", "a: 1 2"] {
        assert!(parsed(file).is_err(), "{file:?}");
    }
    // What the Go server takes means the same, though it looks like one of these.
    assert_eq!(shown("a: [1]\n]").as_deref(), Ok("[1]]"));
    assert_eq!(shown("a: 1]").as_deref(), Ok("1]"));
}

#[test]
fn values_in_maps_begin_with_any_character() {
    let map =
        parsed("streaming {\n dir: /data/stan\n password: #ab\n x: //y\n z /q # c\n}").unwrap();
    let shown = map.find("streaming").map(|entry| entry.value.to_string());
    assert_eq!(shown.as_deref(), Some("map[dir:/data/stan password:#ab x://y z:/q]"));
}

#[test]
fn strings_of_another_encoding_keep_their_bytes() {
    let parse =
        |world: &World<'_>| parse(b"# caf\xe9\na: /caf\xe9\nb: \"\\xff\"", Path::new("f"), world);
    let map = world_with(&[], parse).unwrap().map;
    let values: Vec<&Value> = map.iter().map(|entry| &entry.value).collect();
    assert_eq!(values, [&Value::Bytes(b"/caf\xe9".to_vec()), &Value::Bytes(b"\xff".to_vec())]);
}

#[test]
fn variables_are_found_from_the_innermost_map_outwards_and_may_have_any_name() {
    let map = parsed("X: 1\na { X: 2, b { c: $X } }\nd: $X").unwrap_or_default();
    let inner = map.find("a").map(|entry| entry.value.to_string());
    assert_eq!(inner.as_deref(), Some("map[X:2 b:map[c:2]]"));
    assert_eq!(map.find("d").map(|entry| &entry.value), Some(&Value::Integer(1)));
    assert!(map.find("X").is_some_and(|entry| entry.is_variable.get()));
}

#[test]
fn included_files_lie_beside_the_including_one_and_merge_into_its_map() {
    let files = [
        ("conf/main.conf", "a: 1\nm { include 'users.conf'\n z: 9 }"),
        ("conf/users.conf", "u: $a\ninclude deep/more.conf"),
        ("conf/deep/more.conf", "v: 3"),
        ("self.conf", "include self.conf"),
        ("bad.conf", "include worse.conf"),
        ("worse.conf", "x = "),
        ("conf/up.conf", "include ../conf/deep/../w.conf"),
        ("conf/w.conf", "\u{feff}w: 4"),
    ];
    world_with(&files, |world| {
        let map = read(Path::new("conf/main.conf"), world).unwrap().map;
        let inner = map.find("m").map(|entry| entry.value.to_string());
        assert_eq!(inner.as_deref(), Some("map[u:1 v:3 z:9]"));
        let error = read(Path::new("self.conf"), world).map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.ends_with("'self.conf' refers to itself")));
        assert!(read(Path::new("bad.conf"), world).is_ok());
        let map = read(Path::new("conf/up.conf"), world).unwrap().map;
        assert_eq!(map.find("w").map(|entry| &entry.value), Some(&Value::Integer(4)));
        let error = read(Path::new("none.conf"), world).unwrap_err();
        assert_eq!(error.to_string(), "open none.conf: no such file or directory");
    });
}

#[test]
fn positions_are_those_of_the_keys() {
    let map = parsed("a: 1\n  b: 2\n\"c\": 3").unwrap_or_default();
    let places: Vec<String> = map.iter().map(|entry| entry.at.to_string()).collect();
    assert_eq!(places, ["f.conf:1:0", "f.conf:2:3", "f.conf:3:2"]);
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        "[ -~\\n]{0,12}".prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| {
                let mut items = Items::default();
                for value in values {
                    items.push(Item { value, at: Position::default() });
                }
                Value::Array(items)
            }),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4).prop_map(|entries| {
                let mut map = Map::default();
                for (key, value) in entries {
                    let at = Position::default();
                    map.insert(Entry { key, at, value, is_variable: false.into() });
                }
                Value::Map(map)
            }),
        ]
    })
}

/// A value as a person would write it.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{}\"", text.replace('\n', "\\n"))
        }
        Value::Array(items) => {
            let texts: Vec<String> = items.iter().map(|item| written(&item.value)).collect();
            format!("[{}]", texts.join(", "))
        }
        Value::Map(map) => {
            let texts: Vec<String> = map
                .iter()
                .map(|entry| format!("{}: {}", entry.key, written(&entry.value)))
                .collect();
            format!("{{ {} }}", texts.join("\n"))
        }
        Value::Bytes(_) | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Date(_) => {
            value.to_string()
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(expected in any_value()) {
        let found = value(&format!("key: {}\n", written(&expected)));
        prop_assert_eq!(found.to_string(), expected.to_string());
        prop_assert_eq!(found.kind(), expected.kind());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}") {
        let _ = parsed(&text);
    }

    #[test]
    fn no_mix_of_marks_makes_it_panic(text in "[a{}\\[\\]()=:,;#/'\"$.0-9k \\n\\\\-]{0,80}") {
        let _ = parsed(&text);
    }
}
