//! how a file is replaced: whole and synced under a name of its own, then in one step

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Change, MendError, Mender, entries};
use crate::base::files::{self, Access, Links};

/// As the store makes its files.
const FILE_MODE: u32 = 0o600;

/// A part of a new file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// These bytes of a file that is there.
    Of {
        /// Which.
        path: PathBuf,
        /// From here on.
        from: u64,
        /// Up to here.
        to: u64,
    },
    /// These bytes.
    New(Vec<u8>),
}

impl Piece {
    /// Takes in the piece behind it, if it goes on where this one ends.
    pub fn join(&mut self, behind: Self) -> Option<Self> {
        match (self, behind) {
            (Self::Of { path, to, .. }, Self::Of { path: next, from, to: end })
                if *path == next && *to == from =>
            {
                *to = end;
                None
            }
            (Self::New(bytes), Self::New(more)) => {
                bytes.extend(more);
                None
            }
            (_, behind) => Some(behind),
        }
    }
}

/// Adds a piece behind others.
pub(super) fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    let rest = match pieces.last_mut() {
        Some(last) => last.join(piece),
        None => Some(piece),
    };
    pieces.extend(rest);
}

/// Changes files, and keeps account of it.
pub(super) struct Hand<'m, 'a> {
    root: PathBuf,
    mender: &'m mut Mender<'a>,
    changes: Vec<Change>,
}

impl<'m, 'a> Hand<'m, 'a> {
    pub fn new(root: &Path, mender: &'m mut Mender<'a>) -> Self {
        Self { root: root.to_owned(), mender, changes: Vec::new() }
    }

    pub fn changes(self) -> Vec<Change> {
        self.changes
    }

    pub fn say(&mut self, path: &Path) {
        (self.mender.say)(&path.display().to_string());
    }

    pub fn note(&mut self, path: &Path, what: String, means: &'static str) {
        let file = path.strip_prefix(&self.root).unwrap_or(path).to_owned();
        self.changes.push(Change { file, what, means });
    }

    pub fn exists(&self, path: &Path) -> Result<bool, MendError> {
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(path)(error)),
        }
    }

    pub fn listed(&self, folder: &Path) -> Result<Vec<PathBuf>, MendError> {
        entries(folder).map_err(failed(folder))
    }

    /// Puts a file away under a name that both servers pass over.
    pub fn take_away(
        &mut self,
        path: &Path,
        what: &str,
        means: &'static str,
    ) -> Result<(), MendError> {
        self.check()?;
        let kept = self.kept(path)?;
        fs::rename(path, &kept).and_then(|()| sync_folder_of(path)).map_err(failed(path))?;
        let what = format!("{what}; it is kept as {}", name_of(&kept));
        self.note(path, what, means);
        Ok(())
    }

    /// Puts a file made of `pieces` in the place of the one at `path`, which is kept; without one
    /// there it is just made. Says under which name the old one is kept.
    pub fn replace(&mut self, path: &Path, pieces: &[Piece]) -> Result<Option<String>, MendError> {
        let new = self.write(path, pieces)?;
        self.put(&new, path)
    }

    /// Writes a file under a name of its own, synced.
    pub fn write(&mut self, path: &Path, pieces: &[Piece]) -> Result<PathBuf, MendError> {
        let new = self.beside(path, "new");
        let written = self.write_at(&new, path, pieces);
        if written.is_err() {
            // What is left of it is of no use; nobody reads it if this fails too.
            let _ = fs::remove_file(&new);
        }
        written.map(|()| new)
    }

    fn write_at(&mut self, new: &Path, old: &Path, pieces: &[Piece]) -> Result<(), MendError> {
        // Left by somebody who was killed at it under the same epoch.
        if self.exists(new)? {
            fs::remove_file(new).map_err(failed(new))?;
        }
        let file = files::open(new, Access::CreateNew(FILE_MODE), Links::Refused);
        let mut out = BufWriter::new(file.map_err(failed(new))?);
        for piece in pieces {
            match piece {
                Piece::New(bytes) => out.write_all(bytes).map_err(failed(new))?,
                Piece::Of { path, from, to } => {
                    self.confirm()?;
                    copy(path, (*from, *to), &mut out).map_err(failed(path))?;
                }
            }
        }
        let file = out.into_inner().map_err(|error| failed(new)(error.into_error()))?;
        if let Ok(found) = fs::metadata(old) {
            file.set_permissions(found.permissions()).map_err(failed(new))?;
        }
        file.sync_all().map_err(failed(new))
    }

    /// Gives a file that was written its name. What has that name is kept, and is there until then.
    pub fn put(&mut self, new: &Path, path: &Path) -> Result<Option<String>, MendError> {
        self.check()?;
        let kept = self.kept(path)?;
        let is_kept = self.exists(path)?;
        if is_kept && fs::hard_link(path, &kept).is_err() {
            // A file system without links: for a moment there is none.
            fs::rename(path, &kept).map_err(failed(path))?;
        }
        fs::rename(new, path).and_then(|()| sync_folder_of(path)).map_err(failed(path))?;
        Ok(is_kept.then(|| name_of(&kept)))
    }

    fn check(&mut self) -> Result<(), MendError> {
        self.confirm()?;
        Ok(self.mender.fence.check()?)
    }

    fn confirm(&mut self) -> Result<(), MendError> {
        (self.mender.confirm)().map_err(MendError::Lease)
    }

    /// The name that the old file at `path` gets: one that nothing has.
    fn kept(&self, path: &Path) -> Result<PathBuf, MendError> {
        let mut kept = self.beside(path, "damaged");
        while self.exists(&kept)? {
            kept.as_mut_os_string().push(".more");
        }
        Ok(kept)
    }

    fn beside(&self, path: &Path, what: &str) -> PathBuf {
        let epoch = self.mender.fence.epoch().0;
        // In the root each name of ours begins with a dot: no channel's name can.
        let dot = if path.parent() == Some(&self.root) { ".stanby." } else { "" };
        path.with_file_name(format!("{dot}{what}.{epoch}.{}", name_of(path)))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> MendError + use<> {
    let path = path.to_owned();
    move |source| MendError::Io { path, source }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    files::open_folder(path.parent().unwrap_or(path))?.sync_all()
}

fn copy(path: &Path, (from, to): (u64, u64), out: &mut impl Write) -> io::Result<()> {
    let mut file: File = files::open(path, Access::Read, Links::Refused)?;
    file.seek(SeekFrom::Start(from))?;
    let copied = io::copy(&mut file.take(to - from), out)?;
    if copied < to - from {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
