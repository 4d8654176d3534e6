//! Changes of files, as the kernel reports them (inotify(7)), awaited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

pub use nix::sys::inotify::AddWatchFlags;

/// A set of watched files and directories.
pub struct Watch(AsyncFd<Descriptor>);

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// An empty set. Needs a tokio runtime.
    ///
    /// # Errors
    /// Those of inotify_init1(2).
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the descriptor is owned by `inotify`, which keeps the same one
        // for its life and is owned by the `AsyncFd` in turn.
        unsafe { AsyncFd::register(Descriptor(inotify)) }.map(Self).map_err(io::Error::from)
    }

    /// Adds a path; adding it again changes what is reported.
    ///
    /// # Errors
    /// Those of inotify_add_watch(2).
    pub fn add(&self, path: &Path, events: AddWatchFlags) -> io::Result<()> {
        Ok(self.0.get_ref().0.add_watch(path, events).map(drop)?)
    }

    /// Waits until something was reported since the last call; what it was
    /// does not matter, the caller looks for itself. Cancel-safe.
    ///
    /// # Errors
    /// Those of read(2).
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut seen = false;
            loop {
                match self.0.get_ref().0.read_events() {
                    Ok(events) if events.is_empty() => break,
                    Ok(_) => seen = true,
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            ready.clear_ready();
            if seen {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_awaited() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::new().unwrap();
        watch.add(dir.path(), AddWatchFlags::IN_CREATE).unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        watch.changed().await.unwrap();
        assert!(watch.add(&dir.path().join("none"), AddWatchFlags::IN_CREATE).is_err());
    }
}
