//! Servers that are asked together, and the sockets to them.
//!
//! Be aware:
//! - A server's sockets are opened in its place: the host's namespace, or that
//!   of the container that named the server.
//! - Answers are told from forged ones by number and port: a socket is used
//!   for some questions only, then another one, at another port.
//! - Sockets are opened by one question at a time. Those that come meanwhile
//!   use what is there, or wait: a burst would else open some for each.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use sampan_sys::netns::NetNs;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

use super::exchange::{Ask, Exchange};
use super::track::{Track, order};

/// The port of name servers.
const PORT: u16 = 53;
/// How many sockets a server has at most.
const SOCKETS_MAX: usize = 32;
/// How many questions wait at a socket before there is another one.
const CROWD: usize = 32;
/// How many sockets are opened at a time in another namespace, which costs a
/// thread.
const OPENED_THERE: usize = 4;
/// Room for answers that come all at once.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Where servers are asked from.
#[derive(Debug, Clone)]
pub enum Place {
    /// The namespace of this process.
    Host,
    /// A container's.
    Namespace(Arc<NetNs>),
}

impl Place {
    /// Runs `open` where sockets belong to this place.
    async fn run<T: Send + 'static>(
        &self,
        open: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::Host => open(),
            Self::Namespace(netns) => {
                let netns = Arc::clone(netns);
                let work = tokio::task::spawn_blocking(move || netns.run(open));
                work.await.map_err(io::Error::other)??
            }
        }
    }
}

/// Servers that are asked together.
#[derive(Debug)]
pub struct Group {
    number: u32,
    place: Place,
    servers: Vec<Server>,
    /// When dead servers were last looked at.
    pub(super) probed: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    track: Cell<Track>,
    /// Each lives for as long as it is listened to.
    sockets: RefCell<Vec<Weak<Exchange>>>,
    opening: Cell<bool>,
    opened: Notify,
    /// How often opening failed.
    failed: Cell<u64>,
}

/// That sockets to a server are being opened; over when dropped.
struct Opening<'a>(&'a Server);

impl<'a> Opening<'a> {
    fn begin(server: &'a Server) -> Self {
        server.opening.set(true);
        Self(server)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.opened.notify_waiters();
    }
}

impl Server {
    /// The socket at which the fewest wait, and how many sockets there are.
    fn quietest(&self) -> (Option<Rc<Exchange>>, usize) {
        let (mut sockets, now) = (self.sockets.borrow_mut(), Instant::now());
        sockets.retain(|s| s.upgrade().is_some_and(|s| s.is_usable(now)));
        let quietest = sockets.iter().filter_map(Weak::upgrade).min_by_key(|s| s.waiting());
        (quietest, sockets.len())
    }
}

impl Group {
    /// A group; no other one has its number.
    #[must_use]
    pub fn new(number: u32, place: Place, servers: &[IpAddr]) -> Self {
        Self::with_port(number, place, servers, PORT)
    }

    fn with_port(number: u32, place: Place, servers: &[IpAddr], port: u16) -> Self {
        let server = |ip: &IpAddr| Server {
            address: SocketAddr::new(*ip, port),
            track: Cell::default(),
            sockets: RefCell::default(),
            opening: Cell::default(),
            opened: Notify::new(),
            failed: Cell::default(),
        };
        let servers = servers.iter().map(server).collect();
        Self { number, place, servers, probed: Cell::default() }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many servers there are.
    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }

    /// In which order they are asked.
    pub(super) fn order(&self) -> Vec<usize> {
        order(self.servers.iter().map(|s| s.track.get()))
    }

    pub(super) fn track(&self, server: usize) -> Track {
        self.servers[server].track.get()
    }

    pub(super) fn note(&self, server: usize, change: impl FnOnce(&mut Track)) {
        let cell = &self.servers[server].track;
        let mut track = cell.get();
        change(&mut track);
        cell.set(track);
    }

    /// Sends a question to a server. What becomes of it comes out of `ask`'s
    /// channel.
    pub(super) async fn send(
        &self,
        server: usize,
        ask: Ask,
    ) -> io::Result<super::exchange::Ticket> {
        let socket = self.socket(server).await?;
        socket.send(ask)
    }

    /// A socket to a server, which is not crowded if that can be.
    async fn socket(&self, at: usize) -> io::Result<Rc<Exchange>> {
        let server = &self.servers[at];
        loop {
            let (quietest, count) = server.quietest();
            match quietest {
                Some(socket) if socket.waiting() < CROWD || count >= SOCKETS_MAX => {
                    return Ok(socket);
                }
                Some(socket) if server.opening.get() => return Ok(socket),
                None if server.opening.get() => {
                    let failed = server.failed.get();
                    server.opened.notified().await;
                    // What just failed is not tried again by all who waited.
                    if server.failed.get() != failed {
                        return Err(io::ErrorKind::AddrNotAvailable.into());
                    }
                }
                _ => {
                    let _opening = Opening::begin(server);
                    let opened = self.open(server.address).await;
                    let opened =
                        opened.inspect_err(|_| server.failed.set(server.failed.get() + 1))?;
                    let mut made = Vec::with_capacity(opened.len());
                    for socket in opened {
                        made.push(Exchange::start(socket)?);
                    }
                    let first = made.first().cloned();
                    server.sockets.borrow_mut().extend(made.iter().map(Rc::downgrade));
                    return first.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into());
                }
            }
        }
    }

    async fn open(&self, address: SocketAddr) -> io::Result<Vec<OwnedFd>> {
        let count = if matches!(self.place, Place::Host) { 1 } else { OPENED_THERE };
        self.place.run(move || (0..count).map(|_| open_udp(address)).collect()).await
    }

    /// A connection to a server.
    pub(super) async fn connect(&self, server: usize) -> io::Result<TcpStream> {
        let address = self.servers[server].address;
        let socket = self.place.run(move || Ok(open_socket(address, SockType::Stream)?)).await?;
        TcpSocket::from_std_stream(std::net::TcpStream::from(socket)).connect(address).await
    }
}

fn open_socket(address: SocketAddr, kind: SockType) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

fn open_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let opened = open_socket(address, SockType::Datagram)?;
    setsockopt(&opened, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&opened), &SockaddrStorage::from(address))?;
    Ok(opened)
}
