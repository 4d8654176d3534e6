//! Kernel parameters below `/proc/sys`.
//!
//! Be aware: a mounted procfs remembers the parameters of each network
//! namespace that somebody looked at under the same few names, and compares
//! with all of them whenever anybody looks one up. [`write_apart`] is for the
//! parameters of namespaces that come and go.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use thiserror::Error;

/// Why a kernel parameter can't be read or set.
#[derive(Debug, Error)]
pub enum SysctlError {
    /// The name would lead out of `/proc/sys`.
    #[error("invalid sysctl name {0:?}")]
    Name(String),
    /// The kernel refused.
    #[error("sysctl {name}: {source}")]
    Io {
        /// The parameter's name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// The file of parameter `name`. Either separator is allowed, as in
/// sysctl(8): the one that comes first separates, the other is literal
/// (`net.ipv4.conf.eth0/1.forwarding`, `net/ipv4/conf/eth0.1/forwarding`).
fn path(name: &str) -> Result<PathBuf, SysctlError> {
    let separator = name.chars().find(|c| matches!(c, '.' | '/')).unwrap_or('.');
    let other = if separator == '.' { '/' } else { '.' };
    let mut path = PathBuf::from("/proc/sys");
    for part in name.split(separator) {
        let part = if separator == '.' { part.replace(other, ".") } else { part.to_owned() };
        if part.is_empty() || part == "." || part == ".." || part.contains(['/', '\0']) {
            return Err(SysctlError::Name(name.to_owned()));
        }
        path.push(part);
    }
    Ok(path)
}

/// The value of parameter `name` in the calling thread's namespaces, without
/// the final newline.
///
/// # Errors
/// [`SysctlError`].
pub fn read(name: &str) -> Result<String, SysctlError> {
    let text = fs::read_to_string(path(name)?)
        .map_err(|source| SysctlError::Io { name: name.to_owned(), source })?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Sets parameter `name` in the calling thread's namespaces. Says whether it
/// had another value before; one that it has already is not written.
///
/// # Errors
/// [`SysctlError`].
pub fn write(name: &str, value: &str) -> Result<bool, SysctlError> {
    write_file(&path(name)?, name, value)
}

/// Whether the kernel has IPv6.
#[must_use]
pub fn has_ipv6() -> bool {
    static PRESENT: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/sys/net/ipv6").exists());
    *PRESENT
}

/// How many writes share a procfs of their own.
const WRITES_APART: u32 = 64;

/// A procfs that nobody else sees, and how many writes it is still good for.
static APART: Mutex<Option<(Arc<OwnedFd>, u32)>> = Mutex::new(None);

/// As [`write`], without a trace in `/proc`: for the parameters of a namespace
/// of many.
///
/// # Errors
/// [`SysctlError`].
pub fn write_apart(name: &str, value: &str) -> Result<bool, SysctlError> {
    let file = path(name)?;
    let Ok(apart) = apart() else { return write_file(&file, name, value) };
    let below = file.strip_prefix("/proc").unwrap_or(&file);
    let file = PathBuf::from(format!("/proc/self/fd/{}", apart.as_raw_fd())).join(below);
    write_file(&file, name, value)
}

/// The procfs for one more write. The descriptor keeps one that is used up
/// until its last write is done.
fn apart() -> io::Result<Arc<OwnedFd>> {
    let mut shared = APART.lock().unwrap_or_else(PoisonError::into_inner);
    let (procfs, left) = match shared.take() {
        Some((procfs, left)) => (procfs, left),
        None => (Arc::new(crate::overlay::detached("proc")?), WRITES_APART),
    };
    if left > 1 {
        *shared = Some((Arc::clone(&procfs), left - 1));
    }
    Ok(procfs)
}

fn write_file(file: &Path, name: &str, value: &str) -> Result<bool, SysctlError> {
    if fs::read_to_string(file).is_ok_and(|old| old.trim_end_matches('\n') == value) {
        return Ok(false);
    }
    fs::write(file, value).map_err(|source| SysctlError::Io { name: name.to_owned(), source })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        let of = |name| path(name).unwrap().display().to_string();
        assert_eq!(of("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(of("net.ipv4.conf.eth0/1.x"), "/proc/sys/net/ipv4/conf/eth0.1/x");
        assert_eq!(of("net/ipv4/conf/eth0.1/x"), "/proc/sys/net/ipv4/conf/eth0.1/x");
        for bad in ["", "../x", "net/../../x", "net..x", "/etc/passwd", "net.\0"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert!(!read("kernel.ostype").unwrap().is_empty());
        let ostype = read("kernel.ostype").unwrap();
        // What a parameter has already is not written.
        assert!(matches!(write_apart("kernel.ostype", &ostype), Ok(false)));
        assert!(write_apart("kernel.no_such_thing", "1").is_err());
    }
}
