//! Memory: clients by the thousand, channels by the thousand, readers that never read.
//!
//! A reduced size by default; `STANBY_MEMORY=full` measures the sizes that are promised.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(clippy::print_stdout, reason = "figures are printed, not asserted")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use prost::Message as _;
use stanby::base::limits;
use stanby::proto::pb;

use server::{Launch, Server, wait_for};
use stan::{Stan, all};
use wire::{Conn, connect, publish};

const MIB: u64 = 1_024;

/// Descriptors that the largest size needs on either side.
const DESCRIPTORS: u64 = 12_000;

/// One test at a time: each fills the machine.
static ALONE: Mutex<()> = Mutex::new(());

fn is_full() -> bool {
    std::env::var("STANBY_MEMORY").is_ok_and(|size| size == "full")
}

/// How many of what is promised for ten thousand; fewer where descriptors are short.
fn count() -> usize {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.min(most), most).unwrap();
    let wanted = if is_full() { 10_000 } else { 1_000 };
    assert!(wanted + 1_000 <= most, "this needs {wanted} descriptors, and {most} are allowed");
    usize::try_from(wanted).unwrap()
}

fn start(launch: Launch) -> Server {
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    launch.through(&["prlimit", &limit]).start()
}

/// What is allowed for `count` of ten thousand that may take `mib`, beside an empty server. Buffers
/// that any work makes do not grow with the count, and are a part of what ten thousand may take.
fn allowed_kib(mib: u64, count: usize, empty: u64) -> u64 {
    let buffers = if is_full() { 0 } else { MIB };
    empty + buffers + (mib * MIB).saturating_sub(empty) * count as u64 / 10_000
}

fn check(what: &str, count: usize, server: &Server, empty: u64, allowed: u64) {
    let found = server.memory_kib("VmRSS");
    println!(
        "{count} {what}: {:.1} MiB resident, {:.1} allowed, {:.1} when empty, {:.2} KiB each",
        found as f64 / 1_024.0,
        allowed as f64 / 1_024.0,
        empty as f64 / 1_024.0,
        found.saturating_sub(empty) as f64 / count as f64,
    );
    assert!(found <= allowed, "{count} {what} take {found} KiB, {allowed} are allowed");
}

#[test]
fn idle_connections() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = count();
    let server = start(Launch::new(&[]));
    let empty = server.memory_kib("VmRSS");
    let conns: Vec<Conn> = (0..count).map(|_| Conn::client(server.launch.port, "")).collect();
    check("idle connections", count, &server, empty, allowed_kib(465 / 4, count, empty));
    drop(conns);
}

#[test]
fn streaming_clients() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = count();
    let server = start(Launch::new(&[]));
    let empty = server.memory_kib("VmRSS");
    let clients: Vec<Stan> = (0..count)
        .map(|number| {
            let mut client = Stan::connect(server.launch.port, &format!("client-{number}"));
            client.subscribe(stan::ask(format!("channel.{}", number % 50)));
            client
        })
        .collect();
    check("streaming clients", count, &server, empty, allowed_kib(769 / 4, count, empty));
    drop(clients);
}

/// How many new channels are asked for at once: no batch has more, whatever the disk does.
const CHANNELS_AT_ONCE: usize = 16;

/// Makes channels by a message each.
fn make_channels(stan: &mut Stan, numbers: Range<usize>) {
    let reply = stan.own("acks");
    let first = numbers.start;
    for number in numbers.clone() {
        let message = stan.message(format!("channel.{number}"), [b'x'; 128]);
        stan.publish_async(&message, &reply);
        if CHANNELS_AT_ONCE <= number + 1 - first {
            stan.next_on(&reply, server::PATIENCE).expect("an ack");
        }
    }
    for _ in 1..CHANNELS_AT_ONCE.min(numbers.len() + 1) {
        stan.next_on(&reply, server::PATIENCE).expect("an ack");
    }
}

/// What ten thousand channels may take, and what of it a server without any has, in MiB.
const CHANNELS_MIB: u64 = 64;
const EMPTY_MIB: u64 = 32;

/// Goal: ten thousand channels take 64 MiB at most, which the whole form measures. A tenth of them
/// is little beside the buffers that any work makes and the pages of the program that it has run,
/// and both are others on each machine. So there the later half is measured, after the former has
/// made all buffers, by anonymous memory alone and with one loop: it adds no more than as many of
/// ten thousand may.
#[test]
fn channels_grow_linearly() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = count();
    let launch = Launch::new(&["-mc", "0"]).file_store(None);
    let server = start(if is_full() { launch } else { launch.loops(1) });
    let mut stan = Stan::connect(server.launch.port, "maker");
    let empty = server.memory_kib("VmRSS");
    let empty_anonymous = server.memory_kib("RssAnon");
    make_channels(&mut stan, 0..count / 2);
    let half = server.memory_kib("RssAnon");
    make_channels(&mut stan, count / 2..count);
    let whole = server.memory_kib("RssAnon");
    let (former, later) = (half - empty_anonymous, whole - half);
    println!("{count} channels: the former half adds {former} KiB, the later {later} KiB");
    if is_full() {
        let allowed = allowed_kib(CHANNELS_MIB, count, empty);
        check("channels", count, &server, empty, allowed);
        // Twice the growth of the first half, with room for what grows in steps.
        assert!(later <= former * 2 + 4 * MIB, "{former} KiB, {later} KiB");
    } else {
        let allowed = (CHANNELS_MIB - EMPTY_MIB) * MIB * count as u64 / 2 / 10_000;
        assert!(later <= allowed, "the later half adds {later} KiB, {allowed} are allowed");
    }
}

/// What all loops may hold of bytes that were read or are to be written, in KiB.
fn bound_kib(server: &Server, empty: u64, connections: u64) -> u64 {
    let varz = server.json("/varz");
    let loops = varz["gomaxprocs"].as_u64().unwrap();
    let max_pending = varz["max_pending"].as_u64().unwrap();
    let each_loop = limits::READ_TURN_BYTES_MAX
        + limits::READ_BUDGET_BYTES
        + limits::ENGINE_UNCOMMITTED_BYTES_MAX
        + 2 * limits::UNSYNCED_BYTES_MAX
        + limits::RECENT_BYTES_MAX
        + limits::FETCH_BYTES_MAX;
    empty + (loops * each_loop as u64 + connections * max_pending) / 1_024
}

fn report(what: &str, server: &Server, bound: u64) {
    let peak = server.memory_kib("VmHWM");
    println!(
        "{what}: {:.1} MiB at most, bound {:.1}",
        peak as f64 / 1_024.0,
        bound as f64 / 1_024.0
    );
    assert!(peak <= bound, "{what}: {peak} KiB, the bound is {bound}");
}

/// Writes the same bytes until the server has taken so many, or closes.
fn flood(socket: &mut TcpStream, bytes: &[u8], total: usize) -> usize {
    let mut sent = 0;
    while sent < total {
        if socket.write_all(bytes).is_err() {
            break;
        }
        sent += bytes.len();
    }
    sent
}

#[test]
fn a_subscriber_that_never_reads() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = start(Launch::new(&[]));
    let empty = server.memory_kib("VmRSS");
    let bound = bound_kib(&server, empty, 1);
    let mut deaf = Conn::narrow(server.launch.port);
    deaf.connect("");
    deaf.ask(b"SUB flood 1\r\n");
    let mut publisher = Conn::client(server.launch.port, "");
    let chunk = publish("flood", &[b'x'; 100_000]).repeat(10);
    for _ in 0..200 {
        publisher.send(&chunk);
    }
    publisher.ask(b"");
    wait_for("the slow consumer", || (server.json("/varz")["slow_consumers"] == 1).then_some(()));
    report("a core subscriber that never reads, 200 MB published", &server, bound);
}

#[test]
fn a_streaming_subscriber_that_never_reads() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = start(Launch::new(&[]).file_store(None));
    let empty = server.memory_kib("VmRSS");
    let bound = bound_kib(&server, empty, 1);
    let mut deaf = Stan::connect(server.launch.port, "deaf");
    let mut request = all("flood");
    request.max_in_flight = i32::MAX;
    deaf.subscribe(request);
    let mut publisher = Stan::connect(server.launch.port, "publisher");
    let reply = publisher.own("acks");
    let total = if is_full() { 3_000 } else { 1_500 };
    let mut acked = 0;
    for number in 0..total {
        let message = publisher.message("flood", [b'x'; 100_000]);
        publisher.publish_async(&message, &reply);
        if 64 <= number {
            publisher.next_on(&reply, server::PATIENCE).expect("an ack");
            acked += 1;
        }
    }
    assert_eq!(acked, total - 64);
    report("a streaming subscriber that never reads", &server, bound);
}

/// One thread of a server that stands still while this lives: a store that does not answer.
struct Stuck(Pid);

impl Stuck {
    fn stop(server: &Server, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let thread = tasks.map(|task| task.unwrap().path()).find(|task| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        let thread = thread.unwrap();
        let thread = Pid::from_raw(thread.file_name().unwrap().to_str().unwrap().parse().unwrap());
        ptrace::attach(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self(thread)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

#[test]
fn requests_while_the_store_does_not_answer() {
    const COUNT: usize = 250_000;
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = start(Launch::new(&[]).file_store(None).loops(1));
    let empty = server.memory_kib("VmRSS");
    let requests = limits::ENGINE_REQUESTS_BYTES_MAX as u64 / 1_024;
    let bound = bound_kib(&server, empty, 1) + requests;
    let stuck = Stuck::stop(&server, "store-0");
    let mut socket = TcpStream::connect(("127.0.0.1", server.launch.port)).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.set_read_timeout(Some(server::PATIENCE)).unwrap();
    socket.write_all(&connect("")).unwrap();
    socket.write_all(b"SUB answers 1\r\n").unwrap();
    let mut asked = 0;
    while asked < COUNT {
        let chunk = (asked..asked + 500).flat_map(|number| {
            let request = pb::ConnectRequest {
                client_id: format!("client-{number}").into(),
                heartbeat_inbox: format!("heartbeats.{number}").into(),
                ..pb::ConnectRequest::default()
            };
            wire::ask_for("_STAN.discover.test-cluster", "answers", &request.encode_to_vec())
        });
        if socket.write_all(&chunk.collect::<Vec<u8>>()).is_err() {
            break;
        }
        asked += 500;
    }
    report(&format!("{asked} connect requests while the store is stuck"), &server, bound);
    assert!(asked < COUNT, "who asks is not held back");
    // Core traffic goes on.
    Conn::client(server.launch.port, "").ask(b"");
    drop(stuck);
    let mut answers = 0;
    let mut bytes = [0; 64 * 1_024];
    while answers < 1_000 {
        let len = socket.read(&mut bytes).unwrap();
        assert!(0 < len, "the connection was closed");
        answers += bytes[..len].windows(12).filter(|word| *word == b"MSG answers ").count();
    }
}

#[test]
fn a_publisher_that_never_stops_nor_reads() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = start(Launch::new(&["-mb", "50000000"]).file_store(None));
    let empty = server.memory_kib("VmRSS");
    let bound = bound_kib(&server, empty, 1);
    let stan = Stan::connect(server.launch.port, "endless");
    let mut socket = TcpStream::connect(("127.0.0.1", server.launch.port)).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(&connect("")).unwrap();
    socket.write_all(b"SUB acks 1\r\n").unwrap();
    let message = prost::Message::encode_to_vec(&stan.message("flood", vec![b'x'; 20_000]));
    let subject = String::from_utf8([&stan.subjects.pub_prefix[..], b".flood"].concat()).unwrap();
    let publishes = wire::ask_for(&subject, "acks", &message).repeat(20);
    let total = if is_full() { 1_500_000_000 } else { 200_000_000 };
    let sent = flood(&mut socket, &publishes, total);
    report(&format!("a publisher that sent {sent} bytes and never reads"), &server, bound);
}
