//! Changes of links, addresses, routes and forwarding, as the kernel tells
//! them: of the listener's network namespace and of all those that have a
//! number there (see [`Route::number_namespace`]).
//!
//! Be aware:
//! - Only what can be a loss is told: links that changed or are gone,
//!   addresses, routes, filters and queueing disciplines that are gone. What
//!   somebody adds is of no interest.
//! - Filters go without a word with their queueing discipline, and both with
//!   their link.
//! - Namespaces get a number when a link leads into them (veth), or when they
//!   are given one.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::attr::{Message, find, u32_ne};
use super::listen::{Interest, Listener, Told};
use super::route::{Request, Route};
use super::{AddressEntry, Heard, Link, NetlinkError, RouteEntry, address, link};

/// `RTM_NEWNETCONF`: a parameter of `/proc/sys/net/ipv*/conf`.
const RTM_NEWNETCONF: u16 = 80;
/// `RTM_NEWNSID`, `RTM_GETNSID`.
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `NETCONFA_IFINDEX`, `NETCONFA_FORWARDING`.
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// `NETCONFA_IFINDEX_ALL`: the namespace's own switch.
const IFINDEX_ALL: i32 = -1;
/// `RTNLGRP_LINK`, `…_TC`, `…_IPV4_IFADDR`, `…_IPV4_ROUTE`, `…_IPV6_IFADDR`,
/// `…_IPV6_ROUTE`, `…_IPV4_NETCONF`, `…_IPV6_NETCONF`.
const GROUPS: [u32; 8] = [1, 4, 5, 7, 9, 11, 24, 25];
const KINDS: [u16; 7] = [
    libc::RTM_NEWLINK,
    libc::RTM_DELLINK,
    libc::RTM_DELADDR,
    libc::RTM_DELROUTE,
    libc::RTM_DELQDISC,
    libc::RTM_DELTFILTER,
    RTM_NEWNETCONF,
];

/// A change in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEvent {
    /// The namespace's number as seen from the listener's; none for the
    /// listener's own.
    pub namespace: Option<i32>,
    /// What changed.
    pub change: RouteChange,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// A link is new or different: it is like this now.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address is gone.
    AddressGone(AddressEntry),
    /// A unicast route of the main table is gone.
    RouteGone(RouteEntry),
    /// A filter or a queueing discipline of the link with this number is gone.
    TrafficGone(u32),
    /// The namespace forwards packets, or no longer.
    Forwarding {
        /// Whether of IPv6.
        ipv6: bool,
        /// Whether it does.
        on: bool,
    },
}

/// Hears of the changes.
#[derive(Debug)]
pub struct RouteEvents {
    listener: Listener,
}

impl RouteEvents {
    /// Listens in the calling thread's network namespace and in those that
    /// have a number there.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn open() -> io::Result<Self> {
        let interest = Interest { kinds: &KINDS, not_by: &[] };
        Ok(Self { listener: Listener::open(libc::NETLINK_ROUTE, &GROUPS, true, interest)? })
    }

    /// Waits until something changed. Cancel-safe. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket failed.
    pub async fn ready(&self) -> io::Result<()> {
        self.listener.ready().await
    }

    /// Hands the changes until now to `each`, without waiting.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn drain(&mut self, mut each: impl FnMut(RouteEvent)) -> io::Result<Heard> {
        self.listener.drain(|told| {
            if let Some(event) = parse(&told) {
                each(event);
            }
        })
    }
}

fn parse(told: &Told<'_>) -> Option<RouteEvent> {
    let body = told.body;
    // A bridge tells of its ports by messages of its own family.
    let of_link = || link::parse(body).filter(|_| body[0] == libc::AF_UNSPEC as u8);
    let change = match told.kind {
        libc::RTM_NEWLINK => RouteChange::Link(of_link()?),
        libc::RTM_DELLINK => RouteChange::LinkGone(of_link()?),
        libc::RTM_DELADDR => RouteChange::AddressGone(address::parse_address(body)?),
        libc::RTM_DELROUTE => RouteChange::RouteGone(address::parse_route(body)?),
        // struct tcmsg: the family, then the link.
        libc::RTM_DELQDISC | libc::RTM_DELTFILTER => {
            RouteChange::TrafficGone(u32_ne(body.get(4..8)?))
        }
        RTM_NEWNETCONF => {
            // struct netconfmsg is the family alone.
            let values = body.get(4..)?;
            let link = find(values, NETCONFA_IFINDEX).map(u32_ne)?;
            if link.cast_signed() != IFINDEX_ALL {
                return None;
            }
            let on = find(values, NETCONFA_FORWARDING).map(u32_ne)? != 0;
            RouteChange::Forwarding { ipv6: body[0] == libc::AF_INET6 as u8, on }
        }
        _ => return None,
    };
    Some(RouteEvent { namespace: told.namespace, change })
}

impl Route {
    /// The number of another namespace as seen from the socket's, which it is
    /// given when it has none: [`RouteEvents`] hear of it from then on.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn number_namespace(&mut self, namespace: BorrowedFd<'_>) -> Result<i32, NetlinkError> {
        if let Some(number) = self.namespace_number(namespace)? {
            return Ok(number);
        }
        let mut m = Message::new(RTM_NEWNSID, 0, &[0; 4]);
        m.raw(NETNSA_NSID, &(-1_i32).to_ne_bytes());
        m.u32(NETNSA_FD, namespace.as_raw_fd().cast_unsigned());
        self.run(vec![Request::new(m, "number a namespace".to_owned()).present_ok()])?;
        self.namespace_number(namespace)?
            .ok_or_else(|| NetlinkError::Malformed("number a namespace".to_owned()))
    }

    fn namespace_number(&mut self, of: BorrowedFd<'_>) -> Result<Option<i32>, NetlinkError> {
        // struct rtgenmsg is the family alone.
        let mut m = Message::new(RTM_GETNSID, 0, &[0; 4]);
        m.u32(NETNSA_FD, of.as_raw_fd().cast_unsigned());
        let body = self.get(m, "find the number of a namespace")?;
        let number = body.as_deref().and_then(|b| find(b.get(4..)?, NETNSA_NSID).map(u32_ne));
        Ok(number.map(u32::cast_signed).filter(|n| *n >= 0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::print_stderr)]

    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::netlink::{
        LinkChange, LinkRef, NewBridge, NewVeth, add_address, add_bridge, add_clsact, add_veth,
        delete_address, delete_clsact, delete_link, set_link,
    };
    use crate::netns::NetNs;

    /// Runs in a namespace of its own; skipped, visibly, without root.
    fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
        let made = NetNs::create(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        });
        if let Err(e) = made {
            eprintln!("skipped: no network namespace here: {e}");
        }
    }

    /// Waits for an event that is `wanted`.
    async fn hear(events: &mut RouteEvents, wanted: impl Fn(&RouteEvent) -> bool) {
        let look = async {
            let mut found = false;
            while !found {
                events.ready().await.unwrap();
                events.drain(|event| found |= wanted(&event)).unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(5), look).await.unwrap();
    }

    #[test]
    fn losses_are_told_of_all_namespaces_with_a_number() {
        in_namespace(|| async {
            let mut events = RouteEvents::open().unwrap();
            let mut route = Route::open().unwrap();
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            let bridge = NewBridge { name: "br0", mac: [2, 0, 0, 0, 0, 1], mtu: 1500 };
            route.run(vec![add_bridge(&bridge), set_link(LinkRef::Name("br0"), &up)]).unwrap();
            hear(&mut events, |e| {
                e.namespace.is_none()
                    && matches!(&e.change, RouteChange::Link(l) if l.name == "br0" && l.up)
            })
            .await;
            let index = route.link("br0").unwrap().unwrap().index;
            let address = "10.0.0.1/24".parse().unwrap();
            route.run(vec![add_address(index, address)]).unwrap();
            route.run(vec![delete_address(index, address)]).unwrap();
            hear(
                &mut events,
                |e| matches!(&e.change, RouteChange::AddressGone(a) if a.address == address),
            )
            .await;
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            let off = RouteChange::Forwarding { ipv6: false, on: false };
            hear(&mut events, |e| e.change == off).await;
            route.run(vec![add_clsact(index), delete_clsact(index)]).unwrap();
            let gone = RouteChange::TrafficGone(index);
            hear(&mut events, |e| e.namespace.is_none() && e.change == gone).await;
            // A namespace that no link leads into has no number before it is
            // given one.
            let (other, inner) = NetNs::create(Route::open).unwrap();
            let mut inner = inner.unwrap();
            let number = route.number_namespace(other.as_fd()).unwrap();
            assert_eq!(route.number_namespace(other.as_fd()).unwrap(), number);
            let veth = NewVeth {
                name: "v0",
                peer: "eth0",
                peer_netns: other.as_fd(),
                peer_mac: [2, 0, 0, 0, 0, 9],
                mtu: 1500,
                group: 0,
            };
            route.run(vec![add_veth(&veth)]).unwrap();
            inner.run(vec![set_link(LinkRef::Name("eth0"), &up)]).unwrap();
            hear(&mut events, |e| {
                e.namespace == Some(number)
                    && matches!(&e.change, RouteChange::Link(l) if l.name == "eth0" && l.up)
            })
            .await;
            route.run(vec![delete_link(LinkRef::Name("v0"))]).unwrap();
            hear(&mut events, |e| matches!(&e.change, RouteChange::LinkGone(l) if l.name == "v0"))
                .await;
        });
    }
}
