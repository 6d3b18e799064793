//! one channel: its slices one after the other, and its subscriptions against its messages

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::finding::{Findings, Weight};
use super::slices::{self, Place, Slice};
use super::typed;
use crate::store::file::format::{
    ChannelFile, Crc, SubscriptionRecord, channel_file, decode_subscription,
};

const GAP: &str = "a start puts nothing in their place: readers get a gap";
const UNORDERED: &str = "a start by time may begin at another message";
const SUBSCRIPTIONS_LOST: &str = "a start is refused";
const PASSED_OVER: &str = "a start passes over it";
const AHEAD: &str = "messages are missing at the end of the channel, and what is published under \
                     their numbers may not be delivered to it";

const PURGED_AHEAD: &str = "messages are missing at the end of the channel: a start forgets the purge, and \
                            gives their numbers out again";

/// What a channel has.
#[derive(Debug, Default)]
pub(super) struct Extent {
    pub messages: u64,
    pub subscriptions: u64,
}

/// What the messages of a channel are held against.
#[derive(Default)]
struct Course {
    messages: u64,
    last: Option<Place>,
}

impl Course {
    fn take(&mut self, place: Place, file: &Path, findings: &mut Findings) {
        let Place { sequence, timestamp } = place;
        if let Some(last) = self.last {
            let next = last.sequence.saturating_add(1);
            if next < sequence {
                let what = format!("messages {next} to {} are missing", sequence - 1);
                findings.add(Weight::Damage, (file, None), what, GAP);
            } else if sequence < next {
                let what = format!("message {sequence} is there again behind {}", last.sequence);
                let means = "a copy that a take-over left; a start takes one of them";
                findings.add(Weight::Mended, (file, None), what, means);
                return;
            }
            if timestamp < last.timestamp {
                let what = format!("message {sequence} is older than the one before it");
                findings.add(Weight::Note, (file, None), what, UNORDERED);
            }
        }
        self.messages += 1;
        self.last = Some(place);
    }
}

/// Looks through the folder of a channel; `None` if it is none.
pub(super) fn look(folder: &Path, crc: Option<&Crc>, findings: &mut Findings) -> Option<Extent> {
    let Files { slices, subscriptions, floors } = match list(folder, findings) {
        Ok(found) => found,
        Err(error) => {
            findings.unreadable(folder, &error, "nothing of this channel can be read");
            return None;
        }
    };
    if slices.is_empty() && subscriptions.is_none() {
        let means = "an empty folder is no channel";
        findings.add(Weight::Note, (folder, None), "there is nothing in it".to_owned(), means);
        return None;
    }
    let mut course = Course::default();
    let unread_before = findings.unread_count();
    let oldest = slices.iter().find(|(_, slice)| slice.data.is_some()).map(|(number, _)| *number);
    for (number, slice) in &slices {
        let file = slice.data.as_ref().or(slice.index.as_ref()).cloned().unwrap_or_default();
        let before = slices::Before {
            is_none: oldest.is_some_and(|oldest| *number < oldest),
            last: course.last.map_or(0, |place| place.sequence),
        };
        slices::look(slice, before, crc, findings, &mut |place, findings| {
            course.take(place, &file, findings);
        });
    }
    let last = match findings.unread_count() == unread_before {
        true => course.last.map_or(0, |place| place.sequence),
        // Nobody knows.
        false => u64::MAX,
    };
    for (first, path) in floors.into_iter().filter(|(first, _)| last < *first) {
        let what = format!("it was purged up to message {first}, and the last is {last}");
        findings.add(Weight::Damage, (&path, None), what, PURGED_AHEAD);
    }
    let mut extent = Extent { messages: course.messages, subscriptions: 0 };
    match &subscriptions {
        Some(path) => match subscriptions_in(path, crc, last, findings) {
            Ok(count) => extent.subscriptions = count,
            Err(error) => {
                findings.unreadable(path, &error, SUBSCRIPTIONS_LOST);
            }
        },
        None => {
            let path = folder.join("subs.dat");
            let means = "its durable subscriptions begin anew, if it had any";
            findings.add(Weight::Damage, (&path, None), "it is missing".to_owned(), means);
        }
    }
    Some(extent)
}

/// The files of a channel.
#[derive(Default)]
struct Files {
    slices: BTreeMap<u64, Slice>,
    subscriptions: Option<PathBuf>,
    /// What an operator has let go of: each file, and the oldest message that it leaves.
    floors: Vec<(u64, PathBuf)>,
}

fn list(folder: &Path, findings: &mut Findings) -> io::Result<Files> {
    let mut files = Files::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let begun = || Slice { data: None, index: None };
        match channel_file(name.as_bytes()) {
            ChannelFile::Data(number) => {
                files.slices.entry(number).or_insert_with(begun).data = Some(path);
            }
            ChannelFile::Index(number) => {
                files.slices.entry(number).or_insert_with(begun).index = Some(path);
            }
            ChannelFile::Subscriptions => files.subscriptions = Some(path),
            ChannelFile::Removed(epoch, _) => {
                let what = format!("renamed by a removal under epoch {epoch}");
                let means = "a start puts it back, or ends the removal";
                findings.add(Weight::Note, (&path, None), what, means);
            }
            ChannelFile::Deleted(epoch) => {
                let what = format!("a removal under epoch {epoch} was under way");
                findings.add(Weight::Note, (&path, None), what, "a start ends it");
            }
            ChannelFile::Purged(floor) => {
                let what = format!("an operator has let go of what lies before {}", floor.first);
                let means = "a start takes it out of the files; a Go server shows it until then";
                findings.add(Weight::Note, (&path, None), what, means);
                files.floors.push((floor.first, path));
            }
            ChannelFile::Invalid => {
                let what = "its name is none that a slice can have".to_owned();
                let means = "a start is refused, by both servers";
                findings.add(Weight::Damage, (&path, None), what, means);
            }
            ChannelFile::Other => {
                let what = "not one of the channel's files".to_owned();
                findings.add(Weight::Note, (&path, None), what, "both servers pass over it");
            }
        }
    }
    Ok(files)
}

/// Subscriptions that are there at the end of the file; `last` is the last message.
fn subscriptions_in(
    path: &Path,
    crc: Option<&Crc>,
    last: u64,
    findings: &mut Findings,
) -> io::Result<u64> {
    let mut known = BTreeMap::new();
    let mut take = |record: SubscriptionRecord| replay(&record, last, &mut known);
    typed::look(path, crc, decode_subscription, &mut take, findings)?;
    Ok(known.len() as u64)
}

/// What is wrong with a record, if anything, beside those before it. `known` says of each
/// subscription whether it is known to be ahead of the messages, which is told once.
fn replay(
    record: &SubscriptionRecord,
    last: u64,
    known: &mut BTreeMap<u64, bool>,
) -> Option<(String, Weight, &'static str)> {
    let note = |what: String| Some((what, Weight::Note, PASSED_OVER));
    let (id, sequence) = match record {
        SubscriptionRecord::New(state) => {
            known.entry(state.id).or_default();
            (state.id, state.last_sent)
        }
        SubscriptionRecord::Update(state) if known.contains_key(&state.id) => {
            (state.id, state.last_sent)
        }
        SubscriptionRecord::Update(state) => {
            return note(format!("an update of {}, not there", state.id));
        }
        SubscriptionRecord::Delete(id) if known.remove(id).is_some() => return None,
        SubscriptionRecord::Delete(id) => {
            return note(format!("the end of {id}, which is not there"));
        }
        SubscriptionRecord::Message(id, sequence) => (*id, *sequence),
        SubscriptionRecord::Ack(..) => return None,
    };
    let is_told = known.get_mut(&id).filter(|is_told| last < sequence && !**is_told)?;
    *is_told = true;
    let what = format!("subscription {id} got message {sequence}, and the last is {last}");
    Some((what, Weight::Damage, AHEAD))
}
