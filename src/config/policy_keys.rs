//! Keys of delivery policies, in the limits of all channels and of one.
//!
//! The Go server knows none of them, so nothing here follows it: what cannot be meant is an error.

use std::time::Duration;

use crate::base::delivery_policy::PolicyOverrides;
use crate::base::go;
use crate::base::id::ChannelName;
use crate::base::subject;
use crate::config::core_keys::Fault;
use crate::config::tree::{Entry, Value};

/// The keys.
pub const KEYS: &str = "max_deliveries dead_letter back_off ttl max_redelivered_in_flight \
                        dedup_window";

/// A list of waits is no longer.
const WAITS_MAX: usize = 64;

/// A wait is no shorter: redeliveries are sent together that are due within 15 ms.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Takes the entry if it is a policy's; whether it was.
///
/// # Errors
/// [`Fault`], with what was expected.
pub fn take(policy: &mut PolicyOverrides, entry: &Entry) -> Result<bool, Fault> {
    let key = entry.key.to_lowercase();
    match key.as_str() {
        "max_deliveries" => policy.deliveries_max = Some(number(entry)?),
        "max_redelivered_in_flight" => policy.redelivered_max = Some(number(entry)?),
        "dead_letter" => policy.dead_letter = Some(dead_letter(entry)?),
        "back_off" => policy.back_off = Some(back_off(entry)?),
        "ttl" => policy.ttl = Some(ttl(entry)?),
        "dedup_window" => policy.dedup_window = Some(dedup_window(entry)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn number(entry: &Entry) -> Result<u32, Fault> {
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

/// A list of waits; one alone may stand without brackets.
fn back_off(entry: &Entry) -> Result<Vec<Duration>, Fault> {
    let Value::Array(items) = &entry.value else { return Ok(vec![wait(entry, &entry.value)?]) };
    if WAITS_MAX < items.len() {
        let text = format!("{} has {} waits: {WAITS_MAX} at most", entry.key, items.len());
        return Err(Fault::new(entry, text));
    }
    items.iter().map(|item| wait(entry, &item.value)).collect()
}

fn wait(entry: &Entry, value: &Value) -> Result<Duration, Fault> {
    let wait = duration(entry, value)?;
    if wait < WAIT_MIN {
        let text = format!(
            "{} has a wait of {}: {} at least",
            entry.key,
            go::show(wait),
            go::show(WAIT_MIN)
        );
        return Err(Fault::new(entry, text));
    }
    Ok(wait)
}

fn ttl(entry: &Entry) -> Result<Duration, Fault> {
    duration(entry, &entry.value)
}

/// Bounds of a window: shorter ones catch nothing, and longer ones are a mistake, because so many
/// messages cannot be remembered.
const WINDOW_MIN: Duration = Duration::from_millis(1);
const WINDOW_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

fn dedup_window(entry: &Entry) -> Result<Duration, Fault> {
    let window = duration(entry, &entry.value)?;
    if window.is_zero() || (WINDOW_MIN..=WINDOW_MAX).contains(&window) {
        return Ok(window);
    }
    let text = format!(
        "{} is {}: it has to be from {} to {}, or \"0\" for none where one would be inherited",
        entry.key,
        go::show(window),
        go::show(WINDOW_MIN),
        go::show(WINDOW_MAX)
    );
    Err(Fault::new(entry, text))
}

/// In Go's notation, not below 0.
fn duration(entry: &Entry, value: &Value) -> Result<Duration, Fault> {
    let Value::String(text) = value else {
        let have = value.kind();
        let text = format!("{} expects durations such as \"10s\", got {have}", entry.key);
        return Err(Fault::new(entry, text));
    };
    let nanos = go::duration(text)
        .map_err(|why| Fault::new(entry, format!("parameter \"{}\": {why}", entry.key)))?;
    let nanos = u64::try_from(nanos)
        .map_err(|_| Fault::new(entry, format!("{} is below 0: {}", entry.key, go::quote(text))))?;
    Ok(Duration::from_nanos(nanos))
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
