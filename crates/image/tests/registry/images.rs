//! Small images to pull, and the stores to pull them into.

use std::io::Write as _;
use std::path::Path;

use sampan_image::registry::{
    PullRequest, Pulled, PushRequest, Registry, RegistryConfig, RegistryError,
};
use sampan_image::{Digest, Images, Progress, ProgressSink, media};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::fake::Fake;

/// A layer: its archive compressed, and the digest of it uncompressed.
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: Digest,
}

/// A layer with one file of these bytes.
pub fn layer(name: &str, content: &[u8]) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    Layer { blob: gzip.finish().unwrap(), diff_id: Digest::of(&tar) }
}

/// Bytes that don't compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(length)
    .collect()
}

/// The manifest of an image whose blobs are put into the registry.
pub fn manifest(fake: &Fake, layers: &[Layer], architecture: &str) -> Value {
    let diff_ids: Vec<&Digest> = layers.iter().map(|l| &l.diff_id).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": diff_ids.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
    })
    .to_string();
    let described: Vec<Value> = layers
        .iter()
        .map(|l| {
            let digest = fake.add_blob(l.blob.clone());
            json!({ "mediaType": media::DOCKER_LAYER_GZIP, "digest": digest, "size": l.blob.len() })
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": media::DOCKER_MANIFEST,
        "config": {
            "mediaType": media::DOCKER_CONFIG, "size": config.len(), "digest": fake.add_blob(config),
        },
        "layers": described,
    })
}

/// Puts an image into the registry; its manifest's digest.
pub fn publish(fake: &Fake, repository: &str, tag: &str, layers: &[Layer]) -> Digest {
    let manifest = manifest(fake, layers, host_architecture());
    fake.add_manifest(repository, tag, media::DOCKER_MANIFEST, manifest.to_string().into_bytes())
}

pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image store of its own with a client.
pub struct Host {
    pub dir: TempDir,
    pub images: Images,
    pub registry: Registry,
}

impl Host {
    pub async fn new(config: RegistryConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).await.unwrap();
        let registry = Registry::new(images.clone(), config);
        Self { dir, images, registry }
    }

    pub async fn plain() -> Self {
        Self::new(RegistryConfig::default()).await
    }

    /// Pulls, and gives all messages.
    pub async fn pull(
        &self,
        request: PullRequest,
    ) -> (Result<Pulled, RegistryError>, Vec<Progress>) {
        let (sink, messages) = collect();
        let result = self.registry.pull(&request, &sink).await;
        drop(sink);
        (result, messages.await.unwrap())
    }

    pub async fn push(&self, request: PushRequest) -> (Result<(), RegistryError>, Vec<Progress>) {
        let (sink, messages) = collect();
        let result = self.registry.push(&request, &sink).await;
        drop(sink);
        (result, messages.await.unwrap())
    }

    pub async fn tag(&self, source: &str, name: &str) {
        self.images.tag(source, &name.parse().unwrap()).await.unwrap();
    }

    /// The content of a file in an unpacked layer.
    pub fn file(&self, layer: &Layer, name: &str) -> Vec<u8> {
        let diff = self.dir.path().join("image/layers").join(layer.diff_id.hex()).join("diff");
        std::fs::read(diff.join(Path::new(name))).unwrap()
    }
}

pub fn collect() -> (ProgressSink, tokio::task::JoinHandle<Vec<Progress>>) {
    let (sender, mut receiver) = mpsc::channel(16);
    let messages = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(message) = receiver.recv().await {
            all.push(message);
        }
        all
    });
    (ProgressSink::new(sender), messages)
}

pub fn request(reference: &str) -> PullRequest {
    PullRequest {
        reference: reference.parse().unwrap(),
        all_tags: false,
        platform: None,
        auth: None,
    }
}

/// The status texts about `id`, or about nothing.
pub fn statuses(messages: &[Progress], id: Option<&str>) -> Vec<String> {
    let mut found: Vec<String> = messages
        .iter()
        .filter(|m| m.id.as_deref() == id)
        .filter_map(|m| m.status.clone())
        .collect();
    found.dedup();
    found
}

/// Skips a test, visibly, when it can't run here.
#[macro_export]
macro_rules! need_root {
    () => {
        if !std::fs::metadata("/proc/self")
            .is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
        {
            eprintln!("skipped: layers keep their owners, which needs root");
            return;
        }
    };
}
