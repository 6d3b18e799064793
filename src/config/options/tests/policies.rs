//! Delivery policies in a configuration: what is taken, and what is refused with its place

use super::*;
use crate::base::delivery_policy::DeliveryPolicy;

fn policy(file: &str, channel: &str) -> Option<DeliveryPolicy> {
    let limits = file_config(file).streaming.limits.resolve().unwrap();
    limits.policy_of(&ChannelName::from(channel))
}

fn of(deliveries_max: u32, dead_letter: &str) -> Option<DeliveryPolicy> {
    let dead_letter = Some(ChannelName::from(dead_letter));
    Some(DeliveryPolicy { deliveries_max, dead_letter, ..DeliveryPolicy::default() })
}

#[test]
fn sections_inherit_policies_as_limits() {
    let file = "streaming { store_limits {
        dead_letter: graveyard
        channels {
            \"orders.>\": { max_deliveries: 5 }
            \"orders.eu.*\": { dead_letter: \"dead.eu\", max_msgs: 10 }
            \"orders.eu.calm\": { max_deliveries: 0 }
            free: {}
        } } }";
    assert_eq!(policy(file, "orders.us"), of(5, "graveyard"));
    assert_eq!(policy(file, "orders.eu.a"), of(5, "dead.eu"));
    assert_eq!(policy(file, "orders.eu.calm"), of(0, "dead.eu"));
    assert_eq!(policy(file, "free"), of(0, "graveyard"));
    assert_eq!(policy("streaming { store_limits { channels { a: {} } } }", "a"), None);
}

#[test]
fn waits_and_times_to_live_are_inherited() {
    let file = "streaming { store_limits {
        ttl: \"1h\"
        channels {
            \"a.>\": { back_off: [\"1s\", \"1m30s\"] }
            \"a.b\": { back_off: \"2s\", ttl: \"0\" }
            \"a.c\": { back_off: [] }
        } } }";
    let of = |channel: &str| {
        let found = policy(file, channel).unwrap_or_default();
        (found.back_off.iter().map(Duration::as_secs).collect::<Vec<_>>(), found.ttl.as_secs())
    };
    assert_eq!(of("other"), (vec![], 3_600));
    assert_eq!(of("a.x"), (vec![1, 90], 3_600));
    assert_eq!(of("a.b"), (vec![2], 0));
    assert_eq!(of("a.c"), (vec![], 3_600));
}

#[test]
fn windows_are_inherited() {
    let file = "streaming { store_limits {
        dedup_window: \"2m\"
        channels {
            \"a.>\": { dedup_window: \"168h\" }
            \"a.b\": { dedup_window: \"0\" }
            \"a.c\": { max_msgs: 10 }
        } } }";
    let of = |channel: &str| policy(file, channel).unwrap_or_default().dedup_window.as_secs();
    let found = [of("other"), of("a.x"), of("a.b"), of("a.c")];
    assert_eq!(found, [120, 604_800, 0, 604_800]);
}

/// Keys of a section, and what is said of them.
const REFUSED: [(&str, &str); 18] = [
    (
        "max_deliveries: -1",
        "f.conf:2:2: max_deliveries is -1: it has to be from 1 to 4294967295, or 0 for no \
         limit where one would be inherited",
    ),
    (
        "max_deliveries: 5000000000",
        "f.conf:2:2: max_deliveries is 5000000000: it has to be from 1 to 4294967295, or 0 \
         for no limit where one would be inherited",
    ),
    (
        "max_deliveries: \"5\"",
        "f.conf:2:2: parameter \"max_deliveries\" value is expected to be int64, got string",
    ),
    (
        "dead_letter: 5",
        "f.conf:2:2: parameter \"dead_letter\" value is expected to be string, got int64",
    ),
    (
        "dead_letter: \"dead.*\"",
        "f.conf:2:2: dead_letter \"dead.*\" is a pattern, and messages go to one channel",
    ),
    ("dead_letter: \"\"", "f.conf:2:2: dead_letter \"\" is no channel name"),
    ("dead_letter: \"a..b\"", "f.conf:2:2: dead_letter \"a..b\" is no channel name"),
    ("back_off: [\"1s\", \"99ms\"]", "f.conf:2:2: back_off has a wait of 99ms: 100ms at least"),
    ("back_off: \"soon\"", "f.conf:2:2: parameter \"back_off\": time: invalid duration \"soon\""),
    ("back_off: 5", "f.conf:2:2: back_off expects durations such as \"10s\", got int64"),
    ("ttl: \"-1s\"", "f.conf:2:2: ttl is below 0: \"-1s\""),
    ("ttl: 60", "f.conf:2:2: ttl expects durations such as \"10s\", got int64"),
    ("dedup_window: \"-1m\"", "f.conf:2:2: dedup_window is below 0: \"-1m\""),
    ("dedup_window: 60", "f.conf:2:2: dedup_window expects durations such as \"10s\", got int64"),
    (
        "dedup_window: \"1 minute\"",
        "f.conf:2:2: parameter \"dedup_window\": time: unknown unit \" minute\" in duration \"1 minute\"",
    ),
    (
        "dedup_window: \"999us\"",
        "f.conf:2:2: dedup_window is 999µs: it has to be from 1ms to 168h0m0s, or \"0\" for none \
         where one would be inherited",
    ),
    (
        "dedup_window: \"168h1s\"",
        "f.conf:2:2: dedup_window is 168h0m1s: it has to be from 1ms to 168h0m0s, or \"0\" for \
         none where one would be inherited",
    ),
    (
        "max_redelivered_in_flight: -1",
        "f.conf:2:2: max_redelivered_in_flight is -1: it has to be from 1 to 4294967295, or 0 \
         for no limit where one would be inherited",
    ),
];

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    for (keys, error) in REFUSED {
        for file in [
            format!("streaming {{ store_limits {{ channels {{ orders {{\n {keys} }} }} }} }}"),
            format!("streaming {{ store_limits {{\n {keys} }} }}"),
        ] {
            assert_eq!(messages("-c f.conf", &file), [error], "{file}");
        }
    }
    let unknown = "streaming { limits { channels { a { max_delivery: 1 } } } }";
    let warning = "f.conf:1:36: unknown field \"max_delivery\" in the limits of a channel is \
                   ignored; the nearest known one is \"max_deliveries\"";
    assert_eq!(messages("-c f.conf", unknown), [warning]);
}

#[test]
fn policies_that_do_not_fit_together_fail_the_start() {
    for (file, text) in [
        (
            "channels { orders { max_deliveries: 3 } }",
            "the section of channel \"orders\": has max_deliveries and no dead_letter: say where \
             messages go then",
        ),
        (
            "max_deliveries: 3",
            "store_limits: has max_deliveries and no dead_letter: say where messages go then",
        ),
        (
            "channels { orders { max_deliveries: 3, dead_letter: orders } }",
            "the section of channel \"orders\": dead letters would go round in a circle: \
             \"orders\" -> \"orders\"; give \"orders\" a section of its own with max_deliveries: 0",
        ),
        (
            "max_deliveries: 3, dead_letter: dead",
            "store_limits: dead letters would go round in a circle: \"dead\" -> \"dead\"; give \
             \"dead\" a section of its own with max_deliveries: 0",
        ),
    ] {
        let file = format!("streaming {{ store_limits {{\n {file} }} }}");
        let said = messages("-c f.conf", &file);
        let is_there = said.len() == 1 && said[0].contains(text) && said[0].contains("f.conf:2:");
        assert!(is_there, "{file}: {said:?}");
    }
    let of_others = "streaming { partitioning: true, store_limits { channels {
        orders { max_deliveries: 3, dead_letter: dead } } } }";
    let said = messages("-c f.conf", of_others);
    let text = "dead_letter \"dead\" is none of the channels of this server";
    assert!(said.len() == 1 && said[0].contains(text), "{said:?}");
    let of_ours = of_others.replace("channels {", "channels { \"dead\": {},");
    assert_eq!(messages("-c f.conf", &of_ours), [""; 0]);
}
