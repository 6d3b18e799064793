//! `stanby import`: recorded nodes of Raft clusters become a store, or a line says why not.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/folders.rs"]
mod folders;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use serde_json::Value;

use stanby::base::encryption::{Cipher, Secret, StoreKey};
use stanby::base::epoch::{Predecessor, Unfenced};
use stanby::base::id::{ChannelName, Sequence, Ticket};
use stanby::base::record::{FetchRequest, RecoveredChannel, RecoveredSubscription};
use stanby::base::time::{Instant, Now, WallTime};
use stanby::config::options::{self, Request};
use stanby::config::{Program, World};
use stanby::engine::recovery;
use stanby::proto::{pb, spb};
use stanby::site::new_store::{NewStore, Work};
use stanby::store::file::{self, FileOptions};
use stanby::store::{Opened, encryption, source};

use folders::copy;

const NOW: Now = Now { at: Instant(1), wall: WallTime(1_900_000_000_000_000_000) };
const KEY: &str = "testkey";

/// A recorded cluster, as a copy that a test may change.
struct Cluster {
    folder: tempfile::TempDir,
    truth: Value,
    key: Option<&'static str>,
}

impl Cluster {
    fn recorded(name: &str) -> Self {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/raft").join(name);
        let folder = tempfile::tempdir().unwrap();
        copy(&data, folder.path());
        let truth = serde_json::from_slice(&fs::read(data.join("truth.json")).unwrap()).unwrap();
        Self { folder, truth, key: (name == "killed").then_some(KEY) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The only snapshot of a node.
    fn snapshot(&self, node: &str) -> PathBuf {
        let folder = self.path(node).join("log/imp/snapshots");
        let mut entries = fs::read_dir(folder).unwrap();
        entries.next().unwrap().unwrap().path()
    }

    fn run(&self, nodes: &str, more: &[&str]) -> Output {
        let program = std::env::var_os("STANBY_BIN").map(PathBuf::from);
        let program = program.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_stanby")));
        let mut command = Command::new(program);
        command.arg("import").env_remove("NATS_STREAMING_ENCRYPTION_KEY");
        for node in nodes.split_whitespace() {
            command.arg("--store").arg(self.path(node).join("store"));
            command.arg("--log-path").arg(self.path(node).join("log"));
        }
        if let Some(key) = self.key {
            command.arg("--encrypt").env("NATS_STREAMING_ENCRYPTION_KEY", key);
        }
        command.args(more).output().unwrap()
    }

    /// Imports these nodes into the folder `out`, of which nothing else is changed.
    fn import(&self, nodes: &str, more: &[&str]) -> Result<String, String> {
        let before = self.files();
        let out = self.path("out");
        let output = self.run(nodes, &[&["--to", out.to_str().unwrap()], more].concat());
        assert_eq!(self.files(), before, "the nodes are only read");
        let said = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }

    /// Why these nodes are not imported; nothing is made.
    fn refusal(&self, nodes: &str) -> String {
        let error = self.import(nodes, &[]).unwrap_err();
        assert!(!self.path("out").exists(), "{error}");
        error
    }

    /// All files of the nodes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let nodes = ["a", "b", "c"].map(|node| self.path(node));
        let there = nodes.iter().filter(|node| node.exists());
        let files = there.flat_map(|node| folders::files(node));
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    fn store(&self) -> Imported {
        let options = FileOptions::new(self.path("out"));
        file::prepare(&options).unwrap();
        let limits = source::unlimited();
        let fence = Arc::new(Unfenced);
        let opened = file::open(&options, &limits, fence, Predecessor::Clean, 1, NOW).unwrap();
        Imported(match self.key {
            None => opened,
            Some(key) => {
                let key = StoreKey::of(&Secret::new(key.into()), Cipher::Aes);
                encryption::around(opened, &key, 1)
            }
        })
    }

    /// All messages of the new store by channel.
    fn contents(&self) -> BTreeMap<String, BTreeMap<u64, String>> {
        let mut store = self.store();
        let channels = store.0.recovered.channels.iter();
        let names: Vec<_> = channels.map(|found| found.channel.to_string()).collect();
        names.into_iter().map(|name| (name.clone(), store.messages(&name))).collect()
    }

    fn acked(&self, channel: &str) -> Vec<String> {
        texts(&self.truth["acked"][channel])
    }

    /// Everything that clients were told is there, once, and each durable goes on where it stopped.
    fn check(&self) {
        let mut store = self.store();
        let server = store.0.recovered.server.clone().unwrap();
        assert_eq!((&server.cluster_id[..], &server.node_id[..]), (&b"imp"[..], &b""[..]));
        let mut all = BTreeMap::new();
        for (channel, _) in self.truth["acked"].as_object().unwrap() {
            let found = store.messages(channel);
            let once: BTreeSet<&String> = found.values().collect();
            assert_eq!(once.len(), found.len(), "{channel}: each is there once");
            let acked = self.acked(channel);
            // Limits have let go of the oldest.
            let kept = if channel == "lim" { acked.len() - 20 } else { 0 };
            for payload in &acked[kept..] {
                assert!(once.contains(payload), "{channel}: {payload} was acknowledged");
            }
            all.insert(channel.clone(), found);
        }
        for durable in self.truth["durables"].as_array().unwrap() {
            let channel = durable["channel"].as_str().unwrap();
            self.check_durable(durable, &all[channel], &store.subscriptions_of(channel, durable));
        }
    }

    fn check_durable(
        &self,
        durable: &Value,
        messages: &BTreeMap<u64, String>,
        found: &[RecoveredSubscription],
    ) {
        assert!(!found.is_empty(), "{durable} is there");
        let last_sent = found.iter().map(|it| it.state.last_sent).max().unwrap();
        let pending: BTreeSet<u64> =
            found.iter().flat_map(|it| it.pending.iter().map(|it| it.get())).collect();
        let acked: BTreeSet<String> = texts(&durable["acked"]).into_iter().collect();
        for (sequence, payload) in messages {
            let is_to_come = last_sent < *sequence || pending.contains(sequence);
            let was_acked = acked.contains(payload);
            assert!(is_to_come || was_acked, "{payload} is lost to {durable}");
            if self.truth["is_quiet"] == true {
                assert!(!(is_to_come && was_acked), "{payload} comes again");
            }
        }
    }
}

fn texts(list: &Value) -> Vec<String> {
    let text = |it: &Value| it.as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(text).collect()
}

struct Imported(Opened);

impl Imported {
    fn channel(&self, name: &str) -> &RecoveredChannel {
        let mut channels = self.0.recovered.channels.iter();
        channels.find(|found| found.channel == ChannelName::from(name)).unwrap()
    }

    fn messages(&mut self, channel: &str) -> BTreeMap<u64, String> {
        let mut found = BTreeMap::new();
        let mut from = Sequence(0);
        loop {
            let request = FetchRequest {
                ticket: Ticket(0),
                channel: ChannelName::from(channel),
                from,
                count_max: 100,
                bytes_max: 100_000,
            };
            let messages = self.0.shares[0].fetch(&request).unwrap();
            let Some(last) = messages.last() else { return found };
            from = last.sequence.next();
            for message in messages {
                let decoded = pb::MsgProto::decode(message.encoded).unwrap();
                assert_eq!(decoded.sequence, message.sequence.get());
                let payload = String::from_utf8(decoded.data.to_vec()).unwrap();
                found.insert(decoded.sequence, payload);
            }
        }
    }

    fn subscriptions_of(&self, channel: &str, durable: &Value) -> Vec<RecoveredSubscription> {
        let name = durable["name"].as_str().unwrap();
        let queue = format!("{name}:{}", durable["queue"].as_str().unwrap());
        let is_it = |it: &&RecoveredSubscription| {
            it.state.durable_name == name || it.state.q_group == queue
        };
        self.channel(channel).subscriptions.iter().filter(is_it).cloned().collect()
    }
}

#[test]
fn any_majority_of_a_stopped_cluster_gives_everything() {
    for nodes in ["a b c", "a b", "b c", "c a"] {
        let cluster = Cluster::recorded("stopped");
        let said = cluster.import(nodes, &[]).unwrap();
        assert!(said.contains("of 3 members were given") && said.contains("imported"), "{said}");
        assert!(!said.contains("note:") && !said.contains("MISSING"), "{said}");
        cluster.check();
        let store = cluster.store();
        let lim = store.channel("lim").state;
        assert_eq!(lim.message_count, 20, "{lim:?}: what limits have let go of is gone");
        assert_eq!(lim.first, Sequence(lim.last.get() - 19));
        let names: Vec<_> = store
            .channel("bar")
            .subscriptions
            .iter()
            .map(|it| it.state.durable_name.clone())
            .collect();
        assert!(!names.iter().any(|name| name == "un"), "one that was unsubscribed is gone");
        let mut clients: Vec<_> =
            store.0.recovered.clients.iter().map(|it| it.id.clone()).collect();
        clients.sort();
        assert_eq!(clients, ["m1", "m2", "pub", "sub1", "sub2", "sub4"]);
    }
}

#[test]
fn any_majority_of_a_cluster_that_was_killed_gives_what_was_acknowledged() {
    for nodes in ["a b c", "a b", "b c", "c a"] {
        let cluster = Cluster::recorded("killed");
        cluster.import(nodes, &[]).unwrap();
        cluster.check();
    }
}

#[test]
fn a_log_that_begins_with_the_cluster_gives_everything() {
    let cluster = Cluster::recorded("young");
    let said = cluster.import("b a", &[]).unwrap();
    assert!(said.contains("2 of 3 members were given"), "{said}");
    cluster.check();
}

#[test]
fn a_cluster_is_shown_as_json_and_without_being_imported() {
    let cluster = Cluster::recorded("stopped");
    let output = cluster.run("a b c", &["--dry-run", "--json"]);
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["cluster_id"], &report["clients"]), (&"imp".into(), &6.into()));
    assert_eq!(report["given"].as_array().unwrap().len(), 3);
    let names: Vec<_> =
        report["channels"].as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names, ["bar", "foo", "gone", "lim"]);
    assert!(!cluster.path("out").exists());
}

/// Goal: stores and logs that do not belong together are told, where paths have the nodes' IDs.
#[test]
fn logs_that_are_given_with_the_stores_of_other_nodes_are_told() {
    let cluster = Cluster::recorded("stopped");
    let place = |place: &str| cluster.path(place).display().to_string();
    let pairs = |logs: [&str; 2]| {
        let mut args = vec!["--dry-run".to_owned()];
        for (store, log) in ["a/store", "b/store"].into_iter().zip(logs) {
            args.extend(["--store".to_owned(), place(store), "--log-path".to_owned(), place(log)]);
        }
        args
    };
    let run = |logs: [&str; 2], more: &[&str]| {
        let args = pairs(logs);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let output = cluster.run("", &args);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (is_done, said) = run(["b/log", "a/log"], &[]);
    assert!(!is_done && said.contains("has the name of node \"b\""), "{said}");
    assert!(run(["b/log", "a/log"], &["--force"]).0);
    assert!(run(["a/log", "b/log"], &[]).0);
    // Without their names nobody can tell.
    fs::rename(cluster.path("a/log"), cluster.path("1")).unwrap();
    fs::rename(cluster.path("b/log"), cluster.path("2")).unwrap();
    assert!(run(["1", "2"], &[]).0);
}

#[test]
fn a_minority_is_refused_unless_it_is_forced() {
    let cluster = Cluster::recorded("stopped");
    let error = cluster.refusal("b");
    assert!(error.contains("1 of 3 members were given, which is no majority"), "{error}");
    assert!(error.contains("a, c alone") && error.contains("--force"), "{error}");
    let said = cluster.import("b", &["--force"]).unwrap();
    assert!(said.contains("note: no majority of the members was given"), "{said}");
    cluster.check();
}

#[test]
fn what_a_store_lacks_is_in_the_log_or_on_another_node() {
    let cluster = Cluster::recorded("stopped");
    for node in ["a", "b", "c"] {
        fs::remove_dir_all(cluster.path(node).join("store/gone")).unwrap();
    }
    for node in ["a", "b"] {
        fs::remove_dir_all(cluster.path(node).join("store/bar")).unwrap();
    }
    let error = cluster.refusal("a b");
    assert!(error.contains("messages are missing") && error.contains("channel bar"), "{error}");
    // It is known before anything is written.
    let planned = report(&cluster.run("a b c", &["--json", "--force", "--dry-run"]));
    let out = cluster.path("out");
    let output = cluster.run("a b c", &["--json", "--force", "--to", out.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["channels"], planned["channels"]);
    let bar = &report["channels"][0];
    assert!(bar["from_others"].as_u64().unwrap() > 0, "{bar}");
    assert_eq!(bar["missing"], Value::Array(Vec::new()), "{bar}");
    let payloads: BTreeSet<String> = cluster.store().messages("bar").into_values().collect();
    assert!(cluster.acked("bar").iter().all(|payload| payloads.contains(payload)));
}

/// Goal: what nobody has is named, and with force empty messages keep the numbers of the others.
#[test]
fn missing_messages_are_named_and_stood_in_for() {
    let cluster = Cluster::recorded("stopped");
    for node in ["a", "b", "c"] {
        fs::remove_dir_all(cluster.path(node).join("store/lim")).unwrap();
    }
    let error = cluster.refusal("a b c");
    assert!(error.contains("of channel lim") && error.contains("empty messages"), "{error}");
    let said = cluster.import("a b c", &["--force"]).unwrap();
    assert!(said.contains("MISSING"), "{said}");
    let mut store = cluster.store();
    let last = store.channel("lim").state.last.get();
    let found = store.messages("lim");
    assert_eq!(*found.keys().last().unwrap(), last);
    assert!(found.values().any(String::is_empty));
}

#[test]
fn a_wrong_key_or_none_is_told() {
    let mut cluster = Cluster::recorded("killed");
    for key in [None, Some("other")] {
        cluster.key = key;
        let error = cluster.refusal("a b c");
        assert!(
            error.contains("encrypted") && error.contains("give the key of the cluster"),
            "{error}"
        );
    }
    for node in ["a", "b", "c"] {
        // Without messages in the stores it is the log that tells.
        for channel in ["foo", "bar", "lim", "gone"] {
            let _ = fs::remove_dir_all(cluster.path(node).join("store").join(channel));
        }
    }
    let error = cluster.refusal("a b c");
    assert!(error.contains("cannot be decrypted"), "{error}");
    cluster.key = None;
    let error = cluster.refusal("a b c");
    assert!(error.contains("is encrypted: give the key"), "{error}");
}

#[test]
fn a_log_that_is_cut_or_foreign_is_told() {
    let cluster = Cluster::recorded("stopped");
    let log = cluster.path("a/log/imp/raft.log");
    let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(20_000).unwrap();
    let error = cluster.refusal("a b c");
    assert!(error.contains("raft.log: page") && error.contains("the file ends"), "{error}");
    cluster.import("b c", &[]).unwrap();
    fs::remove_dir_all(cluster.path("out")).unwrap();
    fs::write(&log, "nothing of the kind").unwrap();
    let error = cluster.refusal("a b c");
    assert!(error.contains("it is no bbolt database"), "{error}");
    fs::remove_file(&log).unwrap();
    assert!(cluster.refusal("a b c").contains("no Raft log in"));
}

/// Goal: whatever page of a log is overwritten, there is a line and no half of a store.
#[test]
fn a_damaged_page_is_an_error_or_does_not_matter() {
    let cluster = Cluster::recorded("stopped");
    let log = cluster.path("a/log/imp/raft.log");
    let whole = fs::read(&log).unwrap();
    let mut refused = 0;
    for page in (2..whole.len() / 4096).step_by(3) {
        let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
        file.write_all_at(&[0xff; 4096], u64::try_from(page * 4096).unwrap()).unwrap();
        let output = cluster.run("a b", &["--dry-run"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            refused += 1;
            assert!(said.contains("is damaged"), "page {page}: {said}");
        }
        fs::write(&log, &whole).unwrap();
    }
    assert!(refused > 0);
}

/// Flips the lowest bit of one byte of a node's log, which is this one before.
fn flip(cluster: &Cluster, node: &str, at: u64, before: u8) {
    let path = cluster.path(node).join("log/imp/raft.log");
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    assert_eq!(byte, [before]);
    file.write_all_at(&[before ^ 1], at).unwrap();
}

/// Where the last publish to channel `lim` of node a has the channel's number, which is 82.
const NUMBER_AT: u64 = 50_330;
/// Where it has the last letter of the channel's name.
const NAME_AT: u64 = 50_290;

/// Goal: what one node has otherwise than the others is not believed, and nothing is lost by it.
#[test]
fn an_entry_that_nodes_have_otherwise_is_refused() {
    let cluster = Cluster::recorded("young");
    flip(&cluster, "a", NUMBER_AT, 0x52);
    let error = cluster.refusal("a b");
    assert!(error.contains("entry 139 is not the same in"), "{error}");
    assert!(error.contains("a/log/imp/raft.log as in") && error.contains("--force"), "{error}");
    let said = cluster.import("a b", &["--force"]).unwrap();
    assert!(said.contains("note: entry 139 is not the same in"), "{said}");
    fs::remove_dir_all(cluster.path("out")).unwrap();
    cluster.import("b", &["--force"]).unwrap();
    cluster.check();
}

/// Goal: also where there is no other log to compare with, the acknowledged messages before are
/// not forgotten without a word.
#[test]
fn an_operation_that_does_not_fit_to_those_before_is_refused() {
    for (at, before, said) in [
        (NUMBER_AT, 0x52, "entry 139 is damaged: it is for number 83 of channel lim, which has"),
        (NAME_AT, b'm', "entry 139 is damaged: it has message 60 of channel lil, where 1 comes"),
    ] {
        let cluster = Cluster::recorded("young");
        flip(&cluster, "a", at, before);
        fs::copy(cluster.path("a/log/imp/raft.log"), cluster.path("b/log/imp/raft.log")).unwrap();
        let error = cluster.refusal("a b");
        assert!(error.contains(said) && error.contains("--force"), "{error}");
        let told = cluster.import("a b", &["--force"]).unwrap();
        assert!(told.contains("note: ") && told.contains(said), "{told}");
    }
}

/// Goal: what stores have and the log does not know is named, and not left out in silence.
#[test]
fn messages_that_the_log_does_not_know_are_refused() {
    let cluster = Cluster::recorded("young");
    copy(&cluster.path("a/store/foo"), &cluster.path("a/store/more"));
    let error = cluster.refusal("a b");
    assert!(error.contains("channel more is in") && error.contains("no word of it"), "{error}");
    let said = cluster.import("a b", &["--force"]).unwrap();
    assert!(said.contains("note: channel more is in"), "{said}");
    assert!(!said.contains("channel more: messages"), "{said}");
    cluster.check();
    let cluster = Cluster::recorded("young");
    for file in ["msgs.1.dat", "msgs.1.idx"] {
        fs::copy(cluster.path("a/store/lim").join(file), cluster.path("a/store/foo").join(file))
            .unwrap();
    }
    let error = cluster.refusal("a b");
    assert!(error.contains("channel foo ends with message 60 in"), "{error}");
    assert!(error.contains("and with 50 in the log"), "{error}");
}

/// Goal: nobody takes the older half of a log for all of it without a word.
#[test]
fn a_first_page_that_is_damaged_is_a_note() {
    for page in [0, 4096] {
        let cluster = Cluster::recorded("young");
        let log = cluster.path("a/log/imp/raft.log");
        let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
        file.write_all_at(&[0; 64], page + 16).unwrap();
        let said = cluster.import("a b", &[]).unwrap();
        assert!(said.contains("raft.log: one of its first two pages is damaged"), "{said}");
        cluster.check();
    }
}

/// Goal: whichever bit of one node's log flips, the nodes give what they gave before, or nothing.
#[test]
fn a_bit_that_flips_in_one_log_changes_nothing_in_silence() {
    let whole = Cluster::recorded("stopped");
    whole.import("a b c", &[]).unwrap();
    let expected = whole.contents();
    let cluster = Cluster::recorded("stopped");
    let path = cluster.path("a/log/imp/raft.log");
    let log = fs::read(&path).unwrap();
    let written: Vec<usize> = (0..log.len()).filter(|at| log[*at] != 0).collect();
    let (mut seed, mut refused) = (0x9E37_79B9_7F4A_7C15_u64, 0);
    for _ in 0..100 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let drawn = usize::try_from(seed >> 8).unwrap();
        let (at, bit) = (written[drawn / 8 % written.len()], drawn % 8);
        let mut damaged = log.clone();
        damaged[at] ^= 1 << bit;
        fs::write(&path, damaged).unwrap();
        match cluster.import("a b c", &[]) {
            Ok(_) => {
                cluster.check();
                assert_eq!(cluster.contents(), expected, "bit {bit} of byte {at}");
                fs::remove_dir_all(cluster.path("out")).unwrap();
            }
            Err(error) => {
                refused += 1;
                assert!(!cluster.path("out").exists(), "bit {bit} of byte {at}: {error}");
            }
        }
    }
    assert!(0 < refused && refused < 100, "{refused}");
}

#[test]
fn a_snapshot_that_is_damaged_or_newer_than_the_log_is_told() {
    let cluster = Cluster::recorded("stopped");
    let state = cluster.snapshot("a").join("state.bin");
    let whole = fs::read(&state).unwrap();
    let mut damaged = whole.clone();
    damaged[9] ^= 1;
    fs::write(&state, damaged).unwrap();
    let error = cluster.refusal("a b c");
    assert!(error.contains("state.bin is damaged: its checksum"), "{error}");
    fs::write(&state, whole).unwrap();
    // The entries between it and the log are nowhere.
    renumber(&cluster.snapshot("a"), (2, 5));
    let error = cluster.refusal("a b");
    assert!(error.contains("entry 6 is missing: entry"), "{error}");
    fs::remove_dir_all(cluster.snapshot("a")).unwrap();
    let error = cluster.refusal("a b");
    assert!(error.contains("says who the members of the cluster are"), "{error}");
}

/// As if a snapshot had been made at another entry. What has happened since is not in it, such as
/// that a channel was deleted and made anew.
fn renumber(snapshot: &Path, (term, index): (u64, u64)) {
    let path = snapshot.join("meta.json");
    let mut meta: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    meta["Term"] = term.into();
    meta["Index"] = index.into();
    fs::write(path, meta.to_string()).unwrap();
    fs::rename(snapshot, snapshot.with_file_name(format!("{term}-{index}-1"))).unwrap();
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Goal: a node that was sent a snapshot has an older log, which says nothing.
#[test]
fn of_a_log_that_ends_before_the_snapshot_the_snapshot_counts() {
    let cluster = Cluster::recorded("stopped");
    let found = report(&cluster.run("a b c", &["--dry-run", "--json"]));
    let beyond = found["last_index"].as_u64().unwrap() + 1_000;
    renumber(&cluster.snapshot("a"), (2, beyond));
    let found = report(&cluster.run("b a", &["--dry-run", "--json", "--force"]));
    assert_eq!((&found["node_id"], &found["last_index"]), (&"a".into(), &beyond.into()));
}

/// Goal: a node that was sent a snapshot of a later term still has entries of the former leader's
/// that nobody else has. They are no continuation of it, and their messages are not believed.
#[test]
fn entries_of_an_older_term_than_the_snapshot_are_not_believed() {
    let cluster = Cluster::recorded("stopped");
    let found = report(&cluster.run("a b c", &["--dry-run", "--json"]));
    let index = found["snapshot_index"].as_u64().unwrap();
    renumber(&cluster.snapshot("a"), (9, index));
    let found = report(&cluster.run("b a", &["--dry-run", "--json", "--force"]));
    assert_eq!((&found["node_id"], &found["last_index"]), (&"a".into(), &index.into()));
    assert_eq!(found["last_term"], 9);
    fs::remove_dir_all(cluster.path("a/store/lim")).unwrap();
    fs::remove_dir_all(cluster.path("b/store/lim")).unwrap();
    let error = cluster.refusal("a b");
    assert!(error.contains("41 to 60 of channel lim"), "{error}");
}

#[test]
fn a_node_given_twice_two_clusters_and_other_stores_are_told() {
    let cluster = Cluster::recorded("stopped");
    let error = cluster.refusal("a b a");
    assert!(error.contains("have the same Raft log"), "{error}");
    copy(&cluster.path("a"), &cluster.path("again"));
    let error = cluster.refusal("a b again");
    assert!(error.contains("are the same node \"a\""), "{error}");
    let other = cluster.path("again/store/server.dat");
    let mut bytes = fs::read(&other).unwrap();
    let at = bytes.windows(3).position(|part| part == b"imp").unwrap();
    bytes[at..at + 3].copy_from_slice(b"top");
    let sum = crc32(&bytes[12..]);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    fs::write(&other, bytes).unwrap();
    fs::rename(cluster.path("again/log/imp"), cluster.path("again/log/top")).unwrap();
    let error = cluster.refusal("a b again");
    assert!(error.contains("belongs to cluster \"imp\"") && error.contains("\"top\""), "{error}");
    fs::remove_dir_all(cluster.path("again/store")).unwrap();
    fs::create_dir(cluster.path("again/store")).unwrap();
    let error = cluster.refusal("a b again");
    assert!(error.contains("there is no server's record"), "{error}");
    fs::remove_dir_all(cluster.path("again/store")).unwrap();
    let error = cluster.refusal("a b again");
    assert!(error.contains("again/store cannot be read"), "{error}");
}

/// As the files of a store have it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    })
}

#[test]
fn a_target_that_holds_something_is_left_as_it_is() {
    let cluster = Cluster::recorded("stopped");
    fs::create_dir(cluster.path("out")).unwrap();
    cluster.import("a b c", &[]).unwrap();
    let error = cluster.import("a b c", &[]).unwrap_err();
    assert!(error.contains("is not empty") && error.contains("nothing was written"), "{error}");
    cluster.check();
    let blocked = cluster.path("a/store/server.dat").join("out");
    let output = cluster.run("a b c", &["--to", blocked.to_str().unwrap()]);
    assert!(!output.status.success());
}

/// Goal: in a database, where all subscriptions are numbered as one, each has a number of its own.
#[test]
fn a_database_takes_a_cluster_over_too() {
    let cluster = Cluster::recorded("stopped");
    let path = cluster.path("new.db");
    let database = path.to_str().unwrap();
    let program = std::env::var_os("STANBY_BIN").map(PathBuf::from);
    let program = program.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_stanby")));
    let to = ["--to-sql-driver", "sqlite", "--to-sql-source", database];
    let output = cluster.run("a b c", &to);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("stanby sql init"), "{error}");
    let init = ["sql", "init", "-sql_driver", "sqlite", "-sql_source", database];
    assert!(Command::new(program).args(init).output().unwrap().status.success());
    let output = cluster.run("a b c", &to);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let connection = rusqlite::Connection::open(&path).unwrap();
    let number =
        |statement: &str| -> i64 { connection.query_row(statement, [], |row| row.get(0)).unwrap() };
    let acked: usize = ["foo", "bar", "gone"].iter().map(|it| cluster.acked(it).len()).sum();
    assert!(acked + 20 <= usize::try_from(number("SELECT COUNT(*) FROM Messages")).unwrap());
    assert_eq!(number("SELECT COUNT(*) FROM Clients"), 6);
    let subscriptions = number("SELECT COUNT(*) FROM Subscriptions");
    assert_eq!(number("SELECT COUNT(DISTINCT subid) FROM Subscriptions"), subscriptions);
    assert!(6 <= subscriptions && 0 < number("SELECT COUNT(*) FROM SubsPending"));
    let output = cluster.run("a b c", &to);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("it is that of cluster \"imp\""), "{error}");
}

/// Goal: what an import that was broken off has left is taken by no server.
#[test]
fn a_store_that_is_not_finished_says_so_and_is_served_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let world = World {
        read: &|_| Err(std::io::ErrorKind::NotFound.into()),
        variable: &|_| None,
        secret: &|_| None,
        cores: 1,
    };
    let line = ["-store", "file", "-dir", folder.path().to_str().unwrap()].map(str::to_owned);
    let Request::Serve(config) = options::load(Program::Streaming, &line, &world).unwrap() else {
        panic!("{line:?} starts no server");
    };
    let cluster_id = Bytes::from("imp");
    let mut target = NewStore::open(&config, Work::Import, b"imp").unwrap();
    target.begin(&spb::ServerInfo { cluster_id, ..Default::default() }).unwrap();
    drop(target);
    let found = file::peek_server(&FileOptions::new(folder.path()));
    let error = recovery::server_info(found, "imp", "_STAN.discover").unwrap_err().to_string();
    let said = "cluster ID \"imp\" does not match recovered value of \"unfinished import of imp\"";
    assert_eq!(error, said);
    let again = NewStore::open(&config, Work::Import, b"imp").err().unwrap().to_string();
    assert!(again.contains("the new store is not empty"), "{again}");
}

#[test]
fn a_node_that_runs_is_told() {
    let cluster = Cluster::recorded("stopped");
    let log = fs::File::open(cluster.path("a/log/imp/raft.log")).unwrap();
    log.lock().unwrap();
    let error = cluster.refusal("a b c");
    assert!(error.contains("a server has it open; stop all nodes"), "{error}");
    drop(log);
    let path = cluster.path("b/store/server.dat");
    let _writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let error = cluster.refusal("a b c");
    assert!(error.contains(&format!("{} is open for writing by", path.display())), "{error}");
}

#[test]
fn wrong_arguments_are_told_with_what_to_do() {
    let cluster = Cluster::recorded("stopped");
    for (nodes, more, said) in [
        ("", &["--to", "x"][..], "once for each node"),
        ("a b", &["--store", "x", "--to", "x"], "3 stores and 2 log paths"),
        ("a b", &[], "say where the new store goes with --to"),
        ("a b", &["--encrypt", "--to", "x"], "--encrypt asks for a key"),
        ("a b", &["--to", "x", "--dry-run"], "cannot be used with"),
        ("", &["--sql-driver", "sqlite", "--sql-source", "x", "--log-path", "x"], "unknown driver"),
    ] {
        let output = cluster.run(nodes, more);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(said), "{more:?}: {error}");
    }
}
