//! The interface that a plugin made on the host moves into the sandbox, and
//! back.

use std::os::fd::AsFd;
use std::path::Path;

use ipnet::IpNet;
use sampan_sys::netlink::{
    Link, LinkChange, LinkRef, NetlinkError, Request, Route, add_address, set_link,
};
use sampan_sys::netns::NetNs;

use crate::driver::Namespace;
use crate::error::NetError;
use crate::mac::MacAddr;
use crate::worker::Kernel;

/// What becomes of an interface inside.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    /// Its name.
    pub name: String,
    /// A name that nothing else has, for the moment between.
    pub transit: String,
    /// Its hardware address, unless it stays the one that it has.
    pub mac: Option<MacAddr>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// Moves `source` into the sandbox and sets it up.
pub(super) fn enter(
    kernel: &mut Kernel,
    namespace: &Namespace,
    source: &str,
    inside: &Inside,
) -> Result<Link, NetError> {
    let failed = || NetError::kernel(format!("move interface {source} into a sandbox"));
    let found = kernel.route.link(source).map_err(failed())?;
    let link = found.ok_or_else(|| absent(source)).map_err(failed())?;
    let index = LinkRef::Index(link.index);
    let down = LinkChange { up: Some(false), ..LinkChange::default() };
    let renamed = LinkChange { name: Some(&inside.transit), ..LinkChange::default() };
    let netns = Some(namespace.netns().as_fd());
    let moved = LinkChange { netns, ..LinkChange::default() };
    let requests = vec![set_link(index, &down), set_link(index, &renamed), set_link(index, &moved)];
    kernel.route.run(requests).map_err(failed())?;
    let made = settle(namespace, inside);
    if made.is_err()
        && let Err(e) = go_back(&mut namespace.route(), &inside.transit, source)
    {
        tracing::warn!(source, error = %e, "failed to move an interface back to the host");
    }
    made
}

fn absent(name: &str) -> NetlinkError {
    NetlinkError::Malformed(format!("find link {name}"))
}

fn settle(namespace: &Namespace, inside: &Inside) -> Result<Link, NetError> {
    let failed = || NetError::kernel(format!("set up interface {}", inside.name));
    let here = namespace.route().link(&inside.transit).map_err(failed())?;
    let link = here.ok_or_else(|| absent(&inside.transit)).map_err(failed())?;
    let index = LinkRef::Index(link.index);
    let named = LinkChange {
        name: Some(&inside.name),
        mac: inside.mac.map(|m| m.0),
        ..LinkChange::default()
    };
    namespace.route().run(vec![set_link(index, &named)]).map_err(failed())?;
    if inside.addresses.iter().any(|a| a.addr().is_ipv6()) {
        namespace.allow_ipv6(&inside.name)?;
    }
    complete(&mut namespace.route(), &inside.name, &inside.addresses).map_err(failed())
}

/// Gives an interface inside its addresses and switches it on.
pub(super) fn complete(
    route: &mut Route,
    name: &str,
    addresses: &[IpNet],
) -> Result<Link, NetlinkError> {
    let link = route.link(name)?.ok_or_else(|| absent(name))?;
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let mut requests: Vec<Request> =
        addresses.iter().map(|a| add_address(link.index, *a).present_ok()).collect();
    requests.push(set_link(LinkRef::Index(link.index), &up));
    route.run(requests)?;
    // Asking for a link activates it at once.
    route.link(name)?.ok_or_else(|| absent(name))
}

/// Moves an interface back to the host, where its plugin looks for it. Success
/// when it, or the sandbox, is gone.
pub(super) fn leave(netns: &Path, name: &str, source: &str) -> Result<(), NetError> {
    let namespace = match Namespace::open(netns) {
        Ok(namespace) => namespace,
        Err(e) if !netns.exists() => {
            tracing::debug!(error = %e, "a sandbox is gone, and its interfaces with it");
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    go_back(&mut namespace.route(), name, source)
        .map_err(NetError::kernel(format!("move interface {source} back to the host")))
}

fn go_back(route: &mut Route, name: &str, source: &str) -> Result<(), NetlinkError> {
    let Some(link) = route.link(name)? else { return Ok(()) };
    let host = NetNs::current()?;
    let index = LinkRef::Index(link.index);
    let down = LinkChange { up: Some(false), ..LinkChange::default() };
    let renamed = LinkChange { name: Some(source), ..LinkChange::default() };
    let moved = LinkChange { netns: Some(host.as_fd()), ..LinkChange::default() };
    route.run(vec![set_link(index, &down), set_link(index, &renamed), set_link(index, &moved)])
}
