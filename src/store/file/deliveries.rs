//! How often messages were delivered: files of ours under the root, which no Go server reads.
//!
//! Each epoch begins with a file of all that it has found, and each share adds files of its own,
//! which begin with all that the share knows. A mark says how many records that were: where it is
//! true, what older files say of the same is passed over, so that neither one that could not be
//! removed nor one that a former active makes late brings back what was let go of. Behind the mark,
//! what was written last counts. A record has one length and a checksum, so one that is torn spoils
//! no other, and a count that is lost was answered for to nobody. Where no channel has a limit
//! there are no such files, and none is left.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::base::delivery_count::{DeliveryCount, ReaderId};
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::ChannelBatch;
use crate::base::time::WallTime;
use crate::store::file::context::{Context, is_refusal, refusal};
use crate::store::file::disk::{Access, DiskFile, Entry, Folder};
use crate::store::file::format::{deliveries_name, deliveries_number};
use crate::store::file::log::{Log, io_error, path_below};
use crate::store::{Action, StoreError};

/// What each file begins with.
pub(in crate::store) const HEADER: [u8; 8] = *b"stanby#1";
/// Channel, reader, sequence, timestamp, count, checksum.
pub(in crate::store) const RECORD_LEN: usize = 16 + 16 + 8 + 8 + 4 + 4;
/// Records that are read at once.
const RECORDS_READ: usize = 4_096;
/// Where nothing is synced, so many acknowledgements wait to be durable at most.
const ACKED_UNSYNCED_MAX: usize = 4_096;

/// A message and a reader.
type Key = (ReaderId, ReaderId, Sequence);

/// When it was published, and how often it was delivered.
type Count = (WallTime, u32);

/// Stands for channel and reader in a mark.
const MARK: ReaderId = ReaderId([u8::MAX; 16]);

/// Of what a file says everything up to its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Store,
    Share,
}

impl Scope {
    /// A record that says so, behind so many others.
    fn mark(self, records: u64) -> (Key, Count) {
        let scope = match self {
            Self::Store => 1,
            Self::Share => 2,
        };
        ((MARK, MARK, Sequence(records)), (WallTime(0), scope))
    }

    /// What a record marks behind so many others.
    fn of(record: &(Key, Count), records: u64) -> Option<Self> {
        [Self::Store, Self::Share].into_iter().find(|scope| scope.mark(records) == *record)
    }
}

/// Nobody needs to know.
const NONE: Count = (WallTime(0), 0);

/// Which epoch has written a file, and the how many-th it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    /// The epoch.
    pub epoch: u64,
    /// Counts the files of a share; 0 is what the epoch has found.
    pub generation: u64,
    /// Which share.
    pub share: u64,
}

/// What one share knows.
#[derive(Default)]
pub struct Deliveries {
    share: u64,
    counts: BTreeMap<Key, Count>,
    /// Acknowledged messages, which need no count once what was written before is durable.
    acked_unsynced: BTreeSet<Key>,
    /// What the file of the epoch counts: where it is let go of, each file of this share says so.
    in_epoch_file: BTreeSet<Key>,
    /// Those of which that is so, and files still have one: the next write says so.
    to_deny: BTreeSet<Key>,
    file: Option<Written>,
    /// Files of this share that say nothing more once the newest one is durable.
    outdated: Vec<Number>,
    last_generation: u64,
}

struct Written {
    log: Log,
    number: Number,
    /// Whether anybody was answered for what it says.
    is_relied_on: bool,
}

/// By the channel's name.
fn channel_id(channel: &ChannelName) -> ReaderId {
    ReaderId::of(&[channel.as_bytes()])
}

/// A message of a reader, or all of them.
fn keys_of(channel: ReaderId, count: &DeliveryCount) -> RangeInclusive<Key> {
    let DeliveryCount { reader, sequence, .. } = *count;
    let last = if count.is_of_all() { Sequence(u64::MAX) } else { sequence };
    (channel, reader, sequence)..=(channel, reader, last)
}

fn encode(target: &mut Vec<u8>, (channel, reader, sequence): &Key, (timestamp, count): &Count) {
    let begin = target.len();
    target.extend(channel.0);
    target.extend(reader.0);
    target.extend(sequence.0.to_le_bytes());
    target.extend(timestamp.0.to_le_bytes());
    target.extend(count.to_le_bytes());
    target.extend(crc32fast::hash(&target[begin..]).to_le_bytes());
}

fn decode(record: &[u8]) -> Option<(Key, Count)> {
    let (body, crc) = record.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (channel, rest) = body.split_first_chunk::<16>()?;
    let (reader, rest) = rest.split_first_chunk::<16>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (timestamp, rest) = rest.split_first_chunk::<8>()?;
    let count = u32::from_le_bytes(rest.try_into().ok()?);
    let key = (ReaderId(*channel), ReaderId(*reader), Sequence(u64::from_le_bytes(*sequence)));
    Some((key, (WallTime(i64::from_le_bytes(*timestamp)), count)))
}

/// Whether a record with a checksum that fits stands there.
pub(in crate::store) fn is_record(bytes: &[u8]) -> bool {
    decode(bytes).is_some()
}

impl Deliveries {
    /// Of one share, with what was found of its channels.
    pub(super) fn of_share(share: usize, found: &Found, channels: &[&ChannelName]) -> Self {
        let ids: BTreeSet<ReaderId> = channels.iter().map(|name| channel_id(name)).collect();
        let counts = found.counts.iter().filter(|((channel, ..), _)| ids.contains(channel));
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        let counts: BTreeMap<Key, Count> = counts.map(|(key, count)| (*key, *count)).collect();
        let found_keys = counts.keys().copied().collect();
        let last_generation = found.generation;
        Self { share, counts, in_epoch_file: found_keys, last_generation, ..Self::default() }
    }

    /// Writes the counts of these parts; they are durable after the next sync.
    ///
    /// # Errors
    /// [`StoreError`]; then none of them is believed to be there.
    pub(super) fn write(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        parts: &[&ChannelBatch],
    ) -> Result<bool, StoreError> {
        let mut added = BTreeMap::new();
        for part in parts {
            let channel = channel_id(&part.channel);
            for count in &part.deliveries {
                if 0 < count.count {
                    let key = (channel, count.reader, count.sequence);
                    added.insert(key, (count.timestamp, count.count));
                } else if count.is_gone {
                    // What was let go of must not come back when its reader begins anew.
                    let range = keys_of(channel, count);
                    added.range_mut(range).for_each(|(_, of)| *of = NONE);
                    added.extend(self.known_of(channel, count).map(|key| (key, NONE)));
                }
            }
        }
        if !added.is_empty() {
            for key in &self.to_deny {
                added.entry(*key).or_insert(NONE);
            }
        }
        if added.is_empty() {
            return Ok(false);
        }
        let is_new = self.file.is_none();
        let written = if is_new { self.begin(ctx, root, &added) } else { self.append(ctx, &added) };
        if written.is_ok() {
            self.to_deny.clear();
        } else {
            self.abandon(root);
        }
        written.map(|()| is_new)
    }

    /// What files may have of a message, or of all messages of a reader.
    fn known_of(&self, channel: ReaderId, count: &DeliveryCount) -> impl Iterator<Item = Key> + '_ {
        let range = keys_of(channel, count);
        let known = self.counts.range(range.clone()).map(|(key, _)| *key);
        known.chain(self.to_deny.range(range).copied())
    }

    fn append(&mut self, ctx: &Context, added: &BTreeMap<Key, Count>) -> Result<(), StoreError> {
        let Some(written) = &mut self.file else { return Ok(()) };
        let mut bytes = Vec::new();
        added.iter().for_each(|(key, count)| encode(&mut bytes, key, count));
        written.log.append(&bytes, &path_of(ctx, written.number))
    }

    /// A file with all that is known, and `added`.
    fn begin(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        added: &BTreeMap<Key, Count>,
    ) -> Result<(), StoreError> {
        self.last_generation += 1;
        let (epoch, generation) = (ctx.fence.epoch().0, self.last_generation);
        let number = Number { epoch, generation, share: self.share };
        // What is acknowledged keeps its count until that is durable.
        let mut all = self.counts.clone();
        for key in &self.in_epoch_file {
            all.entry(*key).or_insert(NONE);
        }
        all.extend(added);
        let log = create(ctx, root, number, (Scope::Share, &all))?;
        self.file = Some(Written { log, number, is_relied_on: false });
        Ok(())
    }

    /// What of the file is there is not known: the next one says everything anew. One for which
    /// nobody was answered goes at once, else each try would leave one more on a full disk.
    fn abandon(&mut self, root: &dyn Folder) {
        let Some(Written { number, is_relied_on, .. }) = self.file.take() else { return };
        if is_relied_on || root.unlink(&deliveries_name(number)).is_err() {
            self.outdated.push(number);
        }
    }

    /// The file, if it has to be synced.
    pub(super) fn dirty_file(&self) -> Option<&dyn DiskFile> {
        self.file.as_ref().filter(|written| written.log.is_dirty()).map(|file| file.log.file())
    }

    /// A part was kept: its counts are there.
    pub(super) fn apply(&mut self, ctx: &Context, part: &ChannelBatch) {
        if part.deliveries.is_empty() {
            return;
        }
        if let Some(written) = &mut self.file {
            written.is_relied_on = true;
        }
        let channel = channel_id(&part.channel);
        for count in &part.deliveries {
            if count.count == 0 {
                let known: Vec<Key> = self.known_of(channel, count).collect();
                self.acked_unsynced.extend(known);
            } else {
                let key = (channel, count.reader, count.sequence);
                self.acked_unsynced.remove(&key);
                self.to_deny.remove(&key);
                self.counts.insert(key, (count.timestamp, count.count));
            }
        }
        if !ctx.options.sync && ACKED_UNSYNCED_MAX < self.acked_unsynced.len() {
            self.on_synced();
        }
    }

    /// A channel is gone, and what was counted of it.
    pub(super) fn forget_channel(&mut self, name: &ChannelName) {
        if !self.counts.is_empty() {
            let gone = channel_id(name);
            self.counts.retain(|(channel, ..), _| *channel != gone);
            self.acked_unsynced.retain(|(channel, ..)| *channel != gone);
            self.to_deny.retain(|(channel, ..)| *channel != gone);
        }
    }

    /// Everything that was written is durable.
    pub(super) fn on_synced(&mut self) {
        if let Some(written) = &mut self.file {
            written.log.mark_synced();
        }
        for key in std::mem::take(&mut self.acked_unsynced) {
            if self.counts.remove(&key).is_some() {
                self.to_deny.insert(key);
            }
        }
    }

    /// A sync failed: what the kernel has dropped no later one brings back.
    pub(super) fn on_sync_failed(&mut self, root: &dyn Folder) {
        self.abandon(root);
    }

    /// Writes a file anew that is mostly waste, and removes those that say nothing more. It is no
    /// part of a commit: without room for it nothing is lost.
    ///
    /// # Errors
    /// [`StoreError`]: that of a sync, after which nothing may be believed, or of the fence.
    pub(super) fn tidy(&mut self, ctx: &Context, root: &dyn Folder) -> Result<(), StoreError> {
        if self.is_wasteful(ctx) {
            self.write_anew(ctx, root)?;
        }
        let is_durable = self.file.as_ref().is_some_and(|written| !written.log.is_dirty());
        if is_durable && !self.outdated.is_empty() {
            // A successor that has listed the root before the newest one was there needs these.
            ctx.fence.check()?;
            let is_left = |number: &Number| match root.unlink(&deliveries_name(*number)) {
                Ok(()) => false,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            };
            self.outdated.retain(is_left);
        }
        Ok(())
    }

    fn is_wasteful(&self, ctx: &Context) -> bool {
        let Some(written) = &self.file else { return false };
        // The mark is one too.
        let needed = 1 + self.counts.len() as u64 + self.in_epoch_file.len() as u64;
        let is_small =
            i64::try_from(written.log.len()).is_ok_and(|len| len <= ctx.options.compact_bytes_min);
        !written.log.is_dirty() && !is_small && 2 * needed < written.log.len() / RECORD_LEN as u64
    }

    fn write_anew(&mut self, ctx: &Context, root: &dyn Folder) -> Result<(), StoreError> {
        let former = self.file.take();
        let made = self.begin(ctx, root, &BTreeMap::new()).and_then(|()| self.sync(ctx, root));
        match made {
            Ok(()) => {
                self.to_deny.clear();
                self.outdated.extend(former.map(|written| written.number));
                Ok(())
            }
            Err(error) => {
                // Whoever finds the copy takes what the former one says later for said before it:
                // so nothing is added to that, and the next write begins another one.
                self.abandon(root);
                self.outdated.extend(former.map(|written| written.number));
                let text = refusal(error)?;
                log::debug!(
                    target: crate::log::STREAM,
                    "Unable to write the counts of deliveries anew: {text}"
                );
                Ok(())
            }
        }
    }

    fn sync(&mut self, ctx: &Context, root: &dyn Folder) -> Result<(), StoreError> {
        let Some(written) = &mut self.file else { return Ok(()) };
        let synced = written.log.file().sync().and_then(|()| root.sync());
        synced.map_err(|source| io_error(Action::Sync, &path_of(ctx, written.number), source))?;
        written.log.mark_synced();
        written.is_relied_on = true;
        Ok(())
    }
}

/// What of a file is none of what was written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Damage {
    /// Records that are none, in front of one that is.
    inside: u64,
    /// Those behind the last one that is.
    at_end: u64,
    /// Where the first one lies.
    first_at: Option<u64>,
}

impl Damage {
    fn look(&mut self, at: u64, is_whole: bool) {
        if is_whole {
            self.inside += std::mem::take(&mut self.at_end);
        } else {
            self.at_end += 1;
            self.first_at.get_or_insert(at);
        }
    }

    /// A crash leaves a torn end, of which nobody was told that it is there; anything else was
    /// damaged later.
    fn say(&self, path: &Path) {
        let (Some(first_at), path) = (self.first_at, path.display()) else { return };
        if self.inside == 0 {
            log::info!(
                target: crate::log::STREAM,
                "{path}: {} records at the end are not whole, from byte {first_at} on: a crash left them",
                self.at_end
            );
        } else {
            log::warn!(
                target: crate::log::STREAM,
                "{path}: {} records are damaged, the first at byte {first_at}: a message may be \
                 delivered more often than its channel allows, and nothing is lost",
                self.inside + self.at_end
            );
        }
    }
}

/// What was found when the store was opened.
#[derive(Default)]
pub struct Found {
    counts: BTreeMap<Key, Count>,
    /// Under which this epoch writes it down; what it writes then comes behind it.
    generation: u64,
}

impl Found {
    /// Reads what former epochs have written, and writes it down for this one. Where nothing is
    /// counted any more, the files go.
    ///
    /// # Errors
    /// [`StoreError`] if a file cannot be read: messages would be delivered too often.
    pub(super) fn take_over(
        ctx: &Context,
        root: &dyn Folder,
        entries: &[Entry],
    ) -> Result<Self, StoreError> {
        let epoch = ctx.fence.epoch().0;
        let files = entries.iter().filter(|entry| !entry.is_folder);
        let mut numbers: Vec<Number> =
            files.filter_map(|entry| deliveries_number(&entry.name)).collect();
        numbers.sort_unstable();
        let mut found = Self::default();
        if numbers.is_empty() && !ctx.limits.counts_deliveries() {
            return Ok(found);
        }
        let own = numbers.iter().filter(|number| number.epoch == epoch);
        found.generation = own.map(|number| number.generation + 1).max().unwrap_or(0);
        if ctx.limits.counts_deliveries() {
            let mut files = Vec::new();
            for number in &numbers {
                files.extend(read(ctx, root, *number)?);
            }
            found.counts = merge(files);
            let number = Number { epoch, generation: found.generation, share: 0 };
            if let Err(error) = found.write(ctx, root, number) {
                // For want of room what is there goes on counting.
                return refusal(error).map(|_| found);
            }
        }
        ctx.fence.check()?;
        for number in numbers.iter().filter(|number| number.epoch <= epoch) {
            // One that stays says nothing that the new one does not say.
            let _ = root.unlink(&deliveries_name(*number));
        }
        Ok(found)
    }

    /// Of one channel.
    pub(super) fn of_channel(&self, name: &ChannelName) -> Vec<DeliveryCount> {
        if self.counts.is_empty() {
            return Vec::new();
        }
        let channel = channel_id(name);
        let first = (channel, ReaderId([0; 16]), Sequence::ZERO);
        let last = (channel, ReaderId([u8::MAX; 16]), Sequence(u64::MAX));
        let counts = self.counts.range(first..=last);
        counts
            .map(|((_, reader, sequence), (timestamp, count))| DeliveryCount {
                reader: *reader,
                sequence: *sequence,
                timestamp: *timestamp,
                count: *count,
                is_gone: false,
            })
            .collect()
    }

    /// Also where nothing was found: what a former active makes late counts for nobody then. A full
    /// disk gives its reserve for it.
    fn write(&self, ctx: &Context, root: &dyn Folder, number: Number) -> Result<(), StoreError> {
        let mut written = self.write_once(ctx, root, number);
        if written.as_ref().is_err_and(is_refusal) && ctx.reserve.release_bytes(root) {
            written = self.write_once(ctx, root, number);
        }
        written
    }

    fn write_once(
        &self,
        ctx: &Context,
        root: &dyn Folder,
        number: Number,
    ) -> Result<(), StoreError> {
        let log = create(ctx, root, number, (Scope::Store, &self.counts))?;
        let synced = log.file().sync().and_then(|()| root.sync());
        synced.map_err(|source| {
            let _ = root.unlink(&deliveries_name(number));
            io_error(Action::Sync, &path_of(ctx, number), source)
        })
    }
}

/// What one file says.
struct Said {
    number: Number,
    counts: BTreeMap<Key, Count>,
    /// Of what it says everything.
    scope: Option<Scope>,
}

/// Reads one file; `None` if it is none of ours, or has gone meanwhile.
fn read(ctx: &Context, root: &dyn Folder, number: Number) -> Result<Option<Said>, StoreError> {
    let path = path_of(ctx, number);
    let name = deliveries_name(number);
    let file = match root.open(&name, Access::Read) {
        Ok(file) => file,
        // Its epoch has written it anew meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(Action::Read, &path, source)),
    };
    let mut bytes = vec![0; RECORDS_READ * RECORD_LEN];
    let read = |bytes: &mut [u8], offset| {
        let read_len = file.read_at(bytes, offset);
        read_len.map_err(|source| io_error(Action::Read, &path, source))
    };
    let header_len = read(&mut bytes[..HEADER.len()], 0)?;
    if bytes[..header_len] != HEADER {
        log::warn!("{}: not a file of counts of deliveries; passed over", path.display());
        return Ok(None);
    }
    let mut said = Said { number, counts: BTreeMap::new(), scope: None };
    let (mut offset, mut records) = (HEADER.len() as u64, 0);
    let mut damage = Damage::default();
    loop {
        let read_len = read(&mut bytes, offset)?;
        let places = (offset..).step_by(RECORD_LEN);
        for (at, record) in places.zip(bytes[..read_len].chunks(RECORD_LEN)) {
            let record = decode(record);
            damage.look(at, record.is_some());
            let Some(record) = record else { continue };
            match Scope::of(&record, records) {
                Some(scope) => said.scope = Some(scope),
                None if record.0.0 == MARK => {}
                None => drop(said.counts.insert(record.0, record.1)),
            }
            records += 1;
        }
        if read_len < bytes.len() {
            damage.say(&path);
            return Ok(Some(said));
        }
        offset += read_len as u64;
    }
}

/// What files say together, in the order in which they were written.
fn merge(files: Vec<Said>) -> BTreeMap<Key, Count> {
    let mut valid: Vec<Said> = Vec::new();
    for said in files {
        let writer = |said: &Said| (said.number.epoch, said.number.share);
        match said.scope {
            Some(Scope::Store) => valid.clear(),
            Some(Scope::Share) => valid.retain(|other| {
                other.scope == Some(Scope::Store) || writer(other) != writer(&said)
            }),
            None => {}
        }
        valid.push(said);
    }
    let mut counts: BTreeMap<Key, Count> = valid.into_iter().flat_map(|said| said.counts).collect();
    counts.retain(|_, (_, count)| 0 < *count);
    counts
}

/// A file that says so much; it is not synced.
fn create(
    ctx: &Context,
    root: &dyn Folder,
    number: Number,
    (scope, counts): (Scope, &BTreeMap<Key, Count>),
) -> Result<Log, StoreError> {
    let (name, path) = (deliveries_name(number), path_of(ctx, number));
    let mut bytes = HEADER.to_vec();
    counts.iter().for_each(|(key, count)| encode(&mut bytes, key, count));
    let (key, count) = scope.mark(counts.len() as u64);
    encode(&mut bytes, &key, &count);
    let file = root
        .open(&name, Access::CreateNew)
        .map_err(|source| io_error(Action::Open, &path, source))?;
    let written = Log::of(file, 0, &path).and_then(|mut log| {
        log.append(&bytes, &path)?;
        Ok(log)
    });
    if written.is_err() {
        let _ = root.unlink(&name);
    }
    written
}

fn path_of(ctx: &Context, number: Number) -> std::path::PathBuf {
    let root: &Path = ctx.root_path();
    path_below(root, b"", &deliveries_name(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_torn_or_flipped_is_none() {
        let key = (ReaderId([1; 16]), ReaderId([2; 16]), Sequence(3));
        let count = (WallTime(-4), 5);
        let mut bytes = Vec::new();
        encode(&mut bytes, &key, &count);
        assert_eq!(bytes.len(), RECORD_LEN);
        assert_eq!(decode(&bytes), Some((key, count)));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&flipped), None, "{at}");
            assert_eq!(decode(&bytes[..at]), None, "{at}");
        }
        assert_eq!(decode(&[0; RECORD_LEN]), None);
    }

    #[test]
    fn a_torn_end_is_told_from_damage() {
        let look = |wholes: &[bool]| {
            let mut damage = Damage::default();
            (0..).step_by(RECORD_LEN).zip(wholes).for_each(|(at, whole)| damage.look(at, *whole));
            damage
        };
        assert_eq!(look(&[true, true]), Damage::default());
        let torn = look(&[true, false, false]);
        assert_eq!(torn, Damage { inside: 0, at_end: 2, first_at: Some(RECORD_LEN as u64) });
        let damaged = look(&[false, true, false]);
        assert_eq!(damaged, Damage { inside: 1, at_end: 1, first_at: Some(0) });
    }

    #[test]
    fn names_say_epoch_generation_and_share() {
        let number = Number { epoch: 7, generation: 2, share: 1 };
        assert_eq!(deliveries_number(&deliveries_name(number)), Some(number));
        for wrong in [".stanby.deliveries.7.2", ".stanby.deliveries.7.2.x", "foo", ".stanby.7.2.1"]
        {
            assert_eq!(deliveries_number(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
