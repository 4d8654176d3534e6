//! Who has a volume mounted, or waits for that.
//!
//! Be aware:
//! - A user counts as soon as its mount begins, and until it says that it
//!   needs the volume no longer, or gives its mount up. So whoever has the
//!   volume's turn and finds no users may still find a mount: the one of the
//!   last user, who waits for its turn to take it away.
//! - What is mounted follows from who is there at the end: a mount that comes
//!   about when its user has gone is taken away by whoever has the next turn.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::{Entry, PATIENCE, State, apart, blocking};
use crate::VolumeError;

/// The users of one volume. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Users {
    /// Held for a look-up or one change, never across an await.
    names: Arc<Mutex<BTreeSet<String>>>,
}

impl Users {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Changed by single insertions and removals: whole after a panic too.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<String> {
        self.names().iter().cloned().collect()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    /// Whether this is one of them.
    pub(super) fn contains(&self, user: &str) -> bool {
        self.names().contains(user)
    }

    /// Sets who they are, as known after a restart.
    pub(super) fn set(&self, users: BTreeSet<String>) {
        *self.names() = users;
    }

    /// Says whether it is new.
    fn add(&self, user: &str) -> bool {
        self.names().insert(user.to_owned())
    }

    /// Says whether it was there.
    fn remove(&self, user: &str) -> bool {
        self.names().remove(user)
    }
}

/// A use of a volume's content. Dropping it, or what makes it, gives the use
/// up: its mount is taken away when it has come about.
pub(super) struct Using {
    entry: Entry,
    user: String,
    /// Whether the user is gone with this.
    ends: bool,
    runtime: Handle,
}

impl Using {
    /// Mounts the content for `user`. A user that mounts twice counts once.
    pub(super) async fn begin(entry: &Entry, user: &str) -> Result<Self, VolumeError> {
        let turn = entry.turn().await?;
        Self::begin_in(entry, user, turn).await
    }

    /// As [`Self::begin`], by who has the volume's turn.
    pub(super) async fn begin_in(
        entry: &Entry,
        user: &str,
        turn: OwnedMutexGuard<State>,
    ) -> Result<Self, VolumeError> {
        let mut using = Self {
            entry: entry.clone(),
            user: user.to_owned(),
            ends: entry.users.add(user),
            runtime: Handle::current(),
        };
        let entry = entry.clone();
        let mounted = apart("volume-mount", move || {
            let mounted = entry.ensure_mounted();
            drop(turn);
            mounted
        });
        if let Err(error) = mounted.await {
            // Nothing is mounted.
            if std::mem::take(&mut using.ends) {
                using.entry.users.remove(user);
            }
            return Err(error);
        }
        Ok(using)
    }

    /// The user has it until [`end`] is called for it. Gives the place where
    /// the content is.
    pub(super) fn keep(mut self) -> PathBuf {
        self.ends = false;
        self.entry.volume.mountpoint.clone()
    }

    /// The user needs it no longer.
    pub(super) async fn end(mut self) -> Result<(), VolumeError> {
        if std::mem::take(&mut self.ends) { end(&self.entry, &self.user).await } else { Ok(()) }
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        if !self.ends || !self.entry.users.remove(&self.user) {
            return;
        }
        self.runtime.spawn(settle_later(self.entry.clone()));
    }
}

/// `user` needs a volume no longer; the last one has the mount taken away. Does
/// not wait for the volume when it is no user of it, and for its turn a moment
/// only: after that it is taken away by itself.
pub(super) async fn end(entry: &Entry, user: &str) -> Result<(), VolumeError> {
    if !entry.users.remove(user) || !entry.users.is_empty() || !entry.content.needs_mount() {
        return Ok(());
    }
    match timeout(PATIENCE, entry.state.clone().lock_owned()).await {
        Ok(turn) => settle(entry.clone(), turn).await,
        Err(_) => {
            tokio::spawn(settle_later(entry.clone()));
            let name = entry.volume.name.to_string();
            Err(VolumeError::Busy { operation: "unmount", name })
        }
    }
}

/// Takes away what nobody uses, when it is its turn.
async fn settle_later(entry: Entry) {
    let volume = entry.volume.name.clone();
    let turn = entry.state.clone().lock_owned().await;
    if let Err(error) = settle(entry, turn).await {
        tracing::warn!(%volume, %error, "what nobody uses stays mounted");
    }
}

/// Takes away what nobody uses.
async fn settle(entry: Entry, turn: OwnedMutexGuard<State>) -> Result<(), VolumeError> {
    if turn.removed || !entry.users.is_empty() || !entry.content.needs_mount() {
        return Ok(());
    }
    blocking(move || {
        let done = entry.ensure_unmounted();
        drop(turn);
        done
    })
    .await
}

impl Entry {
    /// Refuses an operation for which nobody may use the content and nothing
    /// may be mounted. The caller has the volume's turn.
    pub(super) fn refuse_users(&self, operation: &'static str) -> Result<(), VolumeError> {
        let users = self.users.all();
        if !users.is_empty() {
            let name = self.volume.name.to_string();
            return Err(VolumeError::Mounted { operation, name, users });
        }
        if self.content.needs_mount() { self.ensure_unmounted() } else { Ok(()) }
    }
}
