//! Where the kernel would send a packet (`RTM_GETROUTE`).

use std::io;
use std::net::IpAddr;

use super::attr::{Message, attributes, u32_ne};
use super::socket::Reply;
use super::{NetlinkError, Route, address, is_absence};

/// The decision about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// What becomes of it (`RTN_…`).
    pub kind: u8,
    /// The number of the link that it leaves by.
    pub link: Option<u32>,
    /// The next hop; none when the destination is a neighbour.
    pub gateway: Option<IpAddr>,
    /// The address that it is sent from.
    pub source: Option<IpAddr>,
    /// The routing table that decided.
    pub table: u32,
}

impl Way {
    /// Whether it is sent on.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        self.kind == libc::RTN_UNICAST
    }

    /// Whether it is for the namespace itself.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.kind == libc::RTN_LOCAL
    }
}

impl Route {
    /// Where a packet to `destination` would go: one of the namespace's own,
    /// or one from `source` that came in by link number `enters_by`. None
    /// when there is no route.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn way_to(
        &mut self,
        destination: IpAddr,
        source: Option<IpAddr>,
        enters_by: Option<u32>,
    ) -> Result<Option<Way>, NetlinkError> {
        let request = request(destination, source, enters_by);
        match self.get(request, &format!("find the way to {destination}")) {
            Err(e) if e.errno().is_some_and(is_unreachable) => Ok(None),
            Err(e) => Err(e),
            Ok(body) => Ok(body.as_deref().and_then(parse)),
        }
    }

    /// Asks for one object. None when it does not exist, or when the kernel
    /// has nothing to say of it.
    pub(super) fn get(
        &mut self,
        mut request: Message,
        what: &str,
    ) -> Result<Option<Vec<u8>>, NetlinkError> {
        let socket = self.socket();
        let sequence = socket.next_sequence();
        let mut datagram = Vec::new();
        // Without, silence would be an answer for some kinds of objects.
        request.add_flags(libc::NLM_F_ACK as u16);
        request.append_to(sequence, &mut datagram);
        socket.send(&datagram)?;
        let (mut found, mut end) = (None, None);
        while end.is_none() {
            socket.receive(true, |reply| match reply {
                Reply::Object { sequence: s, body, .. } if s == sequence => {
                    found = Some(body.to_vec());
                }
                Reply::Ack { sequence: s, errno, detail } if s == sequence => {
                    end = Some((errno, detail));
                }
                _ => {}
            })?;
        }
        match end {
            None | Some((0, _)) => Ok(found),
            Some((errno, _)) if is_absence(errno) => Ok(None),
            Some((errno, detail)) => Err(NetlinkError::Refused {
                what: what.to_owned(),
                source: io::Error::from_raw_os_error(errno),
                detail,
            }),
        }
    }
}

fn is_unreachable(errno: i32) -> bool {
    // By the routes, by a rule, by a source that can't be one.
    matches!(
        errno,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::EXDEV
    )
}

fn request(destination: IpAddr, source: Option<IpAddr>, enters_by: Option<u32>) -> Message {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let bits = if destination.is_ipv4() { 32 } else { 128 };
    // struct rtmsg: family, lengths of destination and source.
    let mut header = [0; 12];
    header[0] = (if destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8;
    header[1] = bits;
    header[2] = if source.is_some() { bits } else { 0 };
    let mut m = Message::new(libc::RTM_GETROUTE, 0, &header);
    m.raw(libc::RTA_DST, &octets(destination));
    if let Some(source) = source {
        m.raw(libc::RTA_SRC, &octets(source));
    }
    if let Some(link) = enters_by {
        m.u32(libc::RTA_IIF, link);
    }
    m
}

fn parse(body: &[u8]) -> Option<Way> {
    let header = body.get(..12)?;
    let table = u32::from(header[4]);
    let mut way = Way { kind: header[7], link: None, gateway: None, source: None, table };
    for (kind, value) in attributes(&body[12..]) {
        match kind {
            libc::RTA_OIF => way.link = Some(u32_ne(value)),
            libc::RTA_GATEWAY => way.gateway = address::parse_ip(value),
            libc::RTA_PREFSRC => way.source = address::parse_ip(value),
            libc::RTA_TABLE => way.table = u32_ne(value),
            _ => {}
        }
    }
    Some(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local() {
        let mut route = Route::open().unwrap();
        let localhost = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        assert!(route.way_to(localhost, None, None).unwrap().unwrap().is_local());
    }
}
