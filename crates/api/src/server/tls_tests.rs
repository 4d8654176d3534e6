//! TLS handshakes with certificates that `openssl` makes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;

fn openssl(directory: &Path, arguments: &str) -> bool {
    Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .is_ok_and(|o| o.status.success())
}

/// An authority, a server's and a client's certificate, and a client of
/// another authority. False when they can't be made here.
fn certificates(directory: &Path) -> bool {
    std::fs::write(directory.join("server.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    std::fs::write(directory.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj";
    ["ca", "other"].iter().all(|ca| {
        openssl(directory, &format!("{new} /CN={ca} -x509 -days 2 -keyout {ca}.key -out {ca}.pem"))
    }) && [("server", "ca", "server"), ("client", "ca", "client"), ("stranger", "other", "client")]
        .iter()
        .all(|(name, ca, kind)| {
            openssl(directory, &format!("{new} /CN={name} -keyout {name}.key -out {name}.csr"))
                && openssl(
                    directory,
                    &format!(
                        "x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial \
                         -days 2 -extfile {kind}.ext -out {name}.pem"
                    ),
                )
        })
}

async fn ping(
    at: std::net::SocketAddr,
    dir: &Path,
    client: Option<&str>,
) -> std::io::Result<String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some(name) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).unwrap()],
                PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap(),
            )
            .unwrap(),
    };
    let tcp = TcpStream::connect(at).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    stream.write_all(b"GET /plugins HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn only_clients_of_the_authority_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    if !certificates(dir) {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: openssl, which makes the certificates, is not installed");
        }
        return;
    }
    let file = |name: &str| -> PathBuf { dir.join(name) };
    let files = TlsFiles { ca: file("ca.pem"), cert: file("server.pem"), key: file("server.key") };
    let at = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let listeners = bind(&[at], Some(&TcpSecurity::Mutual(files.clone())), None).await.unwrap();
    let at = listeners.tcp_addresses()[0];
    let stop = CancellationToken::new();
    let router: Router = crate::routes::without_engine();
    let task = tokio::spawn(serve_router(listeners, router, stop.clone()));

    let answer = ping(at, dir, Some("client")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(ping(at, dir, Some("stranger")).await.is_err());
    assert!(ping(at, dir, None).await.is_err());
    let mut plain = TcpStream::connect(at).await.unwrap();
    plain.write_all(b"GET /plugins HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    stop.cancel();
    task.await.unwrap();

    let wrong = TlsFiles { key: file("client.key"), ..files.clone() };
    let at = Address::Tcp("127.0.0.1:0".parse().unwrap());
    assert!(
        bind(std::slice::from_ref(&at), Some(&TcpSecurity::Mutual(wrong)), None).await.is_err()
    );
    let missing = TlsFiles { cert: file("none.pem"), ..files };
    let error =
        bind(&[at], Some(&TcpSecurity::Mutual(missing)), None).await.unwrap_err().to_string();
    assert!(error.contains("--tlscert") && error.contains("none.pem"), "{error}");
}
