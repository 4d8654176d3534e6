//! What the machine can do: read once when the daemon starts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::resources::parse_set;
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
    /// The capabilities that the daemon can give: a bit for each number.
    pub capabilities: u64,
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
        let status = fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let bounding = field("CapBnd").and_then(|v| u64::from_str_radix(v, 16).ok()).unwrap_or(0);
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .ok()
            .and_then(|t| t.trim().parse::<u32>().ok())
            .unwrap_or(37);
        Ok(Self {
            cgroup: CgroupFacts::detect(cgroups)?,
            cpus: online("/sys/devices/system/cpu/online")?,
            mems: online("/sys/devices/system/node/online").unwrap_or_else(|_| [0].into()),
            memory_total: memory_total(&fs::read_to_string("/proc/meminfo")?),
            kernel: kernel(&fs::read_to_string("/proc/sys/kernel/osrelease")?),
            capabilities: bounding & (u64::MAX >> (63 - last.min(63))),
            seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|t| t.starts_with(b"Y")),
        })
    }
}

impl CgroupFacts {
    fn detect(host: &CgroupHost) -> io::Result<Self> {
        let facts = match host.version {
            CgroupVersion::V2 => Self::detect_v2(host)?,
            _ => Self::detect_v1(host),
        };
        Ok(facts)
    }

    fn detect_v1(host: &CgroupHost) -> Self {
        let mount = |name: &str| {
            host.v1.iter().find(|(names, _)| names.iter().any(|n| n == name)).map(|(_, p)| p)
        };
        let has = |name: &str, file: &str| mount(name).is_some_and(|p| p.join(file).exists());
        let mut hierarchies: Vec<(String, PathBuf)> = host
            .v1
            .iter()
            .filter(|(names, _)| names.iter().any(|n| !n.starts_with("name=")))
            .map(|(_, path)| path)
            .chain(host.unified.as_ref())
            .filter_map(|p| Some((p.file_name()?.to_str()?.to_owned(), p.clone())))
            .collect();
        hierarchies.sort();
        let parent = |p: &PathBuf| p.parent().map(Path::to_owned);
        let root = host.v1.first().and_then(|(_, p)| parent(p));
        Self {
            version: host.version,
            root: root.unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup")),
            hierarchies,
            memory: mount("memory").is_some(),
            swap: has("memory", "memory.memsw.limit_in_bytes"),
            oom_kill_disable: has("memory", "memory.oom_control"),
            swappiness: has("memory", "memory.swappiness"),
            cpu: has("cpu", "cpu.cfs_quota_us") || mount("cpu").is_some(),
            cpuset: mount("cpuset").is_some(),
            pids: mount("pids").is_some(),
            blkio: mount("blkio").is_some(),
            blkio_weight: has("blkio", "blkio.weight") || has("blkio", "blkio.bfq.weight"),
        }
    }

    /// The root of v2 has no files of the controllers: a child is looked at.
    fn detect_v2(host: &CgroupHost) -> io::Result<Self> {
        let root = host.unified.clone().unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"));
        let text = fs::read_to_string(root.join("cgroup.controllers"))?;
        let has = |name: &str| text.split_whitespace().any(|c| c == name);
        let children: Vec<PathBuf> = fs::read_dir(&root)?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.join("cgroup.procs").exists())
            .collect();
        let child_has = |file: &str| children.iter().any(|c| c.join(file).exists());
        Ok(Self {
            version: host.version,
            hierarchies: Vec::new(),
            memory: has("memory"),
            // Without a child to look at, what almost every kernel has.
            swap: has("memory") && (child_has("memory.swap.max") || !child_has("memory.max")),
            oom_kill_disable: false,
            swappiness: false,
            cpu: has("cpu"),
            cpuset: has("cpuset"),
            pids: has("pids"),
            blkio: has("io"),
            blkio_weight: has("io") && (child_has("io.weight") || child_has("io.bfq.weight")),
            root,
        })
    }
}

fn online(path: &str) -> io::Result<BTreeSet<u32>> {
    let text = fs::read_to_string(path)?;
    parse_set(text.trim()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn memory_total(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|v| v.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// `6.1.0-18-amd64` is 6.1.
fn kernel(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel_are_read() {
        assert_eq!(kernel("6.1.0-18-amd64\n"), (6, 1));
        assert_eq!(kernel("6.18.44"), (6, 18));
        assert_eq!(memory_total("MemTotal:       16 kB\nMemFree: 1 kB\n"), 16384);
    }

    #[test]
    #[allow(clippy::print_stdout)]
    fn this_machine_has_facts() {
        let Ok(host) = CgroupHost::detect() else {
            println!("skipped: no cgroups are mounted here");
            return;
        };
        let facts = HostFacts::detect(&host).unwrap();
        assert!(!facts.cpus.is_empty() && facts.memory_total > 0 && facts.kernel > (4, 0));
    }
}
