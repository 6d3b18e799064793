//! Store directories that are another's, unreadable, damaged, shared, or too many files.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::server::{Launch, wait_for};
use crate::stan::{Stan, sequences};

fn sequences_of(stan: &mut Stan, channel: &str, count: usize) -> Vec<u64> {
    sequences(&stan.replay(channel, count))
}

#[test]
fn a_directory_of_another_cluster_is_refused_and_stays_as_it_is() {
    let launch = Launch::new(&["-cid", "mine"]).file_store(None);
    let mut server = launch.start();
    let mut stan = Stan::bare(launch.port, "");
    stan.register("mine", "me").unwrap();
    assert!(stan.fill("foo", 1..=10).is_empty());
    server.stop(Signal::SIGTERM);
    let store = launch.folder().join("store");
    let mut other = Launch::new(&["-cid", "other"]).file_store(Some(&store)).run();
    assert_eq!(other.wait_exit().code(), Some(1));
    let wanted = "cluster ID \"other\" does not match recovered value of \"mine\"";
    assert!(other.log.text().contains(wanted), "{}", other.log.text());
    let _server = launch.start();
    let mut stan = Stan::bare(launch.port, "");
    stan.register("mine", "reader").unwrap();
    assert!(sequences_of(&mut stan, "foo", 10).into_iter().eq(1..=10));
}

#[test]
fn a_directory_that_cannot_be_made_or_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let mut server = Launch::new(&[]).file_store(Some(&file.join("store"))).run();
    assert_eq!(server.wait_exit().code(), Some(1));
    let log = server.log.text();
    assert!(log.contains("[FTL]") && log.contains(&file.display().to_string()), "{log}");
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    let launch = Launch::new(&[]).file_store(Some(&closed));
    // Root may write everywhere, unless it has laid that right down.
    let as_others = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    let is_root = nix::unistd::geteuid().is_root();
    let launch = if is_root { launch.through(&as_others) } else { launch };
    let mut server = launch.run();
    assert_eq!(server.wait_exit().code(), Some(1));
    let log = server.log.text();
    assert!(log.contains("[FTL]") && log.contains(&closed.display().to_string()), "{log}");
}

/// Goal: of two processes on one directory one serves, and the other says who holds it.
#[test]
fn two_processes_on_one_directory() {
    let first = Launch::new(&[]).file_store(None);
    let server = first.start();
    let mut stan = Stan::connect(first.port, "first");
    assert!(stan.fill("foo", 1..=20).is_empty());
    let store = first.folder().join("store");
    let mut second = Launch::new(&[]).file_store(Some(&store)).run();
    assert_eq!(second.wait_exit().code(), Some(1));
    let log = second.log.text();
    assert!(log.contains("[FTL] STREAM: Failed to start"), "{log}");
    assert!(log.contains(&server.pid().to_string()), "the holder is named: {log}");
    assert!(stan.fill("foo", 21..=40).is_empty());
    assert!(sequences_of(&mut stan, "foo", 40).into_iter().eq(1..=40));
}

fn files(folder: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    found.sort();
    found
}

/// Goal: what lies whole behind and before a damaged record is still served, and the damage named.
#[test]
fn a_corrupt_slice_in_the_middle() {
    let launch = Launch::new(&["-file_slice_max_msgs", "10"]).file_store(None);
    let mut server = launch.start();
    let mut stan = Stan::connect(launch.port, "writer");
    assert!(stan.fill("sliced", 1..=50).is_empty());
    server.stop(Signal::SIGTERM);
    drop(stan);
    let slices = files(&launch.folder().join("store/sliced"), ".dat");
    let slices: Vec<_> =
        slices.into_iter().filter(|path| path.to_string_lossy().contains("msgs.")).collect();
    assert!(4 <= slices.len(), "{slices:?}");
    let middle = &slices[slices.len() / 2];
    let file = fs::OpenOptions::new().read(true).write(true).open(middle).unwrap();
    let len = file.metadata().unwrap().len();
    let mut byte = [0];
    file.read_exact_at(&mut byte, len / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], len / 2).unwrap();
    drop(file);
    let server = launch.start();
    let mut stan = Stan::connect(launch.port, "reader");
    stan.publish("sliced", "51").unwrap();
    let sub = stan.subscribe(crate::stan::all("sliced"));
    let mut found: Vec<u64> = Vec::new();
    while found.last() != Some(&51) {
        found.extend(sequences(&stan.take(&sub, 1)));
    }
    let lost: Vec<u64> = (1..=51).filter(|sequence| !found.contains(sequence)).collect();
    assert!((1..=2).contains(&lost.len()), "one damaged record takes {lost:?} with it");
    // What to do is said as a command that can be pasted.
    let line = server.log.wait("Error looking up message");
    let folder = launch.folder().join("store/sliced");
    assert!(line.contains(&format!("`cp -a {} COPY`", folder.display())), "{line}");
}

#[test]
fn a_file_of_an_unknown_version_is_named_and_left_alone() {
    let launch = Launch::new(&[]).file_store(None);
    let mut server = launch.start();
    let mut stan = Stan::connect(launch.port, "writer");
    assert!(stan.fill("foo", 1..=5).is_empty());
    server.stop(Signal::SIGTERM);
    let path = launch.folder().join("store/clients.dat");
    let old = fs::read(&path).unwrap();
    let mut new = old.clone();
    new[..4].copy_from_slice(&2_u32.to_le_bytes());
    fs::write(&path, &new).unwrap();
    let mut server = launch.run();
    assert_eq!(server.wait_exit().code(), Some(1));
    let log = server.log.text();
    assert!(log.contains("[FTL]") && log.contains("version"), "{log}");
    assert_eq!(fs::read(&path).unwrap(), new, "left as it was");
    fs::write(&path, &old).unwrap();
    let _server = launch.start();
    let mut stan = Stan::connect(launch.port, "reader");
    assert!(sequences_of(&mut stan, "foo", 5).into_iter().eq(1..=5));
}

/// Goal: more channels than the process may have files open; every publish is acknowledged.
#[test]
fn more_channels_than_descriptors() {
    for loops in crate::server::LOOPS {
        let launch = Launch::new(&["-mc", "0"]).file_store(None).loops(loops);
        let launch = launch.through(&["prlimit", "--nofile=200:200"]);
        let mut server = launch.start();
        let mut stan = Stan::connect(launch.port, "many");
        for turn in 1..=2 {
            let reply = stan.own(&format!("acks-{turn}"));
            for number in 0..400 {
                let message = stan.message(format!("channel.{number}"), turn.to_string());
                stan.publish_async(&message, &reply);
            }
            for number in 0..400 {
                let ack = stan.next_on(&reply, crate::server::PATIENCE).expect("an ack");
                let ack: stanby::proto::pb::PubAck = prost::Message::decode(ack.data).unwrap();
                assert!(ack.error.is_empty(), "publish {number}: {:?}", ack.error);
            }
        }
        server.kill();
        drop(stan);
        let _server = launch.start();
        let mut stan = Stan::connect(launch.port, "reader");
        for number in 0..400 {
            assert_eq!(sequences_of(&mut stan, &format!("channel.{number}"), 2), [1, 2]);
        }
    }
}

/// Goal: descriptors that clients have used up neither lose a publish nor end the process.
#[test]
fn more_clients_than_descriptors() {
    let launch = Launch::new(&[]).file_store(None).through(&["prlimit", "--nofile=120:120"]);
    let mut server = launch.start();
    let mut stan = Stan::connect(launch.port, "steady");
    let crowd: Vec<_> = (0..200)
        .map(|_| std::net::TcpStream::connect(("127.0.0.1", launch.port)).unwrap())
        .collect();
    assert!(stan.fill("crowded", 1..=50).is_empty());
    assert!(server.is_running());
    server.log.wait("too many open files");
    drop(crowd);
    let mut late =
        wait_for("a place for a new client", || crate::wire::Conn::try_open(launch.port));
    late.connect("");
    assert!(sequences_of(&mut stan, "crowded", 50).into_iter().eq(1..=50));
}
