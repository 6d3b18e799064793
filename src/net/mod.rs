//! The only sockets: reactors, connections, TLS, listeners, mailboxes between threads.

pub mod driver;
