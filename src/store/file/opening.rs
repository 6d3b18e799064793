//! Opens a store under an epoch: what lies there, or what a standby has seen of it, to shares.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::base::channel_limits::StoreLimits;
use crate::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use crate::base::id::ChannelName;
use crate::base::placement;
use crate::base::planted::{self, Bug};
use crate::base::record::{RecoveredChannel, RecoveredState};
use crate::base::time::Now;
use crate::base::world;
use crate::store::file::adoption::{self, Adoption, keep_overlaps};
use crate::store::file::channel::Channel;
use crate::store::file::context::{Context, refusal, unless_replaced};
use crate::store::file::deliveries::{Deliveries, Found};
use crate::store::file::disk::{Disk, Entry, Folder};
use crate::store::file::format::{Crc, renamed_cut, replacement_epoch};
use crate::store::file::log::{io_error, path_below};
use crate::store::file::open_root;
use crate::store::file::options::FileOptions;
use crate::store::file::recovery::Recovery;
use crate::store::file::registry::Registry;
use crate::store::file::reserve::Reserve;
use crate::store::file::rewrite::cut_overlaps;
use crate::store::file::settled::Settled;
use crate::store::file::share::{Share, ShareParts};
use crate::store::file::survey::{Seen, Survey};
use crate::store::{Action, Notice, Opened, Store, StoreError, progress};

/// With so many channels to read, recovery uses all cores even if the option says one.
const CHANNELS_RECOVERED_ALONE_MAX: usize = 64;
/// So many that are as they were seen take as long as one that is read.
const SEEN_FOR_ONE_READ: usize = 32;
/// Descriptors that a share may always have open, whatever the limit.
const OPEN_MIN: usize = 8;

/// What is needed to open a store.
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
    /// What this process has seen while it stood by.
    pub survey: Option<Survey>,
}

/// One channel as it was recovered.
pub struct Recovered {
    /// The channel.
    pub channel: Box<Channel>,
    /// What the operator should know.
    pub notices: Vec<Notice>,
    /// Whether everything in it was made durable since it was last written.
    pub is_synced: bool,
    /// Whether a part of it lies on another file system than the root.
    pub is_elsewhere: bool,
}

/// Recovers the store under the fence, whose epoch was claimed before, and gives its shares.
///
/// # Errors
/// As [`open`](crate::store::file::open).
pub fn open_on(disk: Arc<dyn Disk>, opening: Opening<'_>) -> Result<Opened, StoreError> {
    let fence = Arc::clone(&opening.fence);
    take_over(disk, opening).map_err(|error| unless_replaced(error, fence.as_ref()))
}

fn take_over(disk: Arc<dyn Disk>, mut opening: Opening<'_>) -> Result<Opened, StoreError> {
    let mut ctx = make_context(Arc::clone(&disk), &opening, planted_fence(&opening))?;
    let options = opening.options;
    let root = open_root(ctx.disk.as_ref(), &options.root)?;
    let entries = root.list().map_err(|source| io_error(Action::Read, &options.root, source))?;
    clear_root(&ctx, root.as_ref(), &entries)?;
    ctx.reserve.find(&entries);
    let must_settle = opening.predecessor != Predecessor::Clean;
    let found = Registry::recover(&ctx, root.as_ref(), must_settle)?;
    let deliveries = Found::take_over(&ctx, root.as_ref(), &entries)?;
    let (folders, files): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| entry.is_folder);
    let (lost_and_found, folders): (Vec<Entry>, Vec<Entry>) =
        folders.into_iter().partition(|folder| is_lost_and_found(root.as_ref(), folder));
    let (seen, watch) = match opening.survey.take() {
        Some(mut survey) => (survey.take_channels(), Some((survey.root, survey.opened_at))),
        None => (BTreeMap::new(), None),
    };
    let recovery = ChannelRecovery {
        ctx: &ctx,
        root: root.as_ref(),
        must_settle,
        doubt: None,
        now: opening.now,
    };
    let mut channels = recovery.all(folders, seen)?;
    log::debug!(
        target: crate::log::STREAM,
        "{} of {} channels are as they were seen while standing by",
        channels.iter().filter(|found| found.is_synced).count(),
        channels.len()
    );
    let mut is_settled = options.sync;
    let settled = Settled::read(root.as_ref(), &files);
    if options.sync {
        channels.iter_mut().for_each(|one| keep_overlaps(&mut one.channel.messages, settled));
    }
    if must_settle && !channels.is_empty() && !planted::is(Bug::TailNotRewritten) {
        let is_replaced = opening.predecessor == Predecessor::Replaced;
        let (now, files) = (opening.now.wall, files.as_slice());
        let (ctx, root) = (ctx.as_ref(), root.as_ref());
        let adoption = Adoption { ctx, root, files, recovery, settled, is_replaced, watch, now };
        is_settled &= adoption::adopt(&adoption, &mut channels)?;
    }
    for Recovered { channel, .. } in &mut channels {
        cut_overlaps(&ctx, root.as_ref(), channel)?;
        // What stays is not durable elsewhere, whatever is written anew here.
        is_settled &= channel.messages.overlaps.is_empty();
    }
    remove_superseded(&ctx, root.as_ref(), &mut channels)?;
    if is_settled {
        let newest = channels.iter().map(|found| found.channel.messages.last_time).max();
        Settled::write(&ctx, root.as_ref(), &files, newest.unwrap_or(0), opening.loops);
    }
    let mut notices = found.notices;
    notices.extend(
        lost_and_found
            .iter()
            .map(|_| Notice { is_warning: false, text: LOST_AND_FOUND_PASSED_OVER.to_owned() }),
    );
    let mut state =
        RecoveredState { server: found.server, clients: found.clients, channels: Vec::new() };
    let loops = opening.loops.max(1);
    let mut by_loop: Vec<BTreeMap<ChannelName, Box<Channel>>> = Vec::new();
    by_loop.resize_with(usize::from(loops), BTreeMap::new);
    for Recovered { channel, notices: of_channel, .. } in channels {
        notices.extend(of_channel);
        let deliveries = deliveries.of_channel(&channel.name);
        state.channels.push(RecoveredChannel { deliveries, ..channel.to_recovered() });
        let home = placement::of_channel(&channel.name, loops).index();
        by_loop[home].insert(channel.name.clone(), channel);
    }
    opening.fence.check()?;
    if planted::is(Bug::RecoveryUnfenced) {
        ctx = make_context(disk, &opening, Arc::clone(&opening.fence))?;
    }
    ctx.reserve.set_bytes_aside(root.as_ref());
    let shares = make_shares(&ctx, &Arc::new(found.registry), by_loop, &deliveries, opening.now)?;
    Ok(Opened { recovered: state, shares, notices })
}

/// Where a file system's repair puts what it finds.
const LOST_AND_FOUND: &[u8] = b"lost+found";
const LOST_AND_FOUND_PASSED_OVER: &str =
    "the folder \"lost+found\" is the file system's own, and no channel";

/// Whether it is the folder that each ext4 has at its top: of a channel, which may have that name
/// too, it is told by what is in it.
fn is_lost_and_found(root: &dyn Folder, folder: &Entry) -> bool {
    if folder.name != LOST_AND_FOUND {
        return false;
    }
    match root.folder(LOST_AND_FOUND).and_then(|folder| folder.list()) {
        Ok(entries) => !entries.iter().any(|entry| entry.name.ends_with(b".dat")),
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

/// A fence that lets everybody through.
struct NoFence(Epoch);

impl Fence for NoFence {
    fn epoch(&self) -> Epoch {
        self.0
    }

    fn check(&self) -> Result<(), FenceError> {
        Ok(())
    }
}

/// What the recovery asks.
fn planted_fence(opening: &Opening<'_>) -> Arc<dyn Fence> {
    if planted::is(Bug::RecoveryUnfenced) {
        return Arc::new(NoFence(opening.fence.epoch()));
    }
    Arc::clone(&opening.fence)
}

fn make_context(
    disk: Arc<dyn Disk>,
    opening: &Opening<'_>,
    fence: Arc<dyn Fence>,
) -> Result<Arc<Context>, StoreError> {
    let options = opening.options;
    options.validate()?;
    let limits =
        opening.limits.resolve().map_err(|error| StoreError::Unusable(error.to_string()))?;
    Ok(Arc::new(Context {
        options: options.clone(),
        limits,
        crc: Crc::new(u32::try_from(options.crc_polynomial).unwrap_or(Crc::IEEE)),
        fence,
        disk,
        reserve: Reserve::default(),
    }))
}

/// Removes what former epochs have prepared and not put in place, and renames what an earlier
/// release has left under a name that a channel can have. Folders are channels, whatever they are
/// called.
fn clear_root(ctx: &Context, root: &dyn Folder, entries: &[Entry]) -> Result<(), StoreError> {
    for entry in entries.iter().filter(|entry| !entry.is_folder) {
        let is_former = |epoch| epoch < ctx.fence.epoch().0;
        let path = path_below(ctx.root_path(), b"", &entry.name);
        if let Some(name) = renamed_cut(&entry.name) {
            if let Err(error) = root.rename(&entry.name, &name) {
                log::warn!(
                    "Unable to rename {}: {error}; it is in the way of a channel of that \
                            name only",
                    path.display()
                );
            }
        } else if replacement_epoch(&entry.name).is_some_and(is_former)
            && !planted::is(Bug::LateRename)
        {
            match root.unlink(&entry.name) {
                // Its epoch has put it in its place before that is read, or given it up.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
                done => done.map_err(|source| io_error(Action::Replace, &path, source))?,
            }
        }
    }
    Ok(())
}

/// Removes the old slices of which later ones hold everything durably: a Go server that opens the
/// store after a kill counts what lies twice twice, and its limits let go of messages by that. For
/// want of room the shares do it once they serve.
fn remove_superseded(
    ctx: &Context,
    root: &dyn Folder,
    channels: &mut [Recovered],
) -> Result<(), StoreError> {
    let is_left = |found: &&mut Recovered| !found.channel.messages.superseded.is_empty();
    for Recovered { channel, .. } in channels.iter_mut().filter(is_left) {
        if let Err(error) = channel.remove_superseded(ctx, root) {
            refusal(error)?;
        }
        channel.close_files();
    }
    Ok(())
}

fn make_shares(
    ctx: &Arc<Context>,
    registry: &Arc<Registry>,
    by_loop: Vec<BTreeMap<ChannelName, Box<Channel>>>,
    deliveries: &Found,
    now: Now,
) -> Result<Vec<Box<dyn Store>>, StoreError> {
    let open_max = open_max(&ctx.options, by_loop.len());
    by_loop
        .into_iter()
        .enumerate()
        .map(|(share, channels)| {
            let names: Vec<&ChannelName> = channels.keys().collect();
            let deliveries = Deliveries::of_share(share, deliveries, &names);
            let parts = ShareParts {
                ctx: Arc::clone(ctx),
                registry: Arc::clone(registry),
                root: open_root(ctx.disk.as_ref(), ctx.root_path())?,
                channels,
                open_max,
                deliveries,
                now,
            };
            Ok(Box::new(Share::new(parts)) as Box<dyn Store>)
        })
        .collect()
}

/// Descriptors for one share: of the option, but no more than what connections leave over.
fn open_max(options: &FileOptions, share_count: usize) -> usize {
    let planned = usize::try_from(world::descriptor_plan().store).unwrap_or(usize::MAX);
    let total = match usize::try_from(options.descriptors_max) {
        Ok(given) if given != 0 => given.min(planned),
        _ => planned,
    };
    (total / share_count.max(1)).saturating_sub(2).max(OPEN_MIN)
}

/// Reads channels.
#[derive(Clone, Copy)]
pub struct ChannelRecovery<'a> {
    ctx: &'a Context,
    root: &'a dyn Folder,
    must_settle: bool,
    doubt: Option<u64>,
    now: Now,
}

impl ChannelRecovery<'_> {
    /// Recovers all channels, on several threads if there are many; in the order of their names.
    fn all(
        self,
        mut folders: Vec<Entry>,
        seen: BTreeMap<Vec<u8>, Box<Seen>>,
    ) -> Result<Vec<Recovered>, StoreError> {
        folders.sort();
        let mut seen = seen.into_iter().peekable();
        let mut rest: Vec<(Vec<u8>, Option<Box<Seen>>)> = folders
            .into_iter()
            .map(|entry| {
                // Both are in the order of their names.
                while seen.next_if(|(name, _)| *name < entry.name).is_some() {}
                let seen = seen.next_if(|(name, _)| *name == entry.name);
                (entry.name, seen.map(|(_, seen)| seen))
            })
            .collect();
        let wanted = usize::try_from(self.ctx.options.parallel_recovery).unwrap_or(1);
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let must_look =
            |seen: &Option<Box<Seen>>| !seen.as_ref().is_some_and(|seen| seen.is_certain());
        let looks = rest.iter().filter(|(_, seen)| must_look(seen)).count();
        let is_many = CHANNELS_RECOVERED_ALONE_MAX < looks + rest.len() / SEEN_FOR_ONE_READ;
        let thread_count = if is_many { wanted.max(cores()) } else { 1 };
        if thread_count == 1 {
            return self.some(rest);
        }
        let count = rest.len();
        let share_len = count.div_ceil(thread_count);
        let mut shares = Vec::new();
        while share_len < rest.len() {
            let others = rest.split_off(share_len);
            shares.push(std::mem::replace(&mut rest, others));
        }
        // Whoever does a share takes it: a helper, or this thread where there is none.
        let shares: Vec<_> = shares.into_iter().map(|share| Mutex::new(Some(share))).collect();
        let take = |share: &Mutex<Option<_>>| {
            let mut share = share.lock().unwrap_or_else(PoisonError::into_inner);
            self.some(share.take().unwrap_or_default())
        };
        thread::scope(|scope| {
            let helper = |share| progress::help(scope, move || take(share));
            let helpers: Vec<_> = shares.iter().map(|share| (share, helper(share))).collect();
            let last = self.some(rest);
            let mut channels = Vec::with_capacity(count);
            for (share, helper) in helpers {
                channels.extend(match helper {
                    Ok(helper) => progress::of_helper(helper)?,
                    Err(_) => take(share)?,
                });
            }
            channels.extend(last?);
            Ok(channels)
        })
    }

    /// The same of channels of which messages from that sequence on may not be durable.
    #[must_use]
    pub fn doubting(self, from: u64) -> Self {
        Self { doubt: Some(from), ..self }
    }

    fn some(self, names: Vec<(Vec<u8>, Option<Box<Seen>>)>) -> Result<Vec<Recovered>, StoreError> {
        let mut channels = Vec::with_capacity(names.len());
        for (name, seen) in names {
            channels.extend(self.one(&name, seen)?);
        }
        Ok(channels)
    }

    /// One channel, as it lies there or as it was seen before; `None` where a folder is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn one(
        self,
        name: &[u8],
        seen: Option<Box<Seen>>,
    ) -> Result<Option<Recovered>, StoreError> {
        let Self { ctx, root, .. } = self;
        let (mut found, is_synced) = match seen.and_then(|seen| seen.confirm(root, name)) {
            Some(known) => known,
            None => {
                let recovery = Recovery {
                    root_path: ctx.root_path(),
                    crc: &ctx.crc,
                    must_verify: ctx.options.crc,
                    is_settled: !self.must_settle,
                    doubt: self.doubt,
                    fence: Some(ctx.fence.as_ref()),
                    reserve: &ctx.reserve,
                };
                match read_again_if_gone(|| recovery.channel(root, name)) {
                    // A former active has come to the end of a removal: the kernel takes only a
                    // folder with nothing in it.
                    Err(error) if is_gone(&error, Some(&ctx.path(name, b""))) => return Ok(None),
                    found => (found?, false),
                }
            }
        };
        if !found.is_channel() {
            return Ok(None);
        }
        let notices = std::mem::take(&mut found.notices);
        let is_elsewhere = found.is_elsewhere;
        let name = ChannelName::from(name);
        let mut channel = Box::new(Channel::recovered(ctx, name, found, self.must_settle));
        // Only in the accounts: slices that the limits let go are removed by the share, once it is
        // certain that the newer messages, because of which they go, are durable.
        channel.trim(ctx, root, Some(self.now.wall))?;
        channel.close_files();
        Ok(Some(Recovered { channel, notices, is_synced, is_elsewhere }))
    }
}

/// Reads again where a file that was listed is not there any more: a former active has come to the
/// end of a removal meanwhile, of which it has one under way at most.
fn read_again_if_gone<T>(mut read: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let found = read();
    if found.as_ref().is_err_and(|error| is_gone(error, None)) { read() } else { found }
}

/// Whether something that was listed is not there any more: this folder, or anything.
fn is_gone(error: &StoreError, folder: Option<&Path>) -> bool {
    matches!(error, StoreError::Io { path, source, .. }
        if folder.is_none_or(|folder| path == folder)
            && source.kind() == std::io::ErrorKind::NotFound)
}
