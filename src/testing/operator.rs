//! An operator of a simulated group: asks the active for changes, as the control socket does, often
//! just before something happens to it, and is told how they ended, or never.

use std::sync::Arc;

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use crate::base::id::{ChannelName, ClientId, Sequence, Subject};
use crate::base::placement;
use crate::base::random::Random;
use crate::engine::administration::{Change, Extent, Outcome, Position};
use crate::engine::snapshot::{Mark, Snapshot, SubscriptionSnapshot, Wanted};
use crate::server::engine_driver::Mail;
use crate::testing::checker::{Checker, DurableKey, Ending, GROUP, Matter};
use crate::testing::limits::DROPPED;
use crate::testing::memory_disk::ProcessId;
use crate::testing::parcels::choose;
use crate::testing::process::Process;
use crate::testing::workload::{CHANNELS, Client};

/// What is asked of the active, and what has become of it.
#[derive(Debug)]
pub struct Operator {
    random: Random,
    asked_count: u64,
    waiting: Vec<Waiting>,
}

/// Something that is not answered yet.
#[derive(Debug)]
struct Waiting {
    /// Whom it was asked of.
    process: ProcessId,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Which subscriptions a channel has, of one of which this is wanted then.
    List(Receiver<Snapshot>, ChannelName, Intent),
    /// A change, by its number.
    Change(u64, Matter, Receiver<Outcome>),
}

/// What is wanted of a subscription that is not known yet.
#[derive(Clone, Copy, Debug)]
enum Intent {
    Close,
    Reset,
    Remove,
}

/// How a change has ended that somebody was told of, or will never be.
#[derive(Debug)]
pub struct Told {
    /// What it was about.
    pub matter: Matter,
    /// Whether it may have been made.
    pub is_done: bool,
}

/// Of so many steps something is asked in one.
const STEPS_PER_QUESTION: u64 = 40;
const QUESTIONS_MAX: usize = 3;

impl Operator {
    /// One that goes by a chance of its own, so that what others do does not hang on it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), asked_count: 0, waiting: Vec::new() }
    }

    /// Whether something is asked in this step.
    pub fn is_due(&mut self) -> bool {
        self.random.below(STEPS_PER_QUESTION) == 0
    }

    /// Whether something is asked just before a fault; and within how many microseconds that comes.
    pub fn is_ahead_of_fault(&mut self) -> Option<u64> {
        (self.random.below(2) == 0).then(|| self.random.below(FAULT_WITHIN_MICROS))
    }

    /// Asks something of the active; what needs no look before if something happens to it soon.
    pub fn ask(
        &mut self,
        active: &mut Process,
        is_urgent: bool,
        clients: &[Client],
        checker: &mut Checker,
    ) {
        if QUESTIONS_MAX <= self.waiting.len() {
            return;
        }
        let drawn = [(); 3].map(|()| CHANNELS[choose(&mut self.random, CHANNELS.len())]);
        let is_used =
            |name: &&&str| checker.last_told(&ChannelName::from(**name)) != Sequence::ZERO;
        let channel = ChannelName::from(*drawn.iter().find(is_used).unwrap_or(&drawn[0]));
        match self.random.below(if is_urgent { 6 } else { 14 }) {
            0..=2 => {
                let extent = self.extent(&channel, checker);
                let matter = Matter::Purge { channel: channel.clone(), extent };
                self.begin(active, matter, Change::Purge { channel, extent }, checker);
            }
            3 => {
                let channel = ChannelName::from(DROPPED);
                let with_subscriptions = self.random.below(3) != 0;
                let change = Change::DeleteChannel { channel, with_subscriptions };
                self.begin(active, Matter::Drop, change, checker);
            }
            4 | 5 => {
                let Some(client) = clients.get(choose(&mut self.random, clients.len())) else {
                    return;
                };
                let Some((number, life)) = client.session() else { return };
                let change = Change::CloseClient(ClientId::from(format!("c{number}")));
                self.begin(active, Matter::Client { number, life }, change, checker);
            }
            6 | 7 => self.list(active, channel, Intent::Close),
            8 | 9 => self.list(active, channel, Intent::Remove),
            _ => self.list(active, channel, Intent::Reset),
        }
    }

    /// What lies before some time is, to the engine, what lies up to some message.
    fn extent(&mut self, channel: &ChannelName, checker: &Checker) -> Extent {
        match self.random.below(8) {
            0 => Extent::All,
            1..=3 => Extent::Keep(self.random.below(6)),
            _ => {
                let back = self.random.below(8);
                Extent::To(Sequence(checker.last_told(channel).get().saturating_sub(back)))
            }
        }
    }

    fn list(&mut self, active: &mut Process, channel: ChannelName, intent: Intent) {
        let (told, answer) = bounded(1);
        let wanted = Wanted::Channels(Arc::from([channel.clone()]));
        // Whoever asked and did not wait misses it.
        let done = Box::new(move |found, _| drop(told.try_send(found)));
        let home = placement::of_channel(&channel, active.loop_count());
        active.post(home.index(), Mail::Snapshot { wanted, from: Mark::default(), done });
        let what = What::List(answer, channel, intent);
        self.waiting.push(Waiting { process: active.id, what });
    }

    fn begin(
        &mut self,
        active: &mut Process,
        matter: Matter,
        change: Change,
        checker: &mut Checker,
    ) {
        self.asked_count += 1;
        let loops = active.loop_count();
        let home = match &change {
            Change::CloseClient(client) => placement::of_client(client, loops),
            Change::Purge { channel, .. }
            | Change::DeleteChannel { channel, .. }
            | Change::CloseSubscription { channel, .. }
            | Change::ResetDurable { channel, .. }
            | Change::RemoveDurable { channel, .. } => placement::of_channel(channel, loops),
        };
        checker.on_change_asked(self.asked_count, &matter);
        let (told, answer) = bounded(1);
        let done = Box::new(move |outcome| drop(told.try_send(outcome)));
        active.post(home.index(), Mail::Administer { change, done });
        let what = What::Change(self.asked_count, matter, answer);
        self.waiting.push(Waiting { process: active.id, what });
    }

    /// Hears what has been answered, and goes on with what was only looked at; gives what has come
    /// to its end.
    pub fn hear(&mut self, processes: &mut [&mut Process], checker: &mut Checker) -> Vec<Told> {
        let mut ended = Vec::new();
        for one in std::mem::take(&mut self.waiting) {
            match &one.what {
                What::List(answer, channel, intent) => match answer.try_recv() {
                    Ok(found) => {
                        let chosen = self.choose_of(&found, channel, *intent);
                        let asked = processes.iter_mut().find(|it| it.id == one.process);
                        if let (Some((matter, change)), Some(process)) = (chosen, asked) {
                            self.begin(process, matter, change, checker);
                        }
                    }
                    Err(TryRecvError::Empty) => self.waiting.push(one),
                    Err(TryRecvError::Disconnected) => (),
                },
                What::Change(number, matter, answer) => {
                    let ending = match answer.try_recv() {
                        Ok(outcome) => Ending::of(outcome),
                        Err(TryRecvError::Empty) => {
                            self.waiting.push(one);
                            continue;
                        }
                        Err(TryRecvError::Disconnected) => Ending::Unknown,
                    };
                    checker.on_change_ended(*number, &ending);
                    let is_done = !matches!(ending, Ending::Refused);
                    ended.push(Told { matter: matter.clone(), is_done });
                }
            }
        }
        ended
    }

    /// Nobody waits for an answer any more.
    pub fn give_up(&mut self, checker: &mut Checker) {
        for one in std::mem::take(&mut self.waiting) {
            if let What::Change(number, ..) = one.what {
                checker.on_change_ended(number, &Ending::Unknown);
            }
        }
    }

    fn choose_of(
        &mut self,
        found: &Snapshot,
        channel: &ChannelName,
        intent: Intent,
    ) -> Option<(Matter, Change)> {
        let found = found.channels.iter().find(|found| found.channel == *channel)?;
        let is_meant = |one: &&SubscriptionSnapshot| match intent {
            Intent::Close => !one.is_offline,
            Intent::Reset | Intent::Remove => one.is_offline && key_of(one, channel).is_some(),
        };
        let meant: Vec<_> = found.subscriptions.iter().filter(is_meant).collect();
        if meant.is_empty() {
            return None;
        }
        let one = meant[choose(&mut self.random, meant.len())];
        let (channel, id) = (channel.clone(), one.id);
        Some(match intent {
            Intent::Close => {
                let matter = Matter::Subscription { inbox: Subject::from(one.inbox.to_bytes()) };
                (matter, Change::CloseSubscription { channel, id })
            }
            Intent::Remove => {
                let key = key_of(one, &channel)?;
                (Matter::Removal { key }, Change::RemoveDurable { channel, id })
            }
            Intent::Reset => {
                let to = match self.random.below(5) {
                    0 => Position::First,
                    1 => Position::Last,
                    2 => Position::New,
                    _ => Position::At(Sequence(1 + self.random.below(found.state.last.0 + 1))),
                };
                let key = key_of(one, &channel)?;
                (Matter::Reset { key, to }, Change::ResetDurable { channel, id, to })
            }
        })
    }
}

/// Faults come so soon after a question at most.
const FAULT_WITHIN_MICROS: u64 = 8_000;

/// What an unused durable is known by to the checker, if it is one of those that get everything.
fn key_of(one: &SubscriptionSnapshot, channel: &ChannelName) -> Option<DurableKey> {
    let name = if one.queue_name.as_bytes() == GROUP_OF_SERVER {
        GROUP.to_owned()
    } else if one.queue_name.is_empty() && one.durable_name.as_bytes() == b"mine" {
        format!("{}-mine", one.client)
    } else {
        return None;
    };
    Some(DurableKey { channel: channel.clone(), name })
}

/// The durable queue group, as the server calls it.
const GROUP_OF_SERVER: &[u8] = b"mine:group";
