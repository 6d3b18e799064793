//! Files that are set aside in a store's directory, for when it takes no new one.
//!
//! A disk can be full in two ways: no byte is left, or no file can be made. Each of these files has
//! an inode and a block, and gets the name of what cannot be created. Giving a name, other than
//! removing a file and creating another, leaves nothing that a neighbour could take in between.
//! Who takes over needs one for its epoch (`site`), who serves some for its records (`store`).

use std::io;

/// How many there are.
pub const FILE_COUNT: u8 = 32;
/// Bytes set aside in each: a block.
pub const FILE_BYTES: u64 = 4_096;

const PREFIX: &str = ".stanby.reserve.";

/// The name of one.
#[must_use]
pub fn file_name(number: u8) -> String {
    format!("{PREFIX}{number}")
}

/// Which one has that name.
#[must_use]
pub fn file_number(name: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
    let number = text.parse().ok().filter(|number| *number < FILE_COUNT)?;
    (file_name(number).as_bytes() == name).then_some(number)
}

/// Whether the disk, or a quota, has no room for another file, name or byte.
#[must_use]
pub fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull, TooManyLinks};
    matches!(error.kind(), StorageFull | QuotaExceeded | TooManyLinks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_number_and_no_other_name_does() {
        for number in 0..FILE_COUNT {
            assert_eq!(file_number(file_name(number).as_bytes()), Some(number));
        }
        for name in [".stanby.reserve", ".stanby.reserve.", ".stanby.reserve.32", "reserve.1"] {
            assert_eq!(file_number(name.as_bytes()), None, "{name}");
        }
        assert_eq!(file_number(b".stanby.reserve.01"), None);
    }
}
