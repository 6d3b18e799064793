//! The only sockets: reactors, connections, TLS, listeners, mailboxes between threads.

pub mod connection;
pub mod control;
pub mod dial;
pub mod driver;
pub mod listener;
pub mod mailbox;
pub mod passwords;
pub mod reactor;
pub mod reactors;
pub mod tls;
pub mod token;

pub use control::{Control, Mailbox, Rules};
pub use listener::{Address, ListenError};
pub use reactors::{Listen, NetError, Reactors, Settings};
