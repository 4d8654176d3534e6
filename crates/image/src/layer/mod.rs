//! Layers: each unpacked once for overlayfs, addressed by the digest of its
//! uncompressed archive (the diff id).
//!
//! Be aware:
//! - Images with the same layer share it wherever it is in their stack: what a
//!   layer's directory holds doesn't depend on the layers below.
//! - A layer has its final name only when it is whole and verified; what has
//!   another name is removed at the next start.

mod intake;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::archive::ArchiveError;
use crate::content::{verify, writing};
use crate::digest::Hashing;
use crate::remove::remove_deep;
use crate::tarball::{Policy, TarReader, Unpacked, decompress, unpack};
use crate::{Content, Descriptor, Digest, ImageError, Lease, Limits};

/// Names that don't belong to layers: `.tmp-…`, `.trash-…`.
const HIDDEN: char = '.';

/// What is known of an unpacked layer: `layer.json` beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerInfo {
    /// The version of this record.
    pub version: u32,
    /// Bytes of regular files.
    pub size: u64,
    /// Nothing below this layer is visible.
    pub opaque: bool,
    /// The layer decides about the attributes of the root directory.
    pub has_root: bool,
    /// The archive that it was unpacked from.
    pub blob: Descriptor,
}

/// The layers.
#[derive(Debug)]
pub(crate) struct LayerStore {
    root: PathBuf,
    links: PathBuf,
    content: Content,
    limits: Limits,
    /// What was read of `layer.json` files.
    known: Mutex<HashMap<Digest, Arc<LayerInfo>>>,
}

/// Removes an unfinished directory unless it was given its name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = remove_deep(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "an unfinished layer stays for now");
        }
    }
}

impl LayerStore {
    /// Opens the layers below `<data-root>/image`; removes unfinished ones.
    pub(crate) fn open(image: &Path, content: Content, limits: Limits) -> Result<Self, ImageError> {
        let (root, links) = (image.join("layers"), image.join("l"));
        for dir in [&root, &links] {
            fs::create_dir_all(dir).map_err(ImageError::io("make", dir))?;
        }
        for entry in fs::read_dir(&root).map_err(ImageError::io("list", &root))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(HIDDEN) {
                remove_deep(&entry.path()).map_err(ImageError::io("remove", &entry.path()))?;
            }
        }
        Ok(Self { root, links, content, limits, known: Mutex::default() })
    }

    fn home(&self, diff_id: &Digest) -> PathBuf {
        self.root.join(diff_id.hex())
    }

    /// The layer's directory.
    pub(crate) fn path(&self, diff_id: &Digest) -> PathBuf {
        self.home(diff_id).join("diff")
    }

    /// The same by a short path relative to `<data-root>/image`.
    pub(crate) fn short(&self, diff_id: &Digest) -> PathBuf {
        Path::new("l").join(link_name(diff_id))
    }

    /// What is known of the layer, if it is here.
    pub(crate) fn info(&self, diff_id: &Digest) -> Option<Arc<LayerInfo>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(info) = known.get(diff_id) {
            return Some(Arc::clone(info));
        }
        let text = fs::read(self.home(diff_id).join("layer.json")).ok()?;
        let info: Arc<LayerInfo> = Arc::new(serde_json::from_slice(&text).ok()?);
        known.insert(diff_id.clone(), Arc::clone(&info));
        Some(info)
    }

    /// The diff ids of all layers.
    pub(crate) fn list(&self) -> Result<Vec<Digest>, ImageError> {
        let list = fs::read_dir(&self.root).map_err(ImageError::io("list", &self.root))?;
        Ok(list
            .flatten()
            .filter_map(|e| format!("sha256:{}", e.file_name().to_str()?).parse().ok())
            .collect())
    }

    /// Takes a layer out of reach; the directory given has to be removed.
    pub(crate) fn take_away(&self, diff_id: &Digest) -> Result<PathBuf, ImageError> {
        // Held throughout, so that nobody reads the record in between.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(diff_id);
        let link = self.links.join(link_name(diff_id));
        sampan_sys::file::remove_file(&link).map_err(ImageError::io("remove", &link))?;
        let (home, trash) = (self.home(diff_id), self.hidden("trash"));
        fs::rename(&home, &trash).map_err(ImageError::io("remove", &home))?;
        Ok(trash)
    }

    fn hidden(&self, what: &str) -> PathBuf {
        self.root.join(format!("{HIDDEN}{what}-{}", crate::unique()))
    }

    /// Unpacks the archive `input`, compressed or not, as the layer `diff_id`,
    /// which is pinned. `blob` is where it comes from.
    pub(crate) fn unpack<R: Read + Send + 'static>(
        &self,
        input: R,
        blob: Descriptor,
        diff_id: &Digest,
    ) -> Result<(), ImageError> {
        if self.info(diff_id).is_some() {
            return Ok(());
        }
        let (plain, _) = decompress(input, self.limits)?;
        let unfinished = self.begin()?;
        let (unpacked, actual) = self.fill(&unfinished, plain)?;
        verify("the uncompressed layer", diff_id, &actual)?;
        self.finish(unfinished, diff_id, unpacked, blob)
    }

    fn begin(&self) -> Result<Unfinished, ImageError> {
        let unfinished = Unfinished(self.hidden("tmp"));
        let diff = unfinished.0.join("diff");
        fs::create_dir_all(&diff).map_err(writing(&diff))?;
        Ok(unfinished)
    }

    /// Unpacks into an unfinished layer; gives the digest of all of `plain`.
    fn fill(
        &self,
        unfinished: &Unfinished,
        plain: Box<dyn Read + Send>,
    ) -> Result<(Unpacked, Digest), ImageError> {
        let diff = unfinished.0.join("diff");
        let root = sampan_sys::inroot::open_root(&diff).map_err(ImageError::io("open", &diff))?;
        let mut plain = Hashing::new(io::BufReader::with_capacity(128 << 10, plain));
        let mut reader = TarReader::new(&mut plain, self.limits);
        let policy = Policy {
            layer: true,
            root: true,
            owner: None,
            no_overwrite_dir_non_dir: false,
            stand_in: None,
        };
        let unpacked = unpack(&mut reader, &root, Path::new(""), policy, self.limits)?;
        // What follows the archive's end belongs to the digest.
        io::copy(&mut plain, &mut io::sink())
            .map_err(|e| ArchiveError::from_io("read", "the archive", e))?;
        Ok((unpacked, plain.finish().1))
    }

    /// Gives an unfinished layer its name.
    fn finish(
        &self,
        unfinished: Unfinished,
        diff_id: &Digest,
        unpacked: Unpacked,
        blob: Descriptor,
    ) -> Result<(), ImageError> {
        let info = LayerInfo {
            version: 1,
            size: unpacked.size,
            opaque: unpacked.opaque_root,
            has_root: unpacked.has_root,
            blob,
        };
        self.write_info(&unfinished.0, &info)?;
        let link = self.links.join(link_name(diff_id));
        let target = Path::new("../layers").join(diff_id.hex()).join("diff");
        if !fs::read_link(&link).is_ok_and(|t| t == target) {
            sampan_sys::file::remove_file(&link).map_err(ImageError::io("replace", &link))?;
            match std::os::unix::fs::symlink(&target, &link) {
                // Another thread has just unpacked the same layer.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(writing(&link))?,
            }
        }
        let home = self.home(diff_id);
        match fs::rename(&unfinished.0, &home) {
            Ok(()) => {}
            Err(_) if self.info(diff_id).is_some() => return Ok(()),
            // Left by an earlier start without its record.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                remove_deep(&home)
                    .and_then(|()| fs::rename(&unfinished.0, &home))
                    .map_err(writing(&home))?;
            }
            Err(e) => return Err(writing(&home)(e)),
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(diff_id.clone(), Arc::new(info));
        Ok(())
    }

    fn write_info(&self, home: &Path, info: &LayerInfo) -> Result<(), ImageError> {
        let path = home.join("layer.json");
        let text = serde_json::to_vec(info)
            .map_err(|e| ImageError::Broken(format!("layer record: {e}")))?;
        sampan_sys::file::write_replace(&path, &text, 0o600).map_err(writing(&path))
    }

    /// The layer's archive; pinned by `lease` when it is still here.
    pub(crate) fn blob(&self, lease: &Lease, diff_id: &Digest) -> Option<Descriptor> {
        let info = self.info(diff_id)?;
        lease.pin(&info.blob.digest);
        self.content.contains(&info.blob.digest).then(|| info.blob.clone())
    }
}

/// Short enough that the options of a deep mount fit a page.
fn link_name(diff_id: &Digest) -> &str {
    diff_id.short()
}
