//! what the rooms are told, from what the user wrote

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::random::Random;
use crate::broker::account::{self, Permissions, ResponsePermission};
use crate::broker::settings as broker;
use crate::config::{self, Config, TlsConfig};
use crate::engine;
use crate::net::reactor::Rules;
use crate::net::tls::{ClientCertificate, Dialling, Files, Serving, TlsError};
use crate::net::{Address, Listen};
use crate::store::file;

/// Bytes of a protocol line that are not the subject: `MSG`, sid, reply and sizes of a delivery.
const LINE_REST_BYTES: usize = 256;

/// What engines are told.
#[must_use]
pub fn engine(config: &Config) -> engine::Settings {
    let streaming = &config.streaming;
    engine::Settings {
        loops: config.loops,
        limits: streaming.limits.clone(),
        heartbeat_interval: streaming.heartbeat_interval,
        heartbeat_timeout: streaming.heartbeat_timeout,
        heartbeat_failures_max: streaming.heartbeat_failures_max,
        replace_durable: streaming.replace_durable,
        inbox_len_max: config.core.control_line_bytes_max.saturating_sub(LINE_REST_BYTES).max(64),
        subscription_ids_store_wide: false,
        debug: config.log.streaming_debug || config.log.streaming_trace,
        trace: config.log.streaming_trace,
    }
}
