//! Clusters of MariaDB and MySQL servers (Galera): the node of a session, and what a set-up lacks.
//!
//! A commit there is known to every node, and certified against what others committed meanwhile;
//! locks and reads are each node's own. So sessions read with `wsrep_sync_wait`, by which a node
//! first does what the cluster had committed before; `fence` says what transactions do.

use std::collections::BTreeMap;

use mysql::Conn;
use mysql::prelude::Queryable;

use crate::store::sql::dialect::{Dialect, Row, SqlError};
use crate::store::sql::dsn::Source;
use crate::store::sql::schema;

/// Before each read a node does what the cluster had committed: recoveries and leases need that.
const SYNCED: &str = "SET SESSION wsrep_sync_wait = 1";
/// A worker reads only what it has written over the same session, once it has caught up.
const UNSYNCED: &str = "SET SESSION wsrep_sync_wait = 0";
/// Nodes of which one can go.
const NODES_MIN: u64 = 3;

/// What a server says of itself when a session begins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The longest packet that it takes.
    pub(super) packet_bytes_max: Option<usize>,
    /// It is a copy, or was told to take no writes.
    pub(super) is_read_only: bool,
    /// The node that it is, in a cluster.
    pub(super) node: Option<String>,
}

/// Asks a server who it is; the reason where it is a node that takes nothing now.
///
/// # Errors
/// Those of the connection.
pub(super) fn greet(connection: &mut Conn) -> mysql::Result<Result<Greeting, String>> {
    let asked = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                 ('max_allowed_packet', 'read_only', 'wsrep_on')";
    let found: BTreeMap<String, String> = pairs(connection.query(asked)?);
    let is_on =
        |name: &str| found.get(name).is_some_and(|value| ["ON", "1"].contains(&value.as_str()));
    let mut greeting = Greeting {
        packet_bytes_max: found.get("max_allowed_packet").and_then(|value| value.parse().ok()),
        is_read_only: is_on("read_only"),
        node: None,
    };
    if !is_on("wsrep_on") {
        return Ok(Ok(greeting));
    }
    let asked = "SHOW GLOBAL STATUS WHERE Variable_name IN \
                 ('wsrep_ready', 'wsrep_cluster_status', 'wsrep_gcomm_uuid')";
    let found = pairs(connection.query(asked)?);
    let status = |name: &str| found.get(name).map_or("", String::as_str);
    if status("wsrep_ready") != "ON" {
        return Ok(Err(format!(
            "this node of the cluster takes nothing now (wsrep_cluster_status = {})",
            status("wsrep_cluster_status")
        )));
    }
    connection.query_drop(SYNCED)?;
    greeting.node = Some(status("wsrep_gcomm_uuid").to_owned());
    Ok(Ok(greeting))
}

/// Whether the node is a part of the cluster still.
pub(super) fn is_ready(connection: &mut Conn) -> bool {
    let asked = "SHOW GLOBAL STATUS LIKE 'wsrep_ready'";
    let found = connection.query::<(String, String), _>(asked).map(pairs).unwrap_or_default();
    found.get("wsrep_ready").is_some_and(|value| value == "ON")
}

fn pairs(rows: Vec<(String, String)>) -> BTreeMap<String, String> {
    rows.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect()
}

/// A worker's session sees what the cluster has committed so far, and from then on its own.
///
/// # Errors
/// [`SqlError`].
pub(super) fn catch_up(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    if dialect.node().is_none() {
        return Ok(());
    }
    dialect.run(SYNCED)?;
    dialect.query("SELECT 1", &[])?;
    dialect.run(UNSYNCED)
}

/// What the set-up of a cluster lacks, a line each.
///
/// # Errors
/// [`SqlError`] if the database cannot be asked.
pub(super) fn warnings(
    source: &Source,
    dialect: &mut dyn Dialect,
) -> Result<Vec<String>, SqlError> {
    if dialect.node().is_none() {
        return Ok(Vec::new());
    }
    let asked = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_certify_nonPK', \
                 'wsrep_provider_options', 'innodb_autoinc_lock_mode', 'binlog_format')";
    let mut found = texts(&dialect.query(asked, &[])?);
    let status = "SHOW GLOBAL STATUS WHERE Variable_name = 'wsrep_cluster_size'";
    found.extend(texts(&dialect.query(status, &[])?));
    let names = schema::tables().map(|table| format!("'{}'", table.to_lowercase()));
    let names = names.collect::<Vec<_>>().join(", ");
    let keyless = format!(
        "SELECT t.table_name FROM information_schema.tables t WHERE t.table_schema = DATABASE() \
         AND LOWER(t.table_name) IN ({names}) AND LOWER(t.table_name) <> 'storelock' \
         AND NOT EXISTS (SELECT 1 FROM information_schema.table_constraints c \
         WHERE c.table_schema = t.table_schema AND c.table_name = t.table_name \
         AND c.constraint_type = 'PRIMARY KEY')"
    );
    let keyless = dialect.query(&keyless, &[])?;
    let keyless: Vec<String> = keyless.iter().map(|row| row[0].text()).collect();
    Ok(missing(&found, source.more_hosts.is_empty(), &keyless))
}

fn texts(rows: &[Row]) -> BTreeMap<String, String> {
    rows.iter().map(|row| (row[0].text().to_lowercase(), row[1].text())).collect()
}

/// The lines of what `found` says and what `keyless` tables there are.
fn missing(found: &BTreeMap<String, String>, is_one_host: bool, keyless: &[String]) -> Vec<String> {
    let value = |name: &str| found.get(name).map(String::as_str);
    let mut lines = Vec::new();
    let size = value("wsrep_cluster_size").and_then(|size| size.parse().ok()).unwrap_or(0);
    if size < NODES_MIN {
        lines.push(format!(
            "the Galera cluster has {size} node(s): where one goes the rest is no majority and \
             takes nothing; it needs three, or two and an arbitrator (garbd)"
        ));
    }
    if is_one_host {
        lines.push(
            "the source names one node of a Galera cluster: when it goes, so does the service; \
             name all nodes, in the same order for all members: tcp(one:3306,two:3306,three:3306)"
                .to_owned(),
        );
    }
    for name in ["pc.ignore_quorum", "pc.ignore_sb"] {
        let options = value("wsrep_provider_options").unwrap_or_default();
        let is_set =
            options.split(';').filter_map(|option| option.split_once('=')).any(|(key, value)| {
                key.trim() == name && !["false", "no", "0"].contains(&value.trim())
            });
        if is_set {
            lines.push(format!(
                "{name} is set in wsrep_provider_options: both halves of a cluster that falls \
                 apart take writes, and what one of them acknowledged is lost; set it to false"
            ));
        }
    }
    for (name, wanted) in
        [("wsrep_certify_nonpk", ["ON", "1"]), ("innodb_autoinc_lock_mode", ["2", "2"])]
    {
        if let Some(value) = value(name).filter(|value| !wanted.contains(value)) {
            let better = wanted[0];
            lines.push(format!("{name} = {value} does not suit Galera: set {name} = {better}"));
        }
    }
    if let Some(format) = value("binlog_format").filter(|format| *format != "ROW") {
        lines.push(format!("binlog_format = {format}: Galera copies rows: set it to ROW"));
    }
    lines.extend(keyless.iter().map(|table| {
        format!(
            "table {table} has no primary key, by which Galera tells rows apart: give it the one \
             that it has in the script of the tables"
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(changed: &[(&str, &str)], is_one_host: bool, keyless: &[&str]) -> String {
        let usual = [
            ("wsrep_cluster_size", "3"),
            ("wsrep_certify_nonpk", "ON"),
            ("innodb_autoinc_lock_mode", "2"),
            ("binlog_format", "ROW"),
            (
                "wsrep_provider_options",
                "base_port = 1; pc.ignore_quorum = false; pc.ignore_sb = false",
            ),
        ];
        let found =
            usual.iter().chain(changed).map(|(name, value)| ((*name).into(), (*value).into()));
        let keyless: Vec<String> = keyless.iter().map(|name| (*name).to_owned()).collect();
        missing(&found.collect(), is_one_host, &keyless).join("\n")
    }

    #[test]
    fn what_a_cluster_lacks_is_said_and_nothing_else() {
        assert_eq!(lines(&[], false, &[]), "");
        for (changed, part) in [
            (("wsrep_cluster_size", "2"), "has 2 node(s)"),
            (("wsrep_certify_nonpk", "OFF"), "set wsrep_certify_nonpk = ON"),
            (("innodb_autoinc_lock_mode", "1"), "set innodb_autoinc_lock_mode = 2"),
            (("binlog_format", "MIXED"), "set it to ROW"),
            (
                ("wsrep_provider_options", "pc.ignore_quorum = true; x = 1"),
                "pc.ignore_quorum is set",
            ),
            (("wsrep_provider_options", "pc.ignore_sb = YES"), "pc.ignore_sb is set"),
        ] {
            let found = lines(&[changed], false, &[]);
            assert!(found.contains(part) && found.lines().count() == 1, "{changed:?}: {found}");
        }
        assert!(lines(&[], true, &[]).contains("names one node"));
        assert!(lines(&[], false, &["Clients"]).contains("table Clients has no primary key"));
    }
}
