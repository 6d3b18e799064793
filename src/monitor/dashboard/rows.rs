//! Channels and clients in pages: searched and sorted here, so that no answer has all of them.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Value, json};

use super::now::millis;
use super::{LISTS_FOR, Shown, lock};
use crate::base::id::ChannelName;
use crate::base::record::ChannelState;
use crate::base::subject;
use crate::base::time::{Instant, Now};
use crate::base::world;
use crate::engine::snapshot::{ChannelSnapshot, ClientSnapshot, Wanted};
use crate::monitor::Pages;
use crate::monitor::families::number;
use crate::monitor::query::Query;
use crate::monitor::sources::StreamingFacts;

/// Most rows of an answer.
const ROWS_MAX: usize = 100;

/// All channels, as they were at a moment.
pub struct Channels {
    at: Now,
    rows: Vec<ChannelRow>,
}

/// One channel without its subscriptions.
struct ChannelRow {
    channel: ChannelName,
    state: ChannelState,
    /// Messages a second since the list before; `None`: not known yet.
    rate: Option<f64>,
}

/// All clients, as they were at a moment.
pub struct Clients {
    at: Now,
    rows: Vec<ClientSnapshot>,
}

/// What part of a list is wanted.
struct Asked<'a> {
    search: &'a str,
    sort: &'a str,
    is_descending: bool,
    offset: usize,
    limit: usize,
}

impl<'a> Asked<'a> {
    fn of(query: &'a Query) -> Self {
        let page = query.lenient_page();
        Self {
            search: query.text("search"),
            sort: query.text("sort"),
            is_descending: query.text("order") == "down",
            offset: page.offset,
            limit: page.limit.min(ROWS_MAX),
        }
    }

    /// The rows of this page, and how many there are that fit the search.
    fn page_of<'b, T>(
        &self,
        rows: &'b [T],
        name: impl Fn(&T) -> &[u8],
        compare: impl Fn(&T, &T) -> Ordering,
    ) -> (Vec<&'b T>, usize) {
        let search = Search::of(self.search);
        let mut found: Vec<&T> = rows.iter().filter(|row| search.finds(name(row))).collect();
        // The rows come in the order of their names, in which equal ones stay.
        found.sort_by(|a, b| {
            let order = compare(a, b);
            if self.is_descending { order.reverse() } else { order }
        });
        let total = found.len();
        let shown = found.into_iter().skip(self.offset).take(self.limit);
        (shown.collect(), total)
    }
}

/// What names are looked for.
enum Search {
    All,
    /// Names that have this somewhere, whatever the case of its letters.
    Part(String),
    /// Names that a pattern with `*` or `>` means.
    Pattern(String),
}

impl Search {
    fn of(text: &str) -> Self {
        let text = text.trim();
        match text {
            "" => Self::All,
            _ if subject::has_wildcard(text.as_bytes()) && subject::is_valid(text.as_bytes()) => {
                Self::Pattern(text.to_owned())
            }
            _ => Self::Part(text.to_lowercase()),
        }
    }

    fn finds(&self, name: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Pattern(pattern) => subject::matches(pattern.as_bytes(), name),
            Self::Part(part) => String::from_utf8_lossy(name).to_lowercase().contains(part),
        }
    }
}

impl Channels {
    /// The next list; what was published since `before` gives the rates.
    fn next(found: Vec<ChannelSnapshot>, at: Now, before: Option<&Self>) -> Self {
        let seconds = before.map_or(0.0, |before| at.at.since(before.at.at).as_secs_f64());
        let rate = |channel: &ChannelName, state: &ChannelState| {
            let known = before.filter(|_| 0.0 < seconds)?;
            let at = known.rows.binary_search_by(|row| row.channel.cmp(channel)).ok()?;
            let more = state.last.get().checked_sub(known.rows[at].state.last.get())?;
            Some(number(more) / seconds)
        };
        let rows = found.into_iter().map(|ChannelSnapshot { channel, state, .. }| {
            let rate = rate(&channel, &state);
            ChannelRow { channel, state, rate }
        });
        Self { at, rows: rows.collect() }
    }

    fn compare(sort: &str, a: &ChannelRow, b: &ChannelRow) -> Ordering {
        match sort {
            "messages" => a.state.message_count.cmp(&b.state.message_count),
            "bytes" => a.state.byte_count.cmp(&b.state.byte_count),
            "last" => a.state.last.cmp(&b.state.last),
            "rate" => a.rate.unwrap_or(-1.0).total_cmp(&b.rate.unwrap_or(-1.0)),
            _ => a.channel.cmp(&b.channel),
        }
    }
}

impl Pages {
    /// A page of the list of channels.
    pub(super) fn channels_document(&self, query: &Query) -> Result<Value, Shown> {
        let Some(streaming) = &self.sources.streaming else { return Err(no_streaming()) };
        let asked = Asked::of(query);
        let all = self.all_channels()?;
        let compare = |a: &ChannelRow, b: &ChannelRow| Channels::compare(asked.sort, a, b);
        let (shown, total) = asked.page_of(&all.rows, |row| row.channel.as_bytes(), compare);
        let names = shown.iter().map(|row| row.channel.clone()).collect();
        let known = (streaming.engine)(Wanted::Channels(names))?.channels;
        let facts = streaming.facts.load();
        let rows: Vec<Value> = shown
            .iter()
            .map(|row| {
                let at = known.binary_search_by(|found| found.channel.cmp(&row.channel));
                channel_row(row, at.ok().map(|at| &known[at]), &facts)
            })
            .collect();
        Ok(listing(all.at, (all.rows.len(), total), &asked, rows))
    }

    fn all_channels(&self) -> Result<Arc<Channels>, Shown> {
        let Some(streaming) = &self.sources.streaming else { return Err(no_streaming()) };
        let mut kept = lock(&self.board.channels);
        if let Some(known) = kept.as_ref().filter(|known| is_fresh(known.at.at)) {
            return Ok(Arc::clone(known));
        }
        let found = (streaming.engine)(Wanted::Names)?.channels;
        let next = Arc::new(Channels::next(found, world::now(), kept.as_deref()));
        *kept = Some(Arc::clone(&next));
        Ok(next)
    }

    /// A page of the list of clients.
    pub(super) fn clients_document(&self, query: &Query) -> Result<Value, Shown> {
        let Some(streaming) = &self.sources.streaming else { return Err(no_streaming()) };
        let asked = Asked::of(query);
        let all = self.all_clients()?;
        let compare = |a: &ClientSnapshot, b: &ClientSnapshot| match asked.sort {
            "heartbeats" => a.failed_heartbeats.cmp(&b.failed_heartbeats),
            _ => a.client.cmp(&b.client),
        };
        let (shown, total) = asked.page_of(&all.rows, |row| row.client.as_bytes(), compare);
        let ids = shown.iter().map(|row| row.client.clone()).collect();
        let known = (streaming.engine)(Wanted::Of(Arc::new(ids)))?;
        let by_client = known.subscriptions_by_client();
        let row = |client: &&ClientSnapshot| {
            let all = by_client.get(&client.client).map(Vec::as_slice).unwrap_or_default();
            json!({
                "id": text(client.client.as_bytes()),
                "heartbeat_inbox": text(client.heartbeat_inbox.as_bytes()),
                "failed_heartbeats": client.failed_heartbeats,
                "subscriptions": all.len(),
                "pending": all.iter().map(|(_, found)| found.pending_count).sum::<usize>(),
                "stalled": all.iter().filter(|(_, found)| found.is_stalled).count(),
            })
        };
        Ok(listing(all.at, (all.rows.len(), total), &asked, shown.iter().map(row).collect()))
    }

    fn all_clients(&self) -> Result<Arc<Clients>, Shown> {
        let Some(streaming) = &self.sources.streaming else { return Err(no_streaming()) };
        let mut kept = lock(&self.board.clients);
        if let Some(known) = kept.as_ref().filter(|known| is_fresh(known.at.at)) {
            return Ok(Arc::clone(known));
        }
        let rows = (streaming.engine)(Wanted::Clients)?.clients;
        let next = Arc::new(Clients { at: world::now(), rows });
        *kept = Some(Arc::clone(&next));
        Ok(next)
    }
}

/// A core server has no channels and no streaming clients.
pub(super) fn no_streaming() -> Shown {
    let why = "this is a core NATS server: it has no channels";
    Shown::refused(axum::http::StatusCode::NOT_FOUND, why)
}

fn is_fresh(at: Instant) -> bool {
    world::instant().since(at) < LISTS_FOR
}

fn listing(at: Now, (all, found): (usize, usize), asked: &Asked<'_>, rows: Vec<Value>) -> Value {
    json!({
        "at": millis(at.wall.0),
        "all": all,
        "found": found,
        "offset": asked.offset,
        "limit": asked.limit,
        "rows": rows,
    })
}

fn channel_row(row: &ChannelRow, known: Option<&ChannelSnapshot>, facts: &StreamingFacts) -> Value {
    // One that is gone since the list was made is shown as it was there.
    let subscriptions = known.map(|known| known.subscriptions.as_slice()).unwrap_or_default();
    let state = known.map_or(row.state, |known| known.state);
    let limits = facts.limits_of(&row.channel);
    json!({
        "name": text(row.channel.as_bytes()),
        "messages": state.message_count,
        "messages_max": limits.max_msgs,
        "bytes": state.byte_count,
        "bytes_max": limits.max_bytes,
        "first": state.first.get(),
        "last": state.last.get(),
        "rate": row.rate,
        "subscriptions": subscriptions.len(),
        "pending": subscriptions.iter().map(|found| found.pending_count).sum::<usize>(),
        "stalled": subscriptions.iter().filter(|found| found.is_stalled).count(),
    })
}

/// Names need not be UTF-8; JSON must.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::id::Sequence;

    fn channel(name: &str, last: u64) -> ChannelSnapshot {
        let state = ChannelState {
            first: Sequence(1),
            last: Sequence(last),
            message_count: last,
            byte_count: 1_000 - last,
        };
        ChannelSnapshot { channel: name.into(), state, subscriptions: Vec::new() }
    }

    fn at(seconds: u64) -> Now {
        let mut now = Now::default();
        now.at = Instant::default() + Duration::from_secs(seconds);
        now
    }

    fn shown(all: &Channels, query: &str) -> (Vec<String>, usize) {
        let query = Query::new(Some(query));
        let asked = Asked::of(&query);
        let compare = |a: &ChannelRow, b: &ChannelRow| Channels::compare(asked.sort, a, b);
        let (rows, total) = asked.page_of(&all.rows, |row| row.channel.as_bytes(), compare);
        (rows.iter().map(|row| text(row.channel.as_bytes())).collect(), total)
    }

    #[test]
    fn channels_are_searched_sorted_and_shown_in_pages() {
        let found = [("Bills", 7), ("orders.de", 900), ("orders.fr", 20), ("orders.fr.old", 3)];
        let found = found.iter().map(|(name, last)| channel(name, *last)).collect();
        let all = Channels::next(found, at(0), None);
        for (query, names, total) in [
            ("", &["Bills", "orders.de", "orders.fr", "orders.fr.old"][..], 4),
            ("sort=messages", &["orders.fr.old", "Bills", "orders.fr", "orders.de"], 4),
            ("sort=messages&order=down&limit=1", &["orders.de"], 4),
            ("sort=bytes&limit=1", &["orders.de"], 4),
            ("search=FR&order=down", &["orders.fr.old", "orders.fr"], 2),
            ("search=orders.*&limit=1&offset=1", &["orders.fr"], 2),
            ("search=orders.%3E&offset=9", &[], 3),
            ("search=orders..*", &[], 0),
            ("sort=nonsense&limit=1", &["Bills"], 4),
            ("search=bills&limit=-1", &["Bills"], 1),
        ] {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(shown(&all, query), (names, total), "{query}");
        }
    }

    #[test]
    fn no_answer_has_more_rows_than_a_page() {
        let found = (0..1_000).map(|n| channel(&format!("c{n:04}"), n)).collect();
        let all = Channels::next(found, at(0), None);
        let (rows, total) = shown(&all, "limit=100000&sort=last&order=down");
        assert_eq!((rows.len(), total), (ROWS_MAX, 1_000));
        assert_eq!(rows[0], "c0999");
    }

    #[test]
    fn rates_come_from_two_lists() {
        let first = Channels::next(vec![channel("a", 10), channel("b", 10)], at(0), None);
        let rates = |list: &Channels| list.rows.iter().map(|row| row.rate).collect::<Vec<_>>();
        assert_eq!(rates(&first), [None, None]);
        let found = vec![channel("a", 30), channel("b", 5), channel("new", 9)];
        let second = Channels::next(found, at(4), Some(&first));
        // A channel that was made anew begins again at 1.
        assert_eq!(rates(&second), [Some(5.0), None, None]);
    }
}
