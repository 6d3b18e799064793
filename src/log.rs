//! Levels, line format, file, reopen on signal
//!
//! The backend of the `log` facade. Facts: spec configuration, section 7; core NATS, section 19.
//! Lines of the streaming server have the target [`STREAM`] or come from the rooms `engine`,
//! `store` and `election`; they carry a prefix and have switches of their own.

mod sink;
mod syslog;
mod zone;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::base::time::WallTime;
use crate::base::world;
use crate::log::sink::{LogFile, Sink};
use crate::log::syslog::Syslog;
use crate::log::zone::Zone;

/// Target of lines about the streaming server: they get the prefix `STREAM: `.
pub const STREAM: &str = "STREAM";

/// Target of lines about the core server.
pub const CORE: &str = "CORE";

/// Where lines go, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// File to append to; wins over everything else.
    pub file: Option<PathBuf>,
    /// Bytes after which the file is rotated; 0 = never.
    pub file_bytes_max: u64,
    /// The machine's syslog.
    pub syslog: bool,
    /// `udp://host:port`, `tcp://host:port` or `unix://path`; wins over `syslog`.
    pub remote_syslog: Option<String>,
    /// Whether lines carry date and time.
    pub timestamps: bool,
    /// Whether those are UTC; only the core server obeys it, as the reference.
    pub utc: bool,
    /// What else the core server says.
    pub core: Switches,
    /// What else the streaming server says.
    pub streaming: Switches,
}

/// Which lines are shown beside those that always are; neither implies the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Debug lines.
    pub debug: bool,
    /// Trace lines.
    pub trace: bool,
}

impl Switches {
    fn shows(self, level: Level) -> bool {
        match level {
            Level::Error | Level::Warn | Level::Info => true,
            Level::Debug => self.debug,
            Level::Trace => self.trace,
        }
    }

    fn level(self) -> LevelFilter {
        match (self.debug, self.trace) {
            (_, true) => LevelFilter::Trace,
            (true, false) => LevelFilter::Debug,
            (false, false) => LevelFilter::Info,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            file: None,
            file_bytes_max: 0,
            syslog: false,
            remote_syslog: None,
            timestamps: true,
            utc: false,
            core: Switches::default(),
            streaming: Switches::default(),
        }
    }
}

/// Why there is no log. The texts are the reference's.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("error opening file: open {file}: {reason}")]
    File {
        /// Which.
        file: String,
        /// The system's words.
        reason: String,
    },
    /// The syslog URL has a scheme that is none.
    #[error("error invalid network type: \"{0}\"")]
    Scheme(String),
    /// Syslog does not answer.
    #[error("error connecting to syslog: \"{0}\"")]
    Syslog(io::Error),
}

/// The tags of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Info,
    Debug,
    Warning,
    Error,
    Fatal,
    Trace,
}

impl Tag {
    fn letters(self) -> &'static str {
        match self {
            Self::Info => "INF",
            Self::Debug => "DBG",
            Self::Warning => "WRN",
            Self::Error => "ERR",
            Self::Fatal => "FTL",
            Self::Trace => "TRC",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Info => "32",
            Self::Debug => "36",
            Self::Warning => "0;93",
            Self::Error | Self::Fatal => "31",
            Self::Trace => "33",
        }
    }

    /// Severity of syslog.
    fn severity(self) -> u8 {
        match self {
            Self::Fatal => 2,
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info | Self::Trace => 5,
            Self::Debug => 7,
        }
    }
}

struct State {
    settings: Settings,
    sink: Sink,
    zone: Zone,
    pid: u32,
}

struct Backend {
    state: Mutex<Option<State>>,
}

static BACKEND: Backend = Backend { state: Mutex::new(None) };

impl Backend {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts to log, or goes on with other settings.
///
/// # Errors
/// [`LogError`]; the former settings stay.
pub fn configure(settings: Settings) -> Result<(), LogError> {
    let sink = open(&settings)?;
    let level = settings.core.level().max(settings.streaming.level());
    let zone = if settings.utc { Zone::utc() } else { Zone::local() };
    let state = State { settings, sink, zone, pid: std::process::id() };
    *BACKEND.lock() = Some(state);
    // The second time it says that there is a logger already: this one.
    let _ = log::set_logger(&BACKEND);
    log::set_max_level(level);
    Ok(())
}

fn open(settings: &Settings) -> Result<Sink, LogError> {
    if let Some(path) = &settings.file {
        let file = LogFile::open(path, settings.file_bytes_max).map_err(|error| {
            let reason = match error.raw_os_error() {
                Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
                None => error.to_string(),
            };
            LogError::File { file: path.display().to_string(), reason }
        })?;
        return Ok(Sink::File(file));
    }
    if let Some(url) = &settings.remote_syslog {
        return Ok(Sink::Syslog(Syslog::remote(url)?));
    }
    if settings.syslog {
        return Ok(Sink::Syslog(Syslog::local()?));
    }
    Ok(Sink::Stderr { has_colours: io::stderr().is_terminal() })
}

/// Date and time without fractions, for the lines that come before there is a log.
#[must_use]
pub fn date_time() -> String {
    let stamp = Zone::local().stamp(world::now().wall);
    stamp.split('.').next().unwrap_or_default().to_owned()
}

/// What local time is ahead of UTC at `wall`, in seconds.
#[must_use]
pub fn utc_offset(wall: WallTime) -> i64 {
    match BACKEND.lock().as_ref() {
        Some(state) => state.zone.offset_at(wall),
        None => 0,
    }
}

/// Opens the log file anew; what SIGUSR1 asks for.
pub fn reopen() {
    let mut guard = BACKEND.lock();
    let Some(state) = guard.as_mut() else { return };
    if state.settings.file.is_none() {
        state.write(Tag::Info, STREAM, "File log re-open ignored, not a file logger");
        return;
    }
    match open(&state.settings) {
        Ok(sink) => {
            state.sink = sink;
            state.write(Tag::Info, STREAM, "File log re-opened");
        }
        Err(error) => {
            let text =
                format!("Unable to re-open the log file, going on with the old one: {error}");
            state.write(Tag::Error, STREAM, &text);
        }
    }
}

/// Logs why the process ends; the caller ends it, with exit code 1.
pub fn fatal(target: &str, text: &str) {
    if let Some(state) = BACKEND.lock().as_mut() {
        state.write(Tag::Fatal, target, text);
    }
}

/// Whether a target is the streaming server's.
fn is_streaming(target: &str) -> bool {
    target == STREAM
        || ["stanby::engine", "stanby::store", "stanby::election"]
            .iter()
            .any(|room| target.starts_with(room))
}

fn is_ours(target: &str) -> bool {
    target == STREAM || target == CORE || target.starts_with("stanby")
}

impl Log for Backend {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lock().as_ref().is_some_and(|state| state.is_enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        let mut guard = self.lock();
        let Some(state) = guard.as_mut() else { return };
        if !state.is_enabled(record.metadata()) {
            return;
        }
        let tag = match record.level() {
            Level::Error => Tag::Error,
            Level::Warn => Tag::Warning,
            Level::Info => Tag::Info,
            Level::Debug => Tag::Debug,
            Level::Trace => Tag::Trace,
        };
        state.write(tag, record.target(), &record.args().to_string());
    }

    fn flush(&self) {}
}

impl State {
    fn is_enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        if is_streaming(target) {
            self.settings.streaming.shows(metadata.level())
        } else if is_ours(target) {
            self.settings.core.shows(metadata.level())
        } else {
            // Libraries: only what an operator has to know.
            metadata.level() <= LevelFilter::Warn
        }
    }

    fn write(&mut self, tag: Tag, target: &str, text: &str) {
        let prefix = if is_streaming(target) { "STREAM: " } else { "" };
        let text = format!("{prefix}{text}");
        let stamp = self.settings.timestamps.then(|| self.zone.stamp(world::now().wall));
        let line = line(self.pid, stamp.as_deref(), tag, &text);
        let rotated = self.sink.write(tag, &line, &text, || self.zone.suffix(world::now().wall));
        if let Some(backup) = rotated {
            // Compat: the reference ends this one line with CR LF; pinned by
            // `a_file_that_grew_too_large_is_rotated`.
            let text = format!("Rotated log, backup saved as \"{}\"\r", backup.display());
            let stamp = self.settings.timestamps.then(|| self.zone.stamp(world::now().wall));
            let line = self::line(self.pid, stamp.as_deref(), Tag::Info, &text);
            self.sink.append(&line);
        }
    }
}

/// One line without its end.
fn line(pid: u32, stamp: Option<&str>, tag: Tag, text: &str) -> String {
    let letters = tag.letters();
    match stamp {
        Some(stamp) => format!("[{pid}] {stamp} [{letters}] {text}"),
        None => format!("[{pid}] [{letters}] {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_of_the_reference() {
        let stamp = Some("2023/11/22 09:15:02.004518");
        assert_eq!(
            line(4711, stamp, Tag::Info, "STREAM: Server is active"),
            "[4711] 2023/11/22 09:15:02.004518 [INF] STREAM: Server is active"
        );
        assert_eq!(line(1, None, Tag::Fatal, "x"), "[1] [FTL] x");
    }

    #[test]
    fn streaming_and_core_lines_have_switches_of_their_own() {
        for (target, streaming) in [
            (STREAM, true),
            (CORE, false),
            ("stanby::engine::publish", true),
            ("stanby::broker", false),
            ("rustls::conn", false),
        ] {
            assert_eq!(is_streaming(target), streaming, "{target}");
        }
        let state = State {
            settings: Settings {
                core: Switches { debug: true, trace: false },
                streaming: Switches { debug: false, trace: true },
                ..Settings::default()
            },
            sink: Sink::Stderr { has_colours: false },
            zone: Zone::utc(),
            pid: 1,
        };
        let enabled = |target, level| {
            state.is_enabled(&Metadata::builder().target(target).level(level).build())
        };
        assert!(enabled(CORE, Level::Debug));
        assert!(!enabled(CORE, Level::Trace));
        assert!(!enabled(STREAM, Level::Debug));
        assert!(enabled(STREAM, Level::Trace));
        assert!(enabled(STREAM, Level::Info));
        assert!(!enabled("rustls", Level::Info));
        assert!(enabled("rustls", Level::Warn));
    }
}
