//! A full disk: publishes are refused, deliveries go on, and service resumes by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::left_out;
use crate::server::{Launch, Server, wait_for};
use crate::stan::{Stan, all, sequences};

/// A small file system, gone at the end.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// In memory; `None` where this process may not mount, which is said at the end.
    fn mount() -> Option<Self> {
        Self::mount_with(|mount| mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]))
    }

    /// With blocks, names and a journal as disks have them; the image is kept in `image`.
    fn mount_ext4(image: &Path) -> Option<Self> {
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-m", "0"]).arg(image).arg("6M");
        if !make.status().is_ok_and(|status| status.success()) {
            left_out::note("mkfs.ext4");
            return None;
        }
        Self::mount_with(|mount| mount.args(["-t", "ext4", "-o", "loop"]).arg(image))
    }

    fn mount_with(fill: impl FnOnce(&mut Command) -> &mut Command) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let status = fill(&mut mount).arg(folder.path()).status();
        if !status.is_ok_and(|status| status.success()) {
            left_out::note("the right to mount small file systems");
            return None;
        }
        Some(Self { folder })
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Leaves no free block.
    fn fill(&self) {
        let chunk = vec![0; 4_096];
        let mut file = fs::File::create(self.ballast()).unwrap();
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount works whoever still looks at it.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn start(store: &Path, loops: u16) -> (Launch, Server, Stan) {
    let launch = Launch::new(&["-mc", "0"]).file_store(Some(store)).loops(loops);
    let server = launch.start();
    let stan = Stan::connect(launch.port, "writer");
    (launch, server, stan)
}

#[test]
fn a_full_disk_refuses_publishes_and_nothing_else() {
    for loops in crate::server::LOOPS {
        let Some(disk) = SmallDisk::mount() else { return };
        let (launch, mut server, mut stan) = start(&disk.store(), loops);
        let mut acked: Vec<u64> = Vec::new();
        let mut number = 0;
        let mut publish = |stan: &mut Stan, acked: &mut Vec<u64>| {
            number += 1;
            let data = [number.to_string().into_bytes(), vec![b' '; 3_000]].concat();
            let result = stan.publish("full", data);
            if result.is_ok() {
                acked.push(number);
            }
            result
        };
        for _ in 0..20 {
            publish(&mut stan, &mut acked).unwrap();
        }
        disk.fill();
        let mut refusals = Vec::new();
        for _ in 0..40 {
            refusals.extend(publish(&mut stan, &mut acked).err());
        }
        assert!(20 <= refusals.len(), "{refusals:?}");
        assert!(refusals.iter().all(|text| text.contains("no space left")), "{refusals:?}");
        assert!(server.is_running(), "a full disk does not end it");
        let sub = stan.subscribe(all("full"));
        let found = stan.take(&sub, acked.len());
        assert!(sequences(&found).into_iter().eq(1..=acked.len() as u64), "deliveries go on");
        found.iter().for_each(|delivery| stan.ack(&sub, delivery.message.sequence));
        disk.free();
        wait_for("service to resume by itself", || publish(&mut stan, &mut acked).ok());
        for _ in 0..10 {
            publish(&mut stan, &mut acked).unwrap();
        }
        server.kill();
        drop(stan);
        let _server = launch.start();
        let mut stan = Stan::connect(launch.port, "reader");
        let found = stan.replay("full", acked.len());
        let data: Vec<u64> = found
            .iter()
            .map(|d| String::from_utf8_lossy(&d.message.data).trim().parse().unwrap())
            .collect();
        assert_eq!(data, acked, "what was acknowledged, and in that order");
        let more = stan.publish("full", "the end");
        assert_eq!(more, Ok(()));
    }
}

/// Goal: where limits remove old slices on a full disk, what is acknowledged is kept, and what is
/// refused is not, in two channels and over a kill.
#[test]
fn limits_and_small_slices_on_a_full_disk() {
    const KEPT: usize = 30;
    let image = tempfile::NamedTempFile::new().unwrap();
    let Some(disk) = SmallDisk::mount_ext4(image.path()).or_else(SmallDisk::mount) else { return };
    let args = ["-mc", "0", "-mm", "30", "-file_slice_max_msgs", "5"];
    let launch = Launch::new(&args).file_store(Some(&disk.store()));
    let mut server = launch.start();
    let mut stan = Stan::connect(launch.port, "writer");
    let mut acked: [Vec<u64>; 2] = Default::default();
    let channels = ["first", "second"];
    let mut number = 0;
    let mut publish = |stan: &mut Stan, acked: &mut [Vec<u64>; 2], len: usize| {
        let mut refused = 0;
        for (channel, acked) in channels.iter().zip(acked) {
            number += 1;
            let data = [number.to_string().into_bytes(), vec![b' '; len]].concat();
            match stan.publish(channel, data) {
                Ok(()) => acked.push(number),
                Err(_) => refused += 1,
            }
        }
        refused
    };
    for _ in 0..40 {
        assert_eq!(publish(&mut stan, &mut acked, 3_000), 0);
    }
    disk.fill();
    let mut refused = 0;
    for round in 0..60 {
        // Long and short ones in turns: some find room where others do not.
        refused += publish(&mut stan, &mut acked, if round % 3 == 0 { 30 } else { 9_000 });
    }
    assert!(0 < refused, "the disk was full");
    assert!(server.is_running(), "a full disk does not end it");
    disk.free();
    wait_for("service to resume by itself", || {
        (publish(&mut stan, &mut acked, 3_000) == 0).then_some(())
    });
    server.kill();
    drop(stan);
    let _server = launch.start();
    let mut stan = Stan::connect(launch.port, "reader");
    for (channel, acked) in channels.iter().zip(&acked) {
        let expected = &acked[acked.len() - KEPT..];
        let found = stan.replay(channel, KEPT);
        let data: Vec<u64> = found
            .iter()
            .map(|d| String::from_utf8_lossy(&d.message.data).trim().parse().unwrap())
            .collect();
        assert_eq!(data, expected, "{channel}: what was acknowledged, and in that order");
        assert_eq!(stan.publish(channel, "the end"), Ok(()));
    }
}

/// Goal: a first start on a full disk says so and serves once there is room.
#[test]
fn a_start_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount() else { return };
    disk.fill();
    let launch = Launch::new(&[]).file_store(Some(&disk.store()));
    let mut server = launch.spawn();
    let line = wait_for("a word about the disk, or the end", || {
        let text = server.log.text();
        let found = text.lines().find(|line| line.to_lowercase().contains("no space left"));
        found.map(str::to_owned).or_else(|| (!server.is_running()).then(|| text.clone()))
    });
    assert!(line.to_lowercase().contains("no space left"), "{line}");
    disk.free();
    if server.is_running() {
        server.log.wait(crate::server::READY);
    } else {
        assert_eq!(server.wait_exit().code(), Some(1));
        server = launch.start();
    }
    Stan::connect(launch.port, "late").publish("foo", "x").unwrap();
    drop(server);
}
