//! What a service manager is told, and the units that ask for it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/server.rs"]
#[allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
mod server;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::sys::signal::Signal;

use self::server::{Launch, PATIENCE};

/// The socket of a service manager.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { folder, socket }
    }

    fn starts(&self, launch: Launch) -> Launch {
        let path = self.folder.path().join("notify").display().to_string();
        launch.through(&["env", &format!("NOTIFY_SOCKET={path}")])
    }

    fn told(&self) -> String {
        let mut bytes = [0; 1_000];
        let len = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }
}

/// Goal: a container without any other program can be asked how its server is.
#[test]
fn a_health_check_needs_no_other_program() {
    let ask = |question: &str, port: u16| {
        let mut command = std::process::Command::new(server::binary());
        let output = command.args(["health", question, "-m", &port.to_string()]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let root = tempfile::tempdir().unwrap();
    let member = || Launch::new(&["-ft_group", "pair"]).file_store(Some(root.path()));
    let mut active = member().start();
    let standby = member().spawn();
    standby.log.wait("Starting in standby mode");
    for question in ["live", "ready", "active"] {
        let (is_good, said) = ask(question, active.launch.http);
        assert!(is_good, "{question}: {said}");
    }
    assert!(ask("live", standby.launch.http).0);
    let (is_good, said) = ask("active", standby.launch.http);
    assert!(!is_good && said.starts_with("503: "), "{said}");
    // Without a route it would serve nobody.
    let (is_good, said) = ask("ready", standby.launch.http);
    assert!(!is_good && said.contains("hears no heartbeat"), "{said}");
    active.stop(Signal::SIGTERM);
    let (is_good, said) = ask("live", active.launch.http);
    assert!(!is_good && said.contains("refused"), "{said}");
}

/// Goal: whoever waits for the start of a server goes on when that can serve, or take over.
#[test]
fn a_service_manager_is_told_when_a_server_is_ready_and_what_it_is() {
    let alone = Manager::new();
    let mut server = alone.starts(Launch::new(&[])).start();
    assert_eq!(alone.told(), "READY=1\nSTATUS=active");
    server.stop(Signal::SIGTERM);
    assert_eq!(alone.told(), "STOPPING=1\nSTATUS=stopping");
    alone.socket.set_nonblocking(true).unwrap();
    assert!(alone.socket.recv(&mut [0; 100]).is_err(), "nothing is said after that");

    let root = tempfile::tempdir().unwrap();
    let member = || Launch::new(&["-ft_group", "pair"]).file_store(Some(root.path()));
    let (first, second) = (Manager::new(), Manager::new());
    let mut active = first.starts(member()).start();
    assert_eq!(first.told(), "READY=1\nSTATUS=standby");
    assert_eq!(first.told(), "STATUS=active");
    let standby = second.starts(member()).spawn();
    assert_eq!(second.told(), "READY=1\nSTATUS=standby");
    active.kill();
    assert_eq!(second.told(), "STATUS=active");
    drop(standby);
}

/// Goal: a manager that is busy hears of it later: a unit would stay in its start for ever.
#[test]
fn a_service_manager_that_has_no_room_is_told_again() {
    let busy = Manager::new();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    let path = busy.folder.path().join("notify");
    let filled = (0..).take_while(|_| filler.send_to(b"x", &path).is_ok()).count();
    let server = busy.starts(Launch::new(&[])).start();
    for _ in 0..filled {
        assert_eq!(busy.told(), "x");
    }
    assert_eq!(busy.told(), "READY=1\nSTATUS=active");
    drop(server);
}

/// Goal: a manager that is gone, or never was, holds up nobody.
#[test]
fn a_service_manager_that_is_not_there_holds_up_no_start() {
    for socket in ["/nowhere/notify", "@nobody-listens", ""] {
        let launch = Launch::new(&[]).through(&["env", &format!("NOTIFY_SOCKET={socket}")]);
        let mut server = launch.start();
        assert_eq!(server.stop(Signal::SIGTERM), Some(143));
    }
}

/// Goal: a member of a pair is held as tightly as a single server.
#[test]
fn the_units_differ_in_what_they_name_only() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let unit = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let single = unit("stanby.service");
    let member = unit("stanby@.service");
    let settings = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.replace(" (%i)", "").replace("%i", "stanby")).collect::<Vec<_>>()
    };
    assert_eq!(settings(&single), settings(&member));
    assert!(single.contains("Type=notify\n") && single.contains("SuccessExitStatus=143\n"));
}
