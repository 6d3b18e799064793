//! Local time from the machine's time zone file (TZif), without the C library

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::base::time::WallTime;

const DAY_SECONDS: i64 = 86_400;

/// When the difference to UTC changes, and to what; in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Zone {
    /// Before the first change, in seconds.
    first_offset: i64,
    /// Unix seconds, and the difference from then on in seconds.
    changes: Vec<(i64, i64)>,
}

/// A moment as people write it.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
}

impl Zone {
    /// No difference.
    pub(super) fn utc() -> Self {
        Self::default()
    }

    /// The machine's zone; UTC if it has none that can be read.
    pub(super) fn local() -> Self {
        let path = match env::var("TZ") {
            Ok(name) if name.is_empty() || name == "UTC" => return Self::utc(),
            Ok(name) => PathBuf::from("/usr/share/zoneinfo").join(name.trim_start_matches(':')),
            Err(_) => PathBuf::from("/etc/localtime"),
        };
        fs::read(path).ok().and_then(|bytes| Self::parse(&bytes)).unwrap_or_default()
    }

    /// The second, 64-bit block of a TZif file (RFC 8536).
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (counts, _) = header(bytes)?;
        let first_len = 44 + counts.body_len(4);
        let bytes = bytes.get(first_len..)?;
        let (counts, body) = header(bytes)?;
        let times = body.get(..counts.times * 8)?;
        let kinds = body.get(counts.times * 8..counts.times * 9)?;
        let types = body.get(counts.times * 9..counts.times * 9 + counts.types * 6)?;
        let offset = |kind: usize| -> Option<i64> {
            let bytes = types.get(kind * 6..kind * 6 + 4)?;
            Some(i64::from(i32::from_be_bytes(bytes.try_into().ok()?)))
        };
        let changes = times
            .chunks_exact(8)
            .zip(kinds)
            .map(|(time, kind)| {
                let time = i64::from_be_bytes(time.try_into().ok()?);
                Some((time, offset(usize::from(*kind))?))
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self { first_offset: offset(0)?, changes })
    }

    fn offset(&self, seconds: i64) -> i64 {
        let index = self.changes.partition_point(|(from, _)| *from <= seconds);
        match index.checked_sub(1).and_then(|index| self.changes.get(index)) {
            Some((_, offset)) => *offset,
            None => self.first_offset,
        }
    }

    fn civil(&self, wall: WallTime) -> (Civil, i64) {
        let seconds = wall.0.div_euclid(1_000_000_000);
        let local = seconds + self.offset(seconds);
        (civil(local), wall.0.rem_euclid(1_000_000_000))
    }

    /// Date and time of a log line.
    pub(super) fn stamp(&self, wall: WallTime) -> String {
        let (civil, nanos) = self.civil(wall);
        let [hour, minute, second] = civil.clock();
        format!(
            "{:04}/{:02}/{:02} {hour:02}:{minute:02}:{second:02}.{:06}",
            civil.year,
            civil.month,
            civil.day,
            nanos / 1_000
        )
    }

    /// Date and time in the name of a rotated file.
    pub(super) fn suffix(&self, wall: WallTime) -> String {
        let (civil, nanos) = self.civil(wall);
        let [hour, minute, second] = civil.clock();
        format!(
            "{:04}.{:02}.{:02}.{hour:02}.{minute:02}.{second:02}.{nanos:09}",
            civil.year, civil.month, civil.day
        )
    }
}

impl Civil {
    fn clock(&self) -> [i64; 3] {
        let second = self.second_of_day;
        [second / 3_600, second / 60 % 60, second % 60]
    }
}

struct Counts {
    is_utc: usize,
    is_std: usize,
    leaps: usize,
    times: usize,
    types: usize,
    chars: usize,
}

impl Counts {
    fn body_len(&self, time_len: usize) -> usize {
        self.times * (time_len + 1)
            + self.types * 6
            + self.chars
            + self.leaps * (time_len + 4)
            + self.is_std
            + self.is_utc
    }
}

fn header(bytes: &[u8]) -> Option<(Counts, &[u8])> {
    let (head, body) = bytes.split_at_checked(44)?;
    if !head.starts_with(b"TZif") {
        return None;
    }
    let count = |index: usize| -> Option<usize> {
        let bytes = head.get(20 + index * 4..24 + index * 4)?;
        usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
    };
    let counts = Counts {
        is_utc: count(0)?,
        is_std: count(1)?,
        leaps: count(2)?,
        times: count(3)?,
        types: count(4)?,
        chars: count(5)?,
    };
    Some((counts, body))
}

/// The Gregorian date of Unix seconds; years of the algorithm begin in March.
fn civil(seconds: i64) -> Civil {
    let day_count = seconds.div_euclid(DAY_SECONDS) + 719_468;
    let era = day_count.div_euclid(146_097);
    let day_of_era = day_count.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * month_index + 2) / 5 + 1,
        second_of_day: seconds.rem_euclid(DAY_SECONDS),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn stamps_are_dates_to_the_microsecond() {
        for (seconds, text) in [
            (0, "1970/01/01 00:00:00"),
            (951_782_400, "2000/02/29 00:00:00"),
            (1_700_644_502, "2023/11/22 09:15:02"),
            (4_107_542_399, "2100/02/28 23:59:59"),
            (4_107_542_400, "2100/03/01 00:00:00"),
        ] {
            let wall = WallTime(seconds * 1_000_000_000 + 4_518_999);
            assert_eq!(Zone::utc().stamp(wall), format!("{text}.004518"));
        }
        let wall = WallTime(1_700_644_502_004_518_999);
        assert_eq!(Zone::utc().suffix(wall), "2023.11.22.09.15.02.004518999");
    }

    #[test]
    fn a_zone_file_says_when_the_difference_changes() {
        let mut block = b"TZif2".to_vec();
        block.resize(20, 0);
        let mut file = block.clone();
        file.resize(44, 0);
        for count in [0_u32, 0, 0, 2, 2, 0] {
            block.extend(count.to_be_bytes());
        }
        file.extend(block);
        file.extend(1_000_i64.to_be_bytes());
        file.extend(2_000_i64.to_be_bytes());
        file.extend([1, 0]);
        for offset in [3_600_i32, 7_200] {
            file.extend(offset.to_be_bytes());
            file.extend([0, 0]);
        }
        let zone = Zone::parse(&file).unwrap();
        assert_eq!(
            [999, 1_000, 1_999, 2_000].map(|at| zone.offset(at)),
            [3_600, 7_200, 7_200, 3_600]
        );
        assert_eq!(Zone::parse(&file[..60]), None);
        assert_eq!(Zone::parse(b"nonsense"), None);
    }
}
