//! The server's record and the clients, shared by all shares.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use prost::Message;

use crate::base::record::ClientWrite;
use crate::base::time::Instant;
use crate::proto::spb;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::Context;
use crate::store::file::cutting::cut_typed;
use crate::store::file::disk::{Access, Folder};
use crate::store::file::format::{
    CLIENTS_FILE, ClientRecord, Corrupt, Decoded, FILE_HEADER_LEN, Framing, SERVER_FILE,
    client_kind, decode, decode_client, decode_record, encode_plain, encode_typed,
};
use crate::store::file::log::{
    Log, RECORDS_START, complete_header, io_error, is_half_begun, read_whole,
};
use crate::store::file::removal::Place;
use crate::store::file::repair::{Ending, HOLE, replay};
use crate::store::{Action, Notice, StoreError};
use std::time::Duration;

/// clients.dat and server.dat.
pub struct Registry {
    files: Mutex<Files>,
}

struct Files {
    clients: BTreeMap<Bytes, spb::ClientInfo>,
    log: Option<Log>,
    len: u64,
    delete_count: u64,
    must_replace: bool,
    compacted_at: Option<Instant>,
}

/// What recovery found beside the channels.
pub struct FoundRegistry {
    /// The server's record.
    pub server: Option<spb::ServerInfo>,
    /// The clients, ordered by id.
    pub clients: Vec<spb::ClientInfo>,
    /// To go on writing.
    pub registry: Registry,
    /// What the operator should know.
    pub notices: Vec<Notice>,
}

impl Registry {
    /// Reads both files; a missing one is created.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] in the reference's words, [`StoreError::Io`].
    pub fn recover(
        ctx: &Context,
        root: &dyn Folder,
        must_replace: bool,
    ) -> Result<FoundRegistry, StoreError> {
        let server = recover_server(ctx, root)?;
        let mut found = recover_clients(ctx, root, must_replace)?;
        found.server = server;
        let files = &mut found.registry.files;
        files.get_mut().unwrap_or_else(PoisonError::into_inner).must_replace = must_replace;
        Ok(found)
    }

    /// All clients, ordered by id.
    #[must_use]
    pub fn clients(&self) -> Vec<spb::ClientInfo> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.clients.values().cloned().collect()
    }

    /// Writes the server's record and changes of clients; true if root names changed.
    ///
    /// # Errors
    /// [`StoreError`]; the clients are as they were, but for [`StoreError::HalfDone`]. The server's
    /// record may be the new one: it says the same whenever it is written again.
    pub fn write(
        &self,
        ctx: &Context,
        root: &dyn Folder,
        change: &Change<'_>,
    ) -> Result<bool, StoreError> {
        let mut is_renamed = false;
        if let Some(server) = change.server {
            let mut record = Vec::new();
            encode_plain(&mut record, &server.encode_to_vec(), &ctx.crc);
            replace(ctx, root, SERVER_FILE, &record)?;
            is_renamed = true;
        }
        if !change.clients.is_empty() {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            is_renamed |= files.write(ctx, root, change)?;
        }
        Ok(is_renamed)
    }
}

/// What to write.
pub struct Change<'a> {
    /// The server's record, if it changes.
    pub server: Option<&'a spb::ServerInfo>,
    /// Changes of clients, in order.
    pub clients: &'a [ClientWrite],
    /// Whether it must be durable.
    pub must_sync: bool,
    /// For the time between compactions.
    pub now: Instant,
}

impl Files {
    fn write(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        change: &Change<'_>,
    ) -> Result<bool, StoreError> {
        let too_big = |error: crate::store::file::format::RecordTooBig| {
            StoreError::Unusable(error.to_string())
        };
        let path = ctx.path(b"", CLIENTS_FILE);
        let mut is_renamed = false;
        if self.must_replace {
            self.replace(ctx, root)?;
            is_renamed = true;
        }
        let mut bytes = Vec::new();
        for write in change.clients {
            match write {
                ClientWrite::Add(info) => {
                    encode_typed(&mut bytes, client_kind::ADD, info, &ctx.crc).map_err(too_big)?;
                }
                ClientWrite::Delete(id) => {
                    let delete = spb::ClientDelete { id: id.to_bytes() };
                    encode_typed(&mut bytes, client_kind::DELETE, &delete, &ctx.crc)
                        .map_err(too_big)?;
                }
            }
        }
        let mut log = match self.log.take() {
            Some(log) => log,
            None => {
                let log = Log::open(root, CLIENTS_FILE, self.len, &path)?;
                // What has that name later may be a successor's.
                ctx.fence.check()?;
                log
            }
        };
        let mut written = log.append(&bytes, &path);
        if written.is_ok() && change.must_sync {
            written = log
                .file()
                .sync()
                .map(|()| log.mark_synced())
                .map_err(|source| io_error(Action::Sync, &path, source));
            // What the kernel has dropped no later sync brings back.
            self.must_replace |= written.is_err();
        }
        if let Err(error) = written {
            ctx.fence.check()?;
            log.rewind(self.len, &path).map_err(StoreError::half_done)?;
            self.log = Some(log);
            return Err(error);
        }
        self.len = log.len();
        self.log = Some(log);
        let has_delete = self.apply(change.clients);
        if has_delete && self.is_compaction_due(ctx, change.now) {
            self.compacted_at = Some(change.now);
            // The clients are written: this is tidying, and fails nothing.
            if let Err(error) = self.replace(ctx, root) {
                log::warn!("Unable to compact \"{}\": {error}", path.display());
            }
            is_renamed = true;
        }
        Ok(is_renamed)
    }

    fn apply(&mut self, writes: &[ClientWrite]) -> bool {
        let mut has_delete = false;
        for write in writes {
            match write {
                ClientWrite::Add(info) => {
                    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
                    let info = spb::ClientInfo {
                        id: copy(&info.id),
                        hb_inbox: copy(&info.hb_inbox),
                        conn_id: copy(&info.conn_id),
                        ..info.clone()
                    };
                    self.clients.insert(info.id.clone(), info);
                }
                ClientWrite::Delete(id) => {
                    has_delete = true;
                    self.delete_count += 1;
                    self.clients.remove(id.as_bytes());
                }
            }
        }
        has_delete
    }

    fn is_compaction_due(&self, ctx: &Context, now: Instant) -> bool {
        let options = &ctx.options;
        let live = u64::try_from(self.clients.len()).unwrap_or(u64::MAX);
        let percent = self.delete_count * 100 / (self.delete_count + live).max(1);
        let interval = u64::try_from(options.compact_interval_secs).unwrap_or(1);
        options.compact_enabled
            && u64::try_from(options.compact_bytes_min).unwrap_or(0) <= self.len - FILE_HEADER_LEN
            && u64::try_from(options.compact_fragmentation).unwrap_or(1) <= percent
            && self.compacted_at.is_none_or(|at| Duration::from_secs(interval) <= now.since(at))
    }

    /// A fresh clients.dat with the live clients, in place of the old one.
    fn replace(&mut self, ctx: &Context, root: &dyn Folder) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        for info in self.clients.values() {
            encode_typed(&mut bytes, client_kind::ADD, info, &ctx.crc)
                .map_err(|error| StoreError::Unusable(error.to_string()))?;
        }
        let log = put_fresh(ctx, root, CLIENTS_FILE, &bytes)?;
        self.len = log.len();
        self.log = Some(log);
        self.delete_count = 0;
        // Until its name is durable, nothing may be answered that lies in it alone.
        self.must_replace = true;
        sync_names(ctx, root)?;
        self.must_replace = false;
        Ok(())
    }
}

/// Puts a new file with these records in the place of `name`; the name is durable, too.
fn replace(
    ctx: &Context,
    root: &dyn Folder,
    name: &[u8],
    records: &[u8],
) -> Result<Log, StoreError> {
    let log = put_fresh(ctx, root, name, records)?;
    sync_names(ctx, root)?;
    Ok(log)
}

fn sync_names(ctx: &Context, root: &dyn Folder) -> Result<(), StoreError> {
    root.sync().map_err(|source| io_error(Action::Sync, ctx.root_path(), source))
}

/// The same without its name being durable.
fn put_fresh(
    ctx: &Context,
    root: &dyn Folder,
    name: &[u8],
    records: &[u8],
) -> Result<Log, StoreError> {
    let fence = ctx.fence.as_ref();
    let mut fresh = Replacement::write(ctx.spare(root, 0), ctx.root_path(), records)?;
    if let Err(error) = fresh.sync() {
        fresh.discard(root);
        return Err(error);
    }
    fence.check()?;
    fresh.put(root, None, name, fence)
}

/// Opens a file of the root; creates it with its header if it is missing.
fn open_or_create(
    ctx: &Context,
    root: &dyn Folder,
    name: &[u8],
) -> Result<Box<dyn crate::store::file::disk::DiskFile>, StoreError> {
    let path = ctx.path(b"", name);
    match root.open(name, Access::Append) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Complete at once: a kill must not leave a file without its header.
            drop(replace(ctx, root, name, &[])?);
            root.open(name, Access::Append).map_err(|source| io_error(Action::Open, &path, source))
        }
        Err(source) => Err(io_error(Action::Open, &path, source)),
    }
}

fn recover_server(ctx: &Context, root: &dyn Folder) -> Result<Option<spb::ServerInfo>, StoreError> {
    let path = ctx.path(b"", SERVER_FILE);
    let file = open_or_create(ctx, root, SERVER_FILE)?;
    let bytes = read_whole(file.as_ref(), &path)?.map_err(|reason| {
        StoreError::Corrupt(format!("unable to recover server file \"server.dat\": {reason}"))
    })?;
    let refuse = |reason: String| {
        log::error!("Server file {path:?} corrupted: {reason}");
        log::error!("Follow instructions in documentation in order to recover from this");
        StoreError::Corrupt(format!("unable to recover server file {path:?}: {reason}"))
    };
    match decode_record(&bytes[RECORDS_START..], Framing::Plain, ctx.verifying_crc()) {
        Ok(Decoded::End) => Ok(None),
        Ok(Decoded::Zeros) => Err(refuse("end of file padded with zeros".to_owned())),
        Ok(Decoded::Torn) => Err(refuse("unexpected EOF".to_owned())),
        Ok(Decoded::Record { payload, len, .. }) => {
            let expected = RECORDS_START + len;
            if bytes.len() != expected {
                return Err(refuse(format!(
                    "incorrect file size, expected {expected} bytes, got {} bytes",
                    bytes.len()
                )));
            }
            decode(payload).map(Some).map_err(|error| refuse(error.to_string()))
        }
        Err(error) => Err(refuse(error.to_string())),
    }
}

/// The server's record of a store that another process writes; `None` if it cannot be told.
#[must_use]
pub fn peek_server(root: &dyn Folder) -> Option<spb::ServerInfo> {
    let file = root.open(SERVER_FILE, Access::Read).ok()?;
    let bytes = read_whole(file.as_ref(), Path::new("server.dat")).ok()?.ok()?;
    match decode_record(&bytes[RECORDS_START..], Framing::Plain, None) {
        Ok(Decoded::Record { payload, .. }) => decode(payload).ok(),
        Ok(Decoded::End | Decoded::Zeros | Decoded::Torn) | Err(_) => None,
    }
}

fn recover_clients(
    ctx: &Context,
    root: &dyn Folder,
    may_lack: bool,
) -> Result<FoundRegistry, StoreError> {
    let path = ctx.path(b"", CLIENTS_FILE);
    let file = open_or_create(ctx, root, CLIENTS_FILE)?;
    let mut notices = Vec::new();
    if is_half_begun(file.as_ref(), &path)? {
        notices.push(complete_header(file.as_ref(), &path)?);
    }
    let bytes = read_whole(file.as_ref(), &path)?.map_err(|reason| {
        StoreError::Corrupt(format!("unable to recover client file \"clients.dat\": {reason}"))
    })?;
    let mut clients = BTreeMap::new();
    let mut delete_count = 0;
    let checksums = (&ctx.crc, ctx.options.crc);
    let ending = replay(&bytes, RECORDS_START, checksums, decode_client, |record| match record {
        ClientRecord::Add(info) => {
            clients.insert(info.id.clone(), info);
        }
        ClientRecord::Delete(gone) => {
            delete_count += 1;
            clients.remove(&gone.id);
        }
    })
    .and_then(|ending| match ending {
        // Everything was synced: what is behind it was promised.
        Ending::Hole(_) if !may_lack => Err(Corrupt::Payload(HOLE.to_owned())),
        Ending::Whole | Ending::Zeros(_) | Ending::Torn(_) | Ending::Hole(_) => Ok(ending),
    })
    .map_err(|error| {
        StoreError::Corrupt(format!("unable to recover client file {path:?}: {error}"))
    })?;
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let place = Place { folder: root, path: ctx.root_path(), fence: ctx.fence.as_ref() };
    let spare = ctx.spare(root, 0);
    let (text, end) = cut_typed(place, spare, (file.as_ref(), CLIENTS_FILE, &ending, len))?;
    notices.extend(text);
    Ok(FoundRegistry {
        server: None,
        clients: clients.values().cloned().collect(),
        notices: notices.into_iter().map(|text| Notice { is_warning: true, text }).collect(),
        registry: Registry {
            files: Mutex::new(Files {
                clients,
                log: None,
                len: end,
                delete_count,
                must_replace: false,
                compacted_at: None,
            }),
        },
    })
}
