//! A disk that is only read: what would be changed on it is changed in memory, and gone with it.
//!
//! So a store can be opened, with all that an opening puts right, and stays as it is. It is meant
//! for stores that nobody writes meanwhile, and that are only read: what is appended to a file is
//! kept whole, and nothing is bounded.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::file::disk::{
    Access, Disk, DiskFile, Entry, FileState, Folder, Identity, RealDisk, Stamp,
};
use crate::store::file::watch::Watch;

/// The machine's disk, with changes in memory. Whoever opens a root again sees what was changed.
#[derive(Clone, Default)]
pub struct Overlay {
    roots: Arc<Mutex<BTreeMap<PathBuf, Layer>>>,
}

impl Disk for Overlay {
    fn create_root(&self, _path: &Path) -> io::Result<()> {
        Err(only_read())
    }

    fn open_root(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = roots.get(path) {
            return Ok(Box::new(known.clone()));
        }
        let real = Arc::new(Real::Root(Arc::from(RealDisk.open_root(path)?)));
        let root = Layer(Arc::new(Inner { real, changes: Mutex::default() }));
        roots.insert(path.to_owned(), root.clone());
        Ok(Box::new(root))
    }
}

fn only_read() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "it is only read")
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// An open folder. All that are opened through one root see the same changes.
#[derive(Clone)]
struct Layer(Arc<Inner>);

struct Inner {
    real: Arc<Real>,
    changes: Mutex<Changes>,
}

/// The folder of the disk under a layer. The root alone is kept open, and others are opened
/// whenever something is wanted of them: there may be more channels than a process may have open.
enum Real {
    Root(Arc<dyn Folder>),
    /// The folder of that name in another one.
    Within(Arc<Real>, Vec<u8>),
}

impl Real {
    fn open(&self) -> io::Result<Arc<dyn Folder>> {
        match self {
            Self::Root(folder) => Ok(Arc::clone(folder)),
            Self::Within(folder, name) => Ok(Arc::from(folder.open()?.folder(name)?)),
        }
    }
}

#[derive(Default)]
struct Changes {
    /// Names that the disk has, and that are gone or mean something else.
    hidden: BTreeSet<Vec<u8>>,
    files: BTreeMap<Vec<u8>, Arc<LayerFile>>,
    folders: BTreeMap<Vec<u8>, Layer>,
}

impl Layer {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn real(&self) -> io::Result<Arc<dyn Folder>> {
        self.0.real.open()
    }

    /// The file of that name, whether it was changed before or not.
    fn file(&self, name: &[u8]) -> io::Result<Arc<LayerFile>> {
        let mut changes = self.changes();
        if let Some(file) = changes.files.get(name) {
            return Ok(Arc::clone(file));
        }
        if changes.hidden.contains(name) {
            return Err(not_found());
        }
        let described = self.real()?.open(name, Access::Read)?.describe()?;
        let file = Arc::new(LayerFile::over((Arc::clone(&self.0.real), name.to_vec()), described));
        changes.files.insert(name.to_vec(), Arc::clone(&file));
        changes.hidden.insert(name.to_vec());
        Ok(file)
    }

    fn has(&self, name: &[u8]) -> bool {
        let changes = self.changes();
        let is_changed = changes.files.contains_key(name) || changes.folders.contains_key(name);
        let is_real = || self.real().and_then(|real| real.stamp(name)).is_ok();
        is_changed || !changes.hidden.contains(name) && is_real()
    }

    fn take(&self, name: &[u8]) -> io::Result<Arc<LayerFile>> {
        let file = self.file(name)?;
        self.changes().files.remove(name);
        Ok(file)
    }

    fn put(&self, name: &[u8], file: Arc<LayerFile>) {
        let mut changes = self.changes();
        changes.hidden.insert(name.to_vec());
        if let Some(former) = changes.files.insert(name.to_vec(), file) {
            former.content().link_count = 0;
        }
    }
}

impl Folder for Layer {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = self.real()?.list()?;
        let changes = self.changes();
        entries.retain(|entry| !changes.hidden.contains(&entry.name));
        let files = changes.files.keys().map(|name| (name, false));
        let folders = changes.folders.keys().filter(|name| changes.hidden.contains(*name));
        let all = files.chain(folders.map(|name| (name, true)));
        entries.extend(all.map(|(name, is_folder)| Entry { name: name.clone(), is_folder }));
        Ok(entries)
    }

    fn folder(&self, name: &[u8]) -> io::Result<Box<dyn Folder>> {
        let mut changes = self.changes();
        if let Some(known) = changes.folders.get(name) {
            return Ok(Box::new(known.clone()));
        }
        if changes.hidden.contains(name) {
            return Err(not_found());
        }
        let real = Arc::new(Real::Within(Arc::clone(&self.0.real), name.to_vec()));
        // It has to be there.
        drop(real.open()?);
        let layer = Self(Arc::new(Inner { real, changes: Mutex::default() }));
        changes.folders.insert(name.to_vec(), layer.clone());
        Ok(Box::new(layer))
    }

    /// Nothing that only reads makes one.
    fn create_folder(&self, _name: &[u8]) -> io::Result<()> {
        Err(only_read())
    }

    fn remove_folder(&self, name: &[u8]) -> io::Result<()> {
        if !self.folder(name)?.list()?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let mut changes = self.changes();
        changes.folders.remove(name);
        changes.hidden.insert(name.to_vec());
        Ok(())
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Box<dyn DiskFile>> {
        match access {
            // One that nobody has changed is read where it lies, so that it can be closed.
            Access::Read if !self.changes().hidden.contains(name) => {
                self.real()?.open(name, Access::Read)
            }
            Access::Read | Access::Append => Ok(Box::new(self.file(name)?)),
            Access::CreateNew if self.has(name) => Err(io::ErrorKind::AlreadyExists.into()),
            Access::CreateNew => {
                let content = Content { link_count: 1, ..Content::default() };
                let file = Arc::new(LayerFile { real: None, content: Mutex::new(content) });
                self.put(name, Arc::clone(&file));
                Ok(Box::new(file))
            }
        }
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let file = self.take(from)?;
        self.put(to, file);
        Ok(())
    }

    fn rename_new(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        if self.has(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn rename_into(&self, from: &[u8], target: &dyn Folder, to: &[u8]) -> io::Result<()> {
        let target = target.as_any().downcast_ref::<Self>();
        let target = target.expect("folders of one store lie on one disk");
        let file = self.take(from)?;
        target.put(to, file);
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        self.take(name)?.content().link_count = 0;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn can_sync_filesystem(&self) -> bool {
        false
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        Ok(())
    }

    fn identity(&self) -> io::Result<Identity> {
        self.real()?.identity()
    }

    fn stamp(&self, path: &[u8]) -> io::Result<Stamp> {
        self.real()?.stamp(path)
    }

    fn watch(&self) -> io::Result<Watch> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A file that was, or may be, changed: the first bytes of a real one, and others behind them.
struct LayerFile {
    /// Where the real one lies: what is done to the names of a layer does not move it.
    real: Option<(Arc<Real>, Vec<u8>)>,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    /// How much of the real file counts.
    real_len: u64,
    behind: Vec<u8>,
    device: u64,
    link_count: u64,
}

impl Content {
    fn len(&self) -> u64 {
        self.real_len + u64::try_from(self.behind.len()).unwrap_or(u64::MAX)
    }
}

impl LayerFile {
    fn over(real: (Arc<Real>, Vec<u8>), described: FileState) -> Self {
        let FileState { device, len, link_count } = described;
        let content = Content { real_len: len, behind: Vec::new(), device, link_count };
        Self { real: Some(real), content: Mutex::new(content) }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for Arc<LayerFile> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content();
        let in_real =
            usize::try_from(content.real_len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (front, back) = buffer.split_at_mut(in_real.min(buffer.len()));
        let mut read_len = 0;
        if let (Some((folder, name)), false) = (&self.real, front.is_empty()) {
            read_len = folder.open()?.open(name, Access::Read)?.read_at(front, offset)?;
            if read_len < front.len() {
                return Ok(read_len);
            }
        }
        let skipped =
            usize::try_from(offset.saturating_sub(content.real_len)).unwrap_or(usize::MAX);
        let behind = content.behind.get(skipped..).unwrap_or_default();
        let len = behind.len().min(back.len());
        back[..len].copy_from_slice(&behind[..len]);
        Ok(read_len + len)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.content().behind.extend_from_slice(bytes);
        Ok(())
    }

    fn describe(&self) -> io::Result<FileState> {
        let content = self.content();
        let (device, len, link_count) = (content.device, content.len(), content.link_count);
        Ok(FileState { device, len, link_count })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content().len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut content = self.content();
        let kept = usize::try_from(len.saturating_sub(content.real_len)).unwrap_or(usize::MAX);
        content.behind.truncate(kept);
        content.real_len = content.real_len.min(len);
        Ok(())
    }

    /// There is nothing to set aside.
    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn read(file: &dyn DiskFile, offset: u64) -> Vec<u8> {
        let mut buffer = [0; 32];
        let len = file.read_at(&mut buffer, offset).unwrap();
        buffer[..len].to_vec()
    }

    /// Goal: whoever opens a file sees all changes, and the disk sees none.
    #[test]
    fn changes_are_seen_by_all_and_leave_the_disk_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "0123456789").unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let disk = Overlay::default();
        let root = disk.open_root(folder.path()).unwrap();
        let file = root.open(b"a", Access::Append).unwrap();
        file.truncate(4).unwrap();
        file.append(b"xyz").unwrap();
        file.append(b"!").unwrap();
        assert_eq!(read(root.open(b"a", Access::Read).unwrap().as_ref(), 2), b"23xyz!");
        assert_eq!(read(file.as_ref(), 5), b"yz!");
        file.truncate(6).unwrap();
        assert_eq!((file.size().unwrap(), read(file.as_ref(), 0)), (6, b"0123xy".to_vec()));
        root.rename(b"a", b"b").unwrap();
        assert!(root.open(b"a", Access::Read).is_err() && root.unlink(b"a").is_err());
        let again = disk.open_root(folder.path()).unwrap();
        assert!(again.open(b"a", Access::Read).is_err() && again.open(b"b", Access::Read).is_ok());
        let fresh = root.open(b"a", Access::CreateNew).unwrap();
        assert!(root.open(b"b", Access::CreateNew).is_err());
        assert!(root.rename_new(b"a", b"b").is_err());
        let sub = root.folder(b"sub").unwrap();
        root.rename_into(b"b", sub.as_ref(), b"c").unwrap();
        assert_eq!(sub.list().unwrap().len(), 1);
        assert!(root.remove_folder(b"sub").is_err());
        root.folder(b"sub").unwrap().unlink(b"c").unwrap();
        assert_eq!(file.describe().unwrap().link_count, 0);
        root.remove_folder(b"sub").unwrap();
        fresh.append(b"new").unwrap();
        let names: Vec<_> = root.list().unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [b"a"]);
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"0123456789");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
