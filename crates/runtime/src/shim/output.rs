//! The process's output: from pipes or a terminal to the log and to attached
//! clients.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use sampan_types::Timestamp;

use super::connection::{Connection, Role};
use crate::logs::{LineSplitter, LogSetup, LogSink, StdStream, writer};
use crate::protocol::Kind;

/// How much is read before others get their turn.
const BATCH: usize = 256 << 10;

/// One of the process's output streams.
#[derive(Debug)]
struct Source {
    stream: StdStream,
    /// `None` once it has ended.
    fd: Option<Rc<OwnedFd>>,
    lines: LineSplitter,
}

/// All output of a process.
pub(super) struct Output {
    sources: Vec<Source>,
    log: Box<dyn LogSink>,
    /// The log failed, and that was reported.
    complained: bool,
}

impl Output {
    pub(super) fn new(log: &LogSetup) -> io::Result<Self> {
        Ok(Self { sources: Vec::new(), log: writer::open(log)?, complained: false })
    }

    /// Adds a stream to read from.
    pub(super) fn add(&mut self, stream: StdStream, fd: Rc<OwnedFd>) {
        self.sources.push(Source { stream, fd: Some(fd), lines: LineSplitter::new(stream) });
    }

    /// The descriptors to wait for.
    pub(super) fn open(&self) -> impl Iterator<Item = &OwnedFd> {
        self.sources.iter().filter_map(|s| s.fd.as_deref())
    }

    /// Whether all streams have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.sources.iter().all(|s| s.fd.is_none())
    }

    /// Reads what is there and hands it on; stops early when `may_go_on` says
    /// so (a client is slow).
    pub(super) fn pump(
        &mut self,
        buffer: &mut [u8],
        connections: &mut [Connection],
        may_go_on: impl Fn(&[Connection]) -> bool,
    ) {
        let log = self.log.as_mut();
        let mut failure = None;
        for source in &mut self.sources {
            let mut budget = BATCH;
            while budget > 0 && may_go_on(connections) {
                let Some(fd) = &source.fd else { break };
                match nix::unistd::read(fd.as_raw_fd(), buffer) {
                    Ok(0) => source.fd = None,
                    Ok(n) => {
                        budget = budget.saturating_sub(n);
                        let bytes = &buffer[..n];
                        let logged = source.lines.feed(bytes, Timestamp::now(), log);
                        failure = logged.err().or(failure);
                        hand_out(source.stream, bytes, connections);
                    }
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => break,
                    // EIO: the last process with the terminal open is gone.
                    Err(_) => source.fd = None,
                }
            }
            if source.fd.is_none() {
                failure = source.lines.finish(Timestamp::now(), log).err().or(failure);
            }
        }
        failure = log.flush().err().or(failure);
        self.complain(failure);
    }

    /// The process has ended: whoever else holds its streams is not listened
    /// to any more.
    pub(super) fn finish(&mut self) {
        let mut failure = None;
        for source in &mut self.sources {
            source.fd = None;
            failure = source.lines.finish(Timestamp::now(), self.log.as_mut()).err().or(failure);
        }
        failure = self.log.flush().err().or(failure);
        self.complain(failure);
    }

    /// A log that can't be written must not stop the container. It is said
    /// once, not once per line.
    fn complain(&mut self, failure: Option<io::Error>) {
        if let Some(error) = failure.filter(|_| !self.complained) {
            self.complained = true;
            super::report(&format_args!("writing the log: {error}; output is lost"));
        }
    }
}

fn hand_out(stream: StdStream, bytes: &[u8], connections: &mut [Connection]) {
    for connection in connections {
        let Role::Attached { stdout, stderr, .. } = connection.role else { continue };
        match stream {
            StdStream::Stdout if stdout => connection.send(Kind::Stdout, bytes),
            StdStream::Stderr if stderr => connection.send(Kind::Stderr, bytes),
            _ => {}
        }
    }
}
