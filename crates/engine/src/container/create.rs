//! Making a container.
//!
//! Be aware:
//! - Everything is checked before anything is made. Then the record comes
//!   first: a crash leaves a container that is whole but for its file system
//!   (made at the next start of the daemon), or one marked as being made
//!   (undone then).
//! - What fails is undone: no name, directory, volume or snapshot is left.

use std::sync::Arc;

use sampan_image::ImageRecord;
use sampan_plugin::PluginKind;
use sampan_runtime::{logs, spec};
use sampan_types::docker::{
    ContainerConfig, ContainerCreateBody, ContainerCreateResponse, HostConfig,
    HostConfigCgroupnsModeEnum, RestartPolicy, RestartPolicyNameEnum,
};
use sampan_types::{ContainerId, ContainerName, EventType, NameError, Timestamp};
use sampan_volume::{Volume, VolumeSpec};
use tokio_util::sync::CancellationToken;

use super::mounts::{self, Plan, VolumeWish};
use super::namespaces::check_modes;
use super::{CallOff, Container, logging, merge, names, ports, validate};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::{
    ContainerRecord, Desired, MountKind, NetworkMode, Networking, State, WishedPorts,
};

/// A container that may be made.
struct Draft {
    record: ContainerRecord,
    volumes: Vec<VolumeWish>,
    warnings: Vec<String>,
}

impl Engine {
    /// Makes a container from an image and a configuration. Everything is
    /// checked before anything is made; a failure leaves nothing behind.
    ///
    /// # Errors
    /// Wrong or conflicting options, a name in use, no such image.
    pub async fn container_create(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreateResponse> {
        let (engine, name) = (self.clone(), name.map(str::to_owned));
        let platform = platform.map(str::to_owned);
        // A container whose client is gone is nobody's: one that waits for a
        // volume is not made any more.
        let gone = CancellationToken::new();
        let _here = gone.clone().drop_guard();
        self.detached(async move {
            let id = ContainerId::random();
            let name = parse_name(name.as_deref())?;
            let draft = engine.draft(id.clone(), platform.as_deref(), body)?;
            engine.check_volumes(&draft.volumes).await?;
            let name = engine.reserve_name(name, &id)?;
            let taken = name.clone();
            match engine.make(draft, name, &gone).await {
                Ok(response) => Ok(response),
                Err(e) => {
                    engine.inner.containers.release(&taken, &id);
                    Err(e)
                }
            }
        })
        .await
    }

    /// Checks a request and fills in what it leaves out. Touches nothing.
    fn draft(
        &self,
        id: ContainerId,
        platform: Option<&str>,
        body: ContainerCreateBody,
    ) -> Result<Draft> {
        let reference = body.image.clone().unwrap_or_default();
        if reference.is_empty() {
            return Err(EngineError::Invalid(
                "config cannot be empty in order to create a container: no image given".to_owned(),
            ));
        }
        let image_id = self.image_store().resolve(&reference)?;
        let image = self.image_store().inspect(&image_id)?;
        check_platform(platform, &reference, &image)?;
        let mut config = merge::config_of(&body);
        merge::merge(&mut config, &image.run_config());
        let mut host = body.host_config.clone().unwrap_or_default();
        validate::host(&config, &host)?;
        validate::config(&config)?;
        let Some((path, args)) = merge::command(&config) else {
            return Err(EngineError::Invalid("no command specified".to_owned()));
        };
        check_modes(self, &mut host)?;
        let networking = self.plan_networking(&body, &mut host)?;
        ports::check(&config, &host)?;
        self.fill_in(&id, &mut config, &mut host, &networking.mode)?;
        self.oci_runtime(host.runtime.as_deref().unwrap_or_default())?;
        let mut warnings = spec::validate(&host, &config, &self.inner.facts)?;
        warnings.extend(self.discarded_ports(&networking, &host));
        let find = |name: &str| match self.container(name) {
            Ok(c) => Ok(c.record()),
            Err(e) => Err(e.to_string()),
        };
        let images = |name: &str| self.image_store().resolve(name).map_err(|e| e.to_string());
        let Plan { mut mounts, volumes } = mounts::plan(&config, &host, &find, &images)?;
        if self.inner.config.strict_binds {
            mounts.iter_mut().for_each(|m| m.create_source = false);
        }
        check_sources(&mounts)?;
        let state = State::default();
        let record = ContainerRecord {
            name: names::random(0),
            created: Timestamp::now(),
            image: image_id,
            os: "linux".to_owned(),
            path,
            args,
            config,
            host_config: host,
            networking,
            mounts,
            desired: if volumes.is_empty() { Desired::Stopped } else { Desired::Creating },
            generation: 0,
            boot_id: self.inner.boot_id.clone(),
            state,
            restart_count: 0,
            manually_stopped: false,
            restart_wanted: false,
            wished_ports: WishedPorts::default(),
            id,
        }
        .packed();
        Ok(Draft { record, volumes, warnings })
    }

    /// The defaults that become part of the record.
    fn fill_in(
        &self,
        id: &ContainerId,
        config: &mut ContainerConfig,
        host: &mut HostConfig,
        network: &NetworkMode,
    ) -> Result<()> {
        let (driver, options) = {
            let log = logging::with_defaults(host.log_config.as_ref(), &self.inner.config.log);
            host.log_config = Some(log.clone());
            let options = log.config.unwrap_or_default().into_iter().collect();
            (log.typ.unwrap_or_default(), options)
        };
        logs::validate(&driver, &options)?;
        if config.hostname.as_deref().unwrap_or_default().is_empty() {
            let host_name =
                *network == NetworkMode::Host || host.uts_mode.as_deref() == Some("host");
            config.hostname = Some(match network {
                NetworkMode::Container(other) => {
                    let other = self.container_by_id(other);
                    other.and_then(|o| o.record().config.hostname.clone()).unwrap_or_default()
                }
                _ if host_name => host_hostname(),
                _ => id.short().to_owned(),
            });
        }
        if host.ipc_mode.as_deref().unwrap_or_default().is_empty() {
            host.ipc_mode = Some("private".to_owned());
        }
        if matches!(host.cgroupns_mode, None | Some(HostConfigCgroupnsModeEnum::EMPTY)) {
            let v2 = self.inner.cgroups.version == sampan_runtime::cgroup::CgroupVersion::V2;
            host.cgroupns_mode = Some(if v2 {
                HostConfigCgroupnsModeEnum::PRIVATE
            } else {
                HostConfigCgroupnsModeEnum::HOST
            });
        }
        if host.shm_size.unwrap_or(0) <= 0 {
            host.shm_size = i64::try_from(self.inner.config.shm_size).ok();
        }
        let policy = host.restart_policy.get_or_insert_with(RestartPolicy::default);
        if matches!(policy.name, None | Some(RestartPolicyNameEnum::EMPTY)) {
            policy.name = Some(RestartPolicyNameEnum::NO);
        }
        // As dockerd: without a word about swap, as much swap as memory.
        if host.memory.unwrap_or(0) > 0 && host.memory_swap.unwrap_or(0) == 0 {
            host.memory_swap = host.memory.map(|m| m.saturating_mul(2));
        }
        if host.memory_swappiness == Some(-1) {
            host.memory_swappiness = None;
        }
        if host.runtime.as_deref().unwrap_or_default().is_empty() {
            let default = self.inner.config.default_runtime.as_deref().unwrap_or("sampan");
            host.runtime = Some(default.to_owned());
        }
        Ok(())
    }

    /// A word on ports that are published where that has no meaning.
    fn discarded_ports(&self, networking: &Networking, host: &HostConfig) -> Option<String> {
        host.port_bindings.as_ref().filter(|ports| !ports.is_empty())?;
        if networking.mode == NetworkMode::Host {
            return Some("Published ports are discarded when using host network mode".to_owned());
        }
        self.is_not_published(networking).then(|| {
            "Published ports are discarded on macvlan and ipvlan networks: the container is \
             reached by its own address"
                .to_owned()
        })
    }

    /// Refuses volumes whose driver is not there, before any is made.
    async fn check_volumes(&self, volumes: &[VolumeWish]) -> Result<()> {
        for driver in volumes.iter().map(|v| v.driver.as_str()) {
            if driver.is_empty() || driver == sampan_volume::local::DRIVER {
                continue;
            }
            self.plugins().get(driver, PluginKind::Volume).await.map_err(|e| {
                EngineError::Invalid(format!("error looking up volume plugin {driver}: {e}"))
            })?;
        }
        Ok(())
    }

    fn reserve_name(&self, name: Option<ContainerName>, id: &ContainerId) -> Result<ContainerName> {
        if let Some(name) = name {
            self.inner.containers.reserve(&name, id)?;
            return Ok(name);
        }
        let mut attempt = 0;
        loop {
            let name = names::random(attempt);
            match self.inner.containers.reserve(&name, id) {
                Ok(()) => return Ok(name),
                Err(_) => attempt = attempt.saturating_add(1),
            }
        }
    }

    /// Writes the record and makes what it says; undoes everything when a
    /// step fails.
    async fn make(
        &self,
        draft: Draft,
        name: ContainerName,
        gone: &CancellationToken,
    ) -> Result<ContainerCreateResponse> {
        let Draft { mut record, volumes, warnings } = draft;
        record.name = name;
        let c = Container::new(record);
        let _ops = c.ops.lock().await;
        self.inner.containers.make(Arc::clone(&c));
        crate::fault!("create:before-record");
        self.persist(&c).await?;
        crate::fault!("create:after-record");
        let mut made = Vec::new();
        let built = {
            let build = self.build(&c, &volumes, &mut made);
            tokio::pin!(build);
            tokio::select! {
                built = &mut build => built,
                () = gone.cancelled() => {
                    let _off = c.call_off(CallOff::Abandoned);
                    build.await
                }
            }
        };
        match built {
            Ok(()) => {}
            // The next daemon undoes it.
            Err(EngineError::ShuttingDown) => return Err(EngineError::ShuttingDown),
            Err(e) => {
                self.unmake(&c, &made).await;
                c.mark_removed();
                return Err(e);
            }
        }
        let id = c.id().to_string();
        self.inner.containers.insert(Arc::clone(&c));
        self.container_event(&c, "create", &[]);
        Ok(ContainerCreateResponse { id, warnings })
    }

    /// The directory, the snapshot and the volumes of a record. Repeatable.
    /// `made` collects the volumes that did not exist before.
    pub(crate) async fn build(
        &self,
        c: &Arc<Container>,
        volumes: &[VolumeWish],
        made: &mut Vec<String>,
    ) -> Result<()> {
        let record = c.record();
        let dir = record.data_dir(&self.inner.config.data_root);
        self.blocking(move || {
            std::fs::create_dir_all(&dir).map_err(|e| EngineError::io("create", dir.display(), e))
        })
        .await?;
        self.image_store().prepare(c.id(), &record.image).await?;
        crate::fault!("create:after-snapshot");
        for image in record.mounts.iter().filter_map(|m| m.image.as_ref()) {
            self.image_store().prepare_view(c.id(), &image.id).await?;
        }
        if volumes.is_empty() {
            return Ok(());
        }
        let mut sources = Vec::new();
        for wish in volumes {
            sources.push(self.make_wished(wish, made).await?);
        }
        crate::fault!("create:after-volume");
        if volumes.iter().any(|v| v.copy) {
            let copied = self.copy_up(c, volumes).await;
            let unmounted = self.image_store().unmount(c.id()).await;
            copied?;
            unmounted?;
            crate::fault!("create:after-copy-up");
        }
        self.commit_change(c, |r| {
            r.desired = Desired::Stopped;
            for m in &mut r.mounts {
                let volume = sources.iter().find(|v| m.volume.as_ref() == Some(&v.name));
                if let Some(volume) = volume {
                    m.source.clone_from(&volume.mountpoint);
                    m.driver = Some(volume.driver.clone());
                }
            }
        })
        .await?;
        crate::fault!("create:after-finish");
        Ok(())
    }

    async fn make_wished(&self, wish: &VolumeWish, made: &mut Vec<String>) -> Result<Volume> {
        let created = self
            .volume_store()
            .create(VolumeSpec {
                name: Some(wish.name.to_string()),
                driver: wish.driver.clone(),
                options: wish.options.clone(),
                labels: wish.labels.clone(),
            })
            .await?;
        if created.new {
            made.push(wish.name.to_string());
            self.event_bus().publish(
                EventType::Volume,
                "create",
                wish.name.as_str(),
                [("driver", created.volume.driver.as_str())],
            );
        }
        Ok(created.volume)
    }

    async fn copy_up(&self, c: &Container, volumes: &[VolumeWish]) -> Result<()> {
        let rootfs = self.image_store().mount(c.id()).await?;
        for wish in volumes.iter().filter(|v| v.copy) {
            let store = self.volume_store();
            let copy = store.copy_up(wish.name.as_str(), &rootfs, &wish.destination);
            self.unless_called_off(c, "creation", copy).await?;
        }
        Ok(())
    }

    /// Undoes a creation; goes on after failures, which are logged.
    async fn unmake(&self, c: &Arc<Container>, made: &[String]) {
        let record = c.record();
        let warn = |what: &str, error: &dyn std::fmt::Display| {
            tracing::warn!(container = c.id().short(), what, %error, "not undone");
        };
        if let Err(e) = self.image_store().discard(c.id()).await {
            warn("snapshot", &e);
        }
        for name in made {
            if let Err(e) = self.volume_store().remove(name).await {
                warn("volume", &e);
            }
        }
        let dir = record.data_dir(&self.inner.config.data_root);
        let removed = self
            .blocking(move || {
                sampan_sys::file::remove_tree(&dir)
                    .map_err(|e| EngineError::io("remove", dir.display(), e))
            })
            .await;
        if let Err(e) = removed {
            warn("directory", &e);
        }
        if let Err(e) = self.delete_record(c).await {
            warn("record", &e);
        }
    }
}

fn parse_name(name: Option<&str>) -> Result<Option<ContainerName>> {
    let Some(name) = name.filter(|n| !n.is_empty()) else { return Ok(None) };
    let bare = name.strip_prefix('/').unwrap_or(name);
    bare.parse().map(Some).map_err(|e: NameError| EngineError::Invalid(e.to_string()))
}

fn check_platform(platform: Option<&str>, reference: &str, image: &ImageRecord) -> Result<()> {
    let Some(wanted) = platform.filter(|p| !p.is_empty()) else { return Ok(()) };
    let mut parts = wanted.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next());
    let found = &image.config;
    let same = os == found.os && architecture.is_none_or(|a| a == found.architecture);
    if same {
        return Ok(());
    }
    Err(EngineError::NotFound(format!(
        "image with reference {reference} was found but its platform ({}/{}) does not match the \
         specified platform ({wanted})",
        found.os, found.architecture
    )))
}

/// Sources of binds that are not made on demand must exist.
fn check_sources(mounts: &[crate::record::MountRecord]) -> Result<()> {
    let missing = mounts.iter().find(|m| {
        m.kind == MountKind::Bind && !m.create_source && m.source.symlink_metadata().is_err()
    });
    match missing {
        Some(m) => Err(EngineError::Invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            m.source.display()
        ))),
        None => Ok(()),
    }
}

fn host_hostname() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|n| n.into_string().ok()).unwrap_or_else(|| "localhost".to_owned())
}
