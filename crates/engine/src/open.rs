//! Opening the engine at the daemon's start, and closing it at its end.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sampan_image::Images;
use sampan_image::registry::{InsecureRegistries, Mirror, Registry, RegistryConfig};
use sampan_net::{NetConfig, Networks, PortTable};
use sampan_plugin::Plugins;
use sampan_runtime::cgroup::CgroupHost;
use sampan_runtime::spec::HostFacts;
use sampan_runtime::{Runtime, RuntimeConfig};
use sampan_store::{RedbStore, Store};
use sampan_volume::Volumes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::index::Index;
use crate::error::{EngineError, Result};
use crate::exec::ExecTable;
use crate::networks::NetworkTable;
use crate::policies::PolicyTable;
use crate::{Engine, EngineConfig, EventBus, Inner, Metrics};

/// How long the end of the daemon waits for operations under way.
const PATIENCE: Duration = Duration::from_secs(8);

impl Engine {
    /// Opens the store and the parts, adopts the containers that run, heals
    /// what an earlier daemon left half done, and carries out restart policies.
    ///
    /// # Errors
    /// When a part can't be opened. Damaged records are reported and left.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        config.check()?;
        for (dir, mode) in [(&config.data_root, 0o710), (&config.exec_root, 0o711)] {
            make_dir(dir, mode)?;
            make_dir(&dir.join("containers"), mode)?;
        }
        let path = config.data_root.join("store.redb");
        let opened = tokio::task::spawn_blocking(move || RedbStore::open(&path))
            .await
            .map_err(|e| EngineError::Fault(e.to_string()))??;
        if let Some((path, why)) = &opened.set_aside {
            tracing::error!(
                path = %path.display(), why,
                "the store was damaged and is set aside; running containers are adopted from \
                 their shims, others have to be created again"
            );
        }
        let lost = opened.set_aside.is_some();
        let store: Arc<dyn Store> = Arc::new(opened.store);
        let engine = Self::compose(config, store).await?;
        engine.reconcile(lost).await?;
        engine.start_backup_schedule();
        Ok(engine)
    }

    async fn compose(config: EngineConfig, store: Arc<dyn Store>) -> Result<Self> {
        let images = Images::open(&config.data_root).await?;
        let registry = Registry::new(images.clone(), registry_config(&config)?);
        let volumes = Volumes::open(&config.data_root).await?;
        let plugins = Plugins::new(config.plugin_dirs.clone());
        let volumes = volumes.with_plugins(&config.data_root, plugins.clone()).await?;
        let network_table = NetworkTable::open(Arc::clone(&store), &config).await?;
        let policies = PolicyTable::open(&store).await?;
        let backups = crate::volumes::backup::Backups::open(&*store).await?;
        let mut net = NetConfig::new(config.instance.clone(), config.exec_root.clone());
        net.networks = network_table.specs();
        net.redirect = config.network_redirect;
        net.host_ipv6_ports = config.host_ipv6_ports;
        net.respect_host_firewall = config.respect_host_firewall;
        net.plugin_dirs.clone_from(&config.plugin_dirs);
        net.cni_path.clone_from(&config.cni_path);
        let names = sampan_proxy::Client::new(sampan_proxy::ClientConfig {
            program: config.program.clone(),
            exec_root: config.exec_root.clone(),
            resolv_conf: None,
        });
        let networks = Networks::open(net, Box::new(names)).await?;
        let runtime = Runtime::new(RuntimeConfig {
            program: config.program.clone(),
            data_root: config.data_root.clone(),
            exec_root: config.exec_root.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            runtimes: config.runtimes.clone(),
        })?;
        let cgroups = Arc::new(CgroupHost::detect()?);
        let facts = HostFacts::detect(&cgroups)
            .map_err(|e| EngineError::io("read the machine's abilities from", "/proc", e))?;
        Ok(Self {
            inner: Arc::new(Inner {
                boot_id: boot_id()?,
                config,
                store,
                backups,
                images,
                registry,
                volumes,
                runtime,
                plugins,
                leases: tokio::sync::Mutex::default(),
                freezing: tokio::sync::Mutex::default(),
                networks,
                network_table,
                policies,
                ports: Mutex::new(PortTable::new()),
                containers: Index::default(),
                execs: ExecTable::default(),
                events: EventBus::default(),
                metrics: Metrics::default(),
                facts,
                cgroups,
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
                trims: AtomicBool::new(false),
            }),
        })
    }

    /// Ends the engine's tasks after the operations under way. Containers
    /// stay running.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(PATIENCE, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.inner.tasks.len(), "operations are left to the next start");
        }
        for c in self.containers() {
            if !c.dirty.load(std::sync::atomic::Ordering::Acquire) {
                continue;
            }
            if let Err(error) = self.persist(&c).await {
                tracing::error!(container = c.id().short(), %error, "state is not written");
            }
        }
    }
}

fn registry_config(config: &EngineConfig) -> Result<RegistryConfig> {
    let insecure =
        InsecureRegistries::parse(&config.insecure_registries).map_err(EngineError::part)?;
    let mirrors = config.registry_mirrors.iter().map(|m| Mirror::parse(m));
    Ok(RegistryConfig {
        insecure,
        mirrors: mirrors.collect::<std::result::Result<_, _>>().map_err(EngineError::part)?,
        max_concurrent_downloads: config.max_concurrent_downloads,
        max_concurrent_uploads: config.max_concurrent_uploads,
        ..RegistryConfig::default()
    })
}

fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|e| EngineError::io("create", dir.display(), e))
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|e| EngineError::io("read", path, e))?;
    Ok(text.trim().to_owned())
}
