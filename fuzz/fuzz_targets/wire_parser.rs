//! Bytes of a client or of a server: no panic, no operation longer than its bytes, and what is read
//! is read again from what the encoder makes of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stanby::wire::{Limits, Parsed, Side, encoder, parse};

fuzz_target!(|bytes: &[u8]| {
    for limits in [
        Limits {
            side: Side::Client,
            control_line_max: 4096,
            payload_max: 1024 * 1024,
            has_headers: true,
        },
        Limits::server(),
    ] {
        let mut rest = bytes;
        while let Ok(Parsed::Op { op, len }) = parse(rest, &limits) {
            assert!(0 < len && len <= rest.len());
            let mut again = bytes::BytesMut::new();
            encoder::encode(&op, &mut again);
            assert!(matches!(parse(&again, &limits), Ok(Parsed::Op { .. })), "{op:?}");
            rest = &rest[len..];
        }
    }
});
