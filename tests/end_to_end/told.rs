//! What the log says of what is wrong, and of what a reload has changed: the lines that the Go
//! server was seen to write.

use std::fs;

use nix::sys::signal::Signal;

use crate::server::Launch;
use crate::wire::Conn;

/// Goal: a mistake in a route is no end of the server; it says so and goes on trying.
#[test]
fn a_route_that_cannot_be_dialled_is_told_and_tried_again() {
    for (route, why) in [
        ("nats://foo", "address foo: missing port in address"),
        ("nats://127.0.0.1:0", "dial tcp 127.0.0.1:0: connect: connection refused"),
        ("nats://127.0.0.1:99999", "dial tcp: address 99999: invalid port"),
        ("foo:25999", "missing port in address"),
    ] {
        let flags = ["-cluster", "nats://127.0.0.1:-1", "-cluster_name", "c", "-D", "-routes"];
        let server = Launch::new(&flags).arg(route).start();
        server.log.wait(&format!("[ERR] Error trying to connect to route (attempt 1): {why}"));
        server.log.wait(&format!("[DBG] Error trying to connect to route (attempt 2): {why}"));
        let config = format!("cluster {{ port: -1, name: c, routes: [\"{route}\"] }}\n");
        let server = Launch::new(&[]).config(&config).start();
        server.log.wait(&format!("[ERR] Error trying to connect to route (attempt 1): {why}"));
    }
}

/// Goal: nobody runs without verified certificates and does not know it.
#[test]
fn certificates_that_are_not_verified_are_warned_of() {
    let launch = Launch::new(&[]);
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(launch.folder().join("cert.pem"), own.cert.pem()).unwrap();
    fs::write(launch.folder().join("key.pem"), own.signing_key.serialize_pem()).unwrap();
    let tls = "tls { cert_file: cert.pem, key_file: key.pem";
    let text = format!(
        "{tls} }}\ncluster {{ port: -1, name: a, {tls}, insecure: true }} }}\n\
         streaming {{ tls {{ insecure: true }} }}\n"
    );
    let server = launch.config(&text).start();
    let end = "will not be verified. DO NOT USE IN PRODUCTION!";
    let all = "TLS certificate chain and hostname";
    server.log.wait(&format!("[WRN] {all} of solicited routes {end}"));
    server.log.wait(&format!("[WRN] STREAM: {all} {end}"));
    let mut plain = Conn::open(server.launch.port);
    plain.send(b"CONNECT {}\r\n");
    server.log.wait("TLS handshake error: tls: first record does not look like a TLS handshake");
}

#[test]
fn a_refused_subscription_is_told_with_its_queue_and_sid() {
    let users = "authorization { users: [\n\
                 { user: a, password: b, permissions: { subscribe: \"a\" } } ] }\n\
                 max_sub_tokens: 2\n";
    let server = Launch::new(&[]).config(users).start();
    let mut conn = Conn::client(server.launch.port, "\"user\":\"a\",\"pass\":\"b\"");
    conn.send(b"SUB x 7\r\nSUB x q 8\r\n");
    server.log.wait("Subscription Violation - User \"a\", Subject \"x\", SID 7");
    server.log.wait("Subscription Violation - User \"a\", Subject \"x\", Queue: \"q\", SID 8");
    let server = Launch::new(&[]).config("max_sub_tokens: 2\n").start();
    let mut conn = Conn::client(server.launch.port, "\"user\":\"joe\"");
    conn.send(b"SUB a.b.c 9\r\n");
    server
        .log
        .wait("Subscription Violation Too Many Tokens - User \"joe\", Subject \"a.b.c\", SID 9");
}

/// Goal: a reload that names files leaves them there.
#[test]
fn a_reload_moves_the_files_of_the_process() {
    let launch = Launch::new(&[]);
    let folder = launch.folder().to_path_buf();
    for name in ["a", "b"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let server = launch.config("ports_file_dir: a\nclient_advertise: \"h:1\"\n").start();
    let name = format!("nats-streaming-server_{}.ports", server.pid());
    let ports = fs::read(folder.join("a").join(&name)).unwrap();
    let place = |page: serde_json::Value| (page["host"].clone(), page["port"].clone());
    let before = place(server.json("/varz"));
    let text = "ports_file_dir: b\npid_file: \"none/pid\"\nclient_advertise: \"i:2\"\n";
    let mark = server.log.len();
    server.launch.rewrite_config(text);
    server.signal(Signal::SIGHUP);
    server.log.wait_after(mark, "Reloaded server configuration");
    assert_eq!(fs::read(folder.join("b").join(&name)).unwrap(), ports);
    assert!(!folder.join("a").join(&name).exists());
    let log = server.log.text();
    let at = |part: &str| log.find(part).unwrap_or_else(|| panic!("{part}: {log}"));
    let missing = "[ERR] Failed to write pidfile: open none/pid: no such file or directory";
    assert!(at(missing) < at("Reloaded: pid_file = none/pid"), "{log}");
    assert_eq!(place(server.json("/varz")), before, "the page shows where the server began");
    let told = Conn::open(server.launch.port).info;
    assert_eq!((&told["host"], &told["port"]), (&"i".into(), &2.into()), "clients hear it");
}

#[test]
fn a_mistake_in_the_streaming_part_is_told_by_a_reload_that_goes_through() {
    let server = Launch::new(&[]).config("max_connections: 100\n").start();
    let mark = server.log.len();
    let text = "max_connections: 50\nstreaming { limits { mm: \"x\" } }\n";
    server.launch.rewrite_config(text);
    server.signal(Signal::SIGHUP);
    server.log.wait_after(mark, "[WRN] STREAM: ");
    server.log.wait_after(mark, "Reloaded: max_connections = 50");
    server.log.wait_after(mark, "Reloaded server configuration");
}
