//! What a suite leaves out for want of something is said in its last line, and is a failure where
//! everything has to run.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// Set by `tests/run`: nothing may be left out.
const COMPLETE: &str = "STANBY_TESTS_COMPLETE";

static LEFT_OUT: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// Notes that everything over `what` is left out.
pub fn note(what: &'static str) {
    assert!(env::var_os(COMPLETE).is_none(), "left out for want of {what}");
    let mut left_out = LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    if left_out.is_empty() {
        register();
    }
    left_out.insert(what);
}

#[allow(unsafe_code, reason = "nothing safe runs behind the harness's own last line")]
fn register() {
    // SAFETY: `say` takes nothing, unwinds nowhere, and lives as long as the program; each test
    // program that leaves something out runs it.
    unsafe {
        nix::libc::atexit(say);
    }
}

extern "C" fn say() {
    let left_out = LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let all = left_out.iter().copied().collect::<Vec<_>>().join(", ");
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(io::stderr(), "left out for want of: {all}");
}
