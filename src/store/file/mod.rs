//! Store over a directory, in the reference's format byte for byte.
//!
//! Reading order: `format` (layouts), `slices` and `subscriptions` (what files say, without I/O),
//! `disk` and `log` (the way to the disk), `recovery` and `slice_recovery`, `channel` and
//! `channel_reading`, `share` and `commit`.
//! A folder under the root is a channel; of our own there are only files there.

mod channel;
mod channel_reading;
mod commit;
mod compaction;
mod context;
mod cutting;
pub mod disk;
pub mod format;
mod log;
mod options;
mod reading;
mod recovery;
mod registry;
mod removal;
mod repair;
mod report;
mod settle;
mod share;
mod share_sync;
mod slice_recovery;
mod slices;
mod subscriptions;
mod sync;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use nix::sys::resource::{Resource, getrlimit};

use crate::base::channel_limits::StoreLimits;
use crate::base::epoch::{Fence, Predecessor};
use crate::base::id::ChannelName;
use crate::base::placement;
use crate::base::record::RecoveredState;
use crate::base::time::Now;
use crate::store::{Action, Notice, Opened, Store, StoreError};

pub use self::options::FileOptions;

use self::channel::Channel;
use self::context::Context;
use self::disk::{Access, Disk, DiskFile, Folder, RealDisk};
use self::format::{Crc, TRUNCATE_WITNESS, replacement_epoch};
use self::log::{io_error, path_below, reason};
use self::recovery::Recovery;
use self::registry::Registry;
use self::removal::Archivists;
use self::settle::{Rewrite, last_batch_since};
use self::share::{Share, ShareParts};

/// With so many channels, recovery uses all cores even if the option says one.
const CHANNELS_RECOVERED_ALONE_MAX: usize = 64;
/// Beyond so many channels, a take-over makes them durable by one sync of the file system.
const CHANNELS_SYNCED_APART_MAX: usize = 64;
/// Files that are open at once while they are made durable.
const FILES_SYNCED_TOGETHER_MAX: usize = 256;
/// Descriptors that a share may always have open, whatever the limit.
const OPEN_MIN: usize = 8;

/// What is done before the lease is held: checks options, creates the root, guards the option to
/// truncate (spec stores, 5.1).
///
/// # Errors
/// [`StoreError::Unusable`] with the reference's text.
pub fn prepare(options: &FileOptions) -> Result<(), StoreError> {
    prepare_on(&RealDisk, options)
}

/// [`prepare`] on another disk.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_on(disk: &dyn Disk, options: &FileOptions) -> Result<(), StoreError> {
    options.validate()?;
    disk.create_root(&options.root).map_err(|error| {
        StoreError::Unusable(format!(
            "unable to create the root directory [{}]: {}",
            options.root.display(),
            reason(&error)
        ))
    })?;
    let root = open_root(disk, &options.root)?;
    if !options.truncate_bad_eof {
        return match root.unlink(TRUNCATE_WITNESS) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => {
                let path = path_below(&options.root, b"", TRUNCATE_WITNESS);
                Err(io_error(Action::Replace, &path, source))
            }
        };
    }
    root.open(TRUNCATE_WITNESS, Access::CreateNew).map(drop).map_err(|_| {
        StoreError::Unusable(
            "file store should not be opened consecutively with the TruncateUnexpectedEOF option \
             set to true"
                .to_owned(),
        )
    })
}

/// Recovers the store under `fence`, whose epoch was claimed before, and gives a share for each of
/// `loops`.
///
/// # Errors
/// [`StoreError::Corrupt`] and [`StoreError::Unusable`] with the reference's text where it has
/// one, [`StoreError::Io`], [`StoreError::Fenced`].
pub fn open(
    options: &FileOptions,
    limits: &StoreLimits,
    fence: Arc<dyn Fence>,
    predecessor: Predecessor,
    loops: u16,
    now: Now,
) -> Result<Opened, StoreError> {
    let opening = Opening { options, limits, fence, predecessor, loops, now };
    open_on(Arc::new(RealDisk), opening)
}

/// What [`open`] is told.
pub struct Opening<'a> {
    /// The options.
    pub options: &'a FileOptions,
    /// The limits.
    pub limits: &'a StoreLimits,
    /// The right to write.
    pub fence: Arc<dyn Fence>,
    /// How the holder before this one left.
    pub predecessor: Predecessor,
    /// How many shares.
    pub loops: u16,
    /// The time.
    pub now: Now,
}

/// [`open`] on another disk.
///
/// # Errors
/// As [`open`].
pub fn open_on(disk: Arc<dyn Disk>, opening: Opening<'_>) -> Result<Opened, StoreError> {
    let options = opening.options;
    options.validate()?;
    let limits =
        opening.limits.resolve().map_err(|error| StoreError::Unusable(error.to_string()))?;
    let ctx = Arc::new(Context {
        options: options.clone(),
        limits,
        crc: Crc::new(u32::try_from(options.crc_polynomial).unwrap_or(Crc::IEEE)),
        fence: Arc::clone(&opening.fence),
        disk,
        has_reserve: AtomicBool::new(false),
    });
    let root = open_root(ctx.disk.as_ref(), &options.root)?;
    let list_error = |source| io_error(Action::Read, &options.root, source);
    let entries = root.list().map_err(list_error)?;
    for entry in entries.iter().filter(|entry| !entry.is_folder) {
        if replacement_epoch(&entry.name).is_some_and(|epoch| epoch < opening.fence.epoch().0) {
            let path = path_below(&options.root, b"", &entry.name);
            root.unlink(&entry.name).map_err(|source| io_error(Action::Replace, &path, source))?;
        }
    }
    let must_settle = opening.predecessor != Predecessor::Clean;
    let found = Registry::recover(&ctx, root.as_ref(), must_settle)?;
    let mut names: Vec<Vec<u8>> =
        entries.into_iter().filter(|entry| entry.is_folder).map(|entry| entry.name).collect();
    names.sort();
    let mut notices = found.notices;
    let mut channels = recover_channels(&ctx, root.as_ref(), &names, must_settle, opening.now)?;
    if must_settle && !names.is_empty() {
        let is_replaced = opening.predecessor == Predecessor::Replaced;
        settle_channels(&ctx, root.as_ref(), &mut channels, is_replaced)?;
    }
    let mut recovered =
        RecoveredState { server: found.server, clients: found.clients, channels: Vec::new() };
    let loops = opening.loops.max(1);
    let mut by_loop: Vec<BTreeMap<ChannelName, Channel>> = Vec::new();
    by_loop.resize_with(usize::from(loops), BTreeMap::new);
    for (channel, channel_notices) in channels {
        notices.extend(channel_notices);
        recovered.channels.push(channel.to_recovered());
        let home = placement::of_channel(&channel.name, loops).index();
        by_loop[home].insert(channel.name.clone(), channel);
    }
    opening.fence.check()?;
    ctx.set_reserve_aside(root.as_ref());
    let shares = make_shares(&ctx, Arc::new(found.registry), by_loop, opening.now)?;
    Ok(Opened { recovered, shares, notices })
}

fn make_shares(
    ctx: &Arc<Context>,
    registry: Arc<Registry>,
    by_loop: Vec<BTreeMap<ChannelName, Channel>>,
    now: Now,
) -> Result<Vec<Box<dyn Store>>, StoreError> {
    let open_max = open_max(&ctx.options, by_loop.len());
    by_loop
        .into_iter()
        .map(|channels| {
            let parts = ShareParts {
                ctx: Arc::clone(ctx),
                registry: Arc::clone(&registry),
                root: open_root(ctx.disk.as_ref(), ctx.root_path())?,
                channels,
                open_max,
                now,
            };
            Ok(Box::new(Share::new(parts)) as Box<dyn Store>)
        })
        .collect()
}

/// Descriptors for one share: of the option, or of half of what the process may open; the other
/// half is for connections.
fn open_max(options: &FileOptions, share_count: usize) -> usize {
    let total = match usize::try_from(options.descriptors_max) {
        Ok(given) if given != 0 => given,
        _ => {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
            usize::try_from(limit / 2).unwrap_or(usize::MAX)
        }
    };
    (total / share_count.max(1)).saturating_sub(2).max(OPEN_MIN)
}

fn open_root(disk: &dyn Disk, path: &Path) -> Result<Box<dyn Folder>, StoreError> {
    disk.open_root(path).map_err(|source| io_error(Action::Open, path, source))
}

/// Writes anew what a predecessor may have written last, and makes everything else durable that it
/// wrote. If it may still be alive, those channels also get a fresh subs.dat at once; the others
/// get theirs with the first write.
fn settle_channels(
    ctx: &Context,
    root: &dyn Folder,
    channels: &mut [Recovered],
    is_replaced: bool,
) -> Result<(), StoreError> {
    let newest = channels.iter().map(|(channel, _)| channel.messages.last_time).max();
    let since = last_batch_since(newest.unwrap_or(0));
    let channel_count = channels.len();
    let mut rewrites = Vec::new();
    for (channel, _) in channels.iter_mut() {
        if channel.messages.last_time < since {
            continue;
        }
        let rewrite = Rewrite::begin(ctx, root, channel, since)?;
        let fresh = match is_replaced.then(|| channel.prepare_subscriptions(ctx, root)) {
            Some(Ok(fresh)) => Some(fresh),
            Some(Err(error)) => {
                context::refusal(error)?;
                None
            }
            None => None,
        };
        channel.close_files();
        rewrites.push((channel, rewrite, fresh));
    }
    sync_recovered(ctx, root, channel_count)?;
    ctx.fence.check()?;
    for (channel, rewrite, fresh) in rewrites {
        // Names that were new are durable by now. Those that go, or are replaced, need not be: the
        // next commit to the channel syncs its folder, and until then the old ones say the same.
        channel.mark_synced();
        if let Some(rewrite) = rewrite {
            rewrite.finish(ctx, root, channel)?;
        }
        if let Some(fresh) = fresh {
            channel.replace_subscriptions(ctx, root, fresh)?;
        }
        channel.close_files();
    }
    Ok(())
}

/// What a predecessor wrote and may not have synced is made durable before anybody is told of it.
fn sync_recovered(
    ctx: &Context,
    root: &dyn Folder,
    channel_count: usize,
) -> Result<(), StoreError> {
    let sync_error = |source| io_error(Action::Sync, ctx.root_path(), source);
    // Of few channels the files alone: others may have much unsynced on the same file system.
    if CHANNELS_SYNCED_APART_MAX < channel_count && root.can_sync_filesystem() {
        return root.sync_filesystem().map_err(sync_error);
    }
    let mut files: Vec<Box<dyn DiskFile>> = Vec::new();
    let mut folders = Vec::new();
    for entry in root.list().map_err(sync_error)? {
        if !entry.is_folder {
            // Those with a dot are no data: whoever makes one syncs it if it has to be.
            if !entry.name.starts_with(b".") {
                files.push(root.open(&entry.name, Access::Append).map_err(sync_error)?);
            }
            continue;
        }
        let folder = root.folder(&entry.name).map_err(sync_error)?;
        for file in folder.list().map_err(sync_error)? {
            if !file.is_folder {
                files.push(folder.open(&file.name, Access::Append).map_err(sync_error)?);
            }
            if FILES_SYNCED_TOGETHER_MAX <= files.len() {
                sync_open(&std::mem::take(&mut files)).map_err(sync_error)?;
            }
        }
        folders.push(folder);
    }
    sync_open(&files).map_err(sync_error)?;
    for folder in folders {
        folder.sync().map_err(sync_error)?;
    }
    root.sync().map_err(sync_error)
}

fn sync_open(files: &[Box<dyn DiskFile>]) -> std::io::Result<()> {
    let files: Vec<&dyn DiskFile> = files.iter().map(AsRef::as_ref).collect();
    sync::sync_files(&files)
}

type Recovered = (Channel, Vec<Notice>);

/// Recovers all channels, on several threads if there are many; in the order of their names.
fn recover_channels(
    ctx: &Context,
    root: &dyn Folder,
    names: &[Vec<u8>],
    must_settle: bool,
    now: Now,
) -> Result<Vec<Recovered>, StoreError> {
    let recover = |names: &[Vec<u8>]| -> Result<Vec<Recovered>, StoreError> {
        names.iter().map(|name| recover_channel(ctx, root, name, must_settle, now)).collect()
    };
    let wanted = usize::try_from(ctx.options.parallel_recovery).unwrap_or(1);
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let thread_count =
        if CHANNELS_RECOVERED_ALONE_MAX < names.len() { wanted.max(cores()) } else { 1 };
    if thread_count == 1 {
        return recover(names);
    }
    let share_len = names.len().div_ceil(thread_count);
    let shares: Vec<Result<Vec<Recovered>, StoreError>> = thread::scope(|scope| {
        let threads: Vec<_> =
            names.chunks(share_len).map(|share| scope.spawn(move || recover(share))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(found) => found,
            Err(_) => unreachable!("a panic of any thread ends the process"),
        };
        threads.into_iter().map(join).collect()
    });
    let mut channels = Vec::with_capacity(names.len());
    for share in shares {
        channels.extend(share?);
    }
    Ok(channels)
}

fn recover_channel(
    ctx: &Context,
    root: &dyn Folder,
    name: &[u8],
    must_settle: bool,
    now: Now,
) -> Result<Recovered, StoreError> {
    let recovery = Recovery {
        root_path: ctx.root_path(),
        crc: &ctx.crc,
        must_verify: ctx.options.crc,
        fence: ctx.fence.as_ref(),
    };
    let mut found = recovery.channel(root, name)?;
    let notices = std::mem::take(&mut found.notices);
    let mut channel = Channel::recovered(ctx, ChannelName::from(name), found, must_settle)?;
    let mut archivists = Archivists::default();
    channel.trim(ctx, root, Some(now.wall))?;
    channel.remove_dead_slices(ctx, root, &mut archivists)?;
    archivists.finish();
    channel.close_files();
    Ok((channel, notices))
}

/// What was read is not what it should be: an error of this read, not of the whole store.
fn unreadable(path: &Path, what: &dyn Display) -> StoreError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_string());
    io_error(Action::Read, path, source)
}
