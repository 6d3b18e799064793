//! The figures of this moment: who is active, what has gone through, what the stores took for it.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Shown;
use crate::base::meters::{Meters, Observed, StoreMeters};
use crate::base::world;
use crate::broker::snapshot::{Lists, ServerSnapshot};
use crate::engine::snapshot::{Totals, Traffic, Wanted};
use crate::log;
use crate::monitor::process::Descriptors;
use crate::monitor::{Pages, Sources};

impl Pages {
    /// What the page asks for again and again: counters, and never a list.
    pub(super) fn now_document(&self) -> Result<Value, Shown> {
        let Sources { meters, broker, core, vitals, status, group, streaming, .. } = &self.sources;
        let broker = broker(Lists::default().into())?;
        let traffic = match streaming {
            Some(streaming) => Some((streaming.engine)(Wanted::Traffic)?.traffic),
            None => None,
        };
        let totals = self.totals()?;
        let (now, core, status, group) = (world::now(), core.load(), status.load(), group.load());
        let trouble = status.check_ready(&self.sources.lease, vitals, now.at).err();
        let facts = streaming.as_ref().map(|streaming| streaming.facts.load());
        let group_age = group.told_at.map(|at| now.at.since(at).as_millis());
        let identity = json!({
            "at": millis(now.wall.0),
            "server_id": facts.as_ref().map_or(&core.server_id, |facts| &facts.server_id),
            "name": core.configured_name,
            "release": env!("CARGO_PKG_VERSION"),
            "is_streaming": streaming.is_some(),
            "state": status.state.name(),
            "is_active": self.is_active().is_ok(),
            "trouble": trouble,
            "rival": status.rival,
            "started": millis(facts.as_ref().map_or(broker.started_at, |facts| facts.started).0),
            "group": group.status,
            "group_age_ms": group_age.and_then(|age| u64::try_from(age).ok()),
        });
        let figures = json!({
            "totals": totals.map(shown_totals),
            "streaming": traffic.map(streaming_traffic),
            "core": core_traffic(&broker),
            "stores": stores(meters),
            "free_bytes": self.room.left(),
            "lost_messages": facts.as_ref().and_then(|facts| facts.lost_messages),
            "process": self.shown_process(),
            "complaints": log::recent::count(),
            "shows_messages": self.sources.viewer.load().is_some(),
        });
        Ok(merged(identity, figures))
    }

    fn shown_process(&self) -> Value {
        let (usage, descriptors) = (self.usage(), Descriptors::now());
        json!({
            "cpu_percent": usage.cpu_percent,
            "cores": usage.cores,
            "resident_bytes": usage.resident_bytes,
            "open_fds": descriptors.open,
            "max_fds": descriptors.max,
        })
    }
}

fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

fn shown_totals(totals: Totals) -> Value {
    json!({
        "clients": totals.clients,
        "channels": totals.channels,
        "subscriptions": totals.subscriptions,
        "messages": totals.messages,
        "bytes": totals.bytes,
    })
}

/// The last warnings and errors of the log, newest first.
pub(super) fn complaints() -> Value {
    let found = log::recent::lines();
    let lines: Vec<Value> = found
        .iter()
        .rev()
        .map(|line| json!({ "at": millis(line.at.0), "level": line.level, "text": line.text }))
        .collect();
    json!({ "count": log::recent::count(), "kept": log::recent::LINES_MAX, "lines": lines })
}

/// Unix milliseconds, as browsers have them.
pub(super) fn millis(nanos: i64) -> i64 {
    nanos.div_euclid(1_000_000)
}

fn streaming_traffic(traffic: Traffic) -> Value {
    json!({
        "in_messages": traffic.in_messages,
        "in_bytes": traffic.in_bytes,
        "out_messages": traffic.out_messages,
        "out_bytes": traffic.out_bytes,
        "redelivered_messages": traffic.redelivered_messages,
    })
}

fn core_traffic(broker: &ServerSnapshot) -> Value {
    json!({
        "in_messages": broker.traffic.in_msgs,
        "in_bytes": broker.traffic.in_bytes,
        "out_messages": broker.traffic.out_msgs,
        "out_bytes": broker.traffic.out_bytes,
        "connections": broker.open_count,
        "connections_total": broker.connections_total,
        "held_connections": broker.held_count,
        "slow_consumers": broker.slow_consumers,
        "routes": broker.remotes.len(),
        "interests": broker.subscriptions.num_subscriptions,
    })
}

/// Of all loops together: whoever looks wants to know how long a publish waits, on whichever.
fn stores(meters: &Meters) -> Value {
    let of = |read: fn(&StoreMeters) -> Observed| {
        let mut parts = meters.iter().map(read);
        let first = parts.next().unwrap_or_default();
        let Observed { bounds, counts, sum } = parts.fold(first, added);
        json!({ "bounds": bounds, "counts": counts, "sum": sum })
    };
    let waiting: u64 = meters.iter().map(|store| store.waiting.load(Ordering::Relaxed)).sum();
    json!({
        "commit": of(|store| store.commit.read()),
        "sync": of(|store| store.sync.read()),
        "fence": of(|store| store.fence.read()),
        "batch": of(|store| store.batch.read()),
        "waiting": waiting,
    })
}

fn added(mut all: Observed, one: Observed) -> Observed {
    all.counts.iter_mut().zip(one.counts).for_each(|(sum, count)| *sum += count);
    all.sum += one.sum;
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn loops_are_shown_as_one() {
        let meters = Meters::new(2);
        meters.store(0).commit.took(Duration::from_micros(60));
        meters.store(1).commit.took(Duration::from_micros(70));
        meters.store(1).begins(3, 5);
        let shown = stores(&meters);
        assert_eq!(shown["commit"]["counts"][1], 2);
        assert_eq!(shown["commit"]["sum"], 130);
        assert_eq!(shown["waiting"], 5);
        assert_eq!(stores(&Meters::default())["commit"]["counts"], json!([]));
    }

    #[test]
    fn times_are_those_of_browsers() {
        assert_eq!(millis(1_700_000_000_123_456_789), 1_700_000_000_123);
        assert_eq!(millis(-1), -1);
    }
}
