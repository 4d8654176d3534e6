//! What the daemon tells the engine at start. Parsing flags and files is the
//! binary's business; everything here is already checked text and paths.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The default bridge network, `docker0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// The interface's name.
    pub name: String,
    /// `--bip`: the bridge's own address with the length of its network.
    pub address: Option<Ipv4Net>,
    /// `--fixed-cidr`: the part of the network that containers get addresses from.
    pub fixed_cidr: Option<Ipv4Net>,
    /// `--ipv6`: whether containers of the default bridge have IPv6 addresses.
    pub ipv6: bool,
    /// `--bip6`: the bridge's own IPv6 address with the length of its network.
    pub address6: Option<Ipv6Net>,
    /// `--fixed-cidr-v6`: the part of the IPv6 network that containers get
    /// addresses from; the network itself when nothing else says what it is.
    pub fixed_cidr6: Option<Ipv6Net>,
    /// `--default-gateway`: where containers route to, when not the bridge.
    pub gateway: Option<IpAddr>,
    /// The interfaces' MTU; `None`: the kernel's default of 1500.
    pub mtu: Option<u32>,
    /// `--icc`: whether containers of the default bridge reach each other.
    pub icc: bool,
    /// `--ip-masq`: whether containers leave with the host's address.
    pub ip_masq: bool,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            name: "docker0".to_owned(),
            address: None,
            fixed_cidr: None,
            ipv6: false,
            address6: None,
            fixed_cidr6: None,
            gateway: None,
            mtu: None,
            icc: true,
            ip_masq: true,
        }
    }
}

/// What containers log with unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDefaults {
    /// `--log-driver`.
    pub driver: String,
    /// `--log-opt`.
    pub options: BTreeMap<String, String>,
}

impl Default for LogDefaults {
    /// `json-file` with three files of 20 MB: a log never fills the disk.
    fn default() -> Self {
        let options = [("max-size", "20m"), ("max-file", "3")];
        Self {
            driver: "json-file".to_owned(),
            options: options.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        }
    }
}

/// The engine's configuration.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// `--data-root`: what survives a reboot.
    pub data_root: PathBuf,
    /// `--exec-root`: sockets, bundles, namespaces; gone with a reboot.
    pub exec_root: PathBuf,
    /// The sampan binary, started as `PROGRAM shim …`.
    pub program: PathBuf,
    /// The name of this instance: `sampan`, or `sampan-<hash of exec-root>`.
    pub instance: String,
    /// The cgroup under which this instance's containers live: `/sampan…`.
    pub cgroup_parent: String,
    /// `--add-runtime`: further OCI runtimes by name.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// `--default-runtime`: `None` is the built-in one.
    pub default_runtime: Option<String>,
    /// `--strict-binds`: whether a bind whose source does not exist is refused
    /// although it was asked to be made.
    pub strict_binds: bool,
    /// The default bridge; `None` with `--bridge=none`.
    pub bridge: Option<BridgeConfig>,
    /// `--network-redirect`: whether containers on one bridge network reach
    /// each other past the bridge.
    pub network_redirect: bool,
    /// `--host-ipv6-ports`: whether the host's own programs reach published
    /// ports by IPv6 also where packets would find no way.
    pub host_ipv6_ports: bool,
    /// `--respect-host-firewall`: whether published ports obey what the host's
    /// own firewall lets into the host.
    pub respect_host_firewall: bool,
    /// `--default-address-pool`: base networks with the length of the subnets
    /// that user-defined networks get from them.
    pub address_pools: Vec<(IpNet, u8)>,
    /// `--plugin-dir`: further directories of plugins' sockets and descriptions.
    pub plugin_dirs: Vec<PathBuf>,
    /// `--cni-path`: further directories of CNI plugins.
    pub cni_path: Vec<PathBuf>,
    /// `--ip`: the host address of ports that are published without one.
    pub publish_address: Option<IpAddr>,
    /// `--dns`.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-opt`.
    pub dns_options: Vec<String>,
    /// `--log-driver`, `--log-opt`.
    pub log: LogDefaults,
    /// `--default-shm-size`, bytes.
    pub shm_size: u64,
    /// `--default-ulimit`: name, soft and hard limit.
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--init`: an init process in every container unless it says otherwise.
    pub init: bool,
    /// `--init-path`: the init program; `None` is the sampan binary itself.
    pub init_path: Option<PathBuf>,
    /// `--shutdown-timeout`, seconds, for what waits at the daemon's end.
    pub shutdown_timeout: u32,
    /// `--label`: the daemon's own labels.
    pub labels: Vec<String>,
    /// `--insecure-registry`.
    pub insecure_registries: Vec<String>,
    /// `--registry-mirror`.
    pub registry_mirrors: Vec<String>,
    /// `--max-concurrent-downloads`.
    pub max_concurrent_downloads: usize,
    /// `--max-concurrent-uploads`.
    pub max_concurrent_uploads: usize,
    /// `--node-name`: what `info` calls this host; `None`: its hostname.
    pub node_name: Option<String>,
    /// Whether `--experimental` was given; only reported.
    pub experimental: bool,
    /// Whether `--debug` was given; only reported.
    pub debug: bool,
}

impl EngineConfig {
    /// The defaults for a pair of directories and the sampan binary.
    #[must_use]
    pub fn new(data_root: PathBuf, exec_root: PathBuf, program: PathBuf) -> Self {
        Self {
            data_root,
            exec_root,
            program,
            instance: "sampan".to_owned(),
            cgroup_parent: "/sampan".to_owned(),
            runtimes: BTreeMap::new(),
            default_runtime: None,
            bridge: Some(BridgeConfig::default()),
            network_redirect: true,
            host_ipv6_ports: true,
            strict_binds: false,
            respect_host_firewall: false,
            address_pools: Vec::new(),
            plugin_dirs: Vec::new(),
            cni_path: Vec::new(),
            publish_address: None,
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            log: LogDefaults::default(),
            shm_size: 64 << 20,
            ulimits: Vec::new(),
            init: false,
            init_path: None,
            shutdown_timeout: 15,
            labels: Vec::new(),
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            node_name: None,
            experimental: false,
            debug: false,
        }
    }
}
