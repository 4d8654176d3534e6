//! Backups of volumes, which Docker's API can't.
//!
//! Be aware: the bodies hold passphrases; they are shown nowhere.

use std::path::PathBuf;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json as Out, Router};
use sampan_engine::volumes::{BackupRequest, RepositoryRequest, RestoreRequest, Secret};
use serde::Deserialize;

use super::{Answer, Api, run, stream};
use crate::body::Json;
use crate::error::ApiError;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/sampan/volumes/{name}/backup", post(backup))
        .route("/sampan/volumes/{name}/restore-backup", post(restore))
        .route("/sampan/backups/list", post(list))
        .route("/sampan/backups/check", post(check))
}

/// What all bodies hold, and what some do.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct Body {
    repository: String,
    secret: Option<String>,
    key_file: Option<PathBuf>,
    #[serde(rename = "S3KeysFile")]
    s3_keys_file: Option<PathBuf>,
    tls_dir: Option<PathBuf>,
    keep: Option<String>,
    freeze: Option<bool>,
    volume: Option<String>,
    id: Option<String>,
    replace: Option<bool>,
    partial: Option<bool>,
}

impl Body {
    fn repository(&self) -> RepositoryRequest {
        RepositoryRequest {
            repository: self.repository.clone(),
            secret: self.secret.as_ref().map(Secret::new),
            key_file: self.key_file.clone(),
            s3_keys_file: self.s3_keys_file.clone(),
            tls_dir: self.tls_dir.clone(),
        }
    }

    /// Refuses fields that mean nothing to the route.
    fn refuse(&self, given: &[(bool, &str)]) -> Answer<()> {
        if self.repository.is_empty() {
            return Err(ApiError::invalid("Repository is missing"));
        }
        match given.iter().find(|(given, _)| *given) {
            Some((_, name)) => Err(ApiError::invalid(format!("{name} means nothing here"))),
            None => Ok(()),
        }
    }
}

async fn backup(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    let body = body.unwrap_or_default();
    body.refuse(&[
        (body.volume.is_some(), "Volume"),
        (body.id.is_some(), "Id"),
        (body.replace.is_some(), "Replace"),
        (body.partial.is_some(), "Partial"),
    ])?;
    let request = BackupRequest {
        to: body.repository(),
        keep: body.keep,
        freeze: body.freeze.unwrap_or(false),
    };
    let progress = api.engine.volume_backup(&name, request).await?;
    Ok(stream::messages(api.stop, progress))
}

async fn restore(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    let body = body.unwrap_or_default();
    body.refuse(&[
        (body.volume.is_some(), "Volume"),
        (body.keep.is_some(), "Keep"),
        (body.freeze.is_some(), "Freeze"),
    ])?;
    let request = RestoreRequest {
        from: body.repository(),
        id: body.id,
        replace: body.replace.unwrap_or(false),
        partial: body.partial.unwrap_or(false),
    };
    let progress = api.engine.volume_restore_backup(&name, request).await?;
    Ok(stream::messages(api.stop, progress))
}

async fn list(State(api): State<Api>, Json(body): Json<Body>) -> Answer {
    let body = body.unwrap_or_default();
    body.refuse(&foreign(&body))?;
    let (of, volume) = (body.repository(), body.volume);
    let found = run(async move { api.engine.volume_backups(of, volume).await }).await?;
    Ok(Out(found).into_response())
}

async fn check(State(api): State<Api>, Json(body): Json<Body>) -> Answer {
    let body = body.unwrap_or_default();
    body.refuse(&foreign(&body))?;
    body.refuse(&[(body.volume.is_some(), "Volume")])?;
    let progress = api.engine.volume_backup_check(body.repository()).await?;
    Ok(stream::messages(api.stop, progress))
}

/// What means nothing to questions.
fn foreign(body: &Body) -> [(bool, &'static str); 5] {
    [
        (body.id.is_some(), "Id"),
        (body.keep.is_some(), "Keep"),
        (body.freeze.is_some(), "Freeze"),
        (body.replace.is_some(), "Replace"),
        (body.partial.is_some(), "Partial"),
    ]
}
