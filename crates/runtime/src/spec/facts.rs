//! What the machine can do: read once when the daemon starts.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use crate::cgroup::{CgroupHost, CgroupVersion};

/// What the kernel offers of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupFacts {
    /// v1, hybrid or v2.
    pub version: CgroupVersion,
    /// Where the hierarchies are mounted: `/sys/fs/cgroup`.
    pub root: PathBuf,
    /// v1 and hybrid: name of the directory below `root` and path of each
    /// hierarchy (`memory`, `cpu,cpuacct`, `systemd`, `unified` …).
    pub hierarchies: Vec<(String, PathBuf)>,
    /// The memory controller.
    pub memory: bool,
    /// Limits on swap.
    pub swap: bool,
    /// `memory.oom_control` (v1).
    pub oom_kill_disable: bool,
    /// `memory.swappiness` (v1).
    pub swappiness: bool,
    /// The cpu controller with CFS quota.
    pub cpu: bool,
    /// The cpuset controller.
    pub cpuset: bool,
    /// The pids controller.
    pub pids: bool,
    /// The blkio (v2: io) controller.
    pub blkio: bool,
    /// Weights of the block scheduler.
    pub blkio_weight: bool,
}

/// What the machine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// cgroups.
    pub cgroup: CgroupFacts,
    /// CPUs that are online.
    pub cpus: BTreeSet<u32>,
    /// Memory nodes that are online.
    pub mems: BTreeSet<u32>,
    /// Bytes of memory.
    pub memory_total: u64,
    /// The kernel's version: major, minor.
    pub kernel: (u32, u32),
    /// Whether seccomp filters work.
    pub seccomp: bool,
    /// Whether SELinux is enabled.
    pub selinux: bool,
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
}

impl HostFacts {
    /// Reads `/proc` and `/sys`.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn detect(cgroups: &CgroupHost) -> io::Result<Self> {
        let _ = cgroups;
        todo!()
    }
}
