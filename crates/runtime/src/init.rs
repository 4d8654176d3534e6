//! The small init of `--init`: process 1 of a container that forwards signals
//! to the one command it started and reaps every orphan.
//!
//! Be aware:
//! - It runs in the container's rootfs, as the container's user, without any
//!   file of the host: it needs nothing but its arguments.
//! - Signals are blocked and taken one by one, so none is lost between the
//!   start of the command and the waiting for it.
//! - The command is a session of its own with the terminal, if there is one,
//!   so that a shell has job control and Ctrl-C reaches it and not us.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sampan_sys::signal::{send, spawn_in_foreground};

/// Exit codes of shells for a command that is missing, and one that can't run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Signals that the kernel raises for faults of our own: not to be forwarded.
const FAULTS: [Signal; 7] = [
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGSYS,
];

/// Runs `args` (the command and its arguments) as the only child, until it
/// ends. Its exit code becomes this process's: 128 + signal when it was
/// killed, 127 when it was not found, 126 when it could not be executed.
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    let args = if args.first().is_some_and(|a| a == "--") { &args[1..] } else { args };
    let Some((program, rest)) = args.split_first() else {
        report("no command given");
        return ExitCode::from(NOT_FOUND);
    };
    let mut mask = SigSet::all();
    FAULTS.iter().for_each(|fault| mask.remove(*fault));
    let signals = match mask.thread_block().and_then(|()| SignalFd::new(&mask)) {
        Ok(signals) => signals,
        Err(e) => {
            report(&format!("taking over signals failed: {e}"));
            return ExitCode::FAILURE;
        }
    };
    match spawn_in_foreground(Command::new(program).args(rest)) {
        Ok(child) => {
            supervise(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)), &signals)
        }
        Err(e) => {
            report(&format!("exec {} failed: {e}", program.to_string_lossy()));
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE })
        }
    }
}

fn supervise(child: Pid, signals: &SignalFd) -> ExitCode {
    loop {
        if let Some(code) = reap(child) {
            return ExitCode::from(code);
        }
        if let Ok(Some(info)) = signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if number != libc::SIGCHLD {
                // That it has just ended is seen at the next reaping.
                let _ = send(child, number);
            }
        }
    }
}

/// Takes every child that has ended; the exit code when one is the command.
fn reap(child: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => {
                code = Some(u8::try_from(status & 0xff).unwrap_or(1));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(u8::try_from(128 + signal as i32).unwrap_or(255));
            }
            Ok(WaitStatus::StillAlive) => return code,
            Ok(_) | Err(Errno::EINTR) => {}
            // No child is left. A command that a real-time signal killed ends
            // up here too: the library knows no such signal.
            Err(_) => return code.or(Some(1)),
        }
    }
}

#[allow(clippy::print_stderr)]
fn report(message: &str) {
    eprintln!("[init] {message}");
}
