//! Device filters of cgroups.
//!
//! Be aware:
//! - A program attached here stays with the cgroup: it goes away when the
//!   cgroup does, not when this process ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

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

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Other programs may be attached beside it; all of them must agree.
const ALLOW_MULTI: u32 = 2;

/// `union bpf_attr` for loading a program; what is not there is zero.
#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

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
    let loaded = load(program)?;
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

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let count = u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let load = Load {
        program_type: TYPE_CGROUP_DEVICE,
        count,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: both pointers in `load` are to memory that lives until the call
    // returns: `count` instructions and a text that ends with a zero.
    let fd = unsafe {
        let attr = std::ptr::from_ref(&load);
        libc::syscall(libc::SYS_bpf, PROG_LOAD, attr, size_of::<Load>())
    };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
