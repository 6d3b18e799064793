//! Tables for people.

use super::connection::printable;

/// Columns as wide as they have to be; the last one as it is.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let padded = |(cell, width): (&String, &usize)| {
            let missing = width.saturating_sub(cell.chars().count());
            format!("{cell}{}", " ".repeat(missing))
        };
        let cells = row.iter().zip(&widths).map(padded);
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A table with a head, of cells that may hold what clients have named.
#[must_use]
pub fn listed<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let head = head.map(str::to_owned).to_vec();
    let rows = rows.map(|row| row.map(|cell| printable(&cell)).to_vec());
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wider than what a width in a format can be.
    #[test]
    fn cells_may_have_any_length() {
        let long = "y".repeat(70_000);
        let rows = [vec![long.clone(), "b".to_owned()], vec!["a".to_owned(), "b".to_owned()]];
        let text = table(&rows);
        assert!(text.starts_with(&format!("{long}  b\na")), "the first column is padded");
        assert_eq!(text.len(), 2 * (70_000 + 4));
    }
}
