//! `/metrics`: the names and labels of the exporter that people have beside the reference, so that
//! their dashboards go on, and our own.
//!
//! Facts: spec users, part (e). What the exporter makes of a page it makes by a rule, and the same
//! rule is applied to the same page here; the pages' own tests hold them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use axum::http::StatusCode;

use super::families::{CONTENT_TYPE, Families, Labels, number};
use super::format::LocalTime;
use super::query::{BadParameter, Query};
use super::reply::Reply;
use super::sources::{Ask, CoreFacts, GroupFacts, Sources, State, Status, StreamingFacts};
use super::{Pages, connection_pages, core_pages, process};
use crate::base::id::ChannelName;
use crate::base::meters::{Meters, Observed, StoreMeters};
use crate::base::subject;
use crate::base::time::WallTime;
use crate::base::world;
use crate::broker::snapshot::{Lists, ServerSnapshot};
use crate::engine::snapshot::{ChannelSnapshot, Snapshot, SubscriptionSnapshot, Wanted};

/// Texts of a page that become a label of a metric whose value is 1.
const TEXTS: [&str; 6] = ["server_id", "server_name", "version", "domain", "leader", "name"];

/// Times of a page, which become seconds since 1970.
pub type Times<'a> = [(&'a str, WallTime); 2];

/// What the exporter leaves out of `/varz`.
const LEFT_OUT: [&str; 9] = [
    "leaf",
    "trusted_operators_claim",
    "cluster_tls_timeout",
    "cluster_cluster_port",
    "cluster_auth_timeout",
    "gateway_port",
    "gateway_auth_timeout",
    "gateway_tls_timeout",
    "gateway_connect_retries",
];

/// Times are counted in microseconds, and shown in seconds.
const MICROS_PER_SECOND: f64 = 1_000_000.0;

/// Which series of channels are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Patterns of channels; `None`: all of them.
    patterns: Option<Vec<String>>,
    /// Whether each subscription has series of its own.
    pub has_subscriptions: bool,
}

impl Choice {
    /// `channels` has patterns with commas between them (`-`: no channel), `subs=0` leaves
    /// subscriptions out.
    ///
    /// # Errors
    /// [`BadParameter`] for what is no pattern, and for what is no number.
    pub fn of(query: &Query) -> Result<Self, BadParameter> {
        let has_subscriptions = match query.text("subs") {
            "" => true,
            _ => query.int("subs")? != 0,
        };
        let patterns = match query.text("channels") {
            "" => None,
            "-" => Some(Vec::new()),
            list => Some(list.split(',').map(str::to_owned).collect::<Vec<_>>()),
        };
        let wrong = patterns.iter().flatten().find(|text| !subject::is_valid(text.as_bytes()));
        match wrong {
            Some(text) => Err(BadParameter(format!("{text:?} is no pattern of channels"))),
            None => Ok(Self { patterns, has_subscriptions }),
        }
    }

    /// Whether series of any channel are wanted.
    #[must_use]
    pub fn has_channels(&self) -> bool {
        self.patterns.as_ref().is_none_or(|patterns| !patterns.is_empty())
    }

    /// The channels that are wanted, if each is named.
    fn names(&self) -> Option<BTreeSet<ChannelName>> {
        let patterns = self.patterns.as_ref()?;
        let is_name = |text: &String| subject::is_literal(text.as_bytes());
        let names = patterns.iter().map(|text| ChannelName::from(text.as_str()));
        patterns.iter().all(is_name).then(|| names.collect())
    }

    /// Whether series of this one are.
    #[must_use]
    pub fn has(&self, channel: &ChannelName) -> bool {
        let is_meant = |text: &String| subject::matches(text.as_bytes(), channel.as_bytes());
        self.patterns.as_ref().is_none_or(|patterns| patterns.iter().any(is_meant))
    }
}

impl Pages {
    /// The page; loops are asked for counts, and for the lists that were chosen.
    pub(super) fn metrics(&self, query: &Query) -> Reply {
        let made = Choice::of(query).map_err(Reply::from).and_then(|choice| self.families(&choice));
        match made {
            Ok(families) => Reply::Metrics { content_type: CONTENT_TYPE, text: families.text() },
            Err(reply) => reply,
        }
    }

    fn families(&self, choice: &Choice) -> Result<Families, Reply> {
        let mut families = Families::default();
        let (status, facts) = (self.sources.status.load(), self.sources.core.load());
        let id = facts.server_name.as_str();
        self.add_core(&mut families, id, &facts)?;
        let engines = match &self.sources.streaming {
            Some(streaming) => {
                let snapshot = asked(&streaming.engine, choice)?;
                let known = streaming.facts.load();
                let started = LocalTime {
                    at: known.started,
                    utc_offset: (streaming.utc_offset)(known.started),
                };
                let shown = (&snapshot, started.to_string());
                add_server(&mut families, id, &known, &status, (shown.0, &shown.1));
                add_channels(&mut families, id, choice, &snapshot.channels);
                Some(snapshot)
            }
            None => None,
        };
        let now = world::instant();
        let Sources { lease, vitals, meters, group, broker, .. } = &self.sources;
        let is_ready = status.check_ready(lease, vitals, now).is_ok();
        if engines.is_some() {
            add_process(&mut families, &group.load(), is_ready);
        }
        let broker = broker(Lists::default().into()).map_err(Reply::from)?;
        add_work(&mut families, &broker, engines.as_ref(), meters);
        if let Some(left) = self.room.left() {
            let help = "Bytes that are free where the data lies";
            families.gauge("stanby_store_free_bytes", help, number(left));
        }
        Ok(families)
    }

    /// What the exporter makes of the core pages, each as it is.
    fn add_core(&self, families: &mut Families, id: &str, facts: &CoreFacts) -> Result<(), Reply> {
        let query = Query::new(None);
        let broker = &self.sources.broker;
        let lists = connection_pages::lists(&query).map_err(Reply::from)?;
        let snapshot = connection_pages::ask(broker, lists, &query).map_err(Reply::from)?;
        let view = core_pages::View { facts, snapshot: &snapshot };
        let times =
            [("start", snapshot.started_at), ("config_load_time", snapshot.settings_loaded_at)];
        let connz = connection_pages::connz(view, &query).map_err(Reply::from)?;
        let routez = core_pages::routez(view, &query).map_err(Reply::from)?;
        let subsz = core_pages::subsz(view, &query).map_err(Reply::from)?;
        let varz = core_pages::varz(view, &self.usage());
        for (page, reply) in [("varz", varz), ("routez", routez), ("subsz", subsz)] {
            add_document(families, page, (id, reply.document_text()), &times);
        }
        add_connz(families, id, connz.document_text());
        // There are no leaf nodes yet.
        families.gauges("gnatsd_leafz_conn_nodes_total", "nodes_total", vec![(server(id), 0.0)]);
        let hung = self.sources.vitals.hung_loop(world::instant());
        let health = core_pages::healthz(&self.sources.status.load(), hung);
        add_health(families, id, matches!(health, Reply::Json(StatusCode::OK, _)));
        Ok(())
    }
}

/// What the engines hold: counts, and the channels that were chosen.
pub(super) fn asked(ask: &Ask<Wanted, Snapshot>, choice: &Choice) -> Result<Snapshot, Reply> {
    if !choice.has_channels() {
        return ask(Wanted::Totals).map_err(Reply::from);
    }
    if choice.patterns.is_none() && choice.has_subscriptions {
        return ask(Wanted::AllChannels).map_err(Reply::from);
    }
    if choice.has_subscriptions
        && let Some(names) = choice.names()
    {
        return ask(Wanted::Channels(names.into_iter().collect())).map_err(Reply::from);
    }
    let mut known = ask(Wanted::Names).map_err(Reply::from)?;
    known.channels.retain(|found| choice.has(&found.channel));
    if choice.has_subscriptions {
        let names = known.channels.iter().map(|found| found.channel.clone()).collect();
        known.channels = ask(Wanted::Channels(names)).map_err(Reply::from)?.channels;
    }
    Ok(known)
}

fn server(id: &str) -> Labels {
    vec![("server_id", id.to_owned())]
}

/// What the exporter makes of a core page: each number, and some texts and times.
pub fn add_document(
    families: &mut Families,
    page: &str,
    (id, document): (&str, &str),
    times: &Times<'_>,
) {
    // A page of ours; one that cannot be read would be a bug that its own tests find.
    let Ok(document) = serde_json::from_str::<Value>(document) else { return };
    let mut found = Vec::new();
    flatten(&document, "", times, &mut found);
    for (name, value) in found {
        let full = format!("gnatsd_{page}_{name}");
        match value {
            Found::Number(value) => families.gauges(&full, &name, vec![(server(id), value)]),
            Found::Text(text) => {
                let mut labels = server(id);
                labels.push(("value", text));
                families.gauges(&full, &name, vec![(labels, 1.0)]);
            }
        }
    }
}

enum Found {
    Number(f64),
    Text(String),
}

/// Maps in maps are followed as deep as the pages have them: two levels.
fn flatten(document: &Value, prefix: &str, times: &Times<'_>, found: &mut Vec<(String, Found)>) {
    for (key, value) in document.as_object().into_iter().flatten() {
        let joined = format!("{prefix}_{}", key.replace('/', "_"));
        let name = joined.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_");
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        match value {
            Value::Number(number) => {
                found.push((name, Found::Number(number.as_f64().unwrap_or(0.0))));
            }
            Value::String(text) if TEXTS.contains(&key.as_str()) => {
                found.push((name, Found::Text(text.clone())));
            }
            Value::String(_) => {
                let time = times.iter().find(|(known, _)| known == key);
                let seconds = time.map(|(_, at)| Duration::from_nanos(at.0.max(0).unsigned_abs()));
                let found_time = seconds.map(|time| (name, Found::Number(time.as_secs_f64())));
                found.extend(found_time);
            }
            Value::Object(_) => flatten(value, &name, times, found),
            Value::Null | Value::Bool(_) | Value::Array(_) => (),
        }
    }
}

/// What the exporter makes of `/connz`: its head, and sums over the connections that it lists.
pub fn add_connz(families: &mut Families, id: &str, document: &str) {
    let Ok(document) = serde_json::from_str::<Value>(document) else { return };
    for name in ["num_connections", "offset", "total", "limit"] {
        let value = document[name].as_f64().unwrap_or(0.0);
        families.gauges(&format!("gnatsd_connz_{name}"), name, vec![(server(id), value)]);
    }
    for name in ["pending_bytes", "subscriptions", "in_bytes", "out_bytes", "in_msgs", "out_msgs"] {
        let listed = document["connections"].as_array().into_iter().flatten();
        let sum = listed.filter_map(|connection| connection[name].as_f64()).sum();
        families.gauges(&format!("gnatsd_connz_{name}"), name, vec![(server(id), sum)]);
    }
}

/// What the exporter makes of `/healthz`.
pub fn add_health(families: &mut Families, id: &str, is_ok: bool) {
    let value = if is_ok { 0.0 } else { 1.0 };
    families.gauges("gnatsd_healthz_status", "status", vec![(server(id), value)]);
}

/// What the exporter makes of `/streaming/serverz`.
pub fn add_server(
    families: &mut Families,
    id: &str,
    facts: &StreamingFacts,
    status: &Status,
    (snapshot, started): (&Snapshot, &str),
) {
    let (totals, traffic) = (&snapshot.totals, &snapshot.traffic);
    let count = |value: usize| number(u64::try_from(value).unwrap_or(u64::MAX));
    for (name, help, value) in [
        ("bytes_total", "Total of bytes", number(totals.bytes)),
        ("bytes_in", "Incoming bytes", number(traffic.in_bytes)),
        ("bytes_out", "Outgoing bytes", number(traffic.out_bytes)),
        ("msgs_total", "Total of messages", number(totals.messages)),
        ("msgs_in", "Incoming messages", number(traffic.in_messages)),
        ("msgs_out", "Outgoing messages", number(traffic.out_messages)),
        ("channels", "Total channels", count(totals.channels)),
        ("subscriptions", "Total subscriptions", count(totals.subscriptions)),
        ("clients", "Total clients", count(totals.clients)),
        ("active", "Active server", f64::from(u8::from(status.state == State::FtActive))),
    ] {
        families.gauges(&format!("nss_server_{name}"), help, vec![(server(id), value)]);
    }
    let mut labels = server(id);
    labels.extend([
        ("cluster_id", facts.cluster_id.clone()),
        ("version", facts.version.clone()),
        ("go_version", facts.go.clone()),
        ("state", status.state.name().to_owned()),
        // There is one in a Raft cluster only.
        ("role", String::new()),
        ("start_time", started.to_owned()),
    ]);
    families.gauges("nss_server_info", "Info", vec![(labels, 1.0)]);
}

/// What the exporter makes of `/streaming/channelsz?subs=1`.
pub fn add_channels(
    families: &mut Families,
    id: &str,
    choice: &Choice,
    channels: &[ChannelSnapshot],
) {
    let labels = |channel: &ChannelSnapshot| {
        let mut labels = server(id);
        labels.extend([
            ("server_role", String::new()),
            ("channel", text(channel.channel.as_bytes())),
        ]);
        labels
    };
    type Of<T> = fn(&T) -> u64;
    let of_channels: [(&str, &str, Of<ChannelSnapshot>); 3] = [
        ("bytes_total", "Total of bytes", |channel| channel.state.byte_count),
        ("msgs_total", "Total of messages", |channel| channel.state.message_count),
        ("last_seq", "Last seq", |channel| channel.state.last.get()),
    ];
    for (name, help, value) in of_channels {
        let values = channels.iter().map(|found| (labels(found), number(value(found)))).collect();
        families.gauges(&format!("nss_chan_{name}"), help, values);
    }
    if !choice.has_subscriptions {
        return;
    }
    let of_subscriptions: [(&str, &str, Of<SubscriptionSnapshot>); 3] = [
        ("last_sent", "Last message sent", |found| found.last_sent.get()),
        ("pending_count", "Pending message count", |found| found.pending_count as u64),
        ("max_inflight", "Max in flight message count", |found| {
            u64::try_from(found.in_flight_max).unwrap_or(0)
        }),
    ];
    for (name, help, value) in of_subscriptions {
        let each = channels.iter().flat_map(|channel| {
            let subscriptions = channel.subscriptions.iter();
            subscriptions.map(move |found| (channel, found))
        });
        let values = each.map(|(channel, found)| {
            let mut all = labels(channel);
            all.extend(subscription_labels(found));
            (all, number(value(found)))
        });
        families.gauges(&format!("nss_chan_subs_{name}"), help, values.collect());
    }
}

/// A durable queue group has both names in one, with a colon between.
fn subscription_labels(found: &SubscriptionSnapshot) -> Labels {
    let mut durable = text(found.durable_name.as_bytes());
    let mut queue = text(found.queue_name.as_bytes());
    if found.is_durable
        && let Some((name, group)) = queue.split_once(':')
    {
        (durable, queue) =
            (name.to_owned(), group.split(':').next().unwrap_or_default().to_owned());
    }
    vec![
        ("client_id", text(found.client.as_bytes())),
        ("inbox", text(found.inbox.as_bytes())),
        ("queue_name", queue),
        ("is_durable", found.is_durable.to_string()),
        ("is_offline", found.is_offline.to_string()),
        ("durable_name", durable),
    ]
}

/// Names need not be UTF-8; labels must.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Our own of the process and its group.
pub fn add_process(families: &mut Families, group: &GroupFacts, is_ready: bool) {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    families.gauges("stanby_build_info", "Release of stanby", vec![(version, 1.0)]);
    let is = |value: bool| f64::from(u8::from(value));
    families.gauge("stanby_ready", "Whether clients may be sent here", is(is_ready));
    let roles = ["standby", "taking over", "active", "leaving"];
    let of_group =
        || vec![("cluster_id", group.cluster_id.clone()), ("ft_group", group.name.clone())];
    let values = roles.map(|role| {
        let mut labels = of_group();
        labels.push(("role", role.to_owned()));
        (labels, is(role == group.role))
    });
    families.gauges("stanby_role", "What this member is", values.to_vec());
    if let Some(epoch) = group.epoch {
        families.gauge("stanby_epoch", "Epoch of this member", number(epoch));
    }
    let values = vec![(Labels::new(), group.take_overs)];
    families.counters("stanby_take_overs", "Take-overs by this process", values);
    if let Some(took) = group.last_take_over {
        let help = "From the lease to the first client, the last time";
        families.gauge("stanby_last_take_over_seconds", help, took.as_secs_f64());
    }
    let help = "Other members that stand by and are ready, as far as this one hears";
    let standbys = vec![(of_group(), number(group.ready_standbys))];
    families.gauges("stanby_ready_standbys", help, standbys);
    if let Some(silent) = group.active_silent_for {
        let help = "On a standby: since when nothing of the active was heard";
        families.gauge("stanby_active_silent_seconds", help, silent.as_secs_f64());
    }
    let descriptors = process::Descriptors::now();
    if descriptors.open > 0 {
        let open = number(u64::try_from(descriptors.open).unwrap_or(0));
        families.gauge("process_open_fds", "Open descriptors", open);
        let most = number(u64::try_from(descriptors.max).unwrap_or(0));
        families.gauge("process_max_fds", "Most open descriptors", most);
    }
    let resident = number(process::resident_bytes());
    families.gauge("process_resident_memory_bytes", "Resident memory", resident);
}

/// Our own of loops, engines and stores.
pub fn add_work(
    families: &mut Families,
    broker: &ServerSnapshot,
    engines: Option<&Snapshot>,
    meters: &Meters,
) {
    let held = number(broker.held_count);
    let help = "Connections that are not read until a store or an engine has room";
    families.gauge("stanby_held_connections", help, held);
    if let Some(Snapshot { traffic, .. }) = engines {
        let values = vec![(Labels::new(), traffic.redelivered_messages)];
        families.counters("stanby_redelivered_messages", "Messages sent again", values);
        let help = "Messages that were delivered as often as they may be, now dead letters";
        families.counters("stanby_dead_letters", help, vec![(Labels::new(), traffic.dead_letters)]);
        let help = "Dead letters that their channel has refused; they are tried again";
        let values = vec![(Labels::new(), traffic.dead_letters_refused)];
        families.counters("stanby_dead_letters_refused", help, values);
        let help = "Messages that were older than the time to live of their channel, not delivered";
        families.counters(
            "stanby_outlived_messages",
            help,
            vec![(Labels::new(), traffic.outlived)],
        );
        let help = "Publishes that were acknowledged and not stored, because their channel had one";
        families.counters(
            "stanby_duplicate_messages",
            help,
            vec![(Labels::new(), traffic.duplicates)],
        );
    }
    let by_loop = |read: fn(&StoreMeters) -> Observed| {
        let of = |(index, store): (usize, &StoreMeters)| {
            (vec![("loop", index.to_string())], read(store))
        };
        meters.iter().enumerate().map(of).collect::<Vec<_>>()
    };
    type Read = fn(&StoreMeters) -> Observed;
    let times: [(&str, &str, Read); 3] = [
        ("stanby_commit_duration_seconds", "From a batch to its answer", |it| it.commit.read()),
        ("stanby_sync_duration_seconds", "Of that, the wait for the disk", |it| it.sync.read()),
        ("stanby_fence_check_duration_seconds", "Of that, the look at the epoch", |it| {
            it.fence.read()
        }),
    ];
    for (name, help, read) in times {
        families.histograms((name, help), MICROS_PER_SECOND, by_loop(read));
    }
    let batches = by_loop(|store| store.batch.read());
    families.histograms(("stanby_commit_messages", "Messages in a batch"), 1.0, batches);
    let waiting = meters.iter().enumerate().map(|(index, store)| {
        let waiting = store.waiting.load(Ordering::Relaxed);
        (vec![("loop", index.to_string())], number(waiting))
    });
    let help = "Jobs that waited for the store when it took up the last batch";
    families.gauges("stanby_store_waiting_jobs", help, waiting.collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(query: &str) -> Result<Choice, BadParameter> {
        Choice::of(&Query::new(Some(query)))
    }

    #[test]
    fn series_of_channels_can_be_chosen() {
        let foo = ChannelName::from("foo.bar");
        assert!(choice("").is_ok_and(|all| all.has(&foo) && all.has_subscriptions));
        assert!(choice("channels=baz,foo.*&subs=0").is_ok_and(|some| some.has(&foo)));
        assert!(choice("channels=baz").is_ok_and(|other| !other.has(&foo)));
        assert!(choice("channels=-").is_ok_and(|none| !none.has_channels() && !none.has(&foo)));
        for wrong in ["channels=a..b", "channels=a,,b", "channels=.", "subs=x"] {
            assert!(choice(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_document_becomes_numbers_and_a_few_texts() {
        let document = r#"{"server_id":"id","host":"h","port":4222,"start":"2023-11-14T22:13:20Z",
            "cluster":{"name":"c","auth_timeout":2,"urls":["u"]},"slow":{"a/b":3},"on":true}"#;
        let mut families = Families::default();
        let times = [("start", WallTime(1_700_000_000_000_000_000)), ("other", WallTime(0))];
        add_document(&mut families, "varz", ("s", document), &times);
        let text = families.text();
        let mut values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        values.sort_unstable();
        let expected = [
            r#"gnatsd_varz_cluster_name{server_id="s",value="c"} 1.0"#,
            r#"gnatsd_varz_port{server_id="s"} 4222.0"#,
            r#"gnatsd_varz_server_id{server_id="s",value="id"} 1.0"#,
            r#"gnatsd_varz_slow_a_b{server_id="s"} 3.0"#,
            r#"gnatsd_varz_start{server_id="s"} 1700000000.0"#,
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn a_durable_queue_group_has_two_names() {
        let found = SubscriptionSnapshot {
            is_durable: true,
            queue_name: "dur:group".into(),
            ..SubscriptionSnapshot::default()
        };
        let labels = subscription_labels(&found);
        let of =
            |name| labels.iter().find(|(known, _)| *known == name).map(|(_, value)| &value[..]);
        assert_eq!((of("durable_name"), of("queue_name")), (Some("dur"), Some("group")));
    }
}
