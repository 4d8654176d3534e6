//! Announcing which hardware address has an IP address (RFC 5227, "ARP
//! announcement"), so that neighbours forget an earlier owner at once.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// EtherType of ARP.
const ETH_P_ARP: u16 = 0x0806;

/// A socket that sends frames into links of one network namespace. It
/// receives nothing.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
}

impl Announcer {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn open() -> io::Result<Self> {
        // SAFETY: socket(2) has no memory arguments.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Tells everybody on `link` (its number) that `mac` has `address`.
    ///
    /// # Errors
    /// Those of sendto(2): the link is gone or switched off.
    pub fn announce(&self, link: u32, mac: [u8; 6], address: Ipv4Addr) -> io::Result<()> {
        let frame = frame(mac, address);
        // SAFETY: sockaddr_ll is plain data for which all zeroes is valid.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = ETH_P_ARP.to_be();
        to.sll_ifindex = link as i32;
        to.sll_halen = 6;
        to.sll_addr[..6].fill(0xff);
        // SAFETY: both pointers are valid for the lengths given with them,
        // and the kernel only reads.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// An Ethernet broadcast with an ARP request in which sender and target are
/// the same address (RFC 826 for the fields).
fn frame(mac: [u8; 6], address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETH_P_ARP.to_be_bytes());
    // Ethernet, IPv4, lengths of their addresses, request.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_announces() {
        let frame = frame([2, 0, 0, 0, 0, 9], Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(frame[28..32], frame[38..42]);
        assert_eq!(&frame[20..22], &[0, 1]);
        assert_eq!(frame[6..12], frame[22..28]);
    }
}
