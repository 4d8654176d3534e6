//! Saving: one archive that is Docker's and an OCI layout at once.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use sampan_types::ImageId;
use serde_json::json;

use crate::images::Inner;
use crate::stream::produce;
use crate::tarball::{Entry, EntryKind, TarWriter};
use crate::{
    ByteStream, Descriptor, Digest, ImageError, ImageRecord, Images, Index, Lease, Manifest,
    Platform, Reference, media,
};

/// An image to save, with the names it is saved under.
struct Saved {
    record: Arc<ImageRecord>,
    tags: Vec<Reference>,
    manifest: Manifest,
    descriptor: Descriptor,
}

impl Images {
    /// The named images as one archive that is Docker's and an OCI layout at
    /// once. A name without tag or digest stands for all tags of a repository.
    ///
    /// # Errors
    /// As [`Images::resolve`], before anything is sent.
    pub async fn save(
        &self,
        names: &[String],
        platform: Option<Platform>,
    ) -> Result<ByteStream, ImageError> {
        let lease = self.lease();
        let mut saved: Vec<Saved> = Vec::new();
        for name in names {
            for (id, tag) in self.named(name)? {
                self.add(&lease, &mut saved, &id, tag, platform.as_ref())?;
            }
        }
        let inner = Arc::clone(&self.0);
        Ok(produce(move |out| {
            let _lease = lease;
            inner.write_images(&saved, out)
        }))
    }

    /// The images that a name stands for, with the tag to save.
    fn named(&self, name: &str) -> Result<Vec<(ImageId, Option<Reference>)>, ImageError> {
        let reference = name.parse::<Reference>().ok();
        if let Some(plain) =
            reference.as_ref().filter(|r| r.tag().is_none() && r.digest().is_none())
        {
            let all = self.list();
            let tags = all.iter().flat_map(|r| r.tags.iter().map(|tag| (r.id.clone(), tag)));
            let of: Vec<_> = tags
                .filter(|(_, tag)| tag.same_repository(plain))
                .map(|(id, tag)| (id, Some(tag.clone())))
                .collect();
            if !of.is_empty() {
                return Ok(of);
            }
        }
        let id = self.resolve(name)?;
        let record = self.inspect(&id)?;
        // By its id an image is saved without a name.
        let tag = reference.filter(|r| record.tags.contains(r));
        Ok(vec![(id, tag)])
    }

    fn add(
        &self,
        lease: &Lease,
        saved: &mut Vec<Saved>,
        id: &ImageId,
        tag: Option<Reference>,
        platform: Option<&Platform>,
    ) -> Result<(), ImageError> {
        if let Some(known) = saved.iter_mut().find(|s| s.record.id == *id) {
            known.tags.extend(tag.filter(|t| !known.tags.contains(t)));
            return Ok(());
        }
        let record = self.inspect(id)?;
        lease.pin(&record.manifest);
        lease.pin(&Digest::from(id));
        record.layers.iter().for_each(|l| lease.pin(&l.digest));
        let own = record.config.platform();
        if platform.is_some_and(|p| p.os != own.os || p.architecture != own.architecture) {
            return Err(ImageError::NotFound(format!(
                "{id} for the platform asked for: it is for {}/{}",
                own.os, own.architecture
            )));
        }
        // Once more, now that a removal can't come between.
        let (descriptor, manifest) = self.manifest(id)?;
        saved.push(Saved { record, tags: tag.into_iter().collect(), manifest, descriptor });
        Ok(())
    }
}

impl Inner {
    fn write_images(&self, saved: &[Saved], out: impl io::Write) -> io::Result<()> {
        let mut tar = TarWriter::new(out);
        for dir in ["blobs/", "blobs/sha256/"] {
            let mut entry = Entry::new(dir.as_bytes().to_vec(), EntryKind::Directory);
            entry.mode = 0o755;
            tar.append(&entry, &mut io::empty())?;
        }
        let mut written = HashSet::new();
        for image in saved {
            let time = image.record.created.seconds();
            let blobs = std::iter::once(&image.descriptor)
                .chain(std::iter::once(&image.manifest.config))
                .chain(&image.manifest.layers);
            for blob in blobs {
                if written.insert(&blob.digest) {
                    self.write_blob(&mut tar, &blob.digest, time)?;
                }
            }
        }
        let json = |value: &serde_json::Value| serde_json::to_vec(value).map_err(io::Error::other);
        let index = serde_json::to_value(index(saved)).map_err(io::Error::other)?;
        tar.file("index.json", &json(&index)?, 0)?;
        tar.file("manifest.json", &json(&docker_manifest(saved))?, 0)?;
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0)?;
        let repositories = repositories(saved);
        if !repositories.is_empty() {
            tar.file("repositories", &json(&json!(repositories))?, 0)?;
        }
        tar.finish()?;
        Ok(())
    }

    fn write_blob(
        &self,
        tar: &mut TarWriter<impl io::Write>,
        digest: &Digest,
        time: i64,
    ) -> io::Result<()> {
        let mut file = self.content.open_blob(digest).map_err(io::Error::other)?;
        let path = blob_path(digest);
        let mut entry = Entry::new(path.into_bytes(), EntryKind::File);
        entry.size = file.metadata()?.len();
        (entry.mode, entry.mtime) = (0o644, (time.max(0), 0));
        tar.append(&entry, &mut file)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// `index.json`: each name of each image.
fn index(saved: &[Saved]) -> Index {
    let mut manifests = Vec::new();
    for image in saved {
        let mut plain = image.descriptor.clone();
        plain.platform = Some(image.record.config.platform());
        for tag in &image.tags {
            let mut named = plain.clone();
            named.annotations = Some(BTreeMap::from([
                ("io.containerd.image.name".to_owned(), tag.to_string()),
                (
                    "org.opencontainers.image.ref.name".to_owned(),
                    tag.tag().unwrap_or_default().to_owned(),
                ),
            ]));
            manifests.push(named);
        }
        if image.tags.is_empty() {
            manifests.push(plain);
        }
    }
    Index {
        schema_version: 2,
        media_type: Some(media::OCI_INDEX.to_owned()),
        manifests,
        annotations: None,
    }
}

/// `manifest.json`, Docker's own.
fn docker_manifest(saved: &[Saved]) -> serde_json::Value {
    saved
        .iter()
        .map(|image| {
            let tags: Vec<String> = image.tags.iter().map(Reference::familiar).collect();
            let layers: Vec<String> =
                image.manifest.layers.iter().map(|l| blob_path(&l.digest)).collect();
            json!({
                "Config": blob_path(&image.manifest.config.digest),
                "RepoTags": if tags.is_empty() { serde_json::Value::Null } else { json!(tags) },
                "Layers": layers,
            })
        })
        .collect()
}

/// `repositories`, for the oldest readers: the topmost layer of each tag.
fn repositories(saved: &[Saved]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in saved {
        let Some(top) = image.record.config.rootfs.diff_ids.last() else { continue };
        for tag in &image.tags {
            let tags = all.entry(tag.familiar_name()).or_default();
            tags.insert(tag.tag().unwrap_or_default().to_owned(), top.hex().to_owned());
        }
    }
    all
}
