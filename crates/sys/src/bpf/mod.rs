//! eBPF: device filters of cgroups, and the programs of `bpf/`.
//!
//! Be aware:
//! - The programs of `bpf/` are compiled by `build.rs` and are part of this
//!   crate; loading them takes a millisecond or two.

mod call;
mod device;
mod redirect;

pub use device::{Instruction, attach_device_filter};
pub use redirect::{Redirect, RedirectError};
