//! Recording images whose content is here.

use sampan_types::{ImageId, Timestamp};

use super::state::{StoredImage, load, parse_manifest};
use super::{Images, Inner, Registration};
use crate::progress::{Progress, ProgressSink};
use crate::stream::blocking;
use crate::{Descriptor, Digest, ImageError, Lease, Reference};

/// How often progress is told, in bytes.
const STEP: u64 = 512 << 10;

impl Inner {
    /// Records images in one step: all, or none. Blocks.
    pub(crate) fn register(
        &self,
        lease: &Lease,
        registrations: Vec<Registration>,
    ) -> Result<Vec<ImageId>, ImageError> {
        let mut checked = Vec::with_capacity(registrations.len());
        for registration in registrations {
            lease.pin(&registration.manifest);
            let manifest = parse_manifest(&self.content.read(&registration.manifest)?)?;
            let id = ImageId::from(&manifest.config.digest);
            let image = StoredImage {
                manifest: registration.manifest.clone(),
                parent: registration.parent.clone(),
                last_tagged: Timestamp::now(),
            };
            let record = load(&id, &image, &self.content, &self.layers)?;
            if !matches!(record.config.os.as_str(), "" | "linux") {
                return Err(ImageError::Invalid(format!(
                    "image operating system {:?} cannot be used on this platform",
                    record.config.os
                )));
            }
            checked.push((id, image, registration));
        }
        // All content is on disk before a record speaks of it.
        self.synchronise()?;
        self.state.change(&self.content, &self.layers, |stored, _| {
            let mut ids = Vec::with_capacity(checked.len());
            for (id, mut image, registration) in checked {
                if let Some(known) = stored.images.get(&id) {
                    image.parent = image.parent.or_else(|| known.parent.clone());
                    if registration.tags.is_empty() {
                        image.last_tagged = known.last_tagged;
                    }
                }
                image.parent = image.parent.filter(|p| *p != id);
                stored.images.insert(id.clone(), image);
                for name in registration.tags {
                    stored.tags.insert(tag_of(&name), id.clone());
                }
                for name in registration.digests {
                    stored.digests.insert(name, id.clone());
                }
                ids.push(id);
            }
            Ok(ids)
        })
    }

    /// Brings everything that was written to disk.
    fn synchronise(&self) -> Result<(), ImageError> {
        let failed = |e| ImageError::io("synchronise", &self.root)(e);
        let root = std::fs::File::open(&self.root).map_err(failed)?;
        nix::unistd::syncfs(std::os::fd::AsRawFd::as_raw_fd(&root)).map_err(|e| failed(e.into()))
    }
}

/// A tag's reference: with a tag, and without a digest.
pub(super) fn tag_of(name: &Reference) -> Reference {
    let tag = name.tag().unwrap_or("latest").to_owned();
    name.with_tag(&tag).unwrap_or_else(|_| name.clone())
}

impl Images {
    /// Unpacks a layer's archive from the content store, verifies that its
    /// uncompressed digest is `diff_id`, and pins it by `lease`. Layers may be
    /// unpacked in parallel; one that is here already is done at once.
    /// `progress` gets `Extracting` and `Pull complete` about `label`.
    ///
    /// # Errors
    /// A broken or hostile archive, a wrong digest, a full disk. Nothing is left.
    pub async fn unpack_layer(
        &self,
        lease: &Lease,
        blob: &Descriptor,
        diff_id: &Digest,
        label: &str,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        lease.pin(diff_id);
        lease.pin(&blob.digest);
        let inner = std::sync::Arc::clone(&self.0);
        let (blob, diff_id) = (blob.clone(), diff_id.clone());
        let (label, sink) = (label.to_owned(), progress.clone());
        blocking(move || {
            let input = Watched {
                input: inner.content.open_blob(&blob.digest)?,
                told: 0,
                read: 0,
                total: blob.size,
                label: label.clone(),
                status: "Extracting",
                sink: sink.clone(),
            };
            inner.layers.unpack(input, blob, &diff_id)?;
            sink.send_blocking(Progress::about(label, "Pull complete"));
            Ok(())
        })
        .await
    }

    /// Records an image, all of whose blobs and layers are here, and its names.
    /// Durable on return.
    ///
    /// # Errors
    /// [`ImageError::Broken`] when manifest or configuration are wrong or
    /// something is missing; [`ImageError::Invalid`] when the image is not for
    /// Linux.
    pub async fn register(
        &self,
        lease: &Lease,
        registration: Registration,
    ) -> Result<ImageId, ImageError> {
        let inner = std::sync::Arc::clone(&self.0);
        // Its own, which lives until the record is written even when the
        // caller is cancelled.
        let held = self.lease();
        lease.share(&held);
        let mut ids = blocking(move || inner.register(&held, vec![registration])).await?;
        ids.pop().ok_or(ImageError::Interrupted)
    }

    /// Adds the name by which a registry knows the image (after a push).
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; those of the file system.
    pub async fn add_digest(&self, id: &ImageId, name: &Reference) -> Result<(), ImageError> {
        let (inner, id, name) = (std::sync::Arc::clone(&self.0), id.clone(), name.clone());
        blocking(move || {
            inner.state.change(&inner.content, &inner.layers, |stored, _| {
                if !stored.images.contains_key(&id) {
                    return Err(ImageError::NotFound(id.to_string()));
                }
                stored.digests.insert(name, id);
                Ok(())
            })
        })
        .await
    }
}

/// Tells how far the reading of a file has come.
pub(crate) struct Watched<R> {
    pub input: R,
    pub told: u64,
    pub read: u64,
    pub total: u64,
    pub label: String,
    pub status: &'static str,
    pub sink: ProgressSink,
}

impl<R: std::io::Read> std::io::Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.read(buf)?;
        self.read += n as u64;
        if self.read - self.told >= STEP || (n == 0 && self.told < self.read) {
            self.told = self.read;
            let total = Some(self.total);
            self.sink.try_send(Progress::bytes(&self.label, self.status, self.read, total));
        }
        Ok(n)
    }
}
