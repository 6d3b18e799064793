//! Levels, line format, file, reopen on signal
//!
//! The backend of the `log` facade; lines go through a bounded queue to a thread of their own, so
//! that nobody who logs waits for whoever reads. Facts: spec configuration, section 7; core NATS,
//! section 19.
//!
//! Lines of the streaming server have the target [`STREAM`] or come from the rooms `engine`,
//! `store` and `election`; they carry a prefix and have switches of their own.

mod queue;
pub mod recent;
mod sink;
mod syslog;
mod zone;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::base::civil::Civil;
use crate::base::time::WallTime;
use crate::base::world;
use crate::log::queue::{Line, Queue, Style};
use crate::log::sink::{Fifo, LogFile, Sink, is_fifo};
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
    /// How they look.
    pub format: Format,
    /// What else the core server says.
    pub core: Switches,
    /// What else the streaming server says.
    pub streaming: Switches,
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As the reference's.
    #[default]
    Text,
    /// Each is a JSON object.
    Json,
}

impl Format {
    /// As it is configured.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Text, Self::Json].into_iter().find(|format| format.name() == name)
    }
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
            format: Format::default(),
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
    Syslog(String),
    /// The machine refuses the thread that writes.
    #[error("cannot start the thread of the log: {0}")]
    Thread(io::Error),
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

    /// As JSON lines name it.
    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
            Self::Trace => "trace",
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

/// How long an end of the process, or new settings, wait for what is still to be written: a log
/// that nobody reads must not keep a process alive that has to end.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// What is logged, and the way to the thread that writes it.
struct Running {
    settings: Settings,
    zone: Zone,
    queue: Queue,
}

/// The lock is held only while a pointer is copied or replaced.
struct Backend {
    running: RwLock<Option<Arc<Running>>>,
}

/// Of the lease that this process has; 0 while it has none.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// From now on JSON lines name this epoch; `None`: none.
pub fn set_epoch(epoch: Option<u64>) {
    EPOCH.store(epoch.unwrap_or(0), Ordering::Relaxed);
}

static BACKEND: Backend = Backend { running: RwLock::new(None) };

impl Backend {
    fn running(&self) -> Option<Arc<Running>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts to log, or goes on with other settings.
///
/// # Errors
/// [`LogError`]; the former settings stay.
pub fn configure(settings: Settings) -> Result<(), LogError> {
    prepare(settings)?.begin();
    Ok(())
}

/// Settings that can be logged by: what they name is open.
pub struct Prepared {
    running: Running,
    level: LevelFilter,
}

/// Opens what `settings` name; nothing changes before [`Prepared::begin`].
///
/// # Errors
/// [`LogError`].
pub fn prepare(settings: Settings) -> Result<Prepared, LogError> {
    let sink = open(&settings)?;
    let level = settings.core.level().max(settings.streaming.level());
    let zone = if settings.utc { Zone::utc() } else { Zone::local() };
    let style =
        Style { timestamps: settings.timestamps, format: settings.format, zone: zone.clone() };
    let queue = Queue::start(sink, style).map_err(LogError::Thread)?;
    Ok(Prepared { running: Running { settings, zone, queue }, level })
}

/// Whether what `settings` name could be opened; no file is made.
///
/// # Errors
/// As [`prepare`].
pub fn check(settings: &Settings) -> Result<(), LogError> {
    match &settings.file {
        Some(path) => world::may_write(path).map_err(|error| unopened(path, &error)),
        None => open(settings).map(drop),
    }
}

impl Prepared {
    /// Goes on by these settings.
    pub fn begin(self) {
        // What was logged before stands before what is logged from now on.
        flush();
        let running = Some(Arc::new(self.running));
        *BACKEND.running.write().unwrap_or_else(PoisonError::into_inner) = running;
        // The second time it says that there is a logger already: this one.
        let _ = log::set_logger(&BACKEND);
        log::set_max_level(self.level);
    }
}

/// Waits, a bounded time, until everything that was logged is written: before the process ends.
pub fn flush() {
    if let Some(running) = BACKEND.running() {
        // Whoever does not read the log for so long misses its last lines.
        let _ = running.queue.flush(WRITTEN_WITHIN);
    }
}

/// From now on a panic is a line of the log and the end of the process, whatever the profile of the
/// build: the usual message would wait for ever for a stderr that nobody reads, and a thread that
/// died alone would leave the others to go on without it.
pub fn take_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        let trace = Backtrace::capture();
        let is_wanted = trace.status() == BacktraceStatus::Captured;
        let shown = if is_wanted { format!("\n{trace}") } else { String::new() };
        fatal(CORE, &format!("thread '{name}' {panic}{shown}"));
        std::process::abort();
    }));
}

fn open(settings: &Settings) -> Result<Sink, LogError> {
    if let Some(path) = settings.file.as_deref().filter(|path| is_fifo(path)) {
        return Ok(Sink::stream(Fifo::new(path), false));
    }
    if let Some(path) = &settings.file {
        let file = LogFile::open(path, settings.file_bytes_max);
        return file.map(Sink::File).map_err(|error| unopened(path, &error));
    }
    if let Some(url) = &settings.remote_syslog {
        return Ok(Sink::Syslog(Syslog::remote(url)?));
    }
    if settings.syslog {
        return Ok(Sink::Syslog(Syslog::local()?));
    }
    Ok(Sink::stream(io::stderr(), io::stderr().is_terminal()))
}

fn unopened(path: &Path, error: &io::Error) -> LogError {
    LogError::File { file: path.display().to_string(), reason: system_text(error) }
}

/// The system's reason as C programs print it, in lower case and without a number.
fn system_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
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
    match BACKEND.running() {
        Some(running) => running.zone.offset_at(wall),
        None => 0,
    }
}

/// Opens the log file anew; what SIGUSR1 asks for.
pub fn reopen() {
    let Some(running) = BACKEND.running() else { return };
    if running.settings.file.is_none() {
        running.write(Tag::Info, STREAM, "File log re-open ignored, not a file logger");
        return;
    }
    match configure(running.settings.clone()) {
        Ok(()) => {
            if let Some(running) = BACKEND.running() {
                running.write(Tag::Info, STREAM, "File log re-opened");
            }
        }
        Err(error) => {
            let text =
                format!("Unable to re-open the log file, going on with the old one: {error}");
            running.write(Tag::Error, STREAM, &text);
        }
    }
}

/// Logs why the process ends, and waits a bounded time until that is written; the caller ends it,
/// with exit code 1.
pub fn fatal(target: &str, text: &str) {
    if let Some(running) = BACKEND.running() {
        running.queue.write_last(Running::line(Tag::Fatal, target, text));
    }
    flush();
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
        self.running().is_some_and(|running| running.settings.shows(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        let Some(running) = self.running() else { return };
        if !running.settings.shows(record.metadata()) {
            return;
        }
        let tag = match record.level() {
            Level::Error => Tag::Error,
            Level::Warn => Tag::Warning,
            Level::Info => Tag::Info,
            Level::Debug => Tag::Debug,
            Level::Trace => Tag::Trace,
        };
        running.write(tag, record.target(), &record.args().to_string());
    }

    fn flush(&self) {
        flush();
    }
}

impl Settings {
    /// Whether lines go to the same place by both.
    #[must_use]
    pub fn has_place_of(&self, other: &Self) -> bool {
        let place = |settings: &Self| {
            (settings.file.clone(), settings.syslog, settings.remote_syslog.clone())
        };
        place(self) == place(other)
    }

    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        if is_streaming(target) {
            self.streaming.shows(metadata.level())
        } else if is_ours(target) {
            self.core.shows(metadata.level())
        } else {
            // Libraries: only what an operator has to know.
            metadata.level() <= LevelFilter::Warn
        }
    }
}

impl Running {
    fn write(&self, tag: Tag, target: &str, text: &str) {
        self.queue.write(Self::line(tag, target, text));
    }

    fn line(tag: Tag, target: &str, text: &str) -> Line {
        let prefix = if is_streaming(target) { "STREAM: " } else { "" };
        let epoch = EPOCH.load(Ordering::Relaxed);
        Line { at: world::now().wall, tag, epoch, text: format!("{prefix}{text}") }
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

/// What a JSON line has.
#[derive(serde::Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    level: &'static str,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    message: &'a str,
}

/// One line as a JSON object, without its end; the time is UTC.
fn json_line(pid: u32, queued: &Line, has_time: bool) -> String {
    let Line { at, tag, epoch, text } = queued;
    let time = || {
        let (seconds, nanos) = (at.0.div_euclid(1_000_000_000), at.0.rem_euclid(1_000_000_000));
        format!("{}.{:06}Z", Civil::at(seconds), nanos / 1_000)
    };
    let document = Document {
        time: has_time.then(time),
        level: tag.word(),
        pid,
        epoch: Some(*epoch).filter(|epoch| *epoch != 0),
        message: text.trim_end_matches('\r'),
    };
    serde_json::to_string(&document).expect("texts and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_objects_whatever_they_say() {
        let queued = |epoch, text: &str| Line {
            at: WallTime(1_700_000_000_123_456_789),
            tag: Tag::Warning,
            epoch,
            text: text.to_owned(),
        };
        assert_eq!(
            json_line(7, &queued(3, "STREAM: a \"b\"\n\u{1b}[0m"), true),
            r#"{"time":"2023-11-14T22:13:20.123456Z","level":"warning","pid":7,"epoch":3,"message":"STREAM: a \"b\"\n\u001b[0m"}"#
        );
        let bare = json_line(7, &queued(0, "x\r"), false);
        assert_eq!(bare, r#"{"level":"warning","pid":7,"message":"x"}"#);
        for format in [Format::Text, Format::Json] {
            assert_eq!(Format::of(format.name()), Some(format));
        }
        assert_eq!(Format::of("xml"), None);
    }

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
        let settings = Settings {
            core: Switches { debug: true, trace: false },
            streaming: Switches { debug: false, trace: true },
            ..Settings::default()
        };
        let enabled = |target, level| {
            settings.shows(&Metadata::builder().target(target).level(level).build())
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
