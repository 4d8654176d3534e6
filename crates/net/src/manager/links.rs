//! What links open on networks whose containers are kept from each other.
//!
//! ```text
//! recipient ──(the target's neighbour is the bridge)──> host: forward ──> target
//! recipient <───────────────────────────────────────── host <──(likewise)── target
//! ```
//!
//! The bridge's ports are isolated from each other, so the two can't reach each
//! other by the bridge: not even ask for each other's hardware address. Each
//! knows the bridge's as the other's for good, hence the host routes what they
//! send, and its rules let the link's ports through.
//!
//! Be aware:
//! - What is opened follows from the sandboxes and networks alone ([`opened`]);
//!   each change of these compares it with what was opened before.
//! - A neighbour that an earlier process left is harmless: without the rule
//!   nothing passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use sampan_sys::netlink::{
    Neighbour, NetlinkError, Request, Route, delete_neighbour, pin_neighbour,
};
use sampan_types::{ContainerId, SandboxId};

use super::{Inner, Joined, State};
use crate::config::{BridgeConfig, DriverConfig, OpenedLink};
use crate::driver::Namespace;
use crate::error::NetError;
use crate::firewall::LinkRule;

/// What links open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) rules: BTreeSet<LinkRule>,
    neighbours: BTreeSet<Pinned>,
}

/// A neighbour that is known by its bridge's hardware address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pinned {
    sandbox: SandboxId,
    netns: PathBuf,
    interface: String,
    bridge: String,
    address: IpAddr,
}

/// An endpoint at one end of a link.
struct End<'a> {
    joined: &'a Joined,
    interface: &'a str,
    addresses: Vec<IpAddr>,
}

impl<'a> End<'a> {
    fn of(joined: &'a Joined, link: &OpenedLink) -> Option<Self> {
        let attachments = &joined.sandbox.attachments;
        let attachment = attachments.iter().find(|a| a.network == link.network)?;
        let addresses = attachment.addresses.iter().map(ipnet::IpNet::addr).collect();
        Some(Self { joined, interface: attachment.interface.as_deref()?, addresses })
    }

    /// The neighbours that this end has at the other one.
    fn pinned(&self, other: &Self, config: &BridgeConfig) -> Vec<Pinned> {
        let Some(netns) = &self.joined.sandbox.netns else { return Vec::new() };
        let pin = |address: &IpAddr| Pinned {
            sandbox: self.joined.spec.sandbox.clone(),
            netns: netns.clone(),
            interface: self.interface.to_owned(),
            bridge: config.bridge.clone(),
            address: *address,
        };
        let same_family = |a: &&IpAddr| self.addresses.iter().any(|o| o.is_ipv4() == a.is_ipv4());
        other.addresses.iter().filter(same_family).map(pin).collect()
    }
}

/// What the links of all sandboxes open.
pub(super) fn opened<'a>(
    state: &State,
    sandboxes: impl Iterator<Item = &'a Joined> + Clone,
) -> Opened {
    let mut opened = Opened::default();
    if sandboxes.clone().all(|j| j.spec.links.is_empty()) {
        return opened;
    }
    let by_container: BTreeMap<&ContainerId, &Joined> =
        sandboxes.clone().map(|j| (&j.spec.container, j)).collect();
    for joined in sandboxes {
        for link in &joined.spec.links {
            let network = state.networks.get(&link.network);
            let Some(DriverConfig::Bridge(config)) = network.map(|n| &n.driver) else { continue };
            let target = by_container.get(&link.target).and_then(|t| End::of(t, link));
            let (Some(target), Some(source)) = (target, End::of(joined, link)) else { continue };
            if config.icc || link.target == joined.spec.container {
                continue;
            }
            let rules = rules(&source, &target, link);
            if !rules.is_empty() {
                opened.rules.extend(rules);
                opened.neighbours.extend(source.pinned(&target, config));
                opened.neighbours.extend(target.pinned(&source, config));
            }
        }
    }
    opened
}

fn rules(source: &End<'_>, target: &End<'_>, link: &OpenedLink) -> Vec<LinkRule> {
    let owner: Arc<str> = Arc::from(source.joined.spec.container.short());
    let mut rules = Vec::new();
    for from in &source.addresses {
        for to in target.addresses.iter().filter(|a| a.is_ipv4() == from.is_ipv4()) {
            let rule = |(protocol, port): &(_, u16)| LinkRule {
                protocol: *protocol,
                source: *from,
                target: SocketAddr::new(*to, *port),
                owner: Arc::clone(&owner),
            };
            rules.extend(link.ports.iter().map(rule));
        }
    }
    rules
}

impl State {
    /// What links open.
    pub(crate) fn opened_links(&self) -> BTreeSet<LinkRule> {
        opened(self, self.sandboxes.values()).rules
    }
}

impl Inner {
    /// Makes what is open follow the sandboxes and networks as they are now.
    /// With `again`, also what should be open already.
    pub(super) async fn refresh_links(&self, again: bool) -> Result<(), NetError> {
        let mut before = self.links.lock().await;
        let now = {
            let state = self.state();
            opened(&state, state.sandboxes.values())
        };
        if now == *before && (!again || now.neighbours.is_empty()) {
            return Ok(());
        }
        self.firewall.set_links(now.rules.clone()).await?;
        let gone = before.neighbours.difference(&now.neighbours).cloned().collect();
        let new = if again {
            now.neighbours.iter().cloned().collect()
        } else {
            now.neighbours.difference(&before.neighbours).cloned().collect()
        };
        // What failed is tried again with the next change or repair.
        let result = self.pin(new, gone).await;
        if result.is_ok() {
            *before = now;
        } else {
            before.rules = now.rules;
        }
        result
    }

    /// As [`Inner::refresh_links`], where nothing can be undone.
    pub(super) async fn follow_links(&self, again: bool) {
        if let Err(error) = self.refresh_links(again).await {
            tracing::warn!(%error, "what links open is not up to date");
        }
    }

    async fn pin(&self, new: Vec<Pinned>, gone: Vec<Pinned>) -> Result<(), NetError> {
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let failed = NetError::kernel("make the ends of a link known to each other");
        let job = move |host: &mut Route| {
            let mut result = Ok(());
            for pinned in &gone {
                result = result.and(pinned.release());
            }
            for pinned in &new {
                result = result.and(pinned.set(host));
            }
            result
        };
        self.worker.run(move |kernel| job(&mut kernel.route)).await?.map_err(failed)
    }
}

impl Pinned {
    /// Success when the sandbox is gone, or its link: there is nobody to
    /// know anybody.
    fn with_link(&self, change: impl FnOnce(u32) -> Request) -> Result<(), NetlinkError> {
        let Ok(namespace) = Namespace::open(&self.netns) else { return Ok(()) };
        let mut inner = namespace.route();
        let Some(link) = inner.link(&self.interface)? else { return Ok(()) };
        inner.run(vec![change(link.index)])
    }

    fn set(&self, host: &mut Route) -> Result<(), NetlinkError> {
        let Some(bridge) = host.link(&self.bridge)? else { return Ok(()) };
        let Ok(mac) = <[u8; 6]>::try_from(bridge.mac.as_slice()) else { return Ok(()) };
        let address = self.address;
        self.with_link(|link| pin_neighbour(&Neighbour { link, address, mac }))
    }

    fn release(&self) -> Result<(), NetlinkError> {
        self.with_link(|link| delete_neighbour(link, self.address).absent_ok())
    }
}

#[cfg(test)]
mod tests {
    use sampan_types::{EndpointId, NetworkId};

    use super::*;
    use crate::config::{Attachment, EndpointSpec, NetworkSpec, SandboxSpec, Subnet};
    use crate::firewall::Forwards;
    use crate::manager::Sandbox;
    use crate::ports::Protocol;

    fn joined(network: &NetworkSpec, addresses: &[&str]) -> Joined {
        let list = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let endpoint = EndpointSpec::new(EndpointId::random(), network.id.clone(), list);
        let nets = endpoint.addresses.iter().map(|a| (*a).into()).collect();
        let attachment = Attachment {
            interface: Some("eth0".to_owned()),
            addresses: nets,
            ..Attachment::blank(&endpoint)
        };
        let spec = SandboxSpec::new(SandboxId::random(), ContainerId::random(), vec![endpoint]);
        let sandbox = Sandbox { netns: Some("/run/n".into()), attachments: vec![attachment] };
        Joined { spec, sandbox, forwards: Forwards::default() }
    }

    #[test]
    fn a_link_opens_what_its_target_exposes_by_both_families() {
        let gateway: ipnet::IpNet = "10.1.0.1/24".parse().unwrap();
        let subnet = Subnet { net: gateway.trunc(), gateway: gateway.addr() };
        let mut config = BridgeConfig::new("br0", subnet);
        config.icc = false;
        let mut network = NetworkSpec {
            id: NetworkId::random(),
            name: "shy".to_owned(),
            driver: DriverConfig::Bridge(config.clone()),
        };
        let target = joined(&network, &["10.1.0.2", "fd00::2"]);
        let mut source = joined(&network, &["10.1.0.3", "fd00::3"]);
        source.spec.links.push(OpenedLink {
            target: target.spec.container.clone(),
            network: network.id.clone(),
            ports: vec![(Protocol::Tcp, 80), (Protocol::Udp, 53)],
        });
        let mut state = State::default();
        state.networks.insert(network.id.clone(), Arc::new(network.clone()));
        let all = [target.clone(), source.clone()];
        let open = opened(&state, all.iter());
        let shown: Vec<String> = open
            .rules
            .iter()
            .map(|r| format!("{} {} {}", r.protocol, r.source, r.target))
            .collect();
        assert_eq!(
            shown,
            [
                "tcp 10.1.0.3 10.1.0.2:80",
                "tcp fd00::3 [fd00::2]:80",
                "udp 10.1.0.3 10.1.0.2:53",
                "udp fd00::3 [fd00::2]:53",
            ]
        );
        let of = |j: &Joined| {
            let mine = open.neighbours.iter().filter(|n| n.sandbox == j.spec.sandbox);
            mine.map(|n| n.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of(&source), ["10.1.0.2", "fd00::2"]);
        assert_eq!(of(&target), ["10.1.0.3", "fd00::3"]);
        // Without the target, and where everybody reaches everybody, nothing.
        assert_eq!(opened(&state, all[1..].iter()), Opened::default());
        network.driver = DriverConfig::Bridge(BridgeConfig { icc: true, ..config });
        state.networks.insert(network.id.clone(), Arc::new(network));
        assert_eq!(opened(&state, all.iter()), Opened::default());
    }
}
