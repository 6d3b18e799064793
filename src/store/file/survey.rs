//! What a standby reads of the channels before it is needed, and whether that still holds.
//!
//! It reads, and makes durable what others wrote; it writes nothing, so a channel that needs a
//! repair is left to the take-over. The stamps of a channel's files are taken *before* they are
//! read: a take-over that finds the same stamps after it has raised the epoch would read the same.
//! Where stamps and syncs are not known to be reliable (network file systems) nothing is believed,
//! and there is no survey.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};

use crate::base::time::WallTime;
use crate::base::world;
use crate::store::file::disk::{Disk, Folder, Stamp};
use crate::store::file::format::{ChannelFile, Crc, channel_file};
use crate::store::file::options::FileOptions;
use crate::store::file::recovery::{FoundChannel, Recovery};

/// A channel is read once it was still for so long. One that is written all the time would have to
/// be read again anyway, and two changes within one tick of the kernel's clock leave one stamp.
const STILL_FOR: Duration = Duration::from_secs(2);
/// Shortest pause between two looks at all channels.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// The pause in times of what the look before it took: a fiftieth of one core at most.
const PAUSE_FACTOR: u32 = 50;

/// One channel as it was read.
pub struct Seen {
    found: FoundChannel,
    folder: Stamp,
    files: Vec<(Vec<u8>, Stamp)>,
    is_synced: bool,
}

/// Everything that was read, for the take-over.
pub struct Survey {
    /// By name.
    pub channels: BTreeMap<Vec<u8>, Seen>,
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
        let (_alive, over) = crossbeam_channel::bounded(0);
        Rounds::new(disk, options, &known, over)?.round(now)?;
        let channels = std::mem::take(&mut *hold(&known));
        Ok(Some(Self { channels, root, opened_at: now }))
    }
}

impl Seen {
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
                ChannelFile::Data(_) | ChannelFile::Index(_) | ChannelFile::Subscriptions => true,
                ChannelFile::Removed(..) | ChannelFile::Invalid => return None,
                ChannelFile::Other => false,
            };
            if is_read && !entry.is_folder {
                let stamp = root.stamp(&below(name, &entry.name)).ok().filter(is_still)?;
                files.push((entry.name, stamp));
            }
        }
        files.shrink_to_fit();
        let mut found = recovery.channel(root, name).ok()?;
        // What the operator should know is told at the take-over.
        if !found.notices.is_empty() {
            return None;
        }
        found.folder = None;
        found.slices.shrink_to_fit();
        Some(Self { found, folder, files, is_synced: false })
    }

    /// What was found and whether it is durable, if nothing in the folder has changed since.
    pub fn confirm(self, root: &dyn Folder, name: &[u8]) -> Option<(FoundChannel, bool)> {
        self.holds(root, name).then_some((self.found, self.is_synced))
    }

    fn holds(&self, root: &dyn Folder, name: &[u8]) -> bool {
        let has = |path: &[u8], stamp: &Stamp| root.stamp(path).is_ok_and(|found| found == *stamp);
        has(name, &self.folder)
            && self.files.iter().all(|(file, stamp)| has(&below(name, file), stamp))
    }
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    [folder, b"/", name].concat()
}

type Known = Arc<Mutex<BTreeMap<Vec<u8>, Seen>>>;

/// The thread that looks at all channels again and again, as long as this lives.
pub struct Surveyor {
    known: Known,
    root: Box<dyn Folder>,
    opened_at: WallTime,
    /// Nothing is sent: its end ends the thread.
    _alive: Sender<()>,
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
        let (alive, over) = crossbeam_channel::bounded(0);
        let mut rounds = Rounds::new(disk, options, &known, over)?;
        // Not before both roots are open: only what fails later is told to them.
        let opened_at = world::now().wall;
        thread::Builder::new().name("surveyor".to_owned()).spawn(move || rounds.run())?;
        Ok(Some(Self { known, root, opened_at, _alive: alive }))
    }

    /// What is known now. The thread is not waited for: it may be in the middle of a sync.
    #[must_use]
    pub fn finish(self) -> Survey {
        let channels = std::mem::take(&mut *hold(&self.known));
        Survey { channels, root: self.root, opened_at: self.opened_at }
    }
}

/// The root, if what it says can be believed, and nothing known yet.
fn open(disk: &dyn Disk, options: &FileOptions) -> io::Result<Option<(Box<dyn Folder>, Known)>> {
    let root = disk.open_root(&options.root)?;
    Ok(root.can_sync_filesystem().then(|| (root, Known::default())))
}

/// The only lock: held for moments, and by nobody else once the take-over has begun.
fn hold(known: &Known) -> MutexGuard<'_, BTreeMap<Vec<u8>, Seen>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Rounds {
    root: Box<dyn Folder>,
    options: FileOptions,
    crc: Crc,
    known: Known,
    over: Receiver<()>,
}

impl Rounds {
    fn new(
        disk: &dyn Disk,
        options: &FileOptions,
        known: &Known,
        over: Receiver<()>,
    ) -> io::Result<Self> {
        Ok(Self {
            root: disk.open_root(&options.root)?,
            options: options.clone(),
            crc: Crc::new(u32::try_from(options.crc_polynomial).unwrap_or(Crc::IEEE)),
            known: Arc::clone(known),
            over,
        })
    }

    fn run(&mut self) {
        loop {
            let now = world::now();
            // What cannot be listed, or was not synced, the take-over will meet.
            if self.round(now.wall).is_err() {
                return hold(&self.known).clear();
            }
            let took = world::instant().since(now.at);
            let pause = PAUSE_MIN.max(took.saturating_mul(PAUSE_FACTOR));
            if self.over.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.over.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Looks at each channel once: those that changed are read, if they are still.
    fn round(&mut self, now: WallTime) -> io::Result<()> {
        let entries = self.root.list()?.into_iter().filter(|entry| entry.is_folder);
        let names: BTreeSet<Vec<u8>> = entries.map(|entry| entry.name).collect();
        hold(&self.known).retain(|name, _| names.contains(name));
        let recovery = Recovery {
            root_path: &self.options.root,
            crc: &self.crc,
            must_verify: self.options.crc,
            fence: None,
        };
        let root = self.root.as_ref();
        let mut is_new = false;
        for name in names {
            if self.is_over() {
                return Ok(());
            }
            let before = hold(&self.known).remove(&name);
            let seen = match before {
                Some(seen) if seen.holds(root, &name) => Some(seen),
                Some(_) | None => Seen::look(root, &recovery, &name, now),
            };
            if let Some(seen) = seen {
                is_new |= !seen.is_synced;
                hold(&self.known).insert(name, seen);
            }
        }
        if is_new && !self.is_over() {
            self.root.sync_filesystem()?;
            hold(&self.known).values_mut().for_each(|seen| seen.is_synced = true);
        }
        Ok(())
    }
}
