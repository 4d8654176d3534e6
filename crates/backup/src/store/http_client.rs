//! The HTTP client of all storages in the network.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(20);

/// How long the storage may be silent.
const SILENCE: Duration = Duration::from_secs(120);

/// A client. With a directory of certificates, `ca.pem` says whom it trusts
/// and `cert.pem` and `key.pem` who it is, as for the docker command; each may
/// be absent. Without, the host's root certificates are trusted. Reads files.
pub(super) fn new(certificates: Option<&Path>) -> Result<reqwest::Client, String> {
    let text = |e: &dyn Error| format!("can't make an HTTP client: {e}");
    let mut roots = rustls::RootCertStore::empty();
    let authority = certificates.map(|dir| dir.join("ca.pem")).filter(|file| file.exists());
    match &authority {
        Some(file) => {
            for certificate in chain(file)? {
                roots.add(certificate).map_err(|e| format!("{}: {e}", file.display()))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            roots.add_parsable_certificates(found);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| text(&e))?
        .with_root_certificates(roots);
    let own = certificates.map(|dir| (dir.join("cert.pem"), dir.join("key.pem")));
    let tls = match own.filter(|(certificate, _)| certificate.exists()) {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(&key)
                .map_err(|e| format!("{}: no private key: {e}", key.display()))?;
            tls.with_client_auth_cert(chain(&certificate)?, key)
                .map_err(|e| format!("{}: {e}", certificate.display()))?
        }
        None if certificates.is_some() && authority.is_none() => {
            let dir = certificates.unwrap_or(Path::new("")).display();
            return Err(format!("{dir}: neither ca.pem nor cert.pem is in it"));
        }
        None => tls.with_no_client_auth(),
    };
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .build()
        .map_err(|e| text(&e))
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |e: &dyn Error| format!("{}: no certificate: {e}", file.display());
    let content = fs::read(file).map_err(|e| wrong(&e))?;
    let list: Vec<_> = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(&e))?;
    if list.is_empty() {
        Err(format!("{}: it holds no certificate", file.display()))
    } else {
        Ok(list)
    }
}

/// An error with all its causes.
pub(super) fn told(error: &dyn Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether one side does not trust the other.
pub(super) fn is_refused_by_tls(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    false
}
