//! Mutual TLS: the daemon shows its certificate and wants one of the client,
//! signed by the given authority.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::address::{ListenError, TlsFiles};

/// Reads the files and makes what accepts TLS connections.
pub(crate) async fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ListenError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--tlscacert", &files.ca).await? {
        roots.add(certificate).map_err(|e| wrong("--tlscacert", &files.ca, &e))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| wrong("--tlscacert", &files.ca, &e))?;
    let chain = certificates("--tlscert", &files.cert).await?;
    let key = read("--tlskey", &files.key).await?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| wrong("--tlskey", &files.key, &e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("--tlscert", &files.cert, &e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| wrong("--tlscert", &files.cert, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let pem = read(what, path).await?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|e| wrong(what, path, &e))?;
    if found.is_empty() {
        return Err(wrong(what, path, &"there is no certificate in it"));
    }
    Ok(found)
}

async fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, ListenError> {
    tokio::fs::read(path).await.map_err(|e| wrong(what, path, &e))
}

fn wrong(what: &'static str, path: &Path, why: &dyn std::fmt::Display) -> ListenError {
    ListenError::Tls { what, path: path.to_owned(), why: why.to_string() }
}
