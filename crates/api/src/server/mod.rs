//! Listening, accepting, and ending in good order.
//!
//! Be aware:
//! - On shutdown streams end at once, requests that are being answered have
//!   [`GRACE`], then their connections are dropped. The engine's own work
//!   goes on in tasks of its own.
//! - Slow or silent clients on TCP are bounded in number and time. On unix
//!   sockets who may connect is root's or the group's business.

mod address;
mod connection;
mod drain;
mod io;
#[cfg(test)]
mod tests;
mod tls;
#[cfg(test)]
mod tls_tests;
mod unix;

pub use address::{Address, ListenError, TcpSecurity, TlsFiles};
pub(crate) use connection::{Limits, serve_connection};
pub(crate) use io::Io;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use sampan_engine::Engine;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long requests may go on after the shutdown has begun.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many TCP connections one listener serves at once.
const TCP_CONNECTIONS: usize = 1024;
/// Pause after an accept that failed, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Sockets that are bound and wait to be served.
#[derive(Debug)]
pub struct Listeners(Vec<Listener>);

#[derive(Debug)]
pub(crate) enum Listener {
    /// The file first: it is dropped first.
    Unix(unix::SocketFile, UnixListener),
    Tcp(TcpListener, Option<TlsListener>),
}

/// What makes TLS streams of TCP streams.
pub(crate) struct TlsListener(TlsAcceptor);

impl std::fmt::Debug for TlsListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsListener")
    }
}

impl Listeners {
    /// The addresses of the TCP listeners: with port 0 the kernel chose.
    #[must_use]
    pub fn tcp_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.0
            .iter()
            .filter_map(|l| match l {
                Listener::Tcp(l, _) => l.local_addr().ok(),
                Listener::Unix(..) => None,
            })
            .collect()
    }
}

/// Binds all `addresses`, or none. TCP needs `security`, said in so many words.
/// Unix sockets belong to `group` (a name or a number); without one to
/// `docker`, where that exists.
///
/// # Errors
/// A group that doesn't exist, an address that can't be bound, a live socket in the way, TLS files that
/// can't be read, TCP without a word on its security.
pub async fn bind(
    addresses: &[Address],
    security: Option<&TcpSecurity>,
    group: Option<&str>,
) -> Result<Listeners, ListenError> {
    let gid = unix::group(group)?;
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(match address {
            Address::Unix(path) => {
                let (listener, file) = unix::bind(path, gid).await?;
                Listener::Unix(file, listener)
            }
            Address::Tcp(at) => {
                let tls = match security {
                    None => return Err(ListenError::Insecure { at: *at }),
                    Some(TcpSecurity::Plain) => None,
                    Some(TcpSecurity::Mutual(files)) => {
                        Some(TlsListener(tls::acceptor(files).await?))
                    }
                };
                let listener = TcpListener::bind(at)
                    .await
                    .map_err(|source| ListenError::Bind { at: at.to_string(), source })?;
                Listener::Tcp(listener, tls)
            }
        });
    }
    Ok(Listeners(listeners))
}

/// Serves the API until `stop`, then ends in good order and removes the unix
/// sockets.
pub async fn serve(listeners: Listeners, engine: Engine, stop: CancellationToken) {
    serve_router(listeners, crate::routes::router(engine, stop.clone()), stop).await;
}

/// Serves `router` on all listeners.
pub(crate) async fn serve_router(listeners: Listeners, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let mut accepting = Vec::new();
    for listener in listeners.0 {
        let (router, stop, connections) = (router.clone(), stop.clone(), connections.clone());
        accepting.push(tokio::spawn(async move {
            match listener {
                Listener::Unix(file, l) => {
                    accept_unix(&l, &router, &stop, &connections).await;
                    drop(file);
                }
                Listener::Tcp(l, tls) => {
                    accept_tcp(&l, tls.as_ref(), &router, &stop, &connections).await;
                }
            }
        }));
    }
    for task in accepting {
        if let Err(e) = task.await {
            tracing::error!(error = %e, "a listener ended by a fault");
        }
    }
    connections.close();
    connections.wait().await;
}

async fn accept_unix(
    listener: &UnixListener,
    router: &Router,
    stop: &CancellationToken,
    connections: &TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            a = listener.accept() => a,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(serve_connection(Io::Unix(stream), router, Limits::LOCAL, stop));
            }
            Err(e) => accept_failed(&e).await,
        }
    }
}

async fn accept_tcp(
    listener: &TcpListener,
    tls: Option<&TlsListener>,
    router: &Router,
    stop: &CancellationToken,
    connections: &TaskTracker,
) {
    let places = Arc::new(Semaphore::new(TCP_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            a = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, listener.accept().await)
            } => a,
            () = stop.cancelled() => return,
        };
        let (place, (stream, peer)) = match accepted {
            (place, Ok(a)) => (place, a),
            (_, Err(e)) => {
                accept_failed(&e).await;
                continue;
            }
        };
        io::prepare_tcp(&stream);
        let (router, stop) = (router.clone(), stop.clone());
        let tls = tls.map(|t| t.0.clone());
        connections.spawn(async move {
            let _place = place;
            let io = match tls {
                None => Io::Tcp(stream),
                Some(acceptor) => {
                    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
                    let done = tokio::select! {
                        d = handshake => d,
                        () = stop.cancelled() => return,
                    };
                    match done {
                        Ok(Ok(stream)) => Io::Tls(Box::new(stream)),
                        Ok(Err(e)) => {
                            tracing::warn!(%peer, error = %e, "TLS handshake refused");
                            return;
                        }
                        Err(_) => {
                            tracing::warn!(%peer, "TLS handshake took too long");
                            return;
                        }
                    }
                }
            };
            serve_connection(io, router, Limits::REMOTE, stop).await;
        });
    }
}

async fn accept_failed(e: &std::io::Error) {
    tracing::warn!(error = %e, "cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
