//! What members look like from outside: asked at their monitoring ports, again and again.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::DrillError;
use super::ledger::Role;
use super::load::Notes;
use crate::base::world;

/// Pause between two looks at a member.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// How long a page may take: a member that is slower hangs.
const PAGE_WITHIN: Duration = Duration::from_millis(500);

/// Bytes of a page that are read at most.
const PAGE_LEN_MAX: u64 = 1 << 20;

/// Watches all members, each on a thread of its own: one that hangs keeps nobody from being seen.
pub(crate) struct Watch {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins; what is seen goes into the ledger.
    pub(crate) fn start(monitors: &[String], notes: &Notes) -> Result<Self, DrillError> {
        let is_over = Arc::<AtomicBool>::default();
        let mut watch = Self { is_over: Arc::clone(&is_over), threads: Vec::new() };
        for (member, monitor) in monitors.iter().cloned().enumerate() {
            let (is_over, notes) = (Arc::clone(&is_over), notes.clone());
            let thread = thread::Builder::new()
                .name("drill-watch".to_owned())
                .spawn(move || {
                    while !is_over.load(Ordering::Acquire) {
                        let role = role(&monitor);
                        notes.ledger().seen(member, role, world::instant());
                        thread::park_timeout(LOOK_EVERY);
                    }
                })
                .map_err(DrillError::io("cannot start a thread"))?;
            watch.threads.push(thread);
        }
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // It has nothing that could panic; if it did, it has said so.
            let _ = thread.join();
        }
    }
}

/// What the member whose monitoring port is there looks like.
pub(crate) fn role(monitor: &str) -> Role {
    let active = match page(monitor, "/streaming/healthz?active=1") {
        Ok((status, _)) => status,
        Err(error) => return role_without_answer(&error),
    };
    match active {
        200 => Role::Active,
        // A Go server has no health page.
        404 => go_role(monitor),
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

fn go_role(monitor: &str) -> Role {
    match page(monitor, "/streaming/isFTActive") {
        Ok((200, _)) => Role::Active,
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
    let mut socket = TcpStream::connect_timeout(&place, PAGE_WITHIN)?;
    socket.set_read_timeout(Some(PAGE_WITHIN))?;
    socket.set_write_timeout(Some(PAGE_WITHIN))?;
    write!(socket, "GET {target} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.take(PAGE_LEN_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
