//! A directory with a limit: a project quota of ext4 or xfs.
//!
//! Be aware:
//! - Project ids belong to the file system, and others use some as well. One
//!   is taken only when no volume has it, `/etc/projects` does not name it, and
//!   the file system counts nothing for it and limits it to nothing.
//! - A limit that a crash left behind makes its id look used: it is skipped.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sampan_sys::{fsattr, mount, quota};

use super::Usage;
use crate::VolumeError;

/// The first id that is tried: far from those that people and other programs
/// count up from.
const FIRST: u32 = 1_400_000_000;
/// How many are tried.
const COUNT: u32 = 1 << 20;

/// The project ids of all volumes below one root.
#[derive(Debug, Default)]
pub(crate) struct Projects {
    /// Those in use. Held while one is looked for, or taken from the set.
    taken: Mutex<BTreeSet<u32>>,
}

impl Projects {
    /// Those that records name.
    pub(crate) fn new(taken: impl IntoIterator<Item = u32>) -> Self {
        Self { taken: Mutex::new(taken.into_iter().collect()) }
    }

    /// Takes a free id of the file system of `root`.
    pub(super) fn claim(&self, root: &Path) -> Result<u32, VolumeError> {
        let failed = |e| VolumeError::io("find a free project id for", root)(e);
        let device = device(root).map_err(failed)?;
        let named = named();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for id in (FIRST..FIRST + COUNT).filter(|id| !named.contains(id)) {
            if taken.contains(&id) {
                continue;
            }
            let found = quota::project(root, &device, id)
                .map_err(VolumeError::io("find a free project id for", root))?;
            if (found.bytes, found.files, found.limit) == (0, 0, 0) {
                taken.insert(id);
                return Ok(id);
            }
        }
        Err(VolumeError::io("find a free project id for", root)(io::Error::other(
            "all of them are in use",
        )))
    }

    /// Gives an id back.
    pub(super) fn release(&self, id: u32) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// Whether the file system of `root` is mounted with project quotas.
pub(super) fn available(root: &Path) -> io::Result<bool> {
    if !matches!(fsattr::magic(root)?, fsattr::EXT4 | fsattr::XFS) {
        return Ok(false);
    }
    Ok(mounted(root)?.is_some_and(|m| {
        // With "noenforce" it only counts.
        m.options.split(',').any(|o| o == "prjquota" || o == "pquota")
    }))
}

/// Puts the empty directory `data` into the project, and limits that.
pub(super) fn apply(data: &Path, id: u32, limit: Option<u64>) -> Result<(), VolumeError> {
    fsattr::set_project(data, id).map_err(VolumeError::io("set the project of", data))?;
    set_limit(data, id, limit)
}

/// Gives the project of `dir`, or of what else is on that file system, another
/// limit.
pub(super) fn set_limit(dir: &Path, id: u32, limit: Option<u64>) -> Result<(), VolumeError> {
    device(dir)
        .and_then(|device| quota::limit_project(dir, &device, id, limit.unwrap_or(0)))
        .map_err(VolumeError::io("set the project quota of", dir))
}

/// The project of a directory, when it is one that we gave it.
pub(super) fn of(data: &Path) -> Option<u32> {
    let id = fs::File::open(data).and_then(fsattr::project).ok()?;
    (FIRST..FIRST + COUNT).contains(&id).then_some(id)
}

/// What the project holds.
pub(super) fn usage(dir: &Path, id: u32) -> Result<Usage, VolumeError> {
    let found = device(dir)
        .and_then(|device| quota::project(dir, &device, id))
        .map_err(VolumeError::io("read the project quota of", dir))?;
    Ok(Usage { bytes: found.bytes, limit: Some(found.limit).filter(|l| *l > 0) })
}

/// The block device below `path`.
fn device(path: &Path) -> io::Result<PathBuf> {
    let found = mounted(path)?;
    found.map(|m| PathBuf::from(m.source)).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The mount that `path` is in.
fn mounted(path: &Path) -> io::Result<Option<mount::MountEntry>> {
    let path = path.canonicalize()?;
    let mounts = mount::list()?;
    let depth = |m: &mount::MountEntry| m.target.components().count();
    // Of several at one place, the last one covers the others.
    Ok(mounts.into_iter().filter(|m| path.starts_with(&m.target)).max_by_key(depth))
}

/// The ids that the administrator named.
fn named() -> BTreeSet<u32> {
    let projects = fs::read_to_string("/etc/projects").unwrap_or_default();
    let ids = fs::read_to_string("/etc/projid").unwrap_or_default();
    named_in(&projects, &ids)
}

/// `/etc/projects` has `id:path`, `/etc/projid` has `name:id`.
fn named_in(projects: &str, ids: &str) -> BTreeSet<u32> {
    let first = projects.lines().filter_map(|l| l.split(':').next());
    let second = ids.lines().filter_map(|l| l.split(':').nth(1));
    first.chain(second).filter_map(|id| id.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_projects_are_left_alone() {
        let found = named_in("# none\n10:/srv\n11:/var\n", "logs:12\nbad\n");
        assert_eq!(found, BTreeSet::from([10, 11, 12]));
    }

    #[test]
    fn the_mount_of_a_path_is_the_deepest_one() {
        let dir = tempfile::tempdir().unwrap();
        let found = mounted(dir.path()).unwrap().unwrap();
        assert!(dir.path().canonicalize().unwrap().starts_with(&found.target));
        assert_eq!(mounted(Path::new("/proc/self")).unwrap().unwrap().fs_type, "proc");
    }
}
