//! The lines that a server logs when it starts, and its table of limits
//!
//! Facts: spec configuration, 7.5 and 7.6; stores, 9.4 and 9.6. Tools read these lines.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::channel_limits::{ChannelLimits, ChannelOverrides, StoreLimits};
use crate::base::delivery_policy::PolicyOverrides;
use crate::base::go;
use crate::config::StreamingConfig;

/// The version of the streaming server whose behaviour and files this one has.
pub const STREAMING_VERSION: &str = "0.25.6";

/// The version of the core server whose behaviour this one has.
pub const CORE_VERSION: &str = "2.9.24";

/// Width of the table without per-channel lines.
const TABLE_WIDTH: usize = 34;

/// The last line of a start: what tools wait for.
pub const STREAMING_READY: &str = "Streaming Server is ready";

/// What `-v` prints.
#[must_use]
pub fn version(program: crate::config::Program) -> String {
    match program {
        crate::config::Program::Streaming => format!(
            "nats-streaming-server version {STREAMING_VERSION}, nats-server: v{CORE_VERSION}"
        ),
        crate::config::Program::Core => format!("nats-server: v{CORE_VERSION}"),
    }
}

/// Which stanby this is, and whose place it takes.
#[must_use]
pub fn own_version() -> String {
    format!(
        "stanby {}, in the place of nats-streaming-server {STREAMING_VERSION} and nats-server \
         {CORE_VERSION}",
        env!("CARGO_PKG_VERSION")
    )
}

/// The first lines of a streaming server.
#[must_use]
pub fn streaming_lines(cluster_id: &str, server_id: &str) -> Vec<String> {
    vec![
        format!("Starting nats-streaming-server[{cluster_id}] version {STREAMING_VERSION}"),
        format!("ServerID: {server_id}"),
        format!("Go version: none (stanby {})", env!("CARGO_PKG_VERSION")),
        "Git commit: [not set]".to_owned(),
    ]
}

/// The first lines of a core server.
#[must_use]
pub fn core_lines(cluster: Option<&str>, name: &str, id: &str) -> Vec<String> {
    let mut lines = vec![
        "Starting nats-server".to_owned(),
        format!("  Version:  {CORE_VERSION}"),
        "  Git:      [not set]".to_owned(),
    ];
    lines.extend(cluster.map(|cluster| format!("  Cluster:  {cluster}")));
    lines.push(format!("  Name:     {name}"));
    lines.push(format!("  ID:       {id}"));
    lines.push(format!("  stanby:   {}", env!("CARGO_PKG_VERSION")));
    lines
}

/// The subjects that a streaming server listens on, as it says them when it debugs.
#[must_use]
pub fn subject_lines(config: &StreamingConfig) -> Vec<String> {
    let StreamingConfig { discover_prefix, cluster_id, .. } = config;
    let subject = |verb: &str| format!("_STAN.{verb}.{cluster_id}");
    let publish = subject("pub");
    vec![
        format!("Discover subject:           {discover_prefix}.{cluster_id}"),
        if config.partitioning {
            format!("Publish subjects root:      {publish}")
        } else {
            format!("Publish subject:            {publish}.>")
        },
        format!("Subscribe subject:          {}", subject("sub")),
        format!("Subscription Close subject: {}", subject("subclose")),
        format!("Unsubscribe subject:        {}", subject("unsub")),
        format!("Close subject:              {}", subject("close")),
    ]
}

/// The table of limits, a line each.
#[must_use]
pub fn limits_table(limits: &StoreLimits) -> Vec<String> {
    let default = StoreLimits::default();
    let global = &limits.global;
    let star = |is_default: bool| if is_default { " *" } else { "" };
    let rows = [
        ("Subscriptions:", count(global.subscriptions_max), 0),
        ("Messages     :", count(global.messages_max), 1),
        ("Bytes        :", bytes(global.bytes_max), 2),
        ("Age          :", age(global.age_max), 3),
        ("Inactivity   :", age(global.inactivity_max), 4),
    ];
    let mut lines = vec![
        "---------- Store Limits ----------".to_owned(),
        format!(
            "Channels:        {:>13}{}",
            count(limits.channels_max),
            star(limits.channels_max == default.channels_max)
        ),
        "--------- Channels Limits --------".to_owned(),
    ];
    for (name, value, index) in rows {
        let is_default = fields(global)[index] == fields(&default.global)[index];
        lines.push(format!("  {name} {value:>13}{}", star(is_default)));
    }
    // Ours: nothing is shown of what nobody has asked for.
    lines.extend(policy_rows(&limits.policies.global, "").map(|row| format!("  {row}")));
    let channels = channel_lines(limits);
    let width = channels.iter().map(String::len).max().unwrap_or(0).max(TABLE_WIDTH);
    if !channels.is_empty() {
        let title = " List of Channels ";
        let left = (width - title.len()) / 2;
        let right = width - title.len() - left;
        lines.push(format!("{}{title}{}", "-".repeat(left), "-".repeat(right)));
        lines.extend(channels);
    }
    lines.push("-".repeat(width));
    lines
}

/// All limits as numbers, to compare them.
fn fields(limits: &ChannelLimits) -> [u128; 5] {
    [
        u128::from(limits.subscriptions_max),
        u128::from(limits.messages_max),
        u128::from(limits.bytes_max),
        limits.age_max.as_nanos(),
        limits.inactivity_max.as_nanos(),
    ]
}

fn count(value: u64) -> String {
    if value == 0 { "unlimited".to_owned() } else { value.to_string() }
}

fn age(value: Duration) -> String {
    if value.is_zero() { "unlimited".to_owned() } else { go::show(value) }
}

fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KB", "MB", "GB", "TB", "PB", "EB"];
    if value == 0 {
        return "unlimited".to_owned();
    }
    let mut scale: u64 = 1024;
    if value < scale {
        return format!("{value} B");
    }
    for unit in UNITS {
        if value / scale < 1024 || unit == "EB" {
            // Hundredths in whole numbers, rounded.
            let hundredths = (u128::from(value) * 100 + u128::from(scale) / 2) / u128::from(scale);
            return format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100);
        }
        scale *= 1024;
    }
    format!("{value} B")
}

/// Names token by token; `>` and `*` are tokens like others here.
#[derive(Default)]
struct Node<'a> {
    children: BTreeMap<&'a [u8], Node<'a>>,
    entry: Option<(String, ChannelOverrides)>,
}

impl<'a> Node<'a> {
    fn insert(&mut self, name: &'a [u8], overrides: ChannelOverrides) {
        let mut node = self;
        for token in name.split(|byte| *byte == b'.') {
            node = node.children.entry(token).or_default();
        }
        node.entry = Some((String::from_utf8_lossy(name).into_owned(), overrides));
    }

    fn depth(&self) -> usize {
        self.children.values().map(|child| 1 + child.depth()).max().unwrap_or(0)
    }

    /// Widest first: `>`, then `*` and what is under it, then the rest.
    fn ordered(&self) -> Vec<&Node<'a>> {
        let rank = |token: &[u8]| match token {
            b">" => 0,
            b"*" => 1,
            _ => 2,
        };
        let mut children: Vec<_> = self.children.iter().collect();
        children.sort_by_key(|(token, _)| rank(token));
        children.into_iter().map(|(_, child)| child).collect()
    }

    fn walk<'n>(&'n self, visit: &mut Vec<&'n str>) {
        for child in self.ordered() {
            visit.extend(child.entry.as_ref().map(|(name, _)| name.as_str()));
            child.walk(visit);
        }
    }

    /// The entries that match, from the widest to the narrowest.
    fn matches<'n>(&'n self, tokens: &[&[u8]], found: &mut Vec<&'n (String, ChannelOverrides)>) {
        let Some((token, rest)) = tokens.split_first() else { return };
        found.extend(self.children.get::<[u8]>(b">").and_then(|node| node.entry.as_ref()));
        if *token == b">" {
            return;
        }
        let star = self.children.get::<[u8]>(b"*");
        let same = self.children.get::<[u8]>(token).filter(|_| *token != b"*");
        for child in [star, same].into_iter().flatten() {
            if rest.is_empty() {
                found.extend(child.entry.as_ref());
            } else {
                child.matches(rest, found);
            }
        }
    }
}

fn inherit(parent: &ChannelLimits, own: &ChannelOverrides) -> ChannelLimits {
    ChannelLimits {
        messages_max: own.messages_max.unwrap_or(parent.messages_max),
        bytes_max: own.bytes_max.unwrap_or(parent.bytes_max),
        age_max: own.age_max.unwrap_or(parent.age_max),
        subscriptions_max: own.subscriptions_max.unwrap_or(parent.subscriptions_max),
        inactivity_max: own.inactivity_max.unwrap_or(parent.inactivity_max),
    }
}

/// The lines of all configured channels: name, then what differs from what it inherits.
fn channel_lines(limits: &StoreLimits) -> Vec<String> {
    let mut root = Node::default();
    for (name, overrides) in &limits.per_channel {
        root.insert(name.as_bytes(), *overrides);
    }
    let levels = root.depth();
    let mut names = Vec::new();
    root.walk(&mut names);
    let mut resolved: BTreeMap<&str, ChannelLimits> = BTreeMap::new();
    let mut lines = Vec::new();
    for name in names {
        let tokens: Vec<&[u8]> = name.as_bytes().split(|byte| *byte == b'.').collect();
        let mut found = Vec::new();
        root.matches(&tokens, &mut found);
        let mut own = limits.global;
        for (index, (wider, overrides)) in found.iter().enumerate() {
            let parent = own;
            let inherited = inherit(&parent, overrides);
            own = *resolved.entry(wider.as_str()).or_insert(inherited);
            if index + 1 == found.len() {
                lines.extend(one_channel(name, (index, levels), &parent, &own));
                let (indent, pad) = (" ".repeat(index), " ".repeat(levels.saturating_sub(index)));
                let policy = limits.policies.per_channel.get(name.as_bytes());
                let rows = policy.into_iter().flat_map(|policy| policy_rows(policy, &pad));
                lines.extend(rows.map(|row| format!("{indent} |-> {row}")));
            }
        }
    }
    lines
}

/// What a section says of delivery policies.
fn policy_rows(policy: &PolicyOverrides, pad: &str) -> impl Iterator<Item = String> + use<> {
    let deliveries = policy.deliveries_max.map(|max| ("Deliveries    ", count(max.into())));
    let target = policy.dead_letter.as_ref().map(|name| ("Dead letters  ", name.to_string()));
    let waits = policy.back_off.as_ref().map(|waits| {
        let shown: Vec<String> = waits.iter().map(|wait| go::show(*wait)).collect();
        ("Back-off      ", if shown.is_empty() { "ack wait".to_owned() } else { shown.join(" ") })
    });
    let ttl = policy.ttl.map(|ttl| ("Time to live  ", age(ttl)));
    let again = policy.redelivered_max.map(|max| ("Redelivered   ", count(max.into())));
    let window = policy.dedup_window.map(|window| {
        let shown = if window.is_zero() { "none".to_owned() } else { go::show(window) };
        ("Dedup window  ", shown)
    });
    let rows = [deliveries, target, waits, ttl, again, window]
        .map(|row| row.map(|(title, value)| format!("{title}{pad}{value:>13}")));
    rows.into_iter().flatten()
}

fn one_channel(
    name: &str,
    (level, levels): (usize, usize),
    parent: &ChannelLimits,
    own: &ChannelLimits,
) -> Vec<String> {
    let indent = " ".repeat(level);
    let pad = " ".repeat(levels.saturating_sub(level));
    let rows = [
        ("Subscriptions ", count(own.subscriptions_max)),
        ("Messages      ", count(own.messages_max)),
        ("Bytes         ", bytes(own.bytes_max)),
        ("Age           ", age(own.age_max)),
        ("Inactivity    ", age(own.inactivity_max)),
    ];
    let mut lines = vec![format!("{indent}{name}")];
    for (index, (title, value)) in rows.iter().enumerate() {
        if fields(parent)[index] != fields(own)[index] {
            lines.push(format!("{indent} |-> {title}{pad}{value:>13}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ChannelName;

    #[test]
    fn the_table_of_defaults_is_the_recorded_one() {
        let expected = "\
---------- Store Limits ----------
Channels:                  100 *
--------- Channels Limits --------
  Subscriptions:          1000 *
  Messages     :       1000000 *
  Bytes        :     976.56 MB *
  Age          :     unlimited *
  Inactivity   :     unlimited *
----------------------------------";
        assert_eq!(limits_table(&StoreLimits::default()).join("\n"), expected);
    }

    #[test]
    fn policies_are_shown_where_there_are_any() {
        let policy = |max, target: &str| PolicyOverrides {
            deliveries_max: max,
            dead_letter: Some(ChannelName::from(target)),
            ..PolicyOverrides::default()
        };
        let mut limits = StoreLimits::default();
        limits.policies.global =
            PolicyOverrides { dedup_window: Some(Duration::ZERO), ..policy(None, "graves") };
        limits.per_channel.insert(ChannelName::from("foo.bar"), ChannelOverrides::default());
        limits
            .policies
            .per_channel
            .insert(ChannelName::from("foo.bar"), policy(Some(5), "foo.dead"));
        let expected = [
            "  Inactivity   :     unlimited *",
            "  Dead letters         graves",
            "  Dedup window           none",
            "-------- List of Channels --------",
            "foo.bar",
            " |-> Deliveries                  5",
            " |-> Dead letters         foo.dead",
        ];
        let lines = limits_table(&limits);
        assert_eq!(lines[7..14], expected, "{lines:#?}");
    }

    #[test]
    fn channels_show_what_differs_from_what_they_inherit() {
        let own = ChannelOverrides::default();
        let entries = [
            (">", ChannelOverrides { messages_max: Some(10), ..own }),
            (
                "foo.>",
                ChannelOverrides {
                    bytes_max: Some(1024),
                    inactivity_max: Some(Duration::from_secs(5)),
                    ..own
                },
            ),
            ("foo.bar.>", ChannelOverrides { age_max: Some(Duration::from_secs(1)), ..own }),
            ("foo.bar.baz.>", ChannelOverrides { subscriptions_max: Some(20), ..own }),
            ("bar", ChannelOverrides { subscriptions_max: Some(30), ..own }),
        ];
        let mut limits = StoreLimits::default();
        for (name, overrides) in entries {
            limits.per_channel.insert(ChannelName::from(name), overrides);
        }
        let expected = [
            ">",
            " |-> Messages                     10",
            " bar",
            "  |-> Subscriptions               30",
            " foo.>",
            "  |-> Bytes                  1.00 KB",
            "  |-> Inactivity                  5s",
            "  foo.bar.>",
            "   |-> Age                        1s",
            "   foo.bar.baz.>",
            "    |-> Subscriptions             20",
        ];
        assert_eq!(channel_lines(&limits), expected);
        let table = limits_table(&limits);
        assert_eq!(table[8], "--------- List of Channels ---------");
        assert_eq!(table.last().map(String::len), Some(36));
    }

    #[test]
    fn limits_are_inherited_through_all_wider_names() {
        // The example of spec stores, 9.4.
        let own = ChannelOverrides::default();
        let second = |count| Some(Duration::from_secs(count));
        let entries = [
            ("*.>", ChannelOverrides { subscriptions_max: Some(5), ..own }),
            ("*.*", ChannelOverrides { bytes_max: Some(2), ..own }),
            ("foo.>", ChannelOverrides { messages_max: Some(10), ..own }),
            ("foo.*.>", ChannelOverrides { bytes_max: Some(20), ..own }),
            ("foo.baz", ChannelOverrides { age_max: second(70), ..own }),
        ];
        let mut limits = StoreLimits::default();
        limits.global.subscriptions_max = 14;
        for (name, overrides) in entries {
            limits.per_channel.insert(ChannelName::from(name), overrides);
        }
        let lines = channel_lines(&limits);
        let names: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
        let names: Vec<&&str> = names.iter().filter(|line| !line.starts_with('|')).collect();
        assert_eq!(names, [&"*.>", &"*.*", &"foo.>", &"foo.*.>", &"foo.baz"]);
        assert_eq!(lines.iter().filter(|line| line.contains("|->")).count(), 5);
    }

    #[test]
    fn bytes_are_shown_in_units_of_1024() {
        for (value, text) in [
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.00 KB"),
            (1_024_000_000, "976.56 MB"),
            (1 << 30, "1.00 GB"),
            (u64::MAX, "16.00 EB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn the_first_lines_are_what_tools_read() {
        let lines = streaming_lines("test-cluster", "abc");
        assert_eq!(lines[0], "Starting nats-streaming-server[test-cluster] version 0.25.6");
        assert_eq!(lines[1], "ServerID: abc");
        let lines = core_lines(Some("c"), "n", "NID");
        let names: Vec<&str> =
            lines.iter().map(|line| line.split_once(':').map_or("", |p| p.0)).collect();
        assert_eq!(names, ["", "  Version", "  Git", "  Cluster", "  Name", "  ID", "  stanby"]);
    }

    #[test]
    fn subjects_are_said_in_the_references_columns() {
        let mut config = StreamingConfig { cluster_id: "id".to_owned(), ..Default::default() };
        let lines = subject_lines(&config);
        assert_eq!(lines[0], "Discover subject:           _STAN.discover.id");
        assert_eq!(lines[1], "Publish subject:            _STAN.pub.id.>");
        assert_eq!(lines[3], "Subscription Close subject: _STAN.subclose.id");
        config.partitioning = true;
        assert_eq!(subject_lines(&config)[1], "Publish subjects root:      _STAN.pub.id");
    }
}
