//! What a program writes, in a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::base::files::{self, Access, Links};

/// Opens a log for both outputs of a program; what is in it stays.
///
/// # Errors
/// What the system says.
pub(crate) fn open(path: &Path) -> io::Result<(File, File)> {
    let out = files::open(path, Access::Append(0o600), Links::Refused)?;
    let err = out.try_clone()?;
    Ok((out, err))
}

/// The last lines of a log, as far as they are within so many bytes of its end; nothing where it
/// cannot be read.
pub(crate) fn tail(path: &Path, lines: usize, len_max: u64) -> Vec<String> {
    let bytes = end_of(path, len_max).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let skipped = text.lines().count().saturating_sub(lines);
    text.lines().skip(skipped).map(str::to_owned).collect()
}

fn end_of(path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
    let mut file = files::open(path, Access::Read, Links::Refused)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(len_max)))?;
    let mut bytes = Vec::new();
    file.take(len_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_end_of_a_log_is_found_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(tail(&path, 3, 100).is_empty());
        let (mut out, mut err) = open(&path).unwrap();
        writeln!(out, "{}", "x".repeat(3 << 20)).unwrap();
        writeln!(err, "one\ntwo").unwrap();
        assert_eq!(tail(&path, 2, 100), ["one", "two"]);
        assert_eq!(tail(&path, 9, 8), ["one", "two"]);
        assert_eq!(tail(&path, 9, 6), ["e", "two"]);
        writeln!(out, "three").unwrap();
        assert_eq!(tail(&path, 1, 100), ["three"]);
    }
}
