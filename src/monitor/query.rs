//! The part of a URL behind the question mark, read as the reference reads it.

/// Decoded parameters; of several with one name the first counts.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// A parameter that is not what it must be: the whole text of the answer, with status 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadParameter(pub String);

impl Query {
    /// Takes the raw query apart. A pair that cannot be decoded is left out.
    #[must_use]
    pub fn new(raw: Option<&str>) -> Self {
        let pairs = raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        });
        Self { pairs: pairs.collect() }
    }

    /// The value of a parameter; an absent one is empty.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        let pair = self.pairs.iter().find(|(found, _)| found == name);
        pair.map_or("", |(_, value)| value)
    }

    /// A boolean; false if absent.
    ///
    /// # Errors
    /// [`BadParameter`] if it is none.
    pub fn flag(&self, name: &str) -> Result<bool, BadParameter> {
        match self.text(name) {
            "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            other => Err(bad(name, ("boolean", "ParseBool"), other, "invalid syntax")),
        }
    }

    /// A signed number; 0 if absent.
    ///
    /// # Errors
    /// [`BadParameter`] if it is none.
    pub fn int(&self, name: &str) -> Result<i64, BadParameter> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| {
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            bad(name, ("int", "Atoi"), text, reason(digits))
        })
    }

    /// A number that is not negative; 0 if absent.
    ///
    /// # Errors
    /// [`BadParameter`] if it is none.
    pub fn uint(&self, name: &str) -> Result<u64, BadParameter> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(0);
        }
        let error = || bad(name, ("uint64", "ParseUint"), text, reason(text));
        if text.starts_with('+') {
            return Err(error());
        }
        text.parse().map_err(|_| error())
    }

    /// Paging of the streaming pages: what is no number counts as absent (spec configuration, 9.5),
    /// and a number that is too large or too small as the nearest one that there is.
    #[must_use]
    pub fn lenient_page(&self) -> Page {
        Page::new(nearest(self.text("offset")), nearest(self.text("limit")))
    }

    /// Paging of the core pages.
    ///
    /// # Errors
    /// [`BadParameter`] if `offset` or `limit` is no number.
    pub fn page(&self) -> Result<Page, BadParameter> {
        Ok(Page::new(self.int("offset")?, self.int("limit")?))
    }
}

/// Entries of a page when none is asked for.
const LIMIT_DEFAULT: usize = 1_024;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Entries to leave out; may be beyond the end.
    pub offset: usize,
    /// Most entries.
    pub limit: usize,
}

impl Page {
    /// Negative offsets are 0, limits that are not positive the default.
    #[must_use]
    pub fn new(offset: i64, limit: i64) -> Self {
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        Self { offset: usize::try_from(offset).unwrap_or(0), limit: limit.unwrap_or(LIMIT_DEFAULT) }
    }

    /// The part of `all` that is on this page.
    #[must_use]
    pub fn of<'a, T>(&self, all: &'a [T]) -> &'a [T] {
        let start = self.offset.min(all.len());
        let end = start.saturating_add(self.limit).min(all.len());
        &all[start..end]
    }
}

fn bad(name: &str, (kind, function): (&str, &str), value: &str, reason: &str) -> BadParameter {
    BadParameter(format!(
        "Error decoding {kind} for '{name}': strconv.{function}: parsing \"{value}\": {reason}"
    ))
}

fn reason(digits: &str) -> &'static str {
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        "value out of range"
    } else {
        "invalid syntax"
    }
}

/// A number as the reference has it after a conversion whose error it passes over: what leaves the
/// range of 64 bits before anything else is wrong with it counts as the nearest bound.
fn nearest(text: &str) -> i64 {
    let (is_negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let mut magnitude = 0_u64;
    for byte in digits.bytes() {
        let Some(digit) = char::from(byte).to_digit(10) else { return 0 };
        let next = magnitude.checked_mul(10).and_then(|ten| ten.checked_add(digit.into()));
        let Some(next) = next else {
            return if is_negative { i64::MIN } else { i64::MAX };
        };
        magnitude = next;
    }
    match (i64::try_from(magnitude), is_negative) {
        (Ok(value), true) => -value,
        (Ok(value), false) => value,
        (Err(_), true) => i64::MIN,
        (Err(_), false) => i64::MAX,
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &after[2..];
            }
            other => bytes.push(*other),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(raw: &str, read: fn(&Query) -> Result<u64, BadParameter>) -> String {
        read(&Query::new(Some(raw))).map_or_else(|error| error.0, |value| value.to_string())
    }

    #[test]
    fn bad_values_are_refused_in_the_words_of_the_reference() {
        let flag = |query: &Query| query.flag("auth").map(u64::from);
        let int = |query: &Query| query.int("limit").map(i64::unsigned_abs);
        let uint = |query: &Query| query.uint("cid");
        assert_eq!(
            error("auth=xx", flag),
            "Error decoding boolean for 'auth': strconv.ParseBool: parsing \"xx\": invalid syntax"
        );
        assert_eq!(
            error("limit=a", int),
            "Error decoding int for 'limit': strconv.Atoi: parsing \"a\": invalid syntax"
        );
        assert_eq!(
            error("limit=99999999999999999999", int),
            "Error decoding int for 'limit': strconv.Atoi: parsing \"99999999999999999999\": \
             value out of range"
        );
        assert_eq!(
            error("cid=-1", uint),
            "Error decoding uint64 for 'cid': strconv.ParseUint: parsing \"-1\": invalid syntax"
        );
        assert_eq!(error("cid=7&cid=8", uint), "7");
        assert_eq!(error("auth=True", flag), "1");
        assert_eq!(error("", int), "0");
    }

    /// The values are those of `strconv.Atoi` beside its error.
    #[test]
    fn what_is_beyond_64_bits_counts_as_the_nearest_number_on_the_streaming_pages() {
        const MAX: usize = usize::MAX / 2;
        for (limit, expected) in [
            ("99999999999999999999", MAX),
            ("%2B99999999999999999999", MAX),
            ("9223372036854775808", MAX),
            ("9223372036854775807", MAX),
            ("9223372036854775806", MAX - 1),
            ("-99999999999999999999", LIMIT_DEFAULT),
            ("18446744073709551616x", MAX),
            ("9223372036854775808x", LIMIT_DEFAULT),
            ("0000000000000000000000000007", 7),
            ("7_0", LIMIT_DEFAULT),
            ("%2B", LIMIT_DEFAULT),
            ("0x7", LIMIT_DEFAULT),
        ] {
            let found = Query::new(Some(&format!("limit={limit}&offset={limit}"))).lenient_page();
            assert_eq!(found.limit, expected, "{limit}");
            let offset = if expected == LIMIT_DEFAULT { 0 } else { expected };
            assert_eq!(found.offset, offset, "{limit}");
        }
    }

    #[test]
    fn names_and_values_are_decoded() {
        let query = Query::new(Some("channel=a%2eb+c&x&broken=%zz"));
        assert_eq!(query.text("channel"), "a.b c");
        assert_eq!(query.text("x"), "");
        assert_eq!(query.text("broken"), "");
    }

    #[test]
    fn pages_never_reach_beyond_the_end() {
        let all = [1, 2, 3, 4, 5];
        for (offset, limit, expected) in [
            (0, 0, &all[..]),
            (-1, 2, &all[..2]),
            (3, 9, &all[3..]),
            (9, 1, &[]),
            (1, -1, &all[1..]),
        ] {
            assert_eq!(Page::new(offset, limit).of(&all), expected);
        }
        assert_eq!(Query::new(Some("limit=x&offset=9")).lenient_page(), Page::new(9, 0));
    }
}
