//! What a standby reads of the channels before it is needed, and whether that still holds.
//!
//! It reads, and makes durable what others wrote; it writes nothing, so a channel that needs a
//! repair is left to the take-over. The stamps of a channel's files are taken *before* they are
//! read: a take-over that finds the same stamps after it has raised the epoch would read the same.
//! So that it need not ask for thousands of stamps, the kernel is told to watch the files; stamps
//! are compared once they are watched, and by the take-over only where they are not watched.
//! Where stamps and syncs are not known to be reliable (network file systems) nothing is believed,
//! and there is no survey.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::base::limits::SURVEY_WATCHES_MAX;
use crate::base::time::WallTime;
use crate::base::world;
use crate::store::file::disk::{Disk, Folder, Stamp};
use crate::store::file::format::{ChannelFile, Crc, channel_file, replacement_epoch};
use crate::store::file::options::FileOptions;
use crate::store::file::recovery::{FoundChannel, Recovery};
use crate::store::file::reserve::Reserve;
use crate::store::file::watch::{Changes, Watch, WatchId};

/// A channel is read once it was still for so long. One that is written all the time would have to
/// be read again anyway, and two changes within one tick of the kernel's clock leave one stamp.
const STILL_FOR: Duration = Duration::from_millis(500);
/// Shortest pause between two looks at all channels.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The pause in times of what the look before it took: a fiftieth of one core at most.
const PAUSE_FACTOR: u32 = 50;
/// When watches that served are ended: a take-over is over by then. Not much later, as a process
/// that is killed frees them before its lock.
const WATCH_END_AFTER: Duration = Duration::from_millis(200);

/// One channel as it was read.
pub struct Seen {
    found: FoundChannel,
    folder: Stamp,
    files: Vec<(Vec<u8>, Stamp)>,
    is_synced: bool,
    /// The kernel watches its files since before the stamps were last compared.
    is_watched: bool,
}

/// What is known of the channels, by name, and what the kernel tells of them.
#[derive(Default)]
struct Known {
    /// Boxed: a take-over moves them several times.
    channels: BTreeMap<Vec<u8>, Box<Seen>>,
    /// `None` where the system gives no watch.
    watch: Option<Watch>,
    watched: Watched,
}

/// The channel of each thing that is watched.
type Watched = BTreeMap<WatchId, Arc<[u8]>>;

impl Known {
    /// Learns what has changed since the last call.
    fn hear(&mut self) {
        let Some(watch) = &self.watch else { return };
        let Ok(Changes::Of(changed)) = watch.changes() else {
            self.watched.clear();
            self.channels.values_mut().for_each(|seen| seen.is_watched = false);
            return;
        };
        for name in changed.iter().filter_map(|id| self.watched.remove(id)) {
            if let Some(seen) = self.channels.get_mut(&name[..]) {
                seen.is_watched = false;
            }
        }
    }

    /// Begins to watch all that was read of a channel; false where that is not possible.
    fn watch(&mut self, name: &[u8], seen: &Seen) -> bool {
        let Some(watch) = &self.watch else { return false };
        if SURVEY_WATCHES_MAX < self.watched.len() + seen.files.len() {
            return false;
        }
        let channel: Arc<[u8]> = name.into();
        let paths = seen.files.iter().map(|(file, _)| below(name, file));
        for path in std::iter::once(name.to_vec()).chain(paths) {
            let Ok(id) = watch.add(&path) else { return false };
            self.watched.insert(id, Arc::clone(&channel));
        }
        true
    }
}

/// Everything that was read, for the take-over.
pub struct Survey {
    known: Known,
    /// The thread that looked, which ends the watch.
    thread: Sender<Word>,
    /// The root, open since then: its sync reports every failure since, whoever was told before.
    pub root: Box<dyn Folder>,
    /// When it was opened.
    pub opened_at: WallTime,
}

impl Survey {
    /// One look at everything, by the caller's thread; `None` where nothing could be believed.
    ///
    /// # Errors
    /// When the root cannot be read, or the file system cannot be synced.
    pub fn take(disk: &dyn Disk, options: &FileOptions, now: WallTime) -> io::Result<Option<Self>> {
        let Some((root, known)) = open(disk, options)? else {
            return Ok(None);
        };
        let (thread, words) = crossbeam_channel::bounded(WORDS_MAX);
        Rounds::new(disk, options, &known, words)?.round(now)?;
        let known = std::mem::take(&mut *hold(&known));
        Ok(Some(Self { known, thread, root, opened_at: now }))
    }

    /// How many of them there are.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.known.channels.len()
    }

    /// Whether a channel was read.
    #[must_use]
    pub fn has_seen(&self, name: &[u8]) -> bool {
        self.known.channels.contains_key(name)
    }

    /// Forgets all channels.
    pub fn forget(&mut self) {
        self.known.channels.clear();
    }

    /// The channels by name, with what the kernel has told of them: to be called when nobody else
    /// may write any more.
    pub fn take_channels(&mut self) -> BTreeMap<Vec<u8>, Box<Seen>> {
        self.known.hear();
        let Known { channels, watch, watched } = std::mem::take(&mut self.known);
        if let Some(watch) = watch {
            // If the thread has ended, so does the watch now.
            let _ = self.thread.send(Word::End(watch, watched));
        }
        channels
    }
}

/// What the thread is told; after the first one it looks no more.
enum Word {
    /// A take-over has begun.
    Stop,
    /// The watch has served. The kernel takes milliseconds to end thousands of them: not while the
    /// take-over needs the cores. Nor is the table of what was watched taken apart then.
    End(Watch, Watched),
}

/// One of each is sent.
const WORDS_MAX: usize = 2;

impl Seen {
    /// Whether nothing has to be asked to know that it still holds.
    pub fn is_certain(&self) -> bool {
        self.is_watched
    }

    /// Reads a channel; `None` if it must be read later, or by whoever may repair it.
    fn look(
        root: &dyn Folder,
        recovery: &Recovery<'_>,
        name: &[u8],
        now: WallTime,
    ) -> Option<Self> {
        let is_still = |stamp: &Stamp| WallTime(stamp.changed_at) + STILL_FOR <= now;
        let folder = root.stamp(name).ok().filter(is_still)?;
        let mut files = Vec::new();
        for entry in root.folder(name).and_then(|folder| folder.list()).ok()? {
            let is_read = match channel_file(&entry.name) {
                ChannelFile::Data(_)
                | ChannelFile::Index(_)
                | ChannelFile::Subscriptions
                | ChannelFile::Purged(_) => true,
                ChannelFile::Removed(..) | ChannelFile::Deleted(_) | ChannelFile::Invalid => {
                    return None;
                }
                // Of a former epoch, perhaps: the take-over removes it.
                ChannelFile::Other if replacement_epoch(&entry.name).is_some() => return None,
                ChannelFile::Other => false,
            };
            if is_read && !entry.is_folder {
                let stamp = root.stamp(&below(name, &entry.name)).ok().filter(is_still)?;
                files.push((entry.name, stamp));
            }
        }
        files.shrink_to_fit();
        let mut found = recovery.channel(root, name).ok()?;
        // What the operator should know is told at the take-over; and what lies on another file
        // system, no sync of the root's makes durable.
        if !found.notices.is_empty() || found.is_elsewhere {
            return None;
        }
        found.folder = None;
        found.slices.shrink_to_fit();
        Some(Self { found, folder, files, is_synced: false, is_watched: false })
    }

    /// What was found and whether it is durable, if nothing in the folder has changed since.
    pub fn confirm(self, root: &dyn Folder, name: &[u8]) -> Option<(FoundChannel, bool)> {
        let holds = self.is_watched || self.holds(root, name);
        holds.then_some((self.found, self.is_synced))
    }

    /// Whether the stamps are the same.
    fn holds(&self, root: &dyn Folder, name: &[u8]) -> bool {
        let has = |path: &[u8], stamp: &Stamp| root.stamp(path).is_ok_and(|found| found == *stamp);
        has(name, &self.folder)
            && self.files.iter().all(|(file, stamp)| has(&below(name, file), stamp))
    }
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    [folder, b"/", name].concat()
}

type Shared = Arc<Mutex<Known>>;

/// The thread that looks at all channels again and again, as long as this lives.
pub struct Surveyor {
    known: Shared,
    root: Box<dyn Folder>,
    opened_at: WallTime,
    thread: Sender<Word>,
}

impl Surveyor {
    /// Starts it; `None` where nothing could be believed.
    ///
    /// # Errors
    /// When the root cannot be opened, or the system gives no thread.
    pub fn spawn(disk: &dyn Disk, options: &FileOptions) -> io::Result<Option<Self>> {
        let Some((root, known)) = open(disk, options)? else {
            return Ok(None);
        };
        let (sender, words) = crossbeam_channel::bounded(WORDS_MAX);
        let mut rounds = Rounds::new(disk, options, &known, words)?;
        // Not before both roots are open: only what fails later is told to them.
        let opened_at = world::now().wall;
        thread::Builder::new().name("surveyor".to_owned()).spawn(move || rounds.run())?;
        Ok(Some(Self { known, root, opened_at, thread: sender }))
    }

    /// What is known now. The thread is not waited for: it may be in the middle of a sync.
    #[must_use]
    pub fn finish(self) -> Survey {
        // If it has ended, it looks no more either.
        let _ = self.thread.send(Word::Stop);
        let known = std::mem::take(&mut *hold(&self.known));
        Survey { known, thread: self.thread, root: self.root, opened_at: self.opened_at }
    }
}

/// The root, if what it says can be believed, and nothing known yet.
fn open(disk: &dyn Disk, options: &FileOptions) -> io::Result<Option<(Box<dyn Folder>, Shared)>> {
    let root = disk.open_root(&options.root)?;
    if !root.can_sync_filesystem() {
        return Ok(None);
    }
    // Without watches the take-over compares stamps.
    let known = Known { watch: root.watch().ok(), ..Known::default() };
    Ok(Some((root, Arc::new(Mutex::new(known)))))
}

/// The only lock: held for moments, and by nobody else once the take-over has begun.
fn hold(known: &Shared) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Rounds {
    root: Box<dyn Folder>,
    options: FileOptions,
    crc: Crc,
    known: Shared,
    words: Receiver<Word>,
}

impl Rounds {
    fn new(
        disk: &dyn Disk,
        options: &FileOptions,
        known: &Shared,
        words: Receiver<Word>,
    ) -> io::Result<Self> {
        Ok(Self {
            root: disk.open_root(&options.root)?,
            options: options.clone(),
            crc: Crc::new(u32::try_from(options.crc_polynomial).unwrap_or(Crc::IEEE)),
            known: Arc::clone(known),
            words,
        })
    }

    fn run(&mut self) {
        loop {
            let now = world::now();
            // What cannot be listed, or was not synced, the take-over will meet.
            if self.round(now.wall).is_err() {
                return hold(&self.known).channels.clear();
            }
            let took = world::instant().since(now.at);
            let pause = PAUSE_MIN.max(took.saturating_mul(PAUSE_FACTOR));
            match self.words.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => (),
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Ok(Word::End(watch, watched)) = self.words.recv() {
            thread::park_timeout(WATCH_END_AFTER);
            drop((watch, watched));
        }
    }

    fn is_over(&self) -> bool {
        !self.words.is_empty()
    }

    /// Looks at each channel once: those that changed are read, if they are still.
    fn round(&mut self, now: WallTime) -> io::Result<()> {
        let entries = self.root.list()?.into_iter().filter(|entry| entry.is_folder);
        let names: BTreeSet<Vec<u8>> = entries.map(|entry| entry.name).collect();
        {
            let mut known = hold(&self.known);
            known.channels.retain(|name, _| names.contains(name));
            known.hear();
        }
        // Without a fence nothing is repaired, so nothing is needed.
        let reserve = Reserve::default();
        let recovery = Recovery {
            root_path: &self.options.root,
            crc: &self.crc,
            must_verify: self.options.crc,
            is_settled: false,
            doubt: None,
            fence: None,
            reserve: &reserve,
        };
        let mut is_new = false;
        for name in names {
            if self.is_over() {
                return Ok(());
            }
            // A change that is told while it is not in the table is heard in the next round.
            let before = hold(&self.known).channels.remove(&name);
            if let Some(seen) = self.look(before, &recovery, &name, now) {
                is_new |= !seen.is_synced;
                hold(&self.known).channels.insert(name, seen);
            }
        }
        if is_new && !self.is_over() {
            self.root.sync_filesystem()?;
            hold(&self.known).channels.values_mut().for_each(|seen| seen.is_synced = true);
        }
        Ok(())
    }

    /// One channel: what is known of it, if that still holds, or what is read now.
    fn look(
        &self,
        before: Option<Box<Seen>>,
        recovery: &Recovery<'_>,
        name: &[u8],
        now: WallTime,
    ) -> Option<Box<Seen>> {
        let root = self.root.as_ref();
        let mut seen = match before {
            Some(seen) if seen.is_watched || seen.holds(root, name) => seen,
            Some(_) | None => Box::new(Seen::look(root, recovery, name, now)?),
        };
        if !seen.is_watched {
            // What changed before the watch began shows in the stamps.
            seen.is_watched = hold(&self.known).watch(name, &seen) && seen.holds(root, name);
        }
        Some(seen)
    }
}
