//! The lines of the flag table: names, kind, help, action

use crate::base::encryption::Secret;
use crate::config::draft::{control_place, count, duration, path, size, text};
use crate::config::flags::Action::{Ignored, Refused, Set, Special};
use crate::config::flags::Kind::{Duration, Integer, Size, Switch, Text};
use crate::config::flags::{Section, both, streaming};

/// Every flag that the reference knows, and ours, in the order of the help text.
///
/// Facts: spec configuration, 2.1 to 2.7.
pub static SECTIONS: &[Section] = &[
    Section {
        title: "Streaming Server Options",
        flags: &[
            streaming(
                "cid cluster_id",
                Text,
                "ID of the streaming cluster, part of every subject (default: test-cluster)",
                Set(|draft, given| draft.config.streaming.cluster_id = given.text()),
            ),
            streaming(
                "st store",
                Text,
                "Where channels are kept: MEMORY, FILE or SQL (default: MEMORY)",
                Set(|draft, given| draft.store = given.text()),
            ),
            streaming(
                "dir",
                Text,
                "Folder of the FILE store",
                Set(|draft, given| draft.config.streaming.directory = path(given)),
            ),
            streaming(
                "mc max_channels",
                Integer,
                "Most channels, 0 = no limit (default: 100)",
                Set(|draft, given| draft.limits.channels = given.number()),
            ),
            streaming(
                "msu max_subs",
                Integer,
                "Most subscriptions of a channel, 0 = no limit (default: 1000)",
                Set(|draft, given| draft.limits.subscriptions = given.number()),
            ),
            streaming(
                "mm max_msgs",
                Integer,
                "Most messages in a channel, 0 = no limit (default: 1000000)",
                Set(|draft, given| draft.limits.messages = given.number()),
            ),
            streaming(
                "mb max_bytes",
                Size,
                "Most bytes in a channel, 0 = no limit (default: 1024000000)",
                Set(|draft, given| draft.limits.bytes = given.number()),
            ),
            streaming(
                "ma max_age",
                Duration,
                "How long a message is kept, 0s = for ever",
                Set(|draft, given| draft.limits.age = given.number()),
            ),
            streaming(
                "mi max_inactivity",
                Duration,
                "Idle time after which a channel is deleted, 0s = never",
                Set(|draft, given| draft.limits.inactivity = given.number()),
            ),
            streaming(
                "ns nats_server",
                Text,
                "External NATS server to run over instead of one of its own; several with commas",
                Set(|draft, given| draft.nats_servers = given.text()),
            ),
            streaming(
                "sc stan_config",
                Text,
                "Configuration file of the streaming server",
                Special,
            ),
            streaming(
                "hbi hb_interval",
                Duration,
                "Time between heartbeats to a client (default: 30s)",
                Set(|draft, given| draft.config.streaming.heartbeat_interval = duration(given)),
            ),
            streaming(
                "hbt hb_timeout",
                Duration,
                "How long a heartbeat may stay unanswered (default: 10s)",
                Set(|draft, given| draft.config.streaming.heartbeat_timeout = duration(given)),
            ),
            streaming(
                "hbf hb_fail_count",
                Integer,
                "Failed heartbeats that a client may have (default: 10)",
                Set(|draft, given| draft.config.streaming.heartbeat_failures_max = count(given)),
            ),
            streaming(
                "ft_group",
                Text,
                "Name of the fault-tolerance group of servers on one store",
                Set(|draft, given| draft.config.streaming.ft_group = text(given)),
            ),
            streaming(
                "ft_steal_after",
                Duration,
                "When a hung active is replaced, 0s = never (default: 5s)",
                Set(|draft, given| draft.steal_after = given.number()),
            ),
            streaming(
                "control_socket",
                Text,
                "Where commands of this machine reach the server; off = nowhere",
                Set(|draft, given| draft.config.streaming.control = control_place(&given.text())),
            ),
            streaming(
                "replace_durable",
                Switch,
                "A new durable replaces one that is online instead of being refused",
                Set(|draft, given| draft.config.streaming.replace_durable = given.is_on()),
            ),
            streaming(
                "encrypt",
                Switch,
                "Whether the payloads of stored messages are encrypted",
                Set(|draft, given| draft.encryption.is_asked = given.is_on()),
            ),
            streaming(
                "encryption_cipher",
                Text,
                "AES or CHACHA (default: AES on Intel and AMD, CHACHA elsewhere)",
                Set(|draft, given| draft.encryption.cipher = given.text()),
            ),
            streaming(
                "encryption_key",
                Text,
                "Their key; better in the variable NATS_STREAMING_ENCRYPTION_KEY, which others \
                 do not see",
                Set(|draft, given| {
                    draft.encryption.key_flag = Secret::new(given.text().into_bytes());
                }),
            ),
        ],
    },
    Section {
        title: "Streaming Server File Store Options",
        flags: &[
            streaming(
                "file_compact_enabled",
                Switch,
                "Whether client and subscription files are compacted (default: true)",
                Set(|draft, given| draft.config.streaming.file.compact_enabled = given.is_on()),
            ),
            streaming(
                "file_compact_frag",
                Integer,
                "Dead records in percent from which a file is compacted (default: 50)",
                Set(|draft, given| draft.file.compact_fragmentation = given.number()),
            ),
            streaming(
                "file_compact_interval",
                Integer,
                "Seconds between compactions of a file (default: 300)",
                Set(|draft, given| draft.file.compact_interval = given.number()),
            ),
            streaming(
                "file_compact_min_size",
                Size,
                "Smallest file that is compacted (default: 1048576)",
                Set(|draft, given| draft.file.compact_bytes_min = given.number()),
            ),
            streaming(
                "file_buffer_size",
                Size,
                "Bytes of the write buffer (default: 2097152)",
                Set(|draft, given| draft.file.buffer_bytes = given.number()),
            ),
            streaming(
                "file_read_buffer_size",
                Size,
                "Bytes read ahead, 0 = none (default: 2097152)",
                Set(|draft, given| draft.file.read_buffer_bytes = given.number()),
            ),
            streaming(
                "file_crc",
                Switch,
                "Whether checksums are verified when reading (default: true)",
                Set(|draft, given| draft.config.streaming.file.crc = given.is_on()),
            ),
            streaming(
                "file_crc_poly",
                Integer,
                "Polynomial of the checksum, reversed (default: 3988292384)",
                Set(|draft, given| draft.file.crc_polynomial = given.number()),
            ),
            streaming(
                "file_sync",
                Switch,
                "Whether a message is synced before it is acknowledged (default: true)",
                Set(|draft, given| draft.config.streaming.file.sync = given.is_on()),
            ),
            streaming(
                "file_slice_max_msgs",
                Integer,
                "Messages of a slice, 0 = by the channel's limits",
                Set(|draft, given| draft.file.slice_messages_max = given.number()),
            ),
            streaming(
                "file_slice_max_bytes",
                Size,
                "Bytes of a slice and its index (default: 67108864)",
                Set(|draft, given| draft.file.slice_bytes_max = given.number()),
            ),
            streaming(
                "file_slice_max_age",
                Duration,
                "Time span of a slice, 0s = no limit",
                Set(|draft, given| draft.file.slice_age_max = given.number()),
            ),
            streaming(
                "file_slice_archive_script",
                Text,
                "Program that is run for each slice before it is removed",
                Set(|draft, given| draft.config.streaming.file.slice_archive_script = path(given)),
            ),
            streaming(
                "file_fds_limit",
                Integer,
                "Open files aimed at, 0 = no limit",
                Set(|draft, given| draft.file.descriptors_max = given.number()),
            ),
            streaming(
                "file_parallel_recovery",
                Integer,
                "Channels recovered at the same time (default: 1)",
                Set(|draft, given| draft.file.parallel_recovery = given.number()),
            ),
            streaming(
                "file_truncate_bad_eof",
                Switch,
                "Cut off torn tails at this start; messages may be lost",
                Set(|draft, given| draft.config.streaming.file.truncate_bad_eof = given.is_on()),
            ),
            streaming(
                "file_auto_sync",
                Duration,
                "Time between syncs of what nobody waits for, 0s = never (default: 1m)",
                Set(|draft, given| draft.file.auto_sync = given.number()),
            ),
        ],
    },
    Section {
        title: "Streaming Server TLS Options",
        flags: &[
            streaming(
                "secure",
                Switch,
                "TLS for the streaming server's own connections",
                Set(|draft, given| draft.config.streaming.client_tls.secure = given.is_on()),
            ),
            streaming(
                "tls_client_cert",
                Text,
                "Certificate of the streaming server as a client",
                Set(|draft, given| draft.tls_client(given, |tls| &mut tls.cert_file)),
            ),
            streaming(
                "tls_client_key",
                Text,
                "Key of the streaming server as a client",
                Set(|draft, given| draft.tls_client(given, |tls| &mut tls.key_file)),
            ),
            streaming(
                "tls_client_cacert",
                Text,
                "Authorities that the streaming server trusts as a client",
                Set(|draft, given| draft.tls_client(given, |tls| &mut tls.ca_file)),
            ),
        ],
    },
    Section {
        title: "Streaming Server Logging Options",
        flags: &[
            streaming(
                "SD stan_debug",
                Switch,
                "Debug lines of the streaming server",
                Set(|draft, given| draft.config.log.streaming.debug = given.is_on()),
            ),
            streaming(
                "SV stan_trace",
                Switch,
                "Trace lines of the streaming server",
                Set(|draft, given| draft.config.log.streaming.trace = given.is_on()),
            ),
            streaming(
                "SDV",
                Switch,
                "Both",
                Set(|draft, given| draft.streaming_debug_trace = Some(given.is_on())),
            ),
            streaming(
                "syslog_name",
                Text,
                "Name of the event source on Windows; without effect here",
                Ignored,
            ),
        ],
    },
    Section {
        title: "Embedded NATS Server Options",
        flags: &[
            both(
                "a net addr",
                Text,
                "Address to listen on (default: 0.0.0.0)",
                Set(|draft, given| draft.host = given.text()),
            ),
            both(
                "p port",
                Integer,
                "Port for clients, -1 = any free one (default: 4222)",
                Set(|draft, given| draft.config.core.port = given.number()),
            ),
            both(
                "n name server_name",
                Text,
                "Name of the server (default: its id)",
                Set(|draft, given| draft.config.core.server_name = text(given)),
            ),
            both(
                "client_advertise",
                Text,
                "host[:port] that clients are told",
                Set(|draft, given| draft.config.core.client_advertise = text(given)),
            ),
            both(
                "P pid",
                Text,
                "File for the process id",
                Set(|draft, given| draft.config.pid_file = path(given)),
            ),
            both(
                "ports_file_dir",
                Text,
                "Folder for a file that lists the ports",
                Set(|draft, given| draft.config.ports_file_dir = path(given)),
            ),
            both(
                "m http_port",
                Integer,
                "Port for the monitoring pages",
                Set(|draft, given| draft.config.monitor.http_port = given.number()),
            ),
            both(
                "ms https_port",
                Integer,
                "Port for the monitoring pages, with TLS",
                Set(|draft, given| draft.config.monitor.https_port = given.number()),
            ),
            both("c config", Text, "Configuration file", Special),
            both("t", Switch, "Check the configuration file and exit", Special),
            both(
                "sl signal",
                Text,
                "Send a signal: stop, quit, term, reopen, reload or ldm, with =<pid or file>",
                Special,
            ),
            both("sd store_dir", Text, "Folder of JetStream; without effect here", Ignored),
        ],
    },
    Section {
        title: "Logging Options",
        flags: &[
            both(
                "l log",
                Text,
                "File to append log lines to",
                Set(|draft, given| draft.config.log.file = path(given)),
            ),
            both(
                "log_size_limit",
                Integer,
                "Bytes after which the log file is rotated",
                Set(|draft, given| {
                    draft.config.log.file_bytes_max = given.number().max(0).unsigned_abs()
                }),
            ),
            both(
                "T logtime",
                Switch,
                "Date and time in log lines (default: true)",
                Set(|draft, given| draft.config.log.timestamps = given.is_on()),
            ),
            both(
                "log_format",
                Text,
                "How log lines look: text or json (default: text)",
                Set(|draft, given| draft.log_format = given.text()),
            ),
            both(
                "logtime_utc",
                Switch,
                "In UTC",
                Set(|draft, given| draft.config.log.utc = given.is_on()),
            ),
            both(
                "s syslog",
                Switch,
                "Log lines to the machine's syslog",
                Set(|draft, given| draft.config.log.syslog = given.is_on()),
            ),
            both(
                "r remote_syslog",
                Text,
                "Log lines to a syslog server, such as udp://localhost:514",
                Set(|draft, given| draft.config.log.remote_syslog = text(given)),
            ),
            both(
                "D debug",
                Switch,
                "Debug lines",
                Set(|draft, given| draft.config.log.core.debug = given.is_on()),
            ),
            both(
                "V trace",
                Switch,
                "Trace lines of the raw protocol",
                Set(|draft, given| draft.config.log.core.trace = given.is_on()),
            ),
            both(
                "VV",
                Switch,
                "The same",
                Set(|draft, given| draft.config.log.core.trace |= given.is_on()),
            ),
            both(
                "DV",
                Switch,
                "Debug and trace lines",
                Set(|draft, given| draft.core_debug_trace = Some(given.is_on())),
            ),
            both(
                "DVV",
                Switch,
                "The same",
                Set(|draft, given| draft.core_debug_trace = Some(given.is_on())),
            ),
            both(
                "max_traced_msg_len",
                Integer,
                "Bytes of a message shown in a trace line, 0 = all",
                Set(|draft, given| draft.config.core.traced_bytes_max = size(given)),
            ),
        ],
    },
    Section {
        title: "Authorization Options",
        flags: &[
            both(
                "user",
                Text,
                "User that clients must name",
                Set(|draft, given| draft.user(given)),
            ),
            both(
                "pass",
                Text,
                "Password that clients must give",
                Set(|draft, given| draft.pass(given)),
            ),
            both(
                "auth",
                Text,
                "Token that clients must give",
                Set(|draft, given| draft.token(given)),
            ),
        ],
    },
    Section {
        title: "TLS Options",
        flags: &[
            both(
                "tls",
                Switch,
                "TLS for clients",
                Set(|draft, given| draft.tls_flags.tls = Some(given.is_on())),
            ),
            both(
                "tlscert",
                Text,
                "Certificate of the server",
                Set(|draft, given| draft.tls_flags.cert = path(given)),
            ),
            both(
                "tlskey",
                Text,
                "Its private key",
                Set(|draft, given| draft.tls_flags.key = path(given)),
            ),
            both(
                "tlsverify",
                Switch,
                "TLS for clients, who must show a certificate",
                Set(|draft, given| draft.tls_flags.verify = Some(given.is_on())),
            ),
            both(
                "tlscacert",
                Text,
                "Authorities that clients' certificates are verified with",
                Set(|draft, given| draft.tls_flags.ca = path(given)),
            ),
        ],
    },
    Section {
        title: "NATS Clustering Options",
        flags: &[
            both(
                "routes",
                Text,
                "Servers to open routes to, with commas",
                Set(|draft, given| draft.routes = Some(given.text())),
            ),
            both(
                "cluster cluster_listen",
                Text,
                "URL to listen on for routes",
                Set(|draft, given| draft.cluster_url = Some(given.text())),
            ),
            both(
                "cluster_name",
                Text,
                "Name of the cluster",
                Set(|draft, given| draft.cluster.name = text(given)),
            ),
            both(
                "cluster_advertise",
                Text,
                "host[:port] that other servers are told",
                Set(|draft, given| draft.cluster.advertise = text(given)),
            ),
            both(
                "no_advertise",
                Switch,
                "Do not tell clients of other servers",
                Set(|draft, given| draft.cluster.no_advertise = given.is_on()),
            ),
            both(
                "connect_retries",
                Integer,
                "Further attempts for routes that were learned",
                Set(|draft, given| draft.cluster.connect_retries = count(given)),
            ),
        ],
    },
    Section {
        title: "Streaming Server SQL Store Options",
        flags: &[
            streaming(
                "sql_driver",
                Text,
                "Database of the SQL store: postgres, mysql or sqlite",
                Set(|draft, given| draft.config.streaming.sql.driver = given.text()),
            ),
            streaming(
                "sql_source",
                Text,
                "Where the database is: the driver's source string or a URL; SQLite: a path",
                Set(|draft, given| draft.config.streaming.sql.source = given.text()),
            ),
            streaming(
                "sql_no_caching",
                Switch,
                "Write pending sets with each commit (default: false)",
                Set(|draft, given| draft.config.streaming.sql.no_caching = given.is_on()),
            ),
            streaming(
                "sql_max_open_conns",
                Integer,
                "Most connections to the database, 0 = no limit (default: 0)",
                Set(|draft, given| draft.config.streaming.sql.connections_max = size(given)),
            ),
            streaming(
                "sql_bulk_insert_limit",
                Integer,
                "Most rows of one INSERT, 0 = as many as are good (default: 0)",
                Set(|draft, given| draft.config.streaming.sql.bulk_insert_limit = size(given)),
            ),
        ],
    },
    Section {
        title: "Common Options",
        flags: &[
            both(
                "loops",
                Integer,
                "Event loops (default: one for each core but one)",
                Set(|draft, given| draft.loops = Some(given.number())),
            ),
            both("h help", Switch, "This text", Special),
            both("v version", Switch, "The version", Special),
            both("help_tls", Switch, "Help on TLS", Special),
        ],
    },
    Section {
        title: "",
        flags: &[
            streaming(
                "io_batch_size",
                Integer,
                "",
                Set(|draft, given| {
                    draft.io_batch_size = given.number();
                    draft.config.streaming.io_batch_size = given.number().max(0).unsigned_abs();
                }),
            ),
            streaming("io_sleep_time", Integer, "", Ignored),
            streaming("clustered", Switch, "", Refused),
            streaming("cluster_node_id", Text, "", Refused),
            streaming("cluster_bootstrap", Switch, "", Refused),
            streaming("cluster_peers", Text, "", Refused),
            streaming("cluster_log_path", Text, "", Refused),
            streaming("cluster_log_cache_size", Integer, "", Refused),
            streaming("cluster_log_snapshots", Integer, "", Refused),
            streaming("cluster_trailing_logs", Integer, "", Refused),
            streaming("cluster_sync", Switch, "", Refused),
            streaming("cluster_raft_logging", Switch, "", Refused),
            streaming("cluster_allow_add_remove_node", Switch, "", Refused),
            streaming("cluster_proceed_on_restore_failure", Switch, "", Refused),
            both("profile", Integer, "", Refused),
            both("js jetstream", Switch, "", Refused),
        ],
    },
];
