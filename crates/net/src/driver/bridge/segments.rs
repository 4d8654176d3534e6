//! How much TCP hands to a link at once: generic segmentation offload (GSO).
//!
//! Between two containers, such a piece of a stream is never cut: the larger it
//! is, the fewer ways through the kernel a stream takes. Both ends of a pair
//! have the size, as the one on the host is where the bridge hands pieces on.
//!
//! Be aware: a kernel without large pieces (IPv6 before 5.19, IPv4 before 6.3)
//! keeps its own size. That costs speed and nothing else, so it is no error.

use sampan_sys::netlink::{Link, LinkChange, LinkRef, Route, set_link};

use crate::config::BridgeConfig;

/// Whether a link has the size of its network, or can't have one.
pub(super) fn has_size(link: &Link, config: &BridgeConfig) -> bool {
    link.gso_ipv4_max_size.is_none_or(|size| size == config.gso_max_size())
}

/// Gives a link the size of its network.
pub(super) fn set_size(route: &mut Route, link: &Link, config: &BridgeConfig) {
    let size = config.gso_max_size();
    let change = LinkChange { gso_max_size: Some(size), ..LinkChange::default() };
    if let Err(error) = route.run(vec![set_link(LinkRef::Index(link.index), &change)]) {
        tracing::debug!(link = link.name, size, %error, "a link keeps the kernel's GSO size");
    }
}
