//! Links: bridges, veth pairs, bridge ports (`linux/if_link.h`).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::attr::{Message, attributes, find, text, u32_ne};
use super::route::Request;

/// `IFLA_EXT_MASK` value `RTEXT_FILTER_SKIP_STATS`: no statistics in lists.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
/// `IN6_ADDR_GEN_MODE_NONE`: no link-local IPv6 address.
const ADDR_GEN_NONE: u8 = 1;

/// A link of the namespace of the socket that listed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The text that somebody attached to it.
    pub alias: String,
    /// What it is: `bridge`, `veth` …; empty for hardware.
    pub kind: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Hardware address.
    pub mac: Vec<u8>,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// The most bytes of IPv4 that are handed over to it at once, to be cut
    /// into packets on their way. None where the kernel has one size for both
    /// families (before 6.3).
    pub gso_ipv4_max_size: Option<u32>,
    /// The number of the bridge that it is a port of.
    pub master: Option<u32>,
    /// The number of its peer in the peer's namespace; 0 when it has none.
    pub peer: u32,
    /// Its group.
    pub group: u32,
    /// Its port on a bridge.
    pub port: Option<PortState>,
}

/// A link as port of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortState {
    /// Whether it lets packets through.
    pub forwarding: bool,
    /// Whether packets may go out where they came in.
    pub hairpin: bool,
    /// Whether it exchanges nothing with other isolated ports.
    pub isolated: bool,
}

/// How a link is named in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRef<'a> {
    /// By its number.
    Index(u32),
    /// By its name.
    Name(&'a str),
}

impl std::fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(index) => write!(f, "number {index}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A bridge to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewBridge<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address. Without one of its own, a bridge takes that of
    /// some port and changes it with every port.
    pub mac: [u8; 6],
    /// The largest packet in bytes.
    pub mtu: u32,
}

/// A pair of links to be made: what enters one comes out of the other.
#[derive(Debug, Clone, Copy)]
pub struct NewVeth<'a> {
    /// The end in the socket's namespace.
    pub name: &'a str,
    /// The end in the other namespace.
    pub peer: &'a str,
    /// The other namespace.
    pub peer_netns: BorrowedFd<'a>,
    /// The other end's hardware address.
    pub peer_mac: [u8; 6],
    /// The largest packet in bytes.
    pub mtu: u32,
    /// The group of this end.
    pub group: u32,
}

/// What shall change on a link; `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    /// Switched on or off.
    pub up: Option<bool>,
    /// The bridge that it becomes a port of; 0 for none.
    pub master: Option<u32>,
    /// The largest packet in bytes.
    pub mtu: Option<u32>,
    /// The most bytes that are handed over to it at once, of either family.
    /// Above 65,536, IPv4 has to be known to the kernel apart (6.3), and IPv6
    /// to be larger than its header's field (5.19).
    pub gso_max_size: Option<u32>,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// A text for humans and for later recognition.
    pub alias: Option<&'a str>,
    /// Its group.
    pub group: Option<u32>,
    /// Its new name.
    pub name: Option<&'a str>,
    /// The namespace that it moves into, where it is switched off.
    pub netns: Option<BorrowedFd<'a>>,
    /// Keep it without an IPv6 address of its own from when it is switched
    /// on. Refused by a kernel without IPv6.
    pub quiet_ipv6: bool,
}

/// What shall change on a bridge's port; `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortChange {
    /// Whether packets may go out where they came in.
    pub hairpin: Option<bool>,
    /// Whether it exchanges nothing with other isolated ports.
    pub isolated: Option<bool>,
}

/// `struct ifinfomsg`.
fn header(family: i32, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family as u8;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn message(kind: u16, flags: i32, link: LinkRef<'_>, up: Option<bool>) -> Message {
    let index = if let LinkRef::Index(index) = link { index } else { 0 };
    let switch = libc::IFF_UP as u32;
    let (value, change) = match up {
        None => (0, 0),
        Some(true) => (switch, switch),
        Some(false) => (0, switch),
    };
    let mut message =
        Message::new(kind, flags as u16, &header(libc::AF_UNSPEC, index, value, change));
    if let LinkRef::Name(name) = link {
        message.text(libc::IFLA_IFNAME, name);
    }
    message
}

const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// The beginning of a request for a new link.
pub(super) fn create_message(link: LinkRef<'_>) -> Message {
    message(libc::RTM_NEWLINK, CREATE, link, None)
}

/// No IPv6 address of its own: what passes through is no business of the host.
fn no_ipv6_address(message: &mut Message) {
    message.nest(libc::IFLA_AF_SPEC, |m| {
        m.nest(libc::AF_INET6 as u16, |m| {
            m.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_NONE);
        });
    });
}

/// Creates a bridge, switched off.
#[must_use]
pub fn add_bridge(bridge: &NewBridge<'_>) -> Request {
    let mut m = message(libc::RTM_NEWLINK, CREATE, LinkRef::Name(bridge.name), None);
    m.raw(libc::IFLA_ADDRESS, &bridge.mac).u32(libc::IFLA_MTU, bridge.mtu);
    m.nest(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, "bridge");
        m.nest(libc::IFLA_INFO_DATA, |m| {
            m.u32(IFLA_BR_FORWARD_DELAY, 0);
        });
    });
    Request::new(m, format!("create bridge {}", bridge.name))
}

/// Creates a pair of links, both switched off.
#[must_use]
pub fn add_veth(veth: &NewVeth<'_>) -> Request {
    let mut m = message(libc::RTM_NEWLINK, CREATE, LinkRef::Name(veth.name), None);
    m.u32(libc::IFLA_MTU, veth.mtu).u32(libc::IFLA_GROUP, veth.group);
    m.nest(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, "veth");
        m.nest(libc::IFLA_INFO_DATA, |m| {
            m.nest(VETH_INFO_PEER, |m| {
                m.bytes(&header(libc::AF_UNSPEC, 0, 0, 0));
                m.text(libc::IFLA_IFNAME, veth.peer)
                    .raw(libc::IFLA_ADDRESS, &veth.peer_mac)
                    .u32(libc::IFLA_MTU, veth.mtu)
                    .u32(libc::IFLA_NET_NS_FD, veth.peer_netns.as_raw_fd() as u32);
            });
        });
    });
    Request::new(m, format!("create link {} with peer {}", veth.name, veth.peer))
}

/// Changes a link.
#[must_use]
pub fn set_link(link: LinkRef<'_>, change: &LinkChange<'_>) -> Request {
    // RTM_SETLINK would not read IFLA_IFNAME as the name to look for in
    // older kernels when another one is given; RTM_NEWLINK without
    // NLM_F_CREATE is the same and does.
    let mut m = message(libc::RTM_NEWLINK, 0, link, change.up);
    if let (Some(name), LinkRef::Index(_)) = (change.name, link) {
        m.text(libc::IFLA_IFNAME, name);
    }
    if let Some(mtu) = change.mtu {
        m.u32(libc::IFLA_MTU, mtu);
    }
    if let Some(size) = change.gso_max_size {
        m.u32(libc::IFLA_GSO_MAX_SIZE, size).u32(IFLA_GSO_IPV4_MAX_SIZE, size);
    }
    if let Some(mac) = change.mac {
        m.raw(libc::IFLA_ADDRESS, &mac);
    }
    if let Some(alias) = change.alias {
        m.raw(libc::IFLA_IFALIAS, alias.as_bytes());
    }
    if let Some(group) = change.group {
        m.u32(libc::IFLA_GROUP, group);
    }
    if let Some(master) = change.master {
        m.u32(libc::IFLA_MASTER, master);
    }
    if let Some(netns) = change.netns {
        m.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
    }
    if change.quiet_ipv6 {
        no_ipv6_address(&mut m);
    }
    Request::new(m, format!("change link {link}"))
}

/// Changes a bridge's port. The link has to be switched on to be made
/// forwarding.
#[must_use]
pub fn set_port(link: LinkRef<'_>, change: &PortChange) -> Request {
    let mut m = message(libc::RTM_NEWLINK, 0, link, None);
    m.nest(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_SLAVE_KIND, "bridge");
        m.nest(libc::IFLA_INFO_SLAVE_DATA, |m| {
            if let Some(on) = change.hairpin {
                m.u8(IFLA_BRPORT_MODE, on.into());
            }
            if let Some(on) = change.isolated {
                m.u8(IFLA_BRPORT_ISOLATED, on.into());
            }
        });
    });
    Request::new(m, format!("change bridge port {link}"))
}

/// Shuts a bridge's port: nothing passes it. It is said in the bridges' own
/// way; as a change of the link, the kernel would tell the bridge of a link
/// that is up, which opens its port again.
#[must_use]
pub fn shut_port(link: u32) -> Request {
    /// `BR_STATE_DISABLED`.
    const DISABLED: u8 = 0;
    let mut m = Message::new(libc::RTM_SETLINK, 0, &header(libc::AF_BRIDGE, link, 0, 0));
    m.nest(libc::IFLA_PROTINFO, |m| {
        m.u8(IFLA_BRPORT_STATE, DISABLED);
    });
    Request::new(m, format!("shut bridge port {link}"))
}

/// Removes a link, and its peer with it.
#[must_use]
pub fn delete_link(link: LinkRef<'_>) -> Request {
    Request::new(message(libc::RTM_DELLINK, 0, link, None), format!("remove link {link}"))
}

/// Removes all links of a group at the price of one: most of the time goes
/// into waiting until no packet is on its way through them.
#[must_use]
pub fn delete_group(group: u32) -> Request {
    let mut m = Message::new(libc::RTM_DELLINK, 0, &header(libc::AF_UNSPEC, 0, 0, 0));
    m.u32(libc::IFLA_GROUP, group);
    Request::new(m, format!("remove links of group {group:#x}"))
}

pub(super) fn list_request() -> Message {
    let mut m = Message::new(libc::RTM_GETLINK, 0, &header(libc::AF_UNSPEC, 0, 0, 0));
    m.u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    m
}

pub(super) fn get_request(name: &str) -> Message {
    let mut m = message(libc::RTM_GETLINK, 0, LinkRef::Name(name), None);
    m.u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    m
}

pub(super) fn parse(body: &[u8]) -> Option<Link> {
    let header = body.get(..16)?;
    let mut link = Link {
        index: u32_ne(&header[4..8]),
        name: String::new(),
        alias: String::new(),
        kind: String::new(),
        up: u32_ne(&header[8..12]) & libc::IFF_UP as u32 != 0,
        mac: Vec::new(),
        mtu: 0,
        gso_ipv4_max_size: None,
        master: None,
        peer: 0,
        group: 0,
        port: None,
    };
    for (kind, value) in attributes(&body[16..]) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_IFALIAS => link.alias = text(value),
            libc::IFLA_ADDRESS => link.mac = value.to_vec(),
            libc::IFLA_MTU => link.mtu = u32_ne(value),
            IFLA_GSO_IPV4_MAX_SIZE => link.gso_ipv4_max_size = Some(u32_ne(value)),
            libc::IFLA_MASTER => link.master = Some(u32_ne(value)),
            libc::IFLA_LINK => link.peer = u32_ne(value),
            libc::IFLA_GROUP => link.group = u32_ne(value),
            libc::IFLA_LINKINFO => parse_info(value, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(info: &[u8], link: &mut Link) {
    link.kind = find(info, libc::IFLA_INFO_KIND).map(text).unwrap_or_default();
    let is_port = find(info, libc::IFLA_INFO_SLAVE_KIND).is_some_and(|k| text(k) == "bridge");
    if let Some(port) = find(info, libc::IFLA_INFO_SLAVE_DATA).filter(|_| is_port) {
        let byte = |kind| find(port, kind).and_then(|v| v.first().copied()).unwrap_or(0);
        link.port = Some(PortState {
            forwarding: byte(IFLA_BRPORT_STATE) == 3,
            hairpin: byte(IFLA_BRPORT_MODE) != 0,
            isolated: byte(IFLA_BRPORT_ISOLATED) != 0,
        });
    }
}
