//! What users can set about the file store, and what they may not.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::StoreError;

/// Options of the file store (spec stores, section 6). Numbers are signed where the reference
/// refuses negative ones with a text of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// The store's root directory.
    pub root: PathBuf,
    /// Whether client and subscription files are compacted.
    pub compact_enabled: bool,
    /// Dead records in percent from which a file is compacted; at least 1.
    pub compact_fragmentation: i64,
    /// Seconds between compactions of one file; at least 1.
    pub compact_interval_secs: i64,
    /// Smallest file that is compacted, in bytes without the version header.
    pub compact_bytes_min: i64,
    /// Bytes of the reference's write buffer. Accepted and checked; our batches need none.
    pub buffer_bytes: i64,
    /// Bytes of the reference's read-ahead. Accepted and checked; a fetch has its own budget.
    pub read_buffer_bytes: i64,
    /// Whether checksums are verified when reading; they are always written.
    pub crc: bool,
    /// Polynomial of the checksum in reversed notation.
    pub crc_polynomial: i64,
    /// Whether a durable batch is synced.
    pub sync: bool,
    /// Messages of a slice; 0 = no limit.
    pub slice_messages_max: i64,
    /// Bytes of a slice, index included; 0 = no limit.
    pub slice_bytes_max: i64,
    /// Time span of a slice; zero = no limit.
    pub slice_age_max: Duration,
    /// Run for each slice that is removed: script, channel, data file, index file.
    pub slice_archive_script: Option<PathBuf>,
    /// Open files aimed at over the whole store; 0 = what the process may open.
    pub descriptors_max: i64,
    /// Channels recovered at the same time; at least 1.
    pub parallel_recovery: i64,
    /// The reference's permission to cut torn tails. Ours are always repaired; what stays is that
    /// the option is refused at two starts in a row.
    pub truncate_bad_eof: bool,
    /// Time between syncs of what no commit waits for; `None` = never.
    pub auto_sync: Option<Duration>,
}

impl FileOptions {
    /// The reference's defaults, for a store in `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            compact_enabled: true,
            compact_fragmentation: 50,
            compact_interval_secs: 300,
            compact_bytes_min: 1_048_576,
            buffer_bytes: 2_097_152,
            read_buffer_bytes: 2_097_152,
            crc: true,
            crc_polynomial: 0xEDB8_8320,
            sync: true,
            slice_messages_max: 0,
            slice_bytes_max: 67_108_864,
            slice_age_max: Duration::ZERO,
            slice_archive_script: None,
            descriptors_max: 0,
            parallel_recovery: 1,
            truncate_bad_eof: false,
            auto_sync: Some(Duration::from_secs(60)),
        }
    }

    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with the reference's text for the first that does not.
    pub fn validate(&self) -> Result<(), StoreError> {
        let rules = [
            (self.root.as_os_str().is_empty(), "for FILE stores, root directory must be specified"),
            (self.buffer_bytes < 0, "buffer size value must be a positive number"),
            (self.read_buffer_bytes < 0, "read buffer size value must be a positive number"),
            (self.compact_interval_secs < 1, "compact interval value must at least be 1 seconds"),
            (self.compact_fragmentation < 1, "compact fragmentation value must at least be 1"),
            (
                self.compact_bytes_min < 0,
                "compact minimum file size value must be a positive number",
            ),
            (
                self.crc_polynomial < 1 || i64::from(u32::MAX) < self.crc_polynomial,
                "crc polynomial should be between 1 and 4294967295",
            ),
            (
                self.slice_messages_max < 0 || self.slice_bytes_max < 0,
                "slice max values must be positive numbers",
            ),
            (self.descriptors_max < 0, "file descriptor limit must be a positive number"),
            (self.parallel_recovery < 1, "parallel recovery value must be at least 1"),
        ];
        match rules.iter().find(|(is_broken, _)| *is_broken) {
            Some((_, text)) => Err(StoreError::Unusable((*text).to_owned())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_legal() {
        assert!(FileOptions::new("/somewhere").validate().is_ok());
    }

    #[test]
    fn each_illegal_value_is_refused_in_the_references_words() {
        let check = |change: fn(&mut FileOptions), expected: &str| {
            let mut options = FileOptions::new("/somewhere");
            change(&mut options);
            let error = options.validate().expect_err(expected);
            assert_eq!(error.to_string(), expected);
        };
        check(|o| o.root = PathBuf::new(), "for FILE stores, root directory must be specified");
        check(|o| o.buffer_bytes = -1, "buffer size value must be a positive number");
        check(|o| o.read_buffer_bytes = -1, "read buffer size value must be a positive number");
        check(|o| o.compact_interval_secs = 0, "compact interval value must at least be 1 seconds");
        check(|o| o.compact_fragmentation = 0, "compact fragmentation value must at least be 1");
        check(
            |o| o.compact_bytes_min = -1,
            "compact minimum file size value must be a positive number",
        );
        for polynomial in [0, 4_294_967_296] {
            let mut options = FileOptions::new("/somewhere");
            options.crc_polynomial = polynomial;
            let error = options.validate().expect_err("out of range");
            assert_eq!(error.to_string(), "crc polynomial should be between 1 and 4294967295");
        }
        check(|o| o.slice_messages_max = -1, "slice max values must be positive numbers");
        check(|o| o.slice_bytes_max = -1, "slice max values must be positive numbers");
        check(|o| o.descriptors_max = -1, "file descriptor limit must be a positive number");
        check(|o| o.parallel_recovery = 0, "parallel recovery value must be at least 1");
    }
}
