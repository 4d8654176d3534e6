//! Published ports: which port of the host leads to which of a container.
//!
//! Be aware:
//! - [`PortTable`] is pure. Whether a process of the host listens on a port
//!   is asked through a function that the caller hands in: [`host_user`]
//!   outside of tests.
//! - The wording "port is already allocated" is what Docker's clients match.

mod probe;
mod table;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use sampan_types::{ErrorKind, Kind};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use probe::{HostUser, host_user, host_users};
pub use table::PortTable;

/// The ports that are given when none is asked for, as Docker and Linux do.
pub const RANDOM_PORTS: RangeInclusive<u16> = 32768..=60999;

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol's number in the IP header (IANA).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with a number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|p| p.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Why a text is not a protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid proto: {0}")]
pub struct ProtocolError(String);

impl FromStr for Protocol {
    type Err = ProtocolError;
    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(ProtocolError(text.to_owned())),
        }
    }
}

/// A port that somebody wants to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; the unspecified one (`0.0.0.0`) for all of them.
    pub host_ip: IpAddr,
    /// The host's port: the first free one of this range; none for any free
    /// one of [`RANDOM_PORTS`].
    pub host_range: Option<RangeInclusive<u16>>,
    /// The container's port.
    pub container_port: u16,
}

/// A port that is published.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; the unspecified one for all of them.
    pub host_ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
}

/// Why a port can't be published.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PortError {
    /// Another container has it.
    #[error(
        "Bind for {host} failed: port is already allocated (by container {by})",
        host = socket(*.host_ip, *.port)
    )]
    Allocated {
        /// The address asked for.
        host_ip: IpAddr,
        /// The port asked for.
        port: u16,
        /// Whose it is.
        by: String,
    },
    /// A process of the host has it, or the address is not the host's.
    #[error("failed to bind host port {host}/{protocol}: {user}", host = socket(*.host_ip, *.port))]
    HostUses {
        /// The address asked for.
        host_ip: IpAddr,
        /// The port asked for.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// Who or what is in the way.
        user: HostUser,
    },
    /// Every port of the range is taken.
    #[error(
        "Bind for {host_ip} failed: all {protocol} ports from {first} to {last} are already \
         allocated"
    )]
    Exhausted {
        /// The address asked for.
        host_ip: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The range's first port.
        first: u16,
        /// The range's last port.
        last: u16,
    },
}

impl Kind for PortError {
    fn kind(&self) -> ErrorKind {
        // dockerd answers 500 to all of them, and its clients expect it.
        ErrorKind::System
    }
}

fn socket(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}
