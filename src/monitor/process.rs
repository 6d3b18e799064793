//! What the machine says of this process: memory, processor time, descriptors.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use crate::base::time::Instant;

/// Ticks of `/proc/self/stat` in a second: the kernel gives user space 100 on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// Shortest time that a share of the processor is measured over.
const SAMPLE_MIN: Duration = Duration::from_secs(1);

/// Open files; 0 where the machine does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Open now.
    pub open: i64,
    /// The soft limit; -1 if there is none.
    pub max: i64,
}

impl Descriptors {
    /// Counts them.
    #[must_use]
    pub fn now() -> Self {
        // The listing has a descriptor of its own open while it counts.
        let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() - 1);
        let max = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((u64::MAX, _)) => -1,
            Ok((soft, _)) => i64::try_from(soft).unwrap_or(-1),
            Err(_) => 0,
        };
        Self { open: i64::try_from(open).unwrap_or(0), max }
    }
}

/// Resident memory in bytes; 0 where the machine does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kilobytes.unwrap_or(0) * 1024
}

/// The share of the processor that this process used lately.
#[derive(Debug, Default)]
pub struct CpuMeter {
    last: Option<(Instant, u64)>,
    percent: f64,
}

impl CpuMeter {
    /// Percent of one core since the last sample, one digit behind the point; the last result
    /// again if that is too short ago.
    pub fn percent(&mut self, now: Instant) -> f64 {
        let ticks = used_ticks();
        let Some((at, before)) = self.last else {
            self.last = Some((now, ticks));
            return self.percent;
        };
        let elapsed = now.since(at);
        if elapsed >= SAMPLE_MIN {
            #[allow(clippy::cast_precision_loss, reason = "a difference of a few thousand")]
            let used = ticks.saturating_sub(before) as f64 / TICKS_PER_SECOND;
            self.percent = (used / elapsed.as_secs_f64() * 1_000.0).round() / 10.0;
            self.last = Some((now, ticks));
        }
        self.percent
    }
}

/// Fields 14 and 15 (`utime`, `stime`), counted behind the name, which may hold blanks.
fn used_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_open_files() {
        let before = resident_bytes();
        let block = vec![1_u8; 256 * 1024 * 1024];
        let grown = resident_bytes() - before;
        // Other tests come and go meanwhile.
        assert!((128..512).contains(&(grown / (1024 * 1024))), "{grown} of {}", block.len());
        let descriptors = Descriptors::now();
        assert!(descriptors.open >= 3, "{descriptors:?}");
        assert!(descriptors.max == -1 || descriptors.max >= descriptors.open, "{descriptors:?}");
    }

    #[test]
    fn a_share_is_measured_over_a_second_at_least() {
        let mut meter = CpuMeter::default();
        assert_eq!(meter.percent(Instant(0)).to_bits(), 0.0_f64.to_bits());
        let mut spent = used_ticks();
        let start = spent;
        while spent < start + 2 {
            spent = used_ticks();
        }
        assert_eq!(meter.percent(Instant(999_999_999)).to_bits(), 0.0_f64.to_bits());
        assert!(meter.percent(Instant(1_000_000_000)) >= 2.0);
    }
}
