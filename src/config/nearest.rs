//! The known word that somebody may have meant who wrote an unknown one

/// Longer words are no typing errors, and would only cost time.
const WORD_CHARS_MAX: usize = 64;

/// Of `known`, the word that takes the fewest typing errors to become `word`; none if that are
/// more than somebody makes. Case, dashes and underscores do not count.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = letters(word);
    if word.is_empty() || word.len() > WORD_CHARS_MAX {
        return None;
    }
    let errors_max = match word.len() {
        1 => 0,
        2 | 3 => 1,
        len => 2.max(len / 3),
    };
    let errors = |name: &str| {
        let name = letters(name);
        let is_short_form =
            name.len().min(word.len()) >= 3 && (name.starts_with(&word) || word.starts_with(&name));
        let errors = typing_errors(&word, &name);
        if is_short_form { errors.min(errors_max) } else { errors }
    };
    let best = known.into_iter().map(|name| (errors(name), name)).min_by_key(|(errors, _)| *errors);
    best.filter(|(errors, _)| *errors <= errors_max).map(|(_, name)| name)
}

fn letters(word: &str) -> Vec<char> {
    let letters = word.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase);
    letters.take(WORD_CHARS_MAX + 1).collect()
}

/// Characters that are missing, too many, wrong, or swapped with their neighbour.
fn typing_errors(word: &[char], name: &[char]) -> usize {
    // Row by row: errors from the first i characters of one to the first j of the other.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=name.len()).collect();
    for (i, c) in word.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, d) in name.iter().enumerate() {
            let mut errors = (last[j] + usize::from(c != d)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && word[i - 1] == *d && *c == name[j - 1] {
                errors = errors.min(before[j - 1] + 1);
            }
            row.push(errors);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 8] =
        ["store", "dir", "cluster_id", "store_limits", "hb_interval", "max_age", "mc", "mm"];

    #[test]
    fn the_nearest_word_is_found_by_typing_errors() {
        for (word, expected) in [
            ("stor", Some("store")),
            ("sotre", Some("store")),
            ("STORES", Some("store")),
            ("clusterid", Some("cluster_id")),
            ("dri", Some("dir")),
            ("directory", Some("dir")),
            ("hb_intervall", Some("hb_interval")),
            ("maxage", Some("max_age")),
            ("store_limit", Some("store_limits")),
            ("md", Some("mc")),
            ("password", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, KNOWN), expected, "{word}");
        }
        assert_eq!(nearest(&"store".repeat(100_000), KNOWN), None);
    }
}
