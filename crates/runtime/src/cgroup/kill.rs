//! Killing all processes of a group, and what the kernel killed.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use super::files::{io_error, is_absent, keyed, write};
use super::{Cgroup, CgroupError};

/// A process in an uninterruptible call dies only after it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses on v1, which tells nobody when a group became empty.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Cgroup {
    /// How many processes the kernel killed for want of memory.
    ///
    /// # Errors
    /// When it can't be read; an absent cgroup has none.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let counters = match (self.v1("memory"), self.unified()) {
            (Some(dir), _) => keyed(&dir.join("memory.oom_control"))?,
            (None, Some(dir)) => keyed(&dir.join("memory.events"))?,
            (None, None) => return Ok(0),
        };
        Ok(counters.get("oom_kill").copied().unwrap_or(0))
    }

    /// Kills every process in it and below it, and waits until they are gone.
    /// Blocks for as long as that takes; repeatable. The caller must not be in
    /// it.
    ///
    /// # Errors
    /// When the kernel refuses or processes do not go away.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        let until = Instant::now() + PATIENCE;
        if let Some(dir) = self.unified() {
            match write(&dir.join("cgroup.kill"), "1") {
                Ok(()) => {
                    // A v1 freezer holds the dead back.
                    let thawed = self.set_frozen(false);
                    wait_empty(&dir, until)?;
                    ignore_absent(thawed)?;
                }
                // Before Linux 5.14, or no such cgroup.
                Err(CgroupError::Io { source, .. }) if is_absent(&source) => {}
                Err(e) => return Err(e),
            }
        }
        self.kill_each(until)
    }

    /// Kills what is listed until nothing is. Freezing keeps a fork bomb from
    /// outrunning the list; without a freezer the list is just read again.
    fn kill_each(&self, until: Instant) -> Result<(), CgroupError> {
        let mut pause = PAUSE;
        loop {
            let processes = self.processes()?;
            if processes.is_empty() {
                return Ok(());
            }
            let frozen = processes.len() > 1 && self.set_frozen(true).is_ok();
            let listed = if frozen { self.processes()? } else { processes };
            for pid in listed {
                match kill(pid, Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(e) => {
                        return Err(io_error("killing the processes of", &self.path, e.into()));
                    }
                }
            }
            ignore_absent(self.set_frozen(false))?;
            if Instant::now() >= until {
                return Err(timeout(&self.path));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Waits for the kernel's word that no process is left (v2).
fn wait_empty(dir: &Path, until: Instant) -> Result<(), CgroupError> {
    let path = dir.join("cgroup.events");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(io_error("opening", &path, e)),
    };
    loop {
        // Reading re-arms the notification for the descriptor.
        let mut bytes = [0u8; 256];
        let n = std::os::unix::fs::FileExt::read_at(&file, &mut bytes, 0);
        let n = match n {
            Ok(n) => n,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => return Err(io_error("reading", &path, e)),
        };
        let text = String::from_utf8_lossy(&bytes[..n]);
        if super::files::parse_keyed(&text).get("populated") != Some(&1) {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timeout(dir));
        }
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(io_error("waiting for", &path, e.into())),
        }
    }
}

fn ignore_absent(result: Result<(), CgroupError>) -> Result<(), CgroupError> {
    match result {
        Err(CgroupError::Io { source, .. }) if is_absent(&source) => Ok(()),
        other => other,
    }
}

fn timeout(path: &Path) -> CgroupError {
    CgroupError::Timeout {
        operation: "killing",
        path: path.to_owned(),
        seconds: PATIENCE.as_secs(),
    }
}
