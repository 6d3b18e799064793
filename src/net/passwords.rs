//! Holds passwords against their hashes, away from the event loops: a hash may cost seconds

use std::io;
use std::thread;

use crate::broker::auth;

/// Passwords that wait; more of them are refused, because nobody waits that long.
const QUESTIONS_MAX: usize = 1_024;

/// One password to be held against a hash.
pub struct Question {
    /// What the client gave.
    pub password: String,
    /// What is known.
    pub hash: String,
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
        let (questions, waiting) = crossbeam_channel::bounded::<Question>(QUESTIONS_MAX);
        let look_at_all = move || {
            for question in waiting {
                (question.answer)(auth::is_password_of(&question.hash, &question.password));
            }
        };
        // Never joined: a hash of the highest cost takes longer than anybody waits for an end.
        thread::Builder::new().name("stanby-passwords".to_owned()).spawn(look_at_all)?;
        Ok(Self { questions })
    }

    /// Asks; false if too many wait already.
    #[must_use]
    pub fn ask(&self, question: Question) -> bool {
        self.questions.try_send(question).is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn right_and_wrong_passwords_are_told_apart() {
        let passwords = Passwords::start().unwrap();
        let hash = bcrypt::hash("right", 4).unwrap();
        for (password, hash, expected) in
            [("right", hash.as_str(), true), ("wrong", &hash, false), ("right", "$2a$04$x", false)]
        {
            let (tell, told) = crossbeam_channel::bounded(1);
            let (password, hash) = (password.to_owned(), hash.to_owned());
            let answer = Box::new(move |is_right| tell.send(is_right).unwrap());
            assert!(passwords.ask(Question { password, hash, answer }));
            assert_eq!(told.recv().unwrap(), expected);
        }
    }
}
