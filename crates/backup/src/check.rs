//! Checking a repository, and giving old backups up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use rustic_core::jiff::Zoned;
use rustic_core::repofile::{IndexFile, SnapshotId};
use rustic_core::{CheckOptions, FileType, KeepOptions, PruneOptions};

use crate::BackupError;
use crate::guard::{Guard, is_named_after};
use crate::progress::Watch;
use crate::repository::{Opened, Repository};
use crate::retention::Retention;
use crate::snapshot::Snapshot;
use crate::store::Stored;

/// After this many seconds a lock of restic that it didn't renew is a
/// forgotten one (restic's own rule).
const STALE: i64 = 30 * 60;

/// How many packs are read at once.
const READERS: usize = 4;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// What is damaged or missing: something can't be restored.
    pub errors: Vec<String>,
    /// What is superfluous or odd, and no harm.
    pub warnings: Vec<String>,
}

/// Which backups went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// The ids of those that are gone.
    pub gone: Vec<String>,
    /// How many are left of the volume.
    pub kept: usize,
}

impl Repository {
    /// Reads the whole repository and compares it with what it must be.
    ///
    /// # Errors
    /// Those of the storage; a wrong secret; [`BackupError::Cancelled`]. That
    /// something is damaged is none.
    pub fn check(&self, watch: &Watch) -> Result<Checked, BackupError> {
        let guard = self.guard(watch);
        let opened = self.open(&guard)?;
        let mut checked = Checked::default();
        for name in guard.hide_damaged_indexes()? {
            checked.errors.push(format!("index {name}: damaged"));
        }
        for name in self.damaged(FileType::Snapshot)? {
            checked.errors.push(format!("snapshot {name}: damaged"));
        }
        checked.errors.extend(self.damaged_packs(&guard)?);
        // The packs were read; what is left is how all fits together.
        let options = CheckOptions::default();
        let packs = self.indexed_packs(&opened, &guard)?;
        let whole = self.snapshot_files(&opened, &guard)?;
        let trees = whole.iter().map(|file| file.tree).collect();
        let found = opened.check_with_trees(options, trees).map_err(|e| guard.explain(&e))?;
        if let Some(failure) = guard.take_failure() {
            return Err(failure);
        }
        for (level, finding) in found.0 {
            let text = with_whole_ids(&finding.to_string(), &packs);
            // The level's type has no public name.
            if format!("{level:?}") == "Error" {
                checked.errors.push(text);
            } else {
                checked.warnings.push(text);
            }
        }
        Ok(checked)
    }

    /// Gives up the backups of `volume` from `host` that the retention does
    /// not keep, and the space that no backup needs any more. Space is marked
    /// first, and freed by a call a day later: a backup that another host
    /// makes at the same time may need it.
    ///
    /// # Errors
    /// Those of the storage; a wrong secret; [`BackupError::Locked`].
    pub fn forget(
        &self,
        volume: &str,
        host: &str,
        retention: &Retention,
        watch: &Watch,
    ) -> Result<Forgotten, BackupError> {
        let guard = self.guard(watch);
        let opened = self.open(&guard)?;
        self.refuse_locked()?;
        let mut files = self.snapshot_files(&opened, &guard)?;
        files.retain(|file| {
            let about = Snapshot::of(file).about;
            about.volume == volume && about.host == host
        });
        if files.is_empty() {
            return Ok(Forgotten::default());
        }
        let keep: KeepOptions = retention.options();
        let judged = keep.apply(files, &Zoned::now()).map_err(|e| guard.explain(&e))?;
        let kept = judged.iter().filter(|j| j.keep).count();
        let gone: Vec<SnapshotId> =
            judged.iter().filter(|j| !j.keep).map(|j| j.snapshot.id).collect();
        opened.delete_snapshots(&gone).map_err(|e| guard.explain(&e))?;
        if !gone.is_empty() {
            self.prune(&opened, &guard)?;
        }
        let gone = gone.iter().map(|id| id.to_hex().as_str().to_owned()).collect();
        Ok(Forgotten { gone, kept })
    }

    /// The packs whose content isn't what their name says.
    fn damaged_packs(&self, guard: &Guard) -> Result<Vec<String>, BackupError> {
        let files = self.store.list(FileType::Pack.dirname())?;
        guard.watch().expect(files.iter().map(|f| f.size).sum());
        let (next, damaged) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if guard.watch().is_cancelled() {
                            return;
                        }
                        if let Some(what) = self.damage_of(file) {
                            damaged.lock().unwrap_or_else(PoisonError::into_inner).push(what);
                        }
                        guard.watch().bytes(file.size);
                    }
                });
            }
        });
        if guard.watch().is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        damaged.sort();
        Ok(damaged)
    }

    fn damage_of(&self, pack: &Stored) -> Option<String> {
        let Stored { name, .. } = pack;
        let path = format!("{}/{}/{name}", FileType::Pack.dirname(), name.get(..2)?);
        match self.store.read(&path) {
            Ok(content) if is_named_after(&content, name) => None,
            Ok(_) => Some(format!("pack {name}: damaged")),
            Err(error) => Some(format!("pack {name}: {error}")),
        }
    }

    fn indexed_packs(&self, opened: &Opened, guard: &Guard) -> Result<Vec<String>, BackupError> {
        let files = opened.stream_files::<IndexFile>().map_err(|e| guard.explain(&e))?;
        let whole = files
            .filter_map(Result::ok)
            .flat_map(|(_, index)| index.packs.into_iter().chain(index.packs_to_delete));
        Ok(whole.map(|pack| pack.id.to_hex().as_str().to_owned()).collect())
    }

    fn prune(&self, opened: &Opened, guard: &Guard) -> Result<(), BackupError> {
        let options = PruneOptions::default();
        let plan = opened.prune_plan(&options).map_err(|e| guard.explain(&e))?;
        opened.prune(&options, plan).map_err(|e| guard.explain(&e))
    }

    /// This program needs no locks, restic does: where it is at work nothing
    /// is removed.
    fn refuse_locked(&self) -> Result<(), BackupError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let locks = self.store.list("locks")?;
        let fresh = |at: Option<i64>| at.is_none_or(|at| now.saturating_sub(at) < STALE);
        match locks.into_iter().find(|lock| fresh(lock.modified)) {
            None => Ok(()),
            Some(lock) => Err(BackupError::Locked {
                location: self.store.location().to_owned(),
                lock: lock.name,
            }),
        }
    }
}

/// One line of what the library says, with the ids of packs, which it cuts,
/// whole.
fn with_whole_ids(text: &str, packs: &[String]) -> String {
    let line = text.split("`rustic_core`").next().unwrap_or(text).lines().next().unwrap_or(text);
    let words = line.trim().split(' ').map(|word| {
        let id = word.trim_matches(|c: char| !c.is_ascii_hexdigit());
        let whole = packs.iter().find(|p| id.len() == 8 && p.starts_with(id));
        whole.map_or_else(|| word.to_owned(), |whole| word.replace(id, whole))
    });
    words.collect::<Vec<_>>().join(" ")
}
