//! A volume's record on the disk, and reading all of them at start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sampan_sys::{file, mount};
use sampan_types::{Timestamp, VolumeName};
use serde::{Deserialize, Serialize};

use super::DRIVER;
use super::options::{self, MountOptions};
use crate::{Volume, VolumeError};

/// The content's directory, as Docker names it.
pub(super) const DATA: &str = "_data";
/// Prefix of what is being made.
pub(super) const NEW: &str = ".new.";
/// Prefix of what is being removed.
pub(super) const GONE: &str = ".gone.";

const FILE: &str = "volume.json";
const VERSION: u32 = 1;

/// `volume.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The layout's version.
    version: u32,
    created: Timestamp,
    #[serde(default)]
    options: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What was found below the root.
pub(super) struct Found {
    pub(super) root: PathBuf,
    pub(super) volumes: Vec<(Volume, Option<MountOptions>)>,
}

/// Writes the record of `volume` into `dir`.
pub(super) fn write(dir: &Path, volume: &Volume) -> Result<(), VolumeError> {
    let record = Record {
        version: VERSION,
        created: volume.created,
        options: volume.options.clone(),
        labels: volume.labels.clone(),
    };
    let path = dir.join(FILE);
    let text = serde_json::to_vec(&record).map_err(|source| VolumeError::Record {
        name: volume.name.to_string(),
        path: path.clone(),
        source,
    })?;
    // 0600: options can hold passwords.
    file::write_atomic(&path, &text, 0o600).map_err(VolumeError::io("write", path))
}

/// Reads all volumes below `root`, and finishes what a crash interrupted.
pub(super) fn read_all(root: &Path) -> Result<Found, VolumeError> {
    make_root(root).map_err(VolumeError::io("create", root))?;
    let root = root.canonicalize().map_err(VolumeError::io("resolve", root))?;
    let mut volumes = Vec::new();
    for entry in fs::read_dir(&root).map_err(VolumeError::io("read", &root))? {
        let entry = entry.map_err(VolumeError::io("read", &root))?;
        let file_name = entry.file_name();
        let Some(text) = file_name.to_str() else { continue };
        if text.starts_with(NEW) || text.starts_with(GONE) {
            clear_away(&entry.path());
        } else if let Ok(name) = text.parse::<VolumeName>() {
            match read(&root, name) {
                Ok(found) => volumes.push(found),
                Err(error) => tracing::error!(%error, "a volume is left alone"),
            }
        }
    }
    Ok(Found { root, volumes })
}

fn make_root(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o701).create(root)
}

fn clear_away(path: &Path) {
    let cleared = unmount_below(path).and_then(|()| file::remove_tree(path));
    if let Err(error) = cleared {
        tracing::warn!(path = %path.display(), %error, "the rest of a volume stays");
    }
}

fn read(root: &Path, name: VolumeName) -> Result<(Volume, Option<MountOptions>), VolumeError> {
    let dir = root.join(name.as_str());
    let path = dir.join(FILE);
    let record = match fs::read(&path) {
        Ok(text) => serde_json::from_slice::<Record>(&text).map_err(|source| {
            VolumeError::Record { name: name.to_string(), path: path.clone(), source }
        })?,
        // A directory that somebody put there: content without options.
        Err(e) if e.kind() == io::ErrorKind::NotFound && dir.join(DATA).is_dir() => {
            let made = fs::metadata(&dir).and_then(|m| m.modified());
            let created = made.map_or(Timestamp::NEVER, Timestamp::from);
            let (options, labels) = Default::default();
            Record { version: VERSION, created, options, labels }
        }
        Err(e) => return Err(VolumeError::io("read", path)(e)),
    };
    if record.version > VERSION {
        let source = io::Error::other("it was written by a later version");
        return Err(VolumeError::io("read", path)(source));
    }
    let mount = options::check(&name, &record.options)?;
    let volume = Volume {
        mountpoint: dir.join(DATA),
        driver: DRIVER.to_owned(),
        created: record.created,
        options: record.options,
        labels: record.labels,
        name,
    };
    Ok((volume, mount))
}

/// Takes away whatever is mounted at or below `path`, the latest first.
pub(super) fn unmount_below(path: &Path) -> io::Result<()> {
    let mounts = mount::list()?;
    for entry in mounts.iter().rev().filter(|m| m.target.starts_with(path)) {
        mount::unmount(&entry.target)?;
    }
    if mount::list()?.iter().any(|m| m.target.starts_with(path)) {
        return Err(io::Error::other("something is mounted there and can't be unmounted"));
    }
    Ok(())
}
