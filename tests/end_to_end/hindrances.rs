//! What must not stop a server: a log that nobody reads, a crowd that takes the descriptors.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::server::{Launch, PATIENCE, wait_for};
use crate::stan::Stan;
use crate::wire::Conn;

/// Goal: a syslog server that accepts and never reads holds up no client, no page and no end.
#[test]
fn a_syslog_server_that_reads_nothing_holds_up_nobody() {
    let syslog = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("tcp://{}", syslog.local_addr().unwrap());
    let launch = Launch::new(&["-DV", "-SDV", "-r", &url]).file_store(None);
    let mut server = launch.spawn();
    let _stuck = syslog.accept().unwrap();
    wait_for("an active server", || {
        (server.get("/streaming/healthz?active=1").status == 200).then_some(())
    });
    let mut stan = Stan::connect(launch.port, "talker");
    let text = "x".repeat(100_000);
    // Each message makes several lines of its length: far more than any socket buffer takes.
    for _ in 0..200 {
        stan.publish("foo", &text).unwrap();
    }
    assert_eq!(server.get("/streaming/healthz?active=1").status, 200);
    stan.close().unwrap();
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
}

/// Goal: with few descriptors, a crowd that is connected and asks nothing takes neither the role
/// nor the files of many channels away, and pages are answered.
#[test]
fn a_crowd_leaves_the_descriptors_that_lease_store_and_pages_need() {
    let launch = Launch::new(&[]).file_store(None).through(&["prlimit", "--nofile=400"]);
    let server = launch.start();
    let mut stan = Stan::connect(launch.port, "worker");
    let channels: Vec<String> = (0..90).map(|number| format!("channel.{number}")).collect();
    for channel in &channels {
        stan.publish(channel, "before").unwrap();
    }
    let mut crowd = Vec::new();
    for _ in 0..600 {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, launch.port)).unwrap();
        socket.set_nonblocking(true).unwrap();
        crowd.push(socket);
    }
    server.log.wait("too many open files");
    for _ in 0..3 {
        for channel in &channels {
            stan.publish(channel, "meanwhile").unwrap();
        }
    }
    assert_eq!(server.get("/streaming/healthz?active=1").status, 200);
    let shown = server.json("/streaming/serverz");
    assert!(shown["open_fds"].as_i64().unwrap() < 400, "{shown}");
    assert_eq!(shown["total_msgs"], 360, "{shown}");
    let log = server.log.text();
    assert!(!log.contains("lease") && !log.contains("stepping"), "{log}");
    drop(crowd);
    wait_for("a place for a new client", || {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, launch.port)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut first = [0; 4];
        socket.read_exact(&mut first).ok()?;
        (first == *b"INFO").then_some(())
    });
}

/// Goal: nobody has to know `ulimit -n`: the server takes what its user may give it.
#[test]
fn the_limit_of_descriptors_is_raised_at_the_start() {
    let server = Launch::new(&[]).through(&["prlimit", "--nofile=300:5000"]).start();
    assert_eq!(server.json("/streaming/serverz")["max_fds"], 5_000);
}

/// Goal: a port that somebody else has is said in the reference's words, whichever it is.
#[test]
fn ports_in_use_are_told_in_the_words_of_the_reference() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let in_use = format!("listen tcp 127.0.0.1:{port}: bind: address already in use");
    let mut launch = Launch::new(&[]);
    launch.http = port;
    let mut server = launch.run();
    let line = format!("[FTL] Can't start monitoring: can't listen to the monitor port: {in_use}");
    server.log.wait(&line);
    assert_eq!(server.wait_exit().code(), Some(1));
    let url = format!("nats://127.0.0.1:{port}");
    let mut server = Launch::new(&["--cluster", &url]).run();
    server.log.wait(&format!("[FTL] Error listening on router port: {port} - {in_use}"));
    assert_eq!(server.wait_exit().code(), Some(1));
}

/// Goal: the figures of a page with a hundred thousand interests are there without a copy of them.
#[test]
fn the_page_of_figures_counts_interests_without_listing_them() {
    let server = Launch::core(&[]).start();
    let mut client = Conn::client(server.launch.port, "");
    let mut lines = String::new();
    for number in 0..1_000 {
        lines.push_str(&format!("SUB many.{number} {number}\r\n"));
    }
    client.ask(lines);
    let shown = server.json("/varz");
    assert_eq!((&shown["subscriptions"], &shown["connections"]), (&1_000.into(), &1.into()));
    let shown = server.json("/connz");
    assert_eq!(shown["connections"][0]["subscriptions"], 1_000);
    let shown = server.json("/connz?subs=1");
    let listed = shown["connections"][0]["subscriptions_list"].as_array().unwrap();
    assert_eq!(listed.len(), 1_000);
}

/// Goal: each signal that does not end the reference ends nothing here; it needs no meaning.
#[test]
fn signals_that_the_reference_survives_are_survived() {
    let launch = Launch::new(&[]);
    let mut server = launch.start();
    // But for those that end it there too, stop it, or say something (`docs/compatibility.md`).
    let survived = [12, 13, 14, 17, 18, 23, 24, 25, 26, 27, 28, 29, 30].into_iter().chain(35..=64);
    for number in survived {
        let kill = format!("kill -{number} {}", server.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{number}");
        Stan::connect(launch.port, &format!("after_{number}"));
        assert!(server.is_running(), "signal {number}");
    }
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
}
