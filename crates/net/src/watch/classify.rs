//! What an event is about: pure.
//!
//! Be aware:
//! - Only what is ours and may be wrong now is marked. An event that shows an
//!   object as it shall be marks nothing, so that what this process does
//!   itself costs no comparison.
//! - A mark is a suspicion; whether anything is wrong, the comparison says.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_sys::netlink::{Link, RouteChange, RouteEntry, RouteEvent};
use sampan_sys::nft::TableEvent;
use sampan_types::{NetworkId, SandboxId};

use crate::config::{Attachment, BridgeConfig, DriverConfig, NetworkSpec};
use crate::driver::Mark;
use crate::firewall::is_own;
use crate::manager::State;
use crate::names::TABLE;

/// What has to be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Everything.
    pub all: bool,
    /// The host's forwarding of packets.
    pub forwarding: bool,
    /// Our table.
    pub firewall: bool,
    /// What direct ways of published ports depend on: rules of others, the
    /// host's interfaces.
    pub direct: bool,
    /// Which addresses of IPv6 are the host's, and whether `::1` is answered.
    pub own_addresses: bool,
    /// Links and addresses of these networks.
    pub networks: HashSet<NetworkId>,
    /// Endpoints of these sandboxes.
    pub sandboxes: HashSet<SandboxId>,
    /// The ways past their bridges of these sandboxes' endpoints.
    pub straight: HashSet<SandboxId>,
    /// The ways to the name service inside of these sandboxes.
    pub names: HashSet<SandboxId>,
    /// Links of the host, by number, that lost a filter or a queue; whose they
    /// are has to be found out.
    pub links: HashSet<u32>,
}

impl Scope {
    /// Whether nothing has to be compared.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What was told since the last look. Of a link only its latest state counts.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    links: HashMap<(Option<i32>, u32), RouteChange>,
    gone: Vec<RouteEvent>,
    tables: HashSet<TableEvent>,
}

impl Heap {
    pub fn route(&mut self, event: RouteEvent) {
        match &event.change {
            RouteChange::Link(link) | RouteChange::LinkGone(link) => {
                self.links.insert((event.namespace, link.index), event.change);
            }
            _ => self.gone.push(event),
        }
    }

    pub fn table(&mut self, event: TableEvent) {
        self.tables.insert(event);
    }
}

/// What the watcher knows beside the state.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The instance's name: that of its marks and of its table.
    pub instance: String,
    /// The numbers of the sandboxes' namespaces.
    pub numbers: HashMap<i32, SandboxId>,
    /// The host's bridges by their numbers.
    pub bridges: HashMap<u32, String>,
}

impl Known {
    /// Takes note of a link of the host.
    fn note(&mut self, change: &RouteChange) {
        match change {
            RouteChange::Link(link) if link.kind == "bridge" => {
                self.bridges.insert(link.index, link.name.clone());
            }
            RouteChange::LinkGone(link) => drop(self.bridges.remove(&link.index)),
            _ => {}
        }
    }

    /// What has to be compared after all of `heap`.
    pub fn classify(&mut self, state: &State, heap: Heap) -> Scope {
        for ((namespace, _), change) in &heap.links {
            if namespace.is_none() {
                self.note(change);
            }
        }
        let mut scope = Scope::default();
        for ((namespace, _), change) in &heap.links {
            self.change(state, *namespace, change, &mut scope);
        }
        for event in &heap.gone {
            self.change(state, event.namespace, &event.change, &mut scope);
        }
        for event in &heap.tables {
            match event.namespace {
                None => {
                    scope.firewall |= self.is_ours(event);
                    scope.direct |= self.is_theirs(event);
                }
                Some(number) if event.table == TABLE => {
                    let sandbox = self.numbers.get(&number);
                    scope.names.extend(sandbox.filter(|s| serves(state, s)).cloned());
                }
                Some(_) => {}
            }
        }
        scope
    }

    /// Whether an event is about a table of ours. Elements that come and go by
    /// themselves are no change.
    fn is_ours(&self, event: &TableEvent) -> bool {
        let rest = event.table.strip_prefix(&self.instance);
        matches!(rest, Some("" | "-policy"))
            && event.elements_of.as_deref().is_none_or(|set| !is_filled(set))
    }

    /// Whether an event is about rules of somebody else's. Elements of sets
    /// don't make a table one that decides about packets.
    fn is_theirs(&self, event: &TableEvent) -> bool {
        event.elements_of.is_none() && !is_own(&self.instance, &event.table)
    }

    fn change(
        &self,
        state: &State,
        namespace: Option<i32>,
        change: &RouteChange,
        scope: &mut Scope,
    ) {
        let Some(number) = namespace else { return self.host(state, change, scope) };
        let Some(sandbox) = self.numbers.get(&number) else { return };
        let Some(joined) = state.sandboxes.get(sandbox) else { return };
        // Inside there are no filters of ours, and queues only with a limit.
        if matches!(change, RouteChange::TrafficGone(_)) && joined.is_limited() {
            scope.sandboxes.insert(sandbox.clone());
        }
        if joined.sandbox.attachments.iter().any(|a| concerns(a, change)) {
            scope.sandboxes.insert(sandbox.clone());
        }
    }

    fn host(&self, state: &State, change: &RouteChange, scope: &mut Scope) {
        match change {
            RouteChange::Link(link) => self.host_link(state, link, false, scope),
            RouteChange::LinkGone(link) => self.host_link(state, link, true, scope),
            RouteChange::AddressGone(address) => {
                scope.own_addresses |= address.address.addr().is_ipv6();
                let networks = bridges(state).filter(|(_, c)| has_address(c, address.address));
                scope.networks.extend(networks.map(|(n, _)| n.id.clone()));
            }
            RouteChange::RouteGone(route) => {
                let networks = bridges(state).filter(|(_, c)| has_route(c, route));
                scope.networks.extend(networks.map(|(n, _)| n.id.clone()));
            }
            RouteChange::TrafficGone(link) => drop(scope.links.insert(*link)),
            RouteChange::Forwarding { on, .. } => scope.forwarding |= !on,
        }
    }

    fn host_link(&self, state: &State, link: &Link, gone: bool, scope: &mut Scope) {
        match Mark::read(&link.alias, &self.instance) {
            Some(Mark::Endpoint(sandbox, endpoint)) => {
                let Some(joined) = state.sandboxes.get(&sandbox) else { return };
                let attachments = &joined.sandbox.attachments;
                let Some(attachment) = attachments.iter().find(|a| a.endpoint == endpoint) else {
                    return;
                };
                let network = state.networks.get(&attachment.network);
                if gone || !network.is_none_or(|n| self.is_port_of(link, n)) {
                    scope.sandboxes.insert(sandbox);
                }
            }
            Some(Mark::Network(network)) => {
                let wrong = |n: &NetworkSpec| gone || !is_complete(link, n);
                if state.networks.get(&network).is_some_and(|n| wrong(n)) {
                    scope.networks.insert(network);
                }
            }
            Some(Mark::Dead) => {}
            None if self.network_of(link).is_some() => {
                let network = self.network_of(link).filter(|n| state.networks.contains_key(n));
                scope.networks.extend(network.filter(|_| gone || !link.up));
            }
            // A bridge of somebody else's that a network uses, or one that
            // took the place of our own.
            None => {
                let theirs = state.networks.values().filter(|n| uses(n, &link.name));
                let wrong = theirs.filter(|n| gone || !is_complete(link, n));
                scope.networks.extend(wrong.map(|n| n.id.clone()));
            }
        }
    }

    /// The network that a parent, or the host's own interface on one, was made
    /// for: the last word of its mark.
    fn network_of(&self, link: &Link) -> Option<NetworkId> {
        let rest = link.alias.strip_prefix(&self.instance)?.strip_prefix(' ')?;
        let mut words = rest.split(' ').skip(1);
        words.next().filter(|word| matches!(*word, "parent" | "host"))?;
        words.next()?.parse().ok()
    }

    fn is_port_of(&self, link: &Link, network: &NetworkSpec) -> bool {
        let DriverConfig::Bridge(config) = &network.driver else { return link.up };
        let master = link.master.and_then(|index| self.bridges.get(&index));
        link.up && link.mtu == config.mtu && master == Some(&config.bridge)
    }
}

fn bridges(state: &State) -> impl Iterator<Item = (&NetworkSpec, &BridgeConfig)> {
    state.networks.values().filter_map(|network| match &network.driver {
        DriverConfig::Bridge(config) => Some((&**network, config)),
        _ => None,
    })
}

fn has_address(config: &BridgeConfig, address: IpNet) -> bool {
    config.gateways().any(|g| g == address)
}

fn has_route(config: &BridgeConfig, route: &RouteEntry) -> bool {
    config.subnets.iter().any(|s| route.destination == Some(s.net))
}

/// Whether a network needs the host's interface with this name.
fn uses(network: &NetworkSpec, link: &str) -> bool {
    match &network.driver {
        DriverConfig::Bridge(config) => config.bridge == link,
        _ => false,
    }
}

fn is_complete(link: &Link, network: &NetworkSpec) -> bool {
    match &network.driver {
        DriverConfig::Bridge(config) => {
            link.up && link.kind == "bridge" && (link.alias.is_empty() || link.mtu == config.mtu)
        }
        _ => link.up,
    }
}

/// Whether a change inside its sandbox is a loss for an attachment.
fn concerns(attachment: &Attachment, change: &RouteChange) -> bool {
    let is_ours = |link: &Link| attachment.interface.as_deref() == Some(link.name.as_str());
    match change {
        RouteChange::Link(link) => is_ours(link) && !link.up,
        RouteChange::LinkGone(link) => is_ours(link),
        RouteChange::AddressGone(gone) => {
            attachment.addresses.contains(&gone.address)
                || attachment.link_locals.contains(&gone.address)
        }
        RouteChange::RouteGone(gone) => {
            let by_gateway = |g: IpAddr| gone.gateway == Some(g);
            let own_net = |a: &IpNet| gone.gateway.is_none() && gone.destination == Some(a.trunc());
            attachment.gateways.iter().any(|g| by_gateway(*g))
                || attachment.addresses.iter().any(own_net)
                || attachment
                    .routes
                    .iter()
                    .any(|r| r.destination == gone.destination && r.gateway == gone.gateway)
        }
        RouteChange::TrafficGone(_) | RouteChange::Forwarding { .. } => false,
    }
}

/// Whether names are answered in a sandbox.
fn serves(state: &State, sandbox: &SandboxId) -> bool {
    state.sandboxes.get(sandbox).is_some_and(|joined| joined.spec.dns.serves)
}

/// Whether a set of our tables is filled by the name service, with what
/// containers were told for a name.
fn is_filled(set: &str) -> bool {
    ["name4.", "name6.", "wild4.", "wild6."].iter().any(|prefix| set.starts_with(prefix))
}

#[cfg(test)]
mod tests;
