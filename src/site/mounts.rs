//! What the file system below a directory does with locks, as far as its kind and options tell.
//!
//! Sources: nfs(5), mount.cifs(8), the manuals of Ceph, Gluster, Lustre, OCFS2 and GFS2, and the
//! kernel's documents of overlayfs, 9p and virtiofs. What they promise is still tried
//! (`lock_trial`): a server at the other end may keep less.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::files;

/// Where this process's mounts are listed.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Bytes of that list; hosts of many containers have megabytes of it.
const MOUNTS_LEN_MAX: u64 = 64 * 1024 * 1024;

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Its kind as the kernel names it: `ext4`, `nfs4`, `fuse.glusterfs`.
    pub kind: String,
    /// What is mounted: a device, or `server:/path`.
    pub source: String,
    /// Where.
    pub point: PathBuf,
    /// Its options, those of the kind among them.
    pub options: Vec<String>,
}

/// How far a fact about a file system matters for a group over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It is good to know.
    Note,
    /// It costs something, or has to be looked at.
    Warning,
    /// Two members may be active at once.
    Unfit,
}

/// A fact about a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// How far it matters.
    pub weight: Weight,
    /// The fact, and what can be done.
    pub text: &'static str,
}

/// The file system below `path`; `None` if the list of mounts does not tell.
///
/// # Errors
/// When `path` is not there, or the list cannot be read.
pub fn below(path: &Path) -> io::Result<Option<Mount>> {
    let path = fs::canonicalize(path)?;
    let list = files::read(Path::new(MOUNTS), MOUNTS_LEN_MAX)?;
    Ok(find(&String::from_utf8_lossy(&list), &path))
}

/// The mount of the list that `path` is in: they stand in the order in which they were made, and a
/// later one hides all that lies below its place.
fn find(list: &str, path: &Path) -> Option<Mount> {
    let mounts = list.lines().filter_map(parsed);
    let mut holds = mounts.filter(|mount| path.starts_with(&mount.point));
    holds.next_back()
}

/// A line of the list (proc_pid_mountinfo(5)).
fn parsed(line: &str) -> Option<Mount> {
    let (before, behind) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(4);
    let (point, options) = (before.next()?, before.next()?);
    let mut behind = behind.split(' ');
    let (kind, source) = (behind.next()?, behind.next()?);
    let of_kind = behind.next().unwrap_or_default();
    let options = options.split(',').chain(of_kind.split(','));
    Some(Mount {
        kind: kind.to_owned(),
        source: unescaped(source),
        point: PathBuf::from(unescaped(point)),
        options: options.filter(|option| !option.is_empty()).map(unescaped).collect(),
    })
}

/// Blanks and backslashes of names stand there as three octal digits.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = if *first == b'\\' { behind.get(..3) } else { None };
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => (bytes.push(byte), rest = &behind[3..]),
            None => (bytes.push(*first), rest = behind),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|found| found == option)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let pairs = self.options.iter().filter_map(|option| option.split_once('='));
        pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Whether members on other machines can have the same directory: `None` where the kind does
    /// not tell.
    #[must_use]
    pub fn is_shared(&self) -> Option<bool> {
        match self.kind.as_str() {
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "zfs" | "f2fs" | "bcachefs" | "jfs"
            | "reiserfs" | "tmpfs" | "ramfs" | "overlay" | "aufs" | "fuseblk" | "ntfs3"
            | "vfat" | "exfat" => Some(false),
            "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "fuse.ceph-fuse" | "fuse.ceph"
            | "fuse.glusterfs" | "lustre" | "ocfs2" | "gfs2" | "gpfs" | "beegfs" | "afs"
            | "fuse.sshfs" | "9p" | "virtiofs" | "vboxsf" => Some(true),
            _ => None,
        }
    }

    /// What is known of it.
    #[must_use]
    pub fn remarks(&self) -> Vec<Remark> {
        let mut found = Vec::new();
        match self.kind.as_str() {
            "nfs" | "nfs4" => self.of_nfs(&mut found),
            "cifs" | "smb3" => self.of_cifs(&mut found),
            "lustre" if self.has("localflock") => found.push(LUSTRE_LOCAL),
            "ocfs2" | "gfs2" if self.has("localflocks") => found.push(CLUSTER_LOCAL),
            kind => {
                found.extend(KINDS.iter().filter(|(name, _)| *name == kind).map(|(_, fact)| *fact));
            }
        }
        if self.is_shared() == Some(false) {
            found.push(ONE_MACHINE);
        }
        if self.is_shared().is_none() {
            found.push(UNKNOWN);
        }
        if self.has("ro") {
            found.push(READ_ONLY);
        }
        found
    }

    fn of_nfs(&self, found: &mut Vec<Remark>) {
        let is_local = matches!(self.value("local_lock"), Some("posix" | "all"));
        if self.has("nolock") || is_local {
            found.push(NFS_LOCAL);
        }
        if self.has("async") {
            found.push(NFS_ASYNC);
        }
        let keeps_absent_names = !self.has("noac")
            && self.value("acdirmax") != Some("0")
            && !matches!(self.value("lookupcache"), Some("none" | "pos" | "positive"));
        if keeps_absent_names {
            found.push(NFS_ABSENT_NAMES);
        }
        if self.kind == "nfs" && !self.value("vers").is_some_and(|vers| vers.starts_with('4')) {
            found.push(NFS_3);
        } else {
            found.push(NFS_4);
        }
        if self.source.contains(".efs.") {
            found.push(EFS);
        }
    }

    fn of_cifs(&self, found: &mut Vec<Remark>) {
        if self.has("nobrl") {
            found.push(CIFS_LOCAL);
        }
        if self.value("cache") == Some("loose") {
            found.push(CIFS_LOOSE);
        }
        found.push(CIFS);
    }
}

const fn note(text: &'static str) -> Remark {
    Remark { weight: Weight::Note, text }
}

const fn warning(text: &'static str) -> Remark {
    Remark { weight: Weight::Warning, text }
}

const fn unfit(text: &'static str) -> Remark {
    Remark { weight: Weight::Unfit, text }
}

const ONE_MACHINE: Remark = note("it is of this machine alone: all members have to run here");
const UNKNOWN: Remark =
    warning("nothing is known of this kind of file system: try it from each machine with --peer");
const READ_ONLY: Remark = unfit("it is mounted read-only");

const NFS_LOCAL: Remark = unfit(
    "its locks are of each machine alone (nolock, local_lock): mount it without these options, or \
     run all members on one machine",
);
const NFS_ASYNC: Remark = warning(
    "written data is sent to the server late (async); each commit is synced all the same: the \
     export itself must be sync",
);
const NFS_ABSENT_NAMES: Remark = warning(
    "a name that was not there is believed to be absent for up to acdirmax (60 s), so that an \
     active that was replaced may hear of it late: mount with lookupcache=positive",
);
const NFS_3: Remark = warning(
    "version 3: locks need rpc.statd at both ends, and stay with a machine that died until it is \
     back; a standby replaces it after ft_steal_after all the same: mount with vers=4.1 or later",
);
const NFS_4: Remark = note(
    "locks of a process that is killed go at once; those of a machine that dies when its lease at \
     the server ends (90 s is usual), but a standby replaces it after ft_steal_after",
);
const EFS: Remark = note(
    "Amazon EFS: locks exclude across machines; each sync takes milliseconds, which is what a \
     publish waits for",
);
const CIFS_LOCAL: Remark =
    unfit("its locks are of each machine alone (nobrl): mount it without this option");
const CIFS_LOOSE: Remark =
    unfit("machines see each other's writes late (cache=loose): mount it with cache=strict");
const CIFS: Remark = warning(
    "SMB: locks are those of the server, and hard links depend on it: try it from each machine \
     with --peer; NFS 4 is the better choice",
);
const LUSTRE_LOCAL: Remark =
    unfit("its locks are of each machine alone (localflock): mount it with flock");
const CLUSTER_LOCAL: Remark =
    unfit("its locks are of each machine alone (localflocks): mount it without this option");

/// What is known of a kind whatever its options.
const KINDS: &[(&str, Remark)] = &[
    ("overlay", OVERLAY),
    ("aufs", OVERLAY),
    ("tmpfs", MEMORY),
    ("ramfs", MEMORY),
    ("ceph", CEPH),
    ("fuse.ceph-fuse", CEPH),
    ("fuse.ceph", CEPH),
    ("fuse.glusterfs", GLUSTER),
    ("fuse.sshfs", unfit("sshfs keeps locks on each machine alone")),
    ("fuse.s3fs", OBJECTS),
    ("fuse.goofys", OBJECTS),
    ("fuse.gcsfuse", OBJECTS),
    ("fuse.blobfuse2", OBJECTS),
    ("fuse.rclone", OBJECTS),
    ("vboxsf", unfit("folders of VirtualBox have no locks across machines")),
    ("afs", unfit("AFS keeps locks of parts of a file on each machine alone")),
    ("9p", warning("9p: locks reach the host only with cache=none and a host that takes them")),
    ("virtiofs", warning("virtiofs: locks reach the host only where its daemon shares them")),
    ("beegfs", warning("BeeGFS: locks exclude across machines with tuneUseGlobalFileLocks=true")),
    ("vfat", NO_LINKS),
    ("exfat", NO_LINKS),
];
const OVERLAY: Remark = warning(
    "an overlay: each container with one of its own has another directory below the same name; \
     give the members a volume that they share",
);
const MEMORY: Remark = warning("it is in memory: all is gone with the machine");
const CEPH: Remark = note(
    "Ceph: locks exclude across machines; those of a machine that dies go with its session (60 s \
     and more), but a standby replaces it after ft_steal_after",
);
const GLUSTER: Remark = note(
    "Gluster: locks exclude across machines; a brick that dies holds up everything for \
     network.ping-timeout (42 s), which is longer than ft_steal_after",
);
const OBJECTS: Remark = unfit("an object store has neither locks nor appends");
const NO_LINKS: Remark = unfit("it has no hard links, by which epochs are claimed");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::base::random::Random;

    const LIST: &str = "\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 21 0:40 / /mnt rw,relatime - tmpfs tmpfs rw,size=4k
31 30 0:41 / /mnt/st\\040an rw,relatime shared:5 master:2 - nfs4 nas:/st\\040an \
rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1
nonsense
32 30 0:42 / /mnt/st\\040an ro - ext4
33 30 0:43 / /mnt/stand rw - xfs /dev/sdb rw
";

    fn mount(kind: &str, source: &str, options: &str) -> Mount {
        parsed(&format!("1 2 0:1 / /x rw - {kind} {source} {options}")).unwrap()
    }

    #[test]
    fn the_deepest_mount_above_a_path_is_found() {
        let kind_of = |path: &str| find(LIST, Path::new(path)).unwrap().kind;
        assert_eq!(kind_of("/var/lib/stanby"), "ext4");
        assert_eq!(kind_of("/mnt/st"), "tmpfs");
        assert_eq!(kind_of("/mnt/stand/data"), "xfs");
        let found = find(LIST, Path::new("/mnt/st an/data")).unwrap();
        assert_eq!((found.kind.as_str(), found.source.as_str()), ("nfs4", "nas:/st an"));
        assert_eq!(found.value("vers"), Some("4.2"));
        assert!(found.has("hard") && found.has("relatime") && !found.has("har"));
        assert_eq!(find("", Path::new("/")), None);
    }

    #[test]
    fn a_later_mount_hides_an_earlier_one() {
        let list = "1 1 0:1 / / rw - ext4 a rw\n2 1 0:2 / /m/x rw - tmpfs b rw\n\
                    3 1 0:3 / /m rw - xfs c rw\n";
        let kind_of = |path: &str| find(list, Path::new(path)).unwrap().kind;
        assert_eq!((kind_of("/m/x/y").as_str(), kind_of("/n").as_str()), ("xfs", "ext4"));
    }

    #[test]
    fn what_makes_locks_local_is_unfit() {
        let is_unfit = |kind: &str, options: &str| {
            let remarks = mount(kind, "nas:/x", options).remarks();
            remarks.iter().any(|remark| remark.weight == Weight::Unfit)
        };
        let table = [
            ("nfs4", "rw,vers=4.2,local_lock=none", false),
            ("nfs4", "rw,vers=4.2,local_lock=flock", false),
            ("nfs4", "rw,vers=4.2,local_lock=posix", true),
            ("nfs", "rw,vers=3,nolock,local_lock=all", true),
            ("nfs", "rw,vers=3", false),
            ("cifs", "rw,vers=3.1.1,cache=strict", false),
            ("cifs", "rw,nobrl", true),
            ("smb3", "rw,cache=loose", true),
            ("lustre", "rw,flock", false),
            ("lustre", "rw,localflock", true),
            ("gfs2", "rw,localflocks", true),
            ("fuse.sshfs", "rw", true),
            ("fuse.s3fs", "rw", true),
            ("fuse.glusterfs", "rw", false),
            ("ceph", "rw", false),
            ("ext4", "rw", false),
            ("ext4", "ro", true),
        ];
        for (kind, options, expected) in table {
            assert_eq!(is_unfit(kind, options), expected, "{kind} {options}");
        }
    }

    #[test]
    fn an_active_over_nfs_hears_of_its_successor_unless_absent_names_are_kept() {
        let is_warned =
            |options: &str| mount("nfs4", "nas:/x", options).remarks().contains(&NFS_ABSENT_NAMES);
        assert!(is_warned("rw,vers=4.2"));
        assert!(is_warned("rw,vers=4.2,lookupcache=all"));
        assert!(!is_warned("rw,vers=4.2,lookupcache=pos"));
        assert!(!is_warned("rw,vers=4.2,lookupcache=none"));
        assert!(!is_warned("rw,vers=4.2,noac"));
        assert!(!is_warned("rw,vers=4.2,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0"));
    }

    #[test]
    fn whatever_stands_in_the_list_is_survived() {
        let mut random = Random::new(7);
        let pieces = ["1 ", "- ", " - ", "nfs4 ", "\\04", "\\999 ", "/", "rw,", "=", "\n", "ß"];
        for _ in 0..2_000 {
            let count = random.below(24);
            let place = |random: &mut Random| usize::try_from(random.below(11)).unwrap();
            let list = (0..count).map(|_| pieces[place(&mut random)]).collect::<String>();
            let _ = find(&list, Path::new("/mnt/x")).map(|mount| mount.remarks());
        }
        assert_eq!(unescaped("a\\040b\\134c\\9"), "a b\\c\\9");
    }
}
