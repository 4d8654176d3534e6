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

mod events;
mod host;
mod lan;
mod plugin;
mod program;
mod rootfs;
pub mod vm;

pub use events::EventStream;
pub use host::{Daemon, Host, Response};
pub use lan::{Lan, skip};
pub use plugin::{Plugin, PluginAnswer};
pub use program::{Failure, Outcome, missing_programs};
pub use rootfs::{add_program, busybox_rootfs};

use std::time::{Duration, Instant};

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
