//! Two stand-alone servers over one directory: the second one refuses, and names the first.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/server.rs"]
#[allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
mod server;

use nix::sys::signal::Signal;

use self::server::{Launch, READY};

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
