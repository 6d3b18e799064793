//! The epoch files of a shared directory: names, layout, claiming, reading; the fence over them.
//!
//! Epoch N is the file `.stanby.epoch.<N>` under the root. It is made beforehand, complete, locked
//! by its owner and synced, under the name `.stanby.claim.<server id>`; to claim is one `link` and
//! one sync of the folder. Its lock says whether its owner lives. Layout, all of it text:
//!
//! | offset | size | field                                                                  |
//! |--------|------|------------------------------------------------------------------------|
//! | 0      | 21   | counter of signs of life, decimal, `\n`                                |
//! | 21     | 21   | since when, Unix nanoseconds, decimal, `\n`                            |
//! | 42     | 2    | `h` while held, `s` while held by one whose store makes no progress,   |
//! |        |      | `r` when released with everything synced; `\n`                         |
//! | 44     | 21   | at `s`: since when, boot-time nanoseconds; at `r`: when the lock file  |
//! |        |      | was last opened by a Go server, as seen then                           |
//! | 65     | …    | the owner as one JSON object, `\n`                                     |
//!
//! Old ones are removed in ascending order only, so that at every moment a superseded owner finds
//! its own file gone or the one after it there: [`FileFence`] needs no listing of the folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, RenameFlags, fcntl, renameat2};
use nix::libc;

use crate::base::epoch::{Epoch, Fence, FenceError};
use crate::base::files::{self, Access, Links, NotRegular};
use crate::base::reserve;
use crate::base::time::{Instant, WallTime};
use crate::election::lease::{Holder, Owner, Writer};

/// The Go server's lock file. Never written to, never truncated by us.
pub const LOCK_FILE: &str = ".rootdir.lck";

const EPOCH_PREFIX: &str = ".stanby.epoch.";
const CLAIM_PREFIX: &str = ".stanby.claim.";

const SINCE_AT: u64 = 21;
const MARK_AT: u64 = 42;
const OWNER_AT: usize = 65;
const HELD: u8 = b'h';
const STUCK: u8 = b's';
const RELEASED: u8 = b'r';

/// Bytes read of an epoch file; ours are below 2 KiB.
const FILE_LEN_MAX: u64 = 16 * 1024;
/// Larger than what we write, so that one read takes it all.
const READ_LEN: usize = 2 * 1024;

/// What lies under a root, as far as an election cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// All epochs that there are files of.
    pub epochs: BTreeSet<Epoch>,
    /// Names of files made for claims.
    pub claims: Vec<String>,
    /// The highest epoch whose name is taken by what is no regular file, so by nobody of ours.
    pub foreign: Option<Epoch>,
    /// Whether there is anything that is not ours.
    pub has_store: bool,
}

impl Listing {
    /// The newest epoch; who asks is about to claim the next one.
    ///
    /// # Errors
    /// [`NotRegular`], when something foreign has the name of a later one.
    pub fn newest(&self, root: &Path) -> io::Result<Option<Epoch>> {
        let newest = self.epochs.last().copied();
        match self.foreign.filter(|foreign| newest < Some(*foreign)) {
            Some(foreign) => {
                let path = epoch_path(root, foreign);
                Err(NotRegular::error(&path, fs::symlink_metadata(&path)?.file_type()))
            }
            None => Ok(newest),
        }
    }
}

/// The file of `epoch`.
#[must_use]
pub fn epoch_path(root: &Path, epoch: Epoch) -> PathBuf {
    root.join(format!("{EPOCH_PREFIX}{epoch}"))
}

fn claim_path(root: &Path, server_id: &str) -> PathBuf {
    root.join(format!("{CLAIM_PREFIX}{server_id}"))
}

/// Lists the root through a fresh open of it.
///
/// # Errors
/// Those of reading a folder.
pub fn list(root: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            listing.has_store = true;
            continue;
        };
        // What vanishes meanwhile was a file.
        let is_file = || entry.file_type().map_or(true, |found| found.is_file());
        if let Some(epoch) = name.strip_prefix(EPOCH_PREFIX) {
            match parse_epoch(epoch) {
                Some(epoch) if is_file() => drop(listing.epochs.insert(epoch)),
                foreign => listing.foreign = listing.foreign.max(foreign),
            }
        } else if name.starts_with(CLAIM_PREFIX) {
            listing.claims.extend(is_file().then(|| name.to_owned()));
        } else if name != LOCK_FILE {
            listing.has_store = true;
        }
    }
    Ok(listing)
}

fn parse_epoch(text: &str) -> Option<Epoch> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(Epoch(number))
}

/// What the file of `epoch` says; `None` if there is none. A file that says nothing legible (its
/// owner died while it was made) has a holder without a name.
///
/// # Errors
/// Those of opening and reading.
pub fn read_holder(root: &Path, epoch: Epoch) -> io::Result<Option<Holder>> {
    let Some(bytes) = read_bytes(&epoch_path(root, epoch))? else {
        return Ok(None);
    };
    let record = bytes.get(OWNER_AT..).and_then(|json| serde_json::from_slice(json).ok());
    let writer = record.as_ref().map(Writer::of_record).unwrap_or_default();
    let nameless = Holder { epoch, writer, ..Holder::default() };
    Ok(Some(decode_holder(epoch, &bytes).unwrap_or(nameless)))
}

fn read_bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match files::open(path, Access::Read, Links::Refused) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::with_capacity(READ_LEN);
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn decode_holder(epoch: Epoch, bytes: &[u8]) -> Option<Holder> {
    let owner: Owner = serde_json::from_slice(bytes.get(OWNER_AT..)?).ok()?;
    let number = |from: usize| std::str::from_utf8(bytes.get(from..from + 20)?).ok()?.parse().ok();
    let marked = |mark: u8| (bytes.get(42) == Some(&mark)).then(|| number(44)).flatten();
    Some(Holder {
        server_id: owner.server_id,
        host: owner.host,
        pid: owner.pid,
        epoch,
        since: WallTime(i64::try_from(number(21)?).ok()?),
        addresses: owner.addresses,
        control_path: owner.control_path,
        silence_max: Duration::from_millis(owner.silence_max_ms),
        writer: owner.writer,
        counter: number(0)?,
        stuck_since: marked(STUCK).map(Instant),
        released_at: marked(RELEASED),
    })
}

fn encode_owner(owner: &Owner) -> Vec<u8> {
    let held = char::from(HELD);
    let mut bytes = format!("{:020}\n{:020}\n{held}\n{:020}\n", 0, 0, 0).into_bytes();
    let json = serde_json::to_vec(owner).expect("strings and numbers are always JSON");
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    bytes
}

/// What the file of `holder`'s epoch says now, if that is still the newest; `None` if it is not, or
/// if that would take a listing to tell. As [`FileFence::check`], without a listing.
///
/// # Errors
/// Those of opening and reading.
pub fn reread_newest(root: &Path, holder: &Holder) -> io::Result<Option<Holder>> {
    if is_taken(&epoch_path(root, holder.epoch.next()))? {
        return Ok(None);
    }
    let found = read_holder(root, holder.epoch)?;
    Ok(found.filter(|found| found.server_id == holder.server_id))
}

/// Whether there is anything of that name, be it a link that leads nowhere.
///
/// # Errors
/// Those of looking.
pub fn is_taken(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file made for a claim: complete, synced, and locked by us as long as it is open.
#[derive(Debug)]
pub struct Claim {
    file: File,
    path: PathBuf,
    /// Which file of the reserve it was, on a full disk.
    reserved: Option<PathBuf>,
}

/// An epoch that is ours; its lock is held as long as this lives.
#[derive(Debug)]
pub struct Owned {
    file: File,
    path: PathBuf,
    counter: u64,
}

impl Claim {
    /// Makes the file that will be the next epoch's.
    ///
    /// # Errors
    /// Those of creating, locking and syncing it.
    pub fn prepare(root: &Path, owner: &Owner) -> io::Result<Self> {
        Self::prepare_at(claim_path(root, &owner.server_id), owner)
    }

    fn prepare_at(path: PathBuf, owner: &Owner) -> io::Result<Self> {
        remove_if_there(&path)?;
        match create_locked(&path, owner) {
            Ok(file) => Ok(Self { file, path, reserved: None }),
            Err(error) if reserve::is_no_room(&error) => {
                // Made, perhaps, but nothing could be written to it.
                remove_if_there(&path)?;
                Self::from_reserve(path, owner)?.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// One that has an inode and a block already; `None` if there is none.
    fn from_reserve(path: PathBuf, owner: &Owner) -> io::Result<Option<Self>> {
        let root = path.parent().unwrap_or(Path::new("."));
        for number in 0..reserve::FILE_COUNT {
            let from = root.join(reserve::file_name(number));
            if fs::rename(&from, &path).is_err() {
                continue;
            }
            match overwrite_locked(&path, &encode_owner(owner)) {
                Ok(file) => return Ok(Some(Self { file, path, reserved: Some(from) })),
                Err(error) => {
                    let _ = fs::rename(&path, &from);
                    // One without a block; another may have one.
                    if !reserve::is_no_room(&error) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Makes such a file for no other purpose than to see that it can be written and synced.
    ///
    /// # Errors
    /// As [`Claim::prepare`].
    pub fn prove(root: &Path, owner: &Owner) -> io::Result<()> {
        let path = claim_path(root, &format!("{}.proof", owner.server_id));
        let claim = Self::prepare_at(path, owner)?;
        files::open_folder(root)?.sync_all()?;
        claim.discard();
        Ok(())
    }

    /// Claims `epoch`: true if it is ours now, though it need not be the newest any more. A disk
    /// without room for a second name gives the file that name instead of its own, if it is free.
    ///
    /// # Errors
    /// Those of linking and of syncing the folder; whether it was claimed is then not known.
    pub fn link(&self, root: &Path, epoch: Epoch) -> io::Result<bool> {
        let name = epoch_path(root, epoch);
        let linked = match fs::hard_link(&self.path, &name) {
            Err(error) if reserve::is_no_room(&error) => rename_new(&self.path, &name, error),
            done => done,
        };
        match linked {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(error),
        }
        files::open_folder(root)?.sync_all()?;
        Ok(true)
    }

    /// Leaves nothing behind, and gives back what it has taken.
    pub fn discard(self) {
        let Self { file, path, reserved } = self;
        // Nobody may find its lock in the reserve.
        drop(file);
        // If it stays, the next active removes it.
        let _ = match reserved {
            Some(reserved) => fs::rename(&path, reserved),
            None => fs::remove_file(&path),
        };
    }

    /// The claimed epoch, after [`Claim::link`].
    #[must_use]
    pub fn into_owned(self, root: &Path, epoch: Epoch) -> Owned {
        // The name has served; if it stays, this active removes it as soon as it has settled.
        let _ = fs::remove_file(&self.path);
        Owned { file: self.file, path: epoch_path(root, epoch), counter: 0 }
    }
}

/// Claims `epoch` on a file system without links. `None` if somebody else has it.
///
/// # Errors
/// As [`Claim::link`].
pub fn claim_by_create(root: &Path, epoch: Epoch, owner: &Owner) -> io::Result<Option<Owned>> {
    let path = epoch_path(root, epoch);
    let file = match create_locked(&path, owner) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(error),
    };
    files::open_folder(root)?.sync_all()?;
    Ok(Some(Owned { file, path, counter: 0 }))
}

fn create_locked(path: &Path, owner: &Owner) -> io::Result<File> {
    let file = files::open(path, Access::CreateNew(0o666), Links::Refused)?;
    let bytes = encode_owner(owner);
    write_locked(&file, &bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Takes the lock of a file that nobody else knows yet, and writes it.
fn write_locked(file: &File, bytes: &[u8]) -> io::Result<()> {
    if !try_lock(file)? {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "a new file is locked already"));
    }
    file.write_all_at(bytes, 0)
}

/// Takes the lock of a file of the reserve, and writes it over: its block stays its own.
fn overwrite_locked(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let file = files::open(path, Access::Update, Links::Refused)?;
    write_locked(&file, bytes)?;
    file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    file.sync_all()?;
    Ok(file)
}

/// Gives a file another name, if that is free: for want of a link, which has failed so.
fn rename_new(from: &Path, to: &Path, unlinked: io::Error) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system that cannot do it.
        Err(Errno::EINVAL | Errno::ENOSYS) => Err(unlinked),
        done => Ok(done?),
    }
}

impl Owned {
    /// Writes down since when; not synced: it is for readers only.
    ///
    /// # Errors
    /// Those of writing.
    pub fn begin(&mut self, since: WallTime) -> io::Result<()> {
        let text = format!("{:020}", since.0.max(0));
        self.file.write_all_at(text.as_bytes(), SINCE_AT)
    }

    /// Gives a sign of life. Through a fresh open, because network file systems send what was
    /// written when a file is closed.
    ///
    /// # Errors
    /// Those of opening and writing.
    pub fn renew(&mut self) -> io::Result<()> {
        self.counter += 1;
        let file = open_to_update(&self.path)?;
        file.write_all_at(format!("{:020}", self.counter).as_bytes(), 0)
    }

    /// Marks that the store of this holder makes no progress since then, or that it does again;
    /// through a fresh open, as [`Owned::renew`], and not synced.
    ///
    /// # Errors
    /// Those of opening and writing.
    pub fn mark_stuck(&self, since: Option<Instant>) -> io::Result<()> {
        let mark = char::from(if since.is_some() { STUCK } else { HELD });
        let since = since.map_or(0, |since| since.0);
        let file = open_to_update(&self.path)?;
        file.write_all_at(format!("{mark}\n{since:020}").as_bytes(), MARK_AT)
    }

    /// Marks that everything was synced before the release. A Go server that comes afterwards
    /// leaves no mark of its own but that it truncates the lock file, which sets its time:
    /// `lock_time` is that time now, in Unix nanoseconds.
    ///
    /// # Errors
    /// Those of writing and syncing.
    pub fn mark_released(&self, lock_time: u64) -> io::Result<()> {
        let mark = format!("{}\n{lock_time:020}", char::from(RELEASED));
        self.file.write_all_at(mark.as_bytes(), MARK_AT)?;
        self.file.sync_data()
    }
}

fn open_to_update(path: &Path) -> io::Result<File> {
    files::open(path, Access::Update, Links::Refused)
}

/// Opens the file of `epoch` so that its lock can be waited for.
///
/// # Errors
/// Those of opening.
pub fn open_to_wait(root: &Path, epoch: Epoch) -> io::Result<File> {
    open_to_update(&epoch_path(root, epoch))
}

/// Removes the epochs below `ours` in ascending order, up to the first whose owner lives, and
/// claims whose makers died. A hanging owner's epoch stays, so that who comes later knows of it;
/// what lies above it stays too, because a fence that finds its own file asks only for the next
/// one.
///
/// # Errors
/// The first failure; what is left goes with the next try.
pub fn clean(root: &Path, ours: Epoch) -> io::Result<()> {
    let listing = list(root)?;
    for epoch in listing.epochs.range(..ours) {
        let path = epoch_path(root, *epoch);
        if is_locked(&path)? {
            break;
        }
        remove_if_there(&path)?;
    }
    for name in &listing.claims {
        let path = root.join(name);
        // A claim that is not locked yet may be removed under its maker, who then makes it anew.
        if !is_locked(&path)? {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether somebody, here or elsewhere, has locked the file; a missing one is not locked.
///
/// # Errors
/// Those of opening, and of file systems without locks.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match files::open(path, Access::Read, Links::Refused) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut found = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

/// Takes the write lock on the whole file, if nobody has it. It conflicts with the Go server's
/// lock, belongs to this open file, and ends when the file is closed.
///
/// # Errors
/// Those of `fcntl`, but for "held by another".
pub fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Lets go of the write lock.
///
/// # Errors
/// When the file cannot be locked at all.
pub fn unlock(file: &File) -> io::Result<()> {
    let range = whole_file(libc::F_UNLCK);
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop).map_err(io::Error::from)
}

/// Takes the write lock on the whole file, however long that takes.
///
/// # Errors
/// Those of `fcntl`.
pub fn lock(file: &File) -> io::Result<()> {
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&whole_file(libc::F_WRLCK))) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A lock of that kind on the whole file.
pub(super) fn whole_file(kind: i32) -> libc::flock {
    let small = |number: i32| i16::try_from(number).expect("lock types and origins are small");
    libc::flock {
        l_type: small(kind),
        l_whence: small(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        // Required to be 0 for locks of an open file.
        l_pid: 0,
    }
}

/// The right to write under one epoch of a shared directory.
#[derive(Debug)]
pub struct FileFence {
    root: PathBuf,
    epoch: Epoch,
    owner: String,
    own_path: PathBuf,
    next_path: PathBuf,
    /// What stands in our file behind its counters, as it was when it was found to be ours: it
    /// never changes, and this is looked at after each sync.
    known: OnceLock<Vec<u8>>,
}

impl FileFence {
    /// The fence of `epoch`, which `owner` claimed.
    #[must_use]
    pub fn new(root: &Path, epoch: Epoch, owner: &str) -> Self {
        Self {
            root: root.to_owned(),
            epoch,
            owner: owner.to_owned(),
            own_path: epoch_path(root, epoch),
            next_path: epoch_path(root, epoch.next()),
            known: OnceLock::new(),
        }
    }

    fn is_ours(&self) -> io::Result<bool> {
        let mut file = match files::open(&self.own_path, Access::Read, Links::Refused) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; READ_LEN];
        let read_len = loop {
            match file.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                read => break read?,
            }
        };
        bytes.truncate(read_len);
        // What is as it was before ends there: it needs no second read.
        let is_known = |known: &Vec<u8>| Some(known.as_slice()) == bytes.get(OWNER_AT..);
        if self.known.get().is_some_and(is_known) {
            return Ok(true);
        }
        file.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
        let behind_counters = bytes.get(OWNER_AT..).unwrap_or_default();
        let holder = decode_holder(self.epoch, &bytes);
        let is_ours = holder.is_some_and(|holder| holder.server_id == self.owner);
        if is_ours {
            self.known.get_or_init(|| behind_counters.to_owned());
        }
        Ok(is_ours)
    }

    fn superseded(&self) -> FenceError {
        let listing = match list(&self.root) {
            Ok(listing) => listing,
            Err(error) => return FenceError::Unreadable(error),
        };
        let found = listing.epochs.last().copied().unwrap_or_default();
        let holder = read_holder(&self.root, found).ok().flatten().unwrap_or_default();
        FenceError::Superseded { ours: self.epoch, found, owner: holder.server_id }
    }
}

impl Fence for FileFence {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// First the next epoch, then our own: were both looked at the other way round, a successor's
    /// successor could remove both in between.
    fn check(&self) -> Result<(), FenceError> {
        match files::open(&self.next_path, Access::Read, Links::Refused) {
            Ok(_) => return Err(self.superseded()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(FenceError::Unreadable(error)),
        }
        if self.is_ours()? { Ok(()) } else { Err(self.superseded()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    fn owner(server_id: &str) -> Owner {
        Owner {
            server_id: server_id.to_owned(),
            host: "here".to_owned(),
            pid: 7,
            addresses: vec!["nats://here:4222".to_owned()],
            control_path: Some("/run/stanby.sock".to_owned()),
            silence_max_ms: 5_000,
            writer: Writer::this_release(),
        }
    }

    /// Claims `epoch` for `server_id`, as a keeper does.
    fn claim(root: &Path, server_id: &str, epoch: Epoch) -> Option<(Owned, FileFence)> {
        let claim = Claim::prepare(root, &owner(server_id)).unwrap();
        let is_ours = claim.link(root, epoch).unwrap();
        let fence = FileFence::new(root, epoch, server_id);
        is_ours.then(|| (claim.into_owned(root, epoch), fence))
    }

    #[test]
    fn an_epoch_file_tells_who_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let (mut owned, _) = claim(root.path(), "a", Epoch(3)).unwrap();
        owned.begin(WallTime(1_700_000_000_000_000_000)).unwrap();
        owned.renew().unwrap();
        owned.renew().unwrap();
        let mut expected = Holder {
            server_id: "a".to_owned(),
            host: "here".to_owned(),
            pid: 7,
            epoch: Epoch(3),
            since: WallTime(1_700_000_000_000_000_000),
            addresses: vec!["nats://here:4222".to_owned()],
            control_path: Some("/run/stanby.sock".to_owned()),
            silence_max: Duration::from_secs(5),
            writer: Writer::this_release(),
            counter: 2,
            stuck_since: None,
            released_at: None,
        };
        assert_eq!(read_holder(root.path(), Epoch(3)).unwrap(), Some(expected.clone()));
        owned.mark_stuck(Some(Instant(77))).unwrap();
        let stuck = Holder { stuck_since: Some(Instant(77)), ..expected.clone() };
        assert_eq!(read_holder(root.path(), Epoch(3)).unwrap(), Some(stuck));
        owned.mark_stuck(None).unwrap();
        assert_eq!(read_holder(root.path(), Epoch(3)).unwrap(), Some(expected.clone()));
        owned.mark_released(99).unwrap();
        expected.released_at = Some(99);
        assert_eq!(read_holder(root.path(), Epoch(3)).unwrap(), Some(expected));
        assert!(is_locked(&epoch_path(root.path(), Epoch(3))).unwrap());
        drop(owned);
        assert!(!is_locked(&epoch_path(root.path(), Epoch(3))).unwrap());
        assert_eq!(read_holder(root.path(), Epoch(4)).unwrap(), None);
    }

    #[test]
    fn an_epoch_is_locked_as_long_as_its_owner_lives() {
        let root = tempfile::tempdir().unwrap();
        let path = epoch_path(root.path(), Epoch(1));
        assert!(!is_locked(&path).unwrap());
        let owned = claim(root.path(), "a", Epoch(1)).unwrap();
        assert!(is_locked(&path).unwrap());
        drop(owned);
        assert!(!is_locked(&path).unwrap());
    }

    #[test]
    fn an_epoch_has_one_owner() {
        let root = tempfile::tempdir().unwrap();
        let first = claim(root.path(), "a", Epoch(1));
        assert!(claim(root.path(), "b", Epoch(1)).is_none());
        assert!(claim_by_create(root.path(), Epoch(1), &owner("c")).unwrap().is_none());
        assert!(claim_by_create(root.path(), Epoch(2), &owner("c")).unwrap().is_some());
        assert_eq!(
            first.unwrap().1.check().unwrap_err().to_string(),
            "epoch 1 was replaced: epoch 2 belongs to c"
        );
    }

    #[test]
    fn a_fence_sees_later_epochs_however_many_were_cleaned_away() {
        let root = tempfile::tempdir().unwrap();
        let (one, fence) = claim(root.path(), "a", Epoch(1)).unwrap();
        fence.check().unwrap();
        let two = claim(root.path(), "b", Epoch(2)).unwrap();
        assert!(matches!(fence.check(), Err(FenceError::Superseded { found: Epoch(2), .. })));
        let (_three, last) = claim(root.path(), "c", Epoch(3)).unwrap();
        drop((one, two));
        clean(root.path(), Epoch(3)).unwrap();
        assert!(matches!(fence.check(), Err(FenceError::Superseded { found: Epoch(3), .. })));
        last.check().unwrap();
        let listing = list(root.path()).unwrap();
        assert_eq!(listing.epochs, BTreeSet::from([Epoch(3)]));
        assert_eq!((listing.claims.len(), listing.has_store), (0, false));
    }

    #[test]
    fn cleaning_leaves_the_epochs_from_the_first_whose_owner_lives() {
        let root = tempfile::tempdir().unwrap();
        drop(claim(root.path(), "a", Epoch(1)).unwrap());
        let (hangs, fence) = claim(root.path(), "b", Epoch(2)).unwrap();
        drop(claim(root.path(), "c", Epoch(3)).unwrap());
        let (_four, _) = claim(root.path(), "d", Epoch(4)).unwrap();
        clean(root.path(), Epoch(4)).unwrap();
        let kept = BTreeSet::from([Epoch(2), Epoch(3), Epoch(4)]);
        assert_eq!(list(root.path()).unwrap().epochs, kept);
        assert!(fence.check().is_err());
        drop(hangs);
        clean(root.path(), Epoch(4)).unwrap();
        assert_eq!(list(root.path()).unwrap().epochs, BTreeSet::from([Epoch(4)]));
        assert!(fence.check().is_err());
    }

    #[test]
    fn cleaning_leaves_the_claims_of_the_living() {
        let root = tempfile::tempdir().unwrap();
        let _living = Claim::prepare(root.path(), &owner("b")).unwrap();
        drop(Claim::prepare(root.path(), &owner("a")).unwrap());
        clean(root.path(), Epoch(1)).unwrap();
        assert_eq!(list(root.path()).unwrap().claims, [".stanby.claim.b"]);
    }

    #[test]
    fn a_file_that_says_nothing_counts_as_an_epoch_without_a_name() {
        let root = tempfile::tempdir().unwrap();
        fs::write(epoch_path(root.path(), Epoch(2)), "").unwrap();
        fs::write(root.path().join(".stanby.epoch.03"), "").unwrap();
        assert_eq!(list(root.path()).unwrap().epochs, BTreeSet::from([Epoch(2)]));
        let holder = read_holder(root.path(), Epoch(2)).unwrap().unwrap();
        assert_eq!(holder, Holder { epoch: Epoch(2), ..Holder::default() });
    }
}
