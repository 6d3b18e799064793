//! Whole files against what the Go server makes of them
//!
//! `tests/data/configuration_options.jsonl` has one case a line: a file, and what the Go server's
//! own reading of it gave, as an error or as the options that differ from their defaults. Answers
//! that depended there on the order of a hash map are left out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::*;

fn nanos(duration: Duration) -> Json {
    json!(u64::try_from(duration.as_nanos()).unwrap())
}

fn shown(path: &Option<PathBuf>) -> Json {
    json!(path.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
}

/// The options that were recorded, by the names of the recording.
fn options(config: &Config) -> BTreeMap<&'static str, Json> {
    let (core, streaming) = (&config.core, &config.streaming);
    let (auth, limits) = (&core.auth, &streaming.limits);
    let text = |text: &Option<String>| json!(text.clone().unwrap_or_default());
    BTreeMap::from([
        ("chans", json!(limits.per_channel.len())),
        ("conn", json!(core.connections_max)),
        ("dbg", json!(config.log.core.debug)),
        ("dir", shown(&streaming.directory)),
        ("driver", json!(streaming.sql.driver)),
        ("ft", text(&streaming.ft_group)),
        ("hbf", json!(streaming.heartbeat_failures_max)),
        ("hbi", nanos(streaming.heartbeat_interval)),
        ("hbt", nanos(streaming.heartbeat_timeout)),
        ("host", json!(core.host)),
        ("http", json!(config.monitor.http_port)),
        ("id", json!(streaming.cluster_id)),
        ("log", shown(&config.log.file)),
        ("ma", nanos(limits.global.age_max)),
        ("mb", json!(limits.global.bytes_max)),
        ("mc", json!(limits.channels_max)),
        ("mi", nanos(limits.global.inactivity_max)),
        ("mm", json!(limits.global.messages_max)),
        ("mp", json!(core.payload_bytes_max)),
        ("msu", json!(limits.global.subscriptions_max)),
        ("name", text(&core.server_name)),
        ("pid", shown(&config.pid_file)),
        ("ping", nanos(core.ping_interval)),
        ("port", json!(core.port)),
        ("prefix", json!(streaming.discover_prefix)),
        ("pw", text(&auth.password)),
        ("rd", json!(streaming.replace_durable)),
        ("sd", json!(config.log.streaming.debug)),
        ("source", json!(streaming.sql.source)),
        ("store", json!(streaming.store.name())),
        ("sv", json!(config.log.streaming.trace)),
        ("token", text(&auth.token)),
        ("trace", json!(config.log.core.trace)),
        ("user", text(&auth.username)),
    ])
}

/// What this server alone says of sizes and times.
const NEGATIVE: &str = "must not be negative";

/// Whether an answer means the same, or is one of the exceptions of `docs/compatibility.md`.
fn is_same(file: &str, expected: &Json, found: &Result<Config, String>) -> bool {
    // A duration or a number before a bracket, which the Go server refuses without quotes.
    let is_lenient = file.contains("5m30s") || file.contains("5]");
    match (expected.as_str(), found) {
        // What is not supported yet is refused by name; the Go server would have taken it.
        (_, Err(found)) if found.contains("not supported by stanby yet") => true,
        // The Go server's parser takes it, and its start fails.
        (None, Err(found)) if found.contains(NEGATIVE) => true,
        (Some(expected), _) if is_lenient && expected.contains("Parse error") => true,
        (Some(expected), Err(found)) => {
            // Its own crash is a further error there.
            let lines = expected.trim_start_matches('!').lines();
            let lines: Vec<&str> =
                lines.filter(|line| !line.contains("nil pointer dereference")).collect();
            let expected = lines.join("\n");
            let found = found.lines().filter(|line| !line.contains(NEGATIVE)).map(without_place);
            let found = found.collect::<Vec<_>>().join("\n");
            let without_place = found.split_once(": ").map_or("", |(_, text)| text);
            found.trim() == expected || without_place.trim() == expected
        }
        (Some(_), Ok(_)) => false,
        (None, Err(_)) => false,
        (None, Ok(config)) => {
            let default = options(&config_of(""));
            options(config).iter().all(|(name, found)| match expected.get(name) {
                // Asks for the default, which the Go server fills in later, or stops the start.
                Some(wanted) if wanted.as_i64().is_some_and(|number| number <= 0) => true,
                Some(wanted) if *name == "hbf" => {
                    wanted.as_u64().map(|count| count.min(u64::from(u32::MAX))) == found.as_u64()
                }
                Some(wanted) => wanted == found,
                None => default.get(name) == Some(found),
            })
        }
    }
}

#[test]
fn every_recorded_file_gives_the_options_that_it_gives_the_go_server() {
    let recorded = include_str!("../../../../tests/data/configuration_options.jsonl");
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in recorded.lines() {
        let (file, expected): (String, Json) = serde_json::from_str(line).unwrap();
        let found = match run(Program::Streaming, "-c f.conf", &file) {
            Ok(Request::Serve(config)) => Ok(*config),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        };
        count += 1;
        if !is_same(&file, &expected, &found) {
            let found = found.map(|config| options(&config));
            wrong.push(format!("{file}\n  expected {expected}\n  found    {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 1_000);
}
