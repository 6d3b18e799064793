//! The fault-tolerance heartbeat of a group: its bytes, as Go servers send and expect them.
//!
//! Facts: spec fault tolerance, 4.1. Anybody can send one, so it proves nothing: it only makes an
//! active look at its lease and epoch at once.

use bytes::Bytes;
use prost::Message;

use crate::base::id::Subject;
use crate::base::time::WallTime;
use crate::proto::spb;

/// Seconds from the year 1 to 1970: Go counts from there.
const UNIX_EPOCH_SECONDS: i64 = 62_135_596_800;
const NANOS_PER_SECOND: i64 = 1_000_000_000;
const VERSION: u8 = 1;
/// Go's mark for UTC in place of an offset in minutes.
const UTC: i16 = -1;

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who sends it.
    pub server_id: Bytes,
    /// When its sender became active, by its own wall clock.
    pub active_since: WallTime,
}

/// Why bytes on the heartbeat subject are no heartbeat; texts as the reference logs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// Not a control message, or one of another kind: passed over without a word.
    #[error("not a heartbeat")]
    Foreign,
    /// The sender's time is no Go time.
    #[error("Error decoding activation time: Time.UnmarshalBinary: {0}")]
    Time(&'static str),
}

/// Where a group's heartbeats go.
#[must_use]
pub fn subject(cluster_id: &str, group: &str) -> Subject {
    Subject::from(format!("_STAN.ft.{cluster_id}.{group}"))
}

/// The bytes of a heartbeat.
#[must_use]
pub fn encode_heartbeat(heartbeat: &Heartbeat) -> Bytes {
    let message = spb::CtrlMsg {
        msg_type: i32::from(spb::ctrl_msg::Type::FtHeartbeat),
        server_id: heartbeat.server_id.clone(),
        data: encode_time(heartbeat.active_since),
        ref_id: Bytes::new(),
    };
    Bytes::from(message.encode_to_vec())
}

/// What the bytes say.
///
/// # Errors
/// [`HeartbeatError`], after which the message is passed over.
pub fn decode_heartbeat(bytes: &[u8]) -> Result<Heartbeat, HeartbeatError> {
    let message = spb::CtrlMsg::decode(bytes).map_err(|_| HeartbeatError::Foreign)?;
    if message.msg_type != i32::from(spb::ctrl_msg::Type::FtHeartbeat) {
        return Err(HeartbeatError::Foreign);
    }
    let active_since = decode_time(&message.data)?;
    Ok(Heartbeat { server_id: message.server_id, active_since })
}

/// | offset | size | field                                          |
/// |--------|------|------------------------------------------------|
/// | 0      | 1    | version                                        |
/// | 1      | 8    | seconds since the year 1, big-endian           |
/// | 9      | 4    | nanoseconds, big-endian                        |
/// | 13     | 2    | offset of the zone in minutes, -1 for UTC      |
/// | 15     | 1    | version 2 only: seconds of the zone's offset   |
fn encode_time(at: WallTime) -> Bytes {
    let seconds = at.0.div_euclid(NANOS_PER_SECOND) + UNIX_EPOCH_SECONDS;
    let nanos = i32::try_from(at.0.rem_euclid(NANOS_PER_SECOND)).unwrap_or(0);
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&seconds.to_be_bytes());
    bytes.extend_from_slice(&nanos.to_be_bytes());
    bytes.extend_from_slice(&UTC.to_be_bytes());
    Bytes::from(bytes)
}

fn decode_time(bytes: &[u8]) -> Result<WallTime, HeartbeatError> {
    let expected_len = match bytes.first() {
        None => return Err(HeartbeatError::Time("no data")),
        Some(1) => 15,
        Some(2) => 16,
        Some(_) => return Err(HeartbeatError::Time("unsupported version")),
    };
    let fields = bytes[1..].split_first_chunk::<8>();
    let fields = fields.and_then(|(seconds, rest)| Some((seconds, rest.first_chunk::<4>()?)));
    let (Some((seconds, nanos)), true) = (fields, bytes.len() == expected_len) else {
        return Err(HeartbeatError::Time("invalid length"));
    };
    let seconds = i64::from_be_bytes(*seconds).saturating_sub(UNIX_EPOCH_SECONDS);
    let nanos = i64::from(i32::from_be_bytes(*nanos));
    Ok(WallTime(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(nanos: i64) -> Heartbeat {
        Heartbeat {
            server_id: Bytes::from_static(b"0123456789012345678901"),
            active_since: WallTime(nanos),
        }
    }

    #[test]
    fn a_heartbeat_has_the_bytes_that_go_servers_send() {
        let bytes = encode_heartbeat(&heartbeat(1_700_000_000_123_456_789));
        assert_eq!(bytes.len(), 43);
        assert_eq!(bytes[..4], [0x08, 3, 0x12, 22]);
        let time = [1, 0, 0, 0, 0x0e, 0xdc, 0xe5, 0xe8, 0x00, 0x07, 0x5b, 0xcd, 0x15, 0xff, 0xff];
        assert_eq!(bytes[26..28], [0x1a, 15]);
        assert_eq!(bytes[28..], time);
    }

    #[test]
    fn heartbeats_decode_to_what_was_encoded() {
        for nanos in [0, 1, -1, 1_700_000_000_999_999_999, -5_000_000_001] {
            let sent = heartbeat(nanos);
            assert_eq!(decode_heartbeat(&encode_heartbeat(&sent)), Ok(sent));
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reference_s_reason() {
        let with_time = |data: &'static [u8]| {
            let message = spb::CtrlMsg {
                msg_type: 3,
                data: Bytes::from_static(data),
                ..spb::CtrlMsg::default()
            };
            decode_heartbeat(&message.encode_to_vec())
        };
        assert_eq!(decode_heartbeat(b""), Err(HeartbeatError::Foreign));
        assert_eq!(decode_heartbeat(b"\xff\xff"), Err(HeartbeatError::Foreign));
        assert_eq!(with_time(b""), Err(HeartbeatError::Time("no data")));
        assert_eq!(with_time(b"\x09"), Err(HeartbeatError::Time("unsupported version")));
        assert_eq!(with_time(b"\x01abc"), Err(HeartbeatError::Time("invalid length")));
        assert_eq!(with_time(&[1; 16]), Err(HeartbeatError::Time("invalid length")));
        assert!(with_time(&[2; 16]).is_ok());
    }
}
