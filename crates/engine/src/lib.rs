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
mod check;
mod config;
pub mod container;
pub mod container_view;
mod envelope;
mod error;
pub mod events;
pub mod exec;
mod exec_once;
pub mod fault;
pub mod filters;
pub mod health;
pub mod images;
pub mod metrics;
pub mod networks;
mod open;
pub mod policies;
mod reconcile;
pub mod record;
pub mod restart;
pub mod system;
pub mod volumes;

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sampan_image::Images;
use sampan_image::registry::Registry;
use sampan_net::{Networks, PortTable};
use sampan_runtime::Runtime;
use sampan_runtime::cgroup::{Cgroup, CgroupHost};
use sampan_runtime::spec::HostFacts;
use sampan_store::Store;
use sampan_types::ContainerId;
use sampan_volume::Volumes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use attach::{AttachInput, AttachOptions, Attachment, Written};
pub use check::search_path;
pub use config::{BridgeConfig, EngineConfig, LogDefaults};
pub use container::Container;
pub use container::publish::PublishChange;
pub use container::remove::RemoveOptions;
pub use container::stop::StopOptions;
pub use container::wait::{WaitCondition, WaitHandle, WaitResult};
pub use error::{EngineError, Result};
pub use events::{EventBus, EventStream};
pub use exec::ExecStartOptions;
pub use metrics::Metrics;
pub use policies::PolicySpec;
pub use sampan_runtime::StdStream;

use container::index::Index;
use exec::ExecTable;
use networks::NetworkTable;

/// What was this large, in bytes, left much memory behind that is used no more.
const LARGE: usize = 128 << 10;
/// How long after it the memory is given back: other work on the same thing
/// uses it again.
const CALM: Duration = Duration::from_millis(300);

/// The container engine. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What all clones share.
pub(crate) struct Inner {
    config: EngineConfig,
    store: Arc<dyn Store>,
    /// Backups of volumes that are under way, and the last outcomes.
    backups: volumes::backup::Backups,
    images: Images,
    /// Pull and push.
    registry: Registry,
    volumes: Volumes,
    runtime: Runtime,
    networks: Networks,
    plugins: sampan_plugin::Plugins,
    /// Held while an address is given back to its plugin.
    leases: tokio::sync::Mutex<()>,
    /// Held while containers are held still for a copy of a volume.
    freezing: tokio::sync::Mutex<()>,
    network_table: NetworkTable,
    policies: policies::PolicyTable,
    /// The host's ports that are published. Locked for one allocation.
    ports: Mutex<PortTable>,
    containers: Index,
    execs: ExecTable,
    events: EventBus,
    metrics: Metrics,
    facts: HostFacts,
    cgroups: Arc<CgroupHost>,
    /// The boot of the machine, by `/proc/sys/kernel/random/boot_id`.
    boot_id: String,
    /// Cancelled when the daemon goes down.
    stop: CancellationToken,
    /// Everything that runs in the background; awaited at the end.
    tasks: TaskTracker,
    /// Whether memory is about to be given back to the system.
    trims: AtomicBool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("instance", &self.inner.config.instance).finish()
    }
}

impl Engine {
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

    /// Registries.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
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

    /// Networks in the kernel: sandboxes, endpoints, published ports.
    #[must_use]
    pub fn networks(&self) -> &Networks {
        &self.inner.networks
    }

    /// The networks' records and address pools.
    #[must_use]
    pub fn network_table(&self) -> &NetworkTable {
        &self.inner.network_table
    }

    /// What the machine can do.
    #[must_use]
    pub fn host_facts(&self) -> &HostFacts {
        &self.inner.facts
    }

    /// The cgroup file systems of the machine.
    #[must_use]
    pub fn cgroup_host(&self) -> &Arc<CgroupHost> {
        &self.inner.cgroups
    }

    /// A container's cgroup: `<parent>/<id>`, with the parent that the
    /// container asked for, else the instance's.
    #[must_use]
    pub fn cgroup(&self, record: &record::ContainerRecord) -> Cgroup {
        let own = record.host_config.cgroup_parent.as_deref().filter(|p| !p.is_empty());
        let parent = own.unwrap_or(&self.inner.config.cgroup_parent);
        let path = PathBuf::from("/").join(parent.trim_start_matches('/')).join(record.id.as_str());
        Cgroup::new(Arc::clone(&self.inner.cgroups), &path)
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

    /// Runs an operation to its end, also when the caller goes away: what was
    /// begun in the world is finished or undone, never abandoned.
    pub(crate) async fn detached<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        if self.inner.stop.is_cancelled() {
            return Err(EngineError::ShuttingDown);
        }
        match self.inner.tasks.spawn(operation).await {
            Ok(result) => result,
            Err(e) => Err(EngineError::Fault(e.to_string())),
        }
    }

    /// Gives memory back to the system soon, when what was handled just now was
    /// large; nobody waits for it.
    pub(crate) fn trim_after(&self, size: usize) {
        if size < LARGE || self.inner.trims.swap(true, Ordering::AcqRel) {
            return;
        }
        let engine = self.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = engine.inner.stop.cancelled() => return,
                () = tokio::time::sleep(CALM) => {}
            }
            engine.inner.trims.store(false, Ordering::Release);
            drop(tokio::task::spawn_blocking(sampan_sys::allocator::trim_memory));
        });
    }

    /// Runs something that waits for file systems, away from the async threads.
    pub(crate) async fn blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(e) => Err(EngineError::Fault(e.to_string())),
        }
    }
}
