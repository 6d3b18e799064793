//! random but legal clients, with everything shuffled that has no promised order

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::base::id::Subject;
use crate::base::random::Random;

const CLIENTS: [&str; 3] = ["ann", "bob", "cid"];
const CHANNELS: [&str; 4] = ["foo", "bar.baz", "orders", "x"];
const STEPS: usize = 250;

/// One subscription as its client sees it.
struct Sub {
    client: &'static str,
    channel: &'static str,
    inbox: String,
    is_plain: bool,
    /// Whether it reads from the first message on, and was never ended.
    is_whole: bool,
    unacked: Vec<u64>,
    seen: BTreeSet<u64>,
    last_first: u64,
}

struct Story {
    server: Script,
    random: Random,
    connected: BTreeSet<&'static str>,
    subs: Vec<Sub>,
    publishes: Vec<(Subject, &'static str, String)>,
    acked: BTreeMap<&'static str, BTreeSet<String>>,
    is_holding: bool,
    count: usize,
}

impl Story {
    fn new(loops: u16, seed: u64) -> Self {
        let mut server = Script::new(loops);
        server.shuffle(seed);
        let mut story = Self {
            server,
            random: Random::new(seed ^ 0x5eed),
            connected: BTreeSet::new(),
            subs: Vec::new(),
            publishes: Vec::new(),
            acked: BTreeMap::new(),
            is_holding: false,
            count: 0,
        };
        for client in CLIENTS {
            story.connect(client);
        }
        story
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.random.below(of.len() as u64)).unwrap()]
    }

    fn connect(&mut self, client: &'static str) {
        self.server.connect(client);
        self.connected.insert(client);
    }

    fn publish(&mut self) {
        let (client, channel) = (self.pick(&CLIENTS), self.pick(&CHANNELS));
        if !self.connected.contains(client) {
            return;
        }
        self.count += 1;
        let data = format!("m{}", self.count);
        let reply = self.server.hand_in_publish(client, channel, &data);
        self.publishes.push((reply, channel, data));
    }

    fn subscribe(&mut self) {
        let (client, channel) = (self.pick(&CLIENTS), self.pick(&CHANNELS));
        if !self.connected.contains(client) || self.is_holding {
            return;
        }
        self.count += 1;
        let inbox = format!("s{}", self.count);
        let queue = self.pick(&["", "", "q"]);
        let durable = self.pick(&["", "", "d"]);
        let start = self.pick(&[StartPosition::First, StartPosition::NewOnly]);
        let options = Options {
            queue,
            durable,
            start,
            in_flight_max: self.pick(&[1, 3, 1_000]),
            ack_wait: self.pick(&[1, 5, 30]),
            ..options()
        };
        let error = self.server.try_subscribe(client, channel, &inbox, &options);
        if error == "stan: duplicate durable registration" {
            return;
        }
        assert_eq!(error, "");
        let is_plain = queue.is_empty();
        let is_whole = is_plain && durable.is_empty() && start == StartPosition::First;
        let (unacked, seen) = (Vec::new(), BTreeSet::new());
        self.subs.push(Sub {
            client,
            channel,
            inbox,
            is_plain,
            is_whole,
            unacked,
            seen,
            last_first: 0,
        });
    }

    fn leave(&mut self) {
        if self.subs.is_empty() || self.is_holding {
            return;
        }
        let index = usize::try_from(self.random.below(self.subs.len() as u64)).unwrap();
        let service = self.pick(&[Service::Unsubscribe, Service::SubscriptionClose]);
        let sub = self.subs.remove(index);
        assert_eq!(self.server.leave(service, sub.client, sub.channel, &sub.inbox), "");
        self.look();
    }

    fn close(&mut self) {
        let client = self.pick(&CLIENTS);
        if self.is_holding || !self.connected.remove(client) {
            return;
        }
        assert_eq!(self.server.close(client), "");
        self.look();
        self.subs.retain(|sub| sub.client != client);
    }

    fn ack(&mut self) {
        self.look();
        for index in 0..self.subs.len() {
            let keep_count = self.random.below(4);
            let sub = &mut self.subs[index];
            while keep_count < sub.unacked.len() as u64 {
                let sequence = sub.unacked.remove(0);
                self.server.hand_in_ack(&sub.inbox, sub.channel, sequence);
            }
        }
    }

    /// Takes note of what was delivered and acked.
    fn look(&mut self) {
        for (inbox, sequence, count) in self.server.deliveries() {
            let Some(sub) = self.subs.iter_mut().find(|sub| sub.inbox == inbox) else {
                continue;
            };
            if sub.is_plain && count == 0 {
                assert!(sub.last_first < sequence, "{inbox}: {sequence} after {}", sub.last_first);
                sub.last_first = sequence;
            }
            sub.seen.insert(sequence);
            sub.unacked.push(sequence);
        }
        for (reply, channel, data) in std::mem::take(&mut self.publishes) {
            match self.server.publish_error(&reply).as_str() {
                "?" => self.publishes.push((reply, channel, data)),
                "" => assert!(self.acked.entry(channel).or_default().insert(data)),
                error => panic!("{error}"),
            }
        }
    }

    fn restart(&mut self) {
        self.server.run();
        self.look();
        self.publishes.clear();
        for sub in &mut self.subs {
            // A delivery that was not recorded may come again as a first one.
            sub.last_first = 0;
        }
        self.is_holding = false;
        self.server.release();
        self.server.restart();
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => self.publish(),
            40..52 => self.subscribe(),
            52..56 => self.leave(),
            56..58 => self.close(),
            58..78 => self.ack(),
            78..84 => {
                let millis = self.random.below(10_000);
                self.server.pass(Duration::from_millis(millis));
            }
            84..88 if !self.is_holding => {
                self.is_holding = true;
                self.server.hold_commits();
            }
            88..96 if self.is_holding => {
                self.is_holding = false;
                self.server.release();
            }
            96..97 => self.restart(),
            _ => {
                for client in CLIENTS {
                    if !self.is_holding && !self.connected.contains(client) {
                        self.connect(client);
                    }
                }
            }
        }
        if self.random.below(3) == 0 {
            self.server.run();
            self.look();
        }
    }

    /// What must hold when everything has come to rest.
    fn check(&mut self) {
        self.is_holding = false;
        self.server.release();
        // Every message that is pending somewhere goes out once more, and is acked.
        for _ in 0..60 {
            self.server.pass_secs(2);
            self.look();
            for index in 0..self.subs.len() {
                let sub = &mut self.subs[index];
                for sequence in std::mem::take(&mut sub.unacked) {
                    self.server.hand_in_ack(&sub.inbox, sub.channel, sequence);
                }
            }
            self.server.run();
        }
        self.look();
        assert!(self.publishes.is_empty(), "every publish is answered");
        for channel in CHANNELS {
            let contents = self.server.contents(channel);
            let unique: BTreeSet<&String> = contents.iter().collect();
            assert_eq!(unique.len(), contents.len(), "{channel}: stored once");
            for data in self.acked.get(channel).into_iter().flatten() {
                assert!(unique.contains(data), "{channel}: {data} was acked and is lost");
            }
            let all: BTreeSet<u64> = (1..=contents.len() as u64).collect();
            for sub in self.subs.iter().filter(|sub| sub.is_whole && sub.channel == channel) {
                assert_eq!(sub.seen, all, "{}: everything at least once", sub.inbox);
            }
        }
        let snapshot = self.server.snapshot();
        for channel in &snapshot.channels {
            for found in channel.subscriptions.iter().filter(|found| !found.is_offline) {
                assert_eq!(found.pending_count, 0, "{}: {found:?}", channel.channel);
            }
        }
    }
}

/// Goal: P1, P4 and P5 hold whatever the clients do, in whatever order things arrive.
#[test]
fn random_clients_lose_nothing() {
    for loops in [1, 2, 4] {
        for seed in 0..25 {
            let mut story = Story::new(loops, seed);
            for _ in 0..STEPS {
                story.step();
            }
            story.check();
        }
    }
}
