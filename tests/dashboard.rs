//! The dashboard over HTTP: what is served, to whom, and what a group shows of itself there.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/server.rs"]
#[allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
mod server;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use self::server::{Launch, READY, Reply, Server, binary, free_port, wait_for};

// `ada:lovelace`, `ada:guess`.
const RIGHT: &str = "Authorization: Basic YWRhOmxvdmVsYWNl\r\n";
const WRONG: &str = "Authorization: Basic YWRhOmd1ZXNz\r\n";

/// A name that a page must show as it is, in a URL.
const HOSTILE: &str = "<img'\"&amp;";
const HOSTILE_IN_URL: &str = "%3Cimg%27%22%26amp;";

fn ask(server: &Server, method: &str, target: &str, headers: &str) -> Reply {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, server.launch.http)).unwrap();
    socket.set_read_timeout(Some(server::PATIENCE)).unwrap();
    write!(socket, "{method} {target} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn publish(server: &Server, channel: &str, message: &str) {
    let run = Command::new(binary())
        .args(["pub", "-s", &server.address(), "--cluster", "test-cluster", channel, message])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

fn json(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.body))
}

/// Goal: the page needs nothing but its server, and a browser lets it have nothing else.
#[test]
fn the_page_is_whole_and_asks_nobody_else() {
    let server = Launch::new(&[]).start();
    let page = ask(&server, "GET", "/dashboard", "");
    assert_eq!(page.status, 200, "{}", page.head);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    let policy = "content-security-policy: default-src 'none'; script-src 'self';";
    assert!(page.head.contains(policy), "{}", page.head);
    let named = page.body.split('"').filter(|part| part.starts_with("dashboard/"));
    for file in named {
        let found = ask(&server, "GET", &format!("/{file}"), "");
        assert_eq!(found.status, 200, "{file}");
        assert!(found.head.contains("x-content-type-options: nosniff"), "{}", found.head);
        let text = found.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{file}");
    }
    assert!(server.get("/").body.contains("<a href=\"./dashboard\">Dashboard</a>"));
    for target in ["/dashboard", "/dashboard/now", "/dashboard/messages"] {
        let refused = ask(&server, "POST", target, "Content-Length: 0\r\n");
        assert_eq!(refused.status, 405, "{target}");
        assert!(refused.head.contains("allow: get, head"), "{}", refused.head);
    }
    assert_eq!(server.get("/dashboard/").status, 404);
    assert_eq!(server.get("/dashboard/nosuch").status, 404);
}

#[test]
fn every_document_answers_on_an_empty_server() {
    let server = Launch::new(&[]).start();
    let now = server.json("/dashboard/now");
    assert_eq!(now["is_active"], true);
    assert_eq!(now["state"], "STANDALONE");
    assert_eq!(now["totals"]["channels"], 0);
    assert_eq!(now["shows_messages"], false);
    assert!(now["stores"]["commit"]["bounds"].as_array().is_some_and(|bounds| !bounds.is_empty()));
    for list in ["channels", "clients"] {
        let shown = server.json(&format!("/dashboard/{list}"));
        assert_eq!((shown["found"].as_u64(), shown["all"].as_u64()), (Some(0), Some(0)), "{list}");
    }
    assert!(server.json("/dashboard/complaints")["lines"].is_array());
    assert_eq!(server.json("/streaming/groupz")["cluster_id"], "test-cluster");
    let absent = server.get("/dashboard/channel?name=nosuch");
    assert_eq!((absent.status, json(&absent)["error"].is_string()), (404, true));
    // No other page of the browser may read any of it.
    assert!(!absent.head.to_lowercase().contains("access-control"), "{}", absent.head);
    let wrapped = server.get("/dashboard/now?callback=steal");
    assert!(wrapped.body.starts_with('{'), "{}", wrapped.body);
}

/// Goal: whoever may look at figures may not therefore read messages.
#[test]
fn messages_are_for_the_user_whom_the_configuration_names() {
    let hash = bcrypt::hash("lovelace", 4).unwrap();
    for password in ["lovelace", &hash] {
        let config = format!("dashboard {{ user: ada, password: \"{password}\" }}\n");
        let server = Launch::new(&[]).config(&config).start();
        for number in 1..=12 {
            publish(&server, HOSTILE, &format!("message {number}"));
        }
        assert_eq!(server.json("/dashboard/now")["shows_messages"], true);
        let target = format!("/dashboard/messages?name={HOSTILE_IN_URL}");
        let nobody = ask(&server, "GET", &target, "");
        assert_eq!(nobody.status, 401, "{}", nobody.body);
        assert!(nobody.head.contains("www-authenticate: basic"), "{}", nobody.head);
        assert!(!nobody.body.contains("rows"), "{}", nobody.body);
        let shown = ask(&server, "GET", &target, RIGHT);
        assert_eq!(shown.status, 200, "{}", shown.body);
        let shown = json(&shown);
        assert_eq!(shown["name"], HOSTILE);
        let rows = shown["rows"].as_array().unwrap();
        let of = |row: &Value| row["sequence"].as_u64().unwrap();
        assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), (3..=12).collect::<Vec<_>>());
        // `message 12`.
        assert_eq!(rows[9]["hex"], "6d657373616765203132");
        let older = json(&ask(&server, "GET", &format!("{target}&from=1"), RIGHT));
        assert_eq!(of(&older["rows"][0]), 1);
        let beyond = json(&ask(&server, "GET", &format!("{target}&from=99"), RIGHT));
        assert_eq!(beyond["rows"].as_array().map(Vec::len), Some(0));
        assert_eq!(ask(&server, "GET", &format!("{target}&from=x"), RIGHT).status, 400);
        assert_eq!(ask(&server, "GET", "/dashboard/messages?name=nosuch", RIGHT).status, 404);
        assert_eq!(ask(&server, "GET", &target, WRONG).status, 403);
        assert_eq!(ask(&server, "GET", &target, WRONG).status, 429);
        assert_eq!(ask(&server, "GET", &target, RIGHT).status, 200);
    }
}

#[test]
fn without_a_user_nobody_sees_messages() {
    let server = Launch::new(&[]).start();
    publish(&server, "orders", "secret");
    for headers in ["", RIGHT] {
        let refused = ask(&server, "GET", "/dashboard/messages?name=orders", headers);
        assert_eq!(refused.status, 403);
        let why = json(&refused)["error"].as_str().unwrap().to_owned();
        assert!(why.contains("names no user"), "{why}");
    }
}

#[test]
fn a_user_without_a_name_or_a_password_ends_the_start() {
    for block in ["{ user: ada }", "{ password: x }", "{}", "{ user: \"a:b\", password: x }"] {
        let launch = Launch::new(&[]).config(&format!("dashboard {block}\n"));
        let mut server = launch.spawn();
        assert!(!server.wait_exit().success(), "{block}");
        let line = "dashboard needs a user (without a colon) and a password";
        assert!(server.log.text().contains(line), "{block}: {}", server.log.text());
    }
}

#[test]
fn a_reload_replaces_the_user() {
    let server = Launch::new(&[]).config("dashboard { user: ada, password: lovelace }\n").start();
    publish(&server, "orders", "x");
    let target = "/dashboard/messages?name=orders";
    assert_eq!(ask(&server, "GET", target, RIGHT).status, 200);
    server.launch.rewrite_config("dashboard { user: ada, password: guess }\n");
    server.signal(Signal::SIGHUP);
    server.log.wait("Reloaded: dashboard user");
    server.log.wait("Reloaded server configuration");
    assert_eq!(ask(&server, "GET", target, WRONG).status, 200);
    assert_eq!(ask(&server, "GET", target, RIGHT).status, 403);
}

#[test]
fn channels_come_in_pages() {
    let server = Launch::new(&[]).start();
    for channel in ["orders.de", "orders.fr", "Bills", HOSTILE] {
        publish(&server, channel, "x");
    }
    let shown = |query: &str| {
        // The list is made anew after a few seconds.
        wait_for("four channels", || {
            let all = server.json(&format!("/dashboard/channels?{query}"));
            (all["all"] == 4).then_some(all)
        })
    };
    let names = |list: &Value| {
        let rows = list["rows"].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&shown("")), [HOSTILE, "Bills", "orders.de", "orders.fr"]);
    assert_eq!(names(&shown("search=ORDERS&order=down&limit=1")), ["orders.fr"]);
    assert_eq!(names(&shown("search=orders.*&offset=1")), ["orders.fr"]);
    let one = server.json(&format!("/dashboard/channel?name={HOSTILE_IN_URL}"));
    assert_eq!((one["name"].as_str(), one["messages"].as_u64()), (Some(HOSTILE), Some(1)));
    assert_eq!(one["limits"]["max_msgs"], 1_000_000);
}

fn member(store: &Path, ports: &[u16; 2], own: usize) -> Server {
    let cluster = format!("nats://127.0.0.1:{}", ports[own]);
    let other = format!("nats://127.0.0.1:{}", ports[1 - own]);
    Launch::new(&["-ft_group", "g", "-cluster", &cluster, "-routes", &other])
        .file_store(Some(store))
        .spawn()
}

/// Goal: whoever looks at a standby sees who is active, where its pages are, and a take-over.
#[test]
fn a_standby_shows_the_group_and_its_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let ports = [free_port(), free_port()];
    let mut first = member(&store, &ports, 0);
    first.log.wait(READY);
    let second = member(&store, &ports, 1);
    let group = wait_for("both members", || {
        let group = second.json("/streaming/groupz");
        let members = group["members"].as_array()?;
        (members.len() == 2 && members[0]["trouble"].is_null()).then_some(group)
    });
    assert_eq!(group["members"][0]["role"], "standby");
    assert_eq!(group["members"][1]["role"], "active");
    let pages = group["members"][1]["monitoring"].as_str().unwrap();
    assert!(pages.ends_with(&format!(":{}", first.launch.http)), "{pages}");
    // Where commands reach a process is nobody's business here.
    assert!(group["members"][0]["control"].is_null(), "{group}");
    let now = second.json("/dashboard/now");
    assert_eq!(now["is_active"], false);
    assert_eq!(now["state"], "FT_STANDBY");
    assert_eq!(second.json("/dashboard/channels")["all"], 0);
    first.kill();
    let own = wait_for("the take-over", || {
        let own = second.json("/streaming/groupz")["members"][0].clone();
        (own["role"] == "active").then_some(own)
    });
    assert_eq!(own["take_overs"].as_array().map(Vec::len), Some(1), "{own}");
    assert_eq!(own["take_overs"][0]["epoch"], own["epoch"]);
    wait_for("the dashboard to say so", || {
        second.json("/dashboard/now")["is_active"].as_bool().filter(|is_active| *is_active)
    });
}

#[test]
fn complaints_of_the_log_are_shown() {
    let server = Launch::new(&[]).config("authorization { user: u, password: p }\n").start();
    let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, server.launch.port)).unwrap();
    stranger.write_all(b"CONNECT {\"user\":\"<b>x</b>\",\"pass\":\"y\"}\r\nPING\r\n").unwrap();
    let text = wait_for("the complaint", || {
        let found = server.json("/dashboard/complaints");
        let lines = found["lines"].as_array()?.clone();
        let of = |line: &Value| line["text"].as_str().unwrap_or_default().to_owned();
        lines.iter().map(of).find(|text| text.contains("authentication error"))
    });
    assert!(!text.is_empty());
    assert_ne!(server.json("/dashboard/now")["complaints"], 0);
}

#[test]
fn a_core_server_has_a_dashboard_without_channels() {
    let server = Launch::core(&[]).config("http_base_path: \"/nats\"\n").start();
    assert_eq!(server.get("/dashboard").status, 404);
    assert_eq!(server.get("/nats/dashboard").status, 200);
    assert!(server.get("/nats").body.contains("<a href=\"/nats/dashboard\">"));
    let now = server.json("/nats/dashboard/now");
    assert_eq!((now["is_streaming"].as_bool(), now["trouble"].is_null()), (Some(false), true));
    assert_eq!(server.get("/nats/dashboard/channels").status, 404);
    assert_eq!(server.get("/streaming/groupz").status, 404);
}
