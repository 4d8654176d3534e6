//! Making a network.

use sampan_types::docker::NetworkCreateRequest;
use serde_json::Value;

use crate::{Engine, Result};

impl Engine {
    /// Makes a network: `{"Id": …, "Warning": ""}`.
    ///
    /// # Errors
    /// A name in use, wrong or unsupported options, overlapping subnets.
    pub async fn network_create(&self, request: NetworkCreateRequest) -> Result<Value> {
        let _ = request;
        todo!()
    }
}
