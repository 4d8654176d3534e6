//! Extended attributes (xattr(7)). Symbolic links are not followed.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn length(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sets the attribute `name` of `path`, replacing its value.
///
/// # Errors
/// Those of lsetxattr(2).
pub fn set(path: &Path, name: &OsStr, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_string(path.as_os_str())?, c_string(name)?);
    // SAFETY: both strings end in NUL, and the value is as long as is said.
    let result = unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The value of the attribute `name` of `path`; `None` when it has none, or
/// when the file system has no attributes.
///
/// # Errors
/// Those of lgetxattr(2).
pub fn get(path: &Path, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let (path, name) = (c_string(path.as_os_str())?, c_string(name)?);
    value(|buffer| {
        // SAFETY: both strings end in NUL, and the buffer is as long as is said.
        unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        }
    })
}

/// As [`get`], of an open file.
///
/// # Errors
/// Those of fgetxattr(2).
pub fn get_of(file: impl AsFd, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let (fd, name) = (file.as_fd().as_raw_fd(), c_string(name)?);
    value(|buffer| {
        // SAFETY: the name ends in NUL, and the buffer is as long as is said.
        unsafe { libc::fgetxattr(fd, name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// Sets the attribute `name` of an open file, replacing its value.
///
/// # Errors
/// Those of fsetxattr(2).
pub fn set_of(file: impl AsFd, name: &OsStr, value: &[u8]) -> io::Result<()> {
    let (fd, name) = (file.as_fd().as_raw_fd(), c_string(name)?);
    // SAFETY: the name ends in NUL, and the value is as long as is said.
    let result =
        unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The names of the attributes of `path`; none when the file system has none.
///
/// # Errors
/// Those of llistxattr(2).
pub fn list(path: &Path) -> io::Result<Vec<OsString>> {
    let path = c_string(path.as_os_str())?;
    names(|buffer| {
        // SAFETY: the path ends in NUL, and the buffer is as long as is said.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// As [`list`], of an open file.
///
/// # Errors
/// Those of flistxattr(2).
pub fn list_of(file: impl AsFd) -> io::Result<Vec<OsString>> {
    let fd = file.as_fd().as_raw_fd();
    names(|buffer| {
        // SAFETY: the buffer is as long as is said.
        unsafe { libc::flistxattr(fd, buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// The kernel's bound on a value and on a list of names.
const LARGEST: usize = 64 << 10;

fn value(mut call: impl FnMut(&mut [u8]) -> libc::ssize_t) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0u8; 256];
    loop {
        match length(call(&mut buffer)) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(Some(buffer));
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::ENODATA | libc::ENOTSUP) => return Ok(None),
                Some(libc::ERANGE) if buffer.len() < LARGEST => buffer.resize(LARGEST, 0),
                _ => return Err(e),
            },
        }
    }
}

fn names(mut call: impl FnMut(&mut [u8]) -> libc::ssize_t) -> io::Result<Vec<OsString>> {
    let mut buffer = vec![0u8; 512];
    let n = loop {
        match length(call(&mut buffer)) {
            Ok(n) => break n,
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOTSUP) => return Ok(Vec::new()),
                Some(libc::ERANGE) if buffer.len() < LARGEST => buffer.resize(LARGEST, 0),
                _ => return Err(e),
            },
        }
    };
    let names = buffer[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    Ok(names.map(|n| OsString::from_vec(n.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_and_gets() {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        let name = OsStr::new("user.sampan");
        assert_eq!(get(file.path(), name).unwrap(), None);
        if let Err(e) = set(file.path(), name, &[7; 1000]) {
            eprintln!("skipped: no extended attributes here: {e}");
            return;
        }
        assert_eq!(get(file.path(), name).unwrap(), Some(vec![7; 1000]));
        assert!(list(file.path()).unwrap().iter().any(|n| n == name));
    }
}
