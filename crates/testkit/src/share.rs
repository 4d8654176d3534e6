//! A file system whose server can fall silent, as a share's on a network does.
//!
//! Be aware:
//! - It is served by a thread of the test, in the kernel's FUSE protocol
//!   (`include/uapi/linux/fuse.h`). It holds one empty directory.
//! - While it is silent nothing is read from the kernel: who waits for an
//!   answer can be killed, as who waits for NFS.
//! - It is mounted in the test's own mount namespace: hosts that are made
//!   after it see it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::skip;

/// The name of the directory in it, and the numbers of that and the root.
const NAME: &str = "share";
const ROOT: u64 = 1;
const SHARE: u64 = 2;
/// Holds the longest request.
const BUFFER: usize = 1 << 17;
/// How often the server looks whether it shall end or speak again.
const LOOK: Duration = Duration::from_millis(5);

/// A share, mounted until it is dropped.
#[derive(Debug)]
pub struct Share {
    at: PathBuf,
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Server {
    kernel: File,
    /// Locked while a request is read and answered.
    silent: Mutex<bool>,
    ends: AtomicBool,
}

impl Share {
    /// Mounts a share below `parent`, whose server answers. `None`, visibly,
    /// when this machine can't.
    ///
    /// # Panics
    /// When it could, and it fails.
    #[must_use]
    pub fn new_or_skip(test: &str, parent: &Path) -> Option<Self> {
        let nonblocking = OFlags::NONBLOCK.bits().try_into().expect("a flag");
        let opened =
            OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/fuse");
        let kernel = match opened {
            Ok(kernel) => kernel,
            Err(e) => {
                skip(test, &format!("needs /dev/fuse: {e}"));
                return None;
            }
        };
        let at = parent.join("fuse");
        fs::create_dir_all(&at).expect("make the place for a share");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", kernel.as_raw_fd());
        let data = std::ffi::CString::new(data).expect("no zero in it");
        let mounted = mount(NAME, &at, "fuse", MountFlags::empty(), Some(data.as_c_str()));
        if let Err(e) = mounted {
            skip(test, &format!("needs to mount FUSE: {e}"));
            return None;
        }
        let silent = Mutex::new(false);
        let server = Arc::new(Server { kernel, silent, ends: AtomicBool::new(false) });
        let serving = Arc::clone(&server);
        let thread = thread::spawn(move || serving.serve());
        Some(Self { at, server, thread: Some(thread) })
    }

    /// The directory in it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.at.join(NAME)
    }

    /// From now on the server says nothing.
    pub fn fall_silent(&self) {
        *self.server.silent() = true;
    }

    /// The server answers, also what it was asked meanwhile.
    pub fn speak(&self) {
        *self.server.silent() = false;
    }

    /// Whether somebody waits for the silent server.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.server.is_asked(Duration::ZERO)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.server.ends.store(true, Ordering::SeqCst);
        // The kernel gives up on a server that closes its descriptor.
        let _ = unmount(&self.at, UnmountFlags::DETACH);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Server {
    fn silent(&self) -> MutexGuard<'_, bool> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_asked(&self, wait: Duration) -> bool {
        let wait = wait.try_into().expect("a short time");
        let mut fds = [PollFd::new(&self.kernel, PollFlags::IN)];
        poll(&mut fds, Some(&wait)).is_ok_and(|n| n > 0)
    }

    fn serve(&self) {
        let mut buffer = vec![0; BUFFER];
        while !self.ends.load(Ordering::SeqCst) {
            let silent = self.silent();
            if *silent {
                drop(silent);
                thread::sleep(LOOK);
                continue;
            }
            match (&self.kernel).read(&mut buffer) {
                Ok(length) => {
                    if let Some(answer) = answer(&buffer[..length]) {
                        // Who asked may be gone.
                        let _ = (&self.kernel).write_all(&answer);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    drop(silent);
                    self.is_asked(LOOK);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // It is mounted nowhere any more.
                Err(_) => return,
            }
        }
    }
}

/// The answer to a request, unless it wants none.
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    /// `ENOSYS`, `ENOENT`.
    const UNKNOWN: i32 = -38;
    const ABSENT: i32 = -2;
    let number = |at: usize, bytes: usize| {
        let field = request.get(at..at + bytes).unwrap_or_default();
        field.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte))
    };
    let (operation, unique, node) = (number(4, 4), number(8, 8), number(16, 8));
    let body = request.get(40..).unwrap_or_default();
    let (error, out) = match operation {
        // FORGET, INTERRUPT, BATCH_FORGET
        2 | 36 | 42 => return None,
        // LOOKUP
        1 if node == ROOT && body.strip_suffix(b"\0") == Some(NAME.as_bytes()) => {
            // Nothing of it may be remembered.
            let mut entry = [SHARE, 0, 0, 0, 0].map(u64::to_le_bytes).concat();
            entry.extend(attributes(SHARE));
            (0, entry)
        }
        1 => (ABSENT, Vec::new()),
        // GETATTR
        3 => (0, [[0; 16].to_vec(), attributes(node)].concat()),
        // STATFS, OPENDIR
        17 => (0, vec![0; 80]),
        27 => (0, vec![0; 16]),
        // READDIR, RELEASEDIR, DESTROY
        28 | 29 | 38 => (0, Vec::new()),
        // INIT: version 7.31, and nothing that it could have besides.
        26 => {
            let mut init = [7_u32, 31].map(u32::to_le_bytes).concat();
            init.resize(64, 0);
            init[20..24].copy_from_slice(&4096_u32.to_le_bytes());
            (0, init)
        }
        _ => (UNKNOWN, Vec::new()),
    };
    let length = u32::try_from(16 + out.len()).expect("a short answer");
    let mut answer = length.to_le_bytes().to_vec();
    answer.extend(i32::to_le_bytes(error));
    answer.extend(unique.to_le_bytes());
    answer.extend(out);
    Some(answer)
}

/// `struct fuse_attr` of an empty directory.
fn attributes(node: u64) -> Vec<u8> {
    const DIRECTORY: u32 = 0o040_755;
    let mut attributes = [node, 0, 0, 0, 0, 0].map(u64::to_le_bytes).concat();
    let rest = [0, 0, 0, DIRECTORY, 2, 0, 0, 0, 4096, 0];
    attributes.extend(rest.map(u32::to_le_bytes).concat());
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_falls_silent_and_speaks_again() {
        let dir = tempfile::tempdir().unwrap();
        let Some(share) = Share::new_or_skip("a_share_falls_silent", dir.path()) else { return };
        assert_eq!(fs::read_dir(share.path()).unwrap().count(), 0);
        share.fall_silent();
        let path = share.path();
        let asks = thread::spawn(move || fs::metadata(path).unwrap().is_dir());
        crate::eventually("a question", Duration::from_secs(10), || {
            share.is_waited_for().then_some(())
        });
        assert!(!asks.is_finished());
        share.speak();
        assert!(asks.join().unwrap());
    }
}
