//! The local driver: each volume is a directory on this host.
//!
//! ```text
//! volumes/<name>/volume.json   the record: labels, options, time of creation
//! volumes/<name>/_data         the content, or where the options mount it
//! volumes/.new.<random>        being made; renamed when complete
//! volumes/.gone.<random>       being removed
//! ```
//!
//! Be aware:
//! - Names can't begin with a dot, so what does is never a volume.
//! - Before a volume is removed, everything that is mounted below it is taken
//!   away: removing must never reach into another file system.
//! - A mount made by the options stays while the daemon is down; [`Local`]
//!   learns its users again by `restore`.

mod care;
mod operations;
mod options;
mod record;
pub(crate) mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sampan_types::VolumeName;
use tokio::time::timeout;

pub(crate) use self::storage::HIDDEN as HIDDEN_OPTIONS;
pub use self::storage::Usage;
use self::storage::{Content, Projects};
use crate::transfer::Transfer;
use crate::{BoxFuture, Care, Details, Driver, Volume, VolumeError, VolumeSpec};

/// The driver's name.
pub const DRIVER: &str = "local";
/// How long removing a volume waits for who mounts it meanwhile: a server that
/// says nothing can hold that up for minutes.
const PATIENCE: Duration = Duration::from_secs(3);

/// One volume in memory.
#[derive(Clone)]
struct Entry {
    volume: Volume,
    /// What holds its content.
    content: Content,
    /// Held, across awaits, by each operation that mounts, unmounts, fills or
    /// removes this volume, so that they happen one after the other.
    state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Who has it mounted: container ids.
    users: BTreeSet<String>,
    /// Set when it was removed while somebody waited for the lock.
    removed: bool,
}

/// The volumes that are directories below one root.
pub struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    /// `<data-root>/volumes`, without symbolic links.
    root: PathBuf,
    /// Held for as long as a look-up, or the rename that makes or removes a
    /// volume, takes; never across an await.
    entries: Mutex<BTreeMap<VolumeName, Entry>>,
    /// The project ids of volumes with a limit.
    projects: Projects,
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Entry>> {
        // The map is changed by single inserts and removals only: it is whole
        // even after a panic elsewhere.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, name: &VolumeName) -> Result<Entry, VolumeError> {
        self.entries()
            .get(name)
            .cloned()
            .ok_or_else(|| VolumeError::NotFound { name: name.to_string() })
    }

    fn dir(&self, name: &VolumeName) -> PathBuf {
        self.root.join(name.as_str())
    }
}

impl Local {
    /// Reads the volumes below `root` and clears away what a crash left.
    ///
    /// # Errors
    /// When `root` can't be made or read.
    pub async fn open(root: PathBuf) -> Result<Self, VolumeError> {
        let found = blocking(move || record::read_all(&root)).await?;
        let projects = Projects::new(found.volumes.iter().filter_map(|(_, c)| c.project()));
        let entries = found
            .volumes
            .into_iter()
            .map(|(volume, content)| {
                let entry = Entry { volume, content, state: Arc::default() };
                (entry.volume.name.clone(), entry)
            })
            .collect();
        let inner = Inner { root: found.root, entries: Mutex::new(entries), projects };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Driver for Local {
    fn name(&self) -> &'static str {
        DRIVER
    }

    fn care(&self) -> Option<&dyn Care> {
        Some(self)
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        Some(self)
    }

    fn create<'a>(
        &'a self,
        name: &'a VolumeName,
        spec: &'a VolumeSpec,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>> {
        let (inner, name, spec) = (self.inner.clone(), name.clone(), spec.clone());
        Box::pin(blocking(move || inner.create(name, spec)))
    }

    fn get(&self, name: &VolumeName) -> Option<Volume> {
        self.inner.entries().get(name).map(|e| e.volume.clone())
    }

    fn list(&self) -> Vec<Volume> {
        self.inner.entries().values().map(|e| e.volume.clone()).collect()
    }

    fn remove<'a>(&'a self, name: &'a VolumeName) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(async move {
            let Ok(entry) = self.inner.entry(name) else { return Ok(()) };
            let Ok(mut state) = timeout(PATIENCE, entry.state.clone().lock_owned()).await else {
                return Err(VolumeError::Busy { operation: "remove", name: name.to_string() });
            };
            let inner = self.inner.clone();
            blocking(move || inner.remove(&entry, &mut state)).await
        })
    }

    fn mount<'a>(
        &'a self,
        name: &'a VolumeName,
        user: &'a str,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let entry = self.inner.entry(name)?;
            let mut state = entry.state.clone().lock_owned().await;
            if state.removed {
                return Err(VolumeError::NotFound { name: name.to_string() });
            }
            let (path, user) = (entry.volume.mountpoint.clone(), user.to_owned());
            apart("volume-mount", move || {
                entry.ensure_mounted()?;
                state.users.insert(user);
                Ok(())
            })
            .await?;
            Ok(path)
        })
    }

    fn unmount<'a>(
        &'a self,
        name: &'a VolumeName,
        user: &'a str,
    ) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(async move {
            let Ok(entry) = self.inner.entry(name) else { return Ok(()) };
            let mut state = entry.state.clone().lock_owned().await;
            let known = state.users.remove(user);
            if !entry.content.needs_mount() || !known || !state.users.is_empty() {
                return Ok(());
            }
            blocking(move || {
                let done = entry.ensure_unmounted();
                drop(state);
                done
            })
            .await
        })
    }

    fn restore<'a>(
        &'a self,
        users: &'a BTreeMap<VolumeName, BTreeSet<String>>,
    ) -> BoxFuture<'a, Vec<VolumeError>> {
        Box::pin(async move {
            let entries: Vec<Entry> = self.inner.entries().values().cloned().collect();
            let mut failures = Vec::new();
            for entry in entries {
                let mut state = entry.state.clone().lock_owned().await;
                state.users = users.get(&entry.volume.name).cloned().unwrap_or_default();
                if !entry.content.needs_mount() && entry.content.limit.is_none() {
                    continue;
                }
                let wanted = !state.users.is_empty();
                let done = apart("volume-restore", move || {
                    let done = match (entry.content.needs_mount(), wanted) {
                        // One whose change a crash interrupted.
                        (false, _) => entry.content.ensure_limit(entry.dir()),
                        (true, true) => entry.ensure_mounted(),
                        (true, false) => entry.ensure_unmounted(),
                    };
                    drop(state);
                    done
                });
                failures.extend(done.await.err());
            }
            failures
        })
    }

    fn details<'a>(&'a self, name: &'a VolumeName) -> BoxFuture<'a, Details> {
        Box::pin(async move {
            let Ok(entry) = self.inner.entry(name) else { return Details::default() };
            let told = blocking(move || Ok(operations::status(&entry))).await;
            Details { status: told.unwrap_or_default(), ..Details::default() }
        })
    }

    fn usage<'a>(
        &'a self,
        name: &'a VolumeName,
    ) -> BoxFuture<'a, Result<Option<Usage>, VolumeError>> {
        Box::pin(async move {
            let entry = self.inner.entry(name)?;
            blocking(move || entry.content.usage(entry.dir())).await
        })
    }

    fn size<'a>(&'a self, name: &'a VolumeName) -> BoxFuture<'a, Result<Option<u64>, VolumeError>> {
        Box::pin(async move {
            let entry = self.inner.entry(name)?;
            blocking(move || {
                if let Some(usage) = entry.content.usage(entry.dir())? {
                    return Ok(Some(usage.bytes));
                }
                if !entry.content.is_ours() {
                    return Ok(None);
                }
                operations::tree_size(&entry.volume.mountpoint).map(Some)
            })
            .await
        })
    }

    fn copy_up<'a>(
        &'a self,
        name: &'a VolumeName,
        rootfs: &'a Path,
        inside: &'a Path,
    ) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(async move {
            let entry = self.inner.entry(name)?;
            let state = entry.state.clone().lock_owned().await;
            if state.removed {
                return Err(VolumeError::NotFound { name: name.to_string() });
            }
            let (rootfs, inside) = (rootfs.to_owned(), inside.to_owned());
            let inner = self.inner.clone();
            apart("volume-copy-up", move || inner.copy_up(&entry, &state, &rootfs, &inside)).await
        })
    }
}

/// Runs file work on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only while the runtime shuts down.
            Err(e) => Err(VolumeError::Io {
                operation: "work on",
                path: PathBuf::from("volumes"),
                source: std::io::Error::other(e),
            }),
        },
    }
}

/// As [`blocking`], on a thread of its own: a server that says nothing can hold
/// a mount up for minutes, and the end of the daemon does not wait for such a
/// thread.
async fn apart<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    let (send, done) = tokio::sync::oneshot::channel();
    let run = move || {
        // Nobody waits for it any more when this fails.
        let _ = send.send(catch_unwind(AssertUnwindSafe(work)));
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(VolumeError::io("start a thread to work on", "volumes"))?;
    match done.await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(e) => Err(VolumeError::io("work on", "volumes")(std::io::Error::other(e))),
    }
}
