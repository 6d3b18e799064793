//! What a disk has taken or changed, by the file that held it.
//!
//! What a message is bears on its own sequence; what a file of subscriptions holds bears on all of
//! those of its channel. So a disk that lies about one file says nothing of the others.

use bytes::Bytes;
use prost::Message;

use crate::base::id::{ChannelName, Sequence};
use crate::proto::pb;
use crate::store::file::format::{
    CLIENTS_FILE, ChannelFile, Decoded, FILE_HEADER_LEN, Framing, INDEX_RECORD_LEN, IndexRecord,
    SERVER_FILE, channel_file, decode_record, deliveries_number, slice_data_name, slice_index_name,
};
use crate::testing::limits::POISON;

/// Something that a disk does not give back as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harm {
    /// Whether the disk had called it durable; otherwise it went with the power, as it may.
    pub is_deceit: bool,
    /// What was there.
    pub held: Held,
}

/// What lay in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Messages of a channel; of those that an index names, not the data.
    Messages(ChannelName, Vec<(Sequence, Option<Bytes>)>),
    /// All that is known of the subscriptions of a channel.
    Subscriptions(ChannelName),
    /// That a channel is deleted, or purged.
    End(ChannelName),
    /// Who is a client.
    Clients,
    /// By which subjects the server is spoken to.
    Server,
    /// Nothing that anybody is told: what is only a hint, or a file that is not in place yet.
    Nothing,
}

impl Held {
    /// What lies in a file with these bytes, of which the first ones are left out; `folder` is that
    /// of a channel, and empty for the root.
    #[must_use]
    pub fn of(folder: &[u8], name: &[u8], bytes: &[u8], left_out: usize) -> Self {
        if folder.is_empty() {
            return match name {
                CLIENTS_FILE => Self::Clients,
                SERVER_FILE => Self::Server,
                name if deliveries_number(name).is_some() => {
                    Self::Subscriptions(ChannelName::from(POISON))
                }
                _ => Self::Nothing,
            };
        }
        let channel = ChannelName::from(folder);
        match channel_file(name) {
            ChannelFile::Data(_) => Self::Messages(channel, messages(bytes, left_out)),
            ChannelFile::Index(_) => Self::Messages(channel, indexed(bytes, left_out)),
            ChannelFile::Subscriptions => Self::Subscriptions(channel),
            ChannelFile::Removed(_, former) => Self::of(folder, &former, bytes, left_out),
            ChannelFile::Deleted(_) | ChannelFile::Purged(_) => Self::End(channel),
            ChannelFile::Invalid | ChannelFile::Other => Self::Nothing,
        }
    }
}

/// The file that says of the same messages where they lie, or what they are.
pub(super) fn partner(name: &[u8]) -> Option<Vec<u8>> {
    match channel_file(name) {
        ChannelFile::Data(number) => Some(slice_index_name(number)),
        ChannelFile::Index(number) => Some(slice_data_name(number)),
        ChannelFile::Subscriptions
        | ChannelFile::Removed(..)
        | ChannelFile::Deleted(_)
        | ChannelFile::Purged(_)
        | ChannelFile::Invalid
        | ChannelFile::Other => None,
    }
}

/// Whether something that is said of the store is said of its clients.
pub(super) fn names_clients(text: &str) -> bool {
    text.as_bytes().windows(CLIENTS_FILE.len()).any(|found| found == CLIENTS_FILE)
}

/// The same of the server's own record.
pub(super) fn names_server(text: &str) -> bool {
    text.as_bytes().windows(SERVER_FILE.len()).any(|found| found == SERVER_FILE)
}

fn header_len() -> usize {
    usize::try_from(FILE_HEADER_LEN).unwrap_or(0)
}

/// Messages of which not all lies within the first `left_out` bytes of the data of a slice.
fn messages(bytes: &[u8], left_out: usize) -> Vec<(Sequence, Option<Bytes>)> {
    let (mut at, mut found) = (header_len(), Vec::new());
    while let Some(rest) = bytes.get(at..)
        && let Ok(Decoded::Record { payload, len, .. }) = decode_record(rest, Framing::Plain, None)
    {
        at += len;
        if left_out < at
            && let Ok(message) = pb::MsgProto::decode(payload)
        {
            found.push((Sequence(message.sequence), Some(message.data)));
        }
    }
    found
}

/// The same of an index.
fn indexed(bytes: &[u8], left_out: usize) -> Vec<(Sequence, Option<Bytes>)> {
    let from = left_out.saturating_sub(header_len()) / INDEX_RECORD_LEN;
    let records = bytes.get(header_len()..).unwrap_or_default();
    let (records, _) = records.as_chunks::<INDEX_RECORD_LEN>();
    let records = records.iter().skip(from);
    let decoded = records.filter_map(|record| IndexRecord::decode(record, None).ok().flatten());
    decoded.map(|record| (Sequence(record.sequence), None)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file::format::{Crc, VERSION_HEADER, encode_plain};

    #[test]
    fn what_lies_in_a_file_follows_from_its_name_and_bytes() {
        let (mut data, mut index) = (VERSION_HEADER.to_vec(), VERSION_HEADER.to_vec());
        let mut ends = Vec::new();
        let crc = Crc::new(Crc::IEEE);
        for sequence in 1..=3 {
            let text = Bytes::from(format!("message {sequence}"));
            let message = pb::MsgProto { sequence, data: text, ..pb::MsgProto::default() };
            let record = IndexRecord { sequence, ..IndexRecord::default() };
            record.encode(&mut index, &crc);
            encode_plain(&mut data, &message.encode_to_vec(), &crc);
            ends.push(data.len());
        }
        let orders = ChannelName::from("orders");
        let sequences = |held| {
            let Held::Messages(channel, found) = held else { panic!("{held:?}") };
            assert_eq!(channel, orders);
            found.iter().map(|(sequence, _)| sequence.get()).collect::<Vec<_>>()
        };
        assert_eq!(sequences(Held::of(b"orders", b"msgs.1.dat", &data, 0)), [1, 2, 3]);
        assert_eq!(sequences(Held::of(b"orders", b"msgs.1.dat", &data, ends[0])), [2, 3]);
        assert_eq!(sequences(Held::of(b"orders", b"msgs.1.dat", &data, ends[1] - 1)), [2, 3]);
        assert_eq!(sequences(Held::of(b"orders", b"removed.4.msgs.1.dat", &data, 0)), [1, 2, 3]);
        assert_eq!(sequences(Held::of(b"orders", b"msgs.1.idx", &index, 4 + 32)), [2, 3]);
        assert_eq!(Held::of(b"orders", b"subs.dat", b"", 0), Held::Subscriptions(orders));
        assert_eq!(Held::of(b"", b"clients.dat", b"", 0), Held::Clients);
        assert_eq!(Held::of(b"", b".stanby.settled.7", b"", 0), Held::Nothing);
    }
}
