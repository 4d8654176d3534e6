//! Signals by number, the real-time ones included, and children that start
//! with the signal state that programs expect.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::unistd::{Pid, getpid, setpgid, tcsetpgrp};

/// Sends `signal` to `pid` (negative: to the group). That the process is gone
/// is an error (`ESRCH`).
///
/// # Errors
/// Those of kill(2).
pub fn send(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    match unsafe { libc::kill(pid.as_raw(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts `command` in a process group of its own, which gets the terminal on
/// standard input, if there is one; every signal is unblocked and has its
/// default action.
///
/// # Errors
/// Those of fork(2) and execve(2).
pub fn spawn_in_foreground(command: &mut Command) -> io::Result<Child> {
    let prepare = || {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        // With SIGTTOU blocked this works from the background too.
        let mask = nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGTTOU);
        mask.thread_block()?;
        let _ = tcsetpgrp(io::stdin(), getpid());
        crate::process::reset_signals();
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only system calls that
    // are async-signal-safe (setpgid, sigprocmask, tcsetpgrp, sigaction) and
    // allocates nothing.
    unsafe { command.pre_exec(prepare) }.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_signals_are_sent() {
        let mut child = spawn_in_foreground(Command::new("sleep").arg("60")).unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        send(pid, 37).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(37));
        assert_eq!(send(pid, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
