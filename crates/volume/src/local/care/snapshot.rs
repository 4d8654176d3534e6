//! A volume's snapshots on the disk. All of it blocks.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sampan_sys::file;
use sampan_types::{SnapshotName, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::operations::make_dir;
use super::super::record::{self, GONE, NEW};
use super::super::storage::{Fresh, Storage};
use super::super::{Entry, Inner};
use super::fill::{self, Source};
use super::is_reader_of;
use crate::fault::fault;
use crate::{Snapshot, VolumeError, Watch};

/// Where a volume's snapshots are.
const SNAPSHOTS: &str = "snapshots";
const FILE: &str = "snapshot.json";
const VERSION: u32 = 1;

/// `snapshot.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The layout's version.
    version: u32,
    created: Timestamp,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Inner {
    /// Keeps what the volume holds now.
    pub(super) fn snapshot(
        &self,
        entry: &Entry,
        name: &SnapshotName,
        labels: BTreeMap<String, String>,
        watch: &Watch,
    ) -> Result<Snapshot, VolumeError> {
        if matches!(entry.content.storage, Storage::Mount(_)) {
            return Err(VolumeError::Refused {
                operation: "snapshot",
                name: entry.volume.name.to_string(),
                reason: "its content is elsewhere (option device): make the snapshot there, or \
                         clone the volume, which copies the content to this host",
            });
        }
        let root = entry.dir().join(SNAPSHOTS);
        let target = root.join(name.as_str());
        let exists = || VolumeError::SnapshotExists {
            volume: entry.volume.name.to_string(),
            snapshot: name.to_string(),
        };
        if target.symlink_metadata().is_ok() {
            return Err(exists());
        }
        if !root.is_dir() {
            make_dir(&root, 0o700)?;
        }
        let new = self.temporary_in(&root, NEW)?;
        let source = Source::volume(entry);
        let content = Fresh::from(entry.content.of_snapshot());
        let record = Record { version: VERSION, created: Timestamp::now(), labels };
        make_dir(&new, 0o700)?;
        let made = fill::fill(&source, &content, &new, watch)
            .and_then(|()| record::write(&new, &entry.volume, &content))
            .and_then(|()| write(&new, entry, &record))
            .and_then(|()| fill::settle(&new));
        fault!("volume-snapshot:after-content");
        let named = made.and_then(|()| match fill::rename_new(&new, &target) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(exists()),
            renamed => renamed.map_err(VolumeError::io("create", &target)),
        });
        if let Err(error) = named {
            fill::discard(&content, &new);
            return Err(error);
        }
        fault!("volume-snapshot:after-rename");
        file::sync_dir(&root).map_err(VolumeError::io("synchronise", &root))?;
        Ok(shown(entry, name.clone(), record))
    }

    /// Takes the snapshot's name away first, then its content.
    pub(super) fn remove_snapshot(
        &self,
        entry: &Entry,
        name: &SnapshotName,
    ) -> Result<(), VolumeError> {
        if entry.users.all().iter().any(|user| is_reader_of(user, name)) {
            let name = format!("{}@{name}", entry.volume.name);
            return Err(VolumeError::Busy { operation: "remove", name });
        }
        let snapshot = open(entry, name)?;
        let root = entry.dir().join(SNAPSHOTS);
        let gone = self.temporary_in(&root, GONE)?;
        record::unmount_below(&snapshot.dir)
            .map_err(VolumeError::io("unmount what is in", &snapshot.dir))?;
        fs::rename(&snapshot.dir, &gone).map_err(VolumeError::io("remove", &snapshot.dir))?;
        fault!("volume-snapshot:after-gone");
        file::sync_dir(&root).map_err(VolumeError::io("synchronise", &root))?;
        snapshot.content.remove(&gone)
    }
}

fn write(dir: &Path, entry: &Entry, record: &Record) -> Result<(), VolumeError> {
    let path = dir.join(FILE);
    let text = serde_json::to_vec(record).map_err(|source| VolumeError::Record {
        name: entry.volume.name.to_string(),
        path: path.clone(),
        source,
    })?;
    file::write_atomic(&path, &text, 0o600).map_err(VolumeError::io("write", path))
}

fn read(dir: &Path, entry: &Entry) -> Result<Record, VolumeError> {
    let path = dir.join(FILE);
    let text = fs::read(&path).map_err(VolumeError::io("read", &path))?;
    let record: Record = serde_json::from_slice(&text).map_err(|source| VolumeError::Record {
        name: entry.volume.name.to_string(),
        path: path.clone(),
        source,
    })?;
    if record.version > VERSION {
        let source = io::Error::other("it was written by a later version");
        return Err(VolumeError::io("read", path)(source));
    }
    Ok(record)
}

fn shown(entry: &Entry, name: SnapshotName, record: Record) -> Snapshot {
    let volume = entry.volume.name.clone();
    Snapshot { volume, name, created: record.created, labels: record.labels }
}

/// The content of a volume's snapshot.
pub(super) fn open(entry: &Entry, name: &SnapshotName) -> Result<Source, VolumeError> {
    let dir = entry.dir().join(SNAPSHOTS).join(name.as_str());
    if !dir.is_dir() {
        return Err(VolumeError::NoSnapshot {
            volume: entry.volume.name.to_string(),
            snapshot: name.to_string(),
        });
    }
    let (volume, content) = record::read_dir(&dir, entry.volume.name.clone())?;
    Ok(Source { dir, volume, content })
}

/// A volume's snapshots, the oldest first. One whose record is damaged is
/// logged and left alone.
pub(super) fn list(entry: &Entry) -> Result<Vec<Snapshot>, VolumeError> {
    let mut all = Vec::new();
    for dir in dirs(entry.dir())? {
        let name = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        let Some(name) = name else { continue };
        match read(&dir, entry) {
            Ok(record) => all.push(shown(entry, name, record)),
            Err(error) => tracing::error!(%error, "a snapshot is left alone"),
        }
    }
    all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    Ok(all)
}

/// What is in the directory of snapshots of the volume in `volume`.
fn dirs(volume: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let root = volume.join(SNAPSHOTS);
    let entries = match fs::read_dir(&root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(VolumeError::io("read", &root))?,
    };
    entries.map(|e| e.map(|e| e.path()).map_err(VolumeError::io("read", &root))).collect()
}

/// Clears away what a crash left half made or half removed among a volume's
/// snapshots, and what it left mounted in them.
pub(in super::super) fn clear_unfinished(volume: &Path) {
    let dirs = match dirs(volume) {
        Ok(dirs) if dirs.is_empty() => return,
        Ok(dirs) => dirs,
        Err(error) => {
            tracing::warn!(%error, "what a crash left of snapshots stays");
            return;
        }
    };
    let root = volume.join(SNAPSHOTS);
    if let Err(error) = record::unmount_below(&root) {
        tracing::warn!(path = %root.display(), %error, "a snapshot stays mounted");
        return;
    }
    for dir in dirs {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(NEW) || name.starts_with(GONE) {
            record::clear_away(&dir);
        }
    }
}
