//! `host_access`: the host's own interface on a macvlan network, so that host
//! and containers reach each other.
//!
//! The kernel does not let packets pass between a parent and the macvlans on
//! it. So the host gets a macvlan itself. It has the host's addresses (the
//! parent's, or those that were asked for), by which it answers containers,
//! and a route to each container's address.
//!
//! Be aware: ARP questions from outside arrive at both interfaces. `arp_filter`
//! lets each answer only those to whom it would send.

use std::net::IpAddr;

use ipnet::IpNet;
use sampan_sys::netlink::{
    Link, LinkRef, NetlinkError, NewUpper, Request, Route, RouteEntry, add_address, add_route,
    add_upper, delete_address, delete_link, delete_route, set_link,
};
use sampan_sys::sysctl;

use super::parent::{marked, up};
use super::{Context, Mark, Settings};
use crate::error::NetError;
use crate::mac::MacAddr;
use crate::worker::Kernel;

/// The interface's name.
fn name_of(settings: &Settings<'_>) -> String {
    format!("mv-{}", settings.network.id.short())
}

/// Makes the host's interface on `parent`, or completes it; removes one that
/// is not wanted. Says what was missing.
pub(super) fn complete(
    kernel: &mut Kernel,
    context: &Context,
    settings: &Settings<'_>,
    parent: &Link,
) -> Result<Vec<String>, NetError> {
    let Some(asked) = settings.host_access else { return Ok(Vec::new()) };
    let failed = || settings.failed("create the host's interface of");
    let route = &mut kernel.route;
    let wanted = match asked {
        [] => parents_addresses(route, settings, parent).map_err(failed())?,
        asked => asked.iter().copied().map(IpNet::from).collect(),
    };
    if wanted.is_empty() {
        return Err(settings.invalid(format!(
            "parent interface {} has no address in its subnets that containers could reach the \
             host by: give one that no container gets with -o host_address=… and --aux-address",
            parent.name
        )));
    }
    let name = name_of(settings);
    let mut missing = Vec::new();
    let mut found = route.link(&name).map_err(failed())?;
    if let Some(link) = &found
        && (context.mark(&link.alias).is_none() || link.peer != parent.index)
    {
        // Of an interrupted attempt, or on a parent that is no more.
        if link.kind != "macvlan" {
            return Err(settings.invalid(format!("interface {name} exists and is no macvlan")));
        }
        route.run(vec![delete_link(LinkRef::Name(&name)).absent_ok()]).map_err(failed())?;
        found = None;
    }
    if found.is_none() {
        make(route, context, settings, (&name, parent)).map_err(failed())?;
        missing.push(format!("host's interface {name} of network {}", settings.network.name));
        found = route.link(&name).map_err(failed())?;
    }
    let gone = || failed()(NetlinkError::Malformed(format!("find link {name}")));
    let link = found.ok_or_else(gone)?;
    missing.extend(addresses(route, &link, &wanted).map_err(failed())?);
    if sysctl::write(&format!("net/ipv4/conf/{name}/arp_filter"), "1")? {
        missing.push(format!("arp_filter of {name}"));
    }
    if !link.up {
        route.run(vec![set_link(LinkRef::Index(link.index), &up())]).map_err(failed())?;
        // Asking for a link activates it at once.
        route.link(&name).map_err(failed())?;
    }
    Ok(missing)
}

/// The parent's addresses in the network's subnets, without their prefixes.
fn parents_addresses(
    route: &mut Route,
    settings: &Settings<'_>,
    parent: &Link,
) -> Result<Vec<IpNet>, NetlinkError> {
    let subnets = settings.common.subnets;
    let inside = |address: &IpAddr| subnets.iter().any(|s| s.net.contains(address));
    let all = route.addresses()?.into_iter().filter(|a| a.link == parent.index);
    Ok(all.map(|a| a.address.addr()).filter(inside).map(IpNet::from).collect())
}

fn make(
    route: &mut Route,
    context: &Context,
    settings: &Settings<'_>,
    (name, parent): (&str, &Link),
) -> Result<(), NetlinkError> {
    let upper = NewUpper {
        name,
        parent: parent.index,
        kind: settings.kind,
        netns: None,
        mac: Some(MacAddr::random().0),
        mtu: settings.common.mtu,
    };
    let alias = context.alias(&Mark::Host(settings.network.id.clone()));
    route.run(vec![add_upper(&upper), set_link(LinkRef::Name(name), &marked(&alias))])
}

/// Adds the addresses that are missing, and takes others away: the parent's
/// may have changed.
fn addresses(
    route: &mut Route,
    link: &Link,
    wanted: &[IpNet],
) -> Result<Vec<String>, NetlinkError> {
    let all = route.addresses()?.into_iter().filter(|a| a.link == link.index);
    let present: Vec<IpNet> = all.map(|a| a.address).collect();
    let (mut requests, mut lines) = (Vec::new(), Vec::new());
    for old in present.iter().filter(|p| !wanted.contains(p)) {
        requests.push(delete_address(link.index, *old).absent_ok());
        lines.push(format!("address {old} of {} is gone", link.name));
    }
    for new in wanted.iter().filter(|w| !present.contains(w)) {
        requests.push(add_address(link.index, *new).present_ok());
        lines.push(format!("address {new} of {}", link.name));
    }
    route.run(requests)?;
    Ok(lines)
}

/// Leads the host to these addresses by its own interface. Says whether a
/// route was missing.
pub(super) fn reach(
    route: &mut Route,
    settings: &Settings<'_>,
    addresses: &[IpNet],
) -> Result<bool, NetlinkError> {
    if settings.host_access.is_none() {
        return Ok(false);
    }
    let name = name_of(settings);
    let link = route.link(&name)?;
    let link = link.ok_or_else(|| NetlinkError::Malformed(format!("find link {name}")))?;
    let mut missing = Vec::new();
    for address in addresses {
        let entry = entry(&link, address);
        if !route.routes(address.addr())?.contains(&entry) {
            missing.extend(add_route(&entry).map(Request::present_ok));
        }
    }
    let any = !missing.is_empty();
    route.run(missing)?;
    Ok(any)
}

/// Takes the host's routes to these addresses away.
pub(super) fn forget(
    route: &mut Route,
    settings: &Settings<'_>,
    addresses: &[IpNet],
) -> Result<(), NetlinkError> {
    if settings.host_access.is_none() {
        return Ok(());
    }
    // Without the interface there are no routes by it.
    let Some(link) = route.link(&name_of(settings))? else { return Ok(()) };
    let gone = addresses.iter().filter_map(|a| delete_route(&entry(&link, a)));
    route.run(gone.map(Request::absent_ok).collect())
}

fn entry(link: &Link, address: &IpNet) -> RouteEntry {
    let destination = Some(IpNet::from(address.addr()));
    RouteEntry { destination, gateway: None, link: link.index }
}
