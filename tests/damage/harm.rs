//! What can come to files: bits, cuts, holes, garbage; files that are missing, swapped, in the
//! place of others.

use std::fs;
use std::path::{Path, PathBuf};

use stanby::base::random::Random;

use crate::folders;

/// One thing that was done.
#[derive(Debug)]
pub struct Harm {
    /// For who reads of a failure.
    #[allow(dead_code, reason = "it is shown")]
    pub what: String,
    /// To which files, below the root.
    pub files: Vec<PathBuf>,
    /// Whether it leaves a trace for certain.
    pub is_certain: bool,
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound.max(1) as u64)).unwrap()
}

/// Files of a store and of ours, but for those that a repair has kept.
fn names(root: &Path) -> Vec<PathBuf> {
    let all = folders::files(root);
    let is_of_store = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        !name.contains("damaged") && !name.contains("cut.") && name != ".rootdir.lck"
    };
    let below_root = |path: PathBuf| path.strip_prefix(root).unwrap().to_owned();
    all.into_iter().filter(is_of_store).map(below_root).collect()
}

/// Whether every byte of it has a checksum or is compared with something.
fn is_checked(name: &Path) -> bool {
    let file = name.file_name().unwrap().to_string_lossy();
    file.ends_with(".dat") || file.ends_with(".idx") || file.starts_with(".stanby.deliveries.")
}

/// Does something to a store; `None` if what was drawn changes nothing.
pub fn harm(root: &Path, random: &mut Random) -> Option<Harm> {
    let names = names(root);
    if names.is_empty() {
        return None;
    }
    let name = names[below(random, names.len())].clone();
    match random.below(12) {
        0..=7 => within(root, &name, random),
        8 => swapped(root, &name, &names[below(random, names.len())]),
        9 => copied(root, &name, &names[below(random, names.len())]),
        10 => missing(root, &name),
        _ => slices(root, &name, random),
    }
}

/// Something happens to the bytes of one file.
fn within(root: &Path, name: &Path, random: &mut Random) -> Option<Harm> {
    let path = root.join(name);
    let mut bytes = fs::read(&path).unwrap();
    let before = bytes.clone();
    if bytes.is_empty() {
        return None;
    }
    let at = below(random, bytes.len());
    let end = (at + 1 + below(random, 600)).min(bytes.len());
    let kind = random.below(9);
    let mut drawn = || random.below(256).to_le_bytes()[0];
    let (what, is_cut) = match kind {
        0..=2 => {
            bytes[at] ^= 1 << (at % 8);
            (format!("bit {} of byte {at}", at % 8), false)
        }
        3 => {
            bytes.truncate(at);
            (format!("cut to {at} bytes"), true)
        }
        4 => {
            bytes[at..end].fill(0);
            (format!("zeros from {at} to {end}"), false)
        }
        5 => {
            bytes[at..end].iter_mut().for_each(|byte| *byte = drawn());
            (format!("garbage from {at} to {end}"), false)
        }
        6 => {
            let more: Vec<u8> = (at..end).map(|_| drawn()).collect();
            bytes.extend(more);
            (format!("{} bytes of garbage behind it", end - at), false)
        }
        7 => {
            drop(bytes.drain(at..end));
            (format!("without bytes {at} to {end}"), true)
        }
        _ => {
            for step in 0..12 {
                let len = bytes.len();
                bytes[(at + step * 37) % len] ^= 1;
            }
            (format!("twelve bits from byte {at} on"), false)
        }
    };
    if bytes == before {
        return None;
    }
    fs::write(&path, bytes).unwrap();
    let is_certain = !is_cut && is_checked(name);
    Some(Harm { what, files: vec![name.to_owned()], is_certain })
}

fn swapped(root: &Path, one: &Path, other: &Path) -> Option<Harm> {
    let (bytes, others) = (fs::read(root.join(one)).unwrap(), fs::read(root.join(other)).unwrap());
    if bytes == others {
        return None;
    }
    fs::write(root.join(one), others).unwrap();
    fs::write(root.join(other), bytes).unwrap();
    let files = vec![one.to_owned(), other.to_owned()];
    Some(Harm { what: "swapped".to_owned(), files, is_certain: false })
}

fn copied(root: &Path, to: &Path, from: &Path) -> Option<Harm> {
    let (bytes, others) = (fs::read(root.join(to)).unwrap(), fs::read(root.join(from)).unwrap());
    if bytes == others {
        return None;
    }
    fs::write(root.join(to), others).unwrap();
    let what = format!("{} in its place", from.display());
    Some(Harm { what, files: vec![to.to_owned()], is_certain: false })
}

fn missing(root: &Path, name: &Path) -> Option<Harm> {
    fs::remove_file(root.join(name)).unwrap();
    let file = name.file_name().unwrap().to_string_lossy().into_owned();
    let is_certain = file.ends_with(".dat") || file.ends_with(".idx");
    let is_empty_slice = file.starts_with("msgs.");
    let what = "missing".to_owned();
    let folder = root.join(name).parent().map(Path::to_owned).unwrap();
    // What is left of a channel without messages is as a creation that was killed leaves it.
    let is_emptied = fs::read_dir(folder).unwrap().next().is_none();
    // An index that names nothing and its data say nothing of a message.
    let is_certain = is_certain && !is_empty_slice && !is_emptied;
    Some(Harm { what, files: vec![name.to_owned()], is_certain })
}

/// Something happens to a slice as a whole, or to its channel.
fn slices(root: &Path, name: &Path, random: &mut Random) -> Option<Harm> {
    let folder = name.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let what = match random.below(4) {
        0 => {
            fs::remove_dir_all(root.join(folder)).unwrap();
            "its channel is gone"
        }
        1 => {
            let _ = fs::remove_file(root.join(name).with_extension("dat"));
            let _ = fs::remove_file(root.join(name).with_extension("idx"));
            "both files of it are gone"
        }
        2 => {
            let to = root.join(folder).join(format!("msgs.{}.dat", random.below(12)));
            fs::copy(root.join(name), to).unwrap();
            "it is there again as another slice"
        }
        _ => {
            let to = root.join(folder).join("msgs.x1.dat");
            fs::rename(root.join(name), to).unwrap();
            "it has a name that no slice can have"
        }
    };
    Some(Harm { what: what.to_owned(), files: vec![name.to_owned()], is_certain: false })
}
