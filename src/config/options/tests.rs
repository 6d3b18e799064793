//! Flags and keys against the specification and what the reference was measured to say

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use super::*;
use crate::base::id::ChannelName;
use crate::config::file::tests::{recorded, world_with};
use crate::config::flag_table::SECTIONS;
use crate::config::places::tests::without_place;
use crate::config::{StartError, StoreKind};

mod answers;
mod control;
mod encryption;
mod nothing;
mod policies;
mod refusals;

/// Runs a command line, words split at blanks, with a file `f.conf`.
fn run(program: Program, line: &str, file: &str) -> Result<Request, OptionsError> {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    with_file(file, |world| load(program, &args, world))
}

/// A machine with the file `f.conf` and some of certificates.
pub(crate) fn with_file<T>(file: &str, run: impl FnOnce(&World<'_>) -> T) -> T {
    let (certificate, key) = &*PAIR;
    let files = [("f.conf", file), ("cert.pem", certificate), ("key.pem", key)];
    let others = [("ca.pem", &**certificate), ("other.pem", &OTHER_KEY), ("junk.pem", "junk")];
    let included = [("junk.conf", "\nx: 99999999999999999999")];
    world_with(&[&files[..], &others, &included].concat(), run)
}

/// What `cert.pem` and `key.pem` hold.
static PAIR: LazyLock<(String, String)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
});

/// A key that belongs to no certificate.
static OTHER_KEY: LazyLock<String> =
    LazyLock::new(|| rcgen::KeyPair::generate().unwrap().serialize_pem());

pub(crate) fn served(program: Program, line: &str, file: &str) -> Config {
    match run(program, line, file) {
        Ok(Request::Serve(config)) => *config,
        other => panic!("{line:?}, {file:?}: {other:?}"),
    }
}

pub(crate) fn config_of(line: &str) -> Config {
    served(Program::Streaming, line, "")
}

fn file_config(file: &str) -> Config {
    served(Program::Streaming, "-c f.conf", file)
}

/// Everything that is said of a file, line by line: errors, why the start fails, warnings.
pub(crate) fn messages(line: &str, file: &str) -> Vec<String> {
    let said = match run(Program::Streaming, line, file) {
        Ok(Request::Serve(config)) => {
            let error = config.start_error.as_ref().map(|error| error.fatal_line().1);
            return config.warnings.iter().cloned().chain(error).collect();
        }
        Err(error) => error.to_string(),
        Ok(request) => panic!("{file}: {request:?}"),
    };
    said.lines().map(str::to_owned).collect()
}

fn error_of(program: Program, line: &str, file: &str) -> String {
    match run(program, line, file) {
        Err(error) => error.to_string(),
        Ok(request) => format!("taken: {request:?}"),
    }
}

#[test]
fn wrong_options_are_refused_in_the_words_of_the_reference() {
    for (file, error) in &recorded().options {
        let found = error_of(Program::Streaming, "-c f.conf", file);
        // Where the reference names no place, this server does.
        let text = found.strip_prefix("f.conf:").and_then(|rest| rest.split_once(": "));
        let text = text.map_or("no place", |(_, text)| text);
        assert!(found == *error || text == error, "{file:?}: {found}");
    }
}

/// Goal: whoever mistypes a key learns where, and what it may have been; the server starts, as the
/// reference does.
#[test]
fn an_unknown_key_is_a_warning_with_its_place_and_the_nearest_one() {
    for (file, warning) in [
        (
            "streaming {\n stor: file\n dir: /x }",
            "f.conf:2:2: unknown field \"stor\" in \"streaming\" is ignored; the nearest known one \
             is \"store\"",
        ),
        (
            "streaming { store_limits {\n max_mesgs: 5 } }",
            "f.conf:2:2: unknown field \"max_mesgs\" in \"store_limits\" is ignored; the nearest \
             known one is \"max_msgs\"",
        ),
        (
            "streaming { limits { channels { a { maxagee: 1h } } } }",
            "f.conf:1:36: unknown field \"maxagee\" in the limits of a channel is ignored; the \
             nearest known one is \"max_age\"",
        ),
        (
            "streaming {\n max_msgs: 5 }",
            "f.conf:2:2: unknown field \"max_msgs\" in \"streaming\" is ignored; it belongs into \
             \"store_limits\"",
        ),
        (
            "streaming { file { SyncOnFlsh: true } }",
            "f.conf:1:19: unknown field \"SyncOnFlsh\" in \"file_options\" is ignored; the nearest \
             known one is \"sync_on_flush\"",
        ),
        (
            "streming { store: file }",
            "f.conf:1:0: unknown field \"streming\" at the top level is ignored; the nearest known \
             one is \"streaming\"",
        ),
        (
            "store: memory\nmax_paylod: 5",
            "f.conf:2:1: unknown field \"max_paylod\" at the top level is ignored; the nearest known \
             one is \"max_payload\"",
        ),
        (
            "streaming { id: a }\nstore: file",
            "f.conf:2:1: unknown field \"store\" at the top level is ignored; it belongs into \
             \"streaming\"",
        ),
        (
            "max_payload: 1kbb\nport: 5",
            "f.conf:1:0: field \"max_payload\" has no value and is ignored",
        ),
        (
            "streaming {\n http_port: 8222 }",
            "f.conf:2:2: unknown field \"http_port\" in \"streaming\" is ignored; it belongs to the \
             top level of the file",
        ),
        (
            "streaming {\n store: memory\n st: memory }",
            "f.conf:3:2: field \"st\" sets what \"store\" at f.conf:2:2 has set",
        ),
        (
            "streaming { wholly_else: 1 }",
            "f.conf:1:12: unknown field \"wholly_else\" in \"streaming\" is ignored",
        ),
    ] {
        let config = file_config(file);
        assert!(config.warnings.iter().any(|text| text == warning), "{:#?}", config.warnings);
        match run(Program::Streaming, "-t -c f.conf", file) {
            Ok(Request::Check { config: checked, .. }) => {
                assert_eq!(checked.warnings, config.warnings);
            }
            other => panic!("{file:?}: {other:?}"),
        }
    }
}

#[test]
fn known_keys_and_variables_are_no_warning() {
    for file in [
        "streaming { store: memory, name: foo, id: $name }",
        "port: 4222\ntls { cert_file: cert.pem, key_file: key.pem }\nstore: memory",
        "name: foo\nserver_name: $name",
        "cluster { port: 5, name: a }",
    ] {
        let warnings = file_config(file).warnings;
        let expected = usize::from(file.contains(", name: foo"));
        assert!(warnings.len() <= expected, "{file:?}: {warnings:?}");
    }
}

#[test]
fn a_folder_or_database_without_its_store_is_a_warning() {
    let of = |line: &str, file: &str| served(Program::Streaming, line, file).warnings.join("\n");
    let lost = "it is for store FILE, and the store is MEMORY, which loses everything when the \
                process ends";
    assert_eq!(
        of("-c f.conf", "streaming {\n dir: /x }"),
        format!("f.conf:2:2: field \"dir\" has no effect: {lost}"),
    );
    assert_eq!(of("-dir /x", ""), format!("flag -dir has no effect: {lost}"));
    assert_eq!(
        of("-c f.conf -store FILE", "streaming {\n dir: /x\n sql { driver: sqlite } }"),
        "f.conf:3:2: field \"sql\" has no effect: it is for store SQL, and the store is FILE",
    );
    assert_eq!(of("-c f.conf", "streaming { store: file, dir: /x }"), "");
    assert_eq!(of("-c f.conf -st FILE -dir x", "streaming { file { sync: true } }"), "");
    assert_eq!(of("-dir=", ""), "");
}

#[test]
fn a_value_of_the_wrong_type_names_its_place() {
    for (file, error) in [
        (
            "streaming {\n store: 5 }",
            "f.conf:2:2: parameter \"store\" value is expected to be string, got int64",
        ),
        ("streaming {\n\n ma: 1 }\nlimits { }", ""),
        (
            "streaming { limits {\n  ma: 5m } }",
            "f.conf:2:3: parameter \"ma\" value is expected to be string, got int64",
        ),
        (
            "authorization { password: a, token: b }",
            "f.conf:1:0: Cannot have a user/pass and token",
        ),
        ("streaming { hbi: \"5x\" }", "f.conf:1:12: time: unknown unit \"x\" in duration \"5x\""),
        ("streaming { file: 5 }", "f.conf:1:12: expected file options to be a map/struct, got 5"),
        ("streaming { store: files }", "f.conf:1:12: unknown store type: files"),
        (
            "authorization {\n permissions { publish: 5 } }",
            "f.conf:2:16: Expected subject permissions to be a subject, or array of subjects, got \
             int64",
        ),
    ] {
        let found = error_of(Program::Streaming, "-c f.conf", file);
        assert!(found == error || error.is_empty(), "{file:?}: {found}");
    }
}

/// The forms in which the chart for Kubernetes, argo-events and the guide to fault tolerance write
/// their files: paths in maps without quotes.
#[test]
fn unquoted_values_in_maps_are_what_they_look_like() {
    let config = file_config(
        "http: 8222\n\
         streaming {\n  id: stan\n  store: file\n  dir: /data/stan/store\n\
         \u{20} ft_group_name: \"stan\"\n\
         \u{20} file_options {\n    buffer_size: 32mb\n    sync_on_flush: false\n\
         \u{20}   slice_max_bytes: 512mb\n    parallel_recovery: 64\n  }\n\
         \u{20} store_limits {\n    max_channels: 10\n    max_msgs: 0\n\
         \u{20}   max_bytes: 256gb\n    max_age: 1h\n    max_subs: 128\n  }\n}\n",
    );
    let streaming = &config.streaming;
    assert_eq!(streaming.directory.as_deref(), Some(Path::new("/data/stan/store")));
    assert_eq!((streaming.store, streaming.ft_group.as_deref()), (StoreKind::File, Some("stan")));
    assert_eq!(streaming.limits.channels_max, 10);
    let config = file_config(
        "streaming { store: sql, sql_options { driver: postgres, source: //h/db }, password: #ab\n\
         dir: /x # a comment\n token: /y }",
    );
    assert_eq!(config.streaming.sql.source, "//h/db");
    assert_eq!(config.streaming.directory.as_deref(), Some(Path::new("/x")));
    let config = file_config("authorization { user: a, password: #ab\n timeout: 2 }");
    assert_eq!(config.core.auth.password.as_deref(), Some("#ab"));
    let error = error_of(Program::Streaming, "-c f.conf", "tls { cert_file: /no/cert.pem }");
    assert!(error.contains("missing 'key_file'"), "{error}");
}

#[test]
fn a_path_may_be_in_any_encoding_and_a_name_may_not() {
    let args = ["-c".to_owned(), "f.conf".to_owned()];
    let load_bytes = |text: &'static [u8]| {
        let world = World {
            read: &|_| Ok(text.to_vec()),
            variable: &|_| None,
            secret: &|_| None,
            cores: 1,
        };
        load(Program::Streaming, &args, &world)
    };
    match load_bytes(b"streaming { store: file, dir: /caf\xe9 # caf\xe9\n}") {
        Ok(Request::Serve(config)) => {
            let bytes =
                config.streaming.directory.map(|path| path.into_os_string().into_encoded_bytes());
            assert_eq!(bytes.as_deref(), Some(&b"/caf\xe9"[..]));
        }
        other => panic!("{other:?}"),
    }
    let error = load_bytes(b"authorization {\n user: a\n password: caf\xe9\n}").unwrap_err();
    assert!(error.to_string().starts_with("f.conf:3:2: the text is not UTF-8"), "{error}");
    let error = load_bytes(b"streaming {\n id: caf\xe9 }").unwrap_err();
    assert!(error.to_string().starts_with("f.conf:2:2: the text is not UTF-8"), "{error}");
}

#[test]
fn wrong_flags_show_the_usage_and_end_well() {
    for (line, error) in [
        ("-nosuch", "flag provided but not defined: -nosuch"),
        ("--nosuch=1", "flag provided but not defined: -nosuch"),
        ("-SD=x", "invalid boolean value \"x\" for -SD: parse error"),
        ("-mc abc", "invalid value \"abc\" for flag -mc: parse error"),
        (
            "-mc 99999999999999999999",
            "invalid value \"99999999999999999999\" for flag -mc: value out of range",
        ),
        ("-mc", "flag needs an argument: -mc"),
        ("-ma 5x", "invalid value \"5x\" for flag -ma: parse error"),
        ("-ma zz", "invalid value \"zz\" for flag -ma: parse error"),
        ("-p x", "invalid value \"x\" for flag -p: parse error"),
        ("---x", "bad flag syntax: ---x"),
        ("-=x", "bad flag syntax: -=x"),
    ] {
        match run(Program::Streaming, line, "") {
            Err(OptionsError::Flag(found)) => assert_eq!(found.to_string(), error),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn wrong_command_lines_are_refused_in_the_words_of_the_reference() {
    for (line, error) in [
        ("-mb 12abc", "mb should be a size, got '12abc'"),
        ("--max_bytes abc", "max_bytes should be a size, got 'abc'"),
        ("foo", "unrecognized command: \"foo\""),
        ("-SD false", "unrecognized command: \"false\""),
        ("-st FILE -dir d extra", "unrecognized command: \"extra\""),
        ("-t", "must specify [-c, --config] option to check configuration file syntax"),
        ("-c none.conf", "open none.conf: no such file or directory"),
        ("-sc none.conf", "open none.conf: no such file or directory"),
        (
            "-c f.conf -sc none.conf",
            "error opening config file: open none.conf: no such file or directory",
        ),
        ("--cluster nats://x@127.0.0.1:1", "expected cluster password to be set"),
        ("--cluster foo", "missing port in address"),
        ("--cluster nats://127.0.0.1", "address 127.0.0.1: missing port in address"),
        (
            "--routes nats://127.0.0.1:4555",
            "solicited routes require cluster capabilities, e.g. --cluster",
        ),
        ("-tlscert cert.pem", "TLS Server private key must be present and valid"),
        ("-tlsverify", "TLS Server certificate must be present and valid"),
        ("-loops 65", "loops must be between 1 and 64, got 65"),
        ("-ft_steal_after -1s", "ft_steal_after must not be negative"),
        ("-ft_steal_after 1ns", "ft_steal_after must be 0 (never) or at least 100ms"),
    ] {
        assert_eq!(error_of(Program::Streaming, line, ""), error, "{line}");
    }
}

/// Goal: only the flag needs a listener; routes of a file wait for one, as in the Go server.
#[test]
fn routes_of_a_file_are_idle_without_a_listener() {
    let routes = "cluster { routes: [nats://127.0.0.1:4555] }\n";
    let streaming = format!("{routes}streaming {{ cluster_id: c }}");
    for (program, file) in [(Program::Streaming, streaming.as_str()), (Program::Core, routes)] {
        assert_eq!(served(program, "-c f.conf", file).core.cluster, None);
    }
    let line = "-cluster nats://127.0.0.1:0 -routes nats://127.0.0.1:4555";
    assert_eq!(config_of(line).core.cluster, None);
    assert_eq!(config_of("-routes=").core.cluster, None);
}

/// Goal: of PostgreSQL the environment may say everything; the others need a source.
#[test]
fn only_postgres_needs_no_source() {
    for (driver, is_refused) in [("postgres", false), ("mysql", true), ("sqlite", true)] {
        let config = config_of(&format!("-st SQL -sql_driver {driver}"));
        assert_eq!(config.start_error.is_some(), is_refused, "{driver}");
    }
}

#[test]
fn what_stands_beside_serving_is_found_in_the_order_of_the_reference() {
    let is = |line: &str| format!("{:?}", run(Program::Streaming, line, ""));
    for line in ["-v", "--version", "version", "VERSION", "-v -h", "-v extra", "-c none -v"] {
        assert_eq!(is(line), "Ok(Version)", "{line}");
    }
    for line in ["-h", "--help", "help", "-h extra"] {
        assert_eq!(is(line), "Ok(Help)", "{line}");
    }
    assert_eq!(is("-help_tls"), "Ok(HelpTls)");
    assert_eq!(is("-sl stop=1 -c none"), "Ok(Signal(\"stop=1\"))");
    let checked = run(Program::Core, "-t -c f.conf", "port: 1");
    assert!(matches!(checked, Ok(Request::Check { file, .. }) if file == Path::new("f.conf")));
    let warned = error_of(Program::Core, "-t -c f.conf", "ping_interval: 5");
    assert!(warned.ends_with("ping_interval should be converted to a duration"), "{warned}");
}

/// The flags that the Go servers' help texts name.
const STREAMING_HELP: &str = "a addr auth c cid cluster cluster_allow_add_remove_node cluster_bootstrap cluster_id \
     cluster_log_cache_size cluster_log_path cluster_log_snapshots cluster_node_id \
     cluster_peers cluster_raft_logging cluster_sync cluster_trailing_logs clustered config D \
     debug dir DV encrypt encryption_cipher encryption_key file_auto_sync file_buffer_size \
     file_compact_enabled file_compact_frag file_compact_interval file_compact_min_size \
     file_crc file_crc_poly file_fds_limit file_parallel_recovery file_read_buffer_size \
     file_slice_archive_script file_slice_max_age file_slice_max_bytes file_slice_max_msgs \
     file_sync file_truncate_bad_eof ft_group h hb_fail_count hb_interval hb_timeout hbf hbi \
     hbt help help_tls http_port https_port l log logtime m ma max_age max_bytes max_channels \
     max_inactivity max_msgs max_subs mb mc mi mm ms msu nats_server ns p P pass pid port r \
     remote_syslog replace_durable routes s sc SD SDV secure signal sl sql_bulk_insert_limit \
     sql_driver sql_max_open_conns sql_no_caching sql_source st stan_config stan_debug \
     stan_trace store SV syslog syslog_name T tls tls_client_cacert tls_client_cert \
     tls_client_key tlscacert tlscert tlskey tlsverify trace user V v version";
const CORE_HELP: &str = "a addr auth c client_advertise cluster cluster_advertise cluster_listen cluster_name \
     config connect_retries D debug DV DVV h help help_tls http_port https_port jetstream js l \
     log log_size_limit logtime m max_traced_msg_len ms n name net no_advertise p P pass pid \
     port ports_file_dir profile r remote_syslog routes s sd server_name signal sl store_dir \
     syslog T t tls tlscacert tlscert tlskey tlsverify trace user V v version VV";

#[test]
fn the_help_names_every_flag_that_the_go_servers_help_names() {
    for (program, names) in [(Program::Streaming, STREAMING_HELP), (Program::Core, CORE_HELP)] {
        let usage = flags::usage(program);
        let shown: Vec<&str> = usage
            .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
            .filter_map(|word| word.strip_prefix("--").or_else(|| word.strip_prefix('-')))
            .collect();
        for name in names.split_whitespace() {
            let flag = SECTIONS.iter().flat_map(|section| section.flags);
            let flag = flag.into_iter().find(|flag| flag.has_name(name)).unwrap();
            let is_refused = matches!(flag.action, Action::Refused);
            assert_eq!(shown.contains(&name), !is_refused, "{program:?}: -{name}");
        }
    }
}

#[test]
fn a_folder_for_jetstream_alone_asks_for_nothing() {
    for program in [Program::Streaming, Program::Core] {
        for (line, file) in [
            ("-sd /tmp/js", ""),
            ("--store_dir=/tmp/js", ""),
            ("-c f.conf", "store_dir: /tmp/js"),
            ("-c f.conf", "storedir = \"/tmp/js\"\njetstream: false"),
        ] {
            assert_eq!(served(program, line, file).warnings, [""; 0], "{line} {file}");
        }
        let found = error_of(program, "-c f.conf", "store_dir: /tmp/js\njetstream: true");
        assert!(found.contains("\"jetstream\" is not supported"), "{found}");
    }
}

/// A value for a flag of each kind that differs from its default.
fn example(kind: Kind, name: &str) -> &'static str {
    match (kind, name) {
        (_, "store") => "=FILE",
        (_, "log_format") => "=json",
        (_, "cluster") => "=nats://a:b@127.0.0.1:0",
        (_, "routes") => "=nats://127.0.0.1:5",
        (Kind::Switch, "file_compact_enabled" | "file_crc" | "file_sync" | "logtime") => "=false",
        (Kind::Switch, _) => "",
        (Kind::Integer, _) => "=7",
        (Kind::Size, _) => "=8KB",
        (Kind::Duration, _) => "=9s",
        (Kind::Text, _) => "=x",
    }
}

#[test]
fn every_flag_is_taken_by_all_its_names_with_one_dash_and_two() {
    for flag in SECTIONS.iter().flat_map(|section| section.flags) {
        let long = flag.names.rsplit(' ').next().unwrap_or_default();
        let value = match flag.names {
            "cluster cluster_listen" => example(flag.kind, "cluster"),
            _ => example(flag.kind, long),
        };
        for name in flag.names.split(' ') {
            for dashes in ["-", "--"] {
                let line = format!("{dashes}{name}{value}");
                let found = run(Program::Streaming, &line, "");
                match flag.action {
                    Action::Refused => {
                        let text = format!("flag -{name} is not supported by stanby yet");
                        assert!(found.is_err_and(|error| error.to_string().starts_with(&text)));
                    }
                    Action::Set(_) if long.starts_with("tls") || long == "routes" => {}
                    Action::Set(_) => {
                        let Ok(Request::Serve(config)) = found else { panic!("{line}: {found:?}") };
                        let is_quiet = ["cluster", "encryption_cipher", "connect_retries"]
                            .iter()
                            .any(|name| long.starts_with(name));
                        let default = config_of("");
                        let is_same = *config == default;
                        let hidden = is_quiet || matches!(long, "no_advertise" | "logtime_utc");
                        assert!(!is_same || hidden, "{line} changes nothing");
                    }
                    Action::Special | Action::Ignored => {
                        assert!(!matches!(found, Err(OptionsError::Flag(_))), "{line}: {found:?}")
                    }
                }
            }
        }
    }
}

#[test]
fn refused_flags_that_ask_for_nothing_are_harmless() {
    for line in ["-js=false", "-encrypt=false", "-profile 0", "-ns=", "-clustered=false"] {
        assert_eq!(config_of(line), config_of(""), "{line}");
    }
}

#[test]
fn the_core_server_has_no_streaming_flags() {
    assert_eq!(error_of(Program::Core, "-cid x", ""), "flag provided but not defined: -cid");
    let config = served(Program::Core, "-p -1 -DV -logtime_utc -user a -pass b", "");
    assert_eq!(config.core.port, -1);
    assert!(config.log.core.debug && config.log.core.trace && config.log.utc);
    assert!(config.core.auth.is_required());
    let error = error_of(Program::Core, "-c f.conf", "streaming { cid: x }");
    assert_eq!(error, "f.conf:1:0: unknown field \"streaming\"");
    assert_eq!(served(Program::Core, "-c f.conf", "X: 7\nport: $X").core.port, 7);
}

#[test]
fn flags_set_what_they_say() {
    let config = config_of(
        "-cid c -st file -dir d -mc 0 -mb 1GB -ma 1h -hbi 1s -hbt 2s -hbf 3 -ft_group g \
         -ft_steal_after 0s -m 8222 -a ::1 -p 4333 -P pid -l log -SDV -DV=false -loops 2 \
         -file_auto_sync -1s -file_crc=false -file_slice_max_bytes 1k",
    );
    let streaming = &config.streaming;
    assert_eq!((streaming.cluster_id.as_str(), streaming.store), ("c", StoreKind::File));
    assert_eq!(streaming.limits.channels_max, 0);
    assert_eq!(streaming.limits.global.bytes_max, 1 << 30);
    assert_eq!(streaming.limits.global.age_max, Duration::from_secs(3_600));
    assert_eq!(streaming.heartbeat_failures_max, 3);
    assert_eq!((streaming.ft_group.as_deref(), streaming.steal_after), (Some("g"), None));
    assert_eq!((streaming.file.auto_sync, streaming.file.crc), (None, false));
    assert_eq!(streaming.file.slice_bytes_max, 1_000);
    assert_eq!((config.monitor.http_port, config.monitor.host.as_str()), (8222, "::1"));
    assert_eq!((config.core.port, config.loops), (4333, 2));
    assert!(config.log.streaming.debug && config.log.streaming.trace && !config.log.core.debug);
    assert_eq!(config_of("").loops, 3, "one of four cores is left to the rest");
    assert_eq!(config_of("-p 1 -port 2 --port=3").core.port, 3);
    assert!(config_of("-SDV -SD=false").log.streaming.debug);
}

#[test]
fn clusters_come_from_flags() {
    let config = config_of(
        "--cluster nats://r:t@127.0.0.1:4246 --routes nats-route://r:t@127.0.0.1:4248,nats://h:1 \
         --cluster_name n --no_advertise=true --connect_retries 3 --cluster_advertise a:1",
    );
    let cluster = config.core.cluster.unwrap_or_default();
    assert_eq!((cluster.host.as_str(), cluster.port), ("127.0.0.1", 4246));
    assert_eq!((cluster.username.as_deref(), cluster.password.as_deref()), (Some("r"), Some("t")));
    let addresses = cluster.routes.iter().map(|route| route.address.as_str());
    assert_eq!(addresses.collect::<Vec<_>>(), ["127.0.0.1:4248", "h:1"]);
    assert!(cluster.no_advertise && cluster.connect_retries == 3);
    let named = served(Program::Core, "--cluster_name n", "");
    assert_eq!((named.core.cluster, named.core.cluster_name.as_deref()), (None, Some("n")));
    let file = "cluster { listen: 127.0.0.1:5, authorization { user: a, password: b } }";
    let off = served(Program::Core, "-c f.conf --cluster=", file);
    assert_eq!(off.core.cluster, None);
    // The flag's URL without a user clears the file's.
    let line = "-c f.conf --cluster nats://127.0.0.1:6";
    let cluster = served(Program::Core, line, file).core.cluster.unwrap_or_default();
    assert_eq!((cluster.port, cluster.username), (6, None));
}

/// The fatal line without the words that all of them begin with.
fn start_error(config: &Config) -> String {
    let (target, text) =
        config.start_error.as_ref().map(StartError::fatal_line).unwrap_or_default();
    match target {
        "STREAM" => text.replacen("Failed to start: ", "", 1),
        _ => text,
    }
}

#[test]
fn start_errors_are_those_of_the_reference() {
    for (line, error) in [
        ("-st FILE", "for FILE stores, root directory must be specified"),
        ("-st BOLT", "unsupported store type: BOLT"),
        ("-st bolt", "unsupported store type: BOLT"),
        ("--ft_group x", "ft: only FILE or SQL stores supported in FT mode"),
        ("-mc -1", "max channels limit cannot be negative (-1)"),
        ("-msu -1", "max subscriptions limit cannot be negative (-1)"),
        ("-mm -1", "max messages limit cannot be negative (-1)"),
        ("-mb -1", "max bytes limit cannot be negative (-1)"),
        ("-ma -1s", "max age limit cannot be negative (-1s)"),
        ("-mi -1m", "max inactivity limit cannot be negative (-1m0s)"),
        ("-file_buffer_size -1", "buffer size value must be a positive number"),
        ("-file_read_buffer_size -1", "read buffer size value must be a positive number"),
        ("-file_compact_interval 0", "compact interval value must at least be 1 seconds"),
        ("-file_compact_frag 0", "compact fragmentation value must at least be 1"),
        ("-file_compact_min_size -1", "compact minimum file size value must be a positive number"),
        ("-file_crc_poly 0", "crc polynomial should be between 1 and 4294967295"),
        ("-file_crc_poly 4294967296", "crc polynomial should be between 1 and 4294967295"),
        ("-file_slice_max_msgs -1", "slice max values must be positive numbers"),
        ("-file_slice_max_age -1s", "slice max values must be positive numbers"),
        ("-file_fds_limit -1", "file descriptor limit must be a positive number"),
        ("-file_parallel_recovery 0", "parallel recovery value must be at least 1"),
        ("-m 1 -ms 2", "Can't start monitoring: can't specify both HTTP (1) and HTTPs (2) ports"),
        ("-ms 2", "Can't start monitoring: TLS cert and key required for HTTPS"),
    ] {
        let store = if line.starts_with("-file") { "-st FILE -dir d" } else { "" };
        let config = config_of(&format!("{line} {store}"));
        assert_eq!(start_error(&config), error, "{line}");
    }
    for (file, error) in [
        ("no_auth_user: x", "no_auth_user: \"x\" present, but users are not defined"),
        ("max_payload: 2\nmax_pending: 1", "max_payload (2) cannot be higher than max_pending (1)"),
        (
            "no_auth_user: x\nauthorization { users: [ {user: y} ] }",
            "no_auth_user: \"x\" not present as user in authorization block or account \
             configuration",
        ),
        (
            "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"30s\"",
            "lame duck grace period (30s) should be strictly lower than lame duck duration (30s)",
        ),
        (
            "streaming { store_limits { mc: 1, channels { a {}, b {}, \"c.*\" {} } } }",
            "too many channels defined (2). The max channels limit is set to 1",
        ),
    ] {
        assert_eq!(without_place(&start_error(&file_config(file))), error, "{file}");
        if !file.contains("streaming") {
            let found = error_of(Program::Core, "-c f.conf", file);
            assert_eq!(without_place(&found), error, "{file}");
        }
    }
    assert_eq!(config_of("-st FILE -dir d --ft_group x").start_error, None);
}

#[test]
fn every_streaming_key_is_taken_by_all_its_names() {
    let default = file_config("streaming { x: 1 }");
    for (section, keys, value) in [
        ("", "id cid cluster_id discover_prefix dir datastore ft_group ft_group_name", "x"),
        ("", "store st store_type storetype", "FILE"),
        ("", "sd stan_debug sv stan_trace secure", "true"),
        ("", "hbi hb_interval server_to_client_hb_interval", "7s"),
        ("", "hbt hb_timeout server_to_client_hb_timeout ft_steal_after", "7s"),
        ("", "hbf hb_fail_count server_to_client_hb_fail_count loops", "5"),
        ("", "replace_durable replace_durables replace_duplicate_durable", "true"),
        ("", "replace_duplicate_durables", "true"),
        ("tls", "client_cert client_key client_ca client_cacert server_name", "x"),
        ("tls", "server_hostname", "x"),
        ("tls", "skip_verify insecure", "true"),
        ("limits store_limits storelimits", "mc max_channels maxchannels msu max_subs", "7"),
        ("limits", "max_subscriptions maxsubscriptions mm max_msgs maxmsgs max_deliveries", "7"),
        ("limits", "max_count maxcount mb max_bytes maxbytes", "7"),
        ("limits", "ma max_age maxage mi max_inactivity maxinactivity", "7s"),
        ("limits", "channels channels_limits channelslimits per_channel", "{ a { mm: 1 } }"),
        ("limits", "per_channel_limits", "{ a { mm: 1 } }"),
        ("file file_options", "compact compact_enabled crc do_crc sync do_sync", "false"),
        ("file", "sync_on_flush", "false"),
        ("file", "compact_frag compact_fragmentation compact_interval crc_poly", "7"),
        ("file", "compact_min_size buffer_size file_read_buffer_size read_buffer_size", "7"),
        ("file", "slice_max_msgs slice_max_count slice_msgs slice_count", "7"),
        ("file", "slice_max_bytes slice_max_size slice_bytes slice_size", "7"),
        ("file", "slice_max_age slice_age slice_max_time slice_time_limit", "7s"),
        ("file", "slice_archive_script slice_archive slice_script", "x"),
        ("file", "file_descriptors_limit fds_limit parallel_recovery", "7"),
        ("file", "file_auto_sync auto_sync", "7s"),
    ] {
        for section in section.split(' ') {
            for key in keys.split(' ').flat_map(|key| [key.to_owned(), key.to_uppercase()]) {
                let inner = format!("{key} = {value}");
                let file = match section {
                    "" => format!("streaming {{ {inner}\n }}"),
                    section => format!("Streaming {{ {section} {{ {inner}\n }} }}"),
                };
                assert_ne!(file_config(&file), default, "{file}");
            }
        }
    }
}

#[test]
fn channels_inherit_what_they_do_not_say() {
    let config = file_config(
        "streaming { limits { channels { \"a.*\": { mm: 0, ma: \"0s\", mb: 1KB, msu: -5 } } } }",
    );
    let channels = &config.streaming.limits.per_channel;
    let found = channels.get(&ChannelName::from("a.*")).copied().unwrap_or_default();
    assert_eq!(found.messages_max, Some(0));
    assert_eq!(found.age_max, Some(Duration::ZERO));
    assert_eq!(found.bytes_max, Some(1_024));
    assert_eq!(found.subscriptions_max, Some(0));
    assert_eq!(found.inactivity_max, None);
}

#[test]
fn what_is_not_supported_yet_is_named_with_file_and_line() {
    for key in "accounts gateway leaf leafnodes jetstream mqtt websocket ws operator resolver \
                system_account trusted_keys ocsp mappings prof_port"
        .split_whitespace()
    {
        let value = if key == "prof_port" { "1" } else { "{ x: 1 }" };
        let error = error_of(Program::Streaming, "-c f.conf", &format!("port: 1\n{key}: {value}"));
        assert_eq!(error, format!("f.conf:2:1: key \"{key}\" is not supported by stanby yet"));
    }
    let error = error_of(Program::Streaming, "-c f.conf", "streaming {\ncluster {}\n}");
    let text = "f.conf:2:1: key \"cluster\" is not supported by stanby yet";
    assert!(error.starts_with(text), "{error}");
    let nkey = "authorization { users: [ { nkey: UABC } ] }";
    assert!(error_of(Program::Streaming, "-c f.conf", nkey).contains("key \"nkey\" is not"));
    let peers = "cluster { node_id: a }";
    assert!(error_of(Program::Streaming, "-c f.conf", peers).contains("unknown field \"node_id\""));
    assert_eq!(file_config("jetstream: false\nprof_port: 0").start_error, None);
}

#[test]
fn users_keep_their_permissions() {
    let config = file_config(
        "authorization {
           timeout: 1.5
           users = [
             { user: a, password: $2a$11$abc, permissions: { publish: \"x.>\",
               subscribe: { allow: [\"y q\", \"z\"], deny: w } } }
             { user: b, allow_responses: true }
           ]
         }"
        .replace(", allow_responses: true", ", permissions: { allow_responses: { max: 5 } }")
        .as_str(),
    );
    let auth = &config.core.auth;
    assert_eq!(auth.timeout, Duration::from_millis(1_500));
    assert_eq!(auth.users[0].password, "$2a$11$abc");
    let permissions = auth.users[0].permissions.clone().unwrap_or_default();
    assert_eq!(permissions.publish.allow, Some(vec!["x.>".to_owned()]));
    assert_eq!(permissions.subscribe.allow, Some(vec!["y q".to_owned(), "z".to_owned()]));
    assert_eq!(permissions.subscribe.deny, ["w"]);
    let permissions = auth.users[1].permissions.clone().unwrap_or_default();
    let rule = permissions.responses.map(|rule| (rule.count_max, rule.ttl));
    assert_eq!(rule, Some((Some(5), Some(Duration::from_secs(120)))));
    assert_eq!(permissions.publish.allow, Some(Vec::new()));
}

#[test]
fn default_permissions_are_for_users_without_any() {
    let config = file_config(
        "authorization { users: [ {user: a}, {user: b, permissions: {}} ]
           default_permissions: { publish: x } }",
    );
    let allowed: Vec<Option<Vec<String>>> = config
        .core
        .auth
        .users
        .iter()
        .map(|user| user.permissions.clone().unwrap_or_default().publish.allow)
        .collect();
    assert_eq!(allowed, [Some(vec!["x".to_owned()]), None]);
}

#[test]
fn a_timeout_that_is_no_number_is_one_second() {
    let config = file_config("authorization { user: a, timeout: x }");
    assert_eq!(config.core.auth.timeout, Duration::from_secs(1));
    let tls = "tls { cert_file: cert.pem, key_file: key.pem, timeout: 3 }";
    assert_eq!(file_config(tls).core.auth.timeout, Duration::from_secs(4));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = "port: 5\nhost: h\ndebug: true\nhttp: \"m:8\"\n\
                streaming { limits { mc: 5, mm: 6 }, sd: true }";
    let config = served(Program::Streaming, "-c f.conf -p 6 -mc 7 -D=false", file);
    assert_eq!((config.core.port, config.core.host.as_str()), (6, "h"));
    assert_eq!(config.streaming.limits.channels_max, 7);
    assert_eq!(config.streaming.limits.global.messages_max, 6);
    assert_eq!(config.streaming.limits.global.subscriptions_max, 1_000);
    assert!(!config.log.core.debug && config.log.streaming.debug);
    assert_eq!((config.monitor.host.as_str(), config.monitor.http_port), ("m", 8));
    // With -sc alone, both halves come from it; without a streaming block, the top level counts.
    let config = served(Program::Streaming, "-sc f.conf", "port: 5\ncid: x\ncluster { port: 6 }");
    assert_eq!((config.core.port, config.streaming.cluster_id.as_str()), (5, "x"));
    assert_eq!(config.core.cluster.map(|cluster| cluster.port), Some(6));
}

#[test]
fn tls_comes_from_flags_and_file() {
    let line = "-tlsverify -tlscert cert.pem -tlskey key.pem -tlscacert ca.pem";
    let tls = config_of(line).core.tls.unwrap_or_default();
    assert!(tls.verify && tls.ca_file == Some(PathBuf::from("ca.pem")));
    assert_eq!(tls.timeout, Duration::from_secs(2));
    let file = "tls { cert_file: cert.pem, key_file: key.pem, verify_and_map: true
        timeout: \"3s\", curve_preferences: [CurveP256] }";
    let tls = file_config(file).core.tls.unwrap_or_default();
    assert!(tls.verify && tls.verify_and_map);
    assert_eq!(served(Program::Streaming, "-c f.conf -tls=false", file).core.tls, None);
    let pins = format!("pinned_certs: [{}]", "AB".repeat(32));
    for (block, entry) in [
        ("tls", pins.as_str()),
        ("tls", "connection_rate_limit: 5"),
        ("cluster { tls", "verify_cert_and_check_known_urls: true"),
    ] {
        let key = entry.split(':').next().unwrap_or_default();
        let close = if block == "tls" { "}" } else { "} }" };
        let file = format!("{block} {{\n{entry}\n{close}");
        let error = error_of(Program::Core, "-c f.conf", &file);
        let expected = format!("f.conf:2:1: key \"{key}\" is not supported by stanby yet");
        assert!(error.contains(&expected), "{error}");
    }
    let error = error_of(Program::Streaming, "-tlscert nope -tlskey key.pem", "");
    assert_eq!(
        error,
        "error parsing X509 certificate/key pair: open nope: no such file or directory"
    );
}

#[test]
fn the_help_shows_every_section_and_no_refused_flag() {
    let text = flags::usage(Program::Streaming);
    for section in SECTIONS.iter().filter(|section| !section.title.is_empty()) {
        assert!(text.contains(&format!("\n{}:\n", section.title)));
    }
    assert!(text.starts_with("\nUsage: nats-streaming-server [options]\n"));
    assert!(text.contains("-ft_group") && !text.contains("--clustered"));
    let core = flags::usage(Program::Core);
    assert!(core.starts_with("\nUsage: nats-server [options]\n") && !core.contains("Streaming"));
}

/// Words that configuration files are made of.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(\n",
    "\n)\n",
    ":",
    "=",
    ",",
    ";",
    "\n",
    " ",
    "\"",
    "'",
    "#",
    "//",
    "$A",
    "include f.conf",
    "port",
    "listen",
    "http",
    "authorization",
    "users",
    "user",
    "password",
    "permissions",
    "publish",
    "allow",
    "allow_responses",
    "tls",
    "cert_file",
    "timeout",
    "pinned_certs",
    "cluster",
    "routes",
    "streaming",
    "store_limits",
    "channels",
    "file",
    "hbi",
    "max_age",
    "1",
    "-1",
    "1.5",
    "1kb",
    "9e",
    "2016-05-04T18:53:41Z",
    "127.0.0.1:1",
    "\"5s\"",
    "true",
    "é",
    "\\",
    "ping_interval",
    "lame_duck_duration",
    "99999999999",
];

proptest::proptest! {
    #[test]
    fn no_mix_of_words_makes_the_options_panic(
        indices in proptest::collection::vec(0..WORDS.len(), 0..40),
        is_core in proptest::prelude::any::<bool>(),
    ) {
        let words: Vec<&str> = indices.into_iter().map(|index| WORDS[index]).collect();
        let program = if is_core { Program::Core } else { Program::Streaming };
        for separator in ["", " "] {
            let _ = run(program, "-c f.conf", &words.join(separator));
        }
    }

    #[test]
    fn no_flags_make_the_options_panic(
        line in "(--?[a-zA-Z_]{1,14}(=| )[-a-z0-9.:/@,]{0,12} ){0,4}",
    ) {
        let _ = run(Program::Streaming, &line, "");
    }
}

#[test]
fn a_password_among_the_arguments_is_not_shown() {
    let mut config = Config::new(Program::Streaming);
    config.arguments = crate::config::Arguments(vec!["-sql_source".into(), "u:hush@/db".into()]);
    config.streaming.sql.source = "u:hush@/db".into();
    config.streaming.sql.variables.insert("PGPASSWORD".into(), "hush".into());
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("hush"), "{shown}");
}
