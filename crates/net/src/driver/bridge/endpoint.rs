//! The pair of links of an endpoint.

use std::os::fd::AsFd;
use std::sync::Arc;

use ipnet::IpNet;
use sampan_sys::netlink::{
    AddressWatch, Link, LinkChange, LinkRef, Neighbour, NetlinkError, NewVeth, PortChange, Request,
    Route, add_address, add_veth, set_link, set_port, shut_port,
};
use sampan_sys::sysctl;

use super::mark::link_names;
use super::neighbours::introduce;
use super::segments::{has_size, set_size};
use super::usable::await_ipv6;
use super::{Bridge, Mark};
use crate::config::{Attachment, BridgeConfig, DriverConfig};
use crate::driver::{AttachRequest, Observed, ObservedEndpoint};
use crate::error::NetError;
use crate::mac::MacAddr;
use crate::worker::Kernel;

/// How the links of one instance are marked.
#[derive(Debug, Clone)]
struct Marking {
    instance: String,
    group: u32,
}

/// An endpoint with everything decided.
struct Plan<'a> {
    request: &'a AttachRequest,
    config: &'a BridgeConfig,
    mac: MacAddr,
    addresses: Vec<IpNet>,
}

impl Bridge {
    fn marking(&self) -> Marking {
        Marking { instance: self.instance.clone(), group: self.group }
    }

    pub(super) async fn attach_endpoint(
        &self,
        request: AttachRequest,
    ) -> Result<Attachment, NetError> {
        let marking = self.marking();
        let attached = self.worker.run(move |kernel| attach(kernel, &marking, &request)).await?;
        match attached {
            Ok((attachment, replaced)) => {
                if replaced {
                    self.reaper.links();
                }
                Ok(attachment)
            }
            Err(e) => {
                // What was made is marked as dead.
                self.reaper.links();
                Err(e)
            }
        }
    }

    pub(super) async fn restore_endpoint(
        &self,
        request: AttachRequest,
        found: Option<ObservedEndpoint>,
    ) -> Result<(Attachment, bool), NetError> {
        let Some(found) = found else {
            return Ok((self.attach_endpoint(request).await?, true));
        };
        let request = Arc::new(request);
        let (asked, known) = (Arc::clone(&request), found.clone());
        let completed = self.worker.run(move |kernel| complete(kernel, &asked, &known)).await??;
        if let Some(done) = completed {
            return Ok(done);
        }
        // The other end left the sandbox: both are made anew.
        self.retire(vec![found.host_interface], true).await?;
        Ok((self.attach_endpoint((*request).clone()).await?, true))
    }

    pub(super) async fn retire(&self, links: Vec<String>, wait: bool) -> Result<(), NetError> {
        let marking = self.marking();
        self.worker.run(move |kernel| retire(&mut kernel.route, &marking, &links)).await??;
        self.reaper.links();
        if wait {
            self.reaper.flush().await;
        }
        Ok(())
    }

    pub(super) async fn observe_all(&self) -> Result<Observed, NetError> {
        let instance = self.instance.clone();
        let links = self.worker.run(|kernel| kernel.route.links()).await?;
        let links = links.map_err(NetError::kernel("list the links of the host"))?;
        let mut observed = Observed::default();
        for link in links {
            match Mark::read(&link.alias, &instance) {
                Some(Mark::Network(network)) => observed.networks.push(network),
                Some(Mark::Endpoint(sandbox, endpoint)) => {
                    observed.endpoints.push(observed_endpoint(link, sandbox, endpoint));
                }
                // Left over from a daemon that died meanwhile.
                Some(Mark::Dead) => self.reaper.links(),
                None => {}
            }
        }
        Ok(observed)
    }
}

fn observed_endpoint(
    link: Link,
    sandbox: sampan_types::SandboxId,
    endpoint: sampan_types::EndpointId,
) -> ObservedEndpoint {
    ObservedEndpoint {
        sandbox,
        endpoint,
        peer: link.peer,
        master: link.master,
        up: link.up,
        isolated: link.port.is_some_and(|p| p.isolated),
        hairpin: link.port.is_some_and(|p| p.hairpin),
        host_interface: link.name,
    }
}

impl<'a> Plan<'a> {
    fn new(request: &'a AttachRequest) -> Result<Self, NetError> {
        let DriverConfig::Bridge(config) = &request.network.driver else {
            return Err(NetError::NotSupported {
                what: format!("network {} on the bridge driver", request.network.name),
            });
        };
        let addresses = config.with_prefixes(&request.endpoint, &request.network.name)?;
        let mac = request.endpoint.mac.unwrap_or_else(MacAddr::random);
        Ok(Self { request, config, mac, addresses })
    }

    fn failed(&self) -> impl FnOnce(NetlinkError) -> NetError + use<> {
        let (sandbox, network) = (self.request.sandbox.short(), &self.request.network.name);
        NetError::kernel(format!("attach sandbox {sandbox} to network {network}"))
    }

    fn attachment(&self, interface: String, host_interface: String) -> Attachment {
        Attachment {
            endpoint: self.request.endpoint.endpoint.clone(),
            network: self.request.network.id.clone(),
            interface: Some(interface),
            host_interface: Some(host_interface),
            mac: Some(self.mac),
            addresses: self.addresses.clone(),
            link_locals: Vec::new(),
            gateways: self.config.ways_out(&self.addresses),
            routes: self.config.neighbours(&self.addresses),
            mtu: self.config.mtu,
        }
    }

    fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|a| a.addr().is_ipv6())
    }

    /// Addresses and switch of the end inside.
    fn inside(&self, link: u32) -> Vec<Request> {
        let add = |v6: bool| {
            let of = self.addresses.iter().filter(move |a| a.addr().is_ipv6() == v6);
            of.map(move |a| add_address(link, *a).present_ok())
        };
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        // What leads to an IPv6 subnet can only be known of a link in use.
        let up = std::iter::once(set_link(LinkRef::Index(link), &up));
        add(false).chain(up).chain(add(true)).collect()
    }

    /// The end on the host becomes a port of the bridge. It is switched on
    /// after the end inside, so that the port works at once.
    fn outside(&self, link: &str, bridge: u32) -> Vec<Request> {
        let joined = LinkChange { up: Some(true), master: Some(bridge), ..LinkChange::default() };
        let mut requests = vec![set_link(LinkRef::Name(link), &joined)];
        let port = PortChange {
            isolated: (!self.config.icc).then_some(true),
            hairpin: bridge_filtered().then_some(true),
        };
        if port != PortChange::default() {
            requests.push(set_port(LinkRef::Name(link), &port));
        }
        requests
    }
}

/// Attaches an endpoint. Says whether links of an interrupted attempt were in
/// the way, which are marked as dead now.
fn attach(
    kernel: &mut Kernel,
    marking: &Marking,
    request: &AttachRequest,
) -> Result<(Attachment, bool), NetError> {
    let plan = Plan::new(request)?;
    let bridge = bridge_index(&mut kernel.route, &plan)?;
    let interface = match &request.interface {
        Some(name) => name.clone(),
        None => {
            let prefix = request.network.interface_prefix();
            request.namespace.free_interface(prefix).map_err(plan.failed())?
        }
    };
    let (link, replaced) = make_pair(&mut kernel.route, marking, &plan, &interface)?;
    let joined = open_ipv6(&plan, &interface).and_then(|(_, watch)| {
        join(kernel, &plan, (&link, &interface), bridge, watch).map_err(plan.failed())
    });
    if let Err(e) = joined {
        // The reaper removes what was made.
        if let Err(also) = retire(&mut kernel.route, marking, std::slice::from_ref(&link)) {
            tracing::warn!(link, error = %also, "failed to take a link out of use");
        }
        return Err(e);
    }
    Ok((plan.attachment(interface, link), replaced))
}

/// Lets the end inside have IPv6 addresses if it shall have one. Says whether
/// it could not, and what hears of those that are in use.
fn open_ipv6(plan: &Plan<'_>, interface: &str) -> Result<(bool, Option<AddressWatch>), NetError> {
    if !plan.has_ipv6() {
        return Ok((false, None));
    }
    let (missing, watch) = plan.request.namespace.open_ipv6(interface)?;
    Ok((missing, Some(watch)))
}

fn bridge_index(route: &mut Route, plan: &Plan<'_>) -> Result<u32, NetError> {
    let found = route.link(&plan.config.bridge).map_err(plan.failed())?;
    found.map(|l| l.index).ok_or_else(|| NetError::InvalidNetwork {
        network: plan.request.network.name.clone(),
        reason: format!("its bridge {} is gone", plan.config.bridge),
    })
}

/// Makes both links, under the first name that is free. Says whether links of
/// an interrupted attempt had it.
fn make_pair(
    route: &mut Route,
    marking: &Marking,
    plan: &Plan<'_>,
    interface: &str,
) -> Result<(String, bool), NetError> {
    let endpoint = &plan.request.endpoint.endpoint;
    let mark = Mark::Endpoint(plan.request.sandbox.clone(), endpoint.clone());
    let alias = mark.alias(&marking.instance).to_string();
    let (mut taken, mut replaced) = (None, false);
    for name in link_names(endpoint) {
        let veth = NewVeth {
            name: &name,
            peer: interface,
            peer_netns: plan.request.namespace.netns().as_fd(),
            peer_mac: plan.mac.0,
            mtu: plan.config.mtu,
            group: 0,
        };
        let marked = LinkChange {
            alias: Some(&alias),
            quiet_ipv6: sysctl::has_ipv6(),
            ..LinkChange::default()
        };
        match route.run(vec![add_veth(&veth)]) {
            Ok(()) => {
                route.run(vec![set_link(LinkRef::Name(&name), &marked)]).map_err(plan.failed())?;
                disable_ipv6(&name);
                return Ok((name, replaced));
            }
            Err(e) if e.is_present() => {
                // Of an interrupted attempt with the same endpoint, or not ours.
                if route.link(&name).ok().flatten().is_some_and(|l| l.alias == alias) {
                    retire(route, marking, std::slice::from_ref(&name))?;
                    replaced = true;
                }
                taken = Some(e);
            }
            Err(e) => return Err(plan.failed()(e)),
        }
    }
    Err(match taken {
        Some(e) => plan.failed()(e),
        None => NetError::Stopped,
    })
}

/// Keeps the end on the host without IPv6, of which the host has none there.
/// The kernel would keep a route for it, and walk those of all links with
/// every link that comes or goes.
fn disable_ipv6(link: &str) {
    if sysctl::has_ipv6()
        && let Err(e) = sysctl::write(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1")
    {
        tracing::debug!(link, error = %e, "failed to keep a link without IPv6");
    }
}

fn join(
    kernel: &mut Kernel,
    plan: &Plan<'_>,
    (link, interface): (&str, &str),
    bridge: u32,
    watch: Option<AddressWatch>,
) -> Result<(), NetlinkError> {
    let mut inner = plan.request.namespace.route();
    let inside = inner
        .link(interface)?
        .ok_or_else(|| NetlinkError::Malformed(format!("find link {interface}")))?;
    inner.run(plan.inside(inside.index))?;
    drop(inner);
    kernel.route.run(plan.outside(link, bridge))?;
    await_ipv6(watch, inside.index, &plan.addresses);
    activate(kernel, plan, link, interface, bridge)
}

/// Makes sure that the first packet is not lost, whichever way it goes.
fn activate(
    kernel: &mut Kernel,
    plan: &Plan<'_>,
    link: &str,
    interface: &str,
    bridge: u32,
) -> Result<(), NetlinkError> {
    // The kernel activates a link whose carrier came up a moment later, or
    // when somebody asks for the link. A bridge has no carrier before its
    // first port.
    let mut inner = plan.request.namespace.route();
    let inside = inner.link(interface)?;
    let outside = kernel.route.link(link)?;
    for (route, link) in [(&mut *inner, &inside), (&mut kernel.route, &outside)] {
        if let Some(link) = link.as_ref().filter(|l| !has_size(l, plan.config)) {
            set_size(route, link, plan.config);
        }
    }
    let bridge_link = kernel.route.link(&plan.config.bridge)?;
    // The gateway is known, before the kernel has begun to listen to questions
    // for an IPv6 address, which it does a moment after it was given.
    if let (Some(inside), Some(host)) = (inside, bridge_link)
        && let Ok(mac) = <[u8; 6]>::try_from(host.mac.as_slice())
    {
        let near = |g: &IpNet| plan.addresses.iter().any(|a| g.contains(&a.addr()));
        let gateways = plan.config.gateways().filter(near);
        let known = gateways.map(|g| Neighbour { link: inside.index, address: g.addr(), mac });
        introduce(&mut inner, known.collect())?;
    }
    drop(inner);
    // An earlier owner of the address may be known by another MAC address. Of
    // a family without addresses of its own, the host knows no neighbours.
    let host = |v6: bool| plan.config.gateways().any(|g| g.addr().is_ipv6() == v6);
    let known = plan.addresses.iter().map(IpNet::addr).filter(|a| host(a.is_ipv6()));
    let neighbour = |address| Neighbour { link: bridge, address, mac: plan.mac.0 };
    introduce(&mut kernel.route, known.map(neighbour).collect())?;
    for address in plan.addresses.iter().map(IpNet::addr) {
        if let Err(e) = kernel.announcer.announce(bridge, plan.mac.0, address) {
            tracing::debug!(%address, error = %e, "failed to announce an address");
        }
    }
    Ok(())
}

/// Whether br_netfilter hands bridged packets to the firewall. It then bridges
/// what a container sends to its own published port, instead of letting it be
/// routed: back to where it came from, which a port in hairpin mode allows.
fn bridge_filtered() -> bool {
    let on = |name| sysctl::read(name).is_ok_and(|value| value != "0");
    on("net.bridge.bridge-nf-call-iptables") || on("net.bridge.bridge-nf-call-ip6tables")
}

/// Restores what is missing of an endpoint whose link was found. None when
/// the other end is not in the sandbox.
fn complete(
    kernel: &mut Kernel,
    request: &AttachRequest,
    found: &ObservedEndpoint,
) -> Result<Option<(Attachment, bool)>, NetError> {
    let mut plan = Plan::new(request)?;
    let bridge = bridge_index(&mut kernel.route, &plan)?;
    let links = request.namespace.route().links().map_err(plan.failed())?;
    let Some(inside) = links.into_iter().find(|l| l.index == found.peer && l.kind == "veth") else {
        return Ok(None);
    };
    let mut missing = complete_inside(&plan, &inside)?;
    missing |= complete_outside(kernel, &plan, found, bridge)?;
    if request.endpoint.mac.is_none() {
        plan.mac = <[u8; 6]>::try_from(inside.mac.as_slice()).map_or(plan.mac, MacAddr);
    }
    if missing {
        activate(kernel, &plan, &found.host_interface, &inside.name, bridge)
            .map_err(plan.failed())?;
    }
    let attachment = plan.attachment(inside.name, found.host_interface.clone());
    Ok(Some((attachment, missing)))
}

/// Completes the end inside. Says whether anything was missing.
fn complete_inside(plan: &Plan<'_>, inside: &Link) -> Result<bool, NetError> {
    let (mut missing, watch) = open_ipv6(plan, &inside.name)?;
    let mut route = plan.request.namespace.route();
    let mac = plan.request.endpoint.mac.map(|m| m.0).filter(|m| inside.mac != *m);
    let mtu = (inside.mtu != plan.config.mtu).then_some(plan.config.mtu);
    missing |= !has_size(inside, plan.config);
    if mac.is_some() || mtu.is_some() {
        let change = LinkChange { mac, mtu, ..LinkChange::default() };
        let change = set_link(LinkRef::Index(inside.index), &change);
        route.run(vec![change]).map_err(plan.failed())?;
        missing = true;
    }
    let present = route.addresses_of(inside.index).map_err(plan.failed())?;
    let has = |a: &IpNet| present.iter().any(|p| p.address == *a);
    let absent: Vec<IpNet> = plan.addresses.iter().copied().filter(|a| !has(a)).collect();
    if !inside.up || !absent.is_empty() {
        route.run(plan.inside(inside.index)).map_err(plan.failed())?;
        await_ipv6(watch, inside.index, &absent);
        missing = true;
    }
    Ok(missing)
}

/// Completes the end on the host. Says whether anything was missing.
fn complete_outside(
    kernel: &mut Kernel,
    plan: &Plan<'_>,
    found: &ObservedEndpoint,
    bridge: u32,
) -> Result<bool, NetError> {
    let (name, mtu) = (&found.host_interface, plan.config.mtu);
    let outside = kernel.route.link(name).map_err(plan.failed())?;
    let mut missing = outside.as_ref().is_some_and(|l| !has_size(l, plan.config));
    if outside.is_some_and(|l| l.mtu != mtu) {
        let change = LinkChange { mtu: Some(mtu), ..LinkChange::default() };
        kernel.route.run(vec![set_link(LinkRef::Name(name), &change)]).map_err(plan.failed())?;
        missing = true;
    }
    let hairpin = bridge_filtered();
    if found.master != Some(bridge)
        || !found.up
        || found.isolated == plan.config.icc
        || found.hairpin != hairpin
    {
        let mut requests = plan.outside(name, bridge);
        let port = PortChange { isolated: Some(!plan.config.icc), hairpin: Some(hairpin) };
        requests.push(set_port(LinkRef::Name(name), &port));
        kernel.route.run(requests).map_err(plan.failed())?;
        missing = true;
    }
    Ok(missing)
}

/// Takes links out of use: nothing passes them any more, and they are marked
/// as dead. Absent ones are no error.
fn retire(route: &mut Route, marking: &Marking, links: &[String]) -> Result<(), NetError> {
    let alias = Mark::Dead.alias(&marking.instance).to_string();
    let dead =
        LinkChange { alias: Some(&alias), group: Some(marking.group), ..LinkChange::default() };
    let failed = || NetError::kernel("take a link out of use");
    for link in links {
        // Asking for it also makes the kernel tell the bridge now what it has
        // not told it yet, and not after the port is shut.
        let Some(link) = route.link(link).map_err(failed())? else { continue };
        // A link that is no port of a bridge any more can't be shut, and
        // need not be.
        let results = route
            .run_each(vec![
                set_link(LinkRef::Index(link.index), &dead).absent_ok(),
                shut_port(link.index),
            ])
            .map_err(failed())?;
        if let Some(Err(e)) = results.into_iter().next() {
            return Err(failed()(e));
        }
    }
    Ok(())
}
