//! How a channel comes into being: its folder, and an empty subs.dat in it.

use std::collections::VecDeque;
use std::path::Path;

use crate::base::id::ChannelName;
use crate::base::planted::{self, Bug};
use crate::store::file::channel::Channel;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::Context;
use crate::store::file::disk::Folder;
use crate::store::file::format::SUBSCRIPTIONS_FILE;
use crate::store::file::log::{Log, io_error};
use crate::store::file::purging::Floor;
use crate::store::file::recovery::{FoundChannel, has_channel_files};
use crate::store::file::removal::Place;
use crate::store::file::reserve::LEFT_BY_OTHERS;
use crate::store::file::subscriptions::Subscriptions;
use crate::store::{Action, StoreError};

/// A folder that vanishes again and again is not the work of one late removal.
const CREATE_TRIES_MAX: usize = 8;

/// A folder for a new channel, and whether it was made just now.
type NewFolder = (Box<dyn Folder>, bool);

/// The folder of a new channel, and whether nobody else can have it open; `None` if it has to be
/// looked at again. An empty one that is there is no channel, whoever has made it, and is made
/// anew, so that who has it open can put nothing into the new one.
fn folder_for(
    ctx: &Context,
    root: &dyn Folder,
    name: &ChannelName,
) -> Result<Option<NewFolder>, StoreError> {
    let path = ctx.path(name.as_bytes(), b"");
    let error = |source| io_error(Action::Folder, &path, source);
    let is_fresh = match root.create_folder(name.as_bytes()) {
        Ok(()) => true,
        Err(found) if found.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(source) => return Err(error(source)),
    };
    if !is_fresh {
        match root.remove_folder(name.as_bytes()) {
            Ok(()) => return Ok(None),
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            // A mount stays where it is, though it be empty.
            Err(full) if full.kind() == std::io::ErrorKind::DirectoryNotEmpty => (),
            Err(mount) if mount.kind() == std::io::ErrorKind::ResourceBusy => (),
            Err(source) => return Err(error(source)),
        }
    }
    let folder = match root.folder(name.as_bytes()) {
        Ok(folder) => folder,
        Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(error(source)),
    };
    if is_fresh {
        return Ok(Some((folder, true)));
    }
    let place = Place { folder: folder.as_ref(), path: &path, fence: ctx.fence.as_ref() };
    if place.finish_deletion()? {
        return Ok(None);
    }
    if planted::is(Bug::LateCreateClears) {
        for entry in folder.list().map_err(error)? {
            folder.unlink(&entry.name).map_err(error)?;
        }
    }
    if has_channel_files(&folder.list().map_err(error)?) {
        ctx.fence.check()?;
        return Err(of_somebody_else(&path));
    }
    Ok(Some((folder, false)))
}

/// The empty subs.dat of a new channel; `None` if the folder has vanished.
fn first_subscriptions(
    ctx: &Context,
    root: &dyn Folder,
    (folder, name): (&dyn Folder, &ChannelName),
) -> Result<Option<Log>, StoreError> {
    // Complete at once: a kill must not leave a file without its header.
    let made = Replacement::write(ctx.spare(root, LEFT_BY_OTHERS), ctx.root_path(), &[]).and_then(
        |fresh| {
            ctx.fence.check()?;
            fresh.put(root, Some(folder), SUBSCRIPTIONS_FILE, ctx.fence.as_ref())
        },
    );
    match made {
        Ok(log) => Ok(Some(log)),
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            ctx.fence.check()?;
            Ok(None)
        }
        Err(error) => {
            // Without files it is no channel; if it stays, the next try takes it over.
            let _ = root.remove_folder(name.as_bytes());
            Err(of_this_folder(ctx, name, error))
        }
    }
}

/// Where only this folder takes no file, as a mount may, the store is not to blame: the channel is
/// refused, and all others are served.
fn of_this_folder(ctx: &Context, name: &ChannelName, error: StoreError) -> StoreError {
    use std::io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    let kinds = [CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy];
    let is_its_own = |source: &std::io::Error| kinds.contains(&source.kind());
    if !matches!(&error, StoreError::Io { source, .. } if is_its_own(source)) {
        return error;
    }
    let StoreError::Io { source, .. } = error else { return error };
    io_error(Action::Folder, &ctx.path(name.as_bytes(), b""), source)
}

fn of_somebody_else(path: &Path) -> StoreError {
    let text = "it is in use by somebody else; it will be read when the store is opened again";
    io_error(Action::Folder, path, std::io::Error::other(text))
}

impl Channel {
    /// A channel that is new on the disk: its folder with an empty subs.dat.
    ///
    /// # Errors
    /// [`StoreError`]; then the folder may be there, and the next try takes it over.
    pub fn create(
        ctx: &Context,
        root: &dyn Folder,
        name: &ChannelName,
    ) -> Result<Self, StoreError> {
        let path = ctx.path(name.as_bytes(), b"");
        for _ in 0..CREATE_TRIES_MAX {
            let Some((folder, is_fresh)) = folder_for(ctx, root, name)? else { continue };
            let identity = folder.identity().map_err(|source| {
                let _ = root.remove_folder(name.as_bytes());
                io_error(Action::Open, &path, source)
            })?;
            // Last of all: what fails before it leaves no channel.
            let Some(log) = first_subscriptions(ctx, root, (folder.as_ref(), name))? else {
                continue;
            };
            let found = FoundChannel {
                identity,
                is_elsewhere: false,
                folder: Some(folder),
                slices: VecDeque::new(),
                overlaps: Vec::new(),
                hollow: Vec::new(),
                floor: Floor::default(),
                number_max: 0,
                has_files: true,
                subscriptions: Subscriptions::default(),
                subscriptions_len: Some(log.len()),
                notices: Vec::new(),
            };
            let mut channel = Self::recovered(ctx, name.clone(), found, false);
            channel.must_begin_slice = !is_fresh;
            channel.handles.subscriptions = Some(log);
            channel.is_renamed = true;
            return Ok(channel);
        }
        Err(of_somebody_else(&path))
    }
}
