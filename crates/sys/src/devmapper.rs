//! Devices that the kernel maps onto others: device-mapper (`linux/dm-ioctl.h`).
//!
//! Be aware:
//! - A mapping made here goes when it is closed for the last time, by whoever
//!   has it open or mounted. Only who dies between making and opening one leaves
//!   it behind, which [`remove_unused`] is for.
//! - The table of an encrypted one has its key. It is wiped here, and the kernel
//!   is told to wipe its copy of the request.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::{blockdev, ioctl};

const CONTROL: &str = "/dev/mapper/control";
/// `MISC_MAJOR`, `MAPPER_CTRL_MINOR`.
const CONTROL_NUMBERS: (u64, u64) = (10, 236);
/// `struct dm_ioctl`, and where in it what is used here lies.
const HEADER: usize = 312;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
/// Its name's length, with a zero at the end.
const NAME_MAX: usize = 128;
/// `struct dm_target_spec`.
const TARGET: usize = 40;
/// `DM_IOCTL`.
const TYPE: u32 = 0xfd;
/// `DM_SECURE_DATA_FLAG`: buffers are wiped.
const SECURE_DATA: u32 = 1 << 15;
/// `DM_DEFERRED_REMOVE`: once nobody has it open.
const DEFERRED_REMOVE: u32 = 1 << 17;
/// How long, and how often, one that is being removed is waited for: the kernel
/// does that after the last one closed it, and tells nobody who asks by name.
const REMOVING: Duration = Duration::from_millis(10);
const REMOVING_ATTEMPTS: u32 = 500;

/// What is asked of it.
#[derive(Debug, Clone, Copy)]
enum Command {
    Version = 0,
    Create = 3,
    Remove = 4,
    Resume = 6,
    Load = 9,
}

/// A mapped device that this process holds open.
#[derive(Debug)]
pub struct Mapping {
    /// `/dev/dm-N`.
    pub path: PathBuf,
    /// Keeps it from being removed.
    _file: File,
}

/// What a device is mapped onto.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The kernel's name of the kind: `crypt`.
    pub kind: &'a str,
    /// How long it is, in sectors of 512 bytes.
    pub sectors: u64,
    /// What the kind wants to know, see the kernel's
    /// `Documentation/admin-guide/device-mapper`.
    pub parameters: &'a [u8],
}

impl Mapping {
    /// The mapping `name` onto `target`: a new one, or the one that is there, which
    /// gets this target. Blocks.
    ///
    /// # Errors
    /// Those of the ioctls: `NotFound` and ENXIO without device-mapper, EINVAL
    /// for a kind or parameters that the kernel doesn't know.
    pub fn open(name: &str, target: Target<'_>) -> io::Result<Self> {
        let control = control()?;
        for _ in 0..REMOVING_ATTEMPTS {
            match Self::open_once(&control, name, target) {
                // It was there, and goes at this moment.
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) => std::thread::sleep(REMOVING),
                done => return done,
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("mapping {name} is not given back")))
    }

    fn open_once(control: &File, name: &str, target: Target<'_>) -> io::Result<Self> {
        match ask(control, Command::Create, name, 0, None) {
            // It is there.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            done => drop(done?),
        }
        let opened = ask(control, Command::Load, name, SECURE_DATA, Some(target))
            .and_then(|_| ask(control, Command::Resume, name, 0, None))
            .and_then(|reply| open_device(&reply));
        // With a table or without: nobody needs it once it is closed.
        let removed = remove(control, name);
        let mapping = opened?;
        removed?;
        Ok(mapping)
    }
}

/// Removes all mappings whose names begin with `prefix` as soon as nobody has
/// them open. A host without device-mapper has none.
///
/// # Errors
/// Those of reading sysfs and of the ioctls.
pub fn remove_unused(prefix: &str) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("/sys/block")?.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(b"dm-") {
            continue;
        }
        let name = std::fs::read_to_string(entry.path().join("dm/name")).unwrap_or_default();
        if name.starts_with(prefix) {
            names.push(name.trim_end().to_owned());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let control = control()?;
    names.iter().try_for_each(|name| remove(&control, name))
}

/// Whether the kernel has device-mapper.
#[must_use]
pub fn available() -> bool {
    control().and_then(|control| ask(&control, Command::Version, "", 0, None)).is_ok()
}

/// Removes a mapping once nobody has it open; one that is gone is success.
fn remove(control: &File, name: &str) -> io::Result<()> {
    match ask(control, Command::Remove, name, DEFERRED_REMOVE, None) {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        done => done.map(drop),
    }
}

fn control() -> io::Result<File> {
    blockdev::open_control(CONTROL, CONTROL_NUMBERS)
}

fn open_device(reply: &[u8]) -> io::Result<Mapping> {
    let number = reply.get(DEVICE..DEVICE + 8).and_then(|b| b.try_into().ok());
    let number = u64::from_ne_bytes(number.ok_or(io::ErrorKind::InvalidData)?);
    // new_decode_dev() of linux/kdev_t.h.
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xf_ff00));
    let path = PathBuf::from(format!("/dev/dm-{minor}"));
    let file = blockdev::open(&path, (major, minor))?;
    Ok(Mapping { path, _file: file })
}

/// Asks for something, and gives back what the kernel made of the request.
fn ask(
    control: &File,
    command: Command,
    name: &str,
    flags: u32,
    target: Option<Target<'_>>,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut request = request(name, flags, target)?;
    // _IOWR(DM_IOCTL, command, struct dm_ioctl)
    let number = 3 << 30 | (HEADER as u32) << 16 | TYPE << 8 | command as u32;
    // SAFETY: the request reads and writes a dm_ioctl and what follows it, as far
    // as its data_size says, which is the length of this buffer.
    unsafe { ioctl::with_bytes(control, number, &mut request) }?;
    Ok(request)
}

/// A `dm_ioctl` with at most one `dm_target_spec`.
fn request(name: &str, flags: u32, target: Option<Target<'_>>) -> io::Result<Zeroizing<Vec<u8>>> {
    let parameters = target.map_or(0, |t| (TARGET + t.parameters.len() + 1).next_multiple_of(8));
    let size = HEADER + parameters;
    // Never moved, so that no copy of a key is left behind.
    let mut bytes = Zeroizing::new(vec![0u8; size]);
    if name.len() >= NAME_MAX || target.is_some_and(|t| t.kind.len() >= 16) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    // The version of the interface that this is written for.
    put(0, &4u32.to_ne_bytes());
    put(DATA_SIZE, &(size as u32).to_ne_bytes());
    put(DATA_START, &(HEADER as u32).to_ne_bytes());
    put(TARGET_COUNT, &u32::from(target.is_some()).to_ne_bytes());
    put(FLAGS, &flags.to_ne_bytes());
    put(NAME, name.as_bytes());
    if let Some(target) = target {
        put(HEADER + 8, &target.sectors.to_ne_bytes());
        put(HEADER + 24, target.kind.as_bytes());
        put(HEADER + TARGET, target.parameters);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let target = Target { kind: "crypt", sectors: 16, parameters: b"some words" };
        let made = request("mine", SECURE_DATA, Some(target)).unwrap();
        assert_eq!(made.len() % 8, 0);
        let number = |at: usize| u32::from_ne_bytes(made[at..at + 4].try_into().unwrap());
        assert_eq!((number(0), number(12) as usize, number(16)), (4, made.len(), 312));
        assert_eq!((number(20), number(28)), (1, 1 << 15));
        assert_eq!(&made[48..53], b"mine\0");
        // struct dm_target_spec: sector_start, length, status, next, target_type.
        assert_eq!(u64::from_ne_bytes(made[312..320].try_into().unwrap()), 0);
        assert_eq!(u64::from_ne_bytes(made[320..328].try_into().unwrap()), 16);
        assert_eq!(&made[336..342], b"crypt\0");
        assert_eq!(&made[352..363], b"some words\0");
        assert_eq!(request("mine", 0, None).unwrap().len(), 312);
        assert!(request(&"x".repeat(128), 0, None).is_err());
    }
}
