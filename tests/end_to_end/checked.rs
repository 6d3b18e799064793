//! What `-t` says, a start would say too: both ask the same steps of the same machine.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::server::binary;

/// A folder with certificates, a file where a folder is wanted, and no folder `none`.
fn surroundings() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    write("cert.pem", &own.cert.pem());
    write("key.pem", &own.signing_key.serialize_pem());
    write("other.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    write("file", "no folder");
    fs::create_dir(folder.path().join("folder")).unwrap();
    folder
}

fn run(name: &str, folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.arg0(name).args(args).args(["-c", "f.conf"]).current_dir(folder);
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// What keeps a server from starting, and a part of the line that says so.
const HINDRANCES: [(&str, &str); 24] = [
    ("tls { cert_file: cert.pem, key_file: other.pem }", "tls: private key does not match"),
    ("tls { cert_file: cert.pem, key_file: file }", "tls: failed to find any PEM data in key"),
    ("tls { cert_file: cert.pem, key_file: none }", "open none: no such file or directory"),
    (
        "tls { cert_file: cert.pem, key_file: key.pem, ca_file: file }",
        "failed to parse root ca certificate",
    ),
    (
        "cluster { port: -1, tls { cert_file: cert.pem, key_file: other.pem } }",
        "tls: private key does not match",
    ),
    (
        "streaming { store: sql, sql { driver: mysql, source: \"u:p@127.0.0.1:3306/db\" } }",
        "invalid SQL source for driver mysql",
    ),
    (
        "streaming { store: sql, sql { driver: postgres, source: \"readTimeout=abc\" } }",
        "unable to parse readTimeout",
    ),
    (
        "streaming { store: file, dir: file }",
        "unable to create the root directory [file]: mkdir file: not a directory",
    ),
    (
        "streaming { store: file, dir: \"file/below/it\" }",
        "unable to create the root directory [file/below/it]: mkdir file: not a directory",
    ),
    ("streaming { store: file, dir: \"/dev/null/d\" }", "[/dev/null/d]: mkdir /dev/null: not a"),
    ("streaming { store: file }", "root directory must be specified"),
    ("log_file: \"none/log\"", "error opening file: open none/log: no such file or directory"),
    ("log_file: folder", "error opening file: open folder: is a directory"),
    ("pid_file: \"none/pid\"", "Could not write pidfile: open none/pid: no such file or directory"),
    ("remote_syslog: \"tcp://127.0.0.1:1\"", "error connecting to syslog"),
    ("remote_syslog: \"gopher://127.0.0.1:1\"", "error invalid network type: \"gopher\""),
    ("remote_syslog: \"unix://none\"", "error connecting to syslog"),
    ("host: \"192.0.2.1\"", "cannot assign requested address"),
    ("http: \"192.0.2.1:8222\"", "Can't start monitoring: can't listen to the monitor port"),
    ("cluster { listen: \"192.0.2.1:6222\" }", "Error listening on router port: 6222"),
    ("cluster { port: 70000 }", "70000: invalid port"),
    ("http: 70000", "70000: invalid port"),
    ("http: 8222\nhttps: 8223", "can't specify both HTTP (8222) and HTTPs (8223) ports"),
    ("https: 8223", "TLS cert and key required for HTTPS"),
];

#[test]
fn whatever_keeps_a_server_from_starting_is_told_by_a_check_in_the_same_words() {
    let folder = surroundings();
    for (file, part) in HINDRANCES {
        fs::write(folder.path().join("f.conf"), format!("port: -1\n{file}\n")).unwrap();
        for name in ["nats-streaming-server", "nats-server"] {
            if name == "nats-server" && file.starts_with("streaming") {
                continue;
            }
            let (code, checked) = run(name, folder.path(), &["-t"]);
            assert_eq!(code, Some(1), "{name} -t, {file}: {checked}");
            let said = checked.trim_end().lines().last().unwrap_or_default();
            assert!(said.contains(part), "{file}: {checked}");
            assert!(said.contains("f.conf:2") || said.contains("f.conf:3"), "{file}: {checked}");
            let (code, started) = run(name, folder.path(), &[]);
            assert_eq!(code, Some(1), "{name}, {file}: {started}");
            let said = said.strip_prefix("nats-server: ").unwrap_or(said);
            // What the machine refuses is said without a place by a start, as there.
            let said = said.rsplit_once(" (f.conf:").map_or(said, |(text, _)| text);
            assert!(started.contains(said), "{file}: {said} is not in {started}");
        }
    }
}

/// Goal: a check is made beside the running server, and leaves no trace.
#[test]
fn what_starts_is_valid_and_a_check_makes_nothing() {
    let folder = surroundings();
    let holder = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let listed = |folder: &Path| {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    for file in [
        format!("port: {port}"),
        format!("port: -1\nhttp: {port}"),
        "port: -1\nstreaming { store: file, dir: \"new/below\" }".to_owned(),
        "port: -1\nstreaming { store: file, dir: folder }".to_owned(),
        "port: -1\nlog_file: log\npid_file: pid\nports_file_dir: none".to_owned(),
        "port: -1\ntls { cert_file: cert.pem, key_file: key.pem }".to_owned(),
        "port: -1\nremote_syslog: \"udp://127.0.0.1:1\"".to_owned(),
        "port: -1\nstreaming { store: file, dir: new, ft_group: a }".to_owned(),
    ] {
        fs::write(folder.path().join("f.conf"), &file).unwrap();
        let before = listed(folder.path());
        let (code, said) = run("nats-streaming-server", folder.path(), &["-t"]);
        assert_eq!(code, Some(0), "{file}: {said}");
        assert!(said.contains("configuration file f.conf is valid"), "{said}");
        assert_eq!(listed(folder.path()), before, "{file}");
    }
    drop(holder);
    let sql = "port: -1\nstreaming { store: sql, sql { driver: mysql, source: \"u@tcp(a:1)/d\" } }";
    fs::write(folder.path().join("f.conf"), sql).unwrap();
    let (code, said) = run("nats-streaming-server", folder.path(), &["-t"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("is valid; ask the database with: stanby sql check\n"), "{said}");
}
