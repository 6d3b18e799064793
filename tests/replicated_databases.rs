//! A cluster of databases (Galera) in which two members believe, each at a node of its own.
//!
//! `tests/support/databases.sh --replicated cargo test --test replicated_databases`. With
//! `--features planted` it shows too that a fence which is only read loses what was acknowledged,
//! and what it costs to change a row instead. `tests/replicated_faults` has the faults of nodes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "real databases take real time")]

#[path = "support/databases.rs"]
mod databases;
#[path = "support/stores.rs"]
mod stores;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence};
use stanby::base::id::{ChannelName, Sequence};
#[cfg(feature = "planted")]
use stanby::base::planted::{self, Bug};
use stanby::base::record::{Batch, ChannelBatch, Lifecycle};
use stanby::base::world;
use stanby::election::lease::{Attempt, Lease, Owner};
use stanby::site::sql_lock::SqlLease;
use stanby::store::sql::dialect::{Dialect, Driver};
use stanby::store::sql::dsn::Source;
use stanby::store::sql::{self, SqlOptions, durability, schema};
use stanby::store::{Opened, Store};

/// Longer than anything takes that is not broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// After so long without a sign of life a member is followed.
const STEAL_AFTER: Duration = Duration::from_secs(1);
/// How long a node lags behind the others.
const LAG: Duration = Duration::from_secs(4);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

fn source(port: u16, database: &str) -> Source {
    let text = format!("root@tcp(127.0.0.1:{port})/{database}");
    Source::parse(Driver::Mysql, &text, &|_| None).unwrap()
}

fn connect(port: u16, database: &str) -> Box<dyn Dialect> {
    sql::connect(&source(port, database), CALL_TIMEOUT).unwrap()
}

/// A database of its own with all tables, in a cluster of these nodes.
fn made(ports: &[u16], name: &str) -> String {
    let name = format!("{name}_{}", std::process::id());
    connect(ports[0], "mysql").run(&format!("CREATE DATABASE {name}")).unwrap();
    let mut dialect = connect(ports[0], &name);
    schema::init(dialect.as_mut()).unwrap();
    assert_eq!(schema::check(dialect.as_mut()).unwrap(), Vec::<String>::new());
    name
}

/// A member at one node.
struct Member {
    options: SqlOptions,
    lease: SqlLease,
    open: Option<(Arc<dyn Fence>, Opened)>,
}

impl Member {
    fn new(name: &str, port: u16, database: &str) -> Self {
        let options =
            SqlOptions { call_timeout: CALL_TIMEOUT, ..databases::options(source(port, database)) };
        let owner = Owner { server_id: name.to_owned(), silence_max_ms: 1_000, ..Owner::default() };
        let lease = SqlLease::new(options.source.clone(), CALL_TIMEOUT, owner, STEAL_AFTER);
        Self { options, lease, open: None }
    }

    /// Takes the lease, with `meanwhile` before each try, and recovers; the last message found.
    fn take_over(&mut self, mut meanwhile: impl FnMut()) -> Sequence {
        let began = Instant::now();
        let grant = loop {
            meanwhile();
            match self.lease.try_take() {
                Ok(Attempt::Won(grant)) => break grant,
                Ok(Attempt::Held { .. }) => {}
                // Another transaction is in the way.
                Err(error) => eprintln!("{error}"),
            }
            assert!(began.elapsed() < PATIENCE, "the lease is taken");
            thread::park_timeout(Duration::from_millis(20));
        };
        let limits = StoreLimits::default();
        let opened = sql::open(&self.options, &limits, &grant.fence, 1, world::now()).unwrap();
        let last = opened.recovered.channels.first().map(|it| it.state.last);
        self.open = Some((grant.fence, opened));
        last.unwrap_or_default()
    }

    fn epoch(&self) -> Epoch {
        self.open.as_ref().unwrap().0.epoch()
    }

    /// Whether a message is acknowledged.
    fn publishes(&mut self, sequence: u64) -> bool {
        let epoch = self.epoch();
        let share = &mut self.open.as_mut().unwrap().1.shares[0];
        commit(share.as_mut(), epoch, sequence..=sequence)
    }
}

fn commit(share: &mut dyn Store, epoch: Epoch, range: std::ops::RangeInclusive<u64>) -> bool {
    let lifecycle = if *range.start() == 1 { Lifecycle::Create } else { Lifecycle::Keep };
    let part = ChannelBatch {
        channel: ChannelName::from("c"),
        lifecycle,
        messages: range.map(|sequence| stores::message("c", sequence, "x")).collect(),
        ..ChannelBatch::default()
    };
    let batch = Batch { channels: vec![part], durable: true, ..Batch::default() };
    match share.commit(epoch, &batch) {
        Ok(report) => report.channels.iter().all(|outcome| outcome.refused.is_none()),
        Err(error) => {
            eprintln!("not acknowledged: {error}");
            false
        }
    }
}

/// Makes the first node do late what the others have done.
struct Lag {
    ports: Vec<u16>,
    database: String,
}

impl Lag {
    fn new(ports: &[u16], database: &str) -> Self {
        let table = "CREATE TABLE late (id INT AUTO_INCREMENT PRIMARY KEY, x INT)";
        connect(ports[0], database).run(table).unwrap();
        Self { ports: ports.to_vec(), database: database.to_owned() }
    }

    /// A node does what the cluster commits in its order, and waits for a table that is locked so.
    fn begin(&self) {
        let mut holder = connect(self.ports[0], &self.database);
        holder.run("FLUSH TABLES late WITH READ LOCK").unwrap();
        thread::spawn(move || {
            thread::park_timeout(LAG);
            drop(holder);
        });
        connect(self.ports[2], &self.database).run("INSERT INTO late (x) VALUES (1)").unwrap();
    }
}

/// How a former active fares that is with a node which lags behind the take-over: whether it had a
/// message acknowledged that its successor does not know of.
fn loses(ports: &[u16], name: &str) -> bool {
    let database = made(ports, name);
    let lag = Lag::new(ports, &database);
    let mut old = Member::new("old", ports[0], &database);
    old.take_over(|| {});
    assert!(old.publishes(1));
    let mut new = Member::new("new", ports[1], &database);
    let began = Instant::now();
    let mut late_since = None;
    let found = new.take_over(|| {
        if late_since.is_none() && STEAL_AFTER.mul_f64(0.8) <= began.elapsed() {
            lag.begin();
            late_since = Some(Instant::now());
        }
    });
    assert_eq!(found, Sequence(1));
    assert!(late_since.is_some_and(|since| since.elapsed() < LAG), "the node lags still");
    let is_acknowledged = old.publishes(2);
    let is_served = new.publishes(2);
    assert!(is_acknowledged || is_served, "the successor serves");
    is_acknowledged
}

/// Goal: who does not know yet that it was replaced acknowledges nothing, though its node still
/// has the old epoch and nobody else's lock.
#[test]
fn a_former_active_at_a_node_that_lags_acknowledges_nothing() {
    let Some(ports) = databases::galera_ports() else { return };
    assert!(!loses(&ports, "held"));
}

/// Goal: the same finds the bug for which the row is changed in each transaction.
#[cfg(feature = "planted")]
#[test]
fn a_fence_that_is_only_read_loses_what_was_acknowledged() {
    let Some(ports) = databases::galera_ports() else { return };
    planted::plant(Some(Bug::FenceOnlyRead));
    let is_lost = loses(&ports, "lost");
    planted::plant(None);
    assert!(is_lost, "it was acknowledged, and the successor had not found it");
}

/// What the change of a row costs beside a read with a lock, in publishes a second.
#[cfg(feature = "planted")]
#[test]
fn what_the_change_of_a_row_costs() {
    let Some(ports) = databases::galera_ports() else { return };
    for (size, count) in [(1, 300), (100, 60)] {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..6 {
            let is_only_read = round % 2 == 1;
            let database = made(&ports, &format!("cost{size}_{round}"));
            planted::plant(is_only_read.then_some(Bug::FenceOnlyRead));
            let mut member = Member::new("one", ports[0], &database);
            member.take_over(|| {});
            assert!(member.publishes(1));
            let epoch = member.epoch();
            let share = &mut member.open.as_mut().unwrap().1.shares[0];
            let began = Instant::now();
            for batch in 0..count {
                let first = 2 + batch * size;
                assert!(commit(share.as_mut(), epoch, first..=first + size - 1));
            }
            let messages = u32::try_from(size * count).unwrap();
            rates[usize::from(is_only_read)]
                .push(f64::from(messages) / began.elapsed().as_secs_f64());
            planted::plant(None);
        }
        let median = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let [changed, read] = rates.each_mut().map(median);
        println!(
            "batches of {size}: {changed:.0} messages/s with the row changed, {read:.0} with a \
             read alone: {:.2}",
            changed / read
        );
    }
}

/// Goal: in a cluster that is as it should be nothing is warned of, and what is missing is.
#[test]
fn what_a_cluster_lacks_is_said() {
    let Some(ports) = databases::galera_ports() else { return };
    let database = made(&ports, "lacks");
    let all: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let text = format!("root@tcp({})/{database}", all.join(","));
    let whole = Source::parse(Driver::Mysql, &text, &|_| None).unwrap();
    let mut dialect = sql::connect(&whole, CALL_TIMEOUT).unwrap();
    assert!(dialect.node().is_some());
    assert_eq!(durability::warnings(&whole, dialect.as_mut()).unwrap(), Vec::<String>::new());
    let one = source(ports[0], &database);
    dialect.run("ALTER TABLE Clients DROP PRIMARY KEY").unwrap();
    let lines = durability::warnings(&one, dialect.as_mut()).unwrap().join("\n");
    assert!(lines.contains("the source names one node"), "{lines}");
    assert!(lines.contains("table Clients has no primary key"), "{lines}");
}

/// Goal: a lock that is free at one node says nothing of a holder that is with another one; its
/// sign of life does.
#[test]
fn a_member_at_another_node_waits_for_the_sign_of_life() {
    let Some(ports) = databases::galera_ports() else { return };
    let database = made(&ports, "waits");
    let mut old = Member::new("old", ports[0], &database);
    old.take_over(|| {});
    let mut new = Member::new("new", ports[1], &database);
    let began = Instant::now();
    while began.elapsed() < STEAL_AFTER * 2 {
        old.lease.confirm().unwrap();
        let Attempt::Held { why, .. } = new.lease.try_take().unwrap() else {
            panic!("the holder lives");
        };
        assert!(why.contains("the lock of another node"), "{why}");
        thread::park_timeout(Duration::from_millis(50));
    }
    // One that gives it back is followed at once.
    old.open = None;
    old.lease.release(true).unwrap();
    assert!(matches!(new.lease.try_take().unwrap(), Attempt::Won(_)));
}
