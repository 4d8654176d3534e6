//! Whether something on the host itself has a port: by binding a socket to
//! it for a moment, and when that fails by the kernel's tables of sockets.
//!
//! Be aware: the sockets are those of the calling thread's network namespace;
//! a process of another one can't be in the way.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::Protocol;
use sampan_sys::port::{self, Transport};

/// The longest scan for a socket's owner, in descriptors looked at.
const DESCRIPTORS_MAX: usize = 200_000;

/// Who or what on the host is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostUser {
    /// A process whose socket was found.
    Process {
        /// The program's name (`comm`).
        name: String,
        /// Its process id.
        pid: u32,
    },
    /// A socket whose process is not visible from here.
    Unknown,
    /// No interface of the host has the address.
    NoSuchAddress,
}

impl fmt::Display for HostUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, pid } => {
                write!(f, "address already in use (by {name}, pid {pid})")
            }
            Self::Unknown => f.write_str("address already in use"),
            Self::NoSuchAddress => f.write_str("cannot assign requested address"),
        }
    }
}

/// Who has `port` on `address` in the network namespace of the calling
/// thread; none when it is free. Blocks for some microseconds; when the port
/// is taken, as long as reading the process table takes.
#[must_use]
pub fn host_user(protocol: Protocol, address: IpAddr, port: u16) -> Option<HostUser> {
    let transport = match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        // A kernel without SCTP can't have a socket in the way.
        Protocol::Sctp => Transport::Sctp,
    };
    match port::try_bind(transport, SocketAddr::new(address, port)) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            Some(owner(protocol, address, port).unwrap_or(HostUser::Unknown))
        }
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Some(HostUser::NoSuchAddress),
        Ok(()) | Err(_) => None,
    }
}

fn owner(protocol: Protocol, address: IpAddr, port: u16) -> Option<HostUser> {
    let tables: &[&str] = match protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => return None,
    };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|text| {
            let lines = text.lines().skip(1);
            lines.filter_map(|l| socket_inode(l, protocol, address, port)).collect::<Vec<_>>()
        })
        .collect();
    process_of(&inodes)
}

/// The socket's number in a line of `/proc/net/{tcp,udp}{,6}`, when it has
/// the port: a listening one for TCP.
fn socket_inode(line: &str, protocol: Protocol, address: IpAddr, port: u16) -> Option<u64> {
    const LISTENING: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local_ip, local_port) = fields.get(1)?.rsplit_once(':')?;
    if u16::from_str_radix(local_port, 16).ok()? != port {
        return None;
    }
    if protocol == Protocol::Tcp && *fields.get(3)? != LISTENING {
        return None;
    }
    // The address is in words of the machine's order; only IPv4 ones are
    // compared, an IPv6 socket on all addresses is in the way of all.
    let any = local_ip.bytes().all(|b| b == b'0');
    let same = match address {
        IpAddr::V4(v4) if local_ip.len() == 8 => {
            u32::from_str_radix(local_ip, 16).ok()?.to_ne_bytes() == v4.octets()
        }
        IpAddr::V4(v4) => {
            let word = local_ip.get(24..)?;
            local_ip.starts_with("0000000000000000FFFF0000")
                && u32::from_str_radix(word, 16).ok()?.to_ne_bytes() == v4.octets()
        }
        IpAddr::V6(_) => local_ip.len() == 32,
    };
    (any || same || address.is_unspecified()).then(|| fields.get(9)?.parse().ok()).flatten()
}

/// The process that has one of these sockets open.
fn process_of(inodes: &[u64]) -> Option<HostUser> {
    if inodes.is_empty() {
        return None;
    }
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut looked_at = 0;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        // A process that ends meanwhile has no descriptors.
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            looked_at += 1;
            if looked_at > DESCRIPTORS_MAX {
                return None;
            }
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            if wanted.iter().any(|w| target.as_os_str() == w.as_str()) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(HostUser::Process { name: name.trim().to_owned(), pid });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;

    const LO: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn me() -> HostUser {
        let name = fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
        HostUser::Process { name, pid: std::process::id() }
    }

    #[test]
    fn a_listener_is_found_and_named() {
        let listener = TcpListener::bind((LO, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(host_user(Protocol::Tcp, ANY, port), Some(me()));
        assert_eq!(host_user(Protocol::Tcp, LO, port), Some(me()));
        drop(listener);
        assert_eq!(host_user(Protocol::Tcp, LO, port), None);
        let socket = UdpSocket::bind((ANY, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(host_user(Protocol::Udp, LO, port), Some(me()));
    }

    #[test]
    fn a_foreign_address_is_refused() {
        // TEST-NET-3: nobody has it.
        let foreign = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));
        assert_eq!(host_user(Protocol::Tcp, foreign, 80), Some(HostUser::NoSuchAddress));
    }
}
