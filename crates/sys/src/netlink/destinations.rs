//! Where the routes of every table lead (`linux/rtnetlink.h`), to know which
//! networks are in use around the host.
//!
//! Be aware: the table `local` is left out: what it has are the host's own
//! addresses, whose networks are in other tables. So are groups, link-local
//! networks and routes to everywhere, which say nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::NetlinkError;
use super::address::{parse_ip, routes_request};
use super::attr::{attributes, u32_ne};
use super::route::{Route, dump};

/// The destination of a route of any table, also of one that leads nowhere
/// (`blackhole`, `unreachable` …).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Where it leads to.
    pub net: IpNet,
    /// The link's number; 0 for none, or for several.
    pub link: u32,
    /// The table.
    pub table: u32,
}

impl Route {
    /// The destinations of all routes of both families.
    ///
    /// # Errors
    /// When a list can't be read.
    pub fn destinations(&mut self) -> Result<Vec<Destination>, NetlinkError> {
        let mut all = Vec::new();
        for like in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            all.extend(dump(self.socket(), &routes_request(like), "list routes", parse)?);
        }
        Ok(all)
    }
}

fn parse(body: &[u8]) -> Option<Destination> {
    let header = body.get(..12)?;
    let known = [
        libc::RTN_UNICAST,
        libc::RTN_BLACKHOLE,
        libc::RTN_UNREACHABLE,
        libc::RTN_PROHIBIT,
        libc::RTN_THROW,
    ];
    if !known.contains(&header[7]) {
        return None;
    }
    let (mut net, mut link, mut table) = (None, 0, u32::from(header[4]));
    for (kind, value) in attributes(&body[12..]) {
        match kind {
            libc::RTA_DST => net = IpNet::new(parse_ip(value)?, header[1]).ok(),
            libc::RTA_OIF => link = u32_ne(value),
            libc::RTA_TABLE => table = u32_ne(value),
            _ => {}
        }
    }
    let net = net.filter(|n| n.prefix_len() > 0)?;
    let tells = match net.addr() {
        IpAddr::V4(a) => !a.is_link_local() && !a.is_multicast() && !a.is_loopback(),
        IpAddr::V6(a) => !a.is_unicast_link_local() && !a.is_multicast() && !a.is_loopback(),
    };
    (tells && table != u32::from(libc::RT_TABLE_LOCAL)).then_some(Destination { net, link, table })
}
