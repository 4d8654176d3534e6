//! Project quotas: how much the files of a project hold, and may hold.
//!
//! Be aware:
//! - The generic commands serve ext4 and xfs alike; the kernel translates.
//! - quotactl_fd(2) needs Linux 5.14. Before that the block device is named.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `PRJQUOTA`.
const PROJECT: libc::c_int = 2;
/// `Q_GETQUOTA`.
const GET: libc::c_int = 0x80_0007;
/// `Q_SETQUOTA`.
const SET: libc::c_int = 0x80_0008;
/// `QIF_BLIMITS`.
const BLOCK_LIMITS: u32 = 1;
/// The unit of limits; usage is in bytes.
const BLOCK: u64 = 1024;

/// What a project holds and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// Bytes that its files take.
    pub bytes: u64,
    /// How many files it has.
    pub files: u64,
    /// Bytes that it may take; 0 for any number.
    pub limit: u64,
}

/// What project `id` holds on the file system of `dir`, whose block device is
/// `device`.
///
/// # Errors
/// Those of quotactl(2): ESRCH when project quotas are not on, ENOSYS when
/// the kernel has none.
pub fn project(dir: &Path, device: &Path, id: u32) -> io::Result<Project> {
    let mut found = MaybeUninit::<libc::dqblk>::zeroed();
    match call(dir, device, GET, id, found.as_mut_ptr()) {
        Ok(()) => {}
        // xfs: nobody ever used this id.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
        Err(e) => return Err(e),
    }
    // SAFETY: it was zeroed, and zeroes are a valid value of each field.
    let found = unsafe { found.assume_init() };
    Ok(Project {
        bytes: found.dqb_curspace,
        files: found.dqb_curinodes,
        limit: found.dqb_bhardlimit.saturating_mul(BLOCK),
    })
}

/// Lets project `id` take `bytes` on the file system of `dir`, whose block
/// device is `device`; 0 for any number.
///
/// # Errors
/// Those of quotactl(2).
pub fn limit_project(dir: &Path, device: &Path, id: u32, bytes: u64) -> io::Result<()> {
    // SAFETY: zeroes are a valid value of each field.
    let mut wanted: libc::dqblk = unsafe { MaybeUninit::zeroed().assume_init() };
    wanted.dqb_bhardlimit = bytes.div_ceil(BLOCK);
    wanted.dqb_bsoftlimit = 0;
    wanted.dqb_valid = BLOCK_LIMITS;
    call(dir, device, SET, id, &raw mut wanted)
}

fn call(
    dir: &Path,
    device: &Path,
    command: libc::c_int,
    id: u32,
    data: *mut libc::dqblk,
) -> io::Result<()> {
    // QCMD(command, PRJQUOTA).
    let command = (command << 8) | PROJECT;
    let dir = File::open(dir)?;
    // SAFETY: both commands take a pointer to a dqblk that the caller owns.
    let result =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, dir.as_raw_fd(), command, id, data) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::ENOSYS) {
        return Err(error);
    }
    let device = CString::new(device.as_os_str().as_bytes())?;
    // SAFETY: as above; the name ends in NUL.
    let result = unsafe { libc::syscall(libc::SYS_quotactl, command, device.as_ptr(), id, data) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
