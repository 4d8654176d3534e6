//! Making a backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustic_core::repofile::{SnapshotFile, StringList};
use rustic_core::{BackupOptions, RepairIndexOptions, SnapshotOptions};

use crate::BackupError;
use crate::guard::Guard;
use crate::progress::Watch;
use crate::repository::{Opened, Repository};
use crate::snapshot::{About, Description, Snapshot};
use crate::source::{Notes, Tree};

/// What backups of this program are tagged with.
const TAG: &str = "sampan";

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// As the repository has it.
    pub snapshot: Snapshot,
    /// Bytes that were sent to the repository.
    pub sent: u64,
    /// Files that are new, or differ from those in the backup before.
    pub changed: u64,
    /// What could not be read, and what was left out; not more than a hundred
    /// lines.
    pub notes: Vec<String>,
    /// Whether the packs of an interrupted backup were taken over.
    pub resumed: bool,
}

impl Repository {
    /// Backs up what is in the directory `source`. Makes the repository when
    /// there is none.
    ///
    /// Files whose change time, size and inode are those of the last backup
    /// of the same volume on the same host are not read again. The backup
    /// appears when everything in it is stored; one that was interrupted left
    /// packs, which the next one on this host uses.
    ///
    /// # Errors
    /// Those of the storage and the file system; a wrong secret;
    /// [`BackupError::Cancelled`]. A file that can't be read is no error but
    /// a note.
    pub fn backup(&self, source: &Path, about: &About, watch: &Watch) -> Result<Made, BackupError> {
        let guard = self.guard(watch);
        let opened = self.open_or_make(&guard)?;
        let resumed = self.begin(&opened, &guard)?;
        let last = self.last_of(&opened, &guard, about)?;
        watch.expect(last.as_ref().map_or(0, |s| s.bytes));
        let indexed = opened.to_indexed_ids().map_err(|e| guard.explain(&e))?;
        let shown = shown_path(&about.volume);
        let notes = Arc::new(Notes::default());
        let tree = Tree::open(source, &shown, Arc::clone(&guard), Arc::clone(&notes))?;
        let snapshot = new_snapshot(about).map_err(|e| guard.explain(&e))?;
        let options = BackupOptions::default().no_scan(true);
        let made = indexed
            .archive(&options, &tree, snapshot, std::slice::from_ref(&shown))
            .map_err(|e| guard.explain(&e))?;
        if let Some(failure) = guard.take_failure() {
            return Err(failure);
        }
        let made = self.conclude(&indexed.drop_index(), &guard, &notes, made)?;
        if let Some(note) = self.unfinished_note() {
            sampan_sys::file::remove_file(&note).map_err(BackupError::io("remove", &note))?;
        }
        let summary = made.summary.clone().unwrap_or_default();
        Ok(Made {
            snapshot: Snapshot::of(&made),
            sent: guard.written(),
            changed: summary.files_new + summary.files_changed,
            notes: notes.take(),
            resumed,
        })
    }

    /// Notes that a backup is under way. When the note of an earlier one is
    /// still there, that was interrupted: its packs are entered into the
    /// index, so that nothing of them is sent again.
    fn begin(&self, opened: &Opened, guard: &Guard) -> Result<bool, BackupError> {
        let Some(note) = self.unfinished_note() else {
            self.adopt(opened, guard)?;
            return Ok(false);
        };
        let interrupted = note.exists();
        if interrupted {
            self.adopt(opened, guard)?;
        } else {
            if let Some(dir) = note.parent() {
                fs::create_dir_all(dir).map_err(BackupError::io("make the directory", dir))?;
            }
            sampan_sys::file::write_atomic(&note, b"", 0o600)
                .map_err(BackupError::io("write", &note))?;
        }
        Ok(interrupted)
    }

    fn adopt(&self, opened: &Opened, guard: &Guard) -> Result<(), BackupError> {
        guard.set_adopting(true);
        let repaired = opened.repair_index(&RepairIndexOptions::default(), false);
        guard.set_adopting(false);
        repaired.map_err(|e| guard.explain(&e))?;
        self.store.clear_leftovers()
    }

    fn last_of(
        &self,
        opened: &Opened,
        guard: &Guard,
        about: &About,
    ) -> Result<Option<Snapshot>, BackupError> {
        let files = self.snapshot_files(opened, guard)?;
        let mut all = files.iter().map(Snapshot::of).rev();
        Ok(all.find(|s| s.about.volume == about.volume && s.about.host == about.host))
    }

    /// The snapshot is stored: compares it with what was read. The library
    /// leaves files out that it fails with; those that no note explains make
    /// the backup a failed one.
    fn conclude(
        &self,
        opened: &Opened,
        guard: &Guard,
        notes: &Notes,
        made: SnapshotFile,
    ) -> Result<SnapshotFile, BackupError> {
        let found = made.summary.as_ref().map_or(0, |s| s.total_files_processed);
        let expected = notes.complete_files();
        if found < expected {
            opened.delete_snapshots(&[made.id]).map_err(|e| guard.explain(&e))?;
            return Err(BackupError::Repository {
                location: self.store.location().to_owned(),
                reason: format!("only {found} of {expected} files were stored; try again"),
            });
        }
        if notes.count() == 0 {
            return Ok(made);
        }
        // The snapshot tells that it lacks something: a new one replaces it.
        let mut told = made.clone();
        let about = Snapshot::of(&made).about;
        let description = Description { about, unreadable: notes.count() };
        told.description = serde_json::to_string(&description).ok();
        opened.save_snapshots(vec![told.clone()]).map_err(|e| guard.explain(&e))?;
        opened.delete_snapshots(&[made.id]).map_err(|e| guard.explain(&e))?;
        let stored = self.snapshot_files(opened, guard)?;
        let same = |f: &SnapshotFile| f.time == told.time && f.tree == told.tree;
        Ok(stored.into_iter().rfind(same).unwrap_or(told))
    }
}

/// Where the directory is in the backup.
fn shown_path(volume: &str) -> PathBuf {
    let name = if volume.is_empty() || volume.contains('/') { "data" } else { volume };
    Path::new("/").join(name)
}

fn new_snapshot(about: &About) -> rustic_core::RusticResult<SnapshotFile> {
    let description = Description { about: about.clone(), unreadable: 0 };
    let mut options = SnapshotOptions::default()
        .label(about.volume.clone())
        .host(about.host.clone())
        .command("sampan volume backup".to_owned());
    options.description = serde_json::to_string(&description).ok();
    options.tags = StringList::from_str(TAG).into_iter().collect();
    options.to_snapshot()
}
