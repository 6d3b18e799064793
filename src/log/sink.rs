//! Where lines go: stderr, a file that is rotated, syslog

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Tag;
use super::syslog::Syslog;

/// Where lines go.
pub(super) enum Sink {
    /// The terminal, or whatever the process was started with.
    Stderr {
        /// Whether the tags are coloured.
        has_colours: bool,
    },
    /// A file.
    File(LogFile),
    /// Syslog.
    Syslog(Syslog),
}

impl Sink {
    /// Writes one line (files, stderr) or text (syslog); gives back the name of the backup if the
    /// file was rotated after it. A line that cannot be written is lost: there is nowhere to say.
    pub(super) fn write(
        &mut self,
        tag: Tag,
        line: &str,
        text: &str,
        suffix: impl FnOnce() -> String,
    ) -> Option<PathBuf> {
        match self {
            Self::Stderr { has_colours } => {
                let line = if *has_colours { coloured(line, tag) } else { line.to_owned() };
                let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
                None
            }
            Self::File(file) => {
                file.append(line);
                file.rotate_if_full(suffix)
            }
            Self::Syslog(syslog) => {
                syslog.send(tag.severity(), text);
                None
            }
        }
    }

    /// Writes a line to a file without a look at its size.
    pub(super) fn append(&mut self, line: &str) {
        if let Self::File(file) = self {
            file.append(line);
        }
    }
}

fn coloured(line: &str, tag: Tag) -> String {
    let plain = format!("[{}]", tag.letters());
    let bright = format!("[\x1b[{}m{}\x1b[0m]", tag.colour(), tag.letters());
    line.replacen(&plain, &bright, 1)
}

/// A log file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
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
        let written_bytes = file.metadata()?.len();
        Ok(Self { path: path.to_path_buf(), file, written_bytes, bytes_max })
    }

    fn append(&mut self, line: &str) {
        if self.file.write_all(format!("{line}\n").as_bytes()).is_ok() {
            let len = u64::try_from(line.len()).unwrap_or(u64::MAX);
            self.written_bytes = self.written_bytes.saturating_add(len).saturating_add(1);
        }
    }

    fn rotate_if_full(&mut self, suffix: impl FnOnce() -> String) -> Option<PathBuf> {
        if self.bytes_max == 0 || self.written_bytes <= self.bytes_max {
            return None;
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{}", suffix()));
        let backup = PathBuf::from(name);
        if let Err(error) = self.rotate(&backup) {
            self.bytes_max = self.bytes_max.saturating_mul(2);
            self.append(&format!(
                "Unable to rotate the log file ({error}), will attempt next rotation at size {}",
                self.bytes_max
            ));
            return None;
        }
        Some(backup)
    }

    fn rotate(&mut self, backup: &Path) -> io::Result<()> {
        fs::rename(&self.path, backup)?;
        self.file = open(&self.path)?;
        self.written_bytes = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o660).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_file_that_grew_too_large_is_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        let mut sink = Sink::File(LogFile::open(&path, 10).unwrap());
        assert_eq!(sink.write(Tag::Info, "short", "", || "1".to_owned()), None);
        let backup = sink.write(Tag::Info, "and longer", "", || "2".to_owned()).unwrap();
        assert_eq!(backup, folder.path().join("server.log.2"));
        sink.append("after\r");
        assert_eq!(fs::read_to_string(&backup).unwrap(), "short\nand longer\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\r\n");
    }

    #[test]
    fn only_the_letters_of_the_tag_are_coloured() {
        assert_eq!(coloured("[1] [WRN] [WRN]", Tag::Warning), "[1] [\x1b[0;93mWRN\x1b[0m] [WRN]");
    }
}
