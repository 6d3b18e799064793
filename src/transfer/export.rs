//! A store is written as lines of JSON, and made of them again.

use std::io::{BufRead, Seek, Write};

use crate::base::record::RecoveredChannel;
use crate::config::Config;
use crate::site::new_store::Work;
use crate::site::place::Place;
use crate::transfer::channel;
use crate::transfer::error::TransferError;
use crate::transfer::line::{self, Line};
use crate::transfer::lines::Exported;
use crate::transfer::places;
use crate::transfer::store_copy::{self, Progress, Report, StoreCopy};
use crate::transfer::whole::selected;

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of which cluster.
    pub cluster_id: String,
    /// How many clients.
    pub clients: usize,
    /// How many channels.
    pub channels: usize,
    /// How many messages.
    pub messages: u64,
}

/// Writes the store of a stopped server, or some of its channels, to `out`; `tell` hears how many
/// messages of how many are written.
///
/// # Errors
/// [`TransferError`]; then the last line is missing.
pub fn export(
    from: &Config,
    patterns: &[String],
    out: &mut dyn Write,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Summary, TransferError> {
    if !from.is_lasting() {
        return Err(TransferError::Memory);
    }
    let (mut source, server) = places::open_source(from)?;
    let channels = selected(source.recovered().channels.iter(), patterns)?;
    let is_in_clear = from.streaming.encryption.is_none();
    for channel in &channels {
        channel::check_readable(&mut source, is_in_clear, channel)?;
    }
    let clients = source.recovered().clients.clone();
    let all = channels.iter().map(|channel| channel.state.message_count).sum();
    let mut written = Written { out, lines: 0, bytes: Vec::new() };
    written.line(&Line::Head(line::Head::of(&server, clients.len(), channels.len())))?;
    for client in &clients {
        written.line(&Line::Client(line::Client::of(client)))?;
    }
    let mut messages = 0;
    for channel in &channels {
        let tell = &mut |done| tell(messages + done, all);
        write_channel(&mut source, channel, is_in_clear, &mut written, tell)?;
        messages += channel.state.message_count;
    }
    written.end()?;
    source.close().map_err(TransferError::Source)?;
    Ok(Summary {
        cluster_id: String::from_utf8_lossy(&server.cluster_id).into_owned(),
        clients: clients.len(),
        channels: channels.len(),
        messages,
    })
}

fn write_channel(
    source: &mut Place,
    channel: &RecoveredChannel,
    is_in_clear: bool,
    written: &mut Written<'_>,
    tell: &mut dyn FnMut(u64),
) -> Result<(), TransferError> {
    let name = &channel.channel;
    written.line(&Line::Channel(line::Channel::of(channel)))?;
    let (mut next, mut done) = (channel.state.first, 0);
    while done < channel.state.message_count {
        let messages = source.read(name, next).map_err(TransferError::Source)?;
        channel::check_messages(&messages, name, next, is_in_clear)?;
        if messages.is_empty() {
            return Err(channel::missing(name, next));
        }
        for message in &messages {
            written.line(&Line::Message(line::Message::of(name, message)))?;
            next = message.sequence.next();
        }
        done += u64::try_from(messages.len()).unwrap_or(u64::MAX);
        source.confirm().map_err(TransferError::Source)?;
        tell(done);
    }
    for subscription in &channel.subscriptions {
        written.line(&Line::Subscription(line::Subscription::of(subscription)))?;
    }
    Ok(())
}

/// Lines that were written.
struct Written<'a> {
    out: &'a mut dyn Write,
    lines: u64,
    bytes: Vec<u8>,
}

impl Written<'_> {
    fn line(&mut self, line: &Line) -> Result<(), TransferError> {
        self.bytes.clear();
        line::encode(&mut self.bytes, line);
        self.lines += 1;
        self.out.write_all(&self.bytes).map_err(TransferError::Output)
    }

    fn end(mut self) -> Result<(), TransferError> {
        self.line(&Line::End { lines: self.lines })?;
        self.out.flush().map_err(TransferError::Output)
    }
}

/// How far a restoration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restoring<'a> {
    /// Each line is looked at before anything is written: how many were.
    Looking(u64),
    /// It is written, or read back.
    Writing(Progress<'a>),
}

/// Makes a new store of an exported one.
///
/// # Errors
/// [`TransferError`]; then the new store is not there, or is not complete and says so.
pub fn restore(
    from: impl BufRead + Seek,
    to: &Config,
    tell: &mut dyn FnMut(Restoring<'_>),
) -> Result<Report, TransferError> {
    if !to.is_lasting() {
        return Err(TransferError::Memory);
    }
    places::check_target(to)?;
    let looked = Exported::read(from, &mut |lines| tell(Restoring::Looking(lines)));
    let Exported { server, clients, channels, mut origin } =
        looked.map_err(TransferError::Lines)?;
    store_copy::check_limits(&mut origin, to, &channels)?;
    let (target, found) = store_copy::open_target(to, Work::Restore, &server.cluster_id)?;
    // What is exported is in clear, whatever it looks like.
    let copy =
        StoreCopy { source: &mut origin, server, clients, channels: &channels, is_in_clear: false };
    copy.run(target, found, &mut |at| tell(Restoring::Writing(*at)))
}
