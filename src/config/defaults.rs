//! What holds where neither flag nor file says anything

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::channel_limits::StoreLimits;
use crate::base::limits::STEAL_AFTER_DEFAULT;
use crate::config::places::Places;
use crate::config::{
    Arguments, AuthConfig, ClientTlsConfig, Config, ControlPlace, CoreConfig, FileConfig,
    MonitorConfig, Program, SqlConfig, StoreKind, StreamingConfig,
};

/// How long a client has to authenticate without TLS, and to shake hands with it.
pub const AUTH_TIMEOUT: Duration = Duration::from_secs(2);

/// All addresses of both families.
pub const EVERYWHERE: &str = "0.0.0.0";

/// The cluster ID of a server that was told none.
pub const CLUSTER_ID: &str = "test-cluster";

/// The polynomial of the usual CRC-32, reversed.
pub const CRC_POLYNOMIAL: u32 = 0xEDB8_8320;

impl Config {
    /// All defaults, with one event loop.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self {
            program,
            loops: 1,
            arguments: Arguments::default(),
            config_file: None,
            pid_file: None,
            notify_socket: None,
            control_folders: Vec::new(),
            ports_file_dir: None,
            core: CoreConfig::default(),
            streaming: StreamingConfig::default(),
            log: crate::log::Settings::default(),
            monitor: MonitorConfig::default(),
            warnings: Vec::new(),
            places: Places::default(),
            start_error: None,
        }
    }
}

impl Default for CoreConfig {
    /// Spec core NATS, 1.1.
    fn default() -> Self {
        Self {
            host: EVERYWHERE.to_owned(),
            port: 4222,
            client_advertise: None,
            server_name: None,
            tags: Vec::new(),
            connections_max: Some(65_536),
            interests_max: None,
            subject_tokens_max: None,
            control_line_bytes_max: 4_096,
            payload_bytes_max: 1024 * 1024,
            pending_bytes_max: 64 * 1024 * 1024,
            ping_interval: Duration::from_secs(120),
            pings_max: 2,
            write_deadline: Duration::from_secs(10),
            traced_bytes_max: 0,
            lame_duck_duration: Duration::from_secs(120),
            lame_duck_grace: Duration::from_secs(10),
            has_headers: true,
            no_sublist_cache: false,
            is_trace_verbose: false,
            asks_for_utc: false,
            has_system_account: true,
            connect_error_reports: 3_600,
            reconnect_error_reports: 1,
            auth: AuthConfig { timeout: AUTH_TIMEOUT, ..AuthConfig::default() },
            tls: None,
            allow_non_tls: false,
            cluster_name: None,
            cluster: None,
        }
    }
}

impl Default for StreamingConfig {
    /// Spec configuration, 2 and 3.
    fn default() -> Self {
        Self {
            cluster_id: CLUSTER_ID.to_owned(),
            discover_prefix: "_STAN.discover".to_owned(),
            store: StoreKind::Memory,
            directory: None,
            file: FileConfig::default(),
            sql: SqlConfig::default(),
            limits: StoreLimits::default(),
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(10),
            heartbeat_failures_max: 10,
            ft_group: None,
            steal_after: Some(STEAL_AFTER_DEFAULT),
            control: ControlPlace::AnyFolder,
            administrators: BTreeSet::new(),
            replace_durable: false,
            partitioning: false,
            io_batch_size: 1_024,
            external: None,
            nkey_seed_file: None,
            encryption: None,
            client_tls: ClientTlsConfig::default(),
        }
    }
}

impl Default for FileConfig {
    /// Spec stores, section 6.
    fn default() -> Self {
        Self {
            compact_enabled: true,
            compact_fragmentation: 50,
            compact_interval: Duration::from_secs(300),
            compact_bytes_min: 1024 * 1024,
            buffer_bytes: 2 * 1024 * 1024,
            read_buffer_bytes: 2 * 1024 * 1024,
            crc: true,
            crc_polynomial: CRC_POLYNOMIAL,
            sync: true,
            slice_messages_max: 0,
            slice_bytes_max: 64 * 1024 * 1024,
            slice_age_max: Duration::ZERO,
            slice_archive_script: None,
            descriptors_max: 0,
            parallel_recovery: 1,
            truncate_bad_eof: false,
            auto_sync: Some(Duration::from_secs(60)),
        }
    }
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            host: EVERYWHERE.to_owned(),
            http_port: 0,
            https_port: 0,
            base_path: String::new(),
            viewer: None,
        }
    }
}
