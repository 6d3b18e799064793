//! A site around another one: what is stored there is encrypted with a key that this server has.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::encryption::StoreKey;
use crate::base::epoch::{Fence, Predecessor};
use crate::base::world;
use crate::election::lease::{Lease, Owner};
use crate::proto::spb;
use crate::site::Site;
use crate::store::encryption::{self, MESSAGE_OVERHEAD_MAX};
use crate::store::{Opened, StoreError};

/// Any other site, and the key.
pub(super) struct Encrypted {
    inner: Arc<dyn Site>,
    key: StoreKey,
}

impl Encrypted {
    pub(super) fn new(inner: Arc<dyn Site>, key: StoreKey) -> Self {
        Self { inner, key }
    }
}

impl Site for Encrypted {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn prepare(&self) -> Result<(), StoreError> {
        self.inner.prepare()
    }

    fn check(&self) -> Result<&'static str, StoreError> {
        self.inner.check()
    }

    fn begin(&self, server: &spb::ServerInfo) -> Result<(), StoreError> {
        self.inner.begin(server)
    }

    fn lease(&self, owner: Owner) -> Option<Box<dyn Lease>> {
        self.inner.lease(owner)
    }

    fn open(&self, fence: &Arc<dyn Fence>, predecessor: Predecessor) -> Result<Opened, StoreError> {
        // Without it no nonce can be made that nobody has used.
        let chance = world::entropy().map_err(|error| {
            StoreError::Unusable(format!("cannot read entropy, to encrypt with: {error}"))
        })?;
        Ok(encryption::around(self.inner.open(fence, predecessor)?, &self.key, chance))
    }

    fn peek_server(&self) -> Option<spb::ServerInfo> {
        self.inner.peek_server()
    }

    fn survey(&self) -> io::Result<()> {
        self.inner.survey()
    }

    fn end_survey(&self) {
        self.inner.end_survey();
    }

    fn lost_count(&self) -> Option<u64> {
        self.inner.lost_count()
    }

    fn numbers_subscriptions_as_one(&self) -> bool {
        self.inner.numbers_subscriptions_as_one()
    }

    fn path(&self) -> Option<PathBuf> {
        self.inner.path()
    }

    fn message_overhead_max(&self) -> usize {
        self.inner.message_overhead_max() + MESSAGE_OVERHEAD_MAX
    }
}
