//! A server that does nothing but what it must: what one loop and one writing thread can do.
//!
//! `cargo bench --bench bare -- -p PORT --dir DIR` serves `stanby bench streaming` and
//! `stanby bench core` with the system calls, bytes, batches and threads of a server that stores
//! what it acknowledges, and knows no client, limit, lock, checksum or error. What it was given it
//! cannot read again. A real server that reaches 80 % of its rate has little left to gain.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on must stop")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

/// How subjects begin to which streaming clients publish.
const PUBLISHES: &[u8] = b"_STAN.pub.";
/// What else streaming clients ask for.
const DISCOVER: &[u8] = b"_STAN.discover.";
const SUBSCRIBE: &[u8] = b"_STAN.sub";
const CLOSE: &[u8] = b"_STAN.close";
/// Where acknowledgements of deliveries go, which are read and forgotten.
const ACKS: &[u8] = b"_STAN.ack";

const LISTENER: Token = Token(0);
const DONE: Token = Token(1);
const FIRST_CONNECTION: usize = 2;
const READ_LEN: usize = 256 * 1024;
/// Beyond so many channels in a batch one sync of the file system is cheaper.
const CHANNELS_SYNCED_APART_MAX: usize = 4;
/// Bytes of a message beside its record: its entry in the index.
const INDEX_ENTRY: [u8; 24] = [7; 24];

#[derive(Parser)]
struct Args {
    /// Port for clients; without one there is nothing to do
    #[arg(short, long)]
    port: Option<u16>,
    /// Where the files are made
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Leave syncs out
    #[arg(long)]
    no_sync: bool,
    /// Cargo gives this to each benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// Messages that are written together.
#[derive(Default)]
struct Batch {
    /// Of each channel: what its two files get.
    files: HashMap<Vec<u8>, Parts>,
    /// What connections are told once it is on the disk, in order.
    told: Vec<(usize, Vec<u8>)>,
}

#[derive(Default)]
struct Parts {
    records: Vec<u8>,
    index: Vec<u8>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    fn tell(&mut self, connection: usize) -> &mut Vec<u8> {
        if self.told.last().is_none_or(|last| last.0 != connection) {
            self.told.push((connection, Vec::new()));
        }
        &mut self.told.last_mut().expect("one was pushed").1
    }
}

struct Connection {
    socket: TcpStream,
    input: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
    sent: usize,
}

impl Connection {
    fn send(&mut self) {
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(_) => break,
            }
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }
}

/// Who listens: the connection and its number for it.
type Listeners = HashMap<Vec<u8>, Vec<(usize, Vec<u8>)>>;

/// Everything but sockets: what is listened to, and what is to be written.
#[derive(Default)]
struct Rooms {
    listeners: Listeners,
    /// Inboxes of the subscriptions of a channel.
    subscriptions: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    sequences: HashMap<Vec<u8>, u64>,
    batch: Batch,
}

fn main() {
    let args = Args::parse();
    let Some(port) = args.port else { return };
    let listener = TcpListener::bind(([127, 0, 0, 1], port).into());
    let mut listener = listener.expect("the port is taken");
    let mut poll = Poll::new().expect("cannot poll");
    let registry = poll.registry();
    registry.register(&mut listener, LISTENER, Interest::READABLE).expect("cannot watch");
    let waker = Arc::new(Waker::new(registry, DONE).expect("cannot wake"));
    let (sender, receiver) = mpsc::channel::<Batch>();
    let done: Arc<Mutex<Vec<Batch>>> = Arc::default();
    let (finished, syncs, dir) = (Arc::clone(&done), !args.no_sync, args.dir.clone());
    thread::spawn(move || write_batches(&receiver, &finished, &waker, syncs, &dir));
    serve(&mut poll, &listener, &sender, &done);
}

/// The writing thread: a batch goes to the disk whole, and back to the loop.
fn write_batches(
    receiver: &mpsc::Receiver<Batch>,
    done: &Mutex<Vec<Batch>>,
    waker: &Waker,
    syncs: bool,
    dir: &Path,
) {
    let mut files: HashMap<Vec<u8>, [(File, u64); 2]> = HashMap::new();
    while let Ok(batch) = receiver.recv() {
        for (channel, parts) in &batch.files {
            if !files.contains_key(channel) {
                files.insert(channel.clone(), make_files(dir, channel));
            }
            let pair = files.get_mut(channel).expect("it was just made");
            for ((file, len), bytes) in pair.iter_mut().zip([&parts.records, &parts.index]) {
                file.write_all_at(bytes, *len).expect("cannot write");
                *len += u64::try_from(bytes.len()).expect("a length");
            }
        }
        if syncs {
            sync(&batch, &files);
        }
        done.lock().expect("no thread panics").push(batch);
        waker.wake().expect("cannot wake");
    }
}

/// A few files one by one; many by one sync of the file system.
fn sync(batch: &Batch, files: &HashMap<Vec<u8>, [(File, u64); 2]>) {
    let mut written = batch.files.keys().flat_map(|channel| &files[channel]);
    if batch.files.len() <= CHANNELS_SYNCED_APART_MAX {
        written.for_each(|(file, _)| file.sync_data().expect("cannot sync"));
    } else if let Some((file, _)) = written.next() {
        nix::unistd::syncfs(file).expect("cannot sync");
    }
}

fn make_files(dir: &Path, channel: &[u8]) -> [(File, u64); 2] {
    let folder = dir.join(String::from_utf8_lossy(channel).as_ref());
    std::fs::create_dir_all(&folder).expect("cannot make a folder");
    ["msgs.1.dat", "msgs.1.idx"].map(|name| {
        let file = File::options().create(true).truncate(true).write(true).open(folder.join(name));
        (file.expect("cannot make a file"), 0)
    })
}

fn serve(
    poll: &mut Poll,
    listener: &TcpListener,
    sender: &mpsc::Sender<Batch>,
    done: &Mutex<Vec<Batch>>,
) {
    let mut events = Events::with_capacity(1_024);
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let mut rooms = Rooms::default();
    let (mut last, mut is_writing) = (FIRST_CONNECTION, false);
    loop {
        if poll.poll(&mut events, None).is_err() {
            continue;
        }
        for event in &events {
            match event.token() {
                LISTENER => accept(poll, listener, &mut connections, &mut last),
                DONE => {
                    is_writing = false;
                    for batch in done.lock().expect("no thread panics").drain(..) {
                        hand_out(batch.told, &mut connections);
                    }
                }
                Token(id) => {
                    if !read(id, &mut connections, &mut rooms) {
                        connections.remove(&id);
                    }
                }
            }
        }
        if !is_writing && !rooms.batch.is_empty() {
            is_writing = true;
            sender.send(std::mem::take(&mut rooms.batch)).expect("the writer is there");
        }
        for connection in connections.values_mut().filter(|one| !one.out.is_empty()) {
            connection.send();
        }
    }
}

fn accept(
    poll: &Poll,
    listener: &TcpListener,
    connections: &mut HashMap<usize, Connection>,
    last: &mut usize,
) {
    while let Ok((mut socket, _)) = listener.accept() {
        socket.set_nodelay(true).expect("cannot set up a socket");
        let (id, both) = (*last, Interest::READABLE | Interest::WRITABLE);
        poll.registry().register(&mut socket, Token(id), both).expect("cannot watch");
        *last += 1;
        let out =
            b"INFO {\"server_id\":\"BARE\",\"version\":\"2.9.0\",\"proto\":1,\"headers\":true,\
            \"max_payload\":67108864}\r\n";
        let input = vec![0; 2 * READ_LEN];
        let connection = Connection { socket, input, filled: 0, out: out.to_vec(), sent: 0 };
        connections.insert(id, connection);
    }
}

fn hand_out(told: Vec<(usize, Vec<u8>)>, connections: &mut HashMap<usize, Connection>) {
    for (id, bytes) in told {
        if let Some(connection) = connections.get_mut(&id) {
            connection.out.extend_from_slice(&bytes);
        }
    }
}

/// Reads what is there and takes what is whole; whether the connection is still there.
fn read(id: usize, connections: &mut HashMap<usize, Connection>, rooms: &mut Rooms) -> bool {
    loop {
        let Some(connection) = connections.get_mut(&id) else { return true };
        match connection.socket.read(&mut connection.input[connection.filled..]) {
            Ok(0) => return false,
            Ok(len) => connection.filled += len,
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock),
        }
        let (mut at, mut told) = (0, Vec::new());
        while let Some(len) =
            take_one(id, &connection.input[at..connection.filled], rooms, &mut told)
        {
            at += len;
        }
        connection.input.copy_within(at..connection.filled, 0);
        connection.filled -= at;
        if connection.filled + READ_LEN > connection.input.len() {
            connection.input.resize(connection.filled + 2 * READ_LEN, 0);
        }
        hand_out(told, connections);
    }
}

/// Takes one operation, if it is there whole; how long it is.
fn take_one(
    id: usize,
    input: &[u8],
    rooms: &mut Rooms,
    told: &mut Vec<(usize, Vec<u8>)>,
) -> Option<usize> {
    let end = memchr::memchr(b'\n', input)?;
    let line = &input[..end.saturating_sub(1)];
    if let Some(rest) = line.strip_prefix(b"PUB ") {
        let (rest, digits) = rest.split_at(memchr::memrchr(b' ', rest)?);
        let len = digits[1..].iter().fold(0, |len, digit| 10 * len + usize::from(digit - b'0'));
        let payload = input.get(end + 1..end + 1 + len)?;
        input.get(end + 2 + len)?;
        let (subject, reply) = match memchr::memchr(b' ', rest) {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &b""[..]),
        };
        publish(subject, reply, payload, rooms, told);
        return Some(end + 3 + len);
    }
    if line == b"PING" {
        told.push((id, b"PONG\r\n".to_vec()));
    } else if let Some(rest) = line.strip_prefix(b"SUB ") {
        let words: Vec<&[u8]> = rest.split(|byte| *byte == b' ').collect();
        let (subject, sid) = (words[0].to_vec(), words[words.len() - 1].to_vec());
        rooms.listeners.entry(subject).or_default().push((id, sid));
    }
    Some(end + 1)
}

fn publish(
    subject: &[u8],
    reply: &[u8],
    payload: &[u8],
    rooms: &mut Rooms,
    told: &mut Vec<(usize, Vec<u8>)>,
) {
    if let Some(channel) = subject.strip_prefix(PUBLISHES) {
        store(channel, reply, payload, rooms);
    } else if subject.starts_with(DISCOVER) {
        let mut answer = Vec::new();
        let prefix = PUBLISHES.strip_suffix(b".").unwrap_or(PUBLISHES);
        for (tag, value) in [(0x0a, prefix), (0x12, SUBSCRIBE), (0x1a, CLOSE), (0x22, CLOSE)] {
            push_bytes(&mut answer, tag, value);
        }
        forward(&rooms.listeners, reply, b"", &answer, told);
    } else if subject == SUBSCRIBE {
        let (channel, inbox) = (field(payload, 2), field(payload, 4));
        rooms.subscriptions.entry(channel.to_vec()).or_default().push(inbox.to_vec());
        let mut answer = Vec::new();
        push_bytes(&mut answer, 0x12, ACKS);
        forward(&rooms.listeners, reply, b"", &answer, told);
    } else if subject == CLOSE {
        forward(&rooms.listeners, reply, b"", b"", told);
    } else if subject != ACKS {
        forward(&rooms.listeners, subject, reply, payload, told);
    }
}

/// A message for a channel: its bytes, its acknowledgement and its deliveries.
fn store(channel: &[u8], reply: &[u8], payload: &[u8], rooms: &mut Rooms) {
    let Rooms { listeners, subscriptions, sequences, batch } = rooms;
    let (guid, data) = (field(payload, 2), field(payload, 5));
    let sequence = match sequences.get_mut(channel) {
        Some(last) => last,
        None => sequences.entry(channel.to_vec()).or_default(),
    };
    *sequence += 1;
    let parts = match batch.files.get_mut(channel) {
        Some(parts) => parts,
        None => batch.files.entry(channel.to_vec()).or_default(),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing of the product runs here, its clock neither"
    )]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    parts.records.extend_from_slice(&[0; 8]);
    let begin = parts.records.len();
    push_number(&mut parts.records, 8);
    push_number(&mut parts.records, *sequence);
    push_bytes(&mut parts.records, 0x12, channel);
    push_bytes(&mut parts.records, 0x22, data);
    push_number(&mut parts.records, 0x28);
    push_number(&mut parts.records, u64::try_from(since.as_nanos()).unwrap_or(0));
    parts.index.extend_from_slice(&INDEX_ENTRY);
    let mut ack = [0; 128];
    ack[..2].copy_from_slice(&[0x0a, u8::try_from(guid.len()).unwrap_or(0)]);
    let len = 2 + guid.len();
    ack[2..len].copy_from_slice(guid);
    for (id, sid) in listeners.get(reply).into_iter().flatten() {
        push_message(batch.tell(*id), reply, sid, b"", &ack[..len]);
    }
    for inbox in subscriptions.get(channel).into_iter().flatten() {
        for (id, sid) in listeners.get(inbox).into_iter().flatten() {
            let record = batch.files[channel].records[begin..].to_vec();
            push_message(batch.tell(*id), inbox, sid, ACKS, &record);
        }
    }
}

fn forward(
    listeners: &Listeners,
    subject: &[u8],
    reply: &[u8],
    payload: &[u8],
    told: &mut Vec<(usize, Vec<u8>)>,
) {
    for (id, sid) in listeners.get(subject).into_iter().flatten() {
        if told.last().is_none_or(|last| last.0 != *id) {
            told.push((*id, Vec::new()));
        }
        let out = &mut told.last_mut().expect("one was pushed").1;
        push_message(out, subject, sid, reply, payload);
    }
}

fn push_message(out: &mut Vec<u8>, subject: &[u8], sid: &[u8], reply: &[u8], payload: &[u8]) {
    out.extend_from_slice(b"MSG ");
    for word in [subject, sid, reply].into_iter().filter(|word| !word.is_empty()) {
        out.extend_from_slice(word);
        out.push(b' ');
    }
    out.extend_from_slice(payload.len().to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while 0x7f < number {
        out.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or(0));
}

fn push_bytes(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    push_number(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// The bytes of a field of a protobuf message of our own bench. It is read here once more on
/// purpose: what is measured against has no code of what is measured.
fn field(mut message: &[u8], wanted: u64) -> &[u8] {
    let number = |message: &mut &[u8]| {
        let (mut value, mut shift) = (0_u64, 0);
        while let Some((byte, rest)) = message.split_first() {
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        value
    };
    while !message.is_empty() {
        let tag = number(&mut message);
        let value = number(&mut message);
        if tag & 7 == 2 {
            let len = usize::try_from(value).unwrap_or(0).min(message.len());
            let (bytes, rest) = message.split_at(len);
            if tag >> 3 == wanted {
                return bytes;
            }
            message = rest;
        }
    }
    b""
}
