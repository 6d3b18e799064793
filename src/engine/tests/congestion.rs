//! readers whose connections are full: they alone wait, and nothing that was not sent is delivered

use super::*;

#[test]
fn a_full_connection_holds_back_its_subscription_alone() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "slow", &options());
        server.subscribe("me", "foo", "fast", &options());
        server.publish("me", "foo", 1);
        server.expect("slow:1 fast:1");
        server.ack("slow", "foo", &[1]);
        server.ack("fast", "foo", &[1]);
        server.set_room("slow", false);
        server.publish("me", "foo", 2);
        server.expect("fast:2 fast:3");
        server.ack("fast", "foo", &[2, 3]);
        // What was not sent waits for no ack.
        server.pass_secs(100);
        server.expect("");
        server.set_room("slow", true);
        server.expect("slow:2 slow:3");
        server.pass_secs(29);
        server.expect("");
        server.pass_secs(2);
        server.expect("slow:2*1 slow:3*1");
    });
}

#[test]
fn what_is_due_again_waits_for_room_and_comes_once() {
    with_loops(|mut server| {
        server.connect("me");
        let patient = Options { ack_wait: 10, ..options() };
        server.subscribe("me", "foo", "a", &patient);
        server.publish("me", "foo", 3);
        server.expect("a:1 a:2 a:3");
        server.set_room("a", false);
        server.publish("me", "foo", 1);
        server.pass_secs(65);
        server.expect("");
        server.ack("a", "foo", &[2]);
        server.set_room("a", true);
        server.expect("a:1*1 a:3*1 a:4");
        // Each has a whole ack wait from then on, however long there was no room.
        server.pass_secs(9);
        server.expect("");
        server.pass_secs(2);
        server.expect("a:1*2 a:3*2 a:4*1");
    });
}

#[test]
fn what_waited_for_room_has_a_whole_ack_wait_whatever_else_is_due_meanwhile() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &options());
        server.publish("me", "foo", 1);
        server.pass_secs(20);
        server.publish("me", "foo", 1);
        server.expect("a:1 a:2");
        server.set_room("a", false);
        server.pass_secs(20);
        server.expect("");
        server.set_room("a", true);
        server.expect("a:1*1");
        server.pass_secs(11);
        server.expect("a:2*1");
        // Thirty seconds after the one that was late, and not after it should have been sent.
        server.pass_secs(18);
        server.expect("");
        server.pass_secs(2);
        server.expect("a:1*2");
    });
}

#[test]
fn a_group_passes_over_members_without_room() {
    with_loops(|mut server| {
        server.connect("me");
        let member = Options { queue: "q", ack_wait: 10, ..options() };
        server.subscribe("me", "foo", "a", &member);
        server.subscribe("me", "foo", "b", &member);
        server.set_room("a", false);
        server.publish("me", "foo", 3);
        server.expect("b:1 b:2 b:3");
        server.ack("b", "foo", &[1, 2]);
        server.set_room("b", false);
        server.publish("me", "foo", 1);
        server.pass_secs(25);
        server.expect("");
        server.set_room("a", true);
        server.expect("a:3*1 a:4");
        server.ack("a", "foo", &[3, 4]);
        server.set_room("b", true);
        server.pass_secs(60);
        server.expect("");
    });
}

#[test]
fn who_begins_on_a_full_connection_is_answered_and_waits() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 3);
        server.set_room("a", false);
        let durable = Options { durable: "d", ack_wait: 10, ..options() };
        server.subscribe("me", "foo", "a", &durable);
        server.pass_secs(60);
        server.expect("");
        server.set_room("a", true);
        server.expect("a:1 a:2 a:3");
        server.sub_close("me", "foo", "a");
        server.set_room("a", false);
        server.subscribe("me", "foo", "a", &durable);
        server.pass_secs(60);
        server.expect("");
        server.set_room("a", true);
        server.expect("a:1*1 a:2*1 a:3*1");
    });
}

#[test]
fn after_a_restart_no_group_waits_for_a_member_without_room() {
    with_loops(|mut server| {
        server.connect("me");
        let member = Options { queue: "q", ack_wait: 1, ..options() };
        server.subscribe("me", "foo", "a", &member);
        server.subscribe("me", "foo", "b", &member);
        server.publish("me", "foo", 2);
        server.expect("a:1 b:2");
        server.set_room("a", false);
        server.set_room("b", false);
        server.pass_secs(5);
        server.restart();
        server.expect("");
        server.set_room("b", true);
        server.expect("b:2*1 b:1*1");
        server.ack("b", "foo", &[1, 2]);
        server.publish("me", "foo", 1);
        server.expect("b:3");
    });
}
