//! A disk of which every operation can fail, write less than it was given, or stop until told.
//!
//! It lies over another disk and counts what is asked of that. A test lets a scenario run once to
//! learn its operations, and then once for each of them and each way in which it can fail.

use std::any::Any;
use std::backtrace::Backtrace;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use crate::store::file::disk::{
    Access, Disk, DiskFile, Entry, FileState, Folder, Identity, RealDisk, Stamp,
};
use crate::store::file::watch::Watch;

/// What can be asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they are called as the methods of the contract")]
pub enum Operation {
    CreateRoot,
    OpenRoot,
    List,
    Folder,
    CreateFolder,
    RemoveFolder,
    OpenRead,
    OpenAppend,
    OpenNew,
    Rename,
    RenameNew,
    RenameInto,
    Unlink,
    SyncFolder,
    SyncFilesystem,
    Identity,
    Stamp,
    Watch,
    ReadAt,
    Append,
    Describe,
    Size,
    Truncate,
    Allocate,
    SyncFile,
}

impl Operation {
    /// The name of its method in the contract.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::CreateRoot => "create_root",
            Self::OpenRoot => "open_root",
            Self::List => "list",
            Self::Folder => "folder",
            Self::CreateFolder => "create_folder",
            Self::RemoveFolder => "remove_folder",
            Self::OpenRead | Self::OpenAppend | Self::OpenNew => "open",
            Self::Rename => "rename",
            Self::RenameNew => "rename_new",
            Self::RenameInto => "rename_into",
            Self::Unlink => "unlink",
            Self::SyncFolder | Self::SyncFile => "sync",
            Self::SyncFilesystem => "sync_filesystem",
            Self::Identity => "identity",
            Self::Stamp => "stamp",
            Self::Watch => "watch",
            Self::ReadAt => "read_at",
            Self::Append => "append",
            Self::Describe => "describe",
            Self::Size => "size",
            Self::Truncate => "truncate",
            Self::Allocate => "allocate",
        }
    }

    /// What the system may answer instead of doing it.
    #[must_use]
    pub fn errors(self) -> &'static [Errno] {
        use Errno::{EDQUOT, EIO, EMFILE, ENOSPC, ESTALE};
        match self {
            Self::OpenRoot | Self::List | Self::Folder | Self::OpenRead | Self::OpenAppend => {
                &[EIO, ESTALE, EMFILE]
            }
            Self::OpenNew => &[EIO, ESTALE, EMFILE, ENOSPC, EDQUOT],
            Self::CreateRoot
            | Self::CreateFolder
            | Self::Rename
            | Self::RenameNew
            | Self::RenameInto
            | Self::Unlink
            | Self::RemoveFolder
            | Self::SyncFolder
            | Self::SyncFilesystem
            | Self::Append
            | Self::Truncate
            | Self::Allocate
            | Self::SyncFile => &[EIO, ESTALE, ENOSPC, EDQUOT],
            Self::Identity | Self::Stamp | Self::ReadAt | Self::Describe | Self::Size => {
                &[EIO, ESTALE]
            }
            Self::Watch => &[EIO, EMFILE, ENOSPC],
        }
    }

    /// Whether it changes what lies on the disk.
    #[must_use]
    pub fn is_change(self) -> bool {
        match self {
            Self::CreateRoot
            | Self::CreateFolder
            | Self::RemoveFolder
            | Self::OpenNew
            | Self::Rename
            | Self::RenameNew
            | Self::RenameInto
            | Self::Unlink
            | Self::Append
            | Self::Truncate
            | Self::Allocate => true,
            Self::OpenRoot
            | Self::List
            | Self::Folder
            | Self::OpenRead
            | Self::OpenAppend
            | Self::SyncFolder
            | Self::SyncFilesystem
            | Self::Identity
            | Self::Stamp
            | Self::Watch
            | Self::ReadAt
            | Self::Describe
            | Self::Size
            | Self::SyncFile => false,
        }
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done.
    Refused(Errno),
    /// It is done, and the answer is an error all the same, as over a network.
    Done(Errno),
    /// Half of the bytes are written, and then the answer is an error.
    Short(Errno),
}

impl Fault {
    /// All that can happen to `operation`.
    #[must_use]
    pub fn of(operation: Operation) -> Vec<Self> {
        let mut faults: Vec<Self> =
            operation.errors().iter().map(|error| Self::Refused(*error)).collect();
        if operation.is_change() {
            faults.push(Self::Done(Errno::EIO));
        }
        if operation == Operation::Append {
            faults.extend([Self::Short(Errno::ENOSPC), Self::Short(Errno::EIO)]);
        }
        faults
    }

    /// What the program is told.
    #[must_use]
    pub fn errno(self) -> Errno {
        let (Self::Refused(errno) | Self::Done(errno) | Self::Short(errno)) = self;
        errno
    }
}

/// What is to happen, and when: operations are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Smooth,
    /// One operation fails.
    Once(usize, Fault),
    /// From that operation on, all fail that can fail so.
    From(usize, Errno),
    /// Before that operation the thread stops until it is told to go on.
    Stop(usize),
}

#[derive(Debug)]
struct State {
    plan: Plan,
    is_counting: bool,
    operations: Vec<Operation>,
    is_stopped: bool,
    may_go_on: bool,
    was_faulty: bool,
    /// Of each operation, while they are recorded.
    sites: Option<Vec<Option<Site>>>,
}

impl State {
    /// Whether what the store does now may be its answer to a fault.
    fn is_near_fault(&self, number: usize) -> bool {
        match self.plan {
            Plan::Smooth => true,
            Plan::Once(at, _) | Plan::From(at, _) | Plan::Stop(at) => {
                (at..at + OPERATIONS_FOLLOWED).contains(&number)
            }
        }
    }
}

/// So many operations after a fault are looked at closely.
const OPERATIONS_FOLLOWED: usize = 40;

/// Where in the file store a method of the contract was called: file, line, method.
pub type Site = (String, u32, &'static str);

/// What a test holds of its disk.
#[derive(Debug)]
pub struct Faults {
    state: Mutex<State>,
    changed: Condvar,
    can_sync_filesystem: bool,
    /// A folder under the root that is another file system.
    mount: Option<&'static [u8]>,
}

/// How long a test waits for a thread that should stop, or go on.
const WAIT_MAX: Duration = Duration::from_secs(60);

impl Faults {
    /// Nothing is counted yet. Syncs of the whole file system are there if it says so; none of the
    /// syncs is passed on, as no test of this kind takes the power away.
    #[must_use]
    pub fn new(can_sync_filesystem: bool) -> Arc<Self> {
        Self::with_mount(can_sync_filesystem, None)
    }

    /// The same where a folder of this name under the root is another file system.
    #[must_use]
    pub fn with_mount(can_sync_filesystem: bool, mount: Option<&'static [u8]>) -> Arc<Self> {
        let state = State {
            plan: Plan::Smooth,
            is_counting: false,
            operations: Vec::new(),
            is_stopped: false,
            may_go_on: false,
            was_faulty: false,
            sites: None,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Arc::new(Self { state, changed, can_sync_filesystem, mount })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from 0 from now on, and does as planned.
    pub fn begin(&self, plan: Plan) {
        let mut state = self.state();
        state.plan = plan;
        state.is_counting = true;
        state.operations.clear();
        state.sites = state.sites.take().map(|_| Vec::new());
        state.was_faulty = false;
    }

    /// The disk works from now on.
    pub fn mend(&self) {
        self.state().plan = Plan::Smooth;
    }

    /// Remembers where the store calls the contract; where something is to fail, from there on for
    /// a while. This is slow: the stack is looked at.
    pub fn record_sites(&self) {
        self.state().sites.get_or_insert_default();
    }

    /// Where each operation since [`Faults::begin`] was called.
    #[must_use]
    pub fn sites(&self) -> Vec<Option<Site>> {
        self.state().sites.clone().unwrap_or_default()
    }

    /// What was asked since [`Faults::begin`].
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.state().operations.clone()
    }

    /// Whether any operation failed, or stopped, as planned.
    #[must_use]
    pub fn was_faulty(&self) -> bool {
        self.state().was_faulty
    }

    /// Waits until a thread has stopped, or `is_over` says that none will.
    ///
    /// # Panics
    /// If neither happens for a minute.
    pub fn wait_until_stopped(&self, mut is_over: impl FnMut() -> bool) -> bool {
        let mut state = self.state();
        for _ in 0..WAIT_MAX.as_millis() {
            if state.is_stopped || is_over() {
                return state.is_stopped;
            }
            let waited = self.changed.wait_timeout(state, Duration::from_millis(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        panic!("the thread neither stopped nor ended");
    }

    /// Lets the stopped thread go on.
    pub fn go_on(&self) {
        self.state().may_go_on = true;
        self.changed.notify_all();
    }

    /// Counts an operation; gives what is to become of it.
    fn enter(&self, operation: Operation) -> io::Result<Option<Fault>> {
        let mut state = self.state();
        if !state.is_counting {
            return Ok(None);
        }
        let number = state.operations.len();
        let is_near = state.is_near_fault(number);
        if let Some(sites) = &mut state.sites {
            sites.push(if is_near { site_of(operation) } else { None });
        }
        state.operations.push(operation);
        let fault = match state.plan {
            Plan::Once(at, fault) if at == number => {
                // The same number may be another operation in another run.
                let can_be = Fault::of(operation).contains(&fault);
                Some(if can_be { fault } else { Fault::Refused(Errno::EIO) })
            }
            Plan::From(at, errno) if at <= number && operation.errors().contains(&errno) => {
                Some(Fault::Refused(errno))
            }
            Plan::Stop(at) if at == number => {
                state.is_stopped = true;
                state.was_faulty = true;
                self.changed.notify_all();
                while !state.may_go_on {
                    let waited = self.changed.wait_timeout(state, WAIT_MAX);
                    let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    assert!(!timeout.timed_out(), "a stopped thread was forgotten");
                    state = next;
                }
                None
            }
            Plan::Smooth | Plan::Once(..) | Plan::From(..) | Plan::Stop(_) => None,
        };
        state.was_faulty |= fault.is_some();
        match fault {
            Some(Fault::Refused(errno)) => Err(errno.into()),
            other => Ok(other),
        }
    }

    fn run<T>(&self, operation: Operation, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let fault = self.enter(operation)?;
        let done = act()?;
        match fault {
            Some(fault) => Err(fault.errno().into()),
            None => Ok(done),
        }
    }
}

/// The caller's place, from the names of functions on the stack.
fn site_of(operation: Operation) -> Option<Site> {
    let stack = Backtrace::force_capture().to_string();
    let lines = stack.lines().filter_map(|line| line.trim().strip_prefix("at "));
    let place = lines.filter_map(|line| line.split_once("src/store/file/")).next()?.1;
    let (file, rest) = place.split_once(':')?;
    let line = rest.split(':').next()?.parse().ok()?;
    Some((file.to_owned(), line, operation.method()))
}

/// The disk of [`Faults`], over the machine's own.
pub struct FaultDisk(pub Arc<Faults>);

/// The last one says which file system it is, of those of the test.
struct FaultFolder(Box<dyn Folder>, Arc<Faults>, u64);

struct FaultFile(Box<dyn DiskFile>, Arc<Faults>, u64);

impl Disk for FaultDisk {
    fn create_root(&self, path: &Path) -> io::Result<()> {
        self.0.run(Operation::CreateRoot, || RealDisk.create_root(path))
    }

    fn open_root(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        let root = self.0.run(Operation::OpenRoot, || RealDisk.open_root(path))?;
        Ok(Box::new(FaultFolder(root, Arc::clone(&self.0), 0)))
    }
}

impl Folder for FaultFolder {
    fn list(&self) -> io::Result<Vec<Entry>> {
        // In one order always, so that an operation has the same number in each run.
        let mut entries = self.1.run(Operation::List, || self.0.list())?;
        entries.sort();
        Ok(entries)
    }

    fn folder(&self, name: &[u8]) -> io::Result<Box<dyn Folder>> {
        let folder = self.1.run(Operation::Folder, || self.0.folder(name))?;
        let is_mount = self.1.mount == Some(name);
        Ok(Box::new(Self(folder, Arc::clone(&self.1), self.2.max(u64::from(is_mount)))))
    }

    fn create_folder(&self, name: &[u8]) -> io::Result<()> {
        self.1.run(Operation::CreateFolder, || self.0.create_folder(name))
    }

    fn remove_folder(&self, name: &[u8]) -> io::Result<()> {
        self.1.run(Operation::RemoveFolder, || self.0.remove_folder(name))
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Box<dyn DiskFile>> {
        let operation = match access {
            Access::Read => Operation::OpenRead,
            Access::Append => Operation::OpenAppend,
            Access::CreateNew => Operation::OpenNew,
        };
        let file = self.1.run(operation, || self.0.open(name, access))?;
        Ok(Box::new(FaultFile(file, Arc::clone(&self.1), self.2)))
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.1.run(Operation::Rename, || self.0.rename(from, to))
    }

    fn rename_new(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.1.run(Operation::RenameNew, || self.0.rename_new(from, to))
    }

    fn rename_into(&self, from: &[u8], target: &dyn Folder, to: &[u8]) -> io::Result<()> {
        let target = target.as_any().downcast_ref::<Self>();
        let target = target.expect("folders of one store lie on one disk");
        self.1.run(Operation::RenameInto, || {
            if self.2 != target.2 {
                return Err(Errno::EXDEV.into());
            }
            self.0.rename_into(from, target.0.as_ref(), to)
        })
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        self.1.run(Operation::Unlink, || self.0.unlink(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.1.run(Operation::SyncFolder, || Ok(()))
    }

    fn can_sync_filesystem(&self) -> bool {
        self.1.can_sync_filesystem
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        self.1.run(Operation::SyncFilesystem, || Ok(()))
    }

    fn identity(&self) -> io::Result<Identity> {
        let found = self.1.run(Operation::Identity, || self.0.identity())?;
        Ok(Identity { device: found.device + self.2, ..found })
    }

    fn stamp(&self, path: &[u8]) -> io::Result<Stamp> {
        self.1.run(Operation::Stamp, || self.0.stamp(path))
    }

    fn watch(&self) -> io::Result<Watch> {
        self.1.run(Operation::Watch, || self.0.watch())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DiskFile for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.run(Operation::ReadAt, || self.0.read_at(buffer, offset))
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let fault = self.1.enter(Operation::Append)?;
        let is_short = matches!(fault, Some(Fault::Short(_)));
        self.0.append(if is_short { &bytes[..bytes.len() / 2] } else { bytes })?;
        fault.map_or(Ok(()), |fault| Err(fault.errno().into()))
    }

    fn describe(&self) -> io::Result<FileState> {
        let found = self.1.run(Operation::Describe, || self.0.describe())?;
        Ok(FileState { device: found.device + self.2, ..found })
    }

    fn size(&self) -> io::Result<u64> {
        self.1.run(Operation::Size, || self.0.size())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.1.run(Operation::Truncate, || self.0.truncate(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.1.run(Operation::Allocate, || self.0.allocate(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.1.run(Operation::SyncFile, || Ok(()))
    }
}
