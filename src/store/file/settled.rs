//! What an epoch had made durable when it opened the store: a small file under the root says so.

use crate::base::limits::LOOPS_MAX;
use crate::store::file::channel::Channel;
use crate::store::file::context::Context;
use crate::store::file::disk::{Access, Entry, Folder};
use crate::store::file::format::{settled_epoch, settled_name};
use crate::store::file::log::read_range;

/// Two messages of different channels may be stamped in another order than they were written in,
/// in nanoseconds.
const STAMPS_OVERLAP: i64 = 1_000_000_000;
/// Bytes of the file that says what is durable.
const SETTLED_LEN_MAX: usize = 128;

/// What a former epoch had made durable before it served, and how many loops it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Timestamp of the newest message then.
    newest: i64,
    loops: u16,
    /// Whether a process of ours has opened the store, whatever it could say.
    is_of_ours: bool,
}

impl Settled {
    /// Nothing is known to be durable.
    const NOTHING: Self = Self { newest: i64::MIN, loops: LOOPS_MAX, is_of_ours: false };

    /// What the newest such file says. One that cannot be read says nothing.
    #[must_use]
    pub fn read(root: &dyn Folder, files: &[Entry]) -> Self {
        let names = files.iter().filter(|file| !file.is_folder).map(|file| &file.name);
        let newest = names.max_by_key(|name| settled_epoch(name));
        let Some(name) = newest.filter(|name| settled_epoch(name).is_some()) else {
            return Self::NOTHING;
        };
        let bytes = root.open(name, Access::Read).ok().and_then(|file| {
            read_range(file.as_ref(), 0, SETTLED_LEN_MAX, std::path::Path::new("")).ok()
        });
        let nothing = Self { is_of_ours: true, ..Self::NOTHING };
        bytes.and_then(|bytes| Self::parse(&bytes)).unwrap_or(nothing)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix(" end\n")?;
        let (newest, loops) = text.strip_prefix("newest ")?.split_once(" loops ")?;
        Some(Self { newest: newest.parse().ok()?, loops: loops.parse().ok()?, is_of_ours: true })
    }

    /// Says for the next epoch what is durable now. It only spares work: without room for it, the
    /// next one writes more anew.
    pub fn write(ctx: &Context, root: &dyn Folder, files: &[Entry], newest: i64, loops: u16) {
        let epoch = ctx.fence.epoch().0;
        let text = format!("newest {newest} loops {loops} end\n");
        let written = root
            .open(&settled_name(epoch), Access::CreateNew)
            .and_then(|file| file.append(text.as_bytes()));
        if written.is_err() {
            return;
        }
        let former = |name: &[u8]| settled_epoch(name).is_some_and(|found| found < epoch);
        for file in files.iter().filter(|file| former(&file.name)) {
            // If it stays, the newer one counts.
            let _ = root.unlink(&file.name);
        }
    }

    /// Whether a process of ours has opened the store before.
    #[must_use]
    pub fn is_of_ours(&self) -> bool {
        self.is_of_ours
    }

    /// Whether messages of a channel may have been written after it.
    #[must_use]
    pub fn may_lack(&self, channel: &Channel) -> bool {
        channel.messages.message_count != 0 && self.since() <= channel.messages.last_time
    }

    /// Whether what was stamped then is durable, wherever it lies.
    #[must_use]
    pub fn has(&self, stamp: i64) -> bool {
        stamp < self.since()
    }

    /// Up to when everything is durable.
    #[must_use]
    pub fn since(&self) -> i64 {
        self.newest.saturating_sub(STAMPS_OVERLAP)
    }

    /// How many loops wrote then.
    #[must_use]
    pub fn loops(&self) -> u16 {
        self.loops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_file_says_what_is_durable() {
        let whole = b"newest 17 loops 2 end\n";
        assert_eq!(Settled::parse(whole), Some(Settled { newest: 17, loops: 2, is_of_ours: true }));
        for len in 0..whole.len() {
            assert_eq!(Settled::parse(&whole[..len]), None, "{len}");
        }
    }
}
