//! Addresses, routes and neighbours (`linux/if_addr.h`, `linux/rtnetlink.h`,
//! `linux/neighbour.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::attr::{Message, attributes, u32_ne};
use super::route::Request;

const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const REPLACE: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
/// `IFA_F_NODAD`: the address is usable at once, unasked whether it is unique.
const IFA_F_NODAD: u8 = 0x02;
/// `IFA_PROTO`: who gave the address; kernels before 5.18 ignore it.
const IFA_PROTO: u16 = 11;
/// By which addresses of [`add_address`] are known again (as the protocol of
/// a route; not one of `linux/if_addr.h`).
const PROTOCOL: u8 = 0x73;

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressEntry {
    /// The link's number.
    pub link: u32,
    /// The address with its prefix length.
    pub address: IpNet,
    /// Whether it was given by [`add_address`], of whichever process; never
    /// known before Linux 5.18.
    pub ours: bool,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteEntry {
    /// Where it leads to; none for everywhere else, by a next hop. Without
    /// one that is 0.0.0.0/0 or ::/0.
    pub destination: Option<IpNet>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The link's number.
    pub link: u32,
}

impl RouteEntry {
    /// Whether it leads everywhere else.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.destination.is_none_or(|d| d.prefix_len() == 0)
    }

    /// Whether it is one of IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.destination.map(|d| d.addr()).or(self.gateway).is_some_and(|a| a.is_ipv6())
    }
}

/// Which hardware address has an IP address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The link's number.
    pub link: u32,
    /// The IP address.
    pub address: IpAddr,
    /// The hardware address.
    pub mac: [u8; 6],
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(super) fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

/// `struct ifaddrmsg` and the address.
fn address_message(kind: u16, flags: i32, link: u32, address: IpNet) -> Message {
    let ip = address.addr();
    let mut header = [family(ip), address.prefix_len(), 0, 0, 0, 0, 0, 0];
    if ip.is_ipv6() {
        header[2] = IFA_F_NODAD;
    }
    header[4..].copy_from_slice(&link.to_ne_bytes());
    let mut m = Message::new(kind, flags as u16, &header);
    m.raw(libc::IFA_LOCAL, &octets(ip)).raw(libc::IFA_ADDRESS, &octets(ip));
    m
}

/// Gives a link an address, an IPv6 one without asking whether it is unique.
#[must_use]
pub fn add_address(link: u32, address: IpNet) -> Request {
    let mut m = address_message(libc::RTM_NEWADDR, CREATE, link, address);
    m.u8(IFA_PROTO, PROTOCOL);
    if let IpNet::V4(net) = address
        && net.prefix_len() < 31
    {
        m.raw(libc::IFA_BROADCAST, &net.broadcast().octets());
    }
    Request::new(m, format!("add address {address}"))
}

/// Takes an address from a link.
#[must_use]
pub fn delete_address(link: u32, address: IpNet) -> Request {
    let m = address_message(libc::RTM_DELADDR, 0, link, address);
    Request::new(m, format!("remove address {address}"))
}

/// `struct rtmsg` and the route.
fn route_message(kind: u16, flags: i32, route: &RouteEntry) -> Option<Message> {
    let like = route.gateway.or(route.destination.map(|d| d.addr()))?;
    let prefix = route.destination.map_or(0, |d| d.prefix_len());
    let scope = if route.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    // Family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
    let mut header = [0; 12];
    header[0] = family(like);
    header[1] = prefix;
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = libc::RTPROT_BOOT;
    header[6] = scope;
    header[7] = libc::RTN_UNICAST;
    let mut m = Message::new(kind, flags as u16, &header);
    if let Some(destination) = route.destination {
        m.raw(libc::RTA_DST, &octets(destination.network()));
    }
    if let Some(gateway) = route.gateway {
        m.raw(libc::RTA_GATEWAY, &octets(gateway));
    }
    m.u32(libc::RTA_OIF, route.link);
    Some(m)
}

fn route_text(route: &RouteEntry) -> String {
    let to = route.destination.map_or_else(|| "default".to_owned(), |d| d.to_string());
    match route.gateway {
        Some(gateway) => format!("route {to} via {gateway}"),
        None => format!("route {to}"),
    }
}

/// Adds a route to the main table.
///
/// A route without destination needs a gateway: it gives the family.
#[must_use]
pub fn add_route(route: &RouteEntry) -> Option<Request> {
    let m = route_message(libc::RTM_NEWROUTE, CREATE, route)?;
    Some(Request::new(m, format!("add {}", route_text(route))))
}

/// Adds a route to the main table, in place of one that leads to the same
/// destination. No packet in between finds none.
#[must_use]
pub fn replace_route(route: &RouteEntry) -> Option<Request> {
    let m = route_message(libc::RTM_NEWROUTE, REPLACE, route)?;
    Some(Request::new(m, format!("set {}", route_text(route))))
}

/// Lets the host take for its own what a link receives for an address of
/// IPv6 that is another link's: `::1`, which the kernel looks up by link.
/// That it is so already is reported as such.
#[must_use]
pub fn add_local_route(link: u32, address: Ipv6Addr) -> Request {
    // Others have routes to the same address: no NLM_F_EXCL.
    let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    let m = local_route(libc::RTM_NEWROUTE, flags, link, address);
    Request::new(m, format!("add local route {address}"))
}

/// Takes the route of [`add_local_route`] away.
#[must_use]
pub fn delete_local_route(link: u32, address: Ipv6Addr) -> Request {
    let m = local_route(libc::RTM_DELROUTE, 0, link, address);
    Request::new(m, format!("remove local route {address}"))
}

fn local_route(kind: u16, flags: i32, link: u32, address: Ipv6Addr) -> Message {
    // As in `route_message`.
    let mut header = [0; 12];
    header[0] = libc::AF_INET6 as u8;
    header[1] = 128;
    header[4] = libc::RT_TABLE_LOCAL;
    header[5] = libc::RTPROT_BOOT;
    header[6] = libc::RT_SCOPE_UNIVERSE;
    header[7] = libc::RTN_LOCAL;
    let mut m = Message::new(kind, flags as u16, &header);
    m.raw(libc::RTA_DST, &address.octets()).u32(libc::RTA_OIF, link);
    m
}

/// Removes a route from the main table.
#[must_use]
pub fn delete_route(route: &RouteEntry) -> Option<Request> {
    let m = route_message(libc::RTM_DELROUTE, 0, route)?;
    Some(Request::new(m, format!("remove {}", route_text(route))))
}

/// `struct ndmsg` and the neighbour.
fn neighbour_message(kind: u16, flags: i32, state: u16, entry: (u32, IpAddr)) -> Message {
    let (link, address) = entry;
    let mut header = [0; 12];
    header[0] = family(address);
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    let mut m = Message::new(kind, flags as u16, &header);
    m.raw(libc::NDA_DST, &octets(address));
    m
}

/// Makes a neighbour known as just seen: no question is asked before the
/// first packet, and what was known before is forgotten.
#[must_use]
pub fn replace_neighbour(neighbour: &Neighbour) -> Request {
    let entry = (neighbour.link, neighbour.address);
    let mut m = neighbour_message(libc::RTM_NEWNEIGH, REPLACE, libc::NUD_REACHABLE, entry);
    m.raw(libc::NDA_LLADDR, &neighbour.mac);
    Request::new(m, format!("set neighbour {}", neighbour.address))
}

/// Makes a neighbour known for good: it is never asked for, and nobody else's
/// word about it counts.
#[must_use]
pub fn pin_neighbour(neighbour: &Neighbour) -> Request {
    let entry = (neighbour.link, neighbour.address);
    let mut m = neighbour_message(libc::RTM_NEWNEIGH, REPLACE, libc::NUD_PERMANENT, entry);
    m.raw(libc::NDA_LLADDR, &neighbour.mac);
    Request::new(m, format!("pin neighbour {}", neighbour.address))
}

/// Forgets a neighbour.
#[must_use]
pub fn delete_neighbour(link: u32, address: IpAddr) -> Request {
    let m = neighbour_message(libc::RTM_DELNEIGH, 0, 0, (link, address));
    Request::new(m, format!("forget neighbour {address}"))
}

pub(super) fn addresses_request() -> Message {
    Message::new(libc::RTM_GETADDR, 0, &[0; 8])
}

/// As [`addresses_request`], of one link and the family of `like`, for a
/// socket that checks strictly.
pub(super) fn addresses_of_request(link: u32, like: IpAddr) -> Message {
    let mut header = [0; 8];
    header[0] = family(like);
    header[4..].copy_from_slice(&link.to_ne_bytes());
    Message::new(libc::RTM_GETADDR, 0, &header)
}

pub(super) fn routes_request(like: IpAddr) -> Message {
    let mut header = [0; 12];
    header[0] = family(like);
    Message::new(libc::RTM_GETROUTE, 0, &header)
}

/// As [`routes_request`], of the main table and one link, for a socket that
/// checks strictly.
pub(super) fn routes_of_request(link: u32, like: IpAddr) -> Message {
    let mut header = [0; 12];
    header[0] = family(like);
    header[4] = libc::RT_TABLE_MAIN;
    let mut m = Message::new(libc::RTM_GETROUTE, 0, &header);
    m.u32(libc::RTA_OIF, link);
    m
}

pub(super) fn parse_address(body: &[u8]) -> Option<AddressEntry> {
    let header = body.get(..8)?;
    let (mut local, mut address, mut ours) = (None, None, false);
    for (kind, value) in attributes(&body[8..]) {
        match kind {
            libc::IFA_LOCAL => local = parse_ip(value),
            libc::IFA_ADDRESS => address = parse_ip(value),
            IFA_PROTO => ours = value == [PROTOCOL],
            _ => {}
        }
    }
    let address = IpNet::new(local.or(address)?, header[1]).ok()?;
    Some(AddressEntry { link: u32_ne(&header[4..8]), address, ours })
}

pub(super) fn parse_route(body: &[u8]) -> Option<RouteEntry> {
    let header = body.get(..12)?;
    if header[4] != libc::RT_TABLE_MAIN || header[7] != libc::RTN_UNICAST {
        return None;
    }
    let mut route = RouteEntry { destination: None, gateway: None, link: 0 };
    for (kind, value) in attributes(&body[12..]) {
        match kind {
            libc::RTA_DST => {
                route.destination = IpNet::new(parse_ip(value)?, header[1]).ok();
            }
            libc::RTA_GATEWAY => route.gateway = parse_ip(value),
            libc::RTA_OIF => route.link = u32_ne(value),
            _ => {}
        }
    }
    if route.destination.is_none() && route.gateway.is_none() {
        let v6 = i32::from(header[0]) == libc::AF_INET6;
        let all = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        route.destination = IpNet::new(all, 0).ok();
    }
    Some(route)
}
