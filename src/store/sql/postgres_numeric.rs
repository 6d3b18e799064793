//! Whole numbers in columns of PostgreSQL's type `numeric`, as somebody may have altered them.
//!
//! Sums of `bigint` are of this type too. On the wire it is the count of digits to the base 10,000,
//! the weight of the first one, a sign, the count of decimals, and then the digits.

/// Base of a digit.
const BASE: i128 = 10_000;
/// Length of what is before the digits.
const HEAD_LEN: usize = 8;
const NEGATIVE: u16 = 0x4000;

/// The number in `raw`; `None` if it is no whole one, or none of 64 bits.
pub(super) fn decode(raw: &[u8]) -> Option<i64> {
    let (head, digits) = raw.split_at_checked(HEAD_LEN)?;
    let weight = i16::from_be_bytes([head[2], head[3]]);
    let is_negative = match u16::from_be_bytes([head[4], head[5]]) {
        0 => false,
        NEGATIVE => true,
        _ => return None,
    };
    let mut number = 0_i128;
    let mut places_left = i32::from(weight) + 1;
    for digit in digits.chunks_exact(2) {
        let digit = i128::from(u16::from_be_bytes([digit[0], digit[1]]));
        if places_left > 0 {
            number = number.checked_mul(BASE)?.checked_add(digit)?;
        } else if digit != 0 {
            return None;
        }
        places_left -= 1;
    }
    // Zeros at the end are left out.
    for _ in 0..places_left {
        if number == 0 {
            break;
        }
        number = number.checked_mul(BASE)?;
    }
    i64::try_from(if is_negative { -number } else { number }).ok()
}

/// `number` as it is bound to such a column.
pub(super) fn encode(number: i64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = i128::from(number).abs();
    while rest > 0 {
        digits.push(u16::try_from(rest % BASE).unwrap_or(0));
        rest /= BASE;
    }
    let count = u16::try_from(digits.len()).unwrap_or(0);
    let sign = if number < 0 { NEGATIVE } else { 0 };
    let head = [count, count.saturating_sub(1), sign, 0];
    head.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server sends for `4400`, `120000000`, `0.000`, `1.5`, `-7` and `NaN`.
    #[test]
    fn numbers_are_read_as_the_server_sends_them() {
        for (raw, expected) in [
            (&[0, 1, 0, 0, 0, 0, 0, 0, 0x11, 0x30][..], Some(4_400)),
            (&[0, 2, 0, 2, 0, 0, 0, 0, 0, 1, 0x07, 0xd0], Some(120_000_000)),
            (&[0, 0, 0, 0, 0, 0, 0, 3], Some(0)),
            (&[0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 0x13, 0x88], None),
            (&[0, 1, 0, 0, 0x40, 0, 0, 0, 0, 7], Some(-7)),
            (&[0, 0, 0, 0, 0xc0, 0, 0, 0], None),
            (&[0, 0], None),
        ] {
            assert_eq!(decode(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for number in [0, 1, -1, 9_999, 10_000, 123_456_789_012, i64::MAX, i64::MIN] {
            assert_eq!(decode(&encode(number)), Some(number));
        }
        assert_eq!(encode(4_400), [0, 1, 0, 0, 0, 0, 0, 0, 0x11, 0x30]);
    }
}
