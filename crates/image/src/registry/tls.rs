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

    /// An authority, and certificates by it for a server and a client.
    struct Authority {
        certificate: String,
        server: (CertificateDer<'static>, PrivateKeyDer<'static>),
        client: (String, String),
    }

    fn authority() -> Authority {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let ((server, server_key), (client, client_key)) = (signed("registry.lan"), signed("me"));
        let server_key = PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
        Authority {
            certificate: issuer.pem(),
            server: (server.der().clone(), server_key),
            client: (client.pem(), client_key.serialize_pem()),
        }
    }

    /// Shakes hands with a server that wants certificates of `authority`.
    async fn shake(authority: &Authority, config: ClientConfig) -> Result<(), String> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap())
            .unwrap();
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        );
        let (certificate, key) = &authority.server;
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let accepting = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let name = ServerName::try_from("registry.lan").unwrap();
        let connecting = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (connected, accepted) =
            tokio::join!(connecting.connect(name, ours), accepting.accept(theirs));
        connected.map_err(|e| format!("here: {e}"))?;
        accepted.map(drop).map_err(|e| format!("there: {e}"))
    }

    #[tokio::test]
    async fn authorities_and_client_certificates_are_taken_from_the_directory() {
        let authority = authority();
        let dir = tempfile::tempdir().unwrap();
        let config = |verify| client_config(dir.path(), "registry.lan", verify).unwrap();
        let unknown = shake(&authority, config(true)).await.unwrap_err();
        assert!(unknown.contains("UnknownIssuer"), "{unknown}");

        let host = dir.path().join("registry.lan");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("ca.crt"), &authority.certificate).unwrap();
        let nameless = shake(&authority, config(true)).await.unwrap_err();
        assert!(nameless.starts_with("there: "), "{nameless}");

        fs::write(host.join("client.cert"), &authority.client.0).unwrap();
        fs::write(host.join("client.key"), &authority.client.1).unwrap();
        assert_eq!(shake(&authority, config(true)).await, Ok(()));
        fs::remove_file(host.join("ca.crt")).unwrap();
        assert_eq!(shake(&authority, config(false)).await, Ok(()), "unverified");
        let elsewhere = client_config(dir.path(), "other.lan", false).unwrap();
        assert!(
            shake(&authority, elsewhere).await.is_err(),
            "the client certificate stays with its host"
        );
    }
}
