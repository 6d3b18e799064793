//! Administration over NATS, by the real binary: who may, what is asked and answered, what bad
//! questions and floods do, and a group.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/commands.rs"]
mod commands;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::commands::{refused, said, stanby, told};
use crate::server::{Launch, READY, Server, free_port};
use crate::stan::Stan;

/// `ops` may administer, `eyes` may too as far as its permissions go, `app` may not.
const USERS: &str = "authorization { users: [ {user: ops, password: o}, \
     {user: eyes, password: e, permissions: {publish: [\"_STAN.admin.*.channels\", \"_INBOX.>\"]}}, \
     {user: app, password: a} ] }\n";

fn launch(args: &[&str]) -> Launch {
    Launch::new(args).config(&format!("{USERS}streaming {{ administrators: [ops, eyes] }}\n"))
}

fn url(user: &str, port: u16) -> String {
    format!("nats://{user}:{}@127.0.0.1:{port}", &user[..1])
}

fn login(port: u16, user: &str) -> Stan {
    Stan::bare(port, &format!("\"user\":\"{user}\",\"pass\":\"{}\"", &user[..1]))
}

fn client(port: u16) -> Stan {
    let mut client = login(port, "app");
    client.register("test-cluster", "me").unwrap();
    client
}

/// Goal: what the control socket shows and does, a user whom the configuration names sees and does
/// over NATS, from any machine; the log has the name.
#[test]
fn a_user_whom_the_configuration_names_administers() {
    let launch = launch(&[]);
    let server = launch.start();
    let ops = url("ops", launch.port);
    let mut client = client(launch.port);
    client.fill("orders", 1..=20);
    client.fill("news", 1..=1);
    let names = told(&ops, &["channel", "ls"]);
    assert_eq!(names.as_array().unwrap().len(), 2, "{names}");
    let done = told(&ops, &["channel", "purge", "orders", "--keep", "3"]);
    assert_eq!((&done["removed"], &done["first"]), (&17.into(), &18.into()));
    let asks = r#"User "ops" of account $G asks to purge channel "orders""#;
    let line = server.log.wait(asks);
    assert!(line.contains("but for the newest 3 messages"), "{line}");
    let found = told(&ops, &["msg", "ls", "orders"]);
    assert_eq!(found.as_array().unwrap().len(), 3, "{found}");
    assert_eq!(told(&ops, &["client", "ls"])[0]["client"], "me");
    assert_eq!(told(&ops, &["channel", "rm", "news"])["removed"], true);
    let gone = refused(&ops, &["channel", "rm", "news"]);
    assert_eq!(gone, "stanby channel: there is no channel \"news\"\n");
    assert!(refused(&ops, &["channel", "info", "a.*"]).contains("means several channels"));
    let both = refused(&ops, &["channel", "ls", "--socket", "/nowhere"]);
    assert!(both.contains("give one of them"), "{both}");
}

/// Goal: whoever is not named changes and sees nothing, and each is told why; permissions to
/// publish say what one may ask for.
#[test]
fn nobody_else_administers() {
    let launch = launch(&[]);
    let server = launch.start();
    client(launch.port).fill("orders", 1..=2);
    let app = refused(&url("app", launch.port), &["channel", "purge", "orders"]);
    let line = server.log.wait("Refused what was asked on \"_STAN.admin.test-cluster.purge\"");
    assert!(line.contains("\"app\" may not"), "{line}");
    assert_eq!(app, "stanby channel: \"app\" may not: administrators of the configuration may\n");
    let eyes = url("eyes", launch.port);
    assert_eq!(told(&eyes, &["channel", "ls"])[0]["messages"], 2);
    let purge = refused(&eyes, &["channel", "purge", "orders"]);
    assert!(purge.contains("Permissions Violation for Publish"), "{purge}");
    assert!(!server.log.text().contains("asks to purge"));
    let cluster = refused(&eyes, &["channel", "ls", "--cluster", "other"]);
    assert!(cluster.contains("Permissions Violation") || cluster.contains("nobody"), "{cluster}");

    let off = Launch::new(&[]);
    let _off = off.start();
    let nobody = refused(&format!("nats://127.0.0.1:{}", off.port), &["channel", "ls"]);
    assert!(nobody.contains("nobody listens on _STAN.admin.test-cluster.channels"), "{nobody}");
}

/// Goal: no question harms a server or goes without a clear word; one without a reply does nothing.
#[test]
fn bad_questions_are_refused() {
    let launch = launch(&[]);
    let server = launch.start();
    client(launch.port).fill("orders", 1..=2);
    let mut ops = login(launch.port, "ops");
    let purge = br#"{"ask":"administer","what":"purge","channel":"orders","extent":"all"}"#;
    let subject = |word: &str| format!("_STAN.admin.test-cluster.{word}").into_bytes();
    let mut ask = |word: &str, payload: &[u8]| {
        let answer = ops.request(&subject(word), payload);
        String::from_utf8(answer.to_vec()).unwrap()
    };
    for payload in [&b""[..], b"purge", b"{}", b"[1", b"\xff\xfe", b"null", &[b'['; 4_000]] {
        let answer = ask("purge", payload);
        assert!(answer.starts_with(r#"{"refused":"this server does not know"#), "{answer}");
    }
    assert!(ask("purge", &vec![b'x'; 1_000_000]).contains("the question has 1000000 bytes"));
    assert!(ask("clients", purge).contains("the subject says"), "another word");
    assert!(ask("step-down", br#"{"ask":"step-down"}"#).contains("control socket alone"));
    let more = br#"{"ask":"administer","what":"clients","more":{"x":[1]}}"#;
    assert!(ask("clients", more).contains(r#"{"administered":{"clients":["#), "a later release's");
    ops.send(&subject("purge"), b"", purge);
    ops.flush();
    let channels = br#"{"ask":"administer","what":"channels","pattern":null}"#;
    let answer = ops.request(&subject("channels"), channels);
    assert!(answer.ends_with(b"\n") && answer.windows(12).any(|it| it == b"\"messages\":2"));
    assert!(!server.log.text().contains("asks to purge"), "nobody would have heard of it");
}

/// Goal: a flood of questions, of users and of others, keeps nobody from publishing or asking.
#[test]
fn a_flood_of_questions_holds_up_nobody() {
    let launch = launch(&[]);
    let _server = launch.start();
    let mut client = client(launch.port);
    client.fill("orders", 1..=2);
    let channels = br#"{"ask":"administer","what":"channels","pattern":null}"#;
    let subject = b"_STAN.admin.test-cluster.channels";
    for user in ["ops", "app"] {
        let mut flood = login(launch.port, user);
        let inbox = flood.own("flood");
        for _ in 0..5_000 {
            flood.send(subject, &inbox, channels);
        }
        client.fill("orders", 3..=50);
        flood.flush();
        let mut answers = (0..5_000).map(|number| {
            let answer = flood.next_on(&inbox, Duration::from_secs(20));
            answer.unwrap_or_else(|| panic!("{user} has no answer to question {number}")).data
        });
        let busy = answers.by_ref().find(|it| it.windows(9).any(|part| part == b"ask again"));
        assert!(busy.is_some(), "nobody was told that others are asking");
        assert!(answers.all(|answer| answer.ends_with(b"\n")));
    }
    let names = told(&url("ops", launch.port), &["channel", "ls"]);
    assert_eq!(names.as_array().unwrap().len(), 1, "{names}");
}

/// Goal: of several channels, each has its line, and one that is not there hides no other.
#[test]
fn each_of_several_has_its_line() {
    let launch = launch(&[]);
    let _server = launch.start();
    let mut client = client(launch.port);
    for channel in ["a", "b", "c", "d"] {
        client.fill(channel, 1..=3);
    }
    let ops = url("ops", launch.port);
    let output = stanby(&ops, &["channel", "rm", "a", "none", "b", "neither"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(out, "channel a is deleted\nchannel b is deleted\n");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert_eq!(lines[0], "stanby channel: channel none: there is no channel \"none\"");
    let output = stanby(&ops, &["channel", "purge", "c", "none", "d", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &found[0]["removed"]), (Some(1), &2.into()), "{found}");
    assert_eq!(found[1]["error"], "there is no channel \"none\"");
    assert_eq!(found[2]["channel"], "d");
    let names = told(&ops, &["channel", "ls"]);
    assert_eq!(names.as_array().unwrap().len(), 2, "{names}");
    let durables = refused(&ops, &["durable", "rm", "c", "x", "y"]);
    assert!(durables.contains("durable x: channel \"c\" has no durable \"x\""), "{durables}");
    assert!(durables.contains("durable y: "), "{durables}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server that says that it is active, and does nothing that it is asked: it goes, or is silent.
fn dying(is_silent: bool) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("nats://ops:o@{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (mut input, mut output) = (BufReader::new(stream.try_clone().unwrap()), stream);
            let mut say = |words: String| output.write_all(words.as_bytes()).unwrap_or_default();
            say("INFO {\"server_id\":\"x\",\"max_payload\":1048576,\"headers\":true}\r\n"
                .to_owned());
            let (mut checks, mut line) = (String::new(), String::new());
            while input.read_line(&mut line).is_ok_and(|len| len > 0) {
                let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
                line.clear();
                match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                    ["PING"] => say("PONG\r\n".to_owned()),
                    // The second one is that of checks.
                    ["SUB", inbox, sid] => checks = format!("{inbox} {sid}"),
                    ["PUB", _, _, "0"] => {
                        say(format!("MSG {checks} 15\r\n{{\"refused\":\"\"}}\n\r\n"))
                    }
                    ["PUB", _, _, len] => {
                        let mut payload = vec![0; len.parse::<usize>().unwrap() + 2];
                        input.read_exact(&mut payload).unwrap();
                        if !is_silent {
                            break;
                        }
                        let _ = input.read_to_end(&mut payload);
                    }
                    _ => (),
                }
            }
        }
    });
    url
}

/// Goal: who asks a server that dies, or falls silent, learns soon that its answer is lost. What
/// changes nothing is asked of others, and what may have been done is not done twice.
#[test]
fn a_question_that_is_lost_is_asked_again_where_that_is_safe() {
    let launch = launch(&[]);
    let _server = launch.start();
    client(launch.port).fill("orders", 1..=5);
    let ops = url("ops", launch.port);
    for (is_silent, why) in [(false, "the server hung up"), (true, "nobody answers any more")] {
        let both = format!("{},{ops}", dying(is_silent));
        let begun = Instant::now();
        let lost = refused(&both, &["channel", "purge", "orders"]);
        let is_told = lost.contains(why) && lost.contains("whether it was done is not known");
        assert!(is_told, "{lost}");
        assert_eq!(told(&ops, &["channel", "ls"])[0]["messages"], 5);
        assert_eq!(told(&both, &["channel", "ls"])[0]["messages"], 5);
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
    // Who has asked nobody is told what each of them said.
    let nobody = format!("nats://127.0.0.1:{},nats://127.0.0.1:{}", free_port(), free_port());
    let why = refused(&nobody, &["channel", "ls"]);
    assert_eq!(why.matches("no NATS server available").count(), 2, "{why}");
}

/// Goal: an answer of many messages is whole.
#[test]
fn a_long_answer_comes_in_portions() {
    let launch = launch(&["-mc", "0"]);
    let _server = launch.start();
    let mut client = client(launch.port);
    for number in 0..3_000 {
        let channel = format!("{}.{number}", "long".repeat(30));
        client.publish_async(&client.message(channel, b"x"), b"");
    }
    client.flush();
    let ops = url("ops", launch.port);
    server::wait_for("all channels", || {
        let names = told(&ops, &["channel", "ls"]);
        (names.as_array().unwrap().len() == 3_000).then_some(())
    });
}

fn member(store: &Path, ports: [u16; 2], own: usize) -> Server {
    let cluster = format!("nats://127.0.0.1:{}", ports[own]);
    let routes = format!("nats://127.0.0.1:{}", ports[1 - own]);
    let launch = launch(&["-ft_group", "g", "-cluster", &cluster, "-routes", &routes]);
    launch.file_store(Some(store)).spawn()
}

/// Goal: of a group that is named whole the active member answers, before and after a take-over;
/// one that is named alone and stands by says where to ask.
#[test]
fn the_active_member_of_a_group_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ports) = (folder.path().join("store"), [free_port(), free_port()]);
    let mut active = member(&store, ports, 0);
    active.log.wait(READY);
    let standby = member(&store, ports, 1);
    standby.log.wait("Route connection created");
    client(active.launch.port).fill("orders", 1..=10);
    let alone = url("ops", standby.launch.port);
    let both = format!("{alone},{}", url("ops", active.launch.port));
    let elsewhere = server::wait_for("a standby that knows the active", || {
        let text = refused(&alone, &["channel", "ls"]);
        text.contains("it is not known who asks").then_some(text)
    });
    assert!(elsewhere.contains("log in to the active server itself, "), "{elsewhere}");
    let done = told(&both, &["channel", "purge", "orders", "--keep", "3"]);
    assert_eq!(done["removed"], 7);
    active.kill();
    standby.log.wait(READY);
    server::wait_for("the new active", || {
        let output = stanby(&both, &["channel", "info", "orders", "--json"]);
        let found: Value = serde_json::from_slice(&output.stdout).ok()?;
        (found["first"] == 8).then_some(())
    });
}

/// Goal: names that could be anybody's stop the start.
#[test]
fn administrators_have_to_be_users() {
    for (config, args, expected) in [
        ("streaming { administrators: [ops] }", &[][..], "\"ops\" is no user of this server"),
        (
            "authorization { user: ops, password: o }\nstreaming { administrators: other }",
            &[],
            "\"other\" is no user of this server",
        ),
        (
            "authorization { users: [{user: ops, password: o}] }\nno_auth_user: ops\nstreaming \
             { administrators: [ops] }",
            &[],
            "whoever gives no password is \"ops\"",
        ),
        (
            "authorization { user: ops, password: o }\nstreaming { administrators: [ops] }",
            &["-ns", "nats://127.0.0.1:1"],
            "over an external NATS server it is not known who asks",
        ),
        (
            "authorization { user: ops, password: o }\nstreaming { administrators: [ops], \
             partitioning: true, store_limits { channels { foo: {} } } }",
            &[],
            "with partitioning several servers would answer at once",
        ),
        ("streaming { administrators: [7] }", &[], "expected names of users"),
        (
            "authorization { users: [{user: ops, password: \"\"}] }\nstreaming { administrators: \
             [ops] }",
            &[],
            "\"ops\" has no password, and anybody can say it",
        ),
    ] {
        let server = Launch::new(args).config(config).run();
        let said = server.log.text();
        assert!(said.contains(expected), "{config}: {said}");
    }
}

/// Goal: a reload after which anybody can say to be an administrator leaves none.
#[test]
fn a_reload_without_users_leaves_no_administrator() {
    let server = launch(&[]).start();
    let port = server.launch.port;
    told(&url("ops", port), &["channel", "ls"]);
    server.launch.rewrite_config("streaming { administrators: [ops, eyes] }\n");
    server.signal(Signal::SIGHUP);
    server.log.wait("Reloaded server configuration");
    let why = refused(&url("ops", port), &["channel", "ls"]);
    assert!(why.contains("\"ops\" may not"), "{why}");
}
