//! Any text as a scenario of `stanby drill`: an error with a text, or a scenario; never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stanby::drill;

fuzz_target!(|text: &str| {
    if let Err(why) = drill::check(text) {
        assert!(!why.is_empty());
    }
});
