//! what clients rely on, told in steps; each story runs with one, two and four engines
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use crate::engine::effect::Service;
use crate::engine::script::{Options, Pulse, Script};
use crate::proto::pb::StartPosition;

const LOOPS: [u16; 3] = [1, 2, 4];

/// Runs a story with every number of engines.
fn with_loops(story: impl Fn(Script)) {
    for loops in LOOPS {
        story(Script::new(loops));
    }
}

#[test]
fn a_published_message_is_acked_and_delivered() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &Options::default());
        server.publish("me", "orders", 2);
        server.expect("a:1 a:2");
        server.ack("a", "orders", &[1, 2]);
        server.pass_secs(100);
        server.expect("");
        assert_eq!(server.close("me"), "");
        assert_eq!(server.try_publish("me", "orders", "x"), "stan: invalid publish request");
        assert_eq!(server.close("me"), "stan: unknown clientID");
    });
}
