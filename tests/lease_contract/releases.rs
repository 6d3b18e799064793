//! Members of different releases in one group.

use stanby::base::epoch::Epoch;
use stanby::election::lease::{Lease, LeaseError};

use super::{for_every_lease, won};

/// Goal: nobody goes on with what a later release has written, and who can finds the lock free.
#[test]
fn what_a_later_release_has_written_is_refused_by_its_name() {
    for_every_lease(|open| {
        let (mut later, mut present) = (open("later"), open("present"));
        let refuses = |present: &mut Box<dyn Lease>| match present.try_take().err() {
            Some(LeaseError::Never(text)) => assert!(text.contains("9.9.9"), "{text}"),
            other => panic!("{other:?}"),
        };
        drop(won(&mut later));
        later.settle().unwrap();
        refuses(&mut present);
        later.release(true).unwrap();
        refuses(&mut present);
        refuses(&mut present);
        assert_eq!(won(&mut open("later-2")).fence.epoch(), Epoch(2));
    });
}
