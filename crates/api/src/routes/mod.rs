//! The routes, one file per noun.
//!
//! Be aware:
//! - Paths have no version prefix here: `gate` has taken it away.
//! - Whatever changes the world goes through [`run`]: it is not cancelled when
//!   its client disconnects. Streams are.

mod archive;
mod attach;
mod cluster;
mod containers;
mod events;
mod exec;
mod image_transfer;
mod images;
mod lifecycle;
mod logs;
mod network_care;
mod networks;
mod plugins;
mod policies;
mod publish;
mod repositories;
mod stream;
mod system;
mod volume_backup;
mod volume_care;
mod volume_transfer;
mod volumes;

use std::future::Future;

use axum::Router;
use sampan_engine::Engine;
use sampan_engine::filters::Filters;
use sampan_types::ErrorKind;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::gate;
use crate::query::Query;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) engine: Engine,
    /// The daemon stops: streams end.
    pub(crate) stop: CancellationToken,
}

/// What a handler answers with.
type Answer<T = axum::response::Response> = Result<T, ApiError>;

/// All routes.
pub(crate) fn router(engine: Engine, stop: CancellationToken) -> Router {
    Router::new()
        .merge(archive::routes())
        .merge(attach::routes())
        .merge(containers::routes())
        .merge(events::routes())
        .merge(exec::routes())
        .merge(images::routes())
        .merge(lifecycle::routes())
        .merge(logs::routes())
        .merge(network_care::routes())
        .merge(networks::routes())
        .merge(policies::routes())
        .merge(publish::routes())
        .merge(system::routes())
        .merge(volume_care::routes())
        .merge(volume_transfer::routes())
        .merge(volume_backup::routes())
        .merge(repositories::routes())
        .merge(volumes::routes())
        .with_state(Api { engine, stop })
        .merge(without_engine())
}

/// The routes that need no engine: what this engine does not do (yet).
pub(crate) fn without_engine() -> Router {
    Router::new()
        .merge(cluster::routes())
        .merge(plugins::routes())
        .fallback(gate::not_found)
        .method_not_allowed_fallback(gate::method_not_allowed)
}

/// Runs work that must not be cancelled when its client goes away.
async fn run<T, E, F>(work: F) -> Answer<T>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => {
            tracing::error!(%error, "an operation ended by a fault");
            Err(ApiError::new(ErrorKind::System, "the operation failed by a fault of the engine"))
        }
    }
}

/// The parameter `filters`.
fn filters(query: &Query) -> Answer<Filters> {
    Ok(Filters::parse(query.get("filters").unwrap_or_default())?)
}

/// Refuses parameters that ask for what this engine does not do.
fn refuse(query: &Query, unsupported: &[(&str, &str)]) -> Result<(), ApiError> {
    for (name, what) in unsupported {
        if query.text(name).is_some() {
            return Err(ApiError::not_implemented(format!(
                "{what} (parameter {name}) is not supported by this engine"
            )));
        }
    }
    Ok(())
}
