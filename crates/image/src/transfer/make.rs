//! Images that are made here: imported root file systems, and containers.

use std::io::{self, Read};
use std::sync::Arc;

use sampan_types::{ImageId, Timestamp, docker};
use tokio::io::AsyncRead;

use super::load::manifest_text;
use super::{CommitRequest, ImportRequest};
use crate::images::Inner;
use crate::stream::{blocking, consume};
use crate::{
    ConfigFile, Descriptor, Digest, HistoryEntry, ImageError, Images, Lease, Platform, Reference,
    Registration, media,
};

impl Images {
    /// Makes an image from the archive of a root file system, compressed or not.
    ///
    /// # Errors
    /// A broken or hostile archive; a full disk.
    pub async fn import<R>(&self, archive: R, request: ImportRequest) -> Result<ImageId, ImageError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        consume(archive, move |input| {
            let made = inner.import(input, request);
            if made.is_err() {
                inner.collect()?;
            }
            made
        })
        .await
    }

    /// Makes an image from what a container changed.
    ///
    /// # Errors
    /// [`ImageError::NoSnapshot`]; a full disk.
    pub async fn commit(&self, request: CommitRequest) -> Result<ImageId, ImageError> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let made = inner.commit(request);
            if made.is_err() {
                inner.collect()?;
            }
            made
        })
        .await
    }
}

impl Inner {
    fn import(
        &self,
        input: Box<dyn Read + Send>,
        request: ImportRequest,
    ) -> Result<ImageId, ImageError> {
        let lease = Lease::new(Arc::clone(&self.pins));
        let (diff_id, blob) = self.layers.intake(&lease, input, None)?;
        let mut run = docker::ImageConfig::default();
        request.changes.iter().for_each(|change| change.apply(&mut run));
        let platform = request.platform.unwrap_or_else(Platform::host);
        let now = Timestamp::now().to_string();
        let mut config = ConfigFile {
            created: Some(now.clone()),
            comment: Some(request.message.clone()),
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            config: Some(run),
            history: Some(vec![HistoryEntry {
                created: Some(now),
                comment: Some(request.message),
                ..HistoryEntry::default()
            }]),
            ..ConfigFile::default()
        };
        config.rootfs.diff_ids.push(diff_id);
        self.record_made(&lease, &config, vec![blob], request.reference, None)
    }

    fn commit(self: &Arc<Self>, request: CommitRequest) -> Result<ImageId, ImageError> {
        let lease = Lease::new(Arc::clone(&self.pins));
        lease.pin(&Digest::from(&request.image));
        // The image may be gone; the container keeps its configuration.
        let text = self.content.read(&Digest::from(&request.image))?;
        let mut config = ConfigFile::parse(&text)?;
        let mut layers = Vec::with_capacity(config.rootfs.diff_ids.len() + 1);
        for diff_id in &config.rootfs.diff_ids {
            lease.pin(diff_id);
            let blob = self.layers.blob(&lease, diff_id);
            layers.push(blob.ok_or_else(|| ImageError::NoBlob(diff_id.clone()))?);
        }
        let own = self.commit_layer(&lease, &request)?;
        let mut run = request.config;
        request.changes.iter().for_each(|change| change.apply(&mut run));
        let now = Timestamp::now().to_string();
        let text = |text: String| Some(text).filter(|t| !t.is_empty());
        config.history.get_or_insert_default().push(HistoryEntry {
            created: Some(now.clone()),
            author: text(request.author.clone()),
            created_by: run.cmd.as_ref().map(|cmd| cmd.join(" ")),
            comment: text(request.message.clone()),
            empty_layer: own.is_none(),
        });
        config.created = Some(now);
        config.author = text(request.author);
        config.comment = text(request.message);
        config.config = Some(run);
        if let Some((diff_id, blob)) = own {
            config.rootfs.diff_ids.push(diff_id);
            layers.push(blob);
        }
        let parent = self.record(&request.image).is_ok().then_some(request.image);
        self.record_made(&lease, &config, layers, request.reference, parent)
    }

    /// The container's changes as a layer; `None` when there are none.
    fn commit_layer(
        self: &Arc<Self>,
        lease: &Lease,
        request: &CommitRequest,
    ) -> Result<Option<(Digest, Descriptor)>, ImageError> {
        let pipe = |e| ImageError::io("make a pipe for", &self.root)(e);
        let (reader, writer) = io::pipe().map_err(pipe)?;
        let (inner, id) = (Arc::clone(self), request.container.clone());
        let archiver = std::thread::Builder::new()
            .name("commit".into())
            .spawn(move || {
                inner.write_changes(&id, io::BufWriter::with_capacity(256 << 10, writer))
            })
            .map_err(ImageError::io("start a thread for", &self.root))?;
        let taken = self.layers.intake(lease, reader, None);
        let written = archiver.join().map_err(|_| ImageError::Interrupted)?;
        match (taken, written) {
            (Ok(layer), Ok(changes)) => Ok((changes > 0).then_some(layer)),
            // A broken pipe is only the other side's failure.
            (Err(error), Err(ImageError::Io { source, .. }))
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                Err(error)
            }
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
        }
    }

    /// Stores configuration and manifest of an image made here, and records it.
    fn record_made(
        &self,
        lease: &Lease,
        config: &ConfigFile,
        layers: Vec<Descriptor>,
        reference: Option<Reference>,
        parent: Option<ImageId>,
    ) -> Result<ImageId, ImageError> {
        let blob = config.to_blob()?;
        let digest = Digest::of(&blob);
        lease.pin(&digest);
        self.content.store_small(&digest, &blob)?;
        let config = Descriptor::new(media::OCI_CONFIG, digest, blob.len() as u64);
        let manifest = manifest_text(config, layers)?;
        let digest = Digest::of(&manifest);
        lease.pin(&digest);
        self.content.store_small(&digest, &manifest)?;
        let registration = Registration {
            manifest: digest,
            tags: reference.into_iter().collect(),
            digests: Vec::new(),
            parent,
        };
        self.register(lease, vec![registration])?.pop().ok_or(ImageError::Interrupted)
    }
}
