//! The daemon's side: starts shims, finds them again, and talks to them.

mod attach;
mod cleanup;
mod dev;
mod exec;
mod launch;
mod link;
mod prepare;
mod sharing;
mod shim;
mod types;

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use sampan_types::{ContainerId, ExecId};

pub use attach::{AttachOptions, AttachStream, OutputStream, StdinWriter};
pub use exec::ExecProcess;
pub use shim::Shim;
pub use types::{CreateRequest, ExecRequest, ExitStatus, IoConfig, OciRuntime, RuntimeConfig};

use crate::cgroup::{Cgroup, CgroupHost};
use crate::error::RuntimeError;
use crate::protocol::{EXIT, Info, Op, Setup};
use cleanup::{blocking, cleanup, orphan};
use link::{Link, connect, first};
use prepare::{SETUP, read_exit};

/// Makes containers and finds them again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    host: Arc<CgroupHost>,
}

impl Runtime {
    /// A runtime for one instance.
    ///
    /// # Errors
    /// When the host has no cgroups.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let host = CgroupHost::detect()
            .map_err(|e| RuntimeError::io("looking for", "cgroups", std::io::Error::other(e)))?;
        Ok(Self { inner: Arc::new(Inner { config, host: Arc::new(host) }) })
    }

    /// The cgroups of this host.
    #[must_use]
    pub fn cgroup_host(&self) -> &Arc<CgroupHost> {
        &self.inner.host
    }

    /// The cgroup of a container: `<parent>/<id>`, where the parent is the
    /// instance's unless the container has its own.
    #[must_use]
    pub fn cgroup(&self, id: &ContainerId, custom_parent: Option<&str>) -> Cgroup {
        let parent = custom_parent.unwrap_or(&self.inner.config.cgroup_parent);
        let path = Path::new("/").join(parent.trim_start_matches('/')).join(id.as_str());
        Cgroup::new(Arc::clone(&self.inner.host), &path)
    }

    /// Starts a shim, which creates the container; its init waits for
    /// [`Shim::start`]. When it fails, nothing is left behind.
    ///
    /// # Errors
    /// With Docker's texts; [`RuntimeError::exit_code`] is what the container
    /// exits with.
    pub async fn create(&self, request: CreateRequest) -> Result<Shim, RuntimeError> {
        let id = request.id.clone();
        if self.inner.config.dir(&id).exists() {
            self.cleanup(&id).await?;
        }
        let inner = Arc::clone(&self.inner);
        let prepared = blocking(move || {
            let (setup, spec) = prepare::container(&inner.config, request)?;
            let stream = launch::launch(&inner.config, &setup, ("config.json", &spec))?;
            Ok((setup, stream))
        });
        let created = match prepared.await {
            Ok((setup, stream)) => self.boot(setup, stream).await,
            Err(e) => Err(e),
        };
        match created {
            Ok(link) => Ok(Shim::new(id, link)),
            Err(error) => {
                // What it complains about is of less interest than the error.
                let _ = self.cleanup(&id).await;
                Err(error)
            }
        }
    }

    async fn boot(
        &self,
        setup: Setup,
        mut stream: tokio::net::UnixStream,
    ) -> Result<Link, RuntimeError> {
        let mut received = BytesMut::new();
        let info = launch::boot(&mut stream, setup.clone(), &mut received).await?;
        Ok(self.link(setup, stream, received, info))
    }

    fn link(
        &self,
        setup: Setup,
        stream: tokio::net::UnixStream,
        received: BytesMut,
        info: Info,
    ) -> Link {
        let (what, dir) = (launch::what(&setup), setup.dir.clone());
        let orphan = orphan(setup, Arc::clone(&self.inner.host));
        Link::new(what, dir, stream, received, info, orphan)
    }

    /// Finds the living shim of a container that an earlier daemon started.
    /// `None` when there is none: then [`Runtime::recorded_exit`] tells how
    /// the container ended, or, with no record of its last generation, its
    /// shim was killed and [`Runtime::cleanup`] ends what is left of it.
    ///
    /// # Errors
    /// When there is one, but it can't be talked to.
    pub async fn connect(&self, id: &ContainerId) -> Result<Option<Shim>, RuntimeError> {
        let link = self.reconnect(&self.inner.config.dir(id), None).await?;
        Ok(link.map(|link| Shim::new(id.clone(), link)))
    }

    async fn reconnect(
        &self,
        dir: &Path,
        exec: Option<&ExecId>,
    ) -> Result<Option<Link>, RuntimeError> {
        let failed = |e| RuntimeError::io("connecting to the shim in", dir.display(), e);
        let Some(mut stream) = connect(dir).await.map_err(failed)? else {
            return Ok(None);
        };
        let mut received = BytesMut::new();
        let answer = first(&mut stream, &Op::Info, &mut received).await.map_err(failed)?;
        let Some(Ok(info)) = answer else {
            return Ok(None);
        };
        let mut setup = match exec {
            Some(_) => read_setup(dir.parent().and_then(Path::parent).unwrap_or(dir)).await?,
            None => read_setup(dir).await?,
        };
        if let Some(exec) = exec {
            setup.exit_file = self.inner.config.exec_exit_file(&setup.id, exec);
            setup.dir = dir.to_owned();
            setup.exec = Some(exec.clone());
        }
        Ok(Some(self.link(setup, stream, received, info)))
    }

    /// How the last recorded run of the container ended.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn recorded_exit(&self, id: &ContainerId) -> Result<Option<ExitStatus>, RuntimeError> {
        let recorded = read_exit(&self.inner.config.exit_file(id))?;
        // Where a shim writes when the disk is full.
        let spare = read_exit(&self.inner.config.dir(id).join(EXIT))?;
        Ok(recorded.into_iter().chain(spare).max_by_key(|status| status.generation))
    }

    /// Ends everything that is left of a container's run: processes, cgroups
    /// and the directory below exec-root. Can be repeated; that nothing is
    /// left is success.
    ///
    /// # Errors
    /// When something could not be removed; everything else was, though.
    pub async fn cleanup(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        cleanup(&self.inner.config, Arc::clone(&self.inner.host), id).await
    }

    /// Prepares a further process in a running container: starts its shim, to
    /// which clients can attach. [`ExecProcess::start`] runs it.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`] when the container has no shim.
    pub async fn exec(
        &self,
        id: &ContainerId,
        request: ExecRequest,
    ) -> Result<ExecProcess, RuntimeError> {
        let exec = request.id.clone();
        let base = read_setup(&self.inner.config.dir(id)).await?;
        let inner = Arc::clone(&self.inner);
        let (setup, stream) = blocking(move || {
            let (setup, process) = prepare::exec(&inner.config, base, request);
            let stream = launch::launch(&inner.config, &setup, ("process.json", &process))?;
            Ok((setup, stream))
        })
        .await?;
        let link = self.boot(setup, stream).await?;
        Ok(ExecProcess::new(exec, link))
    }

    /// Finds the living shim of an exec that an earlier daemon started.
    /// `None` when there is none; [`Runtime::recorded_exec_exit`] then tells
    /// how it ended.
    ///
    /// # Errors
    /// When there is one, but it can't be talked to.
    pub async fn connect_exec(
        &self,
        id: &ContainerId,
        exec: &ExecId,
    ) -> Result<Option<ExecProcess>, RuntimeError> {
        let dir = self.inner.config.exec_dir(id, exec);
        let link = self.reconnect(&dir, Some(exec)).await?;
        Ok(link.map(|link| ExecProcess::new(exec.clone(), link)))
    }

    /// Ends what is left of an exec, its exit record included. An exec that is
    /// not removed goes with its container.
    ///
    /// # Errors
    /// When its directory can't be removed.
    pub async fn remove_exec(&self, id: &ContainerId, exec: &ExecId) -> Result<(), RuntimeError> {
        cleanup::remove_exec(self.inner.config.exec_dir(id, exec)).await
    }

    /// How an exec ended; known until [`Runtime::remove_exec`] or the
    /// container's next cleanup.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn recorded_exec_exit(
        &self,
        id: &ContainerId,
        exec: &ExecId,
    ) -> Result<Option<ExitStatus>, RuntimeError> {
        read_exit(&self.inner.config.exec_exit_file(id, exec))
    }
}

/// What the shim of a container was told.
async fn read_setup(dir: &Path) -> Result<Setup, RuntimeError> {
    let path = dir.join(SETUP);
    match tokio::fs::read(&path).await {
        Ok(json) => serde_json::from_slice(&json)
            .map_err(|e| RuntimeError::io("reading", path.display(), e.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let id = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            Err(RuntimeError::NotRunning { what: format!("container {id}") })
        }
        Err(e) => Err(RuntimeError::io("reading", path.display(), e)),
    }
}
