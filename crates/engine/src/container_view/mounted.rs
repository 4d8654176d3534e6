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
use crate::record::{ContainerRecord, MountKind, MountRecord};
use crate::{Engine, EngineError, Result};

/// A container's file system, reachable for as long as this lives.
pub(super) struct View {
    /// The directory within which paths are resolved.
    pub(super) root: PathBuf,
    /// The path within `root`.
    pub(super) path: String,
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
            let view = view.map(|(root, path)| View { root, path, _hold: Some(release) });
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
            let found = self.open_mount(&record, mount, rest).await;
            let used = match &mount.volume {
                Some(name) => Used::Volume(name.to_string()),
                None if mount.image.is_some() => Used::Image,
                None => Used::Nothing,
            };
            return match found {
                Ok(found) => Ok((found, used)),
                Err(error) => Err((error, used)),
            };
        }
        match self.image_store().mount(container.id()).await {
            Ok(root) => Ok(((root, path.to_owned()), Used::Snapshot)),
            Err(error) => Err((EngineError::part(error), Used::Snapshot)),
        }
    }

    async fn open_mount(
        &self,
        record: &ContainerRecord,
        mount: &MountRecord,
        rest: String,
    ) -> Result<(PathBuf, String)> {
        let mut root = match (&mount.volume, &mount.image) {
            (Some(name), _) => self.volume_store().mount(name.as_str(), &user(record)).await?,
            (_, Some(image)) => self.image_store().mount_view(&record.id, &image.id).await?,
            _ => mount.source.clone(),
        };
        if let Some(below) = &mount.subpath {
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
            return Ok((root, name.unwrap_or_default()));
        }
        Ok((root, rest))
    }

    async fn close_stopped(&self, container: &Container, used: Used) {
        let done = match used {
            Used::Snapshot => {
                self.image_store().unmount(container.id()).await.map_err(EngineError::part)
            }
            Used::Volume(name) => {
                let user = user(&container.record());
                self.volume_store().unmount(&name, &user).await.map_err(EngineError::part)
            }
            Used::Image => {
                let gone = self.image_store().unmount_views(container.id()).await;
                gone.map_err(EngineError::part)
            }
            Used::Nothing => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!(container = container.id().short(), %error, "a mount stays");
        }
    }
}

/// What is to be given back.
enum Used {
    Snapshot,
    Volume(String),
    Image,
    Nothing,
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
        _hold: None,
    })
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
