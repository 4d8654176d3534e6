//! Volumes as the API shows them, with who refers to them.

use sampan_types::docker::VolumeCreateRequest;
use serde_json::Value;

use crate::filters::Filters;
use crate::{Engine, Result};

impl Engine {
    /// The volumes that pass the filters: `{"Volumes": […], "Warnings": null}`.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn volume_list(&self, filters: &Filters) -> Result<Value> {
        let _ = filters;
        todo!()
    }

    /// Makes a volume, or gives the one that has the name.
    ///
    /// # Errors
    /// Wrong names, drivers and options.
    pub async fn volume_create(&self, request: VolumeCreateRequest) -> Result<Value> {
        let _ = request;
        todo!()
    }

    /// One volume.
    ///
    /// # Errors
    /// No such volume.
    pub async fn volume_inspect(&self, name: &str) -> Result<Value> {
        let _ = name;
        todo!()
    }

    /// Removes a volume; with `force`, its absence is success.
    ///
    /// # Errors
    /// No such volume; a container refers to it.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let _ = (name, force);
        todo!()
    }

    /// Removes the volumes that no container refers to: those without a name,
    /// with the filter `all` the others too.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn volume_prune(&self, filters: &Filters) -> Result<Value> {
        let _ = filters;
        todo!()
    }
}
