//! A relay between two servers that breaks when it is told to: what is on its way is lost.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Bytes that are taken at a time.
const CHUNK_LEN: usize = 64 * 1024;

/// One connection: both ends, and whether it swallows what they say.
struct Link {
    ends: [TcpStream; 2],
    is_silent: Arc<AtomicBool>,
}

impl Link {
    fn close(&self) {
        for end in &self.ends {
            // Whoever has closed it already needs no more.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[derive(Default)]
struct Links(Mutex<Vec<Link>>);

impl Links {
    fn add(&self, link: Link) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(link);
    }

    fn take(&self) -> Vec<Link> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A port that leads to another one.
pub struct Relay {
    pub port: u16,
    links: Arc<Links>,
    is_over: Arc<AtomicBool>,
}

impl Relay {
    /// One to `target`, which need not be there yet.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (links, is_over) = (Arc::<Links>::default(), Arc::<AtomicBool>::default());
        let (adding, is_ending) = (Arc::clone(&links), Arc::clone(&is_over));
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if is_ending.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) {
                    adding.add(join(near, far));
                }
            }
        });
        Self { port, links, is_over }
    }

    /// All connections break at once, for both ends.
    pub fn cut(&self) {
        self.links.take().iter().for_each(Link::close);
    }

    /// All connections that there are swallow what is said from now on, and no end hears of it.
    pub fn swallow(&self) {
        for link in self.links.take() {
            link.is_silent.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It looks whether it is over when somebody connects.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        self.cut();
    }
}

fn join(near: TcpStream, far: TcpStream) -> Link {
    let is_silent = Arc::<AtomicBool>::default();
    for (from, to) in [(&near, &far), (&far, &near)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let is_silent = Arc::clone(&is_silent);
        thread::spawn(move || pump(from, to, &is_silent));
    }
    Link { ends: [near, far], is_silent }
}

/// Passes on what comes, until one end closes.
fn pump(mut from: TcpStream, mut to: TcpStream, is_silent: &AtomicBool) {
    let mut chunk = vec![0; CHUNK_LEN];
    while let Ok(len) = from.read(&mut chunk) {
        if len == 0 {
            break;
        }
        if !is_silent.load(Ordering::Relaxed) && to.write_all(&chunk[..len]).is_err() {
            break;
        }
    }
    if !is_silent.load(Ordering::Relaxed) {
        let _ = to.shutdown(Shutdown::Both);
    }
}
