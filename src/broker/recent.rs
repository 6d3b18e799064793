//! the receivers of a session's last message, for the next one on the same subject

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::id::AccountIndex;
use crate::broker::matched::Matched;

/// Longer subjects are looked up each time.
const SUBJECT_LEN_MAX: usize = 64;

/// More receivers are looked up each time: an idle session keeps what it remembers in memory.
const FANOUT_MAX: u64 = 16;

/// Who gets what a session publishes on one subject, as long as no interest comes or goes.
#[derive(Debug)]
pub(super) struct Recent {
    account: AccountIndex,
    /// How often the tree had changed when they were found.
    changes: u64,
    subject: SmallVec<[u8; SUBJECT_LEN_MAX]>,
    found: Option<Arc<Matched>>,
}

impl Recent {
    /// Puts what was found into `place`, if it is to be remembered.
    pub fn remember(
        place: &mut Option<Box<Self>>,
        (account, changes): (AccountIndex, u64),
        subject: &[u8],
        found: Option<&Arc<Matched>>,
    ) {
        let fanout = found.map_or(0, |found| found.fanout());
        if SUBJECT_LEN_MAX < subject.len() || FANOUT_MAX < fanout {
            return;
        }
        let found = found.cloned();
        match place {
            Some(known) => {
                known.subject.clear();
                known.subject.extend_from_slice(subject);
                (known.account, known.changes, known.found) = (account, changes, found);
            }
            None => {
                let subject = SmallVec::from_slice(subject);
                *place = Some(Box::new(Self { account, changes, subject, found }));
            }
        }
    }

    /// Those of `subject`, if they are remembered and still right.
    #[inline]
    pub fn recall(
        &self,
        (account, changes): (AccountIndex, u64),
        subject: &[u8],
    ) -> Option<Option<&Arc<Matched>>> {
        let is_known = (self.account, self.changes) == (account, changes)
            && self.subject.as_slice() == subject;
        is_known.then_some(self.found.as_ref())
    }
}
