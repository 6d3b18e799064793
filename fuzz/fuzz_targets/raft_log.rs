//! Any bytes as a Raft log, and as the state of a snapshot: nothing may panic, and reading ends.

#![no_main]

use libfuzzer_sys::fuzz_target;

use stanby::import::raft_log::RaftLog;
use stanby::import::snapshot::decode_state;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_state(bytes, None);
    let Ok(log) = RaftLog::open(bytes.to_vec(), None) else { return };
    let _ = log.newest_members(0);
    let _ = log.entry(1);
    if let Ok(entries) = log.entries_from(0) {
        entries.for_each(drop);
    }
});
