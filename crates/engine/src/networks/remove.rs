//! Removing networks.

use serde_json::Value;

use crate::filters::Filters;
use crate::{Engine, Result};

impl Engine {
    /// Removes a network.
    ///
    /// # Errors
    /// No such network, a predefined one, containers on it.
    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// Removes the networks that no container is on.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn network_prune(&self, filters: &Filters) -> Result<Value> {
        let _ = filters;
        todo!()
    }
}
