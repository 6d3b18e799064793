//! Operations that follow each other as they do in a log, and such as cannot.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use spb::raft_operation::Type;

fn publish(channel: &'static str, number: u64, sequences: &[u64]) -> spb::RaftOperation {
    let message = |sequence: &u64| pb::MsgProto {
        sequence: *sequence,
        subject: Bytes::from(channel),
        ..pb::MsgProto::default()
    };
    let messages = sequences.iter().map(message).collect();
    let publish_batch = Some(spb::RaftBatch { messages });
    spb::RaftOperation { publish_batch, channel_id: number, ..Default::default() }
}

fn subscribe(channel: &'static str, number: u64) -> spb::RaftOperation {
    let request = pb::SubscriptionRequest { subject: Bytes::from(channel), ..Default::default() };
    let sub = Some(spb::AddSubscription { request: Some(request), ..Default::default() });
    let op_type = Type::Subscribe.into();
    spb::RaftOperation { op_type, sub, channel_id: number, ..Default::default() }
}

fn delete(channel: &'static str, number: u64) -> spb::RaftOperation {
    let (op_type, channel) = (Type::DeleteChannel.into(), Bytes::from(channel));
    spb::RaftOperation { op_type, channel, channel_id: number, ..Default::default() }
}

/// A snapshot with channel foo.
fn snapshot(number: u64, last: u64) -> spb::RaftSnapshot {
    let foo = spb::ChannelSnapshot {
        channel: Bytes::from("foo"),
        channel_id: number,
        first: 1,
        last,
        ..Default::default()
    };
    spb::RaftSnapshot { channels: vec![foo], ..Default::default() }
}

/// What is wrong with the last operation, and with none before it.
fn doubt(course: &mut Course, operations: &[spb::RaftOperation]) -> Option<String> {
    let mut found = Ok(());
    for (operation, index) in operations.iter().zip(100..) {
        assert_eq!(found, Ok(()));
        found = course.note(index, operation);
    }
    found.err().map(|doubt| doubt.to_string())
}

#[test]
fn a_channel_that_is_deleted_and_made_anew_is_in_order() {
    let mut course = Course::default();
    let operations = [
        subscribe("foo", 7),
        publish("foo", 7, &[1, 2]),
        publish("foo", 0, &[3]),
        // Asked for again, as the leader did not know whether it had succeeded.
        publish("foo", 7, &[2, 3, 4]),
        delete("foo", 7),
        delete("foo", 7),
        publish("foo", 30, &[1]),
        publish("bar", 30, &[1]),
    ];
    assert_eq!(doubt(&mut course, &operations), None);
    assert_eq!(course.word(b"foo", 30), Word::UpTo(1));
    assert_eq!(course.word(b"foo", 7), Word::Gone);
    assert_eq!(course.word(b"foo", 31), Word::Nothing);
    assert_eq!(course.word(b"baz", 1), Word::Nothing);
    assert_eq!(doubt(&mut course, &[delete("foo", 30)]), None);
    assert_eq!((course.word(b"foo", 30), course.word(b"foo", 31)), (Word::Gone, Word::Nothing));
}

#[test]
fn another_number_without_a_deletion_is_damage() {
    let said = "it is for number 8 of channel foo, which has number 9 and was not deleted before";
    for lower in [publish("foo", 8, &[2]), subscribe("foo", 8), delete("foo", 8)] {
        let mut course = Course::default();
        let found = doubt(&mut course, &[publish("foo", 9, &[1]), lower]);
        assert_eq!(found.as_deref(), Some(said));
        let found = doubt(&mut course, &[publish("foo", 9, &[2]), publish("foo", 10, &[3])]);
        assert!(found.unwrap().starts_with("it is for number 10 of channel foo"));
    }
    let gone = [publish("foo", 9, &[1]), delete("foo", 9), publish("foo", 8, &[1])];
    let found = doubt(&mut Course::default(), &gone);
    assert_eq!(found.as_deref(), Some("it is for number 8 of channel foo, and 9 was deleted"));
    // A channel that had no number first has the one that comes.
    let found = doubt(&mut Course::default(), &[publish("foo", 0, &[1]), publish("foo", 9, &[2])]);
    assert_eq!(found, None);
}

#[test]
fn messages_that_are_left_out_are_damage() {
    for (operations, said) in [
        (vec![publish("foo", 9, &[3])], "it has message 3 of channel foo, where 1 comes next"),
        (vec![publish("foo", 9, &[1, 2]), publish("foo", 9, &[4])], "where 3 comes next"),
        (vec![publish("foo", 9, &[1, 3])], "it has message 3 of channel foo, where 2 comes next"),
        (vec![publish("foo", 9, &[0])], "it has message 0 of channel foo, where 1 comes next"),
    ] {
        let found = doubt(&mut Course::default(), &operations).unwrap();
        assert!(found.contains(said), "{found}");
    }
    let mut mixed = publish("foo", 9, &[1, 2]);
    mixed.publish_batch.as_mut().unwrap().messages[1].subject = Bytes::from("fop");
    let found = doubt(&mut Course::default(), &[mixed]).unwrap();
    assert_eq!(found, "it has messages of channel foo and of channel fop");
}

#[test]
fn an_operation_without_content_is_damage() {
    let types = [Type::Publish, Type::Subscribe, Type::RemoveSubscription, Type::SendAndAck];
    for op_type in types.into_iter().chain([Type::Connect, Type::Disconnect]) {
        let operation = spb::RaftOperation { op_type: op_type.into(), ..Default::default() };
        assert_eq!(Course::default().note(1, &operation), Err(Doubt::Empty), "{op_type:?}");
    }
}

#[test]
fn behind_a_snapshot_its_channels_go_on() {
    let mut course = Course::new(50, Some(&snapshot(9, 20)));
    assert_eq!(doubt(&mut course, &[publish("foo", 9, &[20, 21])]), None);
    assert_eq!(course.word(b"foo", 9), Word::UpTo(21));
    assert_eq!(course.word(b"bar", 40), Word::Gone, "it was there before, and is not in it");
    assert_eq!((course.word(b"bar", 0), course.word(b"bar", 50)), (Word::Nothing, Word::Nothing));
    let found = doubt(&mut course, &[publish("foo", 8, &[22])]);
    assert!(found.unwrap().contains("which has number 9"));
    let found = doubt(&mut Course::new(50, Some(&snapshot(9, 20))), &[publish("foo", 9, &[22])]);
    assert!(found.unwrap().contains("where 21 comes next"));
}

/// Goal: a snapshot may have a channel that was made behind the entry at which it ends; then the
/// former one of that name still has operations, up to its deletion.
#[test]
fn a_snapshot_may_be_of_later_than_its_end() {
    let mut course = Course::new(50, Some(&snapshot(60, 4)));
    let former = [publish("foo", 9, &[33]), publish("foo", 9, &[34])];
    assert_eq!(doubt(&mut course, &former), None);
    let passed: Vec<_> = course.passed().map(|(index, doubt)| (index, doubt.to_string())).collect();
    assert_eq!(passed.len(), 1);
    assert!(passed[0].0 == 100 && passed[0].1.contains("number 9 of channel foo"), "{passed:?}");
    let rest = [delete("foo", 9), publish("foo", 60, &[1, 2, 3, 4]), publish("foo", 60, &[5])];
    assert_eq!(doubt(&mut course, &rest), None);
    assert_eq!(course.passed().count(), 0);
    assert_eq!(course.word(b"foo", 60), Word::UpTo(5));
}
