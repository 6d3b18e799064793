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
    let is_odd = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c | b'*' | b'>');
    if subject.iter().fold(false, |found, byte| found | is_odd(byte)) {
        return is_valid(subject) && !has_wildcard(subject);
    }
    !has_empty_token(subject)
}

/// Whether there is nothing between two dots, before the first or behind the last.
#[must_use]
pub fn has_empty_token(subject: &[u8]) -> bool {
    // Without an early end: that is quicker than a search for subjects of the usual length.
    let has_two_dots = subject.windows(2).fold(false, |found, pair| found | (pair == b".."));
    has_two_dots
        || subject.first().is_none_or(|byte| *byte == b'.')
        || subject.last() == Some(&b'.')
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
