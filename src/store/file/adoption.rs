//! Makes durable what a predecessor wrote, before anybody is told of it.
//!
//! What it may not have synced (`unsynced`) is written anew (`rewrite`): after a failed sync a
//! later one proves nothing. That can be spared where this process had the root open since
//! before any sync can have failed: a sync of the file system by that descriptor reports every
//! failure since. A process whose sync fails gives up its role at once. So nothing had failed when
//! the newest message was stamped, nor so long ago that it would have been replaced since.

use std::time::Duration;

use crate::base::limits::UNSYNCED_BYTES_MAX;
use crate::base::planted::{self, Bug};
use crate::base::time::WallTime;
use crate::store::file::channel::Channel;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::{Context, refusal};
use crate::store::file::disk::{Access, DiskFile, Entry, Folder};
use crate::store::file::format::{is_channel_file, is_root_file};
use crate::store::file::log::io_error;
use crate::store::file::opening::{ChannelRecovery, Recovered};
use crate::store::file::removal::open_file;
use crate::store::file::reserve::LEFT_BY_TAKE_OVER;
use crate::store::file::rewrite::Rewrite;
use crate::store::file::settled::Settled;
use crate::store::file::slices::{Messages, Overlap};
use crate::store::file::sync::sync_files_and_folders;
use crate::store::file::unsynced::unsynced;
use crate::store::{Action, StoreError};

/// Beyond so many channels, a take-over makes them durable by one sync of the file system.
const CHANNELS_SYNCED_APART_MAX: usize = 64;
/// Beyond so many channels that may not be synced, it is asked first whether any sync has failed.
const CHANNELS_REWRITTEN_MAX: usize = 16;
/// How long a member may go on giving timestamps after a sync of it has failed, in nanoseconds.
const FAILURE_NOTICED_WITHIN: i64 = 1_000_000_000;
/// How long it may hold its role after that.
const FAILURE_ENDS_WITHIN: Duration = Duration::from_secs(60);
/// So much behind a copy that may not be durable is written anew with it. What is read of channels
/// is written before it is more than that.
const REACHED_BYTES_MAX: u64 = UNSYNCED_BYTES_MAX as u64;
/// New slices, of two files each, that are open at once while the fence is asked for all of them.
const SLICES_BEGUN_TOGETHER_MAX: usize = 32;
/// Files that are open at once while they are made durable.
const FILES_SYNCED_TOGETHER_MAX: usize = 256;

/// What is taken over.
pub struct Adoption<'a> {
    /// Options and the right to write.
    pub ctx: &'a Context,
    /// The open root.
    pub root: &'a dyn Folder,
    /// The files under the root, as they were listed first.
    pub files: &'a [Entry],
    /// How its channels were read.
    pub recovery: ChannelRecovery<'a>,
    /// What a former epoch had made durable.
    pub settled: Settled,
    /// Whether the predecessor may still be alive.
    pub is_replaced: bool,
    /// The root as this process has it open since a time.
    pub watch: Option<(Box<dyn Folder>, WallTime)>,
    /// The time.
    pub now: WallTime,
}

/// Writes anew what a predecessor may not have synced, and makes everything else durable that it
/// wrote. Those channels also get a fresh subs.dat at once if the predecessor may still be alive,
/// or if they are few; the others get theirs with the first write.
/// False if something could not be written anew.
///
/// # Errors
/// [`StoreError`]; that of a full disk, if the predecessor may still be alive.
pub fn adopt(adoption: &Adoption<'_>, channels: &mut [Recovered]) -> Result<bool, StoreError> {
    let Adoption { ctx, root, settled, .. } = *adoption;
    if !ctx.options.sync && !adoption.is_replaced {
        // Nobody was promised that anything is durable, and nobody writes any more.
        return Ok(false);
    }
    let newest = channels.iter().map(|found| found.channel.messages.last_time).max();
    let watch = adoption.watch(newest.unwrap_or(0));
    // What was synced under watch, and not changed since, is proved to be on the disk.
    let is_doubtful = |found: &Recovered| {
        settled.may_lack(&found.channel) && !(watch.is_some() && found.is_synced)
    };
    let places = channels.iter().enumerate().filter(|(_, found)| is_doubtful(found));
    let mut candidates: Vec<usize> = places.map(|(place, _)| place).collect();
    if let Some(watch) = watch
        && CHANNELS_REWRITTEN_MAX < candidates.len()
        && watch.sync_filesystem().is_ok()
    {
        // That nothing has failed since then says nothing of a copy that was made before.
        let is_left =
            |found: &Recovered| found.is_elsewhere || found.channel.messages.has_kept_overlap();
        if !channels.iter().any(is_left) {
            return Ok(true);
        }
        candidates.retain(|&place| is_left(&channels[place]));
        channels.iter_mut().for_each(|found| found.is_synced |= !found.is_elsewhere);
    }
    let mut froms = unsynced((ctx, root), settled, channels, &candidates)?;
    for &place in &candidates {
        reach_overlap(&mut froms[place], &channels[place].channel.messages);
    }
    if planted::is(Bug::SliceContinued) {
        froms.fill(None);
    }
    let is_wide = CHANNELS_REWRITTEN_MAX < froms.iter().flatten().count();
    // Those of a narrow batch are written next, and a fresh subs.dat costs least where other files
    // are synced.
    let refreshes = (adoption.is_replaced || !is_wide) && !planted::is(Bug::SubscriptionsContinued);
    let mut is_complete = true;
    let mut rewrites = Vec::new();
    candidates.retain(|place| froms[*place].is_some());
    let mut rest = candidates.into_iter();
    while !rest.as_slice().is_empty() {
        let (mut copies, mut bytes) = (Vec::new(), 0);
        while copies.len() < SLICES_BEGUN_TOGETHER_MAX
            && bytes < REACHED_BYTES_MAX
            && let Some(place) = rest.next()
        {
            let (from, copy) = copy(adoption, channels, (place, froms[place]))?;
            channels[place].channel.close_reader();
            bytes += copy.as_ref().map_or(0, Rewrite::data_len);
            copies.push((place, from, copy));
        }
        begin(adoption, channels, &copies)?;
        for (place, from, copy) in copies {
            let found = &mut channels[place];
            let rewrite = match copy {
                Some(copy) => write(adoption, &mut found.channel, copy)?,
                None => None,
            };
            if let (Some(from), true) = (from, rewrite.is_some()) {
                release_overlaps(&mut found.channel.messages, from);
            }
            is_complete &= rewrite.is_some() || from.is_none();
            let fresh = if refreshes { fresh_subscriptions(adoption, found)? } else { None };
            found.channel.close_files();
            found.is_synced = false;
            rewrites.push((found.channel.name.clone(), rewrite, fresh));
        }
    }
    let fresh = rewrites.iter().filter_map(|(_, _, fresh)| fresh.as_ref());
    adoption.sync(channels, fresh.map(Replacement::name))?;
    ctx.fence.check()?;
    let mut rewrites = rewrites.into_iter().peekable();
    for Recovered { channel, .. } in channels {
        let Some((_, rewrite, fresh)) = rewrites.next_if(|(name, ..)| *name == channel.name) else {
            continue;
        };
        // Names that were new are durable by now. Those that go, or are replaced, need not be: the
        // next commit to the channel syncs its folder, and until then the old ones say the same.
        channel.mark_synced();
        if let Some(rewrite) = rewrite {
            rewrite.finish(channel);
        }
        if let Some(fresh) = fresh {
            channel.replace_subscriptions(ctx, root, fresh)?;
        }
        channel.close_files();
    }
    Ok(is_complete)
}

/// What old slices hold that later ones hold too stays, unless it is known that the later ones were
/// made durable: one can be the copy of a member whose sync failed, and after that no later sync
/// proves anything. That messages lie behind it does not prove it either: where there was no room
/// to write it anew, others have served since, and released with everything synced.
pub fn keep_overlaps(messages: &mut Messages, settled: Settled) {
    for old in &mut messages.overlaps {
        old.must_stay = !settled.has(old.last_time);
    }
}

/// What is written anew, and synced before anything is cut, need not stay.
fn release_overlaps(messages: &mut Messages, written_from: u64) {
    for old in &mut messages.overlaps {
        old.must_stay &= old.from.max(messages.first) < written_from;
    }
}

/// What is written anew begins at the latest where two slices begin to hold the same messages, if
/// nothing lies behind those, or so little that it costs no more than any take-over.
fn reach_overlap(from: &mut Option<u64>, messages: &Messages) {
    let is_wanted = |old: &&Overlap| old.must_stay && messages.first <= old.last;
    for old in messages.overlaps.iter().filter(is_wanted) {
        let begin = old.from.max(messages.first);
        let is_near = messages.bytes_from(begin) <= REACHED_BYTES_MAX;
        if messages.last <= old.last || is_near {
            *from = Some(from.map_or(begin, |from| from.min(begin)));
        }
    }
}

/// The messages of the channel at `place` that are written anew, and from where on, unless one is
/// damaged. Where a power failure has left a hole, the channel ends, and is read again; not so in a
/// store that none of ours has opened before: a Go server goes on behind a hole.
fn copy(
    adoption: &Adoption<'_>,
    channels: &mut [Recovered],
    (place, mut from): (usize, Option<u64>),
) -> Result<(Option<u64>, Option<Rewrite>), StoreError> {
    let Adoption { ctx, root, settled, .. } = *adoption;
    while let Some(first) = from {
        let channel = &mut channels[place].channel;
        let copy = match Rewrite::copy(ctx, root, channel, first) {
            Ok(copy) => copy,
            // Damage: it stays where it is.
            Err(error) => refusal(error).map(|_| None)?,
        };
        let Messages { slices, overlaps, .. } = &channel.messages;
        let is_damaged = slices.iter().any(|slice| first <= slice.last && slice.has_damage());
        if !settled.is_of_ours() || (copy.is_some() && !is_damaged) {
            return Ok((from, copy));
        }
        let name = channel.name.clone();
        let again = adoption.recovery.doubting(first).one(name.as_bytes(), None)?;
        let Some(mut found) = again else { return Ok((from, copy)) };
        let of_found = &found.channel.messages;
        if of_found.slices == *slices && of_found.overlaps.len() == overlaps.len() {
            return Ok((from, copy));
        }
        keep_overlaps(&mut found.channel.messages, settled);
        found.notices.splice(0..0, std::mem::take(&mut channels[place].notices));
        channels[place] = found;
        from = unsynced((ctx, root), settled, channels, &[place])?[place];
        reach_overlap(&mut from, &channels[place].channel.messages);
    }
    Ok((None, None))
}

/// Makes the files of several copies, and asks the fence once for all: what was read is no
/// successor's; and a successor that came before the files were there looks at them no more. One
/// that cannot be made is tried again where it is written: the others are closed by then.
fn begin(
    adoption: &Adoption<'_>,
    channels: &mut [Recovered],
    copies: &[(usize, Option<u64>, Option<Rewrite>)],
) -> Result<(), StoreError> {
    let Adoption { ctx, root, .. } = *adoption;
    ctx.fence.check()?;
    let copies = copies.iter().filter_map(|(place, _, copy)| Some((*place, copy.as_ref()?)));
    for (place, copy) in copies {
        if copy.begin(ctx, root, &mut channels[place].channel).is_err() {
            break;
        }
    }
    Ok(ctx.fence.check()?)
}

/// Writes a copy. A disk without room for it ends a take-over from a member that may still live, as
/// that cuts what it wrote last once it knows: what is not in our hands is neither counted nor
/// delivered. Of one that is gone it is synced where it lies.
fn write(
    adoption: &Adoption<'_>,
    channel: &mut Channel,
    mut made: Rewrite,
) -> Result<Option<Rewrite>, StoreError> {
    let Adoption { ctx, root, .. } = *adoption;
    match made.write(ctx, root, channel) {
        Ok(()) => Ok(Some(made)),
        Err(error) if adoption.is_replaced => Err(error),
        Err(error) => refusal(error).map(|_| None),
    }
}

/// A fresh subs.dat, if the disk has room for it.
fn fresh_subscriptions(
    adoption: &Adoption<'_>,
    found: &mut Recovered,
) -> Result<Option<Replacement>, StoreError> {
    match found.channel.prepare_subscriptions(adoption.ctx, adoption.root, LEFT_BY_TAKE_OVER) {
        Ok(fresh) => Ok(Some(fresh)),
        Err(error) => refusal(error).map(|_| None),
    }
}

impl Adoption<'_> {
    /// The root, if this process has it open since before any sync can have failed, and the
    /// predecessor is gone.
    fn watch(&self, newest: i64) -> Option<&dyn Folder> {
        let (root, opened_at) = self.watch.as_ref()?;
        let is_old = opened_at.0.saturating_add(FAILURE_NOTICED_WITHIN) <= newest
            || *opened_at + FAILURE_ENDS_WITHIN <= self.now;
        (!self.is_replaced && is_old).then_some(root.as_ref())
    }

    /// What a predecessor wrote and may not have synced is made durable, and so is what lies in the
    /// root by these names since.
    fn sync<'n>(
        &'n self,
        channels: &[Recovered],
        fresh: impl Iterator<Item = &'n [u8]>,
    ) -> Result<(), StoreError> {
        let (ctx, root) = (self.ctx, self.root);
        let sync_error = |source| io_error(Action::Sync, ctx.root_path(), source);
        let mut dirty: Vec<&Recovered> = channels.iter().filter(|found| !found.is_synced).collect();
        // Of few channels the files alone: others may have much unsynced on the same file system.
        if CHANNELS_SYNCED_APART_MAX < dirty.len() && root.can_sync_filesystem() {
            root.sync_filesystem().map_err(sync_error)?;
            dirty.retain(|found| found.is_elsewhere);
        }
        let mut files: Vec<Box<dyn DiskFile>> = Vec::new();
        let of_root = self.files.iter().filter(|entry| !entry.is_folder);
        let of_root = of_root.map(|file| &file.name[..]).filter(|name| is_root_file(name));
        for name in of_root.chain(fresh) {
            match root.open(name, Access::Append) {
                Ok(file) => files.push(file),
                // A former epoch's, which was removed since.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
                Err(source) => {
                    return Err(io_error(Action::Open, &ctx.path(b"", name), source));
                }
            }
        }
        let mut folders = Vec::new();
        for found in dirty {
            let name = found.channel.name.as_bytes();
            let path = ctx.path(name, b"");
            let open_error = |source| io_error(Action::Open, &path, source);
            let folder = root.folder(name).map_err(open_error)?;
            let entries = folder.list().map_err(open_error)?.into_iter();
            for file in entries.filter(|file| !file.is_folder && is_channel_file(&file.name)) {
                let fence = ctx.fence.as_ref();
                let opened = open_file(folder.as_ref(), &file.name, Access::Append, fence);
                let path = ctx.path(name, &file.name);
                files.push(opened.map_err(|source| io_error(Action::Open, &path, source))?);
                if FILES_SYNCED_TOGETHER_MAX <= files.len() {
                    let files = std::mem::take(&mut files);
                    sync_files_and_folders(&files, &[]).map_err(sync_error)?;
                }
            }
            folders.push(folder);
        }
        let names = folders.iter().map(AsRef::as_ref).chain([root]);
        sync_files_and_folders(&files, &names.collect::<Vec<_>>()).map_err(sync_error)
    }
}
