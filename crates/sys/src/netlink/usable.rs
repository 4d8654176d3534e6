//! Waiting until IPv6 addresses are in use.
//!
//! Be aware: the kernel acknowledges an IPv6 address before packets for it
//! are received and questions for it are heard; a worker of its own does the
//! rest, and tells of the address then. A packet in between is lost, and
//! asking for a neighbour again takes a second.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::address::parse_address;
use super::socket::{Reply, Socket};

/// `RTNLGRP_IPV6_IFADDR`.
const GROUP: u32 = 9;
/// `IFA_F_TENTATIVE`: whether the address is unique is still asked.
const TENTATIVE: u8 = 0x40;

/// Hears of the IPv6 addresses of one network namespace that come into use.
#[derive(Debug)]
pub struct AddressWatch {
    socket: Socket,
}

impl AddressWatch {
    /// Begins to listen in the calling thread's network namespace: before the
    /// addresses are given.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::open(libc::NETLINK_ROUTE)?;
        socket.join(GROUP)?;
        Ok(Self { socket })
    }

    /// Waits until `addresses`, which were given without the question whether
    /// they are unique, are in use on link number `link`. False when the
    /// kernel did not tell within `patience`.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait(
        &mut self,
        link: u32,
        mut addresses: Vec<IpAddr>,
        patience: Duration,
    ) -> io::Result<bool> {
        let end = Instant::now() + patience;
        while !addresses.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.socket.wait(left)? {
                return Ok(false);
            }
            self.socket.receive(false, |reply| {
                if let Reply::Object { body, .. } = reply
                    && body.get(2).is_some_and(|flags| flags & TENTATIVE == 0)
                    && let Some(entry) = parse_address(body).filter(|e| e.link == link)
                {
                    addresses.retain(|a| *a != entry.address.addr());
                }
            })?;
        }
        Ok(true)
    }
}
