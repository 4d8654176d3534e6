//! What happens when the process has ended: what is left of the container is
//! killed, the end is recorded, cgroup and state are removed.

use std::sync::Arc;

use sampan_types::Timestamp;

use super::make::STATE;
use super::{external, report};
use crate::cgroup::{Cgroup, CgroupHost};
use crate::client::{ExitStatus, OciRuntime};
use crate::protocol::{EXIT, SOCKET, Setup};

/// The container's cgroup, when the host has any.
fn cgroup(setup: &Setup) -> Option<Cgroup> {
    match CgroupHost::detect() {
        Ok(host) => Some(Cgroup::new(Arc::new(host), &setup.cgroup)),
        Err(error) => {
            report(&error);
            None
        }
    }
}

/// Kills processes that outlived the container's init: those of a container
/// in the host's process namespace.
pub(super) fn kill_leftovers(setup: &Setup) {
    if setup.exec.is_some() {
        return;
    }
    if let Some(Err(error)) = cgroup(setup).map(|c| c.kill_all()) {
        report(&error);
    }
}

/// The process ended with `code`: says how, records it if its program ran,
/// and removes the cgroup and the state of whoever made it. The cgroup is
/// read before that.
pub(super) fn conclude(
    setup: &Setup,
    code: i32,
    finished: Timestamp,
    was_started: bool,
) -> ExitStatus {
    let cgroup = if setup.exec.is_some() { None } else { cgroup(setup) };
    let oom_killed = cgroup.as_ref().and_then(|c| c.oom_kills().ok()).is_some_and(|n| n > 0);
    let status =
        ExitStatus { code, finished, oom_killed, generation: setup.generation, error: None };
    if was_started || setup.exec.is_some() {
        record(setup, &status);
    }
    if setup.exec.is_none() {
        remove_from(setup, cgroup.as_ref());
    } else {
        tidy(setup);
    }
    status
}

/// Writes the record that the next daemon reads, if this one is gone.
fn record(setup: &Setup, status: &ExitStatus) {
    let written = serde_json::to_vec(status).map_err(std::io::Error::from).and_then(|json| {
        if setup.exec.is_some() {
            // Lives below exec-root: a reboot discards it anyway.
            sampan_sys::file::write_replace(&setup.exit_file, &json, 0o600)
        } else {
            sampan_sys::file::write_atomic(&setup.exit_file, &json, 0o600)
        }
    });
    let Err(error) = written else { return };
    report(&format_args!("recording the exit in {}: {error}", setup.exit_file.display()));
    // A full disk: below exec-root there may be room.
    let spare = setup.dir.join(EXIT);
    let json = serde_json::to_vec(status).unwrap_or_default();
    if let Err(error) = sampan_sys::file::write_replace(&spare, &json, 0o600) {
        report(&format_args!("recording the exit in {}: {error}", spare.display()));
    }
}

/// An exec that has ended leaves its exit record, and its log if there is
/// something in it.
fn tidy(setup: &Setup) {
    for name in ["process.json", "pid", SOCKET] {
        let _ = std::fs::remove_file(setup.dir.join(name));
    }
    let log = setup.dir.join("shim.log");
    if std::fs::metadata(&log).is_ok_and(|m| m.len() == 0) {
        let _ = std::fs::remove_file(log);
    }
}

/// Removes the container's cgroup and the state of whoever made it.
pub(super) fn remove(setup: &Setup) {
    if setup.exec.is_none() {
        remove_from(setup, cgroup(setup).as_ref());
    }
}

fn remove_from(setup: &Setup, cgroup: Option<&Cgroup>) {
    if let OciRuntime::External(program) = &setup.runtime
        && let Err(failure) = external::delete(program, setup)
    {
        report(&format_args!("deleting the container: {}", failure.message));
    }
    if let Some(cgroup) = cgroup {
        for result in [cgroup.kill_all(), cgroup.remove()] {
            if let Err(error) = result {
                report(&error);
            }
        }
    }
    if let Err(error) = sampan_sys::file::remove_tree(&setup.container_dir.join(STATE)) {
        report(&format_args!("removing the state: {error}"));
    }
}
