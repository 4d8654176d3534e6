//! How the daemon is reached: a unix socket, TCP with or without TLS, or a
//! command on another machine.
//!
//! Be aware:
//! - Every request has a connection of its own: attach and exec take theirs
//!   over, and opening a unix socket costs microseconds.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result, bail};
use http::{Request, Response, Uri};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::ChildStdin;

/// Where the daemon listens when nothing is said: the first that exists.
pub const DEFAULT_SOCKETS: [&str; 2] = ["/run/sampan.sock", "/var/run/docker.sock"];

/// A way to the daemon.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP, `host:port`, with TLS when there is a configuration for it.
    Tcp(String, Option<Tls>),
    /// `sampan system dial-stdio` on another machine.
    Ssh(String),
}

/// Certificates for TLS.
#[derive(Clone)]
pub struct Tls(Arc<rustls::ClientConfig>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// What the user said about TLS.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Speak TLS.
    pub enabled: bool,
    /// Check the daemon's certificate.
    pub verify: bool,
    /// The authority that signed the daemon's certificate.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// The client's private key.
    pub key: Option<PathBuf>,
}

/// A connection of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Endpoint {
    /// Reads a `--host`: `unix://`, `tcp://`, `ssh://`.
    ///
    /// # Errors
    /// When it is none of these, or the TLS files can't be read.
    pub fn parse(host: &str, tls: &TlsOptions) -> Result<Self> {
        match host.split_once("://") {
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http" | "https", address)) => {
                let port = if tls.enabled { 2376 } else { 2375 };
                let address = address.trim_end_matches('/');
                let has_port =
                    address.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
                let address =
                    if has_port { address.to_owned() } else { format!("{address}:{port}") };
                let tls = if tls.enabled { Some(client_config(tls)?) } else { None };
                Ok(Self::Tcp(address, tls))
            }
            Some(("ssh", _)) => Ok(Self::Ssh(host.to_owned())),
            _ => bail!(
                "invalid host {host:?}: unix://PATH, tcp://HOST:PORT or ssh://USER@HOST is expected"
            ),
        }
    }

    /// As the user would write it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix://{}", path.display()),
            Self::Tcp(address, _) => format!("tcp://{address}"),
            Self::Ssh(host) => host.clone(),
        }
    }

    /// Sends one request on a new connection, which an upgrade may take over.
    ///
    /// # Errors
    /// When the daemon can't be reached or doesn't speak HTTP.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.open().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        parts.uri = path.parse::<Uri>().context("path of the request")?;
        parts.headers.insert(http::header::HOST, http::HeaderValue::from_static("sampan"));
        let answer = sender.send_request(Request::from_parts(parts, body)).await;
        answer.with_context(|| {
            let hint = if matches!(self, Self::Tcp(_, None)) {
                " (does it speak TLS? see --tls)"
            } else {
                ""
            };
            format!("error during connect to {}{hint}", self.name())
        })
    }

    /// Opens a raw connection.
    ///
    /// # Errors
    /// When the daemon can't be reached.
    pub async fn open(&self) -> Result<Box<dyn Stream>> {
        let unreachable = || {
            format!(
                "Cannot connect to the Sampan daemon at {}. Is the daemon running? \
                 (start it with: sudo sampan daemon; choose another with -H)",
                self.name()
            )
        };
        match self {
            Self::Unix(path) => {
                Ok(Box::new(UnixStream::connect(path).await.with_context(unreachable)?))
            }
            Self::Tcp(address, None) => {
                Ok(Box::new(TcpStream::connect(address).await.with_context(unreachable)?))
            }
            Self::Tcp(address, Some(tls)) => {
                let stream = TcpStream::connect(address).await.with_context(unreachable)?;
                let name = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.0));
                Ok(Box::new(connector.connect(name, stream).await.with_context(unreachable)?))
            }
            Self::Ssh(host) => Ok(Box::new(ssh(host).with_context(unreachable)?)),
        }
    }
}

/// The two ends of a child process as one stream.
fn ssh(host: &str) -> Result<impl Stream + use<>> {
    let mut command = tokio::process::Command::new("ssh");
    command.args(["-o", "ConnectTimeout=30", "-T"]).args(ssh_target(host)?);
    command.args(["--", "sampan", "system", "dial-stdio"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("start ssh")?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(stdin), Some(stdout)) = (stdin, stdout) else { bail!("ssh has no stdio") };
    // Reaped in the background; it ends when its stdio closes.
    tokio::spawn(async move { child.wait().await });
    Ok(tokio::io::join(stdout, Pipe(Some(stdin))))
}

/// A child's input that a shutdown closes; the child's own one only flushes.
struct Pipe(Option<ChildStdin>);

impl Pipe {
    fn open(&mut self) -> std::io::Result<Pin<&mut ChildStdin>> {
        let pipe = self.0.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok(Pin::new(pipe))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.open()?.poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.0.as_mut() {
            Some(pipe) => Pin::new(pipe).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<std::io::Result<()>> {
        let flushed = self.as_mut().poll_flush(context);
        if flushed.is_ready() {
            self.0 = None;
        }
        flushed
    }
}

/// ssh's arguments for `ssh://[user@]host[:port]`.
fn ssh_target(host: &str) -> Result<Vec<String>> {
    let rest = host.trim_start_matches("ssh://").trim_end_matches('/');
    let (user, address) = match rest.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, rest),
    };
    let (name, port) = match address.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name, Some(port)),
        _ => (address, None),
    };
    let is_safe = |t: &str| !t.is_empty() && !t.starts_with('-') && !t.contains(['/', ' ']);
    if !is_safe(name) || !user.is_none_or(is_safe) {
        bail!("invalid host {host:?}: ssh://[USER@]HOST[:PORT] is expected");
    }
    let mut args = Vec::new();
    if let Some(user) = user {
        args.extend(["-l".to_owned(), user.to_owned()]);
    }
    if let Some(port) = port {
        args.extend(["-p".to_owned(), port.to_owned()]);
    }
    args.push(name.trim_matches(['[', ']']).to_owned());
    Ok(args)
}

fn client_config(options: &TlsOptions) -> Result<Tls> {
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .with_context(|| format!("read the certificates in {}", path.display()))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = if options.verify {
        let ca = options.ca.as_deref().context("--tlsverify needs --tlscacert")?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate)?;
        }
        builder.with_root_certificates(roots)
    } else {
        // `--tls` alone encrypts without asking who is there, as docker's does.
        let anyone = Arc::new(Anyone(provider));
        builder.dangerous().with_custom_certificate_verifier(anyone)
    };
    let config = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("read the key in {}", key.display()))?;
            builder.with_client_auth_cert(certificates(cert)?, key)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Tls(Arc::new(config)))
}

/// Trusts any certificate, but checks that its holder signed the handshake.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let parse = |h: &str| Endpoint::parse(h, &TlsOptions::default());
        assert_eq!(parse("unix:///x/y").unwrap().name(), "unix:///x/y");
        assert_eq!(parse("tcp://h").unwrap().name(), "tcp://h:2375");
        assert_eq!(parse("tcp://h:1").unwrap().name(), "tcp://h:1");
        assert!(parse("/x").is_err());
        assert_eq!(ssh_target("ssh://me@box:22").unwrap(), ["-l", "me", "-p", "22", "box"]);
        assert!(ssh_target("ssh://-oProxyCommand=x").is_err());
    }
}
