//! The loop that watches one process from its making to its end.
//!
//! Be aware:
//! - The set of descriptors to wait for is made anew each turn from the state;
//!   nothing is registered anywhere. There are only a few.
//! - A process is reaped nowhere but in [`Monitor::reap`], which forgets its
//!   id at the same time: no signal can reach a process that got the id later.
//! - A stage is never gone back to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sampan_types::Timestamp;

use super::connection::Connection;
use super::console::{Console, bind};
use super::input::Input;
use super::make::{Making, make};
use super::output::Output;
use super::streams::{self, Outer};
use super::{exit, report};
use crate::client::ExitStatus;
use crate::logs::StdStream;
use crate::protocol::{Failure, Info, Kind, SOCKET, Setup, VERSION, json_frame};

/// How long output is waited for after the process has ended, when something
/// else still holds its streams.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the news of the exit wait for attached clients.
const HAND_OVER: Duration = Duration::from_secs(2);
/// How long slow clients get for the rest after that.
const LINGER: Duration = Duration::from_secs(60);
/// What is read at once.
const BUFFER: usize = 32 << 10;

/// What the process is doing.
#[derive(Debug)]
pub(super) enum Stage {
    /// It waits to be started (or, an exec, to be made).
    Created,
    /// It was told to run the user's program; who asked is told when it does.
    Starting,
    /// It runs.
    Running,
    /// It has ended; the rest of its output is on the way.
    Draining { code: i32, finished: Timestamp, until: Instant, swept: bool },
    /// Its output was read; attached clients get the rest.
    Handing { status: ExitStatus, until: Instant },
    /// Everybody was told; slow clients get the rest.
    Lingering { until: Instant },
}

pub(super) struct Monitor {
    pub(super) setup: Setup,
    pub(super) stage: Stage,
    /// The process; `None` when it is not there yet, or was reaped.
    pub(super) pid: Option<Pid>,
    /// Its id, for as long as anybody asks.
    pub(super) known_pid: Option<Pid>,
    pub(super) started: Option<Timestamp>,
    /// How it ended.
    pub(super) ended: Option<ExitStatus>,
    pub(super) terminal: Option<Rc<OwnedFd>>,
    pub(super) size: Option<(u16, u16)>,
    pub(super) input: Input,
    pub(super) output: Output,
    /// Ends when the user's program runs.
    pub(super) program: Option<OwnedFd>,
    pub(super) connections: Vec<Connection>,
    listener: Option<UnixListener>,
    signals: SignalFd,
    /// No child is left, as of the last [`Monitor::reap`].
    childless: bool,
}

impl Monitor {
    /// Makes the process and answers the daemon. For an exec, only prepares.
    pub(super) fn boot(setup: Setup, control: UnixStream) -> io::Result<Self> {
        let output = Output::new(&setup.log)?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut monitor = Self {
            stage: Stage::Created,
            pid: None,
            known_pid: None,
            started: None,
            ended: None,
            terminal: None,
            size: setup.io.console_size,
            input: Input::pending(),
            output,
            program: None,
            connections: vec![Connection::new(control)?],
            listener: None,
            signals,
            childless: true,
            setup,
        };
        if monitor.setup.exec.is_some() {
            monitor.listen()?;
            monitor.answer(0, Ok(()));
        } else {
            let made = monitor.make();
            monitor.answer(0, made.clone());
            if made.is_err() {
                monitor.abandon();
            }
        }
        Ok(monitor)
    }

    fn listen(&mut self) -> io::Result<()> {
        let listener = bind(&self.setup.dir, SOCKET)?;
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Makes the process and takes over its streams.
    pub(super) fn make(&mut self) -> Result<(), Failure> {
        let failed = |e: io::Error| super::requests::failure(&e);
        self.setup.io.console_size = self.size;
        let (inner, outer) = streams::make(&self.setup).map_err(failed)?;
        let mut making = make(&self.setup, inner).map_err(failed)?;
        if self.listener.is_none() {
            // While the maker is at work.
            self.listen().map_err(failed)?;
        }
        let made = making.wait();
        let Making { program, .. } = making;
        let pid = made?;
        (self.pid, self.known_pid) = (Some(pid), Some(pid));
        self.program = Some(program);
        self.connect(outer).map_err(failed)
    }

    fn connect(&mut self, outer: Outer) -> io::Result<()> {
        if let Some(terminal) = outer.console.map(Console::receive).transpose()? {
            let terminal = Rc::new(terminal);
            self.output.add(StdStream::Stdout, Rc::clone(&terminal));
            self.input.open(self.setup.io.open_stdin.then(|| Rc::clone(&terminal)));
            if let Some((rows, columns)) = self.size {
                sampan_sys::process::set_window_size(terminal.as_fd(), rows, columns)?;
            }
            self.terminal = Some(terminal);
            return Ok(());
        }
        self.input.open(outer.stdin.map(Rc::new));
        for (stream, fd) in [(StdStream::Stdout, outer.stdout), (StdStream::Stderr, outer.stderr)] {
            if let Some(fd) = fd {
                self.output.add(stream, Rc::new(fd));
            }
        }
        Ok(())
    }

    /// The process could not be made: removes what was, and ends.
    fn abandon(&mut self) {
        if let Some(pid) = self.pid {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
            self.pid = None;
        }
        exit::remove(&self.setup);
        self.stage = Stage::Lingering { until: Instant::now() + HAND_OVER };
        self.connections.iter_mut().for_each(Connection::close);
        self.reap();
    }

    pub(super) fn info(&self) -> Info {
        Info {
            version: VERSION,
            pid: self.known_pid.and_then(|p| u32::try_from(p.as_raw()).ok()),
            shim: std::process::id(),
            generation: self.setup.generation,
            started: self.started,
            exit: self.ended.clone(),
        }
    }

    /// Runs until the process has ended and everybody knows.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        sampan_sys::allocator::trim_memory();
        // A child may have ended before the first turn.
        self.reap();
        self.advance();
        while !self.is_over() {
            let ready = self.wait()?;
            if ready.signals {
                self.take_signals();
            }
            if ready.program {
                self.program_runs();
            }
            self.pump(&mut buffer);
            self.serve(&mut buffer, &ready.connections);
            if ready.listener {
                self.accept();
            }
            self.connections.retain(|c| !c.gone);
            self.advance();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        match self.stage {
            // A child that nobody reaps would hold up the end of its
            // process namespace.
            Stage::Lingering { until } => {
                (self.connections.is_empty() && self.childless) || Instant::now() >= until
            }
            // The daemon that wanted the exec died before it could start it.
            Stage::Created => self.setup.exec.is_some() && self.connections.is_empty(),
            _ => false,
        }
    }

    /// The container has to wait for a slow client only while it runs.
    fn may_read(stage: &Stage, connections: &[Connection]) -> bool {
        matches!(stage, Stage::Draining { .. }) || !connections.iter().any(Connection::is_slow)
    }

    fn pump(&mut self, buffer: &mut [u8]) {
        self.input.pump();
        let stage = &self.stage;
        self.output.pump(buffer, &mut self.connections, |c| Self::may_read(stage, c));
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.accept().and_then(|(stream, _)| Connection::new(stream)) {
                Ok(connection) => self.connections.push(connection),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => return report(&format_args!("accepting a connection: {e}")),
            }
        }
    }

    fn take_signals(&mut self) {
        // Signals other than SIGCHLD are ignored: a shim ends with its container.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.reap();
    }

    /// Takes every child that has ended.
    pub(super) fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) => return self.childless = false,
                Err(Errno::ECHILD) => return self.childless = true,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(e) => return report(&format_args!("waiting for children: {e}")),
            };
            if Some(pid) == self.pid {
                self.pid = None;
                let until = Instant::now() + DRAIN;
                self.settle_start();
                let finished = Timestamp::now();
                self.stage = Stage::Draining { code, finished, until, swept: false };
            }
        }
    }

    /// Goes to the next stage when it is time.
    fn advance(&mut self) {
        if let Stage::Draining { code, finished, until, swept } = &mut self.stage {
            let (code, finished) = (*code, *finished);
            if !self.output.has_ended() && Instant::now() < *until {
                if !std::mem::replace(swept, true) {
                    exit::kill_leftovers(&self.setup);
                }
                return;
            }
            self.output.finish();
            self.conclude(code, finished);
        }
        if let Stage::Handing { status, until } = &self.stage {
            let waiting = self.connections.iter().any(|c| c.is_attached() && c.waiting() > 0);
            if waiting && Instant::now() < *until {
                return;
            }
            let news = json_frame(Kind::Exit, status);
            for connection in &mut self.connections {
                if !connection.is_attached() {
                    connection.send(Kind::Exit, &news[crate::protocol::HEADER..]);
                }
                connection.close();
            }
            self.listener = None;
            self.connections.retain(|c| !c.gone);
            self.stage = Stage::Lingering { until: Instant::now() + LINGER };
            self.reap();
        }
    }

    /// The output was read: records the end and removes what is left.
    pub(super) fn conclude(&mut self, code: i32, finished: Timestamp) {
        let status = exit::conclude(&self.setup, code, finished, self.started.is_some());
        self.input.close();
        self.terminal = None;
        self.program = None;
        self.ended = Some(status.clone());
        for connection in &mut self.connections {
            if connection.is_attached() {
                connection.send(Kind::OutputEnd, &[]);
            }
        }
        self.stage = Stage::Handing { status, until: Instant::now() + HAND_OVER };
    }

    /// When something has to be done even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Draining { until, .. }
            | Stage::Handing { until, .. }
            | Stage::Lingering { until } => Some(*until),
            _ => None,
        }
    }

    /// Waits until something can be done.
    fn wait(&self) -> io::Result<Ready> {
        let mut wanted: Vec<(What, BorrowedFd<'_>, PollFlags)> = Vec::with_capacity(8);
        wanted.push((What::Signals, self.signals.as_fd(), PollFlags::POLLIN));
        if let Some(program) = &self.program {
            wanted.push((What::Program, program.as_fd(), PollFlags::POLLIN));
        }
        if let Some(listener) = &self.listener {
            wanted.push((What::Listener, listener.as_fd(), PollFlags::POLLIN));
        }
        if Self::may_read(&self.stage, &self.connections) {
            wanted
                .extend(self.output.open().map(|fd| (What::Stream, fd.as_fd(), PollFlags::POLLIN)));
        }
        if let Some(fd) = self.input.blocked_on() {
            wanted.push((What::Stream, fd.as_fd(), PollFlags::POLLOUT));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, self.listens_to(connection));
            flags.set(PollFlags::POLLOUT, connection.waiting() > 0);
            // With nothing wanted, a hang-up is still told; it would be told
            // for ever if nobody read what came before it.
            if !flags.is_empty() || connection.silent {
                wanted.push((What::Connection(index), connection.stream.as_fd(), flags));
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            wanted.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut fds, self.timeout()) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(e) => return Err(e.into()),
        }
        let mut ready = Ready::default();
        for ((what, ..), fd) in wanted.iter().zip(&fds) {
            let flags = fd.revents().unwrap_or(PollFlags::POLLERR);
            if flags.is_empty() {
                continue;
            }
            match what {
                What::Signals => ready.signals = true,
                What::Program => ready.program = true,
                What::Listener => ready.listener = true,
                What::Connection(index) => ready.connections.push((*index, flags)),
                // Streams are tried each turn.
                What::Stream => {}
            }
        }
        Ok(ready)
    }

    fn timeout(&self) -> PollTimeout {
        let Some(until) = self.deadline() else {
            return PollTimeout::NONE;
        };
        let left = until.saturating_duration_since(Instant::now()).as_millis() + 1;
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy)]
enum What {
    Signals,
    Program,
    Listener,
    Stream,
    Connection(usize),
}

/// What can be done now.
#[derive(Debug, Default)]
struct Ready {
    signals: bool,
    program: bool,
    listener: bool,
    connections: Vec<(usize, PollFlags)>,
}
