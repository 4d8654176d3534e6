//! Opening a repository, and what is in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustic_core::repofile::{IndexFile, SnapshotFile};
use rustic_core::{
    ConfigOptions, Credentials, FileType, KeyOptions, OpenStatus, RepositoryBackends,
    RepositoryOptions,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::guard::{Backend, Guard, is_named_after};
use crate::progress::Watch;
use crate::snapshot::{Snapshot, Wanted};
use crate::store::{self, Store};
use crate::{BackupError, Location, S3Keys, Secret};

/// The library's repository, opened with the secret.
pub(crate) type Opened = rustic_core::Repository<OpenStatus>;

/// How a repository is reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where it is.
    pub location: Location,
    /// Its passphrase.
    pub secret: Secret,
    /// The keys of S3, where it lies there.
    pub keys: Option<S3Keys>,
    /// A directory of this host with `ca.pem`, `cert.pem` and `key.pem` for a
    /// server that wants to know who asks.
    pub certificates: Option<PathBuf>,
    /// A directory of this host for notes about unfinished backups and copies
    /// of indexes; without it more is read from the repository.
    pub state: Option<PathBuf>,
}

/// A repository. All its methods block: call them on threads that may.
///
/// One operation at a time changes a repository from one process: the caller
/// sees to that. Several hosts may use one repository at the same time.
pub struct Repository {
    pub(crate) store: Arc<dyn Store>,
    secret: Secret,
    state: Option<PathBuf>,
}

impl Repository {
    /// A repository; nothing is read yet. Storages in the network are reached
    /// on `runtime`.
    ///
    /// # Errors
    /// When the keys of S3 are missing or a client for it can't be made.
    pub fn new(access: Access, runtime: &Handle) -> Result<Self, BackupError> {
        let store = store::open(
            &access.location,
            access.keys.as_ref(),
            access.certificates.as_deref(),
            runtime,
        )?;
        let state = access.state.map(|dir| {
            let digest = Sha256::digest(access.location.to_string());
            let name: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
            dir.join(name)
        });
        Ok(Self { store, secret: access.secret, state })
    }

    /// The backups of `volume`, or all; the oldest first. A damaged entry is
    /// left out; [`Repository::check`] names it.
    ///
    /// # Errors
    /// Those of the storage; a wrong secret.
    pub fn list(&self, volume: Option<&str>) -> Result<Vec<Snapshot>, BackupError> {
        let guard = self.guard(&Watch::nobody());
        let opened = self.open(&guard)?;
        let files = self.snapshot_files(&opened, &guard)?;
        let all = files.iter().map(Snapshot::of);
        Ok(all.filter(|s| volume.is_none_or(|v| s.about.volume == v)).collect())
    }

    /// One backup.
    ///
    /// # Errors
    /// When there is none; those of the storage; a wrong secret.
    pub fn find(&self, wanted: &Wanted) -> Result<Snapshot, BackupError> {
        let guard = self.guard(&Watch::nobody());
        let opened = self.open(&guard)?;
        Ok(Snapshot::of(&self.wanted(&opened, &guard, wanted)?))
    }

    pub(crate) fn guard(&self, watch: &Watch) -> Arc<Guard> {
        Guard::new(Arc::clone(&self.store), watch.clone())
    }

    fn backends(guard: &Arc<Guard>) -> RepositoryBackends {
        RepositoryBackends::new(Arc::new(Backend(Arc::clone(guard))), None)
    }

    fn options(&self) -> RepositoryOptions {
        let options = RepositoryOptions::default();
        match &self.state {
            Some(dir) if self.store.is_remote() => options.cache_dir(dir.join("cache")),
            _ => options.no_cache(true),
        }
    }

    /// Opens the repository.
    pub(crate) fn open(&self, guard: &Arc<Guard>) -> Result<Opened, BackupError> {
        if self.store.size("config")?.is_none() {
            return Err(BackupError::NoRepository { location: self.store.location().to_owned() });
        }
        let watch = guard.watch().clone();
        rustic_core::Repository::new_with_progress(&self.options(), &Self::backends(guard), watch)
            .and_then(|repository| repository.open(&Credentials::password(self.secret.reveal())))
            .map_err(|e| guard.explain(&e))
    }

    /// Opens the repository, or makes it where nothing is.
    pub(crate) fn open_or_make(&self, guard: &Arc<Guard>) -> Result<Opened, BackupError> {
        match self.open(guard) {
            Err(BackupError::NoRepository { .. }) => self.make(guard),
            opened => opened,
        }
    }

    fn make(&self, guard: &Arc<Guard>) -> Result<Opened, BackupError> {
        self.refuse_foreign_content()?;
        let watch = guard.watch().clone();
        rustic_core::Repository::new_with_progress(&self.options(), &Self::backends(guard), watch)
            .and_then(|repository| {
                repository.init(
                    &Credentials::password(self.secret.reveal()),
                    &KeyOptions::default(),
                    // What is read back from the storage is verified; checking each
                    // piece before it is sent would double the work.
                    &ConfigOptions::default().set_extra_verify(false),
                )
            })
            .map_err(|e| guard.explain(&e))
    }

    /// A directory with other things in it is no place for a repository.
    fn refuse_foreign_content(&self) -> Result<(), BackupError> {
        if self.store.is_remote() {
            return Ok(());
        }
        let path = Path::new(self.store.location());
        let entries = match fs::read_dir(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(BackupError::io("list", path))?,
        };
        for entry in entries {
            let name = entry.map_err(BackupError::io("list", path))?.file_name();
            if store::is_foreign(&name.to_string_lossy()) {
                return Err(BackupError::Location {
                    given: self.store.location().to_owned(),
                    reason: "the directory is neither a repository nor empty",
                });
            }
        }
        Ok(())
    }

    /// The snapshots that are whole, the oldest first.
    pub(crate) fn snapshot_files(
        &self,
        opened: &Opened,
        guard: &Guard,
    ) -> Result<Vec<SnapshotFile>, BackupError> {
        let files = opened.stream_files::<SnapshotFile>().map_err(|e| guard.explain(&e))?;
        let mut whole = Vec::new();
        for file in files {
            match file {
                Ok((id, mut file)) => {
                    file.id = id;
                    whole.push(file);
                }
                Err(error) => {
                    let error = error.display_log();
                    tracing::warn!(repository = self.store.location(), error, "damaged snapshot");
                }
            }
        }
        if let Some(failure) = guard.take_failure() {
            return Err(failure);
        }
        whole.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.id.cmp(&b.id)));
        Ok(whole)
    }

    /// The snapshot that is meant.
    pub(crate) fn wanted(
        &self,
        opened: &Opened,
        guard: &Guard,
        wanted: &Wanted,
    ) -> Result<SnapshotFile, BackupError> {
        let none = |wanted: &str| BackupError::NoSnapshot {
            location: self.store.location().to_owned(),
            wanted: wanted.to_owned(),
        };
        let files = self.snapshot_files(opened, guard)?;
        match wanted {
            Wanted::Latest(volume) => {
                let of = |f: &SnapshotFile| match volume {
                    Some(volume) => Snapshot::of(f).about.volume == *volume,
                    None => true,
                };
                let text = volume.as_ref().map_or_else(|| "at all".into(), |v| format!("of {v}"));
                files.into_iter().rfind(of).ok_or_else(|| none(&text))
            }
            Wanted::Id(prefix) => {
                let matches = |f: &SnapshotFile| f.id.to_hex().as_str().starts_with(prefix);
                let mut found = files.into_iter().filter(matches);
                match (found.next(), found.next()) {
                    (Some(file), None) if prefix.len() >= 4 => Ok(file),
                    (Some(_), _) => Err(none(&format!("that alone begins with {prefix}"))),
                    (None, _) => Err(none(prefix)),
                }
            }
        }
    }

    /// Files whose content isn't what their name says.
    pub(crate) fn damaged(&self, kind: FileType) -> Result<Vec<String>, BackupError> {
        let files = self.store.list(kind.dirname())?;
        let names = files.into_iter().map(|f| f.name);
        let damaged = names.filter(|name| {
            let content = self.store.read(&format!("{}/{name}", kind.dirname()));
            !content.is_ok_and(|c| is_named_after(&c, name))
        });
        Ok(damaged.collect())
    }

    /// Whether all index files can be read.
    pub(crate) fn index_is_whole(opened: &Opened) -> bool {
        opened.stream_files::<IndexFile>().is_ok_and(|mut files| files.all(|file| file.is_ok()))
    }

    /// The note that a backup from this host has begun.
    pub(crate) fn unfinished_note(&self) -> Option<PathBuf> {
        self.state.as_ref().map(|dir| dir.join("unfinished"))
    }
}
