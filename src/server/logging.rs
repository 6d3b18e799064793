//! lines of engines and of the server itself, in the reference's levels

use crate::engine::effect::Level;

/// Logs a line of the streaming part.
pub fn streaming(level: Level, text: &str) {
    let level = match level {
        Level::Error => log::Level::Error,
        Level::Warning => log::Level::Warn,
        Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
        Level::Trace => log::Level::Trace,
    };
    log::log!(target: crate::log::STREAM, level, "{text}");
}
