//! Bytes of a route: no panic, no operation longer than its bytes, and what is read is read again
//! from what the encoder makes of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stanby::wire::{Limits, Parsed, encoder, parse};

fuzz_target!(|bytes: &[u8]| {
    for limits in [Limits::route()] {
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
