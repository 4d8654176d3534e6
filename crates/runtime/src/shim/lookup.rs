//! Finds the program to run in the container, with the error texts of Go's
//! `exec.LookPath`, which clients of Docker know.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

/// Why a program can't be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LookupError {
    /// What `docker run` exits with: 127 when it is not there, 126 when it is
    /// no executable file.
    pub(super) code: i32,
    /// `exec: "name": cause`.
    pub(super) message: String,
}

/// The path of the program `name`, which is looked for in the directories of
/// `path` (the value of `$PATH`) unless it contains a slash.
pub(super) fn find(name: &str, path: Option<&str>) -> Result<PathBuf, LookupError> {
    let fail =
        |code, cause: &str| LookupError { code, message: format!("exec: {name:?}: {cause}") };
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(errno @ (Errno::EISDIR | Errno::EACCES)) => Err(fail(126, &text(errno))),
            Err(errno) => Err(fail(127, &format!("stat {name}: {}", text(errno)))),
        };
    }
    let found = path.filter(|_| !name.is_empty()).and_then(|path| {
        path.split(':')
            .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name))
            .find(|candidate| check(candidate).is_ok())
    });
    found.ok_or_else(|| fail(127, "executable file not found in $PATH"))
}

fn check(path: &Path) -> Result<(), Errno> {
    let meta =
        fs::metadata(path).map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    if meta.is_dir() {
        return Err(Errno::EISDIR);
    }
    faccessat(None, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// An error number's text as Go writes it.
pub(super) fn text(errno: Errno) -> String {
    match errno {
        Errno::ELOOP => "too many levels of symbolic links".into(),
        other => other.desc().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_docker() {
        assert_eq!(find("sh", Some("/nosuch:/bin")).unwrap(), Path::new("/bin/sh"));
        assert_eq!(find("/bin/sh", None).unwrap(), Path::new("/bin/sh"));
        let error = find("nosuchprogram", Some("/bin:/usr/bin")).unwrap_err();
        assert_eq!(error.message, "exec: \"nosuchprogram\": executable file not found in $PATH");
        assert_eq!(error.code, 127);
        assert_eq!(find("", Some("/bin")).unwrap_err().code, 127);
        assert_eq!(find("sh", None).unwrap_err().code, 127);
        let error = find("/no/such", None).unwrap_err();
        assert_eq!(error.message, "exec: \"/no/such\": stat /no/such: no such file or directory");
        assert_eq!(error.code, 127);
        let error = find("/etc", None).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (126, "exec: \"/etc\": is a directory"));
        let error = find("/etc/passwd", None).unwrap_err();
        assert_eq!(error.message, "exec: \"/etc/passwd\": permission denied");
        assert_eq!(error.code, 126);
    }
}
