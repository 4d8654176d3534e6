//! The list of containers, as `docker ps` shows it.

use serde_json::Value;

use crate::filters::Filters;
use crate::{Engine, Result};

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that don't run.
    pub all: bool,
    /// Only the so many newest, running or not.
    pub limit: Option<usize>,
    /// With `SizeRw` and `SizeRootFs`.
    pub size: bool,
    /// Which.
    pub filters: Filters,
}

impl Engine {
    /// The containers that pass the filters, newest first: an array's items
    /// of type `ContainerSummary`.
    ///
    /// # Errors
    /// When a filter is wrong, or names a container or image that isn't there.
    pub async fn container_list(&self, options: ListOptions) -> Result<Vec<Value>> {
        let _ = options;
        todo!()
    }
}
