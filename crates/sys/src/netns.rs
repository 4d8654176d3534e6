//! Network namespaces: making, naming, entering.
//!
//! Be aware:
//! - A thread that entered a namespace is never used for anything else:
//!   [`NetNs::create`] and [`NetNs::run`] do their work on a thread of their
//!   own that ends with it. A worker of the async runtime never changes its
//!   namespace.
//! - `/proc/sys/net` shows the namespace of the thread that reads it.
//! - A namespace lives as long as a descriptor, a mount, a process or a
//!   socket refers to it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::fstatfs;

use crate::{file, mount};

/// The file system of namespaces (`NSFS_MAGIC` in `linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A network namespace, kept alive by a descriptor.
#[derive(Debug)]
pub struct NetNs {
    file: File,
}

impl NetNs {
    /// The calling thread's namespace.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn current() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/thread-self/ns/net")? })
    }

    /// The namespace that is mounted at `path`.
    ///
    /// # Errors
    /// `NotFound` when there is no file or the file is no namespace: what a
    /// reboot or an interrupted removal leaves.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if fstatfs(&file)?.filesystem_type().0 as i64 != NSFS_MAGIC {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { file })
    }

    /// Makes a namespace and runs `prepare` in it.
    ///
    /// # Errors
    /// When the kernel makes none, or no thread.
    pub fn create<T: Send>(prepare: impl FnOnce() -> T + Send) -> io::Result<(Self, T)> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let namespace = Self::current()?;
            Ok((namespace, prepare()))
        })
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Sockets
    /// that it opens belong to the namespace for ever.
    ///
    /// # Errors
    /// When the namespace can't be entered, or there is no thread.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
    }

    /// Mounts the namespace at `path`, which must not exist: from then on the
    /// path keeps it alive.
    ///
    /// # Errors
    /// `AlreadyExists`, or those of mount(2); the file is removed then.
    pub fn bind(&self, path: &Path) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).open(path)?;
        let source = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let bound = mount::bind(&source, path, false);
        if bound.is_err() {
            let _ = file::remove_file(path);
        }
        bound
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The number of the calling thread's namespace, which no other one has had or
/// will have until the next boot.
///
/// # Errors
/// `ENOPROTOOPT` by a kernel before 5.14.
pub fn cookie() -> io::Result<u64> {
    /// `SO_NETNS_COOKIE`.
    const NETNS_COOKIE: libc::c_int = 71;
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes to `cookie`; both live
    // until the return.
    let result = unsafe {
        let into = std::ptr::from_mut(&mut cookie).cast();
        let socket = socket.as_raw_fd();
        libc::getsockopt(socket, libc::SOL_SOCKET, NETNS_COOKIE, into, &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Takes the name of a namespace away; the namespace goes with its last user.
/// Success when there is none.
///
/// # Errors
/// Those of umount2(2) and unlink(2), but for absence.
pub fn remove(path: &Path) -> io::Result<()> {
    mount::unmount(path)?;
    file::remove_file(path)
}

/// Enters the namespaces that are mounted at `paths`, one after the other, and
/// calls `each` in them; outside with the error where one can't be entered.
/// Cheaper than [`NetNs::run`] for each: it is one thread for all.
///
/// # Errors
/// When there is no thread.
pub fn tour(paths: &[PathBuf], mut each: impl FnMut(io::Result<()>) + Send) -> io::Result<()> {
    in_thread(|| {
        for path in paths {
            let entered = NetNs::open(path)
                .and_then(|ns| setns(&ns.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
            each(entered);
        }
        Ok(())
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
