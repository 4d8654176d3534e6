//! Push: the layers, the configuration, then the manifest that names them.
//!
//! Be aware:
//! - Layers go as they came: the blobs in the content store are the original
//!   ones, so an image keeps its digest wherever it is pushed. Only layers that
//!   are stored uncompressed are compressed on the way, which changes the
//!   manifest that is sent, not the image's id.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use sampan_types::ImageId;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::error::RegistryError;
use super::session::Session;
use super::source::Source;
use super::transport::{Body, Request};
use super::upload::{Uploaded, upload};
use super::{PushRequest, Registry};
use crate::{
    Descriptor, Digest, ImageError, Lease, Manifest, Progress, ProgressSink, Reference, media,
};

/// What a pushed image is made of.
struct Parts {
    /// Pins all of it.
    _lease: Lease,
    /// The layers with what progress calls them.
    layers: Vec<(String, Source)>,
    config: Source,
    manifest: Bytes,
    media_type: String,
    digest: Digest,
}

impl Registry {
    /// Pushes an image, or all tags of a repository. `progress` gets Docker's
    /// messages, and tag, digest and size of each manifest as data.
    ///
    /// # Errors
    /// See [`RegistryError`]; what was uploaded stays at the registry and is
    /// found there by the next push.
    pub async fn push(
        &self,
        request: &PushRequest,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let reference = &request.reference;
        if reference.digest().is_some() {
            return Err(RegistryError::Invalid {
                what: "reference",
                value: reference.familiar(),
                reason: "cannot push a digest reference".into(),
            });
        }
        let opening = format!("The push refers to repository [{}]", reference.name());
        progress.send(Progress::status(opening)).await;
        let tags = self.tags_to_push(reference)?;
        let endpoint = self.own(reference.domain()).await?;
        let session = Arc::new(Session::new(
            Arc::clone(&self.transport),
            endpoint,
            reference.path(),
            "pull,push",
            request.auth.as_ref(),
        ));
        for (tag, id) in tags {
            self.push_one(&session, &tag, &id, progress).await?;
        }
        Ok(())
    }

    fn tags_to_push(
        &self,
        reference: &Reference,
    ) -> Result<Vec<(Reference, ImageId)>, RegistryError> {
        let mut found: Vec<(Reference, ImageId)> = self
            .images
            .list()
            .iter()
            .flat_map(|record| record.tags.iter().map(|t| (t.clone(), record.id.clone())))
            .filter(|(t, _)| t.same_repository(reference))
            .filter(|(t, _)| reference.tag().is_none() || t.tag() == reference.tag())
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        if found.is_empty() {
            return Err(RegistryError::NoLocalImage { name: reference.familiar_name() });
        }
        Ok(found)
    }

    async fn push_one(
        &self,
        session: &Arc<Session>,
        reference: &Reference,
        id: &ImageId,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let parts = self.parts(id, progress).await?;
        let mounts = self.holders(reference).await?;
        let mut tasks = JoinSet::new();
        let mut begun = HashSet::new();
        for (label, source) in &parts.layers {
            if !begun.insert(source.digest.clone()) {
                progress.send(Progress::about(label, "Layer already exists")).await;
                continue;
            }
            let from: Vec<String> = mounts
                .iter()
                .filter(|(_, layers)| layers.contains(&source.digest))
                .map(|(repository, _)| repository.clone())
                .collect();
            let (registry, session) = (self.clone(), Arc::clone(session));
            let (label, source, progress) = (label.clone(), source.clone(), progress.clone());
            tasks.spawn(async move {
                registry.push_layer(&session, &source, &from, &label, &progress).await
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|_| RegistryError::Interrupted("the push of a layer"))??;
        }
        upload(session, &parts.config, &[], parts.config.digest.short(), &ProgressSink::none())
            .await?;
        self.put_manifest(session, reference, &parts).await?;
        let tag = reference.tag().unwrap_or("latest");
        let (digest, size) = (&parts.digest, parts.manifest.len());
        self.images.add_digest(id, &reference.with_digest(digest.clone())).await?;
        progress.send(Progress::status(format!("{tag}: digest: {digest} size: {size}"))).await;
        let aux = json!({ "Tag": tag, "Digest": digest.as_str(), "Size": size });
        progress.send(Progress { aux: Some(aux), ..Progress::default() }).await;
        Ok(())
    }

    /// Collects and pins what the image consists of, and compresses what isn't.
    async fn parts(&self, id: &ImageId, progress: &ProgressSink) -> Result<Parts, RegistryError> {
        let lease = self.images.lease();
        let (descriptor, manifest) = self.images.manifest(id)?;
        lease.pin(&descriptor.digest);
        lease.pin(&manifest.config.digest);
        manifest.layers.iter().for_each(|l| lease.pin(&l.digest));
        let record = self.images.inspect(id)?;
        let content = self.images.content();
        let mut bytes = content.read(&descriptor.digest)?;
        let mut rewritten: Vec<(usize, Source, &'static str)> = Vec::new();
        let mut layers = Vec::new();
        let labels = record.config.rootfs.diff_ids.iter().map(|d| d.short().to_owned());
        for label in labels.clone() {
            progress.send(Progress::about(label, "Preparing")).await;
        }
        for (n, (layer, label)) in manifest.layers.iter().zip(labels).enumerate() {
            let size = content
                .size(&layer.digest)
                .ok_or_else(|| ImageError::NoBlob(layer.digest.clone()))?;
            let path = content.path(&layer.digest);
            let source = if let Some(media_type) = compressed_type(layer) {
                let source = Source::compressed(path).await?;
                rewritten.push((n, source.clone(), media_type));
                source
            } else {
                Source::stored(path, layer.digest.clone(), size)
            };
            layers.push((label, source));
        }
        if !rewritten.is_empty() {
            bytes = with_layers(&bytes, &rewritten)?;
        }
        let config = &manifest.config;
        Ok(Parts {
            _lease: lease,
            layers,
            config: Source::stored(
                content.path(&config.digest),
                config.digest.clone(),
                config.size,
            ),
            digest: Digest::of(&bytes),
            manifest: bytes.into(),
            media_type: media_type_of(&descriptor, &manifest),
        })
    }

    /// The other repositories of the same registry that are known to have
    /// layers of images here: sources for mounts.
    async fn holders(
        &self,
        reference: &Reference,
    ) -> Result<Vec<(String, HashSet<Digest>)>, RegistryError> {
        let (images, reference) = (self.images.clone(), reference.clone());
        tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            for record in images.list() {
                let elsewhere = record
                    .digests
                    .iter()
                    .find(|d| d.domain() == reference.domain() && d.path() != reference.path());
                let Some(elsewhere) = elsewhere else { continue };
                if let Ok((_, manifest)) = images.manifest(&record.id) {
                    let layers = manifest.layers.into_iter().map(|l| l.digest).collect();
                    found.push((elsewhere.path().to_owned(), layers));
                }
            }
            found
        })
        .await
        .map_err(|_| RegistryError::Interrupted("the push"))
    }

    async fn push_layer(
        &self,
        session: &Session,
        source: &Source,
        mounts: &[String],
        label: &str,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let _permit = if let Ok(permit) = self.uploads.try_acquire() {
            permit
        } else {
            progress.send(Progress::about(label, "Waiting")).await;
            self.uploads.acquire().await.map_err(|_| RegistryError::Interrupted("the upload"))?
        };
        let status = match upload(session, source, mounts, label, progress).await? {
            Uploaded::Existed => "Layer already exists".to_owned(),
            Uploaded::Mounted(from) => format!("Mounted from {from}"),
            Uploaded::Sent => "Pushed".to_owned(),
        };
        progress.send(Progress::about(label, status)).await;
        Ok(())
    }

    async fn put_manifest(
        &self,
        session: &Session,
        reference: &Reference,
        parts: &Parts,
    ) -> Result<(), RegistryError> {
        let tag = reference.tag().unwrap_or("latest");
        let request = Request::new(Method::PUT, session.url(&format!("manifests/{tag}")))
            .header(CONTENT_TYPE, &parts.media_type)
            .body(Body::Bytes(parts.manifest.clone()));
        session.expect(&request, &[StatusCode::CREATED, StatusCode::OK]).await.map(drop)
    }
}

/// What an uncompressed layer is called once it is compressed.
fn compressed_type(layer: &Descriptor) -> Option<&'static str> {
    match layer.media_type.as_str() {
        media::OCI_LAYER => Some(media::OCI_LAYER_GZIP),
        "application/vnd.docker.image.rootfs.diff.tar" => Some(media::DOCKER_LAYER_GZIP),
        _ => None,
    }
}

fn media_type_of(descriptor: &Descriptor, manifest: &Manifest) -> String {
    manifest
        .media_type
        .clone()
        .or_else(|| Some(descriptor.media_type.clone()).filter(|t| !t.is_empty()))
        .unwrap_or_else(|| media::OCI_MANIFEST.to_owned())
}

/// The manifest with other descriptors for some layers; all else in it stays.
fn with_layers(
    manifest: &[u8],
    layers: &[(usize, Source, &'static str)],
) -> Result<Vec<u8>, RegistryError> {
    let bad = |e: serde_json::Error| RegistryError::BadContent {
        what: "manifest".into(),
        reason: e.to_string(),
    };
    let mut value: Value = serde_json::from_slice(manifest).map_err(bad)?;
    for (n, source, media_type) in layers {
        let layer = &mut value["layers"][*n];
        layer["mediaType"] = json!(media_type);
        layer["digest"] = json!(source.digest);
        layer["size"] = json!(source.size);
    }
    serde_json::to_vec(&value).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewritten_manifests_keep_everything_else() {
        let before = json!({
            "schemaVersion": 2,
            "annotations": {"a": "b"},
            "config": {"digest": Digest::of(b"c"), "size": 1, "data": "e30="},
            "layers": [
                {"mediaType": media::OCI_LAYER, "digest": Digest::of(b"x"), "size": 9},
                {"mediaType": media::OCI_LAYER_GZIP, "digest": Digest::of(b"y"), "size": 8, "annotations": {}}
            ]
        });
        let source = Source::stored("x".into(), Digest::of(b"gz"), 3);
        let after =
            with_layers(before.to_string().as_bytes(), &[(0, source, media::OCI_LAYER_GZIP)])
                .unwrap();
        let after: Value = serde_json::from_slice(&after).unwrap();
        assert_eq!(after["layers"][0]["digest"], json!(Digest::of(b"gz")));
        assert_eq!(after["layers"][0]["size"], 3);
        assert_eq!(after["layers"][0]["mediaType"], media::OCI_LAYER_GZIP);
        assert_eq!(after["layers"][1], before["layers"][1]);
        assert_eq!(after["config"], before["config"]);
        assert_eq!(after["annotations"], before["annotations"]);
    }
}
