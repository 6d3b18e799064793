//! A bare loop: the same rows in the same batches, by the same driver library, and nothing else.

use std::time::Duration;

use bytes::Bytes;
use mysql::consts::CapabilityFlags;
use mysql::prelude::Queryable;
use stanby::base::world;
use stanby::store::sql::dialect::Driver;
use stanby::store::sql::dsn::Source;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;

/// Statements kept prepared: one for each size of a batch.
const STATEMENTS_MAX: usize = 1_024;

/// One connection.
pub enum Bare {
    /// A file.
    Sqlite(rusqlite::Connection),
    /// PostgreSQL, with its runtime and its insert.
    Postgres(Runtime, tokio_postgres::Client, tokio_postgres::Statement),
    /// MySQL or MariaDB.
    Mysql(Box<mysql::Conn>),
}

/// How one run went.
pub struct Run {
    /// Over all batches.
    pub time: Duration,
    /// How much of it the database's own commit took.
    pub in_commit: Duration,
}

/// Why a loop failed.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// One batch of rows.
struct Rows<'a> {
    channel: i32,
    first: i64,
    count: usize,
    data: &'a Bytes,
}

impl Rows<'_> {
    fn sequences(&self) -> impl Iterator<Item = i64> + use<> {
        (self.first..).take(self.count)
    }

    fn size(&self) -> i32 {
        i32::try_from(self.data.len()).unwrap_or(i32::MAX)
    }
}

impl Bare {
    /// Connects as the store does.
    pub fn connect(source: &Source) -> Result<Self, Error> {
        Ok(match source.driver {
            Driver::Sqlite => {
                let connection = rusqlite::Connection::open(&source.database)?;
                connection.pragma_update(None, "journal_mode", "WAL")?;
                connection.pragma_update(None, "synchronous", "FULL")?;
                connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
                Self::Sqlite(connection)
            }
            Driver::Postgres => {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                let mut config = tokio_postgres::Config::new();
                config.host(&source.host).port(source.port).dbname(&source.database);
                config.user(source.user.as_deref().unwrap_or_default());
                let (client, insert) = runtime.block_on(async {
                    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
                    tokio::spawn(connection);
                    let insert = client.prepare(POSTGRES_INSERT).await?;
                    Ok::<_, tokio_postgres::Error>((client, insert))
                })?;
                Self::Postgres(runtime, client, insert)
            }
            Driver::Mysql => {
                let options = mysql::OptsBuilder::new()
                    .user(source.user.as_deref())
                    .pass(source.password.as_deref())
                    .db_name(Some(source.database.as_str()))
                    .ip_or_hostname(Some(source.host.as_str()))
                    .tcp_port(source.port)
                    .prefer_socket(false)
                    .stmt_cache_size(STATEMENTS_MAX)
                    .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
                    .init(vec!["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"]);
                Self::Mysql(Box::new(mysql::Conn::new(options)?))
            }
        })
    }

    /// Inserts batches of these sizes, each in a transaction of its own.
    pub fn run(&mut self, channel: i32, batches: &[usize], data: &Bytes) -> Result<Run, Error> {
        let begun = world::instant();
        let mut in_commit = Duration::ZERO;
        let mut first = 1;
        for &count in batches {
            let rows = Rows { channel, first, count, data };
            first += i64::try_from(count)?;
            in_commit += match self {
                Self::Sqlite(connection) => insert_sqlite(connection, &rows)?,
                Self::Postgres(runtime, client, insert) => {
                    runtime.block_on(insert_postgres(client, insert, &rows))?
                }
                Self::Mysql(connection) => insert_mysql(connection, &rows)?,
            };
        }
        Ok(Run { time: world::instant().since(begun), in_commit })
    }
}

fn insert_sqlite(connection: &rusqlite::Connection, rows: &Rows<'_>) -> Result<Duration, Error> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO Messages (id, seq, timestamp, size, data) VALUES (?,?,?,?,?)",
    )?;
    for sequence in rows.sequences() {
        insert.execute((rows.channel, sequence, sequence, rows.size(), &rows.data[..]))?;
    }
    let begun = world::instant();
    connection.execute_batch("COMMIT")?;
    Ok(world::instant().since(begun))
}

const POSTGRES_INSERT: &str = "INSERT INTO Messages (id, seq, timestamp, size, data) \
    SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::integer[], $5::bytea[])";

async fn insert_postgres(
    client: &tokio_postgres::Client,
    insert: &tokio_postgres::Statement,
    rows: &Rows<'_>,
) -> Result<Duration, Error> {
    client.batch_execute("BEGIN").await?;
    let channels = vec![rows.channel; rows.count];
    let sequences: Vec<i64> = rows.sequences().collect();
    let sizes = vec![rows.size(); rows.count];
    let data = vec![&rows.data[..]; rows.count];
    let values: [&(dyn ToSql + Sync); 5] = [&channels, &sequences, &sequences, &sizes, &data];
    client.execute(insert, &values).await?;
    let begun = world::instant();
    client.batch_execute("COMMIT").await?;
    Ok(world::instant().since(begun))
}

fn insert_mysql(connection: &mut mysql::Conn, rows: &Rows<'_>) -> Result<Duration, Error> {
    connection.query_drop("BEGIN")?;
    let insert = format!(
        "INSERT INTO Messages (id, seq, timestamp, size, data) VALUES (?,?,?,?,?){}",
        ",(?,?,?,?,?)".repeat(rows.count - 1)
    );
    let mut values: Vec<mysql::Value> = Vec::with_capacity(rows.count * 5);
    for sequence in rows.sequences() {
        values.extend([rows.channel.into(), sequence.into(), sequence.into()]);
        values.extend([rows.size().into(), rows.data.to_vec().into()]);
    }
    connection.exec_drop(insert, values)?;
    let begun = world::instant();
    connection.query_drop("COMMIT")?;
    Ok(world::instant().since(begun))
}
