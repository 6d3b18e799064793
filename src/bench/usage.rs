//! What a process has cost so far, as the system counts it

use std::path::PathBuf;

use crate::base::files;

/// Bytes of a file of `/proc` that are read at most.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Seconds of CPU time, its own and the kernel's for it.
    pub(crate) cpu_seconds: f64,
    /// The most memory that it had at once, in bytes.
    pub(crate) memory_peak: u64,
}

impl Usage {
    /// Of this process, or of another one on this machine; `None` if there is none such.
    pub(crate) fn of(pid: Option<u32>) -> Option<Self> {
        let folder = match pid {
            Some(pid) => PathBuf::from(format!("/proc/{pid}")),
            None => PathBuf::from("/proc/self"),
        };
        let read = |name: &str| files::read(&folder.join(name), FILE_LEN_MAX).ok();
        let (stat, status) = (read("stat")?, read("status")?);
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
        Self::parse(&String::from_utf8_lossy(&stat), &String::from_utf8_lossy(&status), ticks)
    }

    /// Of the two files of `/proc`, and how many ticks a second has.
    fn parse(stat: &str, status: &str, ticks_per_second: i64) -> Option<Self> {
        // The name of the program may hold blanks and brackets.
        let (_, behind) = stat.rsplit_once(')')?;
        let mut fields = behind.split_ascii_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u32>().ok();
        let ticks = f64::from(ticks()?) + f64::from(ticks()?);
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let per_second = f64::from(i32::try_from(ticks_per_second).ok()?);
        Some(Self { cpu_seconds: ticks / per_second, memory_peak: kilobytes * 1024 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_what_it_cost() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        let found = Usage::parse(stat, "Name:\ta\nVmHWM:\t    2048 kB\n", 100);
        assert_eq!(found, Some(Usage { cpu_seconds: 2.0, memory_peak: 2 << 20 }));
        assert_eq!(Usage::parse("", "", 100), None);
        assert!(Usage::of(None).is_some_and(|usage| 0 < usage.memory_peak));
    }
}
