//! Keys of delivery policies, in the limits of all channels and of one.
//!
//! The Go server knows none of them, so nothing here follows it: what cannot be meant is an error.

use crate::base::delivery_policy::PolicyOverrides;
use crate::base::go;
use crate::base::id::ChannelName;
use crate::base::subject;
use crate::config::core_keys::Fault;
use crate::config::tree::{Entry, Value};

/// The keys.
pub const KEYS: &str = "max_deliveries dead_letter";

/// Keys that are meant and not built yet.
const COMING: &str = "back_off max_redelivered_in_flight ttl dedup_window";

/// Takes the entry if it is a policy's; whether it was.
///
/// # Errors
/// [`Fault`], with what was expected.
pub fn take(policy: &mut PolicyOverrides, entry: &Entry) -> Result<bool, Fault> {
    let key = entry.key.to_lowercase();
    match key.as_str() {
        "max_deliveries" => policy.deliveries_max = Some(deliveries_max(entry)?),
        "dead_letter" => policy.dead_letter = Some(dead_letter(entry)?),
        _ if COMING.split(' ').any(|coming| coming == key) => {
            return Err(Fault::unsupported(entry));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn deliveries_max(entry: &Entry) -> Result<u32, Fault> {
    let Value::Integer(value) = &entry.value else {
        let text = format!(
            "parameter \"{}\" value is expected to be int64, got {}",
            entry.key,
            entry.value.kind()
        );
        return Err(Fault::new(entry, text));
    };
    u32::try_from(*value).map_err(|_| {
        let text = format!(
            "{} is {value}: it has to be from 1 to {}, or 0 for no limit where one would be \
             inherited",
            entry.key,
            u32::MAX
        );
        Fault::new(entry, text)
    })
}

/// Bytes of a name that every file system takes.
const NAME_LEN_MAX: usize = 255;

fn dead_letter(entry: &Entry) -> Result<ChannelName, Fault> {
    let Value::String(name) = &entry.value else {
        let text = format!(
            "parameter \"{}\" value is expected to be string, got {}",
            entry.key,
            entry.value.kind()
        );
        return Err(Fault::new(entry, text));
    };
    // A store in a directory makes it a folder, and clients have to be able to ask for it.
    let is_usable = name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control);
    if is_usable && subject::is_channel_name(name.as_bytes()) {
        return Ok(ChannelName::from(name.as_str()));
    }
    let why = if subject::has_wildcard(name.as_bytes()) {
        "is a pattern, and messages go to one channel"
    } else {
        "is no channel name"
    };
    Err(Fault::new(entry, format!("{} {} {why}", entry.key, go::quote(name))))
}
