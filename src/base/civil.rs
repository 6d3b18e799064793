//! Dates of Unix seconds, and how RFC 3339 writes them.

use std::fmt;

const DAY_SECONDS: i64 = 86_400;

/// A moment as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year.
    pub year: i64,
    /// Month, from 1.
    pub month: i64,
    /// Day of the month, from 1.
    pub day: i64,
    second_of_day: i64,
}

impl Civil {
    /// The Gregorian date of Unix seconds. The calendar repeats every 400 years (146,097 days), and
    /// with March as the first month the leap day is the last of its year.
    #[must_use]
    pub fn at(seconds: i64) -> Self {
        let day_count = seconds.div_euclid(DAY_SECONDS) + 719_468;
        let era = day_count.div_euclid(146_097);
        let day_of_era = day_count.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_index + 2) / 5 + 1,
            second_of_day: seconds.rem_euclid(DAY_SECONDS),
        }
    }

    /// Hour, minute and second.
    #[must_use]
    pub fn clock(&self) -> [i64; 3] {
        let second = self.second_of_day;
        [second / 3_600, second / 60 % 60, second % 60]
    }
}

impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { year, month, day, .. }, [hour, minute, second]) = (self, self.clock());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// What local time is ahead of UTC, in seconds; written behind a [`Civil`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(pub i64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0 / 60;
        if minutes == 0 {
            return f.write_str("Z");
        }
        let sign = if minutes < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
    }
}
