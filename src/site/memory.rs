//! A site in memory: nobody else can have it, and nothing is there at the start.

use std::sync::Arc;

use crate::base::channel_limits::StoreLimits;
use crate::base::epoch::{Fence, Predecessor};
use crate::config::{Config, StoreKind};
use crate::election::lease::{Lease, Owner};
use crate::site::Site;
use crate::store::{self, Opened, StoreError};

/// The memory of this process.
pub(super) struct Memory {
    limits: StoreLimits,
    loops: u16,
}

impl Memory {
    pub(super) fn new(config: &Config) -> Self {
        Self { limits: config.streaming.limits.clone(), loops: config.loops }
    }
}

impl Site for Memory {
    fn name(&self) -> &'static str {
        StoreKind::Memory.name()
    }

    fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn check(&self) -> Result<&'static str, StoreError> {
        Ok("")
    }

    fn lease(&self, _: Owner) -> Option<Box<dyn Lease>> {
        None
    }

    fn open(&self, _: &Arc<dyn Fence>, _: Predecessor) -> Result<Opened, StoreError> {
        store::memory::open(&self.limits, self.loops)
    }
}
