//! Where the process listens for the daemon.
//!
//! Be aware: a socket's address holds 108 bytes only, and an exec-root may be
//! longer. It is bound and connected to by way of its directory's descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tokio::net::{UnixListener, UnixStream};

/// The socket's name below exec-root.
const SOCKET: &str = "proxy.sock";
/// The log's name below exec-root.
pub const LOG: &str = "proxy.log";

/// The socket below an exec-root.
#[must_use]
pub fn socket(exec_root: &Path) -> PathBuf {
    exec_root.join(SOCKET)
}

/// A directory, and a short path to it.
struct Dir(File);

impl Dir {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).bits();
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    fn entry(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

/// Listens in the place of whoever did so before; only the same user may
/// connect.
///
/// # Errors
/// Those of bind(2) and rename(2).
pub fn listen(exec_root: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::open(exec_root)?;
    let temporary = dir.entry(&format!("{SOCKET}.{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, dir.entry(SOCKET))?;
    Ok(listener)
}

/// Connects to the process of an exec-root.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is none.
pub async fn connect(exec_root: &Path) -> io::Result<UnixStream> {
    let dir = Dir::open(exec_root)?;
    UnixStream::connect(dir.entry(SOCKET)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_paths_are_listened_at() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        assert!(connect(&deep).await.is_err());
        let first = listen(&deep).unwrap();
        drop(first);
        assert_eq!(connect(&deep).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _second = listen(&deep).unwrap();
        connect(&deep).await.unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(socket(&deep)).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 1);
    }
}
