//! Ports that nobody has.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A port that cannot be had; 0: none.
#[derive(Debug, thiserror::Error)]
#[error("port {port}: {source}")]
pub(crate) struct NoPort {
    /// Which.
    pub(crate) port: u16,
    /// The system's reason.
    pub(crate) source: io::Error,
}

/// So many ports of this machine that nobody had a moment ago: any, or those from `first` on. All
/// are held until the last is found.
///
/// # Errors
/// The first that somebody has, or may not be had.
pub(crate) fn free(count: usize, first: Option<u16>) -> Result<Vec<u16>, NoPort> {
    let (mut held, mut found, mut next) = (Vec::new(), Vec::new(), first);
    for _ in 0..count {
        let port = next.unwrap_or(0);
        let no_port = |source| NoPort { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(no_port)?;
        found.push(listener.local_addr().map_err(no_port)?.port());
        next = next.map(|port| port.saturating_add(1));
        held.push(listener);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_differ_and_one_that_is_taken_is_named() {
        let found: BTreeSet<u16> = free(20, None).unwrap().into_iter().collect();
        assert!(found.len() == 20 && !found.contains(&0), "{found:?}");
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(free(1, Some(port)).unwrap_err().port, port);
    }
}
