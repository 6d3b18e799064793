//! How a keeper of a lease is set up.

use super::*;
use stanby::election::keeper::Terms;

/// A keeper's lease, and what else it is told.
pub struct KeeperSettings {
    pub root: PathBuf,
    pub steal_after: Duration,
    pub mode: Mode,
    pub owner: Owner,
    pub vitals: Vitals,
    /// Makes the lease, of what lies in the root.
    pub open: fn(&Path, &str, Duration) -> Box<dyn Lease>,
}

impl KeeperSettings {
    pub fn spawn(
        self,
        clock: LeaseClock,
        report: impl FnMut(KeeperEvent) + Send + 'static,
    ) -> Keeper {
        let lease = (self.open)(&self.root, &self.owner.server_id, self.steal_after);
        let terms = Terms {
            bound: keeper::lease_bound(self.steal_after),
            mode: self.mode,
            is_replaced_when_hung: !self.steal_after.is_zero(),
            vitals: self.vitals,
        };
        keeper::spawn(lease, terms, clock, report).unwrap()
    }
}
