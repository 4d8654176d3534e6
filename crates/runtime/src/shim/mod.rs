//! The shim: one small process per container, and one per exec.
//!
//! `PROGRAM shim` is started by the daemon with a socket as standard input.
//! The first frame on it says what to do ([`Setup`]). The shim makes the
//! streams, forks a process that makes the container ([`make`]) and becomes
//! its supervisor ([`monitor`]) until the container has ended.
//!
//! Be aware:
//! - There is one thread, and it must stay the only one: the process that
//!   makes the container is forked from here and runs arbitrary code.
//! - The daemon may die at any moment. Nothing here needs it once the first
//!   frame has been read.
//! - What is allocated here stays for the container's life: keep it small.

mod connection;
mod console;
mod devices;
mod executor;
mod exit;
mod external;
mod filter;
mod input;
mod late;
mod lookup;
mod make;
mod monitor;
mod output;
mod requests;
mod streams;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2, setsid};

use crate::protocol::{HEADER, Kind, Op, Parsed, Reply, Setup, json_frame, parse};
use monitor::Monitor;

/// Runs the shim. `args` are what follows `PROGRAM shim` on the command line;
/// they only tell people who look at the process list whose shim this is.
#[must_use]
pub fn main(_args: &[String]) -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format_args!("shim: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to the shim's log, which is its standard error.
fn report(line: &dyn std::fmt::Display) {
    // Nobody is left to be told when this fails.
    let _ = writeln!(io::stderr(), "{} {line}", sampan_types::Timestamp::now());
}

fn run() -> io::Result<()> {
    // It fails only where this process already leads a session.
    let _ = setsid();
    umask(Mode::from_bits_truncate(0o022));
    std::env::set_current_dir("/")?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let _ = nix::sys::prctl::set_name(c"sampan-shim");
    let mut control = take_control()?;
    let Some(setup) = read_setup(&mut control)? else {
        // The daemon died before it could say anything.
        return Ok(());
    };
    let mut spare = control.try_clone()?;
    match Monitor::boot(setup, control) {
        Ok(monitor) => {
            drop(spare);
            monitor.run()
        }
        Err(error) => {
            let refusal: Reply = Err(requests::failure(&error));
            spare.write_all(&json_frame(Kind::Reply, &refusal))?;
            Err(error)
        }
    }
}

/// The socket that the daemon gave as standard input. Everything else that
/// was inherited is closed.
fn take_control() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2(null.as_raw_fd(), 0)?;
    drop(null);
    sampan_sys::process::close_all_but(&[socket.as_raw_fd()])?;
    Ok(UnixStream::from(socket))
}

fn read_setup(control: &mut UnixStream) -> io::Result<Option<Setup>> {
    let mut buffer = Vec::with_capacity(8 << 10);
    loop {
        match parse(&buffer) {
            Parsed::Frame { kind: Kind::Request, payload, .. } => {
                return match serde_json::from_slice(payload)? {
                    Op::Boot(setup) => Ok(Some(*setup)),
                    _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
                };
            }
            Parsed::Incomplete => {}
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
        let missing = missing(&buffer);
        if Read::take(&*control, missing).read_to_end(&mut buffer)? == 0 {
            return Ok(None);
        }
    }
}

/// How many bytes the frame at the beginning of `buffer` still needs: no more
/// may be read, for a descriptor can't be put back.
fn missing(buffer: &[u8]) -> u64 {
    let want = match buffer.get(1..HEADER) {
        Some(length) => {
            HEADER + u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize
        }
        None => HEADER,
    };
    (want - buffer.len().min(want)) as u64
}
