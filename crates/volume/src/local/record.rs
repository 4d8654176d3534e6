//! A volume's record on the disk, and reading all of them at start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sampan_sys::{file, mount};
use sampan_types::{Timestamp, VolumeName};
use serde::{Deserialize, Serialize};

use super::DRIVER;
use super::storage::encryption::Encryption;
use super::storage::{self, Content, Storage, Wish};
use crate::{Volume, VolumeError};

/// The content's directory, as Docker names it.
pub(super) const DATA: &str = "_data";
/// Prefix of what is being made.
pub(super) const NEW: &str = ".new.";
/// Prefix of what is being removed.
pub(super) const GONE: &str = ".gone.";

const FILE: &str = "volume.json";
const VERSION: u32 = 1;
/// How many threads read records at the start.
const READERS: usize = 4;

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
    /// What holds the content; a mount by options is in the options.
    #[serde(default)]
    storage: Storage,
    /// Bytes that it may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    /// How it is encrypted; where the key comes from is in the options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<Encryption>,
}

/// What was found below the root.
pub(super) struct Found {
    pub(super) root: PathBuf,
    pub(super) volumes: Vec<(Volume, Content)>,
}

/// Writes the record of `volume` into `dir`.
pub(super) fn write(dir: &Path, volume: &Volume, content: &Content) -> Result<(), VolumeError> {
    let record = Record {
        version: VERSION,
        created: volume.created,
        options: volume.options.clone(),
        labels: volume.labels.clone(),
        storage: match &content.storage {
            Storage::Mount(_) => Storage::default(),
            other => other.clone(),
        },
        limit: content.limit,
        encryption: content.encryption.as_ref().map(|(encryption, _)| encryption.clone()),
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
    if let Err(error) = storage::crypt::remove_unused() {
        tracing::warn!(%error, "encrypted devices that nobody uses stay");
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(&root).map_err(VolumeError::io("read", &root))? {
        paths.push(entry.map_err(VolumeError::io("read", &root))?.path());
    }
    // With thousands of volumes, most of the start is waiting for these files.
    let share = paths.len().div_ceil(READERS).max(1);
    let volumes = std::thread::scope(|scope| {
        let readers: Vec<_> =
            paths.chunks(share).map(|part| scope.spawn(|| read_some(part))).collect();
        let mut found = Vec::with_capacity(paths.len());
        for reader in readers {
            match reader.join() {
                Ok(part) => found.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        found
    });
    Ok(Found { root, volumes })
}

/// Reads those of the paths that are volumes, and clears away what was never
/// one, or is no longer.
fn read_some(paths: &[PathBuf]) -> Vec<(Volume, Content)> {
    let mut volumes = Vec::with_capacity(paths.len());
    for path in paths {
        let Some(text) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if text.starts_with(NEW) || text.starts_with(GONE) {
            clear_away(path);
        } else if let Ok(name) = text.parse::<VolumeName>() {
            super::care::clear_unfinished(path);
            match read_dir(path, name) {
                Ok(found) => volumes.push(found),
                Err(error) => tracing::error!(%error, "a volume is left alone"),
            }
        }
    }
    volumes
}

fn make_root(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o701).create(root)
}

pub(super) fn clear_away(path: &Path) {
    let cleared = unmount_below(path)
        .map_err(VolumeError::io("unmount what is in", path))
        .and_then(|()| storage::clear_away(path));
    if let Err(error) = cleared {
        tracing::warn!(path = %path.display(), %error, "the rest of a volume stays");
    }
}

/// Reads the record of the volume `name`, or of its snapshot, in `dir`.
pub(super) fn read_dir(dir: &Path, name: VolumeName) -> Result<(Volume, Content), VolumeError> {
    let path = dir.join(FILE);
    let record = match fs::read(&path) {
        Ok(text) => serde_json::from_slice::<Record>(&text).map_err(|source| {
            VolumeError::Record { name: name.to_string(), path: path.clone(), source }
        })?,
        // A directory that somebody put there: content without options.
        Err(e) if e.kind() == io::ErrorKind::NotFound && dir.join(DATA).is_dir() => {
            let made = fs::metadata(dir).and_then(|m| m.modified());
            let created = made.map_or(Timestamp::NEVER, Timestamp::from);
            let (options, labels, storage) = Default::default();
            let (limit, encryption) = (None, None);
            Record { version: VERSION, created, options, labels, storage, limit, encryption }
        }
        Err(e) => return Err(VolumeError::io("read", path)(e)),
    };
    if record.version > VERSION {
        let source = io::Error::other("it was written by a later version");
        return Err(VolumeError::io("read", path)(source));
    }
    let wish = Wish::new(&name, &record.options)?;
    let encryption = match (record.encryption, wish.key) {
        (Some(encryption), Some(source)) => Some((encryption, source)),
        (None, None) => None,
        _ => {
            let error = io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not say both how the volume is encrypted and where its key comes from",
            );
            return Err(VolumeError::io("read", path)(error));
        }
    };
    let content = Content {
        name: name.clone(),
        storage: wish.mount.map_or(record.storage, Storage::Mount),
        limit: record.limit,
        owner: wish.owner,
        encryption,
    };
    let volume = Volume {
        mountpoint: dir.join(DATA),
        driver: DRIVER.to_owned(),
        created: record.created,
        options: record.options,
        labels: record.labels,
        name,
    };
    Ok((volume, content))
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
