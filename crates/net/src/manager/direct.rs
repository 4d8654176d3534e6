//! Which published ports are reached past the bridge and the firewall.
//!
//! Be aware: as in [`super::straight`], deciding about a sandbox and setting
//! its entries is one turn.

use std::collections::{HashMap, HashSet};

use sampan_types::SandboxId;

use super::repair::{Repair, RepairKind};
use super::{Inner, Joined, Repairs};
use crate::direct::Ways;
use crate::error::NetError;

impl Inner {
    /// Makes the direct ways of a sandbox those that its ports shall have.
    pub(super) async fn direct(&self, sandbox: &SandboxId) {
        let turn = self.direct.turn().await;
        let Some(joined) = self.state().sandboxes.get(sandbox).cloned() else { return };
        turn.set(self.ways(&joined)).await;
    }

    /// As [`Inner::direct`], of all sandboxes: these, or those of the state.
    pub(super) async fn restore_direct(
        &self,
        sandboxes: Option<&HashMap<SandboxId, Joined>>,
        repairs: &mut Repairs,
    ) {
        let turn = self.direct.turn().await;
        let known;
        let sandboxes = if let Some(sandboxes) = sandboxes {
            sandboxes
        } else {
            known = self.state().sandboxes.clone();
            &known
        };
        let all = sandboxes.values().filter(|j| !j.forwards.is_empty()).map(|j| self.ways(j));
        note(turn.restore(all.collect()).await, repairs);
    }

    /// Looks again at the host's interfaces and at what rules others have.
    pub(super) async fn refresh_direct(&self, repairs: &mut Repairs) {
        note(self.direct.refresh().await, repairs);
    }

    /// The sandboxes whose published ports are reached directly now.
    pub(crate) async fn direct_sandboxes(&self) -> Result<HashSet<SandboxId>, NetError> {
        self.direct.sandboxes().await
    }

    fn ways(&self, joined: &Joined) -> Ways {
        let attached = super::sandbox::attached(&self.state(), joined);
        let ruled = joined.spec.endpoints.iter().any(|e| self.under_policy(&e.addresses));
        Ways::of(&joined.spec, &attached, &joined.forwards, ruled)
    }
}

fn note(restored: Result<Vec<String>, NetError>, repairs: &mut Repairs) {
    match restored {
        Ok(restored) => {
            let repairs_of = |what| Repair::of(RepairKind::Redirect, what);
            repairs.restored.extend(restored.into_iter().map(repairs_of));
        }
        Err(e) => repairs.failed.push(e.to_string()),
    }
}
