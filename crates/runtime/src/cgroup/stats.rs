//! What a cgroup's processes have used, in the terms of Docker's `stats`.

use std::collections::BTreeMap;

use super::CgroupVersion;

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds in all.
    pub total: u64,
    /// Nanoseconds per CPU; empty on v2.
    pub per_cpu: Vec<u64>,
    /// Nanoseconds in the kernel.
    pub kernel: u64,
    /// Nanoseconds in user code.
    pub user: u64,
    /// Enforcement periods of the quota.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// Nanoseconds waited for the quota.
    pub throttled_time: u64,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes in use, page cache included.
    pub usage: u64,
    /// The most it was; zero on v2 before Linux 5.19.
    pub max_usage: u64,
    /// Bytes allowed; `None` without a limit.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failcnt: u64,
    /// The kernel's own counters (`memory.stat`).
    pub stats: BTreeMap<String, u64>,
}

/// Processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Processes and threads now.
    pub current: u64,
    /// How many are allowed; `None` without a limit.
    pub limit: Option<u64>,
}

/// One counter of one block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkioEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `read`, `write` … (v1 capitalises them, v2 not, as Docker shows them).
    pub op: String,
    /// The counter.
    pub value: u64,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioStats {
    /// Bytes.
    pub service_bytes: Vec<BlkioEntry>,
    /// Operations.
    pub serviced: Vec<BlkioEntry>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupStats {
    /// Decides how clients read `memory.stats`.
    pub version: CgroupVersion,
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes.
    pub pids: PidsStats,
    /// Block devices.
    pub blkio: BlkioStats,
}
