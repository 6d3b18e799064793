//! The bounded queue between those who log and the one thread that writes
//!
//! A loop, a store worker or the lease keeper that logs must not wait for whoever reads the log: a
//! pipe that nobody empties, a full disk, a syslog server that hangs. So a line is put into a queue
//! and that is all; what does not fit is counted, and said as soon as there is room.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::recent;
use super::sink::Sink;
use super::zone::Zone;
use super::{Format, Tag, json_line, line};
use crate::base::limits::{LOG_BYTES_MAX, LOG_LINES_MAX};
use crate::base::time::WallTime;
use crate::base::world;

/// Places beyond [`LOG_LINES_MAX`]: for last lines, for questions whether all is written, and for
/// what several threads add at the same moment.
const RESERVED_PLACES: usize = 128;

/// What a queued line takes beside its text.
const LINE_BYTES: usize = 64;

/// One line that waits.
pub(super) struct Line {
    pub(super) at: WallTime,
    pub(super) tag: Tag,
    /// 0: none.
    pub(super) epoch: u64,
    /// With its prefix.
    pub(super) text: String,
}

enum Order {
    Write {
        line: Line,
        /// Lines that were lost since the last one that is queued.
        lost_before: u64,
    },
    /// Tells when everything before it is written.
    Flush(Sender<()>),
}

#[derive(Default)]
struct Counts {
    lines: AtomicUsize,
    bytes: AtomicUsize,
    lost: AtomicU64,
}

/// How lines look.
pub(super) struct Style {
    pub(super) timestamps: bool,
    pub(super) format: Format,
    pub(super) zone: Zone,
}

/// The way to the thread that writes. The thread ends, once it has written all, with its queue.
pub(super) struct Queue {
    orders: Sender<Order>,
    counts: Arc<Counts>,
}

impl Queue {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the machine refuses it.
    pub(super) fn start(sink: Sink, style: Style) -> io::Result<Self> {
        let (orders, receiver) = bounded(LOG_LINES_MAX + RESERVED_PLACES);
        let counts = Arc::new(Counts::default());
        let writer = Writer {
            orders: receiver,
            counts: Arc::clone(&counts),
            sink,
            style,
            pid: std::process::id(),
            failed: 0,
        };
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { orders, counts })
    }

    /// Puts a line into the queue, or counts it as lost. Never waits.
    pub(super) fn write(&self, line: Line) {
        let is_full = LOG_LINES_MAX <= self.counts.lines.load(Ordering::Relaxed)
            || LOG_BYTES_MAX <= self.counts.bytes.load(Ordering::Relaxed);
        if is_full {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            self.write_last(line);
        }
    }

    /// Puts a line into the queue that must not be lost for want of a place: the reason for the
    /// end of the process.
    pub(super) fn write_last(&self, line: Line) {
        let bytes = line.text.len() + LINE_BYTES;
        self.counts.lines.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        let lost_before = self.counts.lost.swap(0, Ordering::Relaxed);
        if self.orders.try_send(Order::Write { line, lost_before }).is_err() {
            self.counts.lines.fetch_sub(1, Ordering::Relaxed);
            self.counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.lost.fetch_add(lost_before + 1, Ordering::Relaxed);
        }
    }

    /// Waits until what was queued before is written, at most `within`; whether it is.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let (done, written) = bounded(1);
        self.orders.try_send(Order::Flush(done)).is_ok() && written.recv_timeout(within).is_ok()
    }
}

struct Writer {
    orders: Receiver<Order>,
    counts: Arc<Counts>,
    sink: Sink,
    style: Style,
    pid: u32,
    /// Lines that the sink could not write since the last time this was said.
    failed: u64,
}

impl Writer {
    fn run(mut self) {
        while let Ok(order) = self.orders.recv() {
            self.take(order);
            // What waits already leaves in the same write.
            while let Ok(order) = self.orders.try_recv() {
                self.take(order);
            }
            let lost = self.counts.lost.swap(0, Ordering::Relaxed);
            self.say_lost(lost);
            self.flush();
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Write { line, lost_before } => {
                self.say_lost(lost_before);
                self.write(&line);
                self.counts.lines.fetch_sub(1, Ordering::Relaxed);
                self.counts.bytes.fetch_sub(line.text.len() + LINE_BYTES, Ordering::Relaxed);
            }
            Order::Flush(done) => {
                self.flush();
                // Who asked may have given up waiting.
                let _ = done.send(());
            }
        }
    }

    fn say_lost(&mut self, lost: u64) {
        if lost != 0 {
            let why = "they came faster than they could be written";
            self.say(Tag::Warning, format!("{lost} line(s) of the log were lost: {why}"));
        }
    }

    fn say(&mut self, tag: Tag, text: String) {
        self.write(&Line { at: world::now().wall, tag, epoch: 0, text });
    }

    fn write(&mut self, queued: &Line) {
        recent::note(queued);
        let whole = self.shown(queued);
        let Line { at, tag, text, .. } = queued;
        let text = match self.style.format {
            Format::Text => text,
            Format::Json => &whole,
        };
        let zone = &self.style.zone;
        let written = self.sink.write(*tag, &whole, text, *at, || zone.suffix(world::now().wall));
        self.failed += written.failed;
        if let Some(backup) = written.backup {
            // Compat: the reference ends this one line with CR LF; pinned by
            // `a_file_that_grew_too_large_is_rotated`.
            let text = format!("Rotated log, backup saved as \"{}\"\r", backup.display());
            let at = world::now().wall;
            let whole = self.shown(&Line { at, tag: Tag::Info, epoch: 0, text });
            self.sink.append(&whole);
        }
    }

    /// As the sink gets it.
    fn shown(&self, queued: &Line) -> String {
        let has_time = self.style.timestamps;
        match self.style.format {
            Format::Json => json_line(self.pid, queued, has_time),
            Format::Text => {
                let stamp = has_time.then(|| self.style.zone.stamp(queued.at));
                line(self.pid, stamp.as_deref(), queued.tag, &queued.text)
            }
        }
    }

    fn flush(&mut self) {
        let failed_now = self.sink.flush();
        self.failed += failed_now;
        if failed_now != 0 || self.failed == 0 {
            return;
        }
        let failed = std::mem::take(&mut self.failed);
        self.say(Tag::Warning, format!("{failed} line(s) of the log could not be written"));
        self.failed += self.sink.flush();
        if self.failed != 0 {
            // That was not written either: it is said once something is.
            self.failed = failed;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::{Read, pipe};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const MOMENT: Duration = Duration::from_millis(20);

    fn style() -> Style {
        Style { timestamps: false, format: Format::Text, zone: Zone::utc() }
    }

    fn numbered(number: usize) -> Line {
        Line {
            at: WallTime(0),
            tag: Tag::Info,
            epoch: 0,
            text: format!("line {number} {:>200}", ""),
        }
    }

    /// Goal: a pipe that nobody reads holds up nobody who logs. What did not fit is counted, and
    /// said behind what fitted; the last line is there in any case.
    #[test]
    fn a_pipe_that_nobody_reads_holds_up_nobody() {
        let (mut reader, writer) = pipe().unwrap();
        let queue = Queue::start(Sink::stream(writer, false), style()).unwrap();
        let count = LOG_LINES_MAX * 3;
        (0..count).for_each(|number| queue.write(numbered(number)));
        queue.write_last(Line {
            at: WallTime(0),
            tag: Tag::Fatal,
            epoch: 0,
            text: "the end".to_owned(),
        });
        assert!(!queue.flush(MOMENT), "nobody has read anything");
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        assert!(queue.flush(PATIENCE), "somebody reads");
        drop(queue);
        let text = reading.join().unwrap().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let lost: Vec<usize> = lines
            .iter()
            .filter_map(|line| line.split_once(" line(s) of the log were lost"))
            .map(|(front, _)| front.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        let kept = lines.iter().filter(|line| line.contains("[INF] line ")).count();
        assert_eq!(lost.iter().sum::<usize>() + kept, count, "each is there or counted");
        assert!(LOG_LINES_MAX <= kept, "{kept} were kept");
        assert!(lines.last().unwrap().ends_with("[FTL] the end"), "{:?}", lines.last());
        assert!(lines[lines.len() - 2].contains("were lost"), "said where they are missing");
    }

    /// Goal: a named pipe without a reader holds up neither who logs nor who begins to log, and its
    /// first reader gets what waited.
    #[test]
    fn a_named_pipe_without_a_reader_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let settings = super::super::Settings { file: Some(path.clone()), ..Default::default() };
        let sink = super::super::open(&settings).unwrap_or_else(|error| panic!("{error}"));
        let queue = Queue::start(sink, style()).unwrap();
        queue.write(Line { at: WallTime(0), tag: Tag::Info, epoch: 0, text: "waits".to_owned() });
        assert!(!queue.flush(MOMENT), "nobody reads");
        let reading = thread::spawn(move || std::fs::read_to_string(path));
        assert!(queue.flush(PATIENCE));
        drop(queue);
        let text = reading.join().unwrap().unwrap();
        assert!(text.ends_with("[INF] waits\n"), "{text}");
    }

    /// Refuses everything until it is told to work.
    #[derive(Clone, Default)]
    struct Flaky {
        works: Arc<std::sync::atomic::AtomicBool>,
        taken: Arc<std::sync::Mutex<Vec<u8>>>,
    }

    impl io::Write for Flaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.works.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_could_not_be_written_are_said_once_something_is() {
        let flaky = Flaky::default();
        let queue = Queue::start(Sink::stream(flaky.clone(), false), style()).unwrap();
        for number in 0..3 {
            queue.write(numbered(number));
            assert!(queue.flush(PATIENCE));
        }
        flaky.works.store(true, Ordering::Relaxed);
        queue.write(numbered(3));
        assert!(queue.flush(PATIENCE));
        let text = String::from_utf8(flaky.taken.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("[INF] line 3").count(), 1, "{text}");
        assert_eq!(text.matches("[WRN] 3 line(s) of the log could not be written").count(), 1);
    }

    /// Goal: what waits is bounded in bytes too.
    #[test]
    fn large_lines_fill_the_queue_by_their_size() {
        let (reader, writer) = pipe().unwrap();
        let queue = Queue::start(Sink::stream(writer, false), style()).unwrap();
        let large = "x".repeat(LOG_BYTES_MAX / 16);
        for _ in 0..64 {
            let text = large.clone();
            queue.write(Line { at: WallTime(0), tag: Tag::Trace, epoch: 0, text });
        }
        let bytes = queue.counts.bytes.load(Ordering::Relaxed);
        assert!(bytes <= LOG_BYTES_MAX + large.len() + LINE_BYTES, "{bytes}");
        assert_ne!(queue.counts.lost.load(Ordering::Relaxed), 0);
        drop(reader);
    }
}
