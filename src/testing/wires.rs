//! Connections in memory: bytes travel with delays, in order; a network parts, a peer dies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::base::id::LoopIndex;
use crate::base::random::Random;
use crate::base::time::Instant;

/// Who is on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A member of the group, by number.
    Member(usize),
    /// A client program, by number.
    Client(usize),
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Of which connection.
    pub connection: u32,
    /// Who opened it has side 0.
    pub side: usize,
}

impl End {
    fn other(self) -> usize {
        1 - self.side
    }
}

/// What a socket has for its owner.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Bytes, in order.
    pub bytes: Vec<Bytes>,
    /// Nothing comes any more.
    pub is_over: bool,
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<(Instant, Bytes)>,
    len: usize,
    /// The sender has closed it.
    is_over: bool,
    /// Its reader takes so many bytes at most each time, and only now and then.
    is_slow: bool,
}

#[derive(Debug)]
struct Connection {
    nodes: [Node; 2],
    /// The loop at the end of each side that is a member.
    loops: [LoopIndex; 2],
    /// What each side has sent.
    pipes: [Pipe; 2],
}

/// All connections of a simulated group.
#[derive(Debug, Default)]
pub struct Wires {
    count: u32,
    connections: BTreeMap<u32, Connection>,
    /// Who does not hear each other until when; the smaller one first.
    parted: BTreeMap<(Node, Node), Instant>,
}

/// Longest way of some bytes.
const DELAY_MAX: Duration = Duration::from_millis(4);
/// What may be on its way in one direction; more does not leave the sender.
const PIPE_MAX: usize = 64 * 1024;
/// What a slow reader takes at a time.
const SLOW_READ_BYTES: usize = 256;

impl Wires {
    /// Connects two nodes; `loops` are those of a member's side.
    pub fn open(&mut self, nodes: [Node; 2], loops: [LoopIndex; 2]) -> u32 {
        self.count += 1;
        let pipes = [Pipe::default(), Pipe::default()];
        self.connections.insert(self.count, Connection { nodes, loops, pipes });
        self.count
    }

    /// Who is at the other end, if the connection is there.
    #[must_use]
    pub fn peer(&self, end: End) -> Option<Node> {
        Some(self.connections.get(&end.connection)?.nodes[end.other()])
    }

    /// How many bytes an end can send now.
    #[must_use]
    pub fn room(&self, end: End) -> usize {
        let connection = self.connections.get(&end.connection);
        connection.map_or(0, |found| PIPE_MAX.saturating_sub(found.pipes[end.side].len))
    }

    /// Sends bytes, which arrive after a random time, never before those sent earlier.
    pub fn send(&mut self, end: End, bytes: Bytes, now: Instant, random: &mut Random) {
        let delay_max = u64::try_from(DELAY_MAX.as_nanos()).unwrap_or(u64::MAX);
        let at = now + Duration::from_nanos(random.below(delay_max));
        let Some(found) = self.connections.get_mut(&end.connection) else { return };
        let pipe = &mut found.pipes[end.side];
        let at = pipe.chunks.back().map_or(at, |(last, _)| at.max(*last));
        pipe.len += bytes.len();
        pipe.chunks.push_back((at, bytes));
    }

    /// Takes what has arrived at an end.
    pub fn receive(&mut self, end: End, now: Instant, random: &mut Random) -> Arrived {
        let mut arrived = Arrived::default();
        let Some(found) = self.connections.get_mut(&end.connection) else {
            return Arrived { is_over: true, ..arrived };
        };
        if self.parted.get(&pair(found.nodes)).is_some_and(|until| now < *until) {
            return arrived;
        }
        let pipe = &mut found.pipes[end.other()];
        let mut budget = usize::MAX;
        if pipe.is_slow {
            budget = if random.below(16) == 0 { SLOW_READ_BYTES } else { 0 };
        }
        while 0 < budget && pipe.chunks.front().is_some_and(|(at, _)| *at <= now) {
            let Some((at, mut bytes)) = pipe.chunks.pop_front() else { break };
            if budget < bytes.len() {
                let rest = bytes.split_off(budget);
                pipe.chunks.push_front((at, rest));
            }
            budget -= bytes.len();
            pipe.len -= bytes.len();
            arrived.bytes.push(bytes);
        }
        arrived.is_over = pipe.is_over && pipe.chunks.is_empty();
        arrived
    }

    /// One side closes: the other still gets what is on its way.
    pub fn close(&mut self, end: End) {
        let Some(found) = self.connections.get_mut(&end.connection) else { return };
        found.pipes[end.side].is_over = true;
        found.pipes[end.other()].chunks.clear();
        if found.pipes.iter().all(|pipe| pipe.is_over) {
            self.connections.remove(&end.connection);
        }
    }

    /// What connects two nodes breaks: what is on its way is lost. False if nothing does.
    pub fn cut(&mut self, [one, other]: [Node; 2]) -> bool {
        let count = self.connections.len();
        self.connections.retain(|_, found| pair(found.nodes) != pair([one, other]));
        self.connections.len() < count
    }

    /// A node dies: its sockets are closed by the kernel, or, if the machine is gone, forgotten.
    pub fn kill(&mut self, node: Node, is_machine_gone: bool) {
        for (connection, side) in self.ends_of(node) {
            if is_machine_gone {
                self.connections.remove(&connection);
            } else {
                self.close(End { connection, side });
            }
        }
    }

    fn ends_of(&self, node: Node) -> Vec<(u32, usize)> {
        let sides = self.connections.iter().flat_map(|(number, found)| {
            (0..2).filter(|side| found.nodes[*side] == node).map(|side| (*number, side))
        });
        sides.collect()
    }

    /// The ends of one loop of a member, of connections that are there.
    #[must_use]
    pub fn of_loop(&self, node: Node, home: LoopIndex) -> BTreeSet<End> {
        let all = self.ends_of(node).into_iter();
        all.map(|(connection, side)| End { connection, side })
            .filter(|end| self.connections[&end.connection].loops[end.side] == home)
            .collect()
    }

    /// Two nodes do not hear each other until then.
    pub fn part(&mut self, nodes: [Node; 2], until: Instant) {
        self.parted.insert(pair(nodes), until);
    }

    /// Whether two nodes hear each other.
    #[must_use]
    pub fn can_reach(&self, nodes: [Node; 2], now: Instant) -> bool {
        self.parted.get(&pair(nodes)).is_none_or(|until| *until <= now)
    }

    /// Whoever is on a client's side of this connection reads slowly, or no longer.
    pub fn set_slow(&mut self, end: End, is_slow: bool) {
        if let Some(found) = self.connections.get_mut(&end.connection) {
            found.pipes[end.other()].is_slow = is_slow;
        }
    }

    /// All faults end.
    pub fn heal(&mut self) {
        self.parted.clear();
        let connections = self.connections.values_mut();
        connections.flat_map(|found| &mut found.pipes).for_each(|pipe| pipe.is_slow = false);
    }
}

fn pair([one, other]: [Node; 2]) -> (Node, Node) {
    (one.min(other), one.max(other))
}
