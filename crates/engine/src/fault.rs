//! The engine's fault points, see [`sampan_sys::fault`].
//!
//! Be aware: every name used in the code stands in [`POINTS`]; the macro
//! refuses to compile with another one.

/// All fault points, so that a test can iterate over them. Each is before or
/// after one side effect.
pub const POINTS: &[&str] = &[
    "create:before-record",
    "create:after-record",
    "create:after-volume",
    "create:after-snapshot",
    "create:after-copy-up",
    "create:after-finish",
    "start:before-record",
    "start:after-record",
    "start:after-mount",
    "start:after-files",
    "start:after-join",
    "start:after-create",
    "start:after-copy",
    "start:before-start",
    "start:after-start",
    "start:after-running",
    "stop:before-record",
    "stop:after-record",
    "stop:after-signal",
    "stop:after-kill",
    "pause:after-freeze",
    "pause:after-record",
    "unpause:after-thaw",
    "unpause:after-record",
    "exit:before-cleanup",
    "exit:after-leave",
    "exit:after-unmount",
    "exit:after-cleanup",
    "exit:after-record",
    "exit:after-shared-leave",
    "restart:before-start",
    "rename:after-record",
    "update:after-cgroup",
    "update:after-record",
    "publish:after-record",
    "publish:after-kernel",
    "policy-create:after-record",
    "policy-create:after-kernel",
    "policy-remove:after-record",
    "remove:before-record",
    "remove:after-record",
    "remove:after-runtime",
    "remove:after-snapshot",
    "remove:after-directory",
    "remove:after-volumes",
    "remove:after-delete",
    "network-create:before-record",
    "network-create:after-record",
    "network-create:after-kernel",
    "network-remove:before-kernel",
    "network-remove:after-kernel",
    "network-remove:after-record",
    "network-connect:before-record",
    "network-connect:after-record",
    "network-connect:after-kernel",
    "network-disconnect:before-record",
    "network-disconnect:after-record",
    "network-migrate:before",
    "network-migrate:after-off",
    "network-migrate:after-record",
    "network-migrate:after-kernel",
    "network-disconnect:after-kernel",
    "exec:after-create",
    "exec:after-start",
    "freeze:after-record",
    "freeze:after-hold",
    "volume-rename:after-record",
    "volume-rename:after-volume",
    "volume-rename:after-container",
    "reconcile:before",
    "reconcile:after-adopt",
    "reconcile:after-network",
    "reconcile:after-sweep",
];

/// Those of backups, which are passed by backups and restorings of volumes.
pub const BACKUPS: &[&str] = &[
    "volume-backup:after-clone-record",
    "volume-backup:after-clone",
    "volume-backup:before-backup",
    "volume-backup:after-backup",
    "volume-backup:after-outcome",
    "backup-restore:before-record",
    "backup-restore:after-record",
    "backup-restore:after-create",
    "backup-restore:after-fill",
    "backup-restore:before-whole",
    "backup-restore:after-whole",
    "backup-restore:after-remove",
    "backup-restore:after-rename",
];

/// Those of volumes, which are passed by work on volumes only.
pub use sampan_volume::fault::POINTS as VOLUMES;

/// Marks a place before or after a side effect. See the module's documentation.
#[macro_export]
macro_rules! fault {
    ($name:literal) => {
        const {
            assert!(
                sampan_sys::fault::contains($crate::fault::POINTS, $name)
                    || sampan_sys::fault::contains($crate::fault::BACKUPS, $name),
                "not in fault::POINTS"
            )
        };
        #[cfg(feature = "fault-points")]
        sampan_sys::fault::hit($name);
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for point in POINTS.iter().chain(BACKUPS).chain(VOLUMES) {
            assert!(seen.insert(point), "{point} twice");
        }
    }
}
