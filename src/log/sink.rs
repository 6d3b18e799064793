//! Where lines go: stderr, a file that is rotated, syslog

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Tag;
use super::syslog::Syslog;
use crate::base::files::{self, Access};
use crate::base::time::WallTime;

/// Bytes that leave in one write at most.
const BUFFER_BYTES: usize = 64 * 1024;

/// Between two attempts at a terminal or pipe that somebody else has made non-blocking.
const RETRY: Duration = Duration::from_millis(10);

/// Where lines go. Only the thread of the log has one, because every write can block.
pub(super) enum Sink {
    /// The terminal, or whatever the process was started with.
    Stream {
        /// Lines on their way.
        out: Buffered<Box<dyn Write + Send>>,
        /// Whether the tags are coloured.
        has_colours: bool,
    },
    /// A file.
    File(LogFile),
    /// Syslog.
    Syslog(Syslog),
}

/// What became of a line, or of those before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// The name of the backup, if the file was rotated after it.
    pub(super) backup: Option<PathBuf>,
    /// Lines that could not be written.
    pub(super) failed: u64,
}

impl Sink {
    /// A terminal or pipe.
    pub(super) fn stream(to: impl Write + Send + 'static, has_colours: bool) -> Self {
        Self::Stream { out: Buffered::new(Box::new(to)), has_colours }
    }

    /// Takes one line (files, streams) or text (syslog); what is taken is written by
    /// [`Sink::flush`] at the latest.
    pub(super) fn write(
        &mut self,
        tag: Tag,
        line: &str,
        text: &str,
        at: WallTime,
        suffix: impl FnOnce() -> String,
    ) -> Written {
        match self {
            Self::Stream { out, has_colours } => {
                let failed =
                    if *has_colours { out.push(&coloured(line, tag)) } else { out.push(line) };
                Written { backup: None, failed }
            }
            Self::File(file) => {
                let mut failed = file.append(line);
                let backup = file.rotate_if_full(suffix, &mut failed);
                Written { backup, failed }
            }
            Self::Syslog(syslog) => {
                let failed = u64::from(syslog.send(tag.severity(), text, at).is_err());
                Written { backup: None, failed }
            }
        }
    }

    /// Writes a line to a file without a look at its size.
    pub(super) fn append(&mut self, line: &str) {
        if let Self::File(file) = self {
            // It says what happened to the file; there is no better place for it.
            let _ = file.append(line);
        }
    }

    /// Writes what was taken; gives the number of lines that cannot be written.
    pub(super) fn flush(&mut self) -> u64 {
        match self {
            Self::Stream { out, .. } => out.flush(),
            Self::File(file) => file.flush(),
            Self::Syslog(_) => 0,
        }
    }
}

fn coloured(line: &str, tag: Tag) -> String {
    let plain = format!("[{}]", tag.letters());
    let bright = format!("[\x1b[{}m{}\x1b[0m]", tag.colour(), tag.letters());
    line.replacen(&plain, &bright, 1)
}

/// Whole lines that leave together.
pub(super) struct Buffered<W> {
    to: W,
    buffer: Vec<u8>,
    lines: u64,
    /// Whether the last thing that was written is a part of a line.
    is_torn: bool,
}

impl<W: Write> Buffered<W> {
    fn new(to: W) -> Self {
        Self { to, buffer: Vec::new(), lines: 0, is_torn: false }
    }

    /// Gives the number of lines that could not be written.
    fn push(&mut self, line: &str) -> u64 {
        let is_full = BUFFER_BYTES < self.buffer.len() + line.len();
        let failed = if is_full { self.flush() } else { 0 };
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
        self.lines += 1;
        failed
    }

    fn flush(&mut self) -> u64 {
        if self.buffer.is_empty() {
            return 0;
        }
        if self.is_torn {
            self.buffer.insert(0, b'\n');
        }
        let mut done = 0;
        let outcome = write_whole(&mut self.to, &self.buffer, &mut done);
        let failed = if outcome.is_ok() { 0 } else { self.lines };
        self.is_torn = match done {
            0 => self.is_torn,
            done => self.buffer.get(done - 1) != Some(&b'\n'),
        };
        self.buffer.clear();
        // One long line must not hold memory for ever.
        self.buffer.shrink_to(BUFFER_BYTES);
        self.lines = 0;
        failed
    }
}

fn write_whole(to: &mut impl Write, bytes: &[u8], done: &mut usize) -> io::Result<()> {
    while let Some(rest) = bytes.get(*done..).filter(|rest| !rest.is_empty()) {
        match to.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A timer that always fires; nothing tells when there is room again.
                let _ = crossbeam_channel::after(RETRY).recv();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the log's file is a named pipe.
pub(super) fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// A named pipe. Whoever opens one waits until somebody reads it: that is the thread of the log,
/// at its first line, and not the server's start or reload.
pub(super) struct Fifo {
    path: PathBuf,
    file: Option<File>,
}

impl Fifo {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), file: None }
    }
}

impl Write for Fifo {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => files::wait_for_reader(&self.path)?,
        };
        // When its reader is gone, the next line waits for another one.
        let count = file.write(bytes)?;
        self.file = Some(file);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log file.
pub(super) struct LogFile {
    path: PathBuf,
    out: Buffered<File>,
    written_bytes: u64,
    /// 0 = no limit.
    bytes_max: u64,
}

impl LogFile {
    /// Opens a file to append to.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = open(path)?;
        let found = file.metadata()?;
        let written_bytes = found.len();
        // A terminal or a device (`/dev/stdout`) is not filled, and must keep its name.
        let bytes_max = if found.is_file() { bytes_max } else { 0 };
        let out = Buffered::new(file);
        Ok(Self { path: path.to_path_buf(), out, written_bytes, bytes_max })
    }

    fn append(&mut self, line: &str) -> u64 {
        let len = u64::try_from(line.len()).unwrap_or(u64::MAX);
        self.written_bytes = self.written_bytes.saturating_add(len).saturating_add(1);
        let failed = self.out.push(line);
        self.measure(failed);
        failed
    }

    fn flush(&mut self) -> u64 {
        let failed = self.out.flush();
        self.measure(failed);
        failed
    }

    /// After a failure only the file knows how long it is.
    fn measure(&mut self, failed: u64) {
        if failed != 0
            && let Ok(found) = self.out.to.metadata()
        {
            self.written_bytes = found.len();
        }
    }

    fn rotate_if_full(
        &mut self,
        suffix: impl FnOnce() -> String,
        failed: &mut u64,
    ) -> Option<PathBuf> {
        if self.bytes_max == 0 || self.written_bytes <= self.bytes_max {
            return None;
        }
        *failed += self.flush();
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{}", suffix()));
        let backup = PathBuf::from(name);
        if let Err(error) = self.rotate(&backup) {
            self.bytes_max = self.bytes_max.saturating_mul(2);
            *failed += self.append(&format!(
                "Unable to rotate the log file ({error}), will attempt next rotation at size {}",
                self.bytes_max
            ));
            return None;
        }
        Some(backup)
    }

    fn rotate(&mut self, backup: &Path) -> io::Result<()> {
        fs::rename(&self.path, backup)?;
        self.out = Buffered::new(open(&self.path)?);
        self.written_bytes = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    files::open_to_write(path, Access::Append(0o660))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    const AT: WallTime = WallTime(0);

    #[test]
    fn a_file_that_grew_too_large_is_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        let mut sink = Sink::File(LogFile::open(&path, 10).unwrap());
        let written = sink.write(Tag::Info, "short", "", AT, || "1".to_owned());
        assert_eq!(written, Written::default());
        let written = sink.write(Tag::Info, "and longer", "", AT, || "2".to_owned());
        let backup = written.backup.unwrap();
        assert_eq!(backup, folder.path().join("server.log.2"));
        sink.append("after\r");
        assert_eq!(sink.flush(), 0);
        assert_eq!(fs::read_to_string(&backup).unwrap(), "short\nand longer\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\r\n");
    }

    #[test]
    fn only_the_letters_of_the_tag_are_coloured() {
        assert_eq!(coloured("[1] [WRN] [WRN]", Tag::Warning), "[1] [\x1b[0;93mWRN\x1b[0m] [WRN]");
    }

    /// Takes so many bytes, then is full until it is emptied.
    struct Small {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_refuses_are_counted_and_the_next_one_begins_anew() {
        let mut out = Buffered::new(Small { room: 8, taken: Vec::new() });
        assert_eq!(out.push("first") + out.push("second"), 0);
        assert_eq!(out.flush(), 2, "neither counts as written");
        assert_eq!(out.push("third"), 0);
        assert_eq!(out.flush(), 1);
        out.to.room = 100;
        assert_eq!(out.push("fourth") + out.flush(), 0);
        assert_eq!(String::from_utf8_lossy(&out.to.taken), "first\nse\nfourth\n");
    }
}
