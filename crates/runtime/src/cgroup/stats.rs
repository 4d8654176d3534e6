//! What a cgroup's processes have used, in the terms of Docker's `stats`.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::{keyed, number, read};
use super::{Cgroup, CgroupError, CgroupVersion};

/// v1 writes "no limit" as the largest number of whole pages.
const V1_UNLIMITED: u64 = 1 << 60;
/// Nanoseconds of a tick of `cpuacct.stat`.
const TICK: u64 = 10_000_000;

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

impl Cgroup {
    /// What the processes have used. Files that are absent count as zero.
    ///
    /// # Errors
    /// When the cgroup does not exist.
    pub fn stats(&self) -> Result<CgroupStats, CgroupError> {
        let dir = match self.host.version {
            CgroupVersion::V2 => self.unified(),
            _ => self.host.mounts().next().map(|mount| self.below(mount)),
        };
        if let Some(dir) = &dir {
            std::fs::metadata(dir).map_err(|e| super::files::io_error("reading", dir, e))?;
        }
        match dir {
            Some(dir) if self.host.version == CgroupVersion::V2 => stats_v2(&dir),
            _ => self.stats_v1(),
        }
    }

    fn stats_v1(&self) -> Result<CgroupStats, CgroupError> {
        let or_default = |controller: &str| self.v1(controller);
        Ok(CgroupStats {
            version: self.host.version,
            cpu: cpu_v1(or_default("cpuacct").as_deref(), or_default("cpu").as_deref())?,
            memory: or_default("memory").map(|d| memory_v1(&d)).transpose()?.unwrap_or_default(),
            pids: or_default("pids").map(|d| pids(&d)).transpose()?.unwrap_or_default(),
            blkio: or_default("blkio").map(|d| blkio_v1(&d)).transpose()?.unwrap_or_default(),
        })
    }
}

fn cpu_v1(account: Option<&Path>, cpu: Option<&Path>) -> Result<CpuStats, CgroupError> {
    let mut stats = CpuStats::default();
    if let Some(dir) = account {
        stats.total = number(&dir.join("cpuacct.usage"))?.unwrap_or(0);
        stats.per_cpu = read(&dir.join("cpuacct.usage_percpu"))?
            .map(|text| text.split_whitespace().filter_map(|n| n.parse().ok()).collect())
            .unwrap_or_default();
        let ticks = keyed(&dir.join("cpuacct.stat"))?;
        let tick = |key: &str| ticks.get(key).map_or(0, |n| n.saturating_mul(TICK));
        let exact = |file: &str| number(&dir.join(file));
        stats.kernel = exact("cpuacct.usage_sys")?.unwrap_or_else(|| tick("system"));
        stats.user = exact("cpuacct.usage_user")?.unwrap_or_else(|| tick("user"));
    }
    if let Some(dir) = cpu {
        let counters = keyed(&dir.join("cpu.stat"))?;
        let get = |key: &str| counters.get(key).copied().unwrap_or(0);
        stats.periods = get("nr_periods");
        stats.throttled_periods = get("nr_throttled");
        stats.throttled_time = get("throttled_time");
    }
    Ok(stats)
}

fn memory_v1(dir: &Path) -> Result<MemoryStats, CgroupError> {
    let get = |file: &str| number(&dir.join(file));
    Ok(MemoryStats {
        usage: get("memory.usage_in_bytes")?.unwrap_or(0),
        max_usage: get("memory.max_usage_in_bytes")?.unwrap_or(0),
        limit: get("memory.limit_in_bytes")?.filter(|l| *l < V1_UNLIMITED),
        failcnt: get("memory.failcnt")?.unwrap_or(0),
        stats: keyed(&dir.join("memory.stat"))?,
    })
}

fn pids(dir: &Path) -> Result<PidsStats, CgroupError> {
    Ok(PidsStats {
        current: number(&dir.join("pids.current"))?.unwrap_or(0),
        limit: number(&dir.join("pids.max"))?,
    })
}

fn blkio_v1(dir: &Path) -> Result<BlkioStats, CgroupError> {
    // The files of the scheduler when it keeps them, else those of throttling.
    let first = |files: [&str; 3]| -> Result<Vec<BlkioEntry>, CgroupError> {
        for file in files {
            if let Some(text) = read(&dir.join(file))? {
                let entries = parse_blkio_v1(&text);
                if !entries.is_empty() {
                    return Ok(entries);
                }
            }
        }
        Ok(Vec::new())
    };
    Ok(BlkioStats {
        service_bytes: first([
            "blkio.io_service_bytes_recursive",
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
        ])?,
        serviced: first([
            "blkio.io_serviced_recursive",
            "blkio.bfq.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
        ])?,
    })
}

/// `8:0 Read 4096`
fn parse_blkio_v1(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let (op, value) = (fields.next()?, fields.next()?);
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: op.to_owned(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

fn stats_v2(dir: &Path) -> Result<CgroupStats, CgroupError> {
    let cpu = keyed(&dir.join("cpu.stat"))?;
    let micros = |key: &str| cpu.get(key).map_or(0, |n| n.saturating_mul(1000));
    let count = |key: &str| cpu.get(key).copied().unwrap_or(0);
    let get = |file: &str| number(&dir.join(file));
    let events = keyed(&dir.join("memory.events"))?;
    Ok(CgroupStats {
        version: CgroupVersion::V2,
        cpu: CpuStats {
            total: micros("usage_usec"),
            per_cpu: Vec::new(),
            kernel: micros("system_usec"),
            user: micros("user_usec"),
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled_time: micros("throttled_usec"),
        },
        memory: MemoryStats {
            usage: get("memory.current")?.unwrap_or(0),
            max_usage: get("memory.peak")?.unwrap_or(0),
            limit: get("memory.max")?,
            failcnt: events.get("oom").copied().unwrap_or(0),
            stats: keyed(&dir.join("memory.stat"))?,
        },
        pids: pids(dir)?,
        blkio: read(&dir.join("io.stat"))?.map(|text| parse_io_stat(&text)).unwrap_or_default(),
    })
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn parse_io_stat(text: &str) -> BlkioStats {
    let mut stats = BlkioStats::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let Some((major, minor)) = fields.next().and_then(|d| d.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for field in fields {
            let Some((key, value)) = field.split_once('=') else { continue };
            let Ok(value) = value.parse() else { continue };
            let entry = |op: &str| BlkioEntry { major, minor, op: op.to_owned(), value };
            match key {
                "rbytes" => stats.service_bytes.push(entry("read")),
                "wbytes" => stats.service_bytes.push(entry("write")),
                "rios" => stats.serviced.push(entry("read")),
                "wios" => stats.serviced.push(entry("write")),
                _ => {}
            }
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_files_become_dockers_figures() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        put(
            "cpu.stat",
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 3\nnr_throttled 1\nthrottled_usec 7\n",
        );
        put("memory.current", "4096\n");
        put("memory.max", "max\n");
        put("memory.stat", "anon 100\ninactive_file 7\n");
        put("memory.events", "low 0\noom 2\noom_kill 1\n");
        put("pids.current", "5\n");
        put("pids.max", "10\n");
        put("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n");
        let stats = stats_v2(dir.path()).unwrap();
        assert_eq!((stats.cpu.total, stats.cpu.throttled_time), (30_000, 7_000));
        assert_eq!((stats.memory.usage, stats.memory.limit, stats.memory.failcnt), (4096, None, 2));
        assert_eq!(stats.memory.stats["inactive_file"], 7);
        assert_eq!(stats.pids, PidsStats { current: 5, limit: Some(10) });
        assert_eq!(stats.blkio.service_bytes.len(), 2);
        assert_eq!(stats.blkio.serviced[1].value, 4);
    }

    #[test]
    fn v1_block_lines() {
        let entries = parse_blkio_v1("8:0 Read 10\n8:0 Write 20\nTotal 30\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[1].op.as_str(), entries[1].value), ("Write", 20));
    }
}
