//! The bridge of a network.

use ipnet::IpNet;
use sampan_sys::netlink::{
    Link, LinkChange, LinkRef, NewBridge, Route, add_address, add_bridge, delete_address, set_link,
};
use sampan_sys::sysctl;
use sampan_types::NetworkId;

use super::{Bridge, Mark};
use crate::config::{BridgeConfig, DriverConfig, NetworkSpec};
use crate::error::NetError;
use crate::mac::MacAddr;

/// What there was under the bridge's name.
enum Made {
    /// The bridge, complete now, and what was missing.
    Complete(Vec<String>),
    /// A bridge on its way out; it can be made when that is gone.
    Dying,
}

impl Bridge {
    pub(super) async fn make_network(
        &self,
        network: &NetworkSpec,
    ) -> Result<Vec<String>, NetError> {
        let DriverConfig::Bridge(config) = &network.driver else {
            return Err(NetError::NotSupported {
                what: format!("network {} on the bridge driver", network.name),
            });
        };
        config.validate(&network.name)?;
        for _ in 0..2 {
            let (instance, spec, config) = (self.instance.clone(), network.clone(), config.clone());
            let made = self
                .worker
                .run(move |kernel| complete(&mut kernel.route, &instance, &spec, &config))
                .await??;
            match made {
                Made::Complete(missing) => return Ok(missing),
                Made::Dying => {
                    self.reaper.links();
                    self.reaper.flush().await;
                }
            }
        }
        Err(NetError::InvalidNetwork {
            network: network.name.clone(),
            reason: format!("the earlier interface {} can't be removed", config.bridge),
        })
    }

    pub(super) async fn remove_network(&self, network: &NetworkId) -> Result<(), NetError> {
        let (instance, network, group) = (self.instance.clone(), network.clone(), self.group);
        self.worker
            .run(move |kernel| retire(&mut kernel.route, &instance, &network, group))
            .await??;
        self.reaper.links();
        Ok(())
    }
}

fn complete(
    route: &mut Route,
    instance: &str,
    network: &NetworkSpec,
    config: &BridgeConfig,
) -> Result<Made, NetError> {
    let name = &config.bridge;
    let failed = || NetError::kernel(format!("create network {}", network.name));
    let mut missing = Vec::new();
    let mut found = route.link(name).map_err(failed())?;
    if found.is_none() {
        make(route, instance, &network.id, config).map_err(failed())?;
        missing.push(format!("bridge {name} of network {}", network.name));
        found = route.link(name).map_err(failed())?;
    }
    let Some(link) = found else { return Ok(Made::Dying) };
    let mark = Mark::read(&link.alias, instance);
    if mark == Some(Mark::Dead) {
        return Ok(Made::Dying);
    }
    if link.kind != "bridge" {
        return Err(NetError::InvalidNetwork {
            network: network.name.clone(),
            reason: format!("interface {name} exists and is no bridge"),
        });
    }
    let ours = matches!(mark, Some(Mark::Network(_)));
    let gateways: Vec<IpNet> = config.gateways().collect();
    missing.extend(addresses(route, &link, &gateways, ours).map_err(failed())?);
    let change = LinkChange {
        up: (!link.up).then_some(true),
        mtu: (ours && link.mtu != config.mtu).then_some(config.mtu),
        ..LinkChange::default()
    };
    if change.up.is_some() || change.mtu.is_some() {
        route.run(vec![set_link(LinkRef::Index(link.index), &change)]).map_err(failed())?;
        missing.push(format!("state of bridge {name}"));
    }
    // What a process of the host sends from 127.0.0.1 to a published port is
    // answered to the bridge; the firewall keeps everything else off the
    // host's loopback addresses.
    if sysctl::write(&format!("net/ipv4/conf/{name}/route_localnet"), "1")? {
        missing.push(format!("route_localnet of bridge {name}"));
    }
    Ok(Made::Complete(missing))
}

fn make(
    route: &mut Route,
    instance: &str,
    network: &NetworkId,
    config: &BridgeConfig,
) -> Result<(), sampan_sys::netlink::NetlinkError> {
    let alias = Mark::Network(network.clone()).alias(instance).to_string();
    let bridge = NewBridge { name: &config.bridge, mac: mac_of(network).0, mtu: config.mtu };
    let marked = LinkChange { alias: Some(&alias), ..LinkChange::default() };
    route.run(vec![add_bridge(&bridge), set_link(LinkRef::Name(&config.bridge), &marked)])
}

/// The hardware address of a network's bridge: as random as the network's id,
/// and the same again when the bridge has to be made anew, since containers
/// remember it.
fn mac_of(network: &NetworkId) -> MacAddr {
    let digits = |at: usize| u8::from_str_radix(&network.as_str()[at..at + 2], 16).unwrap_or(0);
    MacAddr([(digits(0) & 0xfc) | 0x02, digits(2), digits(4), digits(6), digits(8), digits(10)])
}

/// Adds the gateways' addresses that are missing, and takes away others of
/// the same families from a bridge of our own: those of an earlier
/// configuration.
fn addresses(
    route: &mut Route,
    link: &Link,
    gateways: &[IpNet],
    ours: bool,
) -> Result<Vec<String>, sampan_sys::netlink::NetlinkError> {
    let all = route.addresses()?;
    let present: Vec<IpNet> =
        all.into_iter().filter(|a| a.link == link.index).map(|a| a.address).collect();
    let (mut requests, mut lines) = (Vec::new(), Vec::new());
    for old in present.iter().filter(|p| ours && p.addr().is_ipv4() && !gateways.contains(p)) {
        requests.push(delete_address(link.index, *old).absent_ok());
        lines.push(format!("address {old} of bridge {} is gone", link.name));
    }
    for wanted in gateways.iter().filter(|g| !present.contains(g)) {
        requests.push(add_address(link.index, *wanted).present_ok());
        lines.push(format!("address {wanted} of bridge {}", link.name));
    }
    route.run(requests)?;
    Ok(lines)
}

/// Takes the bridge of a network out of use: off, without address, marked as
/// dead. A bridge that somebody else made stays as it is.
fn retire(
    route: &mut Route,
    instance: &str,
    network: &NetworkId,
    group: u32,
) -> Result<(), NetError> {
    let failed = || NetError::kernel(format!("remove network {network}"));
    let mark = Some(Mark::Network(network.clone()));
    let links = route.links().map_err(failed())?;
    let Some(link) = links.iter().find(|l| Mark::read(&l.alias, instance) == mark) else {
        return Ok(());
    };
    let addresses = route.addresses().map_err(failed())?;
    let mut requests: Vec<_> = addresses
        .into_iter()
        .filter(|a| a.link == link.index && a.address.addr().is_ipv4())
        .map(|a| delete_address(link.index, a.address).absent_ok())
        .collect();
    let alias = Mark::Dead.alias(instance).to_string();
    let dead = LinkChange { alias: Some(&alias), group: Some(group), ..LinkChange::default() };
    requests.push(set_link(LinkRef::Index(link.index), &dead).absent_ok());
    route.run(requests).map_err(failed())
}
