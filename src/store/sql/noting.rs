//! A Dialect around another one: each statement that returns is progress of its thread.

use crate::store::progress::noted;
use crate::store::sql::dialect::{Dialect, Driver, Row, SqlError, Value};

/// A connection whose answers count as progress.
pub(super) struct Noting(pub(super) Box<dyn Dialect>);

impl Dialect for Noting {
    fn driver(&self) -> Driver {
        self.0.driver()
    }

    fn node(&self) -> Option<&str> {
        self.0.node()
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
        noted(self.0.execute(statement, values))
    }

    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        noted(self.0.query(statement, values))
    }

    fn statement_bytes_max(&self) -> usize {
        self.0.statement_bytes_max()
    }

    fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
        noted(self.0.prepare(statement))
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        noted(self.0.commit())
    }

    fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        noted(self.0.run(statement))
    }
}
