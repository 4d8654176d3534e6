//! ioctl(2) with an argument that is a number or a structure.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// An ioctl that reads and writes the structure `argument`.
///
/// # Safety
/// `request` must be one whose argument is a pointer to a `T`, laid out as the
/// kernel has it, and that stores no pointer to it.
pub(crate) unsafe fn with<T>(fd: impl AsFd, request: u32, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the structure lives until the call returns, the rest is the
    // caller's promise.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl that reads and writes a structure and what follows it in `buffer`.
///
/// # Safety
/// `request` must be one whose argument is a pointer to a structure that tells
/// how long it is with what follows, here no longer than `buffer`, and that
/// stores no pointer to it.
pub(crate) unsafe fn with_bytes(fd: impl AsFd, request: u32, buffer: &mut [u8]) -> io::Result<i32> {
    // SAFETY: the buffer lives until the call returns, the rest is the caller's
    // promise.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, buffer.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl whose argument is a plain number.
///
/// # Safety
/// `request` must be one whose argument is no pointer.
pub(crate) unsafe fn number(
    fd: impl AsFd,
    request: u32,
    argument: libc::c_ulong,
) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
