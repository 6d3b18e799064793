//! `stanby health`: asks a server how it is, for a container's health check.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, ValueEnum};

use super::{connection, output};

/// Bytes of an answer that are read: the reason is at its front.
const ANSWER_BYTES_MAX: u64 = 4 * 1024;

/// Ask a server how it is
///
/// For health checks of containers that hold nothing else: it asks the monitoring port, without
/// TLS.
#[derive(Debug, Parser)]
#[command(name = "stanby health", after_help = EXAMPLES)]
struct Args {
    /// What is asked
    #[arg(value_enum, default_value_t = Question::Ready)]
    question: Question,
    /// Monitoring port of the server (its -m)
    #[arg(short = 'm', long = "http_port", default_value_t = 8222)]
    port: u16,
    /// Where the server runs
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Seconds that it may take to answer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

const EXAMPLES: &str =
    "Exit code: 0 if it is, 1 if not, or if nobody answers; the reason is printed.
A container is restarted by `live`; `ready` says who may be sent to, and `active` who serves.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    /// Whether the process runs as it should: only a restart mends it if not
    Live,
    /// Whether it serves, or would take over
    Ready,
    /// Whether it serves
    Active,
}

impl Question {
    fn target(self) -> &'static str {
        match self {
            Self::Live => "/streaming/healthz?live=1",
            Self::Ready => "/streaming/healthz?ready=1",
            Self::Active => "/streaming/healthz?active=1",
        }
    }
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match connection::parse::<Args>("stanby health", args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let (text, code) = match ask(&args) {
        Ok(answer) => judged(&answer),
        Err(error) => (format!("{}:{}: {error}", args.host, args.port), ExitCode::FAILURE),
    };
    output::end_line(&connection::printable(&text), code)
}

fn ask(args: &Args) -> io::Result<String> {
    let patience = Duration::from_secs(args.timeout);
    let mut places = (args.host.as_str(), args.port).to_socket_addrs()?;
    let place = places.next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mut socket = TcpStream::connect_timeout(&place, patience)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    let (target, host) = (args.question.target(), &args.host);
    write!(socket, "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What an HTTP response says, and whether that is good.
fn judged(answer: &str) -> (String, ExitCode) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let line = head.lines().next().unwrap_or_default();
    let is_http = line.starts_with("HTTP/1.");
    match line.split(' ').nth(1).filter(|_| is_http) {
        Some("200") => (body.trim().to_owned(), ExitCode::SUCCESS),
        Some(status) => (format!("{status}: {}", body.trim()), ExitCode::FAILURE),
        None => (format!("no page answers there: {line:?}"), ExitCode::FAILURE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_that_says_so_is_good() {
        let good = |answer: &str| judged(answer).1 == ExitCode::SUCCESS;
        assert!(good("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"status\":\"ok\"}\n"));
        for bad in ["", "HTTP/1.1 503 No\r\n\r\nwhy", "200", "SSH-2.0 200 x", "HTTP/1.1"] {
            assert!(!good(bad), "{bad}");
        }
        assert_eq!(judged("HTTP/1.1 503 No\r\n\r\nwhy\n").0, "503: why");
    }
}
