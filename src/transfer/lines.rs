//! An exported store as something that is read: what it has, and the messages of its channels.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, Read as _, Seek, SeekFrom};

use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{MessageRecord, RecoveredChannel};
use crate::base::subject::is_channel_name;
use crate::proto::spb;
use crate::transfer::error::TransferError;
use crate::transfer::line::{self, FORMAT, Line};
use crate::transfer::origin::Origin;

/// Longest line: a message of the greatest size that a server takes, as text.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Messages that are given at once.
const COUNT_MAX: usize = 512;
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why an exported store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The file itself.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// What a line says.
    #[error("line {number}: {why}")]
    Line {
        /// Which one, from 1 on.
        number: u64,
        /// What is wrong.
        why: String,
    },
    /// It comes from a later release.
    #[error(
        "stanby {release} has written it, in format {format}; this one reads formats up to \
         {FORMAT}: restore it with that release, or a later one"
    )]
    Newer {
        /// By whom.
        release: String,
        /// Of which format it is.
        format: u32,
    },
}

/// Reads lines one after the other.
struct Cursor<R> {
    from: R,
    /// Of the line that was read last.
    number: u64,
    /// Where the next one begins.
    offset: u64,
    bytes: Vec<u8>,
}

impl<R: BufRead + Seek> Cursor<R> {
    fn wrong(&self, why: impl Into<String>) -> LinesError {
        LinesError::Line { number: self.number, why: why.into() }
    }

    /// The bytes of the next line.
    fn advance(&mut self) -> Result<(), LinesError> {
        self.bytes.clear();
        let len = (&mut self.from).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.bytes)?;
        self.number += 1;
        self.offset += len as u64;
        match self.bytes.pop() {
            Some(b'\n') => Ok(()),
            None => Err(self.wrong("the file ends here, and has no last line: it was cut")),
            Some(_) if len as u64 == LINE_BYTES_MAX => Err(self.wrong("it is too long")),
            Some(_) => Err(self.wrong("the file ends within it: it was cut")),
        }
    }

    fn next(&mut self) -> Result<Line, LinesError> {
        self.advance()?;
        line::decode(&self.bytes).map_err(|why| self.wrong(why))
    }

    fn go_to(&mut self, mark: Mark) -> Result<(), LinesError> {
        self.from.seek(SeekFrom::Start(mark.offset))?;
        (self.offset, self.number) = (mark.offset, mark.number);
        Ok(())
    }

    fn mark(&self) -> Mark {
        Mark { offset: self.offset, number: self.number }
    }
}

/// A place between two lines.
#[derive(Clone, Copy, Debug)]
struct Mark {
    offset: u64,
    number: u64,
}

/// What an exported store has; each line of it was looked at.
pub struct Exported<R> {
    /// The server's record.
    pub server: spb::ServerInfo,
    /// All clients.
    pub clients: Vec<spb::ClientInfo>,
    /// All channels.
    pub channels: Vec<RecoveredChannel>,
    /// Gives their messages.
    pub origin: LineOrigin<R>,
}

impl<R: BufRead + Seek> Exported<R> {
    /// Reads all of it; `tell` hears how many lines were read.
    ///
    /// # Errors
    /// [`LinesError`].
    pub fn read(from: R, tell: &mut dyn FnMut(u64)) -> Result<Self, LinesError> {
        let mut cursor = Cursor { from, number: 0, offset: 0, bytes: Vec::new() };
        cursor.go_to(Mark { offset: 0, number: 0 })?;
        let head = read_head(&mut cursor)?;
        let server = head.server().map_err(|why| cursor.wrong(why))?;
        let mut clients = Vec::new();
        for _ in 0..head.clients {
            let Line::Client(client) = cursor.next()? else {
                return Err(cursor.wrong("a client should be here"));
            };
            clients.push(client.client().map_err(|why| cursor.wrong(why))?);
        }
        let (mut channels, mut marks) = (Vec::new(), BTreeMap::new());
        for _ in 0..head.channels {
            let channel = read_channel(&mut cursor, &mut marks, tell)?;
            channels.push(channel);
        }
        let before = cursor.number;
        let Line::End { lines } = cursor.next()? else {
            return Err(cursor.wrong("the end should be here"));
        };
        if lines != before {
            let why = format!("{lines} lines should be before it: it was cut, or changed");
            return Err(cursor.wrong(why));
        }
        if !cursor.from.fill_buf()?.is_empty() {
            let why = "something follows the last line: another file was put behind this one";
            return Err(cursor.wrong(why));
        }
        let origin =
            LineOrigin { cursor, marks, channel: None, ahead: VecDeque::new(), last: None };
        Ok(Self { server, clients, channels, origin })
    }
}

fn read_head<R: BufRead + Seek>(cursor: &mut Cursor<R>) -> Result<line::Head, LinesError> {
    cursor.advance()?;
    let preface = line::decode_preface(&cursor.bytes).map_err(|why| cursor.wrong(why))?;
    if FORMAT < preface.format {
        return Err(LinesError::Newer { release: preface.release, format: preface.format });
    }
    let Line::Head(head) = line::decode(&cursor.bytes).map_err(|why| cursor.wrong(why))? else {
        return Err(cursor.wrong("the head should be here"));
    };
    Ok(head)
}

/// A channel with its subscriptions; its messages are looked at, and left.
fn read_channel<R: BufRead + Seek>(
    cursor: &mut Cursor<R>,
    marks: &mut BTreeMap<ChannelName, Mark>,
    tell: &mut dyn FnMut(u64),
) -> Result<RecoveredChannel, LinesError> {
    let Line::Channel(line) = cursor.next()? else {
        return Err(cursor.wrong("a channel should be here"));
    };
    let mut channel = line.channel().map_err(|why| cursor.wrong(why))?;
    if !is_channel_name(channel.channel.as_bytes()) {
        return Err(cursor.wrong("this is no name of a channel"));
    }
    if marks.insert(channel.channel.clone(), cursor.mark()).is_some() {
        return Err(cursor.wrong("there is a channel of this name already"));
    }
    let mut next = channel.state.first;
    for _ in 0..channel.state.message_count {
        let Line::Message(message) = cursor.next()? else {
            return Err(cursor.wrong("a message should be here"));
        };
        let record = message.record(&channel.channel).map_err(|why| cursor.wrong(why))?;
        if record.sequence != next {
            let found = record.sequence;
            return Err(cursor.wrong(format!("message {next} should be here, not {found}")));
        }
        next = next.next();
        tell(cursor.number);
    }
    for _ in 0..line.subscriptions {
        let Line::Subscription(line) = cursor.next()? else {
            return Err(cursor.wrong("a subscription should be here"));
        };
        let subscription = line.subscription(&channel.state).map_err(|why| cursor.wrong(why))?;
        channel.subscriptions.push(subscription);
    }
    Ok(channel)
}

/// Gives the messages of an exported store; forwards without reading anything twice.
pub struct LineOrigin<R> {
    cursor: Cursor<R>,
    /// Behind which line the messages of a channel begin.
    marks: BTreeMap<ChannelName, Mark>,
    /// Whose messages are ahead.
    channel: Option<ChannelName>,
    ahead: VecDeque<MessageRecord>,
    /// The newest message that was read.
    last: Option<Sequence>,
}

impl<R: BufRead + Seek> LineOrigin<R> {
    /// Reads until what was asked for is ahead, or no message is left.
    fn fill(&mut self, channel: &ChannelName, from: Sequence) -> Result<(), LinesError> {
        let is_behind = self.ahead.front().is_none_or(|first| first.sequence <= from)
            && (!self.ahead.is_empty() || self.last.is_none_or(|last| last < from));
        if self.channel.as_ref() != Some(channel) || !is_behind {
            self.ahead.clear();
            (self.channel, self.last) = (None, None);
            let Some(mark) = self.marks.get(channel) else { return Ok(()) };
            self.cursor.go_to(*mark)?;
            self.channel = Some(channel.clone());
        }
        while self.ahead.front().is_some_and(|first| first.sequence < from) {
            self.ahead.pop_front();
        }
        let mut bytes: usize = self.ahead.iter().map(|message| message.encoded.len()).sum();
        while self.ahead.len() < COUNT_MAX && bytes < BYTES_MAX {
            let mark = self.cursor.mark();
            let Line::Message(message) = self.cursor.next()? else {
                // Whoever asks again comes here again.
                return self.cursor.go_to(mark);
            };
            let record = message.record(channel).map_err(|why| self.cursor.wrong(why))?;
            self.last = Some(record.sequence);
            if from <= record.sequence {
                bytes += record.encoded.len();
                self.ahead.push_back(record);
            }
        }
        Ok(())
    }
}

impl<R: BufRead + Seek> Origin for LineOrigin<R> {
    fn read(
        &mut self,
        channel: &ChannelName,
        from: Sequence,
    ) -> Result<Vec<MessageRecord>, TransferError> {
        self.fill(channel, from).map_err(TransferError::Lines)?;
        Ok(self.ahead.iter().cloned().collect())
    }

    fn confirm(&mut self) -> Result<(), TransferError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::Cursor as Bytes;

    use super::*;
    use crate::base::record::ChannelState;
    use crate::proto::pb;

    /// Two channels with messages from 3 on.
    fn exported(counts: [u64; 2]) -> Exported<Bytes<Vec<u8>>> {
        let mut text = Vec::new();
        line::encode(&mut text, &Line::Head(line::Head::of(&spb::ServerInfo::default(), 0, 2)));
        let mut lines = 1;
        for (name, count) in ["a", "b"].into_iter().zip(counts) {
            let last = Sequence(2 + count);
            let channel = RecoveredChannel {
                channel: name.into(),
                state: ChannelState {
                    first: Sequence(3),
                    last,
                    message_count: count,
                    byte_count: 0,
                },
                ..RecoveredChannel::default()
            };
            line::encode(&mut text, &Line::Channel(line::Channel::of(&channel)));
            for sequence in 3..3 + count {
                let message = MessageRecord::of(&pb::MsgProto {
                    sequence,
                    subject: name.into(),
                    ..pb::MsgProto::default()
                });
                let message = line::Message::of(&name.into(), &message);
                line::encode(&mut text, &Line::Message(message));
            }
            lines += 1 + count;
        }
        line::encode(&mut text, &Line::End { lines });
        Exported::read(Bytes::new(text), &mut |_| ()).unwrap()
    }

    /// Goal: whoever asks again, or elsewhere, gets the same as from a store.
    #[test]
    fn messages_are_given_from_wherever_they_are_asked_for() {
        let mut found = exported([1_500, 4]);
        let mut read = |name: &str, from: u64| {
            let messages = found.origin.read(&name.into(), Sequence(from)).unwrap();
            let sequences: Vec<u64> = messages.iter().map(|it| it.sequence.get()).collect();
            assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{sequences:?}");
            sequences.first().map(|first| (*first, sequences.len()))
        };
        assert_eq!(read("a", 3), Some((3, 512)));
        assert_eq!(read("a", 10), Some((10, 512)));
        assert_eq!(read("a", 522), Some((522, 512)));
        assert_eq!(read("a", 5), Some((5, 512)), "it goes back");
        assert_eq!(read("a", 1_502), Some((1_502, 1)));
        assert_eq!(read("a", 1_503), None);
        assert_eq!(read("a", 1_503), None);
        assert_eq!(read("a", 1_500), Some((1_500, 3)));
        assert_eq!(read("b", 3), Some((3, 4)));
        assert_eq!(read("b", 7), None);
        assert_eq!(read("b", 6), Some((6, 1)));
        assert_eq!(read("nobody", 1), None);
        assert_eq!(read("a", 3), Some((3, 512)));
    }
}
