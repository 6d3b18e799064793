//! Holds passwords against their hashes, away from the event loops: a hash may cost seconds
//!
//! Each connection has one question at most, and is not read until it is answered, so the bound of
//! connections is that of the questions. They are answered in turns by address: who asks a
//! thousand times makes those wait who share its address, and all others for one answer.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, TryRecvError};

use crate::broker::asked::Asked;
use crate::broker::auth;

/// Dropped questions of one address are looked for when it has more than so many.
const SWEEP_LEN_MIN: usize = 64;

/// Someone's password, and what it is to be held against.
pub struct Secret {
    /// Whether a route gave it, and from which address.
    pub on_behalf: (bool, IpAddr),
    /// What it gave.
    pub password: String,
    /// What is known.
    pub hash: String,
    /// Whether somebody waits for the answer.
    pub asked: Arc<Asked>,
}

/// One password to be held against a hash.
pub struct Question {
    /// Password and hash.
    pub secret: Secret,
    /// Called on the thread that did the work; must not block.
    pub answer: Box<dyn FnOnce(bool) + Send>,
}

/// Hands passwords to the thread that looks at them; the thread ends with the last handle.
#[derive(Clone)]
pub struct Passwords {
    questions: crossbeam_channel::Sender<Question>,
}

impl Passwords {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start() -> io::Result<Self> {
        let (questions, waiting) = crossbeam_channel::unbounded::<Question>();
        // Never joined: a hash of the highest cost takes longer than anybody waits for an end.
        let name = "stanby-passwords".to_owned();
        thread::Builder::new().name(name).spawn(move || look_at_all(&waiting))?;
        Ok(Self { questions })
    }

    /// Asks. The answer comes, unless the question is dropped before its turn.
    pub fn ask(&self, question: Question) {
        // The thread ends after the last handle only.
        let _has_reader = self.questions.send(question);
    }
}

fn look_at_all(waiting: &Receiver<Question>) {
    let mut turns = Turns::default();
    while let Ok(question) = waiting.recv() {
        turns.push(question);
        loop {
            match waiting.try_recv() {
                Ok(question) => {
                    turns.push(question);
                    continue;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => (),
            }
            let Some(Question { secret, answer }) = turns.next() else { break };
            answer(auth::is_password_of(&secret.hash, &secret.password));
        }
    }
}

/// Whose turn it is.
type Share = (bool, IpAddr);

/// Questions that wait; those who share an address share its turns.
#[derive(Default)]
struct Turns {
    by_share: BTreeMap<Share, Waiting>,
    order: VecDeque<Share>,
}

#[derive(Default)]
struct Waiting {
    questions: VecDeque<Question>,
    /// At this length dropped ones are taken out.
    sweep_at: usize,
}

impl Turns {
    fn push(&mut self, question: Question) {
        let share = share_of(question.secret.on_behalf);
        let waiting = self.by_share.entry(share).or_insert_with(|| {
            self.order.push_back(share);
            Waiting { sweep_at: SWEEP_LEN_MIN, ..Waiting::default() }
        });
        waiting.questions.push_back(question);
        if waiting.sweep_at <= waiting.questions.len() {
            waiting.questions.retain(|question| question.secret.asked.waits());
            waiting.sweep_at = SWEEP_LEN_MIN + 2 * waiting.questions.len();
        }
    }

    /// Takes out the next question that somebody waits for; its work begins.
    fn next(&mut self) -> Option<Question> {
        while let Some(share) = self.order.pop_front() {
            let Some(waiting) = self.by_share.get_mut(&share) else { continue };
            let found = loop {
                match waiting.questions.pop_front() {
                    Some(question) if !question.secret.asked.begin() => (),
                    other => break other,
                }
            };
            if waiting.questions.is_empty() {
                self.by_share.remove(&share);
            } else {
                self.order.push_back(share);
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// Who has one address of a network of IPv6 has all that begin alike.
fn share_of((is_route, address): Share) -> Share {
    let network = match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        },
    };
    (is_route, network)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn question(from: &str, password: &str, hash: &str) -> (Question, Arc<Asked>) {
        let asked = Arc::new(Asked::default());
        let secret = Secret {
            on_behalf: (false, from.parse().unwrap()),
            password: password.to_owned(),
            hash: hash.to_owned(),
            asked: Arc::clone(&asked),
        };
        (Question { secret, answer: Box::new(|_| ()) }, asked)
    }

    #[test]
    fn right_and_wrong_passwords_are_told_apart() {
        let passwords = Passwords::start().unwrap();
        let hash = bcrypt::hash("right", 4).unwrap();
        for (password, hash, expected) in
            [("right", hash.as_str(), true), ("wrong", &hash, false), ("right", "$2a$04$x", false)]
        {
            let (tell, told) = crossbeam_channel::bounded(1);
            let (mut question, _) = question("127.0.0.1", password, hash);
            question.answer = Box::new(move |is_right| tell.send(is_right).unwrap());
            passwords.ask(question);
            assert_eq!(told.recv().unwrap(), expected);
        }
    }

    /// Goal: one address cannot make another one wait for more than one answer.
    #[test]
    fn addresses_take_turns() {
        let mut turns = Turns::default();
        for number in 0..2_000 {
            turns.push(question("10.0.0.1", &number.to_string(), "").0);
        }
        turns.push(question("10.0.0.2", "other", "").0);
        turns.push(question("2001:db8::1", "six", "").0);
        turns.push(question("2001:db8::2", "same network", "").0);
        let order: Vec<_> = (0..6).map(|_| turns.next().unwrap().secret.password).collect();
        assert_eq!(order, ["0", "other", "six", "1", "same network", "2"]);
        let left = std::iter::from_fn(|| turns.next()).count();
        assert_eq!(left, 1_997, "nothing is lost, however much waits");
        assert!(turns.by_share.is_empty() && turns.order.is_empty());
    }

    #[test]
    fn questions_of_closed_connections_are_dropped() {
        let mut turns = Turns::default();
        for _ in 0..10_000 {
            let (question, asked) = question("10.0.0.1", "gone", "");
            turns.push(question);
            assert!(asked.drop_unbegun());
        }
        let (last, asked) = question("10.0.0.1", "here", "");
        turns.push(last);
        assert!(turns.by_share.values().all(|waiting| waiting.questions.len() <= 200));
        assert_eq!(turns.next().unwrap().secret.password, "here");
        assert!(!asked.drop_unbegun(), "who has begun answers");
        assert!(turns.next().is_none());
    }
}
