//! What members look like from outside: asked at their monitoring ports, again and again.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::DrillError;
use super::ledger::Role;
use super::load::Notes;
use crate::base::time::Instant;
use crate::base::world;

/// Pause between two looks at a member.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// How long a page may take: a member that is slower hangs.
const PAGE_WITHIN: Duration = Duration::from_millis(500);

/// Bytes of a page that are read at most.
const PAGE_LEN_MAX: usize = 1 << 20;

/// Bytes that are taken at a time.
const CHUNK_LEN: usize = 16 * 1024;

/// Watches all members, each on a thread of its own: one that hangs keeps nobody from being seen,
/// or from ending.
pub(crate) struct Watch {
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// Begins; what is seen goes into the ledger.
    pub(crate) fn start(
        (monitors, has_routes): (&[String], bool),
        notes: &Notes,
    ) -> Result<Self, DrillError> {
        let is_over = Arc::<AtomicBool>::default();
        let watch = Self { is_over: Arc::clone(&is_over) };
        for (member, monitor) in monitors.iter().cloned().enumerate() {
            let (is_over, notes) = (Arc::clone(&is_over), notes.clone());
            let look = move || {
                loop {
                    let role = role(&monitor, has_routes);
                    let mut ledger = notes.ledger();
                    if is_over.load(Ordering::Acquire) {
                        return;
                    }
                    ledger.seen(member, role, world::instant());
                    drop(ledger);
                    thread::park_timeout(LOOK_EVERY);
                }
            };
            let thread = thread::Builder::new().name("drill-watch".to_owned()).spawn(look);
            drop(thread.map_err(DrillError::io("cannot start a thread"))?);
        }
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Who still waits for an answer, or for the address of a name, writes nothing any more.
        self.is_over.store(true, Ordering::Release);
    }
}

/// What the member whose monitoring port is there looks like; one without routes needs none.
pub(crate) fn role(monitor: &str, has_routes: bool) -> Role {
    let active = match page(monitor, "/streaming/healthz?active=1") {
        Ok((status, _)) => status,
        Err(error) => return role_without_answer(&error),
    };
    match active {
        200 => Role::Active,
        // A Go server has no health page.
        404 => go_role(monitor, has_routes),
        _ => match page(monitor, "/streaming/healthz?ready=1") {
            Ok((200, _)) => Role::Ready,
            Ok(_) => Role::Unready,
            Err(error) => role_without_answer(&error),
        },
    }
}

fn role_without_answer(error: &io::Error) -> Role {
    let is_late = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind());
    if is_late { Role::Hangs } else { Role::Gone }
}

fn go_role(monitor: &str, has_routes: bool) -> Role {
    match page(monitor, "/streaming/isFTActive") {
        Ok((200, _)) => Role::Active,
        Ok((204, _)) if !has_routes => Role::Ready,
        Ok((204, _)) => match page(monitor, "/routez") {
            Ok((200, body)) if !body.contains("\"num_routes\": 0") => Role::Ready,
            _ => Role::Unready,
        },
        // It does not say that it belongs to a group.
        Ok(_) => Role::Unready,
        Err(error) => role_without_answer(&error),
    }
}

/// Status and body of a monitoring page.
fn page(monitor: &str, target: &str) -> io::Result<(u16, String)> {
    let host = monitor.trim_start_matches("http://").trim_end_matches('/');
    let mut places = host.to_socket_addrs()?;
    let place = places.next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let until = world::instant() + PAGE_WITHIN;
    let mut socket = TcpStream::connect_timeout(&place, PAGE_WITHIN)?;
    socket.set_write_timeout(Some(PAGE_WITHIN))?;
    write!(socket, "GET {target} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let answer = answer(socket, until)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// What comes until the other side closes; who says it drop by drop is as late as who says nothing.
fn answer(mut socket: TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    let (mut answer, mut chunk) = (Vec::new(), vec![0; CHUNK_LEN]);
    while answer.len() < PAGE_LEN_MAX {
        let left = until.since(world::instant());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Goal: a monitor that talks without end, drop by drop, hangs as one that says nothing does.
    #[test]
    fn a_monitor_that_is_slow_hangs() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("somebody asks");
            while socket.write_all(b"HTTP/1.0 200 OK\r\n").is_ok() {
                thread::park_timeout(Duration::from_millis(1));
            }
        });
        assert_eq!(role(&address, true), Role::Hangs);
    }
}
