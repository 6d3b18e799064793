//! the files under the root of a store: the server's record, clients, and what servers leave there

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::counts;
use super::finding::{Findings, Weight};
use super::records::{self, Bytes, Found};
use super::typed;
use crate::base::files::{self, Access, Links};
use crate::proto::spb;
use crate::store::UNFINISHED;
use crate::store::file::format::{
    CLIENTS_FILE, ClientRecord, Crc, FILE_HEADER_LEN, Framing, SERVER_FILE, decode, decode_client,
    deliveries_number,
};

/// The lock of both servers.
const LOCK_FILE: &[u8] = b".rootdir.lck";

const CLIENTS_LOST: &str = "all clients are unknown: they have to connect again";
const SERVER_REFUSED: &str = "a start is refused: restore it from a backup, or remove it; then clients \
                              have to connect again";
const UNFINISHED_MEANS: &str =
    "it is not whole, and no server serves it: let what has begun it go on, or make it anew";
const SERVER_LOST: &str = "a start begins with new subjects: clients have to connect again";

/// What lies under a root.
#[derive(Debug, Default)]
pub(super) struct Root {
    pub folders: Vec<PathBuf>,
    pub clients: u64,
    pub is_in_use: bool,
    has_server: bool,
    has_clients: bool,
    /// The server's file says something, which it does only once there are all the others.
    has_server_record: bool,
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
                let len = entry.metadata().map_or(0, |found| found.len());
                found.has_server_record = FILE_HEADER_LEN < len;
                server(&path, crc, findings)
            }
            CLIENTS_FILE => {
                found.has_clients = true;
                clients(&path, crc, findings).map(|count| found.clients = count)
            }
            LOCK_FILE => is_locked(&path).map(|is_locked| found.is_in_use = is_locked),
            name if deliveries_number(name).is_some() => counts::look(&path, findings),
            name if name.starts_with(b".stanby.") => Ok(()),
            _ => {
                let means = "both servers pass over it";
                findings.add(Weight::Note, (&path, None), "not of a store".to_owned(), means);
                Ok(())
            }
        };
        if let Err(error) = looked {
            let means = "a start cannot read it either";
            findings.unreadable(&path, &error, means);
        }
    }
    found.folders.sort();
    for (is_there, name, means) in [
        (found.has_server, "server.dat", SERVER_LOST),
        (found.has_clients, "clients.dat", CLIENTS_LOST),
    ] {
        if !is_there && (!found.folders.is_empty() || found.has_server_record) {
            let path = root.join(name);
            findings.add(Weight::Damage, (&path, None), "it is missing".to_owned(), means);
        }
    }
    Ok(found)
}

fn server(path: &Path, crc: Option<&Crc>, findings: &mut Findings) -> io::Result<()> {
    let mut bytes = Bytes::open(path)?;
    if let Err(why) = bytes.version()? {
        findings.add(Weight::Damage, (path, Some(0)), why, SERVER_REFUSED);
        return Ok(());
    }
    let at = FILE_HEADER_LEN;
    let found = records::read(&mut bytes, at, Framing::Plain, crc)?;
    records::note_first(&found, findings);
    let what = match found {
        Found::Record { payload, end, .. } => match decode::<spb::ServerInfo>(&payload) {
            Ok(info) if info.cluster_id.starts_with(UNFINISHED.as_bytes()) => {
                let what = String::from_utf8_lossy(&info.cluster_id).into_owned();
                findings.add(Weight::Damage, (path, Some(at)), what, UNFINISHED_MEANS);
                return Ok(());
            }
            Ok(_) if end == bytes.len => return Ok(()),
            Ok(_) => "something stands behind its record".to_owned(),
            Err(why) => why.to_string(),
        },
        Found::Corrupt { why, .. } => why.to_string(),
        Found::Torn | Found::Zeros => "its record is not whole".to_owned(),
        Found::End => {
            let what = "it has no record".to_owned();
            findings.add(Weight::Damage, (path, Some(at)), what, SERVER_LOST);
            return Ok(());
        }
    };
    findings.add(Weight::Damage, (path, Some(at)), what, SERVER_REFUSED);
    Ok(())
}

fn clients(path: &Path, crc: Option<&Crc>, findings: &mut Findings) -> io::Result<u64> {
    let mut known = BTreeSet::new();
    let mut take = |record: ClientRecord| {
        match record {
            ClientRecord::Add(info) => known.insert(info.id),
            ClientRecord::Delete(gone) => known.remove(&gone.id),
        };
        None
    };
    typed::look(path, crc, decode_client, &mut take, findings)?;
    Ok(known.len() as u64)
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
