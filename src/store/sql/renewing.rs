//! A Dialect that dials anew where its session was ended while nothing was under way in it.
//!
//! Databases, proxies and firewalls end sessions that are silent for a while. Of a statement that
//! is the first of a transaction, or a question outside of any, nothing can have taken effect: it
//! is asked again in a new session. That changes nothing of the fence, which every transaction asks
//! first. What is lost within a transaction, or with its commit, stays lost.
//!
//! A server that was started since, or is another one, may lack what this one has committed, and so
//! may one that does not have the newest message of this session: who finds it gives the role up,
//! and looks for what is lost when it is active again (`lost.rs`).

use std::time::Duration;

use crate::base::world;
use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};
use crate::store::sql::{galera, messages};

/// Clocks of a server, read one after the other, differ by no more seconds than that.
const START_SLACK: u64 = 2;

/// One run of one database server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Home {
    place: String,
    /// In seconds.
    started_at: i64,
}

impl Home {
    /// That of a session; `None` if it does not tell.
    fn of(session: &mut dyn Dialect) -> Option<Self> {
        match session.driver() {
            // The files are looked at after each commit (`sqlite_files.rs`).
            Driver::Sqlite => Some(Self { place: String::new(), started_at: 0 }),
            Driver::Postgres => {
                let question = "SELECT CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) AS \
                                bigint), CAST(inet_server_addr() AS text)";
                let row = session.query(question, &[]).ok()?.pop()?;
                Some(Self { place: row.get(1)?.text(), started_at: row.first()?.signed() })
            }
            Driver::Mysql => {
                let question = "SELECT UNIX_TIMESTAMP(), CONCAT(@@hostname, ':', @@port)";
                let row = session.query(question, &[]).ok()?.pop()?;
                let status = session.query("SHOW GLOBAL STATUS LIKE 'Uptime'", &[]).ok()?.pop()?;
                let started_at = row.first()?.signed() - status.get(1)?.signed();
                Some(Self { place: row.get(1)?.text(), started_at })
            }
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.place == other.place && self.started_at.abs_diff(other.started_at) <= START_SLACK
    }
}

/// Makes a session as the first one was made.
type Dial = Box<dyn Fn() -> Result<Box<dyn Dialect>, SqlError> + Send>;

/// A session, and how to make another one.
pub(super) struct Renewing {
    session: Box<dyn Dialect>,
    dial: Dial,
    /// Where the first session was; `None` if the server does not tell.
    home: Option<Home>,
    /// Channel and sequence of the newest message that was inserted, and that was committed too.
    inserted: Option<[Value; 2]>,
    committed: Option<[Value; 2]>,
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
        let mut session = dial()?;
        let home = Home::of(session.as_mut());
        let (inserted, committed) = (None, None);
        Ok(Self { session, dial, home, inserted, committed, is_in_transaction: false, patience })
    }

    /// Another session with the same run of the same server.
    fn renew(&mut self) -> Result<Option<Box<dyn Dialect>>, SqlError> {
        let mut session = (self.dial)()?;
        let found = Home::of(session.as_mut());
        galera::catch_up(session.as_mut())?;
        let is_home = self.home.as_ref().zip(found.as_ref()).is_some_and(|(home, it)| home.is(it));
        let is_there = match &self.committed {
            Some(newest) => {
                let question = "SELECT seq FROM Messages WHERE id=? AND seq=?";
                !session.query(question, newest)?.is_empty()
            }
            None => true,
        };
        Ok((is_home && is_there).then_some(session))
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
                let Some(session) = self.renew()? else { return Err(error) };
                self.session = session;
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

    fn node(&self) -> Option<&str> {
        self.session.node()
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
        // Outside of a transaction nobody knows whether a lost one took effect.
        let done = self.session.execute(statement, values)?;
        if statement.starts_with(messages::INSERT)
            && let Some([id, sequence, ..]) = values.rchunks_exact(messages::ROW_VALUES).next()
        {
            self.inserted = Some([id.clone(), sequence.clone()]);
        }
        Ok(done)
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
            self.inserted = None;
            return Ok(());
        }
        if statement == "ROLLBACK" {
            self.is_in_transaction = false;
        }
        self.session.run(statement)
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        self.is_in_transaction = false;
        self.session.commit()?;
        if let Some(newest) = self.inserted.take() {
            self.committed = Some(newest);
        }
        Ok(())
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
        /// When the server was started that the next sessions are with.
        started_at: i64,
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
            self.say(statement)?;
            let started_at = self.0.lock().unwrap().started_at;
            Ok(vec![vec![Value::Integer(started_at), Value::from("10.1.1.1")]])
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
    fn lost(at: &'static str, is_away: bool, is_restarted: bool) -> (bool, usize, usize) {
        let script = Arc::new(Mutex::new(Script { is_away, ..Script::default() }));
        let shared = Arc::clone(&script);
        let dial: Dial = Box::new(move || {
            shared.lock().unwrap().sessions += 1;
            Ok(Box::new(Scripted(Arc::clone(&shared), false)))
        });
        let mut dialect = Renewing::new(Duration::from_secs(3600), dial).unwrap();
        script.lock().unwrap().lost_at = Some(at);
        script.lock().unwrap().started_at = if is_restarted { 60 } else { 1 };
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
        for (at, is_away, is_restarted, end) in [
            ("nothing", false, false, (true, 1, 1)),
            ("SELECT 1", false, false, (true, 2, 1)),
            (begin, false, false, (true, 2, 1)),
            ("SELECT epoch", false, false, (false, 1, 0)),
            ("INSERT", false, false, (false, 1, 1)),
            ("COMMIT", false, false, (false, 1, 1)),
            // A database that is away is dialled once.
            (begin, true, false, (false, 2, 0)),
            // One that was started since may have lost what was committed.
            (begin, false, true, (false, 2, 0)),
            ("SELECT 1", false, true, (false, 2, 0)),
        ] {
            assert_eq!(lost(at, is_away, is_restarted), end, "{at} {is_away} {is_restarted}");
        }
    }
}
