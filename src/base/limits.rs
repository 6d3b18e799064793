//! Every built-in bound with unit and reason, and how bounds relate.
//!
//! What users can set lies in the configuration; here is what holds whatever they set.

use std::time::Duration;

/// Most event loops (`--loops`); more than cores would only take turns. Tables are sized by it.
pub const LOOPS_MAX: u16 = 64;

/// Bytes read from one connection in one turn, so that a fast publisher shares its loop.
pub const READ_BUDGET_BYTES: usize = 256 * 1024;

/// Bytes read from all connections of one loop in one turn: what is read waits in memory until
/// the turn's mail was taken. One connection's share may be exceeded once.
pub const READ_TURN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What one turn does for all sessions that are read in it, in receivers of a message that are
/// looked at; a receiver takes about 100 ns. What is left waits for the next turn.
pub const TURN_WORK_MAX: u64 = 32 * 1024;

/// Most of it for one session. Enough for what is read from one in a turn, where a message has one
/// receiver.
pub const SESSION_WORK_MAX: u64 = 16 * 1024;

/// Each session's share of a turn at least, so that many of them do not make each other's turns
/// short beyond use.
pub const SESSION_WORK_MIN: u64 = 256;

/// The same measure for what goes on behind: interests of those who left, news for routes.
pub const PORTION_WORK_MAX: u64 = 4 * 1024;

/// Bytes that may wait for a route while it is being told what is wanted here.
pub const ROUTE_NEWS_BYTES_MAX: usize = 1024 * 1024;

/// URLs of clients that are taken from one peer, and that clients are told at most.
pub const PEER_URLS_MAX: usize = 256;
/// The same over all peers.
pub const CLUSTER_URLS_MAX: usize = 1024;

/// Bytes of publishes that one engine may hold which are not committed yet. Beyond it, the
/// connections that publish to it are not read: TCP holds their publishers back.
pub const ENGINE_UNCOMMITTED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of requests other than publishes, and of what they and deliveries have changed, that one
/// engine may hold until they are committed. Beyond it, connections that make such requests are
/// not read, and nothing new is delivered; acks and pings always get through.
pub const ENGINE_REQUESTS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a request that waits for a commit costs in memory, about: names, record, what is done then.
pub const REQUEST_BYTES: usize = 2 * 1024;

/// Bytes of messages that all stores of a process together may have written and not synced: a
/// successor writes so many of the newest anew. A message counts for at most
/// [`UNSYNCED_MESSAGE_BYTES_MAX`], so that a batch of one is always allowed.
pub const UNSYNCED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages of the same (the reference's I/O batch is 1,024; ours also bounds latency).
pub const UNSYNCED_MESSAGES_MAX: usize = 16 * 1024;

/// What one message counts for at most, with as many loops as there can be.
pub const UNSYNCED_MESSAGE_BYTES_MAX: usize = unsynced_share(UNSYNCED_BYTES_MAX, LOOPS_MAX);

/// One engine's share of a bound on what is written and not synced: a batch has no more.
#[must_use]
pub const fn unsynced_share(bound: usize, loops: u16) -> usize {
    let loops = if loops == 0 { 1 } else { loops as usize };
    bound / loops
}

/// Most slices that one batch can begin in one channel; new epochs choose slice numbers above it.
pub const SLICES_PER_BATCH_MAX: u64 = 1_000;

/// Bytes of messages that one fetch gives.
pub const FETCH_BYTES_MAX: usize = 512 * 1024;

/// Messages that one fetch gives.
pub const FETCH_MESSAGES_MAX: usize = 1_024;

/// Messages of which one channel remembers the payload, where it does not store duplicates: some
/// 100 bytes each.
pub const PAYLOADS_SEEN_MAX: usize = 1_000_000;

/// Channels of one engine whose payloads are read from the store at once, for that.
pub const PASTS_READ_MAX: usize = 4;

/// Messages of one channel that are passed over then because they cannot be read, one by one.
pub const PAYLOADS_UNREADABLE_MAX: usize = 100;

/// Messages that a fetch asks for at least, so that a reader with little room does not fetch each
/// message alone.
pub const FETCH_MESSAGES_MIN: usize = 64;

/// Fetches that one engine has under way; with their size they bound what comes back at once.
pub const FETCHES_MAX: usize = 16;

/// Bytes that were read ahead and wait for room, over all readers of one engine.
pub const AHEAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Messages that one engine sends in one turn, over all readers; the rest waits for the next turn.
pub const TURN_MESSAGES_MAX: usize = 16 * 1024;
/// Looking at so many members of a queue group, to choose one, counts like sending a message.
pub const LOOKS_A_MESSAGE: usize = 32;

/// Bytes that one engine sends in one turn, over all readers.
pub const TURN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes that one reader is sent before others have had their turn; one message may exceed it.
pub const BURST_BYTES_MAX: usize = 512 * 1024;

/// Bytes that wait for one connection beyond which engines deliver no more to it; less where a
/// quarter of `max_pending` is less. Enough for what a fast reader takes until it is looked again.
pub const DELIVERY_PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of recent messages that one engine keeps in memory over all its channels, so that
/// subscribers who keep up need no read from the store.
pub const RECENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes that may wait for one route at least, deliveries not counted; twice `max_pending` where
/// that is more. Then the route is closed, as a client would be: it comes back and learns anew.
pub const ROUTE_PENDING_BYTES_MIN: usize = 64 * 1024 * 1024;

/// Messages waiting in one mailbox between loops, beyond which the sender's connections wait. All
/// are taken in one turn, so they bound how long it lasts.
pub const MAILBOX_LEN_MAX: usize = 16 * 1024;

/// What they may be to do, in receivers of a message, beyond one each.
pub const MAILBOX_WORK_MAX: usize = 32 * 1024;

/// Bytes that a process keeps of what its clients have sent for the engines and the active has not
/// done yet, each with [`LEDGER_ENTRY_BYTES`]; one more message for each session may exceed it.
/// Beyond it, clients that send such things are not read.
pub const LEDGER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The same of one session.
pub const LEDGER_SESSION_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What one such message counts for beside its bytes.
pub const LEDGER_ENTRY_BYTES: usize = 128;

/// Inputs of one peer that the engines of this process have not done yet: more than fit into
/// [`LEDGER_BYTES_MAX`].
pub const ERRANDS_OPEN_MAX: usize = 512 * 1024;

/// Publishes of one peer that engines have refused and that are known by number, so that they are
/// taken when they come again; those that came by one route and whose answers can be lost with it.
pub const UNSTORED_KEPT_MAX: usize = 64 * 1024;

/// Ledgers of one peer that are remembered while nothing of them is open.
pub const ERRANDS_LEDGERS_MAX: usize = 256 * 1024;

/// How long what clients send is kept while nobody serves: longer than a take-over lasts, and than
/// clients wait for an answer to a request.
pub const PARKED_FOR: Duration = Duration::from_secs(10);

/// How long a planned end waits until clients and peers have taken what engines have answered.
pub const OUTFLOW_WITHIN: Duration = Duration::from_secs(1);

/// How long a successor is told nothing yet because its predecessor, whose route is still there,
/// may have more to say of what it has done.
pub const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_millis(300);

/// How long it is told nothing, and what it delivers is held back, while something of its
/// predecessor still comes.
pub const HEARD_OUT_WITHIN: Duration = Duration::from_secs(1);

/// Two members that dial each other at once hear of both connections within so long.
pub const DIALS_CROSS_WITHIN: Duration = Duration::from_millis(200);

/// How long it delivers nothing because a member has not said yet all that it keeps for it.
pub const KEEPERS_TELL_WITHIN: Duration = Duration::from_millis(300);

/// Jobs waiting for one store worker; the queue's memory is touched when it is made, so a long one
/// would cost at each take-over. What does not fit waits with the engine's driver.
pub const WORKER_JOBS_MAX: usize = 256;

/// Files and folders that a standby has the kernel watch; for each the kernel keeps about 1 KiB.
/// What is beyond is compared at the take-over.
pub const SURVEY_WATCHES_MAX: usize = 64 * 1024;

/// Connections to the monitoring port; a newcomer takes the place of an idle one.
pub const MONITOR_CONNECTIONS_MAX: usize = 256;

/// Bytes of monitoring pages that wait for those who asked; beyond it, who has read nothing for
/// longest loses his. One more page may exceed it.
pub const MONITOR_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Routes that one address may bring where routes need no authorization: each is told of each of
/// the others.
pub const ADDRESS_ROUTES_MAX: usize = 256;

/// Servers that peers told of and that are dialled at one time: whoever is a peer can tell of as
/// many as it likes.
pub const GOSSIP_DIALS_MAX: usize = 32;

/// Servers that peers told of and that wait to be dialled, beyond which they are not heard.
pub const GOSSIP_WAITING_MAX: usize = 1_024;

/// Lines of the log that wait to be written; more are counted instead. The queue's memory is
/// touched when it is made, and a burst of a start with many channels fits.
pub const LOG_LINES_MAX: usize = 8 * 1024;

/// Bytes of those lines; one more line may exceed it.
pub const LOG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Redeliveries are sent this much early, so that one timer serves neighbours (spec protocol, 21).
pub const REDELIVERY_SLACK: Duration = Duration::from_millis(15);

/// How long a duplicate client ID's first holder has to answer (spec protocol, 6.2).
pub const DUPLICATE_PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How soon a message handed over from a leaving queue member is redelivered (spec protocol, 11.1).
pub const TRANSFER_REDELIVERY_DELAY: Duration = Duration::from_millis(100);

/// How soon a message that waits for others to be acknowledged is redelivered: each time looks at
/// all that is pending, so acknowledgements of a while are taken together.
pub const NEXT_REDELIVERY_DELAY: Duration = Duration::from_millis(10);

/// How soon a client that pings in spite of failed heartbeats is asked again (spec protocol, 7.2).
pub const PING_HEARTBEAT_DELAY: Duration = Duration::from_millis(1);

/// The lease bound where stealing is switched off: a third of the default steal time.
pub const STEAL_AFTER_DEFAULT: Duration = Duration::from_secs(5);

/// Shortest steal time. A member gives a sign of life several times in it, and an event loop that
/// is in one turn for so long counts as hung: below this, busy ones would.
pub const STEAL_AFTER_MIN: Duration = Duration::from_millis(100);

/// Bytes of messages on their way to channels of dead letters, of one engine; one more may exceed
/// it. They are publishes of our own, which nobody holds back.
pub const DEAD_LETTERS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages of a subscription that were delivered before and do not count for what it may have in
/// flight, where few may be redelivered at once: beyond that they do.
pub const REDELIVERED_ASIDE_MAX: usize = 10_000;

/// How soon a message is tried again that has to wait for those.
pub const DEAD_LETTERS_RETRY: Duration = Duration::from_secs(1);
