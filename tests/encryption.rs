//! Encryption at rest by the real binary: what lies on the disk, which key reads it, who sees it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use crate::server::{Launch, Server};
use crate::stan::{NONE, Stan, all};

const KEY: &str = "correct horse battery staple";
const VARIABLE: &str = "NATS_STREAMING_ENCRYPTION_KEY";

/// A payload that nobody else has.
const SECRET: &str = "attack at dawn, by the river";

fn launch(root: &Path, flags: &[&str]) -> Launch {
    Launch::new(flags).file_store(Some(root))
}

fn stop(mut server: Server) {
    server.stop(Signal::SIGTERM);
}

/// Whether any file below `folder` has these bytes, with their number.
fn is_in_files(folder: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_in_files(&path, bytes);
        }
        fs::read(path).unwrap().windows(bytes.len()).any(|part| part == bytes)
    })
}

/// The payloads of a channel.
fn read(server: &Server, channel: &str, count: usize) -> Vec<String> {
    let mut stan = Stan::connect(server.launch.port, "reader");
    let deliveries = stan.replay(channel, count);
    let text = |data: &[u8]| String::from_utf8(data.to_vec()).unwrap();
    let read = deliveries.iter().map(|delivery| text(&delivery.message.data)).collect();
    stan.close().unwrap();
    read
}

fn write(server: &Server, channel: &str, payloads: &[&str]) {
    let mut stan = Stan::connect(server.launch.port, "writer");
    for payload in payloads {
        stan.publish(channel, payload).unwrap();
    }
    stan.close().unwrap();
}

/// Goal: what is published lies on no disk as it is, and comes back; with either cipher selected,
/// beside what was written in clear and with the other one; an empty payload stays empty.
#[test]
fn payloads_are_stored_encrypted_and_delivered_in_clear() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let server = launch(root, &[]).start();
    write(&server, "orders", &["clear"]);
    stop(server);
    let aes = launch(root, &["-encryption_cipher", "aes", "-encryption_key", KEY]);
    let server = aes.start();
    write(&server, "orders", &[SECRET, ""]);
    assert_eq!(read(&server, "orders", 3), ["clear", SECRET, ""]);
    stop(server);
    let chacha = launch(root, &["-encrypt", "-encryption_cipher", "CHACHA"]);
    let server = chacha.through(&["env", &format!("{VARIABLE}={KEY}")]).start();
    write(&server, "orders", &[SECRET]);
    assert_eq!(read(&server, "orders", 4), ["clear", SECRET, "", SECRET]);
    stop(server);
    assert!(is_in_files(root, b"clear") && !is_in_files(root, SECRET.as_bytes()));
    let server = aes.start();
    assert_eq!(read(&server, "orders", 4), ["clear", SECRET, "", SECRET], "after a restart");
    assert!(!server.log.text().contains("crypted"), "{}", server.log.text());
}

/// Goal: with another key a server starts and says so, and delivers nothing that it cannot read,
/// with the Go server's line.
#[test]
fn another_key_reads_nothing_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let server = launch(root.path(), &["-encryption_key", KEY]).start();
    write(&server, "orders", &["a", "b"]);
    stop(server);
    let server = launch(root.path(), &["-encryption_key", "another"]).start();
    let line = server.log.wait("The messages of channel orders cannot be decrypted with this key");
    assert!(line.contains("[WRN]"), "{line}");
    let mut stan = Stan::connect(server.launch.port, "me");
    let sub = stan.subscribe(all("orders"));
    let text = "Error looking up message orders:1 (cipher: message authentication failed)";
    let line = server.log.wait(text);
    assert!(line.contains("[ERR]"), "{line}");
    stan.publish("orders", "c").unwrap();
    assert_eq!(stan.quiet(&sub, Duration::from_millis(300)), NONE);
    stop(server);
    // Nothing is lost by it.
    let server = launch(root.path(), &["-encryption_key", KEY]).start();
    assert_eq!(read(&server, "orders", 2), ["a", "b"]);
}

/// Goal: nobody serves ciphertext without having been told.
#[test]
fn a_store_that_is_encrypted_is_not_opened_without_a_key_in_silence() {
    let root = tempfile::tempdir().unwrap();
    let server = launch(root.path(), &["-encryption_key", KEY]).start();
    write(&server, "orders", &["a"]);
    stop(server);
    let server = launch(root.path(), &[]).start();
    let line = server.log.wait("The messages of channel orders look encrypted");
    assert!(line.contains("[WRN]") && line.contains("-encryption_key"), "{line}");
}

#[test]
fn a_start_without_a_key_or_with_a_wrong_cipher_ends_as_the_go_servers() {
    let root = tempfile::tempdir().unwrap();
    for (flags, text) in [
        (&["-encrypt"][..], "encryption key required"),
        (&["-encrypt", "-ft_group", "g"], "encryption key required"),
        (
            &["-encryption_key", KEY, "-encryption_cipher", "rot13"],
            "encryption cipher not supported",
        ),
    ] {
        let mut server = launch(root.path(), flags).run();
        assert_eq!(server.wait_exit().code(), Some(1), "{flags:?}");
        let wanted = format!("[FTL] STREAM: Failed to start: {text}");
        assert!(server.log.text().ends_with(&wanted), "{flags:?}: {}", server.log.text());
    }
}

/// Goal: limits in bytes hold by what is stored, as with the Go server.
#[test]
fn sizes_are_those_of_what_is_stored() {
    let stored = |flags: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        let server = launch(root.path(), flags).start();
        write(&server, "orders", &["a", "", "bcd"]);
        server.json("/streaming/channelsz?channel=orders&subs=0")["bytes"].as_u64().unwrap()
    };
    let (clear, encrypted) = (stored(&[]), stored(&["-encryption_key", KEY]));
    assert_eq!(encrypted, clear + 2 * 29);
}

/// How often these bytes stand in the memory of a process.
fn count_in_memory(pid: u32, bytes: &[u8]) -> usize {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let regions = maps.lines().filter(|line| line.contains(" rw"));
    let count = |line: &str| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut region = vec![0; usize::try_from(end - start).unwrap()];
        // What is reserved only cannot be read, and holds nothing.
        match memory.read_exact_at(&mut region, start) {
            Ok(()) => memchr::memmem::find_iter(&region, bytes).count(),
            Err(_) => 0,
        }
    };
    regions.map(count).sum()
}

/// Goal: whichever way the key came, once a server serves its memory has neither it nor what is
/// made of it, but for what the cipher itself keeps; nor does `ps` show it, or any page or line.
#[test]
fn the_memory_of_a_server_has_no_key() {
    let master: [u8; 32] = Sha256::digest(KEY).into();
    let prefix = [0; 32 + 1 + "orders".len()];
    let channel: [u8; 32] = Sha256::digest([&prefix[..], &master, b".", b"orders"].concat()).into();
    let assigned = format!("{VARIABLE}={KEY}");
    for (way, launch) in [
        ("two arguments", Launch::new(&["-encryption_key", KEY])),
        ("one argument", Launch::new(&[&format!("--encryption_key={KEY}")])),
        ("variable", Launch::new(&["-encrypt"]).through(&["env", &assigned])),
        ("file", Launch::new(&[]).config(&format!("encryption_key: \"{KEY}\"\nport: -1\n"))),
    ] {
        for cipher in ["AES", "CHACHA"] {
            let launch = launch.clone().arg("-encryption_cipher").arg(cipher);
            let server = launch.start();
            write(&server, "orders", &[SECRET]);
            let of = |bytes: &[u8]| count_in_memory(server.pid(), bytes);
            assert_ne!(of(SECRET.as_bytes()), 0, "{way}, {cipher}: a message is found");
            assert_eq!(of(KEY.as_bytes()), 0, "{way}, {cipher}: what was given");
            assert_eq!(of(&master), 0, "{way}, {cipher}: its digest");
            assert!(of(&channel) <= 1, "{way}, {cipher}: {} keys of a channel", of(&channel));
            for file in ["cmdline", "environ"] {
                let shown = fs::read(format!("/proc/{}/{file}", server.pid())).unwrap();
                assert!(memchr::memmem::find(&shown, KEY.as_bytes()).is_none(), "{way}: {file}");
            }
            for page in ["/varz", "/streaming/serverz", "/streaming/storez"] {
                assert!(!server.json(page).to_string().contains(KEY), "{way}: {page}");
            }
            server.signal(Signal::SIGHUP);
            if way == "file" {
                server.log.wait("Reloaded server configuration");
                assert_eq!(of(KEY.as_bytes()), 0, "{way}, {cipher}: after a reload");
            }
            assert_eq!(read(&server, "orders", 1), [SECRET], "{way}, {cipher}");
            assert!(!server.log.text().contains(KEY), "{way}, {cipher}");
        }
    }
}
