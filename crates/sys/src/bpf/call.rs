//! bpf(2): maps and programs as descriptors.
//!
//! Be aware: each structure is the beginning of `union bpf_attr` for one
//! command (`linux/bpf.h`); the kernel takes what is not there as zero.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Instruction;
use crate::syscall::{done, owned};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
pub(super) const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;
/// `BPF_OBJ_NAME_LEN`, with the final zero.
pub(super) const NAME_LENGTH: usize = 16;

/// What a map is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapShape {
    pub kind: u32,
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub flags: u32,
}

#[repr(C)]
struct CreateMap {
    shape: [u32; 5],
    inner: u32,
    numa_node: u32,
    name: [u8; NAME_LENGTH],
}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_LENGTH],
    interface: u32,
    attach_type: u32,
}

/// For pinning an object, and for getting one that is.
#[repr(C)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

/// For `LINK_CREATE`: program, target, attach type, flags; for `LINK_UPDATE`:
/// link, program, flags.
#[repr(C)]
struct Link([u32; 4]);

#[repr(C)]
pub(super) struct Info {
    pub object: u32,
    pub length: u32,
    pub into: u64,
}

pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

pub(super) fn address<T>(at: *const T) -> u64 {
    at.expose_provenance() as u64
}

/// A name as the kernel takes it: cut to its length, other characters than
/// letters, digits, `_` and `.` replaced.
pub(super) fn kernel_name(name: &str) -> [u8; NAME_LENGTH] {
    let mut bytes = [0; NAME_LENGTH];
    for (to, from) in bytes.iter_mut().zip(name.bytes()).take(NAME_LENGTH - 1) {
        *to = if from.is_ascii_alphanumeric() || b"_.".contains(&from) { from } else { b'_' };
    }
    bytes
}

/// # Safety
/// What `attr` points to has to be as the command wants it, until the return.
pub(super) unsafe fn call<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes as `attr` has, and what they
    // point to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    done(result)
}

pub(super) fn create_map(name: &str, shape: MapShape) -> io::Result<OwnedFd> {
    let attr = CreateMap {
        shape: [shape.kind, shape.key, shape.value, shape.entries, shape.flags],
        inner: 0,
        numa_node: 0,
        name: kernel_name(name),
    };
    // SAFETY: nothing in it is a pointer.
    owned(unsafe { call(MAP_CREATE, &attr) }?)
}

/// Sets an entry, whether or not it is there.
pub(super) fn set<const K: usize, const V: usize>(
    map: &OwnedFd,
    key: [u8; K],
    value: [u8; V],
) -> io::Result<()> {
    let attr = Element {
        map: number(map.as_fd()),
        padding: 0,
        key: address(key.as_ptr()),
        value: address(value.as_ptr()),
        flags: 0,
    };
    // SAFETY: key and value live until the return, and this module's callers
    // make maps of exactly these sizes.
    unsafe { call(MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// Removes an entry. Absence is success.
pub(super) fn remove<const K: usize>(map: &OwnedFd, key: [u8; K]) -> io::Result<()> {
    let attr = Element {
        map: number(map.as_fd()),
        padding: 0,
        key: address(key.as_ptr()),
        value: 0,
        flags: 0,
    };
    // SAFETY: as in `set`.
    match unsafe { call(MAP_DELETE_ELEM, &attr) } {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Loads a program of our licence.
pub(super) fn load(kind: u32, name: &str, program: &[Instruction]) -> io::Result<OwnedFd> {
    load_for(kind, 0, name, program, c"Apache-2.0")
}

/// As [`load`], for one of the hooks of its kind, and of another licence: some
/// helpers are for those only that the GPL accepts.
pub(super) fn load_for(
    kind: u32,
    attach_type: u32,
    name: &str,
    program: &[Instruction],
    license: &CStr,
) -> io::Result<OwnedFd> {
    let count = u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attr = Load {
        program_type: kind,
        count,
        instructions: address(program.as_ptr()),
        license: address(license.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: kernel_name(name),
        interface: 0,
        attach_type,
    };
    // SAFETY: both pointers are to memory that lives until the return:
    // `count` instructions and a text that ends with a zero.
    owned(unsafe { call(PROG_LOAD, &attr) }?)
}

/// A program's number in the kernel.
pub(super) fn program_id(program: &OwnedFd) -> io::Result<u32> {
    // `struct bpf_prog_info` begins with type and number.
    let mut info = [0_u32; 2];
    let attr = Info {
        object: number(program.as_fd()),
        length: u32::try_from(size_of_val(&info)).unwrap_or(0),
        into: address(info.as_mut_ptr()),
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which lives
    // until the return.
    unsafe { call(OBJ_GET_INFO_BY_FD, &attr) }?;
    Ok(info[1])
}

/// Attaches a program to a control group or another target. The link ends
/// with its last descriptor or name.
pub(super) fn link(
    program: &OwnedFd,
    target: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attr = Link([number(program.as_fd()), number(target), attach_type, 0]);
    // SAFETY: nothing in it is a pointer.
    owned(unsafe { call(LINK_CREATE, &attr) }?)
}

/// Puts another program in the place of a link's, in one step.
pub(super) fn update_link(link: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    let attr = Link([number(link.as_fd()), number(program.as_fd()), 0, 0]);
    // SAFETY: nothing in it is a pointer.
    unsafe { call(LINK_UPDATE, &attr) }.map(drop)
}

/// Takes a link's program off at once, whoever else has the link.
pub(super) fn detach_link(link: &OwnedFd) -> io::Result<()> {
    let attr = Link([number(link.as_fd()), 0, 0, 0]);
    // SAFETY: nothing in it is a pointer.
    unsafe { call(LINK_DETACH, &attr) }.map(drop)
}

/// Gives an object a name in a bpf file system, which keeps it.
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attr = Pin { path: address(name.as_ptr()), object: number(object.as_fd()), flags: 0 };
    // SAFETY: the name ends with a zero and lives until the return.
    unsafe { call(OBJ_PIN, &attr) }.map(drop)
}

/// The object with a name in a bpf file system.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attr = Pin { path: address(name.as_ptr()), object: 0, flags: 0 };
    // SAFETY: as in `pin`.
    owned(unsafe { call(OBJ_GET, &attr) }?)
}
