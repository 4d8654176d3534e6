//! The daemon and its host: info, version, disk usage.

use serde_json::Value;

use crate::{Engine, Result};

/// The newest version of the Engine API that is spoken.
pub const API_VERSION: &str = "1.53";
/// The oldest.
pub const MIN_API_VERSION: &str = "1.24";

impl Engine {
    /// `GET /info`.
    pub async fn system_info(&self) -> Value {
        todo!()
    }

    /// `GET /version`.
    #[must_use]
    pub fn version(&self) -> Value {
        todo!()
    }

    /// `GET /system/df`; `types` of `container`, `image`, `volume`,
    /// `build-cache`, empty for all.
    ///
    /// # Errors
    /// An unknown type; those of the file system.
    pub async fn system_df(&self, types: &[String]) -> Result<Value> {
        let _ = types;
        todo!()
    }

    /// The headers of `GET /_ping`, besides those of every answer.
    #[must_use]
    pub fn ping_headers(&self) -> Vec<(&'static str, String)> {
        todo!()
    }
}
