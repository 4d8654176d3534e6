//! Control groups of v1, hybrid and v2 hosts behind one type.

mod stats;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

pub use stats::{BlkioEntry, BlkioStats, CgroupStats, CpuStats, MemoryStats, PidsStats};

/// Which cgroups the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Only v1 hierarchies.
    V1,
    /// Controllers in v1 hierarchies, and a v2 hierarchy without controllers.
    Hybrid,
    /// One v2 hierarchy.
    V2,
}

/// The cgroup file systems of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupHost {
    /// v1, hybrid or v2.
    pub version: CgroupVersion,
    /// The v2 hierarchy.
    pub unified: Option<PathBuf>,
    /// The v1 hierarchies: controllers (or `name=systemd`) and where each is mounted.
    pub v1: Vec<(Vec<String>, PathBuf)>,
}

/// Why something about a cgroup failed.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// The host has no cgroups that can be used.
    #[error("no cgroup hierarchy is mounted")]
    NotMounted,
    /// The kernel refused.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A limit needs a controller that is not there.
    #[error("the {0} cgroup controller is not available on this host")]
    NoController(&'static str),
    /// The processes did not freeze, thaw or end in time.
    #[error("{operation} the processes of {path}: not done after {seconds} s")]
    Timeout {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
}

impl Kind for CgroupError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoController(_) => ErrorKind::InvalidParameter,
            _ => ErrorKind::System,
        }
    }
}

impl CgroupHost {
    /// Reads which hierarchies are mounted where.
    ///
    /// # Errors
    /// [`CgroupError::NotMounted`], or when `/proc` can't be read.
    pub fn detect() -> Result<Self, CgroupError> {
        todo!()
    }
}

/// One cgroup: the directory of the same path in every hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    host: Arc<CgroupHost>,
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path` (absolute, `/sampan/<id>`); nothing is made.
    #[must_use]
    pub fn new(host: Arc<CgroupHost>, path: &Path) -> Self {
        Self { host, path: path.to_owned() }
    }

    /// The path in every hierarchy, for `SpecInput::cgroups_path`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directories in every hierarchy, with parents prepared so that
    /// limits can be set below them. Repeatable.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(&self) -> Result<(), CgroupError> {
        let _ = &self.host;
        todo!()
    }

    /// Moves the calling process into the v2 directory of a hybrid host, which
    /// libcontainer leaves out. Does nothing on other hosts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join_unified(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// What the processes have used. Files that are absent count as zero.
    ///
    /// # Errors
    /// When the cgroup does not exist.
    pub fn stats(&self) -> Result<CgroupStats, CgroupError> {
        todo!()
    }

    /// Changes the limits that `resources` sets; others stay.
    ///
    /// # Errors
    /// When a controller is missing or the kernel refuses a value.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let _ = resources;
        todo!()
    }

    /// Stops (or lets go on) all processes; returns when they are.
    ///
    /// # Errors
    /// [`CgroupError::Timeout`]: the change is taken back then.
    pub async fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let _ = frozen;
        todo!()
    }

    /// Whether the processes are frozen.
    ///
    /// # Errors
    /// When it can't be read; an absent cgroup is not frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        todo!()
    }

    /// The processes in it and below it. None when it does not exist.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        todo!()
    }

    /// How many processes the kernel killed for want of memory.
    ///
    /// # Errors
    /// When it can't be read; an absent cgroup has none.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        todo!()
    }

    /// Kills every process in it and below it, and waits until they are gone.
    /// Blocks for as long as that takes; repeatable.
    ///
    /// # Errors
    /// When the kernel refuses or processes do not go away.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Removes the directories with all below. Absence is success; repeatable.
    ///
    /// # Errors
    /// When processes are left in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        todo!()
    }
}
