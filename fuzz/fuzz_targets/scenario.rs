//! Any text as a scenario of `stanby drill`: an error with a text, or a scenario; never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stanby::drill::scenario;

fuzz_target!(|text: &str| {
    match scenario::parse(text) {
        Ok(scenario) => drop(scenario.check()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
