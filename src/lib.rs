//! stanby: a fault-tolerant NATS Streaming server.

pub mod base;
pub mod broker;
pub mod cli;
pub mod config;
pub mod engine;
pub mod log;
pub mod net;
pub mod proto;
pub mod server {
    //! Where the rooms meet.
    pub mod signals;

    /// Says that this build has no rooms to run yet.
    pub fn run(_config: crate::config::Config) -> std::process::ExitCode {
        crate::log::fatal(crate::log::STREAM, "Failed to start: the rooms are not wired yet");
        std::process::ExitCode::FAILURE
    }
}
pub mod store;
pub mod wire;
