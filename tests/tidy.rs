//! The house rules as far as a machine can check them: who imports whom, first lines, sizes, words.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

// ---- the tables ---------------------------------------------------------------------------------

/// Words that every room may use.
const FLOOR: [&str; 3] = ["base", "log", "proto"];

/// Room → the rooms that it may import beside the floor and itself. A new edge is a change of this
/// table, in a commit of its own, with the reason.
const IMPORTS: [(&str, &[&str]); 21] = [
    ("base", &[]),
    ("proto", &[]),
    ("log", &[]),
    ("wire", &[]),
    ("broker", &["wire"]),
    ("engine", &[]),
    ("store", &[]),
    ("election", &[]),
    ("config", &[]),
    ("site", &["store", "election", "config"]),
    ("import", &["store", "site", "election", "config"]),
    ("transfer", &["store", "site", "config"]),
    ("monitor", &["broker::snapshot", "engine::snapshot"]),
    ("client", &["wire"]),
    ("programs", &[]),
    // Servers are processes and addresses for it, so it drills other servers too.
    ("drill", &["client", "programs"]),
    // It reads what servers say as they read what clients say.
    ("bench", &["client", "programs", "wire"]),
    (
        "cli",
        // TLS of the client that `pub` and `sub` are is that of `net`; who writes in a store that
        // `check` looks through is found as at a start, and it is mended under its lock.
        &[
            "wire",
            "client",
            "config",
            "drill",
            "bench",
            "server",
            "store",
            "election",
            "import",
            "transfer",
            "net::tls",
            "site::lease_trial",
            "site::lock_trial",
            "site::mending",
            "site::mounts",
            "site::trial",
            "site::writers",
        ],
    ),
    ("net", &["wire", "broker"]),
    ("server", &ALL),
    ("testing", &ALL),
];

const ALL: [&str; 18] = [
    "wire", "broker", "engine", "store", "election", "config", "site", "import", "transfer",
    "monitor", "client", "programs", "drill", "bench", "cli", "net", "server", "testing",
];

/// One file that may import what its room may not, with the reason.
const IMPORT_EXCEPTIONS: [(&str, &str); 1] = [
    // The command ships the simulated group.
    ("src/cli/simulate.rs", "testing"),
];

/// How the first lines of these files begin (in any case of letters); each other file of `src`
/// begins with a sentence of its own.
const FIRST_LINES: [(&str, &str); 78] = [
    ("main.rs", "command line in, exit code out"),
    ("log.rs", "levels, line format, file, reopen"),
    ("base/mod.rs", "words that every room shares; imports nothing of ours"),
    ("base/id.rs", "newtypes: ClientId, ChannelName"),
    ("base/subject.rs", "what a legal subject is: tokens, wildcards, literal match"),
    ("base/limits.rs", "every built-in bound with unit and reason"),
    ("base/time.rs", "Instant and WallTime as plain values"),
    ("base/random.rs", "random numbers from a given seed"),
    ("base/world.rs", "the one place that reads the machine's clock and entropy"),
    ("base/epoch.rs", "the fencing number: only grows"),
    ("base/deadlines.rs", "many (deadline, key) pairs: earliest first, re-arm, cancel"),
    ("base/record.rs", "durable facts:"),
    ("wire/op.rs", "every operation a client or a route can send or receive"),
    ("wire/parser.rs", "front of a buffer → one Op, or \"need more\", or ProtocolError"),
    ("wire/encoder.rs", "Op → bytes at the end of a buffer"),
    ("wire/connect.rs", "the INFO and CONNECT documents"),
    ("wire/headers.rs", "the header block of HPUB and HMSG"),
    ("wire/errors.rs", "exact texts of -ERR lines"),
    ("broker/mod.rs", "Broker of one core: handle(input, now), effects, next deadline"),
    ("broker/session.rs", "one connection's protocol state, from INFO to close"),
    ("broker/sublist.rs", "the interest tree: subject → interests, choice in a queue"),
    ("broker/auth.rs", "CONNECT → Identity or refusal"),
    ("broker/account.rs", "accounts, users, permissions"),
    ("broker/route.rs", "one cluster route: what to tell the peer, what it told us"),
    ("broker/outbox.rs", "bytes that wait for one connection; the bound; slow-consumer verdict"),
    ("broker/snapshot.rs", "current state as plain structs, for monitoring"),
    ("engine/mod.rs", "Engine: handle(input, now), effects, next deadline, check_invariants"),
    ("engine/input.rs", "everything that can happen to"),
    ("engine/effect.rs", "everything it can ask for"),
    ("engine/request.rs", "request bytes → checked request, or refusal"),
    ("engine/refusal.rs", "every reason to say no, with the exact reply text"),
    ("engine/client.rs", "registered clients, heartbeats, replacing a duplicate"),
    ("engine/channel.rs", "one channel: next sequence, limits, inactivity"),
    ("engine/publish.rs", "stage a message; hold its ack until it is durable"),
    ("engine/subscription.rs", "one subscription: position, in-flight set, life cycle"),
    ("engine/queue_group.rs", "members that share one position; whose turn it is"),
    ("engine/delivery.rs", "which message goes to whom now, and when to stop"),
    ("engine/redelivery.rs", "ack-wait deadlines; what goes out again and in what order"),
    ("engine/recovery.rs", "RecoveredState → Engine"),
    ("engine/snapshot.rs", "current state as plain structs, for monitoring"),
    ("store/mod.rs", "the Store trait and its promises in prose; StoreError, Remedy"),
    ("store/retention.rs", "count, size and age limits as a pure function: what must go"),
    ("store/memory.rs", "keeps records in memory"),
    ("store/worker.rs", "the thread that owns a Store: groups commits, syncs once, reports back"),
    ("store/file/mod.rs", "Store over a directory"),
    ("store/file/format.rs", "every byte layout and file name; encode and decode; no I/O"),
    ("store/file/log.rs", "one append-only file: append, read at, sync"),
    ("store/file/slices.rs", "a channel's messages over several files, with their index"),
    ("store/file/compaction.rs", "rewrites a file without its dead records"),
    ("store/file/recovery.rs", "directory →"),
    ("store/file/disk.rs", "the Disk trait: open, append, read at, sync, rename"),
    ("store/sql/mod.rs", "Store over a Dialect"),
    ("store/sql/dialect.rs", "what differs between databases: statements, types, error classes"),
    ("store/sql/sqlite.rs", "Dialect for SQLite"),
    ("store/sql/postgres.rs", "Dialect for PostgreSQL"),
    ("store/sql/mysql.rs", "Dialect for MySQL"),
    ("store/sql/schema.rs", "creates and checks the tables of sql/*.sql"),
    ("site/sql_lock.rs", "a row of the shared database, renewed and compared"),
    ("store/sql/dsn.rs", "source strings:"),
    ("site/mod.rs", "Site: where the data of a server lies"),
    ("election/mod.rs", "Member: the roles and their transitions, as logic"),
    ("election/lease.rs", "the Lease trait: take, renew, release"),
    ("site/file_lock.rs", "a lock on a file of the shared directory"),
    ("election/keeper.rs", "the thread that takes and renews the lease and reports its loss"),
    ("net/reactor.rs", "one core's loop: the eight steps of a turn"),
    ("net/connection.rs", "one socket: buffers, readiness, read turn, write turn"),
    ("net/tls.rs", "a connection's bytes through TLS"),
    ("net/listener.rs", "accepts, and pauses when full"),
    ("net/token.rs", "slot and generation ↔ mio Token"),
    ("net/mailbox.rs", "bounded queue into another thread, with its Waker"),
    ("monitor/core_pages.rs", "varz, "),
    ("monitor/streaming_pages.rs", "serverz, storez, clientsz, channelsz"),
    ("config/mod.rs", "Config: checked and typed; all that other rooms ever see"),
    ("config/flags.rs", "one table: every flag with kind, help text and setter"),
    ("config/file.rs", "configuration grammar → tree of values"),
    ("config/options.rs", "flags and file merged, as the user wrote them"),
    ("server/engine_driver.rs", "drives one Engine inside its reactor: inputs in, effects out"),
    ("server/signals.rs", "operating-system signals → Shutdown, Reload, ReopenLog"),
];

/// Longest file and function, in lines; longest line, in characters.
const FILE_LINES_MAX: usize = 900;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 100;

/// Files that may be longer. This list may only shrink.
const LONG_FILES: [&str; 0] = [];

/// Functions that are one table or one `match` of one-line arms, and may be longer: file, name.
const LONG_FUNCTIONS: [(&str, &str); 0] = [];

/// Names that say nothing: the noun has not been found yet.
const BANNED_NAMES: [&str; 12] = [
    "utils", "util", "common", "types", "traits", "helpers", "helper", "prelude", "manager",
    "managers", "misc", "shared",
];

/// What no source file may hold, and why.
const BANNED_WORDS: [(&str, &str); 7] = [
    ("FIXME", "unfinished"),
    ("TODO", "unfinished"),
    ("todo!", "unfinished"),
    ("unimplemented!", "unfinished"),
    ("dbg!", "left over from a search"),
    ("thread::sleep", "wait for a condition, not for a duration"),
    ("#[ignore", "a test that does not run is no test"),
];

/// What the rooms of pure logic may not name: clocks, threads, files, sockets, the environment.
const IMPURE: [&str; 11] = [
    "std::fs",
    "std::env",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "base::world",
    "base::files",
];

/// The files of `base` that know the machine.
const DOORS_OF_BASE: [&str; 2] = ["src/base/world.rs", "src/base/files.rs"];

/// The files of `election` that decide; the others touch locks, files and databases.
const ELECTION_LOGIC: [&str; 7] = [
    "src/election/mod.rs",
    "src/election/input.rs",
    "src/election/effect.rs",
    "src/election/sight.rs",
    "src/election/group.rs",
    "src/election/rival.rs",
    "src/election/heartbeat.rs",
];

/// What may be named in these places of `src` only (tests are free).
const DOORS: [(&str, &[&str]); 9] = [
    // A thread without a name cannot be told from others when one hangs: thread::Builder.
    ("thread::spawn", &[]),
    ("process::exit", &["src/main.rs"]),
    ("env::var", &["src/main.rs", "src/cli/", "src/config/", "src/log"]),
    // Whatever a name leads to, opening it must not wait and reading it must end.
    ("OpenOptions", &["src/base/files.rs"]),
    ("File::options", &[]),
    ("File::open", &["src/base/world.rs"]),
    ("File::create", &[]),
    ("fs::read(", &["src/server/signals.rs"]),
    (
        "fs::read_to_string",
        &["src/monitor/process.rs", "src/site/sql_lock/session.rs", "src/store/file/disk.rs"],
    ),
];

/// Paths of one machine.
const MACHINE_PATHS: [&str; 5] = ["/root/", "/home/", "/Users/", "/work/", "/tmp/ref"];

/// Where packages come from is the reader's choice, not ours.
const REGISTRIES: [&str; 9] = [
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "pypi.org",
    "files.pythonhosted.org",
    "proxy.golang.org",
    "repo.maven.apache.org",
    "repo1.maven.org",
    "index.crates.io",
    "static.crates.io",
];

// ---- the rules ----------------------------------------------------------------------------------

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut found = Vec::new();
    for file in sources("src") {
        let Some(room) = room_of(&file.path) else { continue };
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else {
            found.push(format!("{}: room {room} is not in the table", file.path));
            continue;
        };
        let code = without_comments_and_texts(&file.text);
        let tests_from = code.find("#[cfg(test)]").unwrap_or(code.len());
        for (at, import) in imports(&code) {
            let target = import.split("::").next().unwrap();
            let in_tests = tests_from <= at && target == "testing";
            let by_exception = IMPORT_EXCEPTIONS.contains(&(file.path.as_str(), target));
            let by_table = target == room
                || FLOOR.contains(&target)
                || allowed.iter().any(|edge| is_under(&import, edge));
            if !(by_table || by_exception || in_tests) {
                let line = line_number(&code, at);
                found.push(format!("{}:{line}: {room} may not import {import}", file.path));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn logic_reads_no_clock_file_socket_or_environment() {
    let mut found = Vec::new();
    for file in sources("src") {
        let room = room_of(&file.path).unwrap_or_default();
        let is_logic = ["base", "wire", "broker", "engine"].contains(&room.as_str())
            || ELECTION_LOGIC.contains(&file.path.as_str());
        if !is_logic || DOORS_OF_BASE.contains(&file.path.as_str()) {
            continue;
        }
        let code = without_comments_and_texts(&file.text);
        let logic = &code[..code.find("#[cfg(test)]").unwrap_or(code.len())];
        for word in IMPURE {
            if let Some(at) = logic.find(word) {
                found.push(format!("{}:{}: {word}", file.path, line_number(logic, at)));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn threads_exits_and_the_environment_have_one_door_each() {
    let mut found = Vec::new();
    let is_test = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    for file in sources("src").into_iter().filter(|file| !is_test(&file.path)) {
        let code = without_comments_and_texts(&file.text);
        let shell = &code[..code.find("#[cfg(test)]").unwrap_or(code.len())];
        for (word, places) in DOORS {
            let is_free = places.iter().any(|place| file.path.starts_with(place));
            if let Some(at) = find_word(shell, word).filter(|_| !is_free) {
                found.push(format!("{}:{}: {word}", file.path, line_number(shell, at)));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn first_lines_say_what_a_file_is_for() {
    let mut found = Vec::new();
    for file in sources("src").into_iter().chain(sources("tests")).chain(sources("examples")) {
        let first = file.text.lines().next().unwrap_or_default();
        let Some(sentence) = first.strip_prefix("//! ") else {
            found.push(format!("{}: begins with {first:?}, not with `//! `", file.path));
            continue;
        };
        let name = file.path.strip_prefix("src/").unwrap_or_default();
        let Some((_, wanted)) = FIRST_LINES.iter().find(|(listed, _)| *listed == name) else {
            continue;
        };
        if !sentence.to_lowercase().starts_with(&wanted.to_lowercase()) {
            found.push(format!("{}: begins with {sentence:?}, not with {wanted:?}", file.path));
        }
    }
    assert_none(&found);
}

#[test]
fn files_functions_and_lines_are_short() {
    let mut found = Vec::new();
    for file in rust_files() {
        let lines = file.text.lines().count();
        if FILE_LINES_MAX < lines && !LONG_FILES.contains(&file.path.as_str()) {
            found.push(format!("{}: {lines} lines", file.path));
        }
        let code = without_comments_and_texts(&file.text);
        for (number, (line, code)) in file.text.lines().zip(code.lines()).enumerate() {
            let chars = line.chars().count();
            if LINE_CHARS_MAX < chars && !is_long_by_a_text(line, code) {
                found.push(format!("{}:{}: {chars} characters", file.path, number + 1));
            }
        }
        for (name, line, lines) in functions(&code) {
            let listed = LONG_FUNCTIONS.contains(&(file.path.as_str(), name.as_str()));
            if FUNCTION_LINES_MAX < lines && !listed {
                found.push(format!("{}:{line}: {name} has {lines} lines", file.path));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn nothing_unfinished_and_no_sleeping_is_left() {
    let mut found = Vec::new();
    for file in rust_files().into_iter().filter(|file| file.path != "tests/tidy.rs") {
        for (word, why) in BANNED_WORDS {
            if let Some(at) = file.text.find(word) {
                let line = line_number(&file.text, at);
                found.push(format!("{}:{line}: {word} ({why})", file.path));
            }
        }
    }
    assert_none(&found);
}

/// Lines of the log are for operators: the form for programmers is used to quote texts only.
#[test]
fn log_lines_quote_texts_and_show_no_structures() {
    let texts = [
        ("src/store/file/removal.rs", "{:?}"),
        ("src/store/file/removal.rs", "{script:?}"),
        ("src/store/file/registry.rs", "{path:?}"),
    ];
    let mut found = Vec::new();
    for file in sources("src") {
        for (at, _) in file.text.match_indices("log::") {
            let call = &file.text[at..];
            let is_macro = ["error!(", "warn!(", "info!(", "debug!(", "trace!("]
                .iter()
                .any(|name| call["log::".len()..].starts_with(name));
            let call = call.split(");\n").next().unwrap_or_default();
            let form = call.find(":?}").filter(|_| is_macro);
            let form = form.map(|end| &call[call[..end].rfind('{').unwrap_or(end)..end + 3]);
            if let Some(form) = form.filter(|form| !texts.contains(&(&file.path, form))) {
                found.push(format!("{}:{}: {form}", file.path, line_number(&file.text, at)));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let found: Vec<String> = rust_files()
        .into_iter()
        .map(|file| file.path)
        .filter(|path| path.split(['/', '.']).any(|part| BANNED_NAMES.contains(&part)))
        .collect();
    assert_none(&found);
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    let mut found = Vec::new();
    for path in every_file(&root()) {
        let name = relative(&path);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if name == "tests/tidy.rs" {
            continue;
        }
        for word in MACHINE_PATHS.iter().chain(&REGISTRIES) {
            if let Some(at) = text.find(word) {
                found.push(format!("{name}:{}: {word}", line_number(&text, at)));
            }
        }
    }
    assert_none(&found);
}

/// The rooms whose matter the kinds of stores are: `config` reads what people write of them.
const ROOMS_OF_STORES: [&str; 3] = ["store", "site", "config"];

/// What names one kind of store: types, and paths of modules.
const KINDS_OF_STORES: [&str; 8] = [
    "StoreKind",
    "store::file",
    "store::sql",
    "store::memory",
    "FileLease",
    "SqlLease",
    "site::epoch_files",
    "site::file_lock",
];

/// Files of other rooms that know kinds of stores, with the reason. This list may only shrink.
const KNOW_THE_STORES: [(&str, &str); 5] = [
    ("src/cli/sql.rs", "the commands of a person who keeps a database"),
    ("src/testing/disk.rs", "the simulated group lies in a simulated directory"),
    ("src/testing/group/turning.rs", "the same"),
    ("src/testing/harm.rs", "what lies in which file there"),
    ("src/testing/memory_disk.rs", "the same"),
];

#[test]
fn nobody_outside_store_and_site_knows_the_kind_of_store() {
    let mut found = Vec::new();
    for file in sources("src") {
        let Some(room) = room_of(&file.path) else { continue };
        if ROOMS_OF_STORES.contains(&room.as_str()) {
            continue;
        }
        let is_known = knows_a_kind_of_store(&without_comments_and_texts(&file.text));
        let is_excused = KNOW_THE_STORES.iter().any(|(path, _)| *path == file.path);
        if is_known != is_excused {
            found.push(format!("{}: knows a kind of store: {is_known}", file.path));
        }
    }
    assert_none(&found);
}

fn knows_a_kind_of_store(code: &str) -> bool {
    KINDS_OF_STORES.iter().any(|kind| {
        let is_in_a_group = kind.split_once("::").is_some_and(|(room, module)| {
            let group = format!("{room}::{{");
            let groups = code.split(&group).skip(1);
            groups.flat_map(group_items).any(|item| is_under(&path_of(item), module))
        });
        is_in_a_group || code.contains(kind)
    })
}

#[test]
fn documents_name_files_and_tests_that_are_there() {
    let sources = rust_files();
    let functions: BTreeSet<String> = sources
        .iter()
        .flat_map(|file| functions(&file.text).into_iter().map(|(name, ..)| name))
        .collect();
    let files: Vec<String> = every_file(&root()).iter().map(|path| relative(path)).collect();
    // From the root, from `src` or from `tests`; a name alone is that of any file.
    let is_file = |name: &str| {
        files.iter().any(|file| match file.strip_suffix(name) {
            Some(before) if name.contains('/') => ["", "src/", "tests/"].contains(&before),
            Some(before) => before.is_empty() || before.ends_with('/'),
            None => false,
        })
    };
    let mut found = Vec::new();
    let documents = every_file(&root())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "md"));
    for path in documents {
        let (name, text) = (relative(&path), fs::read_to_string(&path).unwrap());
        if name == "CHANGELOG.md" {
            continue;
        }
        for (at, word) in quoted_words(&text) {
            let is_there = match word {
                _ if word.ends_with(".rs") => is_file(word),
                _ if name == "ARCHITECTURE.md" && is_name_of_a_test(word) => {
                    functions.contains(word)
                }
                _ => true,
            };
            if !is_there {
                found.push(format!("{name}:{}: there is no {word}", line_number(&text, at)));
            }
        }
    }
    assert_none(&found);
}

/// What stands between backticks without blanks, and where.
fn quoted_words(text: &str) -> Vec<(usize, &str)> {
    let mut at = 0;
    let mut words = Vec::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 && !part.contains(char::is_whitespace) {
            words.push((at, part));
        }
        at += part.len() + 1;
    }
    words
}

/// Names of tests are sentences; nothing else has so many words.
fn is_name_of_a_test(word: &str) -> bool {
    word.matches('_').count() >= 4 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

// ---- reading the tree ---------------------------------------------------------------------------

struct Source {
    /// From the root of the crate, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

/// All files below `folder` but what builds and installations leave there, sorted.
fn every_file(folder: &Path) -> Vec<PathBuf> {
    const NOT_OURS: [&str; 6] =
        ["target", ".git", "node_modules", "artifacts", "corpus", "__pycache__"];
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return files };
    for entry in entries {
        let entry = entry.unwrap();
        if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            files.extend(every_file(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

fn sources(folder: &str) -> Vec<Source> {
    every_file(&root().join(folder))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source { path: relative(&path), text: fs::read_to_string(&path).unwrap() })
        .collect()
}

fn rust_files() -> Vec<Source> {
    let folders = ["src", "tests", "examples", "benches", "fuzz"];
    folders.into_iter().flat_map(sources).collect()
}

/// `src/net/tls.rs` and `src/net.rs` belong to `net`; `main.rs` and `lib.rs` introduce the rooms.
fn room_of(path: &str) -> Option<String> {
    let below = path.strip_prefix("src/")?;
    let room = below.split('/').next()?.trim_end_matches(".rs");
    (!["main", "lib"].contains(&room)).then(|| room.to_string())
}

/// Each `crate::…` path with its place; groups (`crate::{a::B, c}`) are taken apart one level deep.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        let rest = &code[at + "crate::".len()..];
        if before.is_some_and(|char| char.is_alphanumeric() || char == '_') {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => {
                found.extend(group_items(group).into_iter().map(|item| (at, path_of(item))));
            }
            None => found.push((at, path_of(rest))),
        }
    }
    found
}

/// The items of a group, up to its closing brace; commas in inner groups do not count.
fn group_items(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut items) = (0usize, 0, Vec::new());
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(group[from..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(group[from..at].trim());
                from = at + 1;
            }
            _ => (),
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

fn path_of(text: &str) -> String {
    let end = text
        .find(|char: char| !(char.is_alphanumeric() || char == '_' || char == ':'))
        .unwrap_or(text.len());
    text[..end].trim_end_matches(':').to_string()
}

/// Where `word` begins, but for the end of a longer one.
fn find_word(code: &str, word: &str) -> Option<usize> {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    let mut places = code.match_indices(word).map(|(at, _)| at);
    places.find(|at| !code[..*at].ends_with(is_part))
}

fn is_under(import: &str, edge: &str) -> bool {
    import.strip_prefix(edge).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Name, first line and number of lines of each function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|char| char.is_alphanumeric() || char == '_') {
            continue;
        }
        let name = path_of(&code[at + 3..]);
        let Some(end) = end_of_body(&code[at..]) else { continue };
        let lines = code[at..at + end].lines().count();
        found.push((name, line_number(code, at), lines));
    }
    found
}

/// Where the body of the function that begins `code` ends; nothing for a declaration or a type.
fn end_of_body(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (at, char) in code.char_indices() {
        match char {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.checked_sub(1)?,
            ';' | ',' | '=' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 {
                    return Some(at + 1);
                }
            }
            _ => (),
        }
    }
    None
}

/// Whether a line is long only because a text stands in it that must not be broken: what people or
/// tools match. `code` is the same line without texts.
fn is_long_by_a_text(line: &str, code: &str) -> bool {
    let words: usize = code.split_whitespace().map(|word| word.chars().count() + 1).sum();
    words <= 60 && !line.trim_start().starts_with("//")
}

/// The same text with blanks for comments, strings and characters, so that places stay the same.
fn without_comments_and_texts(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let skipped = comment_len(rest).or_else(|| text_len(rest, &out));
        let len = skipped.unwrap_or(char.len_utf8());
        let part = &rest[..len];
        if skipped.is_some() {
            out.extend(part.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(part);
        }
        rest = &rest[len..];
    }
    out
}

fn comment_len(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    rest.starts_with("/*").then(|| rest.find("*/").map_or(rest.len(), |end| end + 2))
}

/// Length of the string or character that begins here, `None` when none does.
fn text_len(rest: &str, before: &str) -> Option<usize> {
    let in_word = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    let bare = rest.strip_prefix('b').filter(|_| !in_word).unwrap_or(rest);
    let prefix = rest.len() - bare.len();
    if let Some(raw) = bare.strip_prefix('r').filter(|_| prefix == 1 || !in_word) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = hashes + 1;
            let len = raw[from..].find(&end).map_or(raw.len(), |at| from + at + end.len());
            return Some(prefix + 1 + len);
        }
    }
    if bare.starts_with('"') {
        return Some(prefix + quoted_len(bare, '"'));
    }
    // A lifetime has no second quote; a character has it after one character or one escape.
    let mut chars = bare.strip_prefix('\'')?.chars();
    let is_char = match chars.next()? {
        '\\' => true,
        _ => chars.next() == Some('\''),
    };
    is_char.then(|| prefix + quoted_len(bare, '\''))
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if char == quote => return at + 1,
            _ => (),
        }
    }
    text.len()
}

fn line_number(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

// ---- the rules are able to fail -----------------------------------------------------------------

#[test]
fn imports_are_seen_alone_in_groups_and_not_in_comments() {
    let code = without_comments_and_texts(
        "use crate::base::id;\nuse crate::{wire::{Op, Sub}, store};\n// crate::net\n\"crate::cli\"",
    );
    let found: Vec<String> = imports(&code).into_iter().map(|(_, import)| import).collect();
    assert_eq!(found, ["base::id", "wire", "store"]);
    assert!(is_under("broker::snapshot::Interest", "broker::snapshot"));
    assert!(!is_under("broker::snapshots", "broker::snapshot"));
}

#[test]
fn functions_are_measured_with_braces_in_texts_and_without_bodies_left_out() {
    let lines = [
        "fn one<'a>(x: &'a str) -> char {",
        "    let b = \"}\";",
        "    '}'",
        "}",
        "trait T { fn two(&self); }",
        "type F = fn (u8);",
        "const R: &str = r#\"fn { \"#;",
        "fn three() {}",
    ];
    let code = without_comments_and_texts(&lines.join("\n"));
    assert_eq!(functions(&code), [("one".into(), 1, 4), ("three".into(), 8, 1)]);
}

#[test]
fn kinds_of_stores_are_seen_in_paths_groups_and_types() {
    for code in [
        "use crate::store::file::Opening;",
        "use crate::store::{StoreError, sql::SqlOptions};",
        "use crate::{base, store::{self, memory}};",
        "match kind { config::StoreKind::Sql => () }",
    ] {
        assert!(knows_a_kind_of_store(code), "{code}");
    }
    assert!(!knows_a_kind_of_store("use crate::store::{StoreError, filed, worker::Worker};"));
}
