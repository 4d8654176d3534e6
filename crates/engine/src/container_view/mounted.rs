//! The file system of a container as its processes see it: for as long as a
//! [`View`] lives.
//!
//! Be aware:
//! - A running container is seen through `/proc/<pid>/root`, in its own mount
//!   namespace: with all that is mounted there.
//! - For a stopped one the snapshot is mounted for the time. Its `ops` lock is
//!   held, so that it does not start meanwhile, and whoever drops the view, or
//!   loses it by a disconnect, has the mount taken away.
//! - In a stopped container a path below a mount is looked up at the mount's
//!   source; mounts further below it are not seen.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::container::Container;
use crate::container::owners::{unmount_view, view_owned};
use crate::record::{ContainerRecord, MountKind, MountRecord, OwnerMap};
use crate::{Engine, EngineError, Result};

/// A container's file system, reachable for as long as this lives.
pub(super) struct View {
    /// The directory within which paths are resolved.
    pub(super) root: PathBuf,
    /// The path within `root`.
    pub(super) path: String,
    /// Whose is what there, where the container sees other owners than the
    /// source has.
    pub(super) owner: Option<OwnerMap>,
    /// Dropping it ends the hold on a stopped container.
    _hold: Option<oneshot::Sender<()>>,
}

impl Engine {
    /// Makes `path` of a container reachable.
    pub(super) async fn view(&self, container: &Arc<Container>, path: &str) -> Result<View> {
        if let Some(view) = running(container, path) {
            return Ok(view);
        }
        let (ready, held) = oneshot::channel();
        let (release, released) = oneshot::channel::<()>();
        let (engine, container, path) = (self.clone(), Arc::clone(container), path.to_owned());
        tokio::spawn(async move {
            let guard = container.ops.lock().await;
            if let Some(view) = running(&container, &path) {
                // It was started while we waited; nobody left to tell is fine.
                let _ = ready.send(Ok(view));
                return;
            }
            let opened = engine.open_stopped(&container, &path).await;
            let (view, used) = match opened {
                Ok((view, used)) => (Ok(view), used),
                Err((error, used)) => (Err(error), used),
            };
            let owner = owner_at(&container, &path);
            let view = view.map(|(root, path)| View { root, path, owner, _hold: Some(release) });
            if ready.send(view).is_ok() {
                // Ends when the view is dropped.
                let _ = released.await;
            }
            engine.close_stopped(&container, used).await;
            drop(guard);
        });
        held.await.unwrap_or(Err(EngineError::ShuttingDown))
    }

    /// Where a stopped container's path is, and what was mounted for it.
    async fn open_stopped(
        &self,
        container: &Container,
        path: &str,
    ) -> Result<((PathBuf, String), Used), (EngineError, Used)> {
        let record = container.record();
        if let Some((mount, rest)) = mount_of(&record, path) {
            let found = self.open_mount(container, &record, mount, rest).await;
            let source = match &mount.volume {
                Some(name) => Source::Volume(name.to_string()),
                None if mount.image.is_some() => Source::Image,
                None => Source::Host,
            };
            let used = Used { source, owners: mount.owner.is_some() };
            return match found {
                Ok(found) => Ok((found, used)),
                Err(error) => Err((error, used)),
            };
        }
        let used = Used { source: Source::Snapshot, owners: false };
        match self.image_store().mount(container.id()).await {
            Ok(root) => Ok(((root, path.to_owned()), used)),
            Err(error) => Err((EngineError::part(error), used)),
        }
    }

    async fn open_mount(
        &self,
        container: &Container,
        record: &ContainerRecord,
        mount: &MountRecord,
        rest: String,
    ) -> Result<(PathBuf, String)> {
        let mut root = match (&mount.volume, &mount.image) {
            (Some(name), _) => {
                let user = user(record);
                let mounted = self.volume_store().mount(name.as_str(), &user);
                self.unless_called_off(container, "copy", mounted).await?
            }
            (_, Some(image)) => self.image_store().mount_view(&record.id, &image.id).await?,
            _ => mount.source.clone(),
        };
        if let Some(below) = &mount.subpath {
            let root = self.with_owners(record, mount, root, !mount.non_recursive).await?;
            // Within the volume: resolved together with the rest.
            return Ok((root, format!("{}/{rest}", below.to_string_lossy())));
        }
        if !tokio::fs::metadata(&root).await.is_ok_and(|m| m.is_dir()) {
            let name = root.file_name().map(|n| n.to_string_lossy().into_owned());
            if !rest.is_empty()
                || name.as_deref() != mount.destination.file_name().and_then(|n| n.to_str())
            {
                return Err(EngineError::NotSupported(format!(
                    "{} is a single file mounted from elsewhere: start the container to reach it",
                    mount.destination.display()
                )));
            }
            root.pop();
            // Not what else is mounted where the file lies.
            let root = self.with_owners(record, mount, root, false).await?;
            return Ok((root, name.unwrap_or_default()));
        }
        Ok((self.with_owners(record, mount, root, !mount.non_recursive).await?, rest))
    }

    /// The directory `source` with the owners that the container sees.
    async fn with_owners(
        &self,
        record: &ContainerRecord,
        mount: &MountRecord,
        source: PathBuf,
        recursive: bool,
    ) -> Result<PathBuf> {
        let Some(owner) = mount.owner else { return Ok(source) };
        let data_dir = record.data_dir(&self.inner.config.data_root);
        let mount = mount.clone();
        self.blocking(move || view_owned(&data_dir, &mount, owner, &source, recursive)).await
    }

    async fn close_stopped(&self, container: &Container, used: Used) {
        if used.owners {
            let data_dir = container.record().data_dir(&self.inner.config.data_root);
            if let Err(error) = self.blocking(move || unmount_view(&data_dir)).await {
                tracing::warn!(container = container.id().short(), %error, "a mount stays");
            }
        }
        let done = match used.source {
            Source::Snapshot => {
                self.image_store().unmount(container.id()).await.map_err(EngineError::part)
            }
            Source::Volume(name) => {
                let user = user(&container.record());
                self.volume_store().unmount(&name, &user).await.map_err(EngineError::part)
            }
            Source::Image => {
                let gone = self.image_store().unmount_views(container.id()).await;
                gone.map_err(EngineError::part)
            }
            Source::Host => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!(container = container.id().short(), %error, "a mount stays");
        }
    }
}

/// What is to be given back.
struct Used {
    source: Source,
    /// Whether it is shown with other owners.
    owners: bool,
}

/// What files are copied from or to.
enum Source {
    Snapshot,
    Volume(String),
    Image,
    Host,
}

/// Who has a volume mounted while files of a stopped container are copied.
fn user(record: &ContainerRecord) -> String {
    format!("copy-{}", record.id)
}

fn running(container: &Container, path: &str) -> Option<View> {
    let state = &container.record().state;
    state.has_process().then(|| View {
        root: PathBuf::from(format!("/proc/{}/root", state.pid)),
        path: path.to_owned(),
        owner: owner_at(container, path),
        _hold: None,
    })
}

fn owner_at(container: &Container, path: &str) -> Option<OwnerMap> {
    mount_of(&container.record(), path)?.0.owner
}

/// The innermost mount that a path is in, and the path below it. Tmpfs is
/// none: it is gone with the container's processes.
pub(super) fn mount_of<'a>(
    record: &'a ContainerRecord,
    path: &str,
) -> Option<(&'a MountRecord, String)> {
    let clean = clean(path);
    let mount = record
        .mounts
        .iter()
        .filter(|m| m.kind != MountKind::Tmpfs && clean.starts_with(&m.destination))
        .max_by_key(|m| m.destination.components().count())?;
    let mut rest = clean.strip_prefix(&mount.destination).ok()?.to_string_lossy().into_owned();
    // What the end of a path says (`/.`, `/`) stays said.
    if path.ends_with("/.") || path == "." {
        rest.push_str("/.");
    } else if path.ends_with('/') {
        rest.push('/');
    }
    Some((mount, rest))
}

/// An absolute path without `.` and `..`, by its text alone.
fn clean(path: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record as blank;

    fn mount(destination: &str, kind: MountKind) -> MountRecord {
        let mut mount = MountRecord::new(kind, destination.into(), true);
        mount.source = "/src".into();
        mount
    }

    #[test]
    fn paths_are_found_in_the_innermost_mount() {
        let mut record = blank(&"ab".repeat(32), "web");
        record.mounts = vec![
            mount("/data", MountKind::Bind),
            mount("/data/inner", MountKind::Volume),
            mount("/tmp", MountKind::Tmpfs),
        ];
        let found = |path: &str| {
            mount_of(&record, path)
                .map(|(m, rest)| (m.destination.to_str().unwrap().to_owned(), rest))
        };
        let some = |d: &str, rest: &str| Some((d.to_owned(), rest.to_owned()));
        assert_eq!(found("/data/x/../y"), some("/data", "y"));
        assert_eq!(found("data/inner/z"), some("/data/inner", "z"));
        assert_eq!(found("/data/."), some("/data", "/."));
        assert_eq!(found("/data/inner/d/"), some("/data/inner", "d/"));
        assert_eq!(found("/database"), None);
        assert_eq!(found("/tmp/x"), None);
        assert_eq!(found("/"), None);
    }
}
