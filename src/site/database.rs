//! A site in a database, which all members of a group share.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::channel_limits::StoreLimits;
use crate::base::epoch::{Fence, Predecessor};
use crate::base::world;
use crate::config::{Config, StoreKind};
use crate::election::keeper;
use crate::election::lease::{Lease, Owner};
use crate::log::STREAM;
use crate::proto::spb;
use crate::site::sql_lock::{self, SqlLease};
use crate::site::{Site, steal_after};
use crate::store::sql::dialect::Driver;
use crate::store::sql::dsn::Source;
use crate::store::sql::lost::Remembered;
use crate::store::sql::{self, SqlOptions};
use crate::store::{Opened, StoreError};

/// A database.
pub(super) struct Database {
    /// With what activations of this process have acknowledged there.
    options: SqlOptions,
    limits: StoreLimits,
    loops: u16,
    steal_after: Duration,
}

impl Database {
    /// Fails when driver or source cannot be understood.
    pub(super) fn new(config: &Config) -> Result<Self, StoreError> {
        Ok(Self {
            options: options(config)?,
            limits: config.streaming.limits.clone(),
            loops: config.loops,
            steal_after: steal_after(config),
        })
    }
}

impl Site for Database {
    fn name(&self) -> &'static str {
        StoreKind::Sql.name()
    }

    fn prepare(&self) -> Result<(), StoreError> {
        for notice in sql::prepare(&self.options, &self.limits)? {
            log::warn!(target: STREAM, "{}", notice.text);
        }
        Ok(())
    }

    fn check(&self) -> Result<&'static str, StoreError> {
        Ok("; ask the database with: stanby sql check")
    }

    fn lease(&self, owner: Owner) -> Option<Box<dyn Lease>> {
        let SqlOptions { source, call_timeout, .. } = &self.options;
        let lease = SqlLease::new(source.clone(), *call_timeout, owner, self.steal_after);
        Some(Box::new(lease))
    }

    fn open(&self, fence: &Arc<dyn Fence>, _: Predecessor) -> Result<Opened, StoreError> {
        sql::open(&self.options, &self.limits, fence, self.loops, world::now())
    }

    fn peek_server(&self) -> Option<spb::ServerInfo> {
        sql::peek_server(&self.options)
    }

    fn lost_count(&self) -> Option<u64> {
        Some(self.options.remembered.lost_count())
    }

    fn numbers_subscriptions_as_one(&self) -> bool {
        true
    }

    fn path(&self) -> Option<PathBuf> {
        let source = &self.options.source;
        let is_here = source.driver == Driver::Sqlite;
        is_here.then(|| sql_lock::real_path(source))
    }
}

/// Options of the SQL store. A call may take less than the lease bound, so that a database that
/// does not answer costs the role before the lease ends.
pub(super) fn options(config: &Config) -> Result<SqlOptions, StoreError> {
    let from = &config.streaming.sql;
    let unusable = |why: &dyn Display| StoreError::Unusable(why.to_string());
    let driver = Driver::named(&from.driver)
        .ok_or_else(|| unusable(&format!("sql: unknown driver {:?}", from.driver)))?;
    let source = Source::parse(driver, &from.source, &|name| from.variables.get(name).cloned())
        .map_err(|error| unusable(&error))?;
    let bound = keeper::lease_bound(config.streaming.steal_after.unwrap_or_default());
    Ok(SqlOptions {
        source,
        no_caching: from.no_caching,
        connections_max: from.connections_max,
        bulk_insert_limit: from.bulk_insert_limit,
        call_timeout: bound.mul_f64(0.9),
        remembered: Remembered::default(),
    })
}
