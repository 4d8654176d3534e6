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

mod pools;

pub use pools::{ULA_SUBNET, choose, default_pools, first_host, overlap, ula};

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
    /// The number of the first address of the range that was never given out.
    fresh: u128,
    /// Given back, oldest first. May name addresses that were taken by name
    /// since: they are skipped.
    freed: VecDeque<IpAddr>,
}
/// Whose address the gateway is.
const GATEWAY: &str = "the gateway";

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
        let invalid = |reason: String| IpamError::InvalidPool { subnet, reason };
        if subnet != subnet.trunc() {
            return Err(invalid("host bits are set".to_owned()));
        }
        let range = range.unwrap_or(subnet).trunc();
        if !subnet.contains(&range) {
            return Err(invalid(format!("range {range} is not in it")));
        }
        let fresh = number(range.network());
        let mut pool = Self { subnet, range, used: BTreeMap::new(), fresh, freed: VecDeque::new() };
        for (name, address) in aux {
            let owner = format!("auxiliary address {name}");
            pool.reserve(*address, &owner).map_err(|e| invalid(e.to_string()))?;
        }
        if let Some(gateway) = gateway {
            pool.reserve(gateway, GATEWAY).map_err(|e| invalid(e.to_string()))?;
        }
        Ok(pool)
    }

    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// Who has which address, in the order of addresses.
    pub fn used(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.used.iter().map(|(address, owner)| (*address, owner.as_str()))
    }

    /// An address for `owner`: `prefer` if that is free, else an error; any
    /// when there is no preference.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`], [`IpamError::InUse`], [`IpamError::Invalid`].
    pub fn allocate(&mut self, prefer: Option<IpAddr>, owner: &str) -> Result<IpAddr, IpamError> {
        if let Some(address) = prefer {
            self.check(address)?;
            if let Some(by) = self.used.get(&address) {
                return Err(self.in_use(address, by));
            }
            self.used.insert(address, owner.to_owned());
            return Ok(address);
        }
        let found = self.next_fresh().or_else(|| self.next_freed());
        let exhausted = IpamError::Exhausted { subnet: self.range, used: self.used.len() };
        let address = found.ok_or(exhausted)?;
        self.used.insert(address, owner.to_owned());
        Ok(address)
    }

    /// Marks `address` as the `owner`'s, as found in a record. Success when
    /// it is that owner's already.
    ///
    /// # Errors
    /// [`IpamError::InUse`], [`IpamError::Invalid`].
    pub fn reserve(&mut self, address: IpAddr, owner: &str) -> Result<(), IpamError> {
        self.check(address)?;
        match self.used.get(&address) {
            Some(by) if by != owner => Err(self.in_use(address, by)),
            _ => {
                self.used.insert(address, owner.to_owned());
                Ok(())
            }
        }
    }

    /// Gives `address` back. Success when nobody had it.
    pub fn release(&mut self, address: IpAddr) {
        let given = self.used.remove(&address).is_some();
        // An address ahead of the fresh ones will come up among them.
        if given && self.range.contains(&address) && number(address) < self.fresh {
            self.freed.push_back(address);
        }
    }

    fn in_use(&self, address: IpAddr, by: &str) -> IpamError {
        IpamError::InUse { address, subnet: self.subnet, by: by.to_owned() }
    }

    fn check(&self, address: IpAddr) -> Result<(), IpamError> {
        let invalid = |reason| Err(IpamError::Invalid { address, subnet: self.subnet, reason });
        if !self.subnet.contains(&address) {
            return invalid("not in");
        }
        match self.reserved(address) {
            Some(reason) => invalid(reason),
            None => Ok(()),
        }
    }

    /// Why no host can have an address of the subnet (RFC 919, RFC 3021,
    /// RFC 4291 section 2.6.1).
    fn reserved(&self, address: IpAddr) -> Option<&'static str> {
        let pair = self.subnet.prefix_len() + 1 >= self.subnet.max_prefix_len();
        if pair {
            None
        } else if address == self.subnet.network() {
            Some("the network address of")
        } else if address.is_ipv4() && address == self.subnet.broadcast() {
            Some("the broadcast address of")
        } else {
            None
        }
    }

    fn next_fresh(&mut self) -> Option<IpAddr> {
        let last = number(self.range.broadcast());
        while self.fresh <= last {
            let address = address(self.range, self.fresh);
            // The very last IPv6 address there is has no successor: stay
            // there, it is in use from now on.
            let next = self.fresh.checked_add(1)?;
            self.fresh = next;
            if !self.used.contains_key(&address) && self.reserved(address).is_none() {
                return Some(address);
            }
        }
        None
    }

    fn next_freed(&mut self) -> Option<IpAddr> {
        while let Some(address) = self.freed.pop_front() {
            if !self.used.contains_key(&address) {
                return Some(address);
            }
        }
        None
    }
}

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// The address with this number, of the family of `like`.
fn address(like: IpNet, number: u128) -> IpAddr {
    match like {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests;
