//! How the container's terminal gets here: whoever makes the process connects
//! to a socket and sends the terminal's master side over it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

const NAME: &str = "console.sock";

/// Waits for one terminal.
#[derive(Debug)]
pub(super) struct Console {
    listener: UnixListener,
    dir: File,
    path: PathBuf,
}

impl Console {
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { listener: bind(dir, NAME)?, dir: directory(dir)?, path: dir.join(NAME) })
    }

    /// The socket to give to whoever makes the process: by a path that is
    /// short, for not every OCI runtime can connect to one that is long.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}/{NAME}", std::process::id(), self.dir.as_raw_fd()))
    }

    /// The terminal, which must have been sent by now.
    pub(super) fn receive(self) -> io::Result<OwnedFd> {
        self.listener.set_nonblocking(true)?;
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let terminal = sampan_sys::process::receive_fd(&stream)?;
        set_nonblocking(&terminal)?;
        Ok(terminal)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // What stays behind is removed with the directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A listening socket in a directory whose path may be too long for a socket
/// address.
pub(super) fn bind(dir: &Path, name: &str) -> io::Result<UnixListener> {
    sampan_sys::file::remove_file(&dir.join(name))?;
    let dir = directory(dir)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// A descriptor of a directory, for paths through `/proc/self/fd`.
pub(super) fn directory(dir: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)
}

/// Makes reads and writes return instead of waiting.
pub(super) fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
