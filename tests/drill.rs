//! `stanby drill` by the real binary: what holds, what does not, what is refused, and a Ctrl-C.
//!
//! `STANBY_DRILL=full`: all scenarios over each store that there is (`tests/run --full drill`).
//! With `--features planted` it shows that a member that acknowledges too early is found out.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/databases.rs"]
mod databases;
#[path = "support/server.rs"]
mod server;

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::server::{binary, free_port, wait_for};

/// A folder in which a drill has everything that it makes.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("drill").args(words).env("TMPDIR", self.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn drill(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// The folders of drills that were kept, or are under way.
    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        entries.filter(|path| name(path).starts_with("stanby-drill-")).collect()
    }

    fn write(&self, text: &str) -> String {
        let path = self.path().join("mine.toml");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A program that a shell runs.
    fn script(&self, text: &str) -> String {
        let path = self.path().join("server");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    /// Processes that were started with something of this folder among their words.
    fn processes(&self) -> Vec<String> {
        let name = self.path().display().to_string();
        let words = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(words);
        let all = all.map(|words| String::from_utf8_lossy(&words).replace('\0', " "));
        all.filter(|words| words.contains(&name)).collect()
    }
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

/// A drill that has to hold.
fn must_hold(room: &Room, words: &[&str]) -> Value {
    let output = room.drill(&[words, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output));
    let report = report(&output);
    assert_eq!((&report["held"], &report["found"]["lost"]), (&true.into(), &0.into()), "{report}");
    assert!(room.kept().is_empty(), "{:?}", room.kept());
    report
}

/// The shortest drill of a pair: the scenarios that ship take longer.
const ONE_KILL: &str = "steps = [\"wait until 50 acks\", \"kill -9 active\", \"wait until taken over\"]\n\
     expect = [\"lost = 0\", \"order = kept\", \"undelivered = 0\"]\n";

/// Goal: of a killed active nothing that was acknowledged is lost, and each form of the report says
/// so.
#[test]
fn a_pair_whose_active_is_killed_holds() {
    let room = Room::new();
    let (junit, page) = (room.path().join("drill.xml"), room.path().join("drill.html"));
    let names = (junit.display().to_string(), page.display().to_string());
    let words = ["--pair", "--rounds", "1", "--expect", "take_overs = 1"];
    let report =
        must_hold(&room, &[&words[..], &["--junit", &names.0, "--html", &names.1]].concat());
    assert_eq!((&report["members"], &report["store"]), (&2.into(), &"file".into()));
    let kills: Vec<&Value> =
        report["events"].as_array().unwrap().iter().filter(|it| it["disturbs"] == true).collect();
    assert_eq!(kills.len(), 1, "{report}");
    assert!(kills.iter().all(|kill| kill["first_ack_ms"].as_f64().unwrap() > 0.0), "{report}");
    assert!(report["found"]["acked"].as_u64().unwrap() >= 200);
    let junit = fs::read_to_string(junit).unwrap();
    assert!(junit.contains("failures=\"0\" errors=\"0\""), "{junit}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.contains("kill -9 active at "), "{page}");
    assert!(!page.contains("http://") && !page.contains("<script"), "it asks somebody");
}

/// Goal: a hand-over is a pause: no publish fails, none is stored twice, nobody connects anew.
#[test]
fn a_step_down_is_a_pause() {
    let report =
        must_hold(&Room::new(), &["step-down", "--rounds", "1", "--expect", "take_overs = 1"]);
    let found = &report["found"];
    assert_eq!(
        (&found["failed"], &found["twice"], &found["order"]),
        (&0.into(), &0.into(), &true.into())
    );
}

#[test]
fn a_pair_that_is_cut_in_two_holds() {
    let room = Room::new();
    let file = room.write(
        "steps = [\"wait until 200 acks\", \"partition\", \"wait 1s\", \"heal\", \"wait until ready\", \
         \"wait until 200 acks\"]\nexpect = [\"lost = 0\", \"order = kept\", \"take_overs = 0\"]\n\
         [clients]\npublishers = 2\n",
    );
    let report = must_hold(&room, &[&file]);
    // The client of the standby had no acks for as long as that was cut off.
    assert!(report["found"]["pause"].as_f64().unwrap() > 900.0, "{report}");
}

#[test]
fn a_pair_over_sqlite_holds() {
    let room = Room::new();
    let report = must_hold(&room, &[&room.write(ONE_KILL), "--store", "sqlite"]);
    assert_eq!((&report["store"], &report["found"]["take_overs"]), (&"sqlite".into(), &1.into()));
}

/// Goal: of two partitions over one external server each is killed in its turn, and what is
/// measured is that one: the other goes on, and its acks are no take-over.
#[test]
fn partitions_over_an_external_server_hold() {
    let room = Room::new();
    let file = room.write(&format!("rounds = 2\n{ONE_KILL}[clients]\nchannels = 2\n"));
    let program = binary().display().to_string();
    let report = must_hold(&room, &[&file, "--external", &program, "--partitions", "2"]);
    assert_eq!((&report["members"], &report["found"]["take_overs"]), (&4.into(), &2.into()));
    let events = report["events"].as_array().unwrap().iter();
    let times: Vec<f64> = events.filter_map(|event| event["first_ack_ms"].as_f64()).collect();
    // Acks of the other partition come every 10 ms.
    let longest = report["found"]["take_over"].as_f64().unwrap();
    assert!(times.len() == 2 && times.contains(&longest), "{report}");
    assert!(report["server"].as_str().unwrap().contains(", over stanby "), "{report}");
    let output = room.drill(&[&file, "--external", "/bin/echo"]);
    let said = text(&output);
    assert!(output.status.code() == Some(3) && said.contains("is no NATS server: asked"), "{said}");
    assert_eq!(room.processes(), Vec::<String>::new());
}

/// Goal: the load goes on until the input ends, and each line of it is answered with the acks.
#[test]
fn a_drill_by_hand_lasts_as_long_as_its_input() {
    let room = Room::new();
    let file = room.write(
        "steps = [\"wait until the input ends\"]\nexpect = [\"lost = 0\", \"acked > 20\"]\n\
         [members]\ncount = 1\n",
    );
    let mut command = room.command(&[&file, "--json"]);
    let mut drill = command.stdin(Stdio::piped()).spawn().unwrap();
    let (mut input, answers) = (drill.stdin.take().unwrap(), drill.stderr.take().unwrap());
    let mut answers = BufReader::new(answers).lines();
    let mut acks = || {
        writeln!(input, "how many?").unwrap();
        let line = answers.next().unwrap().unwrap();
        line.strip_suffix(" acks").unwrap_or_else(|| panic!("{line}")).parse::<usize>().unwrap()
    };
    wait_for("acks", || (acks() > 20).then_some(()));
    drop(input);
    let output = drill.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(report(&output)["held"], true);
}

/// Goal: what does not hold is said, by the exit code too, and the logs are kept.
#[test]
fn an_expectation_that_does_not_hold_fails() {
    let room = Room::new();
    let junit = room.path().join("drill.xml").display().to_string();
    let file = room.write(ONE_KILL);
    let words = [&file, "--expect", "take_over < 1us", "--junit", &junit];
    let output = room.drill(&words);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("verdict: FAILED: take_over < 1µs"), "{said}");
    let kept = room.kept();
    assert!(said.contains(&format!("kept in {}", kept[0].display())), "{said}");
    assert!(kept[0].join("member-1.log").exists() && kept[0].join("store").exists());
    let junit = fs::read_to_string(junit).unwrap();
    assert!(junit.contains("<failure message=\"found: "), "{junit}");
}

/// Goal: what is waited for and does not come is a failure, and what was until then is judged.
#[test]
fn what_never_comes_breaks_a_drill_off() {
    // Both take some seconds, side by side.
    let elsewhere = Room::new();
    let nobody = format!("127.0.0.1:{}", free_port());
    let file = elsewhere.write("steps = [\"wait 1ms\"]\n");
    let words = [&file, "--attach", &nobody, "--monitor", &nobody];
    let vain = elsewhere.command(&words).spawn().unwrap();
    let room = Room::new();
    let file = room.write(
        "steps = [\"kill -9 all\", \"wait until active within 100ms\"]\nexpect = [\"lost = 0\"]\n\
         [members]\ncount = 1\n",
    );
    let output = room.drill(&[&file, "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report = report(&output);
    let why = report["broken_off"].as_str().unwrap();
    let expected =
        "round 1, wait until active within 100ms: not within 100ms; member 1 is not there";
    assert_eq!(why, expected);
    // It was started again, to read everything back.
    assert_eq!(report["found"]["lost"], 0);
    let output = vain.wait_with_output().unwrap();
    let said = text(&output);
    let is_named = said.contains("no member is active: asked at");
    assert!(output.status.code() == Some(3) && is_named, "{said}");
}

#[test]
fn what_cannot_be_understood_is_named() {
    let room = Room::new();
    let steps = "steps = [\"kill -9 active\"]\n";
    for (scenario, options, part) in [
        (
            "steps = [\n\"explode\"]",
            &[][..],
            "mine.toml: line 2: steps[1]: \"explode\": there is no",
        ),
        ("stepps = 1", &[], "mine.toml: line 1: stepps: unknown key"),
        ("steps = [\"pause active 8\"]", &[], "8 has no unit: write 8ms or 8s"),
        ("steps = [\"wait 1s\"", &[], "line 1: TOML: "),
        (steps, &["--expect", "take_over < 5"], "5 has no unit"),
        (steps, &["--store", "tape"], "\"tape\" is no kind of store"),
        (steps, &["--store", "postgres"], "store.source: store postgres needs the source"),
        (steps, &["--attach", "a:1"], "--monitor"),
        (steps, &["--attach", "a:1", "--monitor", "a:2"], "--signal-command"),
        (
            steps,
            &["--attach", "a:1,b:1", "--monitor", "a:2,b:2", "--signal-command", "kill {signal}"],
            "whichever of the 2 members is meant: it needs {member} or {address}",
        ),
        (
            "steps = [\"wait 1s\"]\n[attach]\nmembers = [\"a\"]\nmonitors = [\"a:2\"]\n",
            &["--store", "sqlite"],
            "these members run already, and --store is for those that the drill starts",
        ),
        (steps, &["--attach", "a:1", "--monitor", "a:2,b:2"], ""),
        (steps, &["--rounds", "0"], "--rounds"),
    ] {
        let file = room.write(scenario);
        let output = room.drill(&[&[file.as_str()], options].concat());
        let said = text(&output);
        assert!(
            output.status.code() == Some(2) && said.contains(part),
            "{scenario} {options:?}: {said}"
        );
    }
    for words in [&[][..], &["--show", "nothing"], &["no-such-scenario"], &["/none/mine.toml"]] {
        let output = room.drill(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", text(&output));
    }
    assert!(room.kept().is_empty());
}

/// Goal: what the world does not give ends a drill with what was tried, where, and why not.
#[test]
fn what_cannot_be_done_is_named() {
    let room = Room::new();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let junit = room.path().join("drill.xml").display().to_string();
    let with = |members: &str| format!("steps = [\"wait 1ms\"]\n[members]\n{members}\n");
    for (scenario, part) in [
        (with("server = \"/none/server\""), "cannot run /none/server: No such file".to_owned()),
        (with("server = \"/bin/echo\""), "/bin/echo is no streaming server".to_owned()),
        (with(&format!("first_port = {port}")), format!("port {port} cannot be used: Address al")),
        (with("arguments = [\"-nonsense\"]"), "member 1 ended (exit status: ".to_owned()),
        (with("server = \"x\\u0000\""), String::new()),
    ] {
        let file = room.write(&scenario);
        let output = room.drill(&[&file, "--junit", &junit]);
        let (code, said) = (output.status.code(), text(&output));
        if part.is_empty() {
            assert_eq!(code, Some(2), "{said}");
            continue;
        }
        assert!(code == Some(3) && said.contains(&part), "{scenario}: {said}");
        assert!(fs::read_to_string(&junit).unwrap().contains("errors=\"1\""));
    }
}

#[test]
fn the_scenarios_that_ship_are_listed_and_shown() {
    let room = Room::new();
    let output = room.drill(&["--list", "--json"]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 12);
    for scenario in list {
        let name = scenario["name"].as_str().unwrap();
        let output = room.drill(&["--show", name]);
        assert!(text(&output).contains(&format!("name = \"{name}\"")));
    }
    assert!(text(&room.drill(&["--list"])).starts_with("SCENARIO"));
}

/// Goal: a server that a script starts is killed, paused and ended with its script.
#[test]
fn a_server_that_a_script_starts_is_drilled_whole() {
    let room = Room::new();
    let server = room.script(&format!("{} \"$@\"\necho it has ended", binary().display()));
    let file = room.write(
        "steps = [\"kill -9 active\", \"wait until taken over\", \"start\", \"wait until ready\", \
         \"term active\", \"wait until taken over\", \"wait until ended\"]\n\
         expect = [\"lost = 0\", \"take_overs = 2\"]\n",
    );
    must_hold(&room, &[&file, "--server", &server]);
    assert_eq!(room.processes(), Vec::<String>::new());
}

/// Goal: a program that never says who it is, or goes on to, is left; with all that it has started.
#[test]
fn a_server_that_talks_without_end_or_hangs_is_left() {
    let room = Room::new();
    let file = room.write("steps = [\"wait 1ms\"]\n");
    let output = room.drill(&[&file, "--server", &room.script("yes stanby")]);
    let said = text(&output);
    let is_named = said.contains("/server: it prints without end: more than ");
    assert!(output.status.code() == Some(3) && is_named, "{said}");
    let (asked, tail) = (room.path().join("asked"), room.path().join("tail"));
    fs::write(&tail, "").unwrap();
    let hangs = format!("touch {}; tail -f {}", asked.display(), tail.display());
    let begin = || {
        let drill = room.command(&[&file, "--server", &room.script(&hangs)]).spawn().unwrap();
        wait_for("the server", || fs::remove_file(&asked).ok());
        drill
    };
    ends_at_once(begin, "interrupted");
    assert_eq!(room.processes(), Vec::<String>::new());
}

/// Sends a Ctrl-C to a drill, which has to end at once; it says `part`. One that waits for what it
/// was at is late each time, one on a busy machine is not: a late one is tried again.
fn ends_at_once(begin: impl Fn() -> Child, part: &str) {
    const TRIES: usize = 3;
    let is_at_once = (0..TRIES).any(|_| {
        let drill = begin();
        interrupt(&drill, Signal::SIGINT);
        let begun = Instant::now();
        let output = drill.wait_with_output().unwrap();
        let said = text(&output);
        assert!(output.status.code() == Some(3) && said.contains(part), "{said}");
        begun.elapsed() < Duration::from_secs(3)
    });
    assert!(is_at_once, "it was late each time");
}

/// Goal: a monitor that says nothing holds up no Ctrl-C.
#[test]
fn a_silent_monitor_does_not_hold_up_the_end() {
    let room = Room::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let file = room.write("steps = [\"wait 1ms\"]\n");
    let words = [&file, "--attach", &address, "--monitor", &address];
    let asked = RefCell::new(Vec::new());
    let begin = || {
        let drill = room.command(&words).spawn().unwrap();
        // It stays open: nothing is said, not even that nothing will be.
        asked.borrow_mut().push(listener.accept().unwrap());
        drill
    };
    ends_at_once(begin, "interrupted");
}

/// Goal: a report that cannot be written is known before anything is done, and if it shows at the
/// end only, what was found is printed all the same.
#[test]
fn a_report_that_cannot_be_written_is_said() {
    let room = Room::new();
    for option in ["--html", "--junit"] {
        let output = room.drill(&["--pair", option, "/none/such/report"]);
        let said = text(&output);
        let is_named = said.contains("cannot write /none/such/report: No such file");
        assert!(output.status.code() == Some(3) && is_named, "{said}");
    }
    assert!(room.kept().is_empty());
    let page = room.path().join("page.html").display().to_string();
    let file = room.write("steps = [\"wait until 20 acks\"]\nexpect = [\"lost = 0\"]\n");
    let output = room.drill(&[&file, "--junit", "/dev/full", "--html", &page]);
    let said = text(&output);
    assert!(said.contains("verdict: held") && said.contains("cannot write /dev/full: "), "{said}");
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(fs::read_to_string(page).unwrap().contains("<svg"));
}

/// Whether somebody listens on the control socket of a member.
fn listens(folder: &Path, member: usize) -> bool {
    UnixStream::connect(folder.join(format!("{member}.sock"))).is_ok()
}

/// Goal: whatever ends a drill early, a Ctrl-C or the end of its terminal, it tells what was until
/// then, and no member is left.
#[test]
fn an_interrupted_drill_ends_its_members_and_reports() {
    let begin = |signal| {
        let room = Room::new();
        let file = room.write("steps = [\"wait until 200 acks\", \"pause active 1h\"]\n");
        let drill = room.command(&[&file, "--json", "--expect", "lost = 0"]).spawn().unwrap();
        (signal, room, drill)
    };
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    for (signal, room, drill) in signals.map(begin) {
        let folder = wait_for("a folder", || room.kept().pop());
        wait_for("both members", || (listens(&folder, 1) && listens(&folder, 2)).then_some(()));
        interrupt(&drill, signal);
        let output = drill.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{signal}: {}", text(&output));
        let report = report(&output);
        assert_eq!((&report["interrupted"], &report["held"]), (&true.into(), &false.into()));
        assert_eq!(report["expectations"][0]["found"], Value::Null, "nobody has read it back");
        assert_eq!(room.processes(), Vec::<String>::new(), "{signal}: a member is left");
    }
}

fn interrupt(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// A pair that the test starts and ends, with the commands by which a drill reaches it.
struct Pair {
    room: Room,
    addresses: [String; 2],
    monitors: [String; 2],
}

impl Pair {
    fn start() -> Self {
        let room = Room::new();
        let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
        let folder = room.path().display().to_string();
        for number in [0, 1] {
            let [client, route, monitor] = [ports[number], ports[2 + number], ports[4 + number]];
            let script = format!(
                "{} -cluster_id c -ft_group g -store file -dir {folder}/store -a 127.0.0.1 -p {client} \
                 -m {monitor} -cluster nats://127.0.0.1:{route} -routes nats://127.0.0.1:{} -P \
                 {folder}/{number}.pid -l {folder}/{number}.log -control_socket {folder}/{number}.sock \
                 </dev/null >/dev/null 2>&1 &\n",
                binary().display(),
                ports[3 - number],
                number = number + 1,
            );
            fs::write(room.path().join(format!("start-{}", number + 1)), script).unwrap();
        }
        let at = |from: usize| [0, 1].map(|it| format!("127.0.0.1:{}", ports[from + it]));
        let pair = Self { addresses: at(0), monitors: at(4), room };
        for number in ["1", "2"] {
            let script = pair.room.path().join(format!("start-{number}"));
            assert!(Command::new("sh").arg(script).status().unwrap().success());
        }
        pair
    }

    fn drill(&self, scenario: &str, signal: &str, more: &[&str]) -> Output {
        self.command(scenario, signal, more).output().unwrap()
    }

    fn command(&self, scenario: &str, signal: &str, more: &[&str]) -> Command {
        let folder = self.room.path().display().to_string();
        let (addresses, monitors) = (self.addresses.join(","), self.monitors.join(","));
        let start = format!("sh {folder}/start-{{member}}");
        let step_down =
            format!("{} step-down --socket {folder}/{{member}}.sock", binary().display());
        let signal = signal.replace("{folder}", &folder);
        let words = [
            scenario,
            "--attach",
            &addresses,
            "--monitor",
            &monitors,
            "-c",
            "c",
            "--json",
            "--signal-command",
            &signal,
            "--start-command",
            &start,
            "--step-down-command",
            &step_down,
        ];
        self.room.command(&[&words[..], more].concat())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for number in [1, 2] {
            let path = self.room.path().join(format!("{number}.pid"));
            let id = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
            if let Some(id) = id {
                // One that has ended already needs no more.
                let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
        }
    }
}

/// Goal: a group that runs is drilled by commands; one that fails is shown with what it said.
#[test]
fn members_that_run_already_are_drilled_by_commands() {
    let pair = Pair::start();
    let by_file = "kill -s {signal} $(cat {folder}/{member}.pid)";
    let output = pair.drill("kill-the-active", by_file, &["--rounds", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let found = report(&output);
    assert_eq!((&found["found"]["lost"], &found["store"]), (&0.into(), &Value::Null));
    let failing = "echo unit {member} is not there for {signal} >&2; exit 5";
    let output = pair.drill("kill-the-active", failing, &[]);
    let said = text(&output);
    assert!(
        output.status.code() == Some(3) && said.contains("cannot send SIGKILL to member"),
        "{said}"
    );
    assert!(said.contains("exit status: 5") && said.contains("is not there for KILL"), "{said}");
    // One that hangs does not hold up a Ctrl-C, and is not left.
    let (asked, tail) = (pair.room.path().join("asked"), pair.room.path().join("tail"));
    fs::write(&tail, "").unwrap();
    let hanging = "touch {folder}/asked; tail -f {folder}/tail # {signal} {member}";
    let begin = || {
        let drill = pair.command("kill-the-active", hanging, &[]).spawn().unwrap();
        wait_for("the command", || fs::remove_file(&asked).ok());
        drill
    };
    ends_at_once(begin, "\"interrupted\": true");
    let left = pair.room.processes();
    assert!(!left.iter().any(|words| words.contains("tail")), "{left:?}");
    // What was not killed serves on.
    let output =
        pair.drill("step-down", by_file, &["--rounds", "1", "--expect", "take_overs >= 1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

/// A server alone that the test ends.
struct Alone(Child);

impl Drop for Alone {
    fn drop(&mut self) {
        // It may have ended already; either way it is collected.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Goal: where servers ask who clients are, the drill says so, or says what they answered.
#[test]
fn a_drill_logs_in_where_servers_ask() {
    let room = Room::new();
    let (port, monitor) = (free_port().to_string(), free_port().to_string());
    let mut server = Command::new(binary());
    server.args(["-cluster_id", "c", "-a", "127.0.0.1", "-p", &port, "-m", &monitor]);
    server.args(["-user", "u", "-pass", "secret"]).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Alone(server.spawn().unwrap());
    let file = room.write("steps = [\"wait until 50 acks\"]\nexpect = [\"lost = 0\"]\n");
    let (port, monitor) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{monitor}/"));
    let words = [&file, "--attach", &port, "--monitor", &monitor, "-c", "c"];
    let output = room.drill(&[&words[..], &["--user", "u", "--password", "secret"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = room.drill(&words);
    let said = text(&output);
    let is_named = said.contains("can connect: no NATS server available: ")
        && said.contains("Authorization Violation");
    assert!(output.status.code() == Some(3) && is_named, "{said}");
}

/// A store of the full form: its kind, and the options that it needs.
struct Given {
    kind: &'static str,
    options: Vec<String>,
    _folder: TempDir,
}

/// All stores that there are. Database servers are those that the environment names; they are
/// stopped by a signal, and started by the program that it names too.
fn stores() -> Vec<Given> {
    let served = |kind: &'static str, source: String, folder: TempDir| {
        let variable = |end: &str| {
            std::env::var(format!("STANBY_TEST_{}_{end}", kind.to_uppercase())).unwrap()
        };
        let signal = if kind == "postgres" { "INT" } else { "TERM" };
        let stop = format!(
            "p=$(head -n 1 {}); kill -{signal} $p; while kill -0 $p 2>/dev/null; do sleep 0.1; done",
            variable("PID_FILE")
        );
        let start = format!("setsid {} </dev/null >/dev/null 2>&1 &", variable("START"));
        let pairs = [("--source", source), ("--stop-database", stop), ("--start-database", start)];
        let options = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        Given { kind, options: options.collect(), _folder: folder }
    };
    let own = |kind| Given { kind, options: Vec::new(), _folder: tempfile::tempdir().unwrap() };
    let mut stores = vec![own("file"), own("sqlite")];
    if let Some(address) = databases::postgres_address() {
        let folder = tempfile::tempdir().unwrap();
        databases::postgres(folder.path());
        let name = databases::name(folder.path());
        stores.push(served("postgres", format!("{address} dbname={name}"), folder));
    }
    if let Some(address) = databases::mysql_address() {
        let folder = tempfile::tempdir().unwrap();
        databases::mysql(folder.path());
        let name = databases::name(folder.path());
        stores.push(served("mysql", format!("{address}/{name}"), folder));
    }
    stores
}

/// All scenarios over each store, but where one is about what a store has not.
#[test]
fn all_scenarios_hold_over_each_store() {
    if std::env::var_os("STANBY_DRILL").is_none_or(|found| found != "full") {
        return;
    }
    let list: Value =
        serde_json::from_slice(&Room::new().drill(&["--list", "--json"]).stdout).unwrap();
    let names: Vec<&str> =
        list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    for store in stores() {
        let is_served = !store.options.is_empty();
        for name in &names {
            if *name == "database-away" && !is_served || *name == "full-disk" && is_served {
                continue;
            }
            eprintln!("{name} over {}", store.kind);
            let options: Vec<&str> = store.options.iter().map(String::as_str).collect();
            let words = [&[*name, "--store", store.kind], &options[..]].concat();
            let report = must_hold(&Room::new(), &words);
            eprintln!("  {}", report["found"]);
        }
    }
}

/// Goal: a member that acknowledges before it has committed is found out, and what it has lost is
/// named.
#[cfg(feature = "planted")]
#[test]
fn a_member_that_acknowledges_too_early_is_found_out() {
    let room = Room::new();
    let mut command = room.command(&["heavy-load", "--json"]);
    let output = command.env("STANBY_PLANTED_BUG", "ack-before-commit").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report = report(&output);
    assert!(report["found"]["lost"].as_u64().unwrap() > 0, "{report}");
    let named = report["lost"][0].as_str().unwrap();
    assert!(named.starts_with("message ") && named.contains(", acknowledged at "), "{named}");
}
