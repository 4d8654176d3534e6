//! An emulated machine, for what the kernel at hand can't do: Debian's cloud
//! kernel in qemu, with a root file system that the test makes.
//!
//! ```text
//! Kernel::find ── Image::new ─ programs, modules, files ─ Image::pack ── Machine::boot ── lines
//! ```
//!
//! Be aware:
//! - The machine has no network device and no disk: it can't reach anything.
//! - Emulation works on every host. KVM, where `SAMPAN_VM_ACCEL=kvm` asks for
//!   it, is faster; it is not probed for, since it may be there and not work.
//! - What the machine says comes by its serial console, line by line.

mod archive;
mod image;
mod kernel;
mod machine;

pub use image::Image;
pub use kernel::Kernel;
pub use machine::{Line, Machine};

use crate::lan::skip;
use crate::program::missing_programs;

/// The kernel to boot; `None`, with a line that says why, on a machine that
/// can't emulate one.
#[must_use]
pub fn kernel_or_skip(test: &str) -> Option<Kernel> {
    let missing = missing_programs(&["qemu-system-x86_64", "strip", "ldd"]);
    if !missing.is_empty() {
        skip(test, &format!("not installed: {}", missing.join(", ")));
        return None;
    }
    let kernel = Kernel::find();
    if kernel.is_none() {
        skip(test, "no kernel to emulate: install linux-image-cloud-amd64");
    }
    kernel
}
