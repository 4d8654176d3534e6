//! Changes of files, as the kernel reports them (inotify(7)), awaited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

/// A set of watched files and directories.
pub(crate) struct Watch(AsyncFd<Descriptor>);

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// An empty set. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        AsyncFd::new(Descriptor(inotify)).map(Self)
    }

    /// Adds a path; adding it again changes what is reported.
    pub fn add(&self, path: &Path, events: AddWatchFlags) -> io::Result<WatchDescriptor> {
        Ok(self.0.get_ref().0.add_watch(path, events)?)
    }

    /// Waits until something was reported since the last call; what it was
    /// does not matter, the caller looks for itself. Cancel-safe.
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
