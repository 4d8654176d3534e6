//! Device filters of cgroups.
//!
//! Be aware:
//! - A program attached here stays with the cgroup: it goes away when the
//!   cgroup does, not when this process ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use super::call;

/// One instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Instruction {
    /// The operation.
    pub code: u8,
    /// The destination register in the lower half, the source in the upper.
    pub registers: u8,
    /// An offset, of a jump or into memory.
    pub offset: i16,
    /// A constant.
    pub constant: i32,
}

const PROG_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Other programs may be attached beside it; all of them must agree.
const ALLOW_MULTI: u32 = 2;

/// `union bpf_attr` for attaching one.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Lets `program` decide about every access to a device by processes in the
/// v2 cgroup whose directory is `cgroup`.
///
/// # Errors
/// Those of bpf(2): `EACCES` when the verifier refuses the program, `EPERM`
/// without the privilege.
pub fn attach_device_filter(cgroup: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let loaded = call::load(TYPE_CGROUP_DEVICE, "sampan_devices", program)?;
    let descriptor = |fd: RawFd| u32::try_from(fd).unwrap_or(u32::MAX);
    let attach = Attach {
        target: descriptor(cgroup.as_fd().as_raw_fd()),
        program: descriptor(loaded.as_raw_fd()),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the kernel reads as many bytes as `attach` has; the call takes
    // no pointer out of it.
    let result = unsafe {
        let attr = std::ptr::from_ref(&attach);
        libc::syscall(libc::SYS_bpf, PROG_ATTACH, attr, size_of::<Attach>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
