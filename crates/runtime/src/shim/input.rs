//! The process's standard input: bytes from clients on their way to a pipe or
//! a terminal.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;

/// Bytes that may wait for the process before clients have to wait.
const LIMIT: usize = 64 << 10;

/// Where input goes.
#[derive(Debug)]
enum Sink {
    /// The process is not there yet; input waits for it.
    Pending,
    Open(Rc<OwnedFd>),
    Closed,
}

#[derive(Debug)]
pub(super) struct Input {
    sink: Sink,
    queue: Vec<u8>,
    done: usize,
    /// The sink is to be closed after the last byte.
    ending: bool,
}

impl Input {
    /// Input that waits for its process.
    pub(super) fn pending() -> Self {
        Self { sink: Sink::Pending, queue: Vec::new(), done: 0, ending: false }
    }

    /// Connects it with the process; `None` for a process without input.
    pub(super) fn open(&mut self, fd: Option<Rc<OwnedFd>>) {
        self.sink = fd.map_or(Sink::Closed, Sink::Open);
        self.pump();
    }

    /// Whether clients have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() - self.done >= LIMIT
    }

    /// What to wait for before the next [`Input::pump`].
    pub(super) fn blocked_on(&self) -> Option<&OwnedFd> {
        match &self.sink {
            Sink::Open(fd) if self.done < self.queue.len() => Some(fd),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if matches!(self.sink, Sink::Closed) || self.ending {
            return;
        }
        self.queue.extend_from_slice(bytes);
        self.pump();
    }

    /// Nothing more comes: the process sees the end of its input.
    pub(super) fn finish(&mut self) {
        self.ending = true;
        self.pump();
    }

    /// Writes what the process takes.
    pub(super) fn pump(&mut self) {
        let Sink::Open(fd) = &self.sink else { return };
        while self.done < self.queue.len() {
            match nix::unistd::write(fd, &self.queue[self.done..]) {
                Ok(n) => self.done += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // It reads no more.
                Err(_) => return self.close(),
            }
        }
        self.queue.clear();
        self.done = 0;
        if self.queue.capacity() > LIMIT {
            self.queue = Vec::new();
        }
        if self.ending {
            self.close();
        }
    }

    pub(super) fn close(&mut self) {
        *self = Self { sink: Sink::Closed, queue: Vec::new(), done: 0, ending: true };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::shim::console::set_nonblocking;

    #[test]
    fn input_waits_for_the_process_and_ends_after_the_last_byte() {
        let (read, write) = nix::unistd::pipe().unwrap();
        set_nonblocking(&write).unwrap();
        let mut input = Input::pending();
        let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        input.push(&bytes);
        input.finish();
        assert!(input.is_full());
        input.open(Some(Rc::new(write)));
        let mut got = Vec::new();
        let mut buffer = [0; 5000];
        loop {
            match nix::unistd::read(read.as_raw_fd(), &mut buffer).unwrap() {
                0 => break,
                n => got.extend_from_slice(&buffer[..n]),
            }
            input.pump();
        }
        assert_eq!(got, bytes);
    }

    #[test]
    fn a_process_that_reads_no_more_is_no_error() {
        let (read, write) = nix::unistd::pipe().unwrap();
        drop(read);
        let mut input = Input::pending();
        input.open(Some(Rc::new(write)));
        input.push(b"x");
        input.push(b"y");
        assert!(input.blocked_on().is_none() && !input.is_full());
    }
}
