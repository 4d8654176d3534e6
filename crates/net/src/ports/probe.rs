//! Whether something on the host itself has a port: by binding a socket to
//! it for a moment, and when that fails by the kernel's tables of sockets.
//!
//! Be aware: the sockets are those of the calling thread's network namespace;
//! a process of another one can't be in the way.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::Protocol;
use sampan_sys::port::{self, Transport};

/// The longest scan for a socket's owner, in descriptors looked at.
const DESCRIPTORS_MAX: usize = 200_000;

/// How many ports are asked for one by one before the tables are read.
const SINGLE_QUESTIONS: usize = 16;

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

/// As [`host_user`], for many ports: after the first few, the kernel's tables
/// of sockets are read once, and only what is in the way there is asked for.
/// The tables are as old as this.
pub fn host_users() -> impl Fn(Protocol, IpAddr, u16) -> Option<HostUser> {
    let (asked, sockets) = (Cell::new(0_usize), OnceCell::new());
    let addresses = RefCell::new(HashSet::new());
    move |protocol, address, port| {
        asked.set(asked.get() + 1);
        let first = addresses.borrow_mut().insert(address);
        if first || asked.get() <= SINGLE_QUESTIONS || protocol == Protocol::Sctp {
            return host_user(protocol, address, port);
        }
        let sockets: &HashSet<(Protocol, u16)> = sockets.get_or_init(ports_of_sockets);
        if sockets.contains(&(protocol, port)) { host_user(protocol, address, port) } else { None }
    }
}

/// The ports that sockets of the host have: listening ones for TCP.
fn ports_of_sockets() -> HashSet<(Protocol, u16)> {
    let tables = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|p| tables(p).iter().map(move |t| (p, t)));
    tables
        .filter_map(|(p, table)| Some((p, fs::read_to_string(proc_table(table)).ok()?)))
        .flat_map(|(p, text)| {
            let ports = text.lines().skip(1).filter_map(|line| local_port(line, p));
            ports.map(|port| (p, port)).collect::<Vec<_>>()
        })
        .collect()
}

fn tables(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => &[],
    }
}

fn proc_table(table: &str) -> String {
    format!("/proc/thread-self/net/{table}")
}

/// The port in a line of `/proc/net/{tcp,udp}{,6}`, when it is taken: by a
/// listening socket for TCP.
fn local_port(line: &str, protocol: Protocol) -> Option<u16> {
    const LISTENING: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    if protocol == Protocol::Tcp && fields.nth(1)? != LISTENING {
        return None;
    }
    u16::from_str_radix(port, 16).ok()
}

fn owner(protocol: Protocol, address: IpAddr, port: u16) -> Option<HostUser> {
    let inodes: Vec<u64> = tables(protocol)
        .iter()
        .filter_map(|table| fs::read_to_string(proc_table(table)).ok())
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
    if local_port(line, protocol)? != port {
        return None;
    }
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local_ip, _) = fields.get(1)?.rsplit_once(':')?;
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
    fn many_ports_are_asked_for_at_once() {
        let listener = TcpListener::bind((LO, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ask = host_users();
        for free in 1..=SINGLE_QUESTIONS as u16 {
            let _ = ask(Protocol::Udp, LO, free);
        }
        assert_eq!(ask(Protocol::Tcp, ANY, port), Some(me()));
        assert_eq!(ask(Protocol::Udp, ANY, port), None);
        let socket = UdpSocket::bind((ANY, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(host_users()(Protocol::Udp, LO, port), Some(me()), "one by one");
    }

    #[test]
    fn a_foreign_address_is_refused() {
        // TEST-NET-3: nobody has it.
        let foreign = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));
        assert_eq!(host_user(Protocol::Tcp, foreign, 80), Some(HostUser::NoSuchAddress));
    }
}
