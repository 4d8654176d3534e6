//! The routes inside a sandbox, whichever drivers its endpoints are of.
//!
//! Be aware:
//! - Each address family has a default route of its own: a network that leads
//!   out by one of them leaves the other to the next network.
//! - A container may set a default route of its own (a tunnel). It is left
//!   alone, and nothing is added beside it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sampan_sys::netlink::{NetlinkError, Request, RouteEntry, add_route, replace_route};

use super::{Inner, plan};
use crate::config::{Attachment, NetworkSpec, RouteSpec, SandboxSpec};
use crate::driver::Namespace;
use crate::error::NetError;

/// An attachment with its network.
pub(super) type Attached = (Arc<NetworkSpec>, Attachment);

/// A route that a sandbox shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The interface inside.
    interface: String,
    /// The route; its destination is absent only with a gateway.
    route: RouteSpec,
}

impl Wanted {
    fn entry(&self, link: u32) -> RouteEntry {
        let RouteSpec { destination, gateway } = self.route;
        // Where there is a gateway, it tells the family.
        let all = gateway.is_some() && is_default(&self.route);
        RouteEntry { destination: destination.filter(|_| !all), gateway, link }
    }
}

fn is_default(route: &RouteSpec) -> bool {
    route.destination.is_none_or(|d| d.prefix_len() == 0)
}

/// The ways by which an attachment leads everywhere: by its gateways, or by a
/// route of the driver's without one.
fn ways_out(attachment: &Attachment) -> impl Iterator<Item = (bool, RouteSpec)> {
    let by = |gateway: &IpAddr| {
        (gateway.is_ipv6(), RouteSpec { destination: None, gateway: Some(*gateway) })
    };
    let direct = attachment.routes.iter().filter(|r| is_default(r)).filter_map(|route| {
        let like = route.gateway.or(route.destination.map(|d| d.addr()))?;
        Some((like.is_ipv6(), *route))
    });
    attachment.gateways.iter().map(by).chain(direct)
}

/// What has no other route leaves by the endpoint with the greatest priority
/// of those that lead out by the family, by the first of equal ones.
fn default_route(spec: &SandboxSpec, attached: &[Attached], v6: bool) -> Option<Wanted> {
    let mut best: Option<(i64, Wanted)> = None;
    for (network, attachment) in attached.iter().filter(|(n, _)| plan::leads_out(n)) {
        let way = ways_out(attachment).find(|(six, _)| *six == v6);
        let (Some((_, route)), Some(interface)) = (way, &attachment.interface) else { continue };
        let priority = plan::priority(spec, &attachment.endpoint);
        tracing::trace!(network = network.name, priority, v6, "a network leads out");
        if best.as_ref().is_none_or(|(p, _)| priority > *p) {
            best = Some((priority, Wanted { interface: interface.clone(), route }));
        }
    }
    best.map(|(_, wanted)| wanted)
}

/// All routes of a sandbox but those that come with its addresses.
pub(super) fn wanted(spec: &SandboxSpec, attached: &[Attached]) -> Vec<Wanted> {
    let further = attached.iter().flat_map(|(_, attachment)| {
        let interface = attachment.interface.clone();
        let routes = attachment.routes.iter().filter(|r| !is_default(r));
        routes.filter_map(move |r| Some(Wanted { interface: interface.clone()?, route: *r }))
    });
    let defaults = [false, true].into_iter().filter_map(|v6| default_route(spec, attached, v6));
    further.chain(defaults).collect()
}

impl Inner {
    /// Gives a sandbox the routes that it shall have with the attachments
    /// `attached`; a default route by `leaving`, which was one, gives way to
    /// theirs. Says whether any was missing.
    pub(super) async fn route_sandbox(
        &self,
        namespace: &Arc<Namespace>,
        spec: &SandboxSpec,
        attached: &[Attached],
        leaving: Option<&Attachment>,
    ) -> Result<bool, NetError> {
        let wanted = wanted(spec, attached);
        if wanted.is_empty() {
            return Ok(false);
        }
        let ours = attached.iter().map(|(_, attachment)| attachment).chain(leaving);
        let ours: Vec<String> = ours.filter_map(|a| a.interface.clone()).collect();
        let namespace = Arc::clone(namespace);
        let failed =
            NetError::kernel(format!("set the routes of sandbox {}", spec.sandbox.short()));
        self.worker.run(move |_| apply(&namespace, &wanted, &ours)).await?.map_err(failed)
    }
}

fn apply(namespace: &Namespace, wanted: &[Wanted], ours: &[String]) -> Result<bool, NetlinkError> {
    let mut route = namespace.route();
    let links: HashMap<String, u32> =
        route.links()?.into_iter().map(|l| (l.name, l.index)).collect();
    let entry = |want: &Wanted| links.get(&want.interface).map(|link| want.entry(*link));
    let entries: Vec<RouteEntry> = wanted.iter().filter_map(entry).collect();
    let mut present = route.routes(Ipv4Addr::UNSPECIFIED.into())?;
    if entries.iter().any(RouteEntry::is_ipv6) {
        present.extend(route.routes(Ipv6Addr::UNSPECIFIED.into())?);
    }
    let own: Vec<u32> = ours.iter().filter_map(|name| links.get(name).copied()).collect();
    let mut requests = Vec::new();
    for entry in entries.into_iter().filter(|e| !present.contains(e)) {
        let like = |p: &&RouteEntry| p.is_default() && p.is_ipv6() == entry.is_ipv6();
        match present.iter().find(|p| entry.is_default() && like(p)) {
            None => requests.extend(add_route(&entry).map(Request::present_ok)),
            Some(old) if own.contains(&old.link) => requests.extend(replace_route(&entry)),
            // The container's own.
            Some(_) => {}
        }
    }
    let missing = !requests.is_empty();
    route.run(requests)?;
    Ok(missing)
}
