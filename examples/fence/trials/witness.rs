//! Who says what when: clients that can hear only one member.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::Signal;
use stanby::base::time::Instant;
use stanby::base::world;
use stanby::client::{Client, StartAt, Subscription, SubscriptionOptions};

use super::drill::load::{self, Notes, Publisher};
use super::drill::{DrillError, Plan, wait_until};
use super::{Doubt, Findings, LEASE_BOUND, ROLES_TIMEOUT, Trial};

/// When the former active delivered something.
type Deliveries = Arc<Mutex<Vec<Instant>>>;

/// One doubt between two members without a route.
///
/// # Errors
/// When the trial itself fails.
pub fn run(doubt: Doubt, plan: &Plan, folder: &Path) -> Result<Findings, DrillError> {
    let plan = Plan { has_routes: false, ..plan.clone() };
    let mut trial = Trial::start(&plan, folder)?;
    let (old, new) = (0, 1);
    let only = |place: usize| {
        let server = trial.pair.servers()[place].clone();
        [server.clone(), server]
    };
    let (old_only, new_only) = (only(old), only(new));
    let (deliveries, listener, subscriptions) = listen(&plan, &old_only)?;
    let publisher = Publisher::start(&plan, &old_only, &trial.notes, "witness")?;
    trial.some_acks()?;
    let stopped_at = world::instant();
    match doubt {
        Doubt::Paused => trial.pair.signal(old, Signal::SIGSTOP)?,
        Doubt::Blinded => trial.restart_blinded(new)?,
        Doubt::LockRemoved | Doubt::LockReplaced | Doubt::LockUsurped => {
            return Err(DrillError::said("the lock file alone makes nobody active"));
        }
    }
    // Answered by the new active as soon as it serves.
    let client = connect_patiently(&new_only)?;
    let first_answer_at = world::instant();
    trial.findings.takeovers += 1;
    let continued_at = world::instant();
    if doubt == Doubt::Paused {
        trial.pair.signal(old, Signal::SIGCONT)?;
    }
    client.publish(&load::channel_name(0), "the new one")?;
    trial.active = new;
    trial.wait_roles()?;
    // Three times as long as anything may be said.
    let heard_until = world::instant() + 3 * LEASE_BOUND;
    wait_until(ROLES_TIMEOUT, || heard_until <= world::instant());
    let late = Late { stopped_at, continued_at, first_answer_at, doubt };
    late.judge(&mut trial, &deliveries);
    trial.expect_log(old, &["was replaced", "a later epoch"])?;
    // Nobody answers these any more: a connection lost is what they should see.
    drop((subscriptions, listener));
    let _ = publisher.finish();
    client.close()?;
    keep_books(&mut trial, &new_only)?;
    trial.judge()
}

fn connect_patiently(servers: &[String; 2]) -> Result<Client, DrillError> {
    let deadline = world::instant() + ROLES_TIMEOUT;
    loop {
        match load::connect(servers, "fence-new") {
            Ok(client) => return Ok(client),
            Err(error) if deadline <= world::instant() => return Err(error.into()),
            Err(_) => (),
        }
    }
}

fn listen(
    plan: &Plan,
    servers: &[String; 2],
) -> Result<(Deliveries, Client, Vec<Subscription>), DrillError> {
    let client = load::connect(servers, "fence-old")?;
    let deliveries = Deliveries::default();
    let mut subscriptions = Vec::new();
    for channel in 0..plan.channels {
        let heard = Arc::clone(&deliveries);
        let options = SubscriptionOptions { start: StartAt::First, ..Default::default() };
        let handler = move |_| {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(world::instant());
        };
        subscriptions.push(client.subscribe(&load::channel_name(channel), options, handler)?);
    }
    Ok((deliveries, client, subscriptions))
}

/// What was in time.
struct Late {
    stopped_at: Instant,
    continued_at: Instant,
    first_answer_at: Instant,
    doubt: Doubt,
}

impl Late {
    fn judge(&self, trial: &mut Trial<'_>, deliveries: &Deliveries) {
        let bound = self.first_answer_at + LEASE_BOUND;
        let (mut late, mut strange) = (0, 0);
        {
            let ledger = trial.notes.ledger();
            for one in ledger.published.values().filter(|one| Some(bound) < one.acked_at) {
                late += 1;
                strange += usize::from(self.stopped_at < one.sent_at);
            }
        }
        let mut delivered = deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        delivered.retain(|at| bound < *at);
        // A process that was paused between its check and its write says that one thing.
        let is_paused = self.doubt == Doubt::Paused && bound < self.continued_at;
        if 0 < strange || (!is_paused && late + delivered.len() != 0) {
            trial.fault(format!(
                "the former active sent {late} acks and {} messages more than a lease bound after \
                 its successor's first answer; {strange} of the acks for what came meanwhile",
                delivered.len()
            ));
        }
    }
}

/// Reads what is stored through the new active; readers of the former one do not count.
fn keep_books(trial: &mut Trial<'_>, servers: &[String; 2]) -> Result<(), DrillError> {
    let notes: &Notes = &trial.notes;
    let key = (0, "the new one".to_owned());
    let published = super::drill::ledger::Published {
        sent_at: world::instant(),
        acked_at: Some(world::instant()),
    };
    notes.ledger().published.insert(key, published);
    let stored = load::replay(trial.plan, servers, notes)?;
    notes.ledger().stored = stored;
    Ok(())
}
