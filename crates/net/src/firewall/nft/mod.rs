//! The firewall as one nftables table of the instance's own.
//!
//! Be aware:
//! - Changes are computed from what the firewall was told, and applied as one
//!   batch. When the kernel's table is not what was expected (somebody
//!   flushed the ruleset), the whole table is written anew, in one batch as
//!   well: no packet sees half of it.
//! - A verdict of another table can still drop what is let through here: the
//!   host's own firewall is respected.
//! - UDP flows that began before a port got or lost its destination are
//!   forgotten by the reaper, since they would keep their old translation.

mod forwards;
mod networks;
mod rules;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_sys::netlink::NetlinkError;
use sampan_sys::nft::{Batch, Nft, Ruleset};
use sampan_types::NetworkId;

use super::{BoxFuture, Firewall, Forward, NetworkRules, Policy};
use crate::error::NetError;
use crate::ports::Protocol;
use crate::worker::{FlowTarget, Reaper, Worker};

/// The firewall of one instance.
#[derive(Debug)]
pub(crate) struct NftFirewall {
    table: String,
    /// What shall be in the table. Locked by jobs of the network thread for
    /// as long as they run, so that it changes with the kernel's table.
    policy: Arc<Mutex<Policy>>,
    worker: Worker,
    reaper: Reaper,
}

impl NftFirewall {
    pub fn new(table: String, worker: Worker, reaper: Reaper) -> Self {
        Self { table, policy: Arc::default(), worker, reaper }
    }

    /// Runs a change of policy and kernel on the network thread.
    async fn change<T: Send + 'static>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&mut Nft, &str, &mut Policy) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, NetError> {
        let (table, policy) = (self.table.clone(), Arc::clone(&self.policy));
        self.worker
            .run(move |kernel| change(&mut kernel.nft, &table, &mut lock(&policy)))
            .await?
            .map_err(NetError::kernel(operation))
    }
}

fn lock(policy: &Mutex<Policy>) -> MutexGuard<'_, Policy> {
    policy.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that shall be in the table.
pub(super) fn ruleset(policy: &Policy) -> Ruleset {
    let mut ruleset = networks::ruleset(&policy.networks);
    forwards::add_to(&mut ruleset, &policy.forwards);
    ruleset
}

/// Compares the table with the policy and replaces it when they differ.
/// Says whether they did.
fn enforce(nft: &mut Nft, table: &str, policy: &Policy) -> Result<bool, NetlinkError> {
    let wanted = ruleset(policy);
    if nft.dump(table)? == Some(wanted.clone().sorted()) {
        return Ok(false);
    }
    let mut batch = Batch::new();
    batch.replace_table(table, &wanted);
    nft.commit(batch)?;
    Ok(true)
}

/// Applies a change; when the kernel's table is not as expected, makes it so.
fn apply(nft: &mut Nft, table: &str, policy: &Policy, batch: Batch) -> Result<(), NetlinkError> {
    match nft.commit(batch) {
        Err(e) if unexpected(&e) => {
            tracing::info!(table, cause = %e, "the nftables table was changed by somebody else; restoring it");
            enforce(nft, table, policy).map(|_| ())
        }
        other => other,
    }
}

/// Whether an error says that something is missing, or is there already.
fn unexpected(e: &NetlinkError) -> bool {
    e.is_absent() || e.is_present() || e.errno() == Some(EBUSY)
}

/// What the kernel says of an element that exists with another value.
const EBUSY: i32 = 16;

impl Firewall for NftFirewall {
    fn adopt(&self, networks: Vec<NetworkRules>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(self.change("set up the firewall", |nft, table, policy| {
            let found = nft.dump(table)?.unwrap_or_default();
            let ports = found.sets.iter().filter(|s| forwards::MAPS.contains(&s.name.as_str()));
            policy.networks = networks;
            policy.forwards = ports
                .flat_map(|set| set.elements.iter().filter_map(|e| forwards::read(&set.name, e)))
                .collect();
            enforce(nft, table, policy).map(|_| ())
        }))
    }

    fn restore(&self, policy: Policy) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async move {
            let (different, flows) = self
                .change("restore the firewall", |nft, table, current| {
                    let gone = current.forwards.iter().filter(|f| !policy.forwards.contains(f));
                    let new = policy.forwards.iter().filter(|f| !current.forwards.contains(f));
                    let flows = flow_targets(gone.chain(new));
                    *current = policy;
                    Ok((enforce(nft, table, current)?, flows))
                })
                .await?;
            self.reaper.flows(flows);
            Ok(different)
        })
    }

    fn add_network(&self, rules: NetworkRules) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(self.change("add rules of a network", |nft, table, policy| {
            if policy.networks.contains(&rules) {
                return enforce(nft, table, policy).map(|_| ());
            }
            let known = policy.networks.iter().position(|n| n.network == rules.network);
            if let Some(at) = known {
                policy.networks[at] = rules;
                return enforce(nft, table, policy).map(|_| ());
            }
            let mut batch = Batch::new();
            networks::add(&mut batch, table, &rules);
            policy.networks.push(rules);
            apply(nft, table, policy, batch).inspect_err(|_| {
                policy.networks.pop();
            })
        }))
    }

    fn remove_network<'a>(&'a self, network: &'a NetworkId) -> BoxFuture<'a, Result<(), NetError>> {
        let network = network.clone();
        Box::pin(self.change("remove rules of a network", move |nft, table, policy| {
            let Some(at) = policy.networks.iter().position(|n| n.network == network) else {
                return Ok(());
            };
            let rules = policy.networks.remove(at);
            let mut batch = Batch::new();
            networks::remove(&mut batch, table, &rules);
            apply(nft, table, policy, batch)
        }))
    }

    fn add_forwards(&self, forwards: Vec<Forward>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            if forwards.is_empty() {
                return Ok(());
            }
            let flows = flow_targets(forwards.iter());
            self.change("publish ports", |nft, table, policy| {
                let mut batch = Batch::new();
                forwards::add(&mut batch, table, &forwards);
                let before = policy.forwards.len();
                policy.forwards.extend(forwards);
                apply(nft, table, policy, batch).inspect_err(|_| policy.forwards.truncate(before))
            })
            .await?;
            self.reaper.flows(flows);
            Ok(())
        })
    }

    fn remove_forwards(&self, forwards: Vec<Forward>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            if forwards.is_empty() {
                return Ok(());
            }
            let flows = flow_targets(forwards.iter());
            self.change("take published ports back", move |nft, table, policy| {
                policy.forwards.retain(|f| !forwards.contains(f));
                let mut batch = Batch::new();
                forwards::remove(&mut batch, table, &forwards);
                apply(nft, table, policy, batch)
            })
            .await?;
            self.reaper.flows(flows);
            Ok(())
        })
    }
}

fn flow_targets<'a>(forwards: impl Iterator<Item = &'a Forward>) -> Vec<FlowTarget> {
    forwards
        .filter(|f| f.protocol == Protocol::Udp)
        .map(|f| FlowTarget {
            protocol: f.protocol.number(),
            host_ip: f.host_ip,
            host_port: f.host_port,
        })
        .collect()
}
