//! What is done to a container's mounts once libcontainer has made it.
//!
//! libcontainer gives all of a container's mounts one propagation: with one
//! shared bind, others would share too, and what it mounts in the container
//! while it makes it would appear on the host. So it makes all of them private,
//! and those that are to share are given the host's peers afterwards. And it
//! makes devices in whatever is at `/dev`, so a directory of the host is mounted
//! there afterwards, too.
//!
//! Be aware:
//! - The host's mounts are looked for before there is a container, and held by
//!   descriptors that its process inherits and execve closes.
//! - What else is mounted in a shared bind for the container stays its own.
//! - libcontainer opens the terminals of an exec by `/dev/ptmx`, and takes one on
//!   devpts only. So the container of a host's `/dev` has that of its `pts` there,
//!   which mostly nobody but root may open.

use std::io;
use std::path::{Path, PathBuf};

use sampan_sys::sharing::Origin;
use sampan_sys::tree::Tree;

use crate::protocol::{Below, Dev, Shared};

/// What is to be done, with what it takes of the host.
pub(super) struct Mounts {
    /// What is mounted over `/dev`.
    dev: Option<Tree>,
    /// What is to share with the host's.
    shared: Vec<Join>,
}

/// A mount of the container with what it is made of on the host.
struct Join {
    origin: Origin,
    /// In the container.
    target: PathBuf,
    slave: bool,
}

impl Mounts {
    /// Looks on the host for what it takes.
    pub(super) fn find(dev: Option<&Dev>, shared: &[Shared]) -> Result<Self, String> {
        let dev = dev.map(|dev| {
            copy(dev).map_err(|e| format!("copying the mounts of {}: {e}", dev.source.display()))
        });
        let find = |bind: &Shared| {
            let origin = Origin::of(&bind.source, bind.recursive)
                .map_err(|e| format!("looking for the mounts of {}: {e}", bind.source.display()))?;
            Ok(Join { origin, target: bind.target.clone(), slave: bind.slave })
        };
        let shared = shared.iter().map(find).collect::<Result<_, String>>()?;
        Ok(Self { dev: dev.transpose()?, shared })
    }

    /// Does it, in the container's namespace.
    pub(super) fn complete(&self) -> Result<(), String> {
        if let Some(tree) = &self.dev {
            cover_dev(tree).map_err(|e| format!("mounting /dev: {e}"))?;
        }
        self.shared.iter().try_for_each(|join| {
            let joined = join.origin.join(&join.target, join.slave);
            joined.map_err(|e| format!("sharing the mount {}: {e}", join.target.display()))
        })
    }
}

fn cover_dev(tree: &Tree) -> io::Result<()> {
    tree.attach(Path::new("/dev"))?;
    match Tree::of(Path::new("/dev/pts/ptmx"), false).and_then(|t| t.attach(Path::new("/dev/ptmx")))
    {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn copy(dev: &Dev) -> io::Result<Tree> {
    let tree = Tree::of(&dev.source, dev.recursive)?;
    tree.make_private()?;
    if let Some(below) = dev.read_only {
        tree.make_read_only(below == Below::Yes)?;
    }
    Ok(tree)
}
