//! The path of a core message: parsing, matching, into the receivers' outboxes.

#![allow(missing_docs, reason = "the macros of criterion make public items")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up must stop")]

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stanby::base::id::{LoopIndex, SessionId};
use stanby::base::time::Now;
use stanby::broker::{Broker, ConnectionKind, Flow, Hello, Input, Settings};
use stanby::wire::{Limits, Parsed, Side, parse};

const BATCH: usize = 1000;

fn parser(criterion: &mut Criterion) {
    let client = Limits {
        side: Side::Client,
        control_line_max: 4096,
        payload_max: 1024 * 1024,
        has_headers: true,
    };
    let mut group = criterion.benchmark_group("parse");
    for (name, limits, bytes) in [
        ("PUB", client, &b"PUB orders.eu.new _INBOX.abcdef.1 16\r\n0123456789abcdef\r\n"[..]),
        ("RMSG", Limits::route(), b"RMSG $G orders.eu.new 16\r\n0123456789abcdef\r\n"),
        ("SUB", client, b"SUB orders.*.new workers 1\r\n"),
    ] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let parsed = parse(black_box(bytes), &limits);
                assert!(matches!(parsed, Ok(Parsed::Op { .. })));
            });
        });
    }
    group.finish();
}

fn session(slot: u32) -> SessionId {
    SessionId { home: LoopIndex(0), slot, generation: 0 }
}

/// A broker with `receivers` that listen to one subject, and a sender in slot 0.
fn broker(receivers: u32) -> Broker {
    let now = Now::default();
    let mut broker = Broker::new(Arc::new(Settings::default()), LoopIndex(0), 1, now);
    let peer = "127.0.0.1:4222".parse().expect("an address");
    for slot in 0..=receivers {
        let hello = Hello { peer, kind: ConnectionKind::Client };
        broker.handle(Input::Opened { session: session(slot), hello }, now);
        let mut hello = BytesMut::from("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
        if slot > 0 {
            hello.extend_from_slice(b"SUB orders.eu.new 1\r\n");
        }
        let _ = broker.read(session(slot), &mut hello, now);
    }
    broker
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

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    for (receivers, size) in [(1, 16), (1, 4096), (100, 16), (100, 4096)] {
        let one = format!("PUB orders.eu.new {size}\r\n{}\r\n", "x".repeat(size));
        let batch = one.repeat(BATCH);
        let mut broker = broker(receivers);
        drain(&mut broker);
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(format!("{size} B to {receivers}"), |bencher| {
            bencher.iter(|| {
                let mut input = BytesMut::from(batch.as_bytes());
                while broker.read(session(0), &mut input, Now::default()) == Flow::Yielded {}
                drain(&mut broker);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parser, publish);
criterion_main!(benches);
