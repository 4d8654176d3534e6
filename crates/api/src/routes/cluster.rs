//! Swarm: services, nodes, tasks, secrets, configs. This node is in no swarm,
//! and answers as a dockerd that is in none.

use axum::Router;
use axum::extract::Request;
use axum::routing::{any, get, post};
use http::Method;
use sampan_types::ErrorKind;

use crate::error::ApiError;

const NO_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \
                          \"docker swarm join\" to connect this node to swarm and try again.";

pub(super) fn routes() -> Router {
    let mut router = Router::new()
        .route("/swarm", get(no_manager))
        .route("/swarm/init", post(no_swarm))
        .route("/swarm/join", post(no_swarm))
        .route("/swarm/leave", post(not_in_a_swarm))
        .route("/swarm/update", post(no_manager))
        .route("/swarm/unlockkey", get(no_manager))
        .route("/swarm/unlock", post(not_in_a_swarm));
    for noun in ["services", "nodes", "tasks", "secrets", "configs"] {
        router = router
            .route(&format!("/{noun}"), get(no_manager))
            .route(&format!("/{noun}/{{*rest}}"), any(member));
    }
    router
        .route("/services/create", post(no_manager))
        .route("/secrets/create", post(no_manager))
        .route("/configs/create", post(no_manager))
}

async fn no_manager() -> ApiError {
    ApiError::new(ErrorKind::Unavailable, NO_MANAGER)
}

async fn not_in_a_swarm() -> ApiError {
    ApiError::new(ErrorKind::Unavailable, "This node is not part of a swarm")
}

async fn no_swarm() -> ApiError {
    ApiError::not_implemented("swarm mode is not supported by this version of the engine")
}

/// One service, node … with whatever method dockerd has there.
async fn member(request: Request) -> ApiError {
    if [Method::GET, Method::POST, Method::DELETE].contains(request.method()) {
        no_manager().await
    } else {
        crate::gate::method_not_allowed().await
    }
}
