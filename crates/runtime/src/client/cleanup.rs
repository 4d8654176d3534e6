//! Ends what is left of a container's run, whatever state it is in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use sampan_types::{ContainerId, Timestamp};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::link::{Orphan, connect, first};
use super::prepare::{SETUP, read_exit};
use super::types::{ExitStatus, RuntimeConfig};
use crate::cgroup::{Cgroup, CgroupHost};
use crate::error::RuntimeError;
use crate::protocol::{Op, Setup};

/// How long a shim gets to end its container.
const PATIENCE: Duration = Duration::from_secs(15);

/// See [`crate::Runtime::cleanup`].
pub(super) async fn cleanup(
    config: &RuntimeConfig,
    host: Arc<CgroupHost>,
    id: &ContainerId,
) -> Result<(), RuntimeError> {
    let dir = config.dir(id);
    for shim in living_shims(&dir).await {
        // One that hangs is left alone; its processes are killed below.
        let _ = tokio::time::timeout(PATIENCE, shut_down(shim)).await;
    }
    let default = Path::new(&config.cgroup_parent).join(id.as_str());
    blocking(move || remove(&dir, host, &default)).await
}

/// See [`crate::Runtime::remove_exec`].
pub(super) async fn remove_exec(dir: PathBuf) -> Result<(), RuntimeError> {
    if let Ok(Some(shim)) = connect(&dir).await {
        let _ = tokio::time::timeout(PATIENCE, shut_down(shim)).await;
    }
    blocking(move || remove_dir(&dir)).await
}

fn remove_dir(dir: &Path) -> Result<(), RuntimeError> {
    sampan_sys::file::remove_tree(dir).map_err(|e| RuntimeError::io("removing", dir.display(), e))
}

/// Connections to the container's shim and those of its execs.
async fn living_shims(dir: &Path) -> Vec<UnixStream> {
    let mut dirs = vec![dir.to_owned()];
    if let Ok(execs) = std::fs::read_dir(dir.join("exec")) {
        dirs.extend(execs.flatten().map(|e| e.path()));
    }
    let mut shims = Vec::new();
    for dir in dirs {
        if let Ok(Some(stream)) = connect(&dir).await {
            shims.push(stream);
        }
    }
    shims
}

/// Asks a shim to end its process, and waits until it hangs up.
async fn shut_down(mut stream: UnixStream) {
    let mut received = BytesMut::new();
    if let Ok(Some(_)) = first(&mut stream, &Op::Shutdown, &mut received).await {
        while let Ok(1..) = stream.read_buf(&mut received).await {
            received.clear();
        }
    }
}

fn remove(dir: &Path, host: Arc<CgroupHost>, default: &Path) -> Result<(), RuntimeError> {
    let cgroup = Cgroup::new(host, &cgroup_path(dir).unwrap_or_else(|| default.to_owned()));
    let failed = |what, e: crate::cgroup::CgroupError| {
        RuntimeError::io(what, cgroup.path().display(), std::io::Error::other(e))
    };
    let killed = cgroup.kill_all().map_err(|e| failed("ending the processes of", e));
    let removed = cgroup.remove().map_err(|e| failed("removing the cgroup", e));
    let deleted = remove_dir(dir);
    killed.and(removed).and(deleted)
}

/// The cgroup that the container was given.
fn cgroup_path(dir: &Path) -> Option<PathBuf> {
    let json = std::fs::read(dir.join(SETUP)).ok()?;
    Some(serde_json::from_slice::<Setup>(&json).ok()?.cgroup)
}

/// The shim of `setup` is gone without a word: what has become of its process?
pub(super) fn orphan(setup: Setup, host: Arc<CgroupHost>) -> Orphan {
    Box::new(move || {
        Box::pin(async move {
            let generation = setup.generation;
            let found = blocking(move || Ok(bury(&setup, host))).await;
            found.unwrap_or_else(|_| died(generation))
        })
    })
}

/// The end that was recorded, or the one that is made now.
fn bury(setup: &Setup, host: Arc<CgroupHost>) -> ExitStatus {
    if let Ok(Some(status)) = read_exit(&setup.exit_file)
        && status.generation == setup.generation
    {
        return status;
    }
    let status = died(setup.generation);
    if setup.exec.is_none() {
        if let Err(error) = Cgroup::new(host, &setup.cgroup).kill_all() {
            tracing::error!(container = %setup.id, %error, "the shim died; killing its container failed");
        }
        let json = serde_json::to_vec(&status).unwrap_or_default();
        if let Err(error) = sampan_sys::file::write_atomic(&setup.exit_file, &json, 0o600) {
            tracing::error!(container = %setup.id, %error, "the end of the container was not recorded");
        }
    }
    status
}

fn died(generation: u64) -> ExitStatus {
    ExitStatus {
        code: 128 + libc::SIGKILL,
        finished: Timestamp::now(),
        oom_killed: false,
        generation,
        error: Some("shim died".to_owned()),
    }
}

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(RuntimeError::io("waiting for", "a blocking task", std::io::Error::other(e))),
    }
}
