//! The bridge of a network.

use ipnet::IpNet;
use sampan_sys::netlink::{
    Link, LinkChange, LinkRef, NetlinkError, NewBridge, Request, Route, add_address, add_bridge,
    add_local_route, delete_address, delete_local_route, set_link,
};
use sampan_sys::sysctl;
use sampan_types::NetworkId;
use std::net::Ipv6Addr;

use super::usable::{await_ipv6, listen_for};
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

    /// Removes a network's bridge, or takes back from a bridge of somebody
    /// else's what it was given; nothing is known of that without `config`.
    pub(super) async fn remove_network(
        &self,
        network: &NetworkId,
        config: Option<&BridgeConfig>,
    ) -> Result<(), NetError> {
        let (instance, network, group) = (self.instance.clone(), network.clone(), self.group);
        let config = config.cloned();
        self.worker
            .run(move |kernel| {
                let bridge = Removed { instance: &instance, network: &network, group };
                bridge.remove(&mut kernel.route, config.as_ref())
            })
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
    let made = found.is_none();
    if made {
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
    missing.extend(allow_ipv6(config, ours, made)?);
    let alias = Mark::Network(network.id.clone());
    let alias = (ours && mark.as_ref() != Some(&alias)).then(|| alias.alias(instance).to_string());
    let change = LinkChange {
        up: (!link.up).then_some(true),
        mtu: (ours && link.mtu != config.mtu).then_some(config.mtu),
        alias: alias.as_deref(),
        ..LinkChange::default()
    };
    if change.up.is_some() || change.mtu.is_some() || change.alias.is_some() {
        route.run(vec![set_link(LinkRef::Index(link.index), &change)]).map_err(failed())?;
        missing.push(format!("state of bridge {name}"));
    }
    let gateways: Vec<IpNet> = config.gateways().collect();
    missing.extend(addresses(route, &link, &gateways, ours).map_err(failed())?);
    // What a process of the host sends from 127.0.0.1 to a published port is
    // answered to the bridge; the firewall keeps everything else off the
    // host's loopback addresses.
    if config.has_family(false) && sysctl::write(&route_localnet(name), "1")? {
        missing.push(format!("route_localnet of bridge {name}"));
    }
    if config.gateways().any(|g| g.addr().is_ipv6()) {
        missing.extend(answer_loopback6(route, &link).map_err(failed())?);
    }
    Ok(Made::Complete(missing))
}

/// The same for `::1`. The kernel drops what a link receives for it; only
/// answers that come back from their translation get as far as this route.
fn answer_loopback6(route: &mut Route, link: &Link) -> Result<Option<String>, NetlinkError> {
    match route.run(vec![add_local_route(link.index, Ipv6Addr::LOCALHOST)]) {
        Ok(()) => Ok(Some(format!("the way of ::1 by bridge {}", link.name))),
        Err(e) if e.is_present() => Ok(None),
        Err(e) => Err(e),
    }
}

fn route_localnet(bridge: &str) -> String {
    format!("net/ipv4/conf/{bridge}/route_localnet")
}

/// Whether the bridge can have IPv6 addresses: the host's, on a network with
/// some. On a bridge of our own they are in use at once, routers are not
/// listened to, and where the host shall have no address at all, it gets none
/// from the kernel either. A new bridge without IPv6 is kept out of the
/// kernel's routes of IPv6, which it walks for every link that comes or goes.
fn allow_ipv6(config: &BridgeConfig, ours: bool, made: bool) -> Result<Option<String>, NetError> {
    let wanted = config.gateways().any(|g| g.addr().is_ipv6());
    if !sysctl::has_ipv6() {
        let what = || "IPv6 networks by this kernel".to_owned();
        return if wanted { Err(NetError::NotSupported { what: what() }) } else { Ok(None) };
    }
    let name = &config.bridge;
    let set = |what, value| sysctl::write(&format!("net/ipv6/conf/{name}/{what}"), value);
    let mut missing = false;
    if wanted {
        if ours {
            missing |= set("accept_ra", "0")? | set("accept_dad", "0")?;
        }
        missing |= set("disable_ipv6", "0")?;
    } else if ours && (made || config.gateways().next().is_none()) {
        missing |= set("disable_ipv6", "1")? && !made;
    }
    Ok(missing.then(|| format!("IPv6 of bridge {name}")))
}

fn make(
    route: &mut Route,
    instance: &str,
    network: &NetworkId,
    config: &BridgeConfig,
) -> Result<(), NetlinkError> {
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

/// Whether the kernel gives links such addresses by itself.
fn of_kernel(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(a) if a.addr().is_unicast_link_local())
}

/// Adds the gateways' addresses that are missing, and takes away others from
/// a bridge of our own: those of an earlier configuration.
fn addresses(
    route: &mut Route,
    link: &Link,
    gateways: &[IpNet],
    ours: bool,
) -> Result<Vec<String>, NetlinkError> {
    let all = route.addresses_of(link.index)?;
    let present: Vec<IpNet> = all.iter().map(|a| a.address).collect();
    let (mut requests, mut lines) = (Vec::new(), Vec::new());
    // What somebody else gave it is theirs.
    let earlier = all.iter().filter(|a| ours && a.ours).map(|a| a.address);
    for old in earlier.filter(|a| !gateways.contains(a)) {
        requests.push(delete_address(link.index, old).absent_ok());
        lines.push(format!("address {old} of bridge {} is gone", link.name));
    }
    let given: Vec<IpNet> = gateways.iter().copied().filter(|g| !present.contains(g)).collect();
    for wanted in &given {
        requests.push(add_address(link.index, *wanted).present_ok());
        lines.push(format!("address {wanted} of bridge {}", link.name));
    }
    let watch = listen_for(&given)?;
    route.run(requests)?;
    await_ipv6(watch, link.index, &given);
    Ok(lines)
}

/// A network whose bridge shall go.
struct Removed<'a> {
    instance: &'a str,
    network: &'a NetworkId,
    group: u32,
}

impl Removed<'_> {
    fn remove(&self, route: &mut Route, config: Option<&BridgeConfig>) -> Result<(), NetError> {
        let failed = || NetError::kernel(format!("remove network {}", self.network));
        if let Some(config) = config
            && let Some(link) = route.link(&config.bridge).map_err(failed())?
        {
            if self.marks(&link) {
                return self.retire(route, &link).map_err(failed());
            }
            if Mark::read(&link.alias, self.instance).is_none() {
                release(route, &link, config).map_err(failed())?;
                let _ = sysctl::write(&route_localnet(&link.name), "0");
            }
        }
        // Under another name.
        match route.links().map_err(failed())?.iter().find(|l| self.marks(l)) {
            Some(link) => self.retire(route, link).map_err(failed()),
            None => Ok(()),
        }
    }

    fn marks(&self, link: &Link) -> bool {
        Mark::read(&link.alias, self.instance) == Some(Mark::Network(self.network.clone()))
    }

    /// Takes the bridge out of use: without address, marked as dead.
    fn retire(&self, route: &mut Route, link: &Link) -> Result<(), NetlinkError> {
        let addresses = route.addresses_of(link.index)?;
        let mut requests: Vec<_> = addresses
            .into_iter()
            .filter(|a| !of_kernel(&a.address))
            .map(|a| delete_address(link.index, a.address).absent_ok())
            .collect();
        let alias = Mark::Dead.alias(self.instance).to_string();
        let group = Some(self.group);
        let dead = LinkChange { alias: Some(&alias), group, ..LinkChange::default() };
        requests.push(set_link(LinkRef::Index(link.index), &dead).absent_ok());
        route.run(requests)
    }
}

/// Takes the addresses back that were given to a bridge of somebody else's,
/// and not those that it had already.
fn release(route: &mut Route, link: &Link, config: &BridgeConfig) -> Result<(), NetlinkError> {
    let gateways: Vec<IpNet> = config.gateways().collect();
    let given = route.addresses_of(link.index)?.into_iter();
    let given = given.filter(|a| a.ours && gateways.contains(&a.address));
    let given = given.map(|a| delete_address(link.index, a.address));
    let detour = delete_local_route(link.index, Ipv6Addr::LOCALHOST);
    route.run(given.chain([detour]).map(Request::absent_ok).collect())
}
