//! The firewall as one nftables table of the instance's own.
//!
//! Be aware:
//! - Changes are computed from what the firewall was told, and applied as one
//!   batch. When the kernel's table is not what was expected (somebody
//!   flushed the ruleset), the whole table is written anew, in one batch as
//!   well: no packet sees half of it.
//! - A verdict of another table at the same hook can still drop what is let
//!   through here. What the host filters at *input* concerns published ports
//!   only when they shall obey it (see [`mirror`]).
//! - Flows keep the translation of their first packet. Those that a change
//!   makes wrong are forgotten by the reaper (see [`crate::flows`]).

mod forwards;
#[cfg(test)]
mod golden;
mod links;
mod mirror;
mod networks;
mod policy;
mod rules;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sampan_sys::iptables::{LegacyChain, LegacyHook, legacy_chains};
use sampan_sys::netlink::NetlinkError;
use sampan_sys::nft::{Batch, Hook, Nft, Ruleset};
use sampan_sys::sysctl;
use sampan_types::NetworkId;

pub(crate) use self::mirror::is_own;
use self::mirror::{HostRules, Mirror};
use super::{
    BoxFuture, Exposure, Firewall, Forward, Forwards, LinkRule, NetworkRules, Policy,
    PolicyOutcome, PolicySet,
};
use crate::error::NetError;
use crate::flows::StaleFlows;
use crate::names::NameSet;
use crate::policy::{DeniedCount, PolicyCount, PolicyRule};
use crate::worker::{MANY_PORTS, Reaper, Worker};

/// The firewall of one instance.
#[derive(Debug)]
pub(crate) struct NftFirewall {
    table: String,
    /// What shall be in the table. Locked by jobs of the network thread for
    /// as long as they run, so that it changes with the kernel's table.
    wanted: Arc<Mutex<Wanted>>,
    policies: policy::PolicyTables,
    /// Whether published ports obey what the host filters at *input*.
    respects_host: bool,
    /// The host's rules as they were at a generation of the ruleset. Locked
    /// for a moment at a time.
    host_rules: Mutex<Option<(u32, Arc<HostRules>)>>,
    /// Follows the host's rules, where these are obeyed.
    watch: OnceLock<mirror::Watch>,
    worker: Worker,
    reaper: Reaper,
}

/// What shall be in the table.
#[derive(Debug, Default)]
struct Wanted {
    networks: Vec<NetworkRules>,
    forwards: Forwards,
    /// What links open.
    links: BTreeSet<LinkRule>,
    /// Copies of the host's rules, in tables beside it.
    mirror: Option<Mirror>,
    /// What was true when all of this was compared with the kernel and found
    /// right; while it is, nothing needs to be compared.
    verified: Option<Verified>,
}

/// The generation of the namespace's ruleset, and whether `::1` is answered.
type Verified = (u32, bool);

impl NftFirewall {
    /// The firewall with a table of this name. With `respects_host`,
    /// published ports obey what the host filters at *input*.
    pub fn new(table: String, respects_host: bool, worker: Worker, reaper: Reaper) -> Self {
        let policies = policy::PolicyTables::new(&table, worker.clone());
        let mirror = respects_host.then(Mirror::default);
        let wanted = Arc::new(Mutex::new(Wanted { mirror, ..Wanted::default() }));
        let (host_rules, watch) = (Mutex::default(), OnceLock::new());
        Self { table, wanted, policies, respects_host, host_rules, watch, worker, reaper }
    }

    /// Follows the host's rules from now on, when they are obeyed.
    async fn follow_host(&self) -> Result<(), NetError> {
        if !self.respects_host || self.watch.get().is_some() {
            return Ok(());
        }
        let failed = |e: std::io::Error| NetError::kernel("follow the host's firewall")(e.into());
        let port = self.worker.run(|kernel| kernel.nft.port()).await?.map_err(failed)?;
        let (worker, wanted) = (self.worker.clone(), Arc::clone(&self.wanted));
        let (table, own) = (self.table.clone(), self.table.clone());
        let renew = move || {
            let (worker, wanted, table) = (worker.clone(), Arc::clone(&wanted), table.clone());
            async move {
                let renewed = worker.run(move |kernel| {
                    let wanted = &mut *lock(&wanted);
                    enforce_mirror(&mut kernel.nft, &table, wanted)
                });
                if let Ok(Err(error)) = renewed.await {
                    tracing::error!(%error, "published ports don't obey a change of the host's firewall");
                }
            }
        };
        let relevant = move |name: &str| !mirror::is_own(&own, name) || mirror::is_copy(&own, name);
        let watch = mirror::Watch::start(&[port], relevant, renew).map_err(failed)?;
        // Somebody was faster: one is enough.
        let _ = self.watch.set(watch);
        self.warn_of_legacy().await;
        Ok(())
    }

    /// What the tables of others filter, as far as it concerns published
    /// ports.
    async fn host_rules(&self) -> Result<Arc<HostRules>, NetError> {
        let known = self.host_rules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (table, respects_host) = (self.table.clone(), self.respects_host);
        let read = move |nft: &mut Nft| {
            let generation = nft.generation()?;
            if let Some(known) = known.filter(|(of, _)| *of == generation) {
                return Ok(known);
            }
            let own = |name: &str| mirror::is_own(&table, name);
            let input = if respects_host { nft.foreign(Hook::Input, own)? } else { Vec::new() };
            let rules = HostRules { input, forward: nft.foreign(Hook::Forward, own)? };
            Ok((generation, Arc::new(rules)))
        };
        let found = self.worker.run(move |kernel| read(&mut kernel.nft)).await?;
        let found = found.map_err(NetError::kernel("read the host's firewall"))?;
        let rules = Arc::clone(&found.1);
        *self.host_rules.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(rules)
    }

    /// The chains of iptables-legacy that published ports pass, or would have to
    /// obey.
    async fn legacy(&self) -> Result<Vec<LegacyChain>, NetError> {
        let read = self.worker.run(|_| legacy_chains()).await?;
        let failed = |e: std::io::Error| NetError::kernel("look for iptables-legacy")(e.into());
        let mut chains = read.map_err(failed)?;
        chains.retain(|c| self.respects_host || c.hook == LegacyHook::Forward);
        Ok(chains)
    }

    /// Says what published ports can't obey.
    async fn warn_of_legacy(&self) {
        match self.legacy().await {
            Ok(chains) => {
                for chain in chains.iter().filter(|c| c.hook == LegacyHook::Input) {
                    let (table, chain) = (chain.table(), chain.hook.chain());
                    tracing::warn!(
                        table,
                        chain,
                        "published ports do not obey rules of iptables-legacy, which can't be \
                         read; load them with iptables-nft"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "rules of iptables-legacy are not looked for"),
        }
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
    forwards::add_to(&mut ruleset, &wanted.forwards);
    links::add_to(&mut ruleset, &wanted.links);
    ruleset
}

/// Whether a container's answer to something sent from `::1` comes back to
/// it. With br_netfilter in the way the kernel takes the answer for a forged
/// packet: its destination is `::1` already when it leaves the bridge.
pub(crate) fn answers_reach_loopback6() -> bool {
    sysctl::read("net/bridge/bridge-nf-call-ip6tables").map_or(true, |value| value == "0")
}

/// Compares the tables with what is wanted and replaces what differs.
/// Says whether they did.
fn enforce(nft: &mut Nft, table: &str, wanted: &mut Wanted) -> Result<bool, NetlinkError> {
    let different = enforce_table(nft, table, wanted)?;
    let different = enforce_mirror(nft, table, wanted)? || different;
    // Each port was there twice: as the kernel has it and as it shall be.
    if wanted.forwards.len() > MANY_PORTS {
        sampan_sys::allocator::trim_memory();
    }
    Ok(different)
}

/// As [`enforce`], and nothing when nobody changed any ruleset since the last
/// time.
fn verify(nft: &mut Nft, table: &str, wanted: &mut Wanted) -> Result<bool, NetlinkError> {
    let current = (nft.generation()?, answers_reach_loopback6());
    if wanted.verified == Some(current) {
        return Ok(false);
    }
    let different = enforce(nft, table, wanted)?;
    // What was different was written, which makes another generation.
    wanted.verified = (!different).then_some(current);
    Ok(different)
}

fn enforce_mirror(nft: &mut Nft, table: &str, wanted: &mut Wanted) -> Result<bool, NetlinkError> {
    match &mut wanted.mirror {
        Some(mirror) => mirror.enforce(nft, table, &wanted.forwards),
        None => Ok(false),
    }
}

fn enforce_table(nft: &mut Nft, table: &str, wanted: &Wanted) -> Result<bool, NetlinkError> {
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
fn apply(
    nft: &mut Nft,
    table: &str,
    wanted: &mut Wanted,
    batch: Batch,
) -> Result<(), NetlinkError> {
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
        Box::pin(async {
            self.change("set up the firewall", |nft, table, wanted| {
                let found = nft.dump(table)?.unwrap_or_default();
                wanted.networks = networks;
                wanted.forwards = forwards::read(&found);
                wanted.links = links::read(&found);
                if wanted.mirror.is_none() {
                    mirror::remove_all(nft, table)?;
                }
                enforce(nft, table, wanted).map(|_| ())
            })
            .await?;
            self.follow_host().await
        })
    }

    fn restore(&self, policy: Policy) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async move {
            let (different, stale) = self
                .change("restore the firewall", |nft, table, current| {
                    let mut stale = StaleFlows::default();
                    stale.removed(current.forwards.without(&policy.forwards));
                    stale.added(&policy.forwards.without(&current.forwards));
                    current.networks = policy.networks;
                    current.forwards = policy.forwards;
                    stale.unlinked(current.links.difference(&policy.links).cloned());
                    current.links = policy.links;
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
            let rest = self.change("restore the firewall", verify);
            Ok(rest.await? | policies?)
        })
    }

    fn differs(&self) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(self.change("look at the firewall", |nft, table, wanted| {
            Ok(nft.dump(table)? != Some(ruleset(wanted).sorted()))
        }))
    }

    fn respects_host(&self) -> bool {
        self.respects_host
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

    fn add_forwards(&self, forwards: Forwards) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            if forwards.is_empty() {
                return Ok(());
            }
            let mut stale = StaleFlows::default();
            stale.added(&forwards);
            self.change("publish ports", move |nft, table, wanted| {
                let new: Forwards = forwards.iter().filter(|f| wanted.forwards.insert(f)).collect();
                let mut batch = Batch::new();
                forwards::add(&mut batch, table, &new);
                if let Some(mirror) = &wanted.mirror {
                    mirror.add(&mut batch, table, &new);
                }
                apply(nft, table, wanted, batch).inspect_err(|_| {
                    for forward in new.iter() {
                        wanted.forwards.remove(&forward);
                    }
                })
            })
            .await?;
            self.reaper.flows(stale);
            Ok(())
        })
    }

    fn remove_forwards(&self, forwards: Forwards) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            if forwards.is_empty() {
                return Ok(());
            }
            let mut stale = StaleFlows::default();
            stale.removed(forwards.clone());
            self.change("take published ports back", move |nft, table, wanted| {
                let gone: Forwards =
                    forwards.iter().filter(|f| wanted.forwards.remove(f)).collect();
                let mut batch = Batch::new();
                forwards::remove(&mut batch, table, &gone);
                if let Some(mirror) = &wanted.mirror {
                    mirror.remove(&mut batch, table, &gone);
                }
                apply(nft, table, wanted, batch)
            })
            .await?;
            self.reaper.flows(stale);
            Ok(())
        })
    }

    fn set_links(&self, links: BTreeSet<LinkRule>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            let change = move |nft: &mut Nft, table: &str, wanted: &mut Wanted| {
                let gone: BTreeSet<_> = wanted.links.difference(&links).cloned().collect();
                let new: BTreeSet<_> = links.difference(&wanted.links).cloned().collect();
                let mut stale = StaleFlows::default();
                if gone.is_empty() && new.is_empty() {
                    return Ok(stale);
                }
                let mut batch = Batch::new();
                links::remove(&mut batch, table, &gone);
                links::add(&mut batch, table, &new);
                wanted.links = links;
                stale.unlinked(gone.iter().cloned());
                apply(nft, table, wanted, batch).inspect_err(|_| {
                    wanted.links.retain(|l| !new.contains(l));
                    wanted.links.extend(gone);
                })?;
                Ok(stale)
            };
            let stale = self.change("open the ways of links", change).await?;
            self.reaper.flows(stale);
            Ok(())
        })
    }

    fn exposure(&self, forwards: Vec<Forward>) -> BoxFuture<'_, Result<Vec<Exposure>, NetError>> {
        Box::pin(async move {
            let (rules, legacy) = (self.host_rules().await?, self.legacy().await?);
            let of = move |f: &Forward| mirror::exposure(&rules, &legacy, f);
            let evaluate = move || forwards.iter().map(of).collect::<Vec<_>>();
            tokio::task::spawn_blocking(evaluate).await.map_err(|_| NetError::Stopped)
        })
    }

    fn set_policies(
        &self,
        policies: PolicySet,
        compare: bool,
    ) -> BoxFuture<'_, Result<PolicyOutcome, NetError>> {
        Box::pin(self.policies.set(policies, compare))
    }

    fn name_sets(&self, rules: &[PolicyRule]) -> Vec<NameSet> {
        self.policies.name_sets(rules)
    }

    fn policy_counts(&self) -> BoxFuture<'_, Result<Vec<PolicyCount>, NetError>> {
        Box::pin(self.policies.counts())
    }

    fn denied(&self) -> BoxFuture<'_, Result<Vec<DeniedCount>, NetError>> {
        Box::pin(self.policies.denied())
    }
}
