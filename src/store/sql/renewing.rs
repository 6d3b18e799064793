//! A Dialect that dials anew where its session was ended while nothing was under way in it.
//!
//! Databases, proxies and firewalls end sessions that are silent for a while. Of a statement that
//! is the first of a transaction, or a question outside of any, nothing can have taken effect: it
//! is asked again in a new session. That changes nothing of the fence, which every transaction asks
//! first. What is lost within a transaction, or with its commit, stays lost.

use std::time::Duration;

use crate::base::world;
use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};

/// Makes a session as the first one was made.
type Dial = Box<dyn Fn() -> Result<Box<dyn Dialect>, SqlError> + Send>;

/// A session, and how to make another one.
pub(super) struct Renewing {
    session: Box<dyn Dialect>,
    dial: Dial,
    is_in_transaction: bool,
    /// Who does not answer within this has not ended the session, but hangs.
    patience: Duration,
}

impl Renewing {
    /// The first session is made at once.
    ///
    /// # Errors
    /// Those of `dial`.
    pub(super) fn new(patience: Duration, dial: Dial) -> Result<Self, SqlError> {
        Ok(Self { session: dial()?, dial, is_in_transaction: false, patience })
    }

    fn ask<T>(
        &mut self,
        ask: impl Fn(&mut dyn Dialect) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let began = world::instant();
        match ask(self.session.as_mut()) {
            Err(error)
                if error.failure == Failure::Unreachable
                    && !self.is_in_transaction
                    && world::instant().since(began) < self.patience =>
            {
                log::debug!("dialling anew, because a session was ended: {error}");
                self.session = (self.dial)()?;
                ask(self.session.as_mut())
            }
            asked => asked,
        }
    }
}

impl Dialect for Renewing {
    fn driver(&self) -> Driver {
        self.session.driver()
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
        // Outside of a transaction nobody knows whether a lost one took effect.
        self.session.execute(statement, values)
    }

    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        self.ask(|session| session.query(statement, values))
    }

    fn statement_bytes_max(&self) -> usize {
        self.session.statement_bytes_max()
    }

    fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
        self.ask(|session| session.prepare(statement))
    }

    fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        if statement == self.driver().begin() {
            self.ask(|session| session.run(statement))?;
            self.is_in_transaction = true;
            return Ok(());
        }
        if statement == "ROLLBACK" {
            self.is_in_transaction = false;
        }
        self.session.run(statement)
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        self.is_in_transaction = false;
        self.session.commit()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::store::sql::dialect::transaction;

    /// What all sessions of a test were asked, and what the newest does.
    #[derive(Default)]
    struct Script {
        asked: Vec<String>,
        sessions: usize,
        /// The statement at which a session that exists is lost.
        lost_at: Option<&'static str>,
        /// Whether the next ones are lost too.
        is_away: bool,
    }

    struct Scripted(Arc<Mutex<Script>>, bool);

    impl Scripted {
        fn say(&mut self, statement: &str) -> Result<(), SqlError> {
            let mut script = self.0.lock().unwrap();
            script.asked.push(statement.to_owned());
            self.1 |= script.lost_at == Some(statement);
            if self.1 {
                if !script.is_away {
                    script.lost_at = None;
                }
                return Err(SqlError::of_statement(Failure::Unreachable, statement, &"lost"));
            }
            Ok(())
        }
    }

    impl Dialect for Scripted {
        fn driver(&self) -> Driver {
            Driver::Postgres
        }

        fn execute(&mut self, statement: &str, _: &[Value]) -> Result<u64, SqlError> {
            self.say(statement).map(|()| 1)
        }

        fn query(&mut self, statement: &str, _: &[Value]) -> Result<Vec<Row>, SqlError> {
            self.say(statement).map(|()| Vec::new())
        }

        fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
            self.say(statement)
        }

        fn run(&mut self, statement: &str) -> Result<(), SqlError> {
            self.say(statement)
        }

        fn commit(&mut self) -> Result<(), SqlError> {
            self.say("COMMIT").map_err(|error| SqlError::of_unknown_commit(&error))
        }
    }

    /// What a transaction, and a question before it, end with when a session is lost at a
    /// statement; how many sessions there were; how often the row was written.
    fn lost(at: &'static str, is_away: bool) -> (bool, usize, usize) {
        let script = Arc::new(Mutex::new(Script { is_away, ..Script::default() }));
        let shared = Arc::clone(&script);
        let dial: Dial = Box::new(move || {
            shared.lock().unwrap().sessions += 1;
            Ok(Box::new(Scripted(Arc::clone(&shared), false)))
        });
        let mut dialect = Renewing::new(Duration::from_secs(3600), dial).unwrap();
        script.lock().unwrap().lost_at = Some(at);
        let done = dialect.query("SELECT 1", &[]).and_then(|_| {
            transaction(&mut dialect, |dialect| {
                dialect.query("SELECT epoch", &[])?;
                dialect.execute("INSERT", &[])
            })
        });
        let script = script.lock().unwrap();
        let writes = script.asked.iter().filter(|asked| *asked == "INSERT").count();
        (done.is_ok(), script.sessions, writes)
    }

    /// Goal: silence costs nothing but a new session, and nothing is ever written twice.
    #[test]
    fn a_session_that_was_ended_at_rest_is_made_anew() {
        let begin = Driver::Postgres.begin();
        assert_eq!(lost("nothing", false), (true, 1, 1));
        assert_eq!(lost("SELECT 1", false), (true, 2, 1));
        assert_eq!(lost(begin, false), (true, 2, 1));
        assert_eq!(lost("SELECT epoch", false), (false, 1, 0));
        assert_eq!(lost("INSERT", false), (false, 1, 1));
        assert_eq!(lost("COMMIT", false), (false, 1, 1));
        assert_eq!(lost(begin, true), (false, 2, 0), "a database that is away is dialled once");
    }
}
