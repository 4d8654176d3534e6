//! Whether something on the host itself has a port.

use std::fmt;
use std::net::IpAddr;

use super::Protocol;

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
    let _ = (protocol, address, port);
    todo!()
}
