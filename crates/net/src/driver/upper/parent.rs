//! The parent of a network: somebody else's link, a VLAN on one, or a link to
//! nowhere for containers among themselves.

use std::os::fd::AsFd;
use std::path::Path;

use sampan_sys::netlink::{
    Link, LinkChange, LinkRef, NetlinkError, NewUpper, NewVeth, Request, Route, UpperKind,
    add_dummy, add_upper, add_veth, delete_link, set_link,
};
use sampan_sys::netns::NetNs;
use sampan_types::NetworkId;

use super::{Context, Mark, Settings, host};
use crate::config::NetworkSpec;
use crate::error::NetError;
use crate::mac::MacAddr;
use crate::worker::Kernel;

/// The VLAN is there already, under another name.
const EEXIST: i32 = 17;
/// What a kernel says of a kind of link that it has not.
pub(super) const EOPNOTSUPP: i32 = 95;
/// The MTU of a parent of our own on nothing.
const DEFAULT_MTU: u32 = 1500;

/// Makes the parent of a network, or completes it, and the host's interface
/// on it. Says what was missing.
pub(super) fn complete(
    kernel: &mut Kernel,
    context: &Context,
    network: &NetworkSpec,
) -> Result<Vec<String>, NetError> {
    let settings = Settings::of(network)?;
    let name = settings.parent();
    let route = &mut kernel.route;
    let found = route.link(&name).map_err(settings.failed("create"))?;
    let (made, mut missing) = (found.is_none(), Vec::new());
    let parent = match found {
        Some(link) => link,
        None => {
            missing.push(format!("parent interface {name} of network {}", network.name));
            make(route, context, &settings, &name)?
        }
    };
    let completed = switch_on(route, context, &settings, &parent)
        .and_then(|switched| {
            missing.extend(switched);
            check(&settings, &parent)
        })
        .and_then(|()| host::complete(kernel, context, &settings, &parent));
    match completed {
        Ok(lines) => {
            missing.extend(lines);
            context.known().insert(network.id.clone(), name);
            Ok(missing)
        }
        Err(e) => {
            if made && let Err(also) = remove(kernel, context, &network.id) {
                tracing::warn!(parent = name, error = %also, "failed to remove an interface that was made for nothing");
            }
            Err(e)
        }
    }
}

/// Refuses what the kernel would refuse at every endpoint.
fn check(settings: &Settings<'_>, parent: &Link) -> Result<(), NetError> {
    if let Some(mtu) = settings.common.mtu.filter(|m| *m > parent.mtu) {
        return Err(settings.invalid(format!(
            "an MTU of {mtu} is more than the {} of its parent interface {}",
            parent.mtu, parent.name
        )));
    }
    if let Some(bridge) = parent.master {
        return Err(settings.invalid(format!(
            "parent interface {} is a port of link number {bridge}: name that one as parent",
            parent.name
        )));
    }
    if !parent.up {
        tracing::warn!(
            network = settings.network.name,
            parent = parent.name,
            "the parent interface of a network is switched off"
        );
    }
    Ok(())
}

/// Switches a parent of our own on. What somebody else made stays as it is.
fn switch_on(
    route: &mut Route,
    context: &Context,
    settings: &Settings<'_>,
    parent: &Link,
) -> Result<Option<String>, NetError> {
    if parent.up || context.mark(&parent.alias).is_none() {
        return Ok(None);
    }
    let mut requests = vec![set_link(LinkRef::Index(parent.index), &up())];
    if parent.kind == "veth" {
        requests.push(set_link(LinkRef::Name(&far_end(settings)), &up()));
    }
    route.run(requests).map_err(settings.failed("create"))?;
    Ok(Some(format!("state of parent interface {}", parent.name)))
}

pub(super) fn up() -> LinkChange<'static> {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

fn far_end(settings: &Settings<'_>) -> String {
    format!("dp-{}", settings.network.id.short())
}

fn make(
    route: &mut Route,
    context: &Context,
    settings: &Settings<'_>,
    name: &str,
) -> Result<Link, NetError> {
    let failed = || settings.failed("create");
    match (settings.common.parent, settings.common.vlan()) {
        (None, _) => make_nowhere(route, settings, name).map_err(failed())?,
        (Some(_), Some((base, id))) => make_vlan(route, settings, (name, base, id))?,
        (Some(_), None) => {
            return Err(settings.invalid(format!(
                "parent interface {name} is not on this host; a VLAN is made when the parent is \
                 named after an interface and the VLAN's number, 1 to 4094: eth0.10"
            )));
        }
    }
    let alias = context.alias(&Mark::Parent(settings.network.id.clone()));
    let marked = LinkChange { up: Some(true), ..marked(&alias) };
    let found = route
        .run(vec![set_link(LinkRef::Name(name), &marked)])
        .and_then(|()| route.link(name))
        .and_then(|link| link.ok_or_else(|| NetlinkError::Malformed(format!("find link {name}"))));
    found.map_err(|e| {
        // It bears no mark yet by which it could be found later.
        if let Err(also) = route.run(vec![delete_link(LinkRef::Name(name)).absent_ok()]) {
            tracing::warn!(name, error = %also, "failed to remove an interface that was made for nothing");
        }
        failed()(e)
    })
}

/// A change that gives a link an alias, and no IPv6 address of its own.
pub(super) fn marked(alias: &str) -> LinkChange<'_> {
    let quiet_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    LinkChange { alias: Some(alias), quiet_ipv6, ..LinkChange::default() }
}

fn make_vlan(
    route: &mut Route,
    settings: &Settings<'_>,
    (name, base, id): (&str, &str, u16),
) -> Result<(), NetError> {
    let found = route.link(base).map_err(settings.failed("create"))?;
    let Some(base) = found else {
        return Err(settings.invalid(format!(
            "parent interface {name} is not on this host, and no interface {base} on which VLAN \
             {id} could be made"
        )));
    };
    let (parent, kind) = (base.index, UpperKind::Vlan(id));
    let vlan = NewUpper { name, parent, kind, netns: None, mac: None, mtu: None };
    route.run(vec![add_upper(&vlan)]).map_err(|e| match e.errno() {
        Some(EOPNOTSUPP) => NetError::NotSupported {
            what: format!(
                "VLAN {name} of network {}: by this kernel (module 8021q), it",
                settings.network.name
            ),
        },
        Some(EEXIST) => settings.invalid(format!(
            "VLAN {id} of {} exists under another name: name that one as parent",
            base.name
        )),
        _ => settings.failed("create")(e),
    })
}

/// A dummy, or, where the kernel has none, a pair of links whose far end
/// nobody listens at.
fn make_nowhere(
    route: &mut Route,
    settings: &Settings<'_>,
    name: &str,
) -> Result<(), NetlinkError> {
    match route.run(vec![add_dummy(name)]) {
        Err(e) if e.errno() == Some(EOPNOTSUPP) => {}
        made => return made,
    }
    let here = NetNs::current()?;
    let far = far_end(settings);
    let pair = NewVeth {
        name,
        peer: &far,
        peer_netns: here.as_fd(),
        peer_mac: MacAddr::random().0,
        mtu: DEFAULT_MTU,
        group: 0,
    };
    let quiet = marked("");
    let far_up = LinkChange { up: Some(true), alias: None, ..quiet };
    route.run(vec![add_veth(&pair), set_link(LinkRef::Name(&far), &far_up)])
}

/// Removes what was made for a network: the host's interface, and its parent
/// unless another network uses it.
pub(super) fn remove(
    kernel: &mut Kernel,
    context: &Context,
    network: &NetworkId,
) -> Result<(), NetError> {
    let failed = || NetError::kernel(format!("remove network {network}"));
    let route = &mut kernel.route;
    let links = route.links().map_err(failed())?;
    let mut requests = Vec::new();
    for link in &links {
        match context.mark(&link.alias) {
            Some(Mark::Host(of)) if of == *network => {
                requests.push(delete_link(LinkRef::Index(link.index)).absent_ok());
            }
            Some(Mark::Parent(of)) if of == *network => {
                requests.push(hand_over(context, network, link));
            }
            _ => {}
        }
    }
    route.run(requests).map_err(failed())?;
    context.known().remove(network);
    Ok(())
}

/// Removes a parent, or marks it as another network's that uses it.
fn hand_over(context: &Context, network: &NetworkId, link: &Link) -> Request {
    let heir = {
        let known = context.known();
        let uses = |(id, parent): &(&NetworkId, &String)| *id != network && **parent == link.name;
        known.iter().find(uses).map(|(id, _)| id.clone())
    };
    match heir {
        Some(heir) => {
            let alias = context.alias(&Mark::Parent(heir));
            let change = LinkChange { alias: Some(&alias), ..LinkChange::default() };
            set_link(LinkRef::Index(link.index), &change)
        }
        None => delete_link(LinkRef::Index(link.index)),
    }
    .absent_ok()
}
