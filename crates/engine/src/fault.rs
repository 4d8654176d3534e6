//! Fault points: places where a test lets the daemon die.
//!
//! Be aware:
//! - Without the feature `fault-points` the macro is nothing at all.
//! - With it, the process aborts at the point that `SAMPAN_FAULT=name[:nth]`
//!   names, the `nth` time (from 1) that it gets there.
//! - Every name used in the code stands in [`POINTS`]; the macro refuses to
//!   compile with another one.

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
    "reconcile:before",
    "reconcile:after-adopt",
    "reconcile:after-network",
    "reconcile:after-sweep",
];

/// Whether a name stands in [`POINTS`]; evaluated by the compiler.
#[must_use]
pub const fn is_point(name: &str) -> bool {
    let mut i = 0;
    while i < POINTS.len() {
        if same(POINTS[i].as_bytes(), name.as_bytes()) {
            return true;
        }
        i += 1;
    }
    false
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Aborts the process when `SAMPAN_FAULT` names this point for the nth time.
#[cfg(feature = "fault-points")]
pub fn hit(name: &str) {
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static HITS: OnceLock<Mutex<HashMap<String, u32>>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| parse(&std::env::var("SAMPAN_FAULT").ok()?));
    let Some((point, nth)) = wanted else { return };
    if point != name {
        return;
    }
    let mut hits = HITS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let count = hits.entry(name.to_owned()).or_default();
    *count += 1;
    if *count == *nth {
        tracing::warn!(point, nth, "fault point: aborting");
        std::process::abort();
    }
}

/// `name`, or `name:nth` with a number behind the last colon.
#[cfg(any(feature = "fault-points", test))]
fn parse(text: &str) -> Option<(String, u32)> {
    if text.is_empty() {
        return None;
    }
    match text.rsplit_once(':') {
        Some((name, nth)) if nth.bytes().all(|b| b.is_ascii_digit()) && !nth.is_empty() => {
            Some((name.to_owned(), nth.parse().ok()?))
        }
        _ => Some((text.to_owned(), 1)),
    }
}

/// Marks a place before or after a side effect. See the module's documentation.
#[macro_export]
macro_rules! fault {
    ($name:literal) => {
        const { assert!($crate::fault::is_point($name), "not in fault::POINTS") };
        #[cfg(feature = "fault-points")]
        $crate::fault::hit($name);
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let mut seen = std::collections::HashSet::new();
        for point in POINTS {
            assert!(seen.insert(point), "{point} twice");
            assert!(is_point(point));
        }
        assert!(!is_point("nowhere"));
    }

    #[test]
    fn the_nth_time_is_read() {
        assert_eq!(parse("start:after-record"), Some(("start:after-record".into(), 1)));
        assert_eq!(parse("start:after-record:3"), Some(("start:after-record".into(), 3)));
        assert_eq!(parse(""), None);
    }
}
