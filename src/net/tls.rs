//! A connection's bytes through TLS
//!
//! The keys and rules of a listener ([`Serving`]) or of dialled routes ([`Dialling`]), made from
//! PEM files, and the [`Layer`] that one connection's bytes go through.

use std::io::{self, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection,
};

use crate::base::certificate::{
    Anyone, Authorities, Clients, Named, SYSTEM_ROOTS, Servers, own, text_of,
};
use crate::base::crypto;
use crate::base::files;
use crate::base::opening::{Beginning, NO_HANDSHAKE, Opening};
use crate::broker::TlsPeer;

/// Encrypted bytes that one connection may hold beside its outbox.
const SEALED_BYTES_MAX: usize = 64 * 1024;

/// Why a TLS configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of authorities cannot be read, or holds none.
    #[error("{0}")]
    Roots(String),
    /// The library refuses what it is asked for.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
    /// Certificate and key cannot be read or used, or not together.
    #[error("error parsing X509 certificate/key pair: {0}")]
    Own(String),
    /// Certificates are to be verified, and none was given to verify them with.
    #[error("no ca_file is given and this machine has no trusted certificates of its own")]
    NoRoots,
    /// A cipher suite by a name that is unknown here.
    #[error("unrecognized cipher {0}")]
    Cipher(String),
    /// A curve by a name that is unknown here.
    #[error("unrecognized curve preference {0}")]
    Curve(String),
}

/// What a configuration's `tls` block says (spec core NATS, 16.6).
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Our certificate, and those between it and a root.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots by which peers are verified; `None` = those of the machine.
    pub ca: Option<PathBuf>,
    /// Cipher suites by the names of Go; empty = the usual ones.
    pub cipher_suites: Vec<String>,
    /// Curves by the names of Go; empty = the usual ones.
    pub curves: Vec<String>,
}

/// Whether a client shows a certificate of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It is not asked for one.
    #[default]
    NotAsked,
    /// One that it shows must be good.
    Optional,
    /// It must show a good one.
    Required,
}

/// TLS of a listener.
#[derive(Clone, Debug)]
pub struct Serving {
    config: Arc<ServerConfig>,
    /// How long a handshake may take.
    pub timeout: Duration,
}

/// TLS of the routes that we open, and of the connection to an external server.
#[derive(Clone, Debug)]
pub struct Dialling {
    config: Arc<ClientConfig>,
    /// How long a handshake may take.
    pub timeout: Duration,
}

impl Serving {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(
        files: &Files,
        certificate: ClientCertificate,
        timeout: Duration,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(files)?);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Setup)?;
        let builder = match certificate {
            ClientCertificate::NotAsked => builder.with_no_client_auth(),
            ClientCertificate::Optional | ClientCertificate::Required => {
                let is_optional = certificate == ClientCertificate::Optional;
                let roots = roots(files.ca.as_deref())?;
                let verifier = Clients::new(roots, is_optional, Arc::clone(&provider));
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(pair(files, &provider)?));
        // Nobody resumes NATS connections often enough to pay for a cache of their sessions.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), timeout })
    }
}

impl Serving {
    /// For listeners that are not a reactor's.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

impl Dialling {
    /// Reads the files; our own certificate, if there is one, is shown to who asks for it.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(files: &Files, is_insecure: bool, timeout: Duration) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(files)?);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Setup)?;
        let verifier: Arc<dyn ServerCertVerifier> = if is_insecure {
            Arc::new(Anyone::new(Arc::clone(&provider)))
        } else {
            let roots = roots(files.ca.as_deref())?;
            Arc::new(Servers::new(roots, Named::ALWAYS, Arc::clone(&provider)))
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = if files.cert.as_os_str().is_empty() {
            builder.with_no_client_auth()
        } else {
            builder.with_client_cert_resolver(Arc::new(pair(files, &provider)?))
        };
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config), timeout })
    }
}

impl Dialling {
    /// For connections that are not a reactor's.
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

/// Our own certificate, of whatever version, with its key.
fn pair(files: &Files, provider: &CryptoProvider) -> Result<SingleCertAndKey, TlsError> {
    let certificate = read(&files.cert).map_err(TlsError::Own)?;
    let key = read(&files.key).map_err(TlsError::Own)?;
    let pair = own::own_pair((&files.cert, &certificate), &key, provider).map_err(TlsError::Own)?;
    Ok(SingleCertAndKey::from(pair))
}

fn roots(file: Option<&Path>) -> Result<Authorities, TlsError> {
    let of_machine = || SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
    let path = file.or_else(of_machine).ok_or(TlsError::NoRoots)?;
    let roots = read(path).and_then(|pem| own::authorities(&pem));
    roots.map_err(|reason| if file.is_none() { TlsError::NoRoots } else { TlsError::Roots(reason) })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    files::read_text(path).map_err(|error| own::unreadable(path, &error))
}

/// The cryptography of the configured suites and curves.
fn provider(files: &Files) -> Result<CryptoProvider, TlsError> {
    let mut provider = CryptoProvider::clone(&crypto::provider());
    if !files.cipher_suites.is_empty() {
        let mut suites = Vec::new();
        // Compat: as in the reference, the list chooses among the suites of TLS 1.2 only.
        suites.extend(provider.cipher_suites.iter().filter(|suite| suite.tls13().is_some()));
        for name in &files.cipher_suites {
            let is_named = |suite: &&rustls::SupportedCipherSuite| {
                suite_name(suite.suite()).eq_ignore_ascii_case(name)
            };
            match provider.cipher_suites.iter().find(is_named) {
                Some(suite) if suite.tls13().is_some() => (),
                Some(suite) => suites.push(*suite),
                None => return Err(TlsError::Cipher(name.clone())),
            }
        }
        provider.cipher_suites = suites;
    }
    if !files.curves.is_empty() {
        let named = files.curves.iter().map(|name| crypto::curve(name).ok_or(name));
        let groups = named.collect::<Result<Vec<_>, _>>();
        provider.kx_groups = groups.map_err(|name| TlsError::Curve(name.clone()))?;
    }
    Ok(provider)
}

/// The name that Go, and so every monitoring tool, uses.
fn suite_name(suite: rustls::CipherSuite) -> String {
    suite.as_str().unwrap_or("unknown").replace("TLS13_", "TLS_")
}

/// One connection's TLS: encrypted bytes on the side of the socket, plain ones on ours.
#[derive(Debug)]
pub struct Layer {
    session: Connection,
    /// What the peer said, until the handshake is done.
    opening: Opening,
    /// The first of it, before it is known whether that is TLS.
    held: Vec<u8>,
    is_established: bool,
    is_ended: bool,
}

/// Why TLS of a connection ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

impl Layer {
    /// The side that was called.
    ///
    /// # Errors
    /// [`Broken`] when the configuration cannot serve.
    pub fn serve(serving: &Serving) -> Result<Self, Broken> {
        let session = ServerConnection::new(Arc::clone(&serving.config)).map_err(broken)?;
        Ok(Self::over(session.into()))
    }

    /// The side that calls `host`.
    ///
    /// # Errors
    /// [`Broken`] when `host` is neither a name nor an address.
    pub fn dial(dialling: &Dialling, host: &str) -> Result<Self, Broken> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| Broken(format!("{host}: {error}")))?;
        let config = Arc::clone(&dialling.config);
        let session = ClientConnection::new(config, name).map_err(broken)?;
        Ok(Self::over(session.into()))
    }

    fn over(mut session: Connection) -> Self {
        session.set_buffer_limit(Some(SEALED_BYTES_MAX));
        let (opening, held) = (Opening::default(), Vec::new());
        Self { session, opening, held, is_established: false, is_ended: false }
    }

    /// Takes all of `sealed` in and puts what it says at the end of `plain`.
    ///
    /// # Errors
    /// [`Broken`] when the peer does not speak TLS, or not with us. An alert for it is ready to be
    /// written then, unless it was no TLS at all.
    pub fn open(&mut self, sealed: &[u8], plain: &mut BytesMut) -> Result<(), Broken> {
        if self.is_established {
            return self.unseal(sealed, plain);
        }
        self.opening.follow(sealed);
        match self.opening.beginning() {
            Beginning::Unfinished => {
                self.held.extend_from_slice(sealed);
                Ok(())
            }
            Beginning::Http | Beginning::Other => Err(Broken(NO_HANDSHAKE.to_owned())),
            Beginning::Tls => {
                let held = std::mem::take(&mut self.held);
                self.unseal(&held, plain)?;
                self.unseal(sealed, plain)
            }
        }
    }

    /// What is told of a peer that goes away during the handshake.
    #[must_use]
    pub fn end_text(&self) -> &'static str {
        self.opening.end_text()
    }

    fn unseal(&mut self, mut sealed: &[u8], plain: &mut BytesMut) -> Result<(), Broken> {
        while !sealed.is_empty() {
            let taken = self.session.read_tls(&mut sealed);
            if taken.map_err(|error| Broken(error.to_string()))? == 0 {
                break;
            }
            let processed = self.session.process_new_packets();
            let state = processed.map_err(|error| Broken(self.opening.tell(&error)))?;
            self.take_plain(state.plaintext_bytes_to_read(), plain);
            self.is_ended |= state.peer_has_closed();
        }
        Ok(())
    }

    /// Whether the peer said goodbye: nothing more comes, though its socket may stay open until
    /// it hears ours.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn take_plain(&mut self, len: usize, plain: &mut BytesMut) {
        let start = plain.len();
        plain.resize(start + len, 0);
        let mut reader = self.session.reader();
        reader.read_exact(&mut plain[start..]).expect("so many plain bytes are ready");
    }

    /// Who the peer is: once, as soon as the handshake is done.
    pub fn poll_established(&mut self) -> Option<TlsPeer> {
        if self.is_established || self.session.is_handshaking() {
            return None;
        }
        self.is_established = true;
        let version = match self.session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3".to_owned(),
            Some(ProtocolVersion::TLSv1_2) => "1.2".to_owned(),
            Some(_) | None => "unknown".to_owned(),
        };
        let suite = self.session.negotiated_cipher_suite();
        let cipher = suite.map(|suite| suite_name(suite.suite())).unwrap_or_default();
        let chain = self.session.peer_certificates().and_then(<[_]>::first);
        let certificate = chain.map(|certificate| Bytes::copy_from_slice(certificate));
        Some(TlsPeer { version, cipher, certificate })
    }

    /// Whether the handshake is done.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.is_established
    }

    /// Encrypts the front of `plain`, up to a bound; says how many bytes it took.
    pub fn seal(&mut self, plain: &[IoSlice<'_>]) -> usize {
        self.session.writer().write_vectored(plain).expect("encrypting does no IO")
    }

    /// Says goodbye, so that the peer can tell an end from a cut. Who never spoke TLS with us is
    /// told nothing in it.
    pub fn seal_end(&mut self) {
        if self.is_established {
            self.session.send_close_notify();
        }
    }

    /// Whether encrypted bytes wait for the socket.
    #[must_use]
    pub fn has_sealed(&self) -> bool {
        self.session.wants_write()
    }

    /// Writes encrypted bytes until none are left or the socket is full.
    ///
    /// # Errors
    /// As the socket says; `WouldBlock` when it is full.
    pub fn write_sealed(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn broken(error: rustls::Error) -> Broken {
    Broken(text_of(&error))
}

#[cfg(test)]
pub(in crate::net) mod tests;
