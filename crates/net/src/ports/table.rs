//! Who has which port of the host.

use std::net::IpAddr;

use super::{HostUser, PortError, PortRequest, Protocol, PublishedPort};

/// The ports of the host that are given to containers.
#[derive(Debug, Default)]
pub struct PortTable {}

impl PortTable {
    /// A table in which every port is free.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Gives `owner` one port of the host for each request, or none at all.
    /// `in_use` says who on the host itself has a port.
    ///
    /// # Errors
    /// [`PortError`], which names the port and who has it.
    pub fn allocate(
        &mut self,
        requests: &[PortRequest],
        owner: &str,
        in_use: &dyn Fn(Protocol, IpAddr, u16) -> Option<HostUser>,
    ) -> Result<Vec<PublishedPort>, PortError> {
        let _ = (requests, owner, in_use);
        todo!()
    }
    /// Marks ports as the `owner`'s, as found in a record. Success for those
    /// that are that owner's already.
    ///
    /// # Errors
    /// [`PortError::Allocated`]; nothing is marked then.
    pub fn reserve(&mut self, ports: &[PublishedPort], owner: &str) -> Result<(), PortError> {
        let _ = (ports, owner);
        todo!()
    }
    /// Frees all ports of `owner`. Success when it has none.
    pub fn release(&mut self, owner: &str) {
        let _ = owner;
        todo!()
    }
    /// The owner's new name in messages.
    pub fn rename(&mut self, owner: &str, name: &str) {
        let _ = (owner, name);
        todo!()
    }
}
