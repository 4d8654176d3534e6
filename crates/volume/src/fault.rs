//! The fault points of volumes, see [`sampan_sys::fault`].

/// All of them. Each is before or after one side effect.
pub const POINTS: &[&str] =
    &["volume-create:after-content", "volume-create:after-rename", "volume-remove:after-rename"];

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
