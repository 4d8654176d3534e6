//! Which endpoints reach each other past their bridge.

use std::collections::HashMap;

use sampan_types::SandboxId;

use super::repair::{Repair, RepairKind};
use super::routes::Attached;
use super::{Inner, Joined, Repairs};
use crate::config::SandboxSpec;
use crate::redirect::Straight;

impl Inner {
    /// Leads frames past the bridge between a sandbox's new endpoints and
    /// their neighbours, where that may be.
    pub(super) async fn straighten(&self, spec: &SandboxSpec, attached: &[Attached]) {
        self.redirect.add(self.straight(spec, attached)).await;
    }

    /// Makes the straight ways those that these sandboxes shall have: after a
    /// start, a repair, or a change of policies.
    pub(super) async fn restore_straight(
        &self,
        sandboxes: &HashMap<SandboxId, Joined>,
        repairs: &mut Repairs,
    ) {
        let endpoints = sandboxes.values().flat_map(|joined| {
            let attached = super::sandbox::attached(&self.state(), joined);
            self.straight(&joined.spec, &attached)
        });
        match self.redirect.restore(endpoints.collect()).await {
            Ok(restored) => {
                let repairs_of = |what| Repair::of(RepairKind::Redirect, what);
                repairs.restored.extend(restored.into_iter().map(repairs_of));
            }
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
