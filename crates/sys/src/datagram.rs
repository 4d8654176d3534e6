//! Datagrams by the batch (recvmmsg(2), sendmmsg(2)): many of them for the
//! price of one system call, without memory of their own for each.
//!
//! Be aware:
//! - Addresses are IPv4; other datagrams are received, but without a sender.
//! - Nothing here waits; a socket with nothing to receive, or no room to send,
//!   answers `WouldBlock`.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

/// The most datagrams of one system call.
pub const BATCH: usize = 32;

/// Room for datagrams that come in.
#[derive(Debug)]
pub struct Inbox {
    bytes: Box<[u8]>,
    size: usize,
    received: Vec<(usize, bool, Option<SocketAddrV4>)>,
}

/// A datagram that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// Its content, as far as there was room for it.
    pub bytes: &'a [u8],
    /// Whether there was more of it than that.
    pub cut: bool,
    /// Who sent it; none for addresses of another family.
    pub from: Option<SocketAddrV4>,
}

impl Inbox {
    /// Room for [`BATCH`] datagrams of `size` bytes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0; BATCH * size].into(), size, received: Vec::with_capacity(BATCH) }
    }

    /// Receives what has come, at most [`BATCH`] datagrams, in place of those
    /// received before. Returns their number.
    ///
    /// # Errors
    /// Those of recvmmsg(2); `WouldBlock` when there is none.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.received.clear();
        let mut peers = [blank(); BATCH];
        let mut parts = [EMPTY; BATCH];
        for (part, room) in parts.iter_mut().zip(self.bytes.chunks_exact_mut(self.size.max(1))) {
            *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        }
        let mut headers = headers(&mut peers, &mut parts);
        // SAFETY: each header points to an address and a part of this frame,
        // each part to room of its own in `self.bytes`; all of them live, and
        // are not touched otherwise, until the call returns.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else { return Err(io::Error::last_os_error()) };
        for (header, peer) in headers.iter().zip(&peers).take(count) {
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let length = (header.msg_len as usize).min(self.size);
            self.received.push((length, cut, address(peer)));
        }
        Ok(count)
    }

    /// What was received.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        let rooms = self.bytes.chunks_exact(self.size.max(1));
        self.received.iter().zip(rooms).filter_map(|((length, cut, from), room)| {
            Some(Received { bytes: room.get(..*length)?, cut: *cut, from: *from })
        })
    }
}

/// Datagrams that shall go out.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    entries: Vec<(Range<usize>, SocketAddrV4)>,
}

impl Outbox {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends the datagram that `write` appends to the bytes given to it;
    /// none when it says false.
    pub fn push(&mut self, to: SocketAddrV4, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let begin = self.bytes.len();
        if write(&mut self.bytes) {
            self.entries.push((begin..self.bytes.len(), to));
        } else {
            self.bytes.truncate(begin);
        }
    }

    /// Sends all and is empty then. What the socket has no room for is
    /// dropped, as datagrams may be. Returns how many were sent.
    ///
    /// # Errors
    /// Those of sendmmsg(2), when the first of a batch was refused.
    pub fn send(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let result = self.send_all(socket.as_fd().as_raw_fd());
        self.bytes.clear();
        self.entries.clear();
        result
    }

    fn send_all(&mut self, socket: i32) -> io::Result<usize> {
        let mut sent = 0;
        let mut failed = None;
        while sent < self.entries.len() {
            let batch = &self.entries[sent..self.entries.len().min(sent + BATCH)];
            let mut peers = [blank(); BATCH];
            let mut parts = [EMPTY; BATCH];
            for (((range, to), peer), part) in batch.iter().zip(&mut peers).zip(&mut parts) {
                *peer = sockaddr(*to);
                let bytes = &mut self.bytes[range.clone()];
                *part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            }
            let mut headers = headers(&mut peers, &mut parts);
            // SAFETY: each header points to an address and a part of this
            // frame, each part to bytes of `self.bytes`; all of them live
            // until the call returns, which only reads them.
            let count = unsafe {
                libc::sendmmsg(
                    socket,
                    headers.as_mut_ptr(),
                    batch.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(count) {
                Ok(count) => sent += count.max(1),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::Interrupted => continue,
                        io::ErrorKind::WouldBlock => return Ok(sent),
                        // One that can't be sent holds none of the others up.
                        _ => {
                            failed = Some(error);
                            sent += 1;
                        }
                    }
                }
            }
        }
        failed.map_or(Ok(sent), Err)
    }
}

const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn blank() -> libc::sockaddr_in {
    let zero = libc::in_addr { s_addr: 0 };
    libc::sockaddr_in { sin_family: 0, sin_port: 0, sin_addr: zero, sin_zero: [0; 8] }
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        ..blank()
    }
}

fn address(peer: &libc::sockaddr_in) -> Option<SocketAddrV4> {
    let ip = Ipv4Addr::from(peer.sin_addr.s_addr.to_ne_bytes());
    (i32::from(peer.sin_family) == libc::AF_INET)
        .then(|| SocketAddrV4::new(ip, u16::from_be(peer.sin_port)))
}

/// One header for each pair of an address and a part.
fn headers(
    peers: &mut [libc::sockaddr_in; BATCH],
    parts: &mut [libc::iovec; BATCH],
) -> [libc::mmsghdr; BATCH] {
    let (peers, parts) = (peers.as_mut_ptr(), parts.as_mut_ptr());
    std::array::from_fn(|at| libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: peers.wrapping_add(at).cast(),
            msg_namelen: size_of::<libc::sockaddr_in>() as libc::socklen_t,
            msg_iov: parts.wrapping_add(at),
            msg_iovlen: 1,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, UdpSocket};

    fn v4(socket: &UdpSocket) -> SocketAddrV4 {
        match socket.local_addr().unwrap() {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => unreachable!(),
        }
    }

    #[test]
    fn datagrams_go_and_come_by_the_batch() {
        let (a, b) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut outbox = Outbox::new();
        for n in 0..40u8 {
            outbox.push(v4(&b), |bytes| {
                bytes.extend([n; 20]);
                n != 7
            });
        }
        assert_eq!(outbox.send(&a).unwrap(), 39);
        assert!(outbox.is_empty());
        let mut inbox = Inbox::new(16);
        assert_eq!(inbox.receive(&b).unwrap(), BATCH);
        assert_eq!(inbox.receive(&b).unwrap(), 39 - BATCH);
        let last = inbox.iter().last().unwrap();
        assert_eq!(last, Received { bytes: &[39; 16], cut: true, from: Some(v4(&a)) });
        assert_eq!(inbox.receive(&b).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(inbox.iter().count(), 0);
    }
}
