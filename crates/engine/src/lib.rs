//! The engine: containers from creation to removal, composed of runtime,
//! image, volume and net.
//!
//! [`Engine`] is what the API talks to. One file per noun: `container/` is the
//! life cycle, `container_view/` what is read about containers, `images`,
//! `networks`, `volumes` and `system` the other nouns.
//!
//! Be aware:
//! - The daemon is disposable. What a user wants is durable in the store
//!   before the world is touched; `reconcile` compares the two at start.
//! - Each running container has one supervising task that waits for its shim.
//!   Nothing polls.
#![forbid(unsafe_code)]

pub mod attach;
mod config;
pub mod container;
pub mod container_view;
mod error;
pub mod events;
pub mod exec;
pub mod fault;
pub mod filters;
pub mod images;
pub mod metrics;
pub mod networks;
pub mod record;
pub mod restart;
pub mod system;
pub mod volumes;

use std::sync::Arc;

use sampan_image::Images;
use sampan_runtime::Runtime;
use sampan_store::Store;
use sampan_types::ContainerId;
use sampan_volume::Volumes;

pub use attach::{AttachInput, AttachOptions, Attachment, Written};
pub use config::{BridgeConfig, EngineConfig, LogDefaults};
pub use container::Container;
pub use container::lifecycle::{
    RemoveOptions, StopOptions, WaitCondition, WaitHandle, WaitResult,
};
pub use error::{EngineError, Result};
pub use events::{EventBus, EventStream};
pub use exec::ExecStartOptions;
pub use metrics::Metrics;
pub use sampan_runtime::StdStream;

use container::index::Index;

/// The container engine. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What all clones share.
pub(crate) struct Inner {
    config: EngineConfig,
    store: Arc<dyn Store>,
    images: Images,
    volumes: Volumes,
    runtime: Runtime,
    containers: Index,
    events: EventBus,
    metrics: Metrics,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("instance", &self.inner.config.instance).finish()
    }
}

impl Engine {
    /// Opens the store and the parts, adopts the containers that run, heals
    /// what an earlier daemon left half done, and carries out restart policies.
    ///
    /// # Errors
    /// When a part can't be opened. Damaged records are reported and left.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let _ = config;
        todo!()
    }

    /// Ends the engine's tasks. Containers stay running.
    pub async fn shutdown(&self) {
        todo!()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// Desired state.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// Images and snapshots.
    #[must_use]
    pub fn image_store(&self) -> &Images {
        &self.inner.images
    }

    /// Volumes.
    #[must_use]
    pub fn volume_store(&self) -> &Volumes {
        &self.inner.volumes
    }

    /// Processes.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    /// What happens.
    #[must_use]
    pub fn event_bus(&self) -> &EventBus {
        &self.inner.events
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// All metrics in the text format of OpenMetrics.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.inner.metrics.encode(&self.inner.containers)
    }

    /// The container with this id, name or unique beginning of an id.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::AmbiguousPrefix`].
    pub fn container(&self, text: &str) -> Result<Arc<Container>> {
        self.inner.containers.resolve(text)
    }

    /// The container with this id.
    #[must_use]
    pub fn container_by_id(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.inner.containers.get(id)
    }

    /// All containers.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.inner.containers.all()
    }
}
