//! Test hosts: what the tests drive a real daemon on, with the real docker
//! command and real packets.
//!
//! A [`Lan`] is a bridge in a network namespace of its own. A [`Host`] is a
//! process that holds private network, mount, PID, UTS and IPC namespaces and
//! is joined to the LAN by a veth named `eth0`. The LAN's own namespace plays
//! the client that lives on no host ([`Lan::outside`]).
//!
//! Be aware:
//! - Nothing here sends a packet out of these namespaces.
//! - Every LAN and host is anonymous: it lives as long as its holder process,
//!   so a killed test leaves nothing behind and tests run in parallel.
//! - Needs root, util-linux, iproute2, curl, the docker command and a static
//!   busybox; [`Lan::new_or_skip`] says what is missing, visibly.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

mod disk;
mod events;
mod host;
mod lan;
mod plugin;
mod program;
mod rootfs;
mod share;
pub mod vm;

pub use disk::Disk;
pub use events::EventStream;
pub use host::{Daemon, Host, Response};
pub use lan::{Lan, skip};
pub use plugin::{Plugin, PluginAnswer};
pub use program::{Failure, Outcome, missing_programs};
pub use rootfs::{add_program, busybox_rootfs};
pub use share::Share;

use std::time::{Duration, Instant};

/// By how much slower than alone a test runs on this machine at the moment:
/// programs that want to run, for each processor. What has to end within some
/// time, or is waited for in vain, gets that much more.
#[must_use]
pub fn busy() -> u32 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    slowness(&text, cores)
}

/// From `/proc/loadavg`: the mean of the last minute, and how many want to run
/// at this moment.
fn slowness(loadavg: &str, cores: f64) -> u32 {
    let mut fields = loadavg.split_whitespace();
    let mean = fields.next().and_then(|f| f.parse().ok()).unwrap_or(0.0_f64);
    let now = fields.nth(2).and_then(|f| f.split('/').next()?.parse().ok()).unwrap_or(0.0);
    (mean.max(now) / cores).ceil().clamp(1.0, 16.0) as u32
}

/// Waits until `condition` returns something, for what no event tells: a
/// kernel counter, a file in a container. Looks again every 20 ms.
///
/// # Panics
/// When it does not hold within `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_of_the_queues_counts() {
        for (text, slower) in [
            ("0.10 0.2 0.3 1/200 9", 1),
            ("7.90 0.2 0.3 1/200 9", 4),
            ("0.10 0.2 0.3 9/200 9", 5),
            ("900.0 0.2 0.3 1/200 9", 16),
            ("", 1),
        ] {
            assert_eq!(slowness(text, 2.0), slower, "{text}");
        }
    }
}
