//! Encryption below the file system: the blocks of an image, by dm-crypt.
//!
//! Be aware:
//! - The mapping lives as long as the file system that is mounted from it; it
//!   goes with it, and the loop device below goes with the mapping.
//! - Sectors are 4 KiB, as the image's size is a multiple of. Room that is freed
//!   inside is given back, which shows to who reads the disk where there is none.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sampan_sys::devmapper::{self, Mapping, Target};
use sampan_sys::loopdev::LoopDevice;
use zeroize::Zeroizing;

use super::encryption::Key;

/// What the names of mappings begin with.
const PREFIX: &str = "sampan-volume-";
/// The kernel's name of AES in XTS mode, numbered by sector; a key of 64 bytes.
const CIPHER: &[u8] = b"aes-xts-plain64";
/// From the first sector on; what is thrown away below is thrown away; blocks of
/// a page.
const OPTIONS: &[u8] = b"0 2 allow_discards sector_size:4096";
/// `SECTOR_SIZE` of the kernel, whatever a device has.
const SECTOR: u64 = 512;

/// Maps the device of the image at `path` by the key: with the size that the
/// image has now, also when it is mapped already.
pub(super) fn map(path: &Path, device: &LoopDevice, key: &Key) -> io::Result<Mapping> {
    let image = fs::metadata(path)?;
    let name = format!("{PREFIX}{:x}-{:x}", image.dev(), image.ino());
    let parameters = parameters(key, &device.path);
    let target = Target { kind: "crypt", sectors: image.len() / SECTOR, parameters: &parameters };
    Mapping::open(&name, target)
}

/// `<cipher> <key> <iv_offset> <device> <offset> <options>`, see the kernel's
/// `Documentation/admin-guide/device-mapper/dm-crypt.rst`.
fn parameters(key: &Key, device: &Path) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let device = device.as_os_str().as_bytes();
    // As large as it will be: it is not moved, which would leave copies.
    let length = CIPHER.len() + 1 + 2 * key.bytes().len() + 3 + device.len() + 1 + OPTIONS.len();
    let mut text = Zeroizing::new(Vec::with_capacity(length));
    text.extend_from_slice(CIPHER);
    text.push(b' ');
    for byte in key.bytes() {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    text.extend_from_slice(b" 0 ");
    text.extend_from_slice(device);
    text.push(b' ');
    text.extend_from_slice(OPTIONS);
    text
}

/// Whether the kernel can.
pub(super) fn available() -> bool {
    devmapper::available()
}

/// Takes away what somebody left who died between making a mapping and using it.
pub(crate) fn remove_unused() -> io::Result<()> {
    devmapper::remove_unused(PREFIX)
}
