//! Nodes of block devices below `/dev`, and of what makes such devices.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};

/// Opens the block device with these numbers; makes its node where nothing else
/// does.
pub(crate) fn open(path: &Path, numbers: (u64, u64)) -> io::Result<File> {
    let open =
        || OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
    let file = match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_node(path, SFlag::S_IFBLK, numbers)?;
            open()?
        }
        done => done?,
    };
    let found = file.metadata()?;
    let is = (major(found.rdev()), minor(found.rdev()));
    if !found.file_type().is_block_device() || is != numbers {
        let (major, minor) = numbers;
        let text = format!("{} is not block device {major}:{minor}", path.display());
        return Err(io::Error::other(text));
    }
    Ok(file)
}

/// Opens a device that others are made by. Where nothing has made its node, its
/// module may not be loaded either: the kernel does that when it is opened.
pub(crate) fn open_control(path: &str, numbers: (u64, u64)) -> io::Result<File> {
    let path = Path::new(path);
    let open = || OpenOptions::new().read(true).write(true).open(path);
    match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(above) = path.parent() {
                std::fs::create_dir_all(above)?;
            }
            make_node(path, SFlag::S_IFCHR, numbers)?;
            open()
        }
        done => done,
    }
}

/// Makes the node of a device, for root alone; one that is there is success.
fn make_node(path: &Path, kind: SFlag, numbers: (u64, u64)) -> io::Result<()> {
    match mknod(path, kind, Mode::S_IRUSR | Mode::S_IWUSR, makedev(numbers.0, numbers.1)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
