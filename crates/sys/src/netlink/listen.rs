//! Listening to what the kernel tells everybody (multicast groups).
//!
//! Be aware:
//! - What a listener is too slow for is lost, and it is told so
//!   ([`Heard::Overrun`]): it then has to look for itself.
//! - A filter in the kernel drops what is of no interest before it takes room
//!   or wakes anybody.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest as Direction;
use tokio::io::unix::AsyncFd;

use super::attr::HEADER;

/// Room for what is told at once.
const BUFFER: libc::c_int = 4 << 20;
/// The largest datagram of an announcement.
const DATAGRAM: usize = 64 * 1024;
/// How many datagrams are read in one go, before others get their turn.
const AT_ONCE: usize = 256;

/// One message.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// The namespace's number as seen from the listener's; none for the
    /// listener's own.
    pub namespace: Option<i32>,
    /// The message's type.
    pub kind: u16,
    /// What follows the netlink header.
    pub body: &'a [u8],
}

/// What came of listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Everything that was told.
    All,
    /// Something was lost. What happens from now on is told again.
    Overrun,
}

/// Which messages are of interest. The first message of a datagram decides
/// about all of it: a change's messages have one sender.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Interest<'a> {
    /// The types; all of them when empty.
    pub kinds: &'a [u16],
    /// Ports of netlink sockets whose changes are of no interest.
    pub not_by: &'a [u32],
}

/// A socket that hears of the changes in its network namespace.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    datagram: Box<[u8]>,
}

impl Listener {
    /// A listener of `protocol` (`NETLINK_…`) to `groups` in the calling
    /// thread's network namespace; with `everywhere` also in those that have
    /// a number there.
    pub(crate) fn open(
        protocol: i32,
        groups: &[u32],
        everywhere: bool,
        interest: Interest<'_>,
    ) -> io::Result<Self> {
        // SAFETY: socket(2) has no memory arguments.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                protocol,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // A socket without a port of its own is told nothing.
        bind(fd)?;
        attach_filter(fd, &program(interest))?;
        let option = |level, name, value: libc::c_int| set_option(fd, level, name, &value);
        // Beyond the limit of ordinary sockets where that is allowed.
        if option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER).is_err() {
            option(libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)?;
        }
        if everywhere {
            option(libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID, 1)?;
        }
        for group in groups {
            option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group.cast_signed())?;
        }
        let datagram = vec![0; DATAGRAM].into_boxed_slice();
        Ok(Self { socket, datagram })
    }

    /// Waits until something was told. Cancel-safe. Needs a tokio runtime.
    pub(crate) async fn ready(&self) -> io::Result<()> {
        let interest = Direction::READABLE;
        // Registered for this wait alone: what is told while nobody waits wakes
        // nobody.
        // SAFETY: the descriptor is borrowed from `self`, which outlives the
        // `AsyncFd` and keeps it open.
        let waiting = unsafe { AsyncFd::register_with_interest(self.socket.as_fd(), interest) };
        waiting.map_err(io::Error::from)?.readable().await?.retain_ready();
        Ok(())
    }

    /// Hands what was told until now to `each`.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Told<'_>)) -> io::Result<Heard> {
        let fd = self.socket.as_raw_fd();
        let (mut heard, mut left) = (Heard::All, AT_ONCE);
        // From the first loss on the kernel drops everything, and says no more,
        // until the socket is empty: only what is looked at then is complete.
        while left > 0 || heard == Heard::Overrun {
            left = left.saturating_sub(1);
            let (length, namespace) = match receive(fd, &mut self.datagram) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    heard = Heard::Overrun;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let mut rest = &self.datagram[..length.min(self.datagram.len())];
            while let Some((kind, body, tail)) = split(rest) {
                each(Told { namespace, kind, body });
                rest = tail;
            }
        }
        Ok(heard)
    }
}

/// Takes any free port.
fn bind(fd: RawFd) -> io::Result<()> {
    // SAFETY: sockaddr_nl is plain data for which all zeroes is valid.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as u16;
    // SAFETY: the pointer is valid for the length given with it, and the
    // kernel only reads.
    let bound = unsafe {
        libc::bind(
            fd,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_nl>() as libc::socklen_t,
        )
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_option<T>(fd: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer is valid for the length given with it, and the
    // kernel only reads.
    let set = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A message's type, its body, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let header = bytes.get(..HEADER)?;
    let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
    let body = bytes.get(HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([header[4], header[5]]), body, rest))
}

/// Receives one datagram: its length, and the number of the namespace that it
/// is about.
fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
    // Aligned as `cmsghdr` has to be.
    let mut control = [0_u64; 8];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data for which all zeroes is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: all buffers live until the call returns and are as long as said.
    let length = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut namespace = None;
    // SAFETY: the header was filled by the kernel, its control buffer is alive.
    let mut entry = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !entry.is_null() {
        // SAFETY: the macros return entries inside the control buffer only.
        let (level, kind) = unsafe { ((*entry).cmsg_level, (*entry).cmsg_type) };
        if level == libc::SOL_NETLINK && kind == libc::NETLINK_LISTEN_ALL_NSID {
            // SAFETY: the kernel puts an int there; the data may be unaligned.
            namespace =
                Some(unsafe { libc::CMSG_DATA(entry).cast::<libc::c_int>().read_unaligned() });
        }
        // SAFETY: as above.
        entry = unsafe { libc::CMSG_NXTHDR(&raw const header, entry) };
    }
    Ok((length.cast_unsigned(), namespace.filter(|n| *n >= 0)))
}

/// Where type and sender are in a netlink header.
const KIND_AT: u32 = 4;
const SENDER_AT: u32 = 12;

/// The filter of an interest, in the classic BPF of socket(7). It loads in
/// network order, while the header has the machine's.
fn program(interest: Interest<'_>) -> Vec<libc::sock_filter> {
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let (accept, refuse) = (step(RETURN, u32::MAX, 0, 0), step(RETURN, 0, 0, 0));
    let mut steps = Vec::new();
    if !interest.not_by.is_empty() {
        steps.push(step(LOAD_WORD, SENDER_AT, 0, 0));
        for port in interest.not_by {
            steps.push(step(EQUAL, u32::from_be_bytes(port.to_ne_bytes()), 0, 1));
            steps.push(refuse);
        }
    }
    if interest.kinds.is_empty() {
        steps.push(accept);
        return steps;
    }
    steps.push(step(LOAD_HALF, KIND_AT, 0, 0));
    for kind in interest.kinds {
        steps.push(step(EQUAL, u16::from_be_bytes(kind.to_ne_bytes()).into(), 0, 1));
        steps.push(accept);
    }
    steps.push(refuse);
    steps
}

fn attach_filter(fd: RawFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}
