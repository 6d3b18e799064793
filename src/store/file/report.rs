//! Lines that the file store logs in the reference's words.

use crate::store::file::channel::Channel;
use crate::store::report;
use crate::store::retention::Held;

/// Says once that a channel has reached its limits.
pub fn report_limits(channel: &mut Channel) {
    if channel.messages.is_limit_reported {
        return;
    }
    channel.messages.is_limit_reported = true;
    let held = Held {
        message_count: channel.messages.message_count,
        byte_count: channel.messages.byte_count,
    };
    report::limits_reached(&channel.name, held, &channel.limits);
}
