//! The sockets of a network namespace (sock_diag(7), `linux/inet_diag.h`):
//! who listens, and how TCP connections fare.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::netlink::{Message, NetlinkError, Socket, dump_objects, find};

/// `NETLINK_SOCK_DIAG`.
const NETLINK_SOCK_DIAG: i32 = 4;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_INFO`: `struct tcp_info` after the socket.
const INET_DIAG_INFO: u16 = 2;
/// The states of TCP (`include/net/tcp_states.h`) as bits.
const ESTABLISHED: u32 = 1 << 1;
const LISTEN: u32 = 1 << 10;
/// For UDP: bound, and connected.
const UDP_STATES: u32 = 1 << 7 | ESTABLISHED;
/// Where the round-trip time and the sum of retransmissions are in `struct
/// tcp_info`.
const RTT_AT: usize = 68;
const RETRANSMITS_AT: usize = 100;
/// The length of `struct inet_diag_msg`, after which attributes follow.
const SOCKET: usize = 72;

/// A TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The namespace's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The smoothed round-trip time; none before the first measurement.
    pub round_trip: Option<Duration>,
    /// How many segments were sent again.
    pub retransmits: u32,
}

/// A socket that asks about the others of its namespace.
#[derive(Debug)]
pub struct Sockets {
    socket: Socket,
}

impl Sockets {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no sock_diag.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(NETLINK_SOCK_DIAG)? })
    }

    /// The TCP connections.
    ///
    /// # Errors
    /// When a list can't be read.
    pub fn connections(&mut self) -> Result<Vec<Connection>, NetlinkError> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = request(family, libc::IPPROTO_TCP, ESTABLISHED, INET_DIAG_INFO);
            all.extend(dump_objects(&mut self.socket, &request, "list connections", |body| {
                let (local, remote) = ends(body)?;
                let info = find(body.get(SOCKET..)?, INET_DIAG_INFO);
                let field = |at: usize| {
                    let bytes = info?.get(at..at + 4)?;
                    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
                };
                let round_trip = field(RTT_AT).filter(|us| *us > 0);
                Some(Connection {
                    local,
                    remote,
                    round_trip: round_trip.map(|us| Duration::from_micros(us.into())),
                    retransmits: field(RETRANSMITS_AT).unwrap_or(0),
                })
            })?);
        }
        Ok(all)
    }

    /// Where somebody listens by TCP, or waits for datagrams of UDP.
    ///
    /// # Errors
    /// When a list can't be read.
    pub fn listeners(&mut self, udp: bool) -> Result<Vec<SocketAddr>, NetlinkError> {
        let (protocol, states) =
            if udp { (libc::IPPROTO_UDP, UDP_STATES) } else { (libc::IPPROTO_TCP, LISTEN) };
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = request(family, protocol, states, 0);
            all.extend(dump_objects(&mut self.socket, &request, "list listeners", |body| {
                ends(body).map(|(local, _)| local)
            })?);
        }
        Ok(all)
    }
}

/// `struct inet_diag_req_v2`: family, protocol, extensions, states, and an
/// address that a list does not need.
fn request(family: i32, protocol: i32, states: u32, extension: u16) -> Message {
    let mut header = [0; 56];
    header[0] = family as u8;
    header[1] = protocol as u8;
    header[2] = if extension == 0 { 0 } else { 1 << (extension - 1) };
    header[4..8].copy_from_slice(&states.to_ne_bytes());
    Message::new(BY_FAMILY, 0, &header)
}

/// Both ends in a `struct inet_diag_msg`: family, state, timer, retransmits,
/// then ports and addresses in network order.
fn ends(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let v6 = i32::from(*body.first()?) == libc::AF_INET6;
    let end = |port: usize, address: usize| {
        let port = u16::from_be_bytes(body.get(port..port + 2)?.try_into().ok()?);
        let octets: [u8; 16] = body.get(address..address + 16)?.try_into().ok()?;
        let address = if v6 {
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        } else {
            IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
        };
        Some(SocketAddr::new(address, port))
    };
    Some((end(4, 8)?, end(6, 24)?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn own_sockets_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(at).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sockets = Sockets::open().unwrap();
        assert!(sockets.listeners(false).unwrap().contains(&at));
        assert!(sockets.listeners(true).unwrap().contains(&datagrams.local_addr().unwrap()));
        let connections = sockets.connections().unwrap();
        let mine = connections.iter().find(|c| c.remote == at).unwrap();
        assert_eq!(mine.local, client.local_addr().unwrap());
        assert!(mine.round_trip.is_some());
    }
}
