//! Namespaces that containers share (`--network container:NAME`).
//!
//! A container's sandbox outlives its run while others live in it: their
//! network goes on, with its addresses and published ports, and the owner's
//! next run takes the same sandbox again.
//!
//! Be aware:
//! - A kept sandbox stays in the owner's record, which is what says so after
//!   the daemon's death. It is given back when the last that uses it ends.
//! - An owner that is removed gives everything back at once: those in the
//!   namespace keep it, with nothing but its loopback interface.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use sampan_types::ContainerId;

use super::Container;
use super::start::clear_run;
use crate::Engine;
use crate::record::{ContainerRecord, Desired, NetworkMode, Status};

/// Containers that share with one that shares, and so on: more is a circle.
const DEPTH: usize = 16;

impl Engine {
    /// The container whose namespace a container has, through all that share
    /// with one that shares.
    pub(super) fn namespace_owner(&self, record: &ContainerRecord) -> Option<Arc<Container>> {
        let mut mode = record.networking.mode.clone();
        let mut owner = None;
        for _ in 0..DEPTH {
            let NetworkMode::Container(id) = mode else { return owner };
            let c = self.container_by_id(&id)?;
            mode = c.record().networking.mode.clone();
            owner = Some(c);
        }
        None
    }

    /// Whether a container's network stays when its run ends.
    pub(super) fn keeps_network(&self, record: &ContainerRecord) -> bool {
        let Some(sandbox) = &record.networking.sandbox else { return false };
        let held = self.container_by_id(&record.id).is_some_and(|c| c.is_held());
        let goes = matches!(record.desired, Desired::Removed { .. } | Desired::Creating)
            || matches!(record.state.status, Status::Removing | Status::Dead)
            || (record.auto_remove() && !held);
        !goes && self.networks().sandbox(sandbox).is_some() && self.is_depended_on(&record.id)
    }

    /// Whether a container that runs, or is being started, is in the namespace
    /// of this one.
    fn is_depended_on(&self, owner: &ContainerId) -> bool {
        self.containers().iter().any(|c| {
            let record = c.record();
            let begins = record.desired == Desired::Running
                && matches!(record.state.status, Status::Created | Status::Exited);
            (record.state.has_process() || begins)
                && matches!(record.networking.mode, NetworkMode::Container(_))
                && self.namespace_owner(&record).is_some_and(|o| o.id() == owner)
        })
    }

    /// Of the containers that do not run, those whose sandbox others of
    /// `running` are in.
    pub(crate) fn kept_sandboxes(&self, running: &BTreeSet<&ContainerId>) -> Vec<Arc<Container>> {
        let mut kept: Vec<Arc<Container>> = Vec::new();
        for c in self.containers().iter().filter(|c| running.contains(c.id())) {
            let Some(owner) = self.namespace_owner(&c.record()) else { continue };
            let is_kept = !running.contains(owner.id())
                && owner.record().networking.sandbox.is_some()
                && !matches!(owner.record().desired, Desired::Removed { .. });
            if is_kept && !kept.iter().any(|k| k.id() == owner.id()) {
                kept.push(owner);
            }
        }
        kept
    }

    /// The namespace that an earlier run of a container left for the next.
    pub(super) fn kept_namespace(&self, record: &ContainerRecord) -> Option<PathBuf> {
        let sandbox = record.networking.sandbox.as_ref()?;
        self.networks().sandbox(sandbox)?.netns
    }

    /// After the end of a container that was in another one's namespace: the
    /// owner's network is given back when nobody needs it any more.
    pub(super) fn release_kept_later(&self, dependant: &ContainerRecord) {
        let Some(owner) = self.namespace_owner(dependant) else { return };
        if owner.record().state.has_process() {
            return;
        }
        let engine = self.clone();
        self.inner.tasks.spawn(async move {
            let _ops = owner.ops.lock().await;
            let record = owner.record();
            let needed = record.state.has_process() || record.networking.sandbox.is_none();
            if needed || engine.is_depended_on(&record.id) {
                return;
            }
            engine.leave_network(&record).await;
            crate::fault!("exit:after-shared-leave");
            owner.change(clear_run);
            engine.persist_later(&owner);
        });
    }
}
