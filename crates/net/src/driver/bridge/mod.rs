//! Bridge networks on this host: a Linux bridge for each network, a pair of
//! links for each endpoint.
//!
//! ```text
//! host:     docker0 (gateway's address) ── port veth1a2b3c4
//! sandbox:                                      └── eth0 (endpoint's address)
//! ```
//!
//! Be aware:
//! - What is made here bears a mark in its alias (see [`Mark`]), by which it
//!   is recognised later. A bridge that somebody else made is used as it is:
//!   it is given the gateways' addresses, which go with the network, and is
//!   never removed.
//! - Addresses of IPv6 are in use at once: nobody asks first whether they are
//!   unique, which takes a second. They are chosen to be.
//! - Removing a link takes the kernel some 20 ms. An endpoint that is taken
//!   out of use is only cut off its bridge and marked as dead; the reaper
//!   removes all dead links at the price of one.
//! - `icc=false` is done by isolating the bridge's ports: packets between
//!   them never come to the firewall. Where br_netfilter is in use, a
//!   neighbour's published port can't be reached then either.

mod endpoint;
mod mark;
mod neighbours;
mod network;
mod segments;
mod usable;

use sampan_types::NetworkId;

use super::{AttachRequest, BoxFuture, DetachRequest, Driver, Observed, ObservedEndpoint};
use crate::config::{Attachment, DriverConfig, NetworkSpec};
use crate::error::NetError;
use crate::worker::{Reaper, Worker};

pub(crate) use mark::{Mark, dead_group};
pub(crate) use usable::await_ipv6;

/// The driver of bridge networks.
#[derive(Debug)]
pub(crate) struct Bridge {
    instance: String,
    group: u32,
    worker: Worker,
    reaper: Reaper,
}

impl Bridge {
    pub fn new(instance: String, worker: Worker, reaper: Reaper) -> Self {
        let group = dead_group(&instance);
        Self { instance, group, worker, reaper }
    }
}

impl Driver for Bridge {
    fn create_network<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<Vec<String>, NetError>> {
        Box::pin(self.make_network(network))
    }

    fn delete_network<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        let config = match &network.driver {
            DriverConfig::Bridge(config) => Some(config),
            _ => None,
        };
        Box::pin(self.remove_network(&network.id, config))
    }

    fn discard_network<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(self.remove_network(network, None))
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment, NetError>> {
        Box::pin(self.attach_endpoint(request))
    }

    fn restore(
        &self,
        request: AttachRequest,
        found: Option<ObservedEndpoint>,
    ) -> BoxFuture<'_, Result<(Attachment, bool), NetError>> {
        Box::pin(self.restore_endpoint(request, found))
    }

    fn detach(&self, request: DetachRequest) -> BoxFuture<'_, Result<(), NetError>> {
        let links = request.attachment.host_interface.into_iter().collect();
        Box::pin(self.retire(links, request.wait))
    }

    fn discard_endpoint<'a>(
        &'a self,
        endpoint: &'a ObservedEndpoint,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(self.retire(vec![endpoint.host_interface.clone()], false))
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, NetError>> {
        Box::pin(self.observe_all())
    }
}
