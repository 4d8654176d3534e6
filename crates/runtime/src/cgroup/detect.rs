//! Which cgroup file systems are mounted where.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use sampan_sys::mount::{self, MountEntry};

use super::files::io_error;
use super::{CgroupError, CgroupHost, CgroupVersion};

/// The names of v1 controllers among a superblock's options.
const CONTROLLERS: [&str; 14] = [
    "cpuset",
    "cpu",
    "cpuacct",
    "blkio",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "perf_event",
    "net_prio",
    "hugetlb",
    "pids",
    "rdma",
    "misc",
];

impl CgroupHost {
    /// Reads which hierarchies are mounted where.
    ///
    /// # Errors
    /// [`CgroupError::NotMounted`], or when `/proc` can't be read.
    pub fn detect() -> Result<Self, CgroupError> {
        let mounts =
            mount::list().map_err(|e| io_error("reading", Path::new("/proc/self/mountinfo"), e))?;
        let seen: Vec<MountEntry> = mounts.into_iter().filter(is_visible).collect();
        Self::from_mounts(&seen).ok_or(CgroupError::NotMounted)
    }

    fn from_mounts(mounts: &[MountEntry]) -> Option<Self> {
        let mut unified: Option<PathBuf> = None;
        let mut v1: Vec<(Vec<String>, PathBuf)> = Vec::new();
        for entry in mounts {
            match entry.fs_type.as_str() {
                "cgroup2" => keep_main(&mut unified, &entry.target),
                "cgroup" => {
                    let names: Vec<String> = entry
                        .options
                        .split(',')
                        .filter(|o| CONTROLLERS.contains(o) || o.starts_with("name="))
                        .map(str::to_owned)
                        .collect();
                    match v1.iter_mut().find(|(known, _)| *known == names) {
                        Some((_, path)) if is_main(&entry.target) && !is_main(path) => {
                            path.clone_from(&entry.target);
                        }
                        Some(_) => {}
                        None if names.is_empty() => {}
                        None => v1.push((names, entry.target.clone())),
                    }
                }
                _ => {}
            }
        }
        let with_controllers = v1.iter().any(|(names, _)| names.iter().any(|n| !n.contains('=')));
        let version = match (with_controllers, &unified) {
            (true, Some(_)) => CgroupVersion::Hybrid,
            (true, None) => CgroupVersion::V1,
            (false, Some(_)) => CgroupVersion::V2,
            (false, None) => return None,
        };
        if version == CgroupVersion::V2 {
            v1.clear();
        }
        Some(Self { version, unified, v1 })
    }

    /// Where the v1 hierarchy of `controller` is mounted.
    pub(super) fn v1_mount(&self, controller: &str) -> Option<&Path> {
        self.v1
            .iter()
            .find(|(names, _)| names.iter().any(|n| n == controller))
            .map(|(_, path)| path.as_path())
    }

    /// Every hierarchy's mount.
    pub(super) fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|(_, path)| path.as_path()).chain(self.unified.as_deref())
    }
}

/// Whether the mount can be reached: mounts that another one hides, as a
/// sysfs mounted anew over `/sys` does, are still listed.
fn is_visible(entry: &MountEntry) -> bool {
    let found = |magic| statfs(&entry.target).is_ok_and(|s| s.filesystem_type() == magic);
    match entry.fs_type.as_str() {
        "cgroup2" => found(CGROUP2_SUPER_MAGIC),
        "cgroup" => found(CGROUP_SUPER_MAGIC),
        _ => false,
    }
}

/// Several mounts of one hierarchy: the one at the usual place counts.
fn is_main(path: &Path) -> bool {
    path.starts_with("/sys/fs/cgroup")
}

fn keep_main(kept: &mut Option<PathBuf>, path: &Path) {
    match kept {
        Some(known) if is_main(known) || !is_main(path) => {}
        _ => *kept = Some(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(mounts: &[(&str, &str, &str)]) -> Option<CgroupHost> {
        let mounts: Vec<MountEntry> = mounts
            .iter()
            .map(|(target, fs_type, options)| MountEntry {
                target: PathBuf::from(target),
                fs_type: (*fs_type).into(),
                source: "cgroup".into(),
                options: (*options).into(),
            })
            .collect();
        CgroupHost::from_mounts(&mounts)
    }

    #[test]
    fn the_three_kinds_of_host_are_told_apart() {
        let v2 = host(&[("/sys/fs/cgroup", "cgroup2", "rw")]).unwrap();
        assert_eq!(v2.version, CgroupVersion::V2);
        let v1 = [
            ("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            ("/sys/fs/cgroup/systemd", "cgroup", "rw,xattr,name=systemd"),
        ];
        let legacy = host(&v1).unwrap();
        assert_eq!(legacy.version, CgroupVersion::V1);
        assert_eq!(legacy.v1_mount("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(legacy.v1_mount("memory"), None);
        let hybrid = host(&[v1[0], v1[1], ("/sys/fs/cgroup/unified", "cgroup2", "rw")]).unwrap();
        assert_eq!(hybrid.version, CgroupVersion::Hybrid);
        // systemd's hybrid mode of a host whose controllers are all in v2.
        let named = host(&[v1[1], ("/sys/fs/cgroup", "cgroup2", "rw")]).unwrap();
        assert_eq!((named.version, named.v1.len()), (CgroupVersion::V2, 0));
        assert_eq!(host(&[("/", "ext4", "rw")]), None);
    }

    #[test]
    fn second_mounts_do_not_count() {
        let host = host(&[
            ("/mnt/memory", "cgroup", "rw,memory"),
            ("/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
            ("/other", "cgroup", "rw,memory"),
        ])
        .unwrap();
        assert_eq!(host.v1.len(), 1);
        assert_eq!(host.v1_mount("memory"), Some(Path::new("/sys/fs/cgroup/memory")));
    }
}
