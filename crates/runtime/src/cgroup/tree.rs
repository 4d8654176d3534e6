//! Making, entering, listing and removing the directories.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;

use super::files::{io_error, is_absent, read, write};
use super::{Cgroup, CgroupError, CgroupVersion};

/// How often a directory is tried that the kernel still calls busy: the last
/// process is gone, but its exit is not finished.
const BUSY_ATTEMPTS: u32 = 40;
/// The longest pause between two of them.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

impl Cgroup {
    /// Makes the directories in every hierarchy, with parents prepared so that
    /// limits can be set below them. Repeatable.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(&self) -> Result<(), CgroupError> {
        for mount in self.host.mounts() {
            let cpuset = self.host.v1_mount("cpuset") == Some(mount);
            let v2 = self.host.version == CgroupVersion::V2;
            let mut path = mount.to_owned();
            for part in self.path.strip_prefix("/").unwrap_or(&self.path) {
                if v2 {
                    delegate(&path)?;
                }
                let parent = path.clone();
                path.push(part);
                match fs::create_dir(&path) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(io_error("making the cgroup", &path, e));
                    }
                    _ => {}
                }
                if cpuset {
                    inherit_cpuset(&parent, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Moves the calling process into the group's v2 directory on a hybrid
    /// host: libcontainer leaves that one out.
    ///
    /// # Errors
    /// When the kernel refuses, or the group was not made.
    pub fn join_unified(&self) -> Result<(), CgroupError> {
        match self.unified() {
            Some(dir) if self.host.version == CgroupVersion::Hybrid => {
                write(&dir.join("cgroup.procs"), "0")
            }
            _ => Ok(()),
        }
    }

    /// The processes in it and below it. None when it does not exist.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let mut found = Vec::new();
        // One v1 hierarchy is enough: processes are in all of them. The v2 one
        // is asked too, in case a process was moved out of one of the others.
        let v1 = ["freezer", "pids", "devices", "memory"].iter().find_map(|c| self.v1(c));
        for dir in v1.into_iter().chain(self.unified()) {
            walk(&dir, &mut |dir| {
                if let Some(text) = read(&dir.join("cgroup.procs"))? {
                    found.extend(text.lines().filter_map(|l| l.parse().ok()).map(Pid::from_raw));
                }
                Ok(())
            })?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Removes the directories with all below. Absence is success; repeatable.
    ///
    /// # Errors
    /// When processes are left in it; the other hierarchies are cleared all
    /// the same.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for mount in self.host.mounts() {
            let dir = self.below(mount);
            // Mostly there is nothing below it.
            if fs::remove_dir(&dir).is_ok() {
                continue;
            }
            let removed = walk(&dir, &mut |dir| remove_dir(dir));
            result = result.and(removed);
        }
        result
    }
}

/// Lets groups below `dir` use every controller that `dir` has (v2).
fn delegate(dir: &Path) -> Result<(), CgroupError> {
    let available = read(&dir.join("cgroup.controllers"))?.unwrap_or_default();
    let control = dir.join("cgroup.subtree_control");
    let enabled = read(&control)?.unwrap_or_default();
    let missing: Vec<&str> = available
        .split_whitespace()
        .filter(|c| !enabled.split_whitespace().any(|e| e == *c))
        .collect();
    for controller in missing {
        // One that can't be enabled (realtime processes with `cpu`, say) must
        // not keep the others away; who needs it finds its files missing.
        let _ = write(&control, &format!("+{controller}"));
    }
    Ok(())
}

/// A new v1 cpuset is empty, and nothing can run in it.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = read(&dir.join(name))?.unwrap_or_default();
        if own.trim().is_empty() {
            let inherited = read(&parent.join(name))?.unwrap_or_default();
            write(&dir.join(name), inherited.trim())?;
        }
    }
    Ok(())
}

/// Calls `visit` for every directory below `dir`, children first.
fn walk(
    dir: &Path,
    visit: &mut dyn FnMut(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(io_error("listing", dir, e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| io_error("listing", dir, e))?;
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), visit)?;
        }
    }
    visit(dir)
}

fn remove_dir(dir: &Path) -> Result<(), CgroupError> {
    let mut pause = Duration::from_millis(1);
    for attempt in 1.. {
        match fs::remove_dir(dir) {
            Ok(()) => break,
            Err(e) if is_absent(&e) => break,
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && attempt < BUSY_ATTEMPTS => {
                // While processes live there, waiting does not help.
                if read(&dir.join("cgroup.procs"))?.is_some_and(|p| !p.trim().is_empty())
                    && attempt > 5
                {
                    return Err(io_error("removing the cgroup", dir, e));
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(BUSY_PAUSE);
            }
            Err(e) => return Err(io_error("removing the cgroup", dir, e)),
        }
    }
    Ok(())
}
