//! Where to listen, as `--host` says it, and why that may fail.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// The port of a `tcp://` address without one: what docker clients assume
/// for TLS.
const DEFAULT_PORT: u16 = 2376;

/// One `--host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:///path`.
    Unix(PathBuf),
    /// `tcp://address:port`.
    Tcp(SocketAddr),
}

/// Files for mutual TLS: PEM, as `docker` uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--tlscacert`: who signs clients.
    pub ca: PathBuf,
    /// `--tlscert`: the daemon's certificate with its chain.
    pub cert: PathBuf,
    /// `--tlskey`: its key.
    pub key: PathBuf,
}

/// How TCP is secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpSecurity {
    /// `--tlsverify`: both sides show a certificate.
    Mutual(TlsFiles),
    /// `--tls=false`, said in so many words: whoever reaches the port is root.
    Plain,
}

/// Why the daemon does not listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The text is no address.
    #[error("invalid host {text:?}: {why}")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// TCP, and nothing was said on its security.
    #[error(
        "cannot listen on tcp://{at}: whoever reaches this port would be root; \
         give --tlsverify with --tlscacert, --tlscert and --tlskey, or say --tls=false"
    )]
    Insecure {
        /// The address.
        at: SocketAddr,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {at}: {source}")]
    Bind {
        /// The address.
        at: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Another daemon answers there.
    #[error(
        "cannot listen on unix://{}: another daemon listens there; stop it or choose another --host",
        path.display()
    )]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// The group that is to own unix sockets is not known.
    #[error(
        "cannot give unix sockets to group {name:?}: there is no such group in /etc/group; \
         create it (groupadd {name}) or choose another --group"
    )]
    Group {
        /// What was given.
        name: String,
    },
    /// Something else than a socket is in the way.
    #[error("cannot listen on unix://{}: the file exists and is not a socket", path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// A TLS file can't be used.
    #[error("cannot use {what} {}: {why}", path.display())]
    Tls {
        /// Which file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        why: String,
    },
}

impl FromStr for Address {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let wrong = |why: &str| ListenError::Address { text: text.to_owned(), why: why.to_owned() };
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(wrong(
                    "the path of a socket must be absolute: unix:///run/sampan.sock",
                ));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            let rest = rest.trim_end_matches('/');
            return tcp(rest).map(Self::Tcp).ok_or_else(|| {
                wrong("an IP address (or localhost) with a port expected: tcp://192.0.2.1:2376")
            });
        }
        if text.starts_with("fd://") {
            return Err(wrong("socket activation is not supported; use unix:///path"));
        }
        Err(wrong("unix:///path or tcp://address:port expected"))
    }
}

fn tcp(text: &str) -> Option<SocketAddr> {
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, DEFAULT_PORT));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (text, DEFAULT_PORT),
    };
    match host {
        "localhost" => Some((Ipv4Addr::LOCALHOST, port).into()),
        // dockerd's default for `tcp://:port`.
        "" => Some((Ipv4Addr::LOCALHOST, port).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let tcp = |t: &str| match t.parse() {
            Ok(Address::Tcp(at)) => at.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(tcp("tcp://0.0.0.0:2375"), "0.0.0.0:2375");
        assert_eq!(tcp("tcp://127.0.0.1"), "127.0.0.1:2376");
        assert_eq!(tcp("tcp://:99"), "127.0.0.1:99");
        assert_eq!(tcp("tcp://localhost:1/"), "127.0.0.1:1");
        assert_eq!(tcp("tcp://[::1]:5"), "[::1]:5");
        assert_eq!(tcp("tcp://[::1]"), "[::1]:2376");
        assert!(matches!("unix:///run/x.sock".parse(), Ok(Address::Unix(_))));
    }

    #[test]
    fn wrong_addresses_are_refused() {
        for text in ["", "x", "unix://rel", "tcp://no.such.name:1", "tcp://1.2.3.4:x", "fd://"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
