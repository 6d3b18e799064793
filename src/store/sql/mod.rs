//! Store over a Dialect: the Go server's tables in SQLite, PostgreSQL, MySQL and MariaDB.
//!
//! Reading order: `dialect` (the seam), `dsn`, `schema`, `pending` (rows of pending sets, without
//! I/O), `recovery`, `channel`, `attempts`, `fence`, `share` (commits). Tables and columns are the
//! Go server's (spec stores, section 8); three tables of our own hold the epoch, its holder and
//! sums that spare a take-over the scan of messages, a fourth is the fence of a cluster, and a
//! fifth holds counts of deliveries where there is a limit on them.
//!
//! Each write transaction holds the epoch (`fence`): a later one can only begin before it, which
//! ends it, or after it.

mod attempts;
mod channel;
mod deliveries;
pub mod dialect;
pub mod dsn;
pub mod durability;
pub(crate) mod fence;
mod galera;
pub mod lost;
mod messages;
mod mysql;
mod mysql_login;
mod noting;
mod pending;
mod postgres;
mod postgres_login;
mod postgres_numeric;
mod postgres_tls;
mod purging;
mod reading;
mod recovery;
mod renewing;
mod roots;
pub mod schema;
pub mod sessions;
mod share;
pub(in crate::store) mod source;
mod sqlite;
mod sqlite_files;
mod texts;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::thread;
use std::time::Duration;

use crate::base::channel_limits::{ResolvedLimits, StoreLimits};
use crate::base::epoch::{Epoch, Fence};
use crate::base::files;
use crate::base::record::RecoveredState;
use crate::base::time::Now;
use crate::proto::spb;
use crate::store::{Action, Notice, Opened, Store, StoreError, progress};

use self::dialect::{Dialect, Driver, Failure, SqlError};
use self::dsn::Source;
use self::fence::Fencing;
use self::lost::Remembered;
use self::mysql::Mysql;
use self::noting::Noting;
use self::postgres::Postgres;
use self::recovery::{Found, Recovery};
use self::renewing::Renewing;
use self::share::Share;
use self::sqlite::Sqlite;

/// Longest statement of a recovery: sums over a channel that another server wrote.
const RECOVERY_CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a recovery begins a transaction anew that another one is in the way of.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(2);
/// Connections beside one for each loop: the lock's. (A standby has two: one looks, one waits.)
const OTHER_CONNECTIONS: usize = 1;

/// Options of the SQL store (spec stores, 8.13).
#[derive(Clone, Debug)]
pub struct SqlOptions {
    /// Where the database is.
    pub source: Source,
    /// Whether pending sets are written with each commit, not up to a second later.
    pub no_caching: bool,
    /// Connections that may be open; 0 = no limit. More are opened all the same, and said.
    pub connections_max: usize,
    /// Rows of one `INSERT`; below 5 we choose.
    pub bulk_insert_limit: usize,
    /// Longest wait for an answer; shorter than the lease bound.
    pub call_timeout: Duration,
    /// What this process acknowledged before; the same for all its activations.
    pub remembered: Remembered,
}

impl SqlOptions {
    /// The wait for an answer: ours, or the source's if that is shorter.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.source.call_timeout.map_or(self.call_timeout, |it| it.min(self.call_timeout))
    }
}

/// Opens one connection.
///
/// # Errors
/// [`SqlError`]; its text names the database, without the password.
pub fn connect(source: &Source, call_timeout: Duration) -> Result<Box<dyn Dialect>, SqlError> {
    let dialect: Box<dyn Dialect> = match source.driver {
        Driver::Sqlite => {
            let path = Path::new(&source.database);
            Box::new(Sqlite::open(path, &source.journal, call_timeout)?)
        }
        Driver::Postgres => Box::new(Postgres::connect(source, call_timeout)?),
        Driver::Mysql => Box::new(Mysql::connect(source, call_timeout)?),
    };
    progress::note();
    Ok(Box::new(Noting(dialect)))
}

/// Makes the file of an SQLite database that is not there; other databases are made by their
/// administrators.
///
/// # Errors
/// [`SqlError`] when it cannot be made.
pub fn make(source: &Source) -> Result<(), SqlError> {
    if source.driver != Driver::Sqlite {
        return Ok(());
    }
    let path = Path::new(&source.database);
    let opened = files::open(path, files::Access::Append(0o666), files::Links::Followed);
    opened.map(drop).map_err(|error| SqlError::of_connection(Failure::Denied, source, &error))
}

/// Pause before a start looks again at tables that it was not let at.
const PREPARE_PAUSE: Duration = Duration::from_millis(250);

/// What is done before the lease is held: looks whether database and tables are there. Lines for
/// the operator about what makes a commit there less than durable. A table that somebody has
/// locked, and a session that is lost meanwhile, end no start: they are said, and waited for.
///
/// # Errors
/// [`StoreError::Unusable`] with a line that says what to do.
pub fn prepare(options: &SqlOptions, limits: &StoreLimits) -> Result<Vec<Notice>, StoreError> {
    let unusable = |error: SqlError| StoreError::Unusable(error.to_string());
    let limits = limits.resolve().map_err(|error| StoreError::Unusable(error.to_string()))?;
    let counts = limits.counts_deliveries();
    let mut said = String::new();
    let mut was_there = false;
    loop {
        let error = match connect(&options.source, options.timeout()) {
            Ok(mut dialect) => {
                was_there = true;
                match prepare_by(options, counts, dialect.as_mut()) {
                    Ok(notices) => return Ok(notices),
                    Err(error) => error,
                }
            }
            // As with the reference, one that is not there at all ends the start.
            Err(error) if !was_there && error.failure != Failure::Busy => {
                return Err(unusable(error));
            }
            Err(error) => error,
        };
        if !error.failure.passes() {
            return Err(unusable(error));
        }
        let text = error.to_string();
        if said != text {
            log::warn!(target: crate::log::STREAM, "{text}; the start waits, and tries again");
            said = text;
        }
        thread::park_timeout(PREPARE_PAUSE);
    }
}

fn prepare_by(
    options: &SqlOptions,
    counts_deliveries: bool,
    dialect: &mut dyn Dialect,
) -> Result<Vec<Notice>, SqlError> {
    schema::prepare(dialect)?;
    if counts_deliveries {
        schema::prepare_deliveries(dialect)?;
    }
    schema::check_rights(dialect)?;
    let warnings = durability::warnings(&options.source, dialect)?;
    Ok(warnings.into_iter().map(|text| Notice { is_warning: true, text }).collect())
}

/// The server's record of a store that another process may be writing; `None` if it cannot be told.
#[must_use]
pub fn peek_server(options: &SqlOptions) -> Option<spb::ServerInfo> {
    let mut dialect = connect(&options.source, options.timeout()).ok()?;
    recovery::server(dialect.as_mut()).ok()?
}

/// What all shares of one store use.
struct Context {
    options: SqlOptions,
    limits: ResolvedLimits,
    epoch: Epoch,
    /// Highest number of a channel row that was ever used.
    channel_id_max: AtomicI64,
    /// Highest subscription id of the whole database.
    subscription_id_max: AtomicU64,
}

/// Recovers the store under `fence`, whose epoch was claimed before, and gives a share for each of
/// `loops`.
///
/// # Errors
/// [`StoreError::Corrupt`] and [`StoreError::Unusable`] with the reference's text where it has
/// one, [`StoreError::Io`], [`StoreError::Fenced`].
pub fn open(
    options: &SqlOptions,
    limits: &StoreLimits,
    fence: &Arc<dyn Fence>,
    loops: u16,
    now: Now,
) -> Result<Opened, StoreError> {
    let limits = limits.resolve().map_err(|error| StoreError::Unusable(error.to_string()))?;
    let to_open = |error: SqlError| error.into_store_error(Action::Open);
    let loops = loops.max(1);
    let epoch = fence.epoch();
    let known = options.remembered.known();
    let recovery = Recovery { limits: &limits, epoch, now, known: &known };
    let (found, dialects) = thread::scope(|scope| {
        // Their hand-shakes need not wait for the recovery.
        let connecting = progress::help(scope, move || connect_shares(options, epoch, loops));
        let found = connect(&options.source, RECOVERY_CALL_TIMEOUT)
            .map_err(to_open)
            .and_then(|mut dialect| recovery.run(dialect.as_mut()));
        let dialects = match connecting {
            Ok(connecting) => progress::of_helper(connecting),
            Err(_) => connect_shares(options, epoch, loops),
        };
        Ok::<_, StoreError>((found?, dialects.map_err(to_open)?))
    })?;
    let ctx = Arc::new(Context {
        options: options.clone(),
        limits,
        epoch,
        channel_id_max: AtomicI64::new(found.channel_id_max),
        subscription_id_max: AtomicU64::new(found.subscription_id_max),
    });
    let recovered = RecoveredState {
        server: found.server,
        clients: found.clients,
        channels: found.channels.iter().map(|it| it.recovered.clone()).collect(),
    };
    let mut notices = notices(options, loops);
    for Found { recovered, gap, .. } in &found.channels {
        options.remembered.count(gap.map_or(0, |gap| gap.lost_count()));
        notices.extend(gap.and_then(|gap| gap.notice(&recovered.channel)));
    }
    let mut by_loop: Vec<Vec<Found>> = Vec::new();
    by_loop.resize_with(usize::from(loops), Vec::new);
    for channel in found.channels {
        let home = crate::base::placement::of_channel(&channel.recovered.channel, loops).index();
        by_loop[home].push(channel);
    }
    let mut doomed = found.doomed;
    let mut shares: Vec<Box<dyn Store>> = Vec::new();
    for ((channels, mut dialect), worker) in by_loop.into_iter().zip(dialects).zip(0..) {
        // The recovery may have been with another node.
        galera::catch_up(dialect.as_mut()).map_err(to_open)?;
        let (doomed, fencing) = (std::mem::take(&mut doomed), Fencing::new(worker));
        shares.push(Box::new(Share::new(Arc::clone(&ctx), dialect, fencing, channels, doomed)));
    }
    options.remembered.hand_over();
    Ok(Opened { recovered, shares, notices })
}

/// A connection for each loop.
fn connect_shares(
    options: &SqlOptions,
    epoch: Epoch,
    loops: u16,
) -> Result<Vec<Box<dyn Dialect>>, SqlError> {
    let shares = (0..usize::from(loops)).map(|index| {
        let options = options.clone();
        let patience = options.timeout() / 2;
        let dial = Box::new(move || connect_share(&options, epoch, index));
        let dialect: Box<dyn Dialect> = Box::new(Renewing::new(patience, dial)?);
        Ok(dialect)
    });
    shares.collect()
}

fn connect_share(
    options: &SqlOptions,
    epoch: Epoch,
    index: usize,
) -> Result<Box<dyn Dialect>, SqlError> {
    let mut dialect = connect(&options.source, options.timeout())?;
    let is_named = options.source.says("application_name");
    sessions::mark_store(dialect.as_mut(), epoch, index, is_named)?;
    // The first message after a take-over does not wait for these.
    let fence = fence::statement(dialect.as_ref());
    dialect.prepare(&fence)?;
    dialect.prepare(&messages::insert_statement(1))?;
    Ok(dialect)
}

fn notices(options: &SqlOptions, loops: u16) -> Vec<Notice> {
    let needed = usize::from(loops) + OTHER_CONNECTIONS;
    let max = options.connections_max;
    if max == 0 || needed <= max {
        return Vec::new();
    }
    let text = format!(
        "sql_max_open_conns is {max}, but {needed} connections are open: one for each of {loops} \
         loop(s) and one for the lock; with fewer loops there are fewer"
    );
    vec![Notice { is_warning: true, text }]
}
