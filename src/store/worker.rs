//! The thread that owns a Store: groups commits, syncs once, reports back.
//!
//! Commits keep their order. Reads are served between them: at most a few after each commit, so
//! that neither kind starves the other. A commit whose outcome is unknown ends the thread, whatever
//! the cause: only a store knows that nothing of a part is there, and says so in its report.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError};

use crate::base::epoch::Epoch;
use crate::base::id::Ticket;
use crate::base::limits;
use crate::base::meters::StoreMeters;
use crate::base::pulse::Pulse;
use crate::base::record::{Batch, FetchRequest, MessageRecord, StoreAnswer, StoreRead};
use crate::base::time::Instant;
use crate::base::world;
use crate::store::encryption::notice::{self, Look};
use crate::store::metering::{self, timed};
use crate::store::progress::{self, Working};
use crate::store::{Inventory, OutcomeUnknown, Remedy, Store, StoreError, Wanted};

/// Reads served after one commit while another commit waits.
const READS_BETWEEN_COMMITS_MAX: usize = 8;

/// How soon after a commit the store is asked what became due by it; shorter would look for
/// expired messages at every commit under load.
const MAINTAIN_AFTER_COMMIT: Duration = Duration::from_millis(100);

/// How soon a refused maintenance (a full disk) is tried again.
const MAINTAIN_AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// How soon channels are looked into: clients that come back after a take-over need the cores.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// What the worker is asked to do.
#[derive(Debug)]
pub enum Job {
    /// Write a batch.
    Commit {
        /// Comes back.
        ticket: Ticket,
        /// What to write.
        batch: Box<Batch>,
    },
    /// Read.
    Read(StoreRead),
    /// Read for somebody else than the engine.
    Peek(Peek),
    /// Say what is held, for somebody else than the engine.
    Inventory(Stocktaking),
    /// Look after a while whether the messages of these channels can be read, whenever nothing else
    /// is to be done; what cannot be read is told once.
    Look(Vec<Look>),
    /// Finish all commits that wait, close the store, end; answered with [`Report::Closed`].
    Close,
}

/// Messages that a person wants to see, read between commits as those of a replay are.
pub struct Peek {
    /// Which.
    pub request: FetchRequest,
    /// Gets them, or why not; must not block.
    pub done: Box<dyn FnOnce(Result<Vec<MessageRecord>, String>) + Send>,
}

impl fmt::Debug for Peek {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Peek").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Who wants to know what a share holds beside messages.
pub struct Stocktaking {
    /// What of it.
    pub wanted: Wanted,
    /// Gets it, or why not; must not block.
    pub done: Box<dyn FnOnce(Result<Inventory, String>) + Send>,
}

impl fmt::Debug for Stocktaking {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Stocktaking").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// What the worker tells.
#[derive(Debug)]
pub enum Report {
    /// For the engine.
    Answer(StoreAnswer),
    /// For the log: maintenance was refused and will be tried again, or what was looked at cannot
    /// be read.
    Trouble {
        /// The line.
        text: String,
    },
    /// Nothing that is under way will be answered; the thread has ended.
    Failed {
        /// The line for the log.
        text: String,
        /// Step down, or stop for good.
        remedy: Remedy,
    },
    /// Everything is written and synced; the thread has ended.
    Closed,
}

/// What a worker starts from.
pub struct WorkerSettings {
    /// The thread's name, at most 15 bytes.
    pub name: String,
    /// Under which epoch it writes.
    pub epoch: Epoch,
    /// How many workers the process has.
    pub loops: u16,
    /// Where its progress is seen.
    pub pulse: Arc<Pulse>,
    /// Where its work is counted.
    pub meters: Arc<StoreMeters>,
}

/// A running worker. Dropping it without [`Job::Close`] ends the thread without closing the store.
pub struct Worker {
    jobs: Jobs,
    pulse: Arc<Pulse>,
    /// `None` where somebody turns the [`Unthreaded`] side by hand.
    thread: Option<JoinHandle<()>>,
}

/// The way into the worker's mailbox. The worker parks where it waits: the queue's own waiting
/// spins and yields first, and on a busy machine a thread that yields comes after all others.
struct Jobs {
    queue: Option<Sender<Job>>,
    reader: Thread,
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.queue = None;
        self.reader.unpark();
    }
}

/// Starts the thread of one share; `report` must not block.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn(
    store: Box<dyn Store>,
    settings: WorkerSettings,
    report: impl FnMut(Report) + Send + 'static,
) -> io::Result<Worker> {
    let name = settings.name.clone();
    let (queue, pulse, task) = Task::begin(store, settings, report);
    let own = Arc::clone(&pulse);
    let work = move || {
        let _working = Working::begin(pulse);
        // Ends before its pulse does: closing files can take long too.
        let mut task = task;
        task.run();
    };
    let thread = thread::Builder::new().name(name).spawn(work)?;
    let jobs = Jobs { queue: Some(queue), reader: thread.thread().clone() };
    Ok(Worker { jobs, pulse: own, thread: Some(thread) })
}

/// The worker's own side where it has no thread: a simulation turns it by hand.
pub struct Unthreaded(Task);

/// A worker without a thread of its own.
pub fn unthreaded(
    store: Box<dyn Store>,
    settings: WorkerSettings,
    report: impl FnMut(Report) + Send + 'static,
) -> (Worker, Unthreaded) {
    let (queue, pulse, task) = Task::begin(store, settings, report);
    let jobs = Jobs { queue: Some(queue), reader: thread::current() };
    (Worker { jobs, pulse, thread: None }, Unthreaded(task))
}

impl Unthreaded {
    /// Whether a turn would find anything to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let task = &self.0;
        !task.is_idle()
            || !task.jobs.is_empty()
            || task.due_at().is_some_and(|at| at <= world::instant())
    }

    /// One turn of the thread's loop, which must have work; false once it has ended.
    pub fn turn(&mut self) -> bool {
        let turned = self.0.turn();
        turned.map_err(|ended| self.0.end(ended)).is_ok()
    }
}

impl Worker {
    /// Puts a job into the mailbox; never blocks. A worker that has ended takes and forgets it:
    /// its last report said so.
    ///
    /// # Errors
    /// Gives the job back when the mailbox is full: the caller tries again after a report.
    pub fn try_submit(&self, job: Job) -> Result<(), Box<Job>> {
        let Some(queue) = &self.jobs.queue else {
            unreachable!("it is taken out where it is dropped");
        };
        self.pulse.expect();
        match queue.try_send(job) {
            Ok(()) => {
                self.jobs.reader.unpark();
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(job)) => Err(Box::new(job)),
        }
    }

    /// Waits until the thread has ended, without asking it to.
    pub fn join(self) {
        drop(self.jobs);
        // A panic has ended the process, so a thread never ends by one.
        let _ = self.thread.map(JoinHandle::join);
    }
}

/// Why the loop ends.
enum Ended {
    Closed,
    Abandoned,
    Unknown(OutcomeUnknown),
    Failed(StoreError),
}

struct Task {
    store: Box<dyn Store>,
    epoch: Epoch,
    loops: u16,
    meters: Arc<StoreMeters>,
    report: Box<dyn FnMut(Report) + Send>,
    jobs: Receiver<Job>,
    commits: VecDeque<(Ticket, Box<Batch>)>,
    reads: VecDeque<StoreRead>,
    peeks: VecDeque<Peek>,
    inventories: VecDeque<Stocktaking>,
    looks: VecDeque<Look>,
    look_at: Instant,
    is_closing: bool,
    maintain_at: Option<Instant>,
}

impl Task {
    fn begin(
        store: Box<dyn Store>,
        settings: WorkerSettings,
        report: impl FnMut(Report) + Send + 'static,
    ) -> (Sender<Job>, Arc<Pulse>, Self) {
        let (queue, jobs) = crossbeam_channel::bounded(limits::WORKER_JOBS_MAX);
        let task = Self {
            store,
            epoch: settings.epoch,
            loops: settings.loops,
            meters: settings.meters,
            report: Box::new(report),
            jobs,
            commits: VecDeque::new(),
            reads: VecDeque::new(),
            peeks: VecDeque::new(),
            inventories: VecDeque::new(),
            looks: VecDeque::new(),
            look_at: Instant(0),
            is_closing: false,
            maintain_at: Some(world::instant()),
        };
        // From now on, so that nobody believes that no worker runs before its thread has begun.
        settings.pulse.rest();
        (queue, settings.pulse, task)
    }

    fn run(&mut self) {
        metering::adopt(Arc::clone(&self.meters));
        loop {
            if let Err(ended) = self.turn() {
                return self.end(ended);
            }
        }
    }

    fn end(&mut self, ended: Ended) {
        match ended {
            Ended::Closed => (self.report)(Report::Closed),
            Ended::Abandoned => (),
            Ended::Unknown(error) => self.fail(&error, error.remedy()),
            Ended::Failed(error) => self.fail(&error, error.remedy()),
        }
    }

    fn fail(&mut self, error: &dyn Error, remedy: Remedy) {
        (self.report)(Report::Failed { text: error.to_string(), remedy });
    }

    /// One commit, a few reads, what is due; waits first if there is nothing to do.
    fn turn(&mut self) -> Result<(), Ended> {
        self.receive()?;
        progress::note();
        if let Some((ticket, batch)) = self.commits.pop_front() {
            self.commit(ticket, batch).map_err(Ended::Unknown)?;
        }
        for _ in 0..READS_BETWEEN_COMMITS_MAX {
            let Some(read) = self.reads.pop_front() else {
                break;
            };
            self.read(read).map_err(Ended::Failed)?;
        }
        if let Some(peek) = self.peeks.pop_front() {
            self.peek(peek).map_err(Ended::Failed)?;
        }
        if let Some(Stocktaking { wanted, done }) = self.inventories.pop_front() {
            done(or_text(self.store.inventory(&wanted)).map_err(Ended::Failed)?);
        }
        if self.maintain_at.is_some_and(|at| at <= world::instant()) {
            self.maintain().map_err(Ended::Failed)?;
        }
        if self.is_idle() && self.look_at <= world::instant() {
            self.look();
        }
        if self.is_closing && self.commits.is_empty() {
            self.store.close().map_err(Ended::Failed)?;
            return Err(Ended::Closed);
        }
        Ok(())
    }

    /// Whether nothing is left of what was taken out of the mailbox.
    fn is_idle(&self) -> bool {
        self.commits.is_empty()
            && self.reads.is_empty()
            && self.peeks.is_empty()
            && self.inventories.is_empty()
            && !self.is_closing
    }

    /// When there is something to do though nobody asks.
    fn due_at(&self) -> Option<Instant> {
        let look_at = (!self.looks.is_empty()).then_some(self.look_at);
        self.maintain_at.into_iter().chain(look_at).min()
    }

    /// Takes everything out of the mailbox; blocks while nothing at all is to be done.
    fn receive(&mut self) -> Result<(), Ended> {
        if self.is_idle() {
            progress::rest();
            let waited = self.wait();
            progress::note();
            match waited {
                Ok(job) => self.sort(job),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Ended::Abandoned),
            }
        }
        // The mailbox is bounded, and so is what is taken out of it in one turn.
        let taken_max = limits::MAILBOX_LEN_MAX - self.commits.len().min(limits::MAILBOX_LEN_MAX);
        let others = self.reads.len() + self.peeks.len() + self.inventories.len();
        for _ in 0..taken_max.saturating_sub(others) {
            match self.jobs.try_recv() {
                Ok(job) => self.sort(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if self.is_closing => break,
                Err(TryRecvError::Disconnected) => return Err(Ended::Abandoned),
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<Job, RecvTimeoutError> {
        loop {
            match self.jobs.try_recv() {
                Ok(job) => return Ok(job),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => (),
            }
            let Some(at) = self.due_at() else {
                thread::park();
                continue;
            };
            let pause = at.since(world::instant());
            if pause.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            thread::park_timeout(pause);
        }
    }

    fn sort(&mut self, job: Job) {
        match job {
            Job::Commit { ticket, batch } => self.commits.push_back((ticket, batch)),
            Job::Read(read) => self.reads.push_back(read),
            Job::Peek(peek) => self.peeks.push_back(peek),
            Job::Inventory(one) => self.inventories.push_back(one),
            Job::Look(looks) => {
                (self.looks, self.look_at) = (looks.into(), world::instant() + LOOK_AFTER);
            }
            Job::Close => self.is_closing = true,
        }
    }

    fn commit(&mut self, ticket: Ticket, batch: Box<Batch>) -> Result<(), OutcomeUnknown> {
        assert_bounded(&batch, self.loops);
        let messages = batch.channels.iter().map(|part| part.messages.len()).sum();
        self.meters.begins(messages, self.jobs.len() + self.commits.len() + self.reads.len());
        let report = timed(|meters| &meters.commit, || self.store.commit(self.epoch, &batch))?;
        self.answer(StoreAnswer::Committed { ticket, report, batch });
        let soon = world::instant() + MAINTAIN_AFTER_COMMIT;
        self.maintain_at = Some(self.maintain_at.map_or(soon, |at| at.min(soon)));
        Ok(())
    }

    /// A channel that cannot be read fails that read alone, even if it is damaged: others are
    /// served. Only the loss of the right to speak ends everything.
    fn read(&mut self, read: StoreRead) -> Result<(), StoreError> {
        let answer = match read {
            StoreRead::Fetch(request) => {
                let result = or_text(self.store.fetch(&request))?;
                StoreAnswer::Fetched { ticket: request.ticket, result }
            }
            StoreRead::FindTime { ticket, channel, at } => {
                let result = or_text(self.store.find_time(&channel, at))?;
                StoreAnswer::FoundTime { ticket, result }
            }
        };
        self.answer(answer);
        Ok(())
    }

    fn peek(&mut self, peek: Peek) -> Result<(), StoreError> {
        (peek.done)(or_text(self.store.fetch(&peek.request))?);
        Ok(())
    }

    /// One channel a turn: whoever comes meanwhile waits for no more.
    fn look(&mut self) {
        let Some(one) = self.looks.pop_front() else { return };
        if let Some(found) = notice::notice_of(self.store.as_mut(), &one) {
            self.looks.clear();
            (self.report)(Report::Trouble { text: found.text });
        }
    }

    fn answer(&mut self, answer: StoreAnswer) {
        (self.report)(Report::Answer(answer));
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        let now = world::now();
        match self.store.maintain(now) {
            Ok(maintained) => {
                self.maintain_at = maintained.next_in.map(|pause| now.at + pause);
                for (channel, state) in maintained.trimmed {
                    self.answer(StoreAnswer::Trimmed { channel, state });
                }
            }
            Err(error) if error.remedy() == Remedy::Refuse => {
                self.maintain_at = Some(now.at + MAINTAIN_AFTER_REFUSAL);
                (self.report)(Report::Trouble { text: error.to_string() });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// What is written and not synced stays within what a successor writes anew: one batch a worker is
/// under way.
fn assert_bounded(batch: &Batch, loops: u16) {
    let messages = batch.channels.iter().flat_map(|part| &part.messages);
    let (mut count, mut bytes) = (0, 0);
    for message in messages {
        count += 1;
        bytes += message.encoded.len().min(limits::UNSYNCED_MESSAGE_BYTES_MAX);
    }
    let bytes_max = limits::unsynced_share(limits::UNSYNCED_BYTES_MAX, loops);
    let count_max = limits::unsynced_share(limits::UNSYNCED_MESSAGES_MAX, loops);
    assert!(bytes <= bytes_max, "a batch of {bytes} bytes: at most {bytes_max}");
    assert!(count <= count_max, "a batch of {count} messages: at most {count_max}");
}

fn or_text<T>(result: Result<T, StoreError>) -> Result<Result<T, String>, StoreError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.remedy() == Remedy::StepDown => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::base::channel_limits::StoreLimits;
    use crate::base::id::{ChannelName, Sequence};
    use crate::base::record::{
        ChannelBatch, ChannelState, CommitReport, FetchRequest, Lifecycle, MessageRecord,
        RecoveredChannel,
    };
    use crate::base::time::{Now, WallTime};
    use crate::store::encryption::payload::DecryptError;
    use crate::store::{Action, Maintained, memory};

    /// Fails as told where a real store meets a disk; otherwise it is the store inside.
    struct Failing {
        inner: Box<dyn Store>,
        commits: VecDeque<Option<io::ErrorKind>>,
        fetches: VecDeque<Option<StoreError>>,
        maintains: VecDeque<StoreError>,
        closes: VecDeque<StoreError>,
    }

    fn io_error(action: Action, kind: io::ErrorKind) -> StoreError {
        let text = format!("{action:?} {kind}");
        StoreError::Io { action, path: "msgs.1.dat".into(), text, source: kind.into() }
    }

    impl Store for Failing {
        fn commit(&mut self, epoch: Epoch, batch: &Batch) -> Result<CommitReport, OutcomeUnknown> {
            match self.commits.pop_front().flatten() {
                Some(kind) => Err(io_error(Action::Sync, kind).into()),
                None => self.inner.commit(epoch, batch),
            }
        }
        fn fetch(&mut self, request: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError> {
            match self.fetches.pop_front().flatten() {
                Some(error) => Err(error),
                None => self.inner.fetch(request),
            }
        }
        fn find_time(&mut self, name: &ChannelName, at: WallTime) -> Result<Sequence, StoreError> {
            self.inner.find_time(name, at)
        }
        fn maintain(&mut self, now: Now) -> Result<Maintained, StoreError> {
            self.maintains.pop_front().map_or_else(|| self.inner.maintain(now), Err)
        }
        fn close(&mut self) -> Result<(), StoreError> {
            self.closes.pop_front().map_or_else(|| self.inner.close(), Err)
        }
    }

    /// Runs `jobs` through a worker over a store that fails as told; its reports until its end.
    fn in_memory() -> Failing {
        let opened = memory::open(&StoreLimits::default(), 1).unwrap();
        let inner = opened.shares.into_iter().next().unwrap();
        let (commits, fetches, maintains, closes) = Default::default();
        Failing { inner, commits, fetches, maintains, closes }
    }

    fn settings() -> WorkerSettings {
        let name = "store-0".into();
        WorkerSettings {
            name,
            epoch: Epoch(1),
            loops: 1,
            pulse: Arc::default(),
            meters: Arc::default(),
        }
    }

    fn reports(
        commits: Vec<Option<io::ErrorKind>>,
        fetches: Vec<Option<StoreError>>,
        jobs: Vec<Job>,
    ) -> Vec<Report> {
        let store = Failing { commits: commits.into(), fetches: fetches.into(), ..in_memory() };
        let (sender, receiver) = crossbeam_channel::unbounded();
        let report = move |report| sender.send(report).unwrap();
        let worker = spawn(Box::new(store), settings(), report).unwrap();
        for job in jobs {
            worker.try_submit(job).unwrap();
        }
        // Ends when the thread drops its sender.
        let reports = receiver.iter().collect();
        worker.join();
        reports
    }

    fn commit(ticket: u64, lifecycle: Lifecycle, sequences: &[u64]) -> Job {
        let message = |n: &u64| MessageRecord {
            sequence: Sequence(*n),
            timestamp: WallTime(1),
            encoded: bytes::Bytes::from_static(b"x"),
        };
        let messages = sequences.iter().map(message).collect();
        let channel = ChannelName::from("foo");
        let part = ChannelBatch { channel, lifecycle, messages, ..ChannelBatch::default() };
        let batch = Batch { channels: vec![part], durable: true, ..Batch::default() };
        Job::Commit { ticket: Ticket(ticket), batch: Box::new(batch) }
    }

    fn fetch(ticket: u64) -> Job {
        let channel = ChannelName::from("foo");
        let (count_max, bytes_max) = (10, 1_000);
        let ticket = Ticket(ticket);
        let request = FetchRequest { ticket, channel, from: Sequence(1), count_max, bytes_max };
        Job::Read(StoreRead::Fetch(request))
    }

    /// A report in few words; the state of a channel by its last sequence.
    fn brief(report: &Report) -> String {
        match report {
            Report::Answer(StoreAnswer::Committed { ticket, report, .. }) => {
                let outcome = &report.channels[0];
                let last = outcome.state.last;
                format!("committed {} {:?} last {last}", ticket.0, outcome.refused)
            }
            Report::Answer(StoreAnswer::Fetched { ticket, result: Ok(messages) }) => {
                format!("fetched {} {}", ticket.0, messages.len())
            }
            Report::Answer(StoreAnswer::Fetched { ticket, result: Err(text) }) => {
                format!("{} {text}", ticket.0)
            }
            Report::Answer(StoreAnswer::FoundTime { ticket, result }) => {
                format!("found {} {result:?}", ticket.0)
            }
            Report::Answer(StoreAnswer::Trimmed { channel, .. }) => format!("trimmed {channel}"),
            Report::Trouble { text } => format!("trouble {text}"),
            Report::Failed { remedy, .. } => format!("failed {remedy:?}"),
            Report::Closed => "closed".to_owned(),
        }
    }

    fn check(reports: &[Report], expected: &[&str]) {
        assert_eq!(reports.iter().map(brief).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn commits_keep_their_order_and_are_finished_before_a_close() {
        let jobs = vec![
            commit(1, Lifecycle::Create, &[1]),
            commit(2, Lifecycle::Keep, &[2]),
            commit(3, Lifecycle::Keep, &[3]),
            Job::Close,
        ];
        let expected =
            ["committed 1 None last 1", "committed 2 None last 2", "committed 3 None last 3"];
        check(&reports(vec![], vec![], jobs), &[&expected[..], &["closed"]].concat());
    }

    /// Goal: no failure of a commit becomes a refusal, not even a full disk: what of the batch is
    /// there is not known.
    #[test]
    fn a_commit_that_breaks_off_ends_everything_at_once() {
        let kinds =
            [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        for kind in kinds {
            let jobs = vec![
                commit(1, Lifecycle::Create, &[1]),
                commit(2, Lifecycle::Keep, &[2]),
                commit(3, Lifecycle::Keep, &[2]),
                Job::Close,
            ];
            let expected = ["committed 1 None last 1", "failed StepDown"];
            check(&reports(vec![None, Some(kind)], vec![], jobs), &expected);
        }
    }

    #[test]
    fn a_read_that_fails_fails_alone() {
        let unreadable = io_error(Action::Read, io::ErrorKind::Other);
        let fetches = vec![Some(unreadable), Some(StoreError::Corrupt("bad record".into()))];
        let found = reports(vec![], fetches, vec![fetch(1), fetch(2), fetch(3), Job::Close]);
        check(&found, &["1 Read other error", "2 bad record", "fetched 3 0", "closed"]);
    }

    /// Goal: a thread that does not begin with what it is given is seen to hang.
    #[test]
    fn work_that_is_handed_over_has_to_be_begun() {
        let settings = settings();
        let pulse = Arc::clone(&settings.pulse);
        let (worker, _task) = unthreaded(Box::new(in_memory()), settings, |_| ());
        let bound = Duration::from_secs(5);
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        assert_eq!(pulse.stalled_since(at(100), bound), None, "it rests");
        worker.try_submit(fetch(1)).unwrap();
        assert_eq!(pulse.stalled_since(at(101), bound), None, "it had no time yet");
        assert_eq!(pulse.stalled_since(at(106), bound), Some(at(101)));
    }

    /// Goal: the thread of a worker that nobody has any more ends at once, though it waits and has
    /// nothing to tidy.
    #[test]
    fn a_worker_that_is_dropped_ends_its_thread() {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let report = move |report| sender.send(report).unwrap();
        let worker = spawn(Box::new(in_memory()), settings(), report).unwrap();
        worker.try_submit(fetch(1)).unwrap();
        check(&[receiver.recv().unwrap()], &["fetched 1 0"]);
        // Long enough for it to wait for the next job.
        let waited = receiver.recv_timeout(Duration::from_millis(100));
        assert!(waited.is_err_and(|error| error.is_timeout()));
        drop(worker);
        let ended = receiver.recv_timeout(Duration::from_secs(20));
        assert!(ended.is_err_and(|error| error.is_disconnected()));
    }

    /// Goal: only a store that could be closed is told to be closed: a successor relies on that.
    #[test]
    fn a_store_that_cannot_be_closed_has_failed() {
        let broken = io_error(Action::Sync, io::ErrorKind::Other);
        let store = Failing { closes: [broken].into(), ..in_memory() };
        let (sender, receiver) = crossbeam_channel::unbounded();
        let (worker, mut task) =
            unthreaded(Box::new(store), settings(), move |report| sender.send(report).unwrap());
        worker.try_submit(Job::Close).unwrap();
        assert!(!task.turn());
        check(&receiver.try_iter().collect::<Vec<_>>(), &["failed StepDown"]);
    }

    /// Goal: nobody's commit waits for looks that only warn, and one warning is enough.
    #[test]
    fn a_channel_is_looked_into_when_nothing_else_is_to_be_done() {
        let last = Sequence(1);
        let state = ChannelState { first: last, last, message_count: 1, byte_count: 1 };
        let channels = ["foo", "bar", "baz"].map(|name| RecoveredChannel {
            channel: ChannelName::from(name),
            state,
            ..RecoveredChannel::default()
        });
        let looks = notice::looks(&channels, 1).pop().unwrap();
        let unreadable = || Some(DecryptError::Aes.into());
        let fetches = [None, None, unreadable(), unreadable()].into();
        let now = world::now();
        world::simulate(Some(now));
        let store = Failing { fetches, ..in_memory() };
        let (sender, receiver) = crossbeam_channel::unbounded();
        let (worker, mut task) =
            unthreaded(Box::new(store), settings(), move |report| sender.send(report).unwrap());
        let mut told = |has_work: bool, expected: &[&str]| {
            assert!(task.turn());
            let reports: Vec<Report> = receiver.try_iter().collect();
            let words = |report: &Report| brief(report).split(" (").next().map(str::to_owned);
            assert_eq!(reports.iter().filter_map(words).collect::<Vec<_>>(), expected);
            assert_eq!(task.has_work(), has_work);
        };
        worker.try_submit(Job::Look(looks)).unwrap();
        worker.try_submit(commit(1, Lifecycle::Create, &[1])).unwrap();
        worker.try_submit(commit(2, Lifecycle::Keep, &[2])).unwrap();
        told(true, &["committed 1 None last 1"]);
        told(false, &["committed 2 None last 2"]);
        world::simulate(Some(Now { at: now.at + LOOK_AFTER, ..now }));
        worker.try_submit(fetch(3)).unwrap();
        worker.try_submit(commit(4, Lifecycle::Keep, &[3])).unwrap();
        worker.try_submit(commit(5, Lifecycle::Keep, &[4])).unwrap();
        told(true, &["committed 4 None last 3", "fetched 3 3"]);
        told(true, &["committed 5 None last 4"]);
        let warning = "trouble The messages of channel bar cannot be decrypted with this key";
        told(false, &[warning]);
        world::simulate(None);
    }

    /// Goal: what cannot be tidied on a full disk is told once and tried again after a while;
    /// anything else that fails there ends the thread.
    #[test]
    fn tidying_that_is_refused_is_tried_again_later() {
        let full = io_error(Action::Append, io::ErrorKind::StorageFull);
        let broken = io_error(Action::Sync, io::ErrorKind::Other);
        let store = Failing { maintains: [full, broken].into(), ..in_memory() };
        let (sender, receiver) = crossbeam_channel::unbounded();
        let (_worker, mut task) =
            unthreaded(Box::new(store), settings(), move |report| sender.send(report).unwrap());
        let told = || receiver.try_iter().collect::<Vec<_>>();
        let at = |seconds: u64| {
            let (at, wall) = (Instant(seconds * 1_000_000_000), WallTime(0));
            world::simulate(Some(Now { at, wall }));
        };
        let begun_at = world::instant().0 / 1_000_000_000 + 1;
        at(begun_at);
        assert!(task.has_work() && task.turn());
        check(&told(), &["trouble Append no storage space"]);
        at(begun_at + 4);
        assert!(!task.has_work(), "not at once");
        at(begun_at + 5);
        assert!(task.has_work() && !task.turn());
        check(&told(), &["failed StepDown"]);
        world::simulate(None);
    }
}
