//! What connections ask of the shim, and the answers.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;
use nix::sys::signal::{Signal, kill};
use sampan_types::Timestamp;

use super::connection::{Connection, Incoming, Role};
use super::console::directory;
use super::make::{STATE, own_words};
use super::monitor::{Monitor, Stage};
use super::{exit, external, report};
use crate::client::OciRuntime;
use crate::protocol::{Failure, HEADER, Kind, Op, Reason, Setup, json_frame};

/// A failure of the shim itself.
pub(super) fn failure(error: &io::Error) -> Failure {
    Failure { reason: Reason::Create, message: error.to_string() }
}

fn refused(message: &str) -> Failure {
    Failure { reason: Reason::Refused, message: message.to_owned() }
}

impl Monitor {
    /// Whether it is worth reading from a connection now.
    pub(super) fn listens_to(&self, connection: &Connection) -> bool {
        let blocked = match connection.role {
            Role::Attached { stdin, .. } => stdin && self.input.is_full(),
            Role::Control => connection.asked_to_start,
        };
        !connection.silent && !connection.closing && !connection.gone && !blocked
    }

    /// Serves the connections on which something happened.
    pub(super) fn serve(&mut self, buffer: &mut [u8], ready: &[(usize, PollFlags)]) {
        for (index, flags) in ready {
            let index = *index;
            if flags.contains(PollFlags::POLLOUT) {
                self.connections[index].flush();
            }
            let over = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
            if self.connections[index].silent && flags.intersects(over) {
                self.connections[index].end();
            } else if flags.intersects(PollFlags::POLLIN | over)
                && self.listens_to(&self.connections[index])
            {
                self.connections[index].receive(buffer);
            }
            self.frames(index);
            if self.connections[index].silent {
                self.fell_silent(index);
            }
        }
    }

    /// Handles the frames that came, as far as it can now.
    fn frames(&mut self, index: usize) {
        while !self.connections[index].asked_to_start {
            let Some(frame) = self.connections[index].next() else { return };
            self.handle(index, &frame);
        }
    }

    fn handle(&mut self, index: usize, frame: &Incoming) {
        match (frame.kind, self.connections[index].role) {
            (Kind::Request, Role::Control) => match serde_json::from_slice(&frame.payload) {
                Ok(op) => self.request(index, &op),
                Err(e) => self.answer(index, Err(refused(&format!("unknown request: {e}")))),
            },
            (Kind::Stdin, Role::Attached { stdin: true, .. }) => self.input.push(&frame.payload),
            (Kind::StdinEnd, Role::Attached { stdin: true, .. }) => self.input_ended(index),
            // Input of a client that said it sends none.
            (Kind::Stdin | Kind::StdinEnd, Role::Attached { .. }) => {}
            _ => self.connections[index].end(),
        }
    }

    /// The other end sends nothing more: a daemon has gone, a client may
    /// still listen.
    fn fell_silent(&mut self, index: usize) {
        match self.connections[index].role {
            Role::Control => self.connections[index].end(),
            Role::Attached { .. } => self.input_ended(index),
        }
    }

    /// A client's input has ended. With `stdin_once` so has the process's.
    /// A terminal's never does: it is the output, too.
    fn input_ended(&mut self, index: usize) {
        let Role::Attached { stdin, .. } = &mut self.connections[index].role else { return };
        if std::mem::replace(stdin, false) && self.setup.io.stdin_once && !self.setup.io.tty {
            self.input.finish();
        }
    }

    pub(super) fn answer(&mut self, index: usize, result: Result<(), Failure>) {
        let reply = result.map(|()| self.info()).map_err(|f| explain(&self.setup, f));
        let frame = json_frame(Kind::Reply, &reply);
        if let Some(connection) = self.connections.get_mut(index) {
            connection.send(Kind::Reply, &frame[HEADER..]);
        }
    }

    fn request(&mut self, index: usize, op: &Op) {
        let result = match op {
            Op::Info => Ok(()),
            Op::Boot(_) => Err(refused("this shim has its container")),
            Op::Start => return self.start(index),
            Op::Signal(signal) => self.signal(*signal),
            Op::Resize { rows, columns } => self.resize(*rows, *columns),
            Op::Attach { stdin, stdout, stderr } => {
                self.answer(index, Ok(()));
                return self.attach(index, *stdin, *stdout, *stderr);
            }
            Op::Shutdown => {
                self.answer(index, Ok(()));
                return self.shut_down();
            }
        };
        self.answer(index, result);
    }

    fn attach(&mut self, index: usize, stdin: bool, stdout: bool, stderr: bool) {
        let connection = &mut self.connections[index];
        connection.role = Role::Attached { stdin, stdout, stderr };
        if self.ended.is_some() {
            connection.send(Kind::OutputEnd, &[]);
            connection.close();
        }
    }

    fn signal(&self, signal: i32) -> Result<(), Failure> {
        let Some(pid) = self.pid else {
            let message = "the process is not running".to_owned();
            return Err(Failure { reason: Reason::NotRunning, message });
        };
        sampan_sys::process::send_signal(pid, signal).map_err(|e| refused(&e.to_string()))
    }

    fn resize(&mut self, rows: u16, columns: u16) -> Result<(), Failure> {
        if !self.setup.io.tty {
            return Err(refused("the process has no terminal"));
        }
        self.size = Some((rows, columns));
        match &self.terminal {
            Some(terminal) => sampan_sys::process::set_window_size(terminal, rows, columns)
                .map_err(|e| refused(&e.to_string())),
            None if self.ended.is_some() => {
                let message = "the process is not running".to_owned();
                Err(Failure { reason: Reason::NotRunning, message })
            }
            // It gets the size when it is made.
            None => Ok(()),
        }
    }

    fn shut_down(&mut self) {
        if let Some(pid) = self.pid {
            let _ = kill(pid, Signal::SIGKILL);
            exit::kill_leftovers(&self.setup);
            self.reap();
        } else if self.ended.is_none() {
            self.conclude(128 + libc::SIGKILL, Timestamp::now());
        }
    }

    fn start(&mut self, index: usize) {
        if !matches!(self.stage, Stage::Created) {
            return self.answer(index, Err(refused("it was started before")));
        }
        let started = if self.setup.exec.is_some() {
            self.make().map(|()| self.program = None)
        } else {
            match &self.setup.runtime {
                OciRuntime::External(program) => {
                    self.program = None;
                    external::start(program, &self.setup)
                }
                OciRuntime::Builtin => notify(&self.setup).map_err(|e| failure(&e)),
            }
        };
        match started {
            Ok(()) if self.program.is_some() => {
                self.connections[index].asked_to_start = true;
                self.stage = Stage::Starting;
            }
            Ok(()) => {
                self.stage = Stage::Running;
                self.started = Some(Timestamp::now());
                self.answer(index, Ok(()));
                // It may have ended already.
                self.reap();
            }
            Err(failure) => self.start_failed(index, failure),
        }
    }

    fn start_failed(&mut self, index: usize, failure: Failure) {
        let code = match failure.reason {
            Reason::Command(code) => code,
            _ => 128,
        };
        self.answer(index, Err(failure));
        if self.setup.exec.is_some() && self.pid.is_none() {
            self.conclude(code, Timestamp::now());
        } else {
            self.shut_down();
        }
    }

    /// The pipe that execve closes has ended, or brought a failure.
    pub(super) fn program_runs(&mut self) {
        let Some(program) = self.program.take() else { return };
        if !matches!(self.stage, Stage::Starting) {
            // It died before its start; that is seen elsewhere.
            return;
        }
        let result = own_words(&program).map_or(Ok(()), Err);
        if result.is_ok() {
            self.started = Some(Timestamp::now());
            self.stage = Stage::Running;
            mark_running(&self.setup);
        }
        let failed = result.is_err();
        self.answer_start(result);
        if failed {
            self.shut_down();
        }
    }

    /// The process has ended: who waits for its start must know whether its
    /// program ever ran.
    pub(super) fn settle_start(&mut self) {
        if matches!(self.stage, Stage::Starting) {
            self.program_runs();
        }
    }

    fn answer_start(&mut self, result: Result<(), Failure>) {
        for index in 0..self.connections.len() {
            if std::mem::take(&mut self.connections[index].asked_to_start) {
                self.answer(index, result.clone());
                self.frames(index);
            }
        }
    }
}

/// Puts a failure in Docker's words.
fn explain(setup: &Setup, failure: Failure) -> Failure {
    if matches!(failure.reason, Reason::Refused | Reason::NotRunning) {
        return failure;
    }
    let own = setup.runtime == OciRuntime::Builtin;
    let prefix = match (setup.exec.is_some(), own) {
        (true, true) => "OCI runtime exec failed: exec failed: unable to start container process: ",
        (true, false) => "OCI runtime exec failed: ",
        (false, true) => {
            "failed to create task for container: failed to create shim task: OCI runtime create \
             failed: unable to start container process: error during container init: "
        }
        (false, false) => {
            "failed to create task for container: failed to create shim task: OCI runtime create \
             failed: "
        }
    };
    let message = format!("{prefix}{}: unknown", failure.message);
    Failure { reason: failure.reason, message }
}

/// Tells the container's init, which waits in libcontainer's code, to go on.
fn notify(setup: &Setup) -> io::Result<()> {
    let dir = directory(&setup.container_dir.join(STATE).join(setup.id.as_str()))?;
    let mut socket = UnixStream::connect(format!("/proc/self/fd/{}/notify.sock", dir.as_raw_fd()))?;
    socket.write_all(b"start container")
}

/// libcontainer makes further processes only in a container whose state says
/// that it runs.
fn mark_running(setup: &Setup) {
    let path = setup.container_dir.join(STATE).join(setup.id.as_str()).join("state.json");
    let marked = std::fs::read(&path).and_then(|text| {
        let mut state: serde_json::Value = serde_json::from_slice(&text)?;
        state["status"] = "running".into();
        sampan_sys::file::write_replace(&path, state.to_string().as_bytes(), 0o600)
    });
    if let Err(error) = marked {
        report(&format_args!("marking the container as running: {error}"));
    }
}
