//! Operations as leaders write them, and what is there in the end.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use spb::raft_operation::Type;

fn text(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

/// A cluster's log in the words of the domain.
#[derive(Default)]
struct Log(State);

impl Log {
    fn connected(clients: &str) -> Self {
        let mut log = Self::default();
        clients.split(' ').for_each(|client| log.connect(client, false));
        log
    }

    fn apply(&mut self, op_type: Type, number: u64, rest: spb::RaftOperation) {
        let op_type = op_type.into();
        self.0.apply(&spb::RaftOperation { op_type, channel_id: number, ..rest });
    }

    fn connect(&mut self, client: &str, refresh: bool) {
        let request = pb::ConnectRequest { client_id: text(client), ..Default::default() };
        let client_connect = Some(spb::AddClient { request: Some(request), refresh });
        self.apply(Type::Connect, 0, spb::RaftOperation { client_connect, ..Default::default() });
    }

    fn disconnect(&mut self, client: &str) {
        let client_disconnect = Some(pb::CloseRequest { client_id: text(client) });
        let rest = spb::RaftOperation { client_disconnect, ..Default::default() };
        self.apply(Type::Disconnect, 0, rest);
    }

    fn publish(&mut self, number: u64, sequences: std::ops::RangeInclusive<u64>) {
        self.publish_at(0, number, sequences);
    }

    fn publish_at(&mut self, second: i64, number: u64, all: std::ops::RangeInclusive<u64>) {
        let message = |sequence| pb::MsgProto {
            sequence,
            subject: text("foo"),
            timestamp: second * 1_000_000_000,
            ..Default::default()
        };
        let publish_batch = Some(spb::RaftBatch { messages: all.map(message).collect() });
        let rest = spb::RaftOperation { publish_batch, ..Default::default() };
        self.apply(Type::Publish, number, rest);
    }

    /// `name` is `durable`, `durable:group`, `:group` or nothing; the inbox is the client's name.
    fn subscribe(&mut self, id: u64, client: &str, name: &str, start: u64) {
        let (durable, group) = name.split_once(':').unwrap_or((name, ""));
        let request = pb::SubscriptionRequest {
            client_id: text(client),
            subject: text("foo"),
            q_group: text(group),
            inbox: text(&format!("inbox.{client}")),
            durable_name: text(durable),
            start_position: pb::StartPosition::SequenceStart.into(),
            start_sequence: start,
            ..Default::default()
        };
        let ack_inbox = text(&format!("ack.{client}.{id}"));
        let sub = Some(spb::AddSubscription { request: Some(request), ack_inbox, id });
        self.apply(Type::Subscribe, 7, spb::RaftOperation { sub, ..Default::default() });
    }

    fn leave(&mut self, id: u64, client: &str, op_type: Type) {
        let unsub = Some(pb::UnsubscribeRequest {
            client_id: text(client),
            subject: text("foo"),
            inbox: text(&format!("ack.{client}.{id}")),
            durable_name: Bytes::new(),
        });
        self.apply(op_type, 0, spb::RaftOperation { unsub, ..Default::default() });
    }

    fn told(&mut self, id: u64, client: &str, sent: &[u64], ack: &[u64]) {
        let sub_sent_ack = Some(spb::SubSentAndAck {
            channel: text("foo"),
            ack_inbox: text(&format!("ack.{client}.{id}")),
            sent: sent.to_vec(),
            ack: ack.to_vec(),
        });
        let rest = spb::RaftOperation { sub_sent_ack, ..Default::default() };
        self.apply(Type::SendAndAck, 0, rest);
    }

    /// `id:client:last_sent[pending]` of each subscription; `-` behind one that is offline.
    fn shown(&self) -> String {
        let state = self.0.clone().finish();
        let Some(channel) = state.channels.get(&b"foo"[..]) else { return "gone".to_owned() };
        let one = |(id, it): (&u64, &Subscription)| {
            let client = String::from_utf8_lossy(&it.state.client_id).into_owned();
            let pending: Vec<_> = it.pending.iter().map(u64::to_string).collect();
            let off = if it.is_live { "" } else { "-" };
            format!("{id}:{client}:{}[{}]{off}", it.state.last_sent, pending.join(" "))
        };
        channel.subscriptions.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn a_durable_goes_offline_and_comes_back_where_it_stopped() {
    let mut log = Log::connected("me");
    log.publish(7, 1..=10);
    log.subscribe(1, "me", "dur", 3);
    assert_eq!(log.shown(), "1:me:2[]");
    log.told(1, "me", &[3, 4, 5], &[3]);
    log.leave(1, "me", Type::CloseSubscription);
    assert_eq!(log.shown(), "1:me:5[4 5]-");
    log.told(1, "me", &[6], &[4]);
    assert_eq!(log.shown(), "1:me:5[4 5]-", "nobody listens at that inbox any more");
    log.subscribe(2, "me", "dur", 1);
    assert_eq!(log.shown(), "1:me:5[4 5]");
    log.disconnect("me");
    assert_eq!(log.shown(), "1:me:5[4 5]-");
    log.connect("me", false);
    log.subscribe(3, "me", "dur", 1);
    log.leave(3, "me", Type::RemoveSubscription);
    assert_eq!(log.shown(), "");
}

#[test]
fn who_is_not_connected_gets_no_subscription() {
    let mut log = Log::connected("me");
    log.subscribe(1, "you", "dur", 1);
    assert_eq!(log.shown(), "");
    log.subscribe(1, "me", "", 1);
    log.subscribe(2, "me", "dur", 1);
    log.subscribe(3, "me", "dur", 1);
    assert_eq!(log.shown(), "1:me:0[], 2:me:0[]", "a durable is there once");
    log.connect("me", true);
    assert_eq!(log.shown(), "2:me:0[]-", "one that takes the place of another begins anew");
}

/// Goal: what a member had not acknowledged when it left is not lost, whoever hears of it.
#[test]
fn the_messages_of_a_member_that_left_go_to_the_others() {
    let mut log = Log::connected("one two");
    log.publish(7, 1..=9);
    log.subscribe(1, "one", "dur:group", 1);
    log.subscribe(2, "two", "dur:group", 1);
    log.told(1, "one", &[1, 3], &[]);
    log.told(2, "two", &[2], &[]);
    log.disconnect("one");
    assert_eq!(log.shown(), "2:two:3[1 2 3]");
    log.told(2, "two", &[1], &[3]);
    log.told(2, "two", &[], &[1]);
    assert_eq!(log.shown(), "2:two:3[2]");
    log.leave(2, "two", Type::CloseSubscription);
    assert_eq!(log.shown(), "2::3[2]-", "the shadow of the group");
    log.subscribe(3, "two", "dur:group", 1);
    assert_eq!(log.shown(), "2:two:3[2]");
    log.leave(3, "two", Type::RemoveSubscription);
    log.subscribe(4, "two", "dur:group", 8);
    assert_eq!(log.shown(), "4:two:7[]", "a group that was ended begins anew");
}

/// Goal: where one member has told at once what was sent to it, and another had no time to, nothing
/// is lost; and what both have told of long ago does not come again.
#[test]
fn what_a_member_could_not_tell_of_any_more_is_sent_again() {
    let odd: Vec<u64> = (1..=199).step_by(2).collect();
    let mut log = Log::connected("one two");
    log.publish_at(1, 7, 1..=200);
    log.subscribe(1, "one", "dur:group", 1);
    log.subscribe(2, "two", "dur:group", 1);
    log.told(2, "two", &[2, 4], &[2, 4]);
    log.told(1, "one", &[1, 3, 5], &[1, 3, 5]);
    assert_eq!(log.shown(), "1:one:5[], 2:two:4[]", "in the second's turn all have told");
    log.told(1, "one", &odd, &odd);
    let even: Vec<_> = (6..=198).step_by(2).map(|it: u64| it.to_string()).collect();
    assert_eq!(log.shown(), format!("1:one:199[{}], 2:two:4[]", even.join(" ")));
    log.publish_at(10, 7, 201..=202);
    assert_eq!(log.shown(), "1:one:199[], 2:two:4[]", "it would have told in so long a time");
}

#[test]
fn a_group_that_is_not_durable_ends_with_its_last_member() {
    let mut log = Log::connected("one two");
    log.publish(7, 1..=9);
    log.subscribe(1, "one", ":group", 4);
    log.told(1, "one", &[4, 5], &[]);
    log.subscribe(2, "two", ":group", 9);
    assert_eq!(log.shown(), "1:one:5[4 5], 2:two:0[]");
    log.leave(1, "one", Type::CloseSubscription);
    assert_eq!(log.shown(), "2:two:5[4 5]");
    log.disconnect("two");
    assert_eq!(log.shown(), "");
}

#[test]
fn a_channel_that_was_made_anew_has_nothing_of_the_former_one() {
    let mut log = Log::connected("me");
    log.publish(7, 1..=9);
    log.subscribe(1, "me", "dur", 1);
    let delete = |number| spb::RaftOperation {
        op_type: Type::DeleteChannel.into(),
        channel: text("foo"),
        channel_id: number,
        ..Default::default()
    };
    log.0.apply(&delete(6));
    assert_eq!(log.shown(), "1:me:0[]", "that was another one");
    log.publish(12, 1..=2);
    assert_eq!((log.shown(), log.0.channels[&b"foo"[..]].last), (String::new(), 2));
    log.publish(7, 10..=11);
    assert_eq!(log.0.channels[&b"foo"[..]].last, 2, "what comes late for the former one is gone");
    log.0.apply(&delete(12));
    assert_eq!(log.shown(), "gone");
}

#[test]
fn a_snapshot_is_where_it_goes_on() {
    let state = |id, client: &str, group: &str, durable: &str| spb::SubState {
        id,
        client_id: text(client),
        q_group: text(group),
        durable_name: text(durable),
        ack_inbox: text(&format!("ack.{client}.{id}")),
        is_durable: !durable.is_empty() || group.contains(':'),
        last_sent: 4,
        ..Default::default()
    };
    let saved = |state: spb::SubState| spb::SubscriptionSnapshot {
        state: Some(state),
        acks_pending: vec![3, 4],
    };
    let closed = spb::SubState { is_closed: true, ..state(2, "me", "", "off") };
    let subscriptions = vec![
        saved(state(1, "me", "", "dur")),
        saved(closed),
        saved(state(3, "you", "", "dur")),
        saved(state(4, "you", "", "")),
        saved(state(5, "", "dur:left", "")),
        saved(state(6, "you", "dur:ghost", "")),
        saved(state(7, "me", "dur:ghost", "")),
    ];
    let channel = spb::ChannelSnapshot {
        channel: text("foo"),
        first: 2,
        last: 9,
        subscriptions,
        next_sub_id: 9,
        channel_id: 7,
    };
    let me = spb::ClientInfo { id: text("me"), ..Default::default() };
    let snapshot =
        spb::RaftSnapshot { clients: vec![me], channels: vec![channel], padding: Bytes::new() };
    let mut log = Log(State::of_snapshot(&snapshot));
    let expected = "1:me:4[3 4], 2:me:4[3 4]-, 3:you:4[3 4]-, 5::4[3 4]-, 7:me:4[3 4]";
    assert_eq!(log.shown(), expected);
    log.told(1, "me", &[5], &[3, 4]);
    log.connect("you", false);
    log.subscribe(0, "you", "", 99);
    let expected = "1:me:5[5], 2:me:4[3 4]-, 3:you:4[3 4]-, 5::4[3 4]-, 7:me:4[3 4], 9:you:9[]";
    assert_eq!(log.shown(), expected);
}
