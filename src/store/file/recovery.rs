//! Directory → what it holds; repairs a torn tail.
//!
//! Here a channel's folder as a whole: which slices count where several hold the same messages,
//! and its subscriptions. One slice by itself: `slice_recovery`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use crate::base::epoch::Fence;
use crate::base::planted::{self, Bug};
use crate::store::file::context::refusal;
use crate::store::file::cutting;
use crate::store::file::disk::{Access, DiskFile, Entry, Folder, Identity};
use crate::store::file::evidence;
use crate::store::file::format::{
    ChannelFile, Crc, FILE_HEADER_LEN, IndexRecord, SUBSCRIPTIONS_FILE, VERSION_HEADER,
    channel_file, cut_name, decode_subscription, encode_plain, gap_filler, replacement_epoch,
    slice_data_name, slice_index_name,
};
use crate::store::file::log::{
    RECORDS_START, complete_header, io_error, is_half_begun, path_below, read_whole,
};
use crate::store::file::purging::Floor;
use crate::store::file::reading::SliceFiles;
use crate::store::file::removal::{Place, is_removal, open_file};
use crate::store::file::repair::{Ending, HOLE, replay};
use crate::store::file::reserve::{LEFT_BY_TAKE_OVER, Reserve, Spare};
use crate::store::file::slice_recovery::slice_of;
use crate::store::file::slices::{Overlap, Slice};
use crate::store::file::subscriptions::Subscriptions;
use crate::store::{Action, Notice, StoreError};

/// What recovery needs to know.
#[derive(Clone, Copy)]
pub struct Recovery<'a> {
    /// The root's path, for errors and notices.
    pub root_path: &'a Path,
    /// The checksum.
    pub crc: &'a Crc,
    /// Whether checksums are verified.
    pub must_verify: bool,
    /// Whether everything in it was made durable by whoever wrote it.
    pub is_settled: bool,
    /// From which sequence on messages of the channel may not be durable, if that is known.
    pub doubt: Option<u64>,
    /// The right to repair; without it, what needs a repair is an error.
    pub fence: Option<&'a dyn Fence>,
    /// What repairs may take from on a full disk.
    pub reserve: &'a Reserve,
}

/// What was found in a channel's folder.
pub struct FoundChannel {
    /// Which folder it is.
    pub identity: Identity,
    /// Whether a part of it lies on another file system than the root, where its sync ends.
    pub is_elsewhere: bool,
    /// The folder, if it is open.
    pub folder: Option<Box<dyn Folder>>,
    /// Slices that hold messages, in the order of their numbers.
    pub slices: VecDeque<Slice>,
    /// What is taken out of them, because later ones hold it too, and not cut yet.
    pub overlaps: Vec<Overlap>,
    /// Numbers of slices that hold nothing.
    pub hollow: Vec<u64>,
    /// What an operator has left of them.
    pub floor: Floor,
    /// Highest slice number.
    pub number_max: u64,
    /// Whether there was a file of the format in it, be it one that holds nothing.
    pub has_files: bool,
    /// Its subscriptions.
    pub subscriptions: Subscriptions,
    /// Length of subs.dat; `None` if there is none.
    pub subscriptions_len: Option<u64>,
    /// What the operator should know.
    pub notices: Vec<Notice>,
}

impl FoundChannel {
    /// Whether it is a channel: not where a creation has got no further than the folder, nor where
    /// a deletion has left only that. A creation asks the same of the folder that it finds: what is
    /// none here can be made there.
    #[must_use]
    pub fn is_channel(&self) -> bool {
        self.has_files
    }
}

impl Recovery<'_> {
    /// Reads the folder of one channel, and repairs what a crash left.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the reference's text, [`StoreError::Io`].
    pub fn channel(&self, root: &dyn Folder, name: &[u8]) -> Result<FoundChannel, StoreError> {
        let path = path_below(self.root_path, name, b"");
        let open_error = |source| io_error(Action::Open, &path, source);
        let folder = root.folder(name).map_err(open_error)?;
        let identity = folder.identity().map_err(open_error)?;
        let device = root.identity().map_err(open_error)?.device;
        let mut entries = folder.list().map_err(open_error)?;
        let mut reader = ChannelReader {
            recovery: *self,
            root,
            folder: folder.as_ref(),
            channel: name,
            path: path.clone(),
            notices: Vec::new(),
            device,
            is_elsewhere: Cell::new(identity.device != device),
            overlaps: Vec::new(),
            hollow: Vec::new(),
            number_max: 0,
        };
        reader.clear_replacements(&entries)?;
        if reader.finish_removals(&entries)? {
            entries = folder.list().map_err(open_error)?;
        }
        let has_files = has_channel_files(&entries);
        let slices = reader.slices(&entries)?;
        let floor = reader.floor(&entries, slices.back().map_or(0, |slice| slice.last))?;
        let has_subscriptions = entries.iter().any(|entry| entry.name == SUBSCRIPTIONS_FILE);
        let (subscriptions, subscriptions_len) = if has_subscriptions {
            let (found, len) = reader.subscriptions()?;
            (found, Some(len))
        } else {
            (Subscriptions::default(), None)
        };
        let is_elsewhere = reader.is_elsewhere.get();
        let ChannelReader { notices, overlaps, hollow, number_max, .. } = reader;
        Ok(FoundChannel {
            identity,
            is_elsewhere,
            folder: Some(folder),
            slices,
            overlaps,
            hollow,
            floor,
            number_max,
            has_files,
            subscriptions,
            subscriptions_len,
            notices,
        })
    }
}

/// Whether one of a folder's entries is a file that makes it a channel's.
pub fn has_channel_files(entries: &[Entry]) -> bool {
    let is_file = |entry: &Entry| {
        !entry.is_folder && !matches!(channel_file(&entry.name), ChannelFile::Other)
    };
    entries.iter().any(is_file)
}

/// Reads one channel's folder.
pub(super) struct ChannelReader<'a> {
    pub(super) recovery: Recovery<'a>,
    pub(super) root: &'a dyn Folder,
    pub(super) folder: &'a dyn Folder,
    pub(super) channel: &'a [u8],
    pub(super) path: PathBuf,
    pub(super) notices: Vec<Notice>,
    /// The file system of the root.
    device: u64,
    is_elsewhere: Cell<bool>,
    overlaps: Vec<Overlap>,
    pub(super) hollow: Vec<u64>,
    /// The highest number of a slice, with messages or not.
    number_max: u64,
}

impl ChannelReader<'_> {
    fn name(&self) -> String {
        String::from_utf8_lossy(self.channel).into_owned()
    }

    pub(super) fn file_path(&self, name: &[u8]) -> PathBuf {
        path_below(&self.path, b"", name)
    }

    /// An error in the reference's words; the file is named below the root.
    pub(super) fn message_error(&self, file: &[u8], reason: &str) -> StoreError {
        StoreError::Corrupt(format!(
            "unable to recover message store for [{0}](file: \"{0}/{1}\"): {reason}",
            self.name(),
            String::from_utf8_lossy(file),
        ))
    }

    pub(super) fn notice(&mut self, is_warning: bool, text: String) {
        self.notices.push(Notice { is_warning, text });
    }

    /// What a repair needs; without it nothing is written.
    ///
    /// # Errors
    /// [`StoreError::Unusable`], if this is only a look.
    pub(super) fn place(&self) -> Result<Place<'_>, StoreError> {
        let fence = self.recovery.fence.ok_or_else(|| {
            StoreError::Unusable(format!("channel {} has to be repaired first", self.name()))
        })?;
        Ok(Place { folder: self.folder, path: &self.path, fence })
    }

    /// Where a repair finds a file on a full disk.
    pub(super) fn spare(&self) -> Result<Spare<'_>, StoreError> {
        let epoch = self.place()?.fence.epoch().0;
        let Recovery { reserve, .. } = self.recovery;
        Ok(Spare { reserve, root: self.root, epoch, left: LEFT_BY_TAKE_OVER })
    }

    /// Removes what former epochs have prepared here and not put in place.
    fn clear_replacements(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let Some(fence) = self.recovery.fence else { return Ok(()) };
        let is_former = |entry: &&Entry| {
            replacement_epoch(&entry.name).is_some_and(|epoch| epoch < fence.epoch().0)
        };
        for entry in entries.iter().filter(|entry| !entry.is_folder).filter(is_former) {
            match self.folder.unlink(&entry.name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io_error(Action::Replace, &self.file_path(&entry.name), error));
                }
                Ok(()) | Err(_) => (),
            }
        }
        Ok(())
    }

    /// Puts back what an earlier epoch has half removed, or takes away what it had decided to
    /// delete; true if there was any.
    fn finish_removals(&self, entries: &[Entry]) -> Result<bool, StoreError> {
        if !entries.iter().any(is_removal) {
            return Ok(false);
        }
        let place = self.place()?;
        if !place.finish_deletion()? {
            return place.put_back(entries);
        }
        // Refused where somebody has put something into it; else there is a folder less.
        let _ = self.root.remove_folder(self.channel);
        Ok(true)
    }

    pub(super) fn open(&self, name: &[u8]) -> Result<Box<dyn DiskFile>, StoreError> {
        let access = if self.recovery.fence.is_some() { Access::Append } else { Access::Read };
        let opened = match self.recovery.fence {
            Some(fence) => open_file(self.folder, name, access, fence),
            None => self.folder.open(name, access),
        };
        let open_error = |source| io_error(Action::Open, &self.file_path(name), source);
        let file = opened.map_err(open_error)?;
        if file.describe().map_err(open_error)?.device != self.device {
            self.is_elsewhere.set(true);
        }
        Ok(file)
    }

    fn slices(&mut self, entries: &[Entry]) -> Result<VecDeque<Slice>, StoreError> {
        let mut numbers = BTreeMap::new();
        let mut indexed = BTreeSet::new();
        for entry in entries.iter().filter(|entry| !entry.is_folder) {
            match channel_file(&entry.name) {
                ChannelFile::Data(number) => {
                    if numbers.insert(number, ()).is_some() {
                        return Err(self.message_error(&entry.name, "two files of one number"));
                    }
                }
                ChannelFile::Index(number) => {
                    indexed.insert(number);
                }
                ChannelFile::Invalid => {
                    let name = String::from_utf8_lossy(&entry.name).into_owned();
                    let reason = format!("message log has an invalid name: {name}");
                    return Err(self.message_error(&entry.name, &reason));
                }
                ChannelFile::Subscriptions
                | ChannelFile::Removed(..)
                | ChannelFile::Deleted(_)
                | ChannelFile::Purged(_)
                | ChannelFile::Other => (),
            }
        }
        let kept = numbers.keys().next().copied();
        // The number of what is removed counts, too: a former active may still make the data.
        self.number_max = numbers.keys().chain(&indexed).max().copied().unwrap_or(0);
        let mut found = VecDeque::new();
        for number in numbers.keys().rev() {
            let slice = self.slice(*number, indexed.contains(number), found.is_empty())?;
            if slice.record_count != 0 {
                found.push_front(slice);
            }
        }
        for number in indexed.iter().filter(|number| !numbers.contains_key(*number)) {
            let is_oldest = kept.is_some_and(|kept| *number < kept);
            let place = found.partition_point(|slice: &Slice| slice.number < *number);
            if self.stand_in(*number, is_oldest, found.iter().take(place))? {
                let is_last = place == found.len();
                found.insert(place, self.slice(*number, true, is_last)?);
            }
        }
        self.settle(&mut found)?;
        let mut slices = VecDeque::new();
        let mut next_first = None;
        for slice in found.into_iter().rev() {
            let slice = self.take_out_overlap(slice, next_first)?;
            if slice.record_count != 0 {
                next_first = Some(slice.first);
                slices.push_front(slice);
            }
        }
        Ok(slices)
    }

    /// What an operator has left. What reaches beyond the last message is of messages that are
    /// gone, and would forbid others that get their numbers: it goes.
    fn floor(&self, entries: &[Entry], last: u64) -> Result<Floor, StoreError> {
        let mut highest = Floor::default();
        for entry in entries.iter().filter(|entry| !entry.is_folder) {
            let ChannelFile::Purged(floor) = channel_file(&entry.name) else { continue };
            if last < floor.first {
                self.place()?.remove(std::slice::from_ref(&entry.name))?;
            } else {
                highest = highest.max(floor);
            }
        }
        Ok(highest)
    }

    /// Removes the files of a slice. Later epochs choose numbers above all that they find: the
    /// highest is what a former active has found too, which may go on long after this one, so an
    /// index that names nothing tells it from now on. Where there is no room for one, there is none
    /// for a late slice either.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn give_up(&mut self, number: u64) -> Result<(), StoreError> {
        let place = self.place()?;
        if number == self.number_max {
            let name = slice_index_name(number + 1);
            match self.spare()?.make(self.folder, &name, &VERSION_HEADER) {
                // A former active has gone on meanwhile: the slice is no longer what it was when it
                // was read, and without it messages would be missing in front of the next one. What
                // is written from now on supersedes both.
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                    self.number_max = number + 1;
                    self.hollow.extend([number, number + 1]);
                    return Ok(());
                }
                Err(source) => {
                    refusal(io_error(Action::Open, &self.file_path(&name), source))?;
                }
                Ok(_) => (),
            }
        }
        place.remove(&[slice_data_name(number), slice_index_name(number)])?;
        if number == self.number_max {
            self.number_max = number + 1;
        }
        Ok(())
    }

    /// The data of a slice is missing, but not its index. The oldest slices are what limits remove,
    /// so their index goes too, and so does one that reaches no further than the `older` slices: a
    /// copy of them that was begun, and not in use yet. For each message that it names behind those
    /// an empty one stands in, because its sequence was given and may not be given again. True if
    /// there is a slice now.
    fn stand_in<'s>(
        &mut self,
        number: u64,
        is_oldest: bool,
        older: impl Iterator<Item = &'s Slice>,
    ) -> Result<bool, StoreError> {
        let (name, index_name) = (slice_data_name(number), slice_index_name(number));
        let index = self.open(&index_name)?;
        let records = self.all_index_records(index.as_ref(), &index_name)?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            if number != self.number_max {
                self.give_up(number)?;
            }
            // Else it tells the number.
            return Ok(false);
        };
        let place = self.place()?;
        let older = self.evidence(older, &(first.sequence..=last.sequence))?;
        let end = evidence::run(&older).keys().next_back().copied().unwrap_or(0);
        let is_removed = is_oldest || last.sequence <= end;
        let what_now = if is_removed {
            self.give_up(number)?;
            match is_oldest {
                true => "They are older than all others: the index is removed",
                false => "Older slices hold all of them that are whole: the index is removed",
            }
        } else {
            let mut bytes = VERSION_HEADER.to_vec();
            for record in records.iter().filter(|record| end < record.sequence) {
                let filler = gap_filler(self.channel, record.sequence, record.timestamp);
                encode_plain(&mut bytes, &filler, self.recovery.crc);
            }
            let begun = cut_name(place.fence.epoch().0, &name, 0);
            let path = self.file_path(&begun);
            let made = self.spare()?.make(self.folder, &begun, &bytes);
            made.map_err(|source| io_error(Action::Append, &path, source))?;
            place.rename(&begun, &name)?;
            "Empty messages stand in for those that no older slice holds, so that no sequence is \
             given twice"
        };
        let text = format!(
            "File \"{}\" is missing beside its index, which names messages {} to {}. {what_now}. To \
             get them back stop the server and restore both files from a backup",
            self.file_path(&name).display(),
            first.sequence,
            last.sequence,
        );
        self.notice(true, text);
        Ok(!is_removed)
    }

    /// An old slice ends where a later one begins: what both hold, a former active has appended
    /// after its successor had begun, or the successor has written anew. Nothing is cut here: a
    /// successor that ended early may not have synced the later slice, which a power failure takes.
    fn take_out_overlap(&mut self, slice: Slice, bound: Option<u64>) -> Result<Slice, StoreError> {
        let Some(bound) = bound else {
            return Ok(slice);
        };
        if slice.record_count == 0 || slice.last < bound || planted::is(Bug::OverlapAdopted) {
            return Ok(slice);
        }
        // Whoever may not cut it later does not take it out.
        self.place()?;
        let name = slice_index_name(slice.number);
        let path = self.file_path(&name);
        let index = self.open(&name)?;
        let data = self.open(&slice_data_name(slice.number))?;
        let files =
            SliceFiles { data: data.as_ref(), index: index.as_ref(), path: &path, crc: None };
        let ordinal = files.ordinal_of(&slice, bound)?;
        let ordinal = ordinal.saturating_sub(u64::from(planted::is(Bug::WholeTailCut)));
        let kept = files.index_records(0, ordinal)?;
        let end = kept.last().map_or(FILE_HEADER_LEN, IndexRecord::end);
        self.overlaps.push(Overlap {
            number: slice.number,
            from: bound,
            last: slice.last,
            last_time: slice.last_time,
            must_stay: false,
        });
        Ok(slice_of(slice.number, &kept, end))
    }

    fn subscriptions(&mut self) -> Result<(Subscriptions, u64), StoreError> {
        let path = self.file_path(SUBSCRIPTIONS_FILE);
        let prefix = format!("unable to recover subscription store for [{}]", self.name());
        let file = self.open(SUBSCRIPTIONS_FILE)?;
        if is_half_begun(file.as_ref(), &path)? {
            self.place()?;
            let text = complete_header(file.as_ref(), &path)?;
            self.notice(true, text);
        }
        let bytes = read_whole(file.as_ref(), &path)?
            .map_err(|reason| StoreError::Corrupt(format!("{prefix}: {reason}")))?;
        let mut found = Subscriptions::default();
        let checksums = (self.recovery.crc, self.recovery.must_verify);
        let ending = replay(&bytes, RECORDS_START, checksums, decode_subscription, |record| {
            found.replay(record);
        })
        .map_err(|error| StoreError::Corrupt(format!("{prefix}: {error}")))?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.recovery.is_settled && matches!(ending, Ending::Hole(_)) {
            // Everything was synced: what is behind it was promised.
            return Err(StoreError::Corrupt(format!("{prefix}: {HOLE}")));
        }
        let end = self.end_typed(file.as_ref(), SUBSCRIPTIONS_FILE, &ending, len)?;
        Ok((found, end))
    }

    /// Cuts what is no record at the end of subs.dat.
    fn end_typed(
        &mut self,
        file: &dyn DiskFile,
        name: &[u8],
        ending: &Ending,
        len: u64,
    ) -> Result<u64, StoreError> {
        if *ending == Ending::Whole {
            return Ok(len);
        }
        let (text, end) =
            cutting::cut_typed(self.place()?, self.spare()?, (file, name, ending, len))?;
        if let Some(text) = text {
            self.notice(true, text);
        }
        Ok(end)
    }

    /// Cuts a file and keeps what was cut, unless it is only zeros; true if it was kept.
    pub(super) fn cut(
        &self,
        file: &dyn DiskFile,
        name: &[u8],
        end: u64,
        len: u64,
    ) -> Result<bool, StoreError> {
        cutting::cut(self.place()?, self.spare()?, (file, name, end, len))
    }

    pub(super) fn truncate(
        &self,
        file: &dyn DiskFile,
        name: &[u8],
        len: u64,
    ) -> Result<(), StoreError> {
        cutting::truncate(self.place()?, (file, name), len)
    }
}
