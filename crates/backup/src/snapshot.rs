//! What a repository says of a backup that it holds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rustic_core::repofile::SnapshotFile;
use serde::{Deserialize, Serialize};

/// What is kept with a backup, for those who restore it elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct About {
    /// The volume.
    pub volume: String,
    /// The host that made the backup.
    pub host: String,
    /// The volume's driver.
    pub driver: String,
    /// The volume's labels.
    pub labels: BTreeMap<String, String>,
    /// The volume's options.
    pub options: BTreeMap<String, String>,
}

/// A backup in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// When it was begun.
    pub time: Timestamp,
    /// Of what it is.
    pub about: About,
    /// Regular files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that it added to the repository.
    pub added: u64,
    /// Files that could not be read when it was made.
    pub unreadable: u64,
}

/// The description that is stored with the snapshot.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Description {
    #[serde(flatten)]
    pub(crate) about: About,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unreadable: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Snapshot {
    /// Also of snapshots that restic or rustic made: the label, or the path's
    /// last name, stands for the volume.
    pub(crate) fn of(file: &SnapshotFile) -> Self {
        let description = file.description.as_deref();
        let known = description.and_then(|d| serde_json::from_str::<Description>(d).ok());
        let mut description = known.unwrap_or_default();
        let about = &mut description.about;
        if about.volume.is_empty() {
            let path = file.paths.iter().next().map(String::as_str).unwrap_or_default();
            let last = path.rsplit('/').next().unwrap_or_default();
            about.volume = if file.label.is_empty() { last } else { &file.label }.to_owned();
        }
        about.host.clone_from(&file.hostname);
        let summary = file.summary.as_ref();
        Self {
            id: file.id.to_hex().as_str().to_owned(),
            time: file.time.timestamp(),
            about: description.about,
            files: summary.map_or(0, |s| s.total_files_processed),
            bytes: summary.map_or(0, |s| s.total_bytes_processed),
            added: summary.map_or(0, |s| s.data_added_packed),
            unreadable: description.unreadable,
        }
    }
}

/// Which backup is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The newest one of a volume, or of any when it is `None`.
    Latest(Option<String>),
    /// The one whose id begins so.
    Id(String),
}
