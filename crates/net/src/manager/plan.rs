//! Deciding, without touching anything: whether a network or sandbox makes
//! sense, which endpoint leads out, where published ports lead to.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Joined, State};
use crate::config::{Attachment, DriverConfig, EndpointSpec, NetworkSpec, SandboxSpec};
use crate::error::NetError;
use crate::firewall::{Forward, NetworkRules};
use crate::names::{EndpointNames, SandboxNames};
use crate::ports::PublishedPort;

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
    })
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
            addresses: endpoint.addresses.clone(),
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
    let DriverConfig::Bridge(config) = &network.driver else { return Ok(()) };
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
    Ok(Arc::clone(network))
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

/// Whether a sandbox on these networks has the host's namespace.
pub(super) fn on_host(networks: &[Arc<NetworkSpec>]) -> bool {
    networks.iter().any(|n| n.driver == DriverConfig::Host)
}

/// What is only in `before`, and what is only in `after`.
pub(super) fn difference(before: &[Forward], after: &[Forward]) -> (Vec<Forward>, Vec<Forward>) {
    let only = |of: &[Forward], other: &[Forward]| {
        let other: HashSet<&Forward> = other.iter().collect();
        of.iter().filter(|f| !other.contains(f)).cloned().collect()
    };
    (only(before, after), only(after, before))
}

/// The ways of a sandbox's published ports: to the first attachment that
/// leads out and has an address of the family. Without one they lead nowhere.
pub(super) fn forwards(
    spec: &SandboxSpec,
    attachments: &[(Arc<NetworkSpec>, Attachment)],
) -> Vec<Forward> {
    let target = |like: IpAddr| {
        attachments
            .iter()
            .filter(|(network, _)| leads_out(network))
            .flat_map(|(_, attachment)| &attachment.addresses)
            .map(ipnet::IpNet::addr)
            .find(|address| address.is_ipv4() == like.is_ipv4())
    };
    let forward = |port: &PublishedPort| {
        Some(Forward {
            protocol: port.protocol,
            host_ip: port.host_ip,
            host_port: port.host_port,
            target: SocketAddr::new(target(port.host_ip)?, port.container_port),
            owner: spec.container.short().to_owned(),
        })
    };
    spec.ports.iter().filter_map(forward).collect()
}
