//! cgroups of this machine: each test has a parent of its own and removes it.

// Helpers beside the tests may panic too.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Pid;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use sampan_runtime::cgroup::{Cgroup, CgroupHost, CgroupVersion};
use sampan_runtime::spec::HostFacts;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A cgroup below a parent of this test alone; both go away at the end.
struct Lab {
    host: Arc<CgroupHost>,
    parent: PathBuf,
    group: Cgroup,
}

impl Lab {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let Ok(host) = CgroupHost::detect() else {
            println!("skipped: no cgroups are mounted here");
            return None;
        };
        let host = Arc::new(host);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = PathBuf::from(format!("/sampan-cgroup-test-{}-{number}", std::process::id()));
        let group = Cgroup::new(Arc::clone(&host), &parent.join("c"));
        group.create().unwrap();
        Some(Self { host, parent, group })
    }

    fn directories(&self) -> Vec<PathBuf> {
        let below = self.parent.strip_prefix("/").unwrap();
        self.host
            .v1
            .iter()
            .map(|(_, mount)| mount.join(below).join("c"))
            .chain(self.host.unified.iter().map(|mount| mount.join(below).join("c")))
            .collect()
    }

    /// The directory with the limits of a controller.
    fn controller(&self, name: &str) -> Option<PathBuf> {
        let below = self.parent.strip_prefix("/").unwrap().join("c");
        if self.host.version == CgroupVersion::V2 {
            return self.host.unified.as_ref().map(|m| m.join(below));
        }
        let (_, mount) = self.host.v1.iter().find(|(names, _)| names.iter().any(|n| n == name))?;
        Some(mount.join(below))
    }

    /// A process in the cgroup, in every hierarchy, that runs `script`.
    fn run(&self, script: &str) -> Child {
        let joins: String = self
            .directories()
            .iter()
            .map(|d| format!("echo $$ > {}/cgroup.procs; ", d.display()))
            .collect();
        Command::new("sh")
            .arg("-c")
            .arg(format!("set -e; {joins} set +e; {script}"))
            .spawn()
            .unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.group.kill_all();
        let parent = Cgroup::new(Arc::clone(&self.host), &self.parent);
        if let Err(e) = parent.remove() {
            println!("left behind: {e}");
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Waits until the process has replaced the shell: it is in all hierarchies.
fn wait_for(child: &Child, name: &str) {
    let path = format!("/proc/{}/comm", child.id());
    while std::fs::read_to_string(&path).unwrap_or_default().trim() != name {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[test]
fn groups_are_made_and_removed_again_and_again() {
    let Some(lab) = Lab::new() else { return };
    lab.group.create().unwrap();
    assert!(lab.directories().iter().all(|d| d.is_dir()));
    assert!(lab.group.processes().unwrap().is_empty());
    // What a container makes below its own goes with it.
    std::fs::create_dir_all(lab.directories()[0].join("a/b")).unwrap();
    lab.group.remove().unwrap();
    assert!(lab.directories().iter().all(|d| !d.exists()));
    lab.group.remove().unwrap();
    assert!(lab.group.stats().is_err());
    assert_eq!(lab.group.oom_kills().unwrap(), 0);
    assert!(!lab.group.is_frozen().unwrap());
    lab.group.kill_all().unwrap();
}

#[tokio::test]
async fn processes_are_frozen_counted_and_killed() {
    let Some(lab) = Lab::new() else { return };
    let mut child = lab.run("sleep 1000 & exec sleep 1000");
    wait_for(&child, "sleep");
    let processes = lab.group.processes().unwrap();
    assert!(processes.contains(&pid(&child)) && processes.len() == 2, "{processes:?}");

    lab.group.freeze(true).await.unwrap();
    assert!(lab.group.is_frozen().unwrap());
    lab.group.freeze(true).await.unwrap();
    lab.group.freeze(false).await.unwrap();
    assert!(!lab.group.is_frozen().unwrap());

    // Frozen ones are killed too, and thawed for it.
    lab.group.freeze(true).await.unwrap();
    assert!(lab.group.remove().is_err());
    let started = std::time::Instant::now();
    let killer = lab.group.clone();
    let killed = std::thread::spawn(move || killer.kill_all());
    child.wait().unwrap();
    killed.join().unwrap().unwrap();
    assert!(started.elapsed().as_secs() < 30);
    assert!(lab.group.processes().unwrap().is_empty());
    lab.group.remove().unwrap();
}

#[test]
fn what_is_used_is_seen() {
    let Some(lab) = Lab::new() else { return };
    let mut child = lab.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 1000");
    wait_for(&child, "sleep");
    let stats = lab.group.stats().unwrap();
    assert_eq!(stats.version, lab.host.version);
    if lab.controller("cpuacct").is_some() {
        assert!(stats.cpu.total > 0, "{stats:?}");
    }
    if lab.controller("memory").is_some_and(|d| !text(&d.join("memory.stat")).is_empty()) {
        assert!(stats.memory.usage > 0 && !stats.memory.stats.is_empty(), "{stats:?}");
        assert_eq!(stats.memory.limit, None);
    }
    lab.group.kill_all().unwrap();
    child.wait().unwrap();
}

fn resources(change: impl FnOnce(&mut LinuxMemory, &mut LinuxCpu)) -> LinuxResources {
    let (mut memory, mut cpu) = (LinuxMemory::default(), LinuxCpu::default());
    change(&mut memory, &mut cpu);
    let mut pids = LinuxPids::default();
    pids.set_limit(50);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_cpu(Some(cpu)).set_pids(Some(pids));
    resources
}

#[test]
fn limits_go_up_and_down() {
    let Some(lab) = Lab::new() else { return };
    let facts = HostFacts::detect(&lab.host).unwrap();
    if !(facts.cgroup.memory && facts.cgroup.cpu && facts.cgroup.pids) {
        println!("skipped: memory, cpu and pids controllers are needed");
        return;
    }
    const M: i64 = 1 << 20;
    for (limit, swap) in [(64, 128), (256, 512), (32, 64), (32, -1), (64, 64)] {
        let both = if swap < 0 { -1 } else { swap * M };
        lab.group
            .update(&resources(|memory, cpu| {
                memory.set_limit(Some(limit * M)).set_reservation(Some(16 * M));
                if facts.cgroup.swap {
                    memory.set_swap(Some(both));
                }
                cpu.set_shares(Some(512)).set_quota(Some(limit * 1000)).set_period(Some(100_000));
            }))
            .unwrap();
        let stats = lab.group.stats().unwrap();
        assert_eq!(stats.memory.limit, u64::try_from(limit * M).ok());
        assert_eq!(stats.pids.limit, Some(50));
    }
    let cpu = lab.controller("cpu").unwrap();
    if lab.host.version == CgroupVersion::V2 {
        assert_eq!(text(&cpu.join("cpu.max")), "64000 100000");
    } else {
        assert_eq!(text(&cpu.join("cpu.cfs_quota_us")), "64000");
        assert_eq!(text(&cpu.join("cpu.shares")), "512");
        let memory = lab.controller("memory").unwrap();
        assert_eq!(text(&memory.join("memory.soft_limit_in_bytes")), (16 * M).to_string());
    }
    let none = resources(|_, cpu| {
        cpu.set_quota(Some(-1));
    });
    lab.group.update(&none).unwrap();
    if lab.host.version != CgroupVersion::V2 {
        assert_eq!(text(&cpu.join("cpu.cfs_quota_us")), "-1");
    }
}

#[test]
fn a_kill_for_want_of_memory_is_counted() {
    let Some(lab) = Lab::new() else { return };
    let facts = HostFacts::detect(&lab.host).unwrap();
    if !facts.cgroup.memory {
        println!("skipped: the memory controller is needed");
        return;
    }
    let mut limits = LinuxResources::default();
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(16 << 20));
    if facts.cgroup.swap {
        memory.set_swap(Some(16 << 20));
    }
    limits.set_memory(Some(memory));
    lab.group.update(&limits).unwrap();
    let mut child = lab.run("exec tail /dev/zero");
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    assert!(lab.group.oom_kills().unwrap() >= 1);
}

#[test]
fn processes_that_keep_forking_are_killed() {
    let Some(lab) = Lab::new() else { return };
    let mut child = lab.run(
        "for i in 1 2 3 4 5 6 7 8; do (while :; do sleep 0.01 & sleep 0.02 & wait; done) & done; \
         exec sleep 1000",
    );
    wait_for(&child, "sleep");
    let group = lab.group.clone();
    let killed = std::thread::spawn(move || group.kill_all());
    child.wait().unwrap();
    killed.join().unwrap().unwrap();
    assert!(lab.group.processes().unwrap().is_empty());
    lab.group.remove().unwrap();
}
