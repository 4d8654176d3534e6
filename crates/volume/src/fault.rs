//! The fault points of volumes, see [`sampan_sys::fault`].

/// All of them. Each is before or after one side effect.
pub const POINTS: &[&str] = &[
    "volume-create:after-content",
    "volume-create:after-directory",
    "volume-create:after-key",
    "volume-create:after-image",
    "volume-create:after-format",
    "volume-create:after-rename",
    "volume-remove:after-rename",
    "volume-remove:after-unmount",
    "volume-remove:after-content",
    "volume-copy-up:after-mark",
    "volume-copy-up:after-content",
    "volume-mount:after-device",
    "volume-mount:after-mapping",
    "volume-mount:after-place",
    "volume-mount:after-mount",
    "volume-mount:after-key",
    "volume-unmount:after-unmount",
    "volume-resize:after-record",
    "volume-resize:after-image",
    "volume-resize:after-device",
    "volume-resize:after-resize",
    "volume-snapshot:after-content",
    "volume-snapshot:after-rename",
    "volume-snapshot:after-gone",
    "volume-clone:after-content",
    "volume-clone:after-rename",
    "volume-restore:after-content",
    "volume-restore:after-exchange",
    "volume-restore:after-record",
    "volume-rename:after-rename",
    "volume-send:after-stream",
    "volume-send:after-index",
    "volume-send:after-record",
    "volume-receive:after-content",
    "volume-receive:after-rename",
    "volume-receive:after-exchange",
    "volume-receive:after-record",
];

/// Marks a place before or after a side effect.
macro_rules! fault {
    ($name:literal) => {
        const {
            assert!(
                sampan_sys::fault::contains($crate::fault::POINTS, $name),
                "not in fault::POINTS"
            )
        };
        #[cfg(feature = "fault-points")]
        sampan_sys::fault::hit($name);
    };
}
pub(crate) use fault;
