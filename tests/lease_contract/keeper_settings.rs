//! How a keeper over a directory is set up.

use super::*;
use stanby::election::keeper::Terms;

/// A keeper's lease of a directory, and what else it is told.
pub struct KeeperSettings {
    pub root: PathBuf,
    pub steal_after: Duration,
    pub mode: Mode,
    pub owner: Owner,
    pub vitals: Vitals,
}

impl KeeperSettings {
    pub fn spawn(
        self,
        clock: LeaseClock,
        report: impl FnMut(KeeperEvent) + Send + 'static,
    ) -> Keeper {
        let lease = FileLease::new(&self.root, self.owner, self.steal_after);
        let terms = Terms {
            bound: keeper::lease_bound(self.steal_after),
            mode: self.mode,
            is_replaced_when_hung: !self.steal_after.is_zero(),
            vitals: self.vitals,
        };
        keeper::spawn(Box::new(lease), terms, clock, report).unwrap()
    }
}
