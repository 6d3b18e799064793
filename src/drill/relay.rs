//! A port in front of a member's route port, which can be cut: both ends lose what is on its way,
//! and nobody gets through until it is healed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::DrillError;

/// Bytes that are taken at a time.
const CHUNK_LEN: usize = 64 * 1024;

/// Whether it is cut or over, and the sockets of the connections that go through.
#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    ends: Mutex<Vec<TcpStream>>,
}

impl State {
    fn close_all(&self) {
        for end in self.ends.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Whoever has closed it already needs no more.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// A port that leads to another one.
pub(crate) struct Relay {
    /// Where it listens.
    pub(crate) port: u16,
    state: Arc<State>,
}

impl Relay {
    /// One to `target`, which need not be there yet.
    pub(crate) fn to(target: u16) -> Result<Self, DrillError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.map_err(DrillError::io("cannot open a port"))?;
        let port = listener.local_addr().map_err(DrillError::io("cannot open a port"))?.port();
        let state = Arc::<State>::default();
        let relay = Self { port, state: Arc::clone(&state) };
        start(move || {
            while let Ok((near, _)) = listener.accept() {
                if state.is_over.load(Ordering::Acquire) {
                    return;
                }
                if !state.is_cut.load(Ordering::Acquire) {
                    // Who gets no connection tries again.
                    let _ = join(near, target, &state);
                }
            }
        })?;
        Ok(relay)
    }

    /// All connections break at once, for both ends, and there are no new ones.
    pub(crate) fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Release);
        self.state.close_all();
    }

    /// There are new ones again.
    pub(crate) fn heal(&self) {
        self.state.is_cut.store(false, Ordering::Release);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Release);
        // It looks whether it is over when somebody connects.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        self.state.close_all();
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> Result<(), DrillError> {
    let started = thread::Builder::new().name("drill-relay".to_owned()).spawn(work);
    started.map(|_| ()).map_err(DrillError::io("cannot start a thread"))
}

fn join(near: TcpStream, target: u16, state: &Arc<State>) -> Result<(), DrillError> {
    let broken = || DrillError::io("a route is broken");
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).map_err(broken())?;
    for (from, to) in [(&near, &far), (&far, &near)] {
        let from = from.try_clone().map_err(broken())?;
        let to = to.try_clone().map_err(broken())?;
        start(move || pump(from, to))?;
    }
    let mut ends = state.ends.lock().unwrap_or_else(PoisonError::into_inner);
    ends.extend([near, far]);
    drop(ends);
    if state.is_cut.load(Ordering::Acquire) {
        state.close_all();
    }
    Ok(())
}

/// Passes on what comes, until one end closes.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut chunk = vec![0; CHUNK_LEN];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..len]).is_err() {
            break;
        }
    }
    // The other way ends too.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_through_a_relay_breaks_when_it_is_cut_and_comes_back() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let relay = Relay::to(listener.local_addr().expect("an address").port()).expect("relay");
        let dial = || TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port)).expect("it listens");
        let mut near = dial();
        near.write_all(b"a").expect("it goes through");
        let (mut far, _) = listener.accept().expect("a connection");
        let mut byte = [0];
        far.read_exact(&mut byte).expect("it came");
        relay.cut();
        assert_eq!(far.read(&mut byte).unwrap_or(0), 0);
        // Until it is healed whoever comes is closed.
        assert_eq!(dial().read(&mut byte).unwrap_or(0), 0);
        relay.heal();
        let mut near = dial();
        near.write_all(b"b").expect("it goes through");
        let (mut far, _) = listener.accept().expect("a connection");
        far.read_exact(&mut byte).expect("it came");
        assert_eq!(byte, *b"b");
    }
}
