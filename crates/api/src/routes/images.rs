//! Images: list, inspect, tag, remove. Moving them is in `image_transfer`.
//!
//! Be aware: names of images contain slashes, so their routes are taken apart
//! here: `/images/{name}/json`, `/images/{name}/push` …

use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json as Out, Router};
use http::StatusCode;

use super::{Answer, Api, filters, image_transfer, refuse, run};
use crate::gate;
use crate::query::Query;
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/search", get(search))
        .route("/images/get", get(image_transfer::save))
        .route("/images/create", post(image_transfer::create))
        .route("/images/load", post(image_transfer::load))
        .route("/images/prune", post(prune))
        .route("/images/{*rest}", get(read).post(write).delete(remove))
        .route("/distribution/{*rest}", get(distribution))
}

async fn list(
    State(api): State<Api>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> Answer {
    let mut filters = filters(&query)?;
    // Before API 1.41 a name could stand beside the filters.
    if let (true, Some(name)) = (version < ApiVersion::one(41), query.text("filter")) {
        filters.add("reference", name);
    }
    let images = api.engine.image_list(query.flag("all"), query.flag("shared-size"), &filters);
    Ok(Out(images.await?).into_response())
}

async fn search(State(api): State<Api>, query: Query) -> Answer {
    let term = query.get("term").unwrap_or_default();
    Ok(Out(api.engine.image_search(term).await?).into_response())
}

async fn prune(State(api): State<Api>, query: Query) -> Answer {
    let filters = filters(&query)?;
    let answer = run(async move { api.engine.image_prune(&filters).await }).await?;
    Ok(Out(answer).into_response())
}

/// Takes `name/verb` apart.
fn split(rest: &str) -> Option<(&str, &str)> {
    rest.rsplit_once('/').filter(|(name, _)| !name.is_empty())
}

async fn read(State(api): State<Api>, Path(rest): Path<String>, query: Query) -> Answer {
    match split(&rest) {
        Some((name, "json")) => {
            refuse(&query, &[("platform", "inspecting another platform")])?;
            Ok(Out(api.engine.image_inspect(name).await?).into_response())
        }
        Some((name, "history")) => {
            refuse(&query, &[("platform", "the history of another platform")])?;
            Ok(Out(api.engine.image_history(name).await?).into_response())
        }
        Some((name, "get")) => image_transfer::save_names(api, &query, vec![name.to_owned()]).await,
        _ => Err(gate::not_found().await),
    }
}

async fn write(
    State(api): State<Api>,
    Path(rest): Path<String>,
    query: Query,
    request: Request,
) -> Answer {
    match split(&rest) {
        Some((name, "tag")) => tag(api, name.to_owned(), query).await,
        Some((name, "push")) => image_transfer::push(api, name, &query, request.headers()).await,
        _ => Err(gate::not_found().await),
    }
}

async fn tag(api: Api, name: String, query: Query) -> Answer {
    run(async move {
        let text = |parameter| query.get(parameter).unwrap_or_default();
        api.engine.image_tag(&name, text("repo"), text("tag")).await
    })
    .await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn remove(State(api): State<Api>, Path(name): Path<String>, query: Query) -> Answer {
    refuse(&query, &[("platforms", "removing single platforms")])?;
    let (force, noprune) = (query.flag("force"), query.flag("noprune"));
    let gone = run(async move { api.engine.image_remove(&name, force, noprune).await }).await?;
    Ok(Out(gone).into_response())
}

async fn distribution(
    State(api): State<Api>,
    Path(rest): Path<String>,
    request: Request,
) -> Answer {
    let Some((name, "json")) = split(&rest) else {
        return Err(gate::not_found().await);
    };
    let auth = image_transfer::credentials(request.headers())?;
    Ok(Out(api.engine.distribution_inspect(name, auth).await?).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_slashes() {
        assert_eq!(split("r.example:5000/a/b:1/json"), Some(("r.example:5000/a/b:1", "json")));
        assert_eq!(split("busybox/tag"), Some(("busybox", "tag")));
        assert_eq!(split("busybox"), None);
        assert_eq!(split("/json"), None);
    }
}
