//! The members of a drill, whoever started them.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::DrillError;
use super::attached::Attached;
use super::members::{CLUSTER_ID, Started};
use super::patience::Patience;

/// Members that the drill started, or others.
pub(crate) enum Group {
    /// They end with the drill.
    Started(Started),
    /// They were there before.
    Attached(Attached),
}

impl Group {
    pub(crate) fn addresses(&self) -> Vec<String> {
        match self {
            Self::Started(started) => started.addresses(),
            Self::Attached(attached) => attached.addresses(),
        }
    }

    pub(crate) fn monitors(&self) -> Vec<String> {
        match self {
            Self::Started(started) => started.monitors(),
            Self::Attached(attached) => attached.monitors(),
        }
    }

    pub(crate) fn cluster(&self) -> &str {
        match self {
            Self::Started(_) => CLUSTER_ID,
            Self::Attached(attached) => attached.cluster(),
        }
    }

    /// Whether members hear of each other by routes, as far as that is known.
    pub(crate) fn has_routes(&self) -> bool {
        match self {
            Self::Started(started) => started.has_routes(),
            Self::Attached(_) => true,
        }
    }

    /// What the servers are.
    pub(crate) fn version(&self) -> String {
        match self {
            Self::Started(started) => started.version(),
            Self::Attached(_) => "servers that ran already".to_owned(),
        }
    }

    pub(crate) fn signal(
        &mut self,
        (member, signal): (usize, Signal),
        bounds: (&Patience, Duration),
    ) -> Result<(), DrillError> {
        match self {
            Self::Started(started) => started.signal(member, signal),
            Self::Attached(attached) => attached.signal((member, signal), bounds),
        }
    }

    pub(crate) fn start(&mut self, member: usize, patience: &Patience) -> Result<(), DrillError> {
        match self {
            Self::Started(started) => started.start(member),
            Self::Attached(attached) => attached.start(member, patience),
        }
    }

    pub(crate) fn step_down(
        &mut self,
        member: usize,
        patience: &Patience,
    ) -> Result<(), DrillError> {
        match self {
            Self::Started(started) => started.step_down(member, patience),
            Self::Attached(attached) => attached.step_down(member, patience),
        }
    }

    /// Members that the drill started, for what can be done to no others.
    pub(crate) fn started(&mut self) -> Result<&mut Started, DrillError> {
        match self {
            Self::Started(started) => Ok(started),
            Self::Attached(_) => Err(DrillError::World(
                "that is done only to members that the drill starts".to_owned(),
            )),
        }
    }
}
