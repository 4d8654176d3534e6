//! Which namespaces are a container's own, and which OCI runtime makes it.

use std::path::{Path, PathBuf};

use sampan_runtime::OciRuntime;
use sampan_runtime::spec::{Ipc, Namespace, Namespaces};
use sampan_types::docker::{HostConfig, HostConfigCgroupnsModeEnum};

use super::network::NetPlan;
use super::validate::container_mode;
use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;
use crate::{Engine, EngineConfig};

/// Names by which the built-in runtime can be asked for.
pub(crate) const BUILTIN: [&str; 3] = ["", "sampan", "io.containerd.runc.v2"];

/// Where the engine mounts the `/dev/shm` of a container that shares it.
#[must_use]
pub(crate) fn shm_path(data_dir: &Path) -> PathBuf {
    data_dir.join("shm")
}

/// Whether the engine mounts the container's `/dev/shm` itself.
#[must_use]
pub(crate) fn shares_shm(host: &HostConfig) -> bool {
    host.ipc_mode.as_deref() == Some("shareable")
}

/// Checks the namespace modes and makes `container:` name a whole id.
pub(super) fn check_modes(engine: &Engine, host: &mut HostConfig) -> Result<()> {
    let invalid = |text: String| Err(EngineError::Invalid(text));
    for (what, mode) in [("PID", &mut host.pid_mode), ("IPC", &mut host.ipc_mode)] {
        let Some(text) = mode.as_deref() else { continue };
        match text {
            "" | "host" => {}
            "private" | "none" | "shareable" if what == "IPC" => {}
            other => match container_mode(other) {
                Some(name) if !name.is_empty() => {
                    let found =
                        engine.container(name).map_err(|e| EngineError::Invalid(e.to_string()))?;
                    *mode = Some(format!("container:{}", found.id()));
                }
                _ => return invalid(format!("invalid {what} mode: {other}")),
            },
        }
    }
    if let Some(mode) = host.uts_mode.as_deref().filter(|m| !matches!(*m, "" | "host")) {
        return invalid(format!("invalid UTS mode: {mode}"));
    }
    match host.userns_mode.as_deref() {
        None | Some("" | "host") => Ok(()),
        Some(mode) => {
            invalid(format!("invalid user namespace mode: {mode}: only host is supported"))
        }
    }
}

impl Engine {
    /// The namespaces of a start.
    pub(super) fn namespaces(
        &self,
        record: &ContainerRecord,
        net: &NetPlan,
        netns: Option<PathBuf>,
    ) -> Result<Namespaces> {
        let host = &record.host_config;
        let net = match (net, netns) {
            (NetPlan::Join(path), _) => Namespace::Path(path.clone()),
            (NetPlan::Sandbox(_) | NetPlan::Kept(_), Some(path)) => Namespace::Path(path),
            _ => Namespace::Host,
        };
        let pid = match host.pid_mode.as_deref().unwrap_or_default() {
            "host" => Namespace::Host,
            mode => match container_mode(mode) {
                Some(other) => Namespace::Path(self.joined(other, "pid")?),
                None => Namespace::Private,
            },
        };
        let uts = match host.uts_mode.as_deref() {
            Some("host") => Namespace::Host,
            _ => Namespace::Private,
        };
        let cgroup = match host.cgroupns_mode {
            Some(HostConfigCgroupnsModeEnum::HOST) => Namespace::Host,
            _ => Namespace::Private,
        };
        Ok(Namespaces { pid, ipc: self.ipc(record)?, uts, net, cgroup })
    }

    fn ipc(&self, record: &ContainerRecord) -> Result<Ipc> {
        let data_root = &self.inner.config.data_root;
        Ok(match record.host_config.ipc_mode.as_deref().unwrap_or_default() {
            "none" => Ipc::None,
            "host" => Ipc::Host,
            "shareable" => Ipc::Shareable { shm: shm_path(&record.data_dir(data_root)) },
            mode => match container_mode(mode) {
                None => Ipc::Private,
                Some(other) => {
                    let namespace = self.joined(other, "ipc")?;
                    let other = self.container(other)?.record();
                    if !shares_shm(&other.host_config) {
                        return Err(EngineError::Conflict(format!(
                            "non-shareable IPC (hint: use IpcMode:shareable for the donor \
                             container): {}",
                            other.id
                        )));
                    }
                    Ipc::Join { namespace, shm: shm_path(&other.data_dir(data_root)) }
                }
            },
        })
    }

    fn joined(&self, other: &str, kind: &str) -> Result<PathBuf> {
        let other = self.container(other)?;
        self.joined_namespace(other.id(), kind)
    }

    /// The OCI runtime that a name or a path stands for.
    ///
    /// # Errors
    /// `unknown or invalid runtime name`.
    pub fn oci_runtime(&self, name: &str) -> Result<OciRuntime> {
        find_runtime(name, &self.inner.config)
    }
}

/// The OCI runtime that a name or a path stands for; the default one for none.
pub(crate) fn find_runtime(name: &str, config: &EngineConfig) -> Result<OciRuntime> {
    let name = match (name, &config.default_runtime) {
        ("", Some(default)) => default.as_str(),
        _ => name,
    };
    if BUILTIN.contains(&name) {
        return Ok(OciRuntime::Builtin);
    }
    if let Some(path) = config.runtimes.get(name) {
        return Ok(OciRuntime::External(path.clone()));
    }
    let path = Path::new(name);
    let found = if path.is_absolute() {
        Some(path.to_owned())
    } else if !name.contains('/') {
        let search = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&search).map(|dir| dir.join(name)).find(|p| p.is_file())
    } else {
        None
    };
    match found.filter(|p| p.is_file()) {
        Some(path) => Ok(OciRuntime::External(path)),
        None => Err(EngineError::Invalid(format!("unknown or invalid runtime name: {name}"))),
    }
}
