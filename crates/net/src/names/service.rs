//! The seam of the name service: who answers for names in the sandboxes.
//!
//! Be aware:
//! - Each call is durable for as long as the service's process lives, and the
//!   implementation brings a process that died up to date again.
//! - [`NameService::set`] returns when queries of the sandbox are answered.

use std::net::IpAddr;
use std::path::PathBuf;

use sampan_types::{ContainerId, NetworkId, SandboxId};
use serde::{Deserialize, Serialize};

use crate::config::DnsSpec;
pub use crate::driver::BoxFuture;
use crate::error::NetError;

/// The nftables table in a sandbox that leads questions to the service.
pub const TABLE: &str = "sampan_names";

/// What the name service is told of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxNames {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Whose it is.
    pub container: ContainerId,
    /// The namespace's file.
    pub netns: PathBuf,
    /// How names are looked up in it.
    pub dns: DnsSpec,
    /// Whether names that are no container's may be asked elsewhere: a network
    /// leads out.
    pub leads_out: bool,
    /// Its endpoints, in the order of its interfaces.
    pub endpoints: Vec<EndpointNames>,
}

/// By what names an endpoint is found on its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointNames {
    /// The network.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: String,
    /// The names, the main one first.
    pub names: Vec<String>,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// Addresses that containers were told for a name are put into a set of the
/// firewall's before the answer is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameSet {
    /// The name, or `*.` and a name.
    pub name: String,
    /// The nftables table, of the family `inet`.
    pub table: String,
    /// The set of IPv4 addresses, with timeouts.
    pub set4: String,
    /// The set of IPv6 addresses, with timeouts.
    pub set6: String,
}

/// Who answers for names.
pub trait NameService: Send + Sync {
    /// Adds a sandbox, or changes what is known of it.
    fn set(&self, sandbox: SandboxNames) -> BoxFuture<'_, Result<(), NetError>>;

    /// Forgets a sandbox. Success when it is not known.
    fn remove<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<(), NetError>>;

    /// Compares what leads to the service inside of these sandboxes with what
    /// shall be there, and restores it. Says in which of them it was different.
    fn verify(&self, sandboxes: Vec<SandboxId>) -> BoxFuture<'_, Result<Vec<SandboxId>, NetError>>;

    /// Makes `sandboxes` all there are. Says whether anything was different.
    fn restore(&self, sandboxes: Vec<SandboxNames>) -> BoxFuture<'_, Result<bool, NetError>>;

    /// Makes `sets` all the sets that are filled.
    fn fill(&self, sets: Vec<NameSet>) -> BoxFuture<'_, Result<(), NetError>>;
}

/// A name service that answers for nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNames;

impl NameService for NoNames {
    fn set(&self, _sandbox: SandboxNames) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn remove<'a>(&'a self, _sandbox: &'a SandboxId) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }

    fn verify(
        &self,
        _sandboxes: Vec<SandboxId>,
    ) -> BoxFuture<'_, Result<Vec<SandboxId>, NetError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn restore(&self, _sandboxes: Vec<SandboxNames>) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async { Ok(false) })
    }

    fn fill(&self, _sets: Vec<NameSet>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }
}
