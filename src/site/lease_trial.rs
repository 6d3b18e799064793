//! Proves by trial that the lease of a database excludes, with other processes that try for it.
//!
//! What is tried is the lease that a server takes (`sql_lock`) and the commit that a publish waits
//! for, in tables of the trial's own: in a schema of PostgreSQL, in a database of MySQL's, in a
//! file beside one of SQLite's. They go with it, so a server that runs there is not disturbed. The
//! other process (`answer`) is told what to do by lines, so that it may be on another machine.

mod tables;

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::base::epoch::{Fence, FenceError};
use crate::base::id::{ChannelName, Sequence};
use crate::base::limits;
use crate::base::record::{Batch, ChannelBatch, Lifecycle, MessageRecord};
use crate::base::time::Instant;
use crate::base::world;
use crate::config::{Config, StoreKind};
use crate::election::lease::{Attempt, Grant, Lease, LeaseError, Owner, Wake};
use crate::proto::pb;
use crate::site::database;
use crate::site::mounts::Weight;
use crate::site::sql_lock::SqlLease;
use crate::site::trial::{
    FREED_WITHIN, Fact, Other, Others, Place, Report, SEEN_SOON, SEEN_WITHIN, Step, shown,
};
use crate::store::source::unlimited;
use crate::store::sql::dialect::{Driver, SqlError};
use crate::store::sql::{self, SqlOptions, durability};
use crate::store::{OutcomeUnknown, StoreError};

use self::tables::Tables;

/// Leases for which both try at once, and messages that are committed.
const CLAIMS: usize = 10;
const COMMITS: usize = 50;
/// Bytes of such a message.
const MESSAGE_LEN: usize = 4_096;
/// Bytes of a line of the conversation.
const LINE_LEN_MAX: u64 = 4_096;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// What was named has no lease.
    #[error("it keeps all in memory, where there is no lock")]
    NoLease,
    /// The database says no.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// It cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lease fails.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A commit broke off.
    #[error(transparent)]
    Commit(#[from] OutcomeUnknown),
    /// The other process is out of reach.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Two machines have no file in common.
    #[error("a database of SQLite is of one machine: all members have to run there")]
    OneMachine,
    /// The other process cannot do what it is told.
    #[error("the other process: {0}")]
    Other(String),
}

/// Where the lease of a server is.
pub enum Ground {
    /// In files there, which `lock_trial` tries.
    Directory(PathBuf),
    /// In a database.
    Database,
}

/// Where the lease is of the server that `config` describes.
///
/// # Errors
/// [`TrialError::NoLease`].
pub fn ground(config: &Config) -> Result<Ground, TrialError> {
    let sql = &config.streaming.sql;
    let is_in_memory = sql.driver == "sqlite"
        && (sql.source.contains(":memory:") || sql.source.contains("mode=memory"));
    match (config.streaming.store, &config.streaming.directory) {
        (StoreKind::Sql, _) if is_in_memory => Err(TrialError::NoLease),
        (StoreKind::Sql, _) => Ok(Ground::Database),
        (StoreKind::File, Some(directory)) => Ok(Ground::Directory(directory.clone())),
        (StoreKind::File | StoreKind::Memory, _) => Err(TrialError::NoLease),
    }
}

/// One who tries for the lease, and what it has of it.
struct Member {
    lease: SqlLease,
    /// Of the epoch that it had last.
    fence: Option<Arc<dyn Fence>>,
    wake: Wake,
    woken: Receiver<()>,
}

impl Member {
    fn new(options: &SqlOptions, server_id: &str) -> Self {
        let owner = Owner::this_process(server_id, Vec::new(), None);
        let (source, timeout) = (options.source.clone(), options.call_timeout);
        let lease = SqlLease::new(source, timeout, owner, limits::STEAL_AFTER_DEFAULT);
        let (tell, woken): (SyncSender<()>, _) = mpsc::sync_channel(1);
        let wake: Wake = Arc::new(move || {
            // Who is told already hears of it.
            let _ = tell.try_send(());
        });
        Self { lease, fence: None, wake, woken }
    }

    /// Tries once.
    fn take(&mut self) -> Result<Option<Grant>, LeaseError> {
        Ok(match self.lease.try_take()? {
            Attempt::Won(grant) => {
                self.fence = Some(Arc::clone(&grant.fence));
                Some(grant)
            }
            Attempt::Held { .. } => None,
        })
    }

    /// Tries as a standby does, until it has it: it, and when that was; or what went wrong last.
    fn wait(&mut self, from: Instant, within: Duration) -> Result<(Grant, Instant), String> {
        loop {
            let missed = match self.take() {
                Ok(Some(grant)) => return Ok((grant, world::instant())),
                Ok(None) => "it is still held".to_owned(),
                Err(error) => error.to_string(),
            };
            let waited = world::instant().since(from);
            if within <= waited {
                return Err(format!("{missed} after {}", shown(waited)));
            }
            let pause = self.lease.wait(&self.wake).map_err(|error| error.to_string())?;
            // Whoever is not woken looks again all the same.
            let _ = self.woken.recv_timeout(pause);
        }
    }

    /// Whether a later epoch than the last of its own has begun.
    fn is_replaced(&self) -> Result<bool, FenceError> {
        match self.fence.as_ref().map(|fence| fence.check()) {
            None | Some(Ok(())) => Ok(false),
            Some(Err(FenceError::Superseded { .. })) => Ok(true),
            Some(Err(error)) => Err(error),
        }
    }
}

/// Does in the tables of a trial what the lines of `input` say, until they end.
///
/// # Errors
/// When `config` names no database, or input or output break; what goes wrong there is an answer.
pub fn answer(
    config: &Config,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<(), TrialError> {
    let given = database::options(config)?;
    let mut member = None;
    loop {
        let mut line = String::new();
        if io::Read::take(&mut input, LINE_LEN_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let said = match tables::own_name(name) {
            Some(name) => match of_trial(&mut member, name, &given) {
                Ok(member) => done(verb, member),
                Err(error) => Err(error.to_string()),
            },
            None => Err("that is no name of a trial".to_owned()),
        };
        let said = said.unwrap_or_else(|error| format!("error {error}"));
        writeln!(output, "{}", said.replace(['\n', '\r'], " "))?;
        output.flush()?;
    }
}

/// The one that tries in the tables of that name; another name makes another one.
fn of_trial<'a>(
    member: &'a mut Option<(String, Member)>,
    name: &str,
    given: &SqlOptions,
) -> Result<&'a mut Member, TrialError> {
    let (_, found) = match member.take().filter(|(known, _)| known == name) {
        Some(known) => member.insert(known),
        None => {
            let source = tables::of(&given.source, name);
            drop(tables::connect(&source, name, given.call_timeout)?);
            let options = SqlOptions { source, ..given.clone() };
            member.insert((name.to_owned(), Member::new(&options, &new_id()?)))
        }
    };
    Ok(found)
}

fn done(verb: &str, member: &mut Member) -> Result<String, String> {
    let said = match verb {
        "take" if member.take().map_err(|error| error.to_string())?.is_some() => "taken",
        "take" => "held",
        "release" => {
            member.lease.release(true).map_err(|error| error.to_string())?;
            "released"
        }
        "sees" if member.is_replaced().map_err(|error| error.to_string())? => "yes",
        "sees" => "no",
        _ => return Err("that is not understood: is it of another release?".to_owned()),
    };
    Ok(said.to_owned())
}

/// An identity that no other process has.
fn new_id() -> io::Result<String> {
    Ok(format!("trial-{:x}", world::entropy()?))
}

/// Tries the database of `config` with other processes, each made by `other`; `say` hears what is
/// tried.
///
/// # Errors
/// [`TrialError`], when nothing can be tried there.
pub fn run(
    config: &Config,
    is_remote: bool,
    other: Others<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Report, TrialError> {
    let given = database::options(config)?;
    if is_remote && given.source.driver == Driver::Sqlite {
        return Err(TrialError::OneMachine);
    }
    say("what is known of the database");
    let place = Place::Database { database: given.source.to_string() };
    let remarks = match given.source.driver {
        // It is not opened: that would give a file that is none of ours another journal.
        Driver::Sqlite => {
            tables::check_file(&given.source)?;
            vec![Fact { weight: Weight::Note, text: TrialError::OneMachine.to_string() }]
        }
        Driver::Postgres | Driver::Mysql => remarks(&given)?,
    };
    if remarks.iter().any(|fact| fact.weight == Weight::Unfit) {
        return Ok(Report { place, remarks, steps: Vec::new() });
    }
    let tables = Tables::make(&given.source, given.call_timeout, world::entropy()?)?;
    let options = SqlOptions { source: tables.own().clone(), ..given };
    let ours = Member::new(&options, &new_id()?);
    let mut trial = Trial { ours, options, name: tables.name().to_owned(), steps: Vec::new() };
    say("two processes that want one lease");
    if trial.exclusion(other)? && trial.hand_over(other, say)? {
        say("leases that both claim");
        trial.claims(other)?;
        say("how long a commit takes");
        trial.commits()?;
    }
    let steps = std::mem::take(&mut trial.steps);
    // Before its tables.
    drop(trial);
    tables.remove()?;
    Ok(Report { place, remarks, steps })
}

/// What weakens lease and commits there, or makes both worthless.
fn remarks(given: &SqlOptions) -> Result<Vec<Fact>, TrialError> {
    let mut one = sql::connect(&given.source, given.call_timeout)?;
    let mut other = sql::connect(&given.source, given.call_timeout)?;
    let warning = |text| Fact { weight: Weight::Warning, text };
    let lines = durability::warnings(&given.source, one.as_mut())?;
    let mut facts: Vec<Fact> = lines.into_iter().map(warning).collect();
    facts.extend(durability::standbys(one.as_mut())?.map(warning));
    if one.node().is_some() {
        facts.push(Fact { weight: Weight::Note, text: OF_A_CLUSTER.to_owned() });
    }
    if durability::are_one_session(one.as_mut(), other.as_mut())? {
        facts.push(Fact { weight: Weight::Unfit, text: POOLED.to_owned() });
    }
    Ok(facts)
}

const OF_A_CLUSTER: &str = "it is a Galera cluster, whose nodes know nothing of each other's locks: who dies at another \
     node is followed when it gave no sign of life for ft_steal_after";
const POOLED: &str = "two sessions are one of the server's: a pooler lies between (PgBouncer with \
     pool_mode = transaction or statement), and a lock that one member takes is as well the other's; \
     name the database itself, or set pool_mode = session";

struct Trial {
    ours: Member,
    options: SqlOptions,
    name: String,
    steps: Vec<Step>,
}

impl Trial {
    fn note(&mut self, what: &'static str, weight: Option<Weight>, seen: impl Into<String>) {
        self.steps.push(Step { what, weight, seen: seen.into() });
    }

    fn line(&self, verb: &str) -> String {
        format!("{verb} {}", self.name)
    }

    /// Who has the lease keeps all others out and loses it when it is killed; false where nothing
    /// else is worth a try.
    fn exclusion(&mut self, other: Others<'_>) -> Result<bool, TrialError> {
        const EXCLUDES: &str = "two processes exclude each other";
        const FREED: &str = "a killed process lets go";
        let take = self.line("take");
        let mut holder = other()?;
        let said = holder.ask(&take)?;
        if said != "taken" {
            let seen =
                format!("the other one cannot have the lease: {said}: is it another database?");
            self.note(EXCLUDES, Some(Weight::Unfit), seen);
            return Ok(false);
        }
        if self.ours.take()?.is_some() {
            let seen = "both have the lease at once: two members would be active at once";
            self.note(EXCLUDES, Some(Weight::Unfit), seen);
            return Ok(false);
        }
        // It waits in the lock by now.
        self.ours.lease.wait(&self.ours.wake)?;
        let killed_at = world::instant();
        holder.kill()?;
        match self.ours.wait(killed_at, FREED_WITHIN) {
            Ok((_, at)) => {
                let seen =
                    format!("the next one has its lease after {}", shown(at.since(killed_at)));
                self.note(FREED, None, seen);
            }
            Err(why) => {
                self.note(FREED, Some(Weight::Unfit), why);
                return Ok(false);
            }
        }
        match other()?.ask(&take)?.as_str() {
            "held" => self.note(EXCLUDES, None, "whoever has the lease keeps the other one out"),
            said => {
                let seen = format!("one is kept out, and the other one is not: {said}");
                self.note(EXCLUDES, Some(Weight::Unfit), seen);
                return Ok(false);
            }
        }
        self.ours.lease.release(true)?;
        Ok(true)
    }

    /// What one gives back the next one takes at once, and the former one sees its epoch; false
    /// where nothing else is worth a try.
    fn hand_over(
        &mut self,
        other: Others<'_>,
        say: &mut dyn FnMut(&str),
    ) -> Result<bool, TrialError> {
        const GIVEN: &str = "a lease that is given back is taken";
        let mut former = other()?;
        expect(former.as_mut(), &self.line("take"), "taken")?;
        expect(former.as_mut(), &self.line("sees"), "no")?;
        if self.ours.take()?.is_none() {
            self.ours.lease.wait(&self.ours.wake)?;
        }
        let given_at = world::instant();
        expect(former.as_mut(), &self.line("release"), "released")?;
        match self.ours.wait(given_at, FREED_WITHIN) {
            Ok((_, at)) => self.note(GIVEN, None, format!("after {}", shown(at.since(given_at)))),
            Err(why) => {
                self.note(GIVEN, Some(Weight::Unfit), why);
                return Ok(false);
            }
        }
        say("how soon an epoch is seen");
        self.sight(former.as_mut())?;
        self.ours.lease.release(true)?;
        Ok(true)
    }

    /// Whose epoch is over sees it, wherever it reads.
    fn sight(&mut self, former: &mut dyn Other) -> Result<(), TrialError> {
        const SEEN: &str = "a new epoch is seen";
        const LATE: &str = "an active that was replaced would hear of it so late";
        let begun_at = world::instant();
        loop {
            let said = former.ask(&self.line("sees"))?;
            let late = world::instant().since(begun_at);
            let (weight, seen) = match said.as_str() {
                "yes" if late <= SEEN_SOON => (None, format!("after {}", shown(late))),
                "yes" => (Some(Weight::Warning), format!("after {}: {LATE}", shown(late))),
                "no" if late < SEEN_WITHIN => {
                    thread::park_timeout(LOOK_PAUSE);
                    continue;
                }
                said => (Some(Weight::Unfit), format!("{said} after {}: {LATE}", shown(late))),
            };
            self.note(SEEN, weight, seen);
            return Ok(());
        }
    }

    /// Of two that try at once, one has it.
    fn claims(&mut self, other: Others<'_>) -> Result<(), TrialError> {
        const CLAIMED: &str = "of two that claim at once one has it";
        let mut rival = other()?;
        let (take, release) = (self.line("take"), self.line("release"));
        let (mut decided, mut last) = (0, String::new());
        for _ in 0..CLAIMS {
            let (ours, said) = thread::scope(|scope| {
                let said = scope.spawn(|| rival.ask(&take));
                let ours = self.ours.take();
                let gone = |_| Err(io::Error::other("it ended"));
                (ours, said.join().unwrap_or_else(gone))
            });
            let said = said?;
            match (ours, said.as_str()) {
                (Ok(Some(_)), "taken") => {
                    let seen = "both have it: two members would be active at once";
                    self.note(CLAIMED, Some(Weight::Unfit), seen);
                    return Ok(());
                }
                (Ok(Some(_)), _) => self.ours.lease.release(true)?,
                (_, "taken") => expect(rival.as_mut(), &release, "released")?,
                // Each met the other one, as in a cluster that undoes what conflicts.
                (ours, _) => {
                    let ours = ours.map_or_else(|error| error.to_string(), |_| "held".to_owned());
                    last = format!("here: {ours}; there: {said}");
                    continue;
                }
            }
            decided += 1;
        }
        match decided {
            0 => self.note(CLAIMED, Some(Weight::Unfit), format!("nobody has it: {last}")),
            times => self.note(CLAIMED, None, format!("{times} times")),
        }
        Ok(())
    }

    /// What a publish waits for: the store's own transaction, with a message.
    fn commits(&mut self) -> Result<(), TrialError> {
        const COMMITTED: &str = "a message is committed";
        let from = world::instant();
        let (grant, _) = self.ours.wait(from, FREED_WITHIN).map_err(LeaseError::NotNow)?;
        let epoch = grant.fence.epoch();
        let opened = sql::open(&self.options, &unlimited(), &grant.fence, 1, world::now())?;
        let mut shares = opened.shares;
        let mut times = Vec::with_capacity(COMMITS);
        for share in shares.iter_mut().take(1) {
            for number in 1..=COMMITS {
                let batch = message(number);
                let began_at = world::instant();
                let report = share.commit(epoch, &batch)?;
                times.push(world::instant().since(began_at));
                if let Some(why) = report.channels.iter().find_map(|it| it.refused.as_ref()) {
                    self.note(COMMITTED, Some(Weight::Unfit), why.to_string());
                    return Ok(());
                }
            }
            share.close()?;
        }
        self.ours.lease.release(true)?;
        times.sort_unstable();
        if let (Some(median), Some(worst)) = (times.get(times.len() / 2), times.last()) {
            let (median, worst) = (shown(*median), shown(*worst));
            let seen = format!("in {median} (median of {COMMITS}), {worst} at worst");
            self.note(COMMITTED, None, seen);
        }
        Ok(())
    }
}

/// What nothing but a fault keeps from being answered.
fn expect(other: &mut dyn Other, line: &str, wanted: &str) -> Result<(), TrialError> {
    match other.ask(line)? {
        said if said == wanted => Ok(()),
        said => Err(TrialError::Other(said)),
    }
}

/// A batch with one message; the first one makes the channel.
fn message(number: usize) -> Batch {
    let channel = ChannelName::from("trial");
    let sequence = Sequence(u64::try_from(number).unwrap_or(u64::MAX));
    let record = MessageRecord::of(&pb::MsgProto {
        sequence: sequence.0,
        subject: channel.to_bytes(),
        data: Bytes::from_static(&[b'x'; MESSAGE_LEN]),
        timestamp: world::now().wall.0,
        ..pb::MsgProto::default()
    });
    let lifecycle = if number == 1 { Lifecycle::Create } else { Lifecycle::Keep };
    let part =
        ChannelBatch { channel, lifecycle, messages: vec![record], ..ChannelBatch::default() };
    Batch { channels: vec![part], durable: true, ..Batch::default() }
}
