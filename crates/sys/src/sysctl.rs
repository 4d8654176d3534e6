//! Kernel parameters below `/proc/sys`.

use std::fs;
use std::io;
use std::path::PathBuf;

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
    let file = path(name)?;
    if fs::read_to_string(&file).is_ok_and(|old| old.trim_end_matches('\n') == value) {
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
    }
}
