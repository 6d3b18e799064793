//! Members that run already: what is done to them is done by commands that the user gives.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::DrillError;
use super::database::{self, COMMAND_WITHIN};
use super::patience::Patience;
use super::scenario::Attach;

/// Addresses and commands.
pub(crate) struct Attached {
    attach: Attach,
}

impl Attached {
    pub(crate) fn new(attach: &Attach) -> Self {
        Self { attach: attach.clone() }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.attach.members.clone()
    }

    pub(crate) fn monitors(&self) -> Vec<String> {
        self.attach.monitors.clone()
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.attach.cluster
    }

    /// Sends a signal to a member, from 0.
    pub(crate) fn signal(
        &self,
        (member, signal): (usize, Signal),
        bounds: (&Patience, Duration),
    ) -> Result<(), DrillError> {
        let name = signal.as_str().trim_start_matches("SIG");
        let command = self.command(self.attach.signal.as_deref(), member);
        database::run(
            &format!("send {signal} to member {}", member + 1),
            &command.replace("{signal}", name),
            bounds,
        )
    }

    pub(crate) fn start(&self, member: usize, patience: &Patience) -> Result<(), DrillError> {
        let command = self.command(self.attach.start.as_deref(), member);
        let what = format!("start member {}", member + 1);
        database::run(&what, &command, (patience, COMMAND_WITHIN))
    }

    pub(crate) fn step_down(&self, member: usize, patience: &Patience) -> Result<(), DrillError> {
        let command = self.command(self.attach.step_down.as_deref(), member);
        let what = format!("have member {} step down", member + 1);
        database::run(&what, &command, (patience, COMMAND_WITHIN))
    }

    /// A command with what it is for: the number of the member, and its address.
    fn command(&self, template: Option<&str>, member: usize) -> String {
        let address = self.attach.members.get(member).map_or("", String::as_str);
        let command = template.unwrap_or_default();
        command.replace("{member}", &(member + 1).to_string()).replace("{address}", address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(signal: &str) -> Attached {
        Attached::new(&Attach {
            members: vec!["a:4222".to_owned(), "b:4222".to_owned()],
            monitors: vec!["a:8222".to_owned(), "b:8222".to_owned()],
            cluster: "c".to_owned(),
            signal: Some(signal.to_owned()),
            start: None,
            step_down: None,
        })
    }

    fn signal(attached: &Attached, member: usize, signal: Signal) -> Result<(), DrillError> {
        attached.signal((member, signal), (&Patience::default(), COMMAND_WITHIN))
    }

    #[test]
    fn a_command_gets_signal_and_member() {
        let right = attached("test '{signal} {member} {address}' = 'KILL 2 b:4222'");
        assert!(signal(&right, 1, Signal::SIGKILL).is_ok());
        let error = signal(&right, 0, Signal::SIGKILL).expect_err("it is another one");
        assert!(
            error.to_string().starts_with("cannot send SIGKILL to member 1: \"test"),
            "{error}"
        );
    }

    #[test]
    fn a_command_that_fails_is_shown_with_what_it_said() {
        let failing = attached("echo no such unit >&2; exit 5");
        let error = signal(&failing, 0, Signal::SIGTERM);
        let error = error.expect_err("it fails").to_string();
        assert!(error.contains("exit status: 5") && error.ends_with("no such unit"), "{error}");
    }
}
