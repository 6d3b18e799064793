//! The files of an SQLite database, which must stay under their names while they are open.
//!
//! SQLite goes on writing into files that somebody has removed or replaced, and says that all is
//! well; whoever opens the database next finds none of it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Beside the database itself: what is not in it yet, and who reads what of that.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// Device and inode.
type Identity = (u64, u64);

/// The files of one connection, as they were when it was opened.
pub(super) struct Files {
    known: Vec<(PathBuf, Option<Identity>)>,
}

impl Files {
    /// Those of the database at `path`, to be called before it is opened.
    pub(super) fn of(path: &Path) -> Self {
        let beside = BESIDE.iter().map(|suffix| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            (PathBuf::from(name), None)
        });
        let mut known = vec![(path.to_owned(), None)];
        known.extend(beside);
        Self { known }
    }

    /// Forgets what lay beside the database before it was opened: whoever closes the last
    /// connection removes that, and the next one makes it anew.
    pub(super) fn forget_beside(&mut self) {
        self.known.iter_mut().skip(1).for_each(|(_, known)| *known = None);
    }

    /// Sees that each file is the one that was first found under its name; one that was not there
    /// before is remembered. The first that is not, if any.
    pub(super) fn find_changed(&mut self) -> Option<&Path> {
        let changed = self.known.iter_mut().find_map(|(path, known)| {
            let found = match fs::metadata(&*path) {
                Ok(found) => Some((found.dev(), found.ino())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                // What cannot be looked at now was not found to be another.
                Err(_) => return None,
            };
            if known.is_none() {
                *known = found;
            }
            (*known != found).then_some(path)
        });
        changed.map(|path| path.as_path())
    }
}
