//! The data-plane process, `sampan proxy`: it answers for names inside the
//! sandboxes, also while the daemon is not there.
//!
//! ```text
//! daemon: Client ──unix socket──> process: server ── sockets in each sandbox
//!                                    │  dns (pure): names of containers
//!                                    └─ upstream: everything else, asked in races
//! ```
//!
//! Be aware:
//! - The process has one thread, but for a helper that enters namespaces.
//! - What it is told it keeps in memory only: the daemon says it again to a
//!   new one.
#![forbid(unsafe_code)]

pub mod cache;
mod client;
pub mod dns;
mod fill;
mod host;

mod paths;
mod process;
mod protocol;
pub mod redirect;
mod server;
mod upstream;

pub use client::{Client, ClientConfig};
pub use process::main;
pub use protocol::Status;
