//! What passed links (`struct rtnl_link_stats64`).

use super::attr::{Message, find, text};
use super::{NetlinkError, Route, dump_objects};

/// `IFLA_STATS64`.
const IFLA_STATS64: u16 = 23;

/// What passed a link since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bad packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets that were received and for which there was no room.
    pub rx_dropped: u64,
    /// Packets that were to be sent and for which there was no room.
    pub tx_dropped: u64,
}

impl Route {
    /// What passed each link, by its name.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn link_stats(&mut self) -> Result<Vec<(String, LinkStats)>, NetlinkError> {
        // struct ifinfomsg, of any family.
        let request = Message::new(libc::RTM_GETLINK, 0, &[0; 16]);
        dump_objects(self.socket(), &request, "list statistics of links", |body| {
            let attributes = body.get(16..)?;
            let name = find(attributes, libc::IFLA_IFNAME).map(text)?;
            Some((name, parse(find(attributes, IFLA_STATS64)?)?))
        })
    }
}

fn parse(value: &[u8]) -> Option<LinkStats> {
    let field = |n: usize| {
        let bytes = value.get(n * 8..n * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    Some(LinkStats {
        rx_packets: field(0)?,
        tx_packets: field(1)?,
        rx_bytes: field(2)?,
        tx_bytes: field(3)?,
        rx_errors: field(4)?,
        tx_errors: field(5)?,
        rx_dropped: field(6)?,
        tx_dropped: field(7)?,
    })
}
