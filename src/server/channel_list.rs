//! the lists by which servers of one cluster ID tell each other which channels they have
//!
//! Facts: spec protocol, 18.2. A list is a run of names, each with its length in two bytes before
//! it; it is split over as many messages as it needs.

use bytes::{Buf, Bytes};
use prost::Message;

use crate::proto::spb;
use crate::proto::spb::ctrl_msg::Type;

/// Bytes of the length before a name.
const LEN_BYTES: usize = 2;
/// Key and length of the field that holds the names, at most.
const FIELD_BYTES: usize = 9;

/// One message: a list, or the answer to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListMessage {
    /// Which streaming server says it.
    pub server_id: Bytes,
    /// The names; of an answer the channel that both have, or nothing.
    pub data: Bytes,
}

/// Why bytes are no list.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ListError {
    /// They are no message at all.
    #[error("{0}")]
    Message(prost::DecodeError),
    /// The names are none of channels, or have too many wildcards.
    #[error("names that are none of channels, or too many wildcards")]
    Names,
    /// They break off in a length.
    #[error("unable to decode size, pos={position} len={len}")]
    Size {
        /// Where the length begins.
        position: usize,
        /// All bytes of the list.
        len: usize,
    },
    /// They break off in a name.
    #[error("unable to decode channel, pos={position} len={name_len} max={len}")]
    Channel {
        /// Where the name begins.
        position: usize,
        /// Bytes that it should have.
        name_len: usize,
        /// All bytes of the list.
        len: usize,
    },
}

/// A name is longer than the largest message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unable to send channels list: message payload too small to send channels list")]
pub struct TooLong;

/// The messages of a list, of which none is longer than `payload_bytes_max`.
///
/// # Errors
/// [`TooLong`].
pub fn encode_list<'a>(
    server_id: &Bytes,
    channels: impl Iterator<Item = &'a Bytes>,
    payload_bytes_max: usize,
) -> Result<Vec<Bytes>, TooLong> {
    let empty = ListMessage { server_id: server_id.clone(), data: Bytes::new() };
    let rest_bytes = encode_message(&empty).len() + FIELD_BYTES;
    let room = payload_bytes_max.checked_sub(rest_bytes).ok_or(TooLong)?;
    let mut parts = vec![Vec::new()];
    for channel in channels {
        let len = u16::try_from(channel.len()).map_err(|_| TooLong)?;
        if room < LEN_BYTES + channel.len() {
            return Err(TooLong);
        }
        if parts.last().is_some_and(|part| room < part.len() + LEN_BYTES + channel.len()) {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.extend_from_slice(&len.to_le_bytes());
            part.extend_from_slice(channel);
        }
    }
    let message = |data: Vec<u8>| {
        encode_message(&ListMessage { server_id: server_id.clone(), data: data.into() })
    };
    Ok(parts.into_iter().map(message).collect())
}

/// The bytes of a message.
#[must_use]
pub fn encode_message(message: &ListMessage) -> Bytes {
    let ListMessage { server_id, data } = message.clone();
    let msg_type = i32::from(Type::Partitioning);
    let message = spb::CtrlMsg { msg_type, server_id, data, ref_id: Bytes::new() };
    Bytes::from(message.encode_to_vec())
}

/// What bytes say, of a list or of an answer.
///
/// # Errors
/// [`ListError::Message`].
pub fn decode_message(bytes: Bytes) -> Result<ListMessage, ListError> {
    let message = spb::CtrlMsg::decode(bytes).map_err(ListError::Message)?;
    Ok(ListMessage { server_id: message.server_id, data: message.data })
}

/// The names of a list.
///
/// # Errors
/// [`ListError`], where it breaks off.
pub fn decode_names(data: &Bytes) -> Result<Vec<Bytes>, ListError> {
    let (len, mut rest, mut names) = (data.len(), data.clone(), Vec::new());
    while !rest.is_empty() {
        let position = len - rest.len();
        if rest.len() < LEN_BYTES {
            return Err(ListError::Size { position, len });
        }
        let name_len = usize::from(rest.get_u16_le());
        if rest.len() < name_len {
            let position = position + LEN_BYTES;
            return Err(ListError::Channel { position, name_len, len });
        }
        names.push(rest.split_to(name_len));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn id() -> Bytes {
        Bytes::from_static(b"server")
    }

    #[test]
    fn what_breaks_off_is_said_as_by_the_reference() {
        let error = |bytes: &'static [u8]| {
            decode_names(&Bytes::from_static(bytes)).unwrap_err().to_string()
        };
        assert_eq!(error(b"\x01\x00a\x05"), "unable to decode size, pos=3 len=4");
        assert_eq!(error(b"\x05\x00abc"), "unable to decode channel, pos=2 len=5 max=5");
        assert!(matches!(
            decode_message(Bytes::from_static(b"\x0a\x7f")),
            Err(ListError::Message(_))
        ));
    }

    #[test]
    fn a_name_that_fits_into_no_message_is_refused() {
        let name = Bytes::from(vec![b'a'; 100]);
        assert_eq!(encode_list(&id(), [&name].into_iter(), 100), Err(TooLong));
        assert_eq!(encode_list(&id(), [&name].into_iter(), 5), Err(TooLong));
        assert!(encode_list(&id(), [&name].into_iter(), 200).is_ok());
        let name = Bytes::from(vec![b'a'; 70_000]);
        assert_eq!(encode_list(&id(), [&name].into_iter(), 1 << 20), Err(TooLong));
    }

    proptest! {
        #[test]
        fn a_list_arrives_whole_in_messages_that_fit(
            names in vec(vec(any::<u8>(), 0..60), 0..40),
            payload_bytes_max in 90_usize..400,
        ) {
            let names: Vec<Bytes> = names.into_iter().map(Bytes::from).collect();
            let parts = encode_list(&id(), names.iter(), payload_bytes_max).unwrap();
            let mut found = Vec::new();
            for part in parts {
                prop_assert!(part.len() <= payload_bytes_max);
                let message = decode_message(part).unwrap();
                prop_assert_eq!(&message.server_id, &id());
                found.extend(decode_names(&message.data).unwrap());
            }
            prop_assert_eq!(found, names);
        }

        #[test]
        fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(message) = decode_message(Bytes::from(bytes)) {
                let _ = decode_names(&message.data);
            }
        }
    }
}
