//! Bounded queue into another thread, with its Waker
//!
//! Mail of one sender arrives in the order in which it was sent, and what one thread sent first
//! to one mailbox and then to another is there before the second arrives: a letter is in its
//! queue when [`Sender::send`] or [`Sender::post`] returns.
//!
//! **How the bound holds.** Sending never waits and never fails for want of room, because what
//! travels here is either bounded by construction (interest, roles, `Committed`, accepted
//! sockets) or follows from bytes that a reactor read. For the latter each reactor looks at the
//! mailboxes of the others before it reads ([`Sender::is_full`]): while one holds more than
//! [`MAILBOX_LEN_MAX`] letters, or letters that are more than [`MAILBOX_WORK_MAX`] to do, it
//! handles no bytes, so a mailbox exceeds the bound by at most what one turn of each other reactor
//! makes of the bytes that it had already read. All reactors go on with taking their mail
//! meanwhile, so they cannot wait for each other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mio::{Registry, Token, Waker};

use crate::base::limits::{MAILBOX_LEN_MAX, MAILBOX_WORK_MAX};

/// What travels between threads.
pub trait Letter {
    /// What it is to do, in receivers of a message; always the same. 0 for what is done like the
    /// most: one message for one receiver.
    fn work(&self) -> usize;
}

/// Puts letters into a mailbox, from any thread.
#[derive(Debug)]
pub struct Sender<T> {
    queue: crossbeam_channel::Sender<T>,
    alarm: Arc<Alarm>,
}

/// Takes letters out of a mailbox.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: crossbeam_channel::Receiver<T>,
    alarm: Arc<Alarm>,
}

#[derive(Debug)]
struct Alarm {
    waker: Waker,
    /// What the letters in the queue are to do.
    work: AtomicUsize,
    /// Set by the first sender after the receiver last looked; only that one pays a system call.
    is_raised: AtomicBool,
    /// How often the waker was used: the kernel joins wake-ups, so events do not tell.
    #[cfg(test)]
    wake_count: std::sync::atomic::AtomicU64,
}

impl Alarm {
    fn new(waker: Waker) -> Self {
        Self {
            waker,
            work: AtomicUsize::new(0),
            is_raised: AtomicBool::new(false),
            #[cfg(test)]
            wake_count: std::sync::atomic::AtomicU64::new(0),
        }
    }
}

/// The mailbox of the thread that polls `registry`; a letter wakes it with an event of `token`.
///
/// # Errors
/// When the system has no descriptor left for the wake-up.
pub fn mailbox<T>(registry: &Registry, token: Token) -> io::Result<(Sender<T>, Receiver<T>)> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let waker = Waker::new(registry, token)?;
    let alarm = Arc::new(Alarm::new(waker));
    Ok((Sender { queue: sender, alarm: Arc::clone(&alarm) }, Receiver { queue: receiver, alarm }))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), alarm: Arc::clone(&self.alarm) }
    }
}

impl<T: Letter> Sender<T> {
    /// Puts `letter` into the mailbox and wakes its owner; false if the owner is gone.
    pub fn send(&self, letter: T) -> bool {
        let has_reader = self.post(letter);
        self.wake();
        has_reader
    }

    /// Puts `letter` into the mailbox; false if the owner is gone. Its owner may sleep on until
    /// [`Sender::wake`] is called, which the caller owes it before it sleeps itself.
    pub fn post(&self, letter: T) -> bool {
        let work = letter.work();
        if work > 0 {
            self.alarm.work.fetch_add(work, Ordering::Relaxed);
        }
        self.queue.send(letter).is_ok()
    }

    /// Wakes the owner, unless somebody did since it last looked.
    ///
    /// # Panics
    /// When the kernel refuses the wake-up: the owner would sleep on mail for ever.
    pub fn wake(&self) {
        // Both sides exchange the flag: either the receiver's exchange comes later and sees the
        // letter, or ours comes later, finds the flag down and wakes it.
        if !self.alarm.is_raised.swap(true, Ordering::AcqRel) {
            #[cfg(test)]
            self.alarm.wake_count.fetch_add(1, Ordering::Relaxed);
            self.alarm.waker.wake().expect("an eventfd can always be written");
        }
    }

    /// Whether the owner has so much to do that nothing more should be read for it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        MAILBOX_LEN_MAX < self.queue.len()
            || MAILBOX_WORK_MAX < self.alarm.work.load(Ordering::Relaxed)
    }
}

impl<T: Letter> Receiver<T> {
    /// How many letters there are now; [`Receiver::take`] gives at least so many.
    ///
    /// Whatever is sent after this call raises the alarm again.
    #[must_use]
    pub fn open(&self) -> usize {
        self.alarm.is_raised.swap(false, Ordering::AcqRel);
        self.queue.len()
    }

    /// The next letter.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        let letter = self.queue.try_recv().ok()?;
        let work = letter.work();
        if work > 0 {
            self.alarm.work.fetch_sub(work, Ordering::Relaxed);
        }
        Some(letter)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::thread;
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    impl Letter for usize {
        fn work(&self) -> usize {
            *self
        }
    }

    impl Letter for (usize, u64) {
        fn work(&self) -> usize {
            0
        }
    }

    impl Letter for () {
        fn work(&self) -> usize {
            0
        }
    }

    const TOKEN: Token = Token(5);
    const PATIENCE: Duration = Duration::from_secs(30);

    fn wake_ups<T: Letter>(sender: &Sender<T>) -> u64 {
        sender.alarm.wake_count.load(Ordering::Relaxed)
    }

    /// Goal: nothing is lost, nothing overtakes within a sender, and the owner never sleeps on
    /// mail; a lost wake-up would hang this test.
    #[test]
    fn four_threads_fill_one_mailbox_and_every_letter_arrives_in_order() {
        const LETTERS: u64 = 50_000;
        let mut poll = Poll::new().unwrap();
        let (sender, receiver) = mailbox(poll.registry(), TOKEN).unwrap();
        let threads: Vec<_> = (0..4_usize)
            .map(|writer| {
                let sender = sender.clone();
                thread::spawn(move || (0..LETTERS).for_each(|n| assert!(sender.send((writer, n)))))
            })
            .collect();
        let mut expected = [0; 4];
        let mut events = Events::with_capacity(8);
        let mut looks = 0;
        while expected.iter().sum::<u64>() < 4 * LETTERS {
            poll.poll(&mut events, Some(PATIENCE)).unwrap();
            assert!(!events.is_empty(), "the owner sleeps on {expected:?}");
            looks += 1;
            for _ in 0..receiver.open() {
                let (writer, n) = receiver.take().unwrap();
                assert_eq!(n, expected[writer]);
                expected[writer] += 1;
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(receiver.open(), 0);
        let wake_ups = wake_ups(&sender);
        assert!(wake_ups <= looks + 1, "{wake_ups} system calls for {looks} looks");
    }

    #[test]
    fn many_letters_before_a_look_are_one_wake_up() {
        let mut poll = Poll::new().unwrap();
        let (sender, receiver) = mailbox(poll.registry(), TOKEN).unwrap();
        (0..100).for_each(|n| assert!(sender.send(n)));
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        assert_eq!(events.iter().count(), 1);
        assert_eq!(wake_ups(&sender), 1);
        assert_eq!(receiver.open(), 100);
        assert_eq!(receiver.take(), Some(0));
        assert!(sender.send(100));
        assert_eq!(wake_ups(&sender), 2, "what comes after a look wakes again");
    }

    #[test]
    fn posted_letters_wait_for_one_wake_up() {
        let mut poll = Poll::new().unwrap();
        let (sender, receiver) = mailbox(poll.registry(), TOKEN).unwrap();
        let mut events = Events::with_capacity(8);
        (0..100).for_each(|n| assert!(sender.post(n)));
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty());
        sender.wake();
        sender.wake();
        assert_eq!(wake_ups(&sender), 1);
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        assert_eq!(events.iter().count(), 1);
        assert_eq!(receiver.open(), 100);
    }

    #[test]
    fn a_mailbox_is_full_beyond_its_bound_and_a_gone_owner_is_noticed() {
        let poll = Poll::new().unwrap();
        let (sender, receiver) = mailbox(poll.registry(), TOKEN).unwrap();
        (0..MAILBOX_LEN_MAX).for_each(|_| assert!(sender.send(())));
        assert!(!sender.is_full());
        assert!(sender.send(()));
        assert!(sender.is_full());
        assert_eq!(receiver.take(), Some(()));
        assert!(!sender.is_full());
        drop(receiver);
        assert!(!sender.send(()));
    }

    /// Goal: letters of which each is for many receivers fill a mailbox before they are many.
    #[test]
    fn a_mailbox_is_full_of_few_letters_that_are_much_to_do() {
        let poll = Poll::new().unwrap();
        let (sender, receiver) = mailbox(poll.registry(), TOKEN).unwrap();
        let half = MAILBOX_WORK_MAX / 2;
        (0..2).for_each(|_| assert!(sender.send(half)));
        assert!(!sender.is_full());
        assert!(sender.send(1));
        assert!(sender.is_full());
        assert_eq!(receiver.take(), Some(half));
        assert!(!sender.is_full());
    }
}
