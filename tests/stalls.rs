//! Threads and disks that stand still, with the real binary: what is said, and who is replaced.
//!
//! One thread of a server is stopped by `ptrace`, which is what a call that does not return does to
//! it; a whole file system stands still by being frozen, which only root can do.

#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/left_out.rs"]
mod left_out;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use stanby::base::id::ChannelName;
use stanby::base::{placement, world};

use self::server::{Launch, READY, Server, wait_for};
use self::stan::Stan;

/// One thread of a process, which stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    /// A thread gives itself its name, so it may be there without one.
    fn begin(server: &Server, thread: &str) -> Self {
        let name = |task: &Path| fs::read_to_string(task.join("comm")).unwrap_or_default();
        let task = wait_for(&format!("a thread {thread}"), || {
            let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
            let mut tasks = tasks.map(|task| task.unwrap().path());
            tasks.find(|task| name(task).trim_end() == thread)
        });
        let id = task.file_name().unwrap().to_string_lossy().parse().unwrap();
        let id = Pid::from_raw(id);
        ptrace::seize(id, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(id).unwrap();
        waitpid(id, Some(WaitPidFlag::__WALL)).unwrap();
        Self(id)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A server that has ended meanwhile is not gone before this thread was waited for, too.
        if ptrace::detach(self.0, None::<Signal>).is_err() {
            let _ = waitpid(self.0, Some(WaitPidFlag::__WALL));
        }
    }
}

/// A member of a group over `root` that replaces one that hangs for two seconds.
fn member(root: &Path, loops: u16) -> Launch {
    let group = ["-ft_group", "pair", "--ft_steal_after", "2s"];
    Launch::new(&group).loops(loops).file_store(Some(root))
}

/// An active, and a standby that waits for it.
fn pair(root: &Path, loops: u16) -> (Server, Server) {
    let active = member(root, loops).start();
    let standby = member(root, loops).spawn();
    standby.log.wait("holds ");
    (active, standby)
}

fn health(server: &Server, query: &str) -> (u16, String) {
    let reply = server.get(&format!("/streaming/healthz?{query}"));
    (reply.status, reply.body)
}

#[track_caller]
fn wait_unhealthy(server: &Server, query: &str, reason: &str) {
    wait_for(&format!("{query} is 503 for {reason:?}"), || {
        let (status, body) = health(server, query);
        (status == 503 && body.contains(reason)).then_some(())
    });
}

fn epochs(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(".stanby.epoch.")).collect()
}

/// Goal: a store that hangs is said where a person or a balancer looks, and holds up nobody but
/// the publishers to its own channels; a server alone goes on as soon as it can.
#[test]
fn a_stuck_store_is_said_and_holds_up_nobody_else() {
    let server = Launch::new(&[]).loops(2).file_store(None).start();
    let channel_of = |wanted: u16| {
        let mut names = (0..).map(|number| format!("channel-{number}"));
        names.find(|name| placement::of_channel(&ChannelName::from(name.as_str()), 2).0 == wanted)
    };
    let (stuck, free) = (channel_of(0).unwrap(), channel_of(1).unwrap());
    let mut client = Stan::connect(server.launch.port, "client");
    client.publish(&stuck, "before").unwrap();
    client.publish(&free, "before").unwrap();
    let stopped = Stopped::begin(&server, "store-0");
    let message = client.message(&stuck, "late");
    let late = client.own("late");
    client.publish_async(&message, &late);
    client.publish(&free, "another channel").unwrap();
    client.flush();
    wait_unhealthy(&server, "ready=1", "the store of event loop 0 makes no progress");
    assert_eq!(health(&server, "active=1").0, 503);
    assert_eq!(health(&server, "live=1"), (200, "ok\n".to_owned()));
    client.publish(&free, "still").unwrap();
    client.flush();
    drop(stopped);
    assert!(client.next_on(&late, server::PATIENCE).is_some(), "acknowledged in the end");
    wait_for("it is ready", || (health(&server, "ready=1").0 == 200).then_some(()));
}

/// Goal: a member whose disk hangs for it alone is replaced, and comes back as a standby.
#[test]
fn a_store_that_hangs_for_the_active_alone_costs_it_the_role() {
    let root = tempfile::tempdir().unwrap();
    let (active, standby) = pair(root.path(), 1);
    let mut client = Stan::connect(active.launch.port, "client");
    client.publish("channel", "kept").unwrap();
    let stopped = Stopped::begin(&active, "store-0");
    let message = client.message("channel", "never acknowledged");
    client.publish_async(&message, b"nobody");
    standby.log.wait("says that its store makes no progress");
    wait_unhealthy(&active, "ready=1", "makes no progress");
    // Core traffic goes on meanwhile.
    client.flush();
    standby.log.wait(READY);
    active.log.wait("epoch 1 was replaced: epoch 2 belongs to ");
    assert_eq!(health(&active, "live=1").0, 200);
    let mut successor = Stan::connect(standby.launch.port, "successor");
    assert_eq!(successor.replay("channel", 1)[0].message.data, "kept");
    successor.publish("channel", "more").unwrap();
    let lines = active.log.len();
    drop(stopped);
    active.log.wait_after(lines.saturating_sub(1), "holds ");
}

/// Goal: a loop that hangs ends the renewal of the lease: another member serves, and a probe for
/// liveness says that the process has to be ended.
#[test]
fn a_hung_loop_costs_the_role() {
    let root = tempfile::tempdir().unwrap();
    let (active, standby) = pair(root.path(), 2);
    let stopped = Stopped::begin(&active, "stanby-loop-1");
    wait_unhealthy(&active, "live=1", "event loop 1 hangs");
    assert_eq!(health(&active, "ready=1").0, 503);
    standby.log.wait(READY);
    active.log.wait("epoch 1 was replaced: epoch 2 belongs to ");
    drop(stopped);
    active.log.wait("holds ");
}

/// Goal: the health page of a core server asks the loops too, and says which of them hangs.
#[test]
fn a_hung_loop_of_a_core_server_is_said_by_its_health_page() {
    let server = Launch::core(&[]).loops(2).start();
    let healthz = || {
        let reply = server.get("/healthz");
        (reply.status, reply.body)
    };
    assert_eq!(healthz(), (200, "{\"status\":\"ok\"}".to_owned()));
    let stopped = Stopped::begin(&server, "stanby-loop-1");
    let hung = wait_for("it is 503", || Some(healthz()).filter(|(status, _)| *status == 503));
    let begin = "{\"status\":\"error\",\"error\":\"event loop 1 hangs, for ";
    assert!(hung.1.starts_with(begin), "{}", hung.1);
    drop(stopped);
    wait_for("it is 200 again", || (healthz().0 == 200).then_some(()));
}

/// Goal: a loop that hangs does not hold up a stop for ever.
#[test]
fn a_server_with_a_hung_loop_can_be_stopped() {
    let server = Launch::core(&[]).loops(2).start();
    let _stopped = Stopped::begin(&server, "stanby-loop-1");
    server.signal(Signal::SIGTERM);
    server.log.wait("stanby-loop-1 hangs");
    server.log.wait("Server Exiting..");
}

/// A store with a message in it, and a way to start a member whose recovery stands still in the
/// middle of what it does until it is woken: it opens one of the files that it reads, and the call
/// does not come back.
struct Snag {
    library: PathBuf,
    flag: PathBuf,
    _folder: tempfile::TempDir,
}

impl Snag {
    fn begin(root: &Path) -> Self {
        let mut former = member(root, 1).start();
        Stan::connect(former.launch.port, "client").publish("channel", "kept").unwrap();
        former.kill();
        let folder = tempfile::tempdir().unwrap();
        let (library, flag) = (folder.path().join("snag.so"), folder.path().join("flag"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/snag.c");
        let out = library.to_str().unwrap();
        run("cc", &["-shared", "-fPIC", "-o", out, source, "-ldl"]).unwrap();
        fs::write(&flag, "").unwrap();
        Self { library, flag, _folder: folder }
    }

    fn member(&self, root: &Path) -> Launch {
        let library = format!("LD_PRELOAD={}", self.library.display());
        let flag = format!("STANBY_SNAG={}", self.flag.display());
        let words = ["env", &library, &flag, "STANBY_SNAG_NAME=.stanby.settled."];
        member(root, 1).through(&words)
    }

    fn wake(&self) {
        fs::remove_file(&self.flag).unwrap();
    }
}

/// Every file of the store that is not of one epoch alone, with what is in it.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if !entry.file_name().to_string_lossy().starts_with('.') {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Goal: a signal is heard whatever the disk does, also while the store is read.
#[test]
fn a_server_whose_recovery_hangs_can_be_stopped() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("store");
    let snag = Snag::begin(&root);
    let mut server = snag.member(&root).spawn();
    wait_unhealthy(&server, "ready=1", "the opening of the store makes no progress");
    // The disk hangs for as long as the snag is there: who waited for it would never end.
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
    server.log.wait("Shutting down.");
    drop(snag);
}

/// Goal: the loss of the lease is heard while the recovery hangs; when that wakes it changes
/// nothing that its successor serves, and what it made is dropped: the member stands by.
#[test]
fn a_recovery_that_wakes_after_its_term_changes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("store");
    let snag = Snag::begin(&root);
    let hangs = snag.member(&root).spawn();
    wait_unhealthy(&hangs, "ready=1", "the opening of the store makes no progress");
    let successor = member(&root, 1).spawn();
    successor.log.wait(READY);
    hangs.log.wait("epoch 2 was replaced: epoch 3 belongs to ");
    let mut client = Stan::connect(successor.launch.port, "client");
    client.publish("channel", "more").unwrap();
    let before = contents(&root);
    assert!(before.iter().any(|(path, _)| path.parent().unwrap().ends_with("channel")));
    let lines = hangs.log.len();
    snag.wake();
    hangs.log.wait_after(lines.saturating_sub(1), "holds ");
    assert_eq!(contents(&root), before);
    assert!(!hangs.log.text().contains(READY), "{}", hangs.log.text());
    assert!(!hangs.log.text().contains("Recovered 1 channel"), "{}", hangs.log.text());
    let replayed = client.replay("channel", 1);
    assert_eq!(replayed[0].message.data, "kept");
    client.publish("channel", "at last").unwrap();
}

/// A file system of its own that can stand still; it goes on by itself after a minute, whatever
/// becomes of the test.
struct Mounted {
    at: PathBuf,
    is_frozen: bool,
    rescue: Option<Child>,
    _folder: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

impl Mounted {
    fn try_new() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let (image, at) = (folder.path().join("image"), folder.path().join("mounted"));
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let (image, target) = (image.to_str().unwrap(), at.to_str().unwrap());
        run("mkfs.ext4", &["-q", image])?;
        run("mount", &["-o", "loop", image, target])?;
        Ok(Self { at, is_frozen: false, rescue: None, _folder: folder })
    }

    fn freeze(&mut self) {
        let rescue = format!("sleep 60; fsfreeze -u {}", self.at.display());
        let rescue = Command::new("sh").args(["-c", &rescue]).stdin(Stdio::null()).spawn();
        self.rescue = Some(rescue.unwrap());
        run("fsfreeze", &["-f", self.at.to_str().unwrap()]).unwrap();
        self.is_frozen = true;
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.is_frozen) {
            run("fsfreeze", &["-u", self.at.to_str().unwrap()]).unwrap();
        }
        if let Some(mut rescue) = self.rescue.take() {
            let _ = rescue.kill();
            let _ = rescue.wait();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.thaw();
        let _ = run("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

/// Goal: a disk that stands still for all moves no role; service goes on when it does.
#[test]
fn a_disk_that_stalls_for_all_moves_no_role() {
    let mut mounted = match Mounted::try_new() {
        Ok(mounted) => mounted,
        Err(why) => {
            let _ = writeln!(io::stderr(), "no file system can be mounted: {why}");
            left_out::note("a file system that can be mounted and frozen (root)");
            return;
        }
    };
    let root = mounted.at.join("store");
    fs::create_dir(&root).unwrap();
    let (active, standby) = pair(&root, 1);
    let mut client = Stan::connect(active.launch.port, "client");
    client.publish("channel", "before").unwrap();
    assert_eq!(epochs(&root), [".stanby.epoch.1"]);
    mounted.freeze();
    let message = client.message("channel", "meanwhile");
    let meanwhile = client.own("meanwhile");
    client.publish_async(&message, &meanwhile);
    // Five times what costs a member the role.
    let begun = world::instant();
    wait_for("it stood still for long", || {
        (Duration::from_secs(10) <= world::instant().since(begun)).then_some(())
    });
    client.flush();
    wait_unhealthy(&active, "ready=1", "");
    assert_eq!(health(&active, "live=1").0, 200);
    mounted.thaw();
    assert!(client.next_on(&meanwhile, server::PATIENCE).is_some(), "acknowledged in the end");
    wait_for("it is ready", || (health(&active, "active=1").0 == 200).then_some(()));
    // Long enough for one that had made up its mind.
    let begun = world::instant();
    wait_for("nobody takes over", || {
        (Duration::from_secs(3) <= world::instant().since(begun)).then_some(())
    });
    client.publish("channel", "after").unwrap();
    assert_eq!(epochs(&root), [".stanby.epoch.1"]);
    assert!(!standby.log.text().contains("Server is active"), "{}", standby.log.text());
    drop((active, standby));
}
