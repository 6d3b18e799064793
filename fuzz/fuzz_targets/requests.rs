//! requests: whatever bytes come on a subject of the server, decoding and placing them never panics

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stanby::engine::effect::Service;
use stanby::engine::request::{Placement, decode, is_control_message};
use stanby::server::administration_subjects;
use stanby::server::channel_list::{decode_message, decode_names};

const SERVICES: [Service; 7] = [
    Service::Connect,
    Service::Publish,
    Service::Subscribe,
    Service::Unsubscribe,
    Service::SubscriptionClose,
    Service::Close,
    Service::Ping,
];

fuzz_target!(|data: &[u8]| {
    let payload = Bytes::copy_from_slice(data);
    for service in SERVICES {
        let request = decode(service, payload.clone());
        for loops in [1, 2, 4] {
            if let Placement::Loop(index) = request.placement(loops) {
                assert!(index.0 < loops);
            }
        }
    }
    // What is asked says under which word.
    if let Ok(what) = administration_subjects::read(b"_STAN.admin.c.purge", data) {
        assert_eq!(what.word(), "purge");
    }
    let _ = is_control_message(payload.clone());
    let _ = decode_names(&payload);
    if let Ok(message) = decode_message(payload) {
        let _ = decode_names(&message.data);
    }
});
