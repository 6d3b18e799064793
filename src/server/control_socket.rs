//! the socket on which commands of this machine reach a running server
//!
//! It is a file of mode 0600 that appears whole, listens from its first moment, and goes with the
//! process; what a killed process left is removed by the next one of the same folder. Who connects
//! has to be the same user, or root. One thread accepts; each question has a short-lived one, of
//! which there are a few, so nobody who connects and says nothing keeps others out for long.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt};
use nix::unistd::geteuid;

use crate::engine::refusal::quoted;
use crate::server::control_protocol::{REQUEST_BYTES_MAX, Reply, Request, line};
use crate::server::event::{self, Event};

/// Ending of the names of control sockets.
const ENDING: &str = ".sock";

/// Questions that are answered at the same time.
const ASKERS_MAX: usize = 8;
/// How long an asker may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer of the server may take: a hand-over waits for the successor.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How soon it is tried again to accept where that failed.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Entries of a folder with sockets that are looked at.
pub const ENTRIES_MAX: usize = 1_024;

/// A question that waits for its answer.
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub asker: Asker,
    /// Takes one answer.
    pub answer: Sender<Answer>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A process of this machine, as the kernel says.
    Process {
        /// The number of its user.
        user: u32,
        /// Its number; it may have ended.
        process: i32,
    },
    /// A user of the NATS server, as it has logged in to this one.
    User(String),
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { user, process } => write!(f, "User {user} (process {process})"),
            Self::User(user) => write!(f, "User {} of account $G", quoted(user.as_bytes())),
        }
    }
}

/// What comes back for a question.
pub enum Answer {
    /// This.
    Say(Reply),
    /// What this gives: it asks others and waits for them, which the server's thread does not.
    Ask(Box<dyn FnOnce() -> Reply + Send>),
}

/// The socket of this process; gone when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    /// Device and inode: what lies there at the end may be another's.
    identity: (u64, u64),
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
}

impl ControlSocket {
    /// Listens in the first of `folders` that this user may use, under the name of the server.
    ///
    /// # Errors
    /// Why none of them will do.
    pub fn open_in(
        folders: &[PathBuf],
        server_id: &str,
        events: &Sender<Event>,
    ) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for folder in folders {
            let opened = prepare(folder).and_then(|()| {
                clear(folder);
                Self::open(&folder.join(format!("{server_id}{ENDING}")), events)
            });
            match opened {
                Ok(socket) => return Ok(socket),
                Err(error) => reasons.push(format!("{}: {error}", folder.display())),
            }
        }
        Err(reasons.join("; "))
    }

    /// Listens at `path`. What a process that is gone left there gives way, nothing else does.
    ///
    /// # Errors
    /// Those of the system, and when somebody listens there already.
    pub fn open(path: &Path, events: &Sender<Event>) -> io::Result<Self> {
        make_way(path)?;
        let beside = beside(path);
        remove_if_there(&beside)?;
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        let found = fs::symlink_metadata(&beside)?;
        fs::rename(&beside, path)?;
        let (accepting, events) = (listener.try_clone()?, events.clone());
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_all(&accepting, &events))?;
        let identity = (found.dev(), found.ino());
        Ok(Self { path: path.to_owned(), identity, listener, thread: Some(thread) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            // If it stays, the next server removes it.
            let _ = fs::remove_file(&self.path);
        }
        // Ends the thread's wait; a socket that cannot be shut down goes with the process.
        if shutdown(self.listener.as_raw_fd(), Shutdown::Both).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic there has ended the process.
            let _ = thread.join();
        }
    }
}

/// A name that nobody looks for, where a socket is made before it is seen.
fn beside(path: &Path) -> PathBuf {
    // Shorter than any name of ours: the system takes paths of 107 bytes.
    path.with_file_name(format!(".{}", std::process::id()))
}

/// Makes the folder, or sees that nobody else can put something into it.
fn prepare(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => (),
        made => return made,
    }
    let found = fs::symlink_metadata(folder)?;
    let is_ours = found.is_dir() && found.uid() == geteuid().as_raw();
    if !is_ours || found.mode() & 0o022 != 0 {
        let text = "it is not a folder of this user alone";
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

/// The control sockets in a folder; none where it cannot be read. One that is being made is not
/// there under its name yet, and is refused until it listens.
#[must_use]
pub fn all_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_one = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        name.ends_with(ENDING.as_bytes())
            && !name.starts_with(b".")
            && entry.file_type().is_ok_and(|found| found.is_socket())
    };
    entries.take(ENTRIES_MAX).flatten().filter(is_one).map(|entry| entry.path()).collect()
}

/// Removes what servers left that were killed.
fn clear(folder: &Path) {
    for path in all_in(folder).iter().filter(|path| is_abandoned(path)) {
        // Somebody else may have done it.
        let _ = fs::remove_file(path);
    }
}

fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) if is_abandoned(path) => remove_if_there(path),
        Ok(found) if found.file_type().is_socket() => {
            Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there"))
        }
        Ok(_) => {
            let text = "there is something that is not a socket: remove it, or name another place";
            Err(io::Error::new(ErrorKind::AlreadyExists, text))
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Until the socket is shut down.
fn accept_all(listener: &UnixListener, events: &Sender<Event>) {
    let askers = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::InvalidInput => return,
            Err(_) => {
                // Descriptors are used up, or who came is gone.
                thread::park_timeout(ACCEPT_AGAIN_AFTER);
                continue;
            }
        };
        let Some(asker) = trusted(&stream) else { continue };
        if ASKERS_MAX <= askers.load(Ordering::Acquire) {
            say(stream, &Reply::Refused("too many others are asking: ask again".to_owned()));
            continue;
        }
        askers.fetch_add(1, Ordering::AcqRel);
        let (count, events) = (Arc::clone(&askers), events.clone());
        let answer = move || {
            serve(stream, asker, &events);
            count.fetch_sub(1, Ordering::AcqRel);
        };
        if thread::Builder::new().name("control-asker".to_owned()).spawn(answer).is_err() {
            askers.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The mode of the file says the same; but it may be passed on, and its folder be another's.
fn trusted(stream: &UnixStream) -> Option<Asker> {
    let peer = getsockopt(stream, sockopt::PeerCredentials).ok()?;
    let is_trusted = peer.uid() == 0 || peer.uid() == geteuid().as_raw();
    is_trusted.then(|| Asker::Process { user: peer.uid(), process: peer.pid() })
}

fn serve(stream: UnixStream, asker: Asker, events: &Sender<Event>) {
    let limits =
        (stream.set_read_timeout(Some(PATIENCE)), stream.set_write_timeout(Some(PATIENCE)));
    let (Ok(()), Ok(())) = limits else { return };
    let mut question = Vec::new();
    let read = BufReader::new((&stream).take(REQUEST_BYTES_MAX)).read_until(b'\n', &mut question);
    if read.is_err() || question.last() != Some(&b'\n') {
        return;
    }
    let Ok(request) = serde_json::from_slice(&question) else {
        let text = "this server does not know what is asked: is it of an earlier release?";
        return say(stream, &Reply::Refused(text.to_owned()));
    };
    let (answer, answers) = bounded(1);
    event::post(events, Event::Asked(Asked { request, asker, answer }));
    let reply = match answers.recv_timeout(ANSWER_WITHIN) {
        Ok(Answer::Say(reply)) => reply,
        Ok(Answer::Ask(ask)) => ask(),
        Err(_) => Reply::Refused("the server does not answer, or is at its end".to_owned()),
    };
    say(stream, &reply);
}

/// Whoever does not listen any more misses it.
fn say(mut stream: UnixStream, reply: &Reply) {
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let _ = stream.write_all(&line(reply));
}
