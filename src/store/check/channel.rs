//! one channel: its slices one after the other, and its subscriptions against its messages

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::finding::{Findings, Weight};
use super::records::{self, Bytes, Found};
use super::slices::{self, Place, Slice};
use crate::store::file::format::{
    ChannelFile, Crc, FILE_HEADER_LEN, Framing, SubscriptionRecord, channel_file,
    decode_subscription,
};

const LOST: &str = "empty messages stand in for them";
const UNORDERED: &str = "a start by time may begin at another message";
const SUBSCRIPTIONS_LOST: &str = "durable subscriptions and what they had not acknowledged may be \
                                  lost from here on";

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
    first: Option<u64>,
    last: Option<Place>,
}

impl Course {
    fn take(&mut self, place: Place, file: &Path, findings: &mut Findings) {
        let Place { sequence, timestamp } = place;
        self.first = self.first.or(Some(sequence));
        if let Some(last) = self.last {
            let next = last.sequence.saturating_add(1);
            if next < sequence {
                let what = format!("messages {next} to {} are missing", sequence - 1);
                findings.add(Weight::Damage, (file, None), what, LOST);
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
    let (slices, subscriptions) = match list(folder, findings) {
        Ok(found) => found,
        Err(error) => {
            let means = "nothing of this channel can be read";
            findings.add(Weight::Damage, (folder, None), error.to_string(), means);
            return None;
        }
    };
    if slices.is_empty() && subscriptions.is_none() {
        let means = "an empty folder is no channel";
        findings.add(Weight::Note, (folder, None), "there is nothing in it".to_owned(), means);
        return None;
    }
    let mut course = Course::default();
    for slice in slices.values() {
        let file = slice.data.as_ref().or(slice.index.as_ref()).cloned().unwrap_or_default();
        slices::look(slice, crc, findings, &mut |place, findings| {
            course.take(place, &file, findings);
        });
    }
    let mut extent = Extent { messages: course.messages, subscriptions: 0 };
    match &subscriptions {
        Some(path) => match subscriptions_in(path, crc, course.last, findings) {
            Ok(count) => extent.subscriptions = count,
            Err(error) => {
                let what = error.to_string();
                findings.add(Weight::Damage, (path, None), what, SUBSCRIPTIONS_LOST);
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

type Files = (BTreeMap<u64, Slice>, Option<PathBuf>);

fn list(folder: &Path, findings: &mut Findings) -> io::Result<Files> {
    let mut slices: BTreeMap<u64, Slice> = BTreeMap::new();
    let mut subscriptions = None;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let begun = || Slice { data: None, index: None };
        match channel_file(name.as_bytes()) {
            ChannelFile::Data(number) => {
                slices.entry(number).or_insert_with(begun).data = Some(path);
            }
            ChannelFile::Index(number) => {
                slices.entry(number).or_insert_with(begun).index = Some(path);
            }
            ChannelFile::Subscriptions => subscriptions = Some(path),
            ChannelFile::Removed(epoch, _) => {
                let what = format!("renamed by a removal under epoch {epoch}");
                let means = "a start puts it back, or ends the removal";
                findings.add(Weight::Note, (&path, None), what, means);
            }
            ChannelFile::Deleted(epoch) => {
                let what = format!("a removal under epoch {epoch} was under way");
                findings.add(Weight::Note, (&path, None), what, "a start ends it");
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
    Ok((slices, subscriptions))
}

/// Subscriptions that are there at the end of the file.
fn subscriptions_in(
    path: &Path,
    crc: Option<&Crc>,
    last: Option<Place>,
    findings: &mut Findings,
) -> io::Result<u64> {
    let mut bytes = Bytes::open(path)?;
    if let Err(why) = bytes.version()? {
        findings.add(Weight::Damage, (path, Some(0)), why, SUBSCRIPTIONS_LOST);
        return Ok(0);
    }
    let last = last.map_or(0, |place| place.sequence);
    let (mut known, mut at) = (BTreeSet::new(), FILE_HEADER_LEN);
    loop {
        let (what, weight, end) = match records::read(&mut bytes, at, Framing::Typed, crc)? {
            Found::Record { kind, payload, end } => {
                let record = decode_subscription(kind, &payload);
                let wrong = match record {
                    Ok(record) => replay(record, last, &mut known),
                    Err(why) => Some((why.to_string(), Weight::Damage)),
                };
                match wrong {
                    Some((what, weight)) => (what, weight, Some(end)),
                    None => {
                        at = end;
                        continue;
                    }
                }
            }
            Found::Corrupt { why, end } => (why.to_string(), Weight::Damage, Some(end)),
            Found::Torn => ("it ends inside of a record".to_owned(), Weight::Mended, None),
            Found::Zeros => {
                let is_tail = records::is_zero_from(&mut bytes, at)?;
                let weight = if is_tail { Weight::Mended } else { Weight::Damage };
                ("zeros in the place of a record".to_owned(), weight, None)
            }
            Found::End => break,
        };
        let means = match weight {
            Weight::Damage => SUBSCRIPTIONS_LOST,
            Weight::Mended | Weight::Note => "a start goes on without it",
        };
        findings.add(weight, (path, Some(at)), what, means);
        match end {
            Some(end) => at = end,
            None => break,
        }
    }
    Ok(known.len() as u64)
}

/// What is wrong with a record, if anything, beside those before it.
fn replay(
    record: SubscriptionRecord,
    last: u64,
    known: &mut BTreeSet<u64>,
) -> Option<(String, Weight)> {
    let note = |what: String| Some((what, Weight::Note));
    match record {
        SubscriptionRecord::New(state) => {
            known.insert(state.id);
            None
        }
        SubscriptionRecord::Update(state) if known.contains(&state.id) => None,
        SubscriptionRecord::Update(state) => note(format!("an update of {}, not there", state.id)),
        SubscriptionRecord::Delete(id) if known.remove(&id) => None,
        SubscriptionRecord::Delete(id) => note(format!("the end of {id}, which is not there")),
        SubscriptionRecord::Message(id, sequence) if known.contains(&id) && last < sequence => {
            let what = format!("subscription {id} got message {sequence}, and the last is {last}");
            Some((what, Weight::Damage))
        }
        SubscriptionRecord::Message(..) | SubscriptionRecord::Ack(..) => None,
    }
}
