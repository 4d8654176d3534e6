//! Snapshots, clones, restoring and renaming.
//!
//! ```text
//! volumes/<name>/snapshots/<snapshot>/   laid out like a volume, and:
//!                   snapshot.json        when it was made, the user's labels
//! volumes/<name>/snapshots/.new.<random> being made     .gone.<random>  being removed
//! ```
//!
//! Be aware:
//! - Whoever copies a volume's content is one of its users for that time: it
//!   stays mounted, and is neither removed nor renamed nor restored meanwhile.
//!   Containers may come and go.
//! - What is copied is written to the disk before it gets its name: a snapshot
//!   that is half there after a power failure would be worse than none.

mod exchange;
mod fill;
mod names;
mod snapshot;
mod transfer;

use std::collections::BTreeMap;
use std::future::Future;

use sampan_types::{SnapshotName, VolumeName};

use super::users::Using;
use super::{Entry, Local, blocking, spawned};
use crate::{BoxFuture, Care, CloneSource, CloneSpec, Snapshot, Volume, VolumeError, Watch};

pub(super) use self::snapshot::clear_unfinished;

impl Care for Local {
    fn snapshot<'a>(
        &'a self,
        volume: &'a VolumeName,
        snapshot: &'a SnapshotName,
        labels: &'a BTreeMap<String, String>,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<Snapshot, VolumeError>> {
        let (inner, name, labels) = (self.inner.clone(), snapshot.clone(), labels.clone());
        let user = format!("snapshot {snapshot}");
        let copy = watch.clone();
        let work = self
            .reading(volume, user, watch, move |entry| inner.snapshot(entry, &name, labels, &copy));
        Box::pin(work)
    }

    fn snapshots<'a>(
        &'a self,
        volume: &'a VolumeName,
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, VolumeError>> {
        Box::pin(async move {
            let entry = self.inner.entry(volume)?;
            blocking(move || snapshot::list(&entry)).await
        })
    }

    fn remove_snapshot<'a>(
        &'a self,
        volume: &'a VolumeName,
        snapshot: &'a SnapshotName,
    ) -> BoxFuture<'a, Result<(), VolumeError>> {
        let (inner, snapshot) = (self.inner.clone(), snapshot.clone());
        let entry = self.inner.entry(volume);
        Box::pin(async move {
            let entry = entry?;
            // Nobody renames or removes the volume meanwhile.
            let turn = entry.state.clone().lock_owned().await;
            blocking(move || {
                let done = inner.remove_snapshot(&entry, &snapshot);
                drop(turn);
                done
            })
            .await
        })
    }

    fn clone_volume<'a>(
        &'a self,
        from: &'a CloneSource,
        to: &'a VolumeName,
        spec: &'a CloneSpec,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>> {
        let (inner, to, spec) = (self.inner.clone(), to.clone(), spec.clone());
        let (snapshot, copy) = (from.snapshot.clone(), watch.clone());
        let user = match &snapshot {
            Some(snapshot) => reader_of(snapshot, &format!("clone {to}")),
            None => format!("clone {to}"),
        };
        let work = self.reading(&from.volume, user, watch, move |entry| {
            inner.clone_volume(entry, snapshot.as_ref(), to, &spec, &copy)
        });
        Box::pin(work)
    }

    fn roll_back<'a>(
        &'a self,
        volume: &'a VolumeName,
        snapshot: &'a SnapshotName,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<(), VolumeError>> {
        let (inner, snapshot, copy) = (self.inner.clone(), snapshot.clone(), watch.clone());
        let entry = self.inner.entry(volume);
        Box::pin(detached(watch, async move {
            let entry = entry?;
            // Held to the end: nobody mounts what is about to be exchanged.
            let mut state = entry.state.clone().lock_owned().await;
            blocking(move || {
                let done = inner.roll_back(&entry, &mut state, &snapshot, &copy);
                drop(state);
                done
            })
            .await
        }))
    }

    fn rename<'a>(
        &'a self,
        old: &'a VolumeName,
        new: &'a VolumeName,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>> {
        let (inner, old, new) = (self.inner.clone(), old.clone(), new.clone());
        Box::pin(detached(&Watch::default(), async move {
            let entry = match (inner.entry(&old), inner.entry(&new)) {
                (Err(_), Ok(renamed)) => return Ok(renamed.volume),
                (entry, _) => entry?,
            };
            let mut state = entry.state.clone().lock_owned().await;
            blocking(move || {
                let done = inner.rename(&entry, &mut state, new);
                drop(state);
                done
            })
            .await
        }))
    }

    fn resize<'a>(
        &'a self,
        volume: &'a VolumeName,
        size: &'a str,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>> {
        let (inner, volume, size) = (self.inner.clone(), volume.clone(), size.to_owned());
        Box::pin(detached(&Watch::default(), async move {
            let mut state = inner.entry(&volume)?.state.clone().lock_owned().await;
            blocking(move || {
                let done = inner.resize(&volume, &mut state, &size);
                drop(state);
                done
            })
            .await
        }))
    }
}

/// What somebody who reads a snapshot is called among the volume's users.
fn reader_of(snapshot: &SnapshotName, what: &str) -> String {
    format!("{what} of @{snapshot}")
}

/// Whether one of the volume's users reads this snapshot.
fn is_reader_of(user: &str, snapshot: &SnapshotName) -> bool {
    user.ends_with(&format!(" of @{snapshot}"))
}

impl Local {
    /// Does `work` on a volume's content while `user` has it mounted. Goes on
    /// to its end, or its stop, when the caller goes away.
    fn reading<T, W>(
        &self,
        volume: &VolumeName,
        user: String,
        watch: &Watch,
        work: W,
    ) -> impl Future<Output = Result<T, VolumeError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Entry) -> Result<T, VolumeError> + Send + 'static,
    {
        let entry = self.inner.entry(volume);
        detached(watch, async move {
            let entry = entry?;
            let turn = entry.turn().await?;
            if entry.users.contains(&user) {
                let name = entry.volume.name.to_string();
                return Err(VolumeError::Busy { operation: "copy", name });
            }
            let using = Using::begin_in(&entry, &user, turn).await?;
            let done = blocking(move || work(&entry)).await;
            let ended = using.end().await;
            done.and_then(|value| ended.map(|()| value))
        })
    }
}

/// Runs `work` to its end also when the caller goes away; it is told to stop
/// then.
fn detached<T, F>(
    watch: &Watch,
    work: F,
) -> impl Future<Output = Result<T, VolumeError>> + Send + use<T, F>
where
    T: Send + 'static,
    F: Future<Output = Result<T, VolumeError>> + Send + 'static,
{
    let watch = watch.clone();
    async move {
        let stop = watch.stop_on_drop();
        let done = spawned(work).await;
        stop.disarm();
        done
    }
}
