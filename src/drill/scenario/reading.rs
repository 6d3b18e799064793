//! TOML → [`Scenario`]: whatever is wrong is named with its line and its key.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    Attach, Clients, KEEPERS, Keeper, MEMBERS_MAX, Members, PARTITIONS_MAX, Scenario,
    ScenarioError, Store, no_steps,
};
use crate::drill::expectation::Expectation;
use crate::drill::step::{self, Step};

/// Bytes of the smallest disk on which a member can start, and of the largest that is made.
const DISK_SIZES: (u64, u64) = (8 << 20, 4 << 30);

/// Bytes of a message: its number has to fit, and no server takes more than a megabyte.
const MESSAGE_SIZES: (i64, i64) = (32, 512 * 1024);

/// Reads a scenario.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    let document = DeTable::parse(text).map_err(|error| ScenarioError {
        line: error.span().map(|span| line_of(text, span.start)),
        key: "TOML".to_owned(),
        text: error.message().to_owned(),
    })?;
    let root = Section { text, name: "", table: document.get_ref(), line: 1 };
    root.only(&[
        "name", "about", "rounds", "steps", "expect", "members", "store", "clients", "attach",
    ])?;
    let steps = root.each("steps", Step::parse)?;
    if steps.is_empty() {
        return Err(root.wrong("steps", no_steps()));
    }
    let attach = root.section("attach")?.map(|section| attach(&section)).transpose()?;
    if attach.is_some() {
        for name in ["members", "store"] {
            if root.table.contains_key(name) {
                let text = "what is attached to runs already: it has neither members nor a store \
                            that the drill could make";
                return Err(root.wrong(name, text.to_owned()));
            }
        }
    }
    Ok(Scenario {
        name: root.text("name")?.unwrap_or_else(|| "unnamed".to_owned()),
        about: root.text("about")?.unwrap_or_default(),
        rounds: root.number("rounds", (1, 1_000))?.unwrap_or(1),
        steps,
        expect: root.each("expect", Expectation::parse)?,
        members: root.section("members")?.map(|it| members(&it)).transpose()?.unwrap_or_default(),
        store: root.section("store")?.map(|it| store(&it)).transpose()?.unwrap_or_default(),
        clients: root.section("clients")?.map(|it| clients(&it)).transpose()?.unwrap_or_default(),
        attach,
    })
}

fn members(section: &Section<'_>) -> Result<Members, ScenarioError> {
    section.only(&[
        "count",
        "server",
        "steal_after",
        "first_port",
        "arguments",
        "external",
        "partitions",
    ])?;
    let usual = Members::default();
    Ok(Members {
        count: section.number("count", (1, MEMBERS_MAX as i64))?.unwrap_or(usual.count),
        server: section.text("server")?,
        steal_after: section.time("steal_after")?,
        first_port: section.number("first_port", (1, 65_000))?,
        arguments: section.each("arguments", |text| Ok(text.to_owned()))?,
        external: section.text("external")?,
        partitions: section
            .number("partitions", (1, PARTITIONS_MAX as i64))?
            .unwrap_or(usual.partitions),
    })
}

fn store(section: &Section<'_>) -> Result<Store, ScenarioError> {
    section.only(&["kind", "source", "size", "stop", "start"])?;
    let keeper = section.text("kind")?.map_or(Ok(Keeper::Directory), |name| {
        keeper(&name).map_err(|text| section.wrong("kind", text))
    })?;
    let size = section.text("size")?;
    let size = size.map(|size| bytes(&size).map_err(|text| section.wrong("size", text)));
    Ok(Store {
        keeper,
        source: section.text("source")?,
        size: size.transpose()?,
        stop: section.text("stop")?,
        start: section.text("start")?,
    })
}

/// The keeper of that name.
pub(crate) fn keeper(name: &str) -> Result<Keeper, String> {
    let found = KEEPERS.iter().find(|(known, _)| *known == name);
    found.map(|(_, keeper)| *keeper).ok_or_else(|| {
        let names: Vec<&str> = KEEPERS.iter().map(|(name, _)| *name).collect();
        format!("{name:?} is no kind of store: {}", names.join(", "))
    })
}

/// A size with its unit.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "" => return Err(format!("{text:?} has no unit: KiB, MiB or GiB")),
        other => return Err(format!("{other:?} is no unit: KiB, MiB or GiB")),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    size.filter(|size| (DISK_SIZES.0..=DISK_SIZES.1).contains(size))
        .ok_or_else(|| format!("{text:?} is no size from 8MiB to 4GiB"))
}

fn clients(section: &Section<'_>) -> Result<Clients, ScenarioError> {
    section.only(&["publishers", "durables", "queue_members", "channels", "rate", "size", "at"])?;
    let usual = Clients::default();
    Ok(Clients {
        publishers: section.number("publishers", (1, 100))?.unwrap_or(usual.publishers),
        durables: section.number("durables", (0, 100))?.unwrap_or(usual.durables),
        queue_members: section.number("queue_members", (0, 100))?.unwrap_or(usual.queue_members),
        channels: section.number("channels", (1, 1_000))?.unwrap_or(usual.channels),
        rate: section.number("rate", (1, 100_000))?.unwrap_or(usual.rate),
        size: section.number("size", MESSAGE_SIZES)?.unwrap_or(usual.size),
        at: section.numbers("at", (1, MEMBERS_MAX as i64))?,
    })
}

fn attach(section: &Section<'_>) -> Result<Attach, ScenarioError> {
    section.only(&["members", "monitors", "cluster", "signal", "start", "step_down"])?;
    let members = section.each("members", |text| Ok(text.to_owned()))?;
    let monitors = section.each("monitors", |text| Ok(text.to_owned()))?;
    if members.is_empty() || MEMBERS_MAX < members.len() {
        let text = format!("1 to {MEMBERS_MAX} addresses are needed");
        return Err(section.wrong("members", text));
    }
    if members.len() != monitors.len() {
        let text = format!(
            "{} monitoring addresses for {} members: who is active is asked there",
            monitors.len(),
            members.len()
        );
        return Err(section.wrong("monitors", text));
    }
    Ok(Attach {
        members,
        monitors,
        cluster: section.text("cluster")?.unwrap_or_else(|| "test-cluster".to_owned()),
        signal: section.text("signal")?,
        start: section.text("start")?,
        step_down: section.text("step_down")?,
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// A table of the file.
struct Section<'a> {
    text: &'a str,
    name: &'a str,
    table: &'a DeTable<'a>,
    line: usize,
}

impl<'a> Section<'a> {
    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// An error at a key, or at the table if that has no such key.
    fn wrong(&self, key: &str, text: String) -> ScenarioError {
        let found = self.table.get_key_value(key);
        let line = found.map_or(self.line, |(key, _)| line_of(self.text, key.span().start));
        ScenarioError { line: Some(line), key: self.key(key), text }
    }

    fn of_another_kind(&self, key: &str, found: &DeValue<'_>, wanted: &str) -> ScenarioError {
        self.wrong(key, format!("expected {wanted}, found: {}", found.type_str()))
    }

    /// Every key is one of these.
    fn only(&self, known: &[&str]) -> Result<(), ScenarioError> {
        let mut keys = self.table.keys().map(|key| key.get_ref().as_ref());
        match keys.find(|key| !known.contains(key)) {
            None => Ok(()),
            Some(key) => {
                Err(self.wrong(key, format!("unknown key; known are {}", known.join(", "))))
            }
        }
    }

    fn value(&self, key: &str) -> Option<&'a DeValue<'a>> {
        self.table.get(key).map(Spanned::get_ref)
    }

    fn section(&self, key: &'a str) -> Result<Option<Section<'a>>, ScenarioError> {
        let Some((name, value)) = self.table.get_key_value(key) else { return Ok(None) };
        let line = line_of(self.text, name.span().start);
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.of_another_kind(key, value.get_ref(), "a table"))?;
        Ok(Some(Section { text: self.text, name: key, table, line }))
    }

    fn text(&self, key: &str) -> Result<Option<String>, ScenarioError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let text = value.as_str().filter(|text| !text.is_empty() && !text.contains('\0'));
        let text = text.ok_or_else(|| self.of_another_kind(key, value, "a text"))?;
        Ok(Some(text.to_owned()))
    }

    fn time(&self, key: &str) -> Result<Option<Duration>, ScenarioError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| {
            self.of_another_kind(key, value, "a time with its unit in quotes, as \"8s\"")
        })?;
        step::duration(text).map(Some).map_err(|text| self.wrong(key, text))
    }

    /// A whole number of a range, both ends in it.
    fn number<T: TryFrom<i64>>(
        &self,
        key: &str,
        range: (i64, i64),
    ) -> Result<Option<T>, ScenarioError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        self.ranged(key, value, range).map(Some)
    }

    fn numbers<T: TryFrom<i64>>(
        &self,
        key: &str,
        range: (i64, i64),
    ) -> Result<Vec<T>, ScenarioError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let list = value.as_array();
        let list = list.ok_or_else(|| self.of_another_kind(key, value, "a list of numbers"))?;
        list.iter().map(|value| self.ranged(key, value.get_ref(), range)).collect()
    }

    fn ranged<T: TryFrom<i64>>(
        &self,
        key: &str,
        value: &DeValue<'_>,
        (min, max): (i64, i64),
    ) -> Result<T, ScenarioError> {
        let wanted = format!("a whole number from {min} to {max}");
        let number = value.as_integer();
        let number = number.ok_or_else(|| self.of_another_kind(key, value, &wanted))?;
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let fitting = parsed.filter(|number| (min..=max).contains(number));
        let fitting = fitting.and_then(|number| T::try_from(number).ok());
        fitting.ok_or_else(|| self.wrong(key, format!("{number} is not {wanted}")))
    }

    /// A list of texts, each read by `read`; an error is at the line of its text.
    fn each<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ScenarioError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let list = value.as_array();
        let list = list.ok_or_else(|| self.of_another_kind(key, value, "a list of texts"))?;
        let items = list.iter().enumerate().map(|(index, value)| {
            let at = |text| ScenarioError {
                line: Some(line_of(self.text, value.span().start)),
                key: format!("{}[{}]", self.key(key), index + 1),
                text,
            };
            let text = value.get_ref().as_str().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| {
                at(format!("expected a text, found: {}", value.get_ref().type_str()))
            })?;
            read(text).map_err(|why| at(format!("{text:?}: {why}")))
        });
        items.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = r#"
name = "everything"
about = "Each key once."
rounds = 2
steps = ["kill -9 active", "wait until taken over"]
expect = ["lost = 0", "take_over < 100ms"]

[members]
count = 3
server = "/usr/bin/stanby"
steal_after = "2s"
first_port = 15000
arguments = ["-D"]
external = "nats-server"
partitions = 1

[store]
kind = "postgres"
source = "dbname=drill"
stop = "systemctl stop postgresql"
start = "systemctl start postgresql"

[clients]
publishers = 2
durables = 2
queue_members = 3
channels = 4
rate = 1_000
size = 128
at = [3]
"#;

    #[test]
    fn every_key_is_read() {
        let scenario = parse(WHOLE).expect("it is whole");
        assert_eq!((scenario.name.as_str(), scenario.rounds), ("everything", 2));
        assert_eq!((scenario.steps.len(), scenario.expect.len()), (2, 2));
        let members = &scenario.members;
        assert_eq!((members.count, members.steal_after), (3, Some(Duration::from_secs(2))));
        assert_eq!((members.first_port, members.arguments.len()), (Some(15_000), 1));
        assert_eq!((members.external.as_deref(), members.partitions), (Some("nats-server"), 1));
        assert_eq!(scenario.store.keeper, Keeper::Postgres);
        let clients = Clients {
            publishers: 2,
            durables: 2,
            queue_members: 3,
            channels: 4,
            rate: 1_000,
            size: 128,
            at: vec![3],
        };
        assert_eq!(scenario.clients, clients);
        assert_eq!(scenario.check(), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_key() {
        for (text, expected) in [
            ("steps = [", "line 1: TOML: "),
            ("name = \"a\"\n", "line 1: steps: a drill without steps"),
            ("\nsteps = []\n", "line 2: steps: a drill without steps"),
            ("steps = [\"step-down\"]\nstepps = 1", "line 2: stepps: unknown key; known are name"),
            ("steps = [\n\"step-down\",\n\"hop\"]", "line 3: steps[2]: \"hop\": there is no such"),
            ("steps = [1]", "line 1: steps[1]: expected a text, found: integer"),
            ("steps = \"step-down\"", "line 1: steps: expected a list of texts, found: string"),
            (
                "steps = [\"step-down\"]\nrounds = 0",
                "line 2: rounds: 0 is not a whole number from 1",
            ),
            ("steps = [\"step-down\"]\nrounds = 1.5", "rounds: expected a whole number"),
            (
                "steps = [\"step-down\"]\nexpect = [\"lost < 1ms\"]",
                "line 2: expect[1]: \"lost < 1ms\"",
            ),
            (
                "steps = [\"step-down\"]\n[members]\nsteal_after = 8",
                "line 3: members.steal_after: ex",
            ),
            (
                "steps = [\"step-down\"]\n[members]\nsteal_after = \"8\"",
                "steal_after: 8 has no unit",
            ),
            (
                "steps = [\"step-down\"]\n[store]\nkind = \"tape\"",
                "line 3: store.kind: \"tape\" is no",
            ),
            ("steps = [\"step-down\"]\n[store]\nsize = \"64\"", "store.size: \"64\" has no unit"),
            ("steps = [\"step-down\"]\n[store]\nsize = \"1KiB\"", "is no size from 8MiB to 4GiB"),
            ("members = 2\nsteps = [\"step-down\"]", "line 1: members: expected a table"),
            ("steps = [\"step-down\"]\n[attach]\n", "line 2: attach.members: 1 to 5 addresses"),
            (
                "steps = [\"step-down\"]\n[attach]\nmembers = [\"a:1\"]\n",
                "line 2: attach.monitors: 0 monitoring addresses for 1 members",
            ),
            (
                "steps = [\"step-down\"]\n[store]\n[attach]\nmembers = [\"a\"]\nmonitors = [\"b\"]",
                "line 2: store: what is attached to runs already",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_scenario_or_an_error(text in "\\PC{0,200}") {
            let _ = parse(&text).map(|scenario| scenario.check());
        }

        /// Goal: what is near a scenario is one, or names a line that is there.
        #[test]
        fn a_damaged_scenario_is_one_or_names_its_line(at in 0..WHOLE.len(), with in "\\PC{0,3}") {
            let mut text = WHOLE.to_owned();
            text.replace_range(at..at + 1, &with);
            if let Err(error) = parse(&text) {
                let line = error.line.expect("a line");
                prop_assert!((1..=text.lines().count() + 1).contains(&line), "{error}");
            }
        }

        #[test]
        fn any_words_are_a_step_or_an_error(words in "[a-z0-9 -]{0,40}") {
            if let Ok(step) = Step::parse(&words) {
                prop_assert_eq!(Step::parse(&step.to_string()), Ok(step));
            }
        }
    }
}
