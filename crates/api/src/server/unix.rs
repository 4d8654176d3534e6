//! Unix sockets: 0660, for the group that was named, or `docker` where it
//! exists.
//!
//! Be aware:
//! - The mode is set on the socket before it is bound (Linux takes the mode of
//!   the socket's own inode), and owner and mode on the path before it
//!   listens: at no moment can anybody else connect.
//! - Paths over 107 bytes do not fit into an address: they are reached
//!   through the descriptor of their directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as nix_bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::{UnixListener, UnixStream};

use super::address::ListenError;

/// The group that may talk to the daemon unless another is named, as Docker's
/// packages make it.
const GROUP: &str = "docker";
const MODE: u32 = 0o660;
/// The longest path of an address; `sun_path` less the final zero.
const MAX_PATH: usize = 107;
const BACKLOG: i32 = 1024;

/// The file of a socket that we bound; removed when it is dropped.
///
/// Drop it before the listener: while that listens no other daemon takes the
/// path, and so the file is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode at the time of binding.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// A path that fits into an address, and what keeps it valid.
struct Reachable {
    path: PathBuf,
    _directory: Option<File>,
}

impl Reachable {
    fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= MAX_PATH {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = File::open(parent)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }
}

/// The id of the group that is to own sockets. One that is named must exist;
/// without a name it is `docker`'s, or `None` where that doesn't exist.
pub(crate) fn group(named: Option<&str>) -> Result<Option<u32>, ListenError> {
    // A static binary has no name services.
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let Some(name) = named else { return Ok(find_group(&text, GROUP)) };
    find_group(&text, name)
        .or_else(|| name.parse().ok())
        .map(Some)
        .ok_or_else(|| ListenError::Group { name: name.to_owned() })
}

/// Binds `path` for the group `gid`: replaces a dead socket, refuses a live one.
pub(crate) async fn bind(
    path: &Path,
    gid: Option<u32>,
) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |source| ListenError::Bind { at: format!("unix://{}", path.display()), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    make_room(path).await?;
    let (listener, file) = bind_socket(path, gid).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    Ok((listener, file))
}

/// Removes a dead socket; errs when something lives there.
async fn make_room(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Bind { at: format!("unix://{}", path.display()), source };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(m) if !m.file_type().is_socket() => {
            return Err(ListenError::InTheWay { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let reachable = Reachable::new(path).map_err(failed)?;
    // Not blocking: a full queue answers EAGAIN, and is as alive as a success.
    match UnixStream::connect(&reachable.path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(_) | Err(_) => return Err(ListenError::Live { path: path.to_owned() }),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
        _ => Ok(()),
    }
}

fn bind_socket(
    path: &Path,
    gid: Option<u32>,
) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(fd.as_raw_fd(), Mode::from_bits_truncate(0o600))?;
    let reachable = Reachable::new(path)?;
    nix_bind(fd.as_raw_fd(), &UnixAddr::new(&reachable.path)?)?;
    // Without the right owner it would be open to the wrong people.
    std::os::unix::fs::lchown(path, None, gid)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    let metadata = std::fs::symlink_metadata(path)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    let identity = (metadata.dev(), metadata.ino());
    Ok((fd.into(), SocketFile { path: path.to_owned(), identity }))
}

fn find_group(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found() {
        let text = "root:x:0:\ndocker:x:998:me,you\nbroken\n";
        assert_eq!(find_group(text, "docker"), Some(998));
        assert_eq!(find_group(text, "broken"), None);
        assert_eq!(find_group(text, "none"), None);
    }

    #[test]
    fn a_named_group_must_exist() {
        assert_eq!(group(Some("root")).unwrap(), Some(0));
        assert_eq!(group(Some("4711")).unwrap(), Some(4711));
        let error = group(Some("no-such-group")).unwrap_err().to_string();
        assert!(error.contains("no-such-group"), "{error}");
        assert!(group(None).is_ok());
    }

    #[tokio::test]
    async fn modes_stale_and_live_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/s.sock");
        let (listener, file) = bind(&path, None).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        assert!(matches!(bind(&path, None).await, Err(ListenError::Live { .. })));
        // As a daemon that was killed leaves it.
        std::mem::forget(file);
        drop(listener);
        let (listener, file) = bind(&path, None).await.unwrap();
        drop(file);
        assert!(!path.exists());
        drop(listener);
    }

    #[tokio::test]
    async fn the_file_of_another_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (_listener, file) = bind(&path, None).await.unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::fs::write(&path, "other").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn other_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, None).await, Err(ListenError::InTheWay { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn long_paths_work() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d".repeat(100)).join("e".repeat(60)).join("s.sock");
        let (_listener, _file) = bind(&path, None).await.unwrap();
        assert!(matches!(bind(&path, None).await, Err(ListenError::Live { .. })));
    }
}
