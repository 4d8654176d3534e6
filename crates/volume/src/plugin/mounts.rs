//! Mounting and unmounting plugins' volumes.
//!
//! Be aware:
//! - What a plugin was asked for goes on to its answer when nobody waits any
//!   more: only then it can be asked to take it back.
//! - A use that is given up is [`Leaving`], until the plugin was asked to
//!   unmount it. Who comes back before that stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sampan_types::VolumeName;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::keeper::{Entry, Inner, failed};
use super::protocol::{Mounted, Nothing, Used};
use super::record::Record;
use crate::VolumeError;
use crate::local::spawned;

/// How long unmounting waits for a plugin. It goes on by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// After how many seconds a plugin that failed in unmounting is asked again. After that, when the
/// volume is removed, or the daemon starts.
const AGAIN: [u64; 6] = [1, 2, 8, 30, 120, 600];

/// Who needs a volume no longer, and stands in its record still.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Whether the plugin is about to be asked, or being asked, to unmount it
    /// for this user; false when that failed. Held for a look-up or one change,
    /// never across an await.
    users: Mutex<BTreeMap<String, bool>>,
}

impl Leaving {
    fn users(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, user: &str) -> bool {
        self.users().contains_key(user)
    }

    /// The user leaves. Says whether somebody has to ask the plugin now.
    fn begin(&self, user: &str) -> bool {
        self.users().insert(user.to_owned(), true) != Some(true)
    }

    /// Somebody asks again after a failure. Says whether that is needed still.
    fn again(&self, user: &str) -> bool {
        self.users().get_mut(user).is_some_and(|asked| !std::mem::replace(asked, true))
    }

    /// The plugin could not be asked.
    fn fail(&self, user: &str) {
        if let Some(asked) = self.users().get_mut(user) {
            *asked = false;
        }
    }

    /// The user is gone, or came back.
    fn end(&self, user: &str) {
        self.users().remove(user);
    }
}

/// A use of a volume. Dropping it, or what makes it, gives the use up.
pub(super) struct Using {
    inner: Arc<Inner>,
    leaving: Arc<Leaving>,
    name: VolumeName,
    user: String,
    /// Whether the user is gone with this.
    ends: bool,
    runtime: Handle,
}

impl Using {
    /// The user has it until it is unmounted for it.
    pub(super) fn keep(mut self) {
        self.ends = false;
    }

    /// The user needs it no longer.
    pub(super) async fn end(mut self) -> Result<(), VolumeError> {
        self.ends = false;
        self.inner.unmount(&self.name, &self.user).await
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        if self.ends && self.leaving.begin(&self.user) {
            let left = Arc::clone(&self.inner).leave(self.name.clone(), self.user.clone(), None);
            self.runtime.spawn(left);
        }
    }
}

impl Inner {
    /// Has a volume mounted for `user`, and tells where.
    pub(super) async fn mount(
        self: &Arc<Self>,
        name: &VolumeName,
        user: &str,
    ) -> Result<(Using, PathBuf), VolumeError> {
        let entry = self.known(name).await?;
        // Who gives up while waiting for this has asked for nothing yet.
        let turn = Arc::clone(&entry.turn).lock_owned().await;
        entry.leaving.end(user);
        let mut using = Using {
            inner: Arc::clone(self),
            leaving: Arc::clone(&entry.leaving),
            name: name.clone(),
            user: user.to_owned(),
            ends: true,
            runtime: Handle::current(),
        };
        let (inner, name, user) = (Arc::clone(self), name.clone(), user.to_owned());
        let mounted = spawned(async move {
            let mounted = inner.mount_in_turn(&entry, &name, &user).await;
            drop(turn);
            mounted
        })
        .await;
        using.ends = mounted.is_ok();
        mounted.map(|place| (using, place))
    }

    async fn mount_in_turn(
        self: &Arc<Self>,
        entry: &Entry,
        name: &VolumeName,
        user: &str,
    ) -> Result<PathBuf, VolumeError> {
        let known = self.current(name)?;
        let plugin = self.plugin(name, &known.driver).await?;
        let mut record = Record::clone(&known);
        record.users.insert(user.to_owned());
        self.keep(name, record.clone()).await?;
        let request = Used { name: name.as_str(), id: user };
        let error = match plugin.call::<_, Mounted>("VolumeDriver.Mount", &request).await {
            Ok(mounted) if mounted.mountpoint.is_absolute() => {
                record.mountpoint.clone_from(&mounted.mountpoint);
                self.keep(name, record).await?;
                return Ok(mounted.mountpoint);
            }
            Ok(mounted) => {
                self.leave_later(entry, name, user);
                let place = mounted.mountpoint;
                failed("mount", name)(std::io::Error::other(format!(
                    "its plugin names {place:?} as the place, not an absolute path"
                )))
            }
            Err(error) if error.may_have_acted() => {
                self.leave_later(entry, name, user);
                failed("mount", name)(error)
            }
            Err(error) => {
                if !known.users.contains(user) {
                    record.users.remove(user);
                    self.keep(name, record).await?;
                }
                failed("mount", name)(error)
            }
        };
        Err(error)
    }

    /// Has a volume unmounted for `user`. Does not wait when there is nothing
    /// to do, or somebody does it, and for the plugin some seconds only.
    pub(super) async fn unmount(
        self: &Arc<Self>,
        name: &VolumeName,
        user: &str,
    ) -> Result<(), VolumeError> {
        let Ok(entry) = self.entry(name) else { return Ok(()) };
        if !entry.record.users.contains(user) || !entry.leaving.begin(user) {
            return Ok(());
        }
        let (told, first) = oneshot::channel();
        tokio::spawn(Arc::clone(self).leave(name.clone(), user.to_owned(), Some(told)));
        match timeout(PATIENCE, first).await {
            Ok(Ok(done)) => done,
            _ => Err(VolumeError::Busy { operation: "unmount", name: name.to_string() }),
        }
    }

    /// Has a volume unmounted for who does not use it, when it is its turn.
    fn leave_later(self: &Arc<Self>, entry: &Entry, name: &VolumeName, user: &str) {
        if entry.leaving.begin(user) {
            tokio::spawn(Arc::clone(self).leave(name.clone(), user.to_owned(), None));
        }
    }

    /// Asks the plugin to unmount a volume for a user that is leaving, when it
    /// is its turn, and asks again after a failure. Tells how it went first.
    async fn leave(
        self: Arc<Self>,
        name: VolumeName,
        user: String,
        mut told: Option<oneshot::Sender<Result<(), VolumeError>>>,
    ) {
        let Ok(entry) = self.entry(&name) else { return };
        for wait in AGAIN {
            let left = {
                let _turn = entry.turn.lock().await;
                self.leave_in_turn(&entry, &name, &user).await
            };
            let failed = left.is_err();
            match (told.take(), left) {
                // Nobody waits any more when this fails.
                (Some(told), left) => drop(told.send(left)),
                (None, Err(error)) => tracing::warn!(%error, "what nobody uses stays mounted"),
                (None, Ok(())) => {}
            }
            if !failed {
                return;
            }
            tokio::time::sleep(Duration::from_secs(wait)).await;
            if !entry.leaving.again(&user) {
                return;
            }
        }
        entry.leaving.fail(&user);
    }

    async fn leave_in_turn(
        &self,
        entry: &Entry,
        name: &VolumeName,
        user: &str,
    ) -> Result<(), VolumeError> {
        if !entry.leaving.has(user) {
            // It came back.
            return Ok(());
        }
        let left = async {
            let Ok(known) = self.current(name) else { return Ok(()) };
            if !known.users.contains(user) {
                return Ok(());
            }
            let plugin = self.plugin(name, &known.driver).await?;
            let request = Used { name: name.as_str(), id: user };
            let asked = plugin.call::<_, Nothing>("VolumeDriver.Unmount", &request).await;
            asked.map_err(failed("unmount", name))?;
            let mut record = Record::clone(&known);
            record.users.remove(user);
            self.keep(name, record).await
        };
        match left.await {
            Ok(()) => entry.leaving.end(user),
            Err(error) => {
                entry.leaving.fail(user);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Has a volume unmounted for all who left and for whom that failed.
    /// The caller has the volume's turn.
    pub(super) async fn leave_all_in_turn(
        &self,
        entry: &Entry,
        name: &VolumeName,
    ) -> Result<(), VolumeError> {
        let left: Vec<String> = entry.leaving.users().keys().cloned().collect();
        for user in left {
            self.leave_in_turn(entry, name, &user).await?;
        }
        Ok(())
    }

    /// Sets who uses a volume, as known after a restart. In the background: a
    /// plugin that hangs must not keep the daemon from starting.
    pub(super) fn restore(
        self: &Arc<Self>,
        name: &VolumeName,
        entry: &Entry,
        wanted: &BTreeSet<String>,
    ) {
        for user in entry.record.users.difference(wanted) {
            self.leave_later(entry, name, user);
        }
        let missing: Vec<String> = wanted.difference(&entry.record.users).cloned().collect();
        if missing.is_empty() {
            return;
        }
        let (inner, name) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            for user in missing {
                match inner.mount(&name, &user).await {
                    Ok((using, _)) => using.keep(),
                    Err(error) => {
                        tracing::warn!(%error, "a volume that a container uses is not mounted");
                    }
                }
            }
        });
    }
}
