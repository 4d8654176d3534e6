//! One connection: HTTP/1.1 until it ends or a handler takes it over.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::drain::DrainOnDrop;
use super::{GRACE, Io};
use crate::gate;
use crate::hijack::{Hijacker, pump};

/// The most that the head of a request may take, in bytes.
const MAX_HEAD: usize = 256 * 1024;

/// How long a client may take over the head of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// None: for ever. It also bounds how long a connection may be idle.
    head: Option<Duration>,
}

impl Limits {
    /// For unix sockets: clients keep idle connections.
    pub(crate) const LOCAL: Self = Self { head: None };
    /// For TCP.
    pub(crate) const REMOTE: Self = Self { head: Some(Duration::from_secs(60)) };
}

/// Serves a connection to its end.
pub(crate) async fn serve_connection(
    io: Io,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let (hijacker, mut taken_over) = Hijacker::pair();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(hijacker.clone());
        let router = router.clone();
        let request = request.map(|body| Body::new(DrainOnDrop::new(body)));
        async move { Ok::<_, Infallible>(gate::pass(router, request).await) }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), service);
    let mut deadline = None;
    loop {
        let expired = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            Some(takeover) = taken_over.recv() => {
                let parts = connection.into_parts();
                pump(parts.io.into_inner(), parts.read_buf, takeover, stop).await;
                return;
            }
            () = stop.cancelled(), if deadline.is_none() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                deadline = Some(tokio::time::Instant::now() + GRACE);
            }
            () = expired => return,
        }
    }
}
