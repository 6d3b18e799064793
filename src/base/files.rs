//! Opens files by names under which somebody else may have put something else; for shell only.
//!
//! A name in a shared folder, in a configuration or in the environment can lead to a pipe, a
//! device, a socket or a folder. Nothing here waits for the other end of one longer than it says,
//! and nothing is read without a bound. Nobody else opens files by name (`tests/tidy.rs`); the file
//! store does it below an open folder (`store/file/disk.rs`), by the same rule.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use crate::base::world;

/// How long whoever is at the other end of a pipe may take to write a configuration into it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks at such a pipe: what there is to read comes once.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of a configuration or a certificate: far more than anybody writes.
const TEXT_LEN_MAX: u64 = 64 * 1024 * 1024;

/// Whether a name may be a link to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Whoever gave the name may have made a link, as tools that mount configurations do.
    Followed,
    /// Only we make the file: a link is somebody else's.
    Refused,
}

/// What a file is opened for; where it may be made, with which mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It exists and is only read.
    Read,
    /// It exists; it is read and changed.
    Update,
    /// It must not exist; it is read and changed.
    CreateNew(u32),
    /// It may exist, and what is in it stays; it is read and changed.
    Keep(u32),
    /// It may exist, and what is in it goes; it is written.
    Replace(u32),
    /// It may exist; writes go to its end.
    Append(u32),
}

impl Access {
    fn options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        let _ = match self {
            Self::Read => options.read(true),
            Self::Update => options.read(true).write(true),
            Self::CreateNew(mode) => options.read(true).write(true).create_new(true).mode(mode),
            Self::Keep(mode) => {
                options.read(true).write(true).create(true).truncate(false).mode(mode)
            }
            Self::Replace(mode) => options.write(true).create(true).truncate(true).mode(mode),
            Self::Append(mode) => options.append(true).create(true).mode(mode),
        };
        options
    }
}

/// What stands under a name is no regular file.
#[derive(Debug, thiserror::Error)]
#[error("{} is {what}, not a regular file: remove it, or give another name", .path.display())]
pub struct NotRegular {
    path: PathBuf,
    what: &'static str,
}

impl NotRegular {
    /// That `path` leads to something of the kind `found`.
    #[must_use]
    pub fn error(path: &Path, found: FileType) -> io::Error {
        let what = match found {
            found if found.is_dir() => "a folder",
            found if found.is_symlink() => "a link",
            found if found.is_fifo() => "a pipe",
            found if found.is_socket() => "a socket",
            _ => "a device",
        };
        let error = Self { path: path.to_owned(), what };
        io::Error::new(io::ErrorKind::Unsupported, error)
    }
}

/// Opens a regular file, and never waits for anybody.
///
/// # Errors
/// [`NotRegular`], with the path, or what the system says.
pub fn open(path: &Path, access: Access, links: Links) -> io::Result<File> {
    let no_links = if links == Links::Refused { libc::O_NOFOLLOW } else { 0 };
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | no_links;
    let opened = access.options().custom_flags(flags).open(path);
    let must_exist = matches!(access, Access::Read | Access::Update);
    let file = opened.map_err(|error| {
        let is_missing = must_exist && error.kind() == io::ErrorKind::NotFound;
        if is_missing { error } else { described(path, links, error) }
    })?;
    match file.metadata()?.file_type() {
        found if found.is_file() => Ok(file),
        found => Err(NotRegular::error(path, found)),
    }
}

/// The system's own words for a link that is not followed, or a socket, puzzle people.
fn described(path: &Path, links: Links, error: io::Error) -> io::Error {
    let is_of_kind = [libc::ELOOP, libc::ENXIO, libc::EISDIR, libc::ENOTDIR]
        .iter()
        .any(|code| error.raw_os_error() == Some(*code));
    let found = match links {
        Links::Followed => fs::metadata(path),
        Links::Refused => fs::symlink_metadata(path),
    };
    match found {
        // It was to be made where a link leads, and there is no folder.
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(path) {
            Ok(link) => NotRegular::error(path, link.file_type()),
            Err(_) => error,
        },
        Ok(found) if is_of_kind && !found.is_file() => NotRegular::error(path, found.file_type()),
        Ok(_) | Err(_) => error,
    }
}

/// Whether any process, this one too, has the file open to write; `None` where that is not known:
/// on a network file system, or where the file belongs to another user.
///
/// The kernel gives a lease on reading a file only while nobody writes it. This one ends at once;
/// whoever opens the file meanwhile to write waits for that, and the kernel sends us a SIGIO, which
/// the caller has to survive.
#[must_use]
pub fn has_writer(file: &File) -> Option<bool> {
    match set_lease(file, libc::F_RDLCK) {
        Ok(()) => {
            // Without it the lease ends with the descriptor.
            let _ = set_lease(file, libc::F_UNLCK);
            Some(false)
        }
        Err(Errno::EAGAIN) => Some(true),
        Err(_) => None,
    }
}

#[allow(unsafe_code, reason = "no crate has this call without unsafe code")]
fn set_lease(file: &File, kind: libc::c_int) -> nix::Result<()> {
    // SAFETY: the descriptor is open while `file` is borrowed, and the argument of this command is
    // a number: the kernel reads and writes no memory of ours.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    Errno::result(result).map(drop)
}

/// Opens what bytes are to go to: a file, or a device or pipe that takes them at once.
///
/// # Errors
/// What the system says: a pipe that nobody reads is "no such device or address".
pub fn open_to_write(path: &Path, access: Access) -> io::Result<File> {
    access.options().custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Opens a pipe to write, and waits until somebody reads it: for the log's own thread.
///
/// # Errors
/// What the system says.
pub fn wait_for_reader(path: &Path) -> io::Result<File> {
    Access::Append(0o660).options().custom_flags(libc::O_NOCTTY).open(path)
}

/// Opens a folder, to sync it.
///
/// # Errors
/// What the system says.
pub fn open_folder(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK).open(path)
}

/// Reads a regular file of at most `len_max` bytes.
///
/// # Errors
/// As [`open`]; and when it is longer.
pub fn read(path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(path, Access::Read, Links::Followed)?;
    file.take(len_max + 1).read_to_end(&mut bytes)?;
    within(bytes, len_max)
}

/// Reads what a person or their tools named: a file, or a pipe or device that gives all of it at
/// once or soon (`-c /dev/stdin`, `-c <(…)`).
///
/// # Errors
/// What the system says; and when there is too much, or nobody writes into a pipe.
pub fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    read_text_within(path, PATIENCE)
}

fn read_text_within(path: &Path, patience: Duration) -> io::Result<Vec<u8>> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = Access::Read.options().custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    let is_pipe = found.file_type().is_fifo();
    let until = world::instant() + patience;
    // With room for all, so that no part is left where it grew out of; there may be a key in it.
    let len = usize::try_from(found.len().min(TEXT_LEN_MAX)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(len + 1);
    loop {
        let had = bytes.len();
        let left = (TEXT_LEN_MAX + 1).saturating_sub(u64::try_from(had).unwrap_or(u64::MAX));
        match (&mut file).take(left).read_to_end(&mut bytes) {
            // A pipe that nobody has opened yet to write looks as if it had ended.
            Ok(_) if !is_pipe || !bytes.is_empty() => return within(bytes, TEXT_LEN_MAX),
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(error) => return Err(error),
        }
        if until <= world::instant() {
            let text = format!("nobody wrote into it, or to its end, within {patience:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        thread::park_timeout(LOOK_PAUSE);
    }
}

fn within(bytes: Vec<u8>, len_max: u64) -> io::Result<Vec<u8>> {
    if len_max < u64::try_from(bytes.len()).unwrap_or(u64::MAX) {
        let text = format!("it is longer than {len_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn pipe(path: &Path) {
        mkfifo(path, Mode::S_IRWXU).unwrap();
    }

    /// Goal: whatever a name leads to, opening and reading it ends, and the error names it.
    #[test]
    fn what_is_no_regular_file_is_named_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        pipe(&path("pipe"));
        fs::create_dir(path("folder")).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        symlink(path("none"), path("dangling")).unwrap();
        fs::write(path("file"), "text").unwrap();
        symlink(path("file"), path("link")).unwrap();
        for (name, kind, of_link) in [
            ("pipe", "a pipe", "a pipe"),
            ("folder", "a folder", "a folder"),
            ("socket", "a socket", "a socket"),
            ("zero", "a device", "a link"),
        ] {
            for (links, kind) in [(Links::Followed, kind), (Links::Refused, of_link)] {
                for access in [Access::Read, Access::Update, Access::Keep(0o600)] {
                    let error = open(&path(name), access, links).unwrap_err();
                    let wanted = format!("{} is {kind}, not a reg", path(name).display());
                    assert!(error.to_string().starts_with(&wanted), "{name}: {error}");
                }
            }
            read(&path(name), 100).unwrap_err();
        }
        assert_eq!(read(&path("link"), 4).unwrap(), b"text");
        assert!(read(&path("link"), 3).unwrap_err().to_string().contains("longer than 3"));
        let missing = open(&path("dangling"), Access::Read, Links::Followed).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        symlink(path("none/none"), path("nowhere")).unwrap();
        let nowhere = open(&path("nowhere"), Access::Keep(0o600), Links::Followed).unwrap_err();
        assert!(nowhere.to_string().contains("is a link"), "{nowhere}");
        let link = open(&path("dangling"), Access::Read, Links::Refused).unwrap_err();
        assert!(link.to_string().contains("is a link"), "{link}");
        open_to_write(&path("pipe"), Access::Append(0o600)).unwrap_err();
        open_folder(&path("pipe")).unwrap_err();
        open_folder(&path("folder")).unwrap();
    }

    /// Goal: who only reads is no writer, and whoever writes is one, until the file is closed.
    #[test]
    fn a_writer_of_a_file_is_noticed_and_a_reader_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "text").unwrap();
        let file = open(&path, Access::Read, Links::Followed).unwrap();
        let _reader = open(&path, Access::Read, Links::Followed).unwrap();
        assert_eq!(has_writer(&file), Some(false));
        let writer = open(&path, Access::Append(0o600), Links::Followed).unwrap();
        assert_eq!(has_writer(&file), Some(true));
        drop(writer);
        assert_eq!(has_writer(&file), Some(false));
    }

    /// Goal: a configuration may come through a pipe, whole, though its writer is late and slow.
    #[test]
    fn a_text_from_a_pipe_is_waited_for_within_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        pipe(&path);
        let short = Duration::from_millis(20);
        let error = read_text_within(&path, short).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        let writing = path.clone();
        let writer = thread::spawn(move || {
            // Opened as soon as it is read.
            let mut to = OpenOptions::new().write(true).open(writing).unwrap();
            to.write_all(b"first ").unwrap();
            thread::park_timeout(short);
            to.write_all(&[b'x'; 100_000]).unwrap();
        });
        let bytes = read_text_within(&path, Duration::from_secs(30)).unwrap();
        assert_eq!(bytes.len(), 100_006);
        writer.join().unwrap();
        let error = read_text_within(Path::new("/dev/zero"), short).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
        assert_eq!(read_text_within(Path::new("/dev/null"), short).unwrap(), b"");
    }
}
