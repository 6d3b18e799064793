//! One run of a plan: all connections first, then all work at once, then what it came to

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use hdrhistogram::Histogram;

use super::BenchError;
use super::connection::Connection;
use super::frame::{Frame, STAMP_LEN};
use super::jetstream::Stream;
use super::plan::{Plan, Work};
use super::publisher::{self, Answers, Load};
use super::report::{Side, Summary};
use super::streaming::{ACKS, Client, DELIVERIES};
use super::subscriber::{self, AckFrame, Count, Duty};
use super::usage::Usage;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::world;
use crate::client::Options;
use crate::proto::pb;

/// What each thread needs.
#[derive(Clone)]
struct Crew {
    plan: Arc<Plan>,
    login: Arc<Options>,
    /// A part of all names: what others have there is left alone.
    name: Arc<str>,
    /// Whether somebody has ended it, or it has failed.
    is_over: Arc<AtomicBool>,
    /// Whether all publishers are done.
    is_published: Arc<AtomicBool>,
    /// Messages that the queue group got.
    shared: Arc<AtomicU64>,
    /// Messages that the server has refused: nobody gets them.
    refused: Arc<AtomicU64>,
    ready: Sender<()>,
    /// Ends when all are ready.
    go: Receiver<()>,
}

/// What one thread has measured.
struct Measured {
    latencies: Histogram<u64>,
    count: u64,
    failed: u64,
    first_error: Option<String>,
    redelivered: u64,
    ended_at: Instant,
}

type Thread = JoinHandle<Result<Measured, BenchError>>;

/// Runs it; `server` is the process whose CPU time and memory are looked at.
///
/// # Errors
/// The first that one of the connections has met.
pub(crate) fn run(
    plan: &Plan,
    login: &Options,
    server: Option<u32>,
    is_over: &Arc<AtomicBool>,
) -> Result<Summary, BenchError> {
    let entropy = world::entropy().map_err(BenchError::io("cannot read entropy"))?;
    let mut random = Random::new(entropy);
    // Each thread says it once, and once more if it fails.
    let (ready, is_ready) = bounded(2 * (plan.publishers + plan.subscribers + plan.queue_members));
    let (start, go) = bounded::<()>(0);
    let crew = Crew {
        plan: Arc::new(plan.clone()),
        login: Arc::new(login.clone()),
        name: random.unique_id().into(),
        is_over: Arc::clone(is_over),
        is_published: Arc::default(),
        shared: Arc::default(),
        refused: Arc::default(),
        ready,
        go,
    };
    let readers: usize = plan.subscribers + plan.queue_members;
    let mut receiving = Vec::new();
    for number in 0..readers {
        let queue = plan.subscribers <= number;
        receiving.push(begin(&crew, "sub", number, &mut random, move |crew, random| {
            receive(crew, number, queue, random)
        })?);
        let _ = is_ready.recv();
    }
    let stream = make_stream(&crew, &mut random)?;
    let mut publishing = Vec::new();
    for number in 0..plan.publishers {
        publishing.push(begin(&crew, "pub", number, &mut random, move |crew, random| {
            publish(crew, number, random)
        })?);
        let _ = is_ready.recv();
    }
    let before = (Usage::of(None), server.and_then(|pid| Usage::of(Some(pid))));
    let began = world::instant();
    drop(start);
    let published = join(publishing, &crew, began);
    crew.is_published.store(true, Ordering::Relaxed);
    let received = join(receiving, &crew, began);
    let after = (Usage::of(None), server.and_then(|pid| Usage::of(Some(pid))));
    // What was measured counts, whatever becomes of the stream.
    let left = stream.and_then(|name| remove_stream(&crew, &name, &mut random).err());
    let (published, received) = first_of(published, received)?;
    Ok(Summary {
        plan: plan.clone(),
        published,
        received: (plan.work != Work::Request).then_some(received).flatten(),
        own_cpu: difference(before.0, after.0),
        server_cpu: difference(before.1, after.1),
        server_memory: after.1.map(|usage| usage.memory_peak),
        left: left.map(|error| format!("the stream {} is left: {error}", stream_name(&crew))),
    })
}

fn difference(before: Option<Usage>, after: Option<Usage>) -> Option<f64> {
    before.zip(after).map(|(before, after)| after.cpu_seconds - before.cpu_seconds)
}

/// Both, or the error that is not only a consequence of the other.
fn first_of<T>(
    one: Result<T, BenchError>,
    other: Result<T, BenchError>,
) -> Result<(T, T), BenchError> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(BenchError::Interrupted), Err(error)) | (Err(error), _) | (_, Err(error)) => {
            Err(error)
        }
    }
}

fn begin(
    crew: &Crew,
    kind: &str,
    number: usize,
    random: &mut Random,
    work: impl FnOnce(&Crew, &mut Random) -> Result<Measured, BenchError> + Send + 'static,
) -> Result<Thread, BenchError> {
    let (crew, mut random) = (crew.clone(), Random::new(random.next_u64()));
    let builder = thread::Builder::new().name(format!("bench-{kind}-{}", number + 1));
    let spawned = builder.spawn(move || {
        let result = work(&crew, &mut random);
        if result.is_err() {
            crew.is_over.store(true, Ordering::Relaxed);
            // It may have failed before it was ready.
            let _ = crew.ready.try_send(());
        }
        result
    });
    spawned.map_err(BenchError::io("cannot start a thread"))
}

impl Crew {
    /// Says that everything is prepared, and waits for the others.
    fn wait(&self) -> Result<Instant, BenchError> {
        let _ = self.ready.send(());
        let _ = self.go.recv();
        if self.is_over.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        Ok(world::instant())
    }

    fn id(&self, kind: &str, number: usize) -> String {
        format!("bench-{}-{kind}-{}", self.name, number + 1)
    }
}

fn subjects(plan: &Plan) -> Vec<String> {
    (0..plan.channels).map(|index| plan.channel(index)).collect()
}

fn stream_name(crew: &Crew) -> String {
    format!("bench-{}", crew.name)
}

/// Makes the stream of a JetStream run; its name.
fn make_stream(crew: &Crew, random: &mut Random) -> Result<Option<String>, BenchError> {
    if crew.plan.work != Work::JetStream {
        return Ok(None);
    }
    let (mut connection, inbox) = connect_for_stream(crew, random)?;
    let (name, subjects) = (stream_name(crew), subjects(&crew.plan));
    Stream { name: &name, subjects: &subjects }.create(&mut connection, &inbox)?;
    Ok(Some(name))
}

/// On a connection of its own: one that idles through a long run is closed by the server.
fn remove_stream(crew: &Crew, name: &str, random: &mut Random) -> Result<(), BenchError> {
    let (mut connection, inbox) = connect_for_stream(crew, random)?;
    Stream { name, subjects: &[] }.remove(&mut connection, &inbox)
}

fn connect_for_stream(
    crew: &Crew,
    random: &mut Random,
) -> Result<(Connection, String), BenchError> {
    let mut connection = Connection::open(&crew.login, "bench-stream")?;
    let inbox = format!("_INBOX.{}", random.unique_id());
    connection.listen(&format!("{inbox}.*"), None, ACKS);
    Ok((connection, inbox))
}

fn publish(crew: &Crew, number: usize, random: &mut Random) -> Result<Measured, BenchError> {
    let plan = &crew.plan;
    let id = crew.id("pub", number);
    let subjects = subjects(plan);
    let mut load = Load {
        frames: Vec::new(),
        answers: Answers::None,
        messages: plan.share(number),
        in_flight: plan.in_flight,
        pace: plan.pace(number),
    };
    let mut client = None;
    let mut connection = if plan.work == Work::Streaming {
        let found = client.insert(Client::connect(&crew.login, &id, random)?);
        let (prefix, conn_id) = (found.publish_prefix(), found.conn_id.clone());
        let frame = |channel: &String| {
            let names = (prefix.as_str(), channel.as_str());
            Frame::streaming(names, (&id, &conn_id), &found.ack_inbox, plan.size)
        };
        load.frames = subjects.iter().map(frame).collect();
        load.answers = Answers::ByGuid;
        None
    } else {
        let mut connection = Connection::open(&crew.login, &id)?;
        let inbox = format!("_INBOX.{}", random.unique_id());
        if plan.work != Work::Core {
            connection.listen(&format!("{inbox}.*"), None, ACKS);
            load.answers = Answers::BySubject;
        }
        let inbox = (plan.work != Work::Core).then_some(inbox.as_str());
        load.frames = subjects.iter().map(|name| Frame::plain(name, inbox, plan.size)).collect();
        connection.flush()?;
        Some(connection)
    };
    let used = match (&mut connection, &mut client) {
        (Some(connection), _) => connection,
        (None, Some(client)) => &mut client.connection,
        (None, None) => return Err(BenchError::Interrupted),
    };
    let longest = load.frames.iter().map(Frame::payload_len).max();
    used.check_len(longest.unwrap_or(0), plan.size)?;
    crew.wait()?;
    let published = publisher::run(used, &load, &crew.is_over)?;
    let ended_at = world::instant();
    crew.refused.fetch_add(published.failed, Ordering::Relaxed);
    client.map_or(Ok(()), Client::close)?;
    Ok(Measured {
        latencies: published.latencies,
        count: load.messages - published.failed,
        failed: published.failed,
        first_error: published.first_error,
        redelivered: 0,
        ended_at,
    })
}

fn receive(
    crew: &Crew,
    number: usize,
    is_member: bool,
    random: &mut Random,
) -> Result<Measured, BenchError> {
    let plan = &crew.plan;
    let id = crew.id("sub", number);
    let subjects = subjects(plan);
    let queue = is_member.then(|| format!("bench-{}", crew.name));
    let own = AtomicU64::new(0);
    let has_stamps = STAMP_LEN <= plan.size && !plan.replays;
    let (mut client, mut connection) = (None, None);
    let duty = if plan.work == Work::Streaming {
        let mut found = Client::connect(&crew.login, &id, random)?;
        // What is stored comes at once: it is measured from the beginning.
        let began = if plan.replays { crew.wait()? } else { Instant(0) };
        let frames = subscribe(&mut found, &subjects, plan, queue.as_deref())?;
        if began == Instant(0) {
            crew.wait()?;
        }
        client = Some(found);
        Duty::Acknowledge(frames)
    } else {
        let mut plain = Connection::open(&crew.login, &id)?;
        for (sid, subject) in (DELIVERIES..).zip(&subjects) {
            plain.listen(subject, queue.as_deref(), sid);
        }
        plain.flush()?;
        crew.wait()?;
        connection = Some(plain);
        if plan.work == Work::Request { Duty::Answer } else { Duty::Count }
    };
    let answers = matches!(duty, Duty::Answer);
    let wanted = if answers { u64::MAX } else { plan.messages };
    let done = if is_member { &*crew.shared } else { &own };
    let count = Count { wanted, done, refused: &crew.refused };
    let used = match (&mut connection, &mut client) {
        (Some(connection), _) => connection,
        (None, Some(client)) => &mut client.connection,
        (None, None) => return Err(BenchError::Interrupted),
    };
    let is_over = if answers { &crew.is_published } else { &crew.is_over };
    let received = subscriber::run(used, &duty, &count, (has_stamps, is_over))?;
    client.map_or(Ok(()), Client::close)?;
    Ok(Measured {
        latencies: received.latencies,
        count: received.count,
        failed: 0,
        first_error: None,
        redelivered: received.redelivered,
        ended_at: received.last_at,
    })
}

fn subscribe(
    client: &mut Client,
    subjects: &[String],
    plan: &Plan,
    queue: Option<&str>,
) -> Result<Vec<AckFrame>, BenchError> {
    let start = if plan.replays { pb::StartPosition::First } else { pb::StartPosition::NewOnly };
    let mut frames = Vec::new();
    for (sid, channel) in (DELIVERIES..).zip(subjects) {
        let request = pb::SubscriptionRequest {
            max_in_flight: plan.deliveries_in_flight,
            ack_wait_in_secs: 30,
            start_position: start.into(),
            q_group: queue.unwrap_or_default().as_bytes().to_vec().into(),
            ..pb::SubscriptionRequest::default()
        };
        let ack_inbox = client.subscribe(channel, sid, request)?;
        frames.push(AckFrame::new(ack_inbox, channel));
    }
    Ok(frames)
}

/// What all threads of one kind have measured together; nothing if there were none.
fn join(threads: Vec<Thread>, crew: &Crew, began: Instant) -> Result<Option<Side>, BenchError> {
    let mut side: Option<Side> = None;
    let mut failure = None;
    for thread in threads {
        match thread.join() {
            Ok(Ok(measured)) => {
                let seconds = measured.ended_at.since(began).as_secs_f64();
                let side = side.get_or_insert_with(Side::default);
                side.latencies.add(&measured.latencies).expect("both have three digits");
                side.count += measured.count;
                side.failed += measured.failed;
                side.redelivered += measured.redelivered;
                side.seconds = side.seconds.max(seconds);
                side.first_error = side.first_error.take().or(measured.first_error);
            }
            Ok(Err(BenchError::Interrupted)) => {
                failure.get_or_insert(BenchError::Interrupted);
            }
            Ok(Err(error)) => {
                crew.is_over.store(true, Ordering::Relaxed);
                if !matches!(failure, Some(BenchError::Ended { .. })) {
                    failure = Some(error);
                }
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    failure.map_or(Ok(side), Err)
}
