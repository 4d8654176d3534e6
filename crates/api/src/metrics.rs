//! `--metrics-addr`: the engine's metrics over plain HTTP.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::header;
use sampan_engine::Engine;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gate;
use crate::server::{Io, Limits, serve_connection};

/// Why metrics are not served.
#[derive(Debug, Error)]
#[error("cannot serve metrics on {at}: {source}")]
pub struct MetricsError {
    at: SocketAddr,
    source: std::io::Error,
}

/// Serves `GET /metrics` on `at` until `stop`. Returns when it listens, with
/// the address (the kernel chooses port 0) and the serving task's future.
///
/// # Errors
/// The address can't be bound.
pub async fn serve_metrics(
    at: SocketAddr,
    engine: Engine,
    stop: CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send), MetricsError> {
    let failed = |source| MetricsError { at, source };
    let listener = TcpListener::bind(at).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(gate::not_found)
        .method_not_allowed_fallback(gate::method_not_allowed)
        .with_state(engine);
    Ok((bound, accept(listener, router, stop)))
}

async fn accept(listener: TcpListener, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(serve_connection(Io::Tcp(stream), router, Limits::REMOTE, stop));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn metrics(State(engine): State<Engine>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], engine.metrics_text())
}
