//! What the results of bare system calls mean.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The result, unless it says that the call failed.
pub(crate) fn done(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The descriptor that the call has just made for us, and for nobody else.
pub(crate) fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(done(result)?).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
