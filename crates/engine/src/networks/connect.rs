//! Connecting containers to networks, and disconnecting them.

use sampan_types::docker::EndpointSettings;

use crate::{Engine, Result};

impl Engine {
    /// Connects a container to a network.
    ///
    /// # Errors
    /// No such network or container; it is on the network already; addresses
    /// in use.
    pub async fn network_connect(
        &self,
        network: &str,
        container: &str,
        endpoint: Option<EndpointSettings>,
    ) -> Result<()> {
        let _ = (network, container, endpoint);
        todo!()
    }

    /// Disconnects a container from a network.
    ///
    /// # Errors
    /// No such network or container; it is not on the network.
    pub async fn network_disconnect(
        &self,
        network: &str,
        container: &str,
        force: bool,
    ) -> Result<()> {
        let _ = (network, container, force);
        todo!()
    }
}
