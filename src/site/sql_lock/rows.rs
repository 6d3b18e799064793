//! The rows that say who holds the lease: the epoch, its holder, the Go server's lock.

use std::time::Duration;

use crate::base::epoch::Epoch;
use crate::base::time::{Instant, WallTime};
use crate::base::world;
use crate::election::lease::{Holder, Owner, Writer};
use crate::store::sql::dialect::{Dialect, Failure, SqlError, Value, transaction};
use crate::store::sql::fence;

/// The rows that say who holds the lease.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// The newest; 0 in a database that was never used.
    pub(super) epoch: Epoch,
    /// Identity of the epoch's owner in `StoreLock`.
    lock_id: String,
    /// The Go server's row.
    pub(super) lock: Option<(String, u64)>,
    /// Its owner, and how often it gave a sign of life.
    pub(super) holder: Option<Holder>,
    /// The owner gave it back with everything synced.
    pub(super) is_released: bool,
    /// The node of a cluster whose lock the owner has.
    pub(super) node: Option<String>,
}

impl Rows {
    /// Identity and tick of a holder that is none of ours.
    pub(super) fn foreign(&self) -> Option<(String, u64)> {
        self.lock.clone().filter(|(id, _)| !id.is_empty() && *id != self.lock_id)
    }

    /// Whether a Go server has held the lock since the epoch began: its identity is there, or the
    /// mark of its clean release. (What we give back without one keeps its tick.)
    pub(super) fn was_foreign(&self) -> bool {
        let is_ours =
            |(id, tick): &(String, u64)| *id == self.lock_id || id.is_empty() && *tick > 0;
        !self.lock.as_ref().is_some_and(is_ours)
    }

    /// What a claim of `epoch` leaves behind, as far as its age goes.
    pub(super) fn claimed(epoch: Epoch, server_id: &str) -> Self {
        let server_id = server_id.to_owned();
        let holder = Some(Holder { epoch, server_id, ..Holder::default() });
        Self { epoch, lock_id: String::new(), lock: None, holder, is_released: false, node: None }
    }

    /// Somebody else has it, and has not given it back.
    pub(super) fn is_held_by_other(&self, own: &str) -> bool {
        !self.is_released && self.holder.as_ref().is_some_and(|holder| holder.server_id != own)
    }

    /// The holder gave one more sign of life.
    pub(super) fn on_ticked(&mut self) {
        if let Some(holder) = &mut self.holder {
            holder.counter += 1;
        }
    }

    /// Only ever grows in a database that keeps its commits.
    pub(super) fn age(&self) -> (Epoch, u64) {
        let holder = self.holder.as_ref().filter(|holder| holder.epoch == self.epoch);
        (self.epoch, holder.map_or(0, |holder| holder.counter))
    }
}

/// Reads them.
pub(super) fn read(dialect: &mut dyn Dialect) -> Result<Rows, SqlError> {
    let epochs = dialect.query("SELECT epoch, lockid FROM StanbyEpoch", &[])?;
    let locks = dialect.query("SELECT id, tick FROM StoreLock", &[])?;
    let holders = dialect.query(
        "SELECT epoch, counter, released, record FROM StanbyHolder WHERE uniquerow=1",
        &[],
    )?;
    let holder = holders.first();
    let epoch = match epochs.first() {
        // None is claimed above one that nobody can read: who counts from 0 is not the next.
        Some(row) => row[0].whole().ok_or_else(|| {
            let why = "the epoch in the table StanbyEpoch is no whole number: stop all servers of \
                       the group, then run UPDATE StanbyEpoch SET epoch=1";
            SqlError::of_statement(Failure::Missing, "SELECT epoch FROM StanbyEpoch", &why)
        })?,
        None => 0,
    };
    Ok(Rows {
        epoch: Epoch(epoch),
        lock_id: epochs.first().map(|row| row[1].text()).unwrap_or_default(),
        lock: locks.first().map(|row| (row[0].text(), row[1].unsigned())),
        holder: holder.map(|row| {
            let (epoch, counter) = (Epoch(row[0].unsigned()), row[1].unsigned());
            Holder { epoch, counter, ..decode(&row[3].text()) }
        }),
        is_released: holder.is_some_and(|row| row[2].signed() != 0),
        node: holder.and_then(|row| node_of(&row[3].text())),
    })
}

/// What a claim writes.
pub(super) struct Claim {
    /// The epoch that is replaced.
    pub(super) found: Epoch,
    /// The one that begins.
    pub(super) epoch: Epoch,
    /// Our identity in `StoreLock`.
    pub(super) lock_id: String,
    /// Who we are.
    pub(super) owner: Owner,
    /// A Go server's row that stood still, as it was seen.
    pub(super) steals_from: Option<(String, u64)>,
    /// The node of a cluster whose lock we have.
    pub(super) node: Option<String>,
}

impl Claim {
    /// Raises the epoch and takes the row; `None` if somebody else was faster.
    pub(super) fn run(&self, dialect: &mut dyn Dialect) -> Result<Option<Instant>, SqlError> {
        transaction(dialect, |dialect| {
            let lock = dialect.driver().update_lock();
            let before = Value::from(self.found.0);
            let rows = dialect.query(&format!("SELECT epoch FROM StanbyEpoch{lock}"), &[])?;
            let checked_at = world::instant();
            let locks = dialect.query(&format!("SELECT id, tick FROM StoreLock{lock}"), &[])?;
            let found = locks.first().map(|row| (row[0].text(), row[1].unsigned()));
            if self.steals_from.is_some() && found != self.steals_from {
                // It ticked between our look and now.
                return Ok(None);
            }
            let values = [self.epoch.0.into(), self.lock_id.as_str().into(), self.owner_id()];
            if rows.is_empty() {
                let insert = "INSERT INTO StanbyEpoch (epoch, lockid, owner) VALUES (?,?,?)";
                dialect.execute(insert, &values)?;
            } else {
                let update = "UPDATE StanbyEpoch SET epoch=?, lockid=?, owner=? WHERE epoch=?";
                let values = [values.as_slice(), &[before]].concat();
                if dialect.execute(update, &values)? != 1 {
                    return Ok(None);
                }
            }
            fence::raise(dialect, self.epoch)?;
            let own = [Value::from(self.lock_id.as_str()), Value::Integer(1)];
            let write = match found {
                None => "INSERT INTO StoreLock (id, tick) VALUES (?, ?)",
                Some(_) => "UPDATE StoreLock SET id=?, tick=?",
            };
            dialect.execute(write, &own)?;
            dialect.execute("DELETE FROM StanbyHolder", &[])?;
            let insert = "INSERT INTO StanbyHolder (epoch, counter, released, record) \
                          VALUES (?,0,0,?)";
            let record = encode(&self.owner, self.node.as_deref());
            dialect.execute(insert, &[self.epoch.0.into(), record.into()])?;
            Ok(Some(checked_at))
        })
    }

    fn owner_id(&self) -> Value {
        Value::from(self.owner.server_id.as_str())
    }
}

/// One sign of life; the reason if the lease is lost.
pub(super) fn tick(
    dialect: &mut dyn Dialect,
    epoch: Epoch,
    lock_id: &str,
) -> Result<Option<String>, SqlError> {
    let update = "UPDATE StanbyHolder SET counter=counter+1 WHERE epoch=?";
    if dialect.execute(update, &[epoch.0.into()])? != 1 {
        return Ok(Some(format!("a later epoch than {epoch} has begun")));
    }
    let update = "UPDATE StoreLock SET tick=tick+1 WHERE id=?";
    if dialect.execute(update, &[lock_id.into()])? == 0 {
        return Ok(Some("lost store lock: another server wrote itself into it".to_owned()));
    }
    Ok(None)
}

/// Commits a row and its removal. No channel has its number, and no transaction of a holder that
/// hangs has a lock on it.
pub(super) fn prove(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    let remove = "DELETE FROM StanbyTotals WHERE id=-1";
    dialect.execute(remove, &[])?;
    let insert = "INSERT INTO StanbyTotals (id, firstseq, lastseq, messages, bytes) \
                  VALUES (-1,0,0,0,0)";
    dialect.execute(insert, &[])?;
    dialect.execute(remove, &[]).map(drop)
}

/// Says since when the holder's store makes no progress; `None`: it does.
pub(super) fn mark_stuck(
    dialect: &mut dyn Dialect,
    epoch: Epoch,
    since: Option<Instant>,
) -> Result<(), SqlError> {
    change_record(dialect, epoch, STUCK_SINCE, since.map(|since| since.0).into())
}

/// Says which node of a cluster the holder is with, whose lock it has.
pub(super) fn tell_node(
    dialect: &mut dyn Dialect,
    epoch: Epoch,
    node: Option<&str>,
) -> Result<(), SqlError> {
    change_record(dialect, epoch, NODE, node.into())
}

fn change_record(
    dialect: &mut dyn Dialect,
    epoch: Epoch,
    field: &str,
    value: serde_json::Value,
) -> Result<(), SqlError> {
    let found =
        dialect.query("SELECT record FROM StanbyHolder WHERE epoch=?", &[epoch.0.into()])?;
    let Some(record) = found.first().map(|row| row[0].text()) else {
        return Ok(());
    };
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap_or_default();
    record[field] = value;
    let update = "UPDATE StanbyHolder SET record=? WHERE epoch=?";
    dialect.execute(update, &[record.to_string().into(), epoch.0.into()]).map(drop)
}

/// Says that nobody holds it any more; `clean`: with everything synced.
pub(super) fn give_back(
    dialect: &mut dyn Dialect,
    epoch: Epoch,
    lock_id: &str,
    clean: bool,
) -> Result<(), SqlError> {
    let released = Value::Integer(i64::from(clean));
    let update = "UPDATE StanbyHolder SET released=? WHERE epoch=?";
    if dialect.execute(update, &[released, epoch.0.into()])? == 1 {
        let update = if clean {
            "UPDATE StoreLock SET id='', tick=0 WHERE id=?"
        } else {
            "UPDATE StoreLock SET id='' WHERE id=?"
        };
        dialect.execute(update, &[lock_id.into()])?;
    }
    Ok(())
}

/// The record's field that names the node of a cluster which the holder is with.
const NODE: &str = "node";
/// The record's field that is there while the holder's store makes no progress.
const STUCK_SINCE: &str = "stuck_since";
/// The record's field that says for how long the holder may give no sign of life and still answer.
const SILENCE_MAX_MS: &str = "silence_max_ms";
/// The record's field that says which release the holder is.
const WRITER: &str = "writer";

fn encode(owner: &Owner, node: Option<&str>) -> String {
    serde_json::json!({
        "server_id": owner.server_id,
        "host": owner.host,
        "pid": owner.pid,
        "since": world::now().wall.0,
        "addresses": owner.addresses,
        "control": owner.control_path,
        SILENCE_MAX_MS: owner.silence_max_ms,
        WRITER: owner.writer,
        NODE: node,
    })
    .to_string()
}

fn node_of(record: &str) -> Option<String> {
    let found: serde_json::Value = serde_json::from_str(record).unwrap_or_default();
    found[NODE].as_str().map(str::to_owned)
}

fn decode(record: &str) -> Holder {
    let found: serde_json::Value = serde_json::from_str(record).unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    let addresses = found["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    Holder {
        server_id: text("server_id"),
        host: text("host"),
        pid: found["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        since: WallTime(found["since"].as_i64().unwrap_or(0)),
        addresses: addresses.iter().filter_map(|it| it.as_str()).map(str::to_owned).collect(),
        control_path: found["control"].as_str().map(str::to_owned),
        silence_max: Duration::from_millis(found[SILENCE_MAX_MS].as_u64().unwrap_or(0)),
        stuck_since: found[STUCK_SINCE].as_u64().map(Instant),
        writer: Writer::of_record(&found),
        ..Holder::default()
    }
}
