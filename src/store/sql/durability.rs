//! What a database is set to that makes a commit less than durable, and other things of a source
//! that its owner should know: a line each.

use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};
use crate::store::sql::dsn::{Pem, Security, Source};
use crate::store::sql::{galera, postgres_login, postgres_tls, schema};

/// All lines, for the start and for `sql check`.
///
/// # Errors
/// [`SqlError`] if the database cannot be asked.
pub fn warnings(source: &Source, dialect: &mut dyn Dialect) -> Result<Vec<String>, SqlError> {
    let mut warnings = source.warnings.clone();
    warnings.extend(postgres_login::password_file_warning(source));
    warnings.extend(files_left_out(source));
    let found = match source.driver {
        Driver::Sqlite => Ok(Vec::new()),
        Driver::Postgres => postgres(source, dialect),
        Driver::Mysql => mysql(dialect).and_then(|mut lines| {
            lines.extend(galera::warnings(source, dialect)?);
            Ok(lines)
        }),
    };
    match found {
        Ok(found) => warnings.extend(found),
        Err(error) if error.failure == Failure::Unreachable => return Err(error),
        Err(error) => warnings
            .push(format!("it is not known whether a commit there survives a crash: {error}")),
    }
    Ok(warnings)
}

/// Other servers that get what is committed there without being waited for, a line each: one that
/// is promoted lacks what was acknowledged.
///
/// # Errors
/// [`SqlError`] if the database cannot be asked.
pub fn standbys(dialect: &mut dyn Dialect) -> Result<impl Iterator<Item = String>, SqlError> {
    let line = match dialect.driver() {
        Driver::Sqlite => None,
        Driver::Postgres => {
            let asked = "SELECT COUNT(*) FROM pg_stat_replication \
                         WHERE COALESCE(sync_state, 'async') = 'async'";
            let count = number_of(&dialect.query(asked, &[])?);
            let better = "synchronous_standby_names on the primary and on each standby";
            (count > 0).then(|| not_waited_for("PostgreSQL", count, better))
        }
        // The nodes of a cluster certify each commit together.
        Driver::Mysql if dialect.node().is_some() => None,
        Driver::Mysql => {
            let asked = "SELECT COUNT(*) FROM information_schema.processlist \
                         WHERE command LIKE 'Binlog Dump%'";
            let count = number_of(&dialect.query(asked, &[])?);
            let is_waiting = "SELECT COUNT(*) FROM information_schema.global_status \
                              WHERE variable_name = 'RPL_SEMI_SYNC_MASTER_STATUS' \
                              AND variable_value = 'ON'";
            // Of MySQL itself the table is elsewhere, and not known here.
            let is_waiting = dialect.query(is_waiting, &[]).is_ok_and(|rows| number_of(&rows) == 1);
            let better = "rpl_semi_sync_master_enabled and \
                          rpl_semi_sync_master_wait_point = AFTER_SYNC";
            (count > 0 && !is_waiting).then(|| not_waited_for("the database", count, better))
        }
    };
    Ok(line.into_iter())
}

fn not_waited_for(who: &str, count: i64, better: &str) -> String {
    format!(
        "{who} has {count} replica(s) that no commit waits for: one that is promoted may lack what \
         was acknowledged, and whoever reads epochs from it reads old ones; set {better}"
    )
}

fn number_of(rows: &[Row]) -> i64 {
    rows.first().and_then(|row| row.first()).map_or(0, Value::signed)
}

/// Whether two connections that are open at once are one session of the server: a pooler that gives
/// out its own for a transaction each lies between, and a lock of a session is nobody's.
///
/// # Errors
/// [`SqlError`] if the database cannot be asked.
pub fn are_one_session(one: &mut dyn Dialect, other: &mut dyn Dialect) -> Result<bool, SqlError> {
    let asked = match one.driver() {
        Driver::Sqlite => return Ok(false),
        Driver::Postgres => "SELECT pg_backend_pid()",
        Driver::Mysql => "SELECT CONNECTION_ID()",
    };
    Ok(number_of(&one.query(asked, &[])?) == number_of(&other.query(asked, &[])?))
}

/// Compat: files of certificates that are named and not there are passed over, as the Go driver
/// does.
fn files_left_out(source: &Source) -> Vec<String> {
    let mut lines = Vec::new();
    let authorities = source.tls.authorities.as_ref();
    if let (Security::AuthorityIfThere, Some(Pem::File(path))) = (source.tls.security, authorities)
        && !postgres_tls::file_is_there(authorities)
    {
        let path = path.display();
        lines.push(format!("{path} (sslrootcert) is not there: any server's certificate is taken"));
    }
    let named = source.tls.identity.as_ref().filter(|it| !it.is_default);
    if let Some(Pem::File(path)) = named.map(|it| &it.certificate)
        && source.driver == Driver::Postgres
        && !path.exists()
    {
        let path = path.display();
        lines.push(format!("{path} (sslcert) is not there: no certificate is shown to the server"));
    }
    lines
}

fn postgres(source: &Source, dialect: &mut dyn Dialect) -> Result<Vec<String>, SqlError> {
    let asked = "SELECT current_setting('fsync'), current_setting('synchronous_commit'), \
                 current_setting('synchronous_standby_names'), current_setting('full_page_writes')";
    let rows = dialect.query(asked, &[])?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let said = [0, 1, 2, 3].map(|index| row[index].text());
    let is_of_source = source.says("synchronous_commit");
    let mut lines = settings_of_postgres(said.each_ref().map(String::as_str), is_of_source);
    if source.needs_writable && !source.more_hosts.is_empty() && row[2].text().is_empty() {
        let text = "the source names several hosts and PostgreSQL has no \
                    synchronous_standby_names: a standby that is promoted may lack what was \
                    acknowledged, and a former primary goes on taking writes; set \
                    synchronous_standby_names on the primary and on each standby";
        lines.push(text.to_owned());
    }
    let unlogged = format!(
        "SELECT relname FROM pg_class WHERE relpersistence <> 'p' AND relkind IN ('r', 'p') AND \
         oid IN ({})",
        schema::tables()
            .map(|table| format!("COALESCE(to_regclass('{table}'), 0::regclass)"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let names = first_column(&dialect.query(&unlogged, &[])?);
    lines.extend(names.iter().map(|table| {
        format!(
            "table {table} is UNLOGGED: a crash of PostgreSQL empties it, run: ALTER TABLE {table} \
             SET LOGGED"
        )
    }));
    Ok(lines)
}

fn mysql(dialect: &mut dyn Dialect) -> Result<Vec<String>, SqlError> {
    let asked = "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit, @@GLOBAL.sync_binlog, \
                 @@GLOBAL.log_bin";
    let rows = dialect.query(asked, &[])?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let mut lines = settings_of_mysql([0, 1, 2].map(|index| row[index].signed()));
    let names = schema::tables().map(|table| format!("'{table}'")).collect::<Vec<_>>().join(", ");
    let asked = format!(
        "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE() \
         AND table_name IN ({names}) AND engine IN ('MyISAM', 'Aria', 'MEMORY', 'CSV', 'ARCHIVE')"
    );
    lines.extend(dialect.query(&asked, &[])?.iter().map(|row| {
        let [table, engine] = [row[0].text(), row[1].text()];
        format!(
            "table {table} is of the engine {engine}, which knows no transactions: what was \
             refused may be kept and what was acknowledged lost, run: ALTER TABLE \
             {table} ENGINE=InnoDB"
        )
    }));
    Ok(lines)
}

/// What `fsync`, `synchronous_commit`, `synchronous_standby_names` and `full_page_writes` mean for
/// the commits of a session.
fn settings_of_postgres(
    [fsync, synchronous, standbys, pages]: [&str; 4],
    is_of_source: bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    if fsync == "off" {
        lines.push(lost("PostgreSQL", "fsync", "off", "on"));
    }
    if pages == "off" && fsync != "off" {
        let text = "PostgreSQL has full_page_writes = off: where the file system does not write \
                    whole pages, a crash of its machine can damage what was acknowledged; set \
                    full_page_writes = on";
        lines.push(text.to_owned());
    }
    if synchronous == "off" {
        let by = if is_of_source { "the source" } else { "PostgreSQL" };
        lines.push(lost(by, "synchronous_commit", "off", "on"));
    } else if !standbys.is_empty() && ["local", "remote_write"].contains(&synchronous) {
        lines.push(format!(
            "synchronous_commit = {synchronous} does not wait until a synchronous standby has \
             written a commit down: a fail-over of PostgreSQL can lose acknowledged messages; set \
             synchronous_commit = on"
        ));
    }
    lines
}

/// What `innodb_flush_log_at_trx_commit`, `sync_binlog` and `log_bin` of a server mean for commits.
fn settings_of_mysql([flush, sync_binlog, log_bin]: [i64; 3]) -> Vec<String> {
    let mut lines = Vec::new();
    // 3 of MariaDB syncs once more than 1.
    if ![1, 3].contains(&flush) {
        let flush = flush.to_string();
        lines.push(lost("the database", "innodb_flush_log_at_trx_commit", &flush, "1"));
    }
    // A transaction that the binary log does not have is undone by the recovery after a crash.
    if log_bin != 0 && sync_binlog != 1 {
        lines.push(lost("the database", "sync_binlog", &sync_binlog.to_string(), "1"));
    }
    lines
}

fn first_column(rows: &[Row]) -> Vec<String> {
    rows.iter().filter_map(|row| row.first()).map(|value| value.text()).collect()
}

fn lost(who: &str, name: &str, value: &str, better: &str) -> String {
    format!(
        "{who} has {name} = {value}: messages that were acknowledged can be lost when the \
         database's machine or process stops; set {name} = {better}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whatever of PostgreSQL's settings can lose a commit is said, and nothing else is.
    #[test]
    fn each_setting_of_postgres_that_loses_commits_is_said() {
        let good = ["on", "on", "", "on"];
        for (said, is_of_source, expected) in [
            (good, false, &[][..]),
            (["on", "local", "", "on"], false, &[]),
            (["on", "remote_apply", "a", "on"], false, &[]),
            (["off", "on", "", "on"], false, &["PostgreSQL has fsync = off: "]),
            (["off", "on", "", "off"], false, &["PostgreSQL has fsync = off: "]),
            (["on", "on", "", "off"], false, &["PostgreSQL has full_page_writes = off: "]),
            (["on", "off", "", "on"], false, &["PostgreSQL has synchronous_commit = off: "]),
            (["on", "off", "a", "on"], true, &["the source has synchronous_commit = off: "]),
            (["on", "local", "a", "on"], false, &["synchronous_commit = local does not wait "]),
            (["on", "remote_write", "a", "on"], true, &["synchronous_commit = remote_write "]),
            (
                ["off", "off", "", "on"],
                false,
                &["PostgreSQL has fsync = off: ", "PostgreSQL has synchronous_commit = off: "],
            ),
        ] {
            check(&settings_of_postgres(said, is_of_source), expected);
        }
    }

    /// Goal: the same of MySQL; the binary log counts only where there is one.
    #[test]
    fn each_setting_of_mysql_that_loses_commits_is_said() {
        let flush = "the database has innodb_flush_log_at_trx_commit = ";
        let binlog = "the database has sync_binlog = ";
        for (said, expected) in [
            ([1, 1, 1], &[][..]),
            ([3, 1, 1], &[]),
            ([1, 0, 0], &[]),
            ([0, 1, 1], &[flush]),
            ([2, 0, 0], &[flush]),
            ([1, 0, 1], &[binlog]),
            ([1, 1_000, 1], &[binlog]),
            ([2, 0, 1], &[flush, binlog]),
        ] {
            check(&settings_of_mysql(said), expected);
        }
    }

    #[track_caller]
    fn check(lines: &[String], expected: &[&str]) {
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, begin) in lines.iter().zip(expected) {
            assert!(line.starts_with(begin), "{line}");
        }
    }
}
