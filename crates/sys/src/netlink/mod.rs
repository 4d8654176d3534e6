//! Netlink: one codec and one socket for links and addresses (rtnetlink,
//! [`Route`]), for nf_tables ([`crate::nft`]) and for connection tracking
//! ([`crate::conntrack`]).
//!
//! Be aware:
//! - A socket belongs for ever to the network namespace in which it was
//!   opened; the thread that uses it may be in any other.
//! - Several requests travel in one datagram. The kernel carries each out in
//!   turn and goes on after a refused one; [`Route::run`] reports the first.
//! - Attribute numbers are those of the kernel's headers
//!   (`linux/if_link.h`, `linux/rtnetlink.h`), taken from `libc` where it
//!   has them.

mod address;
mod attr;
mod classifier;
mod destinations;
mod events;
mod inward;
mod link;
mod listen;
mod qdisc;
mod route;
mod socket;
mod stats;
mod usable;
mod vlan;
mod way;

use std::io;

use thiserror::Error;

pub use address::{
    AddressEntry, Neighbour, RouteEntry, add_address, add_local_route, add_route, delete_address,
    delete_local_route, delete_neighbour, delete_route, pin_neighbour, replace_neighbour,
    replace_route,
};
pub(crate) use attr::{Message, attributes, find, text, u16_be, u32_be};
pub use classifier::{
    Classifier, FilterSlot, add_clsact, delete_classifier, delete_clsact, delete_filter,
    set_classifier, set_filter,
};
pub use destinations::Destination;
pub use events::{RouteChange, RouteEvent, RouteEvents};
pub use inward::{add_ifb, redirect_inward};
pub use link::{
    Link, LinkChange, LinkRef, NewBridge, NewVeth, PortChange, PortState, add_bridge, add_veth,
    delete_group, delete_link, set_link, set_port, shut_port,
};
pub use listen::Heard;
pub(crate) use listen::{Interest, Listener, Told};
pub use qdisc::{TokenBucket, delete_token_bucket, set_token_bucket};
pub(crate) use route::dump as dump_objects;
pub use route::{Request, Route};
pub(crate) use socket::{Reply, Socket};
pub use stats::LinkStats;
pub use usable::AddressWatch;
pub use vlan::{IpvlanFlag, IpvlanMode, MacvlanMode, NewUpper, UpperKind, add_dummy, add_upper};
pub use way::Way;

/// A request that the kernel refused, or a socket that failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused a request.
    #[error("{what}: {source}{}", if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
    Refused {
        /// The request.
        what: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own words, where it has any.
        detail: String,
    },
    /// An answer that makes no sense.
    #[error("malformed answer from the kernel to: {0}")]
    Malformed(String),
}

impl NetlinkError {
    /// The kernel's error number, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket(e) | Self::Refused { source: e, .. } => e.raw_os_error(),
            Self::Malformed(_) => None,
        }
    }

    /// Whether the object of the request does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.errno().is_some_and(is_absence)
    }

    /// Whether the kernel has no room for one more: its table is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.errno() == Some(libc::ENOBUFS)
    }

    /// Whether the object of the request exists already.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// What the kernel says when a link, address, route, neighbour, table, chain
/// or element is not there.
pub(crate) fn is_absence(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
}
