//! eBPF: device filters of cgroups, and the programs of `bpf/`.
//!
//! Be aware:
//! - The programs of `bpf/` are compiled by `build.rs` and are part of this
//!   crate; loading them takes a millisecond or two.

mod call;
mod connect;
mod device;
mod object;
mod published;
mod redirect;
mod take;

pub use connect::{Connect, Place, detach_connect, is_connect_attached};
pub use device::{Instruction, attach_device_filter};
pub use object::ProgramError;
pub use published::{Leads, Published, PublishedPlace};
pub use redirect::{Redirect, RedirectError};
