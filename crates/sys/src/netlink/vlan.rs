//! Links that sit on another one, and links to nowhere: macvlan, ipvlan,
//! VLANs, dummies (`linux/if_link.h`).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::attr::Message;
use super::link::{LinkRef, create_message};
use super::route::Request;

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;

/// How a macvlan's packets get to others on the same parent (`MACVLAN_MODE_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Not at all.
    Private,
    /// By a switch that sends them back.
    Vepa,
    /// Directly.
    Bridge,
    /// There are no others: the parent is this one's alone.
    Passthru,
}

/// On which layer an ipvlan works (`IPVLAN_MODE_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// Frames; it asks and answers ARP.
    L2,
    /// Packets; no broadcasts.
    L3,
    /// As `L3`, through the parent's namespace's hooks.
    L3s,
}

/// How an ipvlan's packets get to others on the same parent (`IPVLAN_F_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanFlag {
    /// Directly.
    Bridge,
    /// Not at all.
    Private,
    /// By a switch that sends them back.
    Vepa,
}

/// What a link on another one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpperKind {
    /// Has a hardware address of its own.
    Macvlan(MacvlanMode),
    /// Has the parent's.
    Ipvlan(IpvlanMode, IpvlanFlag),
    /// Carries the frames with this VLAN id (IEEE 802.1Q).
    Vlan(u16),
}

impl UpperKind {
    /// The kernel's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Macvlan(_) => "macvlan",
            Self::Ipvlan(..) => "ipvlan",
            Self::Vlan(_) => "vlan",
        }
    }
}

/// A link on another one, to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewUpper<'a> {
    /// Its name.
    pub name: &'a str,
    /// The number of the parent in the socket's namespace.
    pub parent: u32,
    /// What it is.
    pub kind: UpperKind,
    /// The namespace that it is made in; the socket's when absent.
    pub netns: Option<BorrowedFd<'a>>,
    /// Its hardware address; the kernel's choice when absent.
    pub mac: Option<[u8; 6]>,
    /// The largest packet in bytes; the parent's when absent.
    pub mtu: Option<u32>,
}

/// Creates a link on another one, switched off.
#[must_use]
pub fn add_upper(upper: &NewUpper<'_>) -> Request {
    let mut m = create_message(LinkRef::Name(upper.name));
    m.u32(libc::IFLA_LINK, upper.parent);
    if let Some(netns) = upper.netns {
        m.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
    }
    if let Some(mac) = upper.mac {
        m.raw(libc::IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = upper.mtu {
        m.u32(libc::IFLA_MTU, mtu);
    }
    m.nest(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, upper.kind.name());
        m.nest(libc::IFLA_INFO_DATA, |m| data(m, upper.kind));
    });
    let (kind, name, parent) = (upper.kind.name(), upper.name, upper.parent);
    Request::new(m, format!("create {kind} {name} on link number {parent}"))
}

fn data(m: &mut Message, kind: UpperKind) {
    match kind {
        UpperKind::Macvlan(mode) => {
            let mode = match mode {
                MacvlanMode::Private => 1,
                MacvlanMode::Vepa => 2,
                MacvlanMode::Bridge => 4,
                MacvlanMode::Passthru => 8,
            };
            m.u32(IFLA_MACVLAN_MODE, mode);
        }
        UpperKind::Ipvlan(mode, flag) => {
            let mode: u16 = match mode {
                IpvlanMode::L2 => 0,
                IpvlanMode::L3 => 1,
                IpvlanMode::L3s => 2,
            };
            let flag: u16 = match flag {
                IpvlanFlag::Bridge => 0,
                IpvlanFlag::Private => 1,
                IpvlanFlag::Vepa => 2,
            };
            m.raw(IFLA_IPVLAN_MODE, &mode.to_ne_bytes());
            m.raw(IFLA_IPVLAN_FLAGS, &flag.to_ne_bytes());
        }
        UpperKind::Vlan(id) => {
            m.raw(IFLA_VLAN_ID, &id.to_ne_bytes());
        }
    }
}

/// Creates a dummy, switched off: what is sent into it is gone.
#[must_use]
pub fn add_dummy(name: &str) -> Request {
    let mut m = create_message(LinkRef::Name(name));
    m.nest(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, "dummy");
    });
    Request::new(m, format!("create dummy {name}"))
}
