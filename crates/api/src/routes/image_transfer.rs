//! Moving images: pull, push, import, load, save.

use axum::extract::{Request, State};
use futures_util::StreamExt;
use http::HeaderMap;
use sampan_engine::images::ImportOptions;
use sampan_image::registry::AuthConfig;
use serde::Deserialize;

use super::containers::instructions;
use super::{Answer, Api, refuse, stream};
use crate::body;
use crate::error::ApiError;
use crate::lenient;
use crate::query::Query;

/// The credentials that a request brings for its registry.
pub(super) fn credentials(headers: &HeaderMap) -> Answer<Option<AuthConfig>> {
    let Some(value) = headers.get("x-registry-auth") else { return Ok(None) };
    // What is no text is no base64 either.
    Ok(AuthConfig::from_header(value.to_str().unwrap_or("-"))?)
}

/// `POST /images/create`: pulls with `fromImage`, imports with `fromSrc`.
pub(super) async fn create(State(api): State<Api>, query: Query, request: Request) -> Answer {
    let text = |name| query.get(name).unwrap_or_default();
    let platform = query.text("platform");
    if let Some(image) = query.text("fromImage") {
        let auth = credentials(request.headers())?;
        let progress = api.engine.image_pull(image, text("tag"), platform, auth).await?;
        return Ok(stream::messages(api.stop, progress));
    }
    match query.text("fromSrc") {
        Some("-") => {}
        Some(url) => {
            return Err(ApiError::not_implemented(format!(
                "importing from {url} is not supported: fetch it and pipe it into `docker import -`"
            )));
        }
        None => return Err(ApiError::invalid("one of fromImage and fromSrc is needed")),
    }
    let options = ImportOptions {
        repo: text("repo").to_owned(),
        tag: text("tag").to_owned(),
        message: text("message").to_owned(),
        changes: instructions(&query.all("changes")),
        platform: platform.map(str::to_owned),
    };
    let archive = body::reader(request.into_body());
    let progress = api.engine.image_import(archive, options).await?;
    Ok(stream::messages(api.stop, progress))
}

/// `POST /images/{name}/push`.
pub(super) async fn push(api: Api, name: &str, query: &Query, headers: &HeaderMap) -> Answer {
    refuse(query, &[("platform", "pushing a single platform")])?;
    let auth = credentials(headers)?;
    let tag = query.get("tag").unwrap_or_default();
    let progress = api.engine.image_push(name, tag, auth).await?;
    Ok(stream::messages(api.stop, progress))
}

/// `POST /images/load`.
pub(super) async fn load(State(api): State<Api>, query: Query, request: Request) -> Answer {
    let platform = platform(&query)?;
    let archive = body::reader(request.into_body());
    let quiet = query.flag_or("quiet", true);
    let progress = api.engine.image_load(archive, quiet, platform.as_deref()).await?;
    Ok(stream::messages(api.stop, progress))
}

/// `GET /images/get?names=…`.
pub(super) async fn save(State(api): State<Api>, query: Query) -> Answer {
    let names = query.all("names");
    if names.is_empty() {
        return Err(ApiError::invalid("parameter names is missing: name the images to save"));
    }
    save_names(api, &query, names).await
}

pub(super) async fn save_names(api: Api, query: &Query, names: Vec<String>) -> Answer {
    let platform = platform(query)?;
    let archive = api.engine.image_save(&names, platform.as_deref()).await?;
    Ok(stream::bytes(api.stop, "application/x-tar", archive.boxed()))
}

/// A platform, which comes as JSON here, as `os/architecture/variant`.
fn platform(query: &Query) -> Answer<Option<String>> {
    #[derive(Deserialize)]
    #[serde(default)]
    struct Platform {
        os: String,
        architecture: String,
        variant: String,
    }
    impl Default for Platform {
        fn default() -> Self {
            Self { os: "linux".into(), architecture: String::new(), variant: String::new() }
        }
    }

    let all = query.all("platform");
    let text = match all.as_slice() {
        [] => return Ok(None),
        [one] if one.is_empty() => return Ok(None),
        [one] => one,
        _ => return Err(ApiError::not_implemented("several platforms at once are not supported")),
    };
    let p: Platform = lenient::from_slice(text.as_bytes())
        .map_err(|e| ApiError::invalid(format!("invalid value of parameter platform: {e}")))?;
    let parts = [p.os, p.architecture, p.variant];
    let parts: Vec<_> = parts.into_iter().take_while(|p| !p.is_empty()).collect();
    Ok(Some(parts.join("/")))
}
