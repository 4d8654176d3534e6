//! One blob from here to a registry: nothing if it has it, a mount if another
//! of its repositories has it, else an upload that goes on where it broke.
//!
//! Be aware:
//! - Registries differ in what they remember of a broken upload. What one says
//!   it has is taken; where it says nothing, the upload starts again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, StatusCode};
use reqwest::{Response, Url};

use super::download::{Attempts, Figures, SHOW_EVERY};
use super::error::RegistryError;
use super::session::Session;
use super::source::Source;
use super::transport::{Body, Request, SILENCE, display_url};
use crate::{Digest, ProgressSink};

/// How long a registry may take to digest a blob that it has whole.
const DIGESTING: Duration = Duration::from_secs(300);
/// How many repositories are tried as the source of a mount.
const MAX_MOUNTS: usize = 3;

/// How a blob came to be at the registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// It was there.
    Existed,
    /// It was taken from this repository of the same registry.
    Mounted(String),
    /// It was sent.
    Sent,
}

/// An upload as the registry sees it.
struct Place {
    location: Url,
    offset: u64,
}

/// Makes sure that the registry has the blob. `label` is what progress calls it.
pub(super) async fn upload(
    session: &Session,
    source: &Source,
    mounts: &[String],
    label: &str,
    progress: &ProgressSink,
) -> Result<Uploaded, RegistryError> {
    if exists(session, &source.digest).await? {
        return Ok(Uploaded::Existed);
    }
    let mut place = match mount(session, &source.digest, mounts).await? {
        Mount::Done(from) => return Ok(Uploaded::Mounted(from)),
        Mount::Begun(place) => place,
        Mount::Refused => begin(session).await?,
    };
    let mut attempts = Attempts::new(session.transport.config.max_attempts);
    loop {
        let before = place.offset;
        let Err(error) = send(session, source, &mut place, label, progress).await else {
            return Ok(Uploaded::Sent);
        };
        if !error.is_passing() && !is_lost(&error) {
            return Err(error);
        }
        let resumed = status(session, &place).await;
        let reached = resumed.as_ref().map_or(0, |p| p.offset);
        let error = if is_lost(&error) { passing(session, source, &error) } else { error };
        attempts.again(error, reached.saturating_sub(before), label, progress).await?;
        // The end may have been reached with only the answer lost.
        if exists(session, &source.digest).await.unwrap_or(false) {
            return Ok(Uploaded::Sent);
        }
        place = match resumed.filter(|p| p.offset <= source.size) {
            Some(place) => place,
            None => begin(session).await?,
        };
    }
}

/// Whether the registry has forgotten the upload, or remembers less than it said.
fn is_lost(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Status(e) if matches!(e.status, 404 | 416)
        && e.code.as_ref().is_none_or(|c| c.code.contains("UPLOAD") || c.code.contains("RANGE")))
}

fn passing(session: &Session, source: &Source, error: &RegistryError) -> RegistryError {
    RegistryError::Transport {
        method: "Put".into(),
        url: display_url(&session.url(&format!("blobs/{}", source.digest))),
        cause: format!("the registry lost the upload ({error})"),
        connected: true,
    }
}

/// Whether the registry has the blob.
async fn exists(session: &Session, digest: &Digest) -> Result<bool, RegistryError> {
    let request = Request::new(Method::HEAD, session.url(&format!("blobs/{digest}")));
    let response = session.send(&request).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(false);
    }
    session.check(&Method::HEAD, response, &[StatusCode::OK]).await.map(|_| true)
}

enum Mount {
    Done(String),
    Begun(Place),
    Refused,
}

/// Tries to take the blob over from another repository of the registry.
async fn mount(
    session: &Session,
    digest: &Digest,
    mounts: &[String],
) -> Result<Mount, RegistryError> {
    let mut begun = None;
    for from in mounts.iter().take(MAX_MOUNTS) {
        let mut url = session.url("blobs/uploads/");
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from);
        let request = Request::new(Method::POST, url);
        let scope = format!("repository:{from}:pull");
        // A mount is a favour: whatever refuses it, the blob can be sent.
        let Ok(response) = session.send_scoped(&request, &[scope]).await else { continue };
        match response.status() {
            StatusCode::CREATED => return Ok(Mount::Done(from.clone())),
            StatusCode::ACCEPTED => {
                let place = placed(session, &response, 0).await?;
                if let Some(other) = begun.replace(place) {
                    cancel(session, &other).await;
                }
            }
            _ => {}
        }
    }
    Ok(begun.map_or(Mount::Refused, Mount::Begun))
}

async fn begin(session: &Session) -> Result<Place, RegistryError> {
    let request = Request::new(Method::POST, session.url("blobs/uploads/"));
    let response = session.expect(&request, &[StatusCode::ACCEPTED]).await?;
    placed(session, &response, 0).await
}

async fn cancel(session: &Session, place: &Place) {
    let request = Request::new(Method::DELETE, place.location.clone());
    if let Err(error) = session.send(&request).await {
        tracing::debug!(%error, "an unused upload stays at the registry");
    }
}

/// Where the upload goes on, by the registry's answer.
async fn placed(
    session: &Session,
    response: &Response,
    offset: u64,
) -> Result<Place, RegistryError> {
    let from = response.url();
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|l| from.join(l).ok())
        .ok_or_else(|| RegistryError::BadContent {
            what: format!("answer of {}", display_url(from)),
            reason: "it names no location for the upload".into(),
        })?;
    let request = Request::new(Method::POST, from.clone());
    session.transport.check_target(&request, from, &location).await?;
    Ok(Place { location, offset })
}

/// Sends the rest of the blob and closes the upload.
async fn send(
    session: &Session,
    source: &Source,
    place: &mut Place,
    label: &str,
    progress: &ProgressSink,
) -> Result<(), RegistryError> {
    if place.offset < source.size {
        let sent = Arc::new(AtomicU64::new(0));
        let (from, taken, bytes) = (place.offset, Arc::clone(&sent), source.clone());
        let body = Body::Stream(source.size - from, Arc::new(move || bytes.body(from, &taken)));
        let mut request = Request::new(Method::PATCH, place.location.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(body);
        if from > 0 {
            request = request.header(CONTENT_RANGE, &format!("{from}-{}", source.size - 1));
        }
        let expected = [StatusCode::ACCEPTED, StatusCode::CREATED, StatusCode::NO_CONTENT];
        let response = tokio::select! {
            response = session.expect(&request, &expected) => response?,
            error = watch(&request, source.size, from, &sent, label, progress) => return Err(error),
        };
        *place = placed(session, &response, source.size).await?;
    }
    let mut url = place.location.clone();
    url.query_pairs_mut().append_pair("digest", source.digest.as_str());
    let request = Request::new(Method::PUT, url);
    let expected = [StatusCode::CREATED, StatusCode::NO_CONTENT];
    session.expect(&request, &expected).await.map(drop)
}

/// Shows how far the body is, and ends when it stands still for too long.
async fn watch(
    request: &Request,
    size: u64,
    from: u64,
    sent: &AtomicU64,
    label: &str,
    progress: &ProgressSink,
) -> RegistryError {
    let mut figures = Figures::new(label, "Pushing", size, progress);
    let mut seen = (u64::MAX, tokio::time::Instant::now());
    let mut tick = tokio::time::interval(SHOW_EVERY);
    loop {
        tick.tick().await;
        let now = from + sent.load(Ordering::Relaxed);
        if now != seen.0 {
            seen = (now, tokio::time::Instant::now());
            figures.show(now);
        }
        let patience = if now >= size { DIGESTING } else { SILENCE };
        if seen.1.elapsed() >= patience {
            return RegistryError::Transport {
                method: "Patch".into(),
                url: display_url(&request.url),
                cause: format!("no progress for {} seconds", patience.as_secs()),
                connected: true,
            };
        }
    }
}

/// What the registry has of a broken upload, if it still knows of it.
async fn status(session: &Session, place: &Place) -> Option<Place> {
    let request = Request::new(Method::GET, place.location.clone());
    let response =
        session.expect(&request, &[StatusCode::NO_CONTENT, StatusCode::ACCEPTED]).await.ok()?;
    let range = response.headers().get(RANGE)?.to_str().ok()?;
    let offset = received(range)?;
    placed(session, &response, offset).await.ok()
}

/// How many bytes `0-<last>` means. An empty upload is reported as `0-0`, which
/// could be one byte as well: it is taken as none.
fn received(range: &str) -> Option<u64> {
    let (first, last) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.parse().ok()?;
    match (first, last) {
        ("0", 0) => Some(0),
        ("0", last) => last.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_say_how_much_arrived() {
        assert_eq!(received("0-0"), Some(0));
        assert_eq!(received("bytes=0-1023"), Some(1024));
        assert_eq!(received("5-9"), None);
        assert_eq!(received("0-18446744073709551615"), None);
        assert_eq!(received("x"), None);
    }
}
