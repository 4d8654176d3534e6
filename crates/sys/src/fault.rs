//! Fault points: places where a test lets the daemon die.
//!
//! Be aware:
//! - Each crate that has such places keeps their names in a list of its own
//!   and has a macro that refuses to compile with a name that is not in it.
//! - With the feature `fault-points`, the process aborts at the point that
//!   `SAMPAN_FAULT=name[:nth]` names, the `nth` time (from 1) that it gets
//!   there. Without, [`hit`] does not exist.

/// Whether `name` is among `points`; for the compiler.
#[must_use]
pub const fn contains(points: &[&str], name: &str) -> bool {
    let mut i = 0;
    while i < points.len() {
        if same(points[i].as_bytes(), name.as_bytes()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole() {
        let points = &["start:after-record", "stop"];
        assert!(contains(points, "stop"));
        assert!(!contains(points, "start"));
        assert!(!contains(points, "stopped"));
    }

    #[test]
    fn the_nth_time_is_read() {
        assert_eq!(parse("start:after-record"), Some(("start:after-record".into(), 1)));
        assert_eq!(parse("start:after-record:3"), Some(("start:after-record".into(), 3)));
        assert_eq!(parse(""), None);
    }
}
