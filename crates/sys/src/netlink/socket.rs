//! A netlink socket: datagrams out, messages in.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::SocketAddr;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::attr::{HEADER, attributes, text};

/// Room for the largest datagram that the kernel makes of a dump.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words about a refusal.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `NLM_F_CAPPED`, `NLM_F_ACK_TLVS`: what follows the error number.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// `NLM_F_DUMP_INTR`: the list changed while it was read.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// One message from the kernel.
#[derive(Debug)]
pub(crate) enum Reply<'a> {
    /// The answer to the request `sequence`; 0 is success.
    Ack { sequence: u32, errno: i32, detail: String },
    /// The end of a list.
    Done { sequence: u32, errno: i32 },
    /// An object.
    Object { sequence: u32, interrupted: bool, body: &'a [u8] },
}

#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl Socket {
    /// A socket of `protocol` (`NETLINK_…`) in the calling thread's network
    /// namespace.
    pub(crate) fn open(protocol: i32) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocol as isize)?;
        inner.bind_auto()?;
        inner.connect(&SocketAddr::new(0, 0))?;
        inner.set_ext_ack(true)?;
        inner.set_cap_ack(true)?;
        Ok(Self { inner, sequence: 0, received: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// Receives what the kernel tells a multicast group as well.
    pub(crate) fn join(&mut self, group: u32) -> io::Result<()> {
        self.inner.add_membership(group)
    }

    /// Waits until there is something to receive; false when there is nothing
    /// for so long.
    pub(crate) fn wait(&self, patience: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut socket = [PollFd::new(self.inner.as_fd(), PollFlags::POLLIN)];
        match poll(&mut socket, timeout) {
            // The caller sees that nothing is there, and waits again.
            Err(Errno::EINTR) => Ok(true),
            Err(e) => Err(e.into()),
            Ok(ready) => Ok(ready > 0),
        }
    }

    /// Whether the kernel refuses what it does not know in the requests for
    /// lists, and heeds the filters in them. Older ones than 4.20 never do.
    pub(crate) fn check_strictly(&mut self, on: bool) -> io::Result<()> {
        match self.inner.set_netlink_get_strict_chk(on) {
            Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
            result => result,
        }
    }

    /// Makes room for large datagrams and for many answers at once.
    pub(crate) fn set_buffers(&self, bytes: usize) -> io::Result<()> {
        setsockopt(&self.inner, sockopt::SndBufForce, &bytes)?;
        setsockopt(&self.inner, sockopt::RcvBufForce, &bytes)?;
        Ok(())
    }

    /// The port by which the kernel knows the socket: changes that it makes
    /// are told to others with this number.
    pub(crate) fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.inner.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// A number that no earlier request of this socket has.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    pub(crate) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        loop {
            match self.inner.send(datagram, 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Receives one datagram and hands each message of it to `each`. False
    /// when there is none and `wait` is false.
    pub(crate) fn receive(
        &mut self,
        wait: bool,
        mut each: impl FnMut(Reply<'_>),
    ) -> io::Result<bool> {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            self.received.clear();
            match self.inner.recv(&mut self.received, flags) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !wait => return Ok(false),
                Err(e) => return Err(e),
                Ok(_) => break,
            }
        }
        let mut rest = self.received.as_slice();
        while let Some((reply, tail)) = parse(rest) {
            if let Some(reply) = reply {
                each(reply);
            }
            rest = tail;
        }
        Ok(true)
    }
}

/// The first message of `bytes`, unless it says nothing, and what follows it.
fn parse(bytes: &[u8]) -> Option<(Option<Reply<'_>>, &[u8])> {
    let header = bytes.get(..HEADER)?;
    let field16 = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
    let (kind, flags) = (field16(4), field16(6));
    let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let errno = || {
        let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
        code.saturating_neg()
    };
    let reply = match i32::from(kind) {
        libc::NLMSG_NOOP => None,
        libc::NLMSG_ERROR => {
            Some(Reply::Ack { sequence, errno: errno(), detail: detail(body, flags) })
        }
        libc::NLMSG_DONE => Some(Reply::Done { sequence, errno: errno() }),
        _ => Some(Reply::Object { sequence, interrupted: flags & NLM_F_DUMP_INTR != 0, body }),
    };
    Some((reply, rest))
}

/// The kernel's words in an answer: after the error number and the request's
/// header, and the request itself unless that was left out.
fn detail(body: &[u8], flags: u16) -> String {
    if flags & NLM_F_ACK_TLVS == 0 || body.len() < 4 + HEADER {
        return String::new();
    }
    let request = u32::from_ne_bytes([body[4], body[5], body[6], body[7]]) as usize;
    let skip = if flags & NLM_F_CAPPED != 0 { HEADER } else { request.next_multiple_of(4) };
    let tlvs = body.get(4 + skip..).unwrap_or_default();
    attributes(tlvs)
        .find(|(k, _)| *k == NLMSGERR_ATTR_MSG)
        .map(|(_, v)| text(v))
        .unwrap_or_default()
}
