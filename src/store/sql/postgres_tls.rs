//! TLS between the PostgreSQL client and its server.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::{TlsConnector, client};

use crate::base::certificate::{Anyone, Authorities, Named, Servers};
use crate::base::crypto;
use crate::store::sql::dsn::{Identity, Pem, Security, Tls};
use crate::store::sql::roots;

/// Compat: what others may do with the file of a key, if root owns it, and otherwise.
const KEY_MODES: [u32; 2] = [0o640, 0o600];

/// How to begin TLS on a socket.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl Connector {
    /// Reads the authorities, if the server is to be verified, and our own certificate.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be.
    pub fn new(tls: &Tls) -> io::Result<Self> {
        let provider = crypto::provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let is_full = tls.security == Security::Full;
        let is_verified = match tls.security {
            Security::Full | Security::Authority => true,
            Security::AuthorityIfThere => file_is_there(tls.authorities.as_ref()),
            Security::Off | Security::Preferred | Security::Encrypted => false,
        };
        let verifier: Arc<dyn ServerCertVerifier> = if is_verified {
            let named = Named { by_name: is_full || tls.sends_name, by_address: is_full };
            Arc::new(Servers::new(authorities(tls)?, named, Arc::clone(&provider)))
        } else {
            Arc::new(Anyone::new(Arc::clone(&provider)))
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match tls.identity.as_ref().map(identity).transpose()?.flatten() {
            Some((chain, key)) => {
                // As it is: whether its kind is good enough is the server's business.
                let key = provider.key_provider.load_private_key(key).map_err(io::Error::other)?;
                let own = SingleCertAndKey::from(CertifiedKey::new(chain, key));
                builder.with_client_cert_resolver(Arc::new(own))
            }
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = tls.sends_name || is_full;
        Ok(Self { config: Arc::new(config) })
    }
}

/// Compat: with `sslmode=require` a file of authorities that is not there counts as none.
pub(super) fn file_is_there(authorities: Option<&Pem>) -> bool {
    matches!(authorities, Some(Pem::File(path)) if path.exists())
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Our own certificate and its key; none if the file of the usual place is not there.
fn identity(identity: &Identity) -> io::Result<Option<Chain>> {
    if let Pem::File(path) = &identity.certificate
        && !path.exists()
    {
        // Compat: also where the source names it; the server then says what it misses.
        return Ok(None);
    }
    if let Pem::File(path) = &identity.key {
        check_key_mode(path)?;
    }
    let chain = roots::certificates(&roots::read(&identity.certificate)?)?;
    let key = PrivateKeyDer::from_pem_slice(&roots::read(&identity.key)?);
    let of_key = |error| io::Error::other(format!("the key {:?}: {error}", identity.key));
    Ok(Some((chain, key.map_err(of_key)?)))
}

fn check_key_mode(path: &Path) -> io::Result<()> {
    let failed = |error| io::Error::other(format!("error reading {}: {error}", path.display()));
    let found = fs::metadata(path).map_err(failed)?;
    let [of_root, of_others] = KEY_MODES;
    let allowed = if found.uid() == 0 { of_root } else { of_others };
    if found.permissions().mode() & 0o777 & !allowed == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(io::Error::other(format!(
        "private key file {path} has group or world access; permissions should be u=rw,g=r (0640) \
         if owned by root, or u=rw (0600), or less, run: chmod 600 {path}"
    )))
}

fn authorities(tls: &Tls) -> io::Result<Authorities> {
    let authorities = Authorities::new(roots::certificates(&roots::text(tls)?)?);
    if authorities.is_empty() {
        return Err(io::Error::other(format!("no certificate in {:?}", tls.authorities)));
    }
    Ok(authorities)
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Handshake { config: Arc::clone(&self.config), name })
    }
}

/// One handshake with one host.
pub struct Handshake {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let connector = TlsConnector::from(self.config);
        let connecting = connector.connect(self.name, socket);
        Box::pin(async move { connecting.await.map(Stream) })
    }
}

/// An encrypted connection.
pub struct Stream(client::TlsStream<Socket>);

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
