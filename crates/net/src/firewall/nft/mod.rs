//! The firewall as one nftables table of the instance's own.
//!
//! Be aware:
//! - Changes are computed from what the firewall was told, and applied as one
//!   batch. When the kernel's table is not what was expected (somebody
//!   flushed the ruleset), the whole table is written anew, in one batch as
//!   well: no packet sees half of it.
//! - A verdict of another table can still drop what is let through here: the
//!   host's own firewall is respected.
//! - Flows keep the translation of their first packet. Those that a change
//!   makes wrong are forgotten by the reaper (see [`crate::flows`]).

mod forwards;
#[cfg(test)]
mod golden;
mod networks;
mod policy;
mod rules;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_sys::netlink::NetlinkError;
use sampan_sys::nft::{Batch, Nft, Ruleset};
use sampan_sys::sysctl;
use sampan_types::NetworkId;

use super::{
    BoxFuture, Firewall, Forward, NetworkRules, Policy, PolicyOutcome, PolicySet,
};
use crate::error::NetError;
use crate::flows::StaleFlows;
use crate::policy::PolicyCount;
use crate::worker::{Reaper, Worker};

/// The firewall of one instance.
#[derive(Debug)]
pub(crate) struct NftFirewall {
    table: String,
    /// What shall be in the table. Locked by jobs of the network thread for
    /// as long as they run, so that it changes with the kernel's table.
    wanted: Arc<Mutex<Wanted>>,
    policies: policy::PolicyTables,
    worker: Worker,
    reaper: Reaper,
}

/// What shall be in the table.
#[derive(Debug, Default)]
struct Wanted {
    networks: Vec<NetworkRules>,
    forwards: HashSet<Forward>,
}

impl NftFirewall {
    pub fn new(table: String, worker: Worker, reaper: Reaper) -> Self {
        let policies = policy::PolicyTables::new(&table, worker.clone());
        Self { table, wanted: Arc::default(), policies, worker, reaper }
    }

    /// Runs a change of what is wanted and of the kernel on the network
    /// thread.
    async fn change<T: Send + 'static>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&mut Nft, &str, &mut Wanted) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, NetError> {
        let (table, wanted) = (self.table.clone(), Arc::clone(&self.wanted));
        self.worker
            .run(move |kernel| change(&mut kernel.nft, &table, &mut lock(&wanted)))
            .await?
            .map_err(NetError::kernel(operation))
    }
}

fn lock(wanted: &Mutex<Wanted>) -> MutexGuard<'_, Wanted> {
    wanted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that shall be in the table.
fn ruleset(wanted: &Wanted) -> Ruleset {
    let mut ruleset = networks::ruleset(&wanted.networks, answers_reach_loopback6());
    forwards::add_to(&mut ruleset, wanted.forwards.iter());
    ruleset
}

/// Whether a container's answer to something sent from `::1` comes back to
/// it. With br_netfilter in the way the kernel takes the answer for a forged
/// packet: its destination is `::1` already when it leaves the bridge.
fn answers_reach_loopback6() -> bool {
    sysctl::read("net/bridge/bridge-nf-call-ip6tables").map_or(true, |value| value == "0")
}

/// Compares the table with what is wanted and replaces it when they differ.
/// Says whether they did.
fn enforce(nft: &mut Nft, table: &str, wanted: &Wanted) -> Result<bool, NetlinkError> {
    let ruleset = ruleset(wanted);
    if let Some(found) = nft.dump(table)?
        && found == ruleset.clone().sorted()
    {
        return Ok(false);
    }
    let mut batch = Batch::new();
    batch.replace_table(table, &ruleset);
    nft.commit(batch)?;
    Ok(true)
}

/// Applies a change; when the kernel's table is not as expected, makes it so.
fn apply(nft: &mut Nft, table: &str, wanted: &Wanted, batch: Batch) -> Result<(), NetlinkError> {
    match nft.commit(batch) {
        Err(e) if unexpected(&e) => {
            tracing::info!(table, cause = %e, "the nftables table was changed by somebody else; restoring it");
            enforce(nft, table, wanted).map(|_| ())
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
        Box::pin(self.change("set up the firewall", |nft, table, wanted| {
            let found = nft.dump(table)?.unwrap_or_default();
            wanted.networks = networks;
            wanted.forwards = forwards::read(&found).into_iter().collect();
            enforce(nft, table, wanted).map(|_| ())
        }))
    }

    fn restore(&self, policy: Policy) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async move {
            let (different, stale) = self
                .change("restore the firewall", |nft, table, current| {
                    let forwards: HashSet<Forward> = policy.forwards.into_iter().collect();
                    let mut stale = StaleFlows::default();
                    stale.removed(current.forwards.difference(&forwards));
                    stale.added(forwards.difference(&current.forwards));
                    *current = Wanted { networks: policy.networks, forwards };
                    Ok((enforce(nft, table, current)?, stale))
                })
                .await?;
            self.reaper.flows(stale);
            Ok(different)
        })
    }

    fn verify(&self) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async {
            let policies = self.policies.verify().await;
            let rest = self.change("restore the firewall", |nft, table, wanted| {
                enforce(nft, table, wanted)
            });
            Ok(rest.await? | policies?)
        })
    }

    fn add_network(&self, rules: NetworkRules) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(self.change("add rules of a network", |nft, table, wanted| {
            if wanted.networks.contains(&rules) {
                return enforce(nft, table, wanted).map(|_| ());
            }
            let known = wanted.networks.iter().position(|n| n.network == rules.network);
            if let Some(at) = known {
                wanted.networks[at] = rules;
                return enforce(nft, table, wanted).map(|_| ());
            }
            let mut batch = Batch::new();
            networks::add(&mut batch, table, &rules);
            wanted.networks.push(rules);
            apply(nft, table, wanted, batch).inspect_err(|_| {
                wanted.networks.pop();
            })
        }))
    }

    fn remove_network<'a>(&'a self, network: &'a NetworkId) -> BoxFuture<'a, Result<(), NetError>> {
        let network = network.clone();
        Box::pin(self.change("remove rules of a network", move |nft, table, wanted| {
            let Some(at) = wanted.networks.iter().position(|n| n.network == network) else {
                return Ok(());
            };
            let rules = wanted.networks.remove(at);
            let mut batch = Batch::new();
            networks::remove(&mut batch, table, &rules);
            apply(nft, table, wanted, batch)
        }))
    }

    fn add_forwards(&self, forwards: Vec<Forward>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            if forwards.is_empty() {
                return Ok(());
            }
            let mut stale = StaleFlows::default();
            stale.added(forwards.iter());
            self.change("publish ports", |nft, table, wanted| {
                let new: Vec<Forward> =
                    forwards.into_iter().filter(|f| wanted.forwards.insert(f.clone())).collect();
                let mut batch = Batch::new();
                forwards::add(&mut batch, table, new.iter());
                apply(nft, table, wanted, batch).inspect_err(|_| {
                    for forward in &new {
                        wanted.forwards.remove(forward);
                    }
                })
            })
            .await?;
            self.reaper.flows(stale);
            Ok(())
        })
    }

    fn remove_forwards(&self, forwards: Vec<Forward>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            if forwards.is_empty() {
                return Ok(());
            }
            let mut stale = StaleFlows::default();
            stale.removed(forwards.iter());
            self.change("take published ports back", move |nft, table, wanted| {
                let gone: Vec<&Forward> =
                    forwards.iter().filter(|f| wanted.forwards.remove(*f)).collect();
                let mut batch = Batch::new();
                forwards::remove(&mut batch, table, gone.iter().copied());
                apply(nft, table, wanted, batch)
            })
            .await?;
            self.reaper.flows(stale);
            Ok(())
        })
    }

    fn set_policies(
        &self,
        policies: PolicySet,
        compare: bool,
    ) -> BoxFuture<'_, Result<PolicyOutcome, NetError>> {
        Box::pin(self.policies.set(policies, compare))
    }

    fn policy_counts(&self) -> BoxFuture<'_, Result<Vec<PolicyCount>, NetError>> {
        Box::pin(self.policies.counts())
    }
}
