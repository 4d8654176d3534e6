//! Deciding, without touching anything: whether a network or sandbox makes
//! sense, which endpoint leads out, where published ports lead to.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use sampan_types::EndpointId;

use super::{Joined, State, link_local};
use crate::config::{
    Attachment, DriverConfig, EndpointSpec, GatewayMode, IpvlanMode, NetworkSpec, SandboxSpec,
    SubInterfaces, check_interface_name,
};
use crate::error::NetError;
use crate::firewall::{Forward, Forwards, NetworkRules};
use crate::names::{EndpointNames, SandboxNames};
use crate::ports::PublishedPort;
use crate::shape;

/// What stands for the interface's name in the name of a kernel parameter of
/// an endpoint.
const ANY_INTERFACE: &str = "IFNAME";

/// What the firewall has to know of a network; nothing of those without one.
pub(super) fn network_rules(network: &NetworkSpec) -> Option<NetworkRules> {
    let DriverConfig::Bridge(config) = &network.driver else { return None };
    Some(NetworkRules {
        network: network.id.clone(),
        name: network.name.clone(),
        bridge: config.bridge.clone(),
        subnets: config.subnets.iter().map(|s| s.net).collect(),
        icc: config.icc,
        masquerade: config.masquerade,
        internal: config.internal,
        gateway_mode_ipv4: config.gateway_mode_ipv4,
        gateway_mode_ipv6: config.gateway_mode_ipv6,
        host_ipv4: config.host_ipv4,
        host_ipv6: config.host_ipv6,
        trusted: config.trusted.clone(),
    })
}

/// An endpoint's addresses: those that were allocated, else what the driver
/// chose.
fn addresses(endpoint: &EndpointSpec, attachments: &[Attachment]) -> Vec<IpAddr> {
    if !endpoint.addresses.is_empty() {
        return endpoint.addresses.clone();
    }
    let made = attachments.iter().find(|a| a.endpoint == endpoint.endpoint);
    made.into_iter().flat_map(|a| &a.addresses).map(ipnet::IpNet::addr).collect()
}

/// What the name service is told of a sandbox; nothing of one that has the
/// host's namespace.
pub(super) fn names(state: &State, joined: &Joined) -> Option<SandboxNames> {
    let netns = joined.sandbox.netns.clone()?;
    let network = |endpoint: &EndpointSpec| state.networks.get(&endpoint.network);
    let spec = &joined.spec;
    let endpoint = |endpoint: &EndpointSpec| {
        Some(EndpointNames {
            network: endpoint.network.clone(),
            network_name: network(endpoint)?.name.clone(),
            names: endpoint.names.clone(),
            addresses: addresses(endpoint, &joined.sandbox.attachments),
        })
    };
    Some(SandboxNames {
        sandbox: spec.sandbox.clone(),
        container: spec.container.clone(),
        netns,
        dns: spec.dns.clone(),
        leads_out: spec.endpoints.iter().filter_map(network).any(|n| leads_out(n)),
        endpoints: spec.endpoints.iter().filter_map(endpoint).collect(),
    })
}

/// Refuses a network that is none or that another one is in the way of.
pub(super) fn check_network(state: &State, network: &NetworkSpec) -> Result<(), NetError> {
    let DriverConfig::Bridge(config) = &network.driver else {
        return check_parent(state, network);
    };
    config.validate(&network.name)?;
    for other in state.networks.values().filter(|o| o.id != network.id) {
        let DriverConfig::Bridge(theirs) = &other.driver else { continue };
        let in_use = |what| {
            Err(NetError::InUse { network: network.name.clone(), what, by: other.name.clone() })
        };
        if theirs.bridge == config.bridge {
            return in_use(format!("bridge {}", config.bridge));
        }
        for (a, b) in config.subnets.iter().flat_map(|a| theirs.subnets.iter().map(move |b| (a, b)))
        {
            if a.net.contains(&b.net) || b.net.contains(&a.net) {
                return in_use(format!("subnet {}", a.net));
            }
        }
    }
    Ok(())
}

/// Refuses a macvlan or ipvlan network whose parent another one has for
/// itself, or would share with it in a way that the kernel does not know.
fn check_parent(state: &State, network: &NetworkSpec) -> Result<(), NetError> {
    let Some(mine) = SubInterfaces::of(&network.driver) else { return Ok(()) };
    mine.validate(&network.name)?;
    for other in state.networks.values().filter(|o| o.id != network.id) {
        let theirs = SubInterfaces::of(&other.driver);
        if let Some(what) = theirs.and_then(|theirs| mine.conflict(&theirs)) {
            let (network, by) = (network.name.clone(), other.name.clone());
            return Err(NetError::InUse { network, what, by });
        }
    }
    Ok(())
}

/// Whether a network is made of what may not be there yet when the daemon
/// starts: an interface of the host, a plugin.
pub(super) fn may_be_absent(network: &NetworkSpec) -> bool {
    let foreign = matches!(network.driver, DriverConfig::Remote(_) | DriverConfig::Cni(_));
    foreign || SubInterfaces::of(&network.driver).is_some()
}

/// The networks of a sandbox's endpoints, in their order; refuses what can't
/// be set up.
pub(super) fn check_sandbox(
    state: &State,
    spec: &SandboxSpec,
) -> Result<Vec<Arc<NetworkSpec>>, NetError> {
    for name in spec.sysctls.keys() {
        if !name.starts_with("net.") && !name.starts_with("net/") {
            return Err(NetError::NotSupported {
                what: format!("sysctl {name} of a network namespace"),
            });
        }
    }
    let networks = spec
        .endpoints
        .iter()
        .map(|endpoint| check_endpoint(state, endpoint))
        .collect::<Result<Vec<_>, _>>()?;
    let mut names = HashSet::new();
    for (endpoint, network) in spec.endpoints.iter().zip(&networks) {
        if let Some(name) = endpoint.interface.as_ref().filter(|n| !names.insert(*n)) {
            return Err(NetError::InvalidEndpoint {
                network: network.name.clone(),
                reason: format!("interface name {name} is already that of another endpoint"),
            });
        }
    }
    let host = networks.iter().filter(|n| n.driver == DriverConfig::Host).count();
    if host > 0 && networks.len() > host {
        return Err(NetError::NotSupported {
            what: "a connection to the host's network beside others".to_owned(),
        });
    }
    Ok(networks)
}

/// The network of an endpoint.
pub(super) fn check_endpoint(
    state: &State,
    endpoint: &EndpointSpec,
) -> Result<Arc<NetworkSpec>, NetError> {
    let network = state.networks.get(&endpoint.network);
    let network = network.ok_or_else(|| NetError::NoNetwork(endpoint.network.clone()))?;
    if let DriverConfig::Bridge(config) = &network.driver {
        config.with_prefixes(endpoint, &network.name)?;
    }
    if let Some(upper) = SubInterfaces::of(&network.driver) {
        upper.with_prefixes(endpoint, &network.name)?;
    }
    let invalid = |reason| Err(NetError::InvalidEndpoint { network: network.name.clone(), reason });
    if let Err(reason) = link_local::check(&endpoint.link_locals) {
        return invalid(reason);
    }
    if let Some(name) = &endpoint.interface
        && let Err(reason) = check_interface_name(name)
    {
        return invalid(reason);
    }
    if let Err(reason) = shape::check(&endpoint.rate) {
        return invalid(reason);
    }
    if let (DriverConfig::Ipvlan(ipvlan), Some(_)) = (&network.driver, endpoint.rate.ingress)
        && ipvlan.mode == IpvlanMode::L3s
    {
        return invalid(
            "what is received can't be limited in mode l3s: it does not come in by the interface \
             (limit it in mode l2 or l3)"
                .to_owned(),
        );
    }
    for name in endpoint.sysctls.keys() {
        let mut words = name.split('.');
        if words.next() != Some("net") || !words.any(|word| word == ANY_INTERFACE) {
            return invalid(format!(
                "sysctl {name} is none of an interface: net.….{ANY_INTERFACE}.… expected"
            ));
        }
    }
    Ok(Arc::clone(network))
}

/// The names of the interfaces of a sandbox that is made: what was asked for,
/// else the next number after the network's prefix.
pub(super) fn interfaces(spec: &SandboxSpec, networks: &[Arc<NetworkSpec>]) -> Vec<String> {
    let mut taken: HashSet<String> =
        spec.endpoints.iter().filter_map(|e| e.interface.clone()).collect();
    let mut next = |prefix: &str| {
        let name = (0..).map(|i: u32| format!("{prefix}{i}")).find(|name| !taken.contains(name));
        let name = name.unwrap_or_default();
        taken.insert(name.clone());
        name
    };
    let endpoints = spec.endpoints.iter().zip(networks);
    endpoints
        .map(|(e, n)| e.interface.clone().unwrap_or_else(|| next(n.interface_prefix())))
        .collect()
}

/// The kernel parameters of an endpoint's interface, by their full names.
pub(super) fn interface_sysctls(
    endpoint: &EndpointSpec,
    attachment: &Attachment,
) -> impl Iterator<Item = (String, String)> {
    // In the name of a parameter, a slash stands for an interface's dot.
    let interface = attachment.interface.as_ref().map(|name| name.replace('.', "/"));
    interface.into_iter().flat_map(|interface| {
        let full = move |(name, value): (&String, &String)| {
            (name.replace(ANY_INTERFACE, &interface), value.clone())
        };
        endpoint.sysctls.iter().map(full)
    })
}

/// The priority of an endpoint for default routes.
pub(super) fn priority(spec: &SandboxSpec, endpoint: &EndpointId) -> i64 {
    let found = spec.endpoints.iter().find(|e| e.endpoint == *endpoint);
    found.map_or(0, |e| e.gateway_priority)
}

/// Whether a network leads out of the host.
pub(super) fn leads_out(network: &NetworkSpec) -> bool {
    match &network.driver {
        DriverConfig::Bridge(c) => !c.internal,
        DriverConfig::Macvlan(c) => !c.internal,
        DriverConfig::Ipvlan(c) => !c.internal,
        DriverConfig::Remote(c) => !c.internal,
        DriverConfig::Cni(_) => true,
        DriverConfig::Host | DriverConfig::None => false,
    }
}

/// Whether the host has to forward packets of IPv6 for a network.
pub(super) fn forwards_ipv6(network: &NetworkSpec) -> bool {
    match &network.driver {
        DriverConfig::Bridge(config) => config.gateways().any(|g| g.addr().is_ipv6()),
        _ => false,
    }
}

/// Whether the host has a way to containers on a network: the kernel keeps the
/// host from what shares one of its interfaces.
fn host_reaches(network: &NetworkSpec) -> bool {
    !matches!(network.driver, DriverConfig::Macvlan(_) | DriverConfig::Ipvlan(_))
}

/// Whether a sandbox on these networks has the host's namespace.
pub(super) fn on_host(networks: &[Arc<NetworkSpec>]) -> bool {
    networks.iter().any(|n| n.driver == DriverConfig::Host)
}

/// The ways of a sandbox's published ports: to the attachment that has the
/// default route of the family among those that the host reaches. Without one
/// they lead nowhere.
pub(super) fn forwards(
    spec: &SandboxSpec,
    attachments: &[(Arc<NetworkSpec>, Attachment)],
) -> Forwards {
    let mut ways: Vec<(i64, &NetworkSpec, &Attachment)> = attachments
        .iter()
        .filter(|(network, _)| leads_out(network) && host_reaches(network))
        .map(|(network, a)| (priority(spec, &a.endpoint), &**network, a))
        .collect();
    ways.sort_by_key(|(priority, ..)| std::cmp::Reverse(*priority));
    let way = |v4: bool| {
        ways.iter().find_map(|(_, network, attachment)| {
            let address = attachment.addresses.iter().find(|a| a.addr().is_ipv4() == v4)?;
            Some((address.addr(), is_routed(network, v4)))
        })
    };
    let (v4, v6) = (way(true), way(false));
    let owner: Arc<str> = Arc::from(spec.container.short());
    let forward = |port: &PublishedPort| {
        // What the host itself sends by IPv6 can be led to an address of IPv4.
        let host_only = v4.filter(|(_, routed)| !routed);
        let (address, routed) = if port.host_ip.is_ipv4() { v4? } else { v6.or(host_only)? };
        let target = SocketAddr::new(address, port.container_port);
        let (mut host_ip, mut host_port) = (port.host_ip, port.host_port);
        if routed {
            host_ip = unspecified(address.is_ipv4());
            host_port = 0;
        }
        let owner = Arc::clone(&owner);
        Some(Forward { protocol: port.protocol, host_ip, host_port, target, routed, owner })
    };
    spec.ports.iter().filter_map(forward).collect()
}

/// Whether containers on a network are reached by their own addresses only.
fn is_routed(network: &NetworkSpec, v4: bool) -> bool {
    let DriverConfig::Bridge(config) = &network.driver else { return false };
    let mode = if v4 { config.gateway_mode_ipv4 } else { config.gateway_mode_ipv6 };
    mode == GatewayMode::Routed
}

fn unspecified(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
