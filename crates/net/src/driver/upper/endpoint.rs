//! The interface of an endpoint, inside its sandbox.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use sampan_sys::arp::Announcer;
use sampan_sys::netlink::{
    IpvlanMode, Link, LinkChange, LinkRef, NetlinkError, NewUpper, Request, Route, UpperKind,
    add_address, add_upper, delete_link, set_link,
};
use sampan_sys::sysctl;
use sampan_types::{EndpointId, SandboxId};

use super::parent::{EOPNOTSUPP, up};
use super::{Context, Mark, Settings, host};
use crate::config::{Attachment, RouteSpec};
use crate::driver::{AttachRequest, DetachRequest, Namespace, Observed, ObservedEndpoint};
use crate::error::NetError;
use crate::mac::MacAddr;
use crate::worker::Kernel;

/// The parent is a bridge's port, or has links of another kind.
const EBUSY: i32 = 16;
/// The parent belongs to one link alone.
const EINVAL: i32 = 22;
/// Another link on the parent has the hardware address.
const EADDRINUSE: i32 = 98;

/// An endpoint with everything decided.
struct Plan<'a> {
    request: &'a AttachRequest,
    settings: Settings<'a>,
    parent: Link,
    addresses: Vec<IpNet>,
    alias: String,
}

impl<'a> Plan<'a> {
    fn new(
        route: &mut Route,
        context: &Context,
        request: &'a AttachRequest,
    ) -> Result<Self, NetError> {
        let settings = Settings::of(&request.network)?;
        let addresses = settings.common.with_prefixes(&request.endpoint, &request.network.name)?;
        let name = settings.parent();
        let parent = route.link(&name).map_err(settings.failed("attach a sandbox to"))?;
        let parent = parent.ok_or_else(|| {
            settings.invalid(format!("its parent interface {name} is not on this host any more"))
        })?;
        let mark = Mark::Endpoint(request.sandbox.clone(), request.endpoint.endpoint.clone());
        Ok(Self { request, settings, parent, addresses, alias: context.alias(&mark) })
    }

    fn failed(&self) -> impl FnOnce(NetlinkError) -> NetError + use<> {
        let (sandbox, network) = (self.request.sandbox.short(), &self.request.network.name);
        NetError::kernel(format!("attach sandbox {sandbox} to network {network}"))
    }

    fn attachment(&self, link: &Link) -> Attachment {
        let routed = self.settings.common.routed && !self.settings.common.internal;
        let everywhere = |a: &IpNet| RouteSpec { destination: Some(everywhere(a)), gateway: None };
        let routes = self.addresses.iter().filter(|_| routed).map(everywhere).collect();
        Attachment {
            endpoint: self.request.endpoint.endpoint.clone(),
            network: self.request.network.id.clone(),
            interface: Some(link.name.clone()),
            host_interface: None,
            mac: <[u8; 6]>::try_from(link.mac.as_slice()).ok().map(MacAddr),
            addresses: self.addresses.clone(),
            link_locals: Vec::new(),
            gateways: self.settings.common.ways_out(&self.addresses),
            routes,
            mtu: link.mtu,
        }
    }

    /// Whether a link inside is this endpoint's, or what an interrupted
    /// attempt left: on the parent, without a mark, never switched on.
    fn is_mine(&self, link: &Link) -> bool {
        let unfinished = link.alias.is_empty() && !link.up && self.is_usable(link);
        link.alias == self.alias || unfinished
    }

    fn is_usable(&self, link: &Link) -> bool {
        link.kind == self.settings.kind.name() && link.peer == self.parent.index
    }

    /// Says in words why the kernel makes no link on the parent.
    fn refused(&self, e: NetlinkError) -> NetError {
        let (parent, kind) = (&self.parent.name, self.settings.kind.name());
        match e.errno() {
            Some(EOPNOTSUPP) => NetError::NotSupported {
                what: format!(
                    "network {}: by this kernel (module {kind}), it",
                    self.request.network.name
                ),
            },
            Some(EBUSY | EINVAL) => self.settings.invalid(format!(
                "its parent interface {parent} takes no {kind}: it is in use by a bridge, by \
                 links of another kind or by one that has it for itself ({e})"
            )),
            _ => self.failed()(e),
        }
    }

    fn announces(&self) -> bool {
        !matches!(self.settings.kind, UpperKind::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
    }
}

fn everywhere(like: &IpNet) -> IpNet {
    match like.addr() {
        IpAddr::V4(_) => IpNet::new_assert(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(std::net::Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// Attaches an endpoint. What an interrupted attempt left is replaced.
pub(super) fn attach(
    kernel: &mut Kernel,
    context: &Context,
    request: &AttachRequest,
) -> Result<Attachment, NetError> {
    let plan = Plan::new(&mut kernel.route, context, request)?;
    let mut inner = request.namespace.route();
    let links = inner.links().map_err(plan.failed())?;
    let old: Vec<Link> = links.into_iter().filter(|l| plan.is_mine(l)).collect();
    remove(&mut inner, &old).map_err(plan.failed())?;
    drop(inner);
    let interface = match &request.interface {
        Some(name) => name.clone(),
        None => request.namespace.free_interface("eth").map_err(plan.failed())?,
    };
    make(kernel, &plan, &interface)
}

fn make(kernel: &mut Kernel, plan: &Plan<'_>, interface: &str) -> Result<Attachment, NetError> {
    let namespace = &plan.request.namespace;
    let own_mac = plan.settings.common.own_mac;
    // Before Linux 6.14 a name must be free in the host's namespace as well,
    // where there is an eth0 mostly.
    let first_name = format!("up-{}", plan.request.endpoint.endpoint.short());
    let upper = NewUpper {
        name: &first_name,
        parent: plan.parent.index,
        kind: plan.settings.kind,
        netns: Some(namespace.netns().as_fd()),
        mac: own_mac.then(|| plan.request.endpoint.mac.unwrap_or_else(MacAddr::random).0),
        mtu: plan.settings.common.mtu,
    };
    kernel.route.run(vec![add_upper(&upper)]).map_err(|e| plan.refused(e))?;
    let named = name(&mut namespace.route(), plan, &first_name, interface);
    let made = named.map_err(plan.failed()).and_then(|link| {
        complete(plan, &link)?;
        host::reach(&mut kernel.route, &plan.settings, &plan.addresses).map_err(plan.failed())?;
        Ok(plan.attachment(&link))
    });
    made.inspect_err(|_| {
        let names = [interface, first_name.as_str()];
        let gone = names.map(|name| delete_link(LinkRef::Name(name)).absent_ok());
        if let Err(also) = namespace.route().run(gone.into()) {
            tracing::warn!(interface, error = %also, "failed to remove a link that could not be completed");
        }
        if let Err(also) = host::forget(&mut kernel.route, &plan.settings, &plan.addresses) {
            tracing::warn!(interface, error = %also, "failed to remove routes to a link that could not be completed");
        }
    })
}

/// Gives a new link its mark and its name.
fn name(
    inner: &mut Route,
    plan: &Plan<'_>,
    first_name: &str,
    interface: &str,
) -> Result<Link, NetlinkError> {
    let made = find(inner, first_name)?;
    let (alias, name) = (Some(plan.alias.as_str()), Some(interface));
    let named = LinkChange { alias, name, ..LinkChange::default() };
    inner.run(vec![set_link(LinkRef::Index(made.index), &named)])?;
    find(inner, interface)
}

fn find(inner: &mut Route, interface: &str) -> Result<Link, NetlinkError> {
    let found = inner.link(interface)?;
    found.ok_or_else(|| NetlinkError::Malformed(format!("find link {interface}")))
}

/// Addresses, then the switch, then neighbours are told.
fn complete(plan: &Plan<'_>, link: &Link) -> Result<(), NetError> {
    let namespace = &plan.request.namespace;
    let six = plan.addresses.iter().any(|a| a.addr().is_ipv6());
    if six {
        namespace.allow_ipv6(&link.name)?;
        // Neighbours learn of the addresses as soon as the link works.
        let notify = format!("net/ipv6/conf/{}/ndisc_notify", link.name);
        within(namespace, || sysctl::write(&notify, "1"))??;
    }
    let mut requests: Vec<Request> =
        plan.addresses.iter().map(|a| add_address(link.index, *a).present_ok()).collect();
    requests.push(set_link(LinkRef::Index(link.index), &up()));
    let mut inner = namespace.route();
    let done = inner.run(requests);
    // Asking for a link activates it at once.
    done.and_then(|()| find(&mut inner, &link.name)).map_err(|e| match e.errno() {
        Some(EADDRINUSE) => NetError::InvalidEndpoint {
            network: plan.request.network.name.clone(),
            reason: format!("another interface on parent {} has its MAC address", plan.parent.name),
        },
        _ => plan.failed()(e),
    })?;
    drop(inner);
    if plan.announces() {
        announce(plan, link)?;
    }
    Ok(())
}

/// An earlier owner of the addresses may be known by another MAC address, to
/// neighbours on the parent's network as well.
fn announce(plan: &Plan<'_>, link: &Link) -> Result<(), NetError> {
    let Ok(mac) = <[u8; 6]>::try_from(link.mac.as_slice()) else { return Ok(()) };
    let announced = within(&plan.request.namespace, || {
        let announcer = Announcer::open()?;
        plan.addresses.iter().try_for_each(|address| match address.addr() {
            IpAddr::V4(v4) => announcer.announce(link.index, mac, v4),
            IpAddr::V6(_) => Ok(()),
        })
    })?;
    if let Err(e) = announced {
        tracing::debug!(interface = link.name, error = %e, "failed to announce an address");
    }
    Ok(())
}

fn within<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> Result<T, NetError> {
    namespace.netns().run(work).map_err(|source| NetError::Namespace {
        operation: "enter a namespace made below",
        path: "/proc/self/ns".into(),
        source,
    })
}

fn remove(inner: &mut Route, links: &[Link]) -> Result<(), NetlinkError> {
    let gone = links.iter().map(|l| delete_link(LinkRef::Index(l.index)).absent_ok());
    inner.run(gone.collect())
}

/// Completes an endpoint that is there, or attaches it again. Says whether
/// anything was missing.
pub(super) fn restore(
    kernel: &mut Kernel,
    context: &Context,
    request: &AttachRequest,
) -> Result<(Attachment, bool), NetError> {
    let plan = Plan::new(&mut kernel.route, context, request)?;
    let mut inner = request.namespace.route();
    let links = inner.links().map_err(plan.failed())?;
    let link = links.into_iter().find(|l| l.alias == plan.alias && plan.is_usable(l));
    let Some(link) = link else {
        drop(inner);
        return Ok((attach(kernel, context, request)?, true));
    };
    let present = inner.addresses().map_err(plan.failed())?;
    drop(inner);
    let has = |a: &IpNet| present.iter().any(|p| p.link == link.index && p.address == *a);
    let mut missing = !link.up || !plan.addresses.iter().all(has);
    if missing {
        complete(&plan, &link)?;
    }
    let routes = host::reach(&mut kernel.route, &plan.settings, &plan.addresses);
    missing |= routes.map_err(plan.failed())?;
    Ok((plan.attachment(&link), missing))
}

/// Takes an endpoint out of use. Its link goes with its namespace unless that
/// stays in use, or the parent is this link's alone.
pub(super) fn detach(
    kernel: &mut Kernel,
    context: &Context,
    request: &DetachRequest,
) -> Result<(), NetError> {
    let settings = Settings::of(&request.network)?;
    let failed = || {
        let (sandbox, network) = (request.sandbox.short(), &request.network.name);
        NetError::kernel(format!("take sandbox {sandbox} off network {network}"))
    };
    let forgotten = host::forget(&mut kernel.route, &settings, &request.attachment.addresses);
    let whole = request.wait || settings.common.alone;
    let namespace = match Namespace::open(&request.netns) {
        Ok(namespace) => namespace,
        // The link went with it.
        Err(NetError::Namespace { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            return forgotten.map_err(failed());
        }
        Err(e) => return Err(e),
    };
    let removed =
        retire(context, &namespace, (&request.sandbox, &request.endpoint.endpoint), whole);
    forgotten.and(removed).map_err(failed())
}

/// Removes an endpoint's link, or only switches it off, which is faster.
fn retire(
    context: &Context,
    namespace: &Namespace,
    (sandbox, endpoint): (&SandboxId, &EndpointId),
    whole: bool,
) -> Result<(), NetlinkError> {
    let alias = context.alias(&Mark::Endpoint(sandbox.clone(), endpoint.clone()));
    let mut inner = namespace.route();
    let mut links = inner.links()?;
    links.retain(|l| l.alias == alias);
    if whole {
        return remove(&mut inner, &links);
    }
    let off = LinkChange { up: Some(false), ..LinkChange::default() };
    let off = links.iter().map(|l| set_link(LinkRef::Index(l.index), &off).absent_ok());
    inner.run(off.collect())
}

/// Removes an endpoint that nobody knows.
pub(super) fn discard(context: &Context, found: &ObservedEndpoint) -> Result<(), NetError> {
    let path = context.namespaces.join(found.sandbox.as_str());
    let Ok(namespace) = Namespace::open(&path) else { return Ok(()) };
    retire(context, &namespace, (&found.sandbox, &found.endpoint), true)
        .map_err(NetError::kernel("remove a link that belongs to no endpoint"))
}

/// What there is of this instance and driver.
pub(super) fn observe(kernel: &mut Kernel, context: &Context) -> Result<Observed, NetError> {
    let links = kernel.route.links().map_err(NetError::kernel("list the links of the host"))?;
    let mut observed = Observed::default();
    for link in &links {
        if let Some(Mark::Parent(network) | Mark::Host(network)) = context.mark(&link.alias)
            && !observed.networks.contains(&network)
        {
            observed.networks.push(network);
        }
    }
    if !context.known().is_empty() {
        observed.endpoints = endpoints(context);
    }
    Ok(observed)
}

/// The endpoints in the sandboxes. A namespace that goes meanwhile has none.
fn endpoints(context: &Context) -> Vec<ObservedEndpoint> {
    let Ok(names) = std::fs::read_dir(&context.namespaces) else { return Vec::new() };
    let namespaces = names.flatten().filter_map(|name| Namespace::open(&name.path()).ok());
    let links = namespaces.filter_map(|namespace| namespace.route().links().ok());
    let marked = |link: Link| match context.mark(&link.alias)? {
        Mark::Endpoint(sandbox, endpoint) => Some(ObservedEndpoint {
            sandbox,
            endpoint,
            host_interface: String::new(),
            peer: link.index,
            master: None,
            up: link.up,
            isolated: false,
            hairpin: false,
        }),
        _ => None,
    };
    links.flatten().filter_map(marked).collect()
}
