//! Stores that are whole, and what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use stanby::base::channel_limits::{ChannelOverrides, StoreLimits};
use stanby::base::delivery_count::{DeliveryCount, ReaderId};
use stanby::base::delivery_policy::{Policies, PolicyOverrides};
use stanby::base::epoch::{Predecessor, Unfenced};
use stanby::base::id::{Sequence, SubscriptionId};
use stanby::base::record::{ClientWrite, Lifecycle, Purge, SubscriptionWrite};
use stanby::base::time::WallTime;
use stanby::proto::spb;
use stanby::store::check::{self, Mender, Rules};
use stanby::store::file::FileOptions;

use crate::folders::copy;
use crate::lasting::{self, Kind};
use crate::stores::{START, batch, commit, fetch_whole, open_as, part, subscription};

/// A store that is whole.
pub struct Base {
    pub name: String,
    pub root: PathBuf,
    pub rules: Rules,
    pub has_checksums: bool,
    /// What its server needs to know.
    pub flags: Vec<&'static str>,
    pub contents: Contents,
    _folder: tempfile::TempDir,
}

/// All that a start reads.
#[derive(Debug, Default)]
pub struct Contents {
    pub server: Option<String>,
    pub clients: BTreeMap<String, String>,
    pub channels: BTreeMap<String, Channel>,
}

#[derive(Debug, Default)]
pub struct Channel {
    /// Payloads as they are stored.
    pub messages: BTreeMap<u64, Bytes>,
    pub subscriptions: BTreeMap<u64, (String, BTreeSet<Sequence>)>,
    pub counts: Vec<DeliveryCount>,
}

fn limits() -> StoreLimits {
    let counted = PolicyOverrides {
        deliveries_max: Some(9),
        dead_letter: Some("dead".into()),
        ..PolicyOverrides::default()
    };
    let per_channel = BTreeMap::from([("counted".into(), counted)]);
    StoreLimits {
        policies: Policies { per_channel, ..Policies::default() },
        per_channel: BTreeMap::from([("counted".into(), ChannelOverrides::default())]),
        ..stanby::store::source::unlimited()
    }
}

/// All that lies in a directory, read from a copy.
pub fn contents(root: &Path, base: &Base) -> Contents {
    read(root, base.has_checksums)
}

fn read(root: &Path, crc: bool) -> Contents {
    let folder = tempfile::tempdir().unwrap();
    copy(root, folder.path());
    let options = FileOptions { crc, sync: false, ..FileOptions::new(folder.path()) };
    let mut opened = open_as(&options, &limits(), Predecessor::Clean).unwrap();
    let recovered = opened.recovered;
    let mut found =
        Contents { server: recovered.server.map(|it| format!("{it:?}")), ..Contents::default() };
    for client in recovered.clients {
        found.clients.insert(String::from_utf8_lossy(&client.id).into(), format!("{client:?}"));
    }
    for channel in recovered.channels {
        let name = channel.channel.to_string();
        let share = opened.shares[0].as_mut();
        let messages = fetch_whole(share, &name, channel.state.first.0);
        let subscriptions = channel.subscriptions.into_iter();
        let of_channel = Channel {
            messages: messages.into_iter().map(|it| (it.sequence, it.data)).collect(),
            subscriptions: subscriptions
                .map(|it| {
                    let pending = it.pending.into_iter().collect();
                    // What was sent last is in the messages that are pending, or was acknowledged.
                    let state = spb::SubState { last_sent: 0, ..it.state };
                    (state.id, (format!("{state:?}"), pending))
                })
                .collect(),
            counts: channel.deliveries,
        };
        found.channels.insert(name, of_channel);
    }
    found
}

/// Every store that is damaged.
pub fn all() -> Vec<Base> {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores");
    let mut names: Vec<PathBuf> =
        fs::read_dir(recorded).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.is_dir());
    names.sort();
    let mut found: Vec<Base> = names
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let has_checksums = name != "f-nocrc";
            base(name, has_checksums, &|root| copy(path, root))
        })
        .collect();
    // Whatever is drawn, half of it is ours.
    for _ in 0..4 {
        found.push(base("sliced".to_owned(), true, &sliced));
    }
    for kind in [Kind::File, Kind::Encrypted, Kind::File, Kind::Encrypted] {
        found.push(base(format!("{kind:?}"), true, &|root| {
            let store = lasting::Store::new(kind);
            store.fill(60);
            copy(&store.path(), root);
        }));
    }
    found
}

fn base(name: String, has_checksums: bool, make: &dyn Fn(&Path)) -> Base {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    make(&root);
    let rules = if has_checksums { Rules::default() } else { Rules::without_checksums() };
    // Some of the recorded ones are damaged: what can be had of them is what is whole.
    let report = check::directory(&root, rules, &mut |_| ()).unwrap();
    let mut mender = Mender { fence: &Unfenced, confirm: &mut || Ok(()), say: &mut |_| () };
    let changes = check::mend(&report, rules, &mut mender).unwrap();
    assert!(changes.is_empty() || name.starts_with('e'), "{name}: {changes:#?}");
    let flags = if has_checksums { Vec::new() } else { vec!["-file_crc=false"] };
    let contents = read(&root, has_checksums);
    Base { name, root, rules, has_checksums, flags, contents, _folder: folder }
}

/// Channels in slices of ten messages: one with a durable and counts of deliveries, one of whose
/// purge the files say nothing yet, one that was emptied, one that was purged.
fn sliced(root: &Path) {
    let options = FileOptions { slice_messages_max: 10, ..FileOptions::new(root) };
    let mut opened = open_as(&options, &limits(), Predecessor::Clean).unwrap();
    let share = opened.shares[0].as_mut();
    let mut first = batch(
        ["counted", "floor", "emptied", "purged"]
            .map(|name| part(name, Lifecycle::Create, 1..=10))
            .into(),
    );
    let id = SubscriptionId(1);
    let create = SubscriptionWrite::Create(subscription(1).into());
    let sent = (1..=10).map(|it| SubscriptionWrite::Sent(id, Sequence(it)));
    first.channels[0].subscriptions = [create].into_iter().chain(sent).collect();
    let reader = ReaderId([7; 16]);
    first.channels[0].deliveries = (1..=10)
        .map(|it: u64| DeliveryCount {
            reader,
            sequence: Sequence(it),
            timestamp: WallTime(START + i64::try_from(it).unwrap()),
            count: 3,
            is_gone: false,
        })
        .collect();
    let client = |id: &'static str| {
        ClientWrite::Add(spb::ClientInfo {
            id: id.into(),
            hb_inbox: "_INBOX.of.a.client".into(),
            ..spb::ClientInfo::default()
        })
    };
    first.clients = ["me", "you", "it"].map(client).into();
    first.server = Some(lasting::server_info());
    commit(share, &first);
    for more in [11..=20, 21..=30] {
        let names = ["counted", "floor", "emptied", "purged"];
        let parts = names.map(|name| part(name, Lifecycle::Keep, more.clone()));
        commit(share, &batch(parts.into()));
    }
    let mut purge = part("purged", Lifecycle::Keep, crate::stores::NOTHING);
    purge.purge = Some(Purge { first: Sequence(14), stand_in: None });
    commit(share, &batch(vec![purge]));
    share.close().unwrap();
    // As a kill between the decision and the tidying leaves it.
    fs::write(root.join("floor/purged.24"), "").unwrap();
    fs::write(root.join("emptied/emptied.30"), "").unwrap();
}
