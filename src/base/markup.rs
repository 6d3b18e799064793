//! Texts in documents that are marked up: HTML and XML.

/// A text between tags or in an attribute, whatever is in it.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            // Compat: by its number, as Go pages have it.
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(letter),
            // XML has no such letters at all.
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}');
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_a_tag_or_ends_an_attribute() {
        let text = escaped("<a href='x'>\"&\"</a>\n\u{1b}é");
        assert_eq!(text, "&lt;a href=&#39;x&#39;&gt;&#34;&amp;&#34;&lt;/a&gt;\n\u{fffd}é");
    }
}
