//! Whether a port can be bound.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Binds a socket to `address` for a moment. It never listens, so that no
/// client can reach it.
///
/// # Errors
/// `AddrInUse`, `AddrNotAvailable`, or that there is no such protocol.
pub fn try_bind(transport: Transport, address: SocketAddr) -> io::Result<()> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let (kind, protocol) = match transport {
        Transport::Tcp => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
        Transport::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        Transport::Sctp => (libc::SOCK_STREAM, libc::IPPROTO_SCTP),
    };
    // SAFETY: socket(2) has no memory arguments.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if transport != Transport::Udp {
        // A connection that ended a moment ago is in nobody's way.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() {
        // The same port of IPv4 is another one.
        only_ipv6(&socket)?;
    }
    // SAFETY: both are plain data for which all zeroes is valid.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) = unsafe { std::mem::zeroed() };
    let (name, length) = match address {
        SocketAddr::V4(a) => {
            v4.sin_family = libc::AF_INET as u16;
            v4.sin_port = a.port().to_be();
            v4.sin_addr.s_addr = u32::from_ne_bytes(a.ip().octets());
            ((&raw const v4).cast::<libc::sockaddr>(), size_of_val(&v4))
        }
        SocketAddr::V6(a) => {
            v6.sin6_family = libc::AF_INET6 as u16;
            v6.sin6_port = a.port().to_be();
            v6.sin6_addr.s6_addr = a.ip().octets();
            v6.sin6_scope_id = a.scope_id();
            ((&raw const v6).cast::<libc::sockaddr>(), size_of_val(&v6))
        }
    };
    // SAFETY: `name` points to a local of `length` bytes that outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), name, length as libc::socklen_t) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn only_ipv6(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value points to a local integer of the length that is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_V6ONLY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
