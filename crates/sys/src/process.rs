//! Processes: forking, signals, descriptors, seccomp filters.
//!
//! Be aware:
//! - [`fork`] is for processes with one thread: in the child of any other, a
//!   lock that another thread held stays locked for ever.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags};
use nix::unistd::{ForkResult, Pid};

/// Which of the two processes this is after a [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one; the new one has this id.
    Parent(Pid),
}

/// Makes a copy of this process. It must have one thread only.
///
/// # Errors
/// Those of fork(2), and `EBUSY` when there are more threads.
pub fn fork() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task")?.take(2).count();
    if threads > 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: this process has one thread, so the child finds no lock held
    // and may do whatever its parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Forked::Child),
        ForkResult::Parent { child } => Ok(Forked::Parent(child)),
    }
}

/// Ends this process at once: no destructor runs, no buffer is written.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor above 2 but those in `keep`. For a process that
/// goes on in a function which never returns: whoever owned a descriptor that
/// is closed here must not run any more.
///
/// # Errors
/// Those of close_range(2).
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain(std::iter::once(RawFd::MAX)) {
        if fd > first {
            close_range(first, if fd == RawFd::MAX { fd } else { fd - 1 })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    let (Ok(first), Ok(last)) = (libc::c_uint::try_from(first), libc::c_uint::try_from(last))
    else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    // SAFETY: only numbers are passed; who calls `close_all_but` promised
    // that the owners of these descriptors are gone.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives every signal its default action and unblocks all of them, as a
/// program expects to find them.
pub fn reset_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: the default action runs no code of this process. KILL and
        // STOP refuse it, which is fine.
        let _ = unsafe { nix::sys::signal::sigaction(signal, &default) };
    }
    // The C library keeps 32 and 33 for itself: it ignores them in processes
    // that it spawned, and refuses to change them.
    let default = [0u64; 4];
    for signal in [32, 33] {
        // SAFETY: the kernel reads one `struct sigaction`, which has four
        // words; all zero is the default action with an empty mask.
        let _ = unsafe {
            let action = default.as_ptr();
            libc::syscall(libc::SYS_rt_sigaction, signal, action, std::ptr::null_mut::<u64>(), 8)
        };
    }
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Sends a signal by number, real-time ones included, to a process that must
/// be a child of this one, so that its id can't have passed to another.
///
/// # Errors
/// Those of kill(2).
pub fn send_signal(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes numbers and touches no memory of this process.
    match unsafe { libc::kill(pid.as_raw(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Installs a compiled seccomp filter (an array of `struct sock_filter`) in
/// this process. It needs `CAP_SYS_ADMIN` or no-new-privileges.
///
/// # Errors
/// Those of seccomp(2); `EINVAL` when the program is none.
pub fn load_seccomp(program: &[u8], flags: u32) -> io::Result<()> {
    const FILTER: usize = size_of::<libc::sock_filter>();
    let count = program.len() / FILTER;
    let Ok(len) = libc::c_ushort::try_from(count) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    if count == 0 || !program.len().is_multiple_of(FILTER) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut filters: Vec<libc::sock_filter> = program
        .chunks_exact(FILTER)
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let fprog = libc::sock_fprog { len, filter: filters.as_mut_ptr() };
    // SAFETY: `fprog` points to `len` initialised filters that live until the
    // call returns; the kernel copies and verifies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&fprog),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives a terminal a new size.
///
/// # Errors
/// Those of ioctl(2): `ENOTTY` when it is no terminal.
pub fn set_window_size(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCSWINSZ reads one `winsize`, which lives until it returns.
    match unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, std::ptr::from_ref(&size)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Receives one descriptor that was sent over a unix socket.
///
/// # Errors
/// Those of recvmsg(2); `UnexpectedEof` when there was none.
pub fn receive_fd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut data = [0u8; 64];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [io::IoSliceMut::new(&mut data)];
    let message = nix::sys::socket::recvmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just made this descriptor for us; the
            // space given holds no more than one.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_filters_are_refused() {
        for program in [&[][..], &[0u8; 7][..], &vec![0u8; 8 * 70_000][..]] {
            assert_eq!(load_seccomp(program, 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn descriptors_travel() {
        use std::io::Write;
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let fds = [writer.as_raw_fd()];
        nix::sys::socket::sendmsg::<()>(
            a.as_raw_fd(),
            &[io::IoSlice::new(b"x")],
            &[nix::sys::socket::ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        let received = receive_fd(&b).unwrap();
        drop(writer);
        std::fs::File::from(received).write_all(b"hello").unwrap();
        let mut text = [0u8; 5];
        assert_eq!(nix::unistd::read(reader.as_raw_fd(), &mut text), Ok(5));
        drop(a);
        assert!(receive_fd(&b).is_err());
    }

    #[test]
    fn fork_is_refused_with_threads() {
        // The test harness itself has more than one thread.
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(libc::EBUSY));
    }
}
