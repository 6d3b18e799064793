//! The SQL store beside the contract: the fence, rows in the Go server's form, its own databases,
//! and clear errors.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/databases.rs"]
mod databases;
#[path = "sql_store/silent_holder.rs"]
mod silent_holder;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use serde_json::Value as Json;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, Predecessor, Unfenced};
use stanby::base::id::{ChannelName, Sequence, SubscriptionId, Ticket};
use stanby::base::random::Random;
use stanby::base::record::{
    Batch, ChannelBatch, FetchRequest, Lifecycle, MessageRecord, RecoveredChannel,
    RecoveredSubscription, SubscriptionWrite,
};
use stanby::base::time::WallTime;
use stanby::base::world;
use stanby::election::lease::{Attempt, Lease, LeaseError, Owner};
use stanby::proto::{pb, spb};
use stanby::site::sql_lock::SqlLease;
use stanby::store::sql::dialect::{Dialect, Driver};
use stanby::store::sql::dsn::Source;
use stanby::store::sql::{self, SqlOptions, sessions};
use stanby::store::{Opened, OutcomeUnknown, Remedy, Store, StoreError};

/// Longer than anything takes that is not broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `goal` for each database that there is, with one of its own.
fn for_every_database(goal: impl Fn(&Source)) {
    databases::for_every(|source, _| goal(source));
}

fn lease(source: &Source, member: &str, call_timeout: Duration) -> SqlLease {
    let owner = Owner {
        server_id: member.to_owned(),
        host: "here".to_owned(),
        pid: std::process::id(),
        ..Owner::default()
    };
    SqlLease::new(source.clone(), call_timeout, owner, Duration::ZERO)
}

fn won(lease: &mut SqlLease) -> (Arc<dyn Fence>, Predecessor) {
    match lease.try_take().unwrap() {
        Attempt::Won(grant) => (grant.fence, grant.predecessor),
        Attempt::Held { why, .. } => panic!("{why}"),
    }
}

fn open(source: &Source, fence: &Arc<dyn Fence>) -> Opened {
    let limits = StoreLimits::default();
    sql::open(&databases::options(source.clone()), &limits, fence, 1, world::now()).unwrap()
}

fn connect(source: &Source) -> Box<dyn Dialect> {
    sql::connect(source, databases::CALL_TIMEOUT).unwrap()
}

fn message(channel: &str, n: u64) -> MessageRecord {
    let timestamp = WallTime(1_700_000_000_000_000_000 + i64::try_from(n).unwrap());
    let proto = pb::MsgProto {
        sequence: n,
        subject: channel.as_bytes().to_vec().into(),
        data: format!("message {n}").into_bytes().into(),
        timestamp: timestamp.0,
        ..pb::MsgProto::default()
    };
    MessageRecord { sequence: Sequence(n), timestamp, encoded: proto.encode_to_vec().into() }
}

fn part(channel: &str, lifecycle: Lifecycle) -> ChannelBatch {
    ChannelBatch { channel: ChannelName::from(channel), lifecycle, ..ChannelBatch::default() }
}

fn batch(part: ChannelBatch) -> Batch {
    Batch { channels: vec![part], durable: true, ..Batch::default() }
}

fn publish(channel: &str, lifecycle: Lifecycle, first: u64, last: u64) -> Batch {
    let messages = (first..=last).map(|n| message(channel, n)).collect();
    batch(ChannelBatch { messages, ..part(channel, lifecycle) })
}

fn fetch(store: &mut dyn Store, channel: &ChannelName) -> Vec<MessageRecord> {
    let request = FetchRequest {
        ticket: Ticket(0),
        channel: channel.clone(),
        from: Sequence(0),
        count_max: 10_000,
        bytes_max: 10_000_000,
    };
    store.fetch(&request).unwrap()
}

fn count(source: &Source, statement: &str) -> u64 {
    connect(source).query(statement, &[]).unwrap()[0][0].unsigned()
}

/// Goal: what a former active commits after a take-over is refused, and nothing of it is there.
#[test]
fn a_superseded_epoch_writes_nothing() {
    for_every_database(|source| {
        let mut old = lease(source, "old", databases::CALL_TIMEOUT);
        let fence = won(&mut old).0;
        let mut store = open(source, &fence);
        store.shares[0].commit(Epoch(1), &publish("foo", Lifecycle::Create, 1, 3)).unwrap();
        drop(old);
        let (second, predecessor) = won(&mut lease(source, "new", databases::CALL_TIMEOUT));
        assert_eq!((second.epoch(), predecessor), (Epoch(2), Predecessor::Gone));
        let late = store.shares[0].commit(Epoch(1), &publish("foo", Lifecycle::Keep, 4, 4));
        let error = late.unwrap_err();
        assert!(matches!(error, OutcomeUnknown(StoreError::Fenced(_))), "{error}");
        assert_eq!(error.remedy(), Remedy::StepDown);
        assert_eq!(error.to_string(), "epoch 1 was replaced: epoch 2 belongs to new");
        assert_eq!(count(source, "SELECT COUNT(*) FROM Messages"), 3);
        assert_eq!(open(source, &second).recovered.channels[0].state.last, Sequence(3));
    });
}

/// Goal: a Go server that took the lock row fences us as well, store and lease.
#[test]
fn a_stolen_lock_row_costs_the_role() {
    for_every_database(|source| {
        let mut holder = lease(source, "holder", databases::CALL_TIMEOUT);
        let fence = won(&mut holder).0;
        let mut store = open(source, &fence);
        holder.confirm().unwrap();
        connect(source).run("UPDATE StoreLock SET id='thief', tick=1").unwrap();
        let late = store.shares[0].commit(Epoch(1), &publish("foo", Lifecycle::Create, 1, 1));
        assert!(matches!(late, Err(OutcomeUnknown(StoreError::Fenced(_)))));
        assert!(matches!(holder.confirm(), Err(LeaseError::Lost(_))));
        assert_eq!(count(source, "SELECT COUNT(*) FROM Channels"), 0);
        holder.release(false).unwrap();
        assert_eq!(count(source, "SELECT tick FROM StoreLock"), 1, "the thief's row is left alone");
    });
}

/// Goal: a Go server's row is taken only when its tick stands still, as Go servers do.
#[test]
fn a_go_servers_row_is_taken_when_its_tick_stands_still() {
    for_every_database(|source| {
        let go = connect(source).run("INSERT INTO StoreLock (id, tick) VALUES ('go-server', 7)");
        go.unwrap();
        let mut standby = lease(source, "standby", databases::CALL_TIMEOUT);
        let began_at = world::instant();
        let watched = || world::instant().since(began_at);
        let mut ticks = 7;
        loop {
            match standby.try_take().unwrap() {
                Attempt::Won(_) => break,
                Attempt::Held { why, .. } => assert!(why.contains("Go server"), "{why}"),
            }
            if watched() < Duration::from_secs(1) && ticks == 7 {
                ticks += 1;
                connect(source).run("UPDATE StoreLock SET tick=8").unwrap();
            }
            assert!(watched() < PATIENCE);
            std::thread::yield_now();
        }
        assert!(Duration::from_millis(4_500) <= watched());
        assert_eq!(count(source, "SELECT COUNT(*) FROM StoreLock WHERE id='standby'"), 1);
        standby.release(true).unwrap();
        assert_eq!(count(source, "SELECT COUNT(*) FROM StoreLock WHERE id='' AND tick=0"), 1);
    });
}

/// Goal: a former active that stands still inside a transaction is cut off by its successor.
#[test]
fn a_transaction_that_stands_still_is_cut_off() {
    for_every_database(|source| {
        if source.driver == Driver::Sqlite {
            // There only the end of the process ends its transaction.
            return;
        }
        let mut old = lease(source, "old", databases::CALL_TIMEOUT);
        won(&mut old);
        let mut stuck = connect(source);
        sessions::mark_store(stuck.as_mut(), Epoch(1), 0, false).unwrap();
        stuck.run("BEGIN").unwrap();
        let read = format!("SELECT epoch FROM StanbyEpoch{}", source.driver.share_lock());
        stuck.query(&read, &[]).unwrap();
        drop(old);
        let mut new = lease(source, "new", Duration::from_millis(400));
        let deadline = world::instant() + PATIENCE;
        while !matches!(new.try_take(), Ok(Attempt::Won(_))) {
            assert!(world::instant() < deadline);
        }
        assert!(stuck.run("COMMIT").is_err());
        assert!(stuck.query("SELECT 1", &[]).is_err(), "and stays so");
    });
}

/// Tries until the reason for waiting has `part` in it; the reason, if there is one still.
fn reason_with(standby: &mut SqlLease, part: &str) -> Option<String> {
    let deadline = world::instant() + PATIENCE;
    loop {
        match standby.try_take() {
            Ok(Attempt::Won(_)) => return None,
            Ok(Attempt::Held { why, .. }) if why.contains(part) => return Some(why),
            Ok(Attempt::Held { .. }) | Err(_) => {}
        }
        assert!(world::instant() < deadline, "never {part:?}");
        std::thread::yield_now();
    }
}

/// The same where it is not won.
fn held_because(standby: &mut SqlLease, part: &str) -> String {
    reason_with(standby, part).expect("it was not won")
}

/// A rule that has one second holds in one of so many rounds, however slow the machine is.
const ROUNDS_MAX: usize = 8;

/// Ends all sessions but the one that asks.
fn end_sessions(source: &Source) {
    let mut dialect = connect(source);
    if source.driver == Driver::Postgres {
        let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        dialect.query(all, &[]).unwrap();
        return;
    }
    let all = "SELECT id FROM information_schema.processlist \
               WHERE db = DATABASE() AND id <> CONNECTION_ID()";
    for row in dialect.query(all, &[]).unwrap() {
        // One may have ended by itself.
        let _ = dialect.run(&format!("KILL {}", row[0].unsigned()));
    }
}

/// Goal: when the database was away, the active comes back before the standby: it alone knows what
/// it acknowledged.
#[test]
fn the_active_comes_first_when_the_database_was_away() {
    for_every_database(|source| {
        if source.driver == Driver::Sqlite {
            // A file has no sessions that end.
            return;
        }
        // A database that answers late makes the head start short: of some rounds one holds.
        let comes_first = || {
            let mut active = lease(source, "active", databases::CALL_TIMEOUT);
            won(&mut active);
            let mut standby = lease(source, "standby", databases::CALL_TIMEOUT);
            assert!(matches!(standby.try_take().unwrap(), Attempt::Held { .. }));
            end_sessions(source);
            assert!(standby.try_take().is_err());
            let is_let = reason_with(&mut standby, "comes first").is_some();
            (is_let && matches!(active.confirm(), Err(LeaseError::NotNow(_))))
                .then(|| active.confirm().ok())
                .flatten()
                .filter(|()| reason_with(&mut standby, "holds the lock").is_some())
                .map(|()| (active, standby))
        };
        let found = (0..ROUNDS_MAX).find_map(|_| comes_first());
        let (mut active, mut standby) = found.expect("the active comes first");

        // One that does not come back is not waited for for ever.
        end_sessions(source);
        assert!(standby.try_take().is_err());
        let deadline = world::instant() + PATIENCE;
        while !matches!(standby.try_take().unwrap(), Attempt::Won(_)) {
            assert!(world::instant() < deadline);
        }
        assert!(active.confirm().is_err() && active.confirm().is_err());
    });
}

/// What the rows say by the Go server's own rules (spec stores, 8.9.3), written down here anew.
fn go_reads(source: &Source) -> BTreeMap<u64, (u64, BTreeSet<u64>)> {
    let mut dialect = connect(source);
    let mut found = BTreeMap::new();
    let live = "SELECT subid, lastsent, proto FROM Subscriptions WHERE deleted=FALSE";
    for row in dialect.query(live, &[]).unwrap() {
        let state = spb::SubState::decode(row[2].bytes()).unwrap();
        let subid = row[0].unsigned();
        assert_eq!(state.id, subid);
        let mut last_sent = row[1].unsigned().max(state.last_sent);
        let mut pending = BTreeSet::new();
        let rows = format!(
            "SELECT `row`, seq, lastsent, pending, acks FROM SubsPending WHERE subid={subid} \
             ORDER BY `row`"
        );
        for row in dialect.query(&rows, &[]).unwrap() {
            let list = |index: usize| -> Vec<u64> {
                let bytes: Bytes = row[index].bytes();
                if bytes.is_empty() { Vec::new() } else { serde_json::from_slice(&bytes).unwrap() }
            };
            assert_eq!(row[1].unsigned(), 0, "rows of the caching kind");
            last_sent = last_sent.max(row[2].unsigned());
            pending.extend(list(3));
            for ack in list(4) {
                assert!(pending.remove(&ack), "an ack names what an earlier row made pending");
            }
        }
        found.insert(subid, (last_sent, pending));
    }
    found
}

/// Goal: whatever happens to subscriptions, a Go server reads from the rows what we know.
#[test]
fn rows_follow_the_go_servers_form() {
    for_every_database(|source| {
        let mut holder = lease(source, "holder", databases::CALL_TIMEOUT);
        let fence = won(&mut holder).0;
        let mut opened = open(source, &fence);
        let store = opened.shares[0].as_mut();
        store.commit(Epoch(1), &publish("foo", Lifecycle::Create, 1, 300)).unwrap();
        let mut random = Random::new(11);
        let mut model: BTreeMap<u64, (u64, BTreeSet<u64>)> = BTreeMap::new();
        for id in 1..=4 {
            let state = spb::SubState { id, ..spb::SubState::default() };
            let subscriptions = vec![SubscriptionWrite::Create(Box::new(state))];
            let foo = ChannelBatch { subscriptions, ..part("foo", Lifecycle::Keep) };
            store.commit(Epoch(1), &batch(foo)).unwrap();
            model.insert(id, (0, BTreeSet::new()));
        }
        for round in 0..60_u64 {
            let mut subscriptions = Vec::new();
            for _ in 0..40 {
                let (id, seq) = (1 + random.below(4), 1 + random.below(300));
                let (last_sent, pending) = model.get_mut(&id).unwrap();
                *last_sent = (*last_sent).max(seq);
                if random.below(3) < 2 {
                    pending.insert(seq);
                    subscriptions.push(SubscriptionWrite::Sent(SubscriptionId(id), Sequence(seq)));
                } else {
                    pending.remove(&seq);
                    subscriptions.push(SubscriptionWrite::Acked(SubscriptionId(id), Sequence(seq)));
                }
            }
            let foo = ChannelBatch { subscriptions, ..part("foo", Lifecycle::Keep) };
            store.commit(Epoch(1), &batch(foo)).unwrap();
            if round % 4 == 0 {
                let mut now = world::now();
                store.maintain(now).unwrap();
                now.at = now.at + Duration::from_secs(1);
                store.maintain(now).unwrap();
                assert_eq!(go_reads(source), model, "written within a second");
            }
        }
        let delete = vec![SubscriptionWrite::Delete(SubscriptionId(4))];
        let foo = ChannelBatch { subscriptions: delete, ..part("foo", Lifecycle::Keep) };
        store.commit(Epoch(1), &batch(foo)).unwrap();
        model.remove(&4);
        store.close().unwrap();
        assert_eq!(go_reads(source), model);
        assert_eq!(count(source, "SELECT MAX(subid) FROM Subscriptions"), 4, "kept as a tombstone");
        let mut dialect = connect(source);
        let rows = dialect.query("SELECT id, seq, timestamp, size, data FROM Messages", &[]);
        for row in rows.unwrap() {
            let message = pb::MsgProto::decode(row[4].bytes()).unwrap();
            assert_eq!((row[0].unsigned(), row[1].unsigned()), (1, message.sequence));
            assert_eq!(row[2].signed(), message.timestamp);
            assert_eq!(row[3].unsigned(), row[4].bytes().len() as u64);
        }
    });
}

/// Goal: sums that were written down are not believed after somebody else removed messages.
#[test]
fn sums_are_not_believed_blindly() {
    for_every_database(|source| {
        let fence: Arc<dyn Fence> = Arc::new(Unfenced);
        let mut holder = lease(source, "holder", databases::CALL_TIMEOUT);
        won(&mut holder);
        let mut opened = open(source, &fence);
        opened.shares[0].commit(Epoch(1), &publish("foo", Lifecycle::Create, 1, 50)).unwrap();
        opened.shares[0].close().unwrap();
        let before = open(source, &fence).recovered.channels[0].state;
        assert_eq!(before.message_count, 50);
        connect(source).run("DELETE FROM Messages WHERE seq<=10").unwrap();
        let after = open(source, &fence).recovered.channels[0].state;
        assert_eq!((after.first, after.message_count), (Sequence(11), 40));
        let gone: u64 = (1..=10).map(|n| message("foo", n).encoded.len() as u64).sum();
        assert_eq!(after.byte_count, before.byte_count - gone);
        connect(source).run("DELETE FROM Messages").unwrap();
        connect(source).run("UPDATE Channels SET maxseq=50").unwrap();
        let empty = open(source, &fence).recovered.channels[0].state;
        assert_eq!((empty.first, empty.last), (Sequence(51), Sequence(50)));
    });
}

/// Opens as the process does that has acknowledged what `options` remember.
fn open_again(options: &SqlOptions, member: &str) -> (Opened, Epoch) {
    let fence = won(&mut lease(&options.source, member, databases::CALL_TIMEOUT)).0;
    let limits = StoreLimits::default();
    (sql::open(options, &limits, &fence, 1, world::now()).unwrap(), fence.epoch())
}

fn empty_ones(messages: &[MessageRecord]) -> Vec<u64> {
    let decoded = messages.iter().map(|it| pb::MsgProto::decode(it.encoded.clone()).unwrap());
    decoded.filter(|it| it.data.is_empty()).map(|it| it.sequence).collect()
}

/// Goal: what a database lost after it was acknowledged is said with the numbers, counted, and
/// filled with empty messages; the channel goes on above, and its subscriptions stay.
#[test]
fn lost_commits_are_said_and_filled() {
    for_every_database(|source| {
        let options = databases::options(source.clone());
        let (mut opened, epoch) = open_again(&options, "first");
        let store = opened.shares[0].as_mut();
        store.commit(epoch, &publish("foo", Lifecycle::Create, 1, 100)).unwrap();
        store.commit(epoch, &publish("bar", Lifecycle::Create, 1, 5)).unwrap();
        let state = spb::SubState { id: 1, ..spb::SubState::default() };
        let mut subscriptions = vec![SubscriptionWrite::Create(Box::new(state))];
        let sent = |n| SubscriptionWrite::Sent(SubscriptionId(1), Sequence(n));
        let acked = |n| SubscriptionWrite::Acked(SubscriptionId(1), Sequence(n));
        subscriptions.extend((1..=95).map(sent).chain((1..=92).map(acked)));
        let foo = ChannelBatch { subscriptions, ..part("foo", Lifecycle::Keep) };
        store.commit(epoch, &batch(foo)).unwrap();
        let state = spb::SubState { id: 2, ..spb::SubState::default() };
        let subscriptions = vec![
            SubscriptionWrite::Create(Box::new(state)),
            SubscriptionWrite::Sent(SubscriptionId(2), Sequence(100)),
        ];
        let foo = ChannelBatch { subscriptions, ..part("foo", Lifecycle::Keep) };
        store.commit(epoch, &batch(foo)).unwrap();
        store.close().unwrap();
        drop(opened);
        connect(source).run("DELETE FROM Messages WHERE id=1 AND seq>90").unwrap();
        connect(source).run("DELETE FROM Subscriptions WHERE subid=2").unwrap();
        connect(source).run("DELETE FROM SubsPending WHERE subid=2").unwrap();
        connect(source).run("DELETE FROM Messages WHERE id=2").unwrap();
        connect(source).run("DELETE FROM Channels WHERE id=2").unwrap();

        let (mut opened, epoch) = open_again(&options, "second");
        assert_eq!(options.remembered.lost_count(), 15);
        let said: Vec<&str> = opened.notices.iter().map(|it| it.text.as_str()).collect();
        assert!(said[0].contains("\"bar\": acknowledged up to 5, found 0"), "{said:?}");
        assert!(said[1].contains("\"foo\": acknowledged up to 100, found 90"), "{said:?}");
        let foo = &opened.recovered.channels[1];
        let positions = |foo: &RecoveredChannel| -> Vec<(u64, u64, Vec<u64>)> {
            let pending = |of: &RecoveredSubscription| of.pending.iter().map(|it| it.0).collect();
            let all = foo.subscriptions.iter();
            all.map(|it| (it.state.id, it.state.last_sent, pending(it))).collect()
        };
        let expected = [(1, 95, vec![93, 94, 95]), (2, 100, vec![100])];
        assert_eq!((positions(foo), foo.subscription_id_max.0), (expected.to_vec(), 2));
        assert_eq!((foo.state.first, foo.state.last), (Sequence(1), Sequence(100)));
        let (state, store) = (foo.state, opened.shares[0].as_mut());
        let found = fetch(store, &ChannelName::from("foo"));
        assert!(found.iter().map(|it| it.sequence.0).eq(1..=100));
        assert!(found.is_sorted_by_key(|it| it.timestamp));
        assert_eq!(empty_ones(&found), (91..=100).collect::<Vec<_>>());
        let bytes: usize = found.iter().map(|it| it.encoded.len()).sum();
        assert_eq!((state.message_count, state.byte_count), (100, bytes as u64));
        assert_eq!(empty_ones(&fetch(store, &ChannelName::from("bar"))), [1, 2, 3, 4, 5]);
        for (name, next) in [("foo", 101), ("bar", 6)] {
            let more = publish(name, Lifecycle::Keep, next, next);
            assert_eq!(store.commit(epoch, &more).unwrap().channels[0].refused, None);
        }
        store.close().unwrap();
        assert_eq!(go_reads(source)[&2], (100, BTreeSet::from([100])));
        drop(opened);

        let (opened, _) = open_again(&options, "third");
        assert_eq!(opened.notices, []);
        assert_eq!(opened.recovered.channels[1].state.message_count, 101);
        assert_eq!(positions(&opened.recovered.channels[1]), expected);
        assert_eq!(options.remembered.lost_count(), 15, "said and counted once");
    });
}

/// Goal: a channel that others deleted and made anew since is not taken for one that lost messages.
#[test]
fn a_channel_that_was_made_anew_has_lost_nothing() {
    for_every_database(|source| {
        let options = databases::options(source.clone());
        let (mut opened, epoch) = open_again(&options, "first");
        opened.shares[0].commit(epoch, &publish("foo", Lifecycle::Create, 1, 100)).unwrap();
        drop(opened);
        let (mut opened, epoch) = open_again(&databases::options(source.clone()), "other");
        let store = opened.shares[0].as_mut();
        store.commit(epoch, &batch(part("foo", Lifecycle::Delete))).unwrap();
        store.commit(epoch, &publish("foo", Lifecycle::Create, 1, 3)).unwrap();
        drop(opened);
        let (opened, _) = open_again(&options, "first");
        assert_eq!(opened.recovered.channels[0].state.last, Sequence(3));
        assert_eq!((opened.notices, options.remembered.lost_count()), (vec![], 0));
    });
}

/// Goal: what a Go server removed that was active in between is not taken for lost either: it
/// raises no epoch, so ours passes over one.
#[test]
fn what_a_go_server_removed_in_between_is_no_loss() {
    for_every_database(|source| {
        let options = databases::options(source.clone());
        for released in ["UPDATE StoreLock SET id='', tick=0", "UPDATE StoreLock SET tick=tick+1"] {
            let mut member = lease(source, "member", databases::CALL_TIMEOUT);
            let (fence, _) = won(&mut member);
            let limits = StoreLimits::default();
            let mut opened = sql::open(&options, &limits, &fence, 1, world::now()).unwrap();
            let foo = publish("foo", Lifecycle::Create, 1, 5);
            opened.shares[0].commit(fence.epoch(), &foo).unwrap();
            drop(opened);
            member.release(false).unwrap();
            connect(source).run(released).unwrap();
            connect(source).run("DELETE FROM Messages").unwrap();
            connect(source).run("DELETE FROM Channels").unwrap();
            let again = won(&mut member).0;
            let found = sql::open(&options, &limits, &again, 1, world::now()).unwrap();
            let was_go = released.contains("tick=0");
            assert_eq!(found.notices.is_empty(), was_go, "{:?}", found.notices);
            assert_eq!(again.epoch().0 - fence.epoch().0, if was_go { 2 } else { 1 });
            drop(found);
            member.release(true).unwrap();
            connect(source).run("DELETE FROM Messages").unwrap();
            connect(source).run("DELETE FROM Channels").unwrap();
        }
    });
}

/// Goal: what a commit removed whose answer was lost is not taken for lost by the database.
#[test]
fn a_removal_in_doubt_is_no_loss() {
    for_every_database(|source| {
        let options = databases::options(source.clone());
        let (mut opened, epoch) = open_again(&options, "first");
        let store = opened.shares[0].as_mut();
        let state = spb::SubState { id: 1, ..spb::SubState::default() };
        let subscriptions = vec![SubscriptionWrite::Create(Box::new(state))];
        let foo = ChannelBatch { subscriptions, ..part("foo", Lifecycle::Create) };
        store.commit(epoch, &batch(foo)).unwrap();
        store.commit(epoch, &publish("bar", Lifecycle::Create, 1, 5)).unwrap();
        // Somebody else begins an epoch, so that the next commit fails, as one does whose answer
        // is lost; and what it removes is gone all the same.
        connect(source).run("UPDATE StanbyEpoch SET epoch=epoch+100").unwrap();
        let subscriptions = vec![SubscriptionWrite::Delete(SubscriptionId(1))];
        let foo = ChannelBatch { subscriptions, ..part("foo", Lifecycle::Keep) };
        let channels = vec![foo, part("bar", Lifecycle::Delete)];
        assert!(store.commit(epoch, &Batch { channels, ..Batch::default() }).is_err());
        drop(opened);
        for statement in [
            "UPDATE StanbyEpoch SET epoch=epoch-100",
            "DELETE FROM Subscriptions",
            "DELETE FROM Messages",
            "DELETE FROM Channels WHERE name='bar'",
        ] {
            connect(source).run(statement).unwrap();
        }
        let (opened, next) = open_again(&options, "first");
        assert_eq!((next, opened.notices), (epoch.next(), vec![]));
        let names =
            opened.recovered.channels.iter().map(|it| (it.subscriptions.len(), &it.channel));
        assert!(names.eq([(0, &ChannelName::from("foo"))]));
    });
}

/// Goal: an epoch that a member has seen is not given out again by a database that forgot it.
#[test]
fn a_forgotten_epoch_is_not_used_again() {
    for_every_database(|source| {
        let mut first = lease(source, "first", databases::CALL_TIMEOUT);
        won(&mut first);
        first.release(true).unwrap();
        assert_eq!(won(&mut first).0.epoch(), Epoch(2));
        let mut standby = lease(source, "standby", databases::CALL_TIMEOUT);
        assert!(matches!(standby.try_take().unwrap(), Attempt::Held { .. }));
        for table in ["StanbyEpoch", "StanbyHolder"] {
            connect(source).run(&format!("UPDATE {table} SET epoch=1")).unwrap();
        }
        assert!(matches!(first.confirm(), Err(LeaseError::Lost(_))));
        first.release(false).unwrap();
        assert_eq!(won(&mut standby).0.epoch(), Epoch(3));
    });
}

/// Goal: batches of every size are written whole, whatever the limit of rows in a statement.
#[test]
fn batches_of_every_size_are_written() {
    for_every_database(|source| {
        let mut holder = lease(source, "holder", databases::CALL_TIMEOUT);
        let fence = won(&mut holder).0;
        let mut opened = open(source, &fence);
        let store = opened.shares[0].as_mut();
        store.commit(Epoch(1), &publish("foo", Lifecycle::Create, 1, 1)).unwrap();
        let mut last = 1;
        for len in [1, 2, 63, 64, 65, 511, 512, 513, 1_200] {
            store.commit(Epoch(1), &publish("foo", Lifecycle::Keep, last + 1, last + len)).unwrap();
            last += len;
        }
        drop(opened);
        let few = SqlOptions { bulk_insert_limit: 10, ..databases::options(source.clone()) };
        let limits = StoreLimits::default();
        let mut opened = sql::open(&few, &limits, &fence, 1, world::now()).unwrap();
        let store = opened.shares[0].as_mut();
        store.commit(Epoch(1), &publish("foo", Lifecycle::Keep, last + 1, last + 135)).unwrap();
        let found = fetch(store, &ChannelName::from("foo"));
        let wanted: Vec<_> = (1..=last + 135).map(|n| message("foo", n)).collect();
        assert_eq!(found, wanted);
    });
}

/// Goal: no statement is longer than what the server takes, and a message that alone is too long is
/// refused alone: the role is for others.
#[test]
fn a_batch_larger_than_a_packet_is_written_in_parts() {
    for_every_database(|source| {
        let mut source = source.clone();
        source.switches.packet_bytes_max = Some(256 * 1024);
        let mut holder = lease(&source, "holder", databases::CALL_TIMEOUT);
        let fence = won(&mut holder).0;
        let mut opened = open(&source, &fence);
        let store = opened.shares[0].as_mut();
        let long = |channel: &str, n: u64, len: usize| {
            let mut message = message(channel, n);
            let mut proto = pb::MsgProto::decode(message.encoded.clone()).unwrap();
            proto.data = vec![b'x'; len].into();
            message.encoded = proto.encode_to_vec().into();
            message
        };
        let messages: Vec<_> = (1..=20).map(|n| long("foo", n, 60 * 1024)).collect();
        let foo = ChannelBatch { messages, ..part("foo", Lifecycle::Create) };
        let report = store.commit(Epoch(1), &batch(foo)).unwrap();
        assert_eq!(report.channels[0].refused, None);
        let too_long = ChannelBatch {
            messages: vec![long("foo", 21, 300 * 1024)],
            ..part("foo", Lifecycle::Keep)
        };
        let bar =
            ChannelBatch { messages: vec![message("bar", 1)], ..part("bar", Lifecycle::Create) };
        let both = Batch { channels: vec![too_long, bar], durable: true, ..Batch::default() };
        let report = store.commit(Epoch(1), &both).unwrap();
        let is_refused: Vec<bool> =
            report.channels.iter().map(|channel| channel.refused.is_some()).collect();
        assert_eq!(is_refused, [source.driver == Driver::Mysql, false]);
        assert_eq!(fetch(store, &ChannelName::from("bar")).len(), 1);
    });
}

/// Goal: a database, proxy or firewall that ends sessions which are silent costs no role.
#[test]
fn a_session_that_was_ended_while_nothing_was_under_way_costs_nothing() {
    for_every_database(|source| {
        let mut holder = lease(source, "holder", databases::CALL_TIMEOUT);
        let fence = won(&mut holder).0;
        let mut opened = open(source, &fence);
        let store = opened.shares[0].as_mut();
        store.commit(Epoch(1), &publish("foo", Lifecycle::Create, 1, 1)).unwrap();
        sessions::end_stores(connect(source).as_mut()).unwrap();
        store.commit(Epoch(1), &publish("foo", Lifecycle::Keep, 2, 2)).unwrap();
        sessions::end_stores(connect(source).as_mut()).unwrap();
        assert_eq!(fetch(store, &ChannelName::from("foo")).len(), 2);
        // A database that has lost the newest commit meanwhile is not taken for the same. A session
        // that is ended may go on for a moment, and then sees nothing of it.
        let is_noticed = (3..12).any(|next| {
            let statement = format!("DELETE FROM Messages WHERE seq={}", next - 1);
            connect(source).run(&statement).unwrap();
            sessions::end_stores(connect(source).as_mut()).unwrap();
            store.commit(Epoch(1), &publish("foo", Lifecycle::Keep, next, next)).is_err()
        });
        assert!(is_noticed || source.driver == Driver::Sqlite);
    });
}

/// Goal: nothing is acknowledged that a trigger or a policy of the database has kept from being
/// stored.
#[test]
fn a_row_that_the_database_does_not_store_is_not_acknowledged() {
    for_every_database(|source| {
        let none = "FOR EACH ROW EXECUTE FUNCTION nothing()";
        let triggers = |table: &str| match source.driver {
            Driver::Sqlite => vec![format!(
                "CREATE TRIGGER no_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(IGNORE); END"
            )],
            Driver::Postgres => vec![
                "CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql \
                 AS 'BEGIN RETURN NULL; END'"
                    .to_owned(),
                format!("CREATE TRIGGER no_{table} BEFORE INSERT ON {table} {none}"),
            ],
            // It has no such trigger.
            Driver::Mysql => Vec::new(),
        };
        let mut holder = lease(source, "holder", databases::CALL_TIMEOUT);
        let fence = won(&mut holder).0;
        let mut opened = open(source, &fence);
        let store = opened.shares[0].as_mut();
        store.commit(Epoch(1), &publish("foo", Lifecycle::Create, 1, 1)).unwrap();
        for table in ["Messages", "Channels"] {
            let statements = triggers(table);
            statements.iter().for_each(|statement| connect(source).run(statement).unwrap());
            let batch = match table {
                "Messages" => publish("foo", Lifecycle::Keep, 2, 3),
                _ => publish("bar", Lifecycle::Create, 1, 1),
            };
            let report = store.commit(Epoch(1), &batch).unwrap();
            let refused = report.channels[0].refused.clone().unwrap_or_default();
            let is_told = refused.contains("look for a trigger, a rule or a row policy");
            assert_eq!(is_told, !statements.is_empty(), "{table}: {refused}");
        }
    });
}

/// Goal: what a server cannot begin with is said in one line that tells what to do.
#[test]
fn what_is_missing_is_said() {
    for_every_database(|source| {
        let prepare = || sql::prepare(&databases::options(source.clone()), &StoreLimits::default());
        prepare().unwrap();
        connect(source).run("DROP TABLE StanbyTotals").unwrap();
        prepare().unwrap();
        assert_eq!(count(source, "SELECT COUNT(*) FROM StanbyTotals"), 0, "ours are made again");
        connect(source).run("DROP TABLE Clients").unwrap();
        let text = prepare().unwrap_err().to_string();
        assert!(text.contains("table Clients is missing: run: stanby sql init"), "{text}");
        connect(source).run("CREATE TABLE Clients (id INTEGER)").unwrap();
        let text = prepare().unwrap_err().to_string();
        assert!(text.contains("hbinbox"), "{text}");
    });
}

/// Goal: who has not made the database file yet is told the command that makes it.
#[test]
fn a_missing_file_names_the_command() {
    let source = Source::parse(Driver::Sqlite, "/no/such/store.db", &|_| None).unwrap();
    let prepared = sql::prepare(&databases::options(source), &StoreLimits::default());
    let text = prepared.unwrap_err().to_string();
    let command = "run: stanby sql init -sql_driver sqlite -sql_source /no/such/store.db";
    assert!(text.contains(command), "{text}");
}

/// Goal: what is wrong with a source is said without its password.
#[test]
fn a_wrong_source_is_refused() {
    let mut wrong = Vec::new();
    let parse = |driver, text: &str| Source::parse(driver, text, &|_| None).unwrap();
    wrong.push(parse(Driver::Sqlite, "/no/such/folder/store.db"));
    wrong.push(parse(Driver::Postgres, "user=me password=hush port=1 sslmode=disable"));
    wrong.push(parse(Driver::Mysql, "me:hush@tcp(127.0.0.1:1)/db"));
    if let Some(address) = databases::postgres_address() {
        wrong.push(parse(Driver::Postgres, &format!("{address} dbname=nosuch password=hush")));
    }
    if let Some(address) = databases::mysql_address() {
        let (_, server) = address.split_once('@').unwrap();
        wrong.push(parse(Driver::Mysql, &format!("me:hush@{server}/nosuch")));
    }
    for source in wrong {
        let prepared = sql::prepare(&databases::options(source.clone()), &StoreLimits::default());
        let text = prepared.unwrap_err().to_string();
        assert!(text.contains(&source.to_string()) || text.contains("/no/such/folder"), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }
}

// ---- Databases that the Go server wrote.

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores").join(name)
}

/// An empty database of its own.
fn empty(admin: &Source, name: &str) -> Source {
    let name = format!("{name}_{}", std::process::id());
    connect(admin).run(&format!("CREATE DATABASE {name}")).unwrap();
    Source { database: name, ..admin.clone() }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn text(value: &Json) -> &[u8] {
    value.as_str().unwrap().as_bytes()
}

/// Compares every fact of the manifest, and goes on writing.
fn check_recorded(source: &Source, manifest: &str) {
    let manifest: Json = serde_json::from_slice(&fs::read(data(manifest)).unwrap()).unwrap();
    let mut holder = lease(source, "holder", databases::CALL_TIMEOUT);
    let fence = won(&mut holder).0;
    let mut opened = open(source, &fence);
    let server = opened.recovered.server.clone().unwrap();
    assert_eq!(server.cluster_id, text(&manifest["server_info"]["ClusterID"]));
    let ids = |all: Vec<Vec<u8>>| all.into_iter().collect::<BTreeSet<_>>();
    let found = ids(opened.recovered.clients.iter().map(|client| client.id.to_vec()).collect());
    let clients = manifest["clients"].as_array().unwrap().iter();
    assert_eq!(found, ids(clients.map(|client| text(&client["id"]).to_vec()).collect()));
    let channels = manifest["channels"].as_object().unwrap();
    assert_eq!(opened.recovered.channels.len(), channels.len());
    for (name, expected) in channels {
        let key = ChannelName::from(name.as_str());
        let found = opened.recovered.channels.iter().find(|it| it.channel == key).unwrap().clone();
        let number = |key: &str| expected[key].as_u64().unwrap();
        assert_eq!(found.state.first.0, number("first"), "{name}");
        assert_eq!(found.state.last.0, number("last"), "{name}");
        assert_eq!(found.state.message_count, number("count"), "{name}");
        assert_eq!(found.state.byte_count, number("bytes"), "{name}");
        let messages = fetch(opened.shares[0].as_mut(), &key);
        let wanted = expected["messages"].as_array().unwrap();
        assert_eq!(messages.len(), wanted.len());
        for (record, wanted) in messages.iter().zip(wanted) {
            let message = pb::MsgProto::decode(record.encoded.clone()).unwrap();
            assert_eq!(record.sequence.0, wanted[0].as_u64().unwrap());
            assert_eq!(message.timestamp, wanted[1].as_i64().unwrap());
            assert_eq!(message.data.len() as u64, wanted[2].as_u64().unwrap());
            assert!(message.data.starts_with(format!("{name}:{}:", message.sequence).as_bytes()));
        }
        let wanted = expected["subscriptions"].as_array().unwrap();
        assert_eq!(found.subscriptions.len(), wanted.len(), "{name}");
        for (found, wanted) in found.subscriptions.iter().zip(wanted) {
            let state = &found.state;
            assert_eq!(state.id, wanted["id"].as_u64().unwrap());
            assert_eq!(state.client_id, text(&wanted["client_id"]));
            assert_eq!(state.durable_name, text(&wanted["durable_name"]));
            assert_eq!(state.q_group, text(&wanted["qgroup"]));
            assert_eq!(state.last_sent, wanted["last_sent"].as_u64().unwrap());
            let pending: Vec<u64> = found.pending.iter().map(|it| it.0).collect();
            let wanted = wanted["pending"].as_array().unwrap().iter();
            assert_eq!(pending, wanted.map(|it| it.as_u64().unwrap()).collect::<Vec<_>>());
        }
        let next = found.state.last.next().0;
        let more = publish(name, Lifecycle::Keep, next, next);
        let report = opened.shares[0].commit(fence.epoch(), &more).unwrap();
        assert_eq!(report.channels[0].refused, None);
    }
    opened.shares[0].close().unwrap();
    let again = open(source, &fence);
    for (before, after) in opened.recovered.channels.iter().zip(&again.recovered.channels) {
        assert_eq!(after.state.last, before.state.last.next());
        assert_eq!(after.state.message_count, before.state.message_count + 1);
        assert_eq!(after.subscriptions, before.subscriptions);
    }
}

/// Goal: a PostgreSQL database of the Go server opens as its manifest says.
#[test]
fn a_postgres_database_of_the_go_server_opens() {
    let Some(address) = databases::postgres_address() else { return };
    let text = format!("{address} dbname=postgres");
    let admin = Source::parse(Driver::Postgres, &text, &|_| None).unwrap();
    let source = empty(&admin, "recorded");
    let port = source.port.to_string();
    run(Command::new("psql")
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-h", &source.host, "-p", &port])
        .args(["-U", source.user.as_deref().unwrap(), "-d", &source.database, "-f"])
        .arg(data("h-postgres.sql")));
    check_recorded(&source, "h-postgres.json");
}

/// Goal: a MariaDB database of the Go server opens as its manifest says.
#[test]
fn a_mariadb_database_of_the_go_server_opens() {
    let Some(address) = databases::mysql_address() else { return };
    let admin = Source::parse(Driver::Mysql, &format!("{address}/mysql"), &|_| None).unwrap();
    let source = empty(&admin, "recorded");
    let port = source.port.to_string();
    run(Command::new("mariadb")
        .args(["--no-defaults", "-h", &source.host, "-P", &port, "-u"])
        .args([source.user.as_deref().unwrap(), &source.database])
        .stdin(File::open(data("h2-mariadb.sql")).unwrap()));
    check_recorded(&source, "h2-mariadb.json");
}
