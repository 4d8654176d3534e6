//! The daemon and its host: info, version, disk usage.

use std::fs;
use std::path::Path;

use nix::sys::utsname::uname;
use sampan_plugin::PluginKind;
use sampan_runtime::cgroup::CgroupVersion;
use sampan_sys::file;
use sampan_types::Timestamp;
use serde_json::{Map, Value, json};

use crate::container_view::ListOptions;
use crate::record::Status;
use crate::{Engine, EngineError, Result};

/// The newest version of the Engine API that is spoken.
pub const API_VERSION: &str = "1.53";
/// The oldest.
pub const MIN_API_VERSION: &str = "1.24";

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Engine {
    /// Drivers by name: the built-in ones, then plugins that were asked so far.
    fn drivers(&self, built_in: &[&str], kind: PluginKind) -> Vec<String> {
        let built_in = built_in.iter().map(|d| (*d).to_owned());
        built_in.chain(self.plugins().driving(kind)).collect()
    }

    /// `GET /info`.
    pub async fn system_info(&self) -> Value {
        let root = self.config().data_root.clone();
        let id = self
            .blocking(move || {
                instance_id(&root).map_err(|e| EngineError::io("read", "engine-id", e))
            })
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "the engine has no id");
                String::new()
            });
        let mut out = self.host_info();
        for part in [self.daemon_info(&id), self.counts()] {
            out.extend(part);
        }
        Value::Object(out)
    }

    fn counts(&self) -> Map<String, Value> {
        let (mut running, mut paused, mut stopped) = (0, 0, 0);
        for container in self.containers() {
            match container.record().state.status {
                Status::Running | Status::Restarting => running += 1,
                Status::Paused => paused += 1,
                _ => stopped += 1,
            }
        }
        object(json!({
            "Containers": running + paused + stopped,
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": stopped,
            "Images": self.image_store().list().len(),
            "NEventsListener": self.event_bus().listeners(),
            "NGoroutines": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            "NFd": fs::read_dir("/proc/self/fd").map_or(-1, |d| i64::try_from(d.count()).unwrap_or(-1)),
            "SystemTime": Timestamp::now().to_string(),
        }))
    }

    fn host_info(&self) -> Map<String, Value> {
        let facts = self.host_facts();
        let cgroup = &facts.cgroup;
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let version = if cgroup.version == CgroupVersion::V2 { "2" } else { "1" };
        let mut security = Vec::new();
        if facts.seccomp {
            security.push("name=seccomp,profile=builtin");
        }
        if Path::new("/proc/self/ns/cgroup").exists() {
            security.push("name=cgroupns");
        }
        let mut warnings = Vec::new();
        for (supported, what) in [
            (cgroup.memory, "memory limit"),
            (cgroup.swap, "swap limit"),
            (cgroup.cpu, "cpu cfs quota"),
            (cgroup.cpuset, "cpuset"),
            (cgroup.pids, "pids limit"),
        ] {
            if !supported {
                warnings.push(format!("WARNING: No {what} support"));
            }
        }
        object(json!({
            "MemoryLimit": cgroup.memory,
            "SwapLimit": cgroup.swap,
            "CpuCfsPeriod": cgroup.cpu,
            "CpuCfsQuota": cgroup.cpu,
            "CPUShares": cgroup.cpu,
            "CPUSet": cgroup.cpuset,
            "PidsLimit": cgroup.pids,
            "OomKillDisable": cgroup.oom_kill_disable,
            "IPv4Forwarding": flag_file("/proc/sys/net/ipv4/ip_forward"),
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": version,
            "KernelVersion": kernel(),
            "OperatingSystem": os_release(&release, "PRETTY_NAME"),
            "OSVersion": os_release(&release, "VERSION_ID"),
            "OSType": "linux",
            "Architecture": std::env::consts::ARCH,
            "NCPU": facts.cpus.len(),
            "MemTotal": facts.memory_total,
            "SecurityOptions": security,
            "Warnings": crate::container_view::null_if_empty(&warnings),
        }))
    }

    fn daemon_info(&self, id: &str) -> Map<String, Value> {
        let config = self.config();
        let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let mut runtimes = Map::new();
        runtimes.insert("sampan".to_owned(), json!({ "path": config.program.to_string_lossy() }));
        for (name, path) in &config.runtimes {
            runtimes.insert(name.clone(), json!({ "path": path.to_string_lossy() }));
        }
        let pools: Vec<Value> = config
            .address_pools
            .iter()
            .map(|(base, size)| json!({ "Base": base, "Size": size }))
            .collect();
        let mut out = object(json!({
            "ID": id,
            "Name": config.node_name.clone().unwrap_or_else(|| hostname.trim().to_owned()),
            "ServerVersion": VERSION,
            "Driver": "overlay2",
            "DriverStatus": [
                ["Backing Filesystem", backing(&config.data_root)],
                ["Supports d_type", "true"],
                ["Using metacopy", "false"],
                ["Native Overlay Diff", "true"],
                ["userxattr", "false"],
            ],
            "DockerRootDir": config.data_root.to_string_lossy(),
            "Plugins": {
                "Volume": self.drivers(&["local"], PluginKind::Volume),
                "Network": self.drivers(
                    &["bridge", "cni", "host", "ipvlan", "macvlan", "null"],
                    PluginKind::Network,
                ),
                "Authorization": null,
                "Log": ["json-file", "local", "none", "syslog"],
            },
            "Debug": config.debug,
            "LoggingDriver": config.log.driver,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": registry_config(&config.insecure_registries, &config.registry_mirrors),
            "GenericResources": null,
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Labels": config.labels,
            "ExperimentalBuild": config.experimental,
        }));
        out.extend(object(json!({
            "Runtimes": runtimes,
            "DefaultRuntime": config.default_runtime.as_deref().unwrap_or("sampan"),
            "Swarm": swarm(),
            "LiveRestoreEnabled": true,
            "Isolation": "",
            "InitBinary": config.init_path.as_ref().map_or("sampan".into(), |p| p.to_string_lossy()),
            "ContainerdCommit": { "ID": "" },
            "RuncCommit": { "ID": "" },
            "InitCommit": { "ID": "" },
            "ProductLicense": "Apache-2.0",
            "DefaultAddressPools": pools,
            "FirewallBackend": { "Driver": "nftables" },
            "CDISpecDirs": [],
        })));
        out
    }

    /// `GET /version`.
    #[must_use]
    pub fn version(&self) -> Value {
        let details = json!({
            "ApiVersion": API_VERSION,
            "Arch": go_arch(),
            "BuildTime": "",
            "Experimental": self.config().experimental.to_string(),
            "GitCommit": "",
            "GoVersion": "",
            "KernelVersion": kernel(),
            "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
        });
        json!({
            "Platform": { "Name": "Sampan" },
            "Components": [{ "Name": "Engine", "Version": VERSION, "Details": details }],
            "Version": VERSION,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": go_arch(),
            "KernelVersion": kernel(),
            "BuildTime": "",
        })
    }

    /// `GET /system/df`; `types` of `container`, `image`, `volume`,
    /// `build-cache`, empty for all.
    ///
    /// # Errors
    /// An unknown type; those of the file system.
    pub async fn system_df(&self, types: &[String]) -> Result<Value> {
        let known = ["container", "image", "volume", "build-cache"];
        if let Some(other) = types.iter().find(|t| !known.contains(&t.as_str())) {
            return Err(EngineError::Invalid(format!("unknown object type: {other}")));
        }
        let wanted = |kind: &str| types.is_empty() || types.iter().any(|t| t == kind);
        let mut out = Map::new();
        if wanted("image") {
            out.insert("LayersSize".to_owned(), json!(self.image_store().layers_size()));
            out.insert("Images".to_owned(), json!(self.images_with_usage()));
        }
        if wanted("container") {
            let all = ListOptions { all: true, size: true, ..ListOptions::default() };
            out.insert("Containers".to_owned(), json!(self.container_list(all).await?));
        }
        if wanted("volume") {
            out.insert("Volumes".to_owned(), json!(self.volumes_with_usage().await?));
        }
        if wanted("build-cache") {
            out.insert("BuildCache".to_owned(), json!([]));
            out.insert("BuilderSize".to_owned(), json!(0));
        }
        Ok(Value::Object(out))
    }

    /// The headers of `GET /_ping`, besides those of every answer.
    #[must_use]
    pub fn ping_headers(&self) -> Vec<(&'static str, String)> {
        vec![
            // 1: this engine has no BuildKit.
            ("Builder-Version", "1".to_owned()),
            ("Docker-Experimental", self.config().experimental.to_string()),
            ("Swarm", "inactive".to_owned()),
        ]
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The id of this engine: made once, kept below the data root.
fn instance_id(data_root: &Path) -> std::io::Result<String> {
    let path = data_root.join("engine-id");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    file::write_atomic(&path, id.as_bytes(), 0o644)?;
    Ok(id.trim().to_owned())
}

fn kernel() -> String {
    uname().map_or_else(|_| String::new(), |u| u.release().to_string_lossy().into_owned())
}

/// The architecture in Go's words.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn flag_file(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|t| t.trim() == "1")
}

/// A value of os-release(5), without its quotes.
fn os_release(text: &str, key: &str) -> String {
    let value = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

/// The type of the file system that holds a directory.
fn backing(path: &Path) -> String {
    let mounts = sampan_sys::mount::list().unwrap_or_default();
    let holder = mounts
        .iter()
        .filter(|m| path.starts_with(&m.target))
        .max_by_key(|m| m.target.components().count());
    holder.map(|m| m.fs_type.clone()).unwrap_or_default()
}

fn swarm() -> Value {
    json!({
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": "inactive",
        "ControlAvailable": false,
        "Error": "",
        "RemoteManagers": null,
    })
}

fn registry_config(insecure: &[String], mirrors: &[String]) -> Value {
    let (networks, hosts): (Vec<&String>, Vec<&String>) =
        insecure.iter().partition(|i| i.parse::<ipnet::IpNet>().is_ok());
    let mut networks: Vec<&str> = networks.into_iter().map(String::as_str).collect();
    networks.extend(["::1/128", "127.0.0.0/8"]);
    let mut indexes = Map::new();
    indexes.insert(
        "docker.io".to_owned(),
        json!({ "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true }),
    );
    for host in hosts {
        indexes.insert(
            host.clone(),
            json!({ "Name": host, "Mirrors": [], "Secure": false, "Official": false }),
        );
    }
    json!({
        "InsecureRegistryCIDRs": networks,
        "IndexConfigs": indexes,
        "Mirrors": crate::container_view::null_if_empty(mirrors),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instances_id_stays() {
        let dir = tempfile::tempdir().unwrap();
        let id = instance_id(dir.path()).unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(instance_id(dir.path()).unwrap(), id);
    }

    #[test]
    fn os_release_is_read() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID='12'\n";
        assert_eq!(os_release(text, "PRETTY_NAME"), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(os_release(text, "VERSION_ID"), "12");
        assert_eq!(os_release(text, "ID"), "");
    }

    #[test]
    fn registries_are_shown() {
        let insecure = ["10.0.0.0/8".to_owned(), "r:5000".to_owned()];
        let out = registry_config(&insecure, &[]);
        assert_eq!(out["InsecureRegistryCIDRs"][0], "10.0.0.0/8");
        assert_eq!(out["IndexConfigs"]["r:5000"]["Secure"], false);
        assert_eq!(out["Mirrors"], Value::Null);
    }
}
