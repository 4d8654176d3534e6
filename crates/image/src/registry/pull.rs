//! Pull: from a reference to a recorded image.
//!
//! Be aware:
//! - Everything is pinned by one lease until the image is recorded; an
//!   interrupted pull leaves only what the next one can use.
//! - Layers are downloaded, verified and unpacked side by side; the first
//!   failure ends the others.
//! - Nothing is shown before the manifest is here, so that a wrong name is
//!   answered with its own HTTP status.

use std::sync::Arc;

use http::header::LINK;
use http::{Method, StatusCode};
use sampan_types::ImageId;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::manifest::{self, Resolved};
use super::session::Session;
use super::transport::{Request, read_limited};
use super::{PullRequest, Pulled, Registry};
use crate::{
    ConfigFile, Descriptor, Digest, ImageError, Lease, Manifest, Platform, Progress, ProgressSink,
    Reference, Registration,
};

/// One page of a list of tags.
const MAX_TAGS_PAGE: u64 = 4 << 20;
/// How many tags `--all-tags` takes on.
const MAX_TAGS: usize = 10_000;

impl Registry {
    /// Pulls an image, or all tags of a repository. `progress` gets Docker's
    /// messages, the closing `Digest` and `Status` lines included.
    ///
    /// # Errors
    /// See [`RegistryError`]; nothing is recorded then, but tags that
    /// `all_tags` had brought before.
    pub async fn pull(
        &self,
        request: &PullRequest,
        progress: &ProgressSink,
    ) -> Result<Pulled, RegistryError> {
        if request.all_tags
            && (request.reference.tag().is_some() || request.reference.digest().is_some())
        {
            return Err(RegistryError::Invalid {
                what: "reference",
                value: request.reference.familiar(),
                reason: "tag can't be used with --all-tags/-a".into(),
            });
        }
        let domain = request.reference.domain();
        for mirror in self.mirrors(domain)? {
            match self.pull_from(request, mirror.clone(), progress).await {
                Ok(pulled) => return Ok(pulled),
                Err(RegistryError::Image(e)) => return Err(e.into()),
                Err(error) => {
                    tracing::warn!(mirror = %mirror.base, %error, "pull from the mirror failed");
                }
            }
        }
        let own = self.own(domain).await?;
        self.pull_from(request, own, progress).await
    }

    async fn pull_from(
        &self,
        request: &PullRequest,
        endpoint: Endpoint,
        progress: &ProgressSink,
    ) -> Result<Pulled, RegistryError> {
        let session = Arc::new(Session::new(
            Arc::clone(&self.transport),
            endpoint,
            request.reference.path(),
            "pull",
            request.auth.as_ref(),
        ));
        let wanted = if request.all_tags {
            list_tags(&session, &request.reference).await?
        } else {
            vec![request.reference.clone().or_latest()]
        };
        let mut pulled = Pulled { images: Vec::new(), newer: false };
        for reference in &wanted {
            let (id, newer) =
                self.pull_one(&session, reference, request.platform.as_ref(), progress).await?;
            pulled.images.push(id);
            pulled.newer |= newer;
        }
        let name = if request.all_tags {
            request.reference.familiar_name()
        } else {
            request.reference.clone().or_latest().familiar()
        };
        let status = if pulled.newer {
            format!("Status: Downloaded newer image for {name}")
        } else {
            format!("Status: Image is up to date for {name}")
        };
        progress.send(Progress::status(status)).await;
        Ok(pulled)
    }

    /// Pulls one reference. The image, and whether it is new under this name.
    async fn pull_one(
        &self,
        session: &Arc<Session>,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: &ProgressSink,
    ) -> Result<(ImageId, bool), RegistryError> {
        let resolved = manifest::resolve(session, reference, platform).await?;
        manifest::check_parts(&resolved.manifest, &reference.familiar())?;
        let by_digest = reference.digest().is_some();
        let label = match reference.tag().filter(|_| !by_digest) {
            Some(tag) => tag.to_owned(),
            None => format!("{}@{}", reference.name(), resolved.top),
        };
        let from = format!("Pulling from {}", reference.path());
        progress.send(Progress::about(label, from)).await;

        let lease = Arc::new(self.images.lease());
        let manifest = match self.present(&lease, &resolved.manifest) {
            Some((present, config)) => {
                check_platform(reference, &resolved, &config, platform)?;
                present
            }
            None => {
                self.fetch_image(session, &lease, reference, &resolved, platform, progress).await?
            }
        };
        let named_digest = reference.with_digest(resolved.top.clone());
        let tag = reference.tag().filter(|_| !by_digest);
        let name = match tag {
            Some(tag) => reference.with_tag(tag).map_err(ImageError::from)?,
            None => named_digest.clone(),
        };
        let before = self.images.resolve(&name.to_string()).ok();
        let registration = Registration {
            manifest,
            tags: tag.map(|_| name).into_iter().collect(),
            digests: vec![named_digest],
            parent: None,
        };
        let id = self.images.register(&lease, registration).await?;
        progress.send(Progress::status(format!("Digest: {}", resolved.top))).await;
        let newer = before.as_ref() != Some(&id);
        Ok((id, newer))
    }

    /// The manifest and configuration of this image as it is here already,
    /// perhaps from another repository. Pinned by `lease` then.
    fn present(&self, lease: &Lease, manifest: &Manifest) -> Option<(Digest, ConfigFile)> {
        let id = ImageId::from(&manifest.config.digest);
        let pin = |lease: &Lease| {
            let record = self.images.inspect(&id).ok()?;
            let (descriptor, own) = self.images.manifest(&id).ok()?;
            lease.pin(&descriptor.digest);
            lease.pin(&own.config.digest);
            own.layers.iter().for_each(|l| lease.pin(&l.digest));
            record.config.rootfs.diff_ids.iter().for_each(|d| lease.pin(d));
            Some((descriptor.digest, record.config.clone()))
        };
        // Only what is still here once it is pinned stays here.
        pin(lease)?;
        pin(lease)
    }

    /// Fetches configuration and layers, unpacks them, stores the manifest.
    async fn fetch_image(
        &self,
        session: &Arc<Session>,
        lease: &Arc<Lease>,
        reference: &Reference,
        resolved: &Resolved,
        platform: Option<&Platform>,
        progress: &ProgressSink,
    ) -> Result<Digest, RegistryError> {
        let (bytes, config) = manifest::fetch_config(session, &resolved.manifest).await?;
        check_platform(reference, resolved, &config, platform)?;
        let content = self.images.content();
        content.write(lease, bytes.to_vec()).await?;
        self.fetch_layers(session, lease, &resolved.manifest.layers, &config, progress).await?;
        let stored = content.write(lease, resolved.bytes.to_vec()).await?;
        debug_assert_eq!(stored, resolved.digest);
        Ok(stored)
    }

    async fn fetch_layers(
        &self,
        session: &Arc<Session>,
        lease: &Arc<Lease>,
        layers: &[Descriptor],
        config: &ConfigFile,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let mut wanted = Vec::new();
        for (layer, diff_id) in layers.iter().zip(&config.rootfs.diff_ids) {
            lease.pin(&layer.digest);
            lease.pin(diff_id);
            let label = layer.digest.short();
            if self.images.content().contains(&layer.digest) && self.images.has_layer(diff_id) {
                progress.send(Progress::about(label, "Already exists")).await;
            } else {
                progress.send(Progress::about(label, "Pulling fs layer")).await;
                wanted.push((layer.clone(), diff_id.clone()));
            }
        }
        let mut tasks = JoinSet::new();
        for (layer, diff_id) in wanted {
            let (registry, session) = (self.clone(), Arc::clone(session));
            let (lease, progress) = (Arc::clone(lease), progress.clone());
            tasks.spawn(async move {
                registry.fetch_layer(&session, &lease, &layer, &diff_id, &progress).await
            });
        }
        // Dropping the set, at a failure or when the pull is dropped, ends the rest.
        while let Some(done) = tasks.join_next().await {
            done.map_err(|_| RegistryError::Interrupted("the pull of a layer"))??;
        }
        Ok(())
    }

    async fn fetch_layer(
        &self,
        session: &Arc<Session>,
        lease: &Lease,
        layer: &Descriptor,
        diff_id: &Digest,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let label = layer.digest.short();
        self.download(session, lease, layer, label, progress).await?;
        let _permit = self
            .unpacks
            .acquire()
            .await
            .map_err(|_| RegistryError::Interrupted("the unpacking of a layer"))?;
        self.images.unpack_layer(lease, layer, diff_id, label, progress).await?;
        Ok(())
    }
}

/// Refuses an image for another platform than the one that was asked for. From
/// an index the choice was made; an image that stands alone is refused only when
/// a platform was named, or when it can't run here at all.
fn check_platform(
    reference: &Reference,
    resolved: &Resolved,
    config: &ConfigFile,
    platform: Option<&Platform>,
) -> Result<(), RegistryError> {
    let actual = config.platform();
    let fits = match platform {
        Some(wanted) if !resolved.chosen => wanted.distance(&actual).is_some(),
        _ => actual.os == "linux" || actual.os.is_empty(),
    };
    if fits {
        return Ok(());
    }
    Err(RegistryError::OtherPlatform {
        reference: reference.familiar(),
        wanted: platform.cloned().unwrap_or_else(Platform::host).to_string(),
        actual: actual.to_string(),
    })
}

/// All tags of a repository, page by page.
async fn list_tags(
    session: &Session,
    reference: &Reference,
) -> Result<Vec<Reference>, RegistryError> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        tags: Option<Vec<String>>,
    }
    let name = reference.familiar_name();
    let what = format!("list of tags of {name}");
    let mut found = Vec::new();
    let mut next = Some(session.url("tags/list"));
    while let Some(url) = next.take() {
        let request = Request::new(Method::GET, url);
        let response = session
            .expect(&request, &[StatusCode::OK])
            .await
            .map_err(|e| e.of_manifest(&name, &name))?;
        let link = response.headers().get(LINK).and_then(|v| v.to_str().ok());
        // A page that leads away from the registry ends the list.
        let following = link
            .and_then(next_page)
            .and_then(|l| request.url.join(l).ok())
            .filter(|u| u.origin() == request.url.origin());
        let body = read_limited(&session.transport, response, &what, MAX_TAGS_PAGE).await?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|e| RegistryError::BadContent { what: what.clone(), reason: e.to_string() })?;
        let tags = page.tags.unwrap_or_default();
        if !tags.is_empty() {
            next = following;
        }
        for tag in tags {
            found.push(reference.with_tag(&tag).map_err(ImageError::from)?);
        }
        if found.len() > MAX_TAGS {
            return Err(RegistryError::BadContent {
                what,
                reason: format!("it has more than {MAX_TAGS} entries"),
            });
        }
    }
    Ok(found)
}

/// The address in `<…>; rel="next"` (RFC 8288).
fn next_page(link: &str) -> Option<&str> {
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        assert_eq!(
            next_page("</v2/a/tags/list?last=b&n=2>; rel=\"next\""),
            Some("/v2/a/tags/list?last=b&n=2")
        );
        assert_eq!(next_page("</x>; rel=\"prev\""), None);
        assert_eq!(next_page("nonsense"), None);
    }
}
