//! the files under the root of a store: the server's record, clients, and what servers leave there

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::finding::{Findings, Weight};
use super::records::{self, Bytes, Found};
use crate::base::files::{self, Access, Links};
use crate::proto::spb;
use crate::store::file::format::{
    CLIENTS_FILE, Crc, FILE_HEADER_LEN, Framing, SERVER_FILE, client_kind, decode,
};

/// The lock of both servers.
const LOCK_FILE: &[u8] = b".rootdir.lck";

const CLIENTS_LOST: &str = "clients from here on may be unknown: they have to connect again";
const SERVER_LOST: &str = "a start begins with new subjects: clients have to connect again";

/// What lies under a root.
#[derive(Debug, Default)]
pub(super) struct Root {
    pub folders: Vec<PathBuf>,
    pub clients: u64,
    pub is_in_use: bool,
    has_server: bool,
    has_clients: bool,
}

impl Root {
    /// Whether there is a file of the server or of clients.
    pub fn has_records(&self) -> bool {
        self.has_server || self.has_clients
    }
}

/// Looks through the files of a root, and lists its folders.
pub(super) fn look(root: &Path, crc: Option<&Crc>, findings: &mut Findings) -> io::Result<Root> {
    let mut found = Root::default();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.as_bytes();
        if entry.file_type()?.is_dir() {
            if name != b"lost+found" {
                found.folders.push(path);
            }
            continue;
        }
        let looked = match name {
            SERVER_FILE => {
                found.has_server = true;
                server(&path, crc, findings)
            }
            CLIENTS_FILE => {
                found.has_clients = true;
                clients(&path, crc, findings).map(|count| found.clients = count)
            }
            LOCK_FILE => is_locked(&path).map(|is_locked| found.is_in_use = is_locked),
            name if name.starts_with(b".stanby.") => Ok(()),
            _ => {
                let means = "both servers pass over it";
                findings.add(Weight::Note, (&path, None), "not of a store".to_owned(), means);
                Ok(())
            }
        };
        if let Err(error) = looked {
            let means = "a start cannot read it either";
            findings.add(Weight::Damage, (&path, None), error.to_string(), means);
        }
    }
    found.folders.sort();
    for (is_there, name, means) in [
        (found.has_server, "server.dat", SERVER_LOST),
        (found.has_clients, "clients.dat", CLIENTS_LOST),
    ] {
        if !is_there && !found.folders.is_empty() {
            let path = root.join(name);
            findings.add(Weight::Damage, (&path, None), "it is missing".to_owned(), means);
        }
    }
    Ok(found)
}

fn server(path: &Path, crc: Option<&Crc>, findings: &mut Findings) -> io::Result<()> {
    let mut bytes = Bytes::open(path)?;
    if let Err(why) = bytes.version()? {
        findings.add(Weight::Damage, (path, Some(0)), why, SERVER_LOST);
        return Ok(());
    }
    let at = FILE_HEADER_LEN;
    let what = match records::read(&mut bytes, at, Framing::Plain, crc)? {
        Found::Record { payload, end, .. } => match decode::<spb::ServerInfo>(&payload) {
            Ok(_) if end == bytes.len => return Ok(()),
            Ok(_) => "more than one record".to_owned(),
            Err(why) => why.to_string(),
        },
        Found::Corrupt { why, .. } => why.to_string(),
        Found::Torn | Found::Zeros => "its record is not whole".to_owned(),
        Found::End => "it has no record".to_owned(),
    };
    findings.add(Weight::Damage, (path, Some(at)), what, SERVER_LOST);
    Ok(())
}

fn clients(path: &Path, crc: Option<&Crc>, findings: &mut Findings) -> io::Result<u64> {
    let mut bytes = Bytes::open(path)?;
    if let Err(why) = bytes.version()? {
        findings.add(Weight::Damage, (path, Some(0)), why, CLIENTS_LOST);
        return Ok(0);
    }
    let (mut known, mut at) = (BTreeSet::new(), FILE_HEADER_LEN);
    loop {
        let (what, weight, end) = match records::read(&mut bytes, at, Framing::Typed, crc)? {
            Found::Record { kind, payload, end } => match client(kind, &payload, &mut known) {
                None => {
                    at = end;
                    continue;
                }
                Some(what) => (what, Weight::Damage, Some(end)),
            },
            Found::Corrupt { why, end } => (why.to_string(), Weight::Damage, Some(end)),
            Found::Torn => ("it ends inside of a record".to_owned(), Weight::Mended, None),
            Found::Zeros => {
                let is_tail = records::is_zero_from(&mut bytes, at)?;
                let weight = if is_tail { Weight::Mended } else { Weight::Damage };
                ("zeros in the place of a record".to_owned(), weight, None)
            }
            Found::End => break,
        };
        findings.add(weight, (path, Some(at)), what, CLIENTS_LOST);
        match end {
            Some(end) => at = end,
            None => break,
        }
    }
    Ok(known.len() as u64)
}

/// What is wrong with a record of clients.dat, if anything.
fn client(kind: u8, payload: &[u8], known: &mut BTreeSet<Vec<u8>>) -> Option<String> {
    let read = match kind {
        client_kind::ADD => decode::<spb::ClientInfo>(payload).map(|info| {
            known.insert(info.id.to_vec());
        }),
        client_kind::DELETE => decode::<spb::ClientDelete>(payload).map(|info| {
            known.remove(&info.id.to_vec());
        }),
        other => return Some(format!("invalid client record type: {other}")),
    };
    read.err().map(|why| why.to_string())
}

/// Whether a process holds the lock; the question takes nothing.
fn is_locked(path: &Path) -> io::Result<bool> {
    let file = files::open(path, Access::Read, Links::Refused)?;
    let small = |number: i32| i16::try_from(number).expect("lock types and origins are small");
    let mut asked = libc::flock {
        l_type: small(libc::F_WRLCK),
        l_whence: small(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        // Required to be 0 for locks of an open file.
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked))?;
    Ok(asked.l_type != small(libc::F_UNLCK))
}
