//! The daemon's settings: dockerd's flags and the keys of daemon.json, in one
//! structure.
//!
//! Be aware:
//! - A setting given both as a flag and in the file is refused, as dockerd
//!   does, so that nobody wonders which of them holds.
//! - What dockerd has and Sampan doesn't is not in here: the flag or key is
//!   then refused by name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::from_file;

/// The file that is read when no other is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/sampan/daemon.json";

/// Names of the settings in daemon.json are those of the flags, in the plural
/// where they are lists, as dockerd has them.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen: unix://PATH, tcp://ADDRESS:PORT (may be repeated)
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub hosts: Vec<String>,
    /// Where images, containers and volumes are kept [default: /var/lib/sampan]
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Where the state of running containers is kept [default: /run/sampan]
    #[arg(long, value_name = "DIR")]
    pub exec_root: Option<PathBuf>,
    /// Write the daemon's process id to this file
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// The group that owns unix sockets, as name or number [default: docker, when it exists]
    #[arg(short = 'G', long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Log more
    #[arg(short = 'D', long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub debug: Option<bool>,
    /// debug, info, warn or error [default: info]
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Serve metrics for Prometheus at this address and port
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_addr: Option<String>,
    /// Use TLS with client certificates; with =false, serve TCP to anybody who can reach it
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tls: Option<bool>,
    /// The same as --tls: clients are always asked for a certificate
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tlsverify: Option<bool>,
    /// Trust client certificates signed by this authority
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// The daemon's certificate
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// The daemon's private key
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// The default bridge's interface; "none" for no default bridge
    #[arg(short = 'b', long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// The default bridge's address, as CIDR [default: 172.17.0.1/16]
    #[arg(long, value_name = "CIDR")]
    pub bip: Option<String>,
    /// The part of the default bridge's subnet that containers get addresses from
    #[arg(long, value_name = "CIDR")]
    pub fixed_cidr: Option<String>,
    /// Whether containers of the default bridge have IPv6 addresses as well
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ipv6: Option<bool>,
    /// The default bridge's IPv6 address, as CIDR [default: of fixed-cidr-v6, or a unique local one]
    #[arg(long, value_name = "CIDR")]
    pub bip6: Option<String>,
    /// The IPv6 subnet of the default bridge; with --bip6, the part of it that containers get
    /// addresses from
    #[arg(long, value_name = "CIDR")]
    pub fixed_cidr_v6: Option<String>,
    /// The containers' gateway: always the bridge's own address, which --bip sets
    #[arg(long, value_name = "IP")]
    pub default_gateway: Option<String>,
    /// Where new networks take their subnets from: base=CIDR,size=BITS (may be repeated)
    #[arg(long = "default-address-pool", value_name = "POOL")]
    #[serde(deserialize_with = "from_file::address_pools")]
    pub default_address_pools: Vec<String>,
    /// Whether containers of the default bridge reach each other
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub icc: Option<bool>,
    /// Whether containers leave with the host's address
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ip_masq: Option<bool>,
    /// Whether containers on one network reach each other past the bridge, where the kernel can
    /// [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub network_redirect: Option<bool>,
    /// Whether the host's own programs reach published ports of containers without IPv6 by ::1,
    /// where the kernel can [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub host_ipv6_ports: Option<bool>,
    /// Let published ports obey what the host's own firewall lets into the host [default: false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub respect_host_firewall: Option<bool>,
    /// Where network and IPAM plugins are looked for before Docker's directories (may be repeated)
    #[arg(long = "plugin-dir", value_name = "DIR")]
    pub plugin_dirs: Vec<PathBuf>,
    /// Where CNI plugins are looked for before the usual directories (may be repeated)
    #[arg(long = "cni-path", value_name = "DIR")]
    pub cni_paths: Vec<PathBuf>,
    /// The host address of published ports that name none [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// The MTU of the default bridge, in bytes
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Name server for containers (may be repeated)
    #[arg(long, value_name = "IP")]
    pub dns: Vec<String>,
    /// Option for the resolv.conf of containers (may be repeated)
    #[arg(long = "dns-opt", value_name = "OPTION")]
    pub dns_opts: Vec<String>,
    /// Search domain for containers (may be repeated)
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// The log driver of containers: json-file, local, syslog, none [default: json-file]
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Option of the log driver: KEY=VALUE (may be repeated)
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    #[serde(deserialize_with = "from_file::pairs")]
    pub log_opts: Vec<String>,
    /// Registry that may be spoken to without TLS: HOST:PORT or CIDR (may be repeated)
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    pub insecure_registries: Vec<String>,
    /// Mirror of Docker Hub (may be repeated)
    #[arg(long = "registry-mirror", value_name = "URL")]
    pub registry_mirrors: Vec<String>,
    /// Layers downloaded at once [default: 3]
    #[arg(long, value_name = "N")]
    pub max_concurrent_downloads: Option<usize>,
    /// Layers uploaded at once [default: 5]
    #[arg(long, value_name = "N")]
    pub max_concurrent_uploads: Option<usize>,
    /// Size of /dev/shm, as 64m [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub default_shm_size: Option<String>,
    /// Limit for containers: NAME=SOFT[:HARD] (may be repeated)
    #[arg(long = "default-ulimit", value_name = "LIMIT")]
    #[serde(deserialize_with = "from_file::ulimits")]
    pub default_ulimits: Vec<String>,
    /// Run an init process in every container
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub init: Option<bool>,
    /// That init process, a static program [default: Sampan's own]
    #[arg(long, value_name = "FILE")]
    pub init_path: Option<PathBuf>,
    /// OCI runtime: NAME=PATH (may be repeated)
    #[arg(long = "add-runtime", value_name = "NAME=PATH")]
    #[serde(deserialize_with = "from_file::runtimes")]
    pub runtimes: Vec<String>,
    /// The runtime of containers that name none [default: the built-in one]
    #[arg(long, value_name = "NAME")]
    pub default_runtime: Option<String>,
    /// Refuse binds whose source does not exist, instead of making a directory
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub strict_binds: Option<bool>,
    /// The cgroup under which containers live [default: one per --exec-root]
    #[arg(long, value_name = "CGROUP")]
    pub cgroup_parent: Option<String>,
    /// Label of the daemon: KEY=VALUE (may be repeated)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// How the daemon calls this node [default: the hostname]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where desired state is kept: redb [default: redb]
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// The storage driver: overlay2 [default: overlay2]
    #[arg(short = 's', long, value_name = "DRIVER")]
    pub storage_driver: Option<String>,
    /// Containers keep running without the daemon; always so
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub live_restore: Option<bool>,
    /// Published ports never need a proxy process; only false is accepted
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub userland_proxy: Option<bool>,
    /// Seconds that the daemon waits for its requests at its end [default: 15]
    #[arg(long, value_name = "SECONDS")]
    pub shutdown_timeout: Option<u32>,
}

impl Settings {
    /// Joins the flags with the file at `path`, or with the default file when
    /// it exists.
    pub fn with_file(self, path: Option<&Path>) -> Result<Self> {
        let (path, must_exist) = path.map_or((Path::new(DEFAULT_FILE), false), |p| (p, true));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(self),
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("read the configuration {}", path.display()));
            }
        };
        self.merge(&text)
            .with_context(|| format!("configure the daemon with file {}", path.display()))
    }

    fn merge(self, text: &str) -> Result<Self> {
        if text.trim().is_empty() {
            return Ok(self);
        }
        let keys: Map<String, Value> = serde_json::from_str(text)?;
        let known = serde_json::to_value(Self::default())?;
        let strange: Vec<&str> =
            keys.keys().filter(|k| known.get(k).is_none()).map(String::as_str).collect();
        if !strange.is_empty() {
            bail!(
                "the settings {} are not supported; `sampan daemon --help` lists those that are",
                strange.join(", ")
            );
        }
        // Read once as the structure, so that errors name line and key, and
        // lists take one form.
        let file: Self = serde_json::from_str(text)?;
        let (flags, file) = (given(&self)?, given(&file)?);
        let twice: Vec<&str> =
            flags.keys().filter(|k| file.contains_key(*k)).map(String::as_str).collect();
        if !twice.is_empty() {
            bail!("specified both as a flag and in the file: {}", twice.join(", "));
        }
        let merged: Map<String, Value> = flags.into_iter().chain(file).collect();
        Ok(serde_json::from_value(Value::Object(merged))?)
    }
}

/// The settings that were given, by their names in the file.
fn given(settings: &Settings) -> Result<Map<String, Value>> {
    let Value::Object(map) = serde_json::to_value(settings)? else { bail!("not an object") };
    let is_given = |v: &Value| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty());
    Ok(map.into_iter().filter(|(_, v)| is_given(v)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_flags_join() {
        let flags = Settings { debug: Some(true), ..Settings::default() };
        let file = r#"{"bip":"10.9.0.1/24","log-opts":{"max-size":"5m"},"hosts":["unix:///x"],
            "default-address-pools":[{"base":"10.0.0.0/8","size":24}],
            "runtimes":{"crun":{"path":"/usr/bin/crun"}},
            "default-ulimits":{"nofile":{"Name":"nofile","Hard":64000,"Soft":100}}}"#;
        let merged = flags.merge(file).unwrap();
        assert_eq!(merged.debug, Some(true));
        assert_eq!(merged.bip.as_deref(), Some("10.9.0.1/24"));
        assert_eq!(merged.log_opts, ["max-size=5m"]);
        assert_eq!(merged.default_address_pools, ["base=10.0.0.0/8,size=24"]);
        assert_eq!(merged.runtimes, ["crun=/usr/bin/crun"]);
        assert_eq!(merged.default_ulimits, ["nofile=100:64000"]);
    }

    #[test]
    fn twice_given_and_unknown_are_refused_by_name() {
        let flags = Settings { bip: Some("10.0.0.1/8".to_owned()), ..Settings::default() };
        let error = flags.merge(r#"{"bip":"10.9.0.1/24"}"#).unwrap_err();
        assert!(error.to_string().contains("bip"));
        let error = Settings::default().merge(r#"{"userns-remap":"x","a":1}"#).unwrap_err();
        assert!(
            error.to_string().contains("userns-remap, a")
                || error.to_string().contains("a, userns-remap")
        );
    }
}
