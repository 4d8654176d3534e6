//! Encryption of directories by the file system (the kernel's fscrypt,
//! Documentation/filesystems/fscrypt.rst): version 2 policies.
//!
//! Be aware:
//! - Keys belong to a mounted file system, not to a directory: whoever adds one
//!   opens every directory there whose policy names it.
//! - Removing a key closes what nobody has open; the kernel says when somebody
//!   has.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use linux_raw_sys::btrfs::{
    FSCRYPT_KEY_REMOVAL_STATUS_FLAG_FILES_BUSY, FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER,
    FSCRYPT_KEY_STATUS_PRESENT, FSCRYPT_MODE_AES_256_CTS, FSCRYPT_MODE_AES_256_XTS,
    FSCRYPT_POLICY_FLAGS_PAD_32, FSCRYPT_POLICY_V2, fscrypt_get_key_status_arg,
    fscrypt_get_policy_ex_arg, fscrypt_key_specifier, fscrypt_policy_v2, fscrypt_remove_key_arg,
};
use linux_raw_sys::ioctl::{
    FS_IOC_ADD_ENCRYPTION_KEY, FS_IOC_GET_ENCRYPTION_KEY_STATUS, FS_IOC_GET_ENCRYPTION_POLICY_EX,
    FS_IOC_REMOVE_ENCRYPTION_KEY, FS_IOC_SET_ENCRYPTION_POLICY,
};

use crate::ioctl;

/// Bytes of a key.
pub const KEY_SIZE: usize = 64;
/// What a policy calls its key by; the kernel makes it from the key.
pub type KeyId = [u8; 16];

/// `fscrypt_add_key_arg` with its key.
#[repr(C)]
struct AddKey {
    specifier: fscrypt_key_specifier,
    size: u32,
    keyring_id: u32,
    flags: u32,
    reserved: [u32; 7],
    key: [u8; KEY_SIZE],
}

/// Whether the file system of `dir` can encrypt.
///
/// # Errors
/// Those of the ioctl, but for "no" and "not encrypted".
pub fn supported(dir: impl AsFd) -> io::Result<bool> {
    match policy(dir) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The key that the directory `dir` is encrypted with; `None` when it is not.
///
/// # Errors
/// Those of the ioctl: ENOTTY or EOPNOTSUPP where nothing can be encrypted.
pub fn policy(dir: impl AsFd) -> io::Result<Option<KeyId>> {
    // SAFETY: zeroes are a valid value of each field.
    let mut args: fscrypt_get_policy_ex_arg = unsafe { MaybeUninit::zeroed().assume_init() };
    args.policy_size = size_of_val(&args.policy) as u64;
    // SAFETY: the request fills an fscrypt_get_policy_ex_arg.
    match unsafe { ioctl::with(dir, FS_IOC_GET_ENCRYPTION_POLICY_EX, &mut args) } {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ENODATA) => return Ok(None),
        Err(e) => return Err(e),
    }
    // SAFETY: all versions begin with their number; the rest is read only when
    // it says which one this is.
    let found =
        unsafe { (u32::from(args.policy.version) == FSCRYPT_POLICY_V2).then_some(args.policy.v2) };
    let found = found.ok_or_else(|| io::Error::other("the policy is not of version 2"))?;
    Ok(Some(found.master_key_identifier))
}

/// Encrypts everything that will be made in the empty directory `dir` with the
/// key `id`, which has been added. Repeating it with the same key is success.
///
/// # Errors
/// Those of the ioctl: ENOTEMPTY; EEXIST when it has another policy.
pub fn set_policy(dir: impl AsFd, id: KeyId) -> io::Result<()> {
    let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    let mut args = fscrypt_policy_v2 {
        version: byte(FSCRYPT_POLICY_V2),
        contents_encryption_mode: byte(FSCRYPT_MODE_AES_256_XTS),
        filenames_encryption_mode: byte(FSCRYPT_MODE_AES_256_CTS),
        flags: byte(FSCRYPT_POLICY_FLAGS_PAD_32),
        log2_data_unit_size: 0,
        __reserved: [0; 3],
        master_key_identifier: id,
    };
    // SAFETY: the request reads a policy whose version says how long it is.
    unsafe { ioctl::with(dir, FS_IOC_SET_ENCRYPTION_POLICY, &mut args) }.map(drop)
}

/// Gives the file system of `dir` a key and tells what it is called.
///
/// # Errors
/// Those of the ioctl.
pub fn add_key(dir: impl AsFd, key: &[u8; KEY_SIZE]) -> io::Result<KeyId> {
    let mut args = AddKey {
        specifier: specifier([0; 16]),
        size: KEY_SIZE as u32,
        keyring_id: 0,
        flags: 0,
        reserved: [0; 7],
        key: *key,
    };
    // SAFETY: the request reads an fscrypt_add_key_arg that is followed by as
    // many bytes as it says, and writes the specifier.
    let added = unsafe { ioctl::with(dir, FS_IOC_ADD_ENCRYPTION_KEY, &mut args) };
    wipe(&mut args.key);
    added?;
    // SAFETY: the kernel wrote the identifier of a key of this type.
    Ok(unsafe { args.specifier.u.identifier })
}

/// Whether the file system of `dir` has the key `id`.
///
/// # Errors
/// Those of the ioctl.
pub fn has_key(dir: impl AsFd, id: KeyId) -> io::Result<bool> {
    // SAFETY: zeroes are a valid value of each field.
    let mut args: fscrypt_get_key_status_arg = unsafe { MaybeUninit::zeroed().assume_init() };
    args.key_spec = specifier(id);
    // SAFETY: the request fills an fscrypt_get_key_status_arg.
    unsafe { ioctl::with(dir, FS_IOC_GET_ENCRYPTION_KEY_STATUS, &mut args) }?;
    Ok(args.status == FSCRYPT_KEY_STATUS_PRESENT)
}

/// Takes the key `id` from the file system of `dir`. True when nothing stays
/// readable; false while somebody has files open: then it can be repeated.
/// That there is no such key is success.
///
/// # Errors
/// Those of the ioctl.
pub fn remove_key(dir: impl AsFd, id: KeyId) -> io::Result<bool> {
    // SAFETY: zeroes are a valid value of each field.
    let mut args: fscrypt_remove_key_arg = unsafe { MaybeUninit::zeroed().assume_init() };
    args.key_spec = specifier(id);
    // SAFETY: the request reads and writes an fscrypt_remove_key_arg.
    match unsafe { ioctl::with(dir, FS_IOC_REMOVE_ENCRYPTION_KEY, &mut args) } {
        Err(e) if e.raw_os_error() == Some(libc::ENOKEY) => Ok(true),
        done => {
            done?;
            Ok(args.removal_status_flags & FSCRYPT_KEY_REMOVAL_STATUS_FLAG_FILES_BUSY == 0)
        }
    }
}

fn specifier(id: KeyId) -> fscrypt_key_specifier {
    // SAFETY: zeroes are a valid value of each field.
    let mut made: fscrypt_key_specifier = unsafe { MaybeUninit::zeroed().assume_init() };
    made.type_ = FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER;
    made.u.identifier = id;
    made
}

/// Overwrites a secret in a way that the compiler keeps.
fn wipe(bytes: &mut [u8]) {
    for byte in bytes {
        // SAFETY: the reference is valid for writing one byte.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}
