//! Faults of the database in each call of a scenario: what is answered is what is there.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::*;
use crate::base::channel_limits::{ChannelLimits, StoreLimits};
use crate::base::id::SubscriptionId;
use crate::store::sql::dialect::{Driver, Row};
use crate::store::sql::dsn::Source;
use crate::store::sql::lost::Remembered;
use crate::store::sql::{self, SqlOptions};

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The call fails with this class, and does nothing.
    Fails(Failure),
    /// A COMMIT has an unknown outcome: it took effect, or did not.
    Unknown { is_kept: bool },
}

/// Which call fails, and how many there were.
#[derive(Debug, Default)]
struct Plan {
    calls: usize,
    commits: Vec<usize>,
    fault: Option<(usize, Fault)>,
}

/// SQLite, but for one fault.
struct Faulty {
    inner: Option<Box<dyn Dialect>>,
    plan: Arc<Mutex<Plan>>,
}

impl Faulty {
    fn call<T>(
        &mut self,
        is_commit: bool,
        call: impl FnOnce(&mut dyn Dialect) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let mut plan = self.plan.lock().unwrap();
        let number = plan.calls;
        plan.calls += 1;
        if is_commit {
            plan.commits.push(number);
        }
        let fault = plan.fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        let gone = SqlError { failure: Failure::Unreachable, text: "gone".to_owned() };
        let inner = self.inner.as_mut().ok_or(gone)?;
        match fault {
            None => call(inner.as_mut()),
            Some(Fault::Fails(failure)) => {
                if failure == Failure::Unreachable {
                    self.inner = None;
                } else if is_commit {
                    inner.run("ROLLBACK").unwrap();
                }
                Err(SqlError { failure, text: format!("{failure:?}") })
            }
            Some(Fault::Unknown { is_kept }) => {
                if is_kept {
                    call(inner.as_mut())?;
                }
                self.inner = None;
                Err(SqlError::of_unknown_commit(&"no answer"))
            }
        }
    }
}

impl Dialect for Faulty {
    fn driver(&self) -> Driver {
        Driver::Sqlite
    }
    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
        self.call(false, |inner| inner.execute(statement, values))
    }
    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        self.call(false, |inner| inner.query(statement, values))
    }
    fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
        self.call(false, |inner| inner.prepare(statement))
    }
    fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        // What comes after a fault is none of its own.
        if let (Some(inner), "ROLLBACK") = (&mut self.inner, statement) {
            return inner.run(statement);
        }
        self.call(false, |inner| inner.run(statement))
    }
    fn commit(&mut self) -> Result<(), SqlError> {
        self.call(true, |inner| inner.commit())
    }
}

fn connect(path: &Path) -> Box<dyn Dialect> {
    let source = Source::parse(Driver::Sqlite, path.to_str().unwrap(), &|_| None).unwrap();
    sql::connect(&source, Duration::from_secs(5)).unwrap()
}

/// A database with all tables in which epoch 1 has begun.
fn database(folder: &Path) -> PathBuf {
    let path = folder.join("store.db");
    std::fs::File::create(&path).unwrap();
    let mut dialect = connect(&path);
    schema::init(dialect.as_mut()).unwrap();
    dialect.run("INSERT INTO StanbyEpoch (epoch, lockid, owner) VALUES (1, 'x', 'x')").unwrap();
    dialect.run("INSERT INTO StoreLock (id, tick) VALUES ('x', 1)").unwrap();
    path
}

fn options(path: &Path) -> SqlOptions {
    SqlOptions {
        source: Source::parse(Driver::Sqlite, path.to_str().unwrap(), &|_| None).unwrap(),
        no_caching: true,
        connections_max: 0,
        bulk_insert_limit: 0,
        call_timeout: Duration::from_millis(500),
        remembered: Remembered::default(),
    }
}

fn share(path: &Path, plan: &Arc<Mutex<Plan>>) -> Share {
    let messages_max = 3;
    let global = ChannelLimits { messages_max, ..StoreLimits::default().global };
    let limits = StoreLimits { global, ..StoreLimits::default() }.resolve().unwrap();
    let ctx = Context {
        options: options(path),
        limits,
        epoch: Epoch(1),
        channel_id_max: 0.into(),
        subscription_id_max: 0.into(),
    };
    let dialect = Faulty { inner: Some(connect(path)), plan: Arc::clone(plan) };
    Share::new(Arc::new(ctx), Box::new(dialect), Fencing::new(0), Vec::new(), Vec::new())
}

fn message(sequence: u64) -> MessageRecord {
    let timestamp = WallTime(i64::try_from(sequence).unwrap());
    MessageRecord {
        sequence: Sequence(sequence),
        timestamp,
        encoded: bytes::Bytes::from_static(b"x"),
    }
}

/// Which sequences the database holds of a channel.
fn stored(path: &Path, channel: &str) -> Vec<u64> {
    let statement = "SELECT m.seq FROM Messages m JOIN Channels c ON c.id=m.id WHERE c.name=? \
                     ORDER BY m.seq";
    let rows = connect(path).query(statement, &[channel.into()]).unwrap();
    rows.iter().map(|row| row[0].unsigned()).collect()
}

/// How a run ended.
#[derive(Debug, Default)]
struct Run {
    refused: usize,
    /// Nobody was answered from here on.
    has_stepped_down: bool,
    /// Up to where each channel was acknowledged.
    acked: BTreeMap<String, u64>,
    calls: usize,
    commits: Vec<usize>,
}

fn batch(first: &BTreeMap<String, u64>, round: u64) -> Batch {
    let part = |(name, last): (&String, &u64)| {
        let state = spb::SubState { id: 1, ..spb::SubState::default() };
        let id = SubscriptionId(1);
        let subscriptions = match round {
            0 if name == "a" => vec![SubscriptionWrite::Create(state.into())],
            _ if name == "a" => vec![
                SubscriptionWrite::Sent(id, Sequence(round)),
                SubscriptionWrite::Acked(id, Sequence(round)),
            ],
            _ => Vec::new(),
        };
        ChannelBatch {
            channel: ChannelName::from(name.as_str()),
            lifecycle: if *last == 0 { Lifecycle::Create } else { Lifecycle::Keep },
            messages: (last + 1..=last + 2).map(message).collect(),
            subscriptions,
            ..ChannelBatch::default()
        }
    };
    let channels = first.iter().map(part).collect();
    Batch { channels, durable: true, ..Batch::default() }
}

/// Three batches over two channels, with limits that remove and maintenance in between. After each
/// the answer is compared with the rows.
fn run(path: &Path, fault: Option<(usize, Fault)>) -> Run {
    let plan = Arc::new(Mutex::new(Plan { fault, ..Plan::default() }));
    let mut share = share(path, &plan);
    let acked = ["a", "b"].map(|name| (name.to_owned(), 0)).into();
    let mut run = Run { acked, ..Run::default() };
    for round in 0..3 {
        let batch = batch(&run.acked, round);
        match share.commit(Epoch(1), &batch) {
            Ok(report) => {
                for outcome in &report.channels {
                    let name = outcome.channel.to_string();
                    let last = run.acked.get_mut(&name).unwrap();
                    let found = stored(path, &name).last().copied().unwrap_or(0);
                    match &outcome.refused {
                        None => *last += 2,
                        Some(_) => run.refused += 1,
                    }
                    assert_eq!(found, *last, "{fault:?}: {name} after {outcome:?}");
                    assert_eq!(outcome.state.last.0, *last, "{fault:?}: {name}");
                }
            }
            Err(error) => {
                for (name, last) in &run.acked {
                    let found = stored(path, name).last().copied().unwrap_or(0);
                    assert!(*last <= found, "{fault:?}: {name}");
                    if error.remedy() == Remedy::Refuse {
                        assert_eq!(*last, found, "{fault:?}: {name} was refused");
                    }
                }
                if error.remedy() != Remedy::Refuse {
                    assert_eq!(error.remedy(), Remedy::StepDown, "{fault:?}: {error}");
                    run.has_stepped_down = true;
                    break;
                }
                run.refused += 2;
            }
        }
        // A second after the last.
        let at = Instant(1_000_000_000 * (round + 1));
        let maintained = share.maintain(Now { at, wall: WallTime(10) });
        if maintained.is_err_and(|error| error.remedy() == Remedy::StepDown) {
            run.has_stepped_down = true;
            break;
        }
    }
    drop(share);
    let plan = plan.lock().unwrap();
    (run.calls, run.commits) = (plan.calls, plan.commits.clone());
    run
}

/// Goal: whatever fails in whichever call, a channel's part of a commit is answered in two ways:
/// all of it is there, or nothing; or nobody is answered. What tidies up later fails no commit.
#[test]
fn what_is_answered_is_what_is_there_whichever_call_fails() {
    let folder = tempfile::tempdir().unwrap();
    let made = database(folder.path());
    let number = std::cell::Cell::new(0);
    let run_anew = |fault| {
        number.set(number.get() + 1);
        let path = folder.path().join(format!("{}.db", number.get()));
        std::fs::copy(&made, &path).unwrap();
        run(&path, fault)
    };
    let clean = run_anew(None);
    assert_eq!((clean.refused, clean.has_stepped_down), (0, false));
    assert!(clean.calls > 30 && clean.commits.len() >= 5, "{clean:?}");
    let mut seen = BTreeMap::new();
    for call in 0..clean.calls {
        for failure in [Failure::Busy, Failure::Full, Failure::Unreachable, Failure::BadValue] {
            let ended = run_anew(Some((call, Fault::Fails(failure))));
            if failure == Failure::Busy {
                assert_eq!(ended.refused, 0, "call {call}: a conflict is tried again");
            }
            let is_gone = failure == Failure::Unreachable;
            assert!(is_gone || !ended.has_stepped_down, "call {call}: {failure:?}");
            *seen.entry(format!("{failure:?}")).or_insert(0) += ended.refused;
        }
    }
    for call in clean.commits {
        for is_kept in [false, true] {
            let ended = run_anew(Some((call, Fault::Unknown { is_kept })));
            assert!(ended.has_stepped_down, "commit {call}: nobody knows");
        }
    }
    // A value that is to blame is looked for part by part, and this one is not found again.
    assert!(seen["Full"] > 0 && seen["BadValue"] == 0, "{seen:?}");
}

/// Goal: a number that does not follow the last is refused with both numbers, and a row that is
/// there already ends the role: neither is passed over.
#[test]
fn a_sequence_that_does_not_follow_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path());
    let mut share = share(&path, &Arc::default());
    let last = |last: u64| BTreeMap::from([("b".to_owned(), last)]);
    share.commit(Epoch(1), &batch(&last(0), 0)).unwrap();
    for (wrong, text) in [(1, "expected message 3, not 2"), (3, "expected message 3, not 4")] {
        let report = share.commit(Epoch(1), &batch(&last(wrong), 1)).unwrap();
        assert_eq!(report.channels[0].refused.as_deref(), Some(text));
    }
    assert_eq!(stored(&path, "b"), [1, 2]);
    let intruder = "INSERT INTO Messages (id, seq, timestamp, size, data) VALUES (1, 3, 3, 1, 'y')";
    connect(&path).run(intruder).unwrap();
    let error = share.commit(Epoch(1), &batch(&last(2), 1)).unwrap_err();
    assert_eq!(error.remedy(), Remedy::StepDown, "{error}");
    assert_eq!(stored(&path, "b"), [1, 2, 3]);
}
