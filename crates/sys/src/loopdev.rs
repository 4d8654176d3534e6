//! Loop devices: a file as a block device.
//!
//! Be aware: every device made here clears itself when it is closed for the
//! last time, by whoever has it open or mounted. A process that dies with one
//! leaves none behind.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{blockdev, ioctl};
use linux_raw_sys::loop_device::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, LOOP_CONFIGURE, LOOP_CTL_GET_FREE,
    LOOP_SET_CAPACITY, loop_config, loop_info64,
};

const CONTROL: &str = "/dev/loop-control";
/// `MISC_MAJOR`, `LOOP_CTRL_MINOR`.
const CONTROL_NUMBERS: (u64, u64) = (10, 237);
/// The block devices' major number.
const MAJOR: u64 = 7;
/// How often another process may take the free device before we do.
const ATTEMPTS: u32 = 64;
/// How long, and how often, a device that is being cleared is waited for: the
/// kernel does that after the last one closed it, and tells nobody.
const CLEARING: Duration = Duration::from_millis(10);
const CLEARING_ATTEMPTS: u32 = 500;

/// A loop device that this process holds open.
#[derive(Debug)]
pub struct LoopDevice {
    /// `/dev/loopN`.
    pub path: PathBuf,
    /// Keeps it from clearing itself.
    file: File,
}

impl LoopDevice {
    /// Makes the file `backing` a block device, past the page cache where its
    /// file system can do that.
    ///
    /// # Errors
    /// Those of opening and of LOOP_CONFIGURE, which needs Linux 5.8.
    pub fn attach(backing: &Path, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(backing)?;
        let direct = match Self::configure(&file, read_only, true) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => None,
            done => Some(done),
        };
        direct.unwrap_or_else(|| Self::configure(&file, read_only, false))
    }

    fn configure(backing: &File, read_only: bool, direct: bool) -> io::Result<Self> {
        let control = blockdev::open_control(CONTROL, CONTROL_NUMBERS)?;
        let mut last = io::Error::from_raw_os_error(libc::EBUSY);
        for _ in 0..ATTEMPTS {
            // SAFETY: the request takes no argument.
            let number = unsafe { ioctl::number(&control, LOOP_CTL_GET_FREE, 0) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let file = open_device(&path, number)?;
            let mut config = config(backing, read_only, direct)?;
            // SAFETY: the request reads a loop_config.
            match unsafe { ioctl::with(&file, LOOP_CONFIGURE, &mut config) } {
                Ok(_) => return Ok(Self { path, file }),
                // Somebody was faster.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// The loop device that has the file `backing` behind it already, when
    /// there is one: a second one beside it would be a second file system on
    /// the same blocks. One that is just being cleared is waited for. Blocks.
    ///
    /// # Errors
    /// Those of opening it; `TimedOut` when one is cleared for too long.
    pub fn backed_by(backing: &Path) -> io::Result<Option<Self>> {
        for _ in 0..CLEARING_ATTEMPTS {
            let Some(number) = number_backed_by(backing)? else { return Ok(None) };
            let path = PathBuf::from(format!("/dev/loop{number}"));
            match open_device(&path, number) {
                // Open, it does not clear itself any more.
                Ok(file) => {
                    let device = Self { path, file };
                    if device.backing().is_some_and(|b| b == backing) {
                        return Ok(Some(device));
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {}
                Err(e) => return Err(e),
            }
            std::thread::sleep(CLEARING);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "its loop device is not given back"))
    }

    /// Takes over the size that the file behind it has now.
    ///
    /// # Errors
    /// Those of the ioctl.
    pub fn update_size(&self) -> io::Result<()> {
        // SAFETY: the request takes no argument.
        unsafe { ioctl::number(self.file.as_fd(), LOOP_SET_CAPACITY, 0) }.map(drop)
    }

    /// The file behind it, as it was called when the device was made; `None`
    /// when there is none.
    fn backing(&self) -> Option<PathBuf> {
        backing_of(&Path::new("/sys/block").join(self.path.file_name()?))
    }
}

fn number_backed_by(backing: &Path) -> io::Result<Option<i32>> {
    for entry in std::fs::read_dir("/sys/block")?.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("loop")?.parse().ok());
        let Some(number) = number else { continue };
        if backing_of(&entry.path()).is_some_and(|b| b == backing) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// The file behind the device with this directory in sysfs.
fn backing_of(device: &Path) -> Option<PathBuf> {
    let mut text = std::fs::read(device.join("loop/backing_file")).ok()?;
    while text.last() == Some(&b'\n') {
        text.pop();
    }
    Some(PathBuf::from(OsString::from_vec(text)))
}

fn config(backing: &File, read_only: bool, direct: bool) -> io::Result<loop_config> {
    let mut flags = LO_FLAGS_AUTOCLEAR as u32;
    if direct {
        flags |= LO_FLAGS_DIRECT_IO as u32;
    }
    if read_only {
        flags |= LO_FLAGS_READ_ONLY as u32;
    }
    let info = loop_info64 {
        lo_device: 0,
        lo_inode: 0,
        lo_rdevice: 0,
        lo_offset: 0,
        lo_sizelimit: 0,
        lo_number: 0,
        lo_encrypt_type: 0,
        lo_encrypt_key_size: 0,
        lo_flags: flags,
        lo_file_name: [0; 64],
        lo_crypt_name: [0; 64],
        lo_encrypt_key: [0; 32],
        lo_init: [0; 2],
    };
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(loop_config { fd, block_size: 0, info, __reserved: [0; 8] })
}

fn open_device(path: &Path, number: i32) -> io::Result<File> {
    let minor = u64::try_from(number).map_err(|_| io::ErrorKind::InvalidData)?;
    blockdev::open(path, (MAJOR, minor))
}
