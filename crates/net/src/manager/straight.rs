//! Which endpoints reach each other past their bridge.
//!
//! Be aware:
//! - Deciding about an endpoint and setting its entry is one turn, in which no
//!   other is set or removed. A sandbox is in the state before its turn, and
//!   no longer when its entries are removed: so a change of policies that
//!   comes between finds it, and an entry never comes back.

use std::collections::HashMap;

use sampan_types::{EndpointId, SandboxId};

use super::repair::{Repair, RepairKind};
use super::routes::Attached;
use super::{Inner, Joined, Repairs};
use crate::config::SandboxSpec;
use crate::redirect::Straight;

impl Inner {
    /// Leads frames past the bridge between a sandbox's endpoints, or one of
    /// them, and their neighbours, where that may be.
    pub(super) async fn straighten(&self, sandbox: &SandboxId, one: Option<&EndpointId>) {
        let turn = self.redirect.turn().await;
        let endpoints = {
            let state = self.state();
            let Some(joined) = state.sandboxes.get(sandbox).cloned() else { return };
            let mut attached = super::sandbox::attached(&state, &joined);
            drop(state);
            attached.retain(|(_, a)| one.is_none_or(|one| a.endpoint == *one));
            self.straight(&joined.spec, &attached)
        };
        turn.add(endpoints).await;
    }

    /// Makes the straight ways those that the sandboxes shall have: these, or
    /// those of the state. After a start, a repair, or a change of policies.
    pub(super) async fn restore_straight(
        &self,
        sandboxes: Option<&HashMap<SandboxId, Joined>>,
        repairs: &mut Repairs,
    ) {
        let turn = self.redirect.turn().await;
        let known;
        let sandboxes = if let Some(sandboxes) = sandboxes {
            sandboxes
        } else {
            known = self.state().sandboxes.clone();
            &known
        };
        let endpoints = sandboxes.values().flat_map(|joined| {
            let attached = super::sandbox::attached(&self.state(), joined);
            self.straight(&joined.spec, &attached)
        });
        match turn.restore(endpoints.collect()).await {
            Ok(restored) => {
                let repairs_of = |what| Repair::of(RepairKind::Redirect, what);
                repairs.restored.extend(restored.into_iter().map(repairs_of));
            }
            Err(e) => repairs.failed.push(e.to_string()),
        }
    }

    /// Compares the ways past a bridge of some sandboxes, and restores what
    /// somebody took away.
    pub(super) async fn verify_straight(&self, sandboxes: &[SandboxId], repairs: &mut Repairs) {
        let turn = self.redirect.turn().await;
        let (mut endpoints, mut owners) = (Vec::new(), HashMap::new());
        for sandbox in sandboxes {
            let joined = self.state().sandboxes.get(sandbox).cloned();
            let Some(joined) = joined else { continue };
            let attached = super::sandbox::attached(&self.state(), &joined);
            for endpoint in self.straight(&joined.spec, &attached) {
                owners.insert(endpoint.endpoint.clone(), sandbox);
                endpoints.push(endpoint);
            }
        }
        match turn.verify(endpoints).await {
            Ok(restored) => repairs.restored.extend(restored.iter().filter_map(|endpoint| {
                let what = format!("straight way by {}", endpoint.link);
                let mut repair =
                    Repair::inside(RepairKind::Redirect, owners.get(&endpoint.endpoint)?, what);
                repair.network = Some(endpoint.network.clone());
                Some(repair)
            })),
            Err(e) => repairs.failed.push(e.to_string()),
        }
    }

    fn straight(&self, spec: &SandboxSpec, attached: &[Attached]) -> Vec<Straight> {
        let of = |(network, attachment): &Attached| {
            let endpoint = spec.endpoints.iter().find(|e| e.endpoint == attachment.endpoint)?;
            let ruled = self.under_policy(&endpoint.addresses);
            Straight::of(network, endpoint, attachment, ruled)
        };
        attached.iter().filter_map(of).collect()
    }
}
