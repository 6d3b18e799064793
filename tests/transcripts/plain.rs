//! Makes texts of different runs the same: times, numbers, IDs and places.

/// What is written in place of what.
#[derive(Default)]
pub struct Plain {
    pairs: Vec<(String, String)>,
}

impl Plain {
    /// From now on `found` is written as `shown`.
    pub fn same(&mut self, found: impl Into<String>, shown: &str) {
        self.pairs.insert(0, (found.into(), shown.to_owned()));
    }

    /// A text as it is written in every run, with its tables made anew.
    pub fn of(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (found, shown) in &self.pairs {
            text = text.replace(found, shown);
        }
        let lines: Vec<String> = text.lines().map(line).collect();
        let mut text = aligned(&lines).join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// A line without what only this run has.
fn line(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word_len = rest.find(|it: char| !it.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(word_len);
        if word.is_empty() {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else if let Some((shown, len)) = moment(rest).or_else(|| duration(rest)) {
            out.push_str(shown);
            rest = &rest[len..];
        } else {
            out.push_str(match word {
                _ if word.len() == 22 => "0123456789abcdefghijkl",
                _ if word.len() == 19 && is_number(word) => "1769860800000000000",
                _ => word,
            });
            rest = behind;
        }
    }
    machine(out)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit())
}

/// A date with a time, and how long it is.
fn moment(text: &str) -> Option<(&'static str, usize)> {
    let begin = text.as_bytes().get(..19)?;
    let pattern = b"dddd-dd-dd?dd:dd:dd";
    let fits = begin.iter().zip(pattern).all(|(found, wanted)| match wanted {
        b'd' => found.is_ascii_digit(),
        b'?' => matches!(found, b' ' | b'T'),
        other => found == other,
    });
    if !fits {
        return None;
    }
    let fraction = text[19..]
        .strip_prefix('.')
        .map_or(0, |rest| 1 + rest.find(|it: char| !it.is_ascii_digit()).unwrap_or(rest.len()));
    let shown = if begin[10] == b'T' { "2026-01-31T12:00:00" } else { "2026-01-31 12:00:00" };
    Some((shown, 19 + fraction))
}

/// A number of milliseconds or seconds, and how long it is.
fn duration(text: &str) -> Option<(&'static str, usize)> {
    let len = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(len);
    let is_one = number.split('.').all(is_number);
    let ends = |rest: &str| !rest.starts_with(|it: char| it.is_ascii_alphanumeric());
    [(" ms", "1.0 ms"), ("ms", "1ms"), (" s", "1 s"), ("s", "1s")]
        .into_iter()
        .filter(|_| is_one)
        .find(|(unit, _)| rest.strip_prefix(unit).is_some_and(ends))
        .map(|(unit, shown)| (shown, len + unit.len()))
}

/// What a process needs at that moment.
fn machine(text: String) -> String {
    let Some((before, rest)) = text.split_once("  memory ") else { return text };
    let behind = rest.split_once('%').map_or("", |(_, behind)| behind);
    format!("{before}  memory 32.0 MiB  CPU 1 %{behind}")
}

/// Columns of neighbouring lines under each other: what was replaced had another length.
fn aligned(lines: &[String]) -> Vec<String> {
    let cells = |line: &String| -> Vec<String> {
        // A line of a table may begin with a mark.
        let table = line.trim_start_matches([' ', '*']);
        let indent = &line[..line.len() - table.len()];
        let words = table.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        let mut cells: Vec<String> = words.map(str::to_owned).collect();
        if let Some(first) = cells.first_mut() {
            first.insert_str(0, indent);
        }
        cells
    };
    let mut out = Vec::new();
    let mut from = 0;
    while from < lines.len() {
        let count = cells(&lines[from]).len();
        let len = lines[from..].iter().take_while(|line| cells(line).len() == count).count();
        let block: Vec<Vec<String>> = lines[from..from + len].iter().map(cells).collect();
        if count < 3 {
            out.extend_from_slice(&lines[from..from + len]);
        } else {
            let width = |column: usize| block.iter().map(|row| row[column].chars().count()).max();
            let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
            out.extend(block.iter().map(|row| {
                let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
                cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            }));
        }
        from += len;
    }
    out
}
