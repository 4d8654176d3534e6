//! What the daemon says about a container or an exec when it asks for one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use sampan_types::{ContainerId, ExecId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::logs::LogSetup;

/// Where an instance keeps its things and what it runs.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The program that is run as `PROGRAM shim`: the engine's own binary.
    pub program: PathBuf,
    /// The directory of what outlives a reboot.
    pub data_root: PathBuf,
    /// The directory of what a reboot discards.
    pub exec_root: PathBuf,
    /// The cgroup below which containers get theirs, with a leading slash.
    pub cgroup_parent: String,
    /// External OCI runtimes by name.
    pub runtimes: BTreeMap<String, PathBuf>,
}

/// The program that makes the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OciRuntime {
    /// libcontainer, in the shim.
    #[default]
    Builtin,
    /// An OCI runtime's command line: crun, runc …
    External(PathBuf),
}

/// A process's standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IoConfig {
    /// It gets a terminal; its output is one stream then.
    pub tty: bool,
    /// It has a standard input; `/dev/null` otherwise.
    pub open_stdin: bool,
    /// Its standard input ends when the first client attached to it ends its
    /// own or leaves. Without it the input stays open for the next client.
    pub stdin_once: bool,
    /// The terminal's first size: rows, columns.
    pub console_size: Option<(u16, u16)>,
}

/// A container to be made.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Its id.
    pub id: ContainerId,
    /// Which start of the container this is; the exit record carries it.
    pub generation: u64,
    /// What libcontainer or the OCI runtime gets. Its `root.path` is the
    /// mounted root file system; `linux.cgroupsPath` is set.
    pub spec: Spec,
    /// Its standard streams.
    pub io: IoConfig,
    /// Where its output is logged.
    pub log: LogSetup,
    /// Who makes it.
    pub runtime: OciRuntime,
}

/// A further process to be run in a running container.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// Its id.
    pub id: ExecId,
    /// Program, environment, user, capabilities.
    pub process: Process,
    /// Its standard streams.
    pub io: IoConfig,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Its exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// When.
    pub finished: Timestamp,
    /// The kernel killed a process of the container because its memory limit
    /// was reached.
    pub oom_killed: bool,
    /// Which start of the container this was.
    pub generation: u64,
    /// Why the code is not the process's own: `shim died`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
