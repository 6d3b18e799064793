//! What the clients of a load did and were told; those in Go and Node write it down line by line.
//!
//! `tests/clients/ledger.md` has the lines. Times are Unix nanoseconds of this machine.

use std::fs;
use std::path::Path;

use stanby::base::world;

/// The channels of a load; publish *n* goes to channel *n* mod 4.
pub const CHANNELS: [&str; 4] = ["orders", "events", "jobs", "news"];

/// Unix nanoseconds.
pub fn now() -> i64 {
    world::now().wall.0
}

/// The payload of a publish.
pub fn payload(publisher: &str, number: usize) -> String {
    format!("{publisher}:{number:08}")
}

/// A publish that ended; without an error it is acknowledged.
#[derive(Clone, Debug)]
pub struct Publish {
    pub publisher: String,
    pub number: usize,
    pub sent: i64,
    pub ended: i64,
    pub error: String,
}

/// A delivery, acknowledged by hand.
#[derive(Clone, Debug)]
pub struct Got {
    pub listener: String,
    pub channel: usize,
    pub sequence: u64,
    /// Marked as redelivered.
    pub is_again: bool,
    pub payload: String,
}

/// One call of a client that comes and goes.
#[derive(Clone, Debug)]
pub struct Step {
    pub client: String,
    pub what: String,
    pub began: i64,
    pub ended: i64,
    pub error: String,
}

/// A connection or session that ended without being asked to, or came back.
#[derive(Clone, Debug)]
pub struct Lost {
    pub client: String,
    pub at: i64,
    pub what: String,
}

/// All of it, in the order of each client.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub publishes: Vec<Publish>,
    pub got: Vec<Got>,
    pub steps: Vec<Step>,
    pub lost: Vec<Lost>,
    pub back: Vec<Lost>,
}

impl Ledger {
    /// What a program wrote; a last line without its end is none.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut ledger = Self::default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            ledger.note(line).unwrap_or_else(|| panic!("{}: {line:?}", path.display()));
        }
        ledger
    }

    /// Adds one line; `None` for one that says nothing.
    fn note(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        let fields = |count| rest.splitn(count, ' ').map(str::to_owned).collect::<Vec<_>>();
        match kind {
            "ack" => {
                let [publisher, number, sent, ended, error] = fields(5).try_into().ok()?;
                let (number, sent) = (number.parse().ok()?, sent.parse().ok()?);
                let ended = ended.parse().ok()?;
                self.publishes.push(Publish { publisher, number, sent, ended, error });
            }
            "got" => {
                let [listener, channel, sequence, redeliveries, _, payload] =
                    fields(6).try_into().ok()?;
                let channel = CHANNELS.iter().position(|name| *name == channel)?;
                let (sequence, is_again) = (sequence.parse().ok()?, redeliveries != "0");
                self.got.push(Got { listener, channel, sequence, is_again, payload });
            }
            "step" => {
                let [client, what, began, ended, error] = fields(5).try_into().ok()?;
                let (began, ended) = (began.parse().ok()?, ended.parse().ok()?);
                self.steps.push(Step { client, what, began, ended, error });
            }
            "lost" | "back" => {
                let [client, at, what] = fields(3).try_into().ok()?;
                let lost = Lost { client, at: at.parse().ok()?, what };
                if kind == "lost" { self.lost.push(lost) } else { self.back.push(lost) }
            }
            _ => return None,
        }
        Some(())
    }

    /// Takes in that of another client.
    pub fn merge(&mut self, other: Self) {
        self.publishes.extend(other.publishes);
        self.got.extend(other.got);
        self.steps.extend(other.steps);
        self.lost.extend(other.lost);
        self.back.extend(other.back);
    }
}
