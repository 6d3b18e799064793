//! Local time from the machine's time zone file (TZif), without the C library

use std::env;
use std::path::PathBuf;

use crate::base::civil::{Civil, Offset};
use crate::base::files;
use crate::base::time::WallTime;

const DAY_SECONDS: i64 = 86_400;

/// Bytes of a zone file: the longest ones have a few thousand.
const FILE_LEN_MAX: u64 = 1024 * 1024;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// When the difference to UTC changes, and to what; in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Zone {
    /// Before the first change, in seconds.
    first_offset: i64,
    /// Unix seconds, and the difference from then on in seconds.
    changes: Vec<(i64, i64)>,
    /// What holds after the last change.
    rule: Option<Rule>,
}

/// The yearly rule at the end of a zone file (POSIX), all in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    standard: i64,
    summer: i64,
    begin: Turn,
    end: Turn,
}

/// A day of the year such as "the last Sunday of March", with the local time of the change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Turn {
    month: i64,
    /// 5 = the last one.
    week: i64,
    /// Sunday = 0.
    weekday: i64,
    second: i64,
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
        files::read(&path, FILE_LEN_MAX)
            .ok()
            .and_then(|bytes| Self::parse(&bytes))
            .unwrap_or_default()
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
        let footer = body.get(counts.body_len(8)..).unwrap_or_default();
        let rule = std::str::from_utf8(footer).ok().and_then(|text| Rule::parse(text.trim()));
        Some(Self { first_offset: offset(0)?, changes, rule })
    }

    fn offset(&self, seconds: i64) -> i64 {
        let is_after = self.changes.last().is_none_or(|(from, _)| *from <= seconds);
        if let Some(rule) = self.rule.as_ref().filter(|_| is_after) {
            return rule.offset(seconds);
        }
        let index = self.changes.partition_point(|(from, _)| *from <= seconds);
        match index.checked_sub(1).and_then(|index| self.changes.get(index)) {
            Some((_, offset)) => *offset,
            None => self.first_offset,
        }
    }

    /// What local time is ahead of UTC at `wall`, in seconds.
    pub(super) fn offset_at(&self, wall: WallTime) -> i64 {
        self.offset(wall.0.div_euclid(1_000_000_000))
    }

    fn civil(&self, wall: WallTime) -> (Civil, i64) {
        let seconds = wall.0.div_euclid(1_000_000_000);
        let local = seconds + self.offset(seconds);
        (Civil::at(local), wall.0.rem_euclid(1_000_000_000))
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

    /// `Jan  2 15:04:05`, as RFC 3164 has it.
    pub(super) fn short_stamp(&self, wall: WallTime) -> String {
        let (civil, _) = self.civil(wall);
        let [hour, minute, second] = civil.clock();
        let index = usize::try_from(civil.month - 1).unwrap_or_default();
        let month = MONTHS.get(index).unwrap_or(&"");
        format!("{month} {:>2} {hour:02}:{minute:02}:{second:02}", civil.day)
    }

    /// `2006-01-02T15:04:05+01:00`, as RFC 3339 has it.
    pub(super) fn full_stamp(&self, wall: WallTime) -> String {
        let (civil, _) = self.civil(wall);
        format!("{civil}{}", Offset(self.offset_at(wall)))
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

impl Rule {
    /// `CET-1CEST,M3.5.0,M10.5.0/3`; zones without summer time need no rule, and of the forms of
    /// a date only this one is in use.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let (standard, rest) = zone_offset(parts.next()?)?;
        let summer = match zone_offset(rest) {
            Some((offset, _)) => offset,
            None => standard + 3_600,
        };
        let begin = Turn::parse(parts.next()?)?;
        let end = Turn::parse(parts.next()?)?;
        Some(Self { standard, summer, begin, end })
    }

    fn offset(&self, seconds: i64) -> i64 {
        let year = Civil::at(seconds + self.standard).year;
        let begin = self.begin.seconds(year) - self.standard;
        let end = self.end.seconds(year) - self.summer;
        let is_summer = if begin < end {
            (begin..end).contains(&seconds)
        } else {
            !(end..begin).contains(&seconds)
        };
        if is_summer { self.summer } else { self.standard }
    }
}

impl Turn {
    fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.split_once('/').unwrap_or((text, "2"));
        let mut numbers = date.strip_prefix('M')?.split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let (month, week, weekday) = (next()?, next()?, next()?);
        Some(Self { month, week, weekday, second: clock(time)? })
    }

    /// In local seconds since 1970.
    fn seconds(&self, year: i64) -> i64 {
        let first = days(year, self.month);
        // 1970 began on a Thursday.
        let weekday = (first + 4).rem_euclid(7);
        let mut day = first + (self.weekday - weekday).rem_euclid(7) + (self.week - 1) * 7;
        let next = if self.month == 12 { days(year + 1, 1) } else { days(year, self.month + 1) };
        while day >= next {
            day -= 7;
        }
        day * DAY_SECONDS + self.second
    }
}

/// The name of a zone and its difference, which POSIX counts westwards; and what follows.
fn zone_offset(text: &str) -> Option<(i64, &str)> {
    let rest = match text.strip_prefix('<') {
        Some(rest) => rest.split_once('>')?.1,
        None => text.trim_start_matches(|c: char| c.is_ascii_alphabetic()),
    };
    let end = rest.find(|c: char| !matches!(c, '0'..='9' | ':' | '+' | '-')).unwrap_or(rest.len());
    let (offset, rest) = rest.split_at(end);
    Some((-clock(offset)?, rest))
}

/// `[-]h[:m[:s]]` in seconds.
fn clock(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut scale = 3_600;
    let mut seconds = 0;
    for part in digits.split(':') {
        seconds += part.parse::<i64>().ok().filter(|part| (0..=167).contains(part))? * scale;
        scale /= 60;
    }
    Some(sign * seconds)
}

/// Days from 1970 to the first of a month.
fn days(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
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
    fn stamps_for_syslog_are_those_of_its_two_forms() {
        let wall = WallTime(1_700_644_502_004_518_999);
        let zone = |first_offset| Zone { first_offset, ..Zone::utc() };
        assert_eq!(Zone::utc().short_stamp(wall), "Nov 22 09:15:02");
        assert_eq!(Zone::utc().full_stamp(wall), "2023-11-22T09:15:02Z");
        assert_eq!(zone(19_800).full_stamp(wall), "2023-11-22T14:45:02+05:30");
        assert_eq!(zone(-12_600).full_stamp(wall), "2023-11-22T05:45:02-03:30");
        assert_eq!(Zone::utc().short_stamp(WallTime(0)), "Jan  1 00:00:00");
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

    #[test]
    fn a_yearly_rule_holds_after_the_last_change() {
        let rule = Rule::parse("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        for (seconds, offset) in [
            // 2026-03-29 01:00 UTC and 2026-10-25 01:00 UTC.
            (1_774_745_999, 3_600),
            (1_774_746_000, 7_200),
            (1_792_889_999, 7_200),
            (1_792_890_000, 3_600),
        ] {
            assert_eq!(rule.offset(seconds), offset, "{seconds}");
        }
        // The southern half of the world.
        let rule = Rule::parse("AEST-10AEDT,M10.1.0,M4.1.0/3").unwrap();
        assert_eq!(rule.offset(1_767_225_600), 39_600);
        assert_eq!(rule.offset(1_782_864_000), 36_000);
        assert_eq!(Rule::parse("<+03>-3"), None);
        assert_eq!(Rule::parse(""), None);
        assert_eq!(days(1970, 1), 0);
        assert_eq!(days(2000, 3), 11_017);
    }
}
