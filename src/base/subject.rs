//! What a legal subject is: tokens, wildcards, literal match.

/// Whether `channel` is a legal literal channel name (spec protocol, 16.1).
#[must_use]
pub fn is_channel_name(channel: &[u8]) -> bool {
    !channel.is_empty()
        && !channel.iter().any(|byte| matches!(byte, b'/' | b'*' | b'>'))
        && channel.split(|byte| *byte == b'.').all(|token| !token.is_empty())
}

/// Whether `pattern` is a channel name in which whole tokens may be `*`, and the last `>`.
#[must_use]
pub fn is_channel_pattern(pattern: &[u8]) -> bool {
    if pattern.is_empty() || pattern.contains(&b'/') {
        return false;
    }
    let token_count = pattern.split(|byte| *byte == b'.').count();
    pattern.split(|byte| *byte == b'.').enumerate().all(|(index, token)| match token {
        b"" => false,
        b"*" => true,
        b">" => index + 1 == token_count,
        other => !other.iter().any(|byte| matches!(byte, b'*' | b'>')),
    })
}

/// Whether `subject` is legal without wildcards: no empty token, no blank, no control byte.
///
/// `*` and `>` are ordinary bytes inside a longer token (spec core NATS, 3.1).
#[must_use]
pub fn is_literal(subject: &[u8]) -> bool {
    // Pedantic clients ask for this with each message; nearly all subjects are words and dots.
    if in_words(subject, |word| two_dots(word) | blanks(word) | is(word, b'*') | is(word, b'>')) {
        return is_valid(subject) && !has_wildcard(subject);
    }
    !has_open_end(subject)
}

/// Whether there is nothing between two dots, before the first or behind the last.
#[must_use]
pub fn has_empty_token(subject: &[u8]) -> bool {
    in_words(subject, two_dots) || has_open_end(subject)
}

/// Whether its first or last token is empty.
fn has_open_end(subject: &[u8]) -> bool {
    subject.first().is_none_or(|byte| *byte == b'.') || subject.last() == Some(&b'.')
}

/// A one in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each byte: what is found is marked there.
const MARKS: u64 = ONES << 7;

/// Whether `find` marks anything in a subject, which it sees in words of eight bytes. They overlap,
/// so that each pair of bytes is in one of them; a short subject is filled up with letters.
fn in_words(subject: &[u8], find: impl Fn(u64) -> u64) -> bool {
    let Some(last) = subject.last_chunk::<8>() else {
        let mut word = [b'x'; 8];
        word[..subject.len()].copy_from_slice(subject);
        return find(u64::from_le_bytes(word)) != 0;
    };
    // Without an early end: that is quicker for subjects of the usual length.
    let mut found = find(u64::from_le_bytes(*last));
    let mut rest = subject;
    while let Some(word) = rest.first_chunk::<8>() {
        found |= find(u64::from_le_bytes(*word));
        rest = &rest[7..];
    }
    found != 0
}

/// Marks the bytes of `word` that are `byte`. No byte carries into the next one.
fn is(word: u64, byte: u8) -> u64 {
    let other = word ^ (ONES * u64::from(byte));
    !(((other & !MARKS) + !MARKS) | other) & MARKS
}

/// Marks blanks and control bytes.
fn blanks(word: u64) -> u64 {
    !(((word & !MARKS) + ONES * u64::from(0x7F - b' ')) | word) & MARKS
}

/// Marks dots behind dots.
fn two_dots(word: u64) -> u64 {
    let dots = is(word, b'.');
    dots & (dots << 8)
}

/// Whether `subject` is legal as a subscription: tokens are not empty, `>` is only the last one.
#[must_use]
pub fn is_valid(subject: &[u8]) -> bool {
    if subject.is_empty() {
        return false;
    }
    let mut full_wildcard_seen = false;
    subject.split(|byte| *byte == b'.').all(|token| {
        let legal = !token.is_empty()
            && !full_wildcard_seen
            && !token.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c));
        full_wildcard_seen = token == b">";
        legal
    })
}

/// Whether `subject` can stand in a line of the protocol, whoever may listen to it.
#[must_use]
pub fn fits_a_line(subject: &[u8]) -> bool {
    !subject.is_empty()
        && !subject.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c))
}

/// Whether one of its tokens is `*` or `>`.
#[must_use]
pub fn has_wildcard(subject: &[u8]) -> bool {
    subject.split(|byte| *byte == b'.').any(|token| matches!(token, b"*" | b">"))
}

/// Whether `pattern`, which may have wildcards, matches the literal `subject`.
#[must_use]
pub fn matches(pattern: &[u8], subject: &[u8]) -> bool {
    let mut subject_tokens = subject.split(|byte| *byte == b'.');
    for token in pattern.split(|byte| *byte == b'.') {
        match (token, subject_tokens.next()) {
            (b">", Some(_)) => return true,
            (_, None) => return false,
            (b"*", Some(_)) => (),
            (literal, Some(found)) if literal == found => (),
            (_, Some(_)) => return false,
        }
    }
    subject_tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_are_literal_tokens_without_slashes() {
        for legal in ["foo", "foo.bar", "a b", "foo\\"] {
            assert!(is_channel_name(legal.as_bytes()), "{legal}");
        }
        for illegal in ["", ".", "..", "foo.", ".foo", "foo..bar", "a/b", "foo.*", "foo.>", "f*"] {
            assert!(!is_channel_name(illegal.as_bytes()), "{illegal}");
        }
    }

    #[test]
    fn patterns_take_wildcards_as_whole_tokens() {
        for legal in ["foo", "*", ">", "foo.*.bar", "foo.>"] {
            assert!(is_channel_pattern(legal.as_bytes()), "{legal}");
        }
        for illegal in ["foo.>.bar", "foo*", "foo.b>", "foo.", "a/*"] {
            assert!(!is_channel_pattern(illegal.as_bytes()), "{illegal}");
        }
    }

    #[test]
    fn literal_subjects_are_valid_ones_without_wildcards() {
        let alphabet = [b'.', b'*', b'>', b'a', b' '];
        for len in 0..=6_u32 {
            for number in 0..alphabet.len().pow(len) {
                let digit = |place| number / alphabet.len().pow(place) % alphabet.len();
                let subject: Vec<u8> = (0..len).map(|place| alphabet[digit(place)]).collect();
                let expected = is_valid(&subject) && !has_wildcard(&subject);
                assert_eq!(is_literal(&subject), expected, "{}", subject.escape_ascii());
            }
        }
    }

    #[test]
    fn no_byte_hides_in_a_long_subject() {
        let odd = b"..*> \t\x01/-a\x80\xae\xff";
        for len in 1..=24 {
            let pairs = (0..len).flat_map(|one| (one..len).map(move |other| (one, other)));
            for (one, other) in pairs {
                for (first, second) in odd.iter().flat_map(|a| odd.iter().map(move |b| (a, b))) {
                    let mut subject = vec![b'x'; len];
                    (subject[one], subject[other]) = (*first, *second);
                    let expected = is_valid(&subject) && !has_wildcard(&subject);
                    assert_eq!(is_literal(&subject), expected, "{}", subject.escape_ascii());
                    let has_empty = subject.split(|byte| *byte == b'.').any(<[u8]>::is_empty);
                    assert_eq!(has_empty_token(&subject), has_empty, "{}", subject.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn wildcards_match_whole_tokens() {
        for (pattern, subject, expected) in [
            ("foo", "foo", true),
            ("foo.*", "foo.bar", true),
            ("foo.*", "foo.bar.baz", false),
            ("foo.>", "foo.bar.baz", true),
            ("foo.>", "foo", false),
            ("*.bar", "foo.bar", true),
            ("foo", "foo.bar", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), subject.as_bytes()), expected, "{pattern}");
        }
    }
}
