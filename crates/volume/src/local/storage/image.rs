//! Content in a file: `content.img` holds an ext4 that is mounted on `_data`
//! while somebody uses the volume.
//!
//! Be aware:
//! - A file system is put together out of sight: the loop device is held by a
//!   descriptor, the mount by another, and only a complete one is moved to its
//!   place. A process that dies before leaves neither.
//! - The file is sparse. What is freed inside is given back (`discard`), and
//!   what is full outside shows inside as an error of the device: the file
//!   system then turns read-only until it is mounted again.
//! - One that the file system encrypts has its content in a directory below the
//!   file system's root, because that can't be encrypted itself. One by dm-crypt
//!   has its file system on a mapping of the loop device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{self as rfs, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use sampan_sys::devmapper::Mapping;
use sampan_sys::loopdev::LoopDevice;
use sampan_sys::{fsattr, mount};
use sampan_types::VolumeName;

use super::encryption::Key;
use super::{Usage, bytes_text, crypt, directory};
use crate::VolumeError;
use crate::fault::fault;

/// The file.
pub(super) const FILE: &str = "content.img";
/// Above this, mkfs.ext4 would take up to 1 GiB at once, for a journal that
/// such a device makes no use of.
const LARGE: u64 = 16 << 30;
/// Where a file system is mounted for a moment, beside `_data`.
const PLACE: &str = ".image";
/// The directory of encrypted content below the file system's root.
const INNER: &str = "data";
/// Where mkfs.ext4 is looked for beside PATH, which daemons often have short.
const SBIN: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// Sizes are whole blocks.
const BLOCK: u64 = 4096;
/// The smallest group of blocks that a file system takes on.
const SLACK: u64 = 4 << 20;
/// The mode of the directory that is mounted on: nobody looks into it.
const PLACE_MODE: u32 = 0o700;
/// Below this there is no room for files beside the file system's tables.
pub(super) const SMALLEST: u64 = 2 << 20;

/// How an image is encrypted.
#[derive(Clone, Copy)]
pub(super) enum Cipher<'a> {
    /// Not at all.
    None,
    /// By its file system, the directory [`INNER`].
    Fscrypt(&'a Key),
    /// Below its file system.
    DmCrypt(&'a Key),
}

/// A file system that is mounted nowhere yet.
pub(super) struct Detached {
    /// Its root.
    root: OwnedFd,
    /// Keeps the device until the file system does.
    device: Device,
}

/// What the file system of an image is on.
struct Device {
    under: LoopDevice,
    mapping: Option<Mapping>,
}

impl Device {
    fn path(&self) -> &Path {
        self.mapping.as_ref().map_or(&self.under.path, |m| &m.path)
    }
}

/// A size as the file has it.
pub(super) fn rounded(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// Makes the file with an empty file system of `size` bytes.
pub(super) fn make(
    name: &VolumeName,
    dir: &Path,
    size: u64,
    cipher: Cipher<'_>,
) -> Result<(), VolumeError> {
    let path = dir.join(FILE);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|f| f.set_len(rounded(size))).map_err(VolumeError::io("create", &path))?;
    fault!("volume-create:after-image");
    match cipher {
        Cipher::DmCrypt(_) => format(name, device(&path, cipher)?.path(), size, cipher)?,
        Cipher::None | Cipher::Fscrypt(_) => format(name, &path, size, cipher)?,
    }
    fault!("volume-create:after-format");
    make_place(dir)
}

/// Makes the directory that the file system is mounted on.
pub(super) fn make_place(dir: &Path) -> Result<(), VolumeError> {
    directory::make(&dir.join(super::DATA), PLACE_MODE)
}

/// Puts an empty ext4 into the file, or onto the device.
fn format(
    name: &VolumeName,
    path: &Path,
    size: u64,
    cipher: Cipher<'_>,
) -> Result<(), VolumeError> {
    let tool = find_tool("mkfs.ext4").ok_or_else(|| no_tool(name))?;
    let mut command = Command::new(tool);
    // No blocks are kept back for root, who is the only one to write here. A
    // file whose content is shared is read in whole blocks of its file system:
    // the small ones of small file systems could not be mounted then.
    command.args(["-q", "-F", "-b", "4096", "-m", "0", "-e", "remount-ro", "-E", "root_owner=0:0"]);
    if let Cipher::Fscrypt(_) = cipher {
        command.args(["-O", "encrypt"]);
    }
    if size > LARGE {
        command.args(["-J", "size=64"]);
    }
    let output = command
        .arg(path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(VolumeError::io("run mkfs.ext4 for", path))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().replace('\n', "; ");
    let error = io::Error::other(format!("mkfs.ext4 ended with {}: {said}", output.status));
    Err(VolumeError::io("make a file system in", path)(error))
}

fn find_tool(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from));
    places.map(|p| p.join(tool)).find(|p| p.is_file())
}

/// Whether mkfs.ext4 is there.
pub(super) fn can_format() -> bool {
    find_tool("mkfs.ext4").is_some()
}

/// The error of a host without it.
pub(super) fn no_tool(name: &VolumeName) -> VolumeError {
    VolumeError::NoTool { name: name.to_string(), tool: "mkfs.ext4", package: "e2fsprogs" }
}

/// Puts the file system of `dir` together without mounting it anywhere.
pub(super) fn open(
    dir: &Path,
    limit: Option<u64>,
    cipher: Cipher<'_>,
) -> Result<Detached, VolumeError> {
    let path = dir.join(FILE);
    let failed = |operation| VolumeError::io(operation, &path);
    clear_place(dir).map_err(failed("clear the place of"))?;
    // A growth that was interrupted, or asked for while it was not mounted.
    let length = fs::metadata(&path).map_err(failed("examine"))?.len();
    let wanted = limit.map_or(length, rounded);
    if wanted > length {
        let file = OpenOptions::new().write(true).open(&path).map_err(failed("open"))?;
        file.set_len(wanted).map_err(failed("grow"))?;
    }
    let opened = attach(&path, cipher)?;
    let size = wanted.max(length);
    if !is_smaller(opened.device.path(), size).map_err(failed("read the file system in"))? {
        return Ok(opened);
    }
    // One that can't grow is good for what it holds.
    match opened.grow(size) {
        Ok(()) => Ok(opened),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            grow_unmounted(&path, opened)?;
            attach(&path, cipher)
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the file system does not fill its file");
            Ok(opened)
        }
    }
}

fn grow_unmounted(path: &Path, opened: Detached) -> Result<(), VolumeError> {
    let Detached { root, device } = opened;
    drop(root);
    let grown = if device.mapping.is_some() {
        // The tools see by themselves whether it is in use.
        grow_offline(device.path())
    } else {
        drop(device);
        let failed = VolumeError::io("look for the device of", path);
        if LoopDevice::backed_by(path).map_err(failed)?.is_some() {
            tracing::warn!(path = %path.display(), "it grows at a later mount: it is in use still");
            return Ok(());
        }
        grow_offline(path)
    };
    if let Err(error) = grown {
        tracing::warn!(%error, "the file system does not fill its file");
    }
    Ok(())
}

fn attach(path: &Path, cipher: Cipher<'_>) -> Result<Detached, VolumeError> {
    let device = device(path, cipher)?;
    let root = mount_detached(device.path());
    let root = root.map_err(VolumeError::io("mount the file system in", path))?;
    Ok(Detached { root, device })
}

/// What the file system in the file is on.
fn device(path: &Path, cipher: Cipher<'_>) -> Result<Device, VolumeError> {
    let failed = |operation| VolumeError::io(operation, path);
    // A mount that was taken away lives on for as long as some namespace has a
    // copy of it: its device is taken then, and with it its file system.
    let under = match LoopDevice::backed_by(path).map_err(failed("look for the loop device of"))? {
        Some(device) => {
            device.update_size().map_err(failed("grow the loop device of"))?;
            device
        }
        None => LoopDevice::attach(path, false).map_err(failed("make a loop device of"))?,
    };
    fault!("volume-mount:after-device");
    let mapping = match cipher {
        Cipher::None | Cipher::Fscrypt(_) => None,
        Cipher::DmCrypt(key) => {
            let mapping = crypt::map(path, &under, key);
            let mapping = mapping.map_err(failed("map the encrypted device of"))?;
            fault!("volume-mount:after-mapping");
            Some(mapping)
        }
    };
    Ok(Device { under, mapping })
}

/// Whether the ext4 in the file is smaller than `size`, by more than a group
/// that has no room for its own tables.
fn is_smaller(path: &Path, size: u64) -> io::Result<bool> {
    // struct ext4_super_block, at byte 1024: s_blocks_count_lo,
    // s_log_block_size, s_blocks_count_hi.
    let mut block = [0u8; 1024];
    File::open(path)?.read_exact_at(&mut block, 1024)?;
    let number = |at: usize| {
        let bytes = block.get(at..at + 4).and_then(|b| b.try_into().ok()).unwrap_or_default();
        u64::from(u32::from_le_bytes(bytes))
    };
    let (low, log, high) = (number(4), number(24), number(0x150));
    let blocks = low | high << 32;
    Ok(blocks.saturating_mul(1024 << log.min(6)).saturating_add(SLACK) < size)
}

/// Grows a file system that is mounted nowhere, where this process lacks the
/// capability to do it while it is mounted.
fn grow_offline(path: &Path) -> io::Result<()> {
    // resize2fs wants it checked. 1: something was put right.
    for (tool, arguments, good) in
        [("e2fsck", &["-f", "-p"][..], &[0, 1][..]), ("resize2fs", &[][..], &[0][..])]
    {
        let found = find_tool(tool).ok_or_else(|| io::Error::other(format!("no {tool}")))?;
        let mut command = Command::new(found);
        let output = command.args(arguments).arg(path).stdin(Stdio::null()).output()?;
        if !output.status.code().is_some_and(|code| good.contains(&code)) {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            return Err(io::Error::other(format!("{tool} ended with {}: {said}", output.status)));
        }
    }
    Ok(())
}

fn mount_detached(device: &Path) -> io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_flag(&context, "discard")?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(&context, flags, MountAttrFlags::empty())?)
}

impl Detached {
    /// Its root, as a path that this process can use.
    pub(super) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        // What fsmount(2) gives takes no ioctl.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        grow(&rfs::openat(&self.root, ".", flags, Mode::empty())?, size)
    }

    /// Empties a new file system: the checker's directory is made again by
    /// whoever checks.
    pub(super) fn remove_lost_and_found(&self) -> Result<(), VolumeError> {
        match fs::remove_dir(self.root().join("lost+found")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(VolumeError::io("remove", "lost+found")(e))
            }
            _ => Ok(()),
        }
    }

    /// The directory of encrypted content.
    pub(super) fn inner(&self) -> PathBuf {
        self.root().join(INNER)
    }

    /// Mounts it, or its directory of encrypted content, on `_data` of `dir`.
    pub(super) fn attach(&self, dir: &Path, cipher: Cipher<'_>) -> Result<(), VolumeError> {
        let target = dir.join(super::DATA);
        let attach = || -> io::Result<()> {
            let Cipher::Fscrypt(_) = cipher else { return move_to(&self.root, &target) };
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let inner = match open_tree(&self.root, INNER, flags) {
                // Before Linux 6.15, only of what is mounted somewhere.
                Err(Errno::INVAL) => self.inner_by_place(dir)?,
                inner => inner?,
            };
            move_to(&inner, &target)
        };
        attach().map_err(VolumeError::io("mount the volume's file system on", &target))
    }

    /// The directory of encrypted content as a mount of its own, made while the
    /// file system is mounted beside.
    fn inner_by_place(&self, dir: &Path) -> io::Result<OwnedFd> {
        let place = dir.join(PLACE);
        directory_for(&place)?;
        move_to(&self.root, &place)?;
        fault!("volume-mount:after-place");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let inner = open_tree(rfs::CWD, place.join(INNER), flags);
        clear_place(dir)?;
        Ok(inner?)
    }
}

fn move_to(mount: &OwnedFd, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(mount, "", rfs::CWD, target, flags)?)
}

fn directory_for(place: &Path) -> io::Result<()> {
    match fs::create_dir(place) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Takes away what somebody who died may have left of [`Detached::attach`].
pub(super) fn clear_place(dir: &Path) -> io::Result<()> {
    let place = dir.join(PLACE);
    match fs::symlink_metadata(&place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(_) => {}
    }
    mount::unmount(&place)?;
    fs::remove_dir(&place)
}

/// Grows what is mounted on `target`, or only the file when nothing is.
pub(super) fn resize(dir: &Path, limit: u64, cipher: Cipher<'_>) -> Result<(), VolumeError> {
    let path = dir.join(FILE);
    let target = dir.join(super::DATA);
    let wanted = rounded(limit);
    let failed = |operation| VolumeError::io(operation, &path);
    let file = OpenOptions::new().write(true).open(&path).map_err(failed("open"))?;
    if file.metadata().map_err(failed("examine"))?.len() < wanted {
        file.set_len(wanted).map_err(failed("grow"))?;
    }
    fault!("volume-resize:after-image");
    if !mount::is_mounted(&target).map_err(failed("look for the mount of"))? {
        return Ok(());
    }
    let on = fs::metadata(&target).map_err(VolumeError::io("examine", &target))?.dev();
    let foreign = || failed("grow")(io::Error::other("it is not what is mounted on _data"));
    // Grown on the way, as it is when it is mounted.
    let device = device(&path, cipher)?;
    let found = fs::metadata(device.path()).map_err(VolumeError::io("examine", device.path()))?;
    if found.rdev() != on {
        return Err(foreign());
    }
    fault!("volume-resize:after-device");
    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rfs::open(&target, open, Mode::empty())
        .map_err(|e| VolumeError::io("open", &target)(e.into()))?;
    grow(&root, wanted).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => failed("grow the mounted file system in")(
            io::Error::new(e.kind(), "it takes CAP_SYS_RESOURCE. It grows when it is mounted next"),
        ),
        _ => failed("grow the mounted file system in")(e),
    })
}

fn grow(dir: &OwnedFd, size: u64) -> io::Result<()> {
    let block = rfs::fstatvfs(dir)?.f_bsize.max(1);
    fsattr::grow_ext4(dir, size / block)
}

/// Why the file can't be given this size; `None` when it can.
pub(super) fn refusal(dir: &Path, size: u64) -> Result<Option<String>, VolumeError> {
    let path = dir.join(FILE);
    let length = fs::metadata(&path).map_err(VolumeError::io("examine", &path))?.len();
    Ok((rounded(size) < length).then(|| {
        format!(
            "it lies in an image file, which can only grow, and has {} already: clone it with a \
             smaller size",
            bytes_text(length)
        )
    }))
}

/// What the mounted file system, or else the file, holds.
pub(super) fn usage(dir: &Path, limit: Option<u64>) -> Result<Usage, VolumeError> {
    let target = dir.join(super::DATA);
    let path = dir.join(FILE);
    if mount::is_mounted(&target).map_err(VolumeError::io("look for", &target))? {
        let found = rfs::statvfs(&target)
            .map_err(|e| VolumeError::io("examine the file system on", &target)(e.into()))?;
        let used = found.f_blocks.saturating_sub(found.f_bfree);
        return Ok(Usage { bytes: used.saturating_mul(found.f_frsize), limit });
    }
    let found = fs::metadata(&path).map_err(VolumeError::io("examine", &path))?;
    Ok(Usage { bytes: found.blocks().saturating_mul(512), limit })
}

/// Lets a file system write again that a process froze which then died.
pub(super) fn thaw(target: &Path) -> Result<(), VolumeError> {
    let failed = |e| VolumeError::io("let writing go on in", target)(e);
    let root = File::open(target).map_err(failed)?;
    fsattr::thaw(&root).map_err(VolumeError::io("let writing go on in", target))
}
