//! Connection tracking (ctnetlink): forgetting flows.
//!
//! Be aware: a flow is translated as its first packet was, for as long as
//! packets keep coming. When a published port gets or loses its destination,
//! flows that began before have to be forgotten.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::netlink::{
    Message, NetlinkError, Reply, Socket, attributes, dump_objects as dump, find, u16_be,
};

const NETLINK_NETFILTER: i32 = 12;
/// Subsystem `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `…_DELETE`.
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;

/// Both ends of a packet on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// Where it came from; port 0 for protocols without ports.
    pub source: SocketAddr,
    /// Where it went to.
    pub destination: SocketAddr,
}

/// A flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The protocol's number in the IP header.
    pub protocol: u8,
    /// Its first packet, before any translation.
    pub original: Endpoints,
    /// An answer, before its translation.
    pub reply: Endpoints,
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

    /// All flows of the namespace.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn flows(&mut self) -> Result<Vec<Flow>, NetlinkError> {
        dump(&mut self.socket, &list_request(), "list flows", |body| parse(body.get(4..)?))
    }

    /// Forgets the flows that `matches`, and says how many those were. Takes
    /// as long as walking through all flows of the host.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn forget(&mut self, matches: impl Fn(&Flow) -> bool) -> Result<usize, NetlinkError> {
        let found = dump(&mut self.socket, &list_request(), "list flows", |body| {
            let family = *body.first()?;
            let attributes = body.get(4..)?;
            parse(attributes).filter(&matches)?;
            let mut request = Message::new(CT_DELETE, libc::NLM_F_ACK as u16, &[family, 0, 0, 0]);
            request.raw(CTA_TUPLE_ORIG | NLA_F_NESTED, find(attributes, CTA_TUPLE_ORIG)?);
            // The number keeps a flow that began meanwhile out of it.
            for kind in [CTA_ID, CTA_ZONE] {
                if let Some(value) = find(attributes, kind) {
                    request.raw(kind, value);
                }
            }
            Some(request)
        })?;
        let mut forgotten = 0;
        for request in found {
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

fn list_request() -> Message {
    // struct nfgenmsg: family (none: all), version, resource.
    Message::new(CT_GET, 0, &[0; 4])
}

fn parse(flow: &[u8]) -> Option<Flow> {
    let (protocol, original) = endpoints(find(flow, CTA_TUPLE_ORIG)?)?;
    let (_, reply) = endpoints(find(flow, CTA_TUPLE_REPLY)?)?;
    Some(Flow { protocol, original, reply })
}

fn endpoints(tuple: &[u8]) -> Option<(u8, Endpoints)> {
    let (mut source, mut destination) = (None, None);
    for (kind, value) in attributes(find(tuple, CTA_TUPLE_IP)?) {
        let address = || match value.len() {
            4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        };
        match kind {
            CTA_IP_V4_SRC | CTA_IP_V6_SRC => source = address(),
            CTA_IP_V4_DST | CTA_IP_V6_DST => destination = address(),
            _ => {}
        }
    }
    let protocol = find(tuple, CTA_TUPLE_PROTO)?;
    let port = |kind| find(protocol, kind).map_or(0, u16_be);
    let endpoints = Endpoints {
        source: SocketAddr::new(source?, port(CTA_PROTO_SRC_PORT)),
        destination: SocketAddr::new(destination?, port(CTA_PROTO_DST_PORT)),
    };
    Some((*find(protocol, CTA_PROTO_NUM)?.first()?, endpoints))
}
