//! One connection of a daemon to the shim.
//!
//! Be aware:
//! - What the other end does not take yet is buffered. For an attached client
//!   the shim stops reading the container's output when that is more than
//!   [`LIMIT`] bytes; it never drops a byte of a client that is still there.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;

use crate::protocol::{HEADER, Kind, Parsed, header, parse};

/// Bytes that wait for one client before the container has to wait.
pub(super) const LIMIT: usize = 256 << 10;
/// A connection that leaves more than this unread after the container's end
/// is given up.
const GIVE_UP: usize = 8 << 20;
/// An empty buffer that is larger is given back.
const KEEP: usize = 4 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Requests and replies; it is told of the exit.
    Control,
    /// Standard streams.
    Attached {
        /// It may still send standard input.
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) role: Role,
    /// What came and was not understood yet.
    received: Vec<u8>,
    /// What the other end did not take yet, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// The other end sends nothing more.
    pub(super) silent: bool,
    /// It ends as soon as everything was sent.
    pub(super) closing: bool,
    /// It has ended.
    pub(super) gone: bool,
    /// It waits for the answer to a start; its other requests wait, too.
    pub(super) asked_to_start: bool,
}

/// A frame that came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            role: Role::Control,
            received: Vec::new(),
            unsent: Vec::new(),
            sent: 0,
            silent: false,
            closing: false,
            gone: false,
            asked_to_start: false,
        })
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self.role, Role::Attached { .. })
    }

    /// Bytes that wait for the other end.
    pub(super) fn waiting(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Whether it holds up the container's output.
    pub(super) fn is_slow(&self) -> bool {
        !self.gone && self.is_attached() && self.waiting() >= LIMIT
    }

    /// Sends a frame: at once what the socket takes, the rest later.
    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) {
        if self.gone || self.closing {
            return;
        }
        let head = header(kind, payload.len());
        let mut done = 0;
        if self.waiting() == 0 {
            match self.stream.write_vectored(&[IoSlice::new(&head), IoSlice::new(payload)]) {
                Ok(n) => done = n,
                Err(e) if is_transient(&e) => {}
                Err(_) => return self.end(),
            }
        }
        if done < HEADER {
            self.unsent.extend_from_slice(&head[done..]);
        }
        self.unsent.extend_from_slice(&payload[done.saturating_sub(HEADER).min(payload.len())..]);
        if self.waiting() > GIVE_UP {
            self.end();
        }
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) {
        while self.waiting() > 0 && !self.gone {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return self.compact(),
                Err(_) => return self.end(),
            }
        }
        self.compact();
        if self.closing && self.waiting() == 0 {
            self.end();
        }
    }

    fn compact(&mut self) {
        if self.waiting() == 0 {
            self.unsent.clear();
            self.sent = 0;
            if self.unsent.capacity() > KEEP {
                self.unsent = Vec::new();
            }
        } else if self.sent >= LIMIT {
            self.unsent.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Ends the connection once everything was sent.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.flush();
    }

    pub(super) fn end(&mut self) {
        self.gone = true;
        self.unsent = Vec::new();
        self.sent = 0;
    }

    /// Reads what is there, at most as much as `buffer` holds.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) {
        match self.stream.read(buffer) {
            Ok(0) => self.silent = true,
            Ok(n) => self.received.extend_from_slice(&buffer[..n]),
            Err(e) if is_transient(&e) => {}
            Err(_) => self.end(),
        }
    }

    /// The next whole frame that was received.
    pub(super) fn next(&mut self) -> Option<Incoming> {
        match parse(&self.received) {
            Parsed::Frame { kind, payload, used } => {
                let frame = Incoming { kind, payload: payload.to_vec() };
                self.received.drain(..used);
                if self.received.is_empty() && self.received.capacity() > KEEP {
                    self.received = Vec::new();
                }
                Some(frame)
            }
            Parsed::Incomplete => None,
            Parsed::Invalid => {
                self.end();
                None
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_when_the_other_end_is_slow() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours).unwrap();
        connection.role = Role::Attached { stdin: false, stdout: true, stderr: true };
        let chunk: Vec<u8> = (0..=255).cycle().take(32 << 10).collect();
        let mut count = 0;
        while !connection.is_slow() {
            connection.send(Kind::Stdout, &chunk);
            count += 1;
        }
        theirs.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        let mut buffer = vec![0; 100_000];
        connection.closing = true;
        while !connection.gone {
            if let Ok(n) = theirs.read(&mut buffer) {
                got.extend_from_slice(&buffer[..n]);
            }
            connection.flush();
        }
        while let Ok(n) = theirs.read(&mut buffer) {
            got.extend_from_slice(&buffer[..n]);
            if n == 0 {
                break;
            }
        }
        drop(connection);
        let mut rest = &got[..];
        for _ in 0..count {
            let Parsed::Frame { kind: Kind::Stdout, payload, used } = parse(rest) else {
                panic!("cut frame")
            };
            assert_eq!(payload, chunk);
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn frames_are_read_whatever_the_pieces() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours).unwrap();
        let bytes = crate::protocol::frame(Kind::Stdin, b"hello");
        let mut buffer = [0; 64];
        for byte in &bytes {
            assert_eq!(connection.next(), None);
            theirs.write_all(&[*byte]).unwrap();
            connection.receive(&mut buffer);
        }
        let frame = connection.next().unwrap();
        assert_eq!((frame.kind, frame.payload.as_slice()), (Kind::Stdin, &b"hello"[..]));
        drop(theirs);
        connection.receive(&mut buffer);
        assert!(connection.silent);
    }
}
