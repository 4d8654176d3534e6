//! An instance in a directory of its own, and archives made by another
//! implementation than the one that is tested.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::print_stderr)]

use std::io::Write;
use std::path::Path;

use futures_util::StreamExt as _;
use sampan_image::{
    ByteStream, Digest, ImageError, Images, ImportRequest, Limits, LoadOptions, ProgressSink,
    Reference,
};
use sampan_types::{ContainerId, ImageId};
use serde_json::json;

/// Whether tests can run that mount, own files, and make nodes.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A data root that is cleaned up, mounts included.
pub struct Instance {
    pub dir: tempfile::TempDir,
    pub images: Images,
}

impl Instance {
    pub async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open_with(dir.path(), limits).await.unwrap();
        Self { dir, images }
    }

    /// As after a restart of the daemon.
    pub async fn reopen(&mut self) {
        self.images.settle().await;
        self.images = Images::open(self.dir.path()).await.unwrap();
    }

    pub async fn import(&self, tar: Vec<u8>, name: &str) -> Result<ImageId, ImageError> {
        let request = ImportRequest {
            reference: Some(name.parse::<Reference>().unwrap()),
            message: "Imported from -".into(),
            ..ImportRequest::default()
        };
        self.images.import(std::io::Cursor::new(tar), request).await
    }

    pub async fn load(&self, tar: Vec<u8>) -> Result<Vec<(ImageId, Vec<Reference>)>, ImageError> {
        let input = std::io::Cursor::new(tar);
        self.images.load(input, LoadOptions::default(), ProgressSink::none()).await
    }

    /// A mounted container of an image.
    pub async fn container(&self, image: &ImageId) -> (ContainerId, std::path::PathBuf) {
        let id = ContainerId::random();
        self.images.prepare(&id, image).await.unwrap();
        let root = self.images.mount(&id).await.unwrap();
        (id, root)
    }

    /// How many blobs, layers, init layers and unfinished files there are.
    pub fn inventory(&self) -> [usize; 4] {
        let count = |path: &str| {
            let list = std::fs::read_dir(self.dir.path().join("image").join(path)).unwrap();
            list.count()
        };
        [count("blobs/sha256"), count("layers"), count("init"), count("ingest")]
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for mount in sampan_sys::mount::list().unwrap_or_default() {
            if mount.target.starts_with(self.dir.path()) {
                let _ = sampan_sys::mount::unmount(&mount.target);
            }
        }
    }
}

pub async fn collect(mut stream: ByteStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk.unwrap());
    }
    all
}

/// An archive in the making.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, path: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        // As it is: the crate would refuse hostile names.
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_size(size);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    }

    fn add(mut self, mut header: tar::Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn raw(self, header: tar::Header, data: &[u8]) -> Self {
        self.add(header, data)
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        let header = Self::header(tar::EntryType::Regular, path.as_bytes(), data.len() as u64);
        self.add(header, data)
    }

    pub fn owned(self, path: &str, data: &[u8], mode: u32, uid: u64) -> Self {
        let size = data.len() as u64;
        let mut header = Self::header(tar::EntryType::Regular, path.as_bytes(), size);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid);
        self.add(header, data)
    }

    pub fn dir(self, path: &str) -> Self {
        self.add(Self::header(tar::EntryType::Directory, path.as_bytes(), 0), &[])
    }

    pub fn link(self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, path.as_bytes(), 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.add(header, &[])
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Symlink, path, target)
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Link, path, target)
    }

    pub fn device(self, path: &str, kind: tar::EntryType, major: u32, minor: u32) -> Self {
        let mut header = Self::header(kind, path.as_bytes(), 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.add(header, &[])
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        let key = format!("SCHILY.xattr.{name}");
        self.0.append_pax_extensions([(key.as_str(), value)]).unwrap();
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A docker-archive of one image with these layers, as `docker save` made it.
pub fn docker_archive(tag: Option<&str>, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| plain_digest(l).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "created": "2024-01-02T03:04:05Z",
        "history": diff_ids.iter().map(|d| json!({"created_by": format!("ADD {d}")})).collect::<Vec<_>>(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let names: Vec<String> = (0..layers.len()).map(|i| format!("{i}/layer.tar")).collect();
    let manifest =
        json!([{"Config": "config.json", "RepoTags": tag.map(|t| vec![t]), "Layers": names}]);
    let mut tar = Tar::new();
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    tar.file("config.json", config.to_string().as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes())
        .done()
}

/// The digest of a layer's uncompressed form.
pub fn plain_digest(layer: &[u8]) -> Digest {
    let mut plain = Vec::new();
    match layer {
        [0x1f, 0x8b, ..] => {
            // A layer that is cut off has what came out before.
            let mut gzip = flate2::read::GzDecoder::new(layer);
            let _ = std::io::Read::read_to_end(&mut gzip, &mut plain);
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => plain = zstd::decode_all(layer).unwrap(),
        _ => plain = layer.to_vec(),
    }
    Digest::of(&plain)
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
