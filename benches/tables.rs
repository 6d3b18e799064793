//! What one operation costs among a thousand and among a hundred thousand interests.

#![allow(missing_docs, reason = "the macros of criterion make public items")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up must stop")]

use std::io::IoSlice;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stanby::base::id::{LoopIndex, SessionId};
use stanby::base::time::Now;
use stanby::broker::settings::Cluster;
use stanby::broker::{Broker, ConnectionKind, Flow, Hello, Input, Settings};

const SIZES: [usize; 2] = [1_000, 100_000];

/// Operations of one measurement.
const BATCH: usize = 100;

fn session(slot: u32) -> SessionId {
    SessionId { home: LoopIndex(0), slot, generation: 0 }
}

fn say(broker: &mut Broker, slot: u32, text: &str) {
    let mut input = BytesMut::from(text.as_bytes());
    while broker.read(session(slot), &mut input, Now::default()) == Flow::Yielded {}
    drain(broker);
}

fn drain(broker: &mut Broker) {
    while let Some(id) = broker.poll_dirty() {
        let Some(outbox) = broker.outbox(id) else { continue };
        while !outbox.is_empty() {
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            outbox.slices(true, &mut slices);
            let len = slices.iter().map(|slice| slice.len()).sum();
            outbox.advance(len);
        }
    }
    while broker.poll_effect().is_some() {}
}

/// A broker with two clients, of which the second said `count` times `line`, and a route.
fn broker(count: usize, line: impl Fn(usize) -> String) -> Broker {
    let cluster = Cluster { name: "c".to_owned(), ..Cluster::default() };
    let settings = Settings { cluster: Some(cluster), ..Settings::default() };
    let mut broker = Broker::new(Arc::new(settings), LoopIndex(0), 1, Now::default());
    let peer = "127.0.0.1:4222".parse().expect("an address");
    for slot in 0..2 {
        let hello = Hello { peer, kind: ConnectionKind::Client };
        broker.handle(Input::Opened { session: session(slot), hello }, Now::default());
        let more = "\"headers\":true,\"no_responders\":true";
        say(&mut broker, slot, &format!("CONNECT {{\"verbose\":false,{more}}}\r\n"));
    }
    let hello = Hello { peer, kind: ConnectionKind::RouteAccepted };
    broker.handle(Input::Opened { session: session(2), hello }, Now::default());
    say(&mut broker, 2, "INFO {\"server_id\":\"NX\",\"server_name\":\"x\",\"cluster\":\"c\"}\r\n");
    let lines: String = (0..count).map(line).collect();
    say(&mut broker, 1, &lines);
    broker
}

type Line = fn(usize) -> String;

fn operations(criterion: &mut Criterion) {
    let inboxes: Line = |n| format!("SUB in.{n} {n}\r\n");
    let patterns: Line = |n| format!("SUB in.{n}.* {n}\r\n");
    let same: Line = |n| format!("SUB one {n}\r\n");
    let members: Line = |n| format!("SUB one q {n}\r\n");
    let queues: Line = |n| format!("SUB one q{n} {n}\r\n");
    let twice = "SUB one x\r\nUNSUB x\r\n";
    for (name, line, slot, text) in [
        ("an unheard request", inboxes, 1, "PUB svc in.none 0\r\n\r\n"),
        ("an unheard request among patterns", patterns, 1, "PUB svc in.5.x 0\r\n\r\n"),
        ("SUB and UNSUB on one subject", same, 0, twice),
        ("SUB and UNSUB in one queue", members, 0, "SUB one q x\r\nUNSUB x\r\n"),
        ("SUB and UNSUB of another queue", queues, 0, "SUB one p x\r\nUNSUB x\r\n"),
        ("PUB to a queue", members, 0, "PUB one 0\r\n\r\n"),
        ("RMSG for one of many queues", queues, 2, "RMSG $G one | q7 0\r\n\r\n"),
    ] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(BATCH as u64));
        for size in SIZES {
            let mut broker = broker(size, line);
            let batch = text.repeat(BATCH);
            group.bench_function(size.to_string(), |bencher| {
                bencher.iter(|| say(&mut broker, slot, &batch));
            });
        }
        group.finish();
    }
}

/// A peer comes with many URLs and goes.
fn urls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("INFO with URLs");
    for size in SIZES {
        let mut broker = broker(0, |_| String::new());
        let urls: Vec<String> = (0..size).map(|n| format!("\"10.1.1.1:{n}\"")).collect();
        let start = "INFO {\"server_id\":\"NY\",\"server_name\":\"y\",\"cluster\":\"c\"";
        let info = format!("{start},\"connect_urls\":[{}]}}\r\n", urls.join(","));
        let peer = "127.0.0.1:4222".parse().expect("an address");
        group.bench_function(size.to_string(), |bencher| {
            bencher.iter(|| {
                let hello = Hello { peer, kind: ConnectionKind::RouteAccepted };
                broker.handle(Input::Opened { session: session(3), hello }, Now::default());
                say(&mut broker, 3, &info);
                let reason = "Client Closed".to_owned();
                broker.handle(Input::Closed { session: session(3), reason }, Now::default());
                drain(&mut broker);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, operations, urls);
criterion_main!(benches);
