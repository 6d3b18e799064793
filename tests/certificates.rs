//! Certificates of every kind, as a server's own and as those of its peers, and what the Go server
//! says of each: recorded in `tests/data/certificates.txt`.
//!
//! `STANBY_RECORD` names a Go `nats-streaming-server` whose answers are written there instead.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "certificates/made.rs"]
mod made;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use made::{Made, Recipe, SHOWN, SHOWN_TOO};

/// Versions of TLS: the word for openssl, and ours.
const VERSIONS: [(&str, &str); 2] = [("-tls1_2", "1.2"), ("-tls1_3", "1.3")];

/// The line of the log that names the port for clients.
const CLIENTS: &str = "Listening for client connections on ";

/// How many peers are dialled by one server.
const DIALLED_AT_ONCE: usize = 30;

/// What the Go server takes and this one does not, and what it does instead.
const EXCEPTIONS: [(&str, &str); 14] = [
    // RSA below 2,048 bits is refused, with the command that makes a better key.
    ("own rsa1024", "refused"),
    ("own self-rsa1024", "refused"),
    ("own v1-rsa1024", "refused"),
    ("client rsa1024", "no"),
    ("client self-rsa1024", "no"),
    ("client v1-rsa1024", "no"),
    ("client of-rsa1024", "no"),
    ("dialled rsa1024", "no"),
    ("dialled self-rsa1024", "no"),
    ("dialled of-rsa1024", "no"),
    // So is P-224.
    ("client p224", "no"),
    ("client of-p224", "no"),
    ("dialled of-p224", "no"),
    // Below another certificate than one of the file, version 1 is refused.
    ("client v1-through", "no"),
];

/// The same of a certificate that says that it is an authority itself.
const AUTHORITIES_THROUGH: [&str; 2] = ["client ca-through", "dialled ca-through"];

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("stanby-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server under test; killed when it goes out of scope.
struct Server {
    child: Child,
    lines: Option<BufReader<std::process::ChildStderr>>,
    log: String,
}

impl Server {
    fn start(folder: &Folder, config: &str) -> Self {
        let root = folder.0.join("store");
        let _ = fs::remove_dir_all(&root);
        let path = folder.0.join("server.conf");
        fs::write(&path, config).unwrap();
        let own = env::var_os("STANBY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_stanby").into());
        let program = env::var_os("STANBY_RECORD").unwrap_or(own);
        let mut child = Command::new("timeout")
            .arg("600")
            .arg(program)
            .args(["-a", "127.0.0.1", "-p", "-1", "-c", path.to_str().unwrap()])
            .args(["-store", "file", "-dir", root.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines: Some(lines), log: String::new() }
    }

    /// The port at the end of the line that contains `text`; `None` if the server ends without it.
    fn port(&mut self, text: &str) -> Option<u16> {
        loop {
            let mut line = String::new();
            if self.line(&mut line) == 0 {
                return None;
            }
            self.log += &line;
            if let Some((_, port)) = line.split_once(text) {
                return port.trim().rsplit(':').next().unwrap().parse().ok();
            }
        }
    }

    fn line(&mut self, line: &mut String) -> usize {
        self.lines.as_mut().unwrap().read_line(line).unwrap()
    }

    fn client_port(&mut self) -> Option<u16> {
        let port = self.port(CLIENTS);
        port.filter(|_| self.port_line("Streaming Server is ready"))
    }

    fn port_line(&mut self, text: &str) -> bool {
        let mut line = String::new();
        while self.line(&mut line) != 0 {
            self.log += &line;
            if line.contains(text) {
                return true;
            }
            line.clear();
        }
        false
    }

    /// Reads the rest of the log beside the test, so that the pipe never fills.
    fn drain(&mut self) {
        let mut lines = self.lines.take().unwrap();
        thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // `timeout` passes this signal on.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// A port that answers a client of TLS with what `server` says behind its INFO.
fn relay(server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", server)).unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            server.read_exact(&mut byte).unwrap();
        }
        let (to, from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || pass(client, server));
        pass(from, to);
    });
    port
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Whether openssl, with these words, gets a PONG of the server at `port`.
fn talks(port: u16, words: &[&str]) -> bool {
    let place = format!("127.0.0.1:{}", relay(port));
    let mut child = openssl("s_client", &["-connect", &place], words);
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n");
    let is_heard = says(&mut child, "PONG");
    drop(stdin);
    is_heard
}

fn openssl(command: &str, place: &[&str], words: &[&str]) -> Child {
    let mut openssl = Command::new("timeout");
    openssl.args(["30", "openssl", command]).args(place).args(words);
    openssl.args(["-cipher", "DEFAULT@SECLEVEL=0", "-quiet"]);
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    openssl.spawn().unwrap()
}

/// Whether `text` is in what a process writes; it is ended then.
fn says(child: &mut Child, text: &str) -> bool {
    let mut stdout = child.stdout.take().unwrap();
    let (mut seen, mut chunk) = (String::new(), [0; 4096]);
    let mut is_said = false;
    while let Ok(len @ 1..) = stdout.read(&mut chunk) {
        seen += &String::from_utf8_lossy(&chunk[..len]);
        is_said = seen.contains(text);
        if is_said {
            break;
        }
    }
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
    is_said
}

fn joined(versions: impl Iterator<Item = &'static str>) -> String {
    let versions: Vec<&str> = versions.collect();
    if versions.is_empty() { "no".to_owned() } else { versions.join("+") }
}

fn tls(made: &Made, recipe: &Recipe, more: &str) -> String {
    let (cert, key) = (made.path(&format!("{}.pem", recipe.name)), made.key_of(recipe));
    let ca = made.path("ca.pem");
    format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{ca}\"{more} }}\n")
}

/// Lets the Go server's streaming part, which is a client of its core, in.
fn streaming(made: &Made) -> String {
    let (cert, key) = (made.path("rsa2048.pem"), made.key_of(usual()));
    format!(
        "streaming {{ secure: true, tls {{ client_cert: \"{cert}\", client_key: \"{key}\", \
         skip_verify: true }} }}\n"
    )
}

fn shown() -> impl Iterator<Item = &'static Recipe> {
    SHOWN.iter().chain(&SHOWN_TOO)
}

fn usual() -> &'static Recipe {
    shown().find(|recipe| recipe.name == "rsa2048").unwrap()
}

/// What the server does with each certificate as its own.
fn as_own(made: &Made, folder: &Folder) -> BTreeMap<String, String> {
    let answer = |recipe: &Recipe| {
        let mut server = Server::start(folder, &(tls(made, recipe, "") + &streaming(made)));
        let Some(port) = server.client_port() else { return "refused".to_owned() };
        server.drain();
        let talks = |word: &str| talks(port, &[word]);
        joined(VERSIONS.iter().filter(|(word, _)| talks(word)).map(|(_, version)| *version))
    };
    // What a peer would refuse is not the server's business.
    let is_asked = |recipe: &&Recipe| {
        let stems = ["rsa", "p", "sec", "ed", "v1", "self", "bare", "ca", "expired", "through"];
        stems.iter().any(|stem| recipe.name.starts_with(stem))
    };
    shown()
        .filter(is_asked)
        .map(|recipe| (format!("own {}", recipe.name), answer(recipe)))
        .collect()
}

/// Whether the server takes each certificate from a client.
fn as_client(made: &Made, folder: &Folder) -> BTreeMap<String, String> {
    let mut server = Server::start(
        folder,
        &(tls(made, usual(), ", verify: true, timeout: 20") + &streaming(made)),
    );
    let port = server.client_port().unwrap_or_else(|| panic!("{}", server.log));
    server.drain();
    let answer = |recipe: &Recipe| {
        let words = made.identity(recipe);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let talks = |word: &str| talks(port, &[&[word], &words[..]].concat());
        joined(VERSIONS.iter().filter(|(word, _)| talks(word)).map(|(_, version)| *version))
    };
    shown().map(|recipe| (format!("client {}", recipe.name), answer(recipe))).collect()
}

/// A free place below the ports that the system gives to others.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) + std::process::id();
        let port = u16::try_from(20_000 + step % 10_000).unwrap();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// Whether the server, which dials a route, takes each certificate from the one it dials.
fn as_dialled(made: &Made, folder: &Folder) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    let recipes: Vec<&Recipe> = shown().collect();
    for recipes in recipes.chunks(DIALLED_AT_ONCE / VERSIONS.len()) {
        let mut routes = Vec::new();
        let mut peers = Vec::new();
        for recipe in recipes {
            let words = made.identity(recipe);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            for (word, version) in VERSIONS {
                let free = free_address();
                let place = ["-accept", &free.to_string(), "-naccept", "1"].map(str::to_owned);
                let place: Vec<&str> = place.iter().map(String::as_str).collect();
                let words = [&[word], &words[..]].concat();
                peers.push((recipe.name, version, openssl("s_server", &place, &words)));
                routes.push(format!("nats-route://{free}"));
            }
        }
        let block = tls(made, usual(), ", timeout: 20");
        let routes = routes.join(", ");
        let text =
            format!("cluster {{ listen: \"127.0.0.1:-1\"\n{block}\nroutes = [ {routes} ] }}");
        let mut server = Server::start(folder, &text);
        assert!(server.port(CLIENTS).is_some(), "{}", server.log);
        server.drain();
        for (name, version, mut peer) in peers {
            let answer: &mut Vec<&str> = answers.entry(format!("dialled {name}")).or_default();
            if says(&mut peer, "CONNECT") {
                answer.push(version);
            }
        }
    }
    answers.into_iter().map(|(name, versions)| (name, joined(versions.into_iter()))).collect()
}

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/certificates.txt")
}

#[test]
fn each_certificate_counts_for_what_it_counts_with_the_go_server() {
    let folder = Folder::new("certificates");
    let made = Made::all(&folder.0);
    let found = thread::scope(|scope| {
        let own = scope.spawn(|| as_own(&made, &Folder::new("own")));
        let client = scope.spawn(|| as_client(&made, &Folder::new("client")));
        let mut found = as_dialled(&made, &Folder::new("dialled"));
        found.extend(own.join().unwrap());
        found.extend(client.join().unwrap());
        found
    });
    let text: String = found.iter().map(|(name, answer)| format!("{name}: {answer}\n")).collect();
    if env::var_os("STANBY_RECORD").is_some() {
        return fs::write(data(), text).unwrap();
    }
    let recorded = fs::read_to_string(data()).unwrap();
    let recorded: BTreeMap<&str, &str> =
        recorded.lines().map(|line| line.split_once(": ").unwrap()).collect();
    assert_eq!(recorded.len(), found.len());
    let through = AUTHORITIES_THROUGH.map(|name| (name, "no"));
    let exceptions: BTreeMap<&str, &str> = EXCEPTIONS.into_iter().chain(through).collect();
    let mut wrong = Vec::new();
    for (name, answer) in &found {
        let there = recorded[name.as_str()];
        let expected = *exceptions.get(name.as_str()).unwrap_or(&there);
        if answer != expected {
            wrong.push(format!("{name}: {answer}, expected {expected}, there {there}"));
        }
        if exceptions.get(name.as_str()) == Some(&there) {
            wrong.push(format!("{name} is no exception"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Goal: whoever has a certificate that is refused learns which one, and how to make a better one.
#[test]
fn what_is_refused_is_named_with_the_command_that_makes_a_good_one() {
    let folder = Folder::new("refused");
    let made = Made::some(&folder.0, &["root", "between", "rsa1024", "rsa2048", "v1-through"]);
    let named = |name: &str| shown().find(|recipe| recipe.name == name).unwrap();
    let mut server = Server::start(&folder, &tls(&made, named("rsa1024"), ""));
    assert_eq!(server.client_port(), None);
    for part in ["rsa1024.pem", "CN=rsa1024", "RSA key of 1024 bits", "openssl req -x509"] {
        assert!(server.log.contains(part), "{part}: {}", server.log);
    }
    let mut server = Server::start(&folder, &tls(&made, usual(), ", verify: true"));
    let port = server.client_port().unwrap();
    for (name, why) in [("v1-through", "X.509 version 1"), ("rsa1024", "RSA key of 1024 bits")] {
        let words = made.identity(named(name));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert!(!talks(port, &words), "{name}");
        assert!(server.port_line("TLS handshake error"), "{}", server.log);
        for part in [&format!("CN={name}"), why, "openssl req -x509"] {
            assert!(server.log.contains(part), "{part}: {}", server.log);
        }
    }
}

/// Goal: a page over HTTPS is shown to whoever has no certificate, also where clients need one.
#[test]
fn the_monitoring_pages_ask_nobody_for_a_certificate() {
    let folder = Folder::new("pages");
    let made = Made::some(&folder.0, &["root", "rsa2048"]);
    let text = format!(
        "https: \"127.0.0.1:-1\"\n{}{}",
        tls(&made, usual(), ", verify: true"),
        streaming(&made)
    );
    let mut server = Server::start(&folder, &text);
    let port = server.port("Starting https monitor on ").unwrap();
    let place = format!("127.0.0.1:{port}");
    let mut page = openssl("s_client", &["-connect", &place], &[]);
    let mut stdin = page.stdin.take().unwrap();
    stdin.write_all(b"GET /varz HTTP/1.0\r\n\r\n").unwrap();
    assert!(says(&mut page, "server_id"), "{}", server.log);
}
