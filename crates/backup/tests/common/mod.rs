//! Repositories in directories of a test, and trees to back up.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sampan_backup::{About, Access, Location, Made, Repository, Secret, Watch};
use tokio::runtime::Runtime;

/// A repository, and what is backed up into it.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub runtime: Runtime,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self { dir, runtime }
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub fn repository_dir(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    pub fn target(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    pub fn access(&self) -> Access {
        Access {
            location: Location::Directory(self.repository_dir()),
            secret: Secret::new("correct horse"),
            keys: None,
            certificates: None,
            state: Some(self.dir.path().join("state")),
        }
    }

    pub fn repository(&self) -> Repository {
        Repository::new(self.access(), self.runtime.handle()).unwrap()
    }

    pub fn backup(&self) -> Made {
        self.repository().backup(&self.source(), &about(), &Watch::nobody()).unwrap()
    }

    /// The packs, index files and so on below `data`, `index` …
    pub fn files(&self, kind: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.repository_dir().join(kind)];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { dirs.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }
}

pub fn about() -> About {
    About {
        volume: "data".to_owned(),
        host: "alpha".to_owned(),
        driver: "local".to_owned(),
        labels: [("tier".to_owned(), "gold".to_owned())].into(),
        options: [("size".to_owned(), "10g".to_owned())].into(),
    }
}

/// Everything about a tree that a restored one must have, too.
pub fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut inodes: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        let kind = m.file_type();
        let content = if kind.is_dir() {
            let mut inside: Vec<_> =
                fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
            inside.sort_by(|a, b| b.cmp(a));
            paths.extend(inside);
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("-> {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            format!("{} bytes {:x}", m.len(), hash(&fs::read(&path).unwrap()))
        } else {
            let device = kind.is_block_device() || kind.is_char_device();
            format!("special {:o} {}", m.mode() & 0o170_000, if device { m.rdev() } else { 0 })
        };
        let mut attributes = Vec::new();
        for name in sampan_sys::xattr::list(&path).unwrap() {
            let value = sampan_sys::xattr::get(&path, &name).unwrap();
            attributes.push((name, value));
        }
        attributes.sort();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let links = if kind.is_dir() || m.nlink() < 2 {
            PathBuf::new()
        } else {
            inodes.entry((m.dev(), m.ino())).or_insert_with(|| relative.clone()).clone()
        };
        let text = format!(
            "{content} mode {:o} owner {}:{} time {}.{:09} {attributes:?} {links:?}",
            m.mode() & 0o7777,
            m.uid(),
            m.gid(),
            m.mtime(),
            m.mtime_nsec(),
        );
        seen.insert(relative, text);
    }
    seen
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Bytes that don't compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

pub fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
