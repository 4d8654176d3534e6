//! A firewall that lets everything through and publishes nothing: it proves
//! that the seam is complete.

use std::collections::BTreeSet;

use sampan_types::NetworkId;

use super::{
    BoxFuture, Exposure, Firewall, Forward, Forwards, LinkRule, NetworkRules, Policy,
    PolicyOutcome, PolicySet,
};
use crate::error::NetError;
use crate::names::NameSet;
use crate::policy::{DeniedCount, PolicyCount, PolicyRule};

/// No firewall.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoFirewall;

impl Firewall for NoFirewall {
    fn adopt(&self, _networks: Vec<NetworkRules>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn restore(&self, _policy: Policy) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async { Ok(false) })
    }

    fn differs(&self) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async { Ok(false) })
    }

    fn verify(&self) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async { Ok(false) })
    }

    fn respects_host(&self) -> bool {
        false
    }

    fn add_network(&self, _rules: NetworkRules) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn remove_network<'a>(
        &'a self,
        _network: &'a NetworkId,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn add_forwards(&self, _forwards: Forwards) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn remove_forwards(&self, _forwards: Forwards) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn set_links(&self, _links: BTreeSet<LinkRule>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn exposure(&self, forwards: Vec<Forward>) -> BoxFuture<'_, Result<Vec<Exposure>, NetError>> {
        Box::pin(async move { Ok(vec![Exposure::Nobody; forwards.len()]) })
    }

    fn set_policies(
        &self,
        _policies: PolicySet,
        _compare: bool,
    ) -> BoxFuture<'_, Result<PolicyOutcome, NetError>> {
        Box::pin(async { Ok(PolicyOutcome::default()) })
    }

    fn name_sets(&self, _rules: &[PolicyRule]) -> Vec<NameSet> {
        Vec::new()
    }

    fn policy_counts(&self) -> BoxFuture<'_, Result<Vec<PolicyCount>, NetError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn denied(&self) -> BoxFuture<'_, Result<Vec<DeniedCount>, NetError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
