//! Networks as the API shows them.

use serde_json::Value;

use crate::filters::Filters;
use crate::{Engine, Result};

impl Engine {
    /// The networks that pass the filters.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<Value>> {
        let _ = filters;
        todo!()
    }

    /// One network, with the containers on it.
    ///
    /// # Errors
    /// No such network.
    pub async fn network_inspect(&self, name: &str, scope: Option<&str>) -> Result<Value> {
        let _ = (name, scope);
        todo!()
    }
}
