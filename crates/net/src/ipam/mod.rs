//! Address management: pure, no clock and no I/O.
//!
//! Be aware:
//! - A pool keeps nothing on disk. It is rebuilt from the engine's records by
//!   [`Pool::reserve`].
//! - A freed address is given out again only when every other one has been:
//!   somebody may still have it in a cache.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IpamError {
    /// All are taken.
    #[error("no available IPv{family} addresses on subnet {subnet}: all {used} are in use", family = if subnet.addr().is_ipv4() { 4 } else { 6 })]
    Exhausted {
        /// The subnet, or the range in it.
        subnet: IpNet,
        /// How many addresses are in use.
        used: usize,
    },
    /// The address is taken.
    #[error("Address already in use: {address} in subnet {subnet} is used by {by}")]
    InUse {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
        /// Whose it is.
        by: String,
    },
    /// The address can't be given.
    #[error("invalid address {address}: {reason} subnet {subnet}")]
    Invalid {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
        /// `not in`, `the network address of` …
        reason: &'static str,
    },
    /// The pool's own parameters contradict each other.
    #[error("invalid address pool {subnet}: {reason}")]
    InvalidPool {
        /// The subnet.
        subnet: IpNet,
        /// Why.
        reason: String,
    },
}

impl Kind for IpamError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Exhausted { .. } => ErrorKind::Unavailable,
            Self::InUse { .. } => ErrorKind::Forbidden,
            Self::Invalid { .. } | Self::InvalidPool { .. } => ErrorKind::InvalidParameter,
        }
    }
}

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: IpNet,
    /// Where addresses are taken from when none is asked for.
    range: IpNet,
    /// Who has which address.
    used: BTreeMap<IpAddr, String>,
    /// The next address of the range that was never given out.
    fresh: Option<IpAddr>,
    /// Given back, oldest first. May name addresses that were taken by name
    /// since: they are skipped.
    freed: VecDeque<IpAddr>,
}
impl Pool {
    /// A pool of `subnet`. Addresses that nobody asks for by name come from
    /// `range`; `gateway` and the named addresses in `aux` are never given.
    ///
    /// # Errors
    /// [`IpamError::InvalidPool`] when they contradict each other.
    pub fn new(
        subnet: IpNet,
        range: Option<IpNet>,
        gateway: Option<IpAddr>,
        aux: &BTreeMap<String, IpAddr>,
    ) -> Result<Self, IpamError> {
        let _ = (subnet, range, gateway, aux);
        todo!()
    }
    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }
    /// An address for `owner`: `prefer` if that is free, else an error; any
    /// when there is no preference.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`], [`IpamError::InUse`], [`IpamError::Invalid`].
    pub fn allocate(&mut self, prefer: Option<IpAddr>, owner: &str) -> Result<IpAddr, IpamError> {
        let _ = (prefer, owner);
        todo!()
    }
    /// Marks `address` as the `owner`'s, as found in a record. Success when
    /// it is that owner's already.
    ///
    /// # Errors
    /// [`IpamError::InUse`], [`IpamError::Invalid`].
    pub fn reserve(&mut self, address: IpAddr, owner: &str) -> Result<(), IpamError> {
        let _ = (address, owner);
        todo!()
    }
    /// Gives `address` back. Success when nobody had it.
    pub fn release(&mut self, address: IpAddr) {
        let _ = address;
        todo!()
    }
}
