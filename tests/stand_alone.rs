//! What a stand-alone server finds at its start: a directory that is in use or cannot be used, and
//! other servers of its cluster ID.

#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process;

use nix::sys::signal::Signal;
use prost::Message as _;
use stanby::proto::pb;
use stanby::site::epoch_files;

use self::server::{Launch, PATIENCE, READY, Server, free_port, wait_for};
use self::stan::Stan;

/// The directory's lease belongs to a process, not to a group.
#[test]
fn a_second_server_on_a_directory_refuses_and_names_the_holder() {
    let root = tempfile::tempdir().unwrap();
    let first = Launch::new(&[]).file_store(Some(root.path())).start();
    let second_launch = Launch::new(&[]).file_store(Some(root.path()));
    let mut second = second_launch.spawn();
    assert_eq!(second.wait_exit().code(), Some(1));
    let line = second.log.wait("Failed to start: server ");
    assert!(line.contains(&format!("process {}", first.pid())), "{line}");
    assert!(line.contains(".rootdir.lck"), "{line}");
}

/// A restart must not fail because the former process is still dying.
#[test]
fn a_server_waits_for_a_predecessor_that_dies() {
    let root = tempfile::tempdir().unwrap();
    let mut first = Launch::new(&[]).file_store(Some(root.path())).start();
    let second_launch = Launch::new(&[]).file_store(Some(root.path()));
    let mut second = second_launch.spawn();
    second.log.wait("holds ");
    first.kill();
    second.log.wait(READY);
    assert_eq!(second.stop(Signal::SIGTERM), Some(143));
}

/// Goal: a Go server that stands alone takes no lock; it is noticed by the files that it writes,
/// by whichever of them it has open. Who only reads, as a backup does, keeps no server away.
#[test]
fn a_server_refuses_a_directory_in_which_somebody_writes_without_its_lock() {
    let root = tempfile::tempdir().unwrap();
    let launch = Launch::new(&[]).file_store(Some(root.path()));
    let mut server = launch.start();
    Stan::connect(server.launch.port, "client").publish("orders", "1").unwrap();
    server.stop(Signal::SIGTERM);
    for name in ["server.dat", "clients.dat", "orders/msgs.1.dat"] {
        let path = root.path().join(name);
        let before = fs::read(&path).unwrap();
        let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let mut refused = launch.spawn();
        assert_eq!(refused.wait_exit().code(), Some(1));
        let line = refused.log.wait("STREAM: Failed to start: ");
        let who = format!("{} is open for writing by process {}", path.display(), process::id());
        assert!(line.contains(&who) && line.contains("end it first"), "{line}");
        assert_eq!(fs::read(&path).unwrap(), before, "{name}");
        drop(writer);
    }
    let _backup = fs::File::open(root.path().join("server.dat")).unwrap();
    let mut server = launch.start();
    Stan::connect(server.launch.port, "client").publish("orders", "2").unwrap();
    server.stop(Signal::SIGTERM);
    // One that is only just ending is waited for.
    let writer = fs::OpenOptions::new().append(true).open(root.path().join("server.dat")).unwrap();
    let before = newest_epoch(root.path());
    let mut waiting = launch.spawn();
    wait_for("its epoch", || (before < newest_epoch(root.path())).then_some(()));
    drop(writer);
    waiting.log.wait(READY);
    waiting.stop(Signal::SIGTERM);
}

fn newest_epoch(root: &Path) -> u64 {
    let names = fs::read_dir(root).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    let epochs = names.filter_map(|name| name.strip_prefix(".stanby.epoch.")?.parse().ok());
    epochs.max().unwrap_or(0)
}

const DISCOVERED: &str =
    "STREAM: Failed to start: discovered another streaming server with cluster ID \"test-cluster\"";

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

/// In a NATS cluster on this port, which dials these.
fn clustered(port: u16, routes: &[u16]) -> Launch {
    let routes: Vec<String> = routes.iter().map(|port| url(*port)).collect();
    let launch = Launch::new(&["-cluster", &url(port)]);
    if routes.is_empty() { launch } else { launch.arg("-routes").arg(routes.join(",")) }
}

/// Goal: the routes of a start come up before the question whether it is alone is over.
#[test]
fn a_second_server_of_the_cluster_id_is_refused_by_way_of_a_route() {
    let port = free_port();
    let first = clustered(port, &[]).start();
    for _ in 0..3 {
        let mut second = clustered(free_port(), &[port]).spawn();
        assert_eq!(second.wait_exit().code(), Some(1));
        second.log.wait(DISCOVERED);
    }
    Stan::connect(first.launch.port, "client").publish("channel", "served").unwrap();
}

/// Goal: of servers that start at once, and of which none serves yet, one stays.
#[test]
fn of_five_servers_of_one_cluster_id_that_start_at_once_one_stays() {
    let ports = [(); 5].map(|()| free_port());
    let launches = ports.map(|port| clustered(port, &ports));
    let mut servers = launches.each_ref().map(Launch::spawn);
    let mut is_settled =
        |server: &mut Server| !server.is_running() || server.log.text().contains(READY);
    wait_for("all have begun or ended", || servers.iter_mut().all(&mut is_settled).then_some(()));
    let staying: Vec<&mut Server> =
        servers.iter_mut().filter_map(|server| server.is_running().then_some(server)).collect();
    assert_eq!(staying.len(), 1);
    for server in &mut servers {
        if !server.is_running() {
            assert_eq!(server.wait_exit().code(), Some(1));
            server.log.wait(DISCOVERED);
        }
    }
}

/// Goal: an answer that anybody can give does not end a server that has served.
#[test]
fn a_stranger_who_answers_the_question_ends_no_server_that_has_served() {
    let root = tempfile::tempdir().unwrap();
    // Who never says who it is holds up the start, so that there is time to answer.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_port = mute.local_addr().unwrap().port();
    let launch = clustered(free_port(), &[mute_port]).file_store(Some(root.path()));
    let mut server = launch.start();
    let mut stranger = Stan::bare(server.launch.port, "");
    stranger.conn.send("SUB _STAN.discover.test-cluster 9\r\n");
    stranger.flush();
    let lock = root.path().join(".rootdir.lck");
    let usurper = fs::File::create(root.path().join("usurper")).unwrap();
    assert!(epoch_files::try_lock(&usurper).unwrap());
    fs::rename(root.path().join("usurper"), &lock).unwrap();
    // Once when a renewal fails, and once more when the lease has ended with that.
    server.log.wait("was replaced, and the new one is locked");
    let lines = server.log.len();
    server.log.wait_after(lines, "was replaced, and the new one is locked");
    drop(usurper);
    let response = pb::ConnectResponse { error: "mine".into(), ..pb::ConnectResponse::default() };
    for _ in 0..2 {
        let asked = stranger.next_on(b"_STAN.discover.test-cluster", PATIENCE).expect("a question");
        stranger.send(&asked.reply, b"", &response.encode_to_vec());
    }
    server.log.wait("discovered another streaming server with cluster ID \"test-cluster\"");
    let lines = server.log.len();
    stranger.conn.send("UNSUB 9\r\n");
    stranger.flush();
    server.log.wait_after(lines, READY);
    assert!(server.is_running());
    Stan::connect(server.launch.port, "client").publish("channel", "served").unwrap();
}

/// A folder that belongs to somebody else, or that nobody may write.
fn take_away(folder: &Path, mode: u32) {
    if nix::unistd::geteuid().is_root() {
        chown(folder, Some(65_534), Some(65_534)).unwrap();
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

/// For whom permissions count, also where the tests run as root.
fn ordinary(launch: Launch) -> Launch {
    if nix::unistd::geteuid().is_root() {
        launch.through(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"])
    } else {
        launch
    }
}

/// Goal: a cause that does not pass by itself ends a start, with the reference's line and code.
#[test]
fn a_directory_that_may_not_be_written_ends_the_start() {
    let root = tempfile::tempdir().unwrap();
    take_away(root.path(), 0o555);
    let mut server = ordinary(Launch::new(&[]).file_store(Some(root.path()))).spawn();
    assert_eq!(server.wait_exit().code(), Some(1));
    let path = root.path().join("server.dat");
    let line = format!(
        "STREAM: Failed to start: unable to recover server file \"server.dat\": open {}: \
         permission denied",
        path.display()
    );
    server.log.wait(&line);
}

/// Goal: files of another user inside end it too, not only the folder itself.
#[test]
fn a_channel_of_another_user_ends_the_start() {
    let root = tempfile::tempdir().unwrap();
    let mut first = Launch::new(&[]).file_store(Some(root.path())).start();
    Stan::connect(first.launch.port, "client").publish("channel", "kept").unwrap();
    first.stop(Signal::SIGTERM);
    take_away(&root.path().join("channel"), 0o000);
    let mut server = ordinary(Launch::new(&[]).file_store(Some(root.path()))).spawn();
    assert_eq!(server.wait_exit().code(), Some(1));
    let line = server.log.wait("Failed to start: ");
    assert!(line.contains("ermission denied") && line.contains("channel"), "{line}");
    fs::set_permissions(root.path().join("channel"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Goal: a member of a group says the same where people and balancers look, and goes on trying.
#[test]
fn a_member_whose_directory_may_not_be_written_says_so_until_it_may() {
    let root = tempfile::tempdir().unwrap();
    take_away(root.path(), 0o555);
    let launch = Launch::new(&["-ft_group", "pair"]).file_store(Some(root.path()));
    let server = ordinary(launch).spawn();
    for query in ["live=1", "ready=1"] {
        wait_for(query, || {
            let reply = server.get(&format!("/streaming/healthz?{query}"));
            (reply.status == 503 && reply.body.contains("ermission denied")).then_some(())
        });
    }
    let trouble = server.json("/streaming/serverz")["trouble"].to_string();
    assert!(trouble.contains("ermission denied"), "{trouble}");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
    server.log.wait(READY);
    let reply = server.get("/streaming/healthz?live=1");
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// Goal: the top of a file system works as a data directory, whoever owns its `lost+found`.
#[test]
fn lost_and_found_is_no_channel() {
    let root = tempfile::tempdir().unwrap();
    let lost_and_found = root.path().join("lost+found");
    fs::create_dir(&lost_and_found).unwrap();
    for mode in [0o755, 0o000] {
        take_away(&lost_and_found, mode);
        let mut server = ordinary(Launch::new(&[]).file_store(Some(root.path()))).start();
        let mut client = Stan::connect(server.launch.port, "client");
        client.publish("channel", "served").unwrap();
        client.close().unwrap();
        assert_eq!(server.json("/streaming/serverz")["channels"], 1);
        assert_eq!(server.stop(Signal::SIGTERM), Some(143));
    }
    fs::set_permissions(&lost_and_found, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Goal: a standby that could never take over says so when it begins to stand by.
#[test]
fn a_standby_of_another_cluster_id_says_so_at_once() {
    let root = tempfile::tempdir().unwrap();
    let launch = |id: &str| {
        Launch::new(&["-ft_group", "pair", "-cluster_id", id]).file_store(Some(root.path()))
    };
    let _active = launch("test-cluster").start();
    let standby = launch("other").spawn();
    let reason = "cluster ID \"other\" does not match recovered value of \"test-cluster\"";
    standby.log.wait(reason);
    wait_for("it is not ready", || {
        let reply = standby.get("/streaming/healthz?ready=1");
        (reply.status == 503 && reply.body.contains(reason)).then_some(())
    });
}
