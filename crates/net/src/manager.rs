//! The manager of networks and sandboxes.

use std::path::PathBuf;

use sampan_types::{EndpointId, NetworkId, SandboxId};

use crate::config::{Attachment, EndpointSpec, NetConfig, NetworkSpec, SandboxSpec};
use crate::error::NetError;

/// A sandbox that is set up.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// The namespace's file; none for the host's own namespace.
    pub netns: Option<PathBuf>,
    /// One for each endpoint, in the order of the specification.
    pub attachments: Vec<Attachment>,
}

/// What [`Networks::reconcile`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs {
    /// What was missing or different and is restored, one line each.
    pub restored: Vec<String>,
    /// What nobody wants any more and is removed, one line each.
    pub removed: Vec<String>,
    /// What could not be restored and why, one line each.
    pub failed: Vec<String>,
    /// Sandboxes whose namespace is gone: their containers can't have a
    /// network before they are started again.
    pub lost: Vec<SandboxId>,
}

/// All networks and sandboxes of an instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Networks {}

impl Networks {
    /// Brings the configured networks up: bridges, addresses, the nftables
    /// table, kernel parameters. Repeatable: what exists is taken over.
    ///
    /// # Errors
    /// [`NetError`]; what was made until then stays, a repetition takes it over.
    pub async fn open(config: NetConfig) -> Result<Self, NetError> {
        let _ = config;
        todo!()
    }
    /// Creates a network. Success when the same one exists.
    ///
    /// # Errors
    /// [`NetError::InvalidNetwork`], [`NetError::InUse`], or the kernel's.
    pub async fn create_network(&self, network: NetworkSpec) -> Result<(), NetError> {
        let _ = network;
        todo!()
    }
    /// Removes a network. Success when there is none.
    ///
    /// # Errors
    /// [`NetError::ActiveEndpoints`], or the kernel's.
    pub async fn delete_network(&self, network: &NetworkId) -> Result<(), NetError> {
        let _ = network;
        todo!()
    }
    /// The network with this id.
    #[must_use]
    pub fn network(&self, network: &NetworkId) -> Option<NetworkSpec> {
        let _ = network;
        todo!()
    }
    /// Makes a sandbox: namespace, interfaces, routes, published ports. What
    /// an interrupted attempt left is replaced. On failure nothing is left.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn join(&self, spec: SandboxSpec) -> Result<Sandbox, NetError> {
        let _ = spec;
        todo!()
    }
    /// Takes a sandbox away. Its ports and addresses are out of use on
    /// return; what the kernel is slow to remove goes on in the background.
    /// Success when there is none.
    ///
    /// # Errors
    /// [`NetError`], after everything was tried.
    pub async fn leave(&self, sandbox: &SandboxId) -> Result<(), NetError> {
        let _ = sandbox;
        todo!()
    }
    /// Connects a sandbox to one more network.
    ///
    /// # Errors
    /// [`NetError::NoSandbox`] and as [`Networks::join`].
    pub async fn connect(
        &self,
        sandbox: &SandboxId,
        endpoint: EndpointSpec,
    ) -> Result<Attachment, NetError> {
        let _ = (sandbox, endpoint);
        todo!()
    }
    /// Takes one endpoint of a sandbox away. Success when it has none such.
    ///
    /// # Errors
    /// As [`Networks::leave`].
    pub async fn disconnect(
        &self,
        sandbox: &SandboxId,
        endpoint: &EndpointId,
    ) -> Result<(), NetError> {
        let _ = (sandbox, endpoint);
        todo!()
    }
    /// The sandbox as it is set up.
    #[must_use]
    pub fn sandbox(&self, sandbox: &SandboxId) -> Option<Sandbox> {
        let _ = sandbox;
        todo!()
    }
    /// Compares the kernel with `desired`: adopts what is right, restores
    /// what is missing, removes what is left over. Called once after
    /// [`Networks::open`], before the first [`Networks::join`]; repeatable.
    ///
    /// # Errors
    /// Only when nothing could be compared at all; single failures are in
    /// [`Repairs::failed`].
    pub async fn reconcile(&self, desired: &[SandboxSpec]) -> Result<Repairs, NetError> {
        let _ = desired;
        todo!()
    }
}
