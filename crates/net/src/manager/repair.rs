//! Putting right what is not as it shall be, restricted to what is suspected.
//!
//! Be aware: nothing else is done to a sandbox or network meanwhile: a repair
//! runs alone, and takes as long as its comparison.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ipnet::IpNet;
use sampan_sys::netlink::{NetlinkError, Request, Route, RouteEntry, add_route};
use sampan_types::{NetworkId, SandboxId};

use super::routes::Attached;
use super::{Inner, Joined, Repairs, State};
use crate::config::{DriverConfig, NetworkSpec, SandboxSpec};
use crate::driver::Namespace;
use crate::error::NetError;
use crate::firewall::Firewall;
use crate::watch::Scope;

/// How many sandboxes are compared before others get their turn.
const SANDBOXES_AT_ONCE: usize = 64;

/// What kind of thing was put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairKind {
    /// The host's forwarding of packets.
    Forwarding,
    /// A network's links, addresses and routes on the host.
    Network,
    /// A sandbox's links, addresses and routes.
    Endpoint,
    /// Rules and published ports.
    Firewall,
    /// Names of containers.
    Names,
    /// Ways past a bridge.
    Redirect,
}

impl RepairKind {
    /// The word for it, in events and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forwarding => "forwarding",
            Self::Network => "network",
            Self::Endpoint => "endpoint",
            Self::Firewall => "firewall",
            Self::Names => "names",
            Self::Redirect => "redirect",
        }
    }
}

/// Something that was missing or different and is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// What kind of thing it is.
    pub kind: RepairKind,
    /// The network that it is of.
    pub network: Option<NetworkId>,
    /// The sandbox that it is of.
    pub sandbox: Option<SandboxId>,
    /// What was restored, in words.
    pub what: String,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Repair {
    pub(super) fn of(kind: RepairKind, what: impl Into<String>) -> Self {
        Self { kind, network: None, sandbox: None, what: what.into() }
    }

    pub(super) fn network(network: &NetworkSpec, what: impl Into<String>) -> Self {
        Self { network: Some(network.id.clone()), ..Self::of(RepairKind::Network, what) }
    }

    pub(super) fn inside(kind: RepairKind, sandbox: &SandboxId, what: impl Into<String>) -> Self {
        Self { sandbox: Some(sandbox.clone()), ..Self::of(kind, what) }
    }

    pub(super) fn endpoint(
        sandbox: &SandboxId,
        network: Option<&NetworkId>,
        what: impl Into<String>,
    ) -> Self {
        let (network, sandbox) = (network.cloned(), Some(sandbox.clone()));
        Self { network, sandbox, ..Self::of(RepairKind::Endpoint, what) }
    }
}

impl State {
    fn sandboxes_on(&self, network: &NetworkId) -> Vec<SandboxId> {
        let on = |j: &&Joined| j.spec.endpoints.iter().any(|e| e.network == *network);
        self.sandboxes.values().filter(on).map(|j| j.spec.sandbox.clone()).collect()
    }
}

impl Inner {
    /// Compares what is in `scope` with the kernel and restores what differs.
    pub(crate) async fn repair(&self, mut scope: Scope) -> Repairs {
        let mut repairs = Repairs::default();
        if scope.forwarding {
            self.restore_forwarding(&mut repairs);
        }
        if scope.firewall {
            self.restore_firewall(&mut repairs).await;
        }
        if scope.direct {
            self.refresh_direct(&mut repairs).await;
        }
        if scope.own_addresses {
            self.host6.refresh().await;
        }
        self.restore_ways(&scope, &mut repairs).await;
        for network in std::mem::take(&mut scope.networks) {
            let _alone = self.whole.write().await;
            let spec = self.state().networks.get(&network).cloned();
            let Some(spec) = spec else { continue };
            let before = repairs.restored.len();
            self.restore_network(&spec, &mut repairs).await;
            // Ports of a bridge tell themselves that they lost it. What the
            // host has of endpoints on a LAN went without a word.
            if repairs.restored.len() > before && !matches!(spec.driver, DriverConfig::Bridge(_)) {
                scope.sandboxes.extend(self.state().sandboxes_on(&spec.id));
            }
        }
        if scope.sandboxes.is_empty() {
            return repairs;
        }
        // Observing is one list of all links, whatever their number.
        let _alone = self.whole.write().await;
        let observed = self.observe(&mut repairs).await;
        for sandbox in scope.sandboxes {
            let joined = self.state().sandboxes.get(&sandbox).cloned();
            let Some(before) = joined else { continue };
            let (failures, restored) = (repairs.failed.len(), repairs.restored.len());
            match self.restore_sandbox(before.spec.clone(), &observed, &mut repairs).await {
                // What could not be restored stays what it was.
                Some(_) if repairs.failed.len() > failures => {}
                Some(after) => {
                    self.state().sandboxes.insert(sandbox.clone(), after);
                    if repairs.restored.len() > restored {
                        self.straighten(&sandbox, None).await;
                        self.direct(&sandbox).await;
                    }
                }
                None => repairs.lost.push(sandbox),
            }
        }
        self.follow_links(true).await;
        self.refresh_policies().await;
        repairs
    }

    /// Restores what leads frames past a bridge, and questions to the name
    /// service. A sandbox that goes meanwhile is none the worse for it, hence
    /// nobody is kept waiting.
    async fn restore_ways(&self, scope: &Scope, repairs: &mut Repairs) {
        let straight: Vec<_> = scope.straight.iter().cloned().collect();
        for some in straight.chunks(SANDBOXES_AT_ONCE) {
            self.verify_straight(some, repairs).await;
        }
        let named: Vec<_> = scope.names.iter().cloned().collect();
        for some in named.chunks(SANDBOXES_AT_ONCE) {
            match self.names.verify(some.to_vec()).await {
                Ok(restored) => repairs.restored.extend(restored.iter().map(|sandbox| {
                    let what = format!("way to the name service of sandbox {}", sandbox.short());
                    Repair::inside(RepairKind::Names, sandbox, what)
                })),
                Err(e) => repairs.failed.push(e.to_string()),
            }
        }
    }

    /// Takes note that events of the kernel were lost.
    pub(crate) fn count_overrun(&self) {
        self.overruns.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn restore_forwarding(&self, repairs: &mut Repairs) {
        match self.forward_packets() {
            Ok(true) => {
                let what = "forwarding of packets";
                repairs.restored.push(Repair::of(RepairKind::Forwarding, what));
            }
            Ok(false) => {}
            Err(e) => repairs.failed.push(e.to_string()),
        }
    }

    async fn restore_firewall(&self, repairs: &mut Repairs) {
        match self.firewall.verify().await {
            Ok(true) => {
                let what = "rules and published ports";
                repairs.restored.push(Repair::of(RepairKind::Firewall, what));
                if let Err(e) = self.fill_again().await {
                    repairs.failed.push(e.to_string());
                }
                if let Err(e) = self.refill_names().await {
                    repairs.failed.push(e.to_string());
                }
            }
            Ok(false) => {}
            Err(e) => repairs.failed.push(e.to_string()),
        }
    }

    pub(super) async fn restore_network(&self, network: &Arc<NetworkSpec>, repairs: &mut Repairs) {
        match self.driver(network).create_network(network).await {
            Ok(missing) => {
                let repaired = missing.into_iter().map(|line| Repair::network(network, line));
                repairs.restored.extend(repaired);
            }
            Err(e) => return repairs.failed.push(e.to_string()),
        }
        let DriverConfig::Bridge(config) = &network.driver else { return };
        let (bridge, addresses) = (config.bridge.clone(), config.gateways().collect::<Vec<_>>());
        let restored =
            self.worker.run(move |kernel| restore_own_nets(&mut kernel.route, &bridge, &addresses));
        match flatten(restored.await, &network.name) {
            Ok(nets) => repairs.restored.extend(nets.into_iter().map(|net| {
                Repair::network(network, format!("route to {net} of network {}", network.name))
            })),
            Err(e) => repairs.failed.push(e.to_string()),
        }
    }

    /// Adds the routes that came with a sandbox's addresses and are missing.
    pub(super) async fn restore_own_nets_inside(
        &self,
        spec: &SandboxSpec,
        namespace: &Arc<Namespace>,
        attached: &[Attached],
        repairs: &mut Repairs,
    ) {
        for (network, attachment) in attached {
            let Some(interface) = attachment.interface.clone() else { continue };
            let (inside, addresses) = (Arc::clone(namespace), attachment.addresses.clone());
            let restored = self
                .worker
                .run(move |_| restore_own_nets(&mut inside.route(), &interface, &addresses));
            match flatten(restored.await, &network.name) {
                Ok(nets) => repairs.restored.extend(nets.into_iter().map(|net| {
                    let short = spec.sandbox.short();
                    let what = format!("route to {net} of sandbox {short}");
                    Repair::endpoint(&spec.sandbox, Some(&network.id), what)
                })),
                Err(e) => repairs.failed.push(e.to_string()),
            }
        }
    }

    /// Whether the host shall forward packets.
    pub(crate) fn forwards_packets(&self) -> bool {
        self.ip_forward
    }

    pub(crate) fn firewall(&self) -> &dyn Firewall {
        &*self.firewall
    }

    /// Tells those who asked for it of a repair.
    pub(crate) fn tell_repair(&self, repair: Repair) {
        // Nobody listening is no error.
        let _ = self.repairs.send(repair);
    }
}

fn flatten(
    result: Result<Result<Vec<IpNet>, NetlinkError>, NetError>,
    network: &str,
) -> Result<Vec<IpNet>, NetError> {
    result?.map_err(NetError::kernel(format!("restore the routes to network {network}")))
}

/// Adds the routes to their own subnets that came with the addresses of the
/// link `name` and that somebody removed. Says which those were.
fn restore_own_nets(
    route: &mut Route,
    name: &str,
    addresses: &[IpNet],
) -> Result<Vec<IpNet>, NetlinkError> {
    let Some(link) = route.link(name)?.filter(|l| l.up).map(|l| l.index) else {
        return Ok(Vec::new());
    };
    let given = route.addresses_of(link)?;
    let has = |a: &&IpNet| given.iter().any(|g| g.address == **a);
    let wide = |a: &&IpNet| a.prefix_len() < a.max_prefix_len();
    let mut missing = Vec::new();
    for address in addresses.iter().filter(wide).filter(has) {
        let own = RouteEntry { destination: Some(address.trunc()), gateway: None, link };
        let present = route.routes_of(link, address.addr())?;
        if !present.iter().any(|r| r.destination == own.destination) {
            route.run(add_route(&own).map(Request::present_ok).into_iter().collect())?;
            missing.push(address.trunc());
        }
    }
    Ok(missing)
}
