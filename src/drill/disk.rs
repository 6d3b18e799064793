//! A small disk in memory that the drill makes, fills, frees and takes away again; root alone can.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;

use super::DrillError;
use super::patience::Patience;
use super::process;
use crate::base::files::{self, Access, Links};

const FILLING: &str = "filling";

/// Bytes of one write.
const CHUNK_LEN: usize = 64 * 1024;

/// How long it may take to mount one.
const MOUNT_WITHIN: Duration = Duration::from_secs(10);

/// A mounted file system.
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Mounts one of that size at `root`, which is made.
    pub(crate) fn mount(root: PathBuf, size: u64, patience: &Patience) -> Result<Self, DrillError> {
        if !geteuid().is_root() {
            return Err(DrillError::World(
                "store.size: a disk can be made, and filled, by root only: run the drill with sudo, \
                 or leave the size and the steps that need it out"
                    .to_owned(),
            ));
        }
        std::fs::create_dir(&root).map_err(DrillError::io("cannot make a folder for the disk"))?;
        let options = format!("size={size},mode=0700");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "stanby-drill"]).arg(&root);
        let what = "mount a disk in memory";
        let said = process::run(what, &mut command, (patience, MOUNT_WITHIN))?;
        if !said.status.success() {
            return Err(DrillError::World(format!("cannot {what}: {}", said.err)));
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes until nothing fits any more.
    pub(crate) fn fill(&self) -> Result<(), DrillError> {
        let failed = || DrillError::io("cannot fill the disk");
        let path = self.root.join(FILLING);
        let mut file =
            files::open(&path, Access::Append(0o600), Links::Refused).map_err(failed())?;
        let chunk = vec![0; CHUNK_LEN];
        // Ever less, so that nothing is left at the end.
        let mut len = chunk.len();
        while len > 0 {
            match file.write(&chunk[..len]) {
                Ok(0) => len /= 2,
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => len /= 2,
                Err(error) => return Err(failed()(error)),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub(crate) fn free(&self) -> Result<(), DrillError> {
        match std::fs::remove_file(self.root.join(FILLING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DrillError::io("cannot free the disk")(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, since a member may just be ending; the drill's folder is looked at after this.
        let _ = Command::new("umount").arg("-l").arg(&self.root).stderr(Stdio::null()).status();
    }
}
