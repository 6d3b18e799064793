//! Any bytes as files of the store: nothing may panic, and what is a record lies inside of them.

#![no_main]

use libfuzzer_sys::fuzz_target;

use stanby::store::file::format::{
    Crc, Decoded, Framing, IndexRecord, channel_file, check_version, decode_record,
    decode_subscription, leading_sequence, message_place,
};

fuzz_target!(|bytes: &[u8]| {
    let crc = Crc::new(Crc::IEEE);
    let _ = check_version(bytes);
    let _ = channel_file(bytes);
    for framing in [Framing::Plain, Framing::Typed] {
        for crc in [None, Some(&crc)] {
            let mut rest = bytes.get(4..).unwrap_or_default();
            while let Ok(decoded) = decode_record(rest, framing, crc) {
                let Decoded::Record { kind, payload, len } = decoded else { break };
                assert!(payload.len() < len && len <= rest.len());
                let _ = decode_subscription(kind, payload);
                let _ = message_place(payload);
                let _ = leading_sequence(payload);
                rest = &rest[len..];
            }
        }
    }
    for chunk in bytes.chunks_exact(32) {
        let Some(chunk) = chunk.first_chunk() else { continue };
        if let Ok(Some(record)) = IndexRecord::decode(chunk, Some(&crc)) {
            let mut again = Vec::new();
            record.encode(&mut again, &crc);
            assert_eq!(&again, chunk);
        }
    }
});
