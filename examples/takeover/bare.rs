//! The least that a take-over can cost: two bare processes with the server's lock, memory, syncs.
//!
//! One holds the lock. When it is killed, the other gets the lock, claims an epoch (a link and a
//! sync of the folder, or a commit), writes and syncs one record (or commits one row), and answers
//! over a new TCP connection.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stanby::base::world;
use stanby::site::epoch_files;

use crate::session;

/// Bytes of a page, each of which is touched so that it is resident.
const PAGE_LEN: usize = 4096;

/// What two bare processes share.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Their files; with SQLite the lock alone.
    pub folder: PathBuf,
    /// Driver and source of a database, if they share one.
    pub database: Option<(String, String)>,
    /// How much memory each has.
    pub resident_bytes: usize,
}

/// The life of one bare process: it ends by SIGKILL only.
pub fn live(ground: &Ground) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut memory = vec![0_u8; ground.resident_bytes];
    memory.iter_mut().step_by(PAGE_LEN).for_each(|byte| *byte = 1);
    match &ground.database {
        None => take_files(&ground.folder, &listener)?,
        Some((driver, source)) => {
            let place = session::Place::parse(driver, source, &ground.folder)?;
            // Its end would free the lock.
            std::mem::forget(session::take(&place, || tell_port(&listener))?);
        }
    }
    tell("active")?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        connection.set_nodelay(true)?;
        // A client that went away is no reason to end.
        let _ = connection.read(&mut [0; 1]).and_then(|_| connection.write_all(b"a"));
        std::mem::forget(connection);
    }
    drop(memory);
    Ok(())
}

/// Waits for the lock, then does what must be on the disk before the first answer.
fn take_files(folder: &Path, listener: &TcpListener) -> io::Result<()> {
    let claim = folder.join(format!("claim.{}", std::process::id()));
    let mut claim_file = File::create(&claim)?;
    claim_file.write_all(b"owner\n")?;
    claim_file.sync_all()?;
    let mut options = OpenOptions::new();
    let lock = options.read(true).write(true).create(true).truncate(false);
    let lock = lock.open(folder.join("lock"))?;
    let mut data = OpenOptions::new().append(true).create(true).open(folder.join("data"))?;
    tell_port(listener)?;
    lock.lock()?;
    epoch_files::lock(&lock)?;
    fs::hard_link(&claim, folder.join(format!("epoch.{}", std::process::id())))?;
    File::open(folder)?.sync_all()?;
    data.write_all(&[b'r'; 64])?;
    data.sync_data()?;
    // Their end would free the lock.
    std::mem::forget(lock);
    Ok(())
}

fn tell_port(listener: &TcpListener) -> io::Result<()> {
    tell(&format!("{}", listener.local_addr()?.port()))
}

fn tell(line: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Two bare processes over one ground.
pub struct BarePair {
    ground: Ground,
    active: Bare,
    standby: Bare,
}

struct Bare {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl Bare {
    fn start(ground: &Ground) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some((driver, source)) = &ground.database {
            command.args(["--sql", driver, "--bare-source", source]);
        }
        let mut child = command
            .arg("--bare")
            .arg(&ground.folder)
            .arg("--resident-bytes")
            .arg(ground.resident_bytes.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut bare = Self { child, lines: BufReader::new(out), port: 0 };
        bare.port = bare.line()?.parse().map_err(io::Error::other)?;
        Ok(bare)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended already; either way it is collected.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl BarePair {
    /// Starts both.
    pub fn start(ground: Ground) -> io::Result<Self> {
        fs::create_dir_all(&ground.folder)?;
        if let Some((driver, source)) = &ground.database {
            session::make(&session::Place::parse(driver, source, &ground.folder)?)?;
        }
        let mut active = Bare::start(&ground)?;
        active.line()?;
        let standby = Bare::start(&ground)?;
        Ok(Self { ground, active, standby })
    }

    /// Kills the one with the lock; from then until the other one answered a client that saw its
    /// connection end.
    pub fn fail_over(&mut self) -> io::Result<Duration> {
        let mut client = ask(self.active.port)?;
        let killed_at = world::instant();
        self.active.child.kill()?;
        // The end may come as an error.
        let _ = client.read(&mut [0; 1]);
        drop(client);
        ask(self.standby.port)?;
        let time = world::instant().since(killed_at);
        self.standby.line()?;
        let next = Bare::start(&self.ground)?;
        self.active = std::mem::replace(&mut self.standby, next);
        Ok(time)
    }
}

fn ask(port: u16) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_nodelay(true)?;
    connection.write_all(b"p")?;
    connection.read_exact(&mut [0; 1])?;
    Ok(connection)
}
