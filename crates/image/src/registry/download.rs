//! One blob from a registry into the content store.
//!
//! Be aware:
//! - A broken connection is resumed by range, with a pause that doubles. What
//!   made headway starts counting its attempts anew.
//! - The place in the store is taken before a permit: a download that waits
//!   for another one of the same blob holds no permit while it does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_RANGE, RANGE};
use http::{Method, StatusCode};
use reqwest::Response;

use super::Registry;
use super::error::RegistryError;
use super::session::Session;
use super::transport::{Request, next_chunk};
use crate::{Descriptor, ImageError, Ingest, Lease, Progress, ProgressSink};

/// Figures are shown at most this often.
pub(super) const SHOW_EVERY: Duration = Duration::from_millis(100);
/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// An attempt that brought this much counts as headway.
const HEADWAY: u64 = 256 << 10;

/// How often something is tried that makes no headway.
pub(super) struct Attempts {
    allowed: u32,
    failed: u32,
}

impl Attempts {
    pub(super) fn new(allowed: u32) -> Self {
        Self { allowed: allowed.max(1), failed: 0 }
    }

    /// Waits before another attempt, or gives `error` back when there is none.
    pub(super) async fn again(
        &mut self,
        error: RegistryError,
        gained: u64,
        label: &str,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        if gained >= HEADWAY {
            self.failed = 0;
        }
        self.failed += 1;
        if !error.is_passing() || self.failed >= self.allowed {
            return Err(error);
        }
        tracing::info!(layer = label, attempt = self.failed, %error, "transfer broke, trying again");
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.failed - 1).min(6)).min(LONGEST_PAUSE);
        if pause >= Duration::from_secs(1) {
            let seconds = pause.as_secs();
            let plural = if seconds == 1 { "" } else { "s" };
            progress
                .send(Progress::about(label, format!("Retrying in {seconds} second{plural}")))
                .await;
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Shows how far a transfer is, now and then.
pub(super) struct Figures<'a> {
    label: &'a str,
    status: &'static str,
    total: u64,
    progress: &'a ProgressSink,
    shown: Option<Instant>,
}

impl<'a> Figures<'a> {
    pub(super) fn new(
        label: &'a str,
        status: &'static str,
        total: u64,
        progress: &'a ProgressSink,
    ) -> Self {
        Self { label, status, total, progress, shown: None }
    }

    pub(super) fn show(&mut self, current: u64) {
        if self.shown.is_none_or(|s| s.elapsed() >= SHOW_EVERY) {
            self.shown = Some(Instant::now());
            self.progress.try_send(Progress::bytes(
                self.label,
                self.status,
                current,
                Some(self.total),
            ));
        }
    }
}

impl Registry {
    /// Brings a blob into the content store, pinned by `lease`, unless it is
    /// there. `label` is what progress calls it.
    pub(super) async fn download(
        &self,
        session: &Arc<Session>,
        lease: &Lease,
        blob: &Descriptor,
        label: &str,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let content = self.images.content();
        let mut resumed_here = true;
        loop {
            let Some(mut ingest) = content.ingest(lease, &blob.digest, Some(blob.size)).await?
            else {
                progress.send(Progress::about(label, "Download complete")).await;
                return Ok(());
            };
            let had = ingest.offset();
            self.receive(session, &mut ingest, blob, label, progress).await?;
            progress.send(Progress::about(label, "Verifying Checksum")).await;
            match ingest.commit().await {
                Ok(()) => break,
                // What an earlier pull left may have suffered from a power cut:
                // the damaged part is gone now, once more from the start.
                Err(ImageError::DigestMismatch { .. }) if had > 0 && resumed_here => {
                    resumed_here = false;
                }
                Err(ImageError::DigestMismatch { expected, actual, .. }) => {
                    return Err(RegistryError::WrongDigest {
                        what: format!("layer {expected}"),
                        expected: expected.to_string(),
                        actual: actual.to_string(),
                    });
                }
                Err(e) => return Err(e.into()),
            }
        }
        progress.send(Progress::about(label, "Download complete")).await;
        Ok(())
    }

    /// Fills `ingest` to the size of the blob.
    async fn receive(
        &self,
        session: &Session,
        ingest: &mut Ingest,
        blob: &Descriptor,
        label: &str,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let _permit = if let Ok(permit) = self.downloads.try_acquire() {
            permit
        } else {
            progress.send(Progress::about(label, "Waiting")).await;
            self.downloads
                .acquire()
                .await
                .map_err(|_| RegistryError::Interrupted("the download"))?
        };
        let mut attempts = Attempts::new(self.transport.config.max_attempts);
        while ingest.offset() < blob.size {
            let before = ingest.offset();
            let mut figures = Figures::new(label, "Downloading", blob.size, progress);
            if let Err(error) = attempt(session, ingest, blob, &mut figures).await {
                let gained = ingest.offset().saturating_sub(before);
                if let Err(error) = attempts.again(error, gained, label, progress).await {
                    // For the next pull; that this one failed is known already.
                    let _ = ingest.flush().await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// One request: what it brings goes into `ingest`.
async fn attempt(
    session: &Session,
    ingest: &mut Ingest,
    blob: &Descriptor,
    figures: &mut Figures<'_>,
) -> Result<(), RegistryError> {
    let mut request = Request::new(Method::GET, session.url(&format!("blobs/{}", blob.digest)));
    let offset = ingest.offset();
    if offset > 0 {
        request = request.header(RANGE, &format!("bytes={offset}-"));
    }
    let response = session.send(&request).await?;
    let mut response = match response.status() {
        StatusCode::PARTIAL_CONTENT if offset > 0 && range_start(&response) == Some(offset) => {
            response
        }
        StatusCode::OK => {
            if offset > 0 {
                ingest.restart().await?;
            }
            response
        }
        // It can't go on from here (or lies about where it does).
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if offset > 0 => {
            ingest.restart().await?;
            let whole = Request { headers: http::HeaderMap::new(), ..request };
            session.expect(&whole, &[StatusCode::OK]).await?
        }
        _ => session.check(&Method::GET, response, &[StatusCode::OK]).await?,
    };
    let announced = response.content_length().map(|n| n.saturating_add(ingest.offset()));
    if let Some(actual) = announced.filter(|n| *n != blob.size) {
        return Err(RegistryError::WrongSize {
            what: format!("layer {}", blob.digest),
            expected: blob.size,
            actual,
        });
    }
    figures.show(ingest.offset());
    while let Some(chunk) = next_chunk(&session.transport, &mut response).await? {
        let actual = ingest.offset() + chunk.len() as u64;
        if actual > blob.size {
            return Err(RegistryError::WrongSize {
                what: format!("layer {}", blob.digest),
                expected: blob.size,
                actual,
            });
        }
        ingest.write(chunk).await?;
        figures.show(ingest.offset());
    }
    if ingest.offset() < blob.size {
        // A body without a length that ended early.
        return Err(RegistryError::Transport {
            method: "Get".into(),
            url: super::transport::display_url(&request_url(session, blob)),
            cause: "unexpected EOF".into(),
            connected: true,
        });
    }
    Ok(())
}

fn request_url(session: &Session, blob: &Descriptor) -> reqwest::Url {
    session.url(&format!("blobs/{}", blob.digest))
}

/// Where a partial answer begins, by its `Content-Range`.
fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> RegistryError {
        RegistryError::Transport {
            method: "Get".into(),
            url: "http://x/".into(),
            cause: "unexpected EOF".into(),
            connected: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_but_headway_counts() {
        let (progress, mut attempts) = (ProgressSink::none(), Attempts::new(3));
        for _ in 0..10 {
            attempts.again(broken(), HEADWAY, "x", &progress).await.unwrap();
        }
        attempts.again(broken(), 0, "x", &progress).await.unwrap();
        attempts.again(broken(), 0, "x", &progress).await.unwrap_err();
        let refusal = RegistryError::ForeignLayer { digest: String::new() };
        assert!(Attempts::new(3).again(refusal, HEADWAY, "x", &progress).await.is_err());
    }
}
