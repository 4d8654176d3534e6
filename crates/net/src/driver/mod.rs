//! The driver seam: what makes a network's links, addresses and routes.
//!
//! Be aware:
//! - A driver knows nothing of names, published ports, filter rules, limits of
//!   bandwidth and of routes other than those that come with an address; the
//!   manager programs those from the [`Attachment`] it returns.
//! - Every method can be repeated. Removing what is absent is success.

mod bridge;
mod cni;
mod linkless;
mod notes;
mod remote;
mod upper;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use sampan_types::{EndpointId, NetworkId, SandboxId};

pub(crate) use bridge::{Bridge, Mark, await_ipv6, dead_group};
pub(crate) use cni::Cni;
pub(crate) use linkless::Linkless;
pub(crate) use remote::Remote;
pub(crate) use upper::{Flavour, Upper};

use crate::config::{Attachment, EndpointSpec, NetworkSpec};
use crate::error::NetError;
pub use crate::sandbox::Namespace;

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An endpoint that shall be attached.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// The sandbox that it belongs to.
    pub sandbox: SandboxId,
    /// The endpoint.
    pub endpoint: EndpointSpec,
    /// Its network.
    pub network: Arc<NetworkSpec>,
    /// The sandbox's namespace.
    pub namespace: Arc<Namespace>,
    /// The interface's name inside; the first free one when absent.
    pub interface: Option<String>,
}

/// An endpoint that shall be taken out of use.
#[derive(Debug, Clone)]
pub struct DetachRequest {
    /// The sandbox that it belongs to.
    pub sandbox: SandboxId,
    /// The endpoint.
    pub endpoint: EndpointSpec,
    /// Its network.
    pub network: Arc<NetworkSpec>,
    /// What it was attached as.
    pub attachment: Attachment,
    /// The namespace's file.
    pub netns: PathBuf,
    /// Whether the interface inside has to be gone on return: the namespace
    /// stays in use.
    pub wait: bool,
}

/// What a driver finds in the kernel.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Networks of this instance.
    pub networks: Vec<NetworkId>,
    /// Endpoints of this instance.
    pub endpoints: Vec<ObservedEndpoint>,
}

/// An endpoint that a driver finds in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedEndpoint {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The interface on the host.
    pub host_interface: String,
    /// The number of the other end in the sandbox's namespace.
    pub peer: u32,
    /// The number of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is kept from others on the same network.
    pub isolated: bool,
    /// Whether packets may go back to where they came from.
    pub hairpin: bool,
}

/// A way to make networks. What is said here of a network as a whole, and of
/// what is observed, holds for drivers that make nothing but endpoints and leave
/// none behind.
pub trait Driver: Send + Sync {
    /// Makes a network, or completes it. Says what was missing, a line each.
    fn create_network<'a>(
        &'a self,
        _network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<Vec<String>, NetError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Removes a network.
    fn delete_network<'a>(
        &'a self,
        _network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    /// Removes what was observed of a network that nobody knows.
    fn discard_network<'a>(
        &'a self,
        _network: &'a NetworkId,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    /// Attaches an endpoint that is not attached.
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment, NetError>>;

    /// Completes an endpoint that was found, or attaches it again. Says
    /// whether anything was missing.
    fn restore(
        &self,
        request: AttachRequest,
        found: Option<ObservedEndpoint>,
    ) -> BoxFuture<'_, Result<(Attachment, bool), NetError>>;

    /// Takes an endpoint out of use. Its addresses are free on return.
    fn detach(&self, request: DetachRequest) -> BoxFuture<'_, Result<(), NetError>>;

    /// Removes an endpoint that was observed and that nobody knows.
    fn discard_endpoint<'a>(
        &'a self,
        _endpoint: &'a ObservedEndpoint,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    /// What there is of this instance.
    fn observe(&self) -> BoxFuture<'_, Result<Observed, NetError>> {
        Box::pin(async { Ok(Observed::default()) })
    }
}
