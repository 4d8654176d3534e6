//! Announcing which hardware address has an IP address (RFC 5227, "ARP
//! announcement"; RFC 4861 section 7.2.6, "unsolicited neighbor
//! advertisement"), so that neighbours forget an earlier owner at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

/// EtherType of ARP.
const ETH_P_ARP: u16 = 0x0806;
/// EtherType of IPv6.
const ETH_P_IPV6: u16 = 0x86dd;
/// ICMPv6, and its neighbor advertisement.
const ICMPV6: u8 = 58;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// The group of all nodes of a link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

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
    pub fn announce(&self, link: u32, mac: [u8; 6], address: impl Into<IpAddr>) -> io::Result<()> {
        match address.into() {
            IpAddr::V4(address) => self.send(link, &arp(mac, address), ETH_P_ARP),
            IpAddr::V6(address) => self.send(link, &advertisement(mac, address), ETH_P_IPV6),
        }
    }

    fn send(&self, link: u32, frame: &[u8], protocol: u16) -> io::Result<()> {
        // SAFETY: sockaddr_ll is plain data for which all zeroes is valid.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = protocol.to_be();
        to.sll_ifindex = link as i32;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&frame[..6]);
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

/// Asks who else on `link` has `address` (RFC 5227, "ARP probe"), which `mac`
/// has in the calling thread's network namespace. Says the hardware address
/// of the first other one that answers within `patience`.
///
/// # Errors
/// When the socket can't be made, or the link is gone or switched off.
pub fn who_has(
    link: u32,
    mac: [u8; 6],
    address: Ipv4Addr,
    patience: Duration,
) -> io::Result<Option<[u8; 6]>> {
    let protocol = i32::from(ETH_P_ARP.to_be());
    // SAFETY: socket(2) has no memory arguments.
    let fd =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    let announcer = Announcer { socket: unsafe { OwnedFd::from_raw_fd(fd) } };
    let mut probe = arp(mac, address);
    // The sender has no address yet: nobody shall take it for the owner.
    probe[28..32].fill(0);
    announcer.send(link, &probe, ETH_P_ARP)?;
    let end = Instant::now() + patience;
    let mut received = [0; 64];
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut poll = [PollFd::new(announcer.socket.as_fd(), PollFlags::POLLIN)];
        if nix::poll::poll(&mut poll, wait).map_err(io::Error::from)? == 0 {
            break;
        }
        // SAFETY: the buffer is valid for the length given with it.
        let length = unsafe {
            libc::recv(
                announcer.socket.as_raw_fd(),
                received.as_mut_ptr().cast(),
                received.len(),
                libc::MSG_DONTWAIT,
            )
        };
        let sender = <[u8; 6]>::try_from(&received[22..28]).unwrap_or_default();
        if length >= 42 && received[28..32] == address.octets() && sender != mac {
            return Ok(Some(sender));
        }
    }
    Ok(None)
}

/// An Ethernet broadcast with an ARP request in which sender and target are
/// the same address (RFC 826 for the fields).
fn arp(mac: [u8; 6], address: Ipv4Addr) -> [u8; 42] {
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

/// A neighbor advertisement to all nodes that nobody asked for, which
/// replaces what they know (RFC 4861 section 4.4).
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> [u8; 86] {
    const IP: usize = 14;
    const ICMP: usize = IP + 40;
    let mut frame = [0; 86];
    // The group's hardware address (RFC 2464 section 7).
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETH_P_IPV6.to_be_bytes());
    // Version 6, length of what follows, its protocol, and the hop limit that
    // proves that no router passed it on.
    frame[IP] = 0x60;
    frame[IP + 5] = 32;
    frame[IP + 6] = ICMPV6;
    frame[IP + 7] = 255;
    frame[IP + 8..IP + 24].copy_from_slice(&address.octets());
    frame[IP + 24..ICMP].copy_from_slice(&ALL_NODES.octets());
    frame[ICMP] = NEIGHBOR_ADVERTISEMENT;
    // The flag "override".
    frame[ICMP + 4] = 0x20;
    frame[ICMP + 8..ICMP + 24].copy_from_slice(&address.octets());
    // The option "target link-layer address", in units of eight bytes.
    frame[ICMP + 24..ICMP + 26].copy_from_slice(&[2, 1]);
    frame[ICMP + 26..ICMP + 32].copy_from_slice(&mac);
    let checksum = checksum(&frame[IP + 8..]);
    frame[ICMP + 2..ICMP + 4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// The Internet checksum (RFC 1071) of an ICMPv6 message with the addresses
/// before it and the rest of its pseudo-header (RFC 8200 section 8.1).
fn checksum(addresses_and_message: &[u8]) -> u16 {
    let words = addresses_and_message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let length = addresses_and_message.len().saturating_sub(32) as u32;
    let mut sum = words.sum::<u32>() + length + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_announces() {
        let frame = arp([2, 0, 0, 0, 0, 9], Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(frame[28..32], frame[38..42]);
        assert_eq!(&frame[20..22], &[0, 1]);
        assert_eq!(frame[6..12], frame[22..28]);
    }

    #[test]
    fn the_advertisement_adds_up() {
        let frame = advertisement([2, 0, 0, 0, 0, 9], "fd00::2".parse().unwrap());
        assert_eq!(frame[22..38], frame[62..78]);
        assert_eq!(frame[6..12], frame[80..86]);
        // With its checksum in place, a message adds up to nothing.
        assert_eq!(checksum(&frame[22..]), 0);
    }
}
