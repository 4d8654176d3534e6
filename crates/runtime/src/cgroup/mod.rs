//! Control groups of v1, hybrid and v2 hosts behind one type.
//!
//! Be aware:
//! - On a hybrid host the controllers are in v1 hierarchies; the v2 one has
//!   none, but its events and `cgroup.kill` serve for all processes that are
//!   in it too.
//! - v1 tells nobody when a group froze or became empty. Only there the state
//!   is read again after a pause, a bounded number of times.
//! - Everything but [`Cgroup::freeze`] is synchronous. [`Cgroup::kill_all`]
//!   and [`Cgroup::remove`] may take seconds in the worst case.

mod ahead;
mod detect;
mod files;
mod freeze;
mod kill;
mod limits;
mod stats;
mod tree;
mod weights;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

    /// The v1 directory of `controller`.
    fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.host.v1_mount(controller).map(|mount| self.below(mount))
    }

    /// The v2 directory.
    fn unified(&self) -> Option<PathBuf> {
        self.host.unified.as_deref().map(|mount| self.below(mount))
    }

    /// The directory in which limits of `controller` are set.
    fn controller(&self, controller: &str) -> Option<PathBuf> {
        match self.host.version {
            CgroupVersion::V2 => self.unified(),
            _ => self.v1(controller),
        }
    }

    fn below(&self, mount: &Path) -> PathBuf {
        mount.join(self.path.strip_prefix("/").unwrap_or(&self.path))
    }
}
