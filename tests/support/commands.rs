//! Commands of the real binary that ask a server, and what they print.

#![allow(dead_code, reason = "each test program uses a part")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::server::binary;

/// Who is asked, as options say it: a control socket, or servers of NATS.
pub trait Whom {
    fn options(&self) -> [OsString; 2];
}

impl Whom for Path {
    fn options(&self) -> [OsString; 2] {
        ["--socket".into(), self.into()]
    }
}

impl Whom for PathBuf {
    fn options(&self) -> [OsString; 2] {
        self.as_path().options()
    }
}

impl Whom for str {
    fn options(&self) -> [OsString; 2] {
        ["--server".into(), self.into()]
    }
}

impl Whom for String {
    fn options(&self) -> [OsString; 2] {
        self.as_str().options()
    }
}

pub fn stanby<W: Whom + ?Sized>(whom: &W, words: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(words).args(whom.options());
    // Nothing of whoever runs the tests.
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "NATS_CONTEXT", "HOME"] {
        command.env_remove(name);
    }
    command.env_remove("XDG_CONFIG_HOME").output().unwrap()
}

/// All that a command has printed.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What a command that must succeed prints as JSON.
#[track_caller]
pub fn told<W: Whom + ?Sized>(whom: &W, words: &[&str]) -> Value {
    let output = stanby(whom, &[words, &["--json"]].concat());
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command that must be refused says.
#[track_caller]
pub fn refused<W: Whom + ?Sized>(whom: &W, words: &[&str]) -> String {
    let output = stanby(whom, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}", said(&output));
    said(&output)
}
