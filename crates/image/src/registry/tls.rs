//! TLS towards a registry: the system's roots and what
//! `certs.d/<host:port>/` adds.
//!
//! Be aware:
//! - A client certificate is for the host of its directory only; every host
//!   has its own configuration.
//! - Where a registry is listed as insecure, whatever certificate it shows is
//!   taken; the signatures of the handshake are still checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::RegistryError;

/// The TLS configuration for `host` (`name[:port]`). Reads files: call it on
/// a blocking thread.
pub(super) fn client_config(
    certs_dir: &Path,
    host: &str,
    verify: bool,
) -> Result<ClientConfig, RegistryError> {
    let material = Material::read(certs_dir, host)?;
    let provider = Arc::new(ring::default_provider());
    let refuse =
        |e: rustls::Error| RegistryError::Tls { path: certs_dir.join(host), reason: e.to_string() };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refuse)?;
    let builder = if verify {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for (path, certificate) in material.roots {
            roots
                .add(certificate)
                .map_err(|e| RegistryError::Tls { path, reason: e.to_string() })?;
        }
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    };
    let mut config = match material.identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(refuse)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What lies in `certs.d/<host>/`.
#[derive(Default)]
struct Material {
    roots: Vec<(PathBuf, CertificateDer<'static>)>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Material {
    fn read(certs_dir: &Path, host: &str) -> Result<Self, RegistryError> {
        // A host from a hostile address must not name another directory.
        if host.starts_with('.') {
            return Ok(Self::default());
        }
        let dir = certs_dir.join(host);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(RegistryError::Tls { path: dir, reason: e.to_string() }),
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        let mut material = Self::default();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => {
                    let certificates = read_certificates(&path)?;
                    material.roots.extend(certificates.into_iter().map(|c| (path.clone(), c)));
                }
                Some("cert") => {
                    material.identity = Some((read_certificates(&path)?, read_key(&path)?));
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(RegistryError::Tls {
                        reason: "the client certificate (.cert) of this key is missing".into(),
                        path,
                    });
                }
                _ => {}
            }
        }
        Ok(material)
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| RegistryError::Tls { path: path.into(), reason: e.to_string() })
}

fn read_key(certificate: &Path) -> Result<PrivateKeyDer<'static>, RegistryError> {
    let path = certificate.with_extension("key");
    PrivateKeyDer::from_pem_file(&path)
        .map_err(|e| RegistryError::Tls { path, reason: e.to_string() })
}

/// Takes every certificate, for registries that the operator listed so.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_the_systems_roots_only() {
        let dir = tempfile::tempdir().unwrap();
        assert!(client_config(dir.path(), "registry.lan:5000", true).is_ok());
        assert!(client_config(dir.path(), "registry.lan:5000", false).is_ok());
    }

    #[test]
    fn broken_material_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("registry.lan:5000");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("client.key"), "x").unwrap();
        let error = client_config(dir.path(), "registry.lan:5000", true).unwrap_err().to_string();
        assert!(error.contains("client.key") && error.contains(".cert"), "{error}");
    }
}
