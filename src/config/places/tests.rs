//! Whatever a file is refused or warned for, the line says where it stands.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::config::flag_table::SECTIONS;
use crate::config::options::tests::{messages, served};
use crate::config::{Program, StartError, core_keys, streaming_keys};

/// What the reference says too: all but the place behind it.
pub(crate) fn without_place(text: &str) -> &str {
    text.rsplit_once(" (f.conf:").map_or(text, |(text, _)| text)
}

/// Values of every kind; each key takes some of them and refuses others.
const VALUES: [&str; 16] = [
    "[ 1 ]",
    "[ \"x\" ]",
    "[ { user: 5 } ]",
    "{ a: 1 }",
    "{ user: 5, users: 5, allow: 5 }",
    "true",
    "5",
    "-5",
    "999999999999",
    "1.5",
    "\"x\"",
    "\"\"",
    "\"-1s\"",
    "\"a:b\"",
    "2016-05-04T18:53:41Z",
    "/none/x",
];

/// The keys that a file may have, with what has to stand around them.
fn keys() -> Vec<(&'static str, &'static str, &'static str)> {
    let tls = "cert_file key_file ca_file insecure verify verify_and_map cipher_suites timeout \
               curve_preferences connection_rate_limit pinned_certs ocsp_peer cert_store \
               verify_cert_and_check_known_urls no_such_key";
    let auth = "user pass token timeout users default_permissions no_such_key";
    let around = [
        ("", core_keys::names().collect::<Vec<_>>(), ""),
        ("cluster { port: -1\n", core_keys::cluster_names().collect(), "\n}"),
        ("tls { cert_file: cert.pem, key_file: key.pem, ", tls.split_whitespace().collect(), "\n}"),
        ("authorization {\n", auth.split_whitespace().collect(), "\n}"),
        (
            "authorization { users: [ { user: a\n",
            vec!["user", "pass", "permissions", "nkey"],
            "\n} ] }",
        ),
        ("streaming {\n", streaming_keys::names("streaming"), "\n}"),
        ("streaming { tls {\n", streaming_keys::names("tls"), "\n} }"),
        ("streaming { limits {\n", streaming_keys::names("store_limits"), "\n} }"),
        ("streaming { limits { channels { a {\n", vec!["max_msgs", "max_age", "mb"], "\n} } } }"),
        (
            "streaming { store: file, dir: d, file {\n",
            streaming_keys::names("file_options"),
            "\n} }",
        ),
        (
            "streaming { store: sql, sql { driver: mysql, source: \"u@/d\"\n",
            streaming_keys::names("sql_options"),
            "\n} }",
        ),
    ];
    let each = around
        .into_iter()
        .flat_map(|(before, keys, behind)| keys.into_iter().map(move |key| (before, key, behind)));
    each.collect()
}

/// Goal: whoever has a mistake in a file is told the line, whichever key it is and however late it
/// is found.
#[test]
fn every_message_about_a_key_says_where_it_stands() {
    let (mut told, mut lost) = (0, Vec::new());
    for (before, key, behind) in keys() {
        let mut is_refused = false;
        for value in VALUES {
            let file = format!("\n{before}{key}: {value}{behind}\n");
            let line = 2 + before.matches('\n').count();
            let place = format!("f.conf:{line}");
            for message in messages("-c f.conf", &file) {
                if !message.contains(&place) {
                    lost.push(format!("{file}{message}"));
                }
                is_refused = true;
                told += 1;
            }
        }
        assert!(is_refused, "{before}{key} takes everything");
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
    assert!(told > 1_000, "{told}");
}

/// Goal: so does a file that breaks the grammar, in whichever of several files that is.
#[test]
fn a_file_that_cannot_be_read_is_named_with_the_line() {
    for (file, expected) in [
        ("\na: {\n", "Parse error on line 3: 'Unexpected EOF processing map.' (f.conf:3)"),
        (
            "\na: 99999999999999999999",
            "integer '99999999999999999999' is out of the range (f.conf:2)",
        ),
        ("\n\na: $X\n", "variable reference for 'X' on line 3 can not be found (f.conf:3)"),
        (
            "\ninclude \"nope\"\n",
            "error parsing include file 'nope', open nope: no such file or directory (f.conf:2)",
        ),
        (
            "\na: 2016-99-99T00:00:00Z\n",
            "expected Zulu formatted DateTime, but got \
          '2016-99-99T00:00:00Z' (f.conf:2)",
        ),
        (
            "b: 1\ninclude \"junk.conf\"\n",
            "error parsing include file 'junk.conf', integer '99999999999999999999' is out of the \
             range (junk.conf:2)",
        ),
    ] {
        assert_eq!(messages("-c f.conf", file), [expected]);
    }
}

/// Goal: what a flag asks for is not said of the file.
#[test]
fn a_flag_takes_the_place_of_a_file() {
    let refused = |line: &str, file: &str| {
        let error = served(Program::Streaming, line, file).start_error;
        match error {
            Some(StartError::Streaming(text) | StartError::Monitoring(text)) => text,
            other => panic!("{line} {file}: {other:?}"),
        }
    };
    let text = "max messages limit cannot be negative (-5)";
    let file = "streaming { store_limits {\nmax_msgs: -5 } }";
    assert_eq!(refused("-c f.conf", file), format!("{text} (f.conf:2:1)"));
    assert_eq!(refused("-c f.conf -mm -5", file), text);
    assert_eq!(refused("-c f.conf -max_msgs=-5", file), text);
    let file = "http: 5\nhttps: 6\nhttp_port: 7";
    let text = "can't specify both HTTP (7) and HTTPs (6) ports";
    assert_eq!(refused("-c f.conf", file), format!("{text} (f.conf:3:1)"));
}

/// Goal: a flag or key that is renamed does not silently lose its place.
#[test]
fn flags_and_options_of_the_table_exist() {
    let flags: Vec<&str> = SECTIONS.iter().flat_map(|it| it.flags).map(|it| it.names).collect();
    for (names, options) in FLAGS {
        for name in names.split(' ') {
            let is_flag = flags.iter().any(|known| known.split(' ').any(|known| known == name));
            assert!(is_flag, "-{name}");
        }
        for option in options.split([' ', '|']) {
            let (map, key) = option.split_once('.').unwrap();
            let known: Vec<&str> = match map {
                "top" => core_keys::names().collect(),
                "cluster" => core_keys::cluster_names().collect(),
                map => streaming_keys::names(map),
            };
            assert!(known.contains(&key), "{option}");
        }
    }
}
