//! What a container uses, as `docker stats` shows it.

use futures_util::stream::BoxStream;
use serde_json::Value;

use crate::{Engine, Result};

/// One sample per item.
pub type StatsStream = BoxStream<'static, Value>;

impl Engine {
    /// Samples of a container's use of resources: one a second until it is
    /// removed when `stream`, otherwise one. With `one_shot` the one comes at
    /// once, without a sample before it to compare with.
    ///
    /// # Errors
    /// No such container.
    pub async fn container_stats(
        &self,
        id: &str,
        stream: bool,
        one_shot: bool,
    ) -> Result<StatsStream> {
        let _ = (id, stream, one_shot);
        todo!()
    }
}
