//! The bytes of one file: shared, or copied around its holes.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{self as rfs, SeekFrom, Stat};
use rustix::io::Errno;

/// Files up to this size are read and written at once: less to ask of the
/// kernel than `copy_file_range`, which is made for large ones.
const SMALL: u64 = 128 << 10;
/// How much is copied between two looks at whether to stop.
const CHUNK: u64 = 16 << 20;
/// The buffer where the kernel can't copy by itself.
pub(super) const BUFFER: usize = 256 << 10;

/// What is known of sharing content between the two file systems.
#[derive(Debug, Default)]
pub(super) struct Reflink(AtomicU8);

impl Reflink {
    const WORKS: u8 = 1;
    const NEVER: u8 = 2;

    /// Lets `to` share the content of `from`; false when that can't be.
    fn share(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool, Errno> {
        let known = self.0.load(Ordering::Relaxed);
        if known == Self::NEVER {
            return Ok(false);
        }
        match rfs::ioctl_ficlone(to, from) {
            Ok(()) => {
                self.0.store(Self::WORKS, Ordering::Relaxed);
                Ok(true)
            }
            Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO)) => Err(e),
            // What worked for others doesn't for this file alone: one that is
            // not to be copied on write.
            Err(_) if known == Self::WORKS => Ok(false),
            Err(Errno::INVAL | Errno::PERM | Errno::ACCESS) => Ok(false),
            Err(_) => {
                self.0.store(Self::NEVER, Ordering::Relaxed);
                Ok(false)
            }
        }
    }
}

/// Copies what `stat` says is in `from` to the empty file `to`. `copied` hears
/// of each piece and may end it.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &Stat,
    reflink: &Reflink,
    buffer: &mut [u8],
    copied: &mut dyn FnMut(u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 {
        return Ok(());
    }
    if reflink.share(from, to)? {
        return copied(size);
    }
    let on_disk = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if on_disk < size {
        return around_holes(from, to, size, buffer, copied);
    }
    if size > SMALL {
        return range(from, to, 0, size, buffer, copied);
    }
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::read(from, &mut buffer[..length])?;
        if read == 0 {
            break;
        }
        write_all(to, &buffer[..read], at)?;
        at += read as u64;
    }
    copied(at)
}

/// Copies the parts of a file that are no holes.
fn around_holes(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    buffer: &mut [u8],
    copied: &mut dyn FnMut(u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    // First, so that a hole at the end is one.
    rfs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let start = match rfs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole follows.
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL) => return range(from, to, at, size, buffer, copied),
            Err(e) => return Err(e),
        };
        let end = match rfs::seek(from, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e),
        };
        if end <= start {
            break;
        }
        range(from, to, start, end, buffer, copied)?;
        at = end;
    }
    Ok(())
}

/// Copies the bytes from `start` to `end`; fewer when the file ends before.
fn range(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    start: u64,
    end: u64,
    buffer: &mut [u8],
    copied: &mut dyn FnMut(u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while write_at < end {
        let length = usize::try_from((end - write_at).min(CHUNK)).unwrap_or(usize::MAX);
        match rfs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length) {
            Ok(0) => return Ok(()),
            Ok(n) => copied(n as u64)?,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return through_buffer(from, to, write_at, end, buffer, copied);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn through_buffer(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    start: u64,
    end: u64,
    buffer: &mut [u8],
    copied: &mut dyn FnMut(u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut at = start;
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::pread(from, &mut buffer[..length], at)?;
        if read == 0 {
            break;
        }
        write_all(to, &buffer[..read], at)?;
        at += read as u64;
        copied(read as u64)?;
    }
    Ok(())
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(to, bytes, at) {
            Ok(n) => {
                at += n as u64;
                bytes = &bytes[n..];
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
