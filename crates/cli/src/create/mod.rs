//! The options of `run` and `create`, and the API body that they mean.
//!
//! Be aware:
//! - The body is built as JSON in the API's own names: what docker's command
//!   sends for the same words, so that one daemon serves both alike.
//! - Nothing is parsed and dropped: an option stands here only when it
//!   reaches the daemon.

mod body;
mod mounts;
mod ports;

pub use body::{body, environment_of, limits, pairs, restart_policy};
pub use ports::Ports;

use std::path::PathBuf;

use clap::Args;

/// What `run` and `create` have in common.
#[derive(Debug, Default, Args)]
pub struct CreateFlags {
    /// Name the container
    #[arg(long)]
    pub name: Option<String>,
    /// Write the container's id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Pull the image: always, missing or never
    #[arg(long, default_value = "missing", value_parser = ["always", "missing", "never"])]
    pub pull: String,
    /// Say nothing while pulling
    #[arg(short, long)]
    pub quiet: bool,
    /// The platform of the image: os/arch[/variant]
    #[arg(long, env = "DOCKER_DEFAULT_PLATFORM")]
    pub platform: Option<String>,

    /// Set an environment variable: NAME=VALUE, or NAME to take it over
    #[arg(short, long = "env", value_name = "VARIABLE", help_heading = "Process")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long = "env-file", value_name = "FILE", help_heading = "Process")]
    pub env_file: Vec<PathBuf>,
    /// The working directory
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub workdir: Option<String>,
    /// The user: NAME|UID[:GROUP|GID]
    #[arg(short, long, help_heading = "Process")]
    pub user: Option<String>,
    /// Join a further group
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub group_add: Vec<String>,
    /// Replace the image's entrypoint
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub entrypoint: Option<String>,
    /// Give the container a terminal
    #[arg(short, long, help_heading = "Process")]
    pub tty: bool,
    /// Keep standard input open
    #[arg(short, long, help_heading = "Process")]
    pub interactive: bool,
    /// Attach to stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM", help_heading = "Process")]
    pub attach: Vec<String>,
    /// Run an init process that reaps and passes signals on
    #[arg(long, help_heading = "Process")]
    pub init: bool,
    /// The signal that stops the container
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    pub stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL
    #[arg(long, value_name = "SECONDS", help_heading = "Process")]
    pub stop_timeout: Option<i64>,
    /// Restart policy: no, always, unless-stopped, on-failure[:MAX]
    #[arg(long, value_name = "POLICY", help_heading = "Process")]
    pub restart: Option<String>,
    /// Remove the container when it exits
    #[arg(long, help_heading = "Process")]
    pub rm: bool,
    /// The OCI runtime
    #[arg(long, help_heading = "Process")]
    pub runtime: Option<String>,

    /// Set metadata: KEY[=VALUE]
    #[arg(short, long, help_heading = "Identity")]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub label_file: Vec<PathBuf>,
    /// Set OCI annotations: KEY=VALUE
    #[arg(long, help_heading = "Identity")]
    pub annotation: Vec<String>,
    /// The hostname
    #[arg(short = 'h', long, help_heading = "Identity")]
    pub hostname: Option<String>,
    /// The NIS domain name
    #[arg(long, help_heading = "Identity")]
    pub domainname: Option<String>,

    #[command(flatten)]
    pub storage: StorageFlags,
    #[command(flatten)]
    pub network: NetworkFlags,
    #[command(flatten)]
    pub security: SecurityFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub health: HealthFlags,
    /// The log driver
    #[arg(long, value_name = "DRIVER", help_heading = "Logs")]
    pub log_driver: Option<String>,
    /// An option of the log driver: KEY=VALUE
    #[arg(long = "log-opt", value_name = "OPTION", help_heading = "Logs")]
    pub log_opt: Vec<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
}

/// Files.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Files")]
pub struct StorageFlags {
    /// Mount a volume or a directory: [SOURCE:]TARGET[:OPTIONS]
    #[arg(short, long, value_name = "VOLUME")]
    pub volume: Vec<String>,
    /// Mount something: type=bind|volume|tmpfs,src=…,dst=…
    #[arg(long)]
    pub mount: Vec<String>,
    /// Mount the volumes of another container: NAME[:ro]
    #[arg(long, value_name = "CONTAINER")]
    pub volumes_from: Vec<String>,
    /// The driver of volumes that are made
    #[arg(long, value_name = "DRIVER")]
    pub volume_driver: Option<String>,
    /// Mount a file system in memory: TARGET[:OPTIONS]
    #[arg(long)]
    pub tmpfs: Vec<String>,
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// The size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// An option of the storage driver: KEY=VALUE
    #[arg(long, value_name = "OPTION")]
    pub storage_opt: Vec<String>,
}

/// Networks, names, ports.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkFlags {
    /// Connect to a network (may be repeated)
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK")]
    pub networks: Vec<String>,
    /// A further name on the network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// Publish a port: [ADDRESS:][HOST:]CONTAINER[/PROTOCOL]
    #[arg(short, long, value_name = "PORT")]
    pub publish: Vec<String>,
    /// Publish every exposed port to a random one
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Expose a port without publishing it
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<String>,
    /// The IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// The IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// The MAC address
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,
    /// Link to another container: NAME[:ALIAS]
    #[arg(long)]
    pub link: Vec<String>,
    /// A link-local address
    #[arg(long, value_name = "ADDRESS")]
    pub link_local_ip: Vec<String>,
    /// A name server
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// An option of the resolver
    #[arg(long = "dns-option", visible_alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// A search domain
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// A line in /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "HOST")]
    pub add_host: Vec<String>,
}

/// Privileges and namespaces.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Security")]
pub struct SecurityFlags {
    /// Give the container every privilege
    #[arg(long)]
    pub privileged: bool,
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// seccomp=FILE|unconfined, no-new-privileges …
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// A kernel parameter of the container's namespaces: KEY=VALUE
    #[arg(long, value_name = "PARAMETER")]
    pub sysctl: Vec<String>,
    /// PID namespace: host, container:NAME
    #[arg(long)]
    pub pid: Option<String>,
    /// IPC namespace: none, private, shareable, host, container:NAME
    #[arg(long)]
    pub ipc: Option<String>,
    /// UTS namespace: host
    #[arg(long)]
    pub uts: Option<String>,
    /// Cgroup namespace: host, private
    #[arg(long, value_parser = ["host", "private"])]
    pub cgroupns: Option<String>,
    /// User namespace: host
    #[arg(long)]
    pub userns: Option<String>,
    /// The cgroup above the container's
    #[arg(long, value_name = "CGROUP")]
    pub cgroup_parent: Option<String>,
    /// A device: HOST[:CONTAINER[:rwm]]
    #[arg(long)]
    pub device: Vec<String>,
    /// A rule for devices: 'c 42:* rmw'
    #[arg(long, value_name = "RULE")]
    pub device_cgroup_rule: Vec<String>,
}

/// Limits.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitFlags {
    /// Memory, as 64m
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Memory that is kept when the host runs short
    #[arg(long, value_name = "SIZE")]
    pub memory_reservation: Option<String>,
    /// How readily memory is swapped out: 0 to 100
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub memory_swappiness: Option<i64>,
    /// Processors, as 1.5
    #[arg(long)]
    pub cpus: Option<String>,
    /// Relative weight of processor time
    #[arg(short, long, value_name = "N")]
    pub cpu_shares: Option<i64>,
    /// Microseconds of a period of the scheduler
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<i64>,
    /// Microseconds of processor time in a period
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// The processors to run on: 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// The memory nodes to use: 0-1
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Relative weight of block I/O: 10 to 1000
    #[arg(long, value_name = "N")]
    pub blkio_weight: Option<u16>,
    /// The weight for a device: PATH:N
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight_device: Vec<String>,
    /// Bytes read from a device a second: PATH:SIZE
    #[arg(long, value_name = "LIMIT")]
    pub device_read_bps: Vec<String>,
    /// Bytes written to a device a second: PATH:SIZE
    #[arg(long, value_name = "LIMIT")]
    pub device_write_bps: Vec<String>,
    /// Reads from a device a second: PATH:N
    #[arg(long, value_name = "LIMIT")]
    pub device_read_iops: Vec<String>,
    /// Writes to a device a second: PATH:N
    #[arg(long, value_name = "LIMIT")]
    pub device_write_iops: Vec<String>,
    /// A limit of the process: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Let processes wait instead of killing them when memory runs out
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// How readily the kernel kills the container: -1000 to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i64>,
}

/// Health checks.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Health")]
pub struct HealthFlags {
    /// The command that checks the container's health
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between checks, as 30s
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// How long a check may take
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// How long the container may take to come up
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<String>,
    /// Time between checks while it comes up
    #[arg(long, value_name = "DURATION")]
    pub health_start_interval: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N")]
    pub health_retries: Option<i64>,
    /// Switch the image's health check off
    #[arg(long)]
    pub no_healthcheck: bool,
}
