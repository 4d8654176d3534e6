//! Extended attributes (xattr(7)). Symbolic links are not followed.

use std::ffi::{CString, OsStr, OsString};
use std::io;
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
    let mut value = vec![0u8; 256];
    loop {
        // SAFETY: both strings end in NUL, and the buffer is as long as is said.
        let result = unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        match length(result) {
            Ok(n) => {
                value.truncate(n);
                return Ok(Some(value));
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::ENODATA | libc::ENOTSUP) => return Ok(None),
                Some(libc::ERANGE) if value.len() < LARGEST => value.resize(LARGEST, 0),
                _ => return Err(e),
            },
        }
    }
}

/// The kernel's bound on a value and on a list of names.
const LARGEST: usize = 64 << 10;

/// The names of the attributes of `path`; none when the file system has none.
///
/// # Errors
/// Those of llistxattr(2).
pub fn list(path: &Path) -> io::Result<Vec<OsString>> {
    let path = c_string(path.as_os_str())?;
    let mut names = vec![0u8; 512];
    loop {
        // SAFETY: the path ends in NUL, and the buffer is as long as is said.
        let result =
            unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        match length(result) {
            Ok(n) => {
                names.truncate(n);
                break;
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOTSUP) => return Ok(Vec::new()),
                Some(libc::ERANGE) if names.len() < LARGEST => names.resize(LARGEST, 0),
                _ => return Err(e),
            },
        }
    }
    let names = names.split(|b| *b == 0).filter(|n| !n.is_empty());
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
