//! Removing what belongs to no record: file systems, directories, processes
//! and cgroups of containers that do not exist.

use std::collections::HashSet;
use std::path::Path;

use sampan_runtime::cgroup::Cgroup;
use sampan_types::ContainerId;

use crate::Engine;
use crate::error::EngineError;
use crate::record::{self, ContainerRecord};

impl Engine {
    /// Removes everything of containers that are not in `known`.
    pub(super) async fn sweep(&self, known: &HashSet<ContainerId>) {
        let config = &self.inner.config;
        for id in strangers(&config.exec_root.join("containers"), known) {
            if let Err(error) = self.inner.runtime.cleanup(&id).await {
                tracing::warn!(container = id.short(), %error, "a run is left over");
            }
        }
        for id in self.stray_cgroups(known) {
            let path = Path::new("/").join(config.cgroup_parent.trim_start_matches('/'));
            let cgroup = Cgroup::new(self.inner.cgroups.clone(), &path.join(id.as_str()));
            let removed = self
                .blocking(move || {
                    cgroup.kill_all()?;
                    Ok(cgroup.remove()?)
                })
                .await;
            if let Err(error) = removed {
                tracing::warn!(container = id.short(), %error, "a cgroup is left over");
            }
        }
        if let Err(error) = self.image_store().sweep(known).await {
            tracing::warn!(%error, "file systems are left over");
        }
        for id in strangers(&config.data_root.join("containers"), known) {
            let dir = config.data_root.join("containers").join(id.as_str());
            let removed = self
                .blocking(move || {
                    let _ = sampan_sys::mount::unmount(&dir.join("shm"));
                    sampan_sys::file::remove_tree(&dir)
                        .map_err(|e| EngineError::io("remove", dir.display(), e))
                })
                .await;
            if let Err(error) = removed {
                tracing::warn!(container = id.short(), %error, "a directory is left over");
            }
        }
    }

    /// Containers that have a cgroup of this instance but no record.
    fn stray_cgroups(&self, known: &HashSet<ContainerId>) -> HashSet<ContainerId> {
        let host = &self.inner.cgroups;
        let parent = self.inner.config.cgroup_parent.trim_start_matches('/');
        host.v1
            .iter()
            .map(|(_, mount)| mount)
            .chain(host.unified.iter())
            .flat_map(|mount| strangers(&mount.join(parent), known))
            .collect()
    }
}

/// The directories below `dir` that bear the id of no known container.
fn strangers(dir: &Path, known: &HashSet<ContainerId>) -> Vec<ContainerId> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<ContainerId>().ok())
        .filter(|id| !known.contains(id))
        .collect()
}

/// The copies of records that lie beside the bundles of running containers.
pub(super) fn copies(dir: &Path) -> Vec<(ContainerId, ContainerRecord)> {
    strangers(dir, &HashSet::new())
        .into_iter()
        .filter_map(|id| {
            let bytes = std::fs::read(dir.join(id.as_str()).join("record.json")).ok()?;
            match record::decode(&record::key(&id), &bytes) {
                Ok(record) if record.id == id => Some((id, record)),
                Ok(_) => None,
                Err(error) => {
                    tracing::error!(container = id.short(), %error, "the copy is not readable");
                    None
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_those_without_a_record() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (ContainerId::random(), ContainerId::random());
        for id in [&a, &b] {
            std::fs::create_dir(dir.path().join(id.as_str())).unwrap();
        }
        std::fs::create_dir(dir.path().join("something")).unwrap();
        assert_eq!(strangers(dir.path(), &HashSet::from([a])), [b]);
        assert!(strangers(&dir.path().join("none"), &HashSet::new()).is_empty());
    }

    #[test]
    fn copies_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let record = crate::container::tests::record(&"ab".repeat(32), "web");
        let own = dir.path().join(record.id.as_str());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("record.json"), record::encode(&record).unwrap()).unwrap();
        let broken = dir.path().join(ContainerId::random().as_str());
        std::fs::create_dir(&broken).unwrap();
        std::fs::write(broken.join("record.json"), b"{").unwrap();
        assert_eq!(copies(dir.path()), [(record.id.clone(), record)]);
    }
}
