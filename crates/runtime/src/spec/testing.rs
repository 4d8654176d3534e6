//! Values that the tests of this module share.

use sampan_types::docker::ContainerConfig;

use super::{CgroupFacts, HostFacts};
use crate::cgroup::CgroupVersion;

/// A hybrid host with everything.
pub(super) fn facts() -> HostFacts {
    let hierarchy = |name: &str| (name.to_owned(), format!("/sys/fs/cgroup/{name}").into());
    HostFacts {
        cgroup: CgroupFacts {
            version: CgroupVersion::Hybrid,
            root: "/sys/fs/cgroup".into(),
            hierarchies: ["cpu,cpuacct", "memory", "unified"].map(hierarchy).into(),
            memory: true,
            swap: true,
            oom_kill_disable: true,
            swappiness: true,
            cpu: true,
            cpuset: true,
            pids: true,
            blkio: true,
            blkio_weight: true,
        },
        cpus: (0..4).collect(),
        mems: [0].into(),
        memory_total: 8 << 30,
        kernel: (6, 1),
        capabilities: (1 << 41) - 1,
        seccomp: true,
        selinux: false,
        apparmor: false,
    }
}

/// A pure v2 host with everything.
pub(super) fn facts_v2() -> HostFacts {
    let mut facts = facts();
    facts.cgroup.version = CgroupVersion::V2;
    facts.cgroup.hierarchies.clear();
    facts
}

/// A container with a command.
pub(super) fn config() -> ContainerConfig {
    ContainerConfig { cmd: Some(vec!["/bin/true".into()]), ..ContainerConfig::default() }
}
