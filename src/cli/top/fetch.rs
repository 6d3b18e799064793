//! Asks the monitoring pages of a server.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde::de::DeserializeOwned;

use super::sample::{Core, Page, Sample, Server};
use crate::base::world;
use crate::net::tls::{Dialling, Files};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a page.
const PAGE_LEN_MAX: usize = 64 * 1024 * 1024;
/// Of a server that is too slow.
const TOO_SLOW: &str = "it has not answered in 5 s";
/// Bytes that are read at once.
const READ_LEN: usize = 64 * 1024;
/// Channels that one page is asked for.
const PAGE_CHANNELS: u64 = 1_000;

/// How much is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub channels: u64,
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0:?} is not the URL of a monitoring port: say http://HOST:PORT")]
    Url(String),
    #[error("{url}: {source}; does the server run, and with -m PORT?")]
    Io { url: String, source: io::Error },
    #[error("{url}: it answered {line:?}: is this the monitoring port (-m) of a streaming server?")]
    Answer { url: String, line: String },
    #[error("{url}: what it answered is not understood: {why}")]
    Body { url: String, why: String },
    #[error("{0}: it cannot be asked by https: {1}")]
    Tls(String, String),
}

/// Where a server's pages are.
#[derive(Debug)]
pub(super) struct Address {
    host: String,
    port: u16,
    /// In front of each page; empty, or begins with a slash.
    base: String,
    tls: Option<Arc<ClientConfig>>,
}

impl Address {
    /// The address that `url` names; `ca` is for https.
    pub fn parse(url: &str, ca: Option<PathBuf>) -> Result<Self, FetchError> {
        let wrong = || FetchError::Url(url.to_owned());
        let (is_secure, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(wrong()),
            None => (false, url),
        };
        let (place, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port_default = if is_secure { 443 } else { 8222 };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (place, port_default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.contains(['@', '?', '#']) || !is_plain(host) || !is_plain(base) {
            return Err(wrong());
        }
        let tls = is_secure.then(|| {
            let files = Files { ca, ..Files::default() };
            let dialling = Dialling::load(&files, false, PATIENCE);
            dialling.map(|found| found.client_config())
        });
        let tls = tls.transpose();
        Ok(Self {
            host: host.to_owned(),
            port,
            base: base.trim_end_matches('/').to_owned(),
            tls: tls.map_err(|error| FetchError::Tls(url.to_owned(), error.to_string()))?,
        })
    }

    fn url(&self, page: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}{}{page}", self.host, self.port, self.base)
    }

    /// What a page says, without its head.
    fn page(&self, page: &str) -> Result<Vec<u8>, FetchError> {
        let answer = self.ask(page);
        let answer = answer.map_err(|source| FetchError::Io { url: self.url(page), source })?;
        let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
        let is_good = line.starts_with("HTTP/1.") && line.split(' ').nth(1) == Some("200");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        match end.filter(|_| is_good) {
            Some(end) => Ok(answer[end + 4..].to_vec()),
            None => Err(FetchError::Answer { url: self.url(page), line }),
        }
    }

    fn ask(&self, page: &str) -> io::Result<Vec<u8>> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&place, PATIENCE) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(PATIENCE))?;
                    socket.set_write_timeout(Some(PATIENCE))?;
                    return match &self.tls {
                        None => self.converse(socket, page),
                        Some(config) => {
                            let name = ServerName::try_from(self.host.clone());
                            let name = name.map_err(io::Error::other)?;
                            let session = ClientConnection::new(Arc::clone(config), name);
                            let session = session.map_err(io::Error::other)?;
                            self.converse(StreamOwned::new(session, socket), page)
                        }
                    };
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Version 1.0, so that a page comes in one piece and ends with its connection.
    fn converse(&self, mut stream: impl Read + Write, page: &str) -> io::Result<Vec<u8>> {
        let (base, host) = (&self.base, &self.host);
        let asked = format!("GET {base}{page} HTTP/1.0\r\nHost: {host}:{}\r\n\r\n", self.port);
        stream.write_all(asked.as_bytes())?;
        stream.flush()?;
        let (mut answer, mut room) = (Vec::new(), vec![0; READ_LEN]);
        let began_at = world::instant();
        loop {
            // Each read has a bound on its time; who sends drop by drop needs one on all of them.
            if PATIENCE < world::instant().since(began_at) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, TOO_SLOW));
            }
            match stream.read(&mut room) {
                Ok(0) => return Ok(answer),
                Ok(len) if PAGE_LEN_MAX < answer.len() + len => {
                    return Err(io::Error::other("its answer is too long: ask for fewer channels"));
                }
                Ok(len) => answer.extend_from_slice(&room[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, TOO_SLOW));
                }
                // Some servers end a TLS connection without a word.
                Err(error)
                    if error.kind() == io::ErrorKind::UnexpectedEof && !answer.is_empty() =>
                {
                    return Ok(answer);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn document<T: DeserializeOwned>(&self, page: &str) -> Result<T, FetchError> {
        let body = self.page(page)?;
        serde_json::from_slice(&body)
            .map_err(|error| FetchError::Body { url: self.url(page), why: error.to_string() })
    }
}

/// One look at a server.
pub(super) fn sample(address: &Address, limits: Limits) -> Result<Sample, FetchError> {
    let core: Core = address.document("/varz")?;
    let server: Server = address.document("/streaming/serverz")?;
    let (mut channels, mut channel_total) = (Vec::new(), 0);
    let mut asked = 0;
    while asked < limits.channels {
        let count = PAGE_CHANNELS.min(limits.channels - asked);
        let page: Page = address
            .document(&format!("/streaming/channelsz?subs=1&limit={count}&offset={asked}"))?;
        channel_total = page.total;
        asked += count;
        let is_last = (page.channels.len() as u64) < count || channel_total as u64 <= asked;
        channels.extend(page.channels);
        if is_last {
            break;
        }
    }
    // A Go server has no such page, nor one of ours alone a group worth a line.
    let group = address.document("/streaming/groupz").ok();
    let channels = channels.into_iter().map(|channel| (channel.name.clone(), channel)).collect();
    Ok(Sample { at: world::instant(), core, server, channels, channel_total, group })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_address_is_what_people_write() {
        let urls = [
            ("http://127.0.0.1:8222", "http://127.0.0.1:8222/varz"),
            ("stan-1", "http://stan-1:8222/varz"),
            ("stan-1:9000", "http://stan-1:9000/varz"),
            ("http://stan/base/", "http://stan:8222/base/varz"),
            ("http://[::1]:8222", "http://::1:8222/varz"),
            ("http://[::1]", "http://::1:8222/varz"),
        ];
        for (url, expected) in urls {
            assert_eq!(Address::parse(url, None).unwrap().url("/varz"), expected, "{url}");
        }
        for url in [
            "",
            "http://",
            "nats://a:4222",
            "http://a:b",
            "http://u:p@a:1",
            "a b",
            "http://a:99999",
        ] {
            assert!(Address::parse(url, None).is_err(), "{url}");
        }
    }

    /// An address where every connection is answered with these bytes.
    fn answering(bytes: &'static [u8]) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).unwrap();
            stream.write_all(bytes).unwrap();
        });
        Address::parse(&format!("http://127.0.0.1:{port}"), None).unwrap()
    }

    #[test]
    fn what_is_no_page_is_an_error_that_names_it() {
        let said = |bytes: &'static [u8]| {
            sample(&answering(bytes), Limits { channels: 1 }).unwrap_err().to_string()
        };
        assert!(said(b"").contains("it answered \"\""));
        let endless = Box::leak(vec![b'x'; PAGE_LEN_MAX + READ_LEN].into_boxed_slice());
        assert!(said(endless).contains("its answer is too long"));
        assert!(
            said(b"INFO {}\r\n").contains("it answered \"INFO {}\": is this the monitoring port")
        );
        assert!(said(b"HTTP/1.0 404 Not Found\r\n\r\n").contains("404 Not Found"));
        assert!(said(b"HTTP/1.0 200 OK\r\n").contains("200 OK"));
        assert!(said(b"HTTP/1.0 200 OK\r\n\r\n[").contains("/varz: what it answered is not"));
        assert!(said(b"HTTP/1.0 200 OK\r\n\r\n{\"mem\":\"x\"}").contains("not understood"));
    }
}
