//! Who may connect, publish and subscribe: token, users, passwords, permissions, time-outs.

use crate::server::{Launch, Server};
use crate::stan::Stan;
use crate::wire::{Conn, ask_for, connect, error, message, publish, request, same};

const DENIED: &str = "Authorization Violation";

/// bcrypt of `s3cret` and of `porkchop`.
const HASH_2A: &str = "$2a$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG";
const HASH_2B: &str = "$2b$04$zyxwvutsrqponmlkjihgfeb8cFMpOeQfEdxFvaE9sPpTVoRJrrhAq";

fn refused(server: &Server, options: &str) {
    let found = Conn::open(server.launch.port).fatal(connect(options));
    same(found, error(DENIED), &format!("CONNECT {options}"));
}

fn login(user: &str, password: &str) -> String {
    format!("\"user\":\"{user}\",\"pass\":\"{password}\"")
}

fn as_user(server: &Server, user: &str) -> Conn {
    Conn::client(server.launch.port, &login(user, "pw"))
}

fn publish_denied(subject: &str) -> Vec<u8> {
    error(&format!("Permissions Violation for Publish to \"{subject}\""))
}

fn subscribe_denied(subject: &str) -> Vec<u8> {
    error(&format!("Permissions Violation for Subscription to \"{subject}\""))
}

#[test]
fn a_token_opens_the_door() {
    let text = "authorization { token: \"s3cret\", timeout: 0.5 }";
    let server = Launch::new(&[]).config(text).start();
    let port = server.launch.port;
    assert_eq!(Conn::open(port).info["auth_required"], true);
    Conn::client(port, "\"auth_token\":\"s3cret\"");
    refused(&server, "\"auth_token\":\"wrong\"");
    refused(&server, "");
    refused(&server, "\"user\":\"s3cret\"");
    for data in ["PING\r\n", "SUB x 1\r\n", "PUB x 0\r\n\r\n"] {
        same(Conn::open(port).fatal(data), error(DENIED), data);
    }
    same(Conn::open(port).until_closed(), error("Authentication Timeout"), "silent");
    // The streaming layer is inside and needs no password of its own.
    let mut stan = Stan::bare(port, "\"auth_token\":\"s3cret\"");
    stan.register("test-cluster", "me").unwrap();
    stan.publish("foo", b"x").unwrap();
}

#[test]
fn user_password_and_token_by_flags() {
    let server = Launch::new(&["-user", "derek", "-pass", "porkchop"]).start();
    Conn::client(server.launch.port, &login("derek", "porkchop"));
    refused(&server, &login("derek", "wrong"));
    refused(&server, &login("eve", "porkchop"));
    refused(&server, "\"user\":\"derek\"");
    let server = Launch::new(&["-auth", "tok"]).start();
    Conn::client(server.launch.port, "\"auth_token\":\"tok\"");
    refused(&server, "\"auth_token\":\"kot\"");
}

fn users() -> Server {
    let text = format!(
        r#"authorization {{
            timeout: 30
            default_permissions {{ publish: "open.>", subscribe: ["open.>", "_INBOX.>"] }}
            users = [
              {{ user: sys, pass: pw, permissions {{ publish: ">", subscribe: ">" }} }}
              {{ user: two_a, pass: {HASH_2A} }}
              {{ user: two_b, pass: "{HASH_2B}" }}
              {{ user: lists, pass: pw, permissions {{
                  publish {{ allow: ["a.>", "b"], deny: "a.secret" }}
                  subscribe {{ allow: ["a.>", "q.* grp.*", "w.>"], deny: ["a.secret", "w.x"] }} }} }}
              {{ user: old, pass: pw, permissions {{ publish: "style", subscribe: ["style", "x.*"] }} }}
              {{ user: service, pass: pw,
                 permissions {{ subscribe: ["serve", "own"], allow_responses: true }} }}
              {{ user: twice, pass: pw, permissions {{ subscribe: "serve2", publish: "log",
                 allow_responses: {{ max: 2, expires: "1m" }} }} }}
            ]
        }}"#
    );
    Launch::new(&[]).config(&text).start()
}

#[test]
fn passwords_may_be_hashed() {
    let server = users();
    Conn::client(server.launch.port, &login("two_a", "s3cret"));
    Conn::client(server.launch.port, &login("two_b", "porkchop"));
    refused(&server, &login("two_a", HASH_2A));
    refused(&server, &login("two_b", "s3cret"));
}

#[test]
fn publish_permissions_allow_and_deny() {
    let server = users();
    let mut default = Conn::client(server.launch.port, &login("two_a", "s3cret"));
    let asked = [
        b"SUB open.x 1\r\nSUB closed 2\r\n".to_vec(),
        publish("open.x", b"1"),
        publish("closed", b"2"),
    ];
    let wanted =
        [subscribe_denied("closed"), message("open.x", "1", b"1"), publish_denied("closed")];
    same(default.ask(asked.concat()), wanted.concat(), "defaults");
    let (mut watcher, mut conn) = (as_user(&server, "sys"), as_user(&server, "lists"));
    watcher.ask(b"SUB a.* 1\r\nSUB b 1b\r\nSUB c 1c\r\n");
    let asked =
        [publish("a.x", b"1"), publish("a.secret", b"2"), publish("c", b"3"), publish("b", b"4")];
    let wanted = [publish_denied("a.secret"), publish_denied("c")];
    same(conn.ask(asked.concat()), wanted.concat(), "allow and deny");
    let wanted = [message("a.x", "1", b"1"), message("b", "1b", b"4")];
    same(watcher.ops(2).concat(), wanted.concat(), "what is denied is dropped");
}

#[test]
fn subscribe_permissions_allow_and_deny() {
    let server = users();
    let mut conn = as_user(&server, "lists");
    same(conn.ask(b"SUB a.b 1\r\nSUB a.* 2\r\nSUB a.> 3\r\nSUB w.> 4\r\n"), b"", "allowed");
    for subject in ["c", ">", "*.b", "a.secret", "w.x"] {
        let found = conn.ask(format!("SUB {subject} no\r\n"));
        same(found, subscribe_denied(subject), subject);
    }
    let mut source = as_user(&server, "sys");
    source.send([publish("w.x", b"no"), publish("w.y", b"yes")].concat());
    same(conn.op(), message("w.y", "4", b"yes"), "a wildcard does not get what is denied");
    same(conn.ask(b"SUB q.x grp.1 5\r\nSUB a.b any 6\r\n"), b"", "queues allowed");
    for (subject, queue) in [("q.x", "other"), ("w.x", "z")] {
        let text = format!(
            "Permissions Violation for Subscription to \"{subject}\" using queue \"{queue}\""
        );
        same(conn.ask(format!("SUB {subject} {queue} 7\r\n")), error(&text), subject);
    }
    let mut old = as_user(&server, "old");
    let asked = [b"SUB style 1\r\nSUB x.* 2\r\n".to_vec(), publish("style", b"1")].concat();
    same(old.ask(asked), message("style", "1", b"1"), "short form");
    same(old.ask(publish("x.a", b"2")), publish_denied("x.a"), "short form");
}

#[test]
fn responders_may_answer_what_they_were_asked() {
    let server = users();
    let (mut asker, mut service) = (as_user(&server, "sys"), as_user(&server, "service"));
    service.ask(b"SUB serve 1\r\n");
    let asked = [
        b"SUB back.> 1\r\n".to_vec(),
        ask_for("serve", "back.1", b"?"),
        ask_for("serve", "back.2", b"?"),
    ];
    asker.ask(asked.concat());
    let wanted =
        [request("serve", "1", "back.1", b"?"), request("serve", "1", "back.2", b"?")].concat();
    same(service.ops(2).concat(), wanted, "requests");
    let answers = [
        publish("back.1", b"a"),
        publish("back.1", b"b"),
        publish("back.2", b"c"),
        publish("own", b"d"),
    ];
    let wanted = [publish_denied("back.1"), publish_denied("own")].concat();
    same(service.ask(answers.concat()), wanted, "one answer each");
    let wanted = [message("back.1", "1", b"a"), message("back.2", "1", b"c")].concat();
    same(asker.ops(2).concat(), wanted, "answers");
    let mut twice = as_user(&server, "twice");
    twice.ask(b"SUB serve2 1\r\n");
    asker.ask(ask_for("serve2", "back.3", b"?"));
    twice.op();
    let answers = [publish("log", b"x"), publish("back.3", b"a").repeat(3)].concat();
    same(twice.ask(answers), publish_denied("back.3"), "max 2, next to a publish list");
}

#[test]
fn who_gives_no_name_is_no_auth_user() {
    let text = r#"authorization { timeout: 0.6, users = [
        { user: sys, pass: pw }
        { user: anon, pass: pw, permissions { publish: "anon.>", subscribe: ">" } } ] }
        no_auth_user: anon"#;
    let server = Launch::new(&[]).config(text).start();
    let mut conn = Conn::open(server.launch.port);
    assert!(conn.info.get("auth_required").is_none(), "{}", conn.info);
    conn.connect("");
    let asked = [b"SUB anon.x 1\r\n".to_vec(), publish("anon.x", b"1"), publish("other", b"2")];
    let wanted = [message("anon.x", "1", b"1"), publish_denied("other")].concat();
    same(conn.ask(asked.concat()), wanted, "its permissions");
    refused(&server, &login("anon", "wrong"));
    let silent = Conn::open(server.launch.port).until_closed();
    same(silent, error("Authentication Timeout"), "silent");
}
