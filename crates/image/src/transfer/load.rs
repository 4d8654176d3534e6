//! Loading archives: Docker's (`manifest.json`) and OCI layouts (`index.json`).

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_types::ImageId;
use serde::Deserialize;
use tokio::io::AsyncRead;

use super::LoadOptions;
use super::spool::{Member, Spool};
use crate::images::{Inner, Watched};
use crate::stream::consume;
use crate::tarball::Compression;
use crate::{
    ConfigFile, Descriptor, Digest, ImageError, Images, Index, Lease, Manifest, Platform, Progress,
    ProgressSink, Reference, Registration, media,
};

/// One element of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// An image of the archive, as either form describes it.
struct Wanted {
    config: ConfigFile,
    config_blob: Vec<u8>,
    /// The members that hold the layers.
    layers: Vec<String>,
    tags: Vec<Reference>,
    /// The manifest as it is in the archive, if there is one.
    manifest: Option<(Vec<u8>, Manifest)>,
}

/// The annotations that carry names in an OCI layout.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Indexes in indexes, this deep.
const NESTED: usize = 4;

impl Images {
    /// Loads images from an archive: Docker's (`manifest.json`) or an OCI
    /// layout (`index.json`), compressed or not. Gives the images with the
    /// names they got. All of it is loaded, or nothing.
    ///
    /// # Errors
    /// A broken or hostile archive; a full disk. Nothing is left then.
    pub async fn load<R>(
        &self,
        archive: R,
        options: LoadOptions,
        progress: ProgressSink,
    ) -> Result<Vec<(ImageId, Vec<Reference>)>, ImageError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        consume(archive, move |input| {
            let lease = Lease::new(Arc::clone(&inner.pins));
            let loaded = inner.load(&lease, input, &options, &progress);
            drop(lease);
            if loaded.is_err() {
                // Layers that had arrived before the fault was found.
                inner.collect()?;
            }
            let loaded = loaded?;
            for (id, tags) in &loaded {
                if tags.is_empty() {
                    progress.send_blocking(Progress::stream(format!("Loaded image ID: {id}\n")));
                }
                for tag in tags {
                    let text = format!("Loaded image: {}\n", tag.familiar());
                    progress.send_blocking(Progress::stream(text));
                }
            }
            Ok(loaded)
        })
        .await
    }
}

impl Inner {
    fn load(
        &self,
        lease: &Lease,
        input: Box<dyn Read + Send>,
        options: &LoadOptions,
        progress: &ProgressSink,
    ) -> Result<Vec<(ImageId, Vec<Reference>)>, ImageError> {
        let spool = Spool::read(input, &self.content, self.limits)?;
        let wanted = if spool.has("manifest.json") {
            docker_images(&spool)?
        } else if spool.has("index.json") {
            let platform = options.platform.clone().unwrap_or_else(Platform::host);
            layout_images(&spool, &platform)?
        } else {
            return Err(ImageError::Broken(
                "unrecognized image format: the archive has neither manifest.json nor index.json \
                 (a root file system is imported, not loaded)"
                    .into(),
            ));
        };
        let wanted: Vec<Wanted> = wanted
            .into_iter()
            .filter(|w| options.platform.as_ref().is_none_or(|p| fits(&w.config.platform(), p)))
            .collect();
        if wanted.is_empty() {
            return Err(ImageError::Broken("no image for this platform is in the archive".into()));
        }
        let sink = if options.quiet { ProgressSink::none() } else { progress.clone() };
        let blobs = self.load_layers(lease, spool, &wanted, &sink)?;
        let mut registrations = Vec::with_capacity(wanted.len());
        let mut names = Vec::with_capacity(wanted.len());
        for image in wanted {
            let manifest = self.store_manifest(lease, &image, &blobs)?;
            names.push(image.tags.clone());
            registrations.push(Registration {
                manifest,
                tags: image.tags,
                digests: Vec::new(),
                parent: None,
            });
        }
        let ids = self.register(lease, registrations)?;
        Ok(ids.into_iter().zip(names).collect())
    }

    /// Unpacks the layers that are not here, several at a time. Gives the blob
    /// of each diff id.
    fn load_layers(
        &self,
        lease: &Lease,
        mut spool: Spool,
        wanted: &[Wanted],
        progress: &ProgressSink,
    ) -> Result<HashMap<Digest, Descriptor>, ImageError> {
        let (mut blobs, mut work, mut seen) = (HashMap::new(), Vec::new(), HashSet::new());
        let mut keep: HashMap<String, usize> = HashMap::new();
        for image in wanted {
            for (name, diff_id) in image.layers.iter().zip(&image.config.rootfs.diff_ids) {
                if !seen.insert(diff_id.clone()) {
                    continue;
                }
                lease.pin(diff_id);
                match self.layers.blob(lease, diff_id) {
                    Some(blob) => _ = blobs.insert(diff_id.clone(), blob),
                    None => {
                        *keep.entry(name.clone()).or_default() += 1;
                        work.push((diff_id.clone(), name.clone()));
                    }
                }
            }
        }
        let mut jobs = Vec::with_capacity(work.len());
        for (diff_id, name) in work {
            let member = spool.take(&name);
            let member = member.ok_or_else(|| {
                ImageError::Broken(format!(
                    "layer {name} is missing, or stands for two different layers"
                ))
            })?;
            jobs.push((diff_id, member));
        }
        let (jobs, done) = (Mutex::new(jobs.into_iter()), Mutex::new(Vec::new()));
        let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(4);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some((diff_id, member)) = next() {
                        let result = self.load_layer(lease, &diff_id, member, progress);
                        let failed = result.is_err();
                        done.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(result.map(|blob| (diff_id, blob)));
                        if failed {
                            break;
                        }
                    }
                });
            }
        });
        for result in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let (diff_id, blob) = result?;
            blobs.insert(diff_id, blob);
        }
        Ok(blobs)
    }

    fn load_layer(
        &self,
        lease: &Lease,
        diff_id: &Digest,
        member: Member,
        progress: &ProgressSink,
    ) -> Result<Descriptor, ImageError> {
        let mut start = Vec::new();
        member.open()?.take(6).read_to_end(&mut start).map_err(ImageError::Input)?;
        let compression = Compression::detect(&start)?;
        let input = Watched {
            input: member.open()?,
            told: 0,
            read: 0,
            total: member.size,
            label: diff_id.short().to_owned(),
            status: "Loading layer",
            sink: progress.clone(),
        };
        let media_type = match compression {
            Compression::None => return Ok(self.layers.intake(lease, input, Some(diff_id))?.1),
            Compression::Gzip => media::OCI_LAYER_GZIP,
            Compression::Zstd => media::OCI_LAYER_ZSTD,
        };
        // The file is the blob already.
        let blob = Descriptor::new(media_type, member.digest.clone(), member.size);
        lease.pin(&blob.digest);
        self.layers.unpack(input, blob.clone(), diff_id)?;
        if let Some(scratch) = member.scratch {
            self.content.adopt(scratch, &blob.digest)?;
        }
        Ok(blob)
    }

    /// Stores configuration and manifest; gives the manifest's digest.
    fn store_manifest(
        &self,
        lease: &Lease,
        image: &Wanted,
        blobs: &HashMap<Digest, Descriptor>,
    ) -> Result<Digest, ImageError> {
        let config = Digest::of(&image.config_blob);
        lease.pin(&config);
        self.content.store_small(&config, &image.config_blob)?;
        let layers: Vec<Descriptor> = image
            .config
            .rootfs
            .diff_ids
            .iter()
            .map(|d| blobs.get(d).cloned().ok_or_else(|| ImageError::NoBlob(d.clone())))
            .collect::<Result<_, _>>()?;
        let same = image.manifest.as_ref().filter(|(_, manifest)| {
            let theirs = manifest.layers.iter().map(|l| &l.digest);
            theirs.eq(layers.iter().map(|l| &l.digest))
        });
        let text = match same {
            Some((text, _)) => text.clone(),
            None => {
                let size = image.config_blob.len() as u64;
                manifest_text(Descriptor::new(media::OCI_CONFIG, config, size), layers)?
            }
        };
        let digest = Digest::of(&text);
        lease.pin(&digest);
        self.content.store_small(&digest, &text)?;
        Ok(digest)
    }
}

/// A manifest made here.
pub(super) fn manifest_text(
    config: Descriptor,
    mut layers: Vec<Descriptor>,
) -> Result<Vec<u8>, ImageError> {
    // Layers that came with one of Docker's manifests; the content is the same.
    for layer in layers.iter_mut().filter(|l| l.media_type == media::DOCKER_LAYER_GZIP) {
        media::OCI_LAYER_GZIP.clone_into(&mut layer.media_type);
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media::OCI_MANIFEST.to_owned()),
        config,
        layers,
        annotations: None,
    };
    serde_json::to_vec(&manifest).map_err(|e| ImageError::Broken(format!("image manifest: {e}")))
}

fn json<'a, T: Deserialize<'a>>(name: &str, text: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(text).map_err(|e| ImageError::Broken(format!("{name}: {e}")))
}

fn member(spool: &Spool, name: &str) -> Result<Vec<u8>, ImageError> {
    spool.small(name)?.ok_or_else(|| ImageError::Broken(format!("{name} is missing")))
}

/// The images that `manifest.json` lists.
fn docker_images(spool: &Spool) -> Result<Vec<Wanted>, ImageError> {
    let list = member(spool, "manifest.json")?;
    let list: Vec<DockerImage> = json("manifest.json", &list)?;
    // Modern archives are OCI layouts too, and have the manifests.
    let mut manifests = HashMap::new();
    if spool.has("index.json") {
        for (_, text, manifest) in layout_manifests(spool, None).unwrap_or_default() {
            manifests.insert(manifest.config.digest.clone(), (text, manifest));
        }
    }
    list.into_iter()
        .map(|image| {
            let config_blob = member(spool, &image.config)?;
            let tags = image.repo_tags.unwrap_or_default();
            let tags = tags.iter().map(|t| t.parse()).collect::<Result<Vec<Reference>, _>>()?;
            let manifest = manifests.get(&Digest::of(&config_blob)).cloned();
            let layers = image.layers.unwrap_or_default();
            Wanted::new(config_blob, layers, tags, manifest)
        })
        .collect()
}

/// The images of an OCI layout for `platform`.
fn layout_images(spool: &Spool, platform: &Platform) -> Result<Vec<Wanted>, ImageError> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for (descriptor, text, manifest) in layout_manifests(spool, Some(platform))? {
        let tag = name_of(&descriptor)?;
        let digest = &manifest.config.digest;
        if let Some(known) = wanted.iter_mut().find(|w| Digest::of(&w.config_blob) == *digest) {
            known.tags.extend(tag);
            continue;
        }
        let config_blob = verified(spool, digest)?;
        let layers = manifest.layers.iter().map(|l| blob_name(&l.digest)).collect();
        let tags = tag.into_iter().collect();
        wanted.push(Wanted::new(config_blob, layers, tags, Some((text, manifest)))?);
    }
    Ok(wanted)
}

/// The manifests that `index.json` leads to, with the descriptor that has the
/// name.
fn layout_manifests(
    spool: &Spool,
    platform: Option<&Platform>,
) -> Result<Vec<(Descriptor, Vec<u8>, Manifest)>, ImageError> {
    let index = member(spool, "index.json")?;
    let index: Index = json("index.json", &index)?;
    let mut found = Vec::new();
    for descriptor in index.manifests {
        manifests_below(spool, &descriptor, &descriptor, platform, NESTED, &mut found)?;
    }
    Ok(found)
}

fn manifests_below(
    spool: &Spool,
    named: &Descriptor,
    descriptor: &Descriptor,
    platform: Option<&Platform>,
    depth: usize,
    found: &mut Vec<(Descriptor, Vec<u8>, Manifest)>,
) -> Result<(), ImageError> {
    let unsuited = |p: &Platform| platform.is_some_and(|wanted| !fits(p, wanted));
    if descriptor.platform.as_ref().is_some_and(unsuited) {
        return Ok(());
    }
    if !spool.has(&blob_name(&descriptor.digest)) && descriptor.platform.is_some() {
        // An archive of one platform still lists the others.
        return Ok(());
    }
    let text = verified(spool, &descriptor.digest)?;
    if !matches!(descriptor.media_type.as_str(), media::OCI_INDEX | media::DOCKER_INDEX) {
        let manifest: Manifest = json("image manifest", &text)?;
        let known = [media::OCI_CONFIG, media::DOCKER_CONFIG, ""];
        // Signatures and other artefacts are no images.
        if known.contains(&manifest.config.media_type.as_str()) {
            found.push((named.clone(), text, manifest));
        }
        return Ok(());
    }
    if depth == 0 {
        return Err(ImageError::Broken("an index is nested too deeply".into()));
    }
    let index: Index = json("image index", &text)?;
    for inside in &index.manifests {
        let attestation = inside
            .annotations
            .as_ref()
            .is_some_and(|a| a.contains_key("vnd.docker.reference.type"));
        if !attestation {
            manifests_below(spool, named, inside, platform, depth - 1, found)?;
        }
    }
    Ok(())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A small blob of a layout, which has the digest that its name says.
fn verified(spool: &Spool, digest: &Digest) -> Result<Vec<u8>, ImageError> {
    let name = blob_name(digest);
    let bytes = member(spool, &name)?;
    crate::content::verify(&name, digest, &Digest::of(&bytes))?;
    Ok(bytes)
}

/// The name that a descriptor of `index.json` carries.
fn name_of(descriptor: &Descriptor) -> Result<Option<Reference>, ImageError> {
    let Some(notes) = &descriptor.annotations else { return Ok(None) };
    let full = notes.get(FULL_NAME);
    // Without the full name, the short one counts only if it is one.
    let short = notes.get(REF_NAME).filter(|n| n.contains([':', '/']));
    match full.or(short) {
        Some(name) => {
            let reference = name.parse::<Reference>()?.or_latest();
            Ok(Some(reference).filter(|r| r.tag().is_some()))
        }
        None => Ok(None),
    }
}

/// Whether an image for `offered` runs where `wanted` is asked for.
fn fits(offered: &Platform, wanted: &Platform) -> bool {
    (offered.os.is_empty() || offered.os == wanted.os)
        && (offered.architecture.is_empty() || offered.architecture == wanted.architecture)
        && (wanted.variant.is_none()
            || offered.variant.is_none()
            || offered.variant == wanted.variant)
}

impl Wanted {
    fn new(
        config_blob: Vec<u8>,
        layers: Vec<String>,
        tags: Vec<Reference>,
        manifest: Option<(Vec<u8>, Manifest)>,
    ) -> Result<Self, ImageError> {
        let config = ConfigFile::parse(&config_blob)?;
        if layers.len() != config.rootfs.diff_ids.len() {
            return Err(ImageError::Broken(format!(
                "the archive has {} layers of an image, its configuration {}",
                layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        Ok(Self { config, config_blob, layers, tags, manifest })
    }
}
