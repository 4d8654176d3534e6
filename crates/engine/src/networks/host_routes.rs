//! Which networks the host's routes lead to.
//!
//! Be aware: a route that cannot be read is no reason to refuse a network:
//! the list is then empty, and a line in the log says so.

use std::collections::HashMap;

use ipnet::IpNet;
use sampan_sys::netlink::Route;

/// A network that a route leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostRoute {
    /// The network.
    pub(super) net: IpNet,
    /// The interface; empty for none, or for several.
    pub(super) interface: String,
}

/// The destinations of the routes of all tables but for those to everywhere.
/// Asks the kernel: to be called off the async threads.
pub(super) fn host_routes() -> Vec<HostRoute> {
    match read() {
        Ok(routes) => routes,
        Err(error) => {
            tracing::warn!(%error, "the host's routes are not known");
            Vec::new()
        }
    }
}

fn read() -> Result<Vec<HostRoute>, sampan_sys::netlink::NetlinkError> {
    let mut route = Route::open()?;
    let links: HashMap<u32, String> =
        route.links()?.into_iter().map(|link| (link.index, link.name)).collect();
    let name = |number: u32| links.get(&number).cloned().unwrap_or_default();
    let destinations = route.destinations()?;
    Ok(destinations
        .into_iter()
        .map(|d| HostRoute { net: d.net, interface: name(d.link) })
        .collect())
}

/// The networks of all routes but for those by the interface `except`.
pub(super) fn networks(routes: &[HostRoute], except: &str) -> Vec<IpNet> {
    routes.iter().filter(|r| r.interface != except).map(|r| r.net).collect()
}
