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
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sampan_types::VolumeName;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

pub(crate) use self::storage::HIDDEN as HIDDEN_OPTIONS;
pub use self::storage::Usage;
use self::storage::{Content, Projects};
use self::users::{Users, Using};
use crate::transfer::Transfer;
use crate::{BoxFuture, Care, Details, Driver, Volume, VolumeError, VolumeSpec, copy};

/// The driver's name.
pub const DRIVER: &str = "local";
/// How long removing and unmounting a volume waits for who mounts it meanwhile,
/// and the daemon's start for all of them: a server that says nothing can hold
/// that up for minutes.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many volumes are restored at once, and how long one counts as one of
/// these.
const AT_ONCE: usize = 16;
const SLOW: Duration = Duration::from_millis(300);

/// One volume in memory.
#[derive(Clone)]
struct Entry {
    volume: Volume,
    /// What holds its content.
    content: Content,
    /// Who has it mounted: container ids, and who copies from it. Come only
    /// while who adds them has the turn.
    users: Users,
    /// The volume's turn: held, across awaits, by each operation that mounts,
    /// unmounts, fills or removes it, so that they happen one after the other.
    state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Set when it was removed while somebody waited for the lock.
    removed: bool,
}

impl Entry {
    fn new(volume: Volume, content: Content) -> Self {
        Self { volume, content, users: Users::default(), state: Arc::default() }
    }

    /// Waits for the volume's turn. Dropping this loses the place.
    async fn turn(&self) -> Result<OwnedMutexGuard<State>, VolumeError> {
        let turn = self.state.clone().lock_owned().await;
        if turn.removed {
            return Err(VolumeError::NotFound { name: self.volume.name.to_string() });
        }
        Ok(turn)
    }
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
            .map(|(volume, content)| (volume.name.clone(), Entry::new(volume, content)))
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
            Ok(Using::begin(&entry, user).await?.keep())
        })
    }

    fn unmount<'a>(
        &'a self,
        name: &'a VolumeName,
        user: &'a str,
    ) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(async move {
            match self.inner.entry(name) {
                Ok(entry) => users::end(&entry, user).await,
                Err(_) => Ok(()),
            }
        })
    }

    fn restore<'a>(
        &'a self,
        users: &'a BTreeMap<VolumeName, BTreeSet<String>>,
    ) -> BoxFuture<'a, Vec<VolumeError>> {
        Box::pin(async move {
            let mut restored = JoinSet::new();
            let slots = Arc::new(Semaphore::new(AT_ONCE));
            let entries: Vec<Entry> = self.inner.entries().values().cloned().collect();
            for entry in entries {
                entry.users.set(users.get(&entry.volume.name).cloned().unwrap_or_default());
                if entry.content.needs_mount() || entry.content.limit.is_some() {
                    restored.spawn(restore(entry, Arc::clone(&slots)));
                }
            }
            collect(restored).await
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
            let (rootfs, inside, shown) = (rootfs.to_owned(), inside.to_owned(), inside.to_owned());
            let source = blocking(move || copy::open_inside(&rootfs, &inside)).await?;
            // Mounting can be slow, and the container is not started yet.
            let Some(source) = source else { return Ok(()) };
            let using = if entry.content.needs_mount() {
                Some(Using::begin(&entry, &format!("copy-up-{name}")).await?)
            } else {
                None
            };
            let turn = entry.turn().await?;
            let inner = self.inner.clone();
            let copied = blocking(move || {
                let done = inner.copy_up(&entry, &source, &shown);
                drop(turn);
                done
            })
            .await;
            match using {
                Some(using) => copied.and(using.end().await),
                None => copied,
            }
        })
    }
}

/// Makes a volume's mount, or its limit, as it should be after a restart.
async fn restore(entry: Entry, slots: Arc<Semaphore>) -> Result<(), VolumeError> {
    let slot = slots.acquire_owned().await;
    let turn = entry.state.clone().lock_owned().await;
    let work = apart("volume-restore", move || {
        let done = match (entry.content.needs_mount(), entry.users.is_empty()) {
            // One whose change a crash interrupted.
            (false, _) => entry.content.ensure_limit(entry.dir()),
            (true, false) => entry.ensure_mounted(),
            (true, true) => entry.ensure_unmounted(),
        };
        drop(turn);
        done
    });
    tokio::pin!(work);
    if let Ok(done) = timeout(SLOW, &mut work).await {
        return done;
    }
    // It waits for somebody else: the others need not.
    drop(slot);
    work.await
}

/// Collects the failures of those that are restored soon; those of the others
/// are logged.
async fn collect(mut restored: JoinSet<Result<(), VolumeError>>) -> Vec<VolumeError> {
    let mut failures = Vec::new();
    let soon = async {
        while let Some(done) = restored.join_next().await {
            failures.extend(done.ok().and_then(Result::err));
        }
    };
    if timeout(PATIENCE, soon).await.is_err() {
        tracing::warn!(left = restored.len(), "volumes are still being mounted");
        tokio::spawn(async move {
            while let Some(done) = restored.join_next().await {
                if let Ok(Err(error)) = done {
                    tracing::error!(%error, "a volume is not restored");
                }
            }
        });
    }
    failures
}

/// Runs file work on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// Runs work that goes on to its end when nobody waits for it any more.
pub(crate) async fn spawned<T: Send + 'static>(
    work: impl Future<Output = Result<T, VolumeError>> + Send + 'static,
) -> Result<T, VolumeError> {
    joined(tokio::spawn(work)).await
}

async fn joined<T>(task: JoinHandle<Result<T, VolumeError>>) -> Result<T, VolumeError> {
    match task.await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only while the runtime shuts down.
            Err(e) => Err(VolumeError::io("work on", "volumes")(std::io::Error::other(e))),
        },
    }
}

/// As [`blocking`], on a thread of its own: a server that says nothing can hold
/// a mount up for minutes, and neither the threads for all other work are used
/// up by that, nor does the end of the daemon wait.
async fn apart<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    let (send, done) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        // Whoever waited may have given up.
        .spawn(move || drop(send.send(work())))
        .map_err(VolumeError::io("start a thread to work on", "volumes"))?;
    // Without an answer the thread has panicked, and said so.
    done.await.map_err(|e| VolumeError::io("work on", "volumes")(std::io::Error::other(e)))?
}
