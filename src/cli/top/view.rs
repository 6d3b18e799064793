//! What is shown of the samples: rates, order, what was chosen. Logic: draws nothing.

use std::collections::VecDeque;

use serde::Serialize;

use super::sample::{Channel, Core, Sample, Server};
use crate::cli::table::table;
use crate::server::control_protocol::GroupStatus;

/// Looks whose rates are drawn as a line.
const HISTORY: usize = 120;

/// The order of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Rate,
    Name,
    Messages,
    Pending,
    Lag,
}

impl Sort {
    pub const ALL: [Self; 5] = [Self::Rate, Self::Name, Self::Messages, Self::Pending, Self::Lag];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Name => "name",
            Self::Messages => "messages",
            Self::Pending => "pending",
            Self::Lag => "lag",
        }
    }

    /// The next one.
    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// What goes through a server each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    pub in_msgs: f64,
    pub out_msgs: f64,
    pub in_bytes: f64,
    pub out_bytes: f64,
}

/// A channel as a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row<'a> {
    pub channel: &'a str,
    pub msgs: u64,
    pub bytes: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// New messages each second.
    pub rate: f64,
    pub subscriptions: usize,
    /// Delivered, and not acknowledged.
    pub pending: u64,
    pub stalled: usize,
    /// How far the last subscription is behind.
    pub lag: u64,
}

/// All that a program is told.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    url: &'a str,
    server: &'a Server,
    core: &'a Core,
    rates: Rates,
    group: Option<&'a GroupStatus>,
    channel_total: usize,
    channels: Vec<Row<'a>>,
}

/// What is shown.
pub(super) struct View {
    pub url: String,
    pub sort: Sort,
    /// Part of a name.
    pub filter: String,
    /// The filter is being written.
    pub is_finding: bool,
    pub selected: usize,
    /// The channel whose subscriptions are shown.
    pub chosen: Option<String>,
    pub is_stopped: bool,
    pub has_colours: bool,
    /// Why the last look failed.
    pub trouble: Option<String>,
    /// Messages in, at each look.
    pub history: VecDeque<u64>,
    now: Option<Sample>,
    before: Option<Sample>,
}

impl View {
    pub fn new(url: String, sort: Sort) -> Self {
        Self {
            url,
            sort,
            filter: String::new(),
            is_finding: false,
            selected: 0,
            chosen: None,
            is_stopped: false,
            has_colours: false,
            trouble: None,
            history: VecDeque::new(),
            now: None,
            before: None,
        }
    }

    /// A look has ended.
    pub fn take(&mut self, looked: Result<Sample, String>) {
        match looked {
            Err(why) => self.trouble = Some(why),
            Ok(_) if self.is_stopped => (),
            Ok(sample) => {
                self.trouble = None;
                self.before = self.now.replace(sample);
                // Another server, or the same one started anew, counts from 0.
                let id = |sample: &Option<Sample>| {
                    sample.as_ref().map(|sample| sample.server.server_id.clone())
                };
                if id(&self.before) != id(&self.now) {
                    self.before = None;
                }
                if self.before.is_some() {
                    self.history.push_back(whole(self.rates().in_msgs));
                }
                if HISTORY < self.history.len() {
                    self.history.pop_front();
                }
                self.selected = self.selected.min(self.rows().len().saturating_sub(1));
            }
        }
    }

    /// The last look that succeeded.
    pub fn sample(&self) -> Option<&Sample> {
        self.now.as_ref()
    }

    /// Seconds between the two looks that rates are made of.
    fn span(&self) -> Option<(&Sample, f64)> {
        let (before, now) = (self.before.as_ref()?, self.now.as_ref()?);
        let seconds = now.at.since(before.at).as_secs_f64();
        (0.0 < seconds).then_some((before, seconds))
    }

    pub fn rates(&self) -> Rates {
        let Some(((before, seconds), now)) = self.span().zip(self.now.as_ref()) else {
            return Rates::default();
        };
        let rate = |before: u64, now: u64| number(now.saturating_sub(before)) / seconds;
        let (before, now) = (&before.core, &now.core);
        Rates {
            in_msgs: rate(before.in_msgs, now.in_msgs),
            out_msgs: rate(before.out_msgs, now.out_msgs),
            in_bytes: rate(before.in_bytes, now.in_bytes),
            out_bytes: rate(before.out_bytes, now.out_bytes),
        }
    }

    /// The channels in their order.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let Some(now) = &self.now else { return Vec::new() };
        let span = self.span();
        let named = now.channels.values().filter(|channel| channel.name.contains(&self.filter));
        let mut rows: Vec<Row<'_>> = named
            .map(|channel| {
                let rate = span.and_then(|(before, seconds)| {
                    let last = before.channels.get(&channel.name)?.last_seq;
                    Some(number(channel.last_seq.saturating_sub(last)) / seconds)
                });
                row(channel, rate.unwrap_or(0.0))
            })
            .collect();
        // They are in the order of their names, which those that are equal otherwise keep.
        match self.sort {
            Sort::Name => (),
            Sort::Rate => rows.sort_by(|one, other| other.rate.total_cmp(&one.rate)),
            Sort::Messages => rows.sort_by_key(|row| std::cmp::Reverse(row.msgs)),
            Sort::Pending => rows.sort_by_key(|row| std::cmp::Reverse(row.pending)),
            Sort::Lag => rows.sort_by_key(|row| std::cmp::Reverse(row.lag)),
        }
        rows
    }

    /// What a program is told; none before the first look.
    pub fn document(&self) -> Option<Document<'_>> {
        let now = self.now.as_ref()?;
        Some(Document {
            url: &self.url,
            server: &now.server,
            core: &now.core,
            rates: self.rates(),
            group: now.group.as_ref(),
            channel_total: now.channel_total,
            channels: self.rows(),
        })
    }

    /// The server in three lines.
    pub fn head(&self) -> Vec<String> {
        let Some(Sample { core, server, .. }) = &self.now else { return vec![self.url.clone()] };
        let Rates { in_msgs, out_msgs, in_bytes, out_bytes } = self.rates();
        vec![
            format!(
                "{}  cluster {}  {}  up {}  version {}",
                self.url, server.cluster_id, server.state, server.uptime, server.version
            ),
            format!(
                "clients {}  subscriptions {}  channels {}  messages {}  {}  connections {}  \
                 routes {}  memory {}  CPU {:.0} %",
                server.clients,
                server.subscriptions,
                server.channels,
                server.total_msgs,
                size(number(server.total_bytes)),
                core.connections,
                core.routes,
                size(number(core.mem)),
                core.cpu,
            ),
            format!(
                "in {in_msgs:.0} msg/s {}/s  out {out_msgs:.0} msg/s {}/s  slow consumers {}",
                size(in_bytes),
                size(out_bytes),
                core.slow_consumers,
            ),
        ]
    }

    /// The members of its group.
    pub fn members(&self) -> Vec<String> {
        let group = self.now.as_ref().and_then(|now| now.group.as_ref());
        let group = group.filter(|found| found.group.is_some());
        let members = group.into_iter().flat_map(|found| &found.members);
        members
            .map(|known| {
                let news = &known.news;
                let epoch = news.epoch.map(|epoch| format!(" epoch {epoch}")).unwrap_or_default();
                let ready = match &news.trouble {
                    None => String::new(),
                    Some(trouble) => format!(", not ready: {trouble}"),
                };
                let name = news.name.as_ref().unwrap_or(&news.server_id);
                format!("{} {name} on {}{epoch}{ready}", news.role.name(), news.host)
            })
            .collect()
    }

    /// The channels as texts, with titles.
    pub fn channel_table(&self) -> Vec<Vec<String>> {
        let titles = [
            "CHANNEL", "MESSAGES", "BYTES", "FIRST", "LAST", "MSG/S", "SUBS", "PENDING", "STALLED",
            "LAG",
        ];
        let mut texts = vec![titles.map(str::to_owned).to_vec()];
        texts.extend(self.rows().iter().map(|row| {
            vec![
                row.channel.to_owned(),
                row.msgs.to_string(),
                size(number(row.bytes)),
                row.first_seq.to_string(),
                row.last_seq.to_string(),
                format!("{:.0}", row.rate),
                row.subscriptions.to_string(),
                row.pending.to_string(),
                row.stalled.to_string(),
                row.lag.to_string(),
            ]
        }));
        texts
    }

    /// The subscriptions of the chosen channel as texts, with titles; who is most behind first.
    pub fn subscription_table(&self) -> Vec<Vec<String>> {
        let titles =
            ["CLIENT", "KIND", "LAST SENT", "LAG", "PENDING", "IN FLIGHT AT MOST", "STATE"];
        let mut texts = vec![titles.map(str::to_owned).to_vec()];
        let chosen = self.chosen.as_ref().zip(self.now.as_ref());
        let Some(channel) = chosen.and_then(|(name, now)| now.channels.get(name)) else {
            return texts;
        };
        let mut found: Vec<_> = channel.subscriptions.iter().collect();
        found.sort_by_key(|subscription| std::cmp::Reverse(subscription.lag(channel)));
        texts.extend(found.into_iter().map(|subscription| {
            let state = match (subscription.is_offline, subscription.is_stalled) {
                (true, _) => "offline",
                (false, true) => "stalled",
                (false, false) => "",
            };
            vec![
                subscription.client_id.clone(),
                subscription.label(),
                subscription.last_sent.to_string(),
                subscription.lag(channel).to_string(),
                subscription.pending_count.to_string(),
                subscription.max_inflight.to_string(),
                state.to_owned(),
            ]
        }));
        texts
    }

    /// How many channels there are that were not asked for.
    pub fn left_out(&self) -> usize {
        self.now.as_ref().map_or(0, |now| now.channel_total.saturating_sub(now.channels.len()))
    }

    /// All of it, for where no terminal is.
    pub fn text(&self) -> String {
        let mut text = self.head().join("\n") + "\n";
        self.members().iter().for_each(|line| text.push_str(&format!("{line}\n")));
        text.push('\n');
        text.push_str(&table(&self.channel_table()));
        if 0 < self.left_out() {
            text.push_str(&format!("{} more channels were not asked for\n", self.left_out()));
        }
        text
    }
}

/// A count as a number of seconds or bytes is divided by.
#[allow(clippy::cast_precision_loss, reason = "it is shown with three digits")]
fn number(count: u64) -> f64 {
    count as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is neither negative nor as large as that, and casts stop at the ends"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

/// Bytes as people read them.
pub(super) fn size(bytes: f64) -> String {
    let mut rest = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if rest < 1024.0 {
            return if unit == "B" { format!("{rest:.0} B") } else { format!("{rest:.1} {unit}") };
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} TiB")
}

fn row(channel: &Channel, rate: f64) -> Row<'_> {
    Row {
        channel: &channel.name,
        msgs: channel.msgs,
        bytes: channel.bytes,
        first_seq: channel.first_seq,
        last_seq: channel.last_seq,
        rate,
        subscriptions: channel.subscriptions.len(),
        pending: channel.pending(),
        stalled: channel.stalled(),
        lag: channel.lag(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use super::super::sample::{Page, Subscription};
    use super::*;
    use crate::base::time::Instant;

    pub fn sample(second: u64, channels: &[(&str, u64)]) -> Sample {
        let in_msgs = 10 * second;
        let channel = |(name, last_seq): &(&str, u64)| {
            let channel = Channel {
                name: (*name).to_owned(),
                msgs: *last_seq,
                first_seq: 1,
                last_seq: *last_seq,
                ..Channel::default()
            };
            (channel.name.clone(), channel)
        };
        Sample {
            at: Instant::default() + Duration::from_secs(second),
            core: Core { in_msgs, in_bytes: 4096 * second, ..Core::default() },
            server: Server { server_id: "S".to_owned(), ..Server::default() },
            channels: channels.iter().map(channel).collect(),
            channel_total: channels.len(),
            group: None,
        }
    }

    fn names(view: &View) -> Vec<&str> {
        view.rows().iter().map(|row| row.channel).collect()
    }

    #[test]
    fn rates_are_of_the_last_two_looks_at_one_server() {
        let mut view = View::new("u".to_owned(), Sort::Rate);
        view.take(Ok(sample(1, &[("a", 10), ("b", 10)])));
        assert_eq!(view.rates(), Rates::default());
        view.take(Ok(sample(3, &[("a", 10), ("b", 30), ("new", 5)])));
        assert_eq!(view.rates().in_msgs, 10.0);
        assert_eq!(names(&view), ["b", "a", "new"]);
        assert_eq!(view.rows()[0].rate, 10.0);
        assert!(view.head()[2].starts_with("in 10 msg/s 4.0 KiB/s"), "{:?}", view.head());
        let mut other = sample(4, &[("a", 1)]);
        other.server.server_id = "other".to_owned();
        view.take(Ok(other));
        assert_eq!((view.rates(), view.rows()[0].rate), (Rates::default(), 0.0));
        view.take(Err("gone".to_owned()));
        assert_eq!((view.trouble.as_deref(), names(&view)), (Some("gone"), vec!["a"]));
    }

    #[test]
    fn channels_are_ordered_and_found() {
        let mut view = View::new("u".to_owned(), Sort::Name);
        view.take(Ok(sample(1, &[("orders.b", 3), ("orders.a", 1), ("jobs", 2)])));
        assert_eq!(names(&view), ["jobs", "orders.a", "orders.b"]);
        view.sort = Sort::Messages;
        assert_eq!(names(&view), ["orders.b", "jobs", "orders.a"]);
        view.filter = "orders".to_owned();
        assert_eq!(names(&view), ["orders.b", "orders.a"]);
        view.selected = 7;
        view.take(Ok(sample(2, &[("orders.b", 3)])));
        assert_eq!(view.selected, 0);
        let all = Sort::ALL.iter().fold(Sort::Rate, |sort, _| sort.next());
        assert_eq!(all, Sort::Rate);
    }

    #[test]
    fn who_is_most_behind_stands_first() {
        let mut looked = sample(1, &[("jobs", 200)]);
        let channel = looked.channels.get_mut("jobs").unwrap();
        let subscription = |client_id: &str, last_sent, is_stalled| Subscription {
            client_id: client_id.to_owned(),
            last_sent,
            is_stalled,
            pending_count: 5,
            ..Subscription::default()
        };
        channel.subscriptions =
            vec![subscription("quick", 200, false), subscription("slow", 10, true)];
        let mut view = View::new("u".to_owned(), Sort::Lag);
        view.take(Ok(looked));
        let row = &view.rows()[0];
        assert_eq!((row.lag, row.pending, row.stalled), (190, 10, 1));
        view.chosen = Some("jobs".to_owned());
        let texts = view.subscription_table();
        assert_eq!(texts[1][..5], ["slow", "-", "10", "190", "5"]);
        assert_eq!((texts[1][6].as_str(), texts[2][0].as_str()), ("stalled", "quick"));
        view.chosen = Some("gone".to_owned());
        assert_eq!(view.subscription_table().len(), 1);
    }

    #[test]
    fn pages_of_a_go_server_are_understood() {
        let page = r#"{"cluster_id":"c","total":1,"channels":[{"name":"jobs","msgs":200,"bytes":17660,
            "first_seq":1,"last_seq":200,"subs_count":1,"subscriptions":[{"client_id":"c-q4","inbox":"i",
            "queue_name":"wd:workers","is_durable":true,"max_inflight":5,"ack_wait":300,"last_sent":5,
            "pending_count":5,"is_stalled":true}]}]}"#;
        let page: Page = serde_json::from_str(page).unwrap();
        let channel = &page.channels[0];
        assert_eq!((page.total, channel.pending(), channel.lag()), (1, 5, 195));
        assert_eq!(channel.subscriptions[0].label(), "queue wd:workers");
        let empty: Page = serde_json::from_str("{}").unwrap();
        assert_eq!(empty.total, 0);
    }

    #[test]
    fn sizes_have_one_digit_behind_the_point() {
        for (bytes, expected) in
            [(0.0, "0 B"), (1023.0, "1023 B"), (1536.0, "1.5 KiB"), (5e15, "4547.5 TiB")]
        {
            assert_eq!(size(bytes), expected);
        }
    }
}
