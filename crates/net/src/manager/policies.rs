//! Network policies: which endpoints they are about, and telling the firewall
//! before these can send or receive anything.
//!
//! Be aware:
//! - Without a policy nothing here costs anything.
//! - An endpoint that comes under policy is known to the firewall by its
//!   hardware address before it is made, and by its port of the bridge before
//!   a process can use it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_sys::sysctl;
use sampan_types::{EndpointId, SandboxId};

use super::{Inner, Networks, Repairs, Sandbox, State};
use crate::config::{Attachment, DriverConfig, EndpointSpec, NetworkSpec, SandboxSpec};
use crate::error::NetError;
use crate::firewall::{Guard, PolicySet};
use crate::mac::MacAddr;
use crate::names::NameSet;
use crate::policy::{PolicyCount, PolicyRule};

/// What is known of policies.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    rules: Vec<PolicyRule>,
    /// The addresses that rules allow or deny something.
    subjects: HashSet<IpAddr>,
    /// Endpoints that are being made.
    coming: HashMap<EndpointId, Guard>,
    /// The sets that the name service fills.
    filled: Vec<NameSet>,
}

impl Policies {
    /// The rules in their order.
    pub(crate) fn rules(&self) -> &[PolicyRule] {
        &self.rules
    }

    /// Says which addresses came under policy, or are no longer.
    fn set(&mut self, rules: Vec<PolicyRule>) -> HashSet<IpAddr> {
        let judged = rules.iter().filter(|r| r.is_verdict());
        let subjects: HashSet<IpAddr> = judged.flat_map(|r| r.subjects.iter().copied()).collect();
        let changed = subjects.symmetric_difference(&self.subjects).copied().collect();
        self.subjects = subjects;
        self.rules = rules;
        changed
    }
}

impl Networks {
    /// Makes `rules` the policies, in the order in which they are looked at:
    /// for what runs at once, with every flow that exists.
    ///
    /// # Errors
    /// [`NetError::NotSupported`] when a rule is about an endpoint on a
    /// network that the host's firewall does not see, and nothing is changed;
    /// or the kernel's.
    pub async fn set_policies(&self, rules: Vec<PolicyRule>) -> Result<(), NetError> {
        self.check_policies(&rules)?;
        self.detached(|inner| async move {
            let _shared = inner.whole.read().await;
            let changed = {
                let mut state = inner.state();
                let changed = state.policies.set(rules);
                let mut endpoints = state.sandboxes.values().flat_map(|j| &j.spec.endpoints);
                endpoints.any(|e| e.addresses.iter().any(|a| changed.contains(a)))
            };
            inner.apply_policies(false).await?;
            if changed {
                inner.straighten_again().await;
            }
            Ok(())
        })
        .await
    }

    /// As [`Networks::set_policies`], for the next [`Networks::reconcile`] to
    /// carry out: at a start, when it is not known yet what runs. Until then
    /// what an earlier run left stays in force.
    pub fn prepare_policies(&self, rules: Vec<PolicyRule>) {
        self.inner.state().policies.set(rules);
    }

    /// Refuses rules that are about an endpoint in use which they can't be
    /// enforced on.
    ///
    /// # Errors
    /// [`NetError::NotSupported`], naming rule and network.
    pub fn check_policies(&self, rules: &[PolicyRule]) -> Result<(), NetError> {
        const FORWARDING: &str = "net.ipv4.ip_forward";
        let routes = || self.inner.ip_forward || sysctl::read(FORWARDING).is_ok_and(|v| v != "0");
        if let Some(rule) = rules.iter().find(|r| r.is_verdict()).filter(|_| !routes()) {
            return Err(NetError::NotSupported {
                what: format!(
                    "policy {} on a host that forwards no packets: containers under policy reach \
                     each other by the host (set {FORWARDING}, or leave --ip-forward=false out)",
                    rule.name
                ),
            });
        }
        let state = self.inner.state();
        let endpoints = state.sandboxes.values().flat_map(|j| &j.spec.endpoints);
        for endpoint in endpoints {
            let Some(network) = state.networks.get(&endpoint.network) else { continue };
            check(rules, endpoint, network)?;
        }
        Ok(())
    }

    /// Whether a policy allows or denies something to the container with this
    /// address: its packets have to pass the bridge, where the rules are.
    #[must_use]
    pub fn under_policy(&self, address: IpAddr) -> bool {
        self.inner.under_policy(&[address])
    }

    /// What the rules met.
    ///
    /// # Errors
    /// When the kernel's counters can't be read.
    pub async fn policy_counts(&self) -> Result<Vec<PolicyCount>, NetError> {
        self.inner.firewall.policy_counts().await
    }
}

/// Refuses an endpoint that a rule is about on a network whose packets do not
/// pass the host's firewall.
fn check(
    rules: &[PolicyRule],
    endpoint: &EndpointSpec,
    network: &NetworkSpec,
) -> Result<(), NetError> {
    let DriverConfig::Bridge(config) = &network.driver else {
        let about = |r: &&PolicyRule| endpoint.addresses.iter().any(|a| r.subjects.contains(a));
        return rules.iter().find(about).map_or(Ok(()), |rule| {
            refuse(rule, network, "whose packets do not pass the host's firewall")
        });
    };
    // Neighbours under policy reach each other by the host.
    let routed = |a: &IpAddr| config.gateways().any(|g| g.contains(a));
    let about = |r: &&PolicyRule| {
        r.is_verdict() && endpoint.addresses.iter().any(|a| !routed(a) && r.subjects.contains(a))
    };
    rules.iter().find(about).map_or(Ok(()), |rule| {
        refuse(rule, network, "on which the host has no address to hand packets on by")
    })
}

fn refuse(rule: &PolicyRule, network: &NetworkSpec, why: &str) -> Result<(), NetError> {
    let what = format!(
        "policy {} on network {}, {why} (to limit the policy to other networks, name one in it)",
        rule.name, network.name
    );
    Err(NetError::NotSupported { what })
}

impl Inner {
    /// Sets a sandbox up that policies may be about.
    pub(super) async fn join_guarded(&self, mut spec: SandboxSpec) -> Result<Sandbox, NetError> {
        self.guard_ahead(&mut spec.endpoints).await?;
        let id = spec.sandbox.clone();
        let endpoints: Vec<EndpointId> =
            spec.endpoints.iter().map(|e| e.endpoint.clone()).collect();
        let joined = self.join(spec).await;
        let guarded = self.guard_as_made(&endpoints).await;
        let sandbox = joined?;
        if let Err(e) = guarded {
            self.take_back(&id).await;
            return Err(e);
        }
        Ok(sandbox)
    }

    /// Takes a sandbox away again that could not be completed.
    pub(super) async fn take_back(&self, sandbox: &SandboxId) {
        if let Err(error) = self.leave(sandbox).await {
            tracing::warn!(%sandbox, %error, "failed to take a sandbox back");
        }
    }

    /// Connects a sandbox to a network with policies that may be about it.
    pub(super) async fn connect_guarded(
        &self,
        sandbox: &SandboxId,
        mut endpoint: EndpointSpec,
    ) -> Result<Attachment, NetError> {
        self.guard_ahead(std::slice::from_mut(&mut endpoint)).await?;
        let id = endpoint.endpoint.clone();
        let connected = self.connect(sandbox, endpoint).await;
        let guarded = self.guard_as_made(std::slice::from_ref(&id)).await;
        let attachment = connected?;
        if let Err(e) = guarded {
            if let Err(also) = self.disconnect(sandbox, &id).await {
                tracing::warn!(%sandbox, error = %also, "failed to take an endpoint back");
            }
            return Err(e);
        }
        Ok(attachment)
    }

    /// Whether a rule allows or denies something to one of these addresses.
    pub(super) fn under_policy(&self, addresses: &[IpAddr]) -> bool {
        let state = self.state();
        let subjects = &state.policies.subjects;
        !subjects.is_empty() && addresses.iter().any(|a| subjects.contains(a))
    }

    /// Tells the firewall of endpoints before they are made. They get the
    /// hardware address here that they are told by.
    async fn guard_ahead(&self, endpoints: &mut [EndpointSpec]) -> Result<(), NetError> {
        let mut any = false;
        {
            let mut state = self.state();
            if state.policies.rules.is_empty() {
                return Ok(());
            }
            for endpoint in endpoints {
                let Some(network) = state.networks.get(&endpoint.network).cloned() else {
                    continue;
                };
                check(&state.policies.rules, endpoint, &network)?;
                if !state.policies.is_about(endpoint) {
                    continue;
                }
                let mac = *endpoint.mac.get_or_insert_with(MacAddr::random);
                if let Some(guard) = guard(endpoint, &network, Some(mac), None) {
                    state.policies.coming.insert(endpoint.endpoint.clone(), guard);
                    any = true;
                }
            }
        }
        if any { self.apply_policies(false).await } else { Ok(()) }
    }

    /// Tells the firewall of the endpoints as they are, after these were made,
    /// or failed to be.
    async fn guard_as_made(&self, made: &[EndpointId]) -> Result<(), NetError> {
        {
            let mut state = self.state();
            if state.policies.rules.is_empty() {
                return Ok(());
            }
            for endpoint in made {
                state.policies.coming.remove(endpoint);
            }
        }
        self.apply_policies(false).await
    }

    /// Tells the firewall that something about endpoints or networks changed.
    /// A failure leaves more guarded than there is, which the next change or
    /// comparison puts right.
    pub(super) async fn refresh_policies(&self) {
        if self.state().policies.rules.is_empty() {
            return;
        }
        if let Err(error) = self.apply_policies(false).await {
            tracing::warn!(%error, "network policies are not up to date");
        }
    }

    /// Makes the policies those of the firewall and of the name service. Says
    /// nothing to either when there never was one.
    pub(super) async fn apply_policies(&self, compare: bool) -> Result<(), NetError> {
        let _turn = self.policy_turn.lock().await;
        let set = policy_set(&self.state());
        let outcome = self.firewall.set_policies(set, compare).await?;
        let known = self.state().policies.filled == outcome.names;
        if !known || outcome.emptied {
            // Sets that were made anew are filled with what is remembered.
            self.names.fill(outcome.names.clone()).await?;
            self.state().policies.filled = outcome.names;
        }
        Ok(())
    }

    /// Before the name service hears of sandboxes for the first time: a process
    /// that goes on from an earlier run keeps what it remembers of the names
    /// that it is told to fill sets for, and nothing else.
    pub(super) async fn fill_names_ahead(&self) -> Result<(), NetError> {
        let names = self.firewall.name_sets(self.state().policies.rules());
        if names.is_empty() {
            return Ok(());
        }
        self.names.fill(names.clone()).await?;
        self.state().policies.filled = names;
        Ok(())
    }

    /// After the firewall was restored: the addresses of names are put into its
    /// sets again.
    pub(super) async fn refill_names(&self) -> Result<(), NetError> {
        let filled = self.state().policies.filled.clone();
        if filled.is_empty() { Ok(()) } else { self.names.fill(filled).await }
    }

    /// Lets the name service fill its sets again, after they were made anew.
    pub(super) async fn fill_again(&self) -> Result<(), NetError> {
        let filled = self.state().policies.filled.clone();
        if filled.is_empty() { Ok(()) } else { self.names.fill(filled).await }
    }

    /// After policies changed, other endpoints may reach each other past their
    /// bridge, and others may be reached past the firewall.
    async fn straighten_again(&self) {
        let mut repairs = Repairs::default();
        self.restore_straight(None, &mut repairs).await;
        self.restore_direct(None, &mut repairs).await;
        for failure in repairs.failed {
            tracing::warn!(%failure, "ways past a bridge are not up to date");
        }
    }
}

impl Policies {
    fn is_about(&self, endpoint: &EndpointSpec) -> bool {
        endpoint.addresses.iter().any(|a| self.subjects.contains(a))
    }
}

/// The policies with the endpoints that they are about.
fn policy_set(state: &State) -> PolicySet {
    let policies = &state.policies;
    let mut guards: Vec<Guard> = policies.coming.values().cloned().collect();
    if !policies.subjects.is_empty() {
        guards.extend(state.sandboxes.values().flat_map(|j| made(state, &j.spec, &j.sandbox)));
    }
    guards.sort_by(|a, b| (a.mac, &a.interface).cmp(&(b.mac, &b.interface)));
    let bridge = |n: &NetworkSpec| match &n.driver {
        DriverConfig::Bridge(config) => Some(config.bridge.clone()),
        _ => None,
    };
    let mut networks: Vec<String> = state.networks.values().filter_map(|n| bridge(n)).collect();
    networks.sort();
    PolicySet { rules: policies.rules.clone(), guards, networks }
}

/// The guards of a sandbox that is set up.
fn made(state: &State, spec: &SandboxSpec, sandbox: &Sandbox) -> Vec<Guard> {
    let of = |attachment: &Attachment| {
        let endpoint = spec.endpoints.iter().find(|e| e.endpoint == attachment.endpoint)?;
        if !state.policies.is_about(endpoint) {
            return None;
        }
        let network = state.networks.get(&endpoint.network)?;
        guard(endpoint, network, attachment.mac, attachment.host_interface.clone())
    };
    sandbox.attachments.iter().filter_map(of).collect()
}

fn guard(
    endpoint: &EndpointSpec,
    network: &NetworkSpec,
    mac: Option<MacAddr>,
    interface: Option<String>,
) -> Option<Guard> {
    let DriverConfig::Bridge(config) = &network.driver else { return None };
    let with_prefix = |address: &IpAddr| {
        let length = config.subnet_of(*address)?.net.prefix_len();
        Some(IpNet::new_assert(*address, length))
    };
    let addresses = endpoint.addresses.iter().filter_map(with_prefix).collect();
    Some(Guard { bridge: config.bridge.clone(), interface, mac: mac?, addresses })
}
