//! Connection tracking (ctnetlink): forgetting flows.
//!
//! Be aware: an UDP flow is translated as its first packet was, for as long
//! as packets keep coming. When a published port gets or loses its
//! destination, the flows that began before have to be forgotten.

use std::io;
use std::net::IpAddr;

use crate::netlink::{
    Message, NetlinkError, Reply, Socket, attributes, dump_objects as dump, find, u16_be,
};

const NETLINK_NETFILTER: i32 = 12;
/// Subsystem `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `…_DELETE`.
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;

/// Where a flow's first packet went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The protocol's number in the IP header.
    pub protocol: u8,
    /// The address it was sent to, before any translation.
    pub destination: IpAddr,
    /// The port it was sent to, before any translation.
    pub port: u16,
}

/// A ctnetlink socket of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(NETLINK_NETFILTER)? })
    }

    /// Forgets the flows that `matches`, and says how many those were. Takes
    /// as long as walking through all flows of the host.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn forget(&mut self, matches: impl Fn(&Flow) -> bool) -> Result<usize, NetlinkError> {
        // struct nfgenmsg: family (none: all), version, resource.
        let request = Message::new(CT_GET, 0, &[0; 4]);
        let found = dump(&mut self.socket, &request, "list flows", |body| {
            let family = *body.first()?;
            let attributes = body.get(4..)?;
            let tuple = find(attributes, CTA_TUPLE_ORIG)?;
            let zone = find(attributes, CTA_ZONE).map(<[u8]>::to_vec);
            parse(tuple).filter(&matches).map(|_| (family, tuple.to_vec(), zone))
        })?;
        let mut forgotten = 0;
        for (family, tuple, zone) in found {
            let mut request = Message::new(CT_DELETE, libc::NLM_F_ACK as u16, &[family, 0, 0, 0]);
            request.raw(CTA_TUPLE_ORIG | NLA_F_NESTED, &tuple);
            if let Some(zone) = zone {
                request.raw(CTA_ZONE, &zone);
            }
            forgotten += usize::from(self.delete(request)?);
        }
        Ok(forgotten)
    }

    /// False when the flow ended by itself meanwhile.
    fn delete(&mut self, request: Message) -> Result<bool, NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut datagram = Vec::new();
        request.append_to(sequence, &mut datagram);
        self.socket.send(&datagram)?;
        let mut answer = None;
        while answer.is_none() {
            self.socket.receive(true, |reply| {
                if let Reply::Ack { sequence: s, errno, .. } = reply
                    && s == sequence
                {
                    answer = Some(errno);
                }
            })?;
        }
        Ok(answer == Some(0))
    }
}

fn parse(tuple: &[u8]) -> Option<Flow> {
    let addresses = find(tuple, CTA_TUPLE_IP)?;
    let destination = attributes(addresses).find_map(|(kind, value)| match kind {
        CTA_IP_V4_DST => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        CTA_IP_V6_DST => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    })?;
    let protocol = find(tuple, CTA_TUPLE_PROTO)?;
    Some(Flow {
        protocol: *find(protocol, CTA_PROTO_NUM)?.first()?,
        destination,
        port: u16_be(find(protocol, CTA_PROTO_DST_PORT)?),
    })
}
