//! What is written down of plugins' volumes: one file each, by the volume's
//! name, before the plugin is asked for anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sampan_sys::file;
use sampan_types::{Timestamp, VolumeName};
use serde::{Deserialize, Serialize};

use crate::VolumeError;

const VERSION: u32 = 1;
const ENDING: &str = ".json";

/// A plugin's volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The layout.
    pub version: u32,
    /// The plugin.
    pub driver: String,
    pub created: Timestamp,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether the plugin said that it made it.
    pub made: bool,
    /// For whom the plugin was asked to mount it, and not yet to unmount it.
    #[serde(default)]
    pub users: BTreeSet<String>,
    /// Where the plugin mounted it last.
    #[serde(default)]
    pub mountpoint: PathBuf,
}

impl Record {
    /// Of a volume that the plugin has not made yet.
    pub fn new(
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Self {
        Self {
            version: VERSION,
            driver: driver.to_owned(),
            created: Timestamp::now(),
            options,
            labels,
            made: false,
            users: BTreeSet::new(),
            mountpoint: PathBuf::new(),
        }
    }
}

/// Reads all records below `dir`, which is made when it is not there. A
/// damaged one is reported and left alone.
pub(super) fn read_all(dir: &Path) -> Result<BTreeMap<VolumeName, Record>, VolumeError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(VolumeError::io("create", dir))?;
    let mut records = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(VolumeError::io("read", dir))? {
        let entry = entry.map_err(VolumeError::io("read", dir))?;
        let file_name = entry.file_name();
        let name = file_name.to_str().and_then(|n| n.strip_suffix(ENDING));
        let Some(name) = name.and_then(|n| n.parse::<VolumeName>().ok()) else { continue };
        match read(&entry.path(), &name) {
            Ok(record) => drop(records.insert(name, record)),
            Err(error) => tracing::error!(%error, "a plugin's volume is left alone"),
        }
    }
    Ok(records)
}

fn read(path: &Path, name: &VolumeName) -> Result<Record, VolumeError> {
    let text = fs::read(path).map_err(VolumeError::io("read", path))?;
    let record: Record = serde_json::from_slice(&text).map_err(|source| VolumeError::Record {
        name: name.to_string(),
        path: path.to_owned(),
        source,
    })?;
    if record.version > VERSION {
        let source = io::Error::other("it was written by a later version");
        return Err(VolumeError::io("read", path)(source));
    }
    Ok(record)
}

/// Writes a record. Blocks.
pub(super) fn write(dir: &Path, name: &VolumeName, record: &Record) -> Result<(), VolumeError> {
    let path = path(dir, name);
    let text = serde_json::to_vec(record).map_err(|source| VolumeError::Record {
        name: name.to_string(),
        path: path.clone(),
        source,
    })?;
    // 0600: options can hold passwords.
    file::write_atomic(&path, &text, 0o600).map_err(VolumeError::io("write", path))
}

/// Removes a record; its absence is success. Blocks.
pub(super) fn remove(dir: &Path, name: &VolumeName) -> Result<(), VolumeError> {
    let path = path(dir, name);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(VolumeError::io("remove", path)(e)),
        _ => file::sync_dir(dir).map_err(VolumeError::io("synchronise", dir)),
    }
}

fn path(dir: &Path, name: &VolumeName) -> PathBuf {
    dir.join(format!("{name}{ENDING}"))
}
