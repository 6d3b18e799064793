//! Cuts what is no record at the end of a file, and keeps what was cut.

use crate::store::file::disk::DiskFile;
use crate::store::file::format::cut_name;
use crate::store::file::log::{io_error, path_below, read_range};
use crate::store::file::removal::Place;
use crate::store::file::repair::Ending;
use crate::store::file::reserve::Spare;
use crate::store::{Action, StoreError};

/// Cuts what is no record at the end of a file of records with kinds; gives the line for the
/// operator and the length.
///
/// # Errors
/// [`StoreError::Io`].
pub fn cut_typed(
    place: Place<'_>,
    spare: Spare<'_>,
    (file, name, ending, len): (&dyn DiskFile, &[u8], &Ending, u64),
) -> Result<(Option<String>, u64), StoreError> {
    let path = path_below(place.path, b"", name);
    match ending {
        Ending::Whole => Ok((None, len)),
        Ending::Zeros(at) => {
            let end = u64::try_from(*at).unwrap_or(len);
            truncate(place, (file, name), end)?;
            Ok((None, end))
        }
        Ending::Torn(at) | Ending::Hole(at) => {
            let end = u64::try_from(*at).unwrap_or(len);
            cut(place, spare, (file, name, end, len))?;
            let text = format!(
                "Unexpected EOF for file \"{0}\". File \"{0}\" has been truncated to offset: \
                 {end}. The {1} bytes behind it are kept in \"{2}\"; the record had not been \
                 answered for unless the disk lost it afterwards",
                path.display(),
                len - end,
                String::from_utf8_lossy(&cut_name(place.fence.epoch().0, name, end)),
            );
            Ok((Some(text), end))
        }
    }
}

/// Cuts a file and keeps what was cut, unless it is only zeros; true if it was kept.
///
/// # Errors
/// [`StoreError::Io`]; then the file is as it was.
pub fn cut(
    place: Place<'_>,
    spare: Spare<'_>,
    (file, name, end, len): (&dyn DiskFile, &[u8], u64, u64),
) -> Result<bool, StoreError> {
    let path = path_below(place.path, b"", name);
    let tail_len = usize::try_from(len - end).unwrap_or(usize::MAX);
    let tail = read_range(file, end, tail_len, &path)?;
    let is_kept = tail.iter().any(|byte| *byte != 0);
    if is_kept {
        let kept_name = cut_name(place.fence.epoch().0, name, end);
        let kept_path = path_below(place.path, b"", &kept_name);
        let kept = spare.make(place.folder, &kept_name, &tail);
        kept.map_err(|source| io_error(Action::Append, &kept_path, source))?;
    }
    truncate(place, (file, name), end)?;
    Ok(is_kept)
}

/// Cuts a file, and makes that durable. The fence is asked after the file was opened and read: so
/// it is not one that a successor writes, whose end may be half of what it is writing now.
///
/// # Errors
/// [`StoreError::Io`] in the reference's words, [`StoreError::Fenced`].
pub fn truncate(
    place: Place<'_>,
    (file, name): (&dyn DiskFile, &[u8]),
    len: u64,
) -> Result<(), StoreError> {
    place.fence.check()?;
    let path = path_below(place.path, b"", name);
    // What is shorter by now is somebody else's, and must not be made longer.
    let cut = || if len < file.size()? { file.truncate(len) } else { Ok(()) };
    cut().and_then(|()| file.sync()).map_err(|source| StoreError::Io {
        action: Action::Replace,
        path: path.clone(),
        text: format!(
            "unable to repair file \"{}\" by truncating at offset {len}: {source}",
            path.display()
        ),
        source,
    })
}
