//! Read turns, write turns and deadlines over real sockets.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::{TcpListener, TcpStream as Peer};
use std::thread;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

use super::*;
use crate::base::limits::READ_BUDGET_BYTES;

/// One connection in a poll, with the socket of its peer.
struct Wire {
    poll: Poll,
    connection: Connection,
    peer: Peer,
    pool: ReadPool,
}

impl Wire {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, address) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = TcpStream::from_std(socket);
        let mut connection = Connection::new(socket, address, ConnectionKind::Client);
        let poll = Poll::new().unwrap();
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut connection.socket, Token(1), interest).unwrap();
        Self { poll, connection, peer, pool: ReadPool::default() }
    }

    /// Waits until an event makes `is_reached` true.
    fn wait(&mut self, is_reached: impl Fn(&Connection) -> bool) {
        let mut events = Events::with_capacity(8);
        while !is_reached(&self.connection) {
            self.poll.poll(&mut events, Some(Duration::from_secs(30))).unwrap();
            assert!(!events.is_empty(), "no event came");
            events.iter().for_each(|event| self.connection.on_event(event));
        }
    }

    fn read(&mut self) -> Turn {
        self.connection.read_turn(&mut self.pool)
    }

    /// Reads until the connection holds `len` bytes.
    fn read_len(&mut self, len: usize) {
        while self.connection.input.len() < len {
            self.wait(Connection::can_read);
            assert!(!matches!(self.read(), Turn::Ended(_)));
        }
    }
}

#[test]
fn a_short_read_drains_and_the_next_bytes_raise_an_edge() {
    let mut wire = Wire::new();
    for text in ["PING\r\n", "PONG\r\n"] {
        wire.peer.write_all(text.as_bytes()).unwrap();
        wire.wait(Connection::can_read);
        assert!(matches!(wire.read(), Turn::Drained));
        assert_eq!(wire.connection.input, text.as_bytes());
        assert!(!wire.connection.can_read());
        wire.connection.input.clear();
        wire.connection.shrink_input();
        assert_eq!(wire.connection.input.capacity(), 0);
    }
}

#[test]
fn one_turn_reads_no_more_than_its_budget_and_loses_nothing() {
    const LEN: usize = 3 * READ_BUDGET_BYTES;
    let mut wire = Wire::new();
    let mut peer = wire.peer.try_clone().unwrap();
    let writer = thread::spawn(move || {
        let bytes: Vec<u8> = (0..LEN).map(|n| n.to_le_bytes()[0]).collect();
        peer.write_all(&bytes).unwrap();
    });
    while wire.connection.input.len() < LEN {
        wire.wait(Connection::can_read);
        let before = wire.connection.input.len();
        match wire.read() {
            Turn::BudgetSpent => assert!(wire.connection.can_read()),
            Turn::Drained => assert!(!wire.connection.can_read()),
            Turn::Ended(end) => panic!("{end}"),
        }
        assert!(wire.connection.input.len() - before <= READ_BUDGET_BYTES);
    }
    writer.join().unwrap();
    let read = wire.connection.input.iter().zip(0_usize..);
    assert!(read.into_iter().all(|(byte, n)| *byte == n.to_le_bytes()[0]));
}

#[test]
fn the_last_words_of_a_peer_are_read_before_its_end() {
    let mut wire = Wire::new();
    wire.peer.write_all(b"PING\r\n").unwrap();
    wire.peer.shutdown(std::net::Shutdown::Write).unwrap();
    let end = loop {
        wire.wait(Connection::can_read);
        if let Turn::Ended(end) = wire.read() {
            break end;
        }
    };
    assert_eq!(end.to_string(), "Client Closed");
    assert_eq!(&wire.connection.input[..], b"PING\r\n");
}

#[test]
fn a_paused_connection_is_not_read() {
    let mut wire = Wire::new();
    wire.peer.write_all(b"PUB a 1\r\nx\r\n").unwrap();
    wire.wait(Connection::can_read);
    wire.connection.notes.is_paused = true;
    assert!(!wire.connection.can_read());
    wire.connection.notes.is_paused = false;
    assert!(wire.connection.can_read());
}

#[test]
fn a_small_rest_does_not_hold_the_block_that_others_share() {
    let mut wire = Wire::new();
    wire.peer.write_all(&[b'x'; 40_000]).unwrap();
    wire.read_len(40_000);
    let _handled = wire.connection.input.split_to(39_990);
    wire.connection.shrink_input();
    assert_eq!(&wire.connection.input[..], b"xxxxxxxxxx");
    assert!(wire.connection.input.capacity() < 100);
}
