//! The one place that reads the machine's clock and entropy, and its limits; for shell only.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{AccessFlags, eaccess};
use zeroize::Zeroize as _;

use crate::base::descriptors::Plan;
use crate::base::files::{self, Access, Links};
use crate::base::time::{Instant, Now, WallTime};

thread_local! {
    static SIMULATED: Cell<Option<Now>> = const { Cell::new(None) };
}

/// From now on the clocks of this thread show `now`, until they are set again; `None`: the
/// machine's. For simulations, which set it on each of their threads.
pub fn simulate(now: Option<Now>) {
    SIMULATED.set(now);
}

/// Both clocks, now.
///
/// # Panics
/// When the kernel has no boot-time or real-time clock, which no supported system lacks.
#[must_use]
pub fn now() -> Now {
    if let Some(now) = SIMULATED.get() {
        return now;
    }
    let wall = clock_gettime(ClockId::CLOCK_REALTIME).expect("every Linux has a real-time clock");
    let wall_nanos = Duration::from(wall).as_nanos();
    Now { at: instant(), wall: WallTime(i64::try_from(wall_nanos).unwrap_or(i64::MAX)) }
}

/// The boot-time clock, now. It goes on while the machine is suspended.
///
/// # Panics
/// When the kernel has no boot-time clock, which no supported system lacks.
#[must_use]
pub fn instant() -> Instant {
    if let Some(now) = SIMULATED.get() {
        return now.at;
    }
    let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has a boot-time clock");
    Instant(u64::try_from(Duration::from(boot).as_nanos()).unwrap_or(u64::MAX))
}

/// A seed from the machine's entropy.
///
/// # Errors
/// When the entropy source cannot be read.
pub fn entropy() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Writes over what the kernel shows of this process to others: parts of its last `count` arguments
/// (of which one, and from which byte on), and the value of a variable of its environment. Both
/// keep their lengths.
///
/// # Errors
/// When the kernel does not say where they are, or does not let them be written.
pub fn cover_start(count: usize, parts: &[(usize, usize)], variable: &str) -> io::Result<()> {
    let mut stat = Vec::new();
    File::open("/proc/self/stat")?.read_to_end(&mut stat)?;
    let memory = files::open(Path::new("/proc/self/mem"), Access::Update, Links::Followed)?;
    // The name in brackets may hold anything; the third field is the first behind it.
    let fields = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    let fields: Vec<u64> = String::from_utf8_lossy(fields)
        .split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    let texts = |field: usize| -> io::Result<Vec<(u64, Vec<u8>)>> {
        let (start, end) = (fields.get(field - 3), fields.get(field - 2));
        let (Some(&start), Some(&end)) = (start, end) else { return Err(not_told()) };
        let len = end.checked_sub(start).filter(|_| start != 0).ok_or_else(not_told)?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| not_told())?];
        memory.read_exact_at(&mut bytes, start)?;
        let mut at = start;
        let texts = bytes.split(|byte| *byte == 0).map(|text| {
            let found = (at, text.to_vec());
            at += text.len() as u64 + 1;
            found
        });
        let texts = texts.collect();
        bytes.zeroize();
        Ok(texts)
    };
    let cover = |(at, mut text): (u64, Vec<u8>), from: usize| {
        let len = text.len().saturating_sub(from);
        text.zeroize();
        memory.write_all_at(&vec![b'x'; len], at + from as u64)
    };
    let mut arguments = texts(ARGUMENTS_FIELD)?;
    // Behind the last one's end there is nothing.
    arguments.pop();
    let others = arguments.len().saturating_sub(count);
    for (at, text) in arguments.into_iter().skip(others).enumerate() {
        let part = parts.iter().find(|(of, _)| *of == at);
        part.map_or(Ok(()), |(_, from)| cover(text, *from))?;
    }
    let name = format!("{variable}=");
    for text in texts(ENVIRONMENT_FIELD)? {
        if text.1.starts_with(name.as_bytes()) {
            cover(text, name.len())?;
        }
    }
    Ok(())
}

/// Where `/proc/self/stat` says, from 1, where the arguments begin, and the environment; their ends
/// are the next.
const ARGUMENTS_FIELD: usize = 48;
/// See [`ARGUMENTS_FIELD`].
const ENVIRONMENT_FIELD: usize = 50;

fn not_told() -> io::Error {
    io::Error::other("the kernel does not say where it is")
}

/// How the descriptors of this process are shared out.
#[must_use]
pub fn descriptor_plan() -> Plan {
    // A kernel that does not say has the usual limit.
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    Plan::of(limit)
}

/// Raises the number of descriptors that this process may have to what its user may give it: the
/// lower figure is for programs that cannot count beyond it.
///
/// # Errors
/// When the kernel refuses; the former figure stays.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Whether this user can write to the file `path`, or make it; nothing is made or opened.
///
/// # Errors
/// What opening it would say.
pub fn may_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => may(path, AccessFlags::W_OK),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            may_make_in(parent.unwrap_or(Path::new(".")))
        }
        Err(error) => Err(error),
    }
}

/// Whether this user can make something in the folder `path`.
///
/// # Errors
/// What making it would say.
pub fn may_make_in(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    may(path, AccessFlags::W_OK | AccessFlags::X_OK)
}

fn may(path: &Path, wanted: AccessFlags) -> io::Result<()> {
    eaccess(path, wanted).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn whether_a_file_can_be_written_is_told_without_making_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        may_write(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "text").unwrap();
        may_write(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"text");
        let told = |path: &Path| may_write(path).unwrap_err().kind();
        assert_eq!(told(folder.path()), io::ErrorKind::IsADirectory);
        assert_eq!(told(&folder.path().join("none/file")), io::ErrorKind::NotFound);
        assert_eq!(told(&path.join("file")), io::ErrorKind::NotADirectory);
    }
}
