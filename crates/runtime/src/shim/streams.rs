//! The pipes of a process, from both sides.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::console::{Console, set_nonblocking};
use crate::client::IoConfig;
use crate::protocol::Setup;

/// The process's side. What is absent is `/dev/null`.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// The socket to which its terminal is to be sent.
    pub(super) console: Option<PathBuf>,
}

impl Inner {
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .map(AsRawFd::as_raw_fd)
            .collect()
    }
}

/// The shim's side; reads and writes on it never wait.
#[derive(Debug, Default)]
pub(super) struct Outer {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) console: Option<Console>,
}

/// Both sides for one process.
pub(super) fn make(setup: &Setup) -> io::Result<(Inner, Outer)> {
    let IoConfig { tty, open_stdin, .. } = setup.io;
    if tty {
        let console = Console::new(&setup.dir)?;
        let inner = Inner { console: Some(console.path()), ..Inner::default() };
        return Ok((inner, Outer { console: Some(console), ..Outer::default() }));
    }
    let (mut inner, mut outer) = (Inner::default(), Outer::default());
    if open_stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(&write)?;
        (inner.stdin, outer.stdin) = (Some(read), Some(write));
    }
    (inner.stdout, outer.stdout) = output()?;
    (inner.stderr, outer.stderr) = output()?;
    Ok((inner, outer))
}

fn output() -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&read)?;
    Ok((Some(write), Some(read)))
}
