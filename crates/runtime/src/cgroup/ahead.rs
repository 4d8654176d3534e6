//! A move between cgroups ahead of those that a start needs.
//!
//! The first move of a process waits for a grace period of RCU, which takes
//! 0.4 ms on an idle machine and 10 to 25 ms on a busy one; moves right after
//! it don't wait (`rcu_sync_enter()` in the kernel's `kernel/rcu/sync.c`). So
//! one that changes nothing is made while a start still does other things.

use std::fs;
use std::path::PathBuf;

use super::CgroupHost;
use super::files::write;

impl CgroupHost {
    /// Moves this process to the cgroup in which it is already. Blocks for the
    /// grace period. Nothing depends on it, so failures are not reported.
    pub fn move_ahead(&self) {
        if let Some(dir) = self.own() {
            let _ = write(&dir.join("cgroup.procs"), "0");
        }
    }

    /// This process's cgroup, in the v2 hierarchy where there is one.
    fn own(&self) -> Option<PathBuf> {
        let lines = fs::read_to_string("/proc/self/cgroup").ok()?;
        let (prefix, mount) = match (&self.unified, self.v1.first()) {
            (Some(mount), _) => ("0::".to_owned(), mount),
            (None, Some((names, mount))) => (format!(":{}:", names.join(",")), mount),
            (None, None) => return None,
        };
        let path = lines.lines().find_map(|l| l.split_once(&prefix)).map(|(_, path)| path)?;
        Some(mount.join(path.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_the_cgroup_that_is_found() {
        let Ok(host) = CgroupHost::detect() else {
            eprintln!("skipped: no cgroups");
            return;
        };
        let Some(dir) = host.own().filter(|dir| dir.exists()) else {
            eprintln!("skipped: the own cgroup is not visible");
            return;
        };
        let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert!(members.lines().any(|pid| pid == std::process::id().to_string()));
        host.move_ahead();
        assert_eq!(host.own(), Some(dir));
    }
}
