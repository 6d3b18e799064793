//! Where a file says what: for what is found out after the files were read
//!
//! An option is named by its map and a key of it, `store_limits.max_msgs`; the keys of the file's
//! top level are in `top`. What a flag says takes the place of what a file says.

use crate::config::tree::Position;

/// The options that files have set, in their order.
#[derive(Clone, Debug, Default)]
pub struct Places(Vec<Place>);

#[derive(Clone, Debug)]
struct Place {
    map: &'static str,
    keys: &'static str,
    /// As messages show it.
    at: String,
}

impl PartialEq for Places {
    /// Where an option stands is no part of what it says.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Place {
    /// Whether this is one of the `options`.
    fn is_one_of(&self, options: &str) -> bool {
        options.split([' ', '|']).any(|option| {
            let key = option.strip_prefix(self.map).and_then(|rest| rest.strip_prefix('.'));
            key.is_some_and(|key| self.keys.split(' ').any(|known| known == key))
        })
    }
}

impl Places {
    /// A file sets what the `keys` of this `map` are.
    pub(super) fn note(&mut self, map: &'static str, keys: &'static str, at: &Position) {
        self.0.push(Place { map, keys, at: at.to_string() });
    }

    /// A flag sets something, whatever a file has said.
    pub(super) fn forget(&mut self, flag: &str) {
        let known = FLAGS.iter().find(|(names, _)| names.split(' ').any(|name| name == flag));
        if let Some((_, options)) = known {
            self.0.retain(|place| !place.is_one_of(options));
        }
    }

    /// Where a file says the first of `options` that it says, for the end of a line: `
    /// (stan.conf:3:5)`; of those with a bar between them the last in the file. Nothing where none
    /// is a file's.
    #[must_use]
    pub fn behind(&self, options: &str) -> String {
        let last = |options| self.0.iter().rev().find(|place| place.is_one_of(options));
        let place = options.split(' ').find_map(last);
        place.map_or_else(String::new, |place| format!(" ({})", place.at))
    }
}

/// Flags, and the options of a file that they set too.
const FLAGS: &[(&str, &str)] = &[
    ("cid cluster_id", "streaming.cluster_id"),
    ("st store", "streaming.store"),
    ("dir", "streaming.dir"),
    ("mc max_channels", "store_limits.max_channels"),
    ("msu max_subs", "store_limits.max_subs"),
    ("mm max_msgs", "store_limits.max_msgs"),
    ("mb max_bytes", "store_limits.max_bytes"),
    ("ma max_age", "store_limits.max_age"),
    ("mi max_inactivity", "store_limits.max_inactivity"),
    ("ft_group", "streaming.ft_group"),
    ("ft_steal_after", "streaming.ft_steal_after"),
    ("control_socket", "streaming.control_socket"),
    ("loops", "streaming.loops"),
    ("encrypt", "streaming.encrypt"),
    ("encryption_cipher", "streaming.encryption_cipher"),
    ("ns", "streaming.ns"),
    ("secure", "streaming.secure"),
    ("tls_client_cert", "tls.client_cert"),
    ("tls_client_key", "tls.client_key"),
    ("tls_client_cacert", "tls.client_ca"),
    ("file_compact_frag", "file_options.compact_frag"),
    ("file_compact_interval", "file_options.compact_interval"),
    ("file_compact_min_size", "file_options.compact_min_size"),
    ("file_buffer_size", "file_options.buffer_size"),
    ("file_read_buffer_size", "file_options.read_buffer_size"),
    ("file_crc_poly", "file_options.crc_poly"),
    ("file_slice_max_msgs", "file_options.slice_max_msgs"),
    ("file_slice_max_bytes", "file_options.slice_max_bytes"),
    ("file_slice_max_age", "file_options.slice_max_age"),
    ("file_fds_limit", "file_options.fds_limit"),
    ("file_parallel_recovery", "file_options.parallel_recovery"),
    ("sql_driver", "sql_options.driver"),
    ("sql_source", "sql_options.source"),
    ("a net addr", "top.host"),
    ("p port", "top.port top.listen"),
    ("client_advertise", "top.client_advertise"),
    ("P pid", "top.pid_file"),
    ("ports_file_dir", "top.ports_file_dir"),
    ("m http_port", "top.http_port top.http"),
    ("ms https_port", "top.https_port top.https"),
    ("l log", "top.logfile"),
    ("log_format", "top.log_format"),
    ("s syslog", "top.syslog"),
    ("r remote_syslog", "top.remote_syslog"),
    ("tls tlscert", "top.tls"),
    ("cluster cluster_listen", "cluster.port cluster.listen cluster.host"),
    ("cluster_advertise", "cluster.advertise"),
];

#[cfg(test)]
pub(super) mod tests;
