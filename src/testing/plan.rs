//! What a run of a simulated group is made of, and what it came to.

use crate::testing::checker::Violation;
use crate::testing::faults::{self, Kind};

/// What a run is made of; everything else follows from the seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where chance begins.
    pub seed: u64,
    /// Event loops of each member.
    pub loops: u16,
    /// Members of the group.
    pub members: usize,
    /// Client programs.
    pub clients: usize,
    /// Steps before the faults stop: inputs handled, operations of disk, locks and network.
    pub steps: u64,
    /// What goes wrong.
    pub faults: faults::Plan,
    /// Whether an operator changes things while clients go on.
    pub is_administered: bool,
    /// Whether channels have limits.
    pub is_limited: bool,
    /// Whether everything is kept in memory, by one member.
    pub is_in_memory: bool,
    /// Whether the disk writes what was not synced in any order when the power goes.
    pub lands_out_of_order: bool,
    /// Whether what happens is written down.
    pub is_traced: bool,
}

impl Plan {
    /// The usual plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        if seed % 32 == 9 {
            let faults =
                faults::Plan { spares_members: true, per_operation: 0, ..faults::Plan::of(seed) };
            return Self { faults, members: 1, is_in_memory: true, ..Self::on_files(seed) };
        }
        if seed % 32 == 25 {
            return Self { members: 1, ..Self::on_files(seed) };
        }
        Self::on_files(seed)
    }

    fn on_files(seed: u64) -> Self {
        Self {
            seed,
            loops: [1, 2, 4][usize::try_from(seed % 3).unwrap_or(0)],
            members: if seed.is_multiple_of(5) || seed % 16 == 8 { 3 } else { 2 },
            clients: 3,
            steps: if seed % 16 == 8 { 24_000 } else { 5_000 },
            faults: faults::Plan::of(seed),
            // Whatever else it has.
            is_administered: seed % 7 < 3,
            is_limited: seed / 8 % 3 == 1,
            is_in_memory: false,
            lands_out_of_order: seed / 8 % 4 == 2,
            is_traced: false,
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Inputs handled, and operations of disk, locks and network.
    pub steps: u64,
    /// Publishes that were acknowledged.
    pub acked_count: usize,
    /// How often a member became active.
    pub takeovers: u32,
    /// The faults that happened, by number.
    pub faults: Vec<(u32, Kind)>,
    /// What happened, if it was written down.
    pub trace: Vec<String>,
}
